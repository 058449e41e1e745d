//! The links against scripted peers on the loopback: real sockets, and a peer that does what the test says and nothing else.

mod answering;
mod connecting;
mod failing;
mod peer;
mod tls;

use super::Servers;
use crate::config::ConfigState;
use crate::testing::{self, in_force, until};
use cartulary_compliance::config::{ComplianceServer, SidecarConfig, StreamNamespace};
use cartulary_compliance::events::{ES_OUT, Packet};
use cartulary_compliance::failure::Standing;
use cartulary_compliance::link::Ingress;
use cartulary_compliance::profile::{Profile, system_default};
use cartulary_compliance::protocol::{Question, Stanza};
use cartulary_compliance::status::{ComplianceServerStatus, LinkCause};
use peer::{Line, PASSWORD, Peer};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const NODE: &str = "prosody-0.eu";

/// A server on the loopback, plain, that is pinged every half minute.
fn declared(port: u16) -> ComplianceServer {
    ComplianceServer {
        host: "127.0.0.1".into(),
        port,
        password: PASSWORD.into(),
        stream: StreamNamespace::Accept,
        tls: None,
        keepalive_seconds: 30,
    }
}

fn config(servers: &[(&str, ComplianceServer)]) -> SidecarConfig {
    let mut config = testing::config();
    let names = servers.iter().map(|(name, _)| (*name).to_owned()).collect();
    config.compliance.servers =
        servers.iter().map(|(name, server)| ((*name).to_owned(), server.clone())).collect();
    let profile = Profile { name: "Wall".into(), events: system_default(), servers: names, nodes: None };
    config.compliance.profiles = vec![profile];
    config
}

/// The links of one node.
struct Linked {
    servers: Arc<Servers>,
    config: watch::Sender<ConfigState>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Linked {
    fn start(config: SidecarConfig) -> Self {
        let (config, receiver) = watch::channel(in_force(config));
        let (servers, stop) = (Servers::new(NODE), CancellationToken::new());
        let task = tokio::spawn(servers.clone().run(receiver, stop.clone()));
        Self { servers, config, stop, task }
    }

    /// To one server `wall`.
    fn to(server: ComplianceServer) -> Self {
        Self::start(config(&[("wall", server)]))
    }

    fn wall(&self) -> ComplianceServerStatus {
        self.servers.status().remove("wall").unwrap_or_default()
    }

    async fn stands(&self, standing: Standing) {
        until(&format!("{standing:?}"), || self.servers.standing("wall") == standing).await;
    }

    async fn fails_by(&self, cause: LinkCause) -> ComplianceServerStatus {
        until(&format!("{cause:?}"), || self.wall().cause == Some(cause)).await;
        self.wall()
    }

    async fn counts(&self, what: &str, count: impl Fn(&ComplianceServerStatus) -> bool) {
        until(what, || count(&self.wall())).await;
    }

    /// A link to a peer that is in service.
    async fn in_service() -> (Self, Peer, Line) {
        let peer = Peer::bind().await;
        let linked = Self::to(declared(peer.port()));
        let line = peer.serve().await;
        linked.stands(Standing::InService).await;
        (linked, peer, line)
    }
}

fn question(number: u8, body: &str) -> Arc<Question> {
    let stanza = format!(
        "<message xmlns='jabber:client' from='ann@chat.example/pc' to='bob@chat.example' id='m'><body>{body}</body></message>"
    );
    Arc::new(Question {
        event: &ES_OUT,
        packet: Packet::Message,
        profile: "Wall".into(),
        event_id: [number; 16],
        node: NODE.into(),
        seen_at_micros: 1_700_000_000_000_000,
        awaited: true,
        missed: false,
        stanza: Stanza::new(stanza),
        ingress: Ingress::Client,
        from: "ann@chat.example/pc".into(),
        session: None,
        address: None,
        secure: true,
        mechanism: None,
        room: None,
        recipients: Arc::new([]),
        reason: None,
    })
}

/// Longer than any test.
fn far() -> Instant {
    Instant::now() + Duration::from_secs(600)
}
