//! Everything one test needs, on this machine: an XMPP server with our plugin, a sidecar, and a PostgreSQL with an archive.
//!
//! A world has its own folder, ports and processes, so that tests may run side by side; all of it goes when the world is dropped.

use crate::client::Client;
use crate::federation::Member;
use crate::oracle::Archive;
use crate::postgres::{self, Postgres};
use crate::prosody::{PASSWORD, Prosody, Setup};
use crate::sidecar::{NODE, Sidecar};
use anyhow::{Context, Result};
use cartulary_compliance::config::{
    Archiving, ClusterRef, Compliance, Endpoint, EndpointTarget, FORMAT, JournalSettings, LinkSettings,
    PostgreSql, QueueLimit, SidecarConfig, TlsMode,
};
use std::collections::BTreeMap;
use tempfile::TempDir;

/// The archive endpoint's name.
pub const ENDPOINT: &str = "main";
/// The archive's database.
pub const DATABASE: &str = "archive";
/// The sidecar's role there.
pub const WRITER: &str = "cartulary_writer";

/// What a test runs in.
#[derive(Debug)]
pub struct World {
    /// The XMPP server.
    pub prosody: Prosody,
    /// The sidecar beside it.
    pub sidecar: Sidecar,
    /// The archive's server.
    pub postgres: Postgres,
    // Last, so that it is removed when nothing runs in it any more.
    dir: TempDir,
}

/// What a world is to be like.
pub struct Builder {
    setup: Setup,
    change: Box<dyn FnOnce(&mut SidecarConfig)>,
    compliance: Option<Compliance>,
    wrapper: Vec<String>,
    node: String,
    migrate: bool,
    serve: bool,
}

impl World {
    /// A world with everything as a careful administrator would have it: both directions recorded, nothing delivered
    /// unrecorded.
    #[must_use]
    pub fn builder() -> Builder {
        let users = ["anna", "ben", "cleo"].map(str::to_owned).to_vec();
        Builder {
            setup: Setup::new(&users, ""),
            change: Box::new(|_| ()),
            compliance: None,
            wrapper: Vec::new(),
            node: NODE.to_owned(),
            migrate: true,
            serve: true,
        }
    }

    /// [`Self::builder`] and start.
    pub async fn start() -> Result<Self> {
        Self::builder().start().await
    }

    /// A session, available; `who` is `user/resource`.
    pub async fn client(&self, who: &str) -> Result<Client> {
        let client = self.silent_client(who).await?;
        client.available().await?;
        Ok(client)
    }

    /// A session that sent no presence.
    pub async fn silent_client(&self, who: &str) -> Result<Client> {
        Client::connect(self.prosody.address(), &self.jid(who), PASSWORD).await
    }

    /// A session over a websocket, available.
    pub async fn websocket_client(&self, who: &str) -> Result<Client> {
        let client = Client::websocket(self.prosody.web_address(), &self.jid(who), PASSWORD).await?;
        client.available().await?;
        Ok(client)
    }

    /// A session over BOSH, available.
    pub async fn bosh_client(&self, who: &str) -> Result<Client> {
        let client = Client::bosh(self.prosody.web_address(), &self.jid(who), PASSWORD).await?;
        client.available().await?;
        Ok(client)
    }

    /// The external component, connected.
    pub async fn component(&self) -> Result<Client> {
        let domain = format!("bot.{}", self.prosody.setup.domain());
        Client::component(self.prosody.component_address(), &domain, PASSWORD).await
    }

    /// The full JID of `user/resource` here.
    #[must_use]
    pub fn jid(&self, who: &str) -> String {
        let (user, resource) = who.split_once('/').unwrap_or((who, "desk"));
        format!("{user}@{}/{resource}", self.prosody.setup.domain())
    }

    /// A room here.
    #[must_use]
    pub fn room(&self, name: &str) -> String {
        format!("{name}@rooms.{}", self.prosody.setup.domain())
    }

    /// Waits until every host is armed, and until the plugin has heard so: a message said before that meets a server that decides
    /// alone.
    pub async fn covered(&self) -> Result<()> {
        self.sidecar.covered().await?;
        crate::process::until("the plugin's word that it is linked", async || self.prosody.is_linked()).await
    }

    /// Everything in the archive, once nothing waits any more.
    pub async fn archive(&self) -> Result<Archive> {
        self.sidecar.drained().await?;
        Archive::read(&self.postgres, DATABASE).await
    }

    /// The same, once it is on record too what became of the messages with these ids: outcomes are told after the fact.
    pub async fn archive_with_outcomes(&self, stanza_ids: &[&str]) -> Result<Archive> {
        let is_final = |archive: &Archive, id: &&str| {
            archive.message(id).is_ok_and(|(_, accepted)| {
                archive.outcomes(accepted.event).iter().any(|outcome| outcome.is_final)
            })
        };
        self.archive_when("the outcome of each message", |archive| {
            stanza_ids.iter().all(|id| is_final(archive, id))
        })
        .await
    }

    /// The same, once it holds what is waited for; `what` is for the error.
    pub async fn archive_when(&self, what: &str, holds: impl Fn(&Archive) -> bool) -> Result<Archive> {
        let mut last = None;
        let found = crate::process::until(what, async || match self.archive().await {
            Ok(archive) => holds(last.insert(archive)),
            Err(_) => false,
        })
        .await;
        found.with_context(|| format!("the archive at last: {last:#?}"))?;
        last.context("found")
    }

    /// The world's folder.
    #[must_use]
    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }
}

impl Builder {
    /// Who has an account.
    #[must_use]
    pub fn users(mut self, users: &[&str]) -> Self {
        self.setup.users = users.iter().map(|user| (*user).to_owned()).collect();
        self
    }

    /// Changes the sidecar's first configuration.
    #[must_use]
    pub fn config(mut self, change: impl FnOnce(&mut SidecarConfig) + 'static) -> Self {
        self.change = Box::new(change);
        self
    }

    /// Has compliance servers asked; the world starts when events go to all that profiles name.
    #[must_use]
    pub fn asks(mut self, compliance: Compliance) -> Self {
        self.compliance = Some(compliance);
        self
    }

    /// The pod's name.
    #[must_use]
    pub fn node(mut self, name: &str) -> Self {
        name.clone_into(&mut self.node);
        self
    }

    /// Runs the sidecar under a command.
    #[must_use]
    pub fn under(mut self, wrapper: Vec<String>) -> Self {
        self.wrapper = wrapper;
        self
    }

    /// Leaves the archive's database empty.
    #[must_use]
    pub fn unmigrated(mut self) -> Self {
        self.migrate = false;
        self
    }

    /// Further lines of the XMPP server's configuration, before its hosts.
    #[must_use]
    pub fn server_lines(mut self, lines: &str) -> Self {
        lines.clone_into(&mut self.setup.lines);
        self
    }

    /// Changes what the XMPP server is to be like.
    #[must_use]
    pub fn server(mut self, change: impl FnOnce(&mut Setup)) -> Self {
        change(&mut self.setup);
        self
    }

    /// Lets clients in by websocket and BOSH, and the component; streams can be resumed.
    #[must_use]
    pub fn every_ingress(self) -> Self {
        self.server(|setup| setup.every_ingress = true)
    }

    /// Makes it a member of a federation, with the member's domain.
    #[must_use]
    pub fn federated(self, member: Member) -> Self {
        self.server(|setup| setup.federation = Some(member))
    }

    /// Leaves the XMPP server unstarted: a test breaks its plugin first, or plays the plugin itself.
    #[must_use]
    pub fn server_stopped(mut self) -> Self {
        self.serve = false;
        self
    }

    /// Starts everything; returns when the server is covered and the archive connected.
    pub async fn start(self) -> Result<World> {
        let dir = crate::process::folder()?;
        let postgres = Postgres::start(&dir.path().join("postgres")).await?;
        crate::oracle::create_database(&postgres, DATABASE, self.migrate).await?;
        let server = dir.path().join("xmpp");
        let mut config = config(&postgres);
        let asked = self.compliance.is_some();
        config.compliance = self.compliance.unwrap_or_default();
        (self.change)(&mut config);
        // Others are not connected to.
        let servers: Vec<String> =
            config.compliance.profiles.iter().flat_map(|profile| profile.servers.clone()).collect();
        let folder = dir.path().join("sidecar");
        let sidecar = Sidecar::start_in(&self.node, &folder, &server, config, self.wrapper).await?;
        let mut prosody = Prosody::prepare(&server, self.setup, Some(sidecar.link()))?;
        if self.serve {
            prosody.resume().await?;
        }
        let world = World { prosody, sidecar, postgres, dir };
        world.sidecar.until("an open journal", |status| !status.journal.id.is_empty()).await?;
        if self.serve {
            world.covered().await?;
        }
        if asked {
            world.sidecar.serves(&servers.iter().map(String::as_str).collect::<Vec<_>>()).await?;
        }
        Ok(world)
    }
}

/// The configuration of a world whose archive is in `postgres`.
#[must_use]
pub fn config(postgres: &Postgres) -> SidecarConfig {
    SidecarConfig {
        format: FORMAT,
        cluster: ClusterRef { namespace: "chat".to_owned(), name: "office".to_owned() },
        generation: 1,
        archiving: Archiving {
            inbound: true,
            outbound: true,
            block_if_unable_to_record: true,
            endpoint: Some(ENDPOINT.to_owned()),
            node_endpoints: BTreeMap::new(),
        },
        endpoints: BTreeMap::from([(ENDPOINT.to_owned(), endpoint(postgres, DATABASE))]),
        journal: JournalSettings::default(),
        link: LinkSettings::default(),
        alarms: Default::default(),
        compliance: Default::default(),
    }
}

/// A database of `postgres` as an endpoint.
#[must_use]
pub fn endpoint(postgres: &Postgres, database: &str) -> Endpoint {
    let target = PostgreSql {
        host: "127.0.0.1".to_owned(),
        port: postgres.port(),
        database: database.to_owned(),
        username: WRITER.to_owned(),
        password: postgres::PASSWORD.to_owned(),
        tls: TlsMode::Disable,
        ca: None,
    };
    Endpoint { target: EndpointTarget::PostgreSql(target), queue: QueueLimit::default() }
}
