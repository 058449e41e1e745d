//! Each of the three programs as a process of its own, over a real socket.

mod client;

use client::{Client, PATIENCE, event};
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

const ANN: &str = "<sender jid='ann@chat.example/pc' ingress='client'/>";

struct Program {
    child: Child,
    progress: Lines<BufReader<ChildStderr>>,
    out: Lines<BufReader<ChildStdout>>,
    address: String,
}

impl Program {
    async fn start(path: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new(path)
            .args(["--listen", "127.0.0.1:0", "--component", "op-a.p-0"])
            .args(arguments)
            .env("COMPLIANCE_PASSWORD", "secret")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("it starts");
        let mut progress = BufReader::new(child.stderr.take().expect("piped")).lines();
        let out = BufReader::new(child.stdout.take().expect("piped")).lines();
        let first = line(&mut progress).await;
        let address = first.strip_prefix("listening on ").unwrap_or_else(|| panic!("{first}")).to_owned();
        Self { child, progress, out, address }
    }

    async fn client(&self) -> Client<tokio::net::TcpStream> {
        let mut client = Client::connect(&self.address).await;
        client.log_in("op-a.p-0", "secret").await;
        client
    }

    /// SIGTERM, then the end in order.
    async fn end(mut self, mut client: Client<tokio::net::TcpStream>) {
        let id = self.child.id().expect("it runs").to_string();
        assert!(Command::new("kill").arg(id).status().await.expect("kill").success());
        client.until("</stream:stream>").await;
        client.send("</stream:stream>").await;
        assert_eq!(client.rest().await, "", "nothing comes after the end");
        let status =
            tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("an end").expect("a status");
        assert!(status.success());
        let mut last = String::new();
        while let Ok(Some(line)) = self.progress.next_line().await {
            last = line;
        }
        assert_eq!(last, "ended");
    }
}

async fn line(lines: &mut Lines<BufReader<impl tokio::io::AsyncRead + Unpin>>) -> String {
    tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("a line").expect("text").expect("no end")
}

fn message(to: &str, kind: &str) -> String {
    format!(
        "<message xmlns='jabber:client' from='ann@chat.example/pc' to='{to}' type='{kind}' id='m1'><body>hello</body></message>"
    )
}

#[tokio::test]
async fn cs_7_the_ethical_wall_refuses_a_pair_and_excepts_in_rooms() {
    let arguments =
        ["--group", "a=ann@chat.example", "--group", "b=bob@chat.example,eve@chat.example", "--wall", "a:b"];
    let wall = Program::start(env!("CARGO_BIN_EXE_ethical-wall"), &arguments).await;
    let mut client = wall.client().await;
    let asked = |name: &str, context: &str, stanza: &str| {
        event(&format!("name='{name}' packet='message' answer='any'"), &format!("{ANN}{context}"), stanza)
    };
    let to_bob = message("bob@chat.example", "chat");
    let refused = client.ask("1", &asked("es_OUT", "<recipient jid='bob@chat.example'/>", &to_bob)).await;
    assert!(refused.contains("policy-violation") && refused.contains("You may not talk"), "{refused}");
    let to_cleo = message("cleo@chat.example", "chat");
    let passed = client.ask("2", &asked("es_OUT", "<recipient jid='cleo@chat.example'/>", &to_cleo)).await;
    assert!(passed.contains("<pass") && !passed.contains("except"), "{passed}");
    let room = "<room jid='desk@rooms.chat.example'/><recipient jid='ann@chat.example'/><recipient jid='bob@chat.example'/>\
                <recipient jid='cleo@chat.example'/><recipient jid='eve@chat.example'/>";
    let to_room = message("desk@rooms.chat.example", "groupchat");
    let answer = client.ask("3", &asked("es_IN", room, &to_room)).await;
    assert_eq!(answer.matches("<except").count(), 2, "{answer}");
    assert!(answer.contains("bob@chat.example") && answer.contains("eve@chat.example"), "{answer}");
    assert!(!client.ask("4", &asked("es_OUT", room, &to_room)).await.contains("except"));
    let private = "<room jid='desk@rooms.chat.example'/><recipient jid='bob@chat.example' occupant='desk@rooms.chat.example/Bob'/>";
    let to_occupant = message("desk@rooms.chat.example/Bob", "chat");
    assert!(client.ask("5", &asked("es_IN", private, &to_occupant)).await.contains("policy-violation"));
    let told = asked("es_OUT", "", &to_bob).replace("answer='any'", "answer='pass'");
    assert!(client.ask("6", &told).await.contains("<pass"), "what admits only PASS gets it");
    wall.end(client).await;
}

#[tokio::test]
async fn cs_7_the_redactor_changes_what_is_said_and_nothing_else() {
    let redactor =
        Program::start(env!("CARGO_BIN_EXE_redactor"), &["--pattern", "[0-9]{4}", "--with", "####"]).await;
    let mut client = redactor.client().await;
    let stanza = "<message xmlns='jabber:client' from='ann@chat.example/pc' to='bob@chat.example' id='m1' xml:lang='en'>\
                  <body>card 1234 &amp; more</body><x xmlns='u:1' a='1234'>1234</x></message>";
    let asked = event("name='es_OUT' packet='message' answer='any'", ANN, stanza);
    let answer = client.ask("1", &asked).await;
    assert!(answer.contains("<body>card #### &amp; more</body>"), "{answer}");
    for kept in [
        "m1",
        "bob@chat.example",
        "ann@chat.example/pc",
        ">1234</x>",
        "u:1",
        "xml:lang",
        "urn:xmpp:forward:0",
    ] {
        assert!(answer.contains(kept), "{kept}: {answer}");
    }
    let plain =
        event("name='es_OUT' packet='message' answer='any'", ANN, &message("bob@chat.example", "chat"));
    assert!(!client.ask("2", &plain).await.contains("forwarded"));
    redactor.end(client).await;
}

#[tokio::test]
async fn cs_7_the_logger_prints_each_event_as_a_line_and_no_text_unless_asked() {
    for with_text in [false, true] {
        let arguments: &[&str] = if with_text { &["--with-text"] } else { &[] };
        let mut logger = Program::start(env!("CARGO_BIN_EXE_logger"), arguments).await;
        let mut client = logger.client().await;
        let asked = |name: &str| {
            event(
                &format!("name='{name}' packet='message' answer='any'"),
                ANN,
                &message("bob@chat.example", "chat"),
            )
        };
        assert!(client.ask("1", &asked("es_OUT")).await.contains("<pass"));
        client.send(&format!("<message>{}</message>", asked("es_END"))).await;
        for name in ["es_OUT", "es_END"] {
            let text = line(&mut logger.out).await;
            let logged: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            assert_eq!(
                (logged["name"].as_str(), logged["sender"]["jid"].as_str()),
                (Some(name), Some("ann@chat.example/pc"))
            );
            assert_eq!(logged["body"].as_str(), with_text.then_some("hello"));
            assert_eq!(text.contains("hello"), with_text);
        }
        logger.end(client).await;
    }
}
