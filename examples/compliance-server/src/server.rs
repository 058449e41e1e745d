//! The listener: who may connect, how, and when it ends.

use crate::answer::Answer;
use crate::event::Event;
use crate::session;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Decides about events.
///
/// [`decide`](Self::decide) is called in the order in which a connection brings events; the futures that it returns run at the same
/// time. So a policy that has to keep the order of a conversation takes its place in the call, and waits in the future. Any
/// `Fn(Event) -> Future<Output = Answer>` is a policy.
pub trait Policy: Send + Sync + 'static {
    /// What becomes of this event. The future is dropped when the event's time has run out. One that panics gives an error of type
    /// `internal-server-error`.
    fn decide(&self, event: Event) -> impl Future<Output = Answer> + Send + 'static;
}

impl<F, R> Policy for F
where
    F: Fn(Event) -> R + Send + Sync + 'static,
    R: Future<Output = Answer> + Send + 'static,
{
    fn decide(&self, event: Event) -> impl Future<Output = Answer> + Send + 'static {
        self(event)
    }
}

/// What happens on the listener and its connections.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Progress {
    /// A sidecar has shown the password.
    Active {
        /// Where from.
        peer: SocketAddr,
        /// The component name.
        component: String,
    },
    /// A connection was refused, or could not be used.
    Refused {
        /// Where from.
        peer: SocketAddr,
        /// Why.
        why: String,
    },
    /// A connection has ended.
    Ended {
        /// Where from.
        peer: SocketAddr,
        /// The component name.
        component: String,
        /// Why; `None` for an end in order.
        why: Option<String>,
    },
    /// An error of this side: what a policy wants to say is no XML, or it panicked.
    Fault {
        /// The component name.
        component: String,
        /// Which.
        what: String,
    },
    /// No connection can be accepted at the moment.
    CannotAccept(String),
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Active { peer, component } => write!(f, "{component} is active, from {peer}"),
            Self::Refused { peer, why } => write!(f, "refused {peer}: {why}"),
            Self::Ended { peer, component, why: None } => write!(f, "{component} has ended, from {peer}"),
            Self::Ended { peer, component, why: Some(why) } => {
                write!(f, "{component} is lost, from {peer}: {why}")
            }
            Self::Fault { component, what } => write!(f, "{component}: {what}"),
            Self::CannotAccept(why) => write!(f, "cannot accept connections: {why}"),
        }
    }
}

type Observer = Arc<dyn Fn(Progress) + Send + Sync>;

/// A compliance server that has yet to be run.
#[derive(Clone)]
pub struct Server {
    pub(crate) password: String,
    pub(crate) components: Vec<String>,
    pub(crate) limits: Limits,
    tls: Option<Arc<rustls::ServerConfig>>,
    observer: Observer,
}

/// What a peer may use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub stanza: usize,
    pub open: usize,
    pub idle: Duration,
    pub handshake: Duration,
    pub grace: Duration,
}

/// Connections at one time; further ones wait.
const CONNECTIONS: usize = 1024;

impl Server {
    /// One that knows the password and no component yet, without TLS.
    #[must_use]
    pub fn new(password: impl Into<String>) -> Self {
        let limits = Limits {
            stanza: 16 << 20,
            open: 16_384,
            idle: Duration::from_secs(600),
            handshake: Duration::from_secs(30),
            grace: Duration::from_secs(30),
        };
        let observer: Observer = Arc::new(|_| {});
        Self { password: password.into(), components: Vec::new(), limits, tls: None, observer }
    }

    /// Admits this component name; `*` admits any.
    #[must_use]
    pub fn component(mut self, name: impl Into<String>) -> Self {
        self.components.push(name.into());
        self
    }

    /// TLS from the first byte. With a verifier of client certificates in it, only sidecars that have one are admitted.
    #[must_use]
    pub fn tls(mut self, config: rustls::ServerConfig) -> Self {
        self.tls = Some(Arc::new(config));
        self
    }

    /// The largest stanza that is read, 16 MiB unless said otherwise: Cartulary sends none that is larger.
    #[must_use]
    pub fn max_stanza(mut self, bytes: usize) -> Self {
        self.limits.stanza = bytes;
        self
    }

    /// How many events of a connection are decided at the same time, 16 384 unless said otherwise; with so many, nothing more is read.
    #[must_use]
    pub fn max_open(mut self, events: usize) -> Self {
        self.limits.open = events.max(1);
        self
    }

    /// After what silence a connection counts as lost, ten minutes unless said otherwise. Must be longer than the keepalive time that
    /// the ComplianceServer declares, since a sidecar that has nothing to ask sends a ping that often.
    #[must_use]
    pub fn idle(mut self, time: Duration) -> Self {
        self.limits.idle = time;
        self
    }

    /// How long a graceful end waits for answers, 30 s unless said otherwise.
    #[must_use]
    pub fn grace(mut self, time: Duration) -> Self {
        self.limits.grace = time;
        self
    }

    /// Hears of connections that come, are refused and go.
    #[must_use]
    pub fn observe(mut self, observer: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        self.observer = Arc::new(observer);
        self
    }

    /// Serves until `stop`; then nothing new is read, what is open is answered, and each stream is closed in order.
    pub async fn run<P: Policy>(self, listener: TcpListener, policy: P, stop: impl Future<Output = ()>) {
        let (server, policy) = (Arc::new(self), Arc::new(policy));
        let (ending, sessions) = (CancellationToken::new(), TaskTracker::new());
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let mut stop = std::pin::pin!(stop);
        loop {
            let accepted = async {
                let place = Arc::clone(&places).acquire_owned().await;
                (place, listener.accept().await)
            };
            let (place, accepted) = tokio::select! {
                () = &mut stop => break,
                accepted = accepted => accepted,
            };
            match accepted {
                Ok((socket, peer)) => {
                    let (server, policy) = (Arc::clone(&server), Arc::clone(&policy));
                    let ending = ending.clone();
                    sessions.spawn(async move {
                        server.serve(socket, peer, policy, ending).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    // Out of file descriptors, most likely: they come back when connections end.
                    server.tell(Progress::CannotAccept(error.to_string()));
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        drop(listener);
        ending.cancel();
        sessions.close();
        sessions.wait().await;
    }

    pub(crate) fn tell(&self, progress: Progress) {
        (self.observer)(progress);
    }

    async fn serve<P: Policy>(
        &self,
        socket: TcpStream,
        peer: SocketAddr,
        policy: Arc<P>,
        ending: CancellationToken,
    ) {
        let _ = socket.set_nodelay(true);
        let Some(tls) = &self.tls else { return session::serve(self, socket, peer, policy, ending).await };
        let accepting = TlsAcceptor::from(Arc::clone(tls)).accept(socket);
        let accepted = tokio::select! {
            accepted = tokio::time::timeout(self.limits.handshake, accepting) => accepted,
            () = ending.cancelled() => return,
        };
        let why = match accepted {
            Ok(Ok(socket)) => return session::serve(self, socket, peer, policy, ending).await,
            Ok(Err(error)) => format!("TLS failed: {error}"),
            Err(_) => "TLS was not established in time".into(),
        };
        self.tell(Progress::Refused { peer, why });
    }
}
