//! `cartulary-sidecar drain`: empties the journal of a pod that is gone.
//!
//! There is no server, no link and no port: the journal is opened, what waits in it is carried to where it belongs, the streams get
//! their ends, and one report says what is left and why. Dead letters are left alone, and count as left. It ends when nothing
//! waits, when nothing more can be done, when its time is over, or when it is told to.

use crate::app;
use crate::config::{self, ConfigState};
use crate::counts::Counters;
use crate::drains::{self, Drains};
use crate::recorder::Recorder;
use anyhow::{Context, Result, bail, ensure};
use cartulary_archive::journal::{Journal, JournalError};
use cartulary_compliance::status::{DrainReport, DrainWaiting};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often it is looked how far it got.
const INTERVAL: Duration = Duration::from_millis(100);
/// How often that is told.
const TELL: Duration = Duration::from_secs(10);
/// How long it is waited before a journal that another process has is tried again.
const OPEN_INTERVAL: Duration = Duration::from_secs(1);
/// Longest time for the drains' ends.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// What a termination message may have, with room to spare (Kubernetes keeps 4096 bytes).
const TERMINATION_BYTES: usize = 4000;

/// Exit code when nothing waits.
pub const EMPTY: u8 = 0;
/// Exit code when it cannot run.
pub const CANNOT_RUN: u8 = 1;
/// Exit code when something still waits.
pub const STILL_WAITING: u8 = 3;

/// Where everything is; the command line says.
#[derive(Debug, Clone)]
pub struct Options {
    /// The configuration file.
    pub config: PathBuf,
    /// The folder of `journal/` and `archive/`.
    pub data_dir: PathBuf,
    /// The pod that is gone.
    pub node: String,
    /// How long to go on at most.
    pub patience: Duration,
}

/// Drains, and says how far it got.
pub async fn run(options: Options, stop: CancellationToken) -> DrainReport {
    let mut report = DrainReport { node: options.node.clone(), ..DrainReport::default() };
    let (sender, config) = watch::channel(ConfigState::default());
    let background = CancellationToken::new();
    let watching = tokio::spawn({
        let (path, background) = (options.config.clone(), background.clone());
        async move { config::watch(&path, sender, background).await }
    });
    if let Err(problem) = drain(&options, config, &stop, &mut report).await {
        tracing::error!(problem = format!("{problem:#}"), "the journal cannot be drained");
        report.problem = Some(format!("{problem:#}"));
    }
    background.cancel();
    _ = watching.await;
    report
}

/// The exit code that goes with a report.
#[must_use]
pub fn exit_code(report: &DrainReport) -> u8 {
    match (&report.problem, report.waiting.is_empty()) {
        (Some(_), _) => CANNOT_RUN,
        (None, true) => EMPTY,
        (None, false) => STILL_WAITING,
    }
}

/// The report as one line of JSON. With `limit`, words go before figures, and both before heads: of those six fit.
#[must_use]
pub fn line(report: &DrainReport, limit: bool) -> String {
    let json = |report: &DrainReport| serde_json::to_string(report).unwrap_or_default();
    let whole = json(report);
    if !limit || whole.len() <= TERMINATION_BYTES {
        return whole;
    }
    let mut short = report.clone();
    let cut = |text: &mut String| *text = text.chars().take(200).collect();
    short.waiting.values_mut().for_each(|waiting| cut(&mut waiting.message));
    short.problem.iter_mut().for_each(cut);
    while json(&short).len() > TERMINATION_BYTES && short.waiting.len() > 1 {
        short.waiting.pop_last();
    }
    while json(&short).len() > TERMINATION_BYTES && short.heads.pop().is_some() {}
    json(&short)
}

async fn drain(
    options: &Options,
    mut config: watch::Receiver<ConfigState>,
    stop: &CancellationToken,
    report: &mut DrainReport,
) -> Result<()> {
    let deadline = Instant::now() + options.patience;
    let folder = options.data_dir.join("journal");
    // Opening would make one, and a volume that is not the right one would be taken for an empty journal.
    ensure!(
        folder.is_dir(),
        "there is no journal in {}: is this the right volume?",
        options.data_dir.display()
    );
    let loaded = tokio::select! {
        state = config.wait_for(|state| state.current.is_some()) => state.ok().and_then(|s| s.current.clone()),
        () = tokio::time::sleep_until(deadline) => None,
        () = stop.cancelled() => None,
    };
    let Some(loaded) = loaded else {
        let why = config.borrow().problem.clone();
        bail!("there is no configuration: {}", why.as_deref().unwrap_or("none was read in time"));
    };
    let journal = open(options, &loaded, deadline, stop).await?;
    report.journal = journal.id().to_string();
    let dead_before = dead_letters(&journal);

    let counts = Arc::new(Counters::default());
    let recorder = Recorder::new(&options.node, config.clone(), counts);
    recorder.open_journal(Arc::new(journal.clone()));
    recorder.take_up(&options.data_dir).await;
    recorder.gaps.write(&recorder).await;
    recorder.tallies.write(&recorder, true).await;
    // A stream whose sidecar was killed has no end. One that follows it and has one proves where it was.
    for endpoint in journal.endpoints() {
        if journal.queue(&endpoint).waiting > 0 && loaded.config.endpoints.contains_key(&endpoint) {
            journal.append(&endpoint, Vec::new()).await.with_context(|| {
                format!(
                    "the journal cannot be written, so that the end of {endpoint}'s stream cannot be shown"
                )
            })?;
        }
    }

    let (drains, background) = (Arc::new(Drains::default()), CancellationToken::new());
    let task = tokio::spawn({
        let (drains, journal, config, background) =
            (drains.clone(), journal.clone(), config.clone(), background.clone());
        let (node, archive) = (options.node.clone(), options.data_dir.join("archive"));
        async move { drains::run(&drains, &node, config, &journal, &archive, background).await }
    });
    carry(&journal, &drains, &config, deadline, stop).await;
    report.waiting = left(&journal, &drains);
    background.cancel();
    _ = tokio::time::timeout(STOP_PATIENCE, task).await;
    // Nobody can ask this process: without these, what it carried could be cut off the archive without a trace.
    report.heads = journal.heads();
    let archived: u64 = journal.endpoints().iter().map(|name| journal.queue(name).archived).sum();
    report.carried = archived.saturating_sub(dead_letters(&journal).saturating_sub(dead_before));
    // Not in the journal, so that nothing else would say that the volume is still needed.
    let unrecorded = recorder.gaps.pending();
    if unrecorded > 0 {
        report.problem = Some(format!(
            "{unrecorded} message(s) are missing, and that could not be put on record: the journal takes nothing, or archiving is off for this pod"
        ));
    }
    tracing::info!(carried = report.carried, endpoints_left = report.waiting.len(), "the drain ends");
    Ok(())
}

async fn open(
    options: &Options,
    loaded: &config::Loaded,
    deadline: Instant,
    stop: &CancellationToken,
) -> Result<Journal> {
    loop {
        match app::open_journal(&options.data_dir, &options.node, loaded).await {
            Ok(journal) => return Ok(journal),
            Err(error @ JournalError::InUse(_)) => {
                tracing::info!(%error, "waiting for the journal");
                tokio::select! {
                    () = tokio::time::sleep(OPEN_INTERVAL) => {}
                    () = tokio::time::sleep_until(deadline) => bail!("{error}: its pod is not gone, or another drain runs"),
                    () = stop.cancelled() => bail!("{error}, and it was told to end"),
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits until nothing waits, nothing more can be done, or the time is over; the streams are closed then.
async fn carry(
    journal: &Journal,
    drains: &Drains,
    config: &watch::Receiver<ConfigState>,
    deadline: Instant,
    stop: &CancellationToken,
) {
    let (mut is_closed, mut told) = (false, Instant::now());
    loop {
        let waiting: Vec<String> =
            journal.endpoints().into_iter().filter(|name| journal.queue(name).waiting > 0).collect();
        if waiting.is_empty() && is_closed {
            return;
        }
        if told.elapsed() >= TELL {
            told = Instant::now();
            for (endpoint, status) in drains.status() {
                tracing::info!(
                    endpoint,
                    waiting = status.waiting,
                    archived = status.archived,
                    state = status.state,
                    "draining"
                );
            }
        }
        let current = config.borrow().current.clone();
        let is_described =
            |name: &String| current.as_ref().is_some_and(|loaded| loaded.config.endpoints.contains_key(name));
        let over = stop.is_cancelled() || Instant::now() >= deadline;
        // Not before the drains have looked at them, which say why.
        let states = drains.status();
        let is_hopeless = |name: &String| !is_described(name) && states.contains_key(name);
        let nothing_to_do = !waiting.is_empty() && waiting.iter().all(is_hopeless);
        if (waiting.is_empty() || over || nothing_to_do) && !is_closed {
            is_closed = true;
            if let Err(error) = journal.clone().close().await {
                tracing::error!(%error, "the journal could not be closed; its streams have no end");
            }
            // The closing records wait in their turn.
            continue;
        }
        if over || nothing_to_do {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = stop.cancelled() => {}
        }
    }
}

fn dead_letters(journal: &Journal) -> u64 {
    journal.endpoints().iter().map(|name| journal.queue(name).dead_letters).sum()
}

fn left(journal: &Journal, drains: &Drains) -> std::collections::BTreeMap<String, DrainWaiting> {
    let mut states = drains.status();
    let mut left = std::collections::BTreeMap::new();
    for name in journal.endpoints() {
        let queue = journal.queue(&name);
        if queue.waiting == 0 && queue.dead_letters == 0 {
            continue;
        }
        let status = states.remove(&name).unwrap_or_default();
        let message = if queue.waiting == 0 {
            "the archive refused these records alone; they are kept aside in the journal's volume".to_owned()
        } else {
            status.message
        };
        tracing::warn!(
            endpoint = name,
            waiting = queue.waiting,
            dead_letters = queue.dead_letters,
            state = status.state,
            message,
            "records still wait"
        );
        let waiting = DrainWaiting {
            records: queue.waiting,
            dead_letters: queue.dead_letters,
            state: status.state,
            message,
        };
        left.insert(name, waiting);
    }
    left
}

/// Where Kubernetes takes a container's last words from, if it is there.
#[must_use]
pub fn default_termination_log() -> Option<PathBuf> {
    let path = Path::new("/dev/termination-log");
    path.exists().then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cartulary_compliance::status::Head;

    #[test]
    fn a_termination_message_fits_and_keeps_the_figures() {
        let waiting = DrainWaiting { records: 7, message: "long ".repeat(2000), ..DrainWaiting::default() };
        let mut report = DrainReport { node: "pod-0".into(), carried: 3, ..DrainReport::default() };
        assert_eq!(exit_code(&report), EMPTY);
        report.waiting = (0..100).map(|n| (format!("endpoint-{n}"), waiting.clone())).collect();
        assert_eq!(exit_code(&report), STILL_WAITING);
        assert_eq!(serde_json::from_str::<DrainReport>(&line(&report, false)).expect("JSON"), report);
        report.heads = vec![Head { signature: "s".repeat(600), ..Head::default() }; 4];
        let short = line(&report, true);
        assert!(short.len() <= TERMINATION_BYTES, "{}", short.len());
        let short: DrainReport = serde_json::from_str(&short).expect("JSON");
        assert!(short.carried == 3 && short.waiting["endpoint-0"].records == 7);
        assert_eq!(short.heads, report.heads, "heads are the last to go");
        report.heads = vec![report.heads[0].clone(); 20];
        assert!(line(&report, true).len() <= TERMINATION_BYTES);
        report.problem = Some("no".into());
        assert_eq!(exit_code(&report), CANNOT_RUN);
    }
}
