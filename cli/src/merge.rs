//! Several answers into one: messages of many sources in the order in which they were recorded, without holding them all.
//!
//! That is the order of record ids, which begin with the time (UUIDv7). Each source must be in that order itself; a source that fails ends early, is named, and stops nobody else.
//! What several sources tell alike is told once; what they tell differently under one id is told as often as it differs.

use crate::message::Message;
use futures::StreamExt;
use futures::stream::BoxStream;

/// Messages of one source, in the order of their ids.
pub struct Source {
    /// What it is, for people: `pod prosody-0`.
    pub name: String,
    /// Its messages.
    pub messages: BoxStream<'static, anyhow::Result<Message>>,
}

/// The merged messages.
pub struct Merged {
    heads: Vec<(Option<Message>, Source)>,
    started: bool,
    /// Sources that could not be read to their end, and why.
    pub failed: Vec<(String, anyhow::Error)>,
}

impl Merged {
    /// Merges `sources`.
    pub fn new(sources: Vec<Source>) -> Self {
        Self {
            heads: sources.into_iter().map(|source| (None, source)).collect(),
            started: false,
            failed: Vec::new(),
        }
    }

    /// The next message, the oldest of those not given yet.
    pub async fn next(&mut self) -> Option<Message> {
        if !self.started {
            self.started = true;
            for index in 0..self.heads.len() {
                self.advance(index).await;
            }
        }
        let (index, _) = self
            .heads
            .iter()
            .enumerate()
            .filter_map(|(index, (head, _))| Some((index, head.as_ref()?.id.clone())))
            .min_by(|a, b| a.1.cmp(&b.1))?;
        let message = self.heads[index].0.take();
        self.advance(index).await;
        // Two archives hold the same record when one was copied, or changed its name.
        for other in 0..self.heads.len() {
            while message.is_some() && self.heads[other].0 == message {
                self.advance(other).await;
            }
        }
        message
    }

    async fn advance(&mut self, index: usize) {
        let (head, source) = &mut self.heads[index];
        *head = None;
        match source.messages.next().await {
            Some(Ok(message)) => *head = Some(message),
            Some(Err(error)) => self.failed.push((source.name.clone(), error)),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(name: &str, ids: &[&str], fails: bool) -> Source {
        let message = |id: &&str| Ok(Message { id: (*id).to_owned(), ..Default::default() });
        let mut items: Vec<anyhow::Result<Message>> = ids.iter().map(message).collect();
        if fails {
            items.push(Err(anyhow::anyhow!("lost")));
        }
        Source { name: name.into(), messages: futures::stream::iter(items).boxed() }
    }

    #[tokio::test]
    async fn messages_come_in_the_order_in_which_they_were_recorded_and_a_lost_source_is_named() {
        let sources = vec![
            source("a", &["01", "04", "05"], false),
            source("b", &["02", "03"], true),
            source("c", &[], false),
        ];
        let (seen, merged) = read(sources).await;
        assert_eq!(seen, ["01", "02", "03", "04", "05"]);
        assert_eq!(merged.failed.len(), 1);
        assert_eq!(merged.failed[0].0, "b");
    }

    #[tokio::test]
    async fn what_two_sources_tell_alike_is_told_once_and_what_they_tell_differently_twice() {
        let other = Message { id: "02".into(), body: Some("changed".into()), ..Default::default() };
        let changed = Source { name: "c".into(), messages: futures::stream::iter([Ok(other)]).boxed() };
        let sources =
            vec![source("a", &["01", "02", "03"], false), source("b", &["01", "02", "04"], false), changed];
        assert_eq!(read(sources).await.0, ["01", "02", "02", "03", "04"]);
    }

    async fn read(sources: Vec<Source>) -> (Vec<String>, Merged) {
        let mut merged = Merged::new(sources);
        let mut seen = Vec::new();
        while let Some(message) = merged.next().await {
            seen.push(message.id);
        }
        (seen, merged)
    }
}
