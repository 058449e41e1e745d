//! What compliance servers are only told: what the server plugin notices, and the statistics (PR-7, PR-11).
//!
//! Nobody waits for any of it, so nothing that happens is held up: a logout never is (FH-2).

use super::Chains;
use crate::recorder::Recorder;
use cartulary_archive::record::new_event_id;
use cartulary_compliance::derive::{self, Key, Occurrence};
use cartulary_compliance::events::{self, Packet};
use cartulary_compliance::link::{Ingress, Notice};
use cartulary_compliance::protocol::{Question, Stanza};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What the statistics say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures {
    /// The server's name: its first host.
    pub host: String,
    /// Name, unit and value of each, as in XEP-0039.
    pub values: Vec<(&'static str, &'static str, u64)>,
}

impl Chains {
    /// Tells of what a notice says; one of a snapshot says what is, not what happens.
    pub fn notice(&self, recorder: &Recorder, notice: &Notice) {
        if notice.name == "session-down"
            && let Some(jid) = &notice.jid
        {
            self.primaries.forget(jid);
        }
        if notice.snapshot || !is_anybody_asked(recorder) {
            return;
        }
        let from = notice.jid.as_ref().or(notice.room.as_ref());
        let question = Question {
            seen_at_micros: notice.at_micros,
            ingress: if notice.jid.is_some() { Ingress::Client } else { Ingress::Internal },
            from: from.cloned().unwrap_or_default(),
            session: notice.session.clone(),
            address: notice.address.clone(),
            mechanism: notice.mechanism.clone(),
            room: notice.room.clone(),
            reason: notice.reason.clone(),
            ..blank(&recorder.node)
        };
        for (occurrence, stanza) in derive::told(notice) {
            self.tell_all(
                recorder,
                &occurrence,
                &Question { stanza: Stanza::new(stanza), ..question.clone() },
            );
        }
    }

    /// Tells each profile that has the event.
    fn tell_all(&self, recorder: &Recorder, occurrence: &Occurrence, question: &Question) {
        let Some(loaded) = recorder.loaded() else { return };
        let compliance = &loaded.config.compliance;
        let deadline = Instant::now() + Duration::from_millis(compliance.event_timeout_ms.into());
        let Occurrence { event, packet, key, recipients } = occurrence;
        let on_node = compliance.profiles.iter().filter(|profile| profile.is_on(&recorder.node));
        for profile in on_node.filter(|profile| profile.rule(event, *packet).is_some()) {
            let question = Question {
                event,
                packet: *packet,
                profile: profile.name.clone(),
                recipients: Arc::clone(recipients),
                ..question.clone()
            };
            drop(self.tell(profile, key, question, deadline));
        }
    }

    fn stats(&self, recorder: &Recorder, figures: &Figures) {
        let occurrence = Occurrence {
            event: &events::E_STATS,
            packet: Packet::Iq,
            key: Key::of(&figures.host),
            recipients: Arc::from([]),
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let question = Question {
            seen_at_micros: i64::try_from(now.as_micros()).unwrap_or(i64::MAX),
            stanza: Stanza::new(derive::stats(&figures.host, figures.values.iter().copied())),
            from: figures.host.clone(),
            ..blank(&recorder.node)
        };
        self.tell_all(recorder, &occurrence, &question);
    }
}

/// Tells the statistics by its own clock, until `stop` (`e_STATS`).
pub async fn send_stats(recorder: &Recorder, figures: impl Fn() -> Figures + Send, stop: CancellationToken) {
    let mut config = recorder.config.clone();
    loop {
        let every = recorder
            .loaded()
            .filter(|loaded| !loaded.config.compliance.profiles.is_empty())
            .map(|loaded| loaded.config.compliance.stats_every_seconds)
            .filter(|seconds| *seconds > 0);
        let due = async {
            match every {
                Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds.into())).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => recorder.chains.stats(recorder, &figures()),
            changed = config.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
    }
}

fn is_anybody_asked(recorder: &Recorder) -> bool {
    recorder.loaded().is_some_and(|loaded| !loaded.config.compliance.profiles.is_empty())
}

/// A question about nothing, told.
fn blank(node: &str) -> Question {
    Question {
        event: &events::E_STATS,
        packet: Packet::Iq,
        profile: String::new(),
        event_id: new_event_id().into_bytes(),
        node: node.to_owned(),
        seen_at_micros: 0,
        awaited: false,
        missed: false,
        stanza: Stanza::new(""),
        ingress: Ingress::Internal,
        from: String::new(),
        session: None,
        address: None,
        secure: false,
        mechanism: None,
        room: None,
        recipients: Arc::from([]),
        reason: None,
    }
}
