//! The one writer: it numbers, chains, writes and syncs. Everything handed to one [`Writer::commit`] shares a sync.
//!
//! A file in which a write or sync failed is abandoned: the next segment's header says how much of it counts. Sequences and
//! hashes go on from what is durable, so that the chain cannot fork; what the abandoned file may still hold is void.

use super::disk::DiskFile;
use super::format::{MAX_FRAME, RECORDS_AT, SegmentHeader, frame};
use super::state::{Entry, Segment, Shared, StreamHead, segment_name};
use super::{AppendError, Appended, Position};
use crate::head::Mark;
use crate::record::{
    Body, Content, Draft, Form, Gap, Hash, Header, Ids, Open, Payload, StreamEnd, StreamId, hash,
};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

/// Drafts for one endpoint, answered together.
pub struct Request {
    pub endpoint: String,
    pub drafts: Vec<Draft>,
}

/// What a commit answers to one request.
pub type Answer = Result<Vec<Appended>, AppendError>;

/// Owns the open segment and the streams' heads.
pub struct Writer {
    shared: Arc<Shared>,
    ids: Ids,
    streams: BTreeMap<String, Stream>,
    /// Ends of streams of former incarnations.
    ends: BTreeMap<String, StreamEnd>,
    /// Losses found at opening that are not in a stream yet.
    gaps: Vec<(String, Gap)>,
    active: Option<Active>,
    /// The last segment and its valid bytes.
    previous: (u64, u64),
    highest: u64,
    /// The next segment's header voids something.
    voids: bool,
    closed: bool,
}

struct Active {
    number: u64,
    file: Arc<dyn DiskFile>,
    len: u64,
}

/// A stream's head.
#[derive(Clone, Copy)]
struct Stream {
    next: u64,
    previous: Hash,
}

/// Records encoded but not yet on disk.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    streams: BTreeMap<String, Stream>,
    entries: Vec<(String, Entry)>,
    waiting: BTreeMap<String, (u64, u64)>,
    /// It ends the streams.
    closes: bool,
}

impl Writer {
    pub fn new(
        shared: Arc<Shared>,
        ends: BTreeMap<String, StreamEnd>,
        gaps: Vec<(String, Gap)>,
        previous: (u64, u64),
        highest: u64,
        voids: bool,
    ) -> Self {
        Self {
            shared,
            ids: Ids::default(),
            streams: BTreeMap::new(),
            ends,
            gaps,
            active: None,
            previous,
            highest,
            voids,
            closed: false,
        }
    }

    /// Begins the first segment, and writes down losses that were found. A failure is kept as the journal's problem; the
    /// next commit tries again.
    pub fn start(&mut self) {
        self.commit(Vec::new());
    }

    /// Writes and syncs what fits; answers in the order of the requests.
    pub fn commit(&mut self, requests: Vec<Request>) -> Vec<Answer> {
        let count = requests.len();
        let refuse = |error: AppendError| vec![Err(error); count];
        if self.closed {
            return refuse(AppendError::Closed);
        }
        let (number, at) = match self.segment() {
            Ok(place) => place,
            Err(error) => return refuse(self.failed("begin a segment", &error)),
        };
        let mut batch = Batch::default();
        let gaps = std::mem::take(&mut self.gaps);
        for (endpoint, gap) in &gaps {
            let draft = Draft { body: Body::Gap(gap.clone()), payloads: Vec::new() };
            self.encode(&mut batch, (number, at), endpoint, vec![draft]);
        }
        let mut answers = Vec::with_capacity(count);
        for request in requests {
            answers.push(self.stage(&mut batch, (number, at), request));
        }
        if batch.bytes.is_empty() {
            return answers;
        }
        let error = match self.write(&batch) {
            Ok(()) => return answers,
            Err(error) => error,
        };
        self.gaps = gaps;
        let error = self.failed("write", &error);
        answers.into_iter().map(|answer| answer.and(Err(error.clone()))).collect()
    }

    /// Ends every stream of this incarnation and refuses everything from here on.
    pub fn close(&mut self) -> Result<(), AppendError> {
        let result = self.write_closes();
        self.closed = true;
        self.shared.state().closed = true;
        self.shared.wake();
        result
    }

    fn write_closes(&mut self) -> Result<(), AppendError> {
        if self.closed || self.streams.is_empty() {
            return Ok(());
        }
        let (number, at) = self.segment().map_err(|error| self.failed("begin a segment", &error))?;
        let mut batch = Batch { closes: true, ..Batch::default() };
        for endpoint in self.streams.keys().cloned().collect::<Vec<_>>() {
            self.push(&mut batch, (number, at), &endpoint, Content::Close, Vec::new());
        }
        self.write(&batch).map_err(|error| self.failed("write", &error))
    }

    /// The open segment's number and length; begins one where there is none or the last is full.
    fn segment(&mut self) -> io::Result<(u64, u64)> {
        if let Some(active) = &self.active {
            if active.len < self.shared.options.segment_bytes && !self.is_in_the_way(active) {
                return Ok((active.number, active.len));
            }
            self.seal();
            self.shared.reap(false);
        }
        let number = self.highest + 1;
        self.highest = number;
        let header = SegmentHeader {
            number,
            journal: self.shared.journal,
            previous: self.previous.0,
            previous_len: self.previous.1,
        };
        let name = segment_name(number);
        let begin = || {
            let file = self.shared.disk.create(&name)?;
            file.write_at(0, &header.encode())?;
            file.sync()?;
            self.shared.disk.sync_dir()?;
            Ok(file)
        };
        match begin() {
            Ok(file) => {
                let segment =
                    Segment { len: RECORDS_AT, voids: std::mem::take(&mut self.voids), ..Segment::default() };
                let mut state = self.shared.state();
                state.segments.insert(number, segment);
                // The folder takes files again; whoever asked with nothing to write wanted to know just that.
                state.problem = None;
                drop(state);
                self.active = Some(Active { number, file, len: RECORDS_AT });
                Ok((number, RECORDS_AT))
            }
            Err(error) => {
                self.voids = true;
                let _ = self.shared.disk.remove(&name);
                Err(error)
            }
        }
    }

    /// Space is short and everything in the open segment is confirmed: it can go as soon as another is begun.
    fn is_in_the_way(&self, active: &Active) -> bool {
        let state = self.shared.state();
        let confirmed = || {
            let segment = state.segments.get(&active.number)?;
            Some(segment.last.iter().all(|(endpoint, end)| {
                let end = Position { segment: active.number, offset: *end };
                state.endpoints.get(endpoint).is_some_and(|queue| queue.cursor.position >= end)
            }))
        };
        active.len > RECORDS_AT && state.bytes() > state.limits.max_bytes / 2 && confirmed() == Some(true)
    }

    fn seal(&mut self) {
        if let Some(active) = self.active.take() {
            self.previous = (active.number, active.len);
            if let Some(segment) = self.shared.state().segments.get_mut(&active.number) {
                segment.sealed = true;
            }
        }
    }

    /// Encodes a request if everything in it fits; otherwise leaves the batch as it was.
    fn stage(&mut self, batch: &mut Batch, place: (u64, u64), request: Request) -> Answer {
        let Request { endpoint, drafts } = request;
        let exempt = drafts.iter().all(|draft| matches!(draft.body, Body::Gap(_) | Body::Tally(_)));
        let before = (batch.bytes.len(), batch.entries.len(), batch.streams.get(&endpoint).copied());
        let appended = self.encode(batch, place, &endpoint, drafts);
        let added = (batch.bytes.len() - before.0) as u64;
        let largest =
            batch.entries[before.1..].iter().map(|(_, entry)| entry.len as usize).max().unwrap_or(0);
        let verdict = if largest > MAX_FRAME {
            Err(AppendError::TooLarge { bytes: largest, limit: MAX_FRAME })
        } else if exempt {
            Ok(())
        } else {
            self.admit(batch, &endpoint, (batch.entries.len() - before.1) as u64, added)
        };
        if let Err(error) = verdict {
            batch.bytes.truncate(before.0);
            batch.entries.truncate(before.1);
            match before.2 {
                Some(stream) => batch.streams.insert(endpoint, stream),
                None => batch.streams.remove(&endpoint),
            };
            return Err(error);
        }
        let staged = batch.waiting.entry(endpoint).or_default();
        staged.0 += (batch.entries.len() - before.1) as u64;
        staged.1 += added;
        Ok(appended)
    }

    fn admit(&mut self, batch: &Batch, endpoint: &str, records: u64, bytes: u64) -> Result<(), AppendError> {
        let staged = batch.waiting.get(endpoint).copied().unwrap_or_default();
        let fits_total = |shared: &Shared| {
            let state = shared.state();
            state.bytes() + batch.bytes.len() as u64 <= state.limits.max_bytes
        };
        {
            let state = self.shared.state();
            let limit = state.queue_limit(endpoint);
            let fits = match state.endpoints.get(endpoint) {
                Some(queue) => queue.fits(limit, records + staged.0, bytes + staged.1),
                None => records + staged.0 <= limit.max_records && bytes + staged.1 <= limit.max_bytes,
            };
            if !fits {
                return Err(AppendError::QueueFull { endpoint: endpoint.to_owned() });
            }
        }
        if fits_total(&self.shared) {
            return Ok(());
        }
        // What is confirmed is in its archive: rather less to refill with than to refuse messages.
        self.shared.reap(true);
        if fits_total(&self.shared) { Ok(()) } else { Err(AppendError::JournalFull) }
    }

    fn encode(
        &mut self,
        batch: &mut Batch,
        place: (u64, u64),
        endpoint: &str,
        drafts: Vec<Draft>,
    ) -> Vec<Appended> {
        if !self.streams.contains_key(endpoint) && !batch.streams.contains_key(endpoint) {
            let predecessor = self.ends.get(endpoint).copied();
            let open = Open { predecessor, software: self.shared.options.software.clone() };
            self.push(batch, place, endpoint, Content::Open(open), Vec::new());
        }
        drafts
            .into_iter()
            .map(|draft| {
                let payloads = draft.payloads.into_iter().map(salted).collect();
                self.push(batch, place, endpoint, Content::Body(draft.body), payloads)
            })
            .collect()
    }

    fn push(
        &mut self,
        batch: &mut Batch,
        (segment, at): (u64, u64),
        endpoint: &str,
        content: Content,
        payloads: Vec<Payload>,
    ) -> Appended {
        let now = self.shared.now();
        let fresh = Stream { next: 0, previous: [0; 32] };
        let stream = *batch.streams.get(endpoint).or_else(|| self.streams.get(endpoint)).unwrap_or(&fresh);
        let header = Header {
            id: self.ids.next(now),
            stream: StreamId {
                journal: self.shared.journal,
                endpoint: endpoint.to_owned(),
                incarnation: self.shared.incarnation,
            },
            sequence: stream.next,
            previous: stream.previous,
            recorded_at_nanos: now,
            node: self.shared.options.node.clone(),
            cluster: self.shared.options.cluster.clone(),
            content,
            key: None,
            key_salt: None,
            payloads: payloads.iter().map(Payload::reference).collect(),
            unknown: Vec::new(),
        };
        let header_bytes = header.encode();
        let hash = hash(&header_bytes);
        let start = batch.bytes.len();
        frame(&mut batch.bytes, &header_bytes, &payloads);
        let entry = Entry {
            segment,
            offset: at + start as u64,
            len: u32::try_from(batch.bytes.len() - start).unwrap_or(u32::MAX),
            recorded_at: now,
            incarnation: self.shared.incarnation,
            sequence: stream.next,
        };
        batch.streams.insert(endpoint.to_owned(), Stream { next: stream.next + 1, previous: hash });
        batch.entries.push((endpoint.to_owned(), entry));
        Appended { id: header.id, sequence: stream.next, hash, position: entry.end() }
    }

    /// Writes and syncs a batch and publishes it. On failure the segment is abandoned.
    fn write(&mut self, batch: &Batch) -> io::Result<()> {
        if batch.bytes.is_empty() {
            return Ok(());
        }
        let Some(active) = &mut self.active else {
            return Err(io::Error::other("no segment is open"));
        };
        let result = active.file.write_at(active.len, &batch.bytes).and_then(|()| active.file.sync());
        if let Err(error) = result {
            // Whether anything of it is on disk cannot be known. Cutting it off helps readers of the same page cache; the
            // next segment's header is what counts.
            let _ = active.file.set_len(active.len);
            self.voids = true;
            self.seal();
            return Err(error);
        }
        active.len += batch.bytes.len() as u64;
        let mut state = self.shared.state();
        if let Some(segment) = state.segments.get_mut(&active.number) {
            segment.len = active.len;
            for (endpoint, entry) in &batch.entries {
                segment.last.insert(endpoint.clone(), entry.end().offset);
            }
            segment.confirmed_at = None;
        }
        for (endpoint, entry) in &batch.entries {
            state.endpoints.entry(endpoint.clone()).or_default().push(*entry);
        }
        for (endpoint, stream) in &batch.streams {
            let last = Mark { sequence: stream.next.saturating_sub(1), hash: stream.previous };
            let queue = state.endpoints.entry(endpoint.clone()).or_default();
            queue.head = Some(StreamHead { last, closed: batch.closes });
        }
        state.problem = None;
        drop(state);
        self.streams.extend(batch.streams.iter().map(|(endpoint, stream)| (endpoint.clone(), *stream)));
        self.shared.wake();
        Ok(())
    }

    fn failed(&self, doing: &str, error: &io::Error) -> AppendError {
        let full = error.kind() == io::ErrorKind::StorageFull || error.kind() == io::ErrorKind::QuotaExceeded;
        let refusal = if full {
            AppendError::JournalFull
        } else {
            AppendError::Failed(format!("cannot {doing}: {error}"))
        };
        self.shared.state().problem = Some(refusal.to_string());
        refusal
    }
}

fn salted((number, bytes): (u8, Vec<u8>)) -> Payload {
    let mut salt = [0; 16];
    if getrandom::fill(&mut salt).is_err() {
        // Without the kernel's randomness the id generator's serves: no record is refused for it.
        salt = *uuid::Uuid::now_v7().as_bytes();
    }
    Payload { number, form: Form::Plain { salt }, bytes }
}
