//! The checks, in the order in which they are made.

use super::examples::{conversation, question};
use super::peer::{Missing, Peer, set};
use super::{Check, Outcome, Trial};
use cartulary_compliance::config::ComplianceServer;
use cartulary_compliance::events::{self, Event};
use cartulary_compliance::protocol::{Answer, AnswerError};
use cartulary_compliance::status::LinkCause;
use cartulary_sidecar::servers::connect::Connection;
use minidom::Element;

/// So many questions are open at once.
const MANY: u32 = 1000;
/// Bytes of the long body: with what is around it, nearly what a stanza may have.
const LONG: usize = 15 << 20;
/// A name that no pod has.
const NOBODY: &str = "op-conformance-check.nobody";
const REFUSED: [&str; 2] = ["feature-not-implemented", "service-unavailable"];

type Tell<'t> = dyn FnMut(Check) + Send + 't;

fn check(name: impl Into<String>, outcome: Outcome, detail: impl Into<String>) -> Check {
    Check { check: name.into(), outcome, detail: detail.into() }
}

/// Everything, as far as the server lets it.
pub async fn run(trial: &Trial, tell: &mut Tell<'_>) {
    let mut peer = match Peer::connect(trial).await {
        Ok(peer) => peer,
        Err(broken) => {
            let detail = format!("{}; nothing else was checked", broken.message);
            tell(check("handshake", Outcome::Failed, detail));
            return;
        }
    };
    tell(check("handshake", Outcome::Ok, "active"));
    tell(refusals(trial, Refusal::Password).await);
    tell(refusals(trial, Refusal::Name).await);
    match peer.ping().await {
        Ok(()) => tell(check("ping", Outcome::Ok, "answered")),
        Err(missing) => {
            let detail =
                format!("{}: a sidecar would take it for dead, and send no event", missing.in_words());
            tell(check("ping", Outcome::Failed, detail));
        }
    }
    for event in &trial.events {
        let (result, usable) = of_event(&mut peer, trial, event).await;
        tell(result);
        if !usable && !again(&mut peer, trial, tell).await {
            return;
        }
    }
    for extra in [Extra::Unknown, Extra::Version, Extra::Long, Extra::Many, Extra::Again] {
        let (result, usable) = of_extra(&mut peer, trial, extra).await;
        tell(result);
        if !usable && !again(&mut peer, trial, tell).await {
            return;
        }
    }
    tell(once(&mut peer).await);
    tell(end(&mut peer).await);
}

/// Another connection in place of one that is of no more use.
async fn again<'a>(peer: &mut Peer<'a>, trial: &'a Trial, tell: &mut Tell<'_>) -> bool {
    match Peer::connect(trial).await {
        Ok(new) => {
            *peer = new;
            true
        }
        Err(broken) => {
            let detail = format!("{}; nothing else was checked", broken.message);
            tell(check("reconnect", Outcome::Failed, detail));
            false
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Refusal {
    Password,
    Name,
}

async fn refusals(trial: &Trial, what: Refusal) -> Check {
    let mut server: ComplianceServer = trial.server.clone();
    let (name, component, expected) = match what {
        Refusal::Password => {
            server.password.push_str("-wrong");
            ("wrong password", trial.component.as_str(), LinkCause::WrongPassword)
        }
        Refusal::Name => ("wrong name", NOBODY, LinkCause::WrongName),
    };
    let tried = match Connection::open(&server).await {
        Ok(mut connection) => connection.handshake(&server, component).await,
        Err(broken) => Err(broken),
    };
    match tried {
        Err(broken) if broken.cause == expected => check(name, Outcome::Ok, "refused, and said why"),
        Err(broken) => {
            let wanted = if what == Refusal::Password { "not-authorized" } else { "host-unknown" };
            check(name, Outcome::Failed, format!("not refused with {wanted}: {}", broken.message))
        }
        Ok(()) if what == Refusal::Password => check(name, Outcome::Failed, "a wrong password is let in"),
        Ok(()) => check(name, Outcome::Note, "every name is let in; is that meant so?"),
    }
}

/// One event of the catalogue; and whether the connection may be used further.
async fn of_event(peer: &mut Peer<'_>, trial: &Trial, event: &'static Event) -> (Check, bool) {
    let place = events::ALL.iter().position(|known| *known == event).unwrap_or_default();
    let question = question(event, &trial.component, u32::try_from(place).unwrap_or_default());
    if question.awaited {
        let answered = peer.ask(&question).await;
        return verdict(event.name, answered);
    }
    let strays = peer.strays.len();
    let told = async {
        let message = peer.written(&question, "")?;
        peer.send(&message).await?;
        peer.ping().await
    };
    match told.await {
        Ok(()) if peer.strays.len() > strays => {
            peer.strays.truncate(strays);
            (check(event.name, Outcome::Failed, "it answers what it is told"), true)
        }
        Ok(()) => (check(event.name, Outcome::Ok, "told, and not answered"), true),
        Err(missing) => {
            let detail = format!("after it was told: {}", missing.in_words());
            (check(event.name, Outcome::Failed, detail), missing.is_late())
        }
    }
}

fn verdict(name: &str, answered: Result<Result<Answer, AnswerError>, Missing>) -> (Check, bool) {
    match answered {
        Ok(Ok(answer)) => (check(name, Outcome::Ok, in_words(&answer)), true),
        Ok(Err(error)) => (check(name, Outcome::Failed, error.to_string()), true),
        Err(missing) => (check(name, Outcome::Failed, missing.in_words()), missing.is_late()),
    }
}

fn in_words(answer: &Answer) -> String {
    match answer {
        Answer::Handle => "HANDLE".into(),
        Answer::Error(error) => format!("error {}", error.condition),
        Answer::Pass { stanza, exceptions } => {
            let changed = if stanza.is_some() { ", changed" } else { "" };
            match exceptions.len() {
                0 => format!("PASS{changed}"),
                count => format!("PASS{changed}, exceptions for {count}"),
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Extra {
    Unknown,
    Version,
    Long,
    Many,
    Again,
}

async fn of_extra<'a>(peer: &mut Peer<'a>, trial: &'a Trial, extra: Extra) -> (Check, bool) {
    let (name, done) = match extra {
        Extra::Unknown => ("unknown attributes and elements", unknown(peer, trial).await),
        Extra::Version => ("an event of another version", version(peer).await),
        Extra::Long => ("a long stanza", long(peer, trial).await),
        Extra::Many => ("many open questions", many(peer, trial).await),
        Extra::Again => ("asked again after a loss", repeated(peer, trial).await),
    };
    match done {
        Ok((outcome, detail)) => (check(name, outcome, detail), true),
        Err(missing) => (check(name, Outcome::Failed, missing.in_words()), missing.is_late()),
    }
}

type Done = Result<(Outcome, String), Missing>;

fn fit(answered: Result<Answer, AnswerError>, otherwise: &str) -> (Outcome, String) {
    match answered {
        Ok(_) => (Outcome::Ok, otherwise.to_owned()),
        Err(error) => (Outcome::Failed, error.to_string()),
    }
}

async fn unknown(peer: &mut Peer<'_>, trial: &Trial) -> Done {
    let question = question(&events::ES_OUT, &trial.component, 100);
    let plain = peer.ask(&question).await?;
    let id = peer.id();
    let mut iq = peer.written(&question, &id)?;
    for event in iq.children_mut() {
        set(event, "colour", "new");
        event.append_child(Element::bare("novelty", "urn:example:novelty"));
    }
    peer.send(&iq).await?;
    let answered = peer.answer(&id, &question).await?;
    if answered.is_ok() && answered != plain {
        return Ok((Outcome::Failed, "it answers otherwise than without them".into()));
    }
    Ok(fit(answered, "passed over"))
}

async fn version(peer: &mut Peer<'_>) -> Done {
    let id = peer.id();
    let text = "<iq xmlns='x' type='set'><event xmlns='urn:cartulary:compliance:0' name='es_OUT'/></iq>";
    let mut iq: Element = text.parse().map_err(|error| Missing::Broken(format!("{error}")))?;
    set(&mut iq, "id", &id);
    peer.send_as(iq).await?;
    let reply = peer.reply(&id).await?;
    let error = reply
        .children()
        .find(|child| child.name() == "error")
        .filter(|_| reply.attr("type") == Some("error"));
    let said =
        |condition: &str| error.is_some_and(|error| error.children().any(|child| child.name() == condition));
    Ok(match REFUSED.iter().find(|condition| said(condition)) {
        Some(condition) if *condition == REFUSED[0] => (Outcome::Ok, format!("refused: {condition}")),
        Some(condition) => (Outcome::Note, format!("refused: {condition}; {} would say more", REFUSED[0])),
        None => (Outcome::Failed, format!("not refused with {}", REFUSED[0])),
    })
}

async fn long(peer: &mut Peer<'_>, trial: &Trial) -> Done {
    let body = "Good morning. ".repeat(LONG / 14);
    let answered = peer.ask(&conversation(&events::ES_OUT, &trial.component, 101, &body)).await?;
    Ok(fit(answered, "15 MiB, answered"))
}

async fn many(peer: &mut Peer<'_>, trial: &Trial) -> Done {
    let (mut bytes, mut asked) = (Vec::new(), Vec::new());
    for number in 0..MANY {
        let question = conversation(&events::ES_OUT, &trial.component, 1000 + number, "Good morning.");
        let id = peer.id();
        let element = peer.written(&question, &id)?;
        element.write_to(&mut bytes).map_err(|error| Missing::Broken(error.to_string()))?;
        asked.push((id, question));
    }
    peer.send_bytes(&bytes).await?;
    let ids: Vec<String> = asked.iter().map(|(id, _)| id.clone()).collect();
    let replies = peer.replies(&ids).await?;
    if replies.len() < asked.len() {
        return Ok((
            Outcome::Failed,
            format!("{} of {MANY} were not answered in time", asked.len() - replies.len()),
        ));
    }
    for (id, question) in &asked {
        if let Some(Err(error)) = replies.get(id).map(|iq| peer.judge(iq, question)) {
            return Ok((Outcome::Failed, error.to_string()));
        }
    }
    Ok((Outcome::Ok, format!("{MANY} answered")))
}

/// A question whose answer is not waited for; the connection breaks; it is asked again on another one.
async fn repeated<'a>(peer: &mut Peer<'a>, trial: &'a Trial) -> Done {
    let question = question(&events::ES_OUT, &trial.component, 102);
    let id = peer.id();
    let element = peer.written(&question, &id)?;
    peer.send(&element).await?;
    let strays = std::mem::take(&mut peer.strays);
    // Before the new one is there the old one is dropped, as a network would do it: without a word.
    *peer = Peer::connect(trial).await.map_err(|broken| Missing::Broken(broken.message))?;
    peer.strays = strays;
    let answered = peer.ask(&question).await?;
    Ok(fit(answered, "answered"))
}

async fn once(peer: &mut Peer<'_>) -> Check {
    let name = "each answered once";
    if let Err(missing) = peer.ping().await {
        return check(name, Outcome::Failed, missing.in_words());
    }
    let twice = peer.left_over().count();
    match (twice, peer.strays.len()) {
        (0, 0) => check(name, Outcome::Ok, "nothing came twice or unasked"),
        (0, strays) => check(name, Outcome::Failed, format!("{strays} answers to what was never asked")),
        (twice, _) => check(
            name,
            Outcome::Failed,
            format!("{twice} questions were answered more than once, or too late"),
        ),
    }
}

async fn end(peer: &mut Peer<'_>) -> Check {
    match peer.close().await {
        Ok(()) => check("end of the stream", Outcome::Ok, "closed in order"),
        Err(missing) => {
            let detail = format!("our stream was closed, its own was not: {}", missing.in_words());
            check("end of the stream", Outcome::Failed, detail)
        }
    }
}
