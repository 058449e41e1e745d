//! The links to compliance servers: one to each that a profile of this node is held by (CS-1, CS-3, FH-1 to FH-6).

use crate::config::ConfigState;
use cartulary_compliance::failure::Standing;
use cartulary_compliance::protocol::{Answer, Question};
use cartulary_compliance::status::ComplianceServerStatus;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What came of asking a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// It answered, and the answer is fit for the question.
    Answered(Answer),
    /// It answered what the event does not admit (PR-9); counted.
    NotAdmitted,
    /// What it answered cannot be used; counted.
    Malformed,
    /// Time is over.
    TimedOut,
    /// Too much waits for it; it was not asked.
    Overflowed,
    /// It is out: whoever asked should ask another one (FH-1, FH-3).
    Out,
}

/// The links.
pub struct Servers {
    changes: watch::Sender<u64>,
}

impl Servers {
    /// No links yet.
    #[must_use]
    pub fn new(node: &str) -> Arc<Self> {
        _ = node;
        Arc::new(Self { changes: watch::Sender::new(0) })
    }

    /// Keeps the links that the configuration wants, until `stop`; then ends each stream in order.
    pub async fn run(self: Arc<Self>, config: watch::Receiver<ConfigState>, stop: CancellationToken) {
        _ = config;
        stop.cancelled().await;
    }

    /// How a server stands; one that is not known is out.
    #[must_use]
    pub fn standing(&self, server: &str) -> Standing {
        _ = server;
        Standing::Out
    }

    /// Changes whenever a standing does.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Asks a server. The question has its place in that server's order when this returns, whenever the future is polled; dropping the
    /// future gives it up.
    pub fn ask(
        &self,
        server: &str,
        question: Arc<Question>,
        deadline: Instant,
    ) -> impl Future<Output = Asked> + Send + 'static {
        _ = (server, question, deadline);
        std::future::ready(Asked::Out)
    }

    /// Tells a server something that nobody waits for; queues like a question until `deadline`. The future says whether it was sent.
    pub fn tell(
        &self,
        server: &str,
        question: Arc<Question>,
        deadline: Instant,
    ) -> impl Future<Output = bool> + Send + 'static {
        _ = (server, question, deadline);
        std::future::ready(false)
    }

    /// Everything about each link.
    #[must_use]
    pub fn status(&self) -> BTreeMap<String, ComplianceServerStatus> {
        BTreeMap::new()
    }
}
