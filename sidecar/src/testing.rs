//! What several tests need: a plugin's end of the link, and a journal whose syncs the test decides.

pub use crate::fixture::{config, event};

use crate::config::{ConfigState, Loaded};
use crate::counts::Counters;
use crate::link::{self, Link};
use crate::recorder::{Append, Pending, Recorder};
use cartulary_archive::journal::{AppendError, Appended, Position};
use cartulary_archive::record::Draft;
use cartulary_compliance::config::SidecarConfig;
use cartulary_compliance::link::{
    ArmedHost, Event, Frame, Hello, Outcome, Settings, SinceLast, Verdict, Welcome,
};
use futures::FutureExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Long enough for a machine under load; nothing waits for it when all is well.
const DEADLINE: Duration = Duration::from_secs(60);

pub fn in_force(config: SidecarConfig) -> ConfigState {
    ConfigState { current: Some(Arc::new(Loaded { config, hash: String::new() })), problem: None }
}

pub fn hello() -> Hello {
    Hello {
        protocol_min: 1,
        protocol_max: 1,
        server: "Prosody".into(),
        instance: "first".into(),
        hosts: vec![ArmedHost { name: "here.example".into(), ..ArmedHost::default() }],
        ..Hello::default()
    }
}

/// Waits until `condition` holds.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting).await.unwrap_or_else(|_| panic!("it never came: {what}"));
}

/// A journal that keeps everything in memory and syncs when the test says so.
#[derive(Default)]
pub struct Gate {
    state: Mutex<GateState>,
}

#[derive(Default)]
struct GateState {
    drafts: Vec<(String, Draft)>,
    waiting: Vec<oneshot::Sender<Result<Appended, AppendError>>>,
    answer_at_once: Option<Result<(), AppendError>>,
}

impl Gate {
    /// Answers every append at once from here on.
    pub fn always(&self, answer: Result<(), AppendError>) {
        self.state.lock().expect("no panic").answer_at_once = Some(answer);
    }

    /// Ends the sync of everything that waits.
    pub fn sync(&self) {
        for waiting in self.state.lock().expect("no panic").waiting.drain(..) {
            _ = waiting.send(Ok(appended()));
        }
    }

    /// What was appended, in order.
    pub fn drafts(&self) -> Vec<(String, Draft)> {
        self.state.lock().expect("no panic").drafts.clone()
    }
}

fn appended() -> Appended {
    Appended { id: Uuid::nil(), sequence: 1, hash: [0; 32], position: Position::default() }
}

impl Append for Gate {
    fn append(&self, endpoint: &str, draft: Draft) -> Pending {
        let mut state = self.state.lock().expect("no panic");
        if let Some(Err(error)) = state.answer_at_once.clone() {
            return futures::future::ready(Err(error)).boxed();
        }
        state.drafts.push((endpoint.to_owned(), draft));
        if state.answer_at_once.is_some() {
            return futures::future::ready(Ok(appended())).boxed();
        }
        let (sender, receiver) = oneshot::channel();
        state.waiting.push(sender);
        async move { receiver.await.expect("the gate answers") }.boxed()
    }
}

/// A link on a socket of its own, without drains and admin port.
pub struct Served {
    pub link: Arc<Link>,
    pub recorder: Arc<Recorder>,
    pub config: watch::Sender<ConfigState>,
    pub stop: CancellationToken,
    pub task: tokio::task::JoinHandle<()>,
    dir: tempfile::TempDir,
}

impl Served {
    pub fn start(state: ConfigState, journal: Arc<dyn Append>) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let listener = link::bind(&dir.path().join("link.sock")).expect("a socket");
        let (config, receiver) = watch::channel(state);
        let recorder = Arc::new(Recorder::new("pod-0", receiver, Arc::new(Counters::default())));
        recorder.open_journal(journal);
        let link = Link::new(recorder.clone());
        let stop = CancellationToken::new();
        let task = tokio::spawn(link.clone().serve(listener, stop.clone()));
        Self { link, recorder, config, stop, task, dir }
    }

    pub async fn connect(&self) -> Plugin {
        let stream = UnixStream::connect(self.dir.path().join("link.sock")).await.expect("somebody listens");
        Plugin { stream, input: Vec::new() }
    }

    /// A plugin that was welcomed, and its settings.
    pub async fn greet(&self) -> (Plugin, Settings) {
        self.greet_as(hello()).await
    }

    pub async fn greet_as(&self, hello: Hello) -> (Plugin, Settings) {
        let mut plugin = self.connect().await;
        plugin.send(&[Frame::Hello(hello)]).await;
        let welcome = plugin.next().await;
        assert!(matches!(welcome, Frame::Welcome(Welcome { refused: None, .. })), "{welcome:?}");
        match plugin.next().await {
            Frame::Settings(settings) => (plugin, settings),
            other => panic!("{other:?}"),
        }
    }
}

/// The plugin's end of the link.
pub struct Plugin {
    stream: UnixStream,
    input: Vec<u8>,
}

impl Plugin {
    pub async fn send(&mut self, frames: &[Frame]) {
        let mut bytes = Vec::new();
        frames.iter().for_each(|frame| frame.encode(&mut bytes));
        self.send_bytes(&bytes).await;
    }

    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("the sidecar reads");
    }

    /// The next frame, or `None` when the sidecar closed the connection.
    pub async fn next_or_end(&mut self) -> Option<Frame> {
        let reading = async {
            loop {
                if let Some(raw) = Frame::cut(&self.input).expect("in range") {
                    let frame = Frame::decode_payload(raw).expect("readable").expect("known");
                    let taken = raw.taken;
                    self.input.drain(..taken);
                    return Some(frame);
                }
                // A closed connection may also show as a reset, where something was still unread.
                if self.stream.read_buf(&mut self.input).await.unwrap_or(0) == 0 {
                    return None;
                }
            }
        };
        tokio::time::timeout(DEADLINE, reading).await.expect("an answer")
    }

    pub async fn next(&mut self) -> Frame {
        self.next_or_end().await.expect("the connection is open")
    }

    pub async fn verdict(&mut self) -> (u64, Verdict) {
        match self.next().await {
            Frame::Verdict(id, verdict) => (id, verdict),
            other => panic!("{other:?}"),
        }
    }

    pub async fn ask(&mut self, id: u64, event: Event) -> Verdict {
        self.send(&[Frame::Event(id, event)]).await;
        let (answered, verdict) = self.verdict().await;
        assert_eq!(answered, id);
        verdict
    }

    /// Whether anything came that was not read yet, without waiting.
    pub fn is_silent(&mut self) -> bool {
        let nothing = self.stream.try_read_buf(&mut self.input).is_err();
        nothing && self.input.is_empty()
    }
}

pub fn since_last(delivered_unrecorded: u64, refused: u64, since_micros: i64) -> SinceLast {
    SinceLast { delivered_unrecorded, refused, since_micros, outcomes_lost: 0 }
}

pub fn outcome(event_id: [u8; 16], is_final: bool) -> Outcome {
    Outcome { event_id, at_micros: 1_700_000_000_000_001, deliveries: Vec::new(), is_final }
}
