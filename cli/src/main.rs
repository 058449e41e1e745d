//! `cartulary`: what people and scripts ask of the recordings. Also found by kubectl as `kubectl cartulary` when a link named
//! `kubectl-cartulary` to it is on the path.
//!
//! It reads: a Kubernetes cluster through the API server (with the caller's own rights), an archive as a reader role or a file.
//! Only `migrate` and `dead-letters retry` change anything, and only when called by these names; `export` makes a file of its own.
//! Exit codes: 0 all is well; 1 it looked and found something wrong; 2 it was asked wrongly or could not look.
//! Messages are printed to whoever asked and nowhere else: there is no log of what was found (P8).

mod anchors;
mod archive;
mod args;
mod conformance;
mod dead_letters;
mod export;
mod kubernetes;
mod merge;
mod message;
mod migrate;
mod output;
mod password;
mod pods;
mod report;
mod search;
mod source;
mod status;
mod time;
mod troubleshoot;
mod verify;

use clap::{CommandFactory, FromArgMatches};
use std::process::ExitCode;

/// What a command found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Found {
    /// Nothing to worry about.
    Fine,
    /// Something that needs somebody's attention; it was printed.
    Wrong,
}

fn main() -> ExitCode {
    let called = std::env::args().next().unwrap_or_default();
    let mut command = args::Args::command();
    if called.ends_with("kubectl-cartulary") {
        command = command.bin_name("kubectl cartulary");
    }
    let args = match args::Args::from_arg_matches(&command.get_matches()) {
        Ok(args) => args,
        Err(error) => error.exit(),
    };
    tracing_subscriber::fmt()
        // A database driver's own lines may quote what was searched for.
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("CARTULARY_LOG")
                .unwrap_or_else(|_| "error,sqlx=off".into()),
        )
        .with_writer(std::io::stderr)
        .init();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return cannot(&error.into()),
    };
    match runtime.block_on(run(args)) {
        Ok(Found::Fine) => ExitCode::SUCCESS,
        Ok(Found::Wrong) => ExitCode::from(1),
        // `cartulary search | head` is no failure.
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => cannot(&error),
    }
}

fn cannot(error: &anyhow::Error) -> ExitCode {
    eprintln!("cartulary: {error:#}");
    ExitCode::from(2)
}

async fn run(args: args::Args) -> anyhow::Result<Found> {
    match args.command {
        args::Command::Status(args) => status::run(args).await,
        args::Command::Troubleshoot(args) => troubleshoot::run(args).await,
        args::Command::Search(args) => search::run(args).await,
        args::Command::Verify(args) => verify::run(args).await,
        args::Command::Report(args) => report::run(args).await,
        args::Command::Export(args) => export::run(args).await,
        args::Command::Anchors(args) => anchors::run(args).await,
        args::Command::Migrate(args) => migrate::run(args).await,
        args::Command::DeadLetters(args) => dead_letters::run(args).await,
        args::Command::Conformance(args) => conformance::run(args).await,
    }
}
