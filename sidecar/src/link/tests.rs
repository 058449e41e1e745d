//! The link as a plugin sees it, over a real socket.

use crate::recorder::Append;
use crate::testing::{Gate, Plugin, Served, config, event, hello, in_force, outcome, since_last, until};
use cartulary_archive::journal::{AppendError, Journal, JournalOptions, system_clock};
use cartulary_archive::record::{Body, Content, GapReason, RecipientEntry};
use cartulary_compliance::direction::Direction;
use cartulary_compliance::link::{
    Action, Count, Delivery, DeliveryResult, Frame, Hello, Ingress, MAX_FRAME, Notice, Recipient, Sums,
    Target, Unanswered, Welcome,
};
use std::sync::Arc;

fn served_by(gate: &Arc<Gate>) -> Served {
    Served::start(in_force(config()), gate.clone())
}

fn bodies(gate: &Gate) -> Vec<Body> {
    gate.drafts().into_iter().map(|(_, draft)| draft.body).collect()
}

fn bounce_condition(action: &Action) -> &str {
    match action {
        Action::Bounce(bounce) => &bounce.condition,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn no_verdict_leaves_before_the_sync_that_covers_its_record() {
    let gate = Arc::new(Gate::default());
    let served = served_by(&gate);
    let (mut plugin, _) = served.greet().await;
    let events: Vec<_> = (1..=50).map(|id| Frame::Event(id, event(&id.to_string()))).collect();
    plugin.send(&events).await;
    until("all are appended", || gate.drafts().len() == 50).await;
    // An answer to a later frame shows that the connection had every opportunity to answer the earlier ones.
    plugin.send_bytes(&[0, 0, 0, 10, 0x02, 0, 0, 0, 0, 0, 0, 0, 99, 1]).await;
    let (id, verdict) = plugin.verdict().await;
    assert_eq!((id, bounce_condition(&verdict.action)), (99, "internal-server-error"));
    assert!(plugin.is_silent());
    gate.sync();
    let mut answered = Vec::new();
    for _ in 0..50 {
        let (id, verdict) = plugin.verdict().await;
        assert!(verdict.action == Action::Deliver && verdict.event_id.is_some() && verdict.outcome_wanted);
        answered.push(id);
    }
    answered.sort_unstable();
    assert_eq!(answered, (1..=50).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_server_of_any_user_and_group_may_connect() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().expect("a folder");
    let socket = dir.path().join("link.sock");
    let _listener = super::bind(&socket).expect("a socket");
    assert_eq!(std::fs::metadata(&socket).expect("there").mode() & 0o777, 0o666);
}

#[tokio::test]
async fn an_accepted_record_holds_all_that_the_server_said() {
    let gate = Arc::new(Gate::default());
    gate.always(Ok(()));
    let served = served_by(&gate);
    let (mut plugin, _) = served.greet().await;
    let stanza = "<message type='groupchat' id='m1'><body>\u{1F600} שלום</body><origin-id xmlns='urn:xmpp:sid:0' id='o1'/></message>";
    let mut said = event("");
    said.stanza = stanza.into();
    said.to = Some("r@rooms.example".into());
    said.room = said.to.clone();
    said.target = Target::Room;
    said.recipients = vec![
        Recipient {
            bare: "juliet@here.example".into(),
            occupant: Some("r@rooms.example/j".into()),
            resources: vec!["balcony".into(), "nurse".into()],
        },
        Recipient { bare: "paris@far.example".into(), ..Recipient::default() },
    ];
    let verdict = plugin.ask(7, said.clone()).await;
    let (endpoint, draft) = gate.drafts().pop().expect("recorded");
    assert_eq!(endpoint, "main");
    assert_eq!(draft.payloads, [(1, stanza.as_bytes().to_vec())]);
    let Body::Accepted(accepted) = draft.body else { panic!("{:?}", draft.body) };
    assert_eq!(Some(accepted.event.into_bytes()), verdict.event_id);
    assert_eq!(accepted.seen_at_nanos, said.seen_at_micros * 1000);
    assert_eq!((accepted.ingress, accepted.target), (Ingress::Client, Target::Room));
    assert_eq!((&accepted.from, &accepted.to, &accepted.room), (&said.from, &said.to, &said.room));
    assert_eq!(accepted.message_type, "groupchat");
    assert_eq!((accepted.stanza_id.as_deref(), accepted.origin_id.as_deref()), (Some("m1"), Some("o1")));
    assert_eq!((accepted.host.as_str(), accepted.session.as_deref()), ("here.example", Some("c2s1")));
    let [juliet, paris] = <[Recipient; 2]>::try_from(said.recipients).expect("two");
    assert_eq!(
        accepted.recipients,
        [RecipientEntry::new(juliet, Direction::Internal), RecipientEntry::new(paris, Direction::Outbound)]
    );
}

#[tokio::test]
async fn what_cannot_be_recorded_is_refused_or_delivered_counted_and_put_on_record() {
    for (error, condition, reason) in [
        (AppendError::QueueFull { endpoint: "main".into() }, "resource-constraint", GapReason::QueueFull),
        (AppendError::JournalFull, "resource-constraint", GapReason::QueueFull),
        (AppendError::Failed("no".into()), "internal-server-error", GapReason::JournalFailed),
        (AppendError::TooLarge { bytes: 2, limit: 1 }, "policy-violation", GapReason::JournalFailed),
    ] {
        let gate = Arc::new(Gate::default());
        gate.always(Err(error));
        let served = served_by(&gate);
        let (mut plugin, settings) = served.greet().await;
        assert_eq!(settings.unanswered, Unanswered::Refuse);
        assert_eq!(bounce_condition(&plugin.ask(1, event("x")).await.action), condition);
        assert_eq!(served.recorder.counts.snapshot().refused, 1);

        let mut lenient = config();
        lenient.archiving.block_if_unable_to_record = false;
        served.config.send_replace(in_force(lenient));
        assert!(
            matches!(plugin.next().await, Frame::Settings(settings) if settings.unanswered == Unanswered::Deliver)
        );
        let verdict = plugin.ask(2, event("x")).await;
        assert_eq!((verdict.action, verdict.event_id), (Action::Deliver, None));
        let counts = served.recorder.counts.snapshot();
        assert_eq!((counts.refused, counts.delivered_unrecorded, counts.accepted), (1, 1, 0));

        served.recorder.gaps.write(&served.recorder).await;
        assert_eq!(served.recorder.gaps.pending(), 1, "what cannot be written stays noted");
        gate.always(Ok(()));
        served.recorder.gaps.write(&served.recorder).await;
        assert_eq!(served.recorder.gaps.pending(), 0);
        let [Body::Gap(gap)] = &bodies(&gate)[..] else { panic!("{:?}", bodies(&gate)) };
        assert_eq!((gap.count, gap.reason), (1, reason));
    }
}

#[tokio::test]
async fn a_message_in_no_recorded_direction_is_delivered_without_a_record() {
    let gate = Arc::new(Gate::default());
    let served = served_by(&gate);
    let (mut plugin, _) = served.greet().await;
    let mut off = config();
    off.archiving.outbound = false;
    served.config.send_replace(in_force(off));
    plugin.next().await;
    let mut outbound = event("x");
    outbound.to = Some("paris@far.example".into());
    outbound.target = Target::Remote;
    let verdict = plugin.ask(1, outbound).await;
    assert_eq!((verdict.action, verdict.event_id), (Action::Deliver, None));
    let counts = served.recorder.counts.snapshot();
    assert_eq!((counts.events, counts.refused, counts.delivered_unrecorded), (1, 0, 0));
    assert!(gate.drafts().is_empty());
}

#[tokio::test]
async fn a_stanza_that_cannot_be_read_is_recorded_as_it_came() {
    let gate = Arc::new(Gate::default());
    gate.always(Ok(()));
    let served = served_by(&gate);
    let (mut plugin, _) = served.greet().await;
    for (id, stanza) in ["<message><body>", "", "<iq/>", "<message>\u{0}</message>"].into_iter().enumerate() {
        let mut said = event("");
        said.stanza = stanza.into();
        assert_eq!(plugin.ask(id as u64 + 1, said).await.action, Action::Deliver);
        let (_, draft) = gate.drafts().pop().expect("recorded");
        assert_eq!(draft.payloads, [(1, stanza.as_bytes().to_vec())]);
        assert!(
            matches!(draft.body, Body::Accepted(accepted) if accepted.message_type == crate::path::TYPE_UNKNOWN)
        );
    }
    assert_eq!(served.recorder.counts.snapshot().unparseable, 4);
}

#[tokio::test]
async fn a_message_the_server_made_is_recorded_and_not_answered() {
    let gate = Arc::new(Gate::default());
    gate.always(Ok(()));
    let served = served_by(&gate);
    let (mut plugin, _) = served.greet().await;
    let mut made = event("motd");
    made.ingress = Ingress::Internal;
    made.from = "here.example".into();
    plugin.send(&[Frame::Event(0, made)]).await;
    assert_eq!(plugin.ask(1, event("x")).await.action, Action::Deliver);
    assert_eq!(gate.drafts().len(), 2);
    assert!(plugin.is_silent());
}

#[tokio::test]
async fn nothing_is_delivered_before_there_is_a_configuration() {
    let gate = Arc::new(Gate::default());
    gate.always(Ok(()));
    let served = Served::start(Default::default(), gate.clone());
    let mut plugin = served.connect().await;
    plugin.send(&[Frame::Hello(hello())]).await;
    assert!(matches!(plugin.next().await, Frame::Welcome(_)));
    assert_eq!(bounce_condition(&plugin.ask(1, event("x")).await.action), "internal-server-error");
    served.config.send_replace(in_force(config()));
    assert!(matches!(plugin.next().await, Frame::Settings(_)));
    assert_eq!(plugin.ask(2, event("x")).await.action, Action::Deliver);
}

#[tokio::test]
async fn a_frame_that_cannot_be_read_costs_itself_and_a_length_out_of_range_the_connection() {
    let gate = Arc::new(Gate::default());
    gate.always(Ok(()));
    let served = served_by(&gate);
    let (mut other, _) = served.greet().await;
    let mut mute = served.connect().await;
    // An event before the hello, fields that are none, a frame only sidecars send, an unknown kind.
    mute.send(&[Frame::Event(5, event("x"))]).await;
    assert_eq!(bounce_condition(&mute.verdict().await.1.action), "internal-server-error");
    other.send_bytes(&[0, 0, 0, 11, 0x02, 0, 0, 0, 0, 0, 0, 0, 6, 1, 2]).await;
    let (id, verdict) = other.verdict().await;
    assert_eq!((id, bounce_condition(&verdict.action)), (6, "internal-server-error"));
    other.send(&[Frame::Welcome(Welcome::default())]).await;
    other.send_bytes(&[0, 0, 0, 9, 0x7f, 0, 0, 0, 0, 0, 0, 0, 0]).await;
    assert_eq!(other.ask(7, event("x")).await.action, Action::Deliver);
    let counts = served.recorder.counts.snapshot();
    assert_eq!((counts.bad_frames, counts.unknown_fields), (3, 1));
    assert_eq!(counts.refused_by["malformed"], 2);

    mute.send_bytes(&(MAX_FRAME as u32 + 1).to_be_bytes()).await;
    assert_eq!(mute.next_or_end().await, None);
    assert_eq!(other.ask(8, event("x")).await.action, Action::Deliver);
    assert_eq!(served.recorder.counts.snapshot().bad_frames, 4);
}

#[tokio::test]
async fn a_plugin_of_another_protocol_is_told_so_and_left() {
    let served = served_by(&Arc::new(Gate::default()));
    let mut plugin = served.connect().await;
    plugin.send(&[Frame::Hello(Hello { protocol_min: 2, protocol_max: 3, ..hello() })]).await;
    assert!(matches!(plugin.next().await, Frame::Welcome(Welcome { protocol: 0, refused: Some(_), .. })));
    assert_eq!(plugin.next_or_end().await, None);
    assert!(!served.link.coverage().is_connected());
}

#[tokio::test]
async fn a_second_hello_replaces_the_first_connection_and_what_it_had_sent_is_still_taken() {
    let gate = Arc::new(Gate::default());
    let served = served_by(&gate);
    let (mut first, _) = served.greet().await;
    first.send(&[Frame::Event(1, event("early"))]).await;
    until("it is appended", || gate.drafts().len() == 1).await;
    let (mut second, _) = served.greet().await;
    gate.sync();
    assert_eq!(first.verdict().await.1.action, Action::Deliver);
    assert_eq!(first.next_or_end().await, None);
    gate.always(Ok(()));
    assert_eq!(second.ask(1, event("late")).await.action, Action::Deliver);
    assert!(served.link.coverage().is_connected());
    drop(second);
    until("the loss is seen", || !served.link.coverage().is_connected()).await;
}

#[tokio::test]
async fn what_the_plugin_did_alone_is_counted_once_and_put_on_record_before_the_welcome() {
    let gate = Arc::new(Gate::default());
    gate.always(Ok(()));
    let served = served_by(&gate);
    // The first welcome is lost; the plugin reports the same again, and two more.
    for (delivered, refused, recorded) in [(3, 1, 3), (5, 1, 2), (5, 1, 0)] {
        let before = gate.drafts().len();
        let mut plugin = served.connect().await;
        let report = Hello { since_last: since_last(delivered, refused, 10), ..hello() };
        plugin.send(&[Frame::Hello(report)]).await;
        assert!(matches!(plugin.next().await, Frame::Welcome(_)));
        let new: Vec<_> = bodies(&gate)
            .into_iter()
            .skip(before)
            .map(|body| match body {
                Body::Gap(gap) => (gap.count, gap.reason),
                other => panic!("{other:?}"),
            })
            .collect();
        let expected = if recorded == 0 { vec![] } else { vec![(recorded, GapReason::NoLink)] };
        assert_eq!(new, expected);
    }
    let counts = served.recorder.counts.snapshot();
    assert_eq!((counts.delivered_unrecorded, counts.refused), (5, 1));
}

#[tokio::test]
async fn an_outcome_follows_its_event_into_its_stream_and_names_the_same_copies() {
    let gate = Arc::new(Gate::default());
    gate.always(Ok(()));
    let served = served_by(&gate);
    let (mut plugin, _) = served.greet().await;
    let mut elsewhere = config();
    elsewhere.archiving.outbound = false;
    served.config.send_replace(in_force(elsewhere.clone()));
    plugin.next().await;
    let event_id = plugin.ask(1, event("x")).await.event_id.expect("recorded");
    // From here on this node's records go to another endpoint; this event's stream stays what it was.
    elsewhere.archiving.endpoint = Some("other".into());
    served.config.send_replace(in_force(elsewhere));
    plugin.next().await;
    let delivery = |bare: &str| Delivery {
        bare: bare.into(),
        occupant: None,
        resources: vec!["balcony".into()],
        result: DeliveryResult::Delivered,
        reason: None,
    };
    let mut known = outcome(event_id, true);
    known.deliveries = vec![delivery("juliet@here.example"), delivery("paris@far.example")];
    let mut unknown = outcome([9; 16], true);
    unknown.deliveries = vec![delivery("juliet@here.example")];
    plugin.send(&[Frame::Outcome(known.clone()), Frame::Outcome(unknown)]).await;
    until("both are recorded", || served.recorder.counts.snapshot().outcomes == 2).await;
    let outcomes: Vec<_> = gate
        .drafts()
        .into_iter()
        .filter_map(|(endpoint, draft)| match draft.body {
            Body::Outcome(outcome) => Some((endpoint, outcome.deliveries, outcome.is_final)),
            _ => None,
        })
        .collect();
    assert_eq!(
        outcomes,
        [
            ("main".to_owned(), vec![delivery("juliet@here.example")], true),
            ("other".to_owned(), vec![delivery("juliet@here.example")], true)
        ]
    );
    assert_eq!(served.recorder.counts.snapshot().outcomes_unmatched, 1);
}

#[tokio::test]
async fn the_plugins_id_is_the_events_unless_it_is_none_or_was_used_and_then_the_message_is_recorded_all_the_same()
 {
    let gate = Arc::new(Gate::default());
    gate.always(Ok(()));
    let served = served_by(&gate);
    let (mut plugin, _) = served.greet().await;
    let given = *uuid::Uuid::now_v7().as_bytes();
    let random = *uuid::Uuid::from_u128(0x1234_5678_9abc_4def_8123_4567_89ab_cdef).as_bytes();
    for (id, (said, is_taken)) in [(given, true), (given, false), (random, false)].into_iter().enumerate() {
        let mut event = event("x");
        event.event_id = Some(said);
        let verdict = plugin.ask(id as u64 + 1, event).await;
        assert_eq!(verdict.action, Action::Deliver);
        assert_eq!(verdict.event_id == Some(said), is_taken, "{id}");
        let Some(Body::Accepted(accepted)) = bodies(&gate).pop() else { panic!("recorded") };
        assert_eq!(Some(accepted.event.into_bytes()), verdict.event_id);
    }
    let counts = served.recorder.counts.snapshot();
    assert_eq!((counts.accepted, counts.bad_frames), (3, 2));
}

#[tokio::test]
async fn what_the_plugin_refused_alone_follows_its_record_even_when_that_is_not_synced_yet() {
    let gate = Arc::new(Gate::default());
    let served = served_by(&gate);
    let (mut plugin, _) = served.greet().await;
    let id = uuid::Uuid::now_v7();
    let mut asked = event("x");
    asked.event_id = Some(id.into_bytes());
    plugin.send(&[Frame::Event(1, asked)]).await;
    until("it is appended", || gate.drafts().len() == 1).await;
    let mut elsewhere = config();
    elsewhere.endpoints.insert("other".into(), elsewhere.endpoints["main"].clone());
    elsewhere.archiving.endpoint = Some("other".into());
    served.config.send_replace(in_force(elsewhere));
    let mut alone = outcome(id.into_bytes(), true);
    alone.deliveries = vec![Delivery {
        bare: "juliet@here.example".into(),
        occupant: None,
        resources: Vec::new(),
        result: DeliveryResult::Bounced,
        reason: Some("unanswered".into()),
    }];
    plugin.send(&[Frame::Outcome(alone.clone())]).await;
    until("the outcome is appended", || gate.drafts().len() == 2).await;
    gate.sync();
    let (endpoint, draft) = gate.drafts().pop().expect("there");
    let Body::Outcome(record) = draft.body else { panic!("{:?}", draft.body) };
    assert_eq!((endpoint.as_str(), record.event, record.deliveries), ("main", id, alone.deliveries));
    assert_eq!(served.recorder.counts.snapshot().outcomes_unmatched, 0);
}

#[tokio::test]
async fn a_server_that_ends_leaves_no_message_without_a_last_outcome() {
    let gate = Arc::new(Gate::default());
    gate.always(Ok(()));
    let served = served_by(&gate);
    let (mut first, _) = served.greet().await;
    let told = first.ask(1, event("told")).await.event_id.expect("recorded");
    let open = first.ask(2, event("open")).await.event_id.expect("recorded");
    drop(first);
    // The same process again keeps what it has not told.
    let (mut first, _) = served.greet().await;
    first.send(&[Frame::Outcome(outcome(told, true))]).await;
    // Another process: the former one's last words are taken in first.
    let (_second, _) = served.greet_as(Hello { instance: "second".into(), ..hello() }).await;
    until("both have an outcome", || served.recorder.counts.snapshot().outcomes == 2).await;
    let outcomes: Vec<_> = bodies(&gate)
        .into_iter()
        .filter_map(|body| match body {
            Body::Outcome(outcome) => Some(outcome),
            _ => None,
        })
        .collect();
    assert_eq!(outcomes[0].event.into_bytes(), told);
    assert!(outcomes[1].event.into_bytes() == open && outcomes[1].is_final);
    let [unknown] = &outcomes[1].deliveries[..] else { panic!("{outcomes:?}") };
    assert_eq!((unknown.bare.as_str(), unknown.result), ("juliet@here.example", DeliveryResult::Unknown));
    assert_eq!(unknown.reason.as_deref(), Some("the server ended"));
    assert_eq!(served.recorder.counts.snapshot().outcomes_unmatched, 0);
}

#[tokio::test]
async fn outcomes_the_plugin_lost_are_counted_once() {
    let served = served_by(&Arc::new(Gate::default()));
    for (lost, counted) in [(3, 3), (3, 3), (5, 5)] {
        let mut report = hello();
        report.since_last = since_last(0, 0, 10);
        report.since_last.outcomes_lost = lost;
        let (_plugin, _) = served.greet_as(report).await;
        assert_eq!(served.recorder.counts.snapshot().plugin_outcomes_lost, counted);
    }
}

#[tokio::test]
async fn ev_2_what_the_server_counted_is_on_record_when_its_process_ends_and_when_the_sidecar_stops() {
    let gate = Arc::new(Gate::default());
    gate.always(Ok(()));
    let served = served_by(&gate);
    let task = tokio::spawn({
        let (recorder, stop) = (served.recorder.clone(), served.stop.clone());
        async move { recorder.tallies.run(&recorder, stop).await }
    });
    let far = u32::MAX - 1; // a day that is not over
    let count = |said, is_final| {
        Frame::Count(Count { day: far, sums: Sums { said, recorded: said, ..Sums::default() }, is_final })
    };
    let tallies = || -> Vec<(String, u64, bool)> {
        bodies(&gate)
            .into_iter()
            .filter_map(|body| match body {
                Body::Tally(tally) => Some((tally.instance, tally.sums.said, tally.is_final)),
                _ => None,
            })
            .collect()
    };
    let (mut first, _) = served.greet().await;
    first.send(&[count(1, false), count(2, false)]).await;
    until("both are taken", || served.recorder.tallies.total().said == 2).await;
    assert_eq!(tallies(), []);
    let (mut second, _) = served.greet_as(Hello { instance: "second".into(), ..hello() }).await;
    until("the former process is on record", || tallies() == [("first".to_owned(), 2, false)]).await;
    second.send(&[count(4, false), count(5, true)]).await;
    until("its last word is on record", || tallies().contains(&("second".to_owned(), 5, true))).await;
    let (mut third, _) = served.greet_as(Hello { instance: "third".into(), ..hello() }).await;
    third.send(&[count(7, false)]).await;
    until("it is taken", || served.recorder.tallies.total().said == 14).await;
    served.stop.cancel();
    task.await.expect("it ends");
    assert_eq!(tallies().last(), Some(&("third".to_owned(), 7, false)));
    assert_eq!(tallies().len(), 3);
}

#[tokio::test]
async fn a_failed_hook_is_counted() {
    let served = served_by(&Arc::new(Gate::default()));
    let (mut plugin, _) = served.greet().await;
    let notice = Notice { name: "hook-failed".into(), reason: Some("mod_x:12".into()), ..Notice::default() };
    plugin.send(&[Frame::Notice(notice)]).await;
    until("it is counted", || served.recorder.counts.snapshot().failed_hooks == 1).await;
}

#[tokio::test]
async fn a_stop_answers_what_was_taken_in_and_ends() {
    let gate = Arc::new(Gate::default());
    gate.always(Ok(()));
    let served = served_by(&gate);
    let (mut plugin, _) = served.greet().await;
    let events: Vec<_> = (1..=20).map(|id| Frame::Event(id, event("x"))).collect();
    plugin.send(&events).await;
    served.stop.cancel();
    for _ in 0..20 {
        assert_eq!(plugin.verdict().await.1.action, Action::Deliver);
    }
    assert_eq!(plugin.next_or_end().await, None);
    served.task.await.expect("it ends");
}

/// A journal in a folder of its own.
fn journal(limit: u64) -> (Journal, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a folder");
    let mut options = JournalOptions::new(dir.path().join("journal"), "pod-0", "chat/main", "test");
    options.limits.max_bytes = limit;
    let (journal, _) = Journal::open(options, system_clock()).expect("a journal");
    (journal, dir)
}

async fn say(plugin: &mut Plugin, range: std::ops::RangeInclusive<u64>) -> Vec<(u64, Action)> {
    let events: Vec<_> = range.clone().map(|id| Frame::Event(id, event(&id.to_string()))).collect();
    plugin.send(&events).await;
    let mut answers = Vec::new();
    for _ in range {
        let (id, verdict) = plugin.verdict().await;
        answers.push((id, verdict.action));
    }
    answers
}

#[tokio::test]
async fn a_burst_is_in_the_journal_in_the_order_in_which_it_was_said() {
    const BURST: u64 = 3000;
    let (journal, _dir) = journal(1 << 30);
    let served = Served::start(in_force(config()), Arc::new(journal.clone()));
    let (mut plugin, _) = served.greet().await;
    let answers = say(&mut plugin, 1..=BURST).await;
    assert!(answers.iter().all(|(_, action)| *action == Action::Deliver));
    let (mut reader, mut said) = (journal.reader("main"), Vec::new());
    while said.len() < BURST as usize {
        for stored in reader.try_next(500, u64::MAX).await.expect("readable") {
            if let Content::Body(Body::Accepted(_)) = &stored.record.header.content {
                said.push(String::from_utf8(stored.record.payloads[0].bytes.clone()).expect("text"));
            }
        }
    }
    let expected: Vec<_> = (1..=BURST).map(|id| event(&id.to_string()).stanza).collect();
    assert!(said == expected, "the order changed");
}

#[tokio::test]
async fn a_full_journal_refuses_and_never_delivers_unrecorded() {
    let (journal, _dir) = journal(64 << 10);
    let served = Served::start(in_force(config()), Arc::new(journal.clone()));
    let (mut plugin, _) = served.greet().await;
    let answers = say(&mut plugin, 1..=500).await;
    let delivered = answers.iter().filter(|(_, action)| *action == Action::Deliver).count();
    let refused = answers.iter().filter(|(_, action)| matches!(action, Action::Bounce(_))).count();
    assert!(delivered > 0 && refused > 0 && delivered + refused == 500, "{delivered} and {refused}");
    let counts = served.recorder.counts.snapshot();
    assert_eq!((counts.accepted, counts.refused), (delivered as u64, refused as u64));
    assert_eq!(
        journal.queue("main").waiting,
        delivered as u64 + 1,
        "the open record and one for each that was delivered"
    );
}

#[tokio::test]
async fn a_closed_journal_refuses() {
    let (journal, _dir) = journal(1 << 30);
    let served = Served::start(in_force(config()), Arc::new(journal.clone()) as Arc<dyn Append>);
    let (mut plugin, _) = served.greet().await;
    journal.close().await.expect("closed");
    assert_eq!(bounce_condition(&plugin.ask(1, event("x")).await.action), "internal-server-error");
    assert!(served.recorder.is_writer_gone());
}
