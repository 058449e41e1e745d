//! What a user can do with forms, types and addresses of messages: whatever of it reaches anybody is on record.

use anyhow::{Context, Result, ensure};
use cartulary_tests::prosody::{DOMAIN, ROOMS};
use cartulary_tests::world::World;

/// Every word said begins with this and ends with its number.
const MARK: &str = "psst";

fn words(text: &str) -> Vec<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric();
    text.split(|c| !is_part(c)).filter(|word| word.starts_with(MARK)).map(str::to_owned).collect()
}

#[tokio::test]
async fn ma_1_no_form_type_or_address_gets_a_word_past_the_record() -> Result<()> {
    let modules = r#"modules_enabled = { "disco", "roster", "saslauth", "ping", "register", "carbons", "smacks", "offline", "private", "blocklist", "bookmarks" }"#;
    let world = World::builder().server_lines(modules).start().await?;
    let (anna, ben, phone) =
        (world.client("anna/desk").await?, world.client("ben/desk").await?, world.client("ben/phone").await?);
    phone.request("set", None, "<enable xmlns='urn:xmpp:carbons:2'/>").await?;
    let room = format!("office@{ROOMS}");
    for (client, nick) in [(&anna, "a"), (&ben, "b")] {
        client.join(&room, nick).await?;
    }
    anna.request("set", Some(&room), "<query xmlns='http://jabber.org/protocol/muc#owner'><x xmlns='jabber:x:data' type='submit'/></query>").await?;

    let bodies = [
        "<body>WORD</body>".to_owned(),
        "<subject>WORD</subject>".to_owned(),
        "<subject>WORD</subject><body>WORD</body>".to_owned(),
        "<body>WORD</body><no-store xmlns='urn:xmpp:hints'/><no-permanent-store xmlns='urn:xmpp:hints'/><no-copy xmlns='urn:xmpp:hints'/>".to_owned(),
        "<body>WORD</body><private xmlns='urn:xmpp:carbons:2'/>".to_owned(),
        format!("<body>WORD</body><delay xmlns='urn:xmpp:delay' from='{DOMAIN}' stamp='2020-01-01T00:00:00Z'/>"),
        format!("<body>WORD</body><delay xmlns='urn:xmpp:delay' from='{room}' stamp='2020-01-01T00:00:00Z'/>"),
        "<event xmlns='http://jabber.org/protocol/pubsub#event'><items node='n'><item><x>WORD</x></item></items></event>".to_owned(),
        "<received xmlns='urn:xmpp:carbons:2'><forwarded xmlns='urn:xmpp:forward:0'><message xmlns='jabber:client'><body>WORD</body></message></forwarded></received>".to_owned(),
        "<x xmlns='jabber:x:conference' jid='r@s' reason='WORD'/>".to_owned(),
        format!("<x xmlns='http://jabber.org/protocol/muc#user'><invite to='ben@{DOMAIN}'><reason>WORD</reason></invite></x>"),
        format!("<x xmlns='http://jabber.org/protocol/muc#user'><decline to='ben@{DOMAIN}'><reason>WORD</reason></decline></x>"),
        "<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>http://jabber.org/protocol/muc#request</value></field><field var='muc#role'><value>WORD</value></field></x>".to_owned(),
        "<error type='cancel'><gone xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'>WORD</gone></error>".to_owned(),
        "<composing xmlns='http://jabber.org/protocol/chatstates'>WORD</composing>".to_owned(),
        format!("<a b='{}'/><body>WORD</body>", "x".repeat(3000)),
    ];
    let types = [
        "",
        "type='chat'",
        "type='headline'",
        "type='groupchat'",
        "type='error'",
        "type='normal'",
        "type='x'",
    ];
    let ids = ["", "id='same'", "id=''"];
    let addresses = [
        String::new(),
        format!("to='ben@{DOMAIN}'"),
        format!("to='BEN@{}/phone'", DOMAIN.to_uppercase()),
        format!("to='ben@{DOMAIN}/gone'"),
        format!("to='anna@{DOMAIN}'"),
        format!("to='{DOMAIN}'"),
        format!("to='{DOMAIN}/x'"),
        format!("to='{room}'"),
        format!("to='{room}/b'"),
        format!("to='{room}/nobody'"),
        format!("to='nowhere@{ROOMS}'"),
        format!("to='{ROOMS}'"),
    ];
    let mut said = 0;
    for to in &addresses {
        for id in ids {
            for kind in types {
                let mut stanzas = String::new();
                for body in &bodies {
                    said += 1;
                    let body = body.replace("WORD", &format!("{MARK}{said}"));
                    stanzas += &format!("<message {to} {kind} {id}>{body}</message>");
                }
                anna.raw(&stanzas).await?;
            }
        }
        anna.settle().await.with_context(|| format!("after the messages {to}: {}", world.prosody.log()))?;
    }
    for client in [&anna, &ben, &phone] {
        client.settle().await?;
    }
    let archive = world.archive().await?;
    let recorded: std::collections::HashSet<String> = archive
        .accepted()
        .flat_map(|(record, _)| words(&String::from_utf8_lossy(&record.payloads[0].bytes)))
        .collect();
    let mut heard = 0;
    for client in [&anna, &ben, &phone] {
        ensure!(!client.ended(), "the stream of {} ended", client.jid());
        for stanza in client.seen() {
            for word in words(&String::from(&stanza)) {
                heard += 1;
                ensure!(
                    recorded.contains(&word),
                    "{} got {word}, which is not on record: {}",
                    client.jid(),
                    String::from(&stanza)
                );
            }
        }
    }
    ensure!(heard > 1000, "{heard} of {said} words were heard");
    let unknown = archive.accepted().filter(|(_, accepted)| accepted.message_type == "unknown").count();
    ensure!(unknown == 0, "{unknown} could not be read");
    Ok(())
}
