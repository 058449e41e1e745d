//! `logger`: prints each event as a line of JSON and lets it go on. Bodies are printed only when that is asked for: who can read the
//! output can read the conversations.

use cartulary_compliance_kit::program::Listening;
use cartulary_compliance_kit::{Answer, Event};
use clap::Parser;
use serde_json::{Value, json};
use std::io::Write;

/// A compliance server that prints each event as a line of JSON, and passes it
#[derive(Parser)]
#[command(version)]
struct Options {
    #[command(flatten)]
    listening: Listening,
    /// Print what is said, too
    #[arg(long)]
    with_text: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let with_text = options.with_text;
    let policy = move |event: Event| {
        // One write for each line, in the order in which events came.
        let printed = print(&line(&event, with_text));
        async move {
            match printed {
                Ok(()) => Answer::pass(),
                // What cannot be logged is not said to have been seen.
                Err(_) => Answer::refuse("internal-server-error", "The log cannot be written."),
            }
        }
    };
    options.listening.run(policy).await
}

fn print(line: &Value) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

fn line(event: &Event, with_text: bool) -> Value {
    let mut line = json!({
        "name": event.name,
        "packet": event.packet,
        "id": event.id,
        "stamp": event.stamp,
        "node": event.node,
        "profile": event.profile,
        "component": event.component,
        "awaited": event.awaited,
        "missed": event.missed,
        "sender": event.sender.as_ref().map(|sender| json!({
            "jid": sender.jid,
            "ingress": sender.ingress,
            "session": sender.session,
            "address": sender.address,
        })),
        "room": event.room,
        "recipients": event.recipients.iter().map(|recipient| json!({
            "jid": recipient.jid,
            "occupant": recipient.occupant,
            "resources": recipient.resources,
        })).collect::<Vec<_>>(),
        "reason": event.reason,
    });
    if with_text {
        line["body"] = json!(event.body());
    }
    line
}
