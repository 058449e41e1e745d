//! Stream management (XEP-0198) as far as a test needs it: a stream that broke is taken up again, and the server sends what the
//! client has not seen.

use crate::client::{Client, authenticate};
use anyhow::{Context, Result, ensure};
use minidom::Element;
use std::net::SocketAddr;

const MANAGEMENT: &str = "urn:xmpp:sm:3";

/// What is needed to take a stream up again.
#[derive(Debug, Clone)]
pub struct Resumption {
    id: String,
    // Stanzas seen before the server began to count.
    before: usize,
}

impl Client {
    /// Has the server keep what it sends until it knows that it came, and keep the session when the connection breaks.
    pub async fn enable_resumption(&self) -> Result<Resumption> {
        self.raw(&format!("<enable xmlns='{MANAGEMENT}' resume='true'/>")).await?;
        let of =
            |e: &Element| e.is("enabled", MANAGEMENT).then(|| e.attr("id").unwrap_or_default().to_owned());
        let id = self.wait("stream management", of).await?;
        let seen = self.seen();
        let enabled = seen.iter().position(|e| e.is("enabled", MANAGEMENT)).context("seen just now")?;
        Ok(Resumption { id, before: seen[..enabled].iter().filter(|e| is_stanza(e)).count() })
    }

    /// Takes up the session of `old`, whose connection is broken: a session of its own here, under the same JID.
    pub async fn resume(
        server: SocketAddr,
        jid: &str,
        password: &str,
        resumption: &Resumption,
        seen: &[Element],
    ) -> Result<Self> {
        let handled = seen.iter().filter(|e| is_stanza(e)).count() - resumption.before;
        let (writer, stream) = authenticate(server, jid, password).await?;
        let client = Self::on_stream(jid, writer, stream);
        client
            .raw(&format!("<resume xmlns='{MANAGEMENT}' h='{handled}' previd='{}'/>", resumption.id))
            .await?;
        let answer = client
            .wait("the answer to resume", |e| (e.ns() == MANAGEMENT && e.name() != "r").then(|| e.clone()))
            .await?;
        ensure!(answer.name() == "resumed", "not resumed: {}", String::from(&answer));
        Ok(client)
    }
}

fn is_stanza(element: &Element) -> bool {
    matches!(element.name(), "message" | "presence" | "iq")
}
