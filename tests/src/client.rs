//! An XMPP client that forgets nothing: every stanza it was given is kept, in order, for the oracle.
//!
//! Login runs on tokio-xmpp's stream layer. Stanzas are then written as text on the same socket, so that a test can also send
//! what no library would write. Nothing is hidden: no reconnecting, no carbons, no acknowledgements unless a test asks for them.
//! Other ways in than TCP are in `web` (websocket, BOSH) and `component`; `resume` takes a broken stream up again.

use anyhow::{Context, Result, anyhow, bail, ensure};
use futures::StreamExt;
use minidom::Element;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_xmpp::xmlstream::{
    PendingFeaturesRecv, ReadError, StreamHeader, Timeouts, XmlStream, XmppStream, initiate_stream,
};

/// How long anything may take that a test waits for. Generous: it decides only how late a failure is told.
pub const DEADLINE: Duration = Duration::from_secs(60);
const CLIENT: &str = "jabber:client";
const STANZAS: &str = "urn:ietf:params:xml:ns:xmpp-stanzas";

/// A connected, bound session.
pub struct Client {
    jid: String,
    outlet: Outlet,
    inbox: Arc<Inbox>,
    reader: JoinHandle<()>,
}

/// Where a session writes.
pub(crate) enum Outlet {
    /// A stream: any text, in any pieces.
    Stream(tokio::sync::Mutex<TcpStream>),
    /// Whoever carries one stanza at a time.
    Stanzas(mpsc::UnboundedSender<String>),
}

#[derive(Default)]
pub(crate) struct Inbox {
    seen: Mutex<Vec<Element>>,
    // The number of stanzas, and whether the stream has ended.
    changed: watch::Sender<(usize, bool)>,
}

impl Inbox {
    pub(crate) fn put(&self, stanza: Element) {
        let mut seen = self.seen();
        seen.push(stanza);
        let count = seen.len();
        drop(seen);
        self.changed.send_modify(|state| state.0 = count);
    }

    pub(crate) fn end(&self) {
        self.changed.send_modify(|state| state.1 = true);
    }

    fn seen(&self) -> MutexGuard<'_, Vec<Element>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Something the client was given, as far as the oracle cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// The `from` attribute.
    pub from: String,
    /// The `type` attribute; `normal` where there is none.
    pub kind: String,
    /// The `id` attribute.
    pub id: String,
    /// The text of the body; `None` for a message without one.
    pub body: Option<String>,
    /// The condition of an error.
    pub condition: Option<String>,
    /// The text of an error.
    pub reason: Option<String>,
}

impl Client {
    /// Logs in `jid` (full: `user@domain/resource`) at `server` and binds its resource. No presence is sent.
    pub async fn connect(server: SocketAddr, jid: &str, password: &str) -> Result<Self> {
        tokio::time::timeout(DEADLINE, Self::login(server, jid, password))
            .await
            .map_err(|_| anyhow!("logging in {jid} took longer than {DEADLINE:?}"))?
    }

    async fn login(server: SocketAddr, jid: &str, password: &str) -> Result<Self> {
        let (writer, stream) = authenticate(server, jid, password).await?;
        let client = Self::on_stream(jid, writer, stream);
        client.bind().await?;
        Ok(client)
    }

    /// A session on a stream that is past its login.
    pub(crate) fn on_stream<Io>(jid: &str, writer: TcpStream, stream: XmlStream<Io, Element>) -> Self
    where
        Io: AsyncBufRead + AsyncWrite + Unpin + Send + 'static,
    {
        let inbox = Arc::new(Inbox::default());
        let reader = tokio::spawn(read(stream, inbox.clone()));
        Self { jid: jid.to_owned(), outlet: Outlet::Stream(writer.into()), inbox, reader }
    }

    /// A session that others carry: what `reader` puts into `inbox` has come, what is sent goes to `outlet`.
    pub(crate) fn carried(
        jid: &str,
        outlet: mpsc::UnboundedSender<String>,
        inbox: Arc<Inbox>,
        reader: JoinHandle<()>,
    ) -> Self {
        Self { jid: jid.to_owned(), outlet: Outlet::Stanzas(outlet), inbox, reader }
    }

    /// Binds its resource.
    pub(crate) async fn bind(&self) -> Result<()> {
        let resource = self.jid.split_once('/').map_or("", |(_, resource)| resource);
        let bind = format!(
            "<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>{}</resource></bind>",
            escape(resource)
        );
        self.request("set", None, &bind).await.with_context(|| format!("binding {}", self.jid)).map(|_| ())
    }

    /// Makes an account by in-band registration (XEP-0077) on a stream of its own. An account that exists is no error.
    pub async fn register(server: SocketAddr, domain: &str, user: &str, password: &str) -> Result<()> {
        let (mut writer, stream) = open(server, domain).await?;
        let (_, mut stream): (_, XmlStream<_, Element>) = stream.recv_features().await?;
        let iq = format!(
            "<iq type='set' id='r'><query xmlns='jabber:iq:register'><username>{}</username><password>{}</password></query></iq>",
            escape(user),
            escape(password)
        );
        writer.write_all(iq.as_bytes()).await?;
        let answer = stream.next().await.context("the server closed the stream")??;
        let conflict = condition(&answer).is_some_and(|c| c == "conflict");
        ensure!(
            answer.attr("type") == Some("result") || conflict,
            "registering {user}: {}",
            String::from(&answer)
        );
        Ok(())
    }

    /// The full JID.
    #[must_use]
    pub fn jid(&self) -> &str {
        &self.jid
    }

    /// The JID without its resource.
    #[must_use]
    pub fn bare(&self) -> &str {
        self.jid.split('/').next().unwrap_or(&self.jid)
    }

    /// Writes `xml` as it is. Where a stream is not of bytes (websocket, BOSH) it must be one stanza.
    pub async fn raw(&self, xml: &str) -> Result<()> {
        match &self.outlet {
            Outlet::Stream(writer) => writer.lock().await.write_all(xml.as_bytes()).await.map_err(Into::into),
            Outlet::Stanzas(carrier) => carrier.send(xml.to_owned()).context("its connection has ended"),
        }
        .with_context(|| format!("{} cannot send", self.jid))
    }

    /// Becomes available, and waits until the server has told so to this very session.
    pub async fn available(&self) -> Result<()> {
        self.raw("<presence/>").await?;
        let me = self.jid.clone();
        self.wait("its own presence", move |e| {
            (e.name() == "presence" && e.attr("from") == Some(&me)).then_some(())
        })
        .await
    }

    /// Becomes unavailable, and waits until the server has taken notice.
    pub async fn unavailable(&self) -> Result<()> {
        self.raw("<presence type='unavailable'/>").await?;
        self.settle().await
    }

    /// Sends a message with this id and body; `kind` is the `type` attribute.
    pub async fn message(&self, to: &str, kind: &str, id: &str, body: &str) -> Result<()> {
        let (to, id, body) = (escape(to), escape(id), escape(body));
        self.raw(&format!("<message to='{to}' type='{kind}' id='{id}'><body>{body}</body></message>")).await
    }

    /// Enters `room` as `nick` without asking for its history, unlocks it where it is new, and waits for both.
    pub async fn join(&self, room: &str, nick: &str) -> Result<()> {
        let me = format!("{room}/{nick}");
        self.raw(&format!(
            "<presence to='{}'><x xmlns='http://jabber.org/protocol/muc'><history maxstanzas='0'/></x></presence>",
            escape(&me)
        ))
        .await?;
        let created = self
            .wait(&format!("its presence in {room}"), |e| {
                if e.name() != "presence" || e.attr("from") != Some(&me) {
                    return None;
                }
                if e.attr("type") == Some("error") {
                    return Some(Err(anyhow!("refused entry to {room}: {}", String::from(e))));
                }
                let x = e.get_child("x", "http://jabber.org/protocol/muc#user")?;
                let has = |code| x.children().any(|s| s.name() == "status" && s.attr("code") == Some(code));
                has("110").then(|| Ok(has("201")))
            })
            .await??;
        if created {
            let form = "<query xmlns='http://jabber.org/protocol/muc#owner'><x xmlns='jabber:x:data' type='submit'/></query>";
            self.request("set", Some(room), form).await?;
        }
        Ok(())
    }

    /// Sends an IQ and waits for its result; an error of the other side is an error here.
    pub async fn request(&self, kind: &str, to: Option<&str>, payload: &str) -> Result<Element> {
        let id = uuid::Uuid::now_v7().to_string();
        let to = to.map(|to| format!(" to='{}'", escape(to))).unwrap_or_default();
        self.raw(&format!("<iq type='{kind}' id='{id}'{to}>{payload}</iq>")).await?;
        let answer = self
            .wait("the answer to an IQ", |e| {
                (e.name() == "iq" && e.attr("id") == Some(&id) && e.attr("type") != Some("get"))
                    .then(|| e.clone())
            })
            .await?;
        ensure!(answer.attr("type") == Some("result"), "the IQ was refused: {}", String::from(&answer));
        Ok(answer)
    }

    /// Waits until the server has handled everything this session sent, and this client has read everything the server wrote to
    /// it before: streams keep their order.
    pub async fn settle(&self) -> Result<()> {
        self.request("get", None, "<ping xmlns='urn:xmpp:ping'/>").await.map(|_| ())
    }

    /// The same for a component, which has no account to ping and has to say who it is: it asks the server at `host`.
    pub async fn settle_at(&self, host: &str) -> Result<()> {
        let (id, me) = (uuid::Uuid::now_v7().to_string(), &self.jid);
        self.raw(&format!(
            "<iq type='get' id='{id}' from='{me}' to='{host}'><ping xmlns='urn:xmpp:ping'/></iq>"
        ))
        .await?;
        self.wait("the answer to a ping", |e| (e.name() == "iq" && e.attr("id") == Some(&id)).then_some(()))
            .await
    }

    /// Waits until some stanza, seen already or to come, makes `pick` say something. `what` is for the error.
    pub async fn wait<T>(&self, what: &str, pick: impl Fn(&Element) -> Option<T>) -> Result<T> {
        let mut changed = self.inbox.changed.subscribe();
        let mut looked_at = 0;
        let search = async {
            loop {
                let (count, ended) = *changed.borrow_and_update();
                if let Some(found) = self.inbox.seen()[looked_at..count].iter().find_map(&pick) {
                    return Ok(found);
                }
                looked_at = count;
                if ended {
                    bail!("{}: the stream ended before {what} came", self.jid);
                }
                changed.changed().await?;
            }
        };
        tokio::time::timeout(DEADLINE, search).await.map_err(|_| {
            let seen: Vec<_> = self.seen().iter().map(String::from).collect();
            anyhow!("{} waited {DEADLINE:?} for {what}; it was given: {seen:#?}", self.jid)
        })?
    }

    /// Waits for the message, or the error, with this id.
    pub async fn answer_to(&self, id: &str) -> Result<Received> {
        self.wait(&format!("the message {id}"), |e| {
            (e.name() == "message" && e.attr("id") == Some(id)).then(|| Received::of(e))
        })
        .await
    }

    /// Every stanza so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Element> {
        self.inbox.seen().clone()
    }

    /// Every message so far, errors among them.
    #[must_use]
    pub fn messages(&self) -> Vec<Received> {
        self.inbox.seen().iter().filter(|e| e.name() == "message").map(Received::of).collect()
    }

    /// Whether the server has ended the stream.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.inbox.changed.borrow().1
    }

    /// Waits until the server has ended the stream.
    pub async fn wait_end(&self) -> Result<()> {
        let mut changed = self.inbox.changed.subscribe();
        tokio::time::timeout(DEADLINE, changed.wait_for(|(_, ended)| *ended))
            .await
            .map_err(|_| anyhow!("{}: the stream did not end within {DEADLINE:?}", self.jid))??;
        Ok(())
    }

    /// Breaks the connection without a word, as a network does.
    pub async fn cut(self) -> Result<()> {
        if let Outlet::Stream(writer) = &self.outlet {
            writer.lock().await.shutdown().await?;
        }
        self.reader.abort();
        Ok(())
    }

    /// Ends the stream in an orderly way and waits for the server to do the same.
    pub async fn close(&self) -> Result<()> {
        self.raw("</stream:stream>").await?;
        self.wait_end().await
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Received {
    /// What of a message stanza the oracle compares.
    #[must_use]
    pub fn of(message: &Element) -> Self {
        let attr = |name| message.attr(name).unwrap_or_default().to_owned();
        Self {
            from: attr("from"),
            kind: message.attr("type").unwrap_or("normal").to_owned(),
            id: attr("id"),
            body: child(message, "body").map(Element::text),
            condition: condition(message),
            reason: child(message, "error").and_then(|e| e.get_child("text", STANZAS)).map(Element::text),
        }
    }

    /// Whether it says that something could not be delivered.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.kind == "error"
    }
}

/// `text` as it must stand in character data or an attribute.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '\'' => out.push_str("&apos;"),
            '"' => out.push_str("&quot;"),
            // A bare carriage return would arrive as a line feed (XML 1.0, 2.11).
            '\r' => out.push_str("&#13;"),
            c => out.push(c),
        }
    }
    out
}

fn condition(stanza: &Element) -> Option<String> {
    let error = child(stanza, "error")?;
    let is_condition = |e: &&Element| e.ns() == STANZAS && e.name() != "text";
    error.children().find(is_condition).map(|e| e.name().to_owned())
}

// A child in the stanza's own namespace, which for a component is not that of clients.
fn child<'a>(stanza: &'a Element, name: &str) -> Option<&'a Element> {
    stanza.get_child(name, stanza.ns().as_str())
}

type Io = BufReader<TcpStream>;

pub(crate) fn header(domain: &str) -> StreamHeader<'static> {
    StreamHeader { to: Some(domain.to_owned().into()), from: None, id: None }
}

/// The parts of a full JID.
pub(crate) fn parts(jid: &str) -> Result<(&str, &str, &str)> {
    let (user, rest) = jid.split_once('@').context("a JID needs a user")?;
    let (domain, resource) = rest.split_once('/').context("a JID needs a resource")?;
    Ok((user, domain, resource))
}

/// A stream past its login, with no resource yet.
pub(crate) async fn authenticate(
    server: SocketAddr,
    jid: &str,
    password: &str,
) -> Result<(TcpStream, XmlStream<Io, Element>)> {
    let (user, domain, _) = parts(jid)?;
    let (writer, stream) = open(server, domain).await?;
    let (features, stream): (_, XmppStream<_>) = stream.recv_features().await?;
    // PLAIN where it is offered: a SCRAM exchange costs a debug build a tenth of a second.
    let plain = features.sasl_mechanisms.iter().any(|m| m == "PLAIN");
    let mechanisms = if plain { BTreeSet::from(["PLAIN".to_owned()]) } else { features.sasl_mechanisms };
    let credentials = sasl::common::Credentials::default()
        .with_username(user)
        .with_password(password)
        .with_channel_binding(sasl::common::ChannelBinding::Unsupported);
    let stream =
        tokio_xmpp::client_login(stream, mechanisms, credentials).await?.send_header(header(domain)).await?;
    let (_, stream) = stream.recv_features().await?;
    Ok((writer, stream))
}

// The socket twice: tokio-xmpp's stream reads (and writes during login), the other handle writes afterwards.
async fn open(server: SocketAddr, domain: &str) -> Result<(TcpStream, PendingFeaturesRecv<Io>)> {
    let socket = TcpStream::connect(server).await.with_context(|| format!("no XMPP server at {server}"))?;
    socket.set_nodelay(true)?;
    let socket = socket.into_std()?;
    let writer = TcpStream::from_std(socket.try_clone()?)?;
    let io = BufReader::new(TcpStream::from_std(socket)?);
    let stream = initiate_stream(io, CLIENT, header(domain), Timeouts::default()).await?;
    Ok((writer, stream))
}

async fn read<Io: AsyncBufRead + AsyncWrite + Unpin>(mut stream: XmlStream<Io, Element>, inbox: Arc<Inbox>) {
    loop {
        match stream.next().await {
            Some(Ok(stanza)) => inbox.put(stanza),
            Some(Err(ReadError::SoftTimeout | ReadError::ParseError(_))) => {}
            Some(Err(ReadError::HardError(_) | ReadError::StreamFooterReceived)) | None => break,
        }
    }
    inbox.end();
}
