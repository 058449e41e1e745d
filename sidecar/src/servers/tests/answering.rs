//! What a server answers, or does not, and what it cannot do to us by it (FH-6, P6).

use super::*;
use crate::servers::Asked;
use crate::servers::pending::{Answered, Pending, REMEMBERED, Waiter, weigh};
use cartulary_compliance::config::PendingLimit;
use cartulary_compliance::protocol::Answer;
use proptest::prelude::*;

const PASS: &str = "<pass xmlns='urn:cartulary:compliance:1'/>";

#[tokio::test]
async fn questions_are_sent_in_the_order_of_asking_whenever_their_futures_are_polled() {
    let (linked, _peer, mut line) = Linked::in_service().await;
    let first = linked.servers.ask("wall", question(1, "a"), far());
    let told = linked.servers.tell(
        "wall",
        Arc::new(Question { awaited: false, ..(*question(2, "b")).clone() }),
        far(),
    );
    let third = linked.servers.ask("wall", question(3, "c"), far());
    let (third, told) = (tokio::spawn(third), tokio::spawn(told));
    let one = line.question().await;
    let between = line.until("</message></forwarded></event></message>").await;
    let three = line.question().await;
    assert!(one.event.starts_with("0101") && three.event.starts_with("0303"));
    assert!(!between.contains("<iq") && !between.contains("timeout="), "{between}");
    line.pass(&three).await;
    line.pass(&one).await;
    let pass = Asked::Answered(Answer::Pass { stanza: None, exceptions: Vec::new() });
    assert_eq!(third.await.expect("no panic"), pass);
    assert_eq!(first.await, pass);
    assert!(told.await.expect("no panic"));
    let wall = linked.wall();
    assert_eq!((wall.counts.asked, wall.counts.told, wall.counts.passed), (2, 1, 2));
    assert_eq!((wall.answer_times.iter().sum::<u64>(), wall.pending, wall.pending_bytes), (2, 0, 0));
}

#[tokio::test]
async fn fh_6_answers_that_are_late_double_unknown_or_malformed_are_counted_and_do_no_harm() {
    let (linked, _peer, mut line) = Linked::in_service().await;
    // Its time is over.
    let soon = Instant::now() + Duration::from_millis(300);
    let (asked, late) = tokio::join!(linked.servers.ask("wall", question(1, "a"), soon), line.question());
    assert_eq!(asked, Asked::TimedOut);
    line.pass(&late).await;
    // Nobody waits for it any more.
    let dropped = linked.servers.ask("wall", question(2, "b"), far());
    let given_up = line.question().await;
    drop(dropped);
    line.pass(&given_up).await;
    // It comes twice.
    let asked = tokio::spawn(linked.servers.ask("wall", question(3, "c"), far()));
    let twice = line.question().await;
    line.pass(&twice).await;
    line.pass(&twice).await;
    assert!(matches!(asked.await.expect("no panic"), Asked::Answered(_)));
    // Nothing was asked with these ids: also not in a former process.
    let (number, _) = twice.id.split_once('.').expect("a mark");
    for id in ["", "x", "q99999.0", "p77", "q18446744073709551616.1", &format!("{number}.0")] {
        line.say(&format!("<iq type='result' id='{id}'>{PASS}</iq>")).await;
    }
    line.say(&format!("<iq type='result'>{PASS}</iq>")).await;
    // They cannot be used.
    let unusable = [
        "<iq type='result' id='ID'/>",
        "<iq type='result' id='ID'><deny xmlns='else'/></iq>",
        "<iq type='result' id='ID' from='another'><pass xmlns='urn:cartulary:compliance:1'/></iq>",
        "<iq type='result' id='ID' to='another'><pass xmlns='urn:cartulary:compliance:1'/></iq>",
    ];
    for text in unusable {
        let asked = tokio::spawn(linked.servers.ask("wall", question(4, "d"), far()));
        let id = line.question().await.id;
        line.say(&text.replace("ID", &id)).await;
        assert_eq!(asked.await.expect("no panic"), Asked::Malformed, "{text}");
    }
    linked.counts("all of them", |wall| wall.counts.unknown == 7 && wall.counts.malformed == 4).await;
    let wall = linked.wall();
    assert_eq!((wall.counts.late, wall.counts.doubled, wall.counts.timed_out), (2, 1, 1));
    assert!(wall.in_service && wall.counts.lost == 0);
}

#[tokio::test]
async fn fh_6_a_stanza_without_end_or_bottom_ends_the_connection_and_the_question_is_asked_again() {
    let huge = format!(
        "<iq type='result' id='ID'><pass xmlns='urn:cartulary:compliance:1'>{}",
        "x".repeat(10 << 20)
    );
    let deep = format!("<iq type='result' id='ID'>{}", "<a>".repeat(100_000));
    let wide = format!("<iq type='result' id='ID'>{}", "<a/>".repeat(200_000));
    for text in [huge.as_str(), &deep, &wide, "<iq type='result' id='ID'></message>"] {
        let (linked, peer, mut line) = Linked::in_service().await;
        let asked = tokio::spawn(linked.servers.ask("wall", question(1, "a"), far()));
        let id = line.question().await.id;
        let (wall, ()) = futures::future::join(linked.fails_by(LinkCause::Protocol), async {
            line.shout(&text.replace("ID", &id)).await;
        })
        .await;
        assert!(!wall.message.contains("xxx"), "{}", wall.message);
        drop(line);
        let mut line = peer.serve().await;
        let again = line.question().await;
        line.pass(&again).await;
        assert!(matches!(asked.await.expect("no panic"), Asked::Answered(_)));
    }
}

#[tokio::test]
async fn what_the_peer_asks_is_answered_and_changes_nothing() {
    let (linked, _peer, mut line) = Linked::in_service().await;
    line.say("<iq type='get' id='p&lt;1'><ping xmlns='urn:xmpp:ping'/></iq>").await;
    let pong = line.until("/>").await;
    assert!(pong.contains("type='result' id='p&lt;1'"), "{pong}");
    line.say(
        "<iq type='set' id='2'><query xmlns='jabber:iq:roster'/></iq><message><body>hi</body></message>",
    )
    .await;
    let refused = line.until("</iq>").await;
    assert!(refused.contains("service-unavailable"), "{refused}");
    assert!(linked.wall().in_service);
}

#[tokio::test]
async fn p6_no_more_waits_for_a_server_than_may_whatever_it_does() {
    let peer = Peer::bind().await;
    let one = weigh(&question(0, &"x".repeat(1000)));
    let mut config = config(&[("wall", declared(peer.port()))]);
    config.compliance.limits = PendingLimit { max_events: 10, max_bytes: u32::MAX };
    let linked = Linked::start(config.clone());
    // It is let in, and then neither reads nor says anything.
    let mut line = peer.serve().await;
    linked.stands(Standing::InService).await;
    let ask = |n| linked.servers.ask("wall", question(n, &"x".repeat(1000)), far());
    let mut asked: Vec<_> = (0..10).map(ask).collect();
    assert_eq!(ask(10).await, Asked::Overflowed);
    assert_eq!(linked.wall().pending, 10);
    // What is given up makes room.
    drop(asked.pop());
    asked.push(ask(11));
    assert_eq!(linked.wall().pending, 10);
    drop(asked);
    assert_eq!((linked.wall().pending, linked.wall().pending_bytes), (0, 0));
    config.compliance.limits.max_bytes = u32::try_from(3 * one).expect("small");
    linked.config.send_replace(in_force(config));
    linked.counts("the new limit", |wall| wall.max_pending_bytes == 3 * one as u64).await;
    let _held: Vec<_> = (0..3).map(ask).collect();
    assert_eq!(ask(3).await, Asked::Overflowed);
    assert!(!linked.servers.tell("wall", question(4, &"x".repeat(1000)), far()).await);
    let wall = linked.wall();
    assert_eq!((wall.pending, wall.pending_bytes), (3, 3 * one as u64));
    assert_eq!(wall.counts.overflowed, 3);
    // A loss changes nothing about it.
    line.shout("</stream:stream>").await;
    linked.counts("it is given back", |wall| wall.pending == 0 && wall.pending_bytes == 0).await;
}

#[derive(Debug, Clone)]
enum Step {
    Enter(usize, bool),
    Send,
    Answer(u64),
    GiveUp(u64),
    Lose,
    Expire(u64),
    Drain,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..400usize, any::<bool>()).prop_map(|(bytes, asked)| Step::Enter(bytes, asked)),
        4 => Just(Step::Send),
        3 => (0..60u64).prop_map(Step::Answer),
        2 => (0..60u64).prop_map(Step::GiveUp),
        1 => Just(Step::Lose),
        1 => (0..100u64).prop_map(Step::Expire),
        1 => Just(Step::Drain),
    ];
    proptest::collection::vec(step, 0..200)
}

proptest! {
    #[test]
    fn p6_the_limits_hold_and_everybody_who_waits_ends_exactly_once(steps in steps()) {
        let limit = PendingLimit { max_events: 8, max_bytes: 2000 };
        let (mut pending, start) = (Pending::new(limit), Instant::now());
        let (mut entered, mut ended) = (0usize, 0usize);
        for (n, step) in steps.into_iter().enumerate() {
            let now = start + Duration::from_secs(n as u64);
            match step {
                Step::Enter(bytes, is_asked) => {
                    let waiter = if is_asked {
                        Waiter::Answer(tokio::sync::oneshot::channel().0)
                    } else {
                        Waiter::Sent(tokio::sync::oneshot::channel().0)
                    };
                    let deadline = now + Duration::from_secs(50);
                    let question = question(0, &"x".repeat(bytes));
                    entered += usize::from(pending.enter(question, deadline, waiter, now).is_some());
                }
                Step::Send => if let Some((id, _)) = pending.first_unsent() {
                    ended += usize::from(pending.sent(id, now).is_some());
                },
                Step::Answer(id) => ended += usize::from(matches!(pending.answered(id), Answered::Waiting(_))),
                Step::GiveUp(id) => ended += usize::from(pending.give_up(id).is_some()),
                Step::Lose => pending.send_again(),
                Step::Expire(seconds) => ended += pending.expire(start + Duration::from_secs(seconds)).len(),
                Step::Drain => ended += pending.drain().len(),
            }
            prop_assert!(pending.len() <= 8 && pending.bytes() <= 2000);
            prop_assert_eq!(entered, ended + pending.len());
        }
        pending.drain();
        prop_assert_eq!((pending.len(), pending.bytes()), (0, 0));
    }
}

#[test]
fn fh_6_what_is_remembered_of_events_that_are_over_is_bounded_and_what_was_forgotten_is_late() {
    let mut pending = Pending::new(PendingLimit::default());
    let now = Instant::now();
    for _ in 0..2 * REMEMBERED {
        let waiter = Waiter::Answer(tokio::sync::oneshot::channel().0);
        let id = pending.enter(question(0, ""), now, waiter, now).expect("there is room");
        pending.sent(id, now);
        assert!(matches!(pending.answered(id), Answered::Waiting(_)));
        assert!(matches!(pending.answered(id), Answered::Twice));
    }
    assert!(matches!(pending.answered(1), Answered::Late));
    assert!(matches!(pending.answered(2 * REMEMBERED as u64 + 1), Answered::Unknown));
    assert!(matches!(pending.answered(0), Answered::Unknown));
}
