//! Ten thousand random schedules against a model: what was acknowledged is recovered, in order, once, and the chain holds.
//!
//! A failing schedule tells its seed; `CARTULARY_SCHEDULE=<seed>` runs that one alone, `CARTULARY_SCHEDULES=<count>` more.
//! What schedules have found is a law of its own in `laws`.

use super::simdisk::{Random, SimDisk};
use super::{Bench, options, text_of};
use crate::endpoint::projection::{PARSER, project};
use crate::endpoint::{ArchivedPayload, ArchivedRecord};
use crate::head::Statement;
use crate::journal::disk::is_damage;
use crate::journal::key::Seed;
use crate::journal::reader::gap;
use crate::journal::writer::Request;
use crate::journal::{JournalError, Limits, Stored};
use crate::record::{Body, Content, Form};
use crate::verify::Checker;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

const ENDPOINTS: [&str; 2] = ["main", "second"];

#[test]
fn acknowledged_records_survive_every_schedule_once_and_in_order() {
    if let Some(seed) = variable("CARTULARY_SCHEDULE") {
        let mut schedule = Schedule::new(seed);
        schedule.loud = true;
        schedule.run();
        return;
    }
    let count = variable("CARTULARY_SCHEDULES").unwrap_or(10_000);
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get() as u64);
    let failed: Vec<u64> = std::thread::scope(|scope| {
        let share = |first| {
            move || {
                let mut seeds = (first..count).step_by(threads as usize);
                seeds.find(|seed| catch_unwind(AssertUnwindSafe(|| Schedule::new(*seed).run())).is_err())
            }
        };
        let running: Vec<_> = (0..threads).map(|first| scope.spawn(share(first))).collect();
        running.into_iter().filter_map(|thread| thread.join().expect("panics are caught inside")).collect()
    });
    assert!(
        failed.is_empty(),
        "failed: {failed:?}; CARTULARY_SCHEDULE=<seed> runs one alone and tells what it does"
    );
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// What must be true of one endpoint.
#[derive(Default)]
struct Model {
    /// Acknowledged texts in order.
    acknowledged: Vec<String>,
    /// Texts whose append was refused or never answered: they may appear, once.
    doubtful: BTreeSet<String>,
    /// What the archive has, by id, and in the order in which it first came.
    archive: BTreeMap<uuid::Uuid, Stored>,
    arrived: Vec<String>,
}

struct Schedule {
    random: Random,
    disk: Arc<SimDisk>,
    models: BTreeMap<&'static str, Model>,
    /// Bytes were changed behind the journal's back, or cannot be read any more.
    flips: u64,
    /// What was said of streams: nothing of it may be taken back.
    heads: Vec<Statement>,
    seed: Option<Seed>,
    /// Tells what it does; for one schedule run alone.
    loud: bool,
    /// Damage it reported, and unfinished writes it cut off after a change.
    told: u64,
    next_text: u64,
}

impl Schedule {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let disk = SimDisk::new(random.next());
        let models = ENDPOINTS.into_iter().map(|endpoint| (endpoint, Model::default())).collect();
        Self {
            random,
            disk,
            models,
            flips: 0,
            heads: Vec::new(),
            seed: None,
            loud: false,
            told: 0,
            next_text: 0,
        }
    }

    fn run(mut self) {
        // A flip makes the laws weaker, so most schedules have none.
        let may_flip = self.random.chance(25);
        let may_spoil = self.random.chance(15);
        for _ in 0..=self.random.below(5) {
            let Some(mut bench) = self.open() else { continue };
            for _ in 0..self.random.below(14) {
                self.step(&mut bench);
                self.look(&bench);
            }
            if may_spoil && self.random.chance(30) && self.disk.spoil(".segment") {
                self.say("a block goes bad under way");
                self.flips += 1;
                self.step(&mut bench);
            }
            let ordered = self.random.chance(20) && bench.writer.close().is_ok();
            self.look(&bench);
            drop(bench);
            // Without a crash the next process finds what the page cache holds.
            if !ordered && self.random.chance(80) {
                self.say("crash");
                self.disk.crash();
            }
            if may_flip && self.random.chance(60) && self.disk.flip(".segment").is_some() {
                self.flips += 1;
            }
            if may_spoil && self.random.chance(40) && self.disk.spoil(".segment") {
                self.say("a block goes bad");
                self.flips += 1;
            }
        }
        self.disk.crash();
        self.disk.set_room(None);
        let mut bench = match Bench::open(&self.disk, options()) {
            Err(JournalError::Io { error, .. }) if may_spoil && is_damage(&error) => {
                // Nothing at all could be read.
                self.disk.heal();
                Bench::open(&self.disk, options()).expect("a healed disk can be opened")
            }
            opened => opened.expect("a quiet disk can be opened"),
        };
        self.look(&bench);
        self.told += told(&bench);
        // One more record for each, so that whatever a chain holds is looked at.
        for endpoint in ENDPOINTS {
            self.append(&mut bench, endpoint, 1);
        }
        for endpoint in ENDPOINTS {
            self.archive(&mut bench, endpoint, u64::MAX);
        }
        self.check();
    }

    fn open(&mut self) -> Option<Bench> {
        let mut options = options();
        options.limits = Limits {
            keep_confirmed: Duration::from_nanos(self.random.below(3) * 50_000),
            max_bytes: if self.random.chance(10) { 6_000 } else { 1 << 20 },
            ..Limits::default()
        };
        if self.random.chance(10) {
            self.disk.cut_power_after(self.random.below(40));
        }
        if self.random.chance(5) {
            self.disk.fail_syncs(1 + self.random.below(3) as u32);
        }
        if self.random.chance(10) {
            // Fewer than there are attempts: a disk that stutters loses nothing.
            self.disk.fail_reads(1 + self.random.below(4) as u32);
        }
        match Bench::open(&self.disk, options) {
            Ok(bench) => {
                self.say(&format!("open {:?}", bench.recovery));
                self.told += told(&bench);
                self.look(&bench);
                Some(bench)
            }
            Err(error) => {
                self.say(&format!("open fails: {error}"));
                self.disk.crash();
                None
            }
        }
    }

    fn say(&self, what: &str) {
        if self.loud {
            eprintln!("{what}");
        }
    }

    fn step(&mut self, bench: &mut Bench) {
        let endpoint = ENDPOINTS[self.random.below(2) as usize];
        match self.random.below(22) {
            0..=9 => {
                let count = 1 + self.random.below(4);
                self.append(bench, endpoint, count);
            }
            10..=13 => {
                let count = 1 + self.random.below(9);
                self.archive(bench, endpoint, count);
            }
            14 => {
                self.say("syncs fail");
                self.disk.fail_syncs(1 + self.random.below(2) as u32);
            }
            15 => {
                let room = if self.random.chance(50) { Some(self.random.below(3_000)) } else { None };
                self.say(&format!("room {room:?}"));
                self.disk.set_room(room);
            }
            16 => {
                self.say("power");
                self.disk.cut_power_after(self.random.below(12));
            }
            20..22 => {
                self.say("reads fail for a while");
                self.disk.fail_reads(1 + self.random.below(4) as u32);
            }
            17 => self.disk.later(100_000),
            18 => {
                let archived = self.models[endpoint].archive.values().last().map(|stored| {
                    (stored.record.header.stream.incarnation, stored.record.header.sequence / 2)
                });
                let report = bench.shared.rewind(endpoint, archived);
                self.say(&format!("rewind {endpoint} {archived:?} {report:?}"));
            }
            _ => bench.shared.reap(false),
        }
    }

    fn append(&mut self, bench: &mut Bench, endpoint: &'static str, count: u64) {
        let texts: Vec<String> = (0..count)
            .map(|_| {
                self.next_text += 1;
                let padding = "x".repeat(self.random.below(200) as usize);
                format!("{}-{padding}", self.next_text)
            })
            .collect();
        let answer = bench.append(endpoint, &texts.iter().map(String::as_str).collect::<Vec<_>>());
        self.say(&format!("append {endpoint} {} {answer:?}", self.next_text));
        let model = self.models.get_mut(endpoint).expect("both endpoints have a model");
        match answer {
            Ok(appended) => {
                assert_eq!(appended.len(), texts.len());
                model.acknowledged.extend(texts);
            }
            Err(_) => model.doubtful.extend(texts),
        }
    }

    /// Keeps what the journal says of its streams, and that it is one journal that says it.
    fn look(&mut self, bench: &Bench) {
        let seed = bench.shared.seed();
        assert!(seed.is_none() || self.seed.is_none() || seed == self.seed, "the key changed");
        self.seed = seed.or(self.seed);
        for statement in bench.shared.statements() {
            let same = |before: &&mut Statement| {
                (&before.endpoint, before.incarnation) == (&statement.endpoint, statement.incarnation)
            };
            match self.heads.iter_mut().find(same) {
                Some(before) => {
                    assert!(before.last.sequence <= statement.last.sequence, "a head went back");
                    assert!(!before.closed || before.last == statement.last, "a closed stream went on");
                    *before = statement;
                }
                None => self.heads.push(statement),
            }
        }
    }

    /// What a drain does: reads from the cursor, writes idempotently, confirms.
    fn archive(&mut self, bench: &mut Bench, endpoint: &'static str, count: u64) {
        let cursor = bench.shared.state().endpoints.get(endpoint).map(|queue| queue.cursor.position);
        let model = self.models.get_mut(endpoint).expect("both endpoints have a model");
        let mut from = cursor.unwrap_or_default();
        let (mut taken, mut failures) = (0, 0);
        while taken < count {
            // The disk may be off.
            let Ok(batch) = bench.shared.read(endpoint, from, 5, 3_000) else { return };
            if let Some(bad) = batch.bad {
                failures += 1;
                if failures <= 4 {
                    continue;
                }
                assert!(self.flips > 0, "nothing was damaged between recovery and reading");
                if !bench.shared.gives_back() {
                    return;
                }
                let request = Request { endpoint: endpoint.to_owned(), drafts: vec![gap(&bad)] };
                if bench.writer.commit(vec![request]).pop().is_none_or(|answer| answer.is_err()) {
                    return;
                }
                bench.shared.pass_over(endpoint, &bad);
                self.told += 1;
                continue;
            }
            failures = 0;
            if batch.next == from {
                return;
            }
            from = batch.next;
            taken += batch.records.len() as u64;
            for stored in &batch.records {
                let id = stored.record.header.id;
                match model.archive.get(&id) {
                    Some(there) => assert_eq!(there.record, stored.record, "one id, one record"),
                    None => {
                        model.arrived.extend(text_of(stored).map(str::to_owned));
                        model.archive.insert(id, stored.clone());
                    }
                }
            }
            if let Some(last) = batch.records.last() {
                if self.loud {
                    eprintln!("confirm {endpoint} {:?}", last.position);
                }
                let before = bench.shared.state().endpoints.get(endpoint).map(|queue| queue.cursor.position);
                let _ = bench.shared.confirm(endpoint, last.cursor());
                let after = bench.shared.state().endpoints.get(endpoint).map(|queue| queue.cursor.position);
                assert!(after <= Some(last.position).max(before), "a cursor passed what was not confirmed");
            }
        }
    }

    fn check(&self) {
        let mut checker = Checker::default();
        let mut lost = 0;
        for (endpoint, model) in &self.models {
            let once: BTreeSet<&String> = model.arrived.iter().collect();
            assert_eq!(once.len(), model.arrived.len(), "{endpoint}: something appears twice");
            let acknowledged: BTreeSet<&String> = model.acknowledged.iter().collect();
            for text in &model.arrived {
                let known = acknowledged.contains(text) || model.doubtful.contains(text);
                assert!(known, "{endpoint}: {text} was never appended");
            }
            let arrived: Vec<&String> =
                model.arrived.iter().filter(|text| acknowledged.contains(text)).collect();
            let expected: Vec<&String> =
                model.acknowledged.iter().filter(|text| once.contains(text)).collect();
            assert_eq!(arrived, expected, "{endpoint}: the order changed");
            lost += model.acknowledged.len() - arrived.len();
            for stored in sorted(model) {
                checker.record(&archived(stored));
            }
        }
        if self.flips == 0 {
            assert_eq!(lost, 0, "acknowledged records are gone");
            // A crash in the middle of a write may leave holes that look like damage; each is declared.
            let report = checker.finish();
            assert!(report.consistent, "{report}");
            self.check_gaps();
            self.check_heads();
            return;
        }
        assert!(lost == 0 || self.told > 0, "{lost} records are gone and nobody was told");
        // A changed byte in the last write cannot be told from an unfinished one; then the archive may hold more than the
        // journal, and only order and uniqueness are promised.
    }
}

impl Schedule {
    /// What a head named is there: a head never runs ahead of what a crash leaves.
    fn check_heads(&self) {
        for head in &self.heads {
            for mark in [Some(head.last), head.confirmed].into_iter().flatten() {
                let there = self.models[head.endpoint.as_str()].archive.values().any(|stored| {
                    let header = &stored.record.header;
                    (header.stream.incarnation, header.sequence, stored.record.hash())
                        == (head.incarnation, mark.sequence, mark.hash)
                });
                assert!(there, "{}: a head named record {}, which is gone", head.endpoint, mark.sequence);
            }
        }
    }

    /// Nothing that is there was declared missing.
    fn check_gaps(&self) {
        for stored in self.models.values().flat_map(|model| model.archive.values()) {
            let Content::Body(Body::Gap(gap)) = &stored.record.header.content else { continue };
            let endpoint = stored.record.header.stream.endpoint.as_str();
            let first = gap.first.expect("recovery knows which are missing");
            for other in self.models[endpoint].archive.values() {
                let header = &other.record.header;
                let inside = Some(header.stream.incarnation) == gap.incarnation
                    && (first..first + gap.count).contains(&header.sequence);
                assert!(!inside, "record {} of {} was declared missing", header.sequence, header.stream);
            }
        }
    }
}

fn told(bench: &Bench) -> u64 {
    bench.recovery.quarantined + bench.recovery.lost + bench.recovery.torn_bytes
}

fn sorted(model: &Model) -> Vec<&Stored> {
    let mut records: Vec<&Stored> = model.archive.values().collect();
    records.sort_by_key(|stored| {
        let header = &stored.record.header;
        (header.stream.clone(), header.sequence, header.id)
    });
    records
}

/// The record as an archive that stores it faithfully would hold it.
pub fn archived(stored: &Stored) -> ArchivedRecord {
    let record = &stored.record;
    ArchivedRecord {
        id: record.header.id,
        header: record.header_bytes.clone(),
        hash: record.hash().to_vec(),
        previous: record.header.previous.to_vec(),
        parser: PARSER,
        projection: project(&record.header, &record.payloads),
        payloads: record
            .payloads
            .iter()
            .map(|payload| ArchivedPayload {
                number: payload.number.into(),
                form: payload.form.code().into(),
                salt: match &payload.form {
                    Form::Plain { salt } => Some(salt.to_vec()),
                    Form::Sealed => None,
                },
                bytes: Some(payload.bytes.clone()),
            })
            .collect(),
    }
}
