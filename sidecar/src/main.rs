//! `cartulary-sidecar`: reads the command line, sets up the log, and runs until it is told to stop.
//!
//! Invariant: the process works whole or not at all. A panic in any thread ends it, so that Kubernetes starts it again and the
//! plugin, which sees its link close, does what is declared for that case; a half-dead sidecar would do neither.

use anyhow::{Context, Result};
use cartulary_sidecar::app::{self, Options};
use clap::{Parser, ValueEnum};
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Records the messages of one XMPP server before they are delivered.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Configuration, JSON or gzip of it; read again whenever it changes
    #[arg(long, env = "CARTULARY_CONFIG", default_value = "/etc/cartulary/config/config.json.gz")]
    config: PathBuf,
    /// Folder of the journal and of SQLite archives
    #[arg(long, env = "CARTULARY_DATA_DIR", default_value = "/var/lib/cartulary")]
    data_dir: PathBuf,
    /// Unix socket on which the server plugin is awaited
    #[arg(long, env = "CARTULARY_LINK", default_value = "/run/cartulary/link.sock")]
    link: PathBuf,
    /// Name of this node in records and in the configuration: the pod's
    #[arg(long, env = "CARTULARY_NODE")]
    node: String,
    /// Address of health, status and metrics
    #[arg(long, env = "CARTULARY_ADMIN", default_value = "0.0.0.0:9467")]
    admin: SocketAddr,
    /// Folder that holds the server plugins
    #[arg(long, env = "CARTULARY_PLUGIN_SOURCE", default_value = "/usr/share/cartulary/plugins")]
    plugin_source: PathBuf,
    /// Folder the plugin is copied to before the server starts
    #[arg(long, env = "CARTULARY_PLUGIN_TARGET", default_value = "/run/cartulary")]
    plugin_target: PathBuf,
    /// Form of the log; JSON unless it goes to a terminal
    #[arg(long, env = "CARTULARY_LOG_FORMAT")]
    log_format: Option<LogFormat>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Json,
    Text,
}

fn main() -> Result<()> {
    let args = Args::parse();
    start_log(args.log_format);
    die_of_any_panic();
    let threads = std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 4));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .context("the runtime cannot be started")?;
    let result = runtime.block_on(run(args));
    if let Err(error) = &result {
        tracing::error!(error = format!("{error:#}"), "the sidecar cannot run");
    }
    // Whatever still runs now has nothing to lose: everything accepted is on disk.
    runtime.shutdown_background();
    result
}

async fn run(args: Args) -> Result<()> {
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
    let Args { config, data_dir, link, node, admin, plugin_source, plugin_target, .. } = args;
    app::run(Options { config, data_dir, link, node, admin, plugin_source, plugin_target }, stop).await
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
