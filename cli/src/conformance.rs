//! `cartulary conformance`: plays the sidecar's part against a compliance server, and says event by event whether it answers as
//! `docs/event-protocol.md` has it (CS-7).
//!
//! Connecting is the sidecar's own code, and answers are judged by the codec that judges them in service: what passes here is understood
//! there. Nothing that a server writes is printed but names out of the protocol. It does not judge *what* a server decides.

mod checks;
mod examples;
mod peer;

use crate::Found;
use crate::args::ConformanceArgs;
use crate::output::{self, Format};
use anyhow::{Context, bail};
use cartulary_compliance::config::{ClientTls, ComplianceServer, Identity, StreamNamespace};
use cartulary_compliance::events::{self, Event};
use serde::Serialize;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

/// How a check came out.
#[derive(Serialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "UPPERCASE")]
enum Outcome {
    /// As the protocol has it.
    Ok,
    /// Not as the protocol has it.
    Failed,
    /// Fit for service, and worth knowing.
    Note,
}

/// One check.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
struct Check {
    /// The event's name, or what else was tried.
    check: String,
    outcome: Outcome,
    /// What came, or what is wrong.
    detail: String,
}

/// Everything about one server.
#[derive(Serialize, Debug)]
struct Report {
    address: String,
    component: String,
    conforms: bool,
    checks: Vec<Check>,
}

/// Whom to try, and how.
struct Trial {
    server: ComplianceServer,
    component: String,
    events: Vec<&'static Event>,
    timeout: Duration,
}

/// Runs the command.
pub async fn run(args: ConformanceArgs) -> anyhow::Result<Found> {
    let trial = trial(&args)?;
    let text = args.output == Format::Text;
    let mut results = Vec::new();
    {
        let mut shown: anyhow::Result<()> = Ok(());
        let mut tell = |check: Check| {
            // Line by line: a server that answers nothing takes its time.
            if text && shown.is_ok() {
                shown = show(&check);
            }
            results.push(check);
        };
        checks::run(&trial, &mut tell).await;
        shown?;
    }
    let conforms = results.iter().all(|check| check.outcome != Outcome::Failed);
    let report =
        Report { address: args.address.clone(), component: args.component, conforms, checks: results };
    let mut out = output::stdout();
    if text {
        let failed = report.checks.iter().filter(|check| check.outcome == Outcome::Failed).count();
        match failed {
            0 => writeln!(out, "{} conforms: {} checks", args.address, report.checks.len())?,
            _ => writeln!(
                out,
                "{} does not conform: {failed} of {} checks failed",
                args.address,
                report.checks.len()
            )?,
        }
    } else {
        output::json_line(&mut out, &report)?;
    }
    out.flush()?;
    Ok(if conforms { Found::Fine } else { Found::Wrong })
}

fn show(check: &Check) -> anyhow::Result<()> {
    let mut out = output::stdout();
    let word = match check.outcome {
        Outcome::Ok => "OK",
        Outcome::Failed => "FAILED",
        Outcome::Note => "NOTE",
    };
    writeln!(out, "{word:<7} {}: {}", check.check, output::printable(&check.detail))?;
    Ok(out.flush()?)
}

fn trial(args: &ConformanceArgs) -> anyhow::Result<Trial> {
    let (host, port) = args.address.rsplit_once(':').context("give the server as HOST:PORT")?;
    let port = port.parse().with_context(|| format!("'{port}' is no port"))?;
    let events = match args.event.as_slice() {
        [] => events::ALL.to_vec(),
        named => named
            .iter()
            .map(|name| {
                events::by_name(name)
                    .with_context(|| format!("'{name}' is no event; docs/events.md lists them"))
            })
            .collect::<anyhow::Result<_>>()?,
    };
    let seconds = args.timeout.max(1);
    let server = ComplianceServer {
        host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
        port,
        password: password(args)?,
        stream: if args.stream == Stream::Connect {
            StreamNamespace::Connect
        } else {
            StreamNamespace::Accept
        },
        tls: if args.plain { None } else { Some(tls(args)?) },
        keepalive_seconds: seconds,
    };
    Ok(Trial {
        server,
        component: args.component.clone(),
        events,
        timeout: Duration::from_secs(seconds.into()),
    })
}

/// Which of XEP-0114's namespaces.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Stream {
    /// jabber:component:accept
    Accept,
    /// jabber:component:connect
    Connect,
}

fn password(args: &ConformanceArgs) -> anyhow::Result<String> {
    let text = match &args.password_file {
        Some(file) => read(file)?,
        None => std::env::var("COMPLIANCE_PASSWORD")
            .context("no password: give --password-file, or set COMPLIANCE_PASSWORD")?,
    };
    let password = text.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        bail!("the password is empty");
    }
    Ok(password.to_owned())
}

fn tls(args: &ConformanceArgs) -> anyhow::Result<ClientTls> {
    let identity = match (&args.client_cert, &args.client_key) {
        (Some(certificate), Some(key)) => Some(Identity { certificate: read(certificate)?, key: read(key)? }),
        _ => None,
    };
    let ca = args.ca.as_deref().map(read).transpose()?;
    Ok(ClientTls { ca, server_name: args.server_name.clone(), identity })
}

fn read(file: impl AsRef<Path>) -> anyhow::Result<String> {
    let file = file.as_ref();
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}
