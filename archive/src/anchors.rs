//! Anchors: heads that were kept outside the archive, and the file that carries them. `docs/record.md`, section "A head and its
//! anchor", is the specification.
//!
//! A head that does not verify is a finding and never an error: somebody made it, and that is what has to be told. A journal is
//! believed under the first key that was seen of it; what another key signed is told and proves nothing. Which records must be
//! where because of these heads is [`crate::verify::judge`]'s to say.

mod keep;

pub use keep::Taken;

use crate::head::{self, Statement};
use crate::record::StreamId;
use crate::verify::{Finding, FindingKind};
use cartulary_compliance::status::Head;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// The file's version.
const VERSION: u32 = 1;

/// A file of anchors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AnchorsFile {
    /// Always 1.
    pub version: u32,
    /// The XMPPClusters whose anchors these are, all of them: `namespace/name`.
    pub clusters: Vec<String>,
    /// The journals.
    pub journals: Vec<JournalAnchors>,
}

/// What is kept of one journal: as it stands in a ConfigMap's `anchors.json` and in a file of anchors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JournalAnchors {
    /// The journal, UUID.
    pub journal: String,
    /// The pod it was of.
    pub node: String,
    /// Its XMPPCluster, `namespace/name`.
    pub cluster: String,
    /// The first key that was seen of it, hex.
    pub public_key: String,
    /// Heads. As the keeper writes them, those of one stream stand in the order in which they were seen; a reader relies on no order.
    pub heads: Vec<Head>,
}

/// Why something is no file of anchors.
#[derive(Debug, thiserror::Error)]
pub enum AnchorsError {
    /// Not JSON, or not of this form.
    #[error("this is no file of anchors as cartulary anchors writes it: {0}")]
    Form(#[from] serde_json::Error),
    /// A later version.
    #[error(
        "the file of anchors has version {0}, this program knows {VERSION}: use a newer version of Cartulary"
    )]
    Version(u32),
}

impl Default for AnchorsFile {
    fn default() -> Self {
        Self { version: VERSION, clusters: Vec::new(), journals: Vec::new() }
    }
}

impl AnchorsFile {
    /// Reads one file, up to the end of its JSON: what follows in the same stream is left there.
    pub fn read(from: impl std::io::Read) -> Result<Self, AnchorsError> {
        let mut values = serde_json::Deserializer::from_reader(from).into_iter::<serde_json::Value>();
        let value = values.next().transpose()?.unwrap_or_default();
        // Before the rest is looked at: a later version may have another form.
        let version = value.get("version").and_then(serde_json::Value::as_u64);
        if let Some(version) = version.and_then(|version| u32::try_from(version).ok())
            && version != VERSION
        {
            return Err(AnchorsError::Version(version));
        }
        Ok(serde_json::from_value(value)?)
    }

    /// Adds what another file holds. Where both know a journal, this file's key is the one believed.
    pub fn merge(&mut self, other: Self) {
        for cluster in other.clusters {
            if !self.clusters.contains(&cluster) {
                self.clusters.push(cluster);
            }
        }
        for theirs in other.journals {
            match self.journals.iter_mut().find(|ours| ours.journal == theirs.journal) {
                None => self.journals.push(theirs),
                Some(ours) => {
                    let new: Vec<Head> =
                        theirs.heads.into_iter().filter(|head| !ours.heads.contains(head)).collect();
                    ours.heads.extend(new);
                }
            }
        }
    }
}

/// Anchors whose signatures were checked.
#[derive(Debug, Clone, Default)]
pub struct Anchors {
    /// The clusters they cover.
    pub clusters: BTreeSet<String>,
    /// What is believed of each journal.
    pub journals: BTreeMap<Uuid, Anchored>,
    /// What is not believed, and journals that changed their key.
    pub findings: Vec<Finding>,
}

/// What is believed of one journal.
#[derive(Debug, Clone, Default)]
pub struct Anchored {
    /// The pod it was of.
    pub node: String,
    /// Its XMPPCluster.
    pub cluster: String,
    /// By endpoint and incarnation, each in the order of the stream: a clock may step back between two of them.
    pub endpoints: BTreeMap<String, BTreeMap<Uuid, Vec<Statement>>>,
}

impl Anchors {
    /// Checks the signature of every head.
    #[must_use]
    pub fn check(mut file: AnchorsFile) -> Self {
        let mut whole = AnchorsFile::default();
        // Journals that stand there twice come together under their first key.
        whole.merge(std::mem::take(&mut file));
        let mut anchors = Self { clusters: whole.clusters.into_iter().collect(), ..Self::default() };
        for journal in &whole.journals {
            anchors.journal(journal);
        }
        anchors
    }

    /// Whether nothing is known of any journal.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.journals.is_empty() && self.findings.is_empty()
    }

    /// The places that heads speak of.
    #[must_use]
    pub fn places(&self) -> BTreeMap<StreamId, BTreeSet<u64>> {
        let mut places: BTreeMap<StreamId, BTreeSet<u64>> = BTreeMap::new();
        for (journal, anchored) in &self.journals {
            for (endpoint, incarnations) in &anchored.endpoints {
                for (incarnation, statements) in incarnations {
                    let stream =
                        StreamId { journal: *journal, endpoint: endpoint.clone(), incarnation: *incarnation };
                    let of =
                        statements.iter().flat_map(|s| [Some(s.last), s.confirmed].into_iter().flatten());
                    places.entry(stream).or_default().extend(of.map(|mark| mark.sequence));
                }
            }
        }
        places
    }

    fn journal(&mut self, journal: &JournalAnchors) {
        // One way to write it: written otherwise it would stand beside itself, and its last entry would hide the others.
        let Some(id) = Uuid::try_parse(&journal.journal).ok().filter(|id| id.to_string() == journal.journal)
        else {
            let sentence =
                format!("the anchors name a journal '{}', which is no id in its usual form", journal.journal);
            self.find(FindingKind::AnchorNotBelieved, Uuid::nil(), "", Uuid::nil(), sentence);
            return;
        };
        let mut anchored = Anchored {
            node: journal.node.clone(),
            cluster: journal.cluster.clone(),
            endpoints: BTreeMap::new(),
        };
        for head in &journal.heads {
            let verified = head::verify(head);
            let at = time(head.at_nanos);
            let what = format!(
                "journal {id} (pod {}), endpoint {}: an anchor signed at {at}",
                journal.node, head.endpoint
            );
            match verified {
                Err(error) => {
                    let sentence = format!("{what} is not believed: {error}");
                    self.find(FindingKind::AnchorNotBelieved, id, &head.endpoint, Uuid::nil(), sentence);
                }
                Ok(verified) if verified.statement.journal != id => {
                    let sentence = format!("{what} is not believed: it is of journal {}", head.journal);
                    self.find(FindingKind::AnchorNotBelieved, id, &head.endpoint, Uuid::nil(), sentence);
                }
                Ok(verified) if hex::encode(verified.public_key) != journal.public_key => {
                    let sentence = format!(
                        "{what} bears another key than the journal had at first: its volume was replaced, or somebody else speaks \
                         in its name"
                    );
                    let incarnation = verified.statement.incarnation;
                    self.find(FindingKind::KeyChanged, id, &head.endpoint, incarnation, sentence);
                }
                Ok(verified) => {
                    let Statement { endpoint, incarnation, .. } = &verified.statement;
                    let statements = anchored
                        .endpoints
                        .entry(endpoint.clone())
                        .or_default()
                        .entry(*incarnation)
                        .or_default();
                    statements.push(verified.statement);
                }
            }
        }
        for statements in anchored.endpoints.values_mut().flat_map(BTreeMap::values_mut) {
            statements.sort_by_key(progress);
        }
        self.journals.insert(id, anchored);
    }

    fn find(
        &mut self,
        kind: FindingKind,
        journal: Uuid,
        endpoint: &str,
        incarnation: Uuid,
        sentence: String,
    ) {
        let stream = StreamId { journal, endpoint: endpoint.to_owned(), incarnation };
        self.findings.push(Finding { kind, stream, sequence: None, id: None, sentence });
    }
}

/// How far a stream had got, as a head says; its time only decides between two that say the same.
pub(crate) fn progress(statement: &Statement) -> (u64, bool, Option<u64>, i64) {
    let confirmed = statement.confirmed.map(|mark| mark.sequence);
    (statement.last.sequence, statement.closed, confirmed, statement.at_nanos)
}

/// A time as sentences have it.
pub(crate) fn time(nanos: i64) -> String {
    let time = jiff::Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or_default();
    format!("{time:.0}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::{Mark, Signer, sign};

    fn head(seed: u8, journal: Uuid, at_nanos: i64) -> Head {
        let statement = Statement {
            journal,
            incarnation: Uuid::from_u128(7),
            endpoint: "main".to_owned(),
            last: Mark { sequence: 4, hash: [1; 32] },
            confirmed: Some(Mark { sequence: 2, hash: [2; 32] }),
            closed: false,
            at_nanos,
        };
        sign(&Signer::from_seed(&[seed; 32]), &statement)
    }

    fn file(heads: Vec<Head>) -> AnchorsFile {
        let journal = JournalAnchors {
            journal: Uuid::from_u128(1).to_string(),
            node: "xmpp-0".to_owned(),
            cluster: "chat/chat".to_owned(),
            public_key: hex::encode(Signer::from_seed(&[1; 32]).public_key()),
            heads,
        };
        AnchorsFile { clusters: vec!["chat/chat".to_owned()], journals: vec![journal], ..Default::default() }
    }

    #[test]
    fn heads_that_are_changed_foreign_or_of_another_key_are_told_and_prove_nothing() {
        let mine = Uuid::from_u128(1);
        let mut changed = head(1, mine, 5);
        changed.sequence += 1;
        let anchors = Anchors::check(file(vec![
            head(1, mine, 9),
            head(1, mine, 3),
            changed,
            head(1, Uuid::from_u128(2), 5),
            head(2, mine, 5),
        ]));
        let kinds: Vec<FindingKind> = anchors.findings.iter().map(|finding| finding.kind).collect();
        use FindingKind::{AnchorNotBelieved, KeyChanged};
        assert_eq!(kinds, [AnchorNotBelieved, AnchorNotBelieved, KeyChanged]);
        let statements = &anchors.journals[&mine].endpoints["main"][&Uuid::from_u128(7)];
        assert_eq!(statements.iter().map(|statement| statement.at_nanos).collect::<Vec<_>>(), [3, 9]);
        assert_eq!(anchors.places().into_values().collect::<Vec<_>>(), [[2, 4].into()]);
    }

    #[test]
    fn a_journal_under_another_spelling_hides_nothing() {
        let mine = Uuid::from_u128(0xabc);
        let mut whole = file(vec![head(1, mine, 1)]);
        whole.journals[0].journal = mine.to_string();
        let mut hostile = file(vec![]);
        hostile.journals[0].journal = mine.to_string().to_uppercase();
        whole.merge(hostile);
        let anchors = Anchors::check(whole);
        assert_eq!(anchors.journals[&mine].endpoints.len(), 1);
        assert_eq!(anchors.findings[0].kind, FindingKind::AnchorNotBelieved);
    }

    #[test]
    fn files_come_together_and_the_first_key_is_believed() {
        let mine = Uuid::from_u128(1);
        let mut whole = file(vec![head(1, mine, 1)]);
        let mut later = file(vec![head(1, mine, 1), head(1, mine, 2)]);
        later.journals[0].public_key = hex::encode(Signer::from_seed(&[2; 32]).public_key());
        whole.merge(later);
        assert_eq!((whole.journals.len(), whole.journals[0].heads.len()), (1, 2));
        assert!(Anchors::check(whole).findings.is_empty());
    }

    #[test]
    fn a_file_is_read_up_to_its_end_and_one_of_a_later_version_is_refused() {
        let mut text = serde_json::to_vec(&file(vec![])).expect("JSON");
        text.extend_from_slice(b"\nsomething else");
        assert_eq!(AnchorsFile::read(text.as_slice()).expect("a file"), file(vec![]));
        let later = AnchorsFile::read(br#"{"version": 2, "all": "different"}"#.as_slice());
        assert!(matches!(later, Err(AnchorsError::Version(2))));
        for wrong in ["", "[]", "{}", r#"{"version": 1}"#] {
            assert!(matches!(AnchorsFile::read(wrong.as_bytes()), Err(AnchorsError::Form(_))), "{wrong}");
        }
    }
}
