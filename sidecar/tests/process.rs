//! The sidecar as a process: started, asked, told to stop.

use cartulary_compliance::config::{
    Archiving, ClusterRef, Endpoint, EndpointTarget, FORMAT, JournalSettings, LinkSettings, QueueLimit,
    SidecarConfig,
};
use cartulary_compliance::link::{Action, ArmedHost, Event, Frame, Hello, Ingress, Target};
use cartulary_compliance::status::SidecarStatus;
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
    let endpoint = Endpoint { target: EndpointTarget::Sqlite, queue: QueueLimit::default() };
    let config = SidecarConfig {
        format: FORMAT,
        cluster: ClusterRef { namespace: "chat".into(), name: "main".into() },
        generation,
        archiving: Archiving {
            inbound: true,
            outbound: true,
            block_if_unable_to_record: true,
            endpoint: Some("main".into()),
            node_endpoints: [].into(),
        },
        endpoints: [("main".to_owned(), endpoint)].into(),
        journal: JournalSettings::default(),
        link: LinkSettings::default(),
        alarms: Default::default(),
    };
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
        let hosts = vec![ArmedHost { name: "here.example".into(), ..ArmedHost::default() }];
        self.send(&Frame::Hello(Hello { protocol_min: 1, protocol_max: 1, hosts, ..Hello::default() }));
        assert!(matches!(self.next(), Frame::Welcome(_)));
    }

    fn say(&mut self, id: u64, stanza: String) -> Action {
        let event = Event {
            ingress: Ingress::Client,
            host: "here.example".into(),
            stanza,
            from: "romeo@here.example/orchard".into(),
            to: Some("juliet@here.example".into()),
            target: Target::LocalUser,
            recipients: Vec::new(),
            session: None,
            address: None,
            secure: true,
            seen_at_micros: 1,
            room: None,
            event_id: None,
        };
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
    assert!(sidecar.get("/dead-letters").1.contains("\"main\":[]"));
    let (code, page) = sidecar.get("/metrics");
    assert!(code == 200 && page.contains("cartulary_recorded_total{kind=\"accepted\"} 3"), "{page}");

    drop(plugin);
    sidecar.until("the loss is told", |sidecar| sidecar.get("/readyz").0 == 503);
    let (code, log) = sidecar.stop();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("the journal is closed"), "{log}");
    assert!(!log.contains(SAID) && !log.contains("romeo"), "the log tells what was said, or by whom: {log}");
    assert!(!path.join("link.sock").exists());

    // The same folder serves the next start.
    let next = Sidecar::start(path);
    next.until("it has started", |sidecar| sidecar.get("/startedz").0 == 200);
    assert_eq!(next.stop().0, Some(0));
}
