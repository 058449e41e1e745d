//! The path of an event: what the plugin asks, is recorded, and is answered (P1, P3; MA-2, MA-3, MA-4, MA-6).
//!
//! Invariants: an event takes its place in the order of its stream before the next one is looked at; a recorded message is
//! answered with "deliver" only by [`Permit::Synced`], which cannot be had before the journal has synced its record; an event is
//! judged from beginning to end by the configuration it came under; no two events of late have the same id, whatever the plugin
//! says. No compliance server takes part yet.

use crate::config::Loaded;
use crate::counts::Refused;
use crate::open_events::OpenEvent;
use crate::recorder::{Pending, Recorder};
use cartulary_archive::journal::{AppendError, Appended};
use cartulary_archive::record::{Accepted, ActionCode, Body, Draft, GapReason, RecipientEntry, new_event_id};
use cartulary_compliance::decision::{self, Cause, Plan};
use cartulary_compliance::link::{Action, Event, Ingress, Verdict};
use cartulary_compliance::stanza::MessageFacts;
use std::sync::Arc;
use uuid::Uuid;

/// `type` in the record of a stanza that could not be read as a message. No message can have it (RFC 6121, 5.2.2).
pub const TYPE_UNKNOWN: &str = "unknown";

/// What the first look at an event gives.
pub enum Step {
    /// The answer is known.
    Answered(Verdict),
    /// The answer waits for the record.
    Recording(Box<Recording>),
}

/// An event whose record waits for its sync.
pub struct Recording {
    event: Uuid,
    endpoint: Arc<str>,
    loaded: Arc<Loaded>,
    held: bool,
    pending: Pending,
}

/// Why a message may be delivered. [`deliver`] is the only place that says so, and it wants one of these.
enum Permit<'a> {
    /// Its record is on disk.
    Synced { event: Uuid, _proof: &'a Appended },
    /// None of its copies goes in a recorded direction, or archiving is off.
    NotRecorded,
    /// It is declared that what cannot be recorded is delivered and counted.
    Declared,
}

fn deliver(permit: Permit<'_>) -> Verdict {
    let unrecorded = Verdict::unrecorded(Action::Deliver);
    match permit {
        Permit::Synced { event, _proof } => {
            Verdict { event_id: Some(event.into_bytes()), outcome_wanted: true, ..unrecorded }
        }
        Permit::NotRecorded | Permit::Declared => unrecorded,
    }
}

/// Looks at an event and gives its record a place in the order. `held`: the server waits for the answer. `instance`: the process of the
/// server that asks.
pub fn begin(recorder: &Recorder, event: Event, held: bool, instance: &Arc<str>) -> Step {
    recorder.counts.add(|counts| counts.events += 1);
    let held = held && event.ingress != Ingress::Internal;
    let hosts = recorder.hosts();
    let Some(loaded) = recorder.loaded().filter(|_| !hosts.is_empty()) else {
        return Step::Answered(without_configuration(recorder, held));
    };
    let archiving = &loaded.config.archiving;
    let Some(endpoint) = archiving.endpoint_of(&recorder.node) else {
        return Step::Answered(deliver(Permit::NotRecorded));
    };
    let Some(plan) = decision::plan(&event, archiving, |domain| hosts.contains(domain)) else {
        return Step::Answered(deliver(Permit::NotRecorded));
    };
    let (id, endpoint) = (event_id(recorder, event.event_id), Arc::from(endpoint));
    if held {
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
    let pending = recorder.append(&endpoint, draft(recorder, id, event, &plan));
    Step::Recording(Box::new(Recording { event: id, endpoint, loaded, held, pending }))
}

impl Recording {
    /// Waits for the record and gives the answer.
    pub async fn finish(self, recorder: &Recorder) -> Verdict {
        let Self { event, endpoint, loaded, held, pending } = self;
        match pending.await {
            Ok(appended) => {
                recorder.counts.add(|counts| counts.accepted += 1);
                deliver(Permit::Synced { event, _proof: &appended })
            }
            Err(error) => {
                recorder.note_failure(&error);
                recorder.open_events().give_up(event);
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
                deliver(Permit::Declared)
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
fn draft(recorder: &Recorder, id: Uuid, event: Event, plan: &Plan) -> Draft {
    let facts = MessageFacts::parse(&event.stanza).unwrap_or_else(|_| {
        recorder.counts.add(|counts| counts.unparseable += 1);
        tracing::warn!(event = %id, host = event.host, "a stanza could not be read as a message; it is recorded as it came");
        MessageFacts { message_type: TYPE_UNKNOWN.to_owned(), ..MessageFacts::default() }
    });
    let recipients =
        plan.copies.iter().map(|copy| RecipientEntry::new(copy.recipient.clone(), copy.direction)).collect();
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
        action: ActionCode::Deliver,
        condition: None,
        session: event.session,
        exceptions: Vec::new(),
    };
    Draft { body: Body::Accepted(accepted), payloads: vec![(1, event.stanza.into_bytes())] }
}
