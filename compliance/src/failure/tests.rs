//! Every row of the table.

use super::*;
use crate::events::{self, Group};
use Standing::{InService, Out, Queueing};
use std::collections::BTreeSet;

fn names(servers: &[&str]) -> Vec<String> {
    servers.iter().map(|server| (*server).to_owned()).collect()
}

fn error() -> Bounce {
    Bounce { error_type: "cancel".into(), condition: "policy-violation".into(), text: None }
}

fn pass() -> Answer {
    Answer::Pass { stanza: None, exceptions: Vec::new() }
}

fn keys() -> impl Iterator<Item = Key> {
    (0..200).map(|n| Key::pair(&format!("u{n}@here.example"), "v@here.example"))
}

const UNDECIDED_ALL: [Came; 4] = [Came::Malformed, Came::TimedOut, Came::Overflowed, Came::Nobody];

#[test]
fn fh_1_a_lone_server_that_shut_down_leaves_nobody_and_its_handling_decides_at_once() {
    let lone = names(&["a"]);
    for key in keys() {
        assert_eq!(route(&key, &lone, |_| Out), Route::Nobody(Some("a")));
    }
    assert_eq!(next(&events::E_SESSION, Handling::Pass, Came::Nobody), Next::GoOnUndecided);
    assert_eq!(next(&events::ES_OUT, Handling::Bounce, Came::Nobody), Next::End(End::Undecided));
    assert_eq!(next(&events::ON_BEFORE_JOIN, Handling::Bounce, Came::Nobody), Next::End(End::Undecided));
    let error = undecided();
    assert_eq!((error.error_type.as_str(), error.condition.as_str()), ("wait", "service-unavailable"));
}

#[test]
fn fh_2_events_queue_for_a_server_that_failed_and_their_handling_decides_when_time_is_over() {
    let both = names(&["a", "b"]);
    for key in keys() {
        let whole = route(&key, &both, |_| InService);
        let Route::Ask(home) = whole else { panic!("{whole:?}") };
        // It has its share still: nothing is moved, so that nothing overtakes what waits.
        let failing = route(&key, &both, |server| if server == home { Queueing } else { InService });
        assert_eq!(failing, Route::Queue(home));
        let other = route(&key, &both, |server| if server == home { InService } else { Queueing });
        assert_eq!(other, Route::Ask(home));
    }
    for came in UNDECIDED_ALL {
        assert_eq!(next(&events::ES_OUT, Handling::Pass, came.clone()), Next::GoOnUndecided, "{came:?}");
        assert_eq!(
            next(&events::ES_OUT, Handling::Bounce, came.clone()),
            Next::End(End::Undecided),
            "{came:?}"
        );
    }
}

#[test]
fn fh_2_sessions_and_presence_pass_undecided_and_messages_and_rooms_are_refused_by_default() {
    use crate::events::Packet::{Iq, Message, Presence, Subscription};
    for (event, packet, handling) in [
        (&events::E_SESSION, Iq, Handling::Pass),
        (&events::ES_END, Presence, Handling::Pass),
        (&events::ES_OUT, Presence, Handling::Pass),
        (&events::ES_IN, Subscription, Handling::Pass),
        (&events::ES_OUT, Message, Handling::Bounce),
        (&events::ES_IN, Message, Handling::Bounce),
        (&events::ON_BEFORE_SEND, Message, Handling::Bounce),
        (&events::ON_BEFORE_JOIN, Presence, Handling::Bounce),
    ] {
        assert_eq!(event.default_handling(packet), handling, "{} {packet:?}", event.name);
    }
}

#[test]
fn fh_3_the_share_of_a_server_that_is_out_goes_to_the_others_and_only_that() {
    let three = names(&["a", "b", "c"]);
    let mut heirs = BTreeSet::new();
    for key in keys() {
        let Route::Ask(home) = route(&key, &three, |_| InService) else { panic!("somebody") };
        let without_b = route(&key, &three, |server| if server == "b" { Out } else { InService });
        match (home, without_b) {
            ("b", Route::Ask(heir)) => assert!(heirs.insert(heir) || heir != "b"),
            (home, without_b) => assert_eq!(without_b, Route::Ask(home)),
        }
    }
    assert_eq!(next(&events::ES_OUT, Handling::Bounce, Came::Out), Next::AskAnother);
    assert_eq!(next(&events::ES_OUT, Handling::Pass, Came::Out), Next::AskAnother);
}

#[test]
fn fh_4_an_error_and_an_undecided_event_end_the_chain_with_bounce_and_pass_on_to_the_next_with_pass() {
    let refused = Came::Answered(Answer::Error(error()));
    let end = next(&events::ES_OUT, Handling::Bounce, refused.clone());
    assert_eq!(end, Next::End(End::Refused(error())));
    assert_eq!(next(&events::ES_OUT, Handling::Pass, refused), Next::GoOn);
    for handling in [Handling::Bounce, Handling::Pass] {
        let handled = next(&events::ES_OUT, handling, Came::Answered(Answer::Handle));
        assert_eq!(handled, Next::End(End::Handled));
        let passed = next(&events::ES_OUT, handling, Came::Answered(pass()));
        assert_eq!(passed, Next::GoOnWith { stanza: None, exceptions: Vec::new() });
    }
}

#[test]
fn fh_6_a_malformed_answer_is_no_answer() {
    assert_eq!(next(&events::ES_OUT, Handling::Bounce, Came::Malformed), Next::End(End::Undecided));
    assert_eq!(next(&events::E_SESSION, Handling::Pass, Came::Malformed), Next::GoOnUndecided);
}

#[test]
fn pr_2_what_is_told_and_not_awaited_goes_on_with_pass_and_is_discarded_with_bounce() {
    assert_eq!(next(&events::ES_OUT, Handling::Pass, Came::Told), Next::GoOn);
    assert_eq!(next(&events::ES_OUT, Handling::Bounce, Came::Told), Next::End(End::Discarded));
}

#[test]
fn pr_9_an_event_that_admits_pass_alone_goes_on_unchanged_whatever_is_answered() {
    let changed = Answer::Pass { stanza: Some("<iq/>".into()), exceptions: Vec::new() };
    for event in events::ALL.iter().filter(|event| event.answers != Answers::Any) {
        assert_eq!(event.group, Group::Tc);
        for handling in [Handling::Bounce, Handling::Pass] {
            for answer in [pass(), changed.clone(), Answer::Handle, Answer::Error(error())] {
                assert_eq!(next(event, handling, Came::Answered(answer)), Next::GoOn, "{}", event.name);
            }
            assert_eq!(next(event, handling, Came::NotAdmitted), Next::GoOn, "{}", event.name);
        }
    }
}
