//! The library against the protocol's page, over real sockets.

mod client;

use cartulary_compliance_kit::{Answer, Event, Policy, Server};
use client::{Client, event};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;

struct Running {
    address: String,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

impl Running {
    async fn end(self) {
        _ = self.stop.send(());
        tokio::time::timeout(client::PATIENCE, self.server).await.expect("an end").expect("no panic");
    }
}

async fn run(server: Server, policy: impl Policy) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let (stop, stopped) = oneshot::channel();
    let server = tokio::spawn(server.run(listener, policy, async { _ = stopped.await }));
    Running { address, stop, server }
}

fn server() -> Server {
    Server::new("secret").component("op-a.p-0")
}

async fn pass(_: Event) -> Answer {
    Answer::pass()
}

const MESSAGE: &str = "<message xmlns='jabber:client'><body>hi</body></message>";

fn question(name: &str) -> String {
    event(&format!("name='{name}' packet='message' answer='any'"), "", MESSAGE)
}

#[tokio::test]
async fn both_namespaces_of_the_stream_are_spoken() {
    let running = run(server(), pass).await;
    for namespace in ["jabber:component:accept", "jabber:component:connect"] {
        let mut client = Client::connect(&running.address).await;
        let id = client.open(namespace, "op-a.p-0").await;
        client.handshake(&id, "secret").await;
        client.until("<handshake/>").await;
        let answer = client.ask("q1", &question("es_OUT")).await;
        assert!(answer.contains("type='result'") || answer.contains("type=\"result\""), "{answer}");
        assert!(answer.contains(namespace) && answer.contains("q1") && answer.contains("<pass"), "{answer}");
    }
    running.end().await;
}

#[tokio::test]
async fn wrong_name_and_wrong_password_are_told_apart() {
    let running = run(server(), pass).await;
    let mut stranger = Client::connect(&running.address).await;
    stranger.open("jabber:component:accept", "op-b.p-0").await;
    assert!(stranger.rest().await.contains("<host-unknown "));
    let mut thief = Client::connect(&running.address).await;
    let id = thief.open("jabber:component:accept", "op-a.p-0").await;
    thief.handshake(&id, "guess").await;
    assert!(thief.rest().await.contains("<not-authorized "));
    let mut hasty = Client::connect(&running.address).await;
    hasty.open("jabber:component:accept", "op-a.p-0").await;
    hasty.ask_without_handshake(&question("es_OUT")).await;
    assert!(hasty.rest().await.contains("<not-authorized "));
    let mut foreign = Client::connect(&running.address).await;
    foreign.open("jabber:client", "op-a.p-0").await;
    assert!(foreign.rest().await.contains("<invalid-namespace "));
    running.end().await;
}

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Client<S> {
    async fn ask_without_handshake(&mut self, event: &str) {
        self.send(&format!("<iq type='set' id='q'>{event}</iq>")).await;
    }
}

#[tokio::test]
async fn pings_are_answered_and_what_is_unknown_is_an_error() {
    let running = run(server(), pass).await;
    let mut client = Client::connect(&running.address).await;
    client.log_in("op-a.p-0", "secret").await;
    client.send("<iq type='get' id='p' from='op-a.p-0' to='a'><ping xmlns='urn:xmpp:ping'/></iq>").await;
    let answer = client.until("/>").await;
    assert!(answer.contains("result") && answer.contains("'p'") | answer.contains("\"p\""), "{answer}");
    for (payload, condition) in [
        ("<event xmlns='urn:cartulary:compliance:2'/>", "feature-not-implemented"),
        ("<event xmlns='urn:cartulary:compliance:1' name='es_OUT'/>", "bad-request"),
        ("<query xmlns='jabber:iq:version'/>", "service-unavailable"),
    ] {
        let answer = client.ask("x", payload).await;
        assert!(answer.contains(condition) && answer.contains("error"), "{answer}");
    }
    running.end().await;
}

#[tokio::test]
async fn events_are_decided_at_the_same_time_and_each_is_answered_once_before_the_end() {
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let policy = move |event: Event| {
        let held = Arc::clone(&held);
        async move {
            // The first waits for the others to be answered.
            if event.name == "es_OUT" {
                _ = held.acquire().await;
            }
            Answer::pass()
        }
    };
    let running = run(server(), policy).await;
    let mut client = Client::connect(&running.address).await;
    client.log_in("op-a.p-0", "secret").await;
    client.send(&format!("<iq type='set' id='first'>{}</iq>", question("es_OUT"))).await;
    for n in 0..1000 {
        client.send(&format!("<iq type='set' id='q{n}'>{}</iq>", question("es_IN"))).await;
    }
    client.send(&format!("<message>{}</message>", question("es_END"))).await;
    let mut heard = String::new();
    for _ in 0..1000 {
        heard += &client.until("</iq>").await;
    }
    assert!(!heard.contains("first"));
    // It ends while a question is open: the answer comes, then the stream's end.
    let ending = tokio::spawn(running.end());
    gate.add_permits(1);
    let rest = client.rest_and_close().await;
    assert!(rest.contains("first") && rest.ends_with("</stream:stream>"), "{rest}");
    ending.await.expect("ended");
}

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Client<S> {
    async fn rest_and_close(&mut self) -> String {
        let heard = self.until("</stream:stream>").await;
        self.send("</stream:stream>").await;
        heard + &self.rest().await
    }
}

#[tokio::test]
async fn a_policy_that_panics_or_says_nonsense_gives_an_error_and_the_next_is_answered() {
    let policy = |event: Event| async move {
        match event.name.as_str() {
            "es_OUT" => panic!("on purpose"),
            "es_IN" => Answer::refuse("no such\u{1}condition", ""),
            _ => Answer::Handle,
        }
    };
    let running = run(server(), policy).await;
    let mut client = Client::connect(&running.address).await;
    client.log_in("op-a.p-0", "secret").await;
    assert!(client.ask("1", &question("es_OUT")).await.contains("internal-server-error"));
    assert!(client.ask("2", &question("es_IN")).await.contains("internal-server-error"));
    assert!(client.ask("3", &question("e_DELIVER")).await.contains("<handle"));
    running.end().await;
}

#[tokio::test]
async fn a_stanza_that_is_too_large_ends_the_connection_and_says_why() {
    let running = run(server().max_stanza(10_000), pass).await;
    let mut client = Client::connect(&running.address).await;
    client.log_in("op-a.p-0", "secret").await;
    client.send(&format!("<message><body>{}</body></message>", "x".repeat(20_000))).await;
    assert!(client.until("</stream:stream>").await.contains("<policy-violation "));
    drop(client);
    running.end().await;
}
