//! A compliance server that does what a test says, line by line; it shares no code with the link.

use super::super::connect::Io;
use sha1::{Digest, Sha1};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

pub const PASSWORD: &str = "only for tests";
pub const HEADER: &str = "<?xml version='1.0'?><stream:stream xmlns='jabber:component:accept' \
                          xmlns:stream='http://etherx.jabber.org/streams' id='3BF96D32'>";
/// Long enough for a machine under load.
const DEADLINE: Duration = Duration::from_secs(60);

/// It listens.
pub struct Peer {
    listener: TcpListener,
}

impl Peer {
    pub async fn bind() -> Self {
        Self::at("127.0.0.1:0").await
    }

    pub async fn at(address: &str) -> Self {
        Self { listener: TcpListener::bind(address).await.expect("a port") }
    }

    pub fn port(&self) -> u16 {
        self.listener.local_addr().expect("bound").port()
    }

    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("bound")
    }

    pub async fn socket(&self) -> TcpStream {
        timeout(DEADLINE, self.listener.accept()).await.expect("somebody connects").expect("a connection").0
    }

    pub async fn accept(&self) -> Line {
        Line::over(self.socket().await)
    }

    /// Somebody is let in, and pinged in vain.
    pub async fn let_in(&self) -> Line {
        let mut line = self.accept().await;
        line.greet().await;
        line.let_in().await;
        line
    }

    /// Somebody is let in, and the first ping answered.
    pub async fn serve(&self) -> Line {
        let mut line = self.let_in().await;
        line.pong().await;
        line
    }

    /// Whether nobody has connected.
    pub async fn is_alone(&self) -> bool {
        timeout(Duration::from_millis(50), self.listener.accept()).await.is_err()
    }
}

/// A connection, seen from the server.
pub struct Line {
    io: Box<dyn Io>,
    unread: String,
}

/// A question as it came.
#[derive(Debug)]
pub struct Asked {
    pub id: String,
    pub event: String,
}

impl Line {
    pub fn over(io: impl Io + 'static) -> Self {
        Self { io: Box::new(io), unread: String::new() }
    }

    pub async fn say(&mut self, text: &str) {
        self.io.write_all(text.as_bytes()).await.expect("it is read");
        self.io.flush().await.expect("it is read");
    }

    /// The same to somebody who may have closed by then.
    pub async fn shout(&mut self, text: &str) {
        _ = timeout(DEADLINE, self.io.write_all(text.as_bytes())).await;
    }

    /// What comes up to `end` and that itself.
    pub async fn until(&mut self, end: &str) -> String {
        loop {
            if let Some(at) = self.unread.find(end) {
                let rest = self.unread.split_off(at + end.len());
                return std::mem::replace(&mut self.unread, rest);
            }
            let more = self.more().await;
            assert!(more, "it ended before {end}: {}", self.unread);
        }
    }

    /// Whether anything came before the end of the connection.
    pub async fn more(&mut self) -> bool {
        let mut bytes = vec![0; 64 << 10];
        let read = timeout(DEADLINE, self.io.read(&mut bytes)).await.expect("something, or the end");
        let count = read.unwrap_or(0);
        self.unread.push_str(&String::from_utf8_lossy(&bytes[..count]));
        count > 0
    }

    /// Reads to the end of the connection.
    pub async fn rest(&mut self) -> String {
        while self.more().await {}
        std::mem::take(&mut self.unread)
    }

    /// The other's header, answered.
    pub async fn greet(&mut self) -> String {
        let header = self.until("<stream:stream").await + &self.until(">").await;
        self.say(HEADER).await;
        header
    }

    pub async fn let_in(&mut self) {
        let shaken = self.until("</handshake>").await;
        let right = hex::encode(Sha1::digest(format!("3BF96D32{PASSWORD}")));
        assert_eq!(shaken, format!("<handshake>{right}</handshake>"));
        self.say("<handshake/>").await;
    }

    pub async fn ping(&mut self) -> String {
        let ping = self.until("</iq>").await;
        assert!(ping.contains("urn:xmpp:ping"), "{ping}");
        attribute(&ping, "<iq", "id")
    }

    pub async fn pong(&mut self) {
        let id = self.ping().await;
        self.say(&format!("<iq type='result' id='{id}'/>")).await;
    }

    /// The next question.
    pub async fn question(&mut self) -> Asked {
        let text = self.until("</iq>").await;
        Asked { id: attribute(&text, "<iq", "id"), event: attribute(&text, "<event", "id") }
    }

    pub async fn pass(&mut self, asked: &Asked) {
        let id = &asked.id;
        self.say(&format!("<iq type='result' id='{id}'><pass xmlns='urn:cartulary:compliance:1'/></iq>"))
            .await;
    }
}

/// An attribute of the first element that begins so.
pub fn attribute(text: &str, element: &str, name: &str) -> String {
    let (_, rest) = text.split_once(element).unwrap_or_else(|| panic!("no {element} in {text}"));
    let (head, _) = rest.split_once('>').expect("a head");
    for quote in ['\'', '"'] {
        if let Some((_, value)) = head.split_once(&format!(" {name}={quote}")) {
            return value.split(quote).next().unwrap_or_default().to_owned();
        }
    }
    panic!("no {name} in {text}");
}
