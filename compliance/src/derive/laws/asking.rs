//! What causes an event, and what is asked about for it (PR-9, FH-7).

use super::*;
use crate::config::{Compliance, WhenUnanswered};
use crate::derive::ask_about;
use crate::derive::asking::causes;
use crate::events::{self, Answers, Event, Handling, Packet, Yield};
use crate::link::Unanswered;
use crate::profile::{Profile, Rule};
use std::collections::BTreeSet;

/// Every kind of stanza that a plugin may ask about.
fn all_kinds() -> Vec<link::Event> {
    let stanzas = [
        BODY.to_owned(),
        DIRECT.into(),
        INVITE.into(),
        JOIN.into(),
        "<message type='groupchat'><subject/></message>".into(),
        "<message type='groupchat'/>".into(),
        "<presence/>".into(),
        iq("get", DISCO),
        owner("get", ""),
        owner("set", "<destroy/>"),
        owner("set", "<x xmlns='jabber:x:data'/>"),
        iq("set", "<query xmlns='urn:xmpp:mam:2'/>"),
        "<iq".into(),
        admin("<item affiliation='none'/><item affiliation='owner'/><item role='none'/>"),
    ];
    let mut kinds = Vec::new();
    for subject in Subject::ALL {
        // Which targets a subject has is the link's to say (docs/event-link.md, event).
        let targets: &[Target] = match subject {
            Subject::Message => &[
                Target::LocalUser,
                Target::Room,
                Target::Occupant,
                Target::Remote,
                Target::Service,
                Target::Component,
            ],
            Subject::Presence => &[Target::LocalUser, Target::Remote, Target::Service, Target::Component],
            Subject::Subscription => {
                &[Target::LocalUser, Target::Remote, Target::Service, Target::Component, Target::Room]
            }
            Subject::Iq => &[Target::LocalUser, Target::Remote, Target::Component],
            Subject::ServiceIq => &[Target::LocalUser, Target::Service],
            Subject::RoomPresence | Subject::RoomIq => &[Target::Room, Target::Occupant],
            Subject::Bind => &[Target::LocalUser],
        };
        for target in targets {
            for stanza in &stanzas {
                for bits in 0..16u8 {
                    let recipients = if bits & 1 == 0 {
                        Vec::new()
                    } else {
                        vec![person("ann@here.example", &["x", "y"]), person("bob@here.example", &["phone"])]
                    };
                    let to = (bits & 2 == 0).then_some("bob@here.example/phone");
                    kinds.push(link::Event {
                        recipients,
                        of_rooms: bits & 4 == 0,
                        room_exists: bits & 8 == 0,
                        ..event(subject, *target, to, stanza)
                    });
                }
            }
        }
    }
    kinds
}

#[test]
fn the_subjects_asked_about_are_exactly_those_that_cause_an_event() {
    let mut seen = BTreeSet::new();
    for event in all_kinds() {
        for occurrence in occurrences(&event) {
            assert!(
                causes(occurrence.event).contains(&event.subject),
                "{} is caused by {:?}: {event:?}",
                occurrence.event.name,
                event.subject
            );
            seen.insert((occurrence.event.name, event.subject));
        }
    }
    for event in events::ALL {
        for subject in causes(event) {
            assert!(seen.contains(&(event.name, *subject)), "{} is never caused by {subject:?}", event.name);
        }
        assert_eq!(causes(event).is_empty(), event.prosody != Yield::Held, "{} is held or told", event.name);
    }
}

#[test]
fn pr_9_what_is_told_of_is_never_caused_by_a_stanza_and_what_is_held_is() {
    let caused: BTreeSet<_> = all_kinds().iter().flat_map(|event| names(event)).collect();
    for event in events::ALL {
        assert_eq!(caused.contains(event.name), event.prosody == Yield::Held, "{}", event.name);
    }
    assert!(
        events::ALL.iter().all(|event| event.answers != Answers::Nothing || event.prosody != Yield::Held)
    );
}

fn compliance(profiles: Vec<(Option<&str>, Vec<Rule>)>) -> Compliance {
    let profile = |(node, events): (Option<&str>, Vec<Rule>)| Profile {
        name: "P".into(),
        events,
        servers: vec!["s".into()],
        nodes: node.map(|node| vec![node.to_owned()]),
    };
    Compliance { profiles: profiles.into_iter().map(profile).collect(), ..Compliance::default() }
}

/// Rules, and what is asked about for them.
type Row<'a> = (Vec<Rule>, &'a [(Subject, Unanswered)]);

#[test]
fn fh_7_the_plugin_asks_about_what_some_profile_wants_to_see_and_about_nothing_else() {
    use Handling::{Bounce, Pass};
    use Unanswered::{Deliver, Refuse};
    let rule = |event: &'static Event, packets: &[Packet], handling, fire_and_forget| Rule {
        packets: packets.to_vec(),
        handling,
        fire_and_forget,
        ..Rule::new(event)
    };
    let table: [Row<'_>; 12] = [
        (vec![], &[]),
        // Messages are always asked about, and what is only told needs no question.
        (vec![rule(&events::ES_OUT, &[Packet::Message], None, false)], &[]),
        (
            vec![rule(&events::ON_BEFORE_SEND, &[], None, false), rule(&events::ON_LEAVE, &[], None, false)],
            &[],
        ),
        (crate::profile::system_default(), &[(Subject::RoomPresence, Refuse), (Subject::Bind, Deliver)]),
        (
            vec![rule(&events::ES_OUT, &[Packet::Iq], None, false)],
            &[(Subject::Iq, Refuse), (Subject::ServiceIq, Refuse), (Subject::RoomIq, Refuse)],
        ),
        (
            vec![rule(&events::E_DELIVER, &[Packet::Presence, Packet::Subscription], None, false)],
            &[(Subject::Presence, Deliver), (Subject::Subscription, Deliver)],
        ),
        (
            vec![rule(&events::E_DELIVER, &[Packet::Presence], Some(Bounce), false)],
            &[(Subject::Presence, Refuse)],
        ),
        // What is told and then discarded goes on in no case.
        (vec![rule(&events::ON_BEFORE_JOIN, &[], Some(Bounce), true)], &[(Subject::RoomPresence, Refuse)]),
        (vec![rule(&events::ON_BEFORE_JOIN, &[], Some(Pass), true)], &[(Subject::RoomPresence, Deliver)]),
        (vec![rule(&events::ON_CLOSE, &[], Some(Pass), false)], &[(Subject::RoomIq, Deliver)]),
        // One that refuses is enough.
        (
            vec![rule(&events::ON_HISTORY, &[], None, false), rule(&events::ON_CLOSE, &[], None, false)],
            &[(Subject::RoomPresence, Deliver), (Subject::RoomIq, Refuse)],
        ),
        (vec![rule(&events::E_PRISESSION, &[Packet::Iq], None, false)], &[]),
    ];
    for (rules, expected) in table {
        let of = |node, chosen| -> Vec<(Subject, Unanswered)> {
            let declared = compliance(vec![(Some("n-0"), rules.clone())]);
            ask_about(&declared, node, chosen)
                .into_iter()
                .map(|asked| (asked.subject, asked.unanswered))
                .collect()
        };
        assert_eq!(of("n-0", None), expected, "{rules:?}");
        assert_eq!(of("n-1", None), [], "a profile counts where it is in force");
        for (chosen, word) in [(WhenUnanswered::Refuse, Refuse), (WhenUnanswered::Deliver, Deliver)] {
            assert!(of("n-0", Some(chosen)).iter().all(|(_, unanswered)| *unanswered == word));
            assert_eq!(of("n-0", Some(chosen)).len(), expected.len());
        }
    }
}
