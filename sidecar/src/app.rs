//! The parts put together, started and stopped; and what they say of themselves.
//!
//! Order at the start: plugin, socket, configuration, journal, drains. The socket is open before the journal is, so that a server
//! whose sidecar restarts gets refusals with a reason instead of none. Order at the stop: the link first, then the streams of the compliance servers, then what is noted
//! as missing, then the drains, and the journal last, whose closing records end its streams.

use crate::chains::{self, Figures};
use crate::config::{self, ConfigState, Loaded};
use crate::counts::Counters;
use crate::drains::{self, Drains};
use crate::link::{self, Link};
use crate::recorder::Recorder;
use crate::servers::Servers;
use crate::{admin, alarms, plugin};
use anyhow::{Context, Result};
use cartulary_archive::endpoint::embedded_archives;
use cartulary_archive::journal::{
    DeadLetterEntry, Journal, JournalError, JournalOptions, Limits, system_clock,
};
use cartulary_compliance::config::AlarmSettings;
use cartulary_compliance::status::{ConfigStatus, Head, JournalStatus, SidecarStatus};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Longest time the link may take to answer what it has taken in, once it has to stop.
const LINK_PATIENCE: Duration = Duration::from_secs(3);
/// Longest time for the streams of the compliance servers to be ended in order.
const SERVERS_PATIENCE: Duration = Duration::from_secs(2);
/// Longest time for what is noted as missing or counted, and for the drains' ends.
const BOOKS_PATIENCE: Duration = Duration::from_secs(1);
/// Longest time the journal may take for its last sync.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);
/// How old the heads in the status may be.
const HEADS_AGE: Duration = Duration::from_secs(1);
/// How long it is waited before a journal that could not be opened is tried again.
const OPEN_INTERVAL: Duration = Duration::from_secs(2);

/// Where everything is; the command line says.
#[derive(Debug, Clone)]
pub struct Options {
    /// The configuration file.
    pub config: PathBuf,
    /// The folder of `journal/` and `archive/`.
    pub data_dir: PathBuf,
    /// The event link's socket.
    pub link: PathBuf,
    /// This pod.
    pub node: String,
    /// The admin port.
    pub admin: SocketAddr,
    /// The folder that holds the plugin.
    pub plugin_source: PathBuf,
    /// The folder it is copied to.
    pub plugin_target: PathBuf,
}

/// A running sidecar.
pub struct App {
    node: String,
    /// The folder of embedded archives.
    archive: PathBuf,
    config: watch::Receiver<ConfigState>,
    counts: Arc<Counters>,
    recorder: Arc<Recorder>,
    link: Arc<Link>,
    started: Instant,
    journal: OnceLock<Journal>,
    journal_problem: std::sync::Mutex<Option<String>>,
    drains: Drains,
    servers: Arc<Servers>,
    /// What was signed last, and when it was asked for.
    heads: std::sync::Mutex<Option<(Instant, Vec<Head>)>>,
    listening: AtomicBool,
}

impl App {
    fn new(node: &str, archive: PathBuf, config: watch::Receiver<ConfigState>) -> Arc<Self> {
        let counts = Arc::new(Counters::default());
        let recorder = Arc::new(Recorder::new(node, config.clone(), counts.clone()));
        let servers = Servers::new(node);
        recorder.chains.open(servers.clone());
        Arc::new(Self {
            node: node.to_owned(),
            archive,
            config,
            counts,
            link: Link::new(recorder.clone()),
            servers,
            started: Instant::now(),
            recorder,
            journal: OnceLock::new(),
            journal_problem: std::sync::Mutex::default(),
            drains: Drains::default(),
            heads: std::sync::Mutex::default(),
            listening: AtomicBool::new(false),
        })
    }

    /// Why a restart would help.
    #[must_use]
    pub fn unhealthy(&self) -> Vec<String> {
        self.recorder
            .is_writer_gone()
            .then(|| "the journal's writer has ended".to_owned())
            .into_iter()
            .collect()
    }

    /// Why the server may not be started yet.
    #[must_use]
    pub fn not_started(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !self.listening.load(Ordering::Relaxed) {
            problems.push("the event link is not open".to_owned());
        }
        problems.extend(self.not_open());
        problems
    }

    /// Why messages are refused, or some would not be recorded.
    #[must_use]
    pub fn not_ready(&self) -> Vec<String> {
        let state = self.config.borrow().clone();
        let mut problems = Vec::new();
        if state.current.is_none() {
            problems.push(state.problem.unwrap_or_else(|| "no configuration was read yet".into()));
        }
        problems.extend(self.not_open().or_else(|| self.journal_status().problem));
        problems.extend(self.link.coverage().problems());
        problems
    }

    /// When alarms are raised.
    #[must_use]
    pub fn alarm_settings(&self) -> AlarmSettings {
        self.recorder.loaded().map(|loaded| loaded.config.alarms.clone()).unwrap_or_default()
    }

    /// Everything at once.
    #[must_use]
    pub fn status(&self) -> SidecarStatus {
        let mut status = self.state();
        status.heads = self.heads();
        match embedded_archives(&self.archive) {
            Ok(archives) => status.embedded_archives = Some(archives),
            Err(error) => {
                status.notes.push(format!("which embedded archives lie here cannot be told: {error}"));
            }
        }
        status
    }

    /// How far each stream has got, signed; no older than a second.
    fn heads(&self) -> Vec<Head> {
        let Some(journal) = self.journal.get() else { return Vec::new() };
        let mut cached = self.heads.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match &*cached {
            Some((at, heads)) if at.elapsed() < HEADS_AGE => heads.clone(),
            _ => {
                let heads = journal.heads();
                *cached = Some((Instant::now(), heads.clone()));
                heads
            }
        }
    }

    /// The same without what takes the disk or a signature.
    #[must_use]
    pub fn state(&self) -> SidecarStatus {
        let not_ready = self.not_ready();
        let ConfigState { current, problem } = self.config.borrow().clone();
        let config = ConfigStatus {
            generation: current.as_ref().map_or(0, |loaded| loaded.config.generation),
            hash: current.as_ref().map(|loaded| loaded.hash.clone()).unwrap_or_default(),
            problem,
        };
        let ready = not_ready.is_empty();
        let mut notes = not_ready;
        notes.extend(current.iter().flat_map(|loaded| weaker_promises(loaded, &self.node)));
        let missing = self.recorder.gaps.pending();
        if missing > 0 {
            notes.push(format!(
                "{missing} messages were delivered without a record; their number is not on record yet"
            ));
        }
        let mut counts = self.counts.snapshot();
        (counts.counted, counts.passed_by) =
            (self.recorder.tallies.total(), self.recorder.tallies.passed_by());
        let mut compliance_servers = self.servers.status();
        self.recorder.chains.complete(&mut compliance_servers);
        SidecarStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.node.clone(),
            cluster: current.as_ref().map(|loaded| loaded.config.cluster.to_string()).unwrap_or_default(),
            config,
            link: self.link.coverage().status(),
            journal: self.journal_status(),
            endpoints: self.drains.status(),
            compliance_servers,
            questions: self.recorder.chains.status(),
            embedded_archives: None,
            heads: Vec::new(),
            days: self.recorder.tallies.days(),
            counts,
            refused_lately: self.counts.refused_lately(),
            ready,
            notes,
        }
    }

    /// What the statistics say that compliance servers are told (`e_STATS`).
    fn figures(&self) -> Figures {
        let (link, counts) = (self.link.coverage().status(), self.counts.snapshot());
        let counted = self.recorder.tallies.total();
        let questions = self.recorder.chains.status();
        let values = vec![
            ("users/online", "users", link.sessions),
            ("rooms/occupied", "rooms", link.rooms),
            ("messages/said", "messages", counted.said),
            ("messages/recorded", "messages", counts.accepted),
            ("messages/refused", "messages", counts.refused + questions.refused_messages),
            ("time/uptime", "seconds", self.started.elapsed().as_secs()),
        ];
        let host = link.hosts.into_iter().next().map(|host| host.name).unwrap_or_default();
        Figures { host, values }
    }

    /// The records that endpoints refused alone, by endpoint; no word of what was said in them.
    pub async fn dead_letters(&self) -> Result<BTreeMap<String, Vec<DeadLetterEntry>>, JournalError> {
        let mut letters = BTreeMap::new();
        if let Some(journal) = self.journal.get() {
            for endpoint in journal.endpoints() {
                let entries = journal.dead_letters(&endpoint).await?;
                letters.insert(endpoint, entries);
            }
        }
        Ok(letters)
    }

    /// Has them tried again.
    pub fn retry_dead_letters(&self) {
        self.drains.retry_dead_letters();
    }

    fn journal_status(&self) -> JournalStatus {
        let ephemeral = self.recorder.loaded().is_some_and(|loaded| loaded.config.journal.ephemeral);
        if let Some(journal) = self.journal.get() {
            return JournalStatus { ephemeral, ..journal.status() };
        }
        JournalStatus { problem: self.opening_problem(), ephemeral, ..JournalStatus::default() }
    }

    /// Why the journal is not open; that it was not tried yet is no alarm.
    fn not_open(&self) -> Option<String> {
        let why = || {
            self.opening_problem()
                .unwrap_or_else(|| "the journal is opened when there is a configuration".into())
        };
        self.journal.get().is_none().then(why)
    }

    fn opening_problem(&self) -> Option<String> {
        self.journal_problem.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Opens the journal as soon as a configuration says whose it is; tries again while it cannot be opened.
    async fn open_journal(&self, options: &Options, stop: &CancellationToken) -> Option<Journal> {
        let mut config = self.config.clone();
        let loaded = tokio::select! {
            state = config.wait_for(|state| state.current.is_some()) => state.ok()?.current.clone()?,
            () = stop.cancelled() => return None,
        };
        loop {
            match open_journal(&options.data_dir, &self.node, &loaded).await {
                Ok(journal) => {
                    self.recorder.open_journal(Arc::new(journal.clone()));
                    _ = self.journal.set(journal.clone());
                    return Some(journal);
                }
                Err(error) => {
                    tracing::error!(%error, "the journal cannot be opened");
                    *self.journal_problem.lock().unwrap_or_else(std::sync::PoisonError::into_inner) =
                        Some(error.to_string());
                }
            }
            tokio::select! {
                () = tokio::time::sleep(OPEN_INTERVAL) => {}
                () = stop.cancelled() => return None,
            }
        }
    }
}

/// Opens the journal of the data folder once and tells what its recovery found.
pub async fn open_journal(data_dir: &Path, node: &str, loaded: &Loaded) -> Result<Journal, JournalError> {
    let software = concat!("cartulary-sidecar ", env!("CARGO_PKG_VERSION"));
    let cluster = loaded.config.cluster.to_string();
    let mut options = JournalOptions::new(data_dir.join("journal"), node, &cluster, software);
    options.limits = limits(loaded);
    // Recovery reads all that is kept.
    let opening = tokio::task::spawn_blocking(|| Journal::open(options, system_clock()));
    let (journal, recovery) = opening.await.unwrap_or(Err(JournalError::Closed))?;
    tracing::info!(
        records = recovery.records,
        waiting = recovery.waiting,
        torn_bytes = recovery.torn_bytes,
        quarantined = recovery.quarantined,
        lost = recovery.lost,
        "the journal is open"
    );
    for note in &recovery.notes {
        tracing::warn!(note, "the journal's recovery has something to tell");
    }
    Ok(journal)
}

/// Runs a sidecar until `stop`. Returns when everything that was accepted is on disk.
pub async fn run(options: Options, stop: CancellationToken) -> Result<()> {
    let copied = plugin::install(&options.plugin_source, &options.plugin_target)?;
    tracing::info!(copied, target = %options.plugin_target.display(), "the server plugin");
    let listener = link::bind(&options.link)?;
    let admin = tokio::net::TcpListener::bind(options.admin)
        .await
        .with_context(|| format!("the admin port {} cannot be opened", options.admin))?;

    let address = admin.local_addr()?;

    let (sender, receiver) = watch::channel(ConfigState::default());
    let app = App::new(&options.node, options.data_dir.join("archive"), receiver);
    let background = CancellationToken::new();
    let config = tokio::spawn({
        let (path, background) = (options.config.clone(), background.clone());
        async move { config::watch(&path, sender, background).await }
    });
    let admin = tokio::spawn({
        let background = background.clone();
        let served = axum::serve(admin, admin::router(app.clone()));
        async move { served.with_graceful_shutdown(background.cancelled_owned()).await }
    });
    let telling = tokio::spawn({
        let (app, background) = (app.clone(), background.clone());
        async move { alarms::run(&app, background).await }
    });
    let servers = Asked::open(&app);
    app.recorder.take_up(&options.data_dir).await;
    let books = Books::open(&app.recorder);
    app.listening.store(true, Ordering::Relaxed);
    let link = tokio::spawn(app.link.clone().serve(listener, stop.clone()));
    tracing::info!(socket = %options.link.display(), admin = %address, "listening");

    let journal = app.open_journal(&options, &stop).await;
    if let Some(journal) = journal {
        serve(&app, journal, (link, servers, books), &stop).await;
    } else {
        _ = tokio::time::timeout(LINK_PATIENCE, link).await;
        servers.close().await;
        books.close().await;
    }
    background.cancel();
    _ = tokio::time::timeout(Duration::from_secs(1), futures::future::join3(config, admin, telling)).await;
    // A socket left behind would be taken for one that is served.
    _ = std::fs::remove_file(&options.link);
    tracing::info!("stopped");
    Ok(())
}

/// The links to the compliance servers, and what is sent over them by nobody's asking.
struct Asked {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Asked {
    fn open(app: &Arc<App>) -> Self {
        let stop = CancellationToken::new();
        let task = tokio::spawn({
            let (app, stop) = (app.clone(), stop.clone());
            async move {
                let recorder = &app.recorder;
                let links = app.servers.clone().run(app.config.clone(), stop.clone());
                let missed = recorder.chains.missed.send(&*app.servers, recorder, stop.clone());
                let stats = chains::send_stats(recorder, || app.figures(), stop);
                futures::future::join3(links, missed, stats).await;
            }
        });
        Self { stop, task }
    }

    /// Each stream is ended in order.
    async fn close(self) {
        self.stop.cancel();
        _ = tokio::time::timeout(SERVERS_PATIENCE, self.task).await;
    }
}

/// What is written beside the messages themselves: what is missing, what was counted, and what compliance servers have not seen.
struct Books {
    last_entries: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Books {
    fn open(recorder: &Arc<Recorder>) -> Self {
        let last_entries = CancellationToken::new();
        let task = tokio::spawn({
            let (recorder, stop) = (recorder.clone(), last_entries.clone());
            async move {
                let gaps = recorder.gaps.run(&recorder, stop.clone());
                let tallies = recorder.tallies.run(&recorder, stop.clone());
                let missed = recorder.chains.missed.run(&recorder, stop);
                futures::future::join3(gaps, tallies, missed).await;
            }
        });
        Self { last_entries, task }
    }

    /// Everything is written that can be; nothing is noted any more.
    async fn close(self) {
        self.last_entries.cancel();
        _ = tokio::time::timeout(BOOKS_PATIENCE, self.task).await;
    }
}

/// From an open journal to a closed one.
async fn serve(
    app: &Arc<App>,
    journal: Journal,
    (link, servers, books): (tokio::task::JoinHandle<()>, Asked, Books),
    stop: &CancellationToken,
) {
    let drains = tokio::spawn({
        let (app, journal, stop) = (app.clone(), journal.clone(), stop.clone());
        async move {
            drains::run(&app.drains, &app.node, app.config.clone(), &journal, &app.archive, stop).await;
        }
    });
    stop.cancelled().await;
    tracing::info!("stopping: what was accepted is written, nothing more is taken in");
    _ = tokio::time::timeout(LINK_PATIENCE, link).await;
    servers.close().await;
    futures::future::join(books.close(), async {
        _ = tokio::time::timeout(BOOKS_PATIENCE, drains).await;
    })
    .await;
    match tokio::time::timeout(CLOSE_PATIENCE, journal.close()).await {
        Ok(Ok(())) => tracing::info!("the journal is closed"),
        Ok(Err(error)) => tracing::error!(%error, "the journal could not be closed; its streams have no end"),
        Err(_) => tracing::error!("the journal did not close in time; its streams have no end"),
    }
}

/// The journal's limits by a configuration.
#[must_use]
pub fn limits(loaded: &Loaded) -> Limits {
    let config = &loaded.config;
    Limits {
        max_bytes: config.journal.max_bytes,
        keep_confirmed: Duration::from_secs(config.journal.keep_confirmed_seconds),
        queues: config.endpoints.iter().map(|(name, endpoint)| (name.clone(), endpoint.queue)).collect(),
    }
}

/// What a configuration promises less than it could, in words for people.
fn weaker_promises(loaded: &Loaded, node: &str) -> Vec<String> {
    use cartulary_compliance::config::EndpointTarget;
    let config = &loaded.config;
    let mut notes =
        vec!["records wait in the journal as plain text: encryption is not part of this version".to_owned()];
    match config.archiving.endpoint_of(node) {
        None => notes.push("archiving is off: nothing is recorded".into()),
        Some(name) => {
            if config.endpoints.get(name).is_some_and(|endpoint| endpoint.target == EndpointTarget::Sqlite) {
                notes.push("the archive is a file on the pod's own volume: what takes one takes both".into());
            }
            if !config.archiving.block_if_unable_to_record {
                notes.push(
                    "blockIfUnableToRecord is off: what cannot be recorded is delivered and counted".into(),
                );
            }
            if !config.archiving.outbound {
                notes.push("outbound is off: messages to other servers are not recorded".into());
            }
            if !config.archiving.inbound {
                notes.push("inbound is off: messages from other servers are not recorded".into());
            }
        }
    }
    if config.journal.ephemeral {
        notes.push("the journal goes with the pod: records that wait are lost when it is deleted".into());
    }
    notes
}
