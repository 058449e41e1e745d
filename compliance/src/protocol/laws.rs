//! Laws of questions and answers: what `docs/event-protocol.md` says, and what whoever answers cannot do.

use super::*;
use crate::config::StreamNamespace;
use crate::events;
use proptest::prelude::*;

const NOTHING: &str = "";

fn question(event: &'static Event, packet: Packet, stanza: &str) -> Question {
    let recipient = |bare: &str, nick: &str, resources: &[&str]| Recipient {
        bare: bare.into(),
        occupant: Some(format!("desk@rooms.chat.example/{nick}")),
        resources: resources.iter().map(|text| (*text).to_owned()).collect(),
    };
    Question {
        event,
        packet,
        profile: "Wall".into(),
        event_id: *b"\x01\x93\x6f\x0e\x7c\x1e\x7b\x9a\x8d\x60\x1d\x2c\x5f\x0a\x9b\x11",
        node: "prosody-0".into(),
        seen_at_micros: 1_767_323_045_678_901,
        awaited: true,
        missed: false,
        stanza: Stanza::new(stanza),
        ingress: Ingress::Client,
        from: "ann@chat.example/pc".into(),
        session: Some("c2s55f1".into()),
        address: Some("192.0.2.7".into()),
        secure: true,
        mechanism: None,
        room: Some("desk@rooms.chat.example".into()),
        recipients: [
            recipient("bob@chat.example", "Bob", &["phone", "pad"]),
            recipient("eve@chat.example", "Eve", &[]),
        ]
        .into(),
        reason: None,
    }
}

const SAID: &str = "<message from='ann@chat.example/pc' to='desk@rooms.chat.example' type='groupchat' id='m' xml:lang='en'>\
                    <body>secret-1</body></message>";

fn about_message() -> Question {
    question(&events::ES_IN, Packet::Message, SAID)
}

fn sent(question: &Question) -> Result<String, QuestionError> {
    let element = question.to_element("q81", "op-wall.prosody-0", "wall", StreamNamespace::Accept, 29_874)?;
    Ok(xml::write(&element).expect("it can be written"))
}

fn answer(text: &str, question: &Question) -> Result<Answer, AnswerError> {
    Answer::read(&text.parse().expect("XML"), question)
}

fn result(payload: &str) -> String {
    format!("<iq xmlns='jabber:component:accept' type='result' id='q81'>{payload}</iq>")
}

fn pass(payload: &str) -> String {
    result(&format!("<pass xmlns='{NAMESPACE}'>{payload}</pass>"))
}

fn forwarded(stanza: &str) -> String {
    format!("<forwarded xmlns='urn:xmpp:forward:0'>{stanza}</forwarded>")
}

fn error(inner: &str) -> String {
    format!("<iq xmlns='jabber:component:accept' type='error' id='q81'>{inner}</iq>")
}

fn policy(text: &str) -> String {
    format!(
        "<error type='cancel'><policy-violation xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>{text}</error>"
    )
}

fn bounced(text: Option<&str>) -> Bounce {
    let (error_type, condition) = ("cancel".into(), "policy-violation".into());
    Bounce { error_type, condition, text: text.map(str::to_owned) }
}

const NO_STANZA: Answer = Answer::Pass { stanza: None, exceptions: Vec::new() };

fn changed(text: &str) -> Answer {
    Answer::Pass { stanza: Some(text.into()), exceptions: Vec::new() }
}

fn excepted(action: ExceptAction) -> Answer {
    let recipient = "bob@chat.example".into();
    Answer::Pass { stanza: None, exceptions: vec![Except { recipient, action }] }
}

#[test]
fn cs_4_a_question_is_written_as_the_protocol_shows_it() {
    let mut question = about_message();
    question.recipients = question.recipients[..1].into();
    assert_eq!(
        sent(&question).expect("good"),
        "<iq xmlns='jabber:component:accept' from='op-wall.prosody-0' id='q81' to='wall' type='set'>\
         <event xmlns='urn:cartulary:compliance:1' answer='any' id='01936f0e-7c1e-7b9a-8d60-1d2c5f0a9b11' name='es_IN' node='prosody-0' \
         packet='message' profile='Wall' stamp='2026-01-02T03:04:05.678901Z' timeout='29874'>\
         <sender address='192.0.2.7' ingress='client' jid='ann@chat.example/pc' secure='true' session='c2s55f1'/>\
         <room jid='desk@rooms.chat.example'/>\
         <recipient jid='bob@chat.example' occupant='desk@rooms.chat.example/Bob'><resource>phone</resource><resource>pad</resource></recipient>\
         <forwarded xmlns='urn:xmpp:forward:0'>\
         <message xmlns='jabber:client' from='ann@chat.example/pc' id='m' to='desk@rooms.chat.example' type='groupchat' xml:lang='en'>\
         <body>secret-1</body></message></forwarded></event></iq>"
    );
    (question.awaited, question.missed, question.reason) = (false, true, Some("gone".into()));
    let told = sent(&question).expect("good");
    assert!(
        told.starts_with(
            "<message xmlns='jabber:component:accept' from='op-wall.prosody-0' to='wall'><event "
        )
    );
    assert!(told.contains(" missed='true'") && told.contains("<reason>gone</reason>"));
    assert!(!told.contains("timeout"));
}

#[test]
fn cs_4_a_server_may_pass_change_handle_refuse_and_except() {
    let original = "<message xmlns='jabber:client' from='ann@chat.example/pc' id='m' to='desk@rooms.chat.example' type='groupchat' xml:lang='en'>";
    let x = format!("{original}<body>x</body></message>");
    let bare = "<message xmlns='jabber:client'><body>x</body></message>";
    let text = "<text xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'>no &amp; no</text>";
    let except = |inner: &str| pass(&format!("<except recipient='bob@chat.example'>{inner}</except>"));
    let in_stream = policy(NOTHING).replace("<error", "<error xmlns='jabber:component:accept'");
    for (answered, expected) in [
        (pass(NOTHING), NO_STANZA),
        (pass(" \n "), NO_STANZA),
        (result(&format!("<handle xmlns='{NAMESPACE}'/>")), Answer::Handle),
        (error(&policy(NOTHING)), Answer::Error(bounced(None))),
        (error(&policy(text)), Answer::Error(bounced(Some("no & no")))),
        // The question may come back beside the error (RFC 6120, 8.3.1).
        (error(&format!("<event xmlns='{NAMESPACE}'/>{}", policy(NOTHING))), Answer::Error(bounced(None))),
        // What it lacks of addresses, type and id is the original's, whatever prefixes it is written with.
        (pass(&forwarded(bare)), changed(&x)),
        (pass(&forwarded(&x)), changed(&x)),
        (
            pass(&forwarded("<c:message xmlns:c='jabber:client' id='m'><c:body>x</c:body></c:message>")),
            changed(&x),
        ),
        (
            pass(&forwarded("<message xmlns='jabber:client' xml:lang='de'/>")),
            changed(&original.replace("'en'>", "'de'/>")),
        ),
        // As it was asked: no change. When it was sent may stand beside it (XEP-0297).
        (pass(&forwarded(&SAID.replace("<message", "<message xmlns='jabber:client'"))), NO_STANZA),
        (pass(&forwarded(&format!("<delay xmlns='urn:xmpp:delay' stamp='s'/>{x}"))), changed(&x)),
        (except("<withhold/>"), excepted(ExceptAction::Withhold)),
        (except(&policy(NOTHING)), excepted(ExceptAction::Refuse(bounced(None)))),
        (except(&in_stream), excepted(ExceptAction::Refuse(bounced(None)))),
        (except(&forwarded(bare)), excepted(ExceptAction::Replace(x.clone()))),
    ] {
        assert_eq!(answer(&answered, &about_message()), Ok(expected), "{answered}");
    }
    let full = pass("<except recipient='bob@chat.example/pad'><withhold/></except>");
    assert!(answer(&full, &about_message()).is_ok(), "one of a recipient's sessions may be excepted");
}

#[test]
fn cs_4_anything_else_is_malformed_and_the_reason_quotes_nothing() {
    let message =
        |attributes: &str| pass(&forwarded(&format!("<message xmlns='jabber:client' {attributes}/>")));
    let except = |jid: &str, inner: &str| format!("<except recipient='{jid}'>{inner}</except>");
    let defined = "xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'";
    let deep = format!("{}{}", "<a>".repeat(300), "</a>".repeat(300));
    for answered in [
        result(NOTHING),
        result("secret-2"),
        result("<pass/>"),
        result(&format!("<handle xmlns='{NAMESPACE}'/><handle xmlns='{NAMESPACE}'/>")),
        result(&format!("<pass xmlns='{NAMESPACE}'/><x xmlns='secret-2'/>")),
        "<iq xmlns='jabber:component:accept' type='set'/>".to_owned(),
        "<iq xmlns='jabber:component:accept'/>".to_owned(),
        "<iq xmlns='secret-2' type='result'/>".to_owned(),
        "<message xmlns='jabber:component:accept'/>".to_owned(),
        pass("secret-2"),
        // A change that is not understood is never taken for none.
        pass("<forwarded><message xmlns='jabber:client'/></forwarded>"),
        pass(&format!(
            "{}{}",
            forwarded("<message xmlns='jabber:client'/>"),
            forwarded("<message xmlns='jabber:client'/>")
        )),
        pass(&forwarded(NOTHING)),
        pass(&forwarded("<message xmlns='jabber:component:accept'/>")),
        pass(&forwarded("<presence xmlns='jabber:client'/>")),
        pass(&forwarded("<message xmlns='jabber:client'/><message xmlns='jabber:client'/>")),
        pass(&forwarded(&format!("<message xmlns='jabber:client'>{deep}</message>"))),
        message("from='secret-2'"),
        message("to='ann@chat.example/pc'"),
        message("type='chat'"),
        message("id='secret-2'"),
        pass(&except("secret-2@chat.example", "<withhold/>")),
        pass(&except("bob@chat.example/other", "<withhold/>")),
        pass(&except("eve@chat.example/", "<withhold/>")),
        pass("<except><withhold/></except>"),
        pass(&except("bob@chat.example", NOTHING)),
        pass(&except("bob@chat.example", "<secret-2/>")),
        pass(&except("bob@chat.example", "<withhold/><withhold/>")),
        pass(&except("bob@chat.example", &forwarded("<message xmlns='jabber:client' id='secret-2'/>"))),
        pass(&except("bob@chat.example", "<withhold/>").repeat(2)),
        error(NOTHING),
        error("<error type='cancel'/>"),
        error(&policy(NOTHING).replace("cancel", "secret-2")),
        error(&policy(NOTHING).replace("policy-violation", "secret-2")),
        error(&policy(&format!("<conflict {defined}/>"))),
        error(&policy(NOTHING).repeat(2)),
    ] {
        match answer(&answered, &about_message()) {
            Err(error @ AnswerError::Malformed(_)) => {
                assert!(!error.to_string().contains("secret"), "{error}")
            }
            other => panic!("{answered}: {other:?}"),
        }
    }
    let mut presence = question(&events::ES_IN, Packet::Presence, "<presence/>");
    let withheld = pass(&except("bob@chat.example", "<withhold/>"));
    assert!(
        matches!(answer(&withheld, &presence), Err(AnswerError::Malformed(_))),
        "only messages have exceptions"
    );
    presence.packet = Packet::Message;
    presence.recipients = [].into();
    assert!(matches!(answer(&withheld, &presence), Err(AnswerError::Malformed(_))), "nobody to except");
}

#[test]
fn pr_9_where_pass_alone_is_admitted_every_other_answer_is_told_apart() {
    let of_the_room = "<presence from='desk@rooms.chat.example'/>";
    let same = forwarded("<presence xmlns='jabber:client' from='desk@rooms.chat.example'/>");
    let other = forwarded("<presence xmlns='jabber:client'><show>away</show></presence>");
    for event in events::ALL {
        let question = question(event, Packet::Presence, of_the_room);
        let (any, none) = match event.answers {
            events::Answers::Any => (true, false),
            events::Answers::Pass => (false, false),
            events::Answers::Nothing => (false, true),
        };
        for (answered, is_admitted) in [
            (pass(NOTHING), !none),
            // PASS with the stanza as it was is PASS.
            (pass(&same), !none),
            (pass(&other), any),
            (result(&format!("<handle xmlns='{NAMESPACE}'/>")), any),
            (error(&policy(NOTHING)), any),
        ] {
            let got = answer(&answered, &question);
            if event.name == events::E_PRISESSION.name && answered == pass(&other) {
                continue;
            }
            assert_eq!(got != Err(AnswerError::NotAdmitted), is_admitted, "{}: {answered}", event.name);
            assert!(!matches!(got, Err(AnswerError::Malformed(_))), "{}: {answered}", event.name);
        }
    }
}

#[test]
fn pr_10_a_primary_session_is_a_full_address_of_the_account_asked_about() {
    let mut asked =
        question(&events::E_PRISESSION, Packet::Presence, "<presence from='ann@chat.example/pc'/>");
    let (bare, resources) = ("ann@chat.example".to_owned(), vec!["pc".to_owned(), "phone".to_owned()]);
    asked.recipients = [Recipient { bare, occupant: None, resources }].into();
    let named = |jid: &str| {
        answer(&pass(&forwarded(&format!("<presence xmlns='jabber:client' from='{jid}'/>"))), &asked)
    };
    assert_eq!(
        named("ann@chat.example/phone"),
        Ok(changed("<presence xmlns='jabber:client' from='ann@chat.example/phone'/>"))
    );
    // The presence as it came dictates nothing.
    assert_eq!(named("ann@chat.example/pc"), Ok(NO_STANZA));
    for jid in ["ann@chat.example", "ann@chat.example/", "bob@chat.example/pc", ""] {
        assert!(matches!(named(jid), Err(AnswerError::Malformed(_))), "{jid}");
    }
    let nobody = pass(&forwarded("<presence xmlns='jabber:client'/>"));
    assert!(matches!(answer(&nobody, &asked), Err(AnswerError::Malformed(_))));
}

#[test]
fn a_stanza_is_asked_about_down_to_a_depth_that_can_be_dropped() {
    let nested = |levels: usize| {
        let levels = levels - 1;
        format!("<message>{}{}</message>", "<a>".repeat(levels), "</a>".repeat(levels))
    };
    let asked = |stanza: &str| sent(&question(&events::ES_OUT, Packet::Message, stanza)).map(|_| ());
    assert_eq!(asked(&nested(MAX_DEPTH)), Ok(()));
    assert_eq!(asked(&nested(MAX_DEPTH + 1)), Err(QuestionError::TooDeep));
    assert_eq!(asked(&nested(200_000)), Err(QuestionError::TooDeep));
    for garbage in [
        "",
        "<message>",
        "<message/><message/>",
        "&",
        "<a:b/>",
        "<message><xml:a/></message>",
        "<message><!-- c --></message>",
    ] {
        assert_eq!(asked(garbage), Err(QuestionError::Malformed), "{garbage}");
    }
    // A tree has a copy of its namespace at each element; what would grow so is not made.
    let long = format!("<message xmlns:l='{}'>{}</message>", "n".repeat(100_000), "<l:a/>".repeat(10_000));
    assert_eq!(asked(&long), Err(QuestionError::Malformed));
}

#[test]
fn whatever_prefixes_a_stanza_declares_it_can_be_written_and_means_the_same() {
    for (stanza, expected) in [
        (
            "<message xmlns:a='x'><b xmlns:a='y'><a:c/></b></message>",
            "<message><b><c xmlns='y'/></b></message>",
        ),
        (
            "<message><b xmlns:xml='http://www.w3.org/XML/1998/namespace'/></message>",
            "<message><b/></message>",
        ),
        (
            "<message><b xmlns='q' xmlns:tns0='z' xmlns:p='w' p:v='1' tns0:v='2'/></message>",
            "<message><b xmlns='q' xmlns:k='z' xmlns:l='w' l:v='1' k:v='2'/></message>",
        ),
        ("<message xmlns='jabber:server'><body/></message>", "<message><body/></message>"),
        ("<message><b xmlns=''><c/></b></message>", "<message><b xmlns=''><c/></b></message>"),
    ] {
        let text = sent(&question(&events::ES_OUT, Packet::Message, stanza)).expect(stanza);
        let read: Element = text.parse().expect("XML");
        let forwarded =
            read.children().flat_map(Element::children).find(|child| child.is("forwarded", FORWARD));
        let written = forwarded.and_then(|forwarded| forwarded.children().next()).expect("a stanza");
        assert_eq!(*written, Stanza::new(expected).element().expect("XML"), "{text}");
    }
}

#[test]
fn characters_that_xml_has_no_place_for_are_replaced() {
    let mut question = about_message();
    (question.from, question.reason) = ("a\0@b/\u{ffff}".into(), Some("\u{1b}[0m".into()));
    question.recipients =
        [Recipient { bare: "\u{1}".into(), occupant: None, resources: vec!["\u{b}".into()] }].into();
    let text = sent(&question).expect("good");
    assert!(
        text.contains("jid='a\u{fffd}@b/\u{fffd}'") && text.contains("<resource>\u{fffd}</resource>"),
        "{text}"
    );
}

#[test]
fn what_people_write_is_not_printed_with_a_question() {
    assert!(!format!("{:?}", about_message()).contains("secret"));
}

/// Text that is often nearly an answer.
fn garbage() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        Just("iq"),
        Just("pass"),
        Just("handle"),
        Just("except"),
        Just("withhold"),
        Just("error"),
        Just("text"),
        Just("forwarded"),
        Just("message"),
        Just("p:body"),
        Just("policy-violation"),
        Just("xml:a")
    ];
    let attributes = prop_oneof![
        Just(""),
        Just(" xmlns='jabber:component:accept' type='result'"),
        Just(" xmlns='urn:cartulary:compliance:1'"),
        Just(" xmlns='urn:xmpp:forward:0'"),
        Just(" xmlns='jabber:client' xmlns:p='q' p:a='\u{1F600}'"),
        Just(" xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'"),
        Just(" xmlns:tns0='t' xmlns:p='jabber:client' xmlns=''"),
        Just(" xmlns:xml='http://www.w3.org/XML/1998/namespace' xmlns:p='q'"),
        Just(" recipient='bob@chat.example' type='cancel'"),
        Just(" xmlns='http://www.w3.org/XML/1998/namespace' lang='de'"),
        Just(" xmlns='http://www.w3.org/2000/xmlns/' xmlns:p='q'"),
        Just(" xmlns:p='http://www.w3.org/2000/xmlns/' p:xmlns='1' p:xml='2'"),
        Just(" xmlns:p='http://www.w3.org/XML/1998/namespace' p:lang='de' p:id='1'"),
        Just(" xmlns:p='' p:a='1'"),
    ];
    let leaf = prop_oneof![Just(String::new()), "[ a-z&;<\\PC]{0,6}"];
    leaf.prop_recursive(6, 40, 4, move |inner| {
        (name.clone(), attributes.clone(), prop::collection::vec(inner, 0..4)).prop_map(
            |(name, attributes, children)| format!("<{name}{attributes}>{}</{name}>", children.concat()),
        )
    })
}

proptest! {
    #[test]
    fn no_answer_makes_the_reader_panic_and_none_changes_who_it_is_from(text in garbage()) {
        let inside = [text.clone(), result(&text), pass(&text), pass(&forwarded(&text)), error(&text)];
        for answered in inside.iter().filter_map(|text| text.parse::<Element>().ok()) {
            if let Ok(Answer::Pass { stanza: Some(stanza), .. }) = Answer::read(&answered, &about_message()) {
                let read: Element = stanza.parse().expect("what is written can be read");
                prop_assert_eq!(read.attr("from"), Some("ann@chat.example/pc"));
                prop_assert_eq!(read.attr("id"), Some("m"));
            }
        }
    }

    #[test]
    fn no_stanza_makes_the_writer_panic(text in garbage(), field in "\\PC*|[\0-\u{20}]{0,4}") {
        let mut asked = question(&events::ES_OUT, Packet::Message, &format!("<message xmlns:p='r'>{text}</message>"));
        (asked.from, asked.profile, asked.reason) = (field.clone(), field.clone(), Some(field));
        if let Ok(text) = sent(&asked) {
            let read: Element = text.parse().expect("what is written can be read");
            prop_assert_eq!(read.name(), "iq");
        }
    }
}
