//! The path of an event: what the plugin asks, is decided, recorded, and answered (P1, P3; MA-2, MA-3, MA-4, MA-6; CS-4).
//!
//! Invariants: an event takes its place in the order of its lane, and with it in that of its stream, before the next one is looked at; a recorded message is
//! answered with "deliver", as it was or changed, only by [`Permit::Synced`], which cannot be had before the journal has synced its record; an event is
//! judged from beginning to end by the configuration it came under; no two events of late have the same id, whatever the plugin
//! says. Where no profile has any of its events, no chain is made and no lane entered.

use crate::chains::lanes::Ticket;
use crate::chains::{Case, Room};
use crate::config::Loaded;
use crate::counts::Refused;
use crate::open_events::OpenEvent;
use crate::recorder::{Pending, Recorder};
use cartulary_archive::journal::{AppendError, Appended};
use cartulary_archive::record::{
    Accepted, ActionCode, Body, Draft, ExceptionEntry, GapReason, RecipientEntry, new_event_id,
};
use cartulary_compliance::chain::{Chain, Decision};
use cartulary_compliance::decision::{self, Cause, Plan};
use cartulary_compliance::derive;
use cartulary_compliance::link::{Action, Bounce, Event, Exception, Ingress, Subject, Verdict};
use cartulary_compliance::stanza::MessageFacts;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

/// `type` in the record of a stanza that could not be read as a message. No message can have it (RFC 6121, 5.2.2).
pub const TYPE_UNKNOWN: &str = "unknown";

/// What the first look at an event gives.
pub enum Step {
    /// The answer is known.
    Answered(Verdict),
    /// The answer waits for the record.
    Recording(Box<Recording>),
    /// The answer waits for compliance servers, or for those before it in its lane.
    Asking(Box<Asking>),
}

/// An event whose record waits for its sync.
pub struct Recording {
    event: Uuid,
    endpoint: Arc<str>,
    loaded: Arc<Loaded>,
    held: bool,
    fate: Fate,
    pending: Pending,
}

/// An event that is being decided. Dropped, it is given up: its lane goes on without it, and nothing is recorded.
pub struct Asking {
    event: Event,
    id: Uuid,
    loaded: Arc<Loaded>,
    instance: Arc<str>,
    /// `None` where it only waits for its turn, so that it does not overtake its conversation.
    chain: Option<Chain>,
    deadline: Instant,
    ticket: Ticket,
    _room: Room,
}

/// What was decided.
enum Fate {
    GoesOn(GoesOn),
    Ends(Ends),
}

/// It goes on, if it is permitted to.
struct GoesOn {
    /// In its place.
    replacement: Option<String>,
    exceptions: Vec<Exception>,
    named_only: bool,
    resource: Option<String>,
}

/// It goes no further; that needs no permit.
enum Ends {
    Drop,
    Bounce(Bounce),
}

impl Fate {
    fn new(decision: Decision, resource: Option<String>) -> Self {
        let (exceptions, named_only) = (decision.exceptions, decision.named_only);
        let goes_on = |replacement| Self::GoesOn(GoesOn { replacement, exceptions, named_only, resource });
        match decision.action {
            Action::Deliver => goes_on(None),
            Action::Replace(stanza) => goes_on(Some(stanza)),
            Action::Drop => Self::Ends(Ends::Drop),
            Action::Bounce(bounce) => Self::Ends(Ends::Bounce(bounce)),
        }
    }
}

/// Why a message may be delivered. [`deliver`] is the only place that says so, and it wants one of these.
enum Permit<'a> {
    /// Its record is on disk.
    Synced { event: Uuid, _proof: &'a Appended },
    /// None of its copies goes in a recorded direction, or archiving is off, or it is no message.
    NotRecorded,
    /// It is declared that what cannot be recorded is delivered and counted.
    Declared,
}

fn deliver(permit: Permit<'_>, goes_on: GoesOn) -> Verdict {
    let GoesOn { replacement, exceptions, named_only, resource } = goes_on;
    let action = replacement.map_or(Action::Deliver, Action::Replace);
    let unrecorded = Verdict { exceptions, named_only, resource, ..Verdict::unrecorded(action) };
    match permit {
        Permit::Synced { event, _proof } => {
            Verdict { event_id: Some(event.into_bytes()), outcome_wanted: true, ..unrecorded }
        }
        Permit::NotRecorded | Permit::Declared => unrecorded,
    }
}

fn end(ends: Ends, recorded: Option<Uuid>) -> Verdict {
    let action = match ends {
        Ends::Drop => Action::Drop,
        Ends::Bounce(bounce) => Action::Bounce(bounce),
    };
    Verdict { event_id: recorded.map(Uuid::into_bytes), ..Verdict::unrecorded(action) }
}

/// Looks at an event and gives it, or its record, a place in the order. `held`: the server waits for the answer. `instance`: the process of the
/// server that asks.
pub fn begin(recorder: &Recorder, event: Event, held: bool, instance: &Arc<str>) -> Step {
    recorder.counts.add(|counts| counts.events += 1);
    let held = held && event.ingress != Ingress::Internal;
    let Some(loaded) = recorder.loaded().filter(|_| !recorder.hosts().is_empty()) else {
        return Step::Answered(without_configuration(recorder, held));
    };
    let (compliance, chains) = (&loaded.config.compliance, &recorder.chains);
    if !held || (compliance.profiles.is_empty() && chains.is_idle()) {
        return record(recorder, event, None, Decision::unasked(), &loaded, held, instance);
    }
    let occurrences = derive::occurrences(&event);
    let chain = Chain::new(compliance, &recorder.node, &event.stanza, occurrences);
    let lane = derive::lane(&event);
    if chain.is_none() && !chains.is_busy(&lane) {
        return record(recorder, event, None, Decision::unasked(), &loaded, held, instance);
    }
    let id = event_id(recorder, event.event_id);
    let deadline = Instant::now() + Duration::from_millis(compliance.event_timeout_ms.into());
    let Some(room) = chains.room(&event) else {
        let case = Case { compliance, event: &event, id: id.into_bytes(), node: &recorder.node, deadline };
        let decision = chain.map_or_else(Decision::unasked, |chain| chains.overflowed(chain, case));
        return record(recorder, event, Some(id), decision, &loaded, held, instance);
    };
    let ticket = chains.enter(lane);
    let instance = Arc::clone(instance);
    Step::Asking(Box::new(Asking { event, id, loaded, instance, chain, deadline, ticket, _room: room }))
}

impl Asking {
    /// Waits for its turn and for the decision, then for the record, and gives the answer.
    pub async fn finish(self, recorder: &Recorder) -> Verdict {
        let Self { event, id, loaded, instance, chain, deadline, mut ticket, _room } = self;
        ticket.turn().await;
        let decision = match chain {
            Some(chain) => {
                let (compliance, node) = (&loaded.config.compliance, recorder.node.as_str());
                let case = Case { compliance, event: &event, id: id.into_bytes(), node, deadline };
                recorder.chains.run(chain, case).await
            }
            None => Decision::unasked(),
        };
        let step = record(recorder, event, Some(id), decision, &loaded, true, &instance);
        // Its record has its place: the next of the conversation may have the place after it.
        drop(ticket);
        match step {
            Step::Answered(verdict) => verdict,
            Step::Recording(recording) => recording.finish(recorder).await,
            Step::Asking(_) => unreachable!("what was decided is not asked about again"),
        }
    }
}

/// Gives the record of an event that was decided its place in the order, where there is one to be made.
fn record(
    recorder: &Recorder,
    event: Event,
    id: Option<Uuid>,
    decision: Decision,
    loaded: &Arc<Loaded>,
    held: bool,
    instance: &Arc<str>,
) -> Step {
    let fate = Fate::new(decision, recorder.chains.primaries.of(&event));
    let archiving = &loaded.config.archiving;
    let endpoint = archiving.endpoint_of(&recorder.node).filter(|_| event.subject == Subject::Message);
    let hosts = recorder.hosts();
    let planned = endpoint.and_then(|endpoint| {
        Some((endpoint, decision::plan(&event, archiving, |domain| hosts.contains(domain))?))
    });
    let Some((endpoint, plan)) = planned else {
        return Step::Answered(match fate {
            Fate::GoesOn(goes_on) => deliver(Permit::NotRecorded, goes_on),
            Fate::Ends(ends) => end(ends, None),
        });
    };
    let id = id.unwrap_or_else(|| event_id(recorder, event.event_id));
    let endpoint = Arc::from(endpoint);
    if held && matches!(fate, Fate::GoesOn(_)) {
        let addressee = decision::bare_of(event.to.as_deref().unwrap_or(&event.from)).to_owned();
        // Now, not when it is on disk: a plugin that does not wait so long tells what it did before that.
        let open = OpenEvent {
            endpoint: Arc::clone(&endpoint),
            scope: plan.scope,
            instance: instance.clone(),
            addressee,
        };
        recorder.open_events().await_outcome(id, open);
    }
    let pending = recorder.append(&endpoint, draft(recorder, id, event, &plan, &fate));
    let loaded = Arc::clone(loaded);
    Step::Recording(Box::new(Recording { event: id, endpoint, loaded, held, fate, pending }))
}

impl Recording {
    /// Waits for the record and gives the answer.
    pub async fn finish(self, recorder: &Recorder) -> Verdict {
        let Self { event, endpoint, loaded, held, fate, pending } = self;
        let appended = pending.await;
        match &appended {
            Ok(_) => recorder.counts.add(|counts| counts.accepted += 1),
            Err(error) => {
                recorder.note_failure(error);
                recorder.open_events().give_up(event);
            }
        }
        let goes_on = match (fate, &appended) {
            (Fate::GoesOn(goes_on), _) => goes_on,
            (Fate::Ends(ends), Ok(_)) => return end(ends, Some(event)),
            (Fate::Ends(ends), Err(error)) => {
                tracing::warn!(%error, event = %event, "a message that was stopped could not be recorded");
                return end(ends, None);
            }
        };
        match appended {
            Ok(appended) => deliver(Permit::Synced { event, _proof: &appended }, goes_on),
            Err(error) => {
                let (cause, refused, gap) = classify(&error);
                let action = decision::unrecordable(&loaded.config.archiving, cause);
                // What nobody holds has been delivered, whatever was declared.
                if held && let bounce @ Action::Bounce(_) = action {
                    tracing::debug!(%error, "a message was refused");
                    recorder.counts.refused(refused, 1);
                    return Verdict::unrecorded(bounce);
                }
                recorder.counts.add(|counts| counts.delivered_unrecorded += 1);
                recorder.gaps.note(Some(&endpoint), gap, 1);
                deliver(Permit::Declared, goes_on)
            }
        }
    }
}

/// The id the plugin gave the event. One of our own, counted, where that is no id or was used of late: the message is recorded all the
/// same, and the verdict names the id it has.
fn event_id(recorder: &Recorder, given: Option<[u8; 16]>) -> Uuid {
    let mut open = recorder.open_events();
    if let Some(given) = given {
        let given = Uuid::from_bytes(given);
        let is_v7 = given.get_version_num() == 7 && given.get_variant() == uuid::Variant::RFC4122;
        if is_v7 && open.take(given) {
            return given;
        }
        recorder.counts.add(|counts| counts.bad_frames += 1);
        tracing::warn!(event = %given, is_v7, "the server plugin gave an event no usable id; it has another one");
    }
    let own = new_event_id();
    open.take(own);
    own
}

/// Before there is a configuration, and before the plugin has named its hosts, nothing is known that would allow delivering.
fn without_configuration(recorder: &Recorder, held: bool) -> Verdict {
    if held {
        recorder.counts.refused(Refused::NoConfiguration, 1);
    } else {
        recorder.counts.add(|counts| counts.delivered_unrecorded += 1);
        recorder.gaps.note(None, GapReason::JournalFailed, 1);
    }
    Verdict::unrecorded(Action::Bounce(decision::refusal(Cause::Failed)))
}

fn classify(error: &AppendError) -> (Cause, Refused, GapReason) {
    match error {
        AppendError::QueueFull { .. } | AppendError::JournalFull => {
            (Cause::Full, Refused::QueueFull, GapReason::QueueFull)
        }
        AppendError::TooLarge { .. } => (Cause::TooLarge, Refused::TooLarge, GapReason::JournalFailed),
        AppendError::Failed(_) | AppendError::Closed => {
            (Cause::Failed, Refused::JournalFailed, GapReason::JournalFailed)
        }
    }
}

/// The accepted record. A stanza that cannot be read is recorded all the same, as it came, with what the server says of it.
fn draft(recorder: &Recorder, id: Uuid, event: Event, plan: &Plan, fate: &Fate) -> Draft {
    let facts = MessageFacts::parse(&event.stanza).unwrap_or_else(|_| {
        recorder.counts.add(|counts| counts.unparseable += 1);
        tracing::warn!(event = %id, host = event.host, "a stanza could not be read as a message; it is recorded as it came");
        MessageFacts { message_type: TYPE_UNKNOWN.to_owned(), ..MessageFacts::default() }
    });
    let recipients =
        plan.copies.iter().map(|copy| RecipientEntry::new(copy.recipient.clone(), copy.direction)).collect();
    let (action, condition, exceptions, changed) = match fate {
        Fate::GoesOn(GoesOn { replacement, exceptions, .. }) => {
            let action = if replacement.is_some() { ActionCode::Replace } else { ActionCode::Deliver };
            let entries = exceptions.iter().map(|Exception { recipient, action }| {
                let (action, condition) = code(action);
                ExceptionEntry { recipient: recipient.clone(), action, condition }
            });
            (action, None, entries.collect(), replacement.clone())
        }
        Fate::Ends(Ends::Drop) => (ActionCode::Drop, None, Vec::new(), None),
        Fate::Ends(Ends::Bounce(bounce)) => {
            (ActionCode::Bounce, Some(bounce.condition.clone()), Vec::new(), None)
        }
    };
    let accepted = Accepted {
        event: id,
        seen_at_nanos: event.seen_at_micros.saturating_mul(1000),
        ingress: event.ingress,
        from: event.from,
        to: event.to,
        target: event.target,
        room: event.room,
        message_type: facts.message_type,
        stanza_id: facts.id,
        origin_id: facts.origin_id,
        host: event.host,
        recipients,
        action,
        condition,
        session: event.session,
        exceptions,
    };
    let mut payloads = vec![(1, event.stanza.into_bytes())];
    payloads.extend(changed.map(|stanza| (2, stanza.into_bytes())));
    Draft { body: Body::Accepted(accepted), payloads }
}

/// An action as records name it, with the condition of a bounce.
fn code(action: &Action) -> (ActionCode, Option<String>) {
    match action {
        Action::Deliver => (ActionCode::Deliver, None),
        Action::Replace(_) => (ActionCode::Replace, None),
        Action::Drop => (ActionCode::Drop, None),
        Action::Bounce(bounce) => (ActionCode::Bounce, Some(bounce.condition.clone())),
    }
}
