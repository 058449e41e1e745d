//! A recorded message as `cartulary search` prints it: for scripts one JSON object on a line (fields are added, never renamed), for
//! people a few lines. The JSON is also what is read back from the sidecars of an embedded archive, so both ends are here.
//!
//! Whatever the archive knows of the message is in the JSON, the original stanza included, but for exceptions of single recipients: they
//! are in the record's header alone.

use crate::output::printable;
use serde::{Deserialize, Serialize};
use std::io::Write;

/// One message and what became of it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Message {
    /// Id of the accepted record.
    pub id: String,
    /// Id of the event: one stanza at one ingress.
    pub event: String,
    /// When the server saw it, RFC 3339.
    pub seen_at: String,
    /// When it was recorded, RFC 3339.
    pub recorded_at: String,
    /// `namespace/name` of the XMPPCluster.
    pub cluster: String,
    /// The pod.
    pub node: String,
    /// The sender, as the server authenticated it.
    pub from: String,
    /// The addressee; absent for the sender's own account.
    pub to: Option<String>,
    /// The room.
    pub room: Option<String>,
    /// Message type.
    #[serde(rename = "type")]
    pub kind: String,
    /// `id` attribute.
    pub stanza_id: Option<String>,
    /// XEP-0359 origin id.
    pub origin_id: Option<String>,
    /// Subject.
    pub subject: Option<String>,
    /// Body.
    pub body: Option<String>,
    /// Thread.
    pub thread: Option<String>,
    /// XEP-0071 markup.
    pub html: Option<String>,
    /// XEP-0258 display marking.
    pub label: Option<String>,
    /// The verdict: `deliver`, `replace`, `drop`, `bounce`.
    pub action: String,
    /// Error condition of a bounce.
    pub condition: Option<String>,
    /// The copies, one for each recipient.
    pub copies: Vec<Copy>,
    /// The stanza as it came.
    pub stanza: Option<String>,
    /// The form that was delivered, where it differs.
    pub delivered_stanza: Option<String>,
}

/// One recipient's copy.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Copy {
    /// Real bare JID.
    pub recipient: String,
    /// Occupant JID in a room.
    pub occupant: Option<String>,
    /// Resources that got it, or would have.
    pub resources: Vec<String>,
    /// `inbound`, `outbound`, `internal`; absent when only an outcome tells of this recipient.
    pub direction: Option<String>,
    /// What became of it (`delivered`, `offline`, `from-offline`, `bounced`, `dropped`, `remote`, `withheld`, `unknown`);
    /// absent while no outcome was recorded.
    pub result: Option<String>,
    /// Why, where the server says.
    pub reason: Option<String>,
}

/// Prints one for people.
pub fn show(out: &mut impl Write, message: &Message) -> std::io::Result<()> {
    let to = message.room.as_ref().or(message.to.as_ref()).unwrap_or(&message.from);
    let seen = message.seen_at.parse::<jiff::Timestamp>();
    let seen = seen.map(|t| t.strftime("%Y-%m-%d %H:%M:%S%.3fZ").to_string());
    writeln!(
        out,
        "{}  {} → {}{}",
        seen.unwrap_or_else(|_| printable(&message.seen_at)),
        printable(&message.from),
        printable(to),
        match message.action.as_str() {
            "deliver" | "" => String::new(),
            "bounce" =>
                format!("  [refused: {}]", printable(message.condition.as_deref().unwrap_or("error"))),
            "replace" => "  [changed by policy]".to_owned(),
            "drop" => "  [withheld by policy]".to_owned(),
            other => format!("  [{}]", printable(other)),
        }
    )?;
    if let Some(subject) = &message.subject {
        writeln!(out, "    Subject: {}", printable(subject))?;
    }
    match &message.body {
        Some(body) => writeln!(out, "    {}", printable(body))?,
        None if message.subject.is_none() => {
            writeln!(out, "    (no text; type {})", printable(&message.kind))?
        }
        None => {}
    }
    let copies: Vec<String> = message.copies.iter().map(|one| copy(one, is_ended(message))).collect();
    if !copies.is_empty() {
        writeln!(out, "      {}", copies.join("; "))?;
    }
    Ok(())
}

/// It went no further, so that no outcome is to be expected.
fn is_ended(message: &Message) -> bool {
    ["bounce", "drop"].contains(&message.action.as_str())
}

fn copy(copy: &Copy, is_ended: bool) -> String {
    let mut text = printable(&copy.recipient);
    if !copy.resources.is_empty() {
        text.push_str(&format!(" ({})", printable(&copy.resources.join(", "))));
    }
    text.push_str(match copy.result.as_deref() {
        Some("delivered") => ": delivered",
        Some("offline") => ": stored for later",
        Some("from-offline") => ": delivered later",
        Some("bounced") => ": bounced",
        Some("dropped") => ": dropped by the server",
        Some("remote") => ": handed to its server",
        Some("withheld") => ": withheld by policy",
        Some(_) => ": fate unknown",
        None if is_ended => "",
        None => ": no outcome recorded",
    });
    if let Some(reason) = &copy.reason {
        text.push_str(&format!(" ({})", printable(reason)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_shows_who_got_it_and_what_became_of_it() {
        let message = Message {
            seen_at: "2026-03-01T09:30:00.5Z".into(),
            from: "a@chat.example/x".into(),
            to: Some("b@chat.example".into()),
            body: Some("hi\nthere".into()),
            action: "deliver".into(),
            copies: vec![
                Copy {
                    recipient: "b@chat.example".into(),
                    resources: vec!["phone".into()],
                    result: Some("delivered".into()),
                    ..Default::default()
                },
                Copy { recipient: "c@chat.example".into(), ..Default::default() },
            ],
            ..Default::default()
        };
        let mut out = Vec::new();
        show(&mut out, &message).expect("memory");
        assert_eq!(
            String::from_utf8(out).expect("text"),
            "2026-03-01 09:30:00.500Z  a@chat.example/x → b@chat.example\n    hi there\n      \
             b@chat.example (phone): delivered; c@chat.example: no outcome recorded\n"
        );
    }

    #[test]
    fn what_was_refused_is_not_said_to_lack_an_outcome() {
        let message = Message {
            action: "bounce".into(),
            condition: Some("policy-violation".into()),
            body: Some("hi".into()),
            copies: vec![Copy { recipient: "b@chat.example".into(), ..Default::default() }],
            ..Default::default()
        };
        let mut out = Vec::new();
        show(&mut out, &message).expect("memory");
        let out = String::from_utf8(out).expect("text");
        assert!(
            out.contains("[refused: policy-violation]") && out.ends_with("      b@chat.example\n"),
            "{out}"
        );
    }

    #[test]
    fn json_of_a_newer_version_is_read() {
        let message: Message =
            serde_json::from_str(r#"{"id":"1","somethingNew":[1],"type":"chat"}"#).expect("readable");
        assert_eq!((message.id.as_str(), message.kind.as_str()), ("1", "chat"));
    }
}
