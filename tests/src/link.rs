//! A plugin made of nothing but a socket: says to the sidecar whatever a test wants said, right or wrong.

use crate::client::DEADLINE;
use anyhow::{Context, Result, anyhow, bail};
use cartulary_compliance::link::{
    ArmedHost, Event, Frame, Hello, HostType, Ingress, PROTOCOL, Recipient, SinceLast, Subject, Target,
};
use std::path::Path;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// A connection to the sidecar's socket.
#[derive(Debug)]
pub struct RawLink {
    stream: UnixStream,
    unread: Vec<u8>,
}

impl RawLink {
    /// Connects; nothing is said yet.
    pub async fn connect(socket: &Path) -> Result<Self> {
        Ok(Self { stream: UnixStream::connect(socket).await?, unread: Vec::new() })
    }

    /// Connects and says hello for `hosts`; returns when welcome and settings have come.
    pub async fn greeted(socket: &Path, hosts: &[&str]) -> Result<Self> {
        let mut link = Self::connect(socket).await?;
        link.send(&Frame::Hello(hello(hosts))).await?;
        link.send(&Frame::SnapshotEnd).await?;
        match (link.frame().await?, link.frame().await?) {
            (Frame::Welcome(welcome), Frame::Settings(_)) if welcome.refused.is_none() => Ok(link),
            other => bail!("welcome and settings were to come, not {other:?}"),
        }
    }

    /// Writes these bytes as they are.
    pub async fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes).await?)
    }

    /// Writes a frame.
    pub async fn send(&mut self, frame: &Frame) -> Result<()> {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.raw(&bytes).await
    }

    /// The next frame the sidecar sends; an error when it closes the connection.
    pub async fn frame(&mut self) -> Result<Frame> {
        tokio::time::timeout(DEADLINE, async {
            loop {
                if let Some(raw) = Frame::cut(&self.unread)? {
                    let (frame, taken) = (Frame::decode_payload(raw)?, raw.taken);
                    self.unread.drain(..taken);
                    if let Some(frame) = frame {
                        return Ok(frame);
                    }
                    continue;
                }
                if self.stream.read_buf(&mut self.unread).await? == 0 {
                    bail!("the sidecar closed the connection");
                }
            }
        })
        .await
        .map_err(|_| anyhow!("the sidecar said nothing for {DEADLINE:?}"))?
    }

    /// Waits until the sidecar closes the connection; what it still says is skipped.
    pub async fn closed(&mut self) -> Result<()> {
        let end = async {
            let mut rest = [0; 4096];
            // A reset says so as well as an orderly end.
            while self.stream.read(&mut rest).await.unwrap_or(0) > 0 {}
        };
        tokio::time::timeout(DEADLINE, end).await.context("the sidecar did not close the connection")
    }
}

/// A hello of a server with these hosts, all armed.
#[must_use]
pub fn hello(hosts: &[&str]) -> Hello {
    let armed = |name: &&str| ArmedHost {
        name: (*name).to_owned(),
        host_type: HostType::Users,
        hooks: vec!["pre-message/bare".to_owned()],
        problem: None,
    };
    Hello {
        protocol_min: PROTOCOL,
        protocol_max: PROTOCOL,
        plugin_version: "0".to_owned(),
        server: "Prosody".to_owned(),
        server_version: "13".to_owned(),
        instance: "test".to_owned(),
        hosts: hosts.iter().map(armed).collect(),
        since_last: SinceLast::default(),
    }
}

/// A message from one user to another, as a plugin would ask about it.
#[must_use]
pub fn event(from: &str, to: &str, stanza_id: &str, body: &str) -> Event {
    let escape = crate::client::escape;
    let bare = to.split('/').next().unwrap_or(to).to_owned();
    Event {
        ingress: Ingress::Client,
        host: bare.rsplit('@').next().unwrap_or_default().to_owned(),
        stanza: format!(
            "<message from='{}' to='{}' id='{}' type='chat'><body>{}</body></message>",
            escape(from),
            escape(to),
            escape(stanza_id),
            escape(body)
        ),
        from: from.to_owned(),
        to: Some(to.to_owned()),
        target: Target::LocalUser,
        recipients: vec![Recipient { bare, occupant: None, resources: vec!["desk".to_owned()] }],
        session: Some("session-1".to_owned()),
        address: None,
        secure: true,
        seen_at_micros: 1_700_000_000_000_000,
        room: None,
        event_id: None,
        subject: Subject::Message,
        of_rooms: false,
        room_exists: true,
    }
}
