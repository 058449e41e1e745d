//! `cartulary conformance` against the kit's servers, which conform, and against servers that do not.

use cartulary_compliance_kit::{Answer, Element, Event, Instead, Server};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::OnceCell;

/// What was found of each check, by its name.
struct Report {
    code: Option<i32>,
    json: Value,
}

impl Report {
    async fn of(address: &str, arguments: &[&str]) -> Self {
        let output = Command::new(env!("CARGO_BIN_EXE_cartulary"))
            .args(["conformance", address, "-o", "json", "--component", "op-a.p-0"])
            .args(if arguments.contains(&"--timeout") { &[][..] } else { &["--timeout", "60"] })
            .args(arguments)
            .env("COMPLIANCE_PASSWORD", "secret")
            .output()
            .await
            .expect("it runs");
        let said = String::from_utf8_lossy(&output.stdout);
        let json = serde_json::from_str(&said)
            .unwrap_or_else(|_| panic!("{said}{}", String::from_utf8_lossy(&output.stderr)));
        Self { code: output.status.code(), json }
    }

    fn named(&self, outcome: &str) -> Vec<String> {
        let checks = self.json["checks"].as_array().expect("checks").iter();
        let of = checks.filter(|check| check["outcome"] == outcome);
        of.map(|check| check["check"].as_str().expect("a name").to_owned()).collect()
    }

    fn detail(&self, name: &str) -> &str {
        let check =
            self.json["checks"].as_array().expect("checks").iter().find(|check| check["check"] == name);
        check.and_then(|check| check["detail"].as_str()).unwrap_or_else(|| panic!("no {name}: {}", self.json))
    }
}

/// A program of the kit, built from what is here now: this package's tests do not build it by themselves.
async fn kit(name: &str) -> PathBuf {
    static BUILT: OnceCell<()> = OnceCell::const_new();
    let folder = Path::new(env!("CARGO_BIN_EXE_cartulary")).parent().expect("a folder");
    BUILT
        .get_or_init(|| async {
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let mut build = Command::new(cargo);
            build.args(["build", "--quiet", "--bins", "-p", "cartulary-compliance-kit", "--target-dir"]);
            build.arg(folder.parent().expect("a target folder"));
            if folder.ends_with("release") {
                build.arg("--release");
            }
            assert!(build.status().await.expect("cargo").success());
        })
        .await;
    folder.join(name)
}

async fn start(name: &str, arguments: &[&str]) -> (Child, String) {
    let mut child = Command::new(kit(name).await)
        .args(["--listen", "127.0.0.1:0", "--component", "op-a.p-0"])
        .args(arguments)
        .env("COMPLIANCE_PASSWORD", "secret")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let first = lines.next_line().await.expect("text").expect("a line");
    let address = first.strip_prefix("listening on ").unwrap_or_else(|| panic!("{first}")).to_owned();
    // A program whose progress nobody reads would stop one day.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    (child, address)
}

#[tokio::test]
async fn cs_7_the_kits_three_servers_conform_on_every_event() {
    let programs: [(&str, &[&str]); 3] = [
        (
            "ethical-wall",
            &["--group", "a=ann@chat.example", "--group", "b=bob@chat.example", "--wall", "a:b"],
        ),
        ("redactor", &["--pattern", "[Mm]orning", "--with", "night"]),
        ("logger", &[]),
    ];
    for (name, arguments) in programs {
        let (_child, address) = start(name, arguments).await;
        let report = Report::of(&address, &["--plain", "--stream", "connect"]).await;
        assert_eq!((report.code, report.named("FAILED").len()), (Some(0), 0), "{name}: {}", report.json);
        for event in cartulary_compliance::events::ALL {
            assert!(report.named("OK").iter().any(|check| check == event.name), "{name}: {}", event.name);
        }
        let said = |event| report.detail(event).to_owned();
        match name {
            "ethical-wall" => assert_eq!(
                (said("es_OUT").as_str(), said("onBeforeBroadcast").as_str()),
                ("error policy-violation", "PASS, exceptions for 1")
            ),
            "redactor" => {
                assert_eq!((said("es_OUT").as_str(), said("onHistory").as_str()), ("PASS, changed", "PASS"))
            }
            _ => assert_eq!(said("es_END"), "told, and not answered"),
        }
    }
}

#[tokio::test]
async fn cs_7_events_that_are_answered_wrongly_are_named_and_no_others() {
    let policy = |event: Event| async move {
        match event.name.as_str() {
            // It admits PASS alone.
            "onHistory" => Answer::refuse("forbidden", ""),
            "es_OUT" => {
                let mut stanza: Element = event.stanza.clone();
                if stanza.attr("to") != Some("bob@chat.example") {
                    return Answer::pass();
                }
                stanza.attrs_mut().iter_mut().for_each(|(_, value)| value.push('x'));
                Answer::changed(stanza)
            }
            "es_IN" => {
                Answer::Pass { changed: None, except: vec![("eve@chat.example".into(), Instead::Withhold)] }
            }
            "onBeforeJoin" => std::future::pending().await,
            _ => Answer::pass(),
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    tokio::spawn(Server::new("secret").component("*").run(listener, policy, std::future::pending()));
    let report = Report::of(&address, &["--plain", "--timeout", "5"]).await;
    assert_eq!(report.code, Some(1));
    let wrong = [
        "es_IN",
        "es_OUT",
        "onBeforeJoin",
        "onHistory",
        "unknown attributes and elements",
        "asked again after a loss",
    ];
    let mut failed = report.named("FAILED");
    failed.sort();
    let mut wrong = wrong.map(str::to_owned);
    wrong.sort();
    assert_eq!(failed, wrong, "{}", report.json);
    assert!(
        report.detail("onHistory").contains("PASS alone")
            && report.detail("onBeforeJoin").contains("in time")
    );
    assert_eq!(report.named("NOTE"), ["wrong name"]);
}

/// A server that lets everybody in, answers twice and what it is told, and never closes its stream.
async fn careless(mut socket: TcpStream) {
    let (mut heard, mut greeted, mut shaken) = (String::new(), false, false);
    let mut bytes = vec![0; 1 << 16];
    while let Ok(count @ 1..) = socket.read(&mut bytes).await {
        heard.push_str(&String::from_utf8_lossy(&bytes[..count]));
        // A long stanza comes in many pieces: it is looked through when its end is there.
        let news = heard.len().saturating_sub(count + "</message>".len());
        if shaken && !heard.get(news..).is_some_and(|news| news.contains("</")) {
            continue;
        }
        let mut answer = String::new();
        if !greeted && heard.contains("'>") {
            greeted = true;
            answer += "<stream:stream xmlns='jabber:component:accept' xmlns:stream='http://etherx.jabber.org/streams' id='1'>";
        }
        if !shaken && heard.contains("</handshake>") {
            (shaken, heard) = (true, String::new());
            answer += "<handshake/>";
        }
        while let Some(end) = heard.find("</iq>") {
            let iq: String = heard.drain(..end + "</iq>".len()).collect();
            let id = iq.split(" id=").nth(1).and_then(|rest| rest.get(1..)?.split(['\'', '"']).next());
            let pass = format!(
                "<iq type='result' id='{}'><pass xmlns='urn:cartulary:compliance:1'/></iq>",
                id.unwrap_or("?")
            );
            answer += &pass.repeat(2);
        }
        if heard.contains("</message>") || heard.contains("</stream:stream>") {
            let stop = heard.contains("</stream:stream>");
            heard.clear();
            answer += "<iq type='result' id='told'/>";
            if stop {
                return;
            }
        }
        if socket.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn cs_7_what_concerns_no_event_is_found_too() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(careless(socket));
        }
    });
    let report = Report::of(&address, &["--plain", "--event", "e_DELIVER"]).await;
    let failed = report.named("FAILED");
    for name in ["wrong password", "an event of another version", "each answered once", "end of the stream"] {
        assert!(failed.iter().any(|check| check == name), "{name}: {}", report.json);
    }
    assert!(report.named("OK").iter().any(|check| check == "e_DELIVER"), "{}", report.json);
    let told = Report::of(&address, &["--plain", "--event", "es_END"]).await;
    assert!(told.named("FAILED").iter().any(|check| check == "es_END"), "{}", told.json);
}

#[tokio::test]
async fn cs_5_over_tls_a_server_is_tried_with_authority_and_client_certificate() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name).to_str().expect("text").to_owned();
    for name in ["server", "client", "other"] {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
        std::fs::write(file(&format!("{name}.crt")), made.cert.pem()).expect("written");
        std::fs::write(file(&format!("{name}.key")), made.signing_key.serialize_pem()).expect("written");
    }
    let (server, key, client) = (file("server.crt"), file("server.key"), file("client.crt"));
    let tls = ["--tls-cert", &server, "--tls-key", &key, "--client-ca", &client];
    let (_child, address) = start("logger", &tls).await;
    let shown = |ca: &str, name: &str| {
        [
            "--event",
            "es_OUT",
            "--ca",
            &file(ca),
            "--client-cert",
            &file(&format!("{name}.crt")),
            "--client-key",
        ]
        .map(str::to_owned)
        .into_iter()
        .chain([file(&format!("{name}.key"))])
        .collect::<Vec<_>>()
    };
    for (ca, name, code) in
        [("server.crt", "client", 0), ("server.crt", "other", 1), ("other.crt", "client", 1)]
    {
        let arguments = shown(ca, name);
        let report = Report::of(&address, &arguments.iter().map(String::as_str).collect::<Vec<_>>()).await;
        assert_eq!(report.code, Some(code), "{ca} {name}: {}", report.json);
    }
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_fails_with_the_systems_reason() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    drop(listener);
    let report = Report::of(&address, &["--plain"]).await;
    assert!(report.code == Some(1) && report.detail("handshake").contains(&address), "{}", report.json);
}
