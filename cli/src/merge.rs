//! Several answers into one: messages of many sources in the order in which they were said, without holding them all.
//!
//! Each source must be in order itself; a source that fails ends early, is named, and stops nobody else.

use crate::message::Message;
use futures::StreamExt;
use futures::stream::BoxStream;

/// Messages of one source, in order of `seen_at`.
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
        let key = |message: &Message| (message.seen_at.parse::<jiff::Timestamp>().ok(), message.id.clone());
        let (index, _) = self
            .heads
            .iter()
            .enumerate()
            .filter_map(|(index, (head, _))| head.as_ref().map(|head| (index, key(head))))
            .min_by(|a, b| a.1.cmp(&b.1))?;
        let message = self.heads[index].0.take();
        self.advance(index).await;
        message
    }

    async fn advance(&mut self, index: usize) {
        let (head, source) = &mut self.heads[index];
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

    fn source(name: &str, times: &[&str], fails: bool) -> Source {
        let mut items: Vec<anyhow::Result<Message>> = times
            .iter()
            .map(|time| {
                Ok(Message { id: format!("{name}{time}"), seen_at: (*time).to_owned(), ..Default::default() })
            })
            .collect();
        if fails {
            items.push(Err(anyhow::anyhow!("lost")));
        }
        Source { name: name.into(), messages: futures::stream::iter(items).boxed() }
    }

    #[tokio::test]
    async fn messages_come_in_the_order_in_which_they_were_said_and_a_lost_source_is_named() {
        // 09:00:00.5 is before 09:00:00.75 and after 09:00:00, however it is written.
        let sources = vec![
            source("a", &["2026-01-01T09:00:00Z", "2026-01-01T09:00:00.75Z"], false),
            source("b", &["2026-01-01T09:00:00.5Z"], true),
            source("c", &[], false),
        ];
        let mut merged = Merged::new(sources);
        let mut seen = Vec::new();
        while let Some(message) = merged.next().await {
            seen.push(message.seen_at);
        }
        assert_eq!(seen, ["2026-01-01T09:00:00Z", "2026-01-01T09:00:00.5Z", "2026-01-01T09:00:00.75Z"]);
        assert_eq!(merged.failed.len(), 1);
        assert_eq!(merged.failed[0].0, "b");
    }
}
