//! The client's side of the protocol, written by hand: what is sent and awaited is the text of the protocol's page.

use sha1::{Digest, Sha1};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// A generous while; nothing here should ever take so long.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Client<S> {
    io: S,
    heard: String,
}

impl Client<TcpStream> {
    pub async fn connect(address: &str) -> Self {
        Self::over(TcpStream::connect(address).await.expect("a listener"))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub fn over(io: S) -> Self {
        Self { io, heard: String::new() }
    }

    pub async fn send(&mut self, text: &str) {
        self.io.write_all(text.as_bytes()).await.expect("it reads");
    }

    /// What came up to the end of `mark`, which is awaited.
    pub async fn until(&mut self, mark: &str) -> String {
        loop {
            if let Some(at) = self.heard.find(mark) {
                let rest = self.heard.split_off(at + mark.len());
                return std::mem::replace(&mut self.heard, rest);
            }
            let mut bytes = [0; 4096];
            let read = tokio::time::timeout(PATIENCE, self.io.read(&mut bytes)).await;
            let read = read.unwrap_or_else(|_| panic!("{mark} does not come, but: {}", self.heard));
            let read = read.expect("it writes");
            assert!(read > 0, "it ended before {mark}: {}", self.heard);
            self.heard.push_str(std::str::from_utf8(&bytes[..read]).expect("ASCII"));
        }
    }

    /// Everything up to the end of the connection.
    pub async fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        tokio::time::timeout(PATIENCE, self.io.read_to_end(&mut bytes))
            .await
            .expect("an end")
            .expect("in order");
        std::mem::take(&mut self.heard) + std::str::from_utf8(&bytes).expect("UTF-8")
    }

    pub async fn open(&mut self, namespace: &str, component: &str) -> String {
        let header = format!(
            "<stream:stream xmlns='{namespace}' xmlns:stream='http://etherx.jabber.org/streams' to='{component}'>"
        );
        self.send(&header).await;
        let answer = self.until("'>").await;
        let (_, rest) = answer.split_once(" id='").unwrap_or_else(|| panic!("no id in {answer}"));
        rest.split('\'').next().expect("an id").to_owned()
    }

    pub async fn handshake(&mut self, id: &str, password: &str) {
        let shown = hex::encode(Sha1::digest(format!("{id}{password}")));
        self.send(&format!("<handshake>{shown}</handshake>")).await;
    }

    /// Stream and handshake, until it is active.
    pub async fn log_in(&mut self, component: &str, password: &str) {
        let id = self.open("jabber:component:accept", component).await;
        self.handshake(&id, password).await;
        self.until("<handshake/>").await;
    }

    /// Asks, and returns the answer.
    pub async fn ask(&mut self, id: &str, event: &str) -> String {
        self.send(&format!("<iq type='set' id='{id}' from='op-a.p-0' to='a'>{event}</iq>")).await;
        self.until("</iq>").await
    }
}

/// An event about a stanza.
pub fn event(attributes: &str, context: &str, stanza: &str) -> String {
    format!(
        "<event xmlns='urn:cartulary:compliance:1' id='01936f0e-7c1e-7b9a-8d60-1d2c5f0a9b11' profile='P' node='p-0' \
         stamp='2026-01-02T03:04:05Z' timeout='30000' {attributes}>{context}<forwarded xmlns='urn:xmpp:forward:0'>{stanza}\
         </forwarded></event>"
    )
}
