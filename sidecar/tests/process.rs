//! The sidecar as a process: started, asked, told to stop.

#[path = "../src/fixture.rs"]
mod fixture;

use cartulary_compliance::config::{EndpointTarget, PostgreSql, SidecarConfig, TlsMode};
use cartulary_compliance::link::{Action, ArmedHost, Event, Frame, Hello, SinceLast};
use cartulary_compliance::status::{DrainReport, SidecarStatus};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const SECRET: &str = "hunter2-never-in-a-log";
const SAID: &str = "wherefore art thou";
const DEADLINE: Duration = Duration::from_secs(60);

fn config(generation: i64) -> Vec<u8> {
    let config = SidecarConfig { generation, ..fixture::config() };
    config.to_json().expect("serialisable")
}

struct Sidecar {
    child: Child,
    admin: String,
    log: std::thread::JoinHandle<String>,
}

impl Sidecar {
    fn start(dir: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_cartulary-sidecar"))
            .args(["--node", "pod-0", "--admin", "127.0.0.1:0", "--log-format", "json"])
            .arg("--config")
            .arg(dir.join("config.json"))
            .arg("--data-dir")
            .arg(dir.join("data"))
            .arg("--link")
            .arg(dir.join("link.sock"))
            .arg("--plugin-source")
            .arg(dir.join("plugins"))
            .arg("--plugin-target")
            .arg(dir.join("run"))
            .env_remove("CARTULARY_LOG")
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped"));
        let (mut log, mut admin) = (String::new(), None);
        while admin.is_none() {
            let mut line = String::new();
            assert!(lines.read_line(&mut line).expect("text") > 0, "it ended early: {log}");
            let fields: serde_json::Value = serde_json::from_str(&line).expect("a line of JSON");
            if fields["message"] == "listening" {
                admin = fields["admin"].as_str().map(str::to_owned);
            }
            log += &line;
        }
        let log = std::thread::spawn(move || {
            _ = lines.read_to_string(&mut log);
            log
        });
        Self { child, admin: admin.expect("found"), log }
    }

    /// Status code and body.
    fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.admin).expect("the admin port");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("text");
        let (head, body) = answer.split_once("\r\n\r\n").expect("head and body");
        let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
        (code, body.to_owned())
    }

    fn status(&self) -> SidecarStatus {
        let (_, body) = self.get("/status");
        let json = &body[body.find('{').expect("JSON")..=body.rfind('}').expect("JSON")];
        serde_json::from_str(json).expect("a status")
    }

    fn until(&self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        let begun = Instant::now();
        while !condition(self) {
            assert!(begun.elapsed() < DEADLINE, "it never came: {what}; {:?}", self.status());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// kill -9.
    fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
        self.log.join().expect("the log");
    }

    /// Stops it as Kubernetes does; exit code and log.
    fn stop(mut self) -> (Option<i32>, String) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
        let code = self.child.wait().expect("it ends").code();
        (code, self.log.join().expect("the log"))
    }
}

struct Plugin {
    stream: UnixStream,
    input: Vec<u8>,
}

impl Plugin {
    fn connect(dir: &Path) -> Self {
        let stream = UnixStream::connect(dir.join("link.sock")).expect("the link");
        stream.set_read_timeout(Some(DEADLINE)).expect("settable");
        Self { stream, input: Vec::new() }
    }

    fn send(&mut self, frame: &Frame) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.stream.write_all(&bytes).expect("sent");
    }

    fn next(&mut self) -> Frame {
        loop {
            if let Some(raw) = Frame::cut(&self.input).expect("in range") {
                let (frame, taken) =
                    (Frame::decode_payload(raw).expect("readable").expect("known"), raw.taken);
                self.input.drain(..taken);
                return frame;
            }
            let mut chunk = [0; 4096];
            let read = self.stream.read(&mut chunk).expect("an answer");
            assert!(read > 0, "the sidecar closed the link");
            self.input.extend_from_slice(&chunk[..read]);
        }
    }

    fn greet(&mut self) {
        self.greet_after(SinceLast::default());
    }

    fn greet_after(&mut self, since_last: SinceLast) {
        let hosts = vec![ArmedHost { name: "here.example".into(), ..ArmedHost::default() }];
        self.send(&Frame::Hello(Hello {
            protocol_min: 1,
            protocol_max: 1,
            hosts,
            since_last,
            ..Hello::default()
        }));
        assert!(matches!(self.next(), Frame::Welcome(_)));
    }

    fn say(&mut self, id: u64, stanza: String) -> Action {
        let event = Event { stanza, ..fixture::event("") };
        self.send(&Frame::Event(id, event));
        loop {
            match self.next() {
                Frame::Verdict(answered, verdict) if answered == id => return verdict.action,
                Frame::Settings(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn a_sidecar_starts_waits_records_follows_its_configuration_and_stops() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path();
    std::fs::create_dir_all(path.join("plugins/prosody")).expect("a folder");
    std::fs::create_dir_all(path.join("run")).expect("a folder");
    std::fs::write(path.join("plugins/prosody/mod_x.lua"), "-- plugin").expect("written");

    // Without a configuration: alive, not started, refusing.
    let sidecar = Sidecar::start(path);
    assert!(path.join("run/prosody/mod_x.lua").exists());
    assert_eq!(sidecar.get("/healthz").0, 200);
    assert_eq!(sidecar.get("/startedz").0, 503);
    let mut plugin = Plugin::connect(path);
    plugin.greet();
    assert!(matches!(plugin.say(1, format!("<message><body>{SAID}</body></message>")), Action::Bounce(_)));

    std::fs::write(path.join("config.json"), config(1)).expect("written");
    sidecar.until("it is ready", |sidecar| sidecar.get("/readyz").0 == 200);
    assert_eq!(sidecar.get("/startedz"), (200, "ok\n".to_owned()));
    assert_eq!(plugin.say(2, format!("<message><body>{SAID}</body></message>")), Action::Deliver);
    assert_eq!(plugin.say(3, format!("<message><body>{SAID} {SECRET}")), Action::Deliver);

    // A bad configuration is told and changes nothing; a good one takes force under the open link.
    std::fs::write(path.join("config.json"), format!("{{\"format\":1,\"{SECRET}\":0}}")).expect("written");
    sidecar.until("the problem is told", |sidecar| sidecar.status().config.problem.is_some());
    assert_eq!(sidecar.status().config.generation, 1);
    assert_eq!(plugin.say(4, "<message/>".into()), Action::Deliver);
    std::fs::write(path.join("config.json"), config(2)).expect("written");
    sidecar.until("it is in force", |sidecar| sidecar.status().config.generation == 2);
    let status = sidecar.status();
    assert!(status.ready && status.config.problem.is_none());
    assert_eq!((status.counts.accepted, status.counts.refused, status.counts.unparseable), (3, 1, 1));
    sidecar.until("all is archived", |sidecar| {
        let main = sidecar.status().endpoints.remove("main").unwrap_or_default();
        main.state == "Connected" && main.waiting == 0 && main.archived > 3
    });
    sidecar.until("its head is confirmed and signed", |sidecar| {
        let status = sidecar.status();
        let [head] = &status.heads[..] else { return false };
        assert_eq!((&head.journal, head.endpoint.as_str()), (&status.journal.id, "main"));
        !head.signature.is_empty() && head.confirmed.as_ref().map(|at| at.sequence) == Some(head.sequence)
    });
    assert_eq!(sidecar.status().cluster, "chat/main");
    assert!(sidecar.get("/dead-letters").1.contains("\"main\":[]"));
    let (code, page) = sidecar.get("/metrics");
    assert!(code == 200 && page.contains("cartulary_recorded_total{kind=\"accepted\"} 3"), "{page}");

    drop(plugin);
    sidecar.until("the loss is told", |sidecar| sidecar.get("/readyz").0 == 503);
    let (code, log) = sidecar.stop();
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("JournalUnwritable"), "a journal that is about to be opened is no alarm: {log}");
    assert!(log.contains("the journal is closed"), "{log}");
    assert!(!log.contains(SAID) && !log.contains("romeo"), "the log tells what was said, or by whom: {log}");
    assert!(!path.join("link.sock").exists());

    // The same folder serves the next start.
    let next = Sidecar::start(path);
    next.until("it has started", |sidecar| sidecar.get("/startedz").0 == 200);
    assert_eq!(next.stop().0, Some(0));
}

/// Runs `drain` on the folder; exit code, report, log.
fn drain(dir: &Path, patience: u32) -> (Option<i32>, DrainReport, String) {
    let last_words = dir.join("termination-log");
    let output = Command::new(env!("CARGO_BIN_EXE_cartulary-sidecar"))
        .args(["drain", "--node", "pod-0", "--log-format", "json", "--patience", &patience.to_string()])
        .arg("--config")
        .arg(dir.join("config.json"))
        .arg("--data-dir")
        .arg(dir.join("data"))
        .arg("--termination-log")
        .arg(&last_words)
        .env_remove("CARTULARY_LOG")
        .output()
        .expect("the binary starts");
    let report = serde_json::from_slice(&output.stdout).expect("one line of JSON");
    let words = std::fs::read(&last_words).expect("a termination message");
    assert_eq!(serde_json::from_slice::<DrainReport>(&words).expect("JSON"), report);
    (output.status.code(), report, String::from_utf8(output.stderr).expect("text"))
}

fn unreachable_archive() -> EndpointTarget {
    EndpointTarget::PostgreSql(PostgreSql {
        host: "127.0.0.1".into(),
        port: 1,
        database: "archive".into(),
        username: "writer".into(),
        password: SECRET.into(),
        tls: TlsMode::Disable,
        ca: None,
    })
}

#[test]
fn the_journal_of_a_pod_that_is_gone_is_drained_and_what_still_waits_is_told() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path();
    let (code, report, _) = drain(path, 1);
    assert_eq!((code, report.journal.as_str()), (Some(1), ""));
    assert!(report.problem.is_some_and(|problem| problem.contains("no journal")), "{code:?}");

    // Two messages for an archive that cannot be reached; then the pod is gone, without a word.
    let mut unreachable = fixture::config();
    unreachable.endpoints.get_mut("main").expect("there").target = unreachable_archive();
    std::fs::write(path.join("config.json"), unreachable.to_json().expect("JSON")).expect("written");
    let sidecar = Sidecar::start(path);
    sidecar.until("it has started", |sidecar| sidecar.get("/startedz").0 == 200);
    let mut plugin = Plugin::connect(path);
    plugin.greet();
    assert_eq!(plugin.say(1, format!("<message><body>{SAID}</body></message>")), Action::Deliver);
    assert_eq!(plugin.say(2, "<message/>".into()), Action::Deliver);
    // Its journal is not drained while it is alive.
    let (code, report, _) = drain(path, 1);
    assert!(code == Some(1) && report.problem.is_some_and(|problem| problem.contains("in use")));
    sidecar.kill();

    let (code, report, log) = drain(path, 2);
    assert_eq!((code, report.carried, report.problem), (Some(3), 0, None), "{log}");
    assert!(report.waiting["main"].records > 2, "{:?}", report.waiting);
    assert_eq!(report.waiting["main"].state, "Unreachable");

    // An endpoint that nobody describes: at once.
    let mut elsewhere = fixture::config();
    elsewhere.archiving.endpoint = None;
    elsewhere.endpoints.clear();
    std::fs::write(path.join("config.json"), elsewhere.to_json().expect("JSON")).expect("written");
    let (code, report, log) = drain(path, 600);
    assert_eq!((code, report.waiting["main"].state.as_str()), (Some(3), "EndpointMissing"), "{log}");

    std::fs::write(path.join("config.json"), config(2)).expect("written");
    let (code, report, log) = drain(path, 60);
    assert_eq!((code, report.waiting.len()), (Some(0), 0), "{log}");
    // Both messages after the open record; and of the first drain and of this one an open and a closing record.
    assert_eq!(report.carried, 3 + 2 + 2, "{log}");
    assert!(!report.journal.is_empty() && report.node == "pod-0");
    // What proves that nothing of it was taken out of the archive afterwards.
    let [head] = report.heads.as_slice() else { panic!("one head: {:?}", report.heads) };
    let head = cartulary_archive::head::verify(head).expect("it is signed").statement;
    assert!(head.closed && head.confirmed == Some(head.last) && head.journal.to_string() == report.journal);
    assert!(path.join("data/archive/main.sqlite").exists());
    assert!(!log.contains(SAID) && !log.contains("romeo") && !log.contains(SECRET), "{log}");
    let (code, report, _) = drain(path, 60);
    assert_eq!((code, report.carried), (Some(0), 0), "nothing is left to do");
}

#[test]
fn p7_the_number_of_messages_that_are_missing_outlives_the_sidecar_until_it_is_on_record() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path();
    // A file where the journal's folder should be: it cannot be opened.
    std::fs::create_dir_all(path.join("data")).expect("a folder");
    std::fs::write(path.join("data/journal"), "").expect("written");
    let mut lenient = fixture::config();
    lenient.archiving.block_if_unable_to_record = false;
    std::fs::write(path.join("config.json"), lenient.to_json().expect("JSON")).expect("written");
    let sidecar = Sidecar::start(path);
    sidecar.until("it has its configuration", |sidecar| sidecar.status().config.generation == 1);
    let mut plugin = Plugin::connect(path);
    plugin.greet_after(SinceLast { delivered_unrecorded: 5, since_micros: 1, ..SinceLast::default() });
    for id in 1..=2 {
        assert_eq!(plugin.say(id, "<message/>".into()), Action::Deliver);
    }
    let kept = || std::fs::read_to_string(path.join("data/unrecorded.json")).unwrap_or_default();
    sidecar.until("both are kept", |_| kept().contains("\"count\":5") && kept().contains("\"count\":2"));
    assert_eq!(sidecar.status().counts.delivered_unrecorded, 7);
    sidecar.kill();
    drop(plugin);

    std::fs::remove_file(path.join("data/journal")).expect("removed");
    let next = Sidecar::start(path);
    next.until("it is on record", |_| kept().contains("\"missing\":[]"));
    assert_eq!(next.status().counts.delivered_unrecorded, 7, "the alarm goes on");
    let (_, page) = next.get("/metrics");
    assert!(page.contains("cartulary_alarm{alarm=\"DeliveredUnrecorded\""), "{page}");
    let (_, log) = next.stop();
    assert_eq!(log.matches("messages without a record are on record as a gap").count(), 2, "{log}");
}
