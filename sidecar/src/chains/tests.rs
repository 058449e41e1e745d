//! Every row of what happens when compliance servers fail, by a clock that stands still until all wait (FH-1 to FH-8, P3, P6).

use super::*;
use crate::counts::Counters;
use crate::fixture::{config, event};
use crate::path::{self, Step};
use crate::recorder::Recorder;
use crate::testing::{Gate, Served, in_force, outcome, until};
use cartulary_archive::journal::AppendError;
use cartulary_archive::record::{Accepted, ActionCode, Body, Draft};
use cartulary_compliance::config::SidecarConfig;
use cartulary_compliance::events::{
    E_PRISESSION, E_SESSION, E_STATS, ES_END, ES_IN, ES_OUT, Event as Kind, Handling, ON_BEFORE_SEND,
};
use cartulary_compliance::link::{Action, Frame, Notice, Recipient, Target, Verdict};
use cartulary_compliance::profile::Rule;
use cartulary_compliance::protocol::{Answer, Except, ExceptAction};
use tokio_util::sync::CancellationToken;

const SECOND: Duration = Duration::from_secs(1);

/// What a server does with a question.
#[derive(Clone)]
enum Does {
    /// It answers after so long; nothing where that is too late.
    Answers(u64, Asked),
    /// It never does.
    Hangs,
    /// The link itself never says what came.
    Breaks,
}

type Script = Box<dyn Fn(&str, &Question) -> Does + Send + Sync>;

/// Compliance servers that do as they are told.
struct Stand {
    standings: Mutex<BTreeMap<String, Standing>>,
    script: Script,
    /// Server, event, body and whether it is told as missed, in the order in which they came.
    seen: Mutex<Vec<(String, &'static str, String, bool)>>,
    changes: watch::Sender<u64>,
}

impl Stand {
    fn set(&self, server: &str, standing: Standing) {
        self.standings.lock().expect("no panic").insert(server.to_owned(), standing);
        self.changes.send_modify(|count| *count += 1);
    }

    fn note(&self, server: &str, question: &Question) {
        let body = body_of(question.stanza.text());
        let entry = (server.to_owned(), question.event.name, body, question.missed);
        self.seen.lock().expect("no panic").push(entry);
    }

    fn seen(&self) -> Vec<(String, &'static str, String, bool)> {
        self.seen.lock().expect("no panic").clone()
    }

    fn servers(&self) -> Vec<String> {
        self.seen().into_iter().map(|(server, ..)| server).collect()
    }

    fn bodies(&self) -> Vec<String> {
        self.seen().into_iter().map(|(.., body, _)| body).collect()
    }
}

impl Peers for Stand {
    fn standing(&self, server: &str) -> Standing {
        *self.standings.lock().expect("no panic").get(server).unwrap_or(&Standing::InService)
    }

    fn ask(&self, server: &str, question: Arc<Question>, deadline: Instant) -> BoxFuture<'static, Asked> {
        self.note(server, &question);
        match (self.script)(server, &question) {
            Does::Breaks => std::future::pending().boxed(),
            Does::Answers(seconds, asked) => async move {
                let answering = async {
                    tokio::time::sleep(Duration::from_secs(seconds)).await;
                    asked
                };
                tokio::time::timeout_at(deadline, answering).await.unwrap_or(Asked::TimedOut)
            }
            .boxed(),
            Does::Hangs => tokio::time::sleep_until(deadline).map(|()| Asked::TimedOut).boxed(),
        }
    }

    fn tell(&self, server: &str, question: Arc<Question>, deadline: Instant) -> BoxFuture<'static, bool> {
        if self.standing(server) == Standing::InService {
            self.note(server, &question);
            return std::future::ready(true).boxed();
        }
        tokio::time::sleep_until(deadline).map(|()| false).boxed()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

fn pass() -> Asked {
    Asked::Answered(Answer::Pass { stanza: None, exceptions: Vec::new() })
}

fn at_once() -> Does {
    Does::Answers(0, pass())
}

fn profile(name: &str, rules: Vec<Rule>, servers: &[&str]) -> Profile {
    let servers = servers.iter().map(|server| (*server).to_owned()).collect();
    Profile { name: name.into(), events: rules, servers, nodes: None }
}

fn all_kinds() -> Vec<Rule> {
    [&E_SESSION, &ES_OUT, &ES_END, &ON_BEFORE_SEND].into_iter().map(|event: &Kind| Rule::new(event)).collect()
}

fn asks(profiles: Vec<Profile>) -> SidecarConfig {
    let mut config = config();
    config.compliance.profiles = profiles;
    config
}

/// A node.
struct Node {
    recorder: Arc<Recorder>,
    gate: Arc<Gate>,
    stand: Arc<Stand>,
    instance: Arc<str>,
    _config: watch::Sender<crate::config::ConfigState>,
}

impl Node {
    fn new(config: SidecarConfig, script: impl Fn(&str, &Question) -> Does + Send + Sync + 'static) -> Self {
        let (sender, receiver) = watch::channel(in_force(config));
        let recorder = Arc::new(Recorder::new("pod-0", receiver, Arc::new(Counters::default())));
        let gate = Arc::new(Gate::default());
        gate.always(Ok(()));
        recorder.open_journal(gate.clone());
        let hosts = ["here.example", "rooms.here.example"].map(str::to_owned);
        recorder.set_hosts(Arc::new(hosts.into()));
        let stand = Arc::new(Stand {
            standings: Mutex::default(),
            script: Box::new(script),
            seen: Mutex::default(),
            changes: watch::Sender::new(0),
        });
        recorder.chains.open(stand.clone());
        Self { recorder, gate, stand, instance: "first".into(), _config: sender }
    }

    /// Takes an event in; its verdict comes later, with how many seconds it took.
    fn begin(&self, event: Event) -> tokio::task::JoinHandle<(Verdict, u64)> {
        let (begun, recorder) = (Instant::now(), self.recorder.clone());
        let step = path::begin(&recorder, event, true, &self.instance);
        tokio::spawn(async move {
            let verdict = match step {
                Step::Answered(verdict) => verdict,
                Step::Recording(recording) => recording.finish(&recorder).await,
                Step::Asking(asking) => asking.finish(&recorder).await,
            };
            (verdict, begun.elapsed().as_secs())
        })
    }

    async fn ask(&self, event: Event) -> (Verdict, u64) {
        self.begin(event).await.expect("no panic")
    }

    fn records(&self) -> Vec<Accepted> {
        let accepted = |(_, draft): (String, Draft)| match draft.body {
            Body::Accepted(accepted) => Some(accepted),
            _ => None,
        };
        self.gate.drafts().into_iter().filter_map(accepted).collect()
    }

    fn recorded_bodies(&self) -> Vec<String> {
        let stanzas = self.gate.drafts().into_iter().map(|(_, draft)| draft.payloads[0].1.clone());
        stanzas.map(|stanza| body_of(&String::from_utf8_lossy(&stanza))).collect()
    }

    fn counts(&self) -> QuestionCounts {
        self.recorder.chains.status()
    }
}

fn body_of(stanza: &str) -> String {
    stanza.split("<body>").nth(1).and_then(|rest| rest.split('<').next()).unwrap_or_default().to_owned()
}

fn login() -> Event {
    Event {
        subject: Subject::Bind,
        stanza: "<iq type='set'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>".into(),
        to: None,
        ..event("")
    }
}

fn said_in_room(body: &str) -> Event {
    Event {
        target: Target::Room,
        to: Some("desk@rooms.here.example".into()),
        room: Some("desk@rooms.here.example".into()),
        stanza: format!("<message type='groupchat'><body>{body}</body></message>"),
        ..event(body)
    }
}

fn between(one: &str, other: &str, body: &str) -> Event {
    Event { from: format!("{one}@here.example/pc"), to: Some(format!("{other}@here.example")), ..event(body) }
}

fn is_undecided(verdict: &Verdict) -> bool {
    matches!(&verdict.action, Action::Bounce(bounce) if bounce.condition == "service-unavailable")
}

#[tokio::test(start_paused = true)]
async fn fh_1_when_a_lone_server_has_shut_down_logins_go_on_and_messages_and_rooms_are_refused_at_once() {
    let node = Node::new(asks(vec![profile("p", all_kinds(), &["a"])]), |_, _| at_once());
    node.stand.set("a", Standing::Out);
    let (verdict, seconds) = node.ask(login()).await;
    assert_eq!((verdict, seconds), (Verdict::unrecorded(Action::Deliver), 0));
    for event in [event("hello"), said_in_room("hello")] {
        let (verdict, seconds) = node.ask(event).await;
        assert!(is_undecided(&verdict) && verdict.event_id.is_some(), "{verdict:?}");
        assert_eq!(seconds, 0);
    }
    assert!(node.stand.seen().is_empty());
    let refused = node.records();
    assert!(refused.iter().all(|record| record.action == ActionCode::Bounce) && refused.len() == 2);
    assert_eq!(refused[0].condition.as_deref(), Some("service-unavailable"));
    let counts = node.counts();
    assert_eq!((counts.stanzas, counts.undecided_bounced, counts.undecided_passed), (3, 2, 1));
    assert_eq!(counts.refused_messages, 2);
}

#[tokio::test(start_paused = true)]
async fn fh_2_a_login_waits_at_most_thirty_seconds_a_message_is_refused_then_and_a_logout_never_waits() {
    for standing in [Standing::Queueing, Standing::InService] {
        let node = Node::new(asks(vec![profile("p", all_kinds(), &["a"])]), |_, _| Does::Hangs);
        node.stand.set("a", standing);
        let (login, message) = (node.begin(login()), node.begin(event("hello")));
        tokio::time::sleep(SECOND).await;
        assert_eq!((node.counts().waiting_logins, node.counts().waiting), (1, 2));
        let begun = Instant::now();
        node.recorder.chains.notice(&node.recorder, &logout());
        assert_eq!(begun.elapsed(), Duration::ZERO);
        let (verdict, seconds) = login.await.expect("no panic");
        assert_eq!((verdict.action, seconds), (Action::Deliver, 30));
        let (verdict, seconds) = message.await.expect("no panic");
        assert!(is_undecided(&verdict));
        assert_eq!(seconds, 30);
        let counts = node.counts();
        assert_eq!((counts.waiting, counts.waiting_bytes, counts.waiting_logins), (0, 0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn fh_2_the_time_is_settable_and_a_slow_server_in_time_is_listened_to() {
    let mut config = asks(vec![profile("p", all_kinds(), &["a"])]);
    let node = Node::new(config.clone(), |_, _| Does::Answers(20, pass()));
    let (verdict, seconds) = node.ask(event("slow")).await;
    assert_eq!((verdict.action, seconds), (Action::Deliver, 20));
    config.compliance.event_timeout_ms = 4_000;
    let node = Node::new(config, |_, _| Does::Answers(20, pass()));
    let (verdict, seconds) = node.ask(event("late")).await;
    assert!(is_undecided(&verdict));
    assert_eq!(seconds, 4);
}

#[tokio::test(start_paused = true)]
async fn fh_3_the_share_of_a_server_that_goes_out_is_asked_of_another_at_once_and_the_move_is_counted() {
    let config = asks(vec![profile("p", all_kinds(), &["a", "b"])]);
    let node = Node::new(config, |_, _| at_once());
    node.ask(event("home")).await;
    let home = node.stand.servers().pop().expect("asked");
    let goes = home.clone();
    let config = asks(vec![profile("p", all_kinds(), &["a", "b"])]);
    let node = Node::new(
        config,
        move |server, _| {
            if server == goes { Does::Answers(5, Asked::Out) } else { at_once() }
        },
    );
    let (verdict, seconds) = node.ask(event("hello")).await;
    assert_eq!((verdict.action, seconds), (Action::Deliver, 5));
    let servers = node.stand.servers();
    assert!(servers.len() == 2 && servers[0] == home && servers[1] != home, "{servers:?}");
    assert_eq!((node.counts().rerouted, node.counts().conversations_moved), (1, 1));
    // Both out: its handling decides at once.
    for server in ["a", "b"] {
        node.stand.set(server, Standing::Out);
    }
    let (verdict, seconds) = node.ask(event("hello")).await;
    assert!(is_undecided(&verdict));
    assert_eq!(seconds, 0);
}

#[tokio::test(start_paused = true)]
async fn fh_4_a_chain_ends_with_its_first_undecided_bounce_and_with_pass_asks_the_next_in_time() {
    let script = |server: &str, _: &Question| if server == "a" { Does::Hangs } else { at_once() };
    let two = |handling| {
        let first = Rule { handling: Some(handling), ..Rule::new(&ES_OUT) };
        asks(vec![profile("p", vec![first], &["a"]), profile("q", vec![Rule::new(&ES_OUT)], &["b"])])
    };
    let node = Node::new(two(Handling::Bounce), script);
    let (verdict, seconds) = node.ask(event("hello")).await;
    assert!(is_undecided(&verdict));
    assert_eq!((seconds, node.stand.servers()), (30, vec!["a".to_owned()]));
    let node = Node::new(two(Handling::Pass), script);
    let (verdict, seconds) = node.ask(event("hello")).await;
    assert_eq!((verdict.action, seconds), (Action::Deliver, 15));
    assert_eq!(node.stand.servers(), ["a", "b"]);
    assert_eq!(node.counts().undecided_passed, 1);
}

#[tokio::test(start_paused = true)]
async fn fh_5_every_node_asks_the_same_server_about_a_conversation_whoever_speaks() {
    let nodes: Vec<Node> = (0..2)
        .map(|_| Node::new(asks(vec![profile("p", all_kinds(), &["a", "b", "c"])]), |_, _| at_once()))
        .collect();
    for n in 0..30 {
        let (one, other) = (format!("u{n}"), "v".to_owned());
        nodes[0].ask(between(&one, &other, "hello")).await;
        nodes[1].ask(between(&other, &one, "hello")).await;
    }
    assert_eq!(nodes[0].stand.servers(), nodes[1].stand.servers());
    assert_eq!(nodes[0].counts().conversations_moved, 0);
}

#[tokio::test(start_paused = true)]
async fn fh_6_what_cannot_be_used_is_undecided_at_once_and_a_link_that_breaks_holds_nothing_for_long() {
    for (does, most) in [
        (Does::Answers(0, Asked::Malformed), 0),
        (Does::Answers(0, Asked::Overflowed), 0),
        (Does::Answers(31, pass()), 30),
        (Does::Breaks, 31),
    ] {
        let config = asks(vec![profile("p", all_kinds(), &["a"])]);
        let node = Node::new(config, move |_, _| does.clone());
        let (verdict, seconds) = node.ask(event("hello")).await;
        assert!(is_undecided(&verdict));
        assert_eq!(seconds, most);
        assert_eq!(node.counts().waiting, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn fh_7_who_gives_up_leaves_nothing_behind_and_nothing_is_delivered_before_it_is_on_record() {
    let changed =
        || Asked::Answered(Answer::Pass { stanza: Some("<message>b</message>".into()), exceptions: vec![] });
    let config = asks(vec![profile("p", all_kinds(), &["a"])]);
    let node = Node::new(config, move |_, question| {
        if question.stanza.text().contains("hangs") { Does::Hangs } else { Does::Answers(0, changed()) }
    });
    let gone = node.begin(event("hangs"));
    tokio::time::sleep(SECOND).await;
    gone.abort();
    assert!(gone.await.is_err());
    assert!(node.records().is_empty() && node.counts().waiting == 0);
    // Its lane is free again.
    let gate = Arc::new(Gate::default());
    let node = {
        let (sender, receiver) = watch::channel(in_force(asks(vec![profile("p", all_kinds(), &["a"])])));
        let recorder = Arc::new(Recorder::new("pod-0", receiver, Arc::new(Counters::default())));
        recorder.open_journal(gate.clone());
        recorder.set_hosts(Arc::new(["here.example".to_owned()].into()));
        recorder.chains.open(node.stand.clone());
        Node { recorder, gate: gate.clone(), _config: sender, ..node }
    };
    let asked = node.begin(event("hello"));
    tokio::time::sleep(10 * SECOND).await;
    assert!(!asked.is_finished(), "it was delivered before its record was synced");
    assert_eq!(node.records()[0].action, ActionCode::Replace);
    assert_eq!(gate.drafts()[0].1.payloads[1], (2, b"<message>b</message>".to_vec()));
    gate.sync();
    let (verdict, _) = asked.await.expect("no panic");
    assert_eq!(verdict.action, Action::Replace("<message>b</message>".into()));
    assert!(verdict.event_id.is_some() && verdict.outcome_wanted);
}

#[tokio::test(start_paused = true)]
async fn what_was_stopped_stays_so_when_it_cannot_be_recorded_and_what_was_passed_does_not_go_on() {
    let config = asks(vec![profile("p", all_kinds(), &["a"])]);
    let node = Node::new(config, |_, question| {
        let answer = if question.stanza.text().contains("stop") {
            Answer::Handle
        } else {
            Answer::Pass { stanza: None, exceptions: Vec::new() }
        };
        Does::Answers(0, Asked::Answered(answer))
    });
    node.gate.always(Err(AppendError::JournalFull));
    let (verdict, _) = node.ask(event("stop")).await;
    assert_eq!(verdict, Verdict::unrecorded(Action::Drop));
    let (verdict, _) = node.ask(event("go")).await;
    assert!(matches!(verdict.action, Action::Bounce(_)), "{verdict:?}");
    assert_eq!(node.recorder.counts.snapshot().delivered_unrecorded, 0);
}

#[tokio::test(start_paused = true)]
async fn cs_4_a_stanza_is_recorded_with_what_became_of_it_and_of_each_recipient() {
    let config = asks(vec![profile("p", vec![Rule::new(&ES_IN)], &["a"])]);
    let bounce = || cartulary_compliance::link::Bounce {
        error_type: "cancel".into(),
        condition: "policy-violation".into(),
        text: None,
    };
    let node = Node::new(config, move |_, _| {
        let except = Except { recipient: "bob@here.example".into(), action: ExceptAction::Refuse(bounce()) };
        Does::Answers(0, Asked::Answered(Answer::Pass { stanza: None, exceptions: vec![except] }))
    });
    let occupant = |name: &str| Recipient {
        bare: format!("{name}@here.example"),
        occupant: Some(format!("desk@rooms.here.example/{name}")),
        resources: vec!["pc".into()],
    };
    let said = Event { recipients: vec![occupant("ann"), occupant("bob")], ..said_in_room("hello") };
    let (verdict, _) = node.ask(said).await;
    assert_eq!(verdict.action, Action::Deliver);
    assert_eq!(verdict.exceptions[0].recipient, "bob@here.example");
    let record = &node.records()[0];
    assert_eq!(record.action, ActionCode::Deliver);
    let exception = &record.exceptions[0];
    assert_eq!((exception.recipient.as_str(), exception.action), ("bob@here.example", ActionCode::Bounce));
    assert_eq!(exception.condition.as_deref(), Some("policy-violation"));
}

#[tokio::test(start_paused = true)]
async fn p_3_a_conversation_is_asked_about_and_recorded_in_order_and_no_other_waits_for_it() {
    // The first of each takes longest.
    let config = asks(vec![profile("p", all_kinds(), &["a"])]);
    let node = Node::new(config, |_, question| {
        let text = question.stanza.text();
        Does::Answers(if text.contains("slow") { 9 } else { 0 }, pass())
    });
    let mut asked = vec![node.begin(between("ann", "bob", "slow"))];
    for n in 0..5 {
        let (one, other) = if n % 2 == 0 { ("bob", "ann") } else { ("ann", "bob") };
        asked.push(node.begin(between(one, other, &n.to_string())));
    }
    let (_, seconds) = node.ask(between("cat", "dog", "other")).await;
    assert_eq!(seconds, 0);
    for asked in asked {
        let (verdict, seconds) = asked.await.expect("no panic");
        assert_eq!((verdict.action, seconds), (Action::Deliver, 9));
    }
    assert_eq!(node.stand.bodies(), ["slow", "other", "0", "1", "2", "3", "4"]);
    assert_eq!(node.recorded_bodies(), ["other", "slow", "0", "1", "2", "3", "4"]);
    assert!(node.recorder.chains.is_idle());
}

#[tokio::test(start_paused = true)]
async fn p_3_what_nobody_is_asked_about_does_not_overtake_its_conversation() {
    let mut config = asks(vec![profile("p", all_kinds(), &["a"])]);
    let node = Node::new(config.clone(), |_, _| Does::Answers(5, pass()));
    let asked = node.begin(event("first"));
    config.compliance.profiles.clear();
    node._config.send_replace(in_force(config));
    let (second, other) = (node.begin(event("second")), node.begin(between("cat", "dog", "other")));
    assert_eq!(other.await.expect("no panic").1, 0);
    assert_eq!(second.await.expect("no panic").1, 5);
    asked.await.expect("no panic");
    assert_eq!(node.recorded_bodies(), ["other", "first", "second"]);
}

#[tokio::test(start_paused = true)]
async fn p_6_what_waits_is_bounded_and_what_comes_above_it_is_decided_at_once() {
    let config = asks(vec![profile("p", all_kinds(), &["a"])]);
    let node = Node::new(config, |_, _| Does::Hangs);
    let large = "x".repeat(1 << 20);
    let asked: Vec<_> = (0..70).map(|n| node.begin(between(&format!("u{n}"), "v", &large))).collect();
    tokio::time::sleep(SECOND).await;
    assert!(node.counts().waiting_bytes <= MAX_WAITING_BYTES && node.counts().waiting == 63);
    let (mut at_once, mut later) = (0, 0);
    for asked in asked {
        let (verdict, seconds) = asked.await.expect("no panic");
        assert!(is_undecided(&verdict));
        *(if seconds == 0 { &mut at_once } else { &mut later }) += 1;
    }
    assert_eq!((at_once, later), (7, 63));
    assert_eq!(node.counts().waiting_bytes, 0);
}

#[tokio::test(start_paused = true)]
async fn pr_2_what_is_told_is_not_waited_for() {
    let told = Rule { fire_and_forget: true, handling: Some(Handling::Pass), ..Rule::new(&ES_OUT) };
    let node = Node::new(asks(vec![profile("p", vec![told], &["a"])]), |_, _| Does::Breaks);
    let (verdict, seconds) = node.ask(event("hello")).await;
    assert_eq!((verdict.action, seconds), (Action::Deliver, 0));
    assert_eq!(node.stand.bodies(), ["hello"]);
}

#[tokio::test(start_paused = true)]
async fn pr_2_only_what_was_sent_is_discarded_and_what_nobody_was_told_is_refused() {
    let told = Rule { fire_and_forget: true, handling: Some(Handling::Bounce), ..Rule::new(&ES_OUT) };
    for (standing, expected) in [(Standing::InService, 0), (Standing::Queueing, 30), (Standing::Out, 0)] {
        let node = Node::new(asks(vec![profile("p", vec![told.clone()], &["a"])]), |_, _| Does::Breaks);
        node.stand.set("a", standing);
        let (verdict, seconds) = node.ask(event("hello")).await;
        let was_sent = node.stand.bodies() == ["hello"];
        assert_eq!(was_sent, standing == Standing::InService);
        assert_eq!(verdict.action == Action::Drop, was_sent, "{standing:?}: {verdict:?}");
        assert_eq!(is_undecided(&verdict), !was_sent);
        assert_eq!(seconds, expected);
    }
}

fn logout() -> Notice {
    Notice {
        name: "session-down".into(),
        at_micros: 5,
        jid: Some("romeo@here.example/orchard".into()),
        ..Notice::default()
    }
}

#[tokio::test(start_paused = true)]
async fn fh_8_a_logout_that_nobody_could_be_told_of_in_time_is_counted_as_missed() {
    let node = Node::new(asks(vec![profile("p", all_kinds(), &["a"])]), |_, _| at_once());
    for standing in [Standing::InService, Standing::Queueing, Standing::Out] {
        node.stand.set("a", standing);
        node.recorder.chains.notice(&node.recorder, &logout());
    }
    tokio::time::sleep(31 * SECOND).await;
    let seen: Vec<_> = node.stand.seen().into_iter().map(|(_, name, ..)| name).collect();
    assert_eq!(seen, ["es_END"]);
    let mut servers = BTreeMap::from([("a".to_owned(), ComplianceServerStatus::default())]);
    node.recorder.chains.complete(&mut servers);
    assert_eq!(servers["a"].counts.missed, 2);
}

#[tokio::test(start_paused = true)]
async fn what_happened_is_told_to_every_profile_that_has_it_and_what_a_snapshot_says_to_none() {
    let told = Rule { fire_and_forget: true, ..Rule::new(&ES_END) };
    let elsewhere = Profile { nodes: Some(vec!["pod-9".into()]), ..profile("r", all_kinds(), &["c"]) };
    let config = asks(vec![
        profile("p", vec![told], &["a"]),
        profile("q", vec![Rule::new(&ES_END)], &["b"]),
        elsewhere,
    ]);
    let node = Node::new(config, |_, _| at_once());
    node.recorder.chains.notice(&node.recorder, &Notice { snapshot: true, ..logout() });
    node.recorder.chains.notice(&node.recorder, &logout());
    assert_eq!(node.stand.servers(), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn pr_7_statistics_come_by_the_clock() {
    let mut config = asks(vec![profile("p", vec![Rule::new(&E_STATS)], &["a"])]);
    config.compliance.stats_every_seconds = 60;
    let node = Node::new(config, |_, _| at_once());
    let stop = CancellationToken::new();
    let figures = || Figures { host: "here.example".into(), values: vec![("users/online", "users", 2)] };
    let sending = send_stats(&node.recorder, figures, stop.clone());
    let counted = async {
        tokio::time::sleep(200 * SECOND).await;
        stop.cancel();
    };
    futures::future::join(sending, counted).await;
    assert_eq!(node.stand.seen().len(), 3);
    assert_eq!(node.stand.seen()[0].1, "e_STATS");
}

#[tokio::test(start_paused = true)]
async fn pr_10_the_session_that_a_server_names_gets_what_is_sent_to_the_account_until_it_ends() {
    let config = asks(vec![profile("p", vec![Rule::new(&E_PRISESSION)], &["a"])]);
    let node = Node::new(config, |_, _| {
        let named = "<presence xmlns='jabber:client' from='juliet@here.example/phone'/>".to_owned();
        Does::Answers(0, Asked::Answered(Answer::Pass { stanza: Some(named), exceptions: Vec::new() }))
    });
    let sessions = || {
        let resources = vec!["pc".to_owned(), "phone".to_owned()];
        vec![Recipient { bare: "juliet@here.example".into(), occupant: None, resources }]
    };
    let message = || Event { recipients: sessions(), ..event("hello") };
    assert_eq!(node.ask(message()).await.0.resource, None);
    let presence = Event {
        subject: Subject::Presence,
        stanza: "<presence><priority>1</priority></presence>".into(),
        from: "juliet@here.example/pc".into(),
        to: None,
        recipients: sessions(),
        ..event("")
    };
    let (verdict, _) = node.ask(presence).await;
    assert_eq!(verdict, Verdict::unrecorded(Action::Deliver), "the presence itself goes on as it was");
    assert_eq!(node.ask(message()).await.0.resource.as_deref(), Some("phone"));
    let ended = Notice { jid: Some("juliet@here.example/phone".into()), ..logout() };
    node.recorder.chains.notice(&node.recorder, &ended);
    assert_eq!(node.ask(message()).await.0.resource, None);
}

#[tokio::test]
async fn p_6_what_the_server_tells_is_read_while_questions_wait_and_a_plugin_that_goes_takes_them_along() {
    let node = Node::new(asks(vec![profile("p", all_kinds(), &["a"])]), |_, _| Does::Breaks);
    let config = asks(vec![profile("p", all_kinds(), &["a"])]);
    let served = Served::start(in_force(config), node.gate.clone());
    served.recorder.chains.open(node.stand.clone());
    let (mut plugin, _) = served.greet().await;
    plugin.send(&[Frame::Event(1, event("hello")), Frame::Outcome(outcome([9; 16], true))]).await;
    until("the outcome is read", || served.recorder.counts.snapshot().outcomes_unmatched == 1).await;
    assert_eq!(served.recorder.chains.status().waiting, 1);
    assert!(plugin.is_silent());
    drop(plugin);
    until("the question is given up", || served.recorder.chains.is_idle()).await;
    assert_eq!(served.recorder.chains.status().waiting, 0);
    assert!(node.records().is_empty());
}

#[tokio::test(start_paused = true)]
async fn fh_8_a_login_that_a_server_has_not_seen_is_on_record_counted_and_sent_when_it_is_back() {
    let mut config = asks(vec![profile("p", all_kinds(), &["a"])]);
    config.compliance.send_missed = true;
    let node = Node::new(config, |_, _| Does::Hangs);
    let chains = &node.recorder.chains;
    let stop = CancellationToken::new();
    let tasks = [
        tokio::spawn({
            let (recorder, stop) = (node.recorder.clone(), stop.clone());
            async move { recorder.chains.missed.run(&recorder, stop).await }
        }),
        tokio::spawn({
            let (recorder, stand, stop) = (node.recorder.clone(), node.stand.clone(), stop.clone());
            async move { recorder.chains.missed.send(&*stand, &recorder, stop).await }
        }),
    ];
    node.stand.set("a", Standing::Out);
    node.ask(login()).await;
    node.stand.set("a", Standing::Queueing);
    node.ask(login()).await;
    node.ask(event("no login")).await;
    let seen_before = node.stand.seen().len();
    node.stand.set("a", Standing::InService);
    tokio::time::sleep(SECOND).await;
    let sent: Vec<_> = node.stand.seen().split_off(seen_before);
    assert_eq!(sent.len(), 2);
    assert!(sent.iter().all(|(_, name, _, missed)| *name == "e_SESSION" && *missed), "{sent:?}");
    let missed = node.gate.drafts().into_iter().filter_map(|(_, draft)| match draft.body {
        Body::Missed(missed) => Some((missed.jid, missed.event, missed.server, missed.profile)),
        _ => None,
    });
    let expected = ("romeo@here.example/orchard".into(), "e_SESSION".into(), "a".into(), "p".into());
    assert_eq!(missed.collect::<Vec<(String, String, String, String)>>(), [expected.clone(), expected]);
    let mut servers = BTreeMap::from([("a".to_owned(), ComplianceServerStatus::default())]);
    chains.complete(&mut servers);
    assert_eq!((servers["a"].counts.missed, servers["a"].counts.sent_later), (2, 2));
    stop.cancel();
    for task in tasks {
        task.await.expect("no panic");
    }
}
