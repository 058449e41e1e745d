//! Sessions that come by HTTP: websocket (RFC 7395) and BOSH (XEP-0124, XEP-0206).
//!
//! Both carry whole stanzas, so a session needs only somebody who takes stanzas to the server and brings others back.

use crate::client::{Client, DEADLINE, Inbox, parts};
use anyhow::{Context, Result, anyhow, bail, ensure};
use base64::Engine;
use futures::stream::FuturesOrdered;
use futures::{SinkExt, StreamExt};
use minidom::Element;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;

const CLIENT: &str = "jabber:client";
const SASL: &str = "urn:ietf:params:xml:ns:xmpp-sasl";
const BIND: &str = "http://jabber.org/protocol/httpbind";

impl Client {
    /// Logs in over a websocket; `server` is where HTTP is spoken.
    pub async fn websocket(server: SocketAddr, jid: &str, password: &str) -> Result<Self> {
        let (_, domain, _) = parts(jid)?;
        let mut request = format!("ws://{domain}/xmpp-websocket").into_client_request()?;
        request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("xmpp"));
        let (mut socket, _) =
            tokio_tungstenite::client_async(request, TcpStream::connect(server).await?).await?;
        let (outgoing, mut to_send) = unbounded_channel::<String>();
        let (arrived, incoming) = unbounded_channel();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    stanza = to_send.recv() => {
                        let Some(stanza) = stanza else { return };
                        if socket.send(Message::text(stanza)).await.is_err() { return }
                    }
                    frame = socket.next() => match frame {
                        Some(Ok(Message::Text(text))) => {
                            let Ok(element) = parse(text.as_bytes()) else { return };
                            if arrived.send(element).is_err() { return }
                        }
                        Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                        Some(Ok(_)) => {}
                    }
                }
            }
        });
        let open = format!("<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='{domain}' version='1.0'/>");
        log_in(jid, password, outgoing, incoming, &open).await
    }

    /// Logs in over BOSH; `server` is where HTTP is spoken.
    pub async fn bosh(server: SocketAddr, jid: &str, password: &str) -> Result<Self> {
        let (_, domain, _) = parts(jid)?;
        let (outgoing, to_send) = unbounded_channel();
        let (arrived, incoming) = unbounded_channel();
        let bosh = Bosh::open(server, domain, &arrived).await?;
        tokio::spawn(bosh.run(to_send, arrived));
        log_in(jid, password, outgoing, incoming, RESTART).await
    }
}

// Told to BOSH in place of a stanza: begin the stream anew.
const RESTART: &str = "";

// From features to a bound session. A websocket's stream begins with `open` each time; that of BOSH has begun already.
async fn log_in(
    jid: &str,
    password: &str,
    outgoing: UnboundedSender<String>,
    mut incoming: UnboundedReceiver<Element>,
    open: &str,
) -> Result<Client> {
    let (user, ..) = parts(jid)?;
    let login = async {
        if open != RESTART {
            outgoing.send(open.to_owned())?;
        }
        until(&mut incoming, "features").await?;
        let plain = base64::engine::general_purpose::STANDARD.encode(format!("\0{user}\0{password}"));
        outgoing.send(format!("<auth xmlns='{SASL}' mechanism='PLAIN'>{plain}</auth>"))?;
        until(&mut incoming, "success").await?;
        outgoing.send(open.to_owned())?;
        until(&mut incoming, "features").await
    };
    tokio::time::timeout(DEADLINE, login).await.map_err(|_| anyhow!("logging in {jid} took too long"))??;
    let (stanzas, mut to_send) = unbounded_channel::<String>();
    let inbox = Arc::new(Inbox::default());
    let into = inbox.clone();
    let carrier = tokio::spawn(async move {
        loop {
            tokio::select! {
                stanza = to_send.recv() => match stanza {
                    Some(stanza) if outgoing.send(with_namespace(&stanza)).is_ok() => {}
                    _ => break,
                },
                element = incoming.recv() => match element {
                    Some(element) => into.put(element),
                    None => break,
                },
            }
        }
        into.end();
    });
    let client = Client::carried(jid, stanzas, inbox, carrier);
    client.bind().await?;
    Ok(client)
}

async fn until(incoming: &mut UnboundedReceiver<Element>, name: &str) -> Result<()> {
    loop {
        let element =
            incoming.recv().await.with_context(|| format!("the connection ended before {name} came"))?;
        ensure!(!matches!(element.name(), "failure" | "error"), "{}", String::from(&element));
        if element.name() == name {
            return Ok(());
        }
    }
}

// A stanza that stands alone says what it is.
fn with_namespace(stanza: &str) -> String {
    let name = stanza.find([' ', '>', '/']).unwrap_or(stanza.len());
    let tag = stanza.find('>').unwrap_or(stanza.len());
    if stanza[..tag].contains(" xmlns=") {
        return stanza.to_owned();
    }
    format!("{} xmlns='{CLIENT}'{}", &stanza[..name], &stanza[name..])
}

fn parse(xml: &[u8]) -> Result<Element> {
    Ok(Element::from_reader_with_prefixes(xml, CLIENT.to_owned())?)
}

// One BOSH session. At most two requests are under way: one the server keeps for what may come, and one that brings something.
struct Bosh {
    http: reqwest::Client,
    url: String,
    domain: String,
    sid: String,
    rid: u64,
}

impl Bosh {
    async fn open(server: SocketAddr, domain: &str, arrived: &UnboundedSender<Element>) -> Result<Self> {
        let http = reqwest::Client::builder().no_proxy().build()?;
        let (url, rid) = (format!("http://{server}/http-bind"), 1_000_000);
        let body = format!(
            "<body xmlns='{BIND}' rid='{rid}' to='{domain}' wait='30' hold='1' ver='1.6' xmpp:version='1.0' xmlns:xmpp='urn:xmpp:xbosh'/>"
        );
        let mut bosh = Self { http, url, domain: domain.to_owned(), sid: String::new(), rid };
        let answer = bosh.ask(body).await?;
        answer.attr("sid").context("no BOSH session")?.clone_into(&mut bosh.sid);
        for child in answer.children() {
            arrived.send(child.clone())?;
        }
        Ok(bosh)
    }

    async fn run(
        mut self,
        mut to_send: UnboundedReceiver<String>,
        arrived: UnboundedSender<Element>,
    ) -> Result<()> {
        let mut under_way = FuturesOrdered::new();
        loop {
            if under_way.is_empty() {
                let request = self.request(None);
                under_way.push_back(self.ask(request));
            }
            tokio::select! {
                stanza = to_send.recv(), if under_way.len() < 2 => {
                    let Some(stanza) = stanza else { return Ok(()) };
                    let request = self.request(Some(&stanza));
                    under_way.push_back(self.ask(request));
                }
                Some(answer) = under_way.next() => {
                    let answer: Element = answer?;
                    for child in answer.children() {
                        arrived.send(child.clone())?;
                    }
                    if answer.attr("type") == Some("terminate") {
                        bail!("the server ended the session: {}", String::from(&answer));
                    }
                }
            }
        }
    }

    fn request(&mut self, stanza: Option<&str>) -> String {
        self.rid += 1;
        let (rid, sid) = (self.rid, &self.sid);
        match stanza {
            Some(RESTART) => format!(
                "<body xmlns='{BIND}' rid='{rid}' sid='{sid}' to='{}' xmpp:restart='true' xmlns:xmpp='urn:xmpp:xbosh'/>",
                self.domain
            ),
            stanza => {
                format!("<body xmlns='{BIND}' rid='{rid}' sid='{sid}'>{}</body>", stanza.unwrap_or_default())
            }
        }
    }

    // The future owns what it needs: several are under way.
    fn ask(&self, body: String) -> impl Future<Output = Result<Element>> + use<> {
        let request = self
            .http
            .post(&self.url)
            .header("Host", &self.domain)
            .header("Content-Type", "text/xml; charset=utf-8")
            .body(body);
        async move {
            let answer = request.send().await?.error_for_status()?.bytes().await?;
            parse(&answer)
        }
    }
}
