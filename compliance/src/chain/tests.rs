//! Laws of the chain, with every answer scripted.

use super::*;
use crate::derive::Key;
use crate::events::{
    E_DELIVER, E_PRISESSION, E_SESSION, ES_IN, ES_OUT, Event, ON_BEFORE_BROADCAST, ON_HISTORY, Packet,
};
use crate::failure::UNDECIDED;
use crate::link::{Bounce, Ingress, Subject};
use crate::profile::Rule;
use crate::protocol::Answer;

fn rule(event: &Event) -> Rule {
    Rule::new(event)
}

fn profile(name: &str, events: Vec<Rule>) -> Profile {
    Profile { name: name.into(), events, servers: vec![format!("{name}-server")], nodes: None }
}

fn asking(profiles: Vec<Profile>) -> Compliance {
    Compliance { profiles, ..Compliance::default() }
}

fn recipient(bare: &str, resources: &[&str]) -> Recipient {
    let resources = resources.iter().map(|resource| (*resource).to_owned()).collect();
    Recipient { bare: bare.into(), occupant: None, resources }
}

fn message(recipients: &[Recipient]) -> link::Event {
    link::Event {
        ingress: Ingress::Client,
        host: "here.example".into(),
        stanza: "<message><body>hello</body></message>".into(),
        from: "ann@here.example/pc".into(),
        to: Some("desk@rooms.here.example".into()),
        target: Target::Room,
        recipients: recipients.to_vec(),
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

fn occurs(events: &[&'static Event], recipients: &[Recipient]) -> Vec<Occurrence> {
    let about = |event| Occurrence {
        event,
        packet: Packet::Message,
        key: Key::of("desk@rooms.here.example"),
        recipients: recipients.into(),
    };
    events.iter().map(|event| about(*event)).collect()
}

fn pass() -> Came {
    Came::Answered(Answer::Pass { stanza: None, exceptions: Vec::new() })
}

fn changed(stanza: &str) -> Came {
    Came::Answered(Answer::Pass { stanza: Some(stanza.into()), exceptions: Vec::new() })
}

fn except(exceptions: &[(&str, ExceptAction)]) -> Came {
    let exceptions = exceptions
        .iter()
        .map(|(recipient, action)| Except { recipient: (*recipient).into(), action: action.clone() })
        .collect();
    Came::Answered(Answer::Pass { stanza: None, exceptions })
}

fn error() -> Bounce {
    Bounce { error_type: "cancel".into(), condition: "policy-violation".into(), text: None }
}

/// Drives a chain: each question by profile and event with the stanza and the recipients it shows, and what becomes of it all.
fn drive(
    compliance: &Compliance,
    event: &link::Event,
    occurrences: Vec<Occurrence>,
    script: Vec<Came>,
) -> (Vec<(String, String, Vec<String>)>, Decision) {
    let mut chain = Chain::new(compliance, "pod-0", &event.stanza, occurrences).expect("a profile has it");
    let (mut seen, mut script) = (Vec::new(), script.into_iter());
    while let Some(turn) = chain.turn(compliance) {
        let question = chain.question(&turn, event, [7; 16], "pod-0");
        assert_eq!((question.event_id, question.awaited), ([7; 16], turn.awaited));
        let names = question.recipients.iter().map(|recipient| recipient.bare.clone()).collect();
        let about = format!("{}:{}", question.profile, question.event.name);
        seen.push((about, question.stanza.text().to_owned(), names));
        let came = if turn.awaited { script.next().expect("an answer") } else { Came::Told };
        assert!(!chain.take(compliance, Some("server"), came));
    }
    assert!(script.next().is_none(), "somebody was not asked: {seen:?}");
    (seen, chain.decide(event))
}

fn abouts(seen: &[(String, String, Vec<String>)]) -> Vec<&str> {
    seen.iter().map(|(about, ..)| about.as_str()).collect()
}

#[test]
fn pr_6_events_come_in_their_order_and_profiles_by_their_routing_priority() {
    let compliance = asking(vec![
        profile("second", vec![rule(&ES_OUT), rule(&ES_IN)]),
        profile("first", vec![rule(&E_DELIVER), rule(&ES_OUT)]),
        Profile { nodes: Some(vec!["pod-9".into()]), ..profile("elsewhere", vec![rule(&ES_OUT)]) },
        Profile { servers: Vec::new(), ..profile("unheld", vec![rule(&ES_OUT)]) },
    ]);
    let (event, events) = (message(&[]), [&ES_OUT, &E_DELIVER, &ES_IN]);
    let script = vec![pass(), pass(), pass(), pass()];
    let (seen, decision) = drive(&compliance, &event, occurs(&events, &[]), script);
    assert_eq!(abouts(&seen), ["second:es_OUT", "first:es_OUT", "first:e_DELIVER", "second:es_IN"]);
    assert_eq!(decision, Decision { named_only: true, ..Decision::unasked() });
    // Nobody is asked about what no profile has.
    assert!(Chain::new(&compliance, "pod-0", "", occurs(&[&E_SESSION], &[])).is_none());
}

#[test]
fn pr_6_a_changed_stanza_goes_on_to_the_next_and_is_what_is_delivered() {
    let compliance = asking(vec![profile("a", vec![rule(&ES_OUT)]), profile("b", vec![rule(&ES_OUT)])]);
    let event = message(&[]);
    let script = vec![changed("<message>1</message>"), pass()];
    let (seen, decision) = drive(&compliance, &event, occurs(&[&ES_OUT], &[]), script);
    assert_eq!(seen[0].1, event.stanza);
    assert_eq!(seen[1].1, "<message>1</message>");
    assert_eq!(decision.action, Action::Replace("<message>1</message>".into()));
    assert_eq!(decision.way, Way::Modified);
    assert_eq!(decision.by.expect("a server").profile, "a");
}

#[test]
fn cs_4_handle_ends_the_chain_and_the_stanza_without_a_word() {
    let compliance = asking(vec![profile("a", vec![rule(&ES_OUT)]), profile("b", vec![rule(&ES_OUT)])]);
    let script = vec![Came::Answered(Answer::Handle)];
    let (_, decision) = drive(&compliance, &message(&[]), occurs(&[&ES_OUT], &[]), script);
    assert_eq!((decision.action, decision.way), (Action::Drop, Way::Handled));
}

#[test]
fn pr_1_an_error_ends_the_chain_with_bounce_and_is_discarded_with_pass() {
    let lenient = Rule { handling: Some(Handling::Pass), ..rule(&ES_OUT) };
    let compliance = asking(vec![profile("a", vec![lenient]), profile("b", vec![rule(&ES_OUT)])]);
    let refused = || Came::Answered(Answer::Error(error()));
    let script = vec![refused(), refused()];
    let (_, decision) = drive(&compliance, &message(&[]), occurs(&[&ES_OUT, &ES_IN], &[]), script);
    assert_eq!((decision.action, decision.way), (Action::Bounce(error()), Way::Refused));
    assert_eq!(decision.by.expect("a server").profile, "b");
}

#[test]
fn fh_4_nobody_after_an_undecided_event_is_asked_with_bounce_and_the_next_is_with_pass() {
    let lenient = Rule { handling: Some(Handling::Pass), ..rule(&ES_OUT) };
    let strict = asking(vec![profile("a", vec![rule(&ES_OUT)]), profile("b", vec![rule(&ES_OUT)])]);
    let (event, occurrences) = (message(&[]), occurs(&[&ES_OUT], &[]));
    let (_, decision) = drive(&strict, &event, occurrences.clone(), vec![Came::TimedOut]);
    let Action::Bounce(bounce) = decision.action else { panic!("{decision:?}") };
    assert_eq!((decision.way, bounce.text.as_deref()), (Way::RefusedUndecided, Some(UNDECIDED)));
    let lenient = asking(vec![profile("a", vec![lenient]), profile("b", vec![rule(&ES_OUT)])]);
    let (_, decision) = drive(&lenient, &event, occurrences, vec![Came::TimedOut, pass()]);
    assert_eq!((decision.action, decision.way), (Action::Deliver, Way::PassedUndecided));
}

#[test]
fn fh_4_with_pass_time_is_shared_with_those_asked_later_and_with_bounce_it_is_not() {
    let lenient = |event| Rule { handling: Some(Handling::Pass), ..rule(event) };
    let told = Rule { fire_and_forget: true, ..lenient(&ES_OUT) };
    let compliance = asking(vec![
        profile("a", vec![lenient(&ES_OUT)]),
        profile("told", vec![told]),
        profile("b", vec![lenient(&ES_OUT)]),
        profile("c", vec![rule(&ES_OUT)]),
    ]);
    let mut chain = Chain::new(&compliance, "pod-0", "", occurs(&[&ES_OUT], &[])).expect("asked");
    let mut shares = Vec::new();
    let mut left = Duration::from_secs(30);
    while let Some(turn) = chain.turn(&compliance) {
        if turn.awaited {
            shares.push(chain.share(left).as_secs());
            left -= chain.share(left);
            chain.take(&compliance, None, Came::TimedOut);
        } else {
            chain.take(&compliance, None, Came::Told);
        }
    }
    assert_eq!(shares, [10, 10, 10]);
    let strict = asking(vec![profile("a", vec![rule(&ES_OUT)]), profile("b", vec![rule(&ES_OUT)])]);
    let chain = Chain::new(&strict, "pod-0", "", occurs(&[&ES_OUT], &[])).expect("asked");
    assert_eq!(chain.share(Duration::from_secs(30)).as_secs(), 30);
}

#[test]
fn pr_2_fire_and_forget_with_bounce_is_told_and_discarded() {
    let told = |handling| Rule { fire_and_forget: true, handling: Some(handling), ..rule(&ES_OUT) };
    let (event, occurrences) = (message(&[]), occurs(&[&ES_OUT], &[]));
    let last = || profile("last", vec![rule(&ES_OUT)]);
    let bounce = asking(vec![profile("log", vec![told(Handling::Bounce)]), last()]);
    let (seen, decision) = drive(&bounce, &event, occurrences.clone(), vec![]);
    assert_eq!(abouts(&seen), ["log:es_OUT"]);
    assert_eq!((decision.action, decision.way), (Action::Drop, Way::Handled));
    let pass_on = asking(vec![profile("log", vec![told(Handling::Pass)]), last()]);
    let (seen, decision) = drive(&pass_on, &event, occurrences, vec![pass()]);
    assert_eq!(abouts(&seen), ["log:es_OUT", "last:es_OUT"]);
    assert_eq!(decision, Decision::unasked());
}

#[test]
fn fh_2_who_comes_into_a_room_while_it_is_asked_about_gets_nothing_that_bounce_would_not_let_go_on_undecided()
{
    let rule = |event, handling, fire_and_forget| Rule { handling, fire_and_forget, ..rule(event) };
    let private = link::Event { target: Target::Occupant, ..message(&[]) };
    for (rule, event, expected) in [
        (rule(&ES_IN, None, false), message(&[]), true),
        (rule(&ON_BEFORE_BROADCAST, None, false), message(&[]), true),
        (rule(&ES_IN, Some(Handling::Pass), false), message(&[]), false),
        (rule(&ES_IN, Some(Handling::Pass), true), message(&[]), false),
        (rule(&ES_OUT, None, false), message(&[]), false),
        (rule(&ES_IN, None, false), private, false),
    ] {
        let compliance = asking(vec![profile("a", vec![rule.clone()])]);
        let script = if rule.fire_and_forget { vec![] } else { vec![pass()] };
        let events = occurs(&[&ES_OUT, &ON_BEFORE_BROADCAST, &ES_IN], &[recipient("a@x", &["1"])]);
        let (_, decision) = drive(&compliance, &event, events, script);
        assert_eq!((decision.action, decision.named_only), (Action::Deliver, expected), "{rule:?}");
    }
}

#[test]
fn pr_9_what_an_event_does_not_admit_changes_nothing() {
    let compliance = asking(vec![profile("a", vec![rule(&ON_HISTORY)])]);
    for came in [Came::NotAdmitted, Came::Answered(Answer::Handle), changed("<presence/>")] {
        let (_, decision) = drive(&compliance, &message(&[]), occurs(&[&ON_HISTORY], &[]), vec![came]);
        assert_eq!(decision, Decision::unasked());
    }
}

#[test]
fn whoever_is_excepted_is_not_asked_about_again_and_no_later_server_undoes_it() {
    let three = [recipient("a@x", &["1", "2"]), recipient("b@x", &["1"]), recipient("c@x", &[])];
    let (event, events) = (message(&three), [&ES_IN]);
    let rules = || vec![rule(&ES_IN)];
    let compliance = asking(vec![
        profile("p", rules()),
        profile("q", rules()),
        profile("r", rules()),
        profile("s", rules()),
    ]);
    let own = || ExceptAction::Replace("<message>own</message>".into());
    let script = vec![
        except(&[("b@x", ExceptAction::Refuse(error())), ("a@x/1", ExceptAction::Withhold), ("c@x", own())]),
        // Who was replaced is there still, and may be withheld. What was withheld stays so, whatever is said of the whole account.
        except(&[("a@x", own())]),
        changed("<message>for all</message>"),
        except(&[("c@x", ExceptAction::Withhold), ("a@x", ExceptAction::Withhold)]),
    ];
    let (seen, decision) = drive(&compliance, &event, occurs(&events, &three), script);
    assert_eq!(seen[0].2, ["a@x", "b@x", "c@x"]);
    assert_eq!(seen[1].2, ["a@x", "c@x"]);
    assert_eq!(seen[2].2, ["a@x", "c@x"]);
    assert_eq!(decision.action, Action::Replace("<message>for all</message>".into()));
    let exceptions: Vec<_> =
        decision.exceptions.iter().map(|e| (e.recipient.as_str(), e.action.clone())).collect();
    assert_eq!(
        exceptions,
        [
            ("b@x", Action::Bounce(error())),
            ("a@x/1", Action::Drop),
            ("c@x", Action::Drop),
            ("a@x", Action::Drop)
        ]
    );
}

#[test]
fn a_copy_that_was_replaced_keeps_its_own_form_when_the_stanza_is_changed_later() {
    let two = [recipient("a@x", &["1"]), recipient("b@x", &["1"])];
    let compliance = asking(vec![profile("p", vec![rule(&ES_IN)]), profile("q", vec![rule(&ES_IN)])]);
    let own = ExceptAction::Replace("<message>own</message>".into());
    let script = vec![except(&[("a@x", own)]), changed("<message>all</message>")];
    let (_, decision) = drive(&compliance, &message(&two), occurs(&[&ES_IN], &two), script);
    assert_eq!(decision.action, Action::Replace("<message>all</message>".into()));
    let own = Exception { recipient: "a@x".into(), action: Action::Replace("<message>own</message>".into()) };
    assert_eq!(decision.exceptions, [own]);
}

#[test]
fn when_nobody_is_left_who_would_get_it_nobody_is_asked_about_receiving_it() {
    let one = [recipient("a@x", &["1"])];
    let compliance = asking(vec![profile("p", vec![rule(&ES_IN)]), profile("q", vec![rule(&ES_IN)])]);
    let script = vec![except(&[("a@x/1", ExceptAction::Withhold)])];
    let (seen, _) = drive(&compliance, &message(&one), occurs(&[&ES_IN], &one), script);
    assert_eq!(abouts(&seen), ["p:es_IN"]);
}

#[test]
fn what_is_said_of_the_only_recipient_is_said_of_the_stanza() {
    let one = [recipient("a@x", &["1", "2"])];
    let event = link::Event { target: Target::LocalUser, ..message(&one) };
    let compliance = asking(vec![profile("p", vec![rule(&ES_IN)])]);
    for (action, becomes, way) in [
        (ExceptAction::Withhold, Action::Drop, Way::Handled),
        (ExceptAction::Refuse(error()), Action::Bounce(error()), Way::Refused),
        (ExceptAction::Replace("<message/>".into()), Action::Replace("<message/>".into()), Way::Modified),
    ] {
        let script = vec![except(&[("a@x", action)])];
        let (_, decision) = drive(&compliance, &event, occurs(&[&ES_IN], &one), script);
        assert_eq!((decision.action, decision.way, decision.exceptions.len()), (becomes, way, 0));
    }
}

#[test]
fn pr_10_a_server_names_the_session_of_the_account_that_asked_and_no_other() {
    let own = [recipient("ann@here.example", &["pc", "phone"])];
    let compliance = asking(vec![profile("p", vec![rule(&E_PRISESSION)])]);
    for (from, named) in [
        ("ann@here.example/phone", true),
        ("ann@here.example/tablet", false),
        ("bob@here.example/phone", false),
        ("ann@here.example", false),
    ] {
        let presence = changed(&format!("<presence xmlns='jabber:client' from='{from}'/>"));
        let (_, decision) = drive(&compliance, &message(&[]), occurs(&[&E_PRISESSION], &own), vec![presence]);
        assert_eq!(decision.primary.as_deref(), named.then_some(from));
        assert_eq!((decision.action, decision.way), (Action::Deliver, Way::Passed));
    }
}
