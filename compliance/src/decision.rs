//! Whether a message is recorded, whose copies the record names, and what happens to a message that cannot be recorded
//! (MA-3, MA-4, MA-6, FH-7).
//!
//! Pure functions. A message is one record; each copy has a direction of its own. The message is recorded when one of its copies
//! goes in a recorded direction, and the record then names exactly those copies. A room here is an addressee itself, so that what
//! is said in an empty room is recorded as well. What does not happen here: reading the stanza, and writing the record.

use crate::config::{Archiving, SidecarConfig, WhenUnanswered};
use crate::derive;
use crate::direction::Direction;
use crate::link::{Action, Bounce, Event, Recipient, Settings, Subject, Target, Unanswered};

/// The text a sender reads whose message was refused because it could not be recorded.
pub const REFUSAL: &str =
    "This message was not delivered because it cannot be recorded at the moment. Try again later.";

/// The text a sender reads whose message is larger than a record may be.
pub const REFUSAL_TOO_LARGE: &str = "This message was not delivered because it is too large to be recorded.";

/// What the plugin waits longer than compliance servers may take: time to write the record and to answer.
const BEYOND_SERVERS_MS: u32 = 5_000;

/// The part of a JID before its resource.
#[must_use]
pub fn bare_of(jid: &str) -> &str {
    jid.split_once('/').map_or(jid, |(bare, _)| bare)
}

/// The domain of a JID.
#[must_use]
pub fn domain_of(jid: &str) -> &str {
    // A resource may hold an @, so it goes first (RFC 7622, 3.2).
    let bare = bare_of(jid);
    bare.split_once('@').map_or(bare, |(_, domain)| domain)
}

/// Which directions are recorded, as seen from one sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope {
    /// `archiving.inbound`.
    pub inbound: bool,
    /// `archiving.outbound`.
    pub outbound: bool,
    /// Whether the sender belongs to a host of this server.
    pub sender_is_ours: bool,
}

impl Scope {
    /// The direction of the copy for `jid`, if it is recorded.
    pub fn recorded(&self, jid: &str, ours: impl Fn(&str) -> bool) -> Option<Direction> {
        let direction = Direction::of(self.sender_is_ours, ours(domain_of(jid)));
        direction.is_recorded(self.inbound, self.outbound).then_some(direction)
    }
}

/// One copy that the record names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedCopy {
    /// Who would get it, as the server sees it.
    pub recipient: Recipient,
    /// Which way it goes.
    pub direction: Direction,
}

/// What is recorded of an event that is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The directions in force, to be applied to outcomes too.
    pub scope: Scope,
    /// The copies in recorded directions; none for a message to an empty room.
    pub copies: Vec<RecordedCopy>,
}

/// What is recorded of `event`; `None` when none of its copies goes in a recorded direction. `ours` says whether a domain is a
/// host of this server, its external components included.
pub fn plan(event: &Event, archiving: &Archiving, ours: impl Fn(&str) -> bool) -> Option<Plan> {
    let scope = Scope {
        inbound: archiving.inbound,
        outbound: archiving.outbound,
        sender_is_ours: ours(domain_of(&event.from)),
    };
    let in_a_room = matches!(event.target, Target::Room | Target::Occupant);
    let copies: Vec<RecordedCopy> = if event.recipients.is_empty() && !in_a_room {
        // Nobody named: the addressee, or the sender's own account where there is none (RFC 6120, 8.1.1).
        let addressee = event.to.as_deref().unwrap_or(&event.from);
        let recipient = Recipient { bare: bare_of(addressee).to_owned(), ..Recipient::default() };
        copy(&scope, recipient, &ours).into_iter().collect()
    } else {
        event.recipients.iter().filter_map(|recipient| copy(&scope, recipient.clone(), &ours)).collect()
    };
    // A private message is for its occupant, not for the room; where that one is unknown, the room is all there is.
    let for_the_room = event.target == Target::Room || (in_a_room && event.recipients.is_empty());
    let the_room_is =
        for_the_room && Direction::of(scope.sender_is_ours, true).is_recorded(scope.inbound, scope.outbound);
    (!copies.is_empty() || the_room_is).then_some(Plan { scope, copies })
}

fn copy(scope: &Scope, recipient: Recipient, ours: impl Fn(&str) -> bool) -> Option<RecordedCopy> {
    let direction = scope.recorded(&recipient.bare, ours)?;
    Some(RecordedCopy { recipient, direction })
}

/// Why a message cannot be recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// There is no room for it: a queue or the journal is full.
    Full,
    /// The record would be larger than the journal takes.
    TooLarge,
    /// Writing failed, or nothing is there to write to.
    Failed,
}

/// What happens to a message that should be recorded and cannot be (MA-6): refused, or delivered and counted.
#[must_use]
pub fn unrecordable(archiving: &Archiving, cause: Cause) -> Action {
    if archiving.block_if_unable_to_record { Action::Bounce(refusal(cause)) } else { Action::Deliver }
}

/// The error its sender gets.
#[must_use]
pub fn refusal(cause: Cause) -> Bounce {
    // `wait` lets a client try again by itself (RFC 6120, 8.3.2); a message that is too large never gets smaller.
    let (error_type, condition, text) = match cause {
        Cause::Full => ("wait", "resource-constraint", REFUSAL),
        Cause::Failed => ("wait", "internal-server-error", REFUSAL),
        Cause::TooLarge => ("modify", "policy-violation", REFUSAL_TOO_LARGE),
    };
    Bounce { error_type: error_type.into(), condition: condition.into(), text: Some(text.into()) }
}

/// The error for a message of which the sidecar could not read what the plugin said of it.
#[must_use]
pub fn refusal_of_unreadable() -> Bounce {
    Bounce {
        error_type: "cancel".into(),
        condition: "internal-server-error".into(),
        text: Some("This message was not delivered because the recording service could not read it.".into()),
    }
}

/// What the plugin does alone, by the configuration in force on `node` (FH-7).
///
/// A message that gets no answer is refused where it has to be recorded or not delivered, and where some profile waits for the answer to an
/// event of messages and refuses what is undecided; else it is delivered and counted. `link.unanswered` decides otherwise. Where servers are
/// asked, the plugin waits somewhat longer than they may take together, so that it is the sidecar that decides.
#[must_use]
pub fn settings(config: &SidecarConfig, node: &str) -> Settings {
    let SidecarConfig { archiving, compliance, link, .. } = config;
    let records = archiving.endpoint_of(node).is_some() && (archiving.inbound || archiving.outbound);
    let refuses = match link.unanswered {
        Some(chosen) => chosen == WhenUnanswered::Refuse,
        None => {
            records && archiving.block_if_unable_to_record
                || derive::is_refused_undecided(compliance, node, Subject::Message)
        }
    };
    let answer_timeout_ms = if derive::is_anybody_asked(compliance, node) {
        link.answer_timeout_ms.max(compliance.event_timeout_ms.saturating_add(BEYOND_SERVERS_MS))
    } else {
        link.answer_timeout_ms
    };
    Settings {
        unanswered: if refuses { Unanswered::Refuse } else { Unanswered::Deliver },
        answer_timeout_ms,
        max_waiting: link.max_waiting,
        generation: config.generation,
        ask_about: derive::ask_about(compliance, node, link.unanswered),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{AlarmSettings, ClusterRef, Compliance, FORMAT, JournalSettings, LinkSettings};
    use crate::events::{self, Handling, Packet};
    use crate::link::Ingress;
    use crate::profile::{Profile, Rule};

    fn archiving(inbound: bool, outbound: bool, block: bool) -> Archiving {
        Archiving {
            inbound,
            outbound,
            block_if_unable_to_record: block,
            endpoint: Some("main".into()),
            node_endpoints: [].into(),
        }
    }

    fn event(from: &str, to: Option<&str>, target: Target, recipients: &[&str]) -> Event {
        Event {
            ingress: Ingress::Client,
            host: "here.example".into(),
            stanza: "<message/>".into(),
            from: from.into(),
            to: to.map(str::to_owned),
            target,
            recipients: recipients
                .iter()
                .map(|bare| Recipient { bare: (*bare).into(), ..Recipient::default() })
                .collect(),
            session: None,
            address: None,
            secure: true,
            seen_at_micros: 1,
            room: None,
            event_id: None,
            subject: Subject::Message,
            of_rooms: false,
            room_exists: true,
        }
    }

    fn ours(domain: &str) -> bool {
        ["here.example", "rooms.here.example"].contains(&domain)
    }

    fn copies(plan: Option<Plan>) -> Option<Vec<(String, Direction)>> {
        plan.map(|plan| plan.copies.into_iter().map(|c| (c.recipient.bare, c.direction)).collect())
    }

    #[test]
    fn the_domain_of_a_jid_is_found_whatever_its_resource_holds() {
        for (jid, domain) in [
            ("a@b", "b"),
            ("b", "b"),
            ("a@b/c", "b"),
            ("b/x@y", "b"),
            ("a@b/x@y/z", "b"),
            ("", ""),
            ("@", ""),
            ("/", ""),
        ] {
            assert_eq!(domain_of(jid), domain, "{jid:?}");
        }
    }

    #[test]
    fn a_message_is_recorded_when_a_copy_goes_in_a_recorded_direction_and_names_only_such_copies() {
        use Direction::{Inbound, Internal, Outbound};
        use Target::{LocalUser, Remote, Room};
        const A: &str = "a@here.example/pc";
        const F: &str = "f@far.example/pc";
        const R: Option<&str> = Some("r@rooms.here.example");
        let mixed = ["b@here.example", "g@far.example"];
        type Row<'a> = (
            &'a str,
            Option<&'a str>,
            Target,
            &'a [&'a str],
            (bool, bool),
            Option<&'a [(&'a str, Direction)]>,
        );
        let b_internal: &[(&str, Direction)] = &[("b@here.example", Internal)];
        let table: &[Row<'_>] = &[
            // one to one, inside
            (A, Some("b@here.example"), LocalUser, &[], (true, false), Some(b_internal)),
            (A, Some("b@here.example/x"), LocalUser, &["b@here.example"], (false, true), Some(b_internal)),
            (A, Some("b@here.example"), LocalUser, &[], (false, false), None),
            // to oneself, without an addressee
            (A, None, LocalUser, &[], (true, false), Some(&[("a@here.example", Internal)])),
            // to and from another server
            (A, Some("g@far.example/p"), Remote, &[], (true, false), None),
            (A, Some("g@far.example/p"), Remote, &[], (false, true), Some(&[("g@far.example", Outbound)])),
            (F, Some("b@here.example"), LocalUser, &[], (true, false), Some(&[("b@here.example", Inbound)])),
            (F, Some("b@here.example"), LocalUser, &[], (false, true), None),
            // in a room with occupants here and elsewhere
            (A, R, Room, &mixed, (true, false), Some(b_internal)),
            (
                A,
                R,
                Room,
                &mixed,
                (true, true),
                Some(&[("b@here.example", Internal), ("g@far.example", Outbound)]),
            ),
            (F, R, Room, &mixed, (true, false), Some(&[("b@here.example", Inbound)])),
            (F, R, Room, &mixed, (false, true), Some(&[("g@far.example", Outbound)])),
            // the room itself is an addressee here
            (A, R, Room, &[], (true, false), Some(&[])),
            (A, R, Room, &["g@far.example"], (true, false), Some(&[])),
            (F, R, Room, &[], (false, true), None),
            (A, R, Room, &[], (false, false), None),
            // a private message is for its occupant alone
            (A, R, Target::Occupant, &["g@far.example"], (true, false), None),
            (A, R, Target::Occupant, &["b@here.example"], (true, false), Some(b_internal)),
            (A, R, Target::Occupant, &[], (true, false), Some(&[])),
        ];
        for (from, to, target, recipients, (inbound, outbound), expected) in table {
            let got =
                plan(&event(from, *to, *target, recipients), &archiving(*inbound, *outbound, true), ours);
            let expected =
                expected.map(|copies| copies.iter().map(|(jid, d)| ((*jid).to_owned(), *d)).collect());
            assert_eq!(copies(got), expected, "{from} {to:?} {target:?} {recipients:?} {inbound} {outbound}");
        }
    }

    #[test]
    fn what_cannot_be_recorded_is_refused_or_delivered_as_declared() {
        for (block, cause, expected) in [
            (true, Cause::Full, Some(("wait", "resource-constraint"))),
            (true, Cause::Failed, Some(("wait", "internal-server-error"))),
            (true, Cause::TooLarge, Some(("modify", "policy-violation"))),
            (false, Cause::Full, None),
            (false, Cause::Failed, None),
            (false, Cause::TooLarge, None),
        ] {
            match (unrecordable(&archiving(true, true, block), cause), expected) {
                (Action::Bounce(bounce), Some(expected)) => {
                    assert_eq!((bounce.error_type.as_str(), bounce.condition.as_str()), expected);
                    assert!(bounce.text.is_some());
                }
                (Action::Deliver, None) => {}
                other => panic!("{block} {cause:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn unanswered_messages_are_refused_only_where_something_must_be_recorded() {
        for (inbound, outbound, block, endpoint, expected) in [
            (true, false, true, true, Unanswered::Refuse),
            (false, true, true, true, Unanswered::Refuse),
            (true, true, false, true, Unanswered::Deliver),
            (false, false, true, true, Unanswered::Deliver),
            (true, true, true, false, Unanswered::Deliver),
        ] {
            let mut archiving = archiving(inbound, outbound, block);
            archiving.endpoint = endpoint.then(|| "main".into());
            let config = config(archiving);
            let settings = settings(&config, "pod-0");
            assert_eq!(settings.unanswered, expected, "{inbound} {outbound} {block} {endpoint}");
            assert_eq!(settings.generation, 7);
        }
    }

    fn config(archiving: Archiving) -> SidecarConfig {
        SidecarConfig {
            format: FORMAT,
            cluster: ClusterRef::default(),
            generation: 7,
            archiving,
            endpoints: [].into(),
            journal: JournalSettings::default(),
            link: LinkSettings::default(),
            alarms: AlarmSettings::default(),
            compliance: Compliance::default(),
        }
    }

    #[test]
    fn fh_7_an_unanswered_message_is_refused_where_it_is_recorded_or_else_or_where_somebody_decides_about_it()
    {
        use Unanswered::{Deliver, Refuse};
        let rule = |event, handling, fire_and_forget| Rule { handling, fire_and_forget, ..Rule::new(event) };
        let of_iqs = Rule { packets: vec![Packet::Iq], ..Rule::new(&events::ES_OUT) };
        for (rules, block, chosen, expected) in [
            (vec![], false, None, Deliver),
            (vec![], true, None, Refuse),
            (vec![rule(&events::ES_OUT, None, false)], false, None, Refuse),
            (vec![rule(&events::ON_BEFORE_SEND, None, false)], false, None, Refuse),
            (vec![rule(&events::ES_OUT, Some(Handling::Pass), true)], false, None, Deliver),
            (vec![rule(&events::ES_OUT, Some(Handling::Bounce), true)], false, None, Refuse),
            (vec![rule(&events::ES_OUT, Some(Handling::Pass), false)], false, None, Deliver),
            (vec![of_iqs], false, None, Deliver),
            (vec![rule(&events::ON_BEFORE_JOIN, None, false)], false, None, Deliver),
            (vec![rule(&events::ES_OUT, None, false)], true, Some(WhenUnanswered::Deliver), Deliver),
            (vec![], false, Some(WhenUnanswered::Refuse), Refuse),
        ] {
            let mut config = config(archiving(true, true, block));
            config.link.unanswered = chosen;
            config.compliance.profiles =
                vec![Profile { name: "P".into(), events: rules.clone(), servers: Vec::new(), nodes: None }];
            assert_eq!(settings(&config, "pod-0").unanswered, expected, "{rules:?} {block} {chosen:?}");
        }
    }

    #[test]
    fn fh_2_the_plugin_waits_longer_than_the_servers_may_take() {
        for (nodes, event_timeout_ms, expected) in [
            (None, 30_000, 35_000),
            (None, 1_000, 30_000),
            (Some(vec!["pod-1".to_owned()]), 30_000, 30_000),
            (None, u32::MAX, u32::MAX),
        ] {
            let mut config = config(archiving(true, true, true));
            config.compliance.event_timeout_ms = event_timeout_ms;
            config.compliance.profiles =
                vec![Profile { name: "P".into(), events: Vec::new(), servers: Vec::new(), nodes }];
            assert_eq!(settings(&config, "pod-0").answer_timeout_ms, expected);
        }
    }
}
