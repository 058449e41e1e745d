//! What people know against what the archive holds.
//!
//! Lost is a message that somebody received, or that the server took without a word, and that is not archived. Doubled is one
//! that is archived twice, or came twice to one session. Everything else that must not be is in the list beside.

use super::people::{Fate, Said, Session};
use crate::oracle::{Archive, text_of};
use crate::transcript::Kind;
use anyhow::Result;
use cartulary_archive::record::ActionCode;
use std::collections::BTreeMap;

/// What was found.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Messages sent.
    pub said: usize,
    /// Messages received by sessions, each counted for each of them.
    pub heard: usize,
    /// Messages of which the sender knows that they were refused.
    pub refused: usize,
    /// Messages of which the sender knows nothing.
    pub unknown: usize,
    /// Messages sent that are archived.
    pub archived: usize,
    /// Messages that are missing in the archive, told in words.
    pub lost: Vec<String>,
    /// Messages that are there twice, told in words.
    pub doubled: Vec<String>,
    /// What else is wrong: texts, order, made-up messages.
    pub wrong: Vec<String>,
}

struct Archived {
    text: String,
    origin: Option<String>,
    delivered: bool,
}

/// Compares.
pub fn judge(sessions: &[Session], archive: &Archive) -> Result<Verdict> {
    let mut verdict = Verdict::default();
    let mut archived = BTreeMap::<String, Vec<Archived>>::new();
    // In the order in which they were recorded: an archive is read by stream and sequence, and later streams have later ids.
    let mut order = Vec::new();
    for (record, accepted) in archive.accepted() {
        let id = accepted.stanza_id.clone().unwrap_or_default();
        order.push(id.clone());
        archived.entry(id).or_default().push(Archived {
            text: text_of(record)?,
            origin: accepted.origin_id.clone(),
            delivered: matches!(accepted.action, ActionCode::Deliver | ActionCode::Replace),
        });
    }
    let said: BTreeMap<&str, (usize, usize, &Said)> = sessions
        .iter()
        .enumerate()
        .flat_map(|(session, s)| s.said.iter().enumerate().map(move |(n, said)| (session, n, said)))
        .map(|(session, n, said)| (said.id.as_str(), (session, n, said)))
        .collect();
    sent(&said, &archived, &mut verdict);
    for session in sessions {
        received(session, &said, &archived, &mut verdict);
    }
    in_order("the archive", order.iter().map(String::as_str), &said, &mut verdict.wrong);
    for id in archived.keys().filter(|id| !said.contains_key(id.as_str())) {
        verdict.wrong.push(format!("{id} is archived, and nobody said it"));
    }
    Ok(verdict)
}

type ById<'a> = BTreeMap<&'a str, (usize, usize, &'a Said)>;

fn sent(said: &ById<'_>, archived: &BTreeMap<String, Vec<Archived>>, verdict: &mut Verdict) {
    verdict.said = said.len();
    for (id, (_, _, said)) in said {
        let records = archived.get(*id).map_or(&[][..], Vec::as_slice);
        match &said.fate {
            Fate::Taken if records.is_empty() => {
                verdict.lost.push(format!("{id} ({:?}) was taken, and is not archived", said.kind));
            }
            Fate::Taken => {}
            Fate::Refused(_) => verdict.refused += 1,
            Fate::Unknown => verdict.unknown += 1,
        }
        verdict.archived += usize::from(!records.is_empty());
        if records.len() > 1 {
            verdict.doubled.push(format!("{id} is archived {} times", records.len()));
        }
        for record in records.iter().filter(|record| record.text != said.text) {
            verdict.wrong.push(format!("{id} was {:?}, archived: {:?}", said.text, record.text));
        }
        if records.iter().any(|record| record.origin.as_deref() != Some(id)) {
            verdict.wrong.push(format!("{id} is archived without its origin id"));
        }
    }
}

fn received(
    session: &Session,
    said: &ById<'_>,
    archived: &BTreeMap<String, Vec<Archived>>,
    verdict: &mut Verdict,
) {
    let jid = &session.jid;
    let mut times = BTreeMap::<&str, usize>::new();
    for (id, text) in &session.heard {
        verdict.heard += 1;
        *times.entry(id).or_default() += 1;
        match archived.get(id).and_then(|records| records.first()) {
            None => verdict.lost.push(format!("{jid} received {id}, and it is not archived")),
            Some(record) if !record.delivered => {
                verdict.wrong.push(format!("{jid} received {id}, archived as not delivered"));
            }
            Some(_) => {}
        }
        match said.get(id.as_str()) {
            None => verdict.wrong.push(format!("{jid} received {id}, and nobody said it")),
            Some((_, _, said)) => {
                if said.text != *text {
                    verdict.wrong.push(format!("{jid} received {id} as {text:?}, said: {:?}", said.text));
                }
                if let Fate::Refused(condition) = &said.fate {
                    verdict
                        .wrong
                        .push(format!("{jid} received {id}, though its sender was told {condition}"));
                }
            }
        }
    }
    let twice = times.iter().filter(|(_, times)| **times > 1);
    verdict.doubled.extend(twice.map(|(id, times)| format!("{jid} received {id} {times} times")));
    for kind in [Kind::OneToOne, Kind::Private, Kind::Room] {
        let heard = session.heard.iter().map(|(id, _)| id.as_str());
        let of_kind = heard.filter(|id| said.get(id).is_some_and(|(_, _, said)| said.kind == kind));
        in_order(jid, of_kind, said, &mut verdict.wrong);
    }
}

// What one session said stands in the order in which it said it.
fn in_order<'a>(place: &str, ids: impl Iterator<Item = &'a str>, said: &ById<'_>, wrong: &mut Vec<String>) {
    let mut last = BTreeMap::<usize, (usize, &str)>::new();
    for id in ids {
        let Some((session, n, _)) = said.get(id) else { continue };
        if let Some((before, other)) = last.insert(*session, (*n, id))
            && before > *n
        {
            wrong.push(format!("{place}: {id} stands after {other}, which was said later"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ById, in_order, judge};
    use crate::kubernetes::endurance::people::{Fate, Said, Session};
    use crate::oracle::Archive;
    use crate::transcript::Kind;

    fn session(fates: &[Fate]) -> Session {
        let said = fates.iter().enumerate().map(|(n, fate)| Said {
            id: format!("m{n}"),
            kind: Kind::OneToOne,
            text: format!("text {n}"),
            fate: fate.clone(),
        });
        Session { jid: "anna@chat.example/desk".to_owned(), said: said.collect(), heard: Vec::new() }
    }

    #[test]
    fn what_was_taken_or_heard_and_is_not_archived_is_lost_and_what_was_refused_is_not() {
        let mut talk = session(&[Fate::Taken, Fate::Refused(String::new()), Fate::Unknown, Fate::Unknown]);
        talk.heard.push(("m3".to_owned(), "text 3".to_owned()));
        let verdict = judge(&[talk], &Archive::default()).unwrap();
        assert_eq!((verdict.lost.len(), verdict.refused, verdict.unknown), (2, 1, 2), "{verdict:?}");
    }

    #[test]
    fn another_order_than_that_of_the_sender_is_told() {
        let talk = session(&[Fate::Taken, Fate::Taken]);
        let by_id: ById<'_> =
            talk.said.iter().enumerate().map(|(n, said)| (said.id.as_str(), (0, n, said))).collect();
        let mut wrong = Vec::new();
        in_order("here", ["m0", "m1"].into_iter(), &by_id, &mut wrong);
        assert!(wrong.is_empty());
        in_order("here", ["m1", "m0"].into_iter(), &by_id, &mut wrong);
        assert_eq!(wrong.len(), 1);
    }
}
