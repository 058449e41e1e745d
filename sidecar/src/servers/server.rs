//! What is known of one compliance server: its standing, what waits for it, and what is told of it. Shared by those who ask and the link's
//! task, which alone moves bytes ([`super::link`]).
//!
//! Invariant: whatever waits ends exactly once, by an answer, its time, a full queue, or the server's going out.

use super::course::Course;
use super::pending::{Answered, Entry, Pending, Waiter};
use super::{Asked, connect::Broken};
use cartulary_compliance::config::{Compliance, ComplianceServer, PendingLimit};
use cartulary_compliance::failure::Standing;
use cartulary_compliance::names::component_name;
use cartulary_compliance::protocol::{Answer, AnswerError, Question};
use cartulary_compliance::status::{ComplianceServerStatus, LinkCause, LinkState, ServerCounts};
use minidom::Element;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Upper bounds of the answer times' classes, milliseconds; what takes longer has its own.
const CLASSES: [u128; 14] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000];
/// At most one line a so long time about answers that nobody can use.
const UNFIT_INTERVAL: Duration = Duration::from_secs(10);

/// What is declared about a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    /// Where it is.
    pub server: ComplianceServer,
    /// What may wait for it.
    pub limit: PendingLimit,
    /// How long events queue for it.
    pub drop_after: Duration,
}

impl Declared {
    /// Of one of a configuration's servers.
    pub fn new(server: &ComplianceServer, compliance: &Compliance) -> Self {
        Self {
            server: server.clone(),
            limit: compliance.limits,
            drop_after: Duration::from_millis(compliance.drop_after_ms.into()),
        }
    }
}

/// One server.
pub struct Server {
    /// Its name.
    pub name: String,
    /// Our name there.
    pub component: String,
    /// What makes our ids ones that no other process used.
    mark: u32,
    state: Mutex<State>,
    /// What is declared; the task connects again when it changes.
    pub declared: watch::Sender<Declared>,
    /// There is something to send.
    pub work: Notify,
    /// The standing has turned, or will at another time.
    pub turned: Notify,
    /// The link ends.
    pub stop: CancellationToken,
    changes: watch::Sender<u64>,
}

struct State {
    course: Course,
    pending: Pending,
    link: LinkState,
    cause: LinkCause,
    message: String,
    since_micros: i64,
    counts: ServerCounts,
    answer_times: [u64; 15],
    answer_micros: u64,
    told_unfit_at: Option<Instant>,
}

impl Server {
    /// Not tried yet.
    pub fn new(
        name: &str,
        node: &str,
        declared: Declared,
        stop: CancellationToken,
        changes: watch::Sender<u64>,
    ) -> Self {
        let state = State {
            course: Course::new(Instant::now(), declared.drop_after),
            pending: Pending::new(declared.limit),
            link: LinkState::Gone,
            cause: LinkCause::NotTried,
            message: "not tried yet".into(),
            since_micros: crate::alarms::now_micros(),
            counts: ServerCounts::default(),
            answer_times: [0; 15],
            answer_micros: 0,
            told_unfit_at: None,
        };
        Self {
            name: name.to_owned(),
            component: component_name(name, node),
            mark: getrandom::u32().unwrap_or_default(),
            state: Mutex::new(state),
            declared: watch::Sender::new(declared),
            work: Notify::new(),
            turned: Notify::new(),
            stop,
            changes,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another declaration: limits take effect at once, anything about the connection by connecting again.
    pub fn declare(&self, declared: Declared) {
        {
            let mut state = self.lock();
            state.pending.set_limit(declared.limit);
            state.course.set_drop_after(declared.drop_after);
        }
        self.turned.notify_one();
        self.declared.send_if_modified(|current| {
            let is_moved = current.server != declared.server;
            *current = declared;
            is_moved
        });
    }

    /// How it stands.
    pub fn standing(&self) -> Standing {
        self.lock().course.standing()
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        let declared = self.declared.borrow();
        let ComplianceServer { host, port, .. } = &declared.server;
        if host.contains(':') && !host.starts_with('[') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        }
    }

    /// Puts a question in its place.
    pub fn enter(self: &Arc<Self>, question: Arc<Question>, deadline: Instant) -> Result<Place, Asked> {
        let (sender, receiver) = oneshot::channel();
        let id = self.put(question, deadline, Waiter::Answer(sender))?;
        Ok(Place { server: self.clone(), id, deadline, receiver })
    }

    /// Puts what is told in its place.
    pub fn enter_told(&self, question: Arc<Question>, deadline: Instant) -> Option<oneshot::Receiver<bool>> {
        let (sender, receiver) = oneshot::channel();
        self.put(question, deadline, Waiter::Sent(sender)).ok().map(|_| receiver)
    }

    fn put(&self, question: Arc<Question>, deadline: Instant, waiter: Waiter) -> Result<u64, Asked> {
        let mut state = self.lock();
        if state.course.standing() == Standing::Out {
            return Err(Asked::Out);
        }
        let Some(id) = state.pending.enter(question, deadline, waiter, Instant::now()) else {
            state.counts.overflowed += 1;
            return Err(Asked::Overflowed);
        };
        drop(state);
        self.work.notify_one();
        Ok(id)
    }

    /// How far the link is; told in the log when that or the cause changes.
    pub fn link_is(&self, link: LinkState, cause: Option<&Broken>) {
        let mut state = self.lock();
        let has_moved = state.link != link;
        let is_news = has_moved || cause.is_some_and(|cause| cause.cause != state.cause);
        state.link = link;
        state.counts.connected += u64::from(has_moved && link == LinkState::Active);
        if let Some(Broken { cause, message }) = cause {
            (state.cause, state.message) = (*cause, message.clone());
        }
        if !is_news {
            return;
        }
        state.since_micros = crate::alarms::now_micros();
        let (cause, message) = (format!("{:?}", state.cause), state.message.clone());
        drop(state);
        let (component, server, address) = (&self.component, &self.name, self.address());
        match link {
            LinkState::Gone => {
                tracing::warn!(server, component, address, cause, message, "Component {component} is GONE");
            }
            LinkState::Connected => {
                tracing::info!(server, component, address, "Component {component} is CONNECTED");
            }
            LinkState::Active if has_moved => {
                tracing::info!(server, component, address, "Component {component} is ACTIVE");
            }
            LinkState::Active => {
                tracing::warn!(
                    server,
                    component,
                    address,
                    cause,
                    message,
                    "Component {component} is ACTIVE and does not answer"
                );
            }
        }
    }

    /// It answers: events go to it.
    pub fn reached(&self) {
        self.turn(|course| course.reached());
        self.work.notify_one();
    }

    /// It is silent since then, on a connection that stands.
    pub fn silent(&self, broken: &Broken, since: Instant) {
        self.link_is(LinkState::Active, Some(broken));
        self.turn(|course| course.failed(since));
    }

    /// The connection is lost, or none came about.
    pub fn lost(&self, broken: &Broken, since: Instant) {
        self.link_is(LinkState::Gone, Some(broken));
        self.lock().pending.send_again();
        self.turn(|course| match broken.cause {
            LinkCause::Closed => course.ended(),
            _ => course.failed(since),
        });
    }

    /// Time goes by.
    pub fn tick(&self, now: Instant) -> Option<Instant> {
        self.turn(|course| course.tick(now));
        let mut state = self.lock();
        let late = state.pending.expire(now);
        late.into_iter().for_each(|entry| state.time_out(entry));
        state.course.drops_at()
    }

    /// The link ends for good: nobody waits for it any more.
    pub fn end(&self) {
        self.turn(|course| course.ended());
    }

    fn turn(&self, change: impl FnOnce(&mut Course)) {
        let mut state = self.lock();
        let before = state.course.standing();
        change(&mut state.course);
        let after = state.course.standing();
        if before == after {
            return;
        }
        state.since_micros = crate::alarms::now_micros();
        state.counts.lost += u64::from(before == Standing::InService);
        let given_away = if after == Standing::Out { state.pending.drain() } else { Vec::new() };
        given_away.into_iter().for_each(|entry| state.give_back(entry));
        drop(state);
        tracing::info!(
            server = self.name,
            component = self.component,
            "the compliance server is {}",
            in_words(after)
        );
        self.changes.send_modify(|count| *count += 1);
        self.turned.notify_one();
    }

    /// Writes what was not sent yet to `output`, in order, until that has `room` bytes.
    pub fn send(&self, output: &mut Vec<u8>, room: usize) {
        let now = Instant::now();
        let stream = self.declared.borrow().server.stream;
        while output.len() < room {
            let mut state = self.lock();
            let Some((id, entry)) = state.pending.first_unsent() else { return };
            let (question, deadline) = (entry.question.clone(), entry.deadline);
            if deadline <= now {
                if let Some(entry) = state.pending.give_up(id) {
                    state.time_out(entry);
                }
                continue;
            }
            // Writing it takes time that those who ask need not wait for.
            drop(state);
            let left = u64::try_from((deadline - now).as_millis()).unwrap_or(u64::MAX).max(1);
            let start = output.len();
            let written = question
                .to_element(&self.iq_id(id), &self.component, &self.name, stream, left)
                .map(|element| element.write_to(output));
            let mut state = self.lock();
            if matches!(written, Ok(Ok(()))) {
                state.sent(id, now);
                continue;
            }
            // A stanza that cannot be read: whoever asks sees to that before; nobody decides about it.
            output.truncate(start);
            match state.pending.give_up(id).map(|entry| entry.waiter) {
                Some(Waiter::Answer(waiter)) => _ = waiter.send(Asked::Malformed),
                Some(Waiter::Sent(waiter)) => _ = waiter.send(false),
                None => {}
            }
        }
    }

    /// An iq of type result or error came.
    pub fn answered(&self, iq: &Element) {
        let now = Instant::now();
        let id = iq.attr("id").and_then(|id| self.number(id));
        let mut state = self.lock();
        let unfit = match id.map_or(Answered::Unknown, |id| state.pending.answered(id)) {
            Answered::Waiting(entry) => {
                let is_addressed = ends_at(iq, "from", &self.name) && ends_at(iq, "to", &self.component);
                // Reading it takes time that others need not wait for.
                drop(state);
                let asked = if is_addressed { read(iq, &entry.question) } else { Asked::Malformed };
                state = self.lock();
                let unfit = state.note(&asked, entry.sent_at, now);
                if let Waiter::Answer(waiter) = entry.waiter {
                    _ = waiter.send(asked);
                }
                unfit
            }
            Answered::Twice => {
                state.counts.doubled += 1;
                Some("it came twice")
            }
            Answered::Late => {
                state.counts.late += 1;
                Some("it came too late")
            }
            Answered::Unknown => {
                state.counts.unknown += 1;
                Some("nothing was asked with its id")
            }
        };
        if let Some(why) = unfit
            && state.told_unfit_at.is_none_or(|at| now >= at + UNFIT_INTERVAL)
        {
            state.told_unfit_at = Some(now);
            let ServerCounts { doubled, late, unknown, malformed, not_admitted, .. } = state.counts;
            drop(state);
            let server = &self.name;
            tracing::warn!(
                server,
                why,
                doubled,
                late,
                unknown,
                malformed,
                not_admitted,
                "an answer cannot be used"
            );
        }
    }

    fn iq_id(&self, id: u64) -> String {
        format!("q{id}.{:x}", self.mark)
    }

    fn number(&self, id: &str) -> Option<u64> {
        let (number, mark) = id.strip_prefix('q')?.split_once('.')?;
        if u32::from_str_radix(mark, 16) == Ok(self.mark) { number.parse().ok() } else { None }
    }

    /// When the oldest question was sent that was not answered.
    pub fn oldest_sent(&self) -> Option<Instant> {
        self.lock().pending.oldest_sent()
    }

    /// Everything about it.
    pub fn status(&self) -> ComplianceServerStatus {
        let address = self.address();
        let state = self.lock();
        let standing = state.course.standing();
        let limit = state.pending.limit();
        ComplianceServerStatus {
            address,
            component: self.component.clone(),
            state: state.link,
            in_service: standing == Standing::InService,
            cause: Some(state.cause),
            message: state.message.clone(),
            since_micros: state.since_micros,
            queueing: standing == Standing::Queueing,
            pending: state.pending.len() as u64,
            pending_bytes: state.pending.bytes() as u64,
            max_pending: limit.max_events.into(),
            max_pending_bytes: limit.max_bytes.into(),
            oldest_pending_ms: state
                .pending
                .oldest()
                .map_or(0, |at| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX)),
            counts: state.counts.clone(),
            answer_times: state.answer_times,
            answer_micros: state.answer_micros,
        }
    }
}

impl State {
    fn sent(&mut self, id: u64, now: Instant) {
        match self.pending.sent(id, now).map(|entry| entry.waiter) {
            None => self.counts.asked += 1,
            Some(waiter) => {
                self.counts.told += 1;
                if let Waiter::Sent(waiter) = waiter {
                    _ = waiter.send(true);
                }
            }
        }
    }

    fn time_out(&mut self, entry: Entry) {
        match entry.waiter {
            Waiter::Answer(waiter) => {
                self.counts.timed_out += 1;
                _ = waiter.send(Asked::TimedOut);
            }
            Waiter::Sent(waiter) => _ = waiter.send(false),
        }
    }

    fn give_back(&mut self, entry: Entry) {
        match entry.waiter {
            Waiter::Answer(waiter) => {
                self.counts.rerouted += 1;
                _ = waiter.send(Asked::Out);
            }
            Waiter::Sent(waiter) => _ = waiter.send(false),
        }
    }

    /// Counts an answer; why it cannot be used, if so.
    fn note(&mut self, asked: &Asked, sent_at: Option<Instant>, now: Instant) -> Option<&'static str> {
        let took = sent_at.map_or(Duration::ZERO, |at| now - at);
        let class =
            CLASSES.iter().position(|bound| took.as_micros() <= bound * 1000).unwrap_or(CLASSES.len());
        self.answer_times[class] += 1;
        self.answer_micros += u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let counts = &mut self.counts;
        match asked {
            Asked::Answered(Answer::Pass { stanza: None, exceptions }) if exceptions.is_empty() => {
                counts.passed += 1
            }
            Asked::Answered(Answer::Pass { .. }) => counts.modified += 1,
            Asked::Answered(Answer::Handle) => counts.handled += 1,
            Asked::Answered(Answer::Error(_)) => counts.errors += 1,
            Asked::NotAdmitted => {
                counts.not_admitted += 1;
                return Some("the event admits PASS alone");
            }
            _ => {
                counts.malformed += 1;
                return Some("it is malformed");
            }
        }
        None
    }
}

fn read(iq: &Element, question: &Question) -> Asked {
    match Answer::read(iq, question) {
        Ok(answer) => Asked::Answered(answer),
        Err(AnswerError::NotAdmitted) => Asked::NotAdmitted,
        Err(AnswerError::Malformed(_)) => Asked::Malformed,
    }
}

fn ends_at(iq: &Element, attribute: &str, expected: &str) -> bool {
    iq.attr(attribute).is_none_or(|address| address == expected)
}

fn in_words(standing: Standing) -> &'static str {
    match standing {
        Standing::InService => "in service",
        Standing::Queueing => "away: events queue for it",
        Standing::Out => "out: others have its share",
    }
}

/// A question's place in a server's order.
pub struct Place {
    server: Arc<Server>,
    id: u64,
    deadline: Instant,
    receiver: oneshot::Receiver<Asked>,
}

impl Place {
    /// What comes of it.
    pub async fn asked(mut self) -> Asked {
        match tokio::time::timeout_at(self.deadline, &mut self.receiver).await {
            Ok(Ok(asked)) => asked,
            Ok(Err(_)) => Asked::Out,
            Err(_) => {
                let mut state = self.server.lock();
                match state.pending.give_up(self.id) {
                    Some(_) => {
                        state.counts.timed_out += 1;
                        Asked::TimedOut
                    }
                    // It was decided in this very moment.
                    None => self.receiver.try_recv().unwrap_or(Asked::TimedOut),
                }
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.server.lock().pending.give_up(self.id);
    }
}
