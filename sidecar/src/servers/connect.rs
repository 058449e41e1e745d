//! From nothing to a stream whose handshake has succeeded (CS-1, CS-3): each way to fail has its cause.

use super::stream::{Item, STREAMS, StreamReader, escape};
use super::tls::{self, Tls};
use cartulary_compliance::config::{ComplianceServer, StreamNamespace};
use cartulary_compliance::status::LinkCause;
use minidom::Element;
use rustix::net::sockopt;
use sha1::{Digest, Sha1};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longest time for each step: to resolve, to connect, to speak TLS, to be let in.
const PATIENCE: Duration = Duration::from_secs(10);
/// The namespace of stream errors' conditions (RFC 6120, 4.9.3).
const ERRORS: &str = "urn:ietf:params:xml:ns:xmpp-streams";

/// Why there is no connection, or no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// The kind.
    pub cause: LinkCause,
    /// In words, with the system's error.
    pub message: String,
}

impl Broken {
    /// Of this kind, for this reason.
    pub fn new(cause: LinkCause, message: impl Into<String>) -> Self {
        Self { cause, message: message.into() }
    }

    /// What a failed read or write means.
    pub fn of_io(error: &io::Error, name: &str) -> Self {
        match tls::in_words(error, name) {
            Some(message) => Self::new(LinkCause::Tls, message),
            None => Self::new(LinkCause::Lost, format!("the connection broke: {error}")),
        }
    }
}

/// Bytes to and from a peer.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection with what was read of it.
pub struct Connection {
    /// Its input.
    pub input: ReadHalf<Box<dyn Io>>,
    /// Its output.
    pub output: WriteHalf<Box<dyn Io>>,
    /// What was read and not parsed yet.
    pub unread: Vec<u8>,
    reader: StreamReader,
    /// Whose it is, for errors.
    name: String,
}

/// How long a step may take: no longer than a ping's answer.
pub fn patience(server: &ComplianceServer) -> Duration {
    keepalive(server).min(PATIENCE)
}

/// The keepalive time, never none.
pub fn keepalive(server: &ComplianceServer) -> Duration {
    Duration::from_secs(server.keepalive_seconds.max(1).into())
}

/// The server's host as a resolver takes it: an IPv6 address may be written in brackets.
fn host(server: &ComplianceServer) -> &str {
    server.host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&server.host)
}

impl Connection {
    /// Connects, with TLS where that is declared.
    pub async fn open(server: &ComplianceServer) -> Result<Self, Broken> {
        let tls = server.tls.as_ref().map(|declared| Tls::new(declared, host(server))).transpose()?;
        let stream = connect(server).await?;
        let io: Box<dyn Io> = match tls {
            None => Box::new(stream),
            Some(tls) => match timeout(patience(server), tls.connect(stream)).await {
                Ok(connected) => Box::new(connected?),
                Err(_) => return Err(not_answering("TLS")),
            },
        };
        let (input, output) = tokio::io::split(io);
        Ok(Self {
            input,
            output,
            unread: Vec::new(),
            reader: StreamReader::new(),
            name: host(server).to_owned(),
        })
    }

    /// Opens the stream and shows the password. The server may take [`patience`] for it.
    pub async fn handshake(&mut self, server: &ComplianceServer, component: &str) -> Result<(), Broken> {
        let shaking = self.shake(server, component);
        timeout(patience(server), shaking).await.unwrap_or_else(|_| Err(not_answering("the handshake")))
    }

    async fn shake(&mut self, server: &ComplianceServer, component: &str) -> Result<(), Broken> {
        let header = format!(
            "<?xml version='1.0'?><stream:stream xmlns='{}' xmlns:stream='{STREAMS}' to='{}'>",
            server.stream.uri(),
            escape(component)
        );
        self.write(&header).await?;
        let id = match self.next().await? {
            Item::Header(Some(id)) => id,
            _ => return Err(Broken::new(LinkCause::Protocol, "the server's stream has no id")),
        };
        let digest = Sha1::new().chain_update(id).chain_update(&server.password).finalize();
        self.write(&format!("<handshake>{}</handshake>", hex::encode(digest))).await?;
        match self.next().await? {
            Item::Stanza(element) if element.name() == "handshake" && is_ours(&element.ns()) => Ok(()),
            Item::Stanza(element) => match stream_error(&element) {
                Some(broken) => Err(broken),
                None => Err(Broken::new(
                    LinkCause::Protocol,
                    "the server answered the handshake with something else",
                )),
            },
            _ => Err(closed()),
        }
    }

    async fn next(&mut self) -> Result<Item, Broken> {
        loop {
            if let Some(item) = self.parse()? {
                return Ok(item);
            }
            let count = self.input.read_buf(&mut self.unread).await.map_err(|error| self.broken(&error))?;
            if count == 0 {
                return Err(Broken::new(
                    LinkCause::Lost,
                    "the server closed the connection in the middle of the handshake",
                ));
            }
        }
    }

    /// The next item of what was read.
    pub fn parse(&mut self) -> Result<Option<Item>, Broken> {
        let mut input = self.unread.as_slice();
        let item = self.reader.next(&mut input);
        let taken = self.unread.len() - input.len();
        self.unread.drain(..taken);
        item.map_err(|error| Broken::new(LinkCause::Protocol, error.to_string()))
    }

    /// What a failed read or write means.
    pub fn broken(&self, error: &io::Error) -> Broken {
        Broken::of_io(error, &self.name)
    }

    async fn write(&mut self, text: &str) -> Result<(), Broken> {
        let written = self.output.write_all(text.as_bytes()).await;
        let flushed = match written {
            Ok(()) => self.output.flush().await,
            Err(error) => Err(error),
        };
        flushed.map_err(|error| self.broken(&error))
    }
}

/// The stream ended in order.
pub fn closed() -> Broken {
    Broken::new(LinkCause::Closed, "the server closed its stream: it shuts down")
}

/// Whether this is the namespace of a component's stanzas.
pub fn is_ours(namespace: &str) -> bool {
    [StreamNamespace::Accept, StreamNamespace::Connect].iter().any(|ours| ours.uri() == namespace)
}

/// What a stream error means, if this is one.
pub fn stream_error(element: &Element) -> Option<Broken> {
    if !element.is("error", STREAMS) {
        return None;
    }
    let condition = element.children().find(|child| child.has_ns(ERRORS) && child.name() != "text");
    Some(match condition.map(Element::name) {
        Some("not-authorized") => {
            Broken::new(LinkCause::WrongPassword, "the server refuses the password (not-authorized)")
        }
        Some("host-unknown" | "host-gone") => Broken::new(
            LinkCause::WrongName,
            "the server does not know the component's name (host-unknown): it must be configured with it",
        ),
        Some("system-shutdown") => closed(),
        // A condition is a name out of RFC 6120; whatever else a peer writes is not repeated.
        Some(name) if name.len() <= 40 && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-') => {
            Broken::new(LinkCause::Protocol, format!("the server ended the stream: {name}"))
        }
        _ => Broken::new(LinkCause::Protocol, "the server ended the stream with an error of no known kind"),
    })
}

fn not_answering(what: &str) -> Broken {
    Broken::new(
        LinkCause::NotAnswering,
        format!("the connection stands, and nothing came back in time: {what}"),
    )
}

async fn connect(server: &ComplianceServer) -> Result<TcpStream, Broken> {
    let target = (host(server), server.port);
    let unknown =
        |why: String| Broken::new(LinkCause::UnknownHost, format!("the name does not resolve: {why}"));
    let addresses: Vec<SocketAddr> = match timeout(patience(server), tokio::net::lookup_host(target)).await {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => return Err(unknown(error.to_string())),
        Err(_) => return Err(unknown("the resolver does not answer".into())),
    };
    let mut last = unknown("it has no address".into());
    for address in addresses {
        match timeout(patience(server), TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                tune(&stream, keepalive(server));
                return Ok(stream);
            }
            Ok(Err(error)) => last = of_connect(&error, address),
            Err(_) => {
                last = Broken::new(LinkCause::TimedOut, format!("nothing came back in time from {address}"))
            }
        }
    }
    Err(last)
}

fn of_connect(error: &io::Error, address: SocketAddr) -> Broken {
    let cause = match error.kind() {
        io::ErrorKind::ConnectionRefused => LinkCause::Refused,
        io::ErrorKind::TimedOut => LinkCause::TimedOut,
        _ => LinkCause::Lost,
    };
    Broken::new(cause, format!("connecting to {address} failed: {error}"))
}

/// The kernel finds a peer that takes nothing any more, too; a socket that cannot be tuned works all the same, since pings find the rest.
fn tune(stream: &TcpStream, keepalive: Duration) {
    let millis = u32::try_from(2 * keepalive.as_millis()).unwrap_or(u32::MAX);
    let tuned = sockopt::set_tcp_nodelay(stream, true)
        .and_then(|()| sockopt::set_socket_keepalive(stream, true))
        .and_then(|()| sockopt::set_tcp_user_timeout(stream, millis));
    if let Err(error) = tuned {
        tracing::debug!(%error, "a connection's options could not be set");
    }
}
