//! The comparison: what must be equal, what may differ and why.

use super::{Archived, Counted, LastTally, ToldGap, day_text};
use crate::anchors::Anchors;
use cartulary_compliance::link::Sums;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Said, recorded and archived, compared.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Whether nothing is missing and nothing too much.
    pub is_equal: bool,
    /// Each node and day, oldest day first.
    pub days: Vec<NodeDay>,
    /// What gap records tell of these days.
    pub gaps: Vec<ToldGap>,
    /// What is wrong with the whole, in words.
    pub problems: Vec<String>,
}

/// One node on one day.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeDay {
    /// `YYYY-MM-DD`, UTC.
    pub day: String,
    /// `namespace/name` of the XMPPCluster.
    pub cluster: String,
    /// The pod.
    pub node: String,
    /// What the server's processes counted, together.
    pub sums: Sums,
    /// Messages in the archives that somebody said.
    pub archived: u64,
    /// Messages in the archives that the server made itself; nobody counts them.
    pub server_made: u64,
    /// Of those recorded and not archived, how many may still wait in the node's journal.
    pub waiting: u64,
    /// Recorded, not archived, and not waiting anywhere that is known.
    pub missing: u64,
    /// What is not equal, in words.
    pub problems: Vec<String>,
    /// What the numbers do not hold, in words.
    pub notes: Vec<String>,
}

/// What is known beside the archives.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// Records that wait in journals, by cluster (`namespace/name`) and node, as their sidecars say.
    pub waiting: BTreeMap<(String, String), u64>,
    /// Anchors; none of a journal says nothing here.
    pub anchors: Anchors,
    /// The day it is now, days since 1970-01-01: processes of it run still, for all that is known.
    pub today: i64,
}

/// Compares what archives hold together.
#[must_use]
pub fn judge(parts: &[Counted], known: &Known) -> Report {
    let mut rows: BTreeMap<(i64, String, String), Row> = BTreeMap::new();
    let mut last: BTreeMap<(i64, &str, &str, &str), &LastTally> = BTreeMap::new();
    for tally in parts.iter().flat_map(|part| &part.tallies) {
        let key = (tally.day, tally.cluster.as_str(), tally.node.as_str(), tally.instance.as_str());
        let kept = last.entry(key).or_insert(tally);
        if tally.is_later_than(kept) {
            *kept = tally;
        }
    }
    for tally in last.into_values() {
        let key = (tally.day, tally.cluster.clone(), tally.node.clone());
        rows.entry(key).or_default().tallies.push(tally.clone());
    }
    for Archived { cluster, node, day, is_server_made, count } in parts.iter().flat_map(|part| &part.archived)
    {
        let row = rows.entry((*day, cluster.clone(), node.clone())).or_default();
        let sum = if *is_server_made { &mut row.server_made } else { &mut row.archived };
        *sum = sum.saturating_add(*count);
    }
    let mut left = known.waiting.clone();
    let mut days = Vec::new();
    // What waits is rather of the newest days than of the oldest.
    for ((day, cluster, node), row) in rows.into_iter().rev() {
        let waiting = left.entry((cluster.clone(), node.clone())).or_default();
        let is_known = known.waiting.contains_key(&(cluster.clone(), node.clone()));
        days.push(row.judge(day, cluster, node, waiting, is_known, day >= known.today));
    }
    days.reverse();
    let mut gaps: Vec<ToldGap> = parts.iter().flat_map(|part| part.gaps.clone()).collect();
    gaps.sort_by_key(|gap| gap.at_nanos);
    gaps.dedup();
    let problems = absent(parts, &known.anchors);
    let is_equal = problems.is_empty() && days.iter().all(|day| day.problems.is_empty());
    Report { is_equal, days, gaps, problems }
}

/// A journal that is gone takes its tallies with it: only anchors still know that it was.
fn absent(parts: &[Counted], anchors: &Anchors) -> Vec<String> {
    let there: BTreeSet<(uuid::Uuid, &str)> = parts
        .iter()
        .flat_map(|part| &part.journals)
        .map(|(journal, endpoint)| (*journal, endpoint.as_str()))
        .collect();
    let mut problems = Vec::new();
    for (journal, anchored) in &anchors.journals {
        for (endpoint, incarnations) in &anchored.endpoints {
            let was = incarnations.values().flatten().any(|statement| statement.confirmed.is_some());
            if was && !there.contains(&(*journal, endpoint.as_str())) {
                problems.push(format!(
                    "pod {} of {}: anchors know records of its journal {journal} that endpoint {endpoint} had confirmed, and no archive \
                     that was read holds any of them: they are not counted here",
                    anchored.node, anchored.cluster
                ));
            }
        }
    }
    problems
}

#[derive(Default)]
struct Row {
    tallies: Vec<LastTally>,
    archived: u64,
    server_made: u64,
}

impl Row {
    fn judge(
        self,
        day: i64,
        cluster: String,
        node: String,
        left: &mut u64,
        is_waiting_known: bool,
        is_today: bool,
    ) -> NodeDay {
        let Self { tallies, archived, server_made } = self;
        let sums = tallies.iter().fold(Sums::default(), |sums, tally| sums.plus(tally.sums));
        let (mut problems, mut notes) = (Vec::new(), Vec::new());
        let short = sums.recorded.saturating_sub(archived);
        let waiting = short.min(*left);
        *left -= waiting;
        let missing = short - waiting;
        if missing > 0 {
            let hint = if is_waiting_known { "" } else { " (what waits on the node is not known here)" };
            problems.push(format!("{missing} message(s) were recorded and are not in the archive{hint}"));
        }
        let open: Vec<&str> =
            tallies.iter().filter(|tally| !tally.is_final).map(|tally| tally.instance.as_str()).collect();
        let most = sums.recorded.saturating_add(sums.refused_alone).saturating_add(sums.delivered_alone);
        let over = archived.saturating_sub(most);
        if tallies.is_empty() && archived > 0 {
            // The first count of a day comes within seconds, and may itself still be on its way.
            match is_today {
                true => notes.push("nothing is counted yet".to_owned()),
                false => {
                    problems.push(format!("{archived} message(s) are archived, and nothing was counted"))
                }
            }
        } else if over > 0 && open.is_empty() {
            problems.push(format!("{over} message(s) more are archived than were counted"));
        } else if over > 0 {
            notes.push(format!("{over} message(s) are archived and not counted yet, or never will be"));
        }
        match sums.passed_by() {
            0 => {}
            passed @ 1.. => {
                problems.push(format!("{passed} message(s) came in, and nobody was asked about them"));
            }
            passed => {
                let more = passed.unsigned_abs();
                problems.push(format!("{more} message(s) more were asked about than came in"));
            }
        }
        if sums.waiting > 0 {
            notes.push(format!("{} message(s) were being asked about at the last count", sums.waiting));
        }
        if !is_today {
            notes.extend(open.iter().map(|instance| {
                format!(
                    "the server's process {instance} ended without its last count: what it took in during its last ten seconds is archived \
                     and not counted"
                )
            }));
        }
        if sums.delivered_alone > 0 {
            notes.push(format!(
                "{} message(s) were delivered while the plugin had no answer: gap records tell of them",
                sums.delivered_alone
            ));
        }
        NodeDay {
            day: day_text(day),
            cluster,
            node,
            sums,
            archived,
            server_made,
            waiting,
            missing,
            problems,
            notes,
        }
    }
}
