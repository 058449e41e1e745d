//! Anchors: the heads that sidecars sign, kept outside the archive and outside the XMPP server's namespace (EV-1).
//!
//! One ConfigMap `cartulary-anchors-JOURNAL` for each journal in the operator's own namespace. Invariants: it is never owned and
//! never deleted; it is replaced only at the version that was read; while heads change it is written once a minute, and at once where
//! a journal, an incarnation, an end or a contradiction is seen first; a journal belongs to the XMPPCluster that showed it first.
//!
//! What a pod shows can be made up by whoever may create pods in its namespace. So what is kept is limited for each journal and each
//! XMPPCluster, and signatures are checked, which binds a journal to whoever had its key first; more no one can do from here.

use crate::conditions::cut;
use cartulary_archive::anchors::{JournalAnchors, Taken};
use cartulary_archive::head::Statement;
use cartulary_compliance::names::{ANCHORS_KEY, label};
use cartulary_compliance::status::Head;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client, ResourceExt};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// On a ConfigMap, set by people: how many contradictions they have looked into. No alarm is raised for those.
pub const ACKNOWLEDGED: &str = "cartulary.dev/acknowledged-conflicts";
/// The time between two writes of a journal's anchors.
const PACE: Duration = Duration::from_secs(60);
/// Heads that are looked at of one pod.
const MAX_HEADS: usize = 64;
/// How far clocks may be apart.
const SKEW_MILLIS: i64 = 10 * 60 * 1000;
/// Journals of one XMPPCluster.
const MAX_JOURNALS: usize = 1000;

/// What a pod shows.
#[derive(Clone, Debug)]
pub struct Shown<'a> {
    /// The pod.
    pub pod: &'a str,
    /// Its journal.
    pub journal: &'a str,
    /// Its heads.
    pub heads: &'a [Head],
}

/// What is known of an XMPPCluster's journals after a look.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What is kept, by journal.
    pub journals: BTreeMap<String, JournalAnchors>,
    /// What contradicts what was kept: pod, and a sentence.
    pub conflicts: Vec<(String, String)>,
    /// What could not be kept: pod, and a sentence.
    pub unwritable: Vec<(String, String)>,
    /// Whether something waits for its minute.
    pub pending: bool,
    /// Journals of which something is not written yet.
    pub unwritten: BTreeSet<String>,
    /// Whether it is unknown what is kept.
    pub unlisted: bool,
}

impl Report {
    /// Whether all that is to be kept of `heads` is written. What was refused is told elsewhere, and is not waited for.
    #[must_use]
    pub fn settled(&self, heads: &[Head]) -> bool {
        heads.iter().all(|head| !self.unlisted && !self.unwritten.contains(&head.journal))
    }
}

/// By namespace and name; each has one writer at a time.
type Clusters = HashMap<(String, String), Arc<tokio::sync::Mutex<OfCluster>>>;

/// The keeper of all anchors. It lives as long as this replica leads.
pub struct Keeper {
    api: Api<ConfigMap>,
    clusters: Mutex<Clusters>,
}

#[derive(Default)]
struct OfCluster {
    loaded: Option<Instant>,
    journals: BTreeMap<String, Entry>,
    unreadable: BTreeSet<String>,
}

struct Entry {
    anchors: JournalAnchors,
    /// What is written of it.
    kept: Option<JournalAnchors>,
    version: Option<String>,
    acknowledged: usize,
    due: Option<Due>,
    written: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    InTime,
    Now,
}

impl Keeper {
    /// Keeps anchors in `namespace`.
    #[must_use]
    pub fn new(client: Client, namespace: &str) -> Self {
        Self { api: Api::namespaced(client, namespace), clusters: Mutex::default() }
    }

    /// Takes in what the pods of an XMPPCluster show, and writes what is due.
    pub async fn look(&self, namespace: &str, name: &str, shown: &[Shown<'_>]) -> Report {
        let key = (namespace.to_owned(), name.to_owned());
        let cluster =
            self.clusters.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().clone();
        let mut cluster = cluster.lock().await;
        let mut report = Report::default();
        if let Err(error) = self.load(&mut cluster, namespace, name).await {
            report.unwritable.push((String::new(), format!("anchors cannot be listed: {error}")));
            (report.pending, report.unlisted) = (true, true);
            return report;
        }
        for pod in shown {
            cluster.take(&format!("{namespace}/{name}"), pod, &mut report);
        }
        for journal in &cluster.unreadable {
            let sentence = format!(
                "the ConfigMap {} cannot be read as anchors: put it back as it was, or keep a copy elsewhere and delete it",
                config_map(journal)
            );
            report.unwritable.push((String::new(), sentence));
        }
        let mut foreign = Vec::new();
        for (journal, entry) in &mut cluster.journals {
            if let Err(failure) = self.write(namespace, name, entry).await {
                let node = entry.anchors.node.clone();
                match failure {
                    Failure::Foreign(owner) => {
                        report
                            .conflicts
                            .push((node, format!("the journal {journal} is known as one of {owner}")));
                        foreign.push(journal.clone());
                    }
                    Failure::Again => report.pending = true,
                    Failure::Kube(error) => report.unwritable.push((node, cut(&error.to_string()))),
                }
            }
        }
        // What belongs to another is looked up again when it is shown again.
        cluster.journals.retain(|journal, _| !foreign.contains(journal));
        cluster.report(report)
    }

    /// Reads what is kept, once; again while there are contradictions that people may acknowledge.
    async fn load(&self, cluster: &mut OfCluster, namespace: &str, name: &str) -> Result<(), kube::Error> {
        let contradicted = cluster.journals.values().any(|entry| !entry.anchors.conflicts().is_empty());
        let again = contradicted || !cluster.unreadable.is_empty();
        if cluster.loaded.is_some_and(|at| !again || at.elapsed() < PACE) {
            return Ok(());
        }
        let labels = format!("{}={namespace},{}={name},{}", label::NAMESPACE, label::CLUSTER, label::ANCHORS);
        let kept = self.api.list(&ListParams::default().labels(&labels)).await?;
        cluster.unreadable.clear();
        for object in kept {
            let Some(journal) = object.labels().get(label::ANCHORS).cloned() else { continue };
            // What we hold and have not written yet is newer than what is there.
            match cluster.journals.get_mut(&journal) {
                Some(entry) => entry.acknowledged = acknowledged(&object),
                None => match read(&object, namespace, name) {
                    Some(entry) => drop(cluster.journals.insert(journal, entry)),
                    None => drop(cluster.unreadable.insert(journal)),
                },
            }
        }
        cluster.loaded = Some(Instant::now());
        Ok(())
    }

    async fn write(&self, namespace: &str, name: &str, entry: &mut Entry) -> Result<(), Failure> {
        let waits = entry.written.is_some_and(|at| at.elapsed() < PACE);
        match entry.due {
            None => return Ok(()),
            Some(Due::InTime) if waits => return Ok(()),
            Some(_) => {}
        }
        let journal = entry.anchors.journal.clone();
        let object = object(namespace, name, entry);
        let result = match &entry.version {
            Some(_) => self.api.replace(&config_map(&journal), &PostParams::default(), &object).await,
            None => self.api.create(&PostParams::default(), &object).await,
        };
        match result {
            Ok(object) => {
                entry.version = object.resource_version();
                entry.due = None;
                entry.kept = Some(entry.anchors.clone());
                entry.written = Some(Instant::now());
                Ok(())
            }
            // Somebody removed it: what we know is written anew.
            Err(kube::Error::Api(status)) if status.code == 404 && entry.version.is_some() => {
                entry.version = None;
                Err(Failure::Again)
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {
                self.catch_up(namespace, name, entry).await
            }
            Err(error) => Err(Failure::Kube(error)),
        }
    }

    /// Somebody else has written: what is there is taken as the older part of the history.
    async fn catch_up(&self, namespace: &str, name: &str, entry: &mut Entry) -> Result<(), Failure> {
        let there = self.api.get(&config_map(&entry.anchors.journal)).await.map_err(Failure::Kube)?;
        let owner = |key| there.labels().get(key).cloned().unwrap_or_default();
        if (owner(label::NAMESPACE), owner(label::CLUSTER)) != (namespace.to_owned(), name.to_owned()) {
            return Err(Failure::Foreign(format!("{}/{}", owner(label::NAMESPACE), owner(label::CLUSTER))));
        }
        if let Some(mut kept) = read(&there, namespace, name) {
            for head in &entry.anchors.heads {
                kept.anchors.take(head);
            }
            entry.anchors = kept.anchors;
            entry.kept = kept.kept;
            entry.version = kept.version;
            entry.acknowledged = kept.acknowledged;
        }
        Err(Failure::Again)
    }
}

enum Failure {
    Foreign(String),
    Again,
    Kube(kube::Error),
}

impl OfCluster {
    fn take(&mut self, cluster: &str, pod: &Shown<'_>, report: &mut Report) {
        let mut bad = |sentence: String| report.conflicts.push((pod.pod.to_owned(), sentence));
        let mut refused = BTreeSet::new();
        for head in pod.heads.iter().take(MAX_HEADS) {
            if head.endpoint.len() > 253 || head.journal != pod.journal {
                refused.insert("a head of it is not of its journal and endpoints".to_owned());
                continue;
            }
            match cartulary_archive::head::verify(head) {
                Err(error) => {
                    refused.insert(error.to_string());
                    continue;
                }
                Ok(verified) if !is_timely(&verified.statement, Timestamp::now().as_millisecond()) => {
                    let sentence = "a head of it is of the future: see that the clocks of its node and of the operator's agree";
                    refused.insert(sentence.to_owned());
                    continue;
                }
                Ok(_) => {}
            }
            if self.unreadable.contains(&head.journal) {
                continue;
            }
            if !self.journals.contains_key(&head.journal) && self.journals.len() >= MAX_JOURNALS {
                let sentence = format!(
                    "{MAX_JOURNALS} journals of this XMPPCluster are anchored already: keep copies of the ConfigMaps of those whose \
                     records are no longer in any archive, and delete them"
                );
                report.unwritable.push((pod.pod.to_owned(), sentence));
                return;
            }
            let entry = self.journals.entry(head.journal.clone()).or_insert_with(|| Entry {
                anchors: JournalAnchors::new(cluster, pod.pod, head),
                kept: None,
                version: None,
                acknowledged: 0,
                due: Some(Due::Now),
                written: None,
            });
            if entry.anchors.node != pod.pod {
                let owner = cut(&entry.anchors.node);
                refused.insert(format!("it shows the journal of {owner}: one volume is a copy of the other"));
            }
            let due = match entry.anchors.take(head) {
                Taken::Known => None,
                Taken::TooMany => {
                    refused.insert("it shows more endpoints or contradictions than are kept".to_owned());
                    None
                }
                Taken::Newer => Some(Due::InTime),
                Taken::AtOnce => Some(Due::Now),
            };
            entry.due = entry.due.max(due);
        }
        refused.into_iter().for_each(&mut bad);
    }

    fn report(&self, mut report: Report) -> Report {
        for (journal, entry) in &self.journals {
            let conflicts = entry.anchors.conflicts();
            if let Some(last) = conflicts.last().filter(|_| conflicts.len() > entry.acknowledged) {
                report.conflicts.push((entry.anchors.node.clone(), format!("journal {journal}, {last}")));
            }
            if entry.due.is_some() {
                report.pending = true;
                report.unwritten.insert(journal.clone());
            }
            report.journals.extend(entry.kept.clone().map(|kept| (journal.clone(), kept)));
        }
        report
    }
}

/// Whether a head can be of the time it names. Of the incarnations, which begin with a time in milliseconds (RFC 9562), the newest
/// are kept, so that one that is made up to be newer than all to come would drive the true ones out.
fn is_timely(statement: &Statement, now_millis: i64) -> bool {
    let began = i64::try_from(statement.incarnation.as_u128() >> 80).unwrap_or(i64::MAX);
    let signed = statement.at_nanos.div_euclid(1_000_000);
    began.saturating_sub(signed) <= SKEW_MILLIS && signed.saturating_sub(now_millis) <= SKEW_MILLIS
}

fn config_map(journal: &str) -> String {
    format!("cartulary-anchors-{journal}")
}

fn object(namespace: &str, name: &str, entry: &Entry) -> ConfigMap {
    let labels =
        [(label::ANCHORS, &*entry.anchors.journal), (label::NAMESPACE, namespace), (label::CLUSTER, name)];
    let acknowledged =
        (entry.acknowledged > 0).then(|| [(ACKNOWLEDGED.to_owned(), entry.acknowledged.to_string())].into());
    let json = serde_json::to_string(&entry.anchors).expect("text and numbers are JSON");
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(config_map(&entry.anchors.journal)),
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            annotations: acknowledged,
            resource_version: entry.version.clone(),
            ..ObjectMeta::default()
        },
        data: Some([(ANCHORS_KEY.to_owned(), json)].into()),
        ..ConfigMap::default()
    }
}

/// What a ConfigMap holds; `None` when it is not what we wrote.
fn read(object: &ConfigMap, namespace: &str, name: &str) -> Option<Entry> {
    let anchors: JournalAnchors = serde_json::from_str(object.data.as_ref()?.get(ANCHORS_KEY)?).ok()?;
    let ours =
        anchors.cluster == format!("{namespace}/{name}") && object.name_any() == config_map(&anchors.journal);
    ours.then(|| Entry {
        kept: Some(anchors.clone()),
        anchors,
        version: object.resource_version(),
        acknowledged: acknowledged(object),
        due: None,
        written: None,
    })
}

fn acknowledged(object: &ConfigMap) -> usize {
    object.annotations().get(ACKNOWLEDGED).and_then(|number| number.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cartulary_archive::head::Mark;

    #[test]
    fn ev_1_a_head_of_the_future_or_signed_before_its_stream_began_is_refused() {
        const NOW: i64 = 1_780_000_000_000;
        let minutes = |n: i64| NOW + n * 60_000;
        let timely = |began: i64, signed: i64| {
            let id = format!("{began:012x}70008000000000000001");
            let statement = Statement {
                journal: id.parse().expect("a UUID"),
                incarnation: id.parse().expect("a UUID"),
                endpoint: "main".into(),
                last: Mark { sequence: 1, hash: [0; 32] },
                confirmed: None,
                closed: false,
                at_nanos: signed * 1_000_000,
            };
            is_timely(&statement, NOW)
        };
        assert!(timely(minutes(-5000), NOW) && timely(minutes(9), minutes(9)), "clocks differ a little");
        assert!(!timely(minutes(11), NOW), "it began after it was signed");
        assert!(!timely(minutes(11), minutes(11)), "it is of the future");
        assert!(!timely((1 << 48) - 1, i64::MAX / 1_000_000), "all the digits there are");
    }
}
