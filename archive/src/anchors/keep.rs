//! The anchors of one journal: what is kept of the heads it shows. Pure.
//!
//! Invariants: of each stream the newest head is kept, after every pair that does not fit together, and such pairs are kept for
//! ever; the key that was seen first is the journal's; nothing here grows without limit, whatever a pod shows.

use super::JournalAnchors;
use cartulary_compliance::status::Head;
use std::collections::BTreeSet;

/// Incarnations of which the newest head is kept: an open record names the end of the one before it, which covers the rest.
const INCARNATIONS: usize = 8;
/// Heads under the journal's own key kept because they do not fit. More would say the same.
const MAX_CONFLICTING: usize = 64;
/// Heads under other keys, which whoever may create pods can sign as many of as they like: they take no other's room.
const MAX_FOREIGN: usize = 4;
/// Endpoints of one journal.
const MAX_ENDPOINTS: usize = 32;

/// What a head was to what is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Taken {
    /// Nothing new.
    Known,
    /// There is no room for it; why is in the docs.
    TooMany,
    /// New: to be written within the minute.
    Newer,
    /// To be written at once.
    AtOnce,
}

impl JournalAnchors {
    /// A journal that is seen for the first time, by its first head.
    #[must_use]
    pub fn new(cluster: &str, node: &str, head: &Head) -> Self {
        Self {
            journal: head.journal.clone(),
            node: node.to_owned(),
            cluster: cluster.to_owned(),
            public_key: head.public_key.clone(),
            heads: Vec::new(),
        }
    }

    /// Takes a head in whose signature was checked.
    pub fn take(&mut self, head: &Head) -> Taken {
        let own = self.heads.iter().filter(|kept| self.is_own(kept));
        let known = own.map(|kept| &kept.endpoint).collect::<BTreeSet<_>>();
        if self.is_own(head) && !known.contains(&head.endpoint) && known.len() >= MAX_ENDPOINTS {
            return Taken::TooMany;
        }
        let stream: Vec<usize> =
            (0..self.heads.len()).filter(|index| is_of_stream(&self.heads[*index], head)).collect();
        let Some(&last) = stream.last() else {
            return self.add(head);
        };
        if says_the_same(&self.heads[last], head) {
            return Taken::Known;
        }
        if !fits(&self.heads[last], head) {
            return self.add(head);
        }
        let before = stream.len().checked_sub(2).map(|index| &self.heads[stream[index]]);
        if before.is_some_and(|before| !fits(before, &self.heads[last])) {
            // The last one contradicts what was before it, so it stays beside what comes after it.
            return self.add(head).min(Taken::Newer);
        }
        let closes = head.closed && !self.heads[last].closed;
        self.heads[last] = head.clone();
        if closes { Taken::AtOnce } else { Taken::Newer }
    }

    /// What does not fit together, a sentence each. Empty while all is well.
    #[must_use]
    pub fn conflicts(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (index, head) in self.heads.iter().enumerate() {
            if !self.is_own(head) {
                found.push(format!("{}: a head signed by another key than the journal's", head.endpoint));
                continue;
            }
            let before = self.heads[..index].iter().rev().find(|before| is_of_stream(before, head));
            if let Some(before) = before.filter(|before| !fits(before, head)) {
                found.push(format!(
                    "{}: the stream of incarnation {} was at record {}, and then at {} with another history",
                    head.endpoint, head.incarnation, before.sequence, head.sequence
                ));
            }
        }
        found
    }

    /// The newest head of each endpoint, under the journal's key.
    #[must_use]
    pub fn newest(&self) -> Vec<&Head> {
        let mut newest: Vec<&Head> = Vec::new();
        for head in self.heads.iter().filter(|head| self.is_own(head)) {
            match newest.iter_mut().find(|other| other.endpoint == head.endpoint) {
                Some(other) if other.incarnation <= head.incarnation => *other = head,
                Some(_) => {}
                None => newest.push(head),
            }
        }
        newest.sort_by(|a, b| a.endpoint.cmp(&b.endpoint));
        newest
    }

    fn add(&mut self, head: &Head) -> Taken {
        let is_own = self.is_own(head);
        let stands_alone = is_own && !self.heads.iter().any(|kept| is_of_stream(kept, head));
        if !stands_alone {
            let held =
                self.heads.iter().filter(|kept| self.is_own(kept) == is_own && self.is_held(kept)).count();
            if held >= if is_own { MAX_CONFLICTING } else { MAX_FOREIGN } {
                return Taken::TooMany;
            }
        }
        self.heads.push(head.clone());
        self.forget(&head.endpoint);
        Taken::AtOnce
    }

    /// Drops the oldest incarnations of an endpoint, but for what is kept for ever.
    fn forget(&mut self, endpoint: &str) {
        let held: Vec<bool> = self.heads.iter().map(|head| self.is_held(head)).collect();
        let incarnations: BTreeSet<String> = self
            .heads
            .iter()
            .zip(&held)
            .filter(|(head, held)| head.endpoint == endpoint && !**held)
            .map(|(head, _)| head.incarnation.clone())
            .collect();
        let dropped: BTreeSet<String> = incarnations.iter().rev().skip(INCARNATIONS).cloned().collect();
        let mut held = held.into_iter();
        self.heads.retain(|head| {
            let held = held.next().unwrap_or_default();
            held || head.endpoint != endpoint || !dropped.contains(&head.incarnation)
        });
    }

    fn is_own(&self, head: &Head) -> bool {
        head.public_key == self.public_key
    }

    /// Whether it is kept for ever, because it or its neighbours contradict each other.
    fn is_held(&self, head: &Head) -> bool {
        !self.is_own(head) || self.heads.iter().filter(|other| is_of_stream(other, head)).count() > 1
    }
}

/// Streams of another key are streams of their own: what one key signed says nothing of what another did.
fn is_of_stream(a: &Head, b: &Head) -> bool {
    a.public_key == b.public_key && a.incarnation == b.incarnation && a.endpoint == b.endpoint
}

/// Equal but for when it was signed.
fn says_the_same(a: &Head, b: &Head) -> bool {
    a.sequence == b.sequence && a.hash == b.hash && a.confirmed == b.confirmed && a.closed == b.closed
}

/// Whether one history can show `before` and then `after`.
fn fits(before: &Head, after: &Head) -> bool {
    let written = after.sequence > before.sequence && !before.closed
        || after.sequence == before.sequence && after.hash == before.hash && (after.closed || !before.closed);
    let confirmed = match (&before.confirmed, &after.confirmed) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(a), Some(b)) => b.sequence > a.sequence || b == a,
    };
    written && confirmed
}

#[cfg(test)]
mod tests {
    use super::*;
    use cartulary_compliance::status::Place;

    fn head(incarnation: u32, sequence: u64) -> Head {
        Head {
            journal: "j".into(),
            incarnation: format!("{incarnation:08}"),
            endpoint: "main".into(),
            sequence,
            hash: format!("h{sequence}"),
            public_key: "k".into(),
            at_nanos: i64::try_from(sequence).expect("small"),
            ..Head::default()
        }
    }

    fn with(sequence: u64, change: impl FnOnce(&mut Head)) -> Head {
        let mut head = head(1, sequence);
        change(&mut head);
        head
    }

    fn confirmed(sequence: u64, at: u64) -> Head {
        with(sequence, |head| head.confirmed = Some(Place { sequence: at, hash: format!("h{at}") }))
    }

    fn kept(heads: &[Head]) -> JournalAnchors {
        let mut anchors = JournalAnchors::new("team/chat", "prosody-0", &heads[0]);
        for head in heads {
            anchors.take(head);
        }
        anchors
    }

    #[test]
    fn a_stream_that_goes_on_keeps_its_newest_head_alone() {
        let closed = with(9, |head| head.closed = true);
        let anchors = kept(&[head(1, 5), head(1, 7), head(1, 7), closed.clone()]);
        assert_eq!((anchors.heads.as_slice(), anchors.conflicts().len()), (&[closed][..], 0));
        let mut anchors = kept(&[head(1, 5)]);
        assert_eq!(anchors.take(&with(5, |head| head.at_nanos = 99)), Taken::Known, "signed again");
        assert_eq!(anchors.take(&head(1, 6)), Taken::Newer);
        assert_eq!(anchors.take(&with(7, |head| head.closed = true)), Taken::AtOnce);
        assert_eq!(anchors.take(&head(2, 0)), Taken::AtOnce, "first sight");
    }

    #[test]
    fn ev_1_a_history_that_does_not_fit_is_kept_beside_the_other_for_ever() {
        let other_hash = with(5, |head| head.hash = "other".into());
        let unclosed = [with(5, |head| head.closed = true), head(1, 6)];
        let table = [
            ("the sequence went back", [head(1, 5), head(1, 4)]),
            ("another hash", [head(1, 5), other_hash]),
            ("confirmed went back", [confirmed(5, 4), confirmed(6, 3)]),
            ("confirmed is gone", [confirmed(5, 4), head(1, 6)]),
            ("it went on after its end", unclosed),
            ("another key", [head(1, 5), with(6, |head| head.public_key = "other".into())]),
        ];
        for (what, pair) in table {
            let mut anchors = kept(&pair);
            assert_eq!(anchors.heads, pair, "{what}");
            assert_eq!(anchors.conflicts().len(), 1, "{what}");
            assert_eq!(anchors.public_key, "k");
            // Whatever comes after, both stay.
            for incarnation in 2..40 {
                anchors.take(&head(incarnation, 1));
                let mut next = pair[1].clone();
                next.sequence += u64::from(incarnation);
                anchors.take(&next);
            }
            // A foreign key says nothing against the journal's own history, and its newest head says all that an older one did.
            let stays = |head: &Head| *head == pair[1] || head.public_key == "other";
            assert!(anchors.heads.iter().any(stays), "{what}");
            assert!(what == "another key" || anchors.heads.contains(&pair[0]), "{what}");
            assert!(!anchors.conflicts().is_empty());
        }
    }

    #[test]
    fn the_newest_heads_of_the_last_eight_incarnations_are_kept() {
        let heads: Vec<_> = (1..=20).map(|incarnation| head(incarnation, 3)).collect();
        assert_eq!(kept(&heads).heads, heads[12..]);
        assert_eq!(kept(&heads).newest(), [&heads[19]]);
    }

    #[test]
    fn ev_1_what_others_sign_takes_no_room_from_a_rollback_of_the_journal_itself() {
        let mut anchors = kept(&[head(1, 5)]);
        for n in 0..100 {
            anchors.take(&with(n, |head| {
                head.public_key = format!("other {n}");
                head.endpoint = format!("other {n}");
            }));
        }
        assert_eq!((anchors.heads.len(), anchors.conflicts().len()), (1 + MAX_FOREIGN, MAX_FOREIGN));
        assert_eq!(anchors.take(&head(1, 4)), Taken::AtOnce);
        assert_eq!(anchors.take(&with(1, |head| head.endpoint = "second".into())), Taken::AtOnce);
        assert!(anchors.heads.contains(&head(1, 5)) && anchors.heads.contains(&head(1, 4)));
    }

    #[test]
    fn nothing_a_pod_shows_makes_it_grow_without_limit() {
        let mut anchors = kept(&[head(1, 5)]);
        for n in 0..1000_u32 {
            anchors.take(&with(u64::from(n % 7), |head| head.hash = n.to_string()));
            anchors.take(&with(1, |head| head.public_key = n.to_string()));
            anchors.take(&with(1, |head| head.endpoint = n.to_string()));
            anchors.take(&head(n, 1));
        }
        assert!(
            anchors.heads.len() <= MAX_CONFLICTING + MAX_FOREIGN + INCARNATIONS * MAX_ENDPOINTS + 1,
            "{}",
            anchors.heads.len()
        );
        assert!(serde_json::to_vec(&anchors).expect("JSON").len() < 512 * 1024);
    }
}
