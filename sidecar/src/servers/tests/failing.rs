//! A server that ends, breaks, hangs or falls silent, and what becomes of what waits (FH-1, FH-2, FH-3).

use super::*;
use crate::servers::Asked;
use cartulary_compliance::status::LinkState;

#[tokio::test]
async fn fh_1_one_that_ends_in_order_is_out_at_once_and_gives_back_what_it_has_not_answered() {
    let (linked, peer, mut line) = Linked::in_service().await;
    let mut changes = linked.servers.changes();
    changes.mark_unchanged();
    let answered = tokio::spawn(linked.servers.ask("wall", question(1, "a"), far()));
    let left = tokio::spawn(linked.servers.ask("wall", question(2, "b"), far()));
    let first = line.question().await;
    line.question().await;
    line.pass(&first).await;
    line.say("</stream:stream>").await;
    assert!(matches!(answered.await.expect("no panic"), Asked::Answered(_)));
    assert_eq!(left.await.expect("no panic"), Asked::Out);
    assert!(changes.has_changed().expect("open"));
    assert_eq!(linked.servers.standing("wall"), Standing::Out);
    assert_eq!(linked.servers.ask("wall", question(3, "c"), far()).await, Asked::Out);
    assert!(line.rest().await.ends_with("</stream:stream>"));
    let wall = linked.fails_by(LinkCause::Closed).await;
    assert_eq!((wall.counts.rerouted, wall.pending, wall.queueing), (1, 0, false));
    // It comes back without being asked for.
    drop(line);
    let _line = peer.serve().await;
    linked.stands(Standing::InService).await;
}

#[tokio::test]
async fn fh_2_what_an_ungraceful_loss_left_open_is_sent_again_in_order_with_its_ids() {
    for is_reset in [true, false] {
        let peer = Peer::bind().await;
        let linked = Linked::to(declared(peer.port()));
        let socket = peer.socket().await;
        if is_reset {
            // Closing then sends a reset instead of an end.
            socket.set_zero_linger().expect("a socket option");
        }
        let mut line = Line::over(socket);
        line.greet().await;
        line.let_in().await;
        line.pong().await;
        linked.stands(Standing::InService).await;
        let ask = |number| tokio::spawn(linked.servers.ask("wall", question(number, "x"), far()));
        let (first, second) = (ask(1), ask(2));
        let before = [line.question().await, line.question().await];
        drop(line);
        linked.stands(Standing::Queueing).await;
        linked.fails_by(LinkCause::Lost).await;
        // What is asked meanwhile comes after what was asked before.
        let third = ask(3);
        until("three wait", || linked.wall().pending == 3).await;
        let mut line = peer.serve().await;
        let again = [line.question().await, line.question().await, line.question().await];
        let events: Vec<&str> = again.iter().map(|asked| asked.event.as_str()).collect();
        assert_eq!(events[..2], [before[0].event.as_str(), before[1].event.as_str()]);
        assert!(events[2].starts_with("03030303"), "{events:?}");
        for asked in again.iter().rev() {
            line.pass(asked).await;
        }
        for asked in [first, second, third] {
            assert!(matches!(asked.await.expect("no panic"), Asked::Answered(_)));
        }
        linked.counts("five sent", |wall| wall.counts.asked == 5 && wall.counts.passed == 3).await;
    }
}

#[tokio::test]
async fn fh_2_one_that_hangs_is_active_and_not_answering_then_gone_and_back_after_a_ping() {
    let peer = Peer::bind().await;
    let linked = Linked::to(ComplianceServer { keepalive_seconds: 1, ..declared(peer.port()) });
    let mut line = peer.serve().await;
    linked.stands(Standing::InService).await;
    let asked = tokio::spawn(linked.servers.ask("wall", question(1, "a"), far()));
    line.question().await;
    // The connection stands, and nothing comes.
    let mut seen = Vec::new();
    until("NotAnswering, then GONE", || {
        let wall = linked.wall();
        if !wall.in_service && !seen.contains(&wall.state) {
            assert_eq!((wall.cause, wall.queueing), (Some(LinkCause::NotAnswering), true));
            seen.push(wall.state);
        }
        seen.contains(&LinkState::Gone)
    })
    .await;
    assert_eq!(seen[0], LinkState::Active);
    // A new connection alone brings it back into nothing; the answered ping does.
    let mut line = peer.let_in().await;
    linked.counts("ACTIVE again", |wall| wall.state == LinkState::Active).await;
    assert_eq!(linked.servers.standing("wall"), Standing::Queueing);
    line.pong().await;
    let again = line.question().await;
    line.pass(&again).await;
    assert!(matches!(asked.await.expect("no panic"), Asked::Answered(_)));
    let wall = linked.wall();
    assert_eq!((wall.counts.connected, wall.counts.lost), (2, 1));
    assert!(wall.message.contains(&peer.address().to_string()), "{}", wall.message);
}

#[tokio::test]
async fn fh_2_a_pause_shorter_than_the_ping_costs_nothing() {
    let peer = Peer::bind().await;
    let linked = Linked::to(ComplianceServer { keepalive_seconds: 1, ..declared(peer.port()) });
    let mut line = peer.serve().await;
    linked.stands(Standing::InService).await;
    for _ in 0..3 {
        line.pong().await;
    }
    let wall = linked.wall();
    assert_eq!((wall.counts.connected, wall.counts.lost), (1, 0));
}

#[tokio::test]
async fn fh_2_a_peer_that_reads_nothing_is_found_though_it_speaks() {
    let peer = Peer::bind().await;
    let linked = Linked::to(ComplianceServer { keepalive_seconds: 1, ..declared(peer.port()) });
    let mut line = peer.serve().await;
    linked.stands(Standing::InService).await;
    let body = "x".repeat(1 << 20);
    let _asked: Vec<_> = (0..20).map(|n| linked.servers.ask("wall", question(n, &body), far())).collect();
    let speaking = async {
        loop {
            line.shout("<presence/>").await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        () = speaking => {}
        () = linked.counts("it reads nothing", |wall| wall.message.contains("read nothing")) => {}
    }
}

#[tokio::test]
async fn fh_3_one_that_stays_away_is_out_after_the_declared_time_and_gives_everything_back() {
    let peer = Peer::bind().await;
    let mut config = config(&[("wall", declared(peer.port()))]);
    config.compliance.drop_after_ms = 300;
    let linked = Linked::start(config);
    let line = peer.serve().await;
    linked.stands(Standing::InService).await;
    drop((line, peer));
    linked.stands(Standing::Queueing).await;
    let asked = linked.servers.ask("wall", question(1, "a"), far());
    let told = linked.servers.tell("wall", question(2, "b"), far());
    assert_eq!(asked.await, Asked::Out);
    assert!(!told.await);
    assert_eq!(linked.servers.standing("wall"), Standing::Out);
    assert!(!linked.wall().queueing);
}

#[tokio::test]
async fn one_that_was_never_reached_queues_and_then_serves() {
    let peer = Peer::bind().await;
    let linked = Linked::to(declared(peer.port()));
    until("it is known", || !linked.servers.status().is_empty()).await;
    assert_eq!(linked.servers.standing("wall"), Standing::Queueing);
    let asked = tokio::spawn(linked.servers.ask("wall", question(1, "a"), far()));
    let mut line = peer.serve().await;
    let seen = line.question().await;
    line.pass(&seen).await;
    assert!(matches!(asked.await.expect("no panic"), Asked::Answered(_)));
}
