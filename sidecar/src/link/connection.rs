//! One connection: frames in, verdicts out.
//!
//! Everything happens in one task, so that frames are taken strictly in the order in which they arrive, and all answers that
//! are ready in one turn leave in one write. Bounds: nothing more is read while too many events wait for their records, while too
//! much of their text is in memory, or while the plugin does not take its answers. What waits for compliance servers has bounds of its
//! own and does not stop reading.

use super::Link;
use crate::counts::Refused;
use crate::recorder::Pending;
use crate::{outcomes, path};
use cartulary_compliance::decision;
use cartulary_compliance::link::{
    Action, Event, Frame, Hello, Kind, MAX_FRAME, PROTOCOL, RawFrame, Unanswered, Verdict, Welcome,
};
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio_util::sync::CancellationToken;

/// Bytes asked for at once.
const READ: usize = 64 << 10;
/// Bytes of stanzas whose records wait, above which nothing more is read.
const MAX_WAITING_BYTES: usize = 64 << 20;
/// Bytes of answers the plugin has not taken, above which nothing more is read.
const MAX_UNSENT: usize = 4 << 20;
/// Records waited for at once, whatever the configuration says.
const MAX_WAITING: usize = 100_000;
/// How long a connection may stay without a hello.
const HELLO_PATIENCE: Duration = Duration::from_secs(10);
/// When nothing came for so long, an ending connection's socket is empty.
const QUIET: Duration = Duration::from_millis(50);
/// How long an ending connection may take to answer what it has taken in.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// What a record that was waited for gives.
enum Done {
    /// An answer, and the bytes of its stanza.
    Verdict(u64, Verdict, usize),
    /// Nothing that anybody waits for; the bytes of its stanza.
    Silent(usize),
}

pub(super) struct Connection<'a> {
    link: &'a Link,
    id: u64,
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    stop: CancellationToken,
    ended: CancellationToken,
    /// The process of the server, as the last hello named it.
    instance: Arc<str>,
    input: Vec<u8>,
    output: Vec<u8>,
    waiting: FuturesUnordered<BoxFuture<'a, Done>>,
    waiting_bytes: usize,
    greeted: bool,
    /// Settings are in the output.
    settles: bool,
}

impl<'a> Connection<'a> {
    /// `ended` is cancelled by whoever runs it, when [`Self::run`] has returned.
    pub(super) fn new(
        link: &'a Link,
        id: u64,
        stream: UnixStream,
        stop: CancellationToken,
        ended: CancellationToken,
    ) -> Self {
        let (reader, writer) = stream.into_split();
        Self {
            link,
            id,
            reader,
            writer,
            stop,
            ended,
            instance: Arc::from(""),
            input: Vec::new(),
            output: Vec::new(),
            waiting: FuturesUnordered::new(),
            waiting_bytes: 0,
            greeted: false,
            settles: false,
        }
    }

    /// Serves the connection to its end and says why it ended.
    pub(super) async fn run(mut self) -> String {
        let reason = self.serve().await;
        // Records that were taken in are waited for even if nobody reads the answers: they are counted, and their order stands.
        _ = tokio::time::timeout(END_PATIENCE, self.settle()).await;
        reason
    }

    async fn serve(&mut self) -> String {
        let mut config = self.link.recorder.config.clone();
        config.mark_unchanged();
        let hello_deadline = tokio::time::sleep(HELLO_PATIENCE);
        tokio::pin!(hello_deadline);
        let stop = self.stop.clone();
        loop {
            if let Err(reason) = self.take_frames().await {
                return reason;
            }
            let may_read = self.may_read();
            if may_read {
                self.input.reserve(READ);
            }
            tokio::select! {
                read = self.reader.read_buf(&mut self.input), if may_read => match read {
                    Ok(0) if self.input.is_empty() => return "the plugin closed it".into(),
                    Ok(0) => return "the plugin closed it in the middle of a frame".into(),
                    Ok(_) => {}
                    Err(error) => return error.to_string(),
                },
                Some(done) = self.waiting.next() => self.done(done),
                written = self.writer.write(&self.output), if !self.output.is_empty() => match written {
                    Ok(written) => self.sent(written),
                    Err(error) => return error.to_string(),
                },
                changed = config.changed() => match changed {
                    Ok(()) => self.send_settings(),
                    Err(_) => return "the sidecar stops".into(),
                },
                () = stop.cancelled() => {
                    return match self.read_what_is_there().await {
                        Ok(()) => "it was replaced, or the sidecar stops".into(),
                        Err(reason) => reason,
                    };
                }
                () = &mut hello_deadline, if !self.greeted => return "no hello came".into(),
            }
            // Everything that the same sync covered is answered in one write.
            while let Some(Some(done)) = self.waiting.next().now_or_never() {
                self.done(done);
            }
        }
    }

    /// Whether another event may be taken.
    fn may_read(&self) -> bool {
        self.waiting.len() < MAX_WAITING
            && self.waiting_bytes < MAX_WAITING_BYTES
            && self.output.len() < MAX_UNSENT
    }

    /// Takes every whole frame out of the input.
    async fn take_frames(&mut self) -> Result<(), String> {
        let input = std::mem::take(&mut self.input);
        let mut taken = 0;
        let result = loop {
            if !self.may_read() {
                break Ok(());
            }
            match Frame::cut(&input[taken..]) {
                Ok(None) => break Ok(()),
                Ok(Some(raw)) => {
                    taken += raw.taken;
                    if let Err(reason) = self.take(raw).await {
                        break Err(reason);
                    }
                }
                Err(error) => {
                    self.link.recorder.counts.add(|counts| counts.bad_frames += 1);
                    break Err(error.to_string());
                }
            }
        };
        self.input = input;
        self.input.drain(..taken);
        // One large stanza must not hold its memory for ever.
        if self.input.capacity() > 1 << 20 && self.input.len() < READ {
            self.input.shrink_to(READ);
        }
        result
    }

    async fn take(&mut self, raw: RawFrame<'_>) -> Result<(), String> {
        let counts = &self.link.recorder.counts;
        let unknown = raw.unknown_tags() as u64;
        if unknown > 0 {
            counts.add(|counts| counts.unknown_fields += unknown);
        }
        match Frame::decode_payload(raw) {
            Ok(Some(Frame::Hello(hello))) => return self.hello(hello).await,
            Ok(Some(Frame::Event(id, event))) if self.greeted => self.event(id, event),
            Ok(Some(Frame::Outcome(outcome))) if self.greeted => {
                if let Some(pending) = outcomes::begin(&self.link.recorder, outcome) {
                    self.outcome(pending);
                }
            }
            Ok(Some(Frame::Notice(notice))) if self.greeted => {
                self.link.notice(self.id, &notice);
                self.link.recorder.chains.notice(&self.link.recorder, &notice);
            }
            Ok(Some(Frame::Count(count))) if self.greeted => {
                self.link.recorder.tallies.take(&self.instance, count);
            }
            Ok(Some(Frame::SnapshotEnd)) if self.greeted => {
                tracing::info!("the server plugin's snapshot is complete")
            }
            Ok(None) => counts.add(|counts| counts.unknown_fields += 1),
            // Out of place: before the hello, or what only a sidecar says.
            Ok(Some(_)) => self.bad(raw, "it is out of place"),
            Err(error) => self.bad(raw, &error.to_string()),
        }
        Ok(())
    }

    /// A frame that cannot be used costs itself only; whoever waits for it is answered.
    fn bad(&mut self, raw: RawFrame<'_>, why: &str) {
        let counts = &self.link.recorder.counts;
        counts.add(|counts| counts.bad_frames += 1);
        tracing::warn!(
            kind = raw.code,
            bytes = raw.fields.len(),
            why,
            "a frame of the event link was not understood"
        );
        if Kind::from_code(raw.code) == Some(Kind::Event) && raw.id != 0 {
            counts.refused(Refused::Malformed, 1);
            let bounce = Action::Bounce(decision::refusal_of_unreadable());
            Frame::Verdict(raw.id, Verdict::unrecorded(bounce)).encode(&mut self.output);
        }
    }

    async fn hello(&mut self, hello: Hello) -> Result<(), String> {
        let sidecar_version = env!("CARGO_PKG_VERSION").to_owned();
        if !(hello.protocol_min..=hello.protocol_max).contains(&PROTOCOL) {
            let refused = format!(
                "plugin {} speaks protocol {} to {}, sidecar {sidecar_version} speaks {PROTOCOL}: use plugin and sidecar of one version",
                hello.plugin_version, hello.protocol_min, hello.protocol_max
            );
            let welcome = Welcome { protocol: 0, refused: Some(refused.clone()), sidecar_version };
            Frame::Welcome(welcome).encode(&mut self.output);
            return Err(refused);
        }
        // A connection that was replaced is read to its end; it must not become the current one again.
        if self.stop.is_cancelled() {
            return Ok(());
        }
        if *self.instance != *hello.instance {
            self.link.recorder.chains.primaries.clear();
        }
        self.instance = Arc::from(hello.instance.as_str());
        self.link.hello(self.id, &self.stop, &self.ended, hello).await;
        self.greeted = true;
        Frame::Welcome(Welcome { protocol: PROTOCOL, refused: None, sidecar_version })
            .encode(&mut self.output);
        self.send_settings();
        Ok(())
    }

    /// Until there is a configuration the plugin gets no settings and so refuses.
    fn send_settings(&mut self) {
        if !self.greeted {
            return;
        }
        if let Some(loaded) = self.link.recorder.loaded() {
            let settings = decision::settings(&loaded.config, &self.link.recorder.node);
            tracing::info!(
                refuse = settings.unanswered == Unanswered::Refuse,
                generation = settings.generation,
                "settings are sent to the server plugin"
            );
            Frame::Settings(settings).encode(&mut self.output);
            self.settles = true;
        }
    }

    /// So many bytes of the output are the socket's now.
    fn sent(&mut self, written: usize) {
        self.output.drain(..written);
        if self.output.is_empty() && std::mem::take(&mut self.settles) {
            self.link.settled(self.id);
        }
    }

    fn event(&mut self, id: u64, event: Event) {
        let recorder = &self.link.recorder;
        let bytes = event.stanza.len();
        let held = id != 0;
        match path::begin(recorder, event, held, &self.instance) {
            path::Step::Answered(verdict) if held => Frame::Verdict(id, verdict).encode(&mut self.output),
            path::Step::Answered(_) => {}
            path::Step::Recording(recording) => {
                self.waiting_bytes += bytes;
                let done = recording.finish(recorder).map(move |verdict| {
                    if held { Done::Verdict(id, verdict, bytes) } else { Done::Silent(bytes) }
                });
                self.waiting.push(done.boxed());
            }
            // What is asked about has limits of its own: reading goes on, so that outcomes and notices do.
            path::Step::Asking(asking) => {
                let done = asking.finish(recorder).map(move |verdict| Done::Verdict(id, verdict, 0));
                self.waiting.push(done.boxed());
            }
        }
    }

    fn outcome(&mut self, pending: Pending) {
        self.waiting.push(outcomes::finish(&self.link.recorder, pending).map(|()| Done::Silent(0)).boxed());
    }

    fn done(&mut self, done: Done) {
        let bytes = match done {
            Done::Verdict(id, verdict, bytes) => {
                Frame::Verdict(id, verdict).encode(&mut self.output);
                bytes
            }
            Done::Silent(bytes) => bytes,
        };
        self.waiting_bytes -= bytes;
    }

    /// Takes in what the plugin had sent when the connection had to end.
    async fn read_what_is_there(&mut self) -> Result<(), String> {
        // More than a socket's buffer holds was not there when this began.
        for _ in 0..(2 * MAX_FRAME / READ) {
            self.take_frames().await?;
            if !self.may_read() {
                return Ok(());
            }
            self.input.reserve(READ);
            match tokio::time::timeout(QUIET, self.reader.read_buf(&mut self.input)).await {
                Ok(Ok(1..)) => {}
                _ => return Ok(()),
            }
        }
        Ok(())
    }

    /// Waits for every record that was begun, and sends the answers.
    async fn settle(&mut self) {
        loop {
            while let Some(Some(done)) = self.waiting.next().now_or_never() {
                self.done(done);
            }
            if !self.output.is_empty() {
                let output = std::mem::take(&mut self.output);
                // The plugin may be gone; the records still count.
                _ = self.writer.write_all(&output).await;
            }
            match self.waiting.next().await {
                Some(done) => self.done(done),
                None => break,
            }
        }
        _ = self.writer.shutdown().await;
    }
}
