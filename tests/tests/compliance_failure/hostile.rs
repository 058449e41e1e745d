//! Servers that answer what is no answer.

use crate::{came, refusal};
use anyhow::{Context, Result, ensure};
use cartulary_compliance::events;
use cartulary_compliance::status::ServerCounts;
use cartulary_tests::policy::{Answer, Policy, Seen, compliance, messages, profile};
use cartulary_tests::world::World;
use std::collections::BTreeSet;
use std::sync::Mutex;

const PASS: &str = "<pass xmlns='urn:cartulary:compliance:1'/>";

fn result(seen: &Seen, addresses: &str) -> String {
    format!("<iq type='result' id='{}'{addresses}>{PASS}</iq>", seen.iq.as_deref().unwrap_or_default())
}

fn forwarded(stanza: &str) -> String {
    format!(
        "<pass xmlns='urn:cartulary:compliance:1'><forwarded xmlns='urn:xmpp:forward:0'>{stanza}</forwarded></pass>"
    )
}

fn altered(seen: &Seen, attribute: &str, value: &str) -> Answer {
    let mut stanza = seen.stanza.clone();
    let name = minidom::rxml::NcName::try_from(attribute).expect("a name");
    stanza.set_attr(minidom::rxml::Namespace::NONE, name, value.to_owned());
    Answer::Change(String::from(&stanza))
}

// Ends the connection the first time and passes when it is asked again.
const ONCE: [&str; 6] = ["deep", "broken", "huge", "endless", "not-text", "stray-end"];

fn hostile(seen: &Seen, again: bool) -> Answer {
    let deep = "<a>".repeat(2_000) + &"</a>".repeat(2_000);
    match seen.body().as_str() {
        body if again && ONCE.contains(&body) => Answer::Pass,
        "late" => Answer::Hold,
        "double" => Answer::Raw(result(seen, "").repeat(2)),
        "unknown" => {
            Answer::Raw(format!("<iq type='result' id='nobody-asked'>{PASS}</iq>{}", result(seen, "")))
        }
        "flood" => Answer::Raw(
            format!("<iq type='result' id='nobody-asked'>{PASS}</iq>").repeat(5_000) + &result(seen, ""),
        ),
        "chatter" => Answer::Raw(
            "<message><body>by the way</body></message><presence/>".to_owned() + &result(seen, ""),
        ),
        "empty" => Answer::Result(String::new()),
        "elsewhere" => Answer::Result("<query xmlns='jabber:iq:version'/>".to_owned()),
        "from-another" => Answer::Raw(result(seen, " from='somebody.else'")),
        "to-another" => Answer::Raw(result(seen, " to='op-somebody.else'")),
        "as-another" => altered(seen, "from", "mallory@example.test/desk"),
        "for-another" => altered(seen, "to", "cleo@example.test"),
        "other-type" => altered(seen, "type", "groupchat"),
        "other-id" => altered(seen, "id", "m-other"),
        "other-name" => Answer::Result(forwarded("<presence xmlns='jabber:client'/>")),
        "two-stanzas" => {
            Answer::Result(forwarded("<message xmlns='jabber:client'/><message xmlns='jabber:client'/>"))
        }
        "deep" => Answer::Result(forwarded(&format!("<message xmlns='jabber:client'>{deep}</message>"))),
        "no-such-recipient" => {
            Answer::Except(vec![("cleo@example.test".to_owned(), "<withhold/>".to_owned())])
        }
        "broken" => Answer::Result(forwarded("<message xmlns='jabber:client'><body></message>")),
        "huge" => Answer::Result(forwarded(&format!(
            "<message xmlns='jabber:client'><body>{}</body></message>",
            "x".repeat(10 << 20)
        ))),
        "endless" => Answer::Raw("<iq type='result' ".to_owned() + &"a".repeat(4 << 20)),
        "not-text" => Answer::Raw("<iq>&nothing;</iq>".to_owned()),
        "stray-end" => Answer::Raw("</iq>".to_owned()),
        _ => Answer::Pass,
    }
}

async fn counts(world: &World) -> Result<ServerCounts> {
    let status = world.sidecar.serves(&["wall"]).await?;
    Ok(status.compliance_servers["wall"].counts.clone())
}

#[tokio::test]
async fn fh_6_answers_that_are_late_double_unknown_malformed_or_huge_do_no_harm_and_are_counted() -> Result<()>
{
    let wall = Policy::start("wall").await?;
    let asked = compliance(&[&wall], vec![profile("Wall", vec![messages(&events::ES_OUT)], &[&wall])]);
    let mut world = World::builder().asks(asked).start().await?;
    let seen_before = Mutex::new(BTreeSet::new());
    wall.answers(move |seen| {
        let again = seen_before.lock().is_ok_and(|mut before| !before.insert(seen.id.clone()));
        hostile(seen, again)
    });
    let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/phone").await?);
    let cleo = world.client("cleo/pad").await?;
    // What goes on all the same.
    for (body, count) in
        [("double", "doubled"), ("unknown", "unknown"), ("flood", "unknown"), ("chatter", "")]
    {
        let before = counts(&world).await?;
        anna.message(ben.bare(), "chat", &format!("m-{body}"), body).await?;
        ensure!(!ben.answer_to(&format!("m-{body}")).await?.is_error(), "{body}");
        let more = move |after: &ServerCounts| match count {
            "doubled" => after.doubled == before.doubled + 1,
            "unknown" => after.unknown >= before.unknown + if body == "flood" { 5_000 } else { 1 },
            _ => true,
        };
        world.sidecar.until(body, |s| more(&s.compliance_servers["wall"].counts)).await?;
    }
    // What is no answer: undecided at once, which for messages means refused.
    let malformed = [
        "empty",
        "elsewhere",
        "from-another",
        "to-another",
        "as-another",
        "for-another",
        "other-type",
        "other-id",
        "other-name",
        "two-stanzas",
        "no-such-recipient",
    ];
    let before = counts(&world).await?;
    for (n, body) in malformed.into_iter().enumerate() {
        anna.message(ben.bare(), "chat", &format!("m-{body}"), body).await?;
        assert_eq!(refusal(&anna, &format!("m-{body}")).await?, "service-unavailable", "{body}");
        ensure!(!came(&ben, &format!("m-{body}")).await?, "{body}");
        assert_eq!(counts(&world).await?.malformed - before.malformed, n as u64 + 1, "{body}");
    }
    let after = counts(&world).await?;
    assert_eq!(after.timed_out, before.timed_out);
    // What ends the connection: it is asked again on the next one, about the same.
    for body in ONCE {
        anna.message(ben.bare(), "chat", &format!("m-{body}"), body).await?;
        wall.wait("the question", |seen| seen.stanza_id() == format!("m-{body}")).await?;
        // Another declaration is tried at once: a link that fails so often waits ever longer.
        world
            .sidecar
            .configure(|c| c.compliance.servers.values_mut().for_each(|s| s.keepalive_seconds += 1))?;
        ensure!(!ben.answer_to(&format!("m-{body}")).await?.is_error(), "{body}");
        let asked = wall.about(&format!("m-{body}"));
        ensure!(
            asked.len() == 2 && asked[0].id == asked[1].id && asked[0].connection < asked[1].connection,
            "{body}: {asked:#?}"
        );
        counts(&world).await?;
    }
    world.sidecar.configure(|c| c.compliance.event_timeout_ms = 1_000)?;
    world.sidecar.in_force().await?;
    // Late: refused when its time is over, and the answer that comes then changes nothing.
    anna.message(ben.bare(), "chat", "m-late", "late").await?;
    assert_eq!(refusal(&anna, "m-late").await?, "service-unavailable");
    assert_eq!(wall.release(&Answer::Pass), 1);
    let status =
        world.sidecar.until("the late answer", |s| s.compliance_servers["wall"].counts.late == 1).await?;
    ensure!(!came(&ben, "m-late").await?, "refused and delivered");
    let link = &status.compliance_servers["wall"];
    assert_eq!((link.pending, link.pending_bytes, status.questions.waiting), (0, 0, 0));

    anna.message(cleo.bare(), "chat", "m-well", "as ever").await?;
    cleo.answer_to("m-well").await?;
    // Nobody's words are in the log.
    let log = world.sidecar.log_lines()?;
    let words = log.iter().find(|line| line.to_string().contains("by the way"));
    ensure!(words.is_none(), "{words:?}");
    let archive = world.archive().await?;
    archive.message("m-late").context("what was refused is on record, too")?;
    Ok(())
}
