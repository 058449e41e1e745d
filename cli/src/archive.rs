//! Archives opened from here: what the archive crate finds, in the command line's own form.

use crate::args::SearchTerms;
use crate::message::{Copy, Message};
use crate::source::Location;
use anyhow::Context;
use cartulary_archive::endpoint::{Archive, Target};
use cartulary_archive::search::{Filter, Match, page};
use cartulary_compliance::config::EndpointTarget;
use futures::StreamExt;
use futures::stream::BoxStream;
use std::path::Path;

/// Messages fetched at once.
const PAGE: u32 = 200;

/// The archive crate's name for a location.
pub fn target(location: &Location) -> Target {
    match location {
        Location::Sqlite(file) => Target::Sqlite(file.clone()),
        Location::PostgreSql(database) => {
            Target::from_config(&EndpointTarget::PostgreSql(database.clone()), Path::new(""))
        }
    }
}

/// Opens an archive for reading.
pub async fn open(location: &Location) -> anyhow::Result<Archive> {
    Ok(Archive::open(&target(location)).await?)
}

/// The messages that fit, in the order of their ids, fetched as they are read.
pub async fn search(
    location: &Location,
    terms: &SearchTerms,
) -> anyhow::Result<BoxStream<'static, anyhow::Result<Message>>> {
    let archive = open(location).await?;
    let filter = Filter {
        person: terms.person.clone(),
        with: terms.with.clone(),
        room: terms.room.clone(),
        from_micros: terms.since.map(|time| time.as_microsecond()),
        until_micros: terms.until.map(|time| time.as_microsecond()),
        text: terms.text.clone(),
        ..Default::default()
    };
    let limit = terms.limit.map_or(PAGE, |limit| u32::try_from(limit).map_or(PAGE, |limit| limit.min(PAGE)));
    let pages = futures::stream::try_unfold(Some((archive, filter)), move |state| async move {
        let Some((mut archive, mut filter)) = state else { return Ok(None) };
        let found = page(&mut archive, &filter, limit).await?;
        let next = match found.last() {
            Some(last) if found.len() == limit as usize => {
                filter.after = Some(last.id);
                Some((archive, filter))
            }
            _ => None,
        };
        let messages =
            found.into_iter().map(|found| message(found).map(Ok)).collect::<Result<Vec<_>, _>>()?;
        Ok::<_, anyhow::Error>(Some((futures::stream::iter(messages), next)))
    });
    Ok(pages.flat_map(flatten).boxed())
}

type Page = futures::stream::Iter<std::vec::IntoIter<anyhow::Result<Message>>>;

fn flatten(page: anyhow::Result<Page>) -> BoxStream<'static, anyhow::Result<Message>> {
    match page {
        Ok(messages) => messages.boxed(),
        Err(error) => futures::stream::iter([Err(error)]).boxed(),
    }
}

fn message(found: Match) -> anyhow::Result<Message> {
    let Match { id, uuids, numbers, mut texts, deliveries, outcomes, stanza, replacement } = found;
    let time = |column: &str| {
        let micros = numbers.get(column).or_else(|| numbers.get("recorded_at")).copied().unwrap_or_default();
        jiff::Timestamp::from_microsecond(micros)
            .map(|time| format!("{time:.6}"))
            .with_context(|| format!("record {id} has a time that is none; cartulary verify tells more"))
    };
    let mut copies: Vec<Copy> = deliveries
        .into_iter()
        .map(|delivery| Copy {
            recipient: delivery.bare,
            occupant: delivery.occupant,
            resources: delivery.resources,
            direction: Some(delivery.direction),
            ..Default::default()
        })
        .collect();
    // Later ones win: stored for later, then delivered from there.
    for told in outcomes {
        let same = |copy: &Copy| copy.recipient == told.bare && copy.occupant == told.occupant;
        let index = copies.iter().position(same).unwrap_or_else(|| {
            copies.push(Copy {
                recipient: told.bare.clone(),
                occupant: told.occupant.clone(),
                ..Default::default()
            });
            copies.len() - 1
        });
        let copy = &mut copies[index];
        copy.resources = told.resources;
        copy.result = Some(told.result);
        copy.reason = told.reason;
    }
    let (seen_at, recorded_at) = (time("seen_at")?, time("recorded_at")?);
    let mut text = |column: &str| texts.remove(column);
    Ok(Message {
        id: id.to_string(),
        event: uuids.get("event").map(ToString::to_string).unwrap_or_default(),
        seen_at,
        recorded_at,
        cluster: text("cluster").unwrap_or_default(),
        node: text("node").unwrap_or_default(),
        from: text("from_jid").unwrap_or_default(),
        to: text("to_jid"),
        room: text("room"),
        kind: text("type").unwrap_or_default(),
        stanza_id: text("stanza_id"),
        origin_id: text("origin_id"),
        subject: text("subject"),
        body: text("body"),
        thread: text("thread"),
        html: text("html"),
        label: text("label"),
        action: text("action").unwrap_or_default(),
        condition: text("condition"),
        copies,
        stanza,
        delivered_stanza: replacement,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use cartulary_archive::search::{Recipient, Told};

    #[test]
    fn each_copy_carries_the_last_word_on_it() {
        let recipient = |bare: &str| Recipient {
            bare: bare.into(),
            occupant: None,
            resources: vec![],
            direction: "internal".into(),
        };
        let told = |bare: &str, result: &str| Told {
            at_micros: None,
            bare: bare.into(),
            occupant: None,
            resources: vec!["r".into()],
            result: result.into(),
            reason: None,
        };
        let found = Match {
            id: Default::default(),
            uuids: Default::default(),
            numbers: [("seen_at", 1_500_000), ("recorded_at", 2_000_000)].into(),
            texts: [("from_jid", "a@x/y".to_owned())].into(),
            deliveries: vec![recipient("b@x"), recipient("c@x")],
            outcomes: vec![told("b@x", "offline"), told("d@x", "remote"), told("b@x", "from-offline")],
            stanza: None,
            replacement: None,
        };
        let message = message(found).expect("a message");
        assert_eq!(message.seen_at, "1970-01-01T00:00:01.500000Z");
        let results: Vec<_> =
            message.copies.iter().map(|copy| (copy.recipient.as_str(), copy.result.as_deref())).collect();
        assert_eq!(results, [("b@x", Some("from-offline")), ("c@x", None), ("d@x", Some("remote"))]);
    }
}
