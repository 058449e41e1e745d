//! One connection to the server that is tried: what was sent, and what came for it.

use super::Trial;
use cartulary_compliance::protocol::{Answer, AnswerError, Question};
use cartulary_sidecar::servers::connect::{Broken, Connection, stream_error};
use cartulary_sidecar::servers::stream::Item;
use minidom::Element;
use std::collections::BTreeMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

/// The server's name, as Kubernetes would have it.
pub const NAME: &str = "conformance";

/// Why there is no answer.
#[derive(Debug, Clone)]
pub enum Missing {
    /// Nothing came in time.
    Late,
    /// The stream has ended in order.
    Ended,
    /// The connection is of no more use. Why.
    Broken(String),
}

impl Missing {
    pub fn in_words(&self) -> String {
        match self {
            Self::Late => "it did not answer in time".into(),
            Self::Ended => "it closed its stream".into(),
            Self::Broken(why) => why.clone(),
        }
    }

    /// Whether the connection may be used further.
    pub fn is_late(&self) -> bool {
        matches!(self, Self::Late)
    }
}

/// A connection whose handshake has succeeded.
pub struct Peer<'a> {
    trial: &'a Trial,
    connection: Connection,
    /// Answers by the id of what was asked, those that nobody has looked at yet.
    answers: BTreeMap<String, Vec<Element>>,
    asked: u32,
    /// What nobody asked for, in words.
    pub strays: Vec<String>,
}

impl<'a> Peer<'a> {
    pub async fn connect(trial: &'a Trial) -> Result<Self, Broken> {
        let mut connection = Connection::open(&trial.server).await?;
        connection.handshake(&trial.server, &trial.component).await?;
        Ok(Self { trial, connection, answers: BTreeMap::new(), asked: 0, strays: Vec::new() })
    }

    /// An id not used on this connection.
    pub fn id(&mut self) -> String {
        self.asked += 1;
        format!("q{}", self.asked)
    }

    pub fn deadline(&self) -> Instant {
        Instant::now() + self.trial.timeout
    }

    /// A question's XML, with this id.
    pub fn written(&self, question: &Question, id: &str) -> Result<Element, Missing> {
        let milliseconds = u64::try_from(self.trial.timeout.as_millis()).unwrap_or(u64::MAX);
        question
            .to_element(id, &self.trial.component, NAME, self.trial.server.stream, milliseconds)
            .map_err(|error| Missing::Broken(error.to_string()))
    }

    /// Sends a question and reads its answer.
    pub async fn ask(&mut self, question: &Question) -> Result<Result<Answer, AnswerError>, Missing> {
        let id = self.id();
        let element = self.written(question, &id)?;
        self.send(&element).await?;
        self.answer(&id, question).await
    }

    /// Reads the answer to what was sent with this id.
    pub async fn answer(
        &mut self,
        id: &str,
        question: &Question,
    ) -> Result<Result<Answer, AnswerError>, Missing> {
        let iq = self.reply(id).await?;
        Ok(self.judge(&iq, question))
    }

    /// The answer, as a sidecar would take it.
    pub fn judge(&self, iq: &Element, question: &Question) -> Result<Answer, AnswerError> {
        let fits = |name: &str, expected: &str| iq.attr(name).is_none_or(|value| value == expected);
        if !fits("from", NAME) || !fits("to", &self.trial.component) {
            return Err(AnswerError::Malformed(
                "from or to of the answer are not those of the question, reversed",
            ));
        }
        Answer::read(iq, question)
    }

    /// The iq that answers this id.
    pub async fn reply(&mut self, id: &str) -> Result<Element, Missing> {
        let deadline = self.deadline();
        loop {
            // What comes later with this id is a second answer.
            if let Some(answer) = self.answers.get_mut(id).and_then(Vec::pop) {
                return Ok(answer);
            }
            self.hear(deadline).await?;
        }
    }

    /// Pings. Everything that the server had to say before has come when the answer is here.
    pub async fn ping(&mut self) -> Result<(), Missing> {
        let id = self.id();
        let mut iq: Element =
            "<iq xmlns='x' type='get'><ping xmlns='urn:xmpp:ping'/></iq>".parse().map_err(broken)?;
        for (name, value) in [("id", id.as_str()), ("from", &self.trial.component), ("to", NAME)] {
            set(&mut iq, name, value);
        }
        self.send_as(iq).await?;
        self.reply(&id).await.map(|_| ())
    }

    /// Sends an iq that was written without the stream's namespace.
    pub async fn send_as(&mut self, iq: Element) -> Result<(), Missing> {
        let mut sent = Element::bare(iq.name(), self.trial.server.stream.uri());
        *sent.attrs_mut() = iq.attrs().clone();
        for child in iq.children() {
            sent.append_child(child.clone());
        }
        self.send(&sent).await
    }

    pub async fn send(&mut self, element: &Element) -> Result<(), Missing> {
        let mut bytes = Vec::new();
        element.write_to(&mut bytes).map_err(broken)?;
        self.send_bytes(&bytes).await
    }

    /// Sends while it hears: a server that answers much while much is sent must not stop both.
    pub async fn send_bytes(&mut self, mut bytes: &[u8]) -> Result<(), Missing> {
        let deadline = self.deadline();
        while !bytes.is_empty() {
            let Connection { input, output, unread, .. } = &mut self.connection;
            let step = async {
                tokio::select! {
                    written = output.write(bytes) => written.map(|count| (count, None)),
                    read = input.read_buf(unread) => read.map(|count| (0, Some(count))),
                }
            };
            match timeout_at(deadline, step).await {
                Err(_) => return Err(Missing::Broken("it reads nothing any more".into())),
                Ok(Err(error)) => return Err(Missing::Broken(self.connection.broken(&error).message)),
                Ok(Ok((_, Some(0)))) => return Err(gone()),
                Ok(Ok((count, read))) => {
                    bytes = &bytes[count..];
                    if read.is_some() {
                        self.sort()?;
                    }
                }
            }
        }
        let flushed = timeout_at(deadline, self.connection.output.flush()).await;
        match flushed {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Missing::Broken(self.connection.broken(&error).message)),
            Err(_) => Err(Missing::Broken("it reads nothing any more".into())),
        }
    }

    /// Answers to these ids, at most one for each; what is missing at the deadline is left out.
    pub async fn replies(&mut self, ids: &[String]) -> Result<BTreeMap<String, Element>, Missing> {
        let deadline = self.deadline();
        let mut found = BTreeMap::new();
        loop {
            for id in ids {
                if !found.contains_key(id)
                    && let Some(answer) = self.answers.get_mut(id).and_then(Vec::pop)
                {
                    found.insert(id.clone(), answer);
                }
            }
            if found.len() == ids.len() {
                return Ok(found);
            }
            match self.hear(deadline).await {
                Err(Missing::Late) => return Ok(found),
                heard => heard?,
            }
        }
    }

    /// Closes our stream, and waits for the server's end.
    pub async fn close(&mut self) -> Result<(), Missing> {
        self.send_bytes(b"</stream:stream>").await?;
        let deadline = self.deadline();
        loop {
            match self.hear(deadline).await {
                Ok(()) => {}
                Err(Missing::Ended) => return Ok(()),
                Err(missing) => return Err(missing),
            }
        }
    }

    /// Answers that nobody has looked at: they came twice, or to what was told.
    pub fn left_over(&self) -> impl Iterator<Item = &str> {
        self.answers.iter().filter(|(_, answers)| !answers.is_empty()).map(|(id, _)| id.as_str())
    }

    /// Reads once, and takes what is whole.
    async fn hear(&mut self, deadline: Instant) -> Result<(), Missing> {
        let Connection { input, unread, .. } = &mut self.connection;
        match timeout_at(deadline, input.read_buf(unread)).await {
            Err(_) => Err(Missing::Late),
            Ok(Err(error)) => Err(Missing::Broken(self.connection.broken(&error).message)),
            Ok(Ok(0)) => Err(gone()),
            Ok(Ok(_)) => self.sort(),
        }
    }

    fn sort(&mut self) -> Result<(), Missing> {
        while let Some(item) = self.connection.parse().map_err(|broken| Missing::Broken(broken.message))? {
            let stanza = match item {
                Item::End => return Err(Missing::Ended),
                Item::Header(_) => continue,
                Item::Stanza(stanza) => stanza,
            };
            if let Some(broken) = stream_error(&stanza) {
                return Err(Missing::Broken(broken.message));
            }
            let is_answer = stanza.name() == "iq" && matches!(stanza.attr("type"), Some("result" | "error"));
            match stanza.attr("id").filter(|id| is_answer && self.is_asked(id)) {
                Some(id) => self.answers.entry(id.to_owned()).or_default().push(stanza),
                None if is_answer => self.strays.push("an answer to what was never asked".into()),
                // Its own pings and the like: a sidecar passes over them.
                None => {}
            }
        }
        Ok(())
    }

    fn is_asked(&self, id: &str) -> bool {
        id.strip_prefix('q')
            .and_then(|number| number.parse().ok())
            .is_some_and(|n: u32| (1..=self.asked).contains(&n))
    }
}

/// An attribute without a namespace.
pub fn set(element: &mut Element, name: &str, value: &str) {
    if let Ok(name) = minidom::rxml::NcName::try_from(name) {
        element.attrs_mut().insert(minidom::rxml::Namespace::NONE, name, value.to_owned());
    }
}

fn gone() -> Missing {
    Missing::Broken("it closed the connection without closing its stream".into())
}

fn broken(error: impl std::fmt::Display) -> Missing {
    Missing::Broken(error.to_string())
}
