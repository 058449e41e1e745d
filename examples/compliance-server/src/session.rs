//! One connection: XEP-0114's handshake on the accepting side, then questions in and answers out.
//!
//! Three parties: this task reads and starts decisions, each decision is a task, one task writes. What the peer does not read stops
//! the decisions' answers, these hold their places, and without places nothing more is read.

use crate::answer::{Answer, ERROR_OF_IQ, set};
use crate::event::Event;
use crate::server::{Policy, Progress, Server};
use crate::stream::{NAMESPACES, Part, ReadError, Reader, STREAMS};
use crate::{NAMESPACE, STANZA_ERRORS};
use futures::FutureExt;
use minidom::Element;
use sha1::{Digest, Sha1};
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufWriter, ReadHalf, WriteHalf};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Answers that wait to be written.
const WAITING: usize = 256;
/// A longer stanza would end the connection, so whoever writes a long message could do that.
const MAX_ANSWER: usize = 1 << 20;
/// How long the peer has to close its side when we closed ours.
const FAREWELL: Duration = Duration::from_secs(5);
const PING: &str = "urn:xmpp:ping";
const STREAM_ERRORS: &str = "urn:ietf:params:xml:ns:xmpp-streams";

/// Serves a connection until it ends.
pub async fn serve<S, P>(server: &Server, io: S, peer: SocketAddr, policy: Arc<P>, ending: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
    P: Policy,
{
    let (input, output) = tokio::io::split(io);
    let (mut reader, mut output) = (Reader::new(input, server.limits.stanza), output);
    let handshake =
        tokio::time::timeout(server.limits.handshake, shake_hands(server, &mut reader, &mut output));
    let shaken = tokio::select! {
        shaken = handshake => shaken.unwrap_or_else(|_| Err("it did not show a password in time".into())),
        () = ending.cancelled() => Err("this server ends".into()),
    };
    let (namespace, component) = match shaken {
        Ok(names) => names,
        Err(why) => {
            server.tell(Progress::Refused { peer, why });
            tokio::select! {
                () = farewell(reader, output) => {}
                () = ending.cancelled() => {}
            }
            return;
        }
    };
    server.tell(Progress::Active { peer, component: component.clone() });
    let (answers, waiting) = mpsc::channel(WAITING);
    let session = Session {
        server,
        policy,
        namespace,
        component: component.clone(),
        answers,
        places: Arc::new(Semaphore::new(server.limits.open)),
        decisions: TaskTracker::new(),
    };
    let writer = tokio::spawn(write(output, waiting));
    let why = session.run(&mut reader, writer, ending).await;
    server.tell(Progress::Ended { peer, component, why });
}

/// The namespace of the stream and the component's name, or why there is none; the peer was told.
async fn shake_hands<S: AsyncRead + AsyncWrite>(
    server: &Server,
    reader: &mut Reader<ReadHalf<S>>,
    output: &mut WriteHalf<S>,
) -> Result<(&'static str, String), String> {
    let (to, namespace) = match reader.next().await {
        Ok(Part::Header { to, namespace }) => (to, namespace),
        Ok(_) => return Err("it opened no stream".into()),
        Err(error) => {
            let Some(condition) = error.condition() else { return Err(error.to_string()) };
            let header = header(NAMESPACES[0], "", "0");
            return refuse(output, &header, condition, error.to_string()).await;
        }
    };
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|error| format!("there are no random numbers: {error}"))?;
    let id = hex::encode(id);
    let Some(namespace) = NAMESPACES.into_iter().find(|known| *known == namespace) else {
        let header = header(NAMESPACES[0], &to, &id);
        return refuse(output, &header, "invalid-namespace", "its stream is of another namespace".into())
            .await;
    };
    let header = header(namespace, &to, &id);
    if !server.components.iter().any(|known| known == "*" || *known == to) {
        let why = format!("the component {to:?} is not known here");
        return refuse(output, &header, "host-unknown", why).await;
    }
    send(output, &header).await?;
    let shown = match reader.next().await {
        Ok(Part::Stanza(element)) if element.is("handshake", namespace) => element.text(),
        Ok(Part::Stanza(_)) => {
            return refuse(output, "", "not-authorized", format!("{to} began without a handshake")).await;
        }
        Ok(_) => return Err(format!("{to} ended before it showed a password")),
        Err(error) => {
            return refuse(output, "", error.condition().unwrap_or("reset"), error.to_string()).await;
        }
    };
    let expected = hex::encode(Sha1::digest(format!("{id}{}", server.password)));
    if !same(shown.trim().to_ascii_lowercase().as_bytes(), expected.as_bytes()) {
        return refuse(output, "", "not-authorized", format!("{to} shows a wrong password")).await;
    }
    send(output, "<handshake/>").await?;
    Ok((namespace, to))
}

/// Compares in a time that does not tell how much is right.
fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

fn header(namespace: &str, from: &str, id: &str) -> String {
    let from = from.replace('&', "&amp;").replace('<', "&lt;").replace('\'', "&apos;");
    format!(
        "<?xml version='1.0'?><stream:stream xmlns='{namespace}' xmlns:stream='{STREAMS}' from='{from}' id='{id}'>"
    )
}

fn stream_error(condition: &str) -> String {
    format!("<stream:error><{condition} xmlns='{STREAM_ERRORS}'/></stream:error></stream:stream>")
}

async fn refuse<T>(
    output: &mut (impl AsyncWrite + Unpin),
    before: &str,
    condition: &str,
    why: String,
) -> Result<T, String> {
    send(output, &format!("{before}{}", stream_error(condition))).await?;
    Err(why)
}

async fn send(output: &mut (impl AsyncWrite + Unpin), text: &str) -> Result<(), String> {
    let sent = async {
        output.write_all(text.as_bytes()).await?;
        output.flush().await
    };
    sent.await.map_err(|error: std::io::Error| format!("the connection broke: {error}"))
}

/// Ends our side and reads what still comes, for a short while: a socket that is closed with something unread takes back what was sent.
async fn farewell<S: AsyncRead + AsyncWrite>(mut reader: Reader<ReadHalf<S>>, mut output: WriteHalf<S>) {
    let _ = tokio::time::timeout(FAREWELL, async {
        let _ = output.shutdown().await;
        reader.drain().await;
    })
    .await;
}

struct Session<'a, P> {
    server: &'a Server,
    policy: Arc<P>,
    namespace: &'static str,
    component: String,
    answers: mpsc::Sender<Vec<u8>>,
    places: Arc<Semaphore>,
    decisions: TaskTracker,
}

impl<P: Policy> Session<'_, P> {
    /// Until either side ends. Returns why, `None` for an end in order.
    async fn run<S: AsyncRead + AsyncWrite + Send + 'static>(
        self,
        reader: &mut Reader<ReadHalf<S>>,
        mut writer: JoinHandle<std::io::Result<WriteHalf<S>>>,
        ending: CancellationToken,
    ) -> Option<String> {
        let idle = self.server.limits.idle;
        let (mut error, mut peer_ended) = (None, false);
        let why = loop {
            let part = tokio::select! {
                part = tokio::time::timeout(idle, reader.next()) => part,
                () = ending.cancelled() => break None,
                // It ends by itself only where the connection broke.
                _ = &mut writer => return Some("the connection broke while answering".into()),
            };
            match part {
                Err(_) => break Some(format!("nothing was heard for {} s", idle.as_secs())),
                Ok(Ok(Part::Stanza(stanza))) => {
                    if !self.take(&stanza, &ending).await {
                        break None;
                    }
                }
                Ok(Ok(Part::End)) => {
                    peer_ended = true;
                    break None;
                }
                Ok(Ok(Part::Eof)) => return Some("the connection ended without the stream's end".into()),
                Ok(Ok(Part::Header { .. })) => {}
                Ok(Err(ReadError::Io(broken))) => return Some(format!("the connection broke: {broken}")),
                Ok(Err(wrong)) => {
                    error = wrong.condition();
                    break Some(wrong.to_string());
                }
            }
        };
        // What is open is answered before the end is said.
        self.decisions.close();
        let answered = async {
            self.decisions.wait().await;
            drop(self.answers);
            (&mut writer).await
        };
        let Ok(Ok(Ok(mut output))) = tokio::time::timeout(self.server.limits.grace, answered).await else {
            writer.abort();
            return why.or_else(|| Some("not everything was answered before the end".into()));
        };
        let end = error.map_or_else(|| "</stream:stream>".to_owned(), stream_error);
        let _ = tokio::time::timeout(FAREWELL, async {
            let sent = send(&mut output, &end).await;
            let _ = output.shutdown().await;
            // A socket that is closed with something unread takes back what was sent.
            match error {
                None if sent.is_ok() && !peer_ended => reader.until_end().await,
                Some(_) => reader.drain().await,
                None => {}
            }
        })
        .await;
        why
    }

    /// Takes a stanza; false when this server ends meanwhile.
    async fn take(&self, stanza: &Element, ending: &CancellationToken) -> bool {
        let asked = stanza.is("iq", self.namespace) && matches!(stanza.attr("type"), Some("get" | "set"));
        let told = stanza.is("message", self.namespace);
        if !asked && !told {
            return true;
        }
        let place = tokio::select! {
            place = Arc::clone(&self.places).acquire_owned() => place,
            () = ending.cancelled() => return false,
        };
        let reply = asked.then(|| Reply::to(stanza, self.namespace));
        let read =
            stanza.get_child("event", NAMESPACE).map(|event| Event::read(event, asked, &self.component));
        let event = match (read, reply.as_ref()) {
            (Some(Ok(event)), _) => event,
            (_, None) => return true,
            (read, Some(reply)) => {
                let payload = stanza.children().next();
                let answer = if payload.is_some_and(|payload| payload.is("ping", PING)) {
                    reply.with("result", None)
                } else {
                    let unknown = payload.is_some_and(|payload| payload.name() == "event");
                    reply.with("error", Some(plain_error(read.is_some(), unknown)))
                };
                self.put(answer).await;
                return true;
            }
        };
        let time = event.timeout.filter(|_| event.awaited);
        // Called here and not in the task: policies see events in the order in which they came.
        let policy = Arc::clone(&self.policy);
        let called = std::panic::catch_unwind(AssertUnwindSafe(|| policy.decide(event)));
        let answers = self.answers.clone();
        let faults = self.server.clone();
        let component = self.component.clone();
        self.decisions.spawn(async move {
            let _place = place;
            let decided = async {
                match called {
                    Ok(future) => AssertUnwindSafe(future).catch_unwind().await,
                    Err(panic) => Err(panic),
                }
            };
            let decided = match time {
                Some(time) => match tokio::time::timeout(time, decided).await {
                    Ok(decided) => decided,
                    // Nobody waits for it any more.
                    Err(_) => return,
                },
                None => decided.await,
            };
            let fault = |what: &str| {
                faults.tell(Progress::Fault { component: component.clone(), what: what.to_owned() });
                Answer::refuse("internal-server-error", "")
            };
            let answer = decided.unwrap_or_else(|_| fault("the policy panicked"));
            let Some(reply) = reply else { return };
            let bytes = match reply.answer(&answer) {
                Some(bytes) if bytes.len() <= MAX_ANSWER => Some(bytes),
                Some(_) => reply.answer(&fault("an answer is longer than the protocol allows")),
                None => reply.answer(&fault("the policy's answer cannot be written as XML")),
            };
            if let Some(bytes) = bytes {
                let _ = answers.send(bytes).await;
            }
        });
        true
    }

    async fn put(&self, answer: Option<Vec<u8>>) {
        if let Some(bytes) = answer {
            // Where it fails, the writer has ended and the loop notices.
            let _ = self.answers.send(bytes).await;
        }
    }
}

/// Where an answer goes.
struct Reply {
    namespace: &'static str,
    id: String,
    to: Option<String>,
    from: Option<String>,
}

impl Reply {
    fn to(iq: &Element, namespace: &'static str) -> Self {
        let text = |name: &str| iq.attr(name).map(str::to_owned);
        Self { namespace, id: text("id").unwrap_or_default(), to: text("from"), from: text("to") }
    }

    fn answer(&self, answer: &Answer) -> Option<Vec<u8>> {
        let (kind, payload) = answer.payload().ok()?;
        self.with(kind, Some(payload))
    }

    fn with(&self, kind: &str, payload: Option<Element>) -> Option<Vec<u8>> {
        let mut iq = Element::bare("iq", self.namespace);
        for (name, value) in [
            ("type", Some(kind)),
            ("id", Some(&self.id)),
            ("to", self.to.as_deref()),
            ("from", self.from.as_deref()),
        ] {
            if let Some(value) = value {
                set(&mut iq, name, value).ok()?;
            }
        }
        if let Some(payload) = payload {
            iq.append_child(in_stream(payload, self.namespace));
        }
        let mut bytes = Vec::new();
        iq.write_to(&mut bytes).ok()?;
        Some(bytes)
    }
}

/// An error that is written without a namespace gets the stream's.
fn in_stream(mut payload: Element, namespace: &str) -> Element {
    if payload.ns() != ERROR_OF_IQ {
        return payload;
    }
    let mut error = Element::bare(payload.name(), namespace);
    std::mem::swap(error.attrs_mut(), payload.attrs_mut());
    for node in payload.take_nodes() {
        error.append_node(node);
    }
    error
}

/// What is said of an iq that is no question: a broken one, one of another version, or anything else.
fn plain_error(is_ours: bool, is_event: bool) -> Element {
    let (kind, condition) = match (is_ours, is_event) {
        (true, _) => ("modify", "bad-request"),
        (false, true) => ("cancel", "feature-not-implemented"),
        (false, false) => ("cancel", "service-unavailable"),
    };
    let mut error = Element::bare("error", ERROR_OF_IQ);
    let _ = set(&mut error, "type", kind);
    error.append_child(Element::bare(condition, STANZA_ERRORS));
    error
}

/// Writes answers until there are none to come; gives the connection back for the farewell.
async fn write<S: AsyncWrite>(
    output: WriteHalf<S>,
    mut answers: mpsc::Receiver<Vec<u8>>,
) -> std::io::Result<WriteHalf<S>> {
    let mut output = BufWriter::new(output);
    while let Some(answer) = answers.recv().await {
        output.write_all(&answer).await?;
        while let Ok(answer) = answers.try_recv() {
            output.write_all(&answer).await?;
        }
        output.flush().await?;
    }
    Ok(output.into_inner())
}
