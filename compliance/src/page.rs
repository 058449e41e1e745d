//! `docs/events.md` against the catalogue. `UPDATE_GOLDEN=1 cargo test -p cartulary-compliance the_page` writes its tables anew.

use crate::derive::caused_packets;
use crate::events::{self, Answers, Event, Group, Handling, Packet, Yield};
use std::fmt::Write;
use std::path::Path;

const MARK: &str = "<!-- events: from here to the end made by a test -->\n";

fn tables() -> String {
    let mut page = String::new();
    for (group, title) in [(Group::Jsm, "Events of sessions and packets"), (Group::Tc, "Events of rooms")] {
        let head = "| event | means | on Prosody | packets | answer | undecided | by |\n|---|---|---|---|---|---|---|";
        _ = writeln!(page, "\n## {title}\n{head}");
        for event in events::ALL.iter().filter(|event| event.group == group) {
            let Event { name, meaning, .. } = event;
            let (prosody, packets) = (prosody(event), packets(event));
            let (answer, undecided, by) = (event.answers.word(), undecided(event), by(event));
            _ = writeln!(
                page,
                "| `{name}` | {meaning} | {prosody} | {packets} | {answer} | {undecided} | {by} |"
            );
        }
    }
    page
}

fn prosody(event: &Event) -> String {
    match event.prosody {
        Yield::Held => "held".to_owned(),
        Yield::Told(why) => format!("told: {why}"),
    }
}

fn packets(event: &Event) -> String {
    let mut packets = caused_packets(event);
    if packets.is_empty() {
        packets = match (event.name, event.group) {
            ("es_END", _) => vec![Packet::Presence],
            (_, Group::Jsm) => vec![Packet::Iq],
            ("onAfterSubject" | "onAfterInvite", _) => vec![Packet::Message],
            ("onAfterChangeAffiliation" | "onAfterRemoveAffiliation" | "onAfterMetaInfoSet", _) => {
                vec![Packet::Iq]
            }
            ("onAfterChangeUser", _) => vec![Packet::Iq, Packet::Presence],
            _ => vec![Packet::Presence],
        };
    }
    packets.iter().map(|packet| packet.word()).collect::<Vec<_>>().join(" ")
}

fn undecided(event: &Event) -> &'static str {
    match (event.prosody, event.default_handling) {
        (Yield::Told(_), _) => "–",
        (_, Handling::Bounce) => "bounce",
        (_, Handling::Pass) => "pass",
    }
}

fn by(event: &Event) -> &'static str {
    match (event.name, event.group) {
        ("es_OUT" | "es_IN" | "e_DISCOFEAT", _) => "pair, room or account",
        ("e_DELIVER" | "e_OFFLINE", _) => "pair",
        ("e_STATS", _) => "host",
        (_, Group::Jsm) => "account",
        ("onServicePacket", _) => "room or account",
        ("onServiceDiscoInfo", _) => "account",
        ("onServiceReconfig", _) => "service",
        (_, Group::Tc) => "room",
    }
}

#[test]
fn the_page_of_events_says_what_the_catalogue_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/events.md");
    let page = std::fs::read_to_string(&path).expect("docs/events.md");
    let (prose, written) = page.split_once(MARK).expect("the mark below which the tables are");
    let tables = tables();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, format!("{prose}{MARK}{tables}")).expect("written");
        return;
    }
    assert!(
        written == tables,
        "docs/events.md differs from the catalogue; write it anew and read the difference"
    );
    for event in events::ALL {
        let row = written.lines().find(|line| line.starts_with(&format!("| `{}` |", event.name)));
        let row = row.unwrap_or_else(|| panic!("{} is not on the page", event.name));
        assert!(row.contains(event.meaning) && row.contains(&prosody(event)), "{row}");
        assert!(event.answers != Answers::Nothing || row.contains("| none |"), "{row}");
    }
}
