//! Compliance servers that shut down, vanish, hang, lie or flood, a sidecar that dies, a password that changes: every stanza is decided
//! as declared, nothing accepted is lost, and the status says why (CS-1 to CS-3, CS-5, FH-1 to FH-8, P6).

mod away;
mod hostile;
mod links;
mod pending;
mod sidecar;

use anyhow::Result;
use cartulary_compliance::config::Compliance;
use cartulary_tests::client::Client;

/// An hour, milliseconds: longer than any test waits, so that what comes of something came at once.
const NEVER: u32 = 3_600_000;

/// Nothing is decided by time: whatever is decided was decided at once.
fn patient(mut compliance: Compliance) -> Compliance {
    compliance.event_timeout_ms = NEVER;
    compliance.drop_after_ms = NEVER;
    compliance
}

/// Short times, so that they pass in a test.
fn hasty(mut compliance: Compliance) -> Compliance {
    compliance.event_timeout_ms = 1_500;
    compliance.drop_after_ms = 4_000;
    compliance
}

/// Whether a message that has been decided came to somebody.
async fn came(client: &Client, id: &str) -> Result<bool> {
    client.settle().await?;
    Ok(client.messages().iter().any(|m| m.id == id && !m.is_error()))
}

/// What a sender is told of a message that was refused.
async fn refusal(client: &Client, id: &str) -> Result<String> {
    let answer = client.answer_to(id).await?;
    Ok(answer.condition.unwrap_or_default())
}
