//! `cartulary-sidecar`: reads the command line, sets up the log, and runs until it is told to stop.
//!
//! Invariant: the process works whole or not at all. A panic in any thread ends it, so that Kubernetes starts it again and the
//! plugin, which sees its link close, does what is declared for that case; a half-dead sidecar would do neither.

use anyhow::{Context, Result};
use cartulary_sidecar::app::{self, Options};
use cartulary_sidecar::drain;
use clap::{Parser, Subcommand, ValueEnum};
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Records the messages of one XMPP server before they are delivered.
#[derive(Parser)]
#[command(version, subcommand_negates_reqs = true)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    place: Place,
    /// Unix socket on which the server plugin is awaited
    #[arg(long, env = "CARTULARY_LINK", default_value = "/run/cartulary/link.sock")]
    link: PathBuf,
    /// Address of health, status and metrics
    #[arg(long, env = "CARTULARY_ADMIN", default_value = "0.0.0.0:9467")]
    admin: SocketAddr,
    /// Folder that holds the server plugins
    #[arg(long, env = "CARTULARY_PLUGIN_SOURCE", default_value = "/usr/share/cartulary/plugins")]
    plugin_source: PathBuf,
    /// Folder the plugin is copied to before the server starts
    #[arg(long, env = "CARTULARY_PLUGIN_TARGET", default_value = "/run/cartulary")]
    plugin_target: PathBuf,
}

#[derive(Subcommand)]
enum Command {
    /// Carries what waits in the journal of a pod that is gone to its archive, and ends
    Drain {
        #[command(flatten)]
        place: Place,
        /// Seconds after which it ends, whatever still waits
        #[arg(long, default_value_t = 600)]
        patience: u64,
        /// File that gets the report too; /dev/termination-log where that is there
        #[arg(long)]
        termination_log: Option<PathBuf>,
    },
}

/// What both ways of running need.
#[derive(clap::Args)]
struct Place {
    /// Configuration, JSON or gzip of it; read again whenever it changes
    #[arg(long, env = "CARTULARY_CONFIG", default_value = "/etc/cartulary/config/config.json.gz")]
    config: PathBuf,
    /// Folder of the journal and of SQLite archives
    #[arg(long, env = "CARTULARY_DATA_DIR", default_value = "/var/lib/cartulary")]
    data_dir: PathBuf,
    /// Name of this node in records and in the configuration: the pod's
    #[arg(long, env = "CARTULARY_NODE", required = true)]
    node: Option<String>,
    /// Form of the log; JSON unless it goes to a terminal
    #[arg(long, env = "CARTULARY_LOG_FORMAT")]
    log_format: Option<LogFormat>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Json,
    Text,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let place = match &args.command {
        Some(Command::Drain { place, .. }) => place,
        None => &args.place,
    };
    start_log(place.log_format);
    die_of_any_panic();
    let threads = std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 4));
    let built = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build();
    let result = built.context("the runtime cannot be started").and_then(|runtime| {
        let result = runtime.block_on(run(args));
        // Whatever still runs now has nothing to lose: everything accepted is on disk.
        runtime.shutdown_background();
        result
    });
    result.unwrap_or_else(|error| {
        tracing::error!(error = format!("{error:#}"), "the sidecar cannot run");
        ExitCode::FAILURE
    })
}

async fn run(args: Args) -> Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = CancellationToken::new();
    tokio::spawn({
        let stop = stop.clone();
        async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            stop.cancel();
        }
    });
    let Args { command, place, link, admin, plugin_source, plugin_target } = args;
    if let Some(Command::Drain { place, patience, termination_log }) = command {
        return drain(place, Duration::from_secs(patience), termination_log, stop).await;
    }
    let Place { config, data_dir, node, .. } = place;
    let node = node.context("--node is missing")?;
    app::run(Options { config, data_dir, link, node, admin, plugin_source, plugin_target }, stop).await?;
    Ok(ExitCode::SUCCESS)
}

async fn drain(
    place: Place,
    patience: Duration,
    termination_log: Option<PathBuf>,
    stop: CancellationToken,
) -> Result<ExitCode> {
    let Place { config, data_dir, node, .. } = place;
    let node = node.context("--node is missing")?;
    let report = drain::run(drain::Options { config, data_dir, node, patience }, stop).await;
    writeln!(std::io::stdout(), "{}", drain::line(&report, false)).context("the report cannot be printed")?;
    if let Some(path) = termination_log.or_else(drain::default_termination_log)
        && let Err(error) = std::fs::write(&path, drain::line(&report, true))
    {
        tracing::warn!(%error, file = %path.display(), "the report cannot be written there");
    }
    Ok(ExitCode::from(drain::exit_code(&report)))
}

fn start_log(format: Option<LogFormat>) {
    // Statements a database driver finds slow or wrong are not for the log: they hold what was said.
    let filter = EnvFilter::try_from_env("CARTULARY_LOG").unwrap_or_else(|_| EnvFilter::new("info,sqlx=off"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let terminal = std::io::stderr().is_terminal();
    match format.unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json }) {
        LogFormat::Json => builder.json().flatten_event(true).init(),
        LogFormat::Text => builder.with_ansi(terminal).init(),
    }
}

#[expect(clippy::disallowed_methods, reason = "nothing may run on after a defect, destructors included")]
fn die_of_any_panic() {
    std::panic::set_hook(Box::new(|panic| {
        // A formatted message may quote what was being worked on, a stanza even; a literal cannot.
        let message = panic.payload().downcast_ref::<&'static str>().copied().unwrap_or("(not shown)");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, message, "a defect: the sidecar ends so that it is started again");
        std::process::exit(101);
    }));
}
