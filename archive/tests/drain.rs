//! The drain against an endpoint that does what it is told to.

mod common;

use cartulary_archive::drain::{Drain, DrainHandle, DrainOptions};
use cartulary_archive::endpoint::{Endpoint, EndpointError, WriteReport};
use cartulary_archive::journal::Stored;
use cartulary_archive::record::{Body, Content, GapReason, Hash, StreamId};
use cartulary_compliance::names::reason;
use common::{Kept, accepted, draft, eventually};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

#[derive(Default)]
struct Behaviour {
    down: bool,
    misconfigured: bool,
    /// Stanza ids that it refuses.
    refused: BTreeSet<String>,
    /// It refuses everything.
    refuses: bool,
    taken: Vec<Stored>,
    writes: u64,
    /// How often it was asked how far it is.
    looks: u64,
    /// How often its records were counted.
    counts: u64,
    /// Ids that it says it has and has not.
    swallowed: Vec<uuid::Uuid>,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Behaviour>>);

impl Fake {
    fn lock(&self) -> MutexGuard<'_, Behaviour> {
        self.0.lock().expect("no test panics while it holds it")
    }

    fn check(&self) -> Result<(), EndpointError> {
        let behaviour = self.lock();
        if behaviour.down {
            let message = "the cable is cut".to_owned();
            return Err(EndpointError::Unavailable { reason: reason::UNREACHABLE, message });
        }
        if behaviour.misconfigured {
            let message = "run cartulary migrate".to_owned();
            return Err(EndpointError::Misconfigured { reason: reason::NOT_MIGRATED, message });
        }
        Ok(())
    }

    fn ids(&self) -> Vec<String> {
        self.lock().taken.iter().filter_map(stanza_id).collect()
    }
}

fn stanza_id(stored: &Stored) -> Option<String> {
    match &stored.record.header.content {
        Content::Body(Body::Accepted(accepted)) => accepted.stanza_id.clone(),
        _ => None,
    }
}

impl Endpoint for Fake {
    async fn connect(&mut self) -> Result<(), EndpointError> {
        self.check()
    }

    fn about(&self) -> String {
        "a list".to_owned()
    }

    async fn count(&mut self, stream: &StreamId, until: u64) -> Result<u64, EndpointError> {
        self.check()?;
        let mut behaviour = self.lock();
        behaviour.counts += 1;
        let taken = behaviour.taken.iter().map(|stored| &stored.record.header);
        Ok(taken.filter(|header| header.stream == *stream && header.sequence <= until).count() as u64)
    }

    async fn position(
        &mut self,
        stream: &StreamId,
        until: u64,
        hash: &Hash,
    ) -> Result<Option<(u64, Hash)>, EndpointError> {
        self.check()?;
        let mut behaviour = self.lock();
        behaviour.looks += 1;
        let taken = behaviour.taken.iter().filter(|stored| {
            stored.record.header.stream == *stream && stored.record.header.sequence <= until
        });
        let last = taken.max_by_key(|stored| (stored.record.header.sequence, stored.record.hash() == *hash));
        Ok(last.map(|stored| (stored.record.header.sequence, stored.record.hash())))
    }

    async fn write(&mut self, records: &[Stored]) -> Result<WriteReport, EndpointError> {
        self.check()?;
        let mut behaviour = self.lock();
        behaviour.writes += 1;
        if behaviour.refuses || records.iter().filter_map(stanza_id).any(|id| behaviour.refused.contains(&id))
        {
            return Err(EndpointError::Rejected { message: "the batch holds something odd".to_owned() });
        }
        for stored in records {
            if behaviour.swallowed.contains(&stored.record.header.id) {
                continue;
            }
            if !behaviour.taken.contains(stored) {
                behaviour.taken.push(stored.clone());
            }
        }
        Ok(WriteReport { inserted: records.len() as u64, ..WriteReport::default() })
    }
}

struct Running {
    kept: Kept,
    fake: Fake,
    handle: DrainHandle,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    fn start(prepare: impl FnOnce(&mut Behaviour)) -> Self {
        let fake = Fake::default();
        prepare(&mut fake.lock());
        Self::on(Kept::open(), fake)
    }

    fn on(kept: Kept, fake: Fake) -> Self {
        let stop = CancellationToken::new();
        let options = DrainOptions {
            pause_min: Duration::from_millis(5),
            pause_max: Duration::from_millis(20),
            idle: Duration::from_millis(20),
            count_every: Duration::from_millis(30),
            ..DrainOptions::default()
        };
        let (drain, handle) = Drain::new(kept.journal.clone(), "main", fake.clone(), options);
        let task = tokio::spawn(drain.run(stop.clone()));
        Self { kept, fake, handle, stop, task }
    }

    async fn say(&self, ids: &[&str]) {
        self.kept.append(ids.iter().map(|id| draft(accepted(id), id)).collect()).await;
    }

    async fn settled(&self) {
        eventually("nothing waits", async || self.handle.status().waiting == 0).await;
    }

    async fn end(self) -> (Kept, Fake) {
        self.stop.cancel();
        self.task.await.expect("the drain ends");
        (self.kept, self.fake)
    }
}

#[tokio::test]
async fn p2_records_arrive_once_and_in_order_after_an_outage() {
    let running = Running::start(|behaviour| behaviour.down = true);
    running.say(&["1", "2", "3"]).await;
    eventually("the outage shows", async || running.handle.status().state == reason::UNREACHABLE).await;
    assert_eq!(running.handle.status().waiting, 4);
    assert!(running.handle.status().oldest_waiting_micros.is_some());
    running.fake.lock().down = false;
    running.settled().await;
    running.say(&["4"]).await;
    running.settled().await;
    assert_eq!(running.fake.ids(), ["1", "2", "3", "4"]);
    eventually("the return shows", async || running.handle.status().state == reason::CONNECTED).await;
    running.end().await;
}

#[tokio::test]
async fn a_misconfigured_endpoint_says_what_to_do_and_is_tried_again() {
    let running = Running::start(|behaviour| behaviour.misconfigured = true);
    running.say(&["1"]).await;
    eventually("the reason shows", async || running.handle.status().state == reason::NOT_MIGRATED).await;
    assert!(running.handle.status().message.contains("migrate"));
    running.fake.lock().misconfigured = false;
    running.settled().await;
    assert_eq!(running.fake.ids(), ["1"]);
    running.end().await;
}

#[tokio::test]
async fn a_refused_record_stands_aside_alone_and_may_be_tried_again() {
    let running = Running::start(|behaviour| {
        behaviour.down = true;
        behaviour.refused.insert("3".to_owned());
    });
    running.say(&["1", "2", "3", "4", "5"]).await;
    running.fake.lock().down = false;
    running.settled().await;
    assert_eq!(running.fake.ids(), ["1", "2", "4", "5"]);
    assert_eq!(running.handle.status().dead_letters, 1);
    let letters = running.kept.journal.dead_letters("main").await.expect("listed");
    assert_eq!((letters[0].sequence, letters[0].reason.as_str()), (3, "the batch holds something odd"));
    let gap = running.fake.lock().taken.iter().find_map(|stored| match &stored.record.header.content {
        Content::Body(Body::Gap(gap)) => Some(gap.clone()),
        _ => None,
    });
    let gap = gap.expect("the stream says that it is missing");
    assert_eq!((gap.first, gap.count, gap.reason), (Some(3), 1, GapReason::Rejected));
    running.fake.lock().refused.clear();
    running.handle.retry_dead_letters();
    eventually("the dead letter is taken", async || running.handle.status().dead_letters == 0).await;
    assert_eq!(running.fake.ids(), ["1", "2", "4", "5", "3"]);
    running.end().await;
}

#[tokio::test]
async fn a_record_refused_again_and_again_breeds_no_others() {
    let kept = Kept::open();
    kept.append(vec![draft(accepted("1"), "1")]).await;
    let mut reader = kept.journal.reader("main");
    let batch = reader.try_next(10, u64::MAX).await.expect("read");
    let refused = batch.last().expect("the message");
    for _ in 0..3 {
        kept.journal.dead_letter("main", refused, "no").await.expect("kept aside");
    }
    assert_eq!(kept.journal.queue("main").dead_letters, 1);
    let gaps = reader.try_next(10, u64::MAX).await.expect("read");
    assert_eq!(gaps.len(), 1, "its stream says once that it is missing");
}

#[tokio::test]
async fn an_archive_that_refuses_everything_has_not_gone_back() {
    let running = Running::start(|behaviour| behaviour.refuses = true);
    running.say(&["1", "2", "3"]).await;
    // The stream's first record, three messages, and a gap record for each of the four.
    eventually("all are kept aside", async || running.handle.status().dead_letters == 8).await;
    running.settled().await;
    let looks = running.fake.lock().looks;
    eventually("it was looked at", async || running.fake.lock().looks > looks).await;
    let writes = running.fake.lock().writes;
    eventually("it was looked at again", async || running.fake.lock().looks > looks + 6).await;
    assert_eq!(running.handle.status().state, reason::CONNECTED);
    assert_eq!(running.fake.lock().writes, writes);
    running.end().await;
}

#[tokio::test]
async fn an_archive_whose_last_record_was_exchanged_is_told() {
    let running = Running::start(|_| {});
    running.say(&["1", "2"]).await;
    running.settled().await;
    {
        // With the chain computed anew nothing in the archive itself shows it.
        let mut behaviour = running.fake.lock();
        let last = behaviour.taken.last_mut().expect("taken");
        last.record.header.node = "elsewhere".to_owned();
        last.record.header_bytes = last.record.header.encode();
    }
    eventually("it is told", async || {
        running.handle.status().message.contains("not the one that was written")
    })
    .await;
    running.end().await;
}

#[tokio::test]
async fn ev_2_confirmed_records_that_are_gone_from_the_middle_are_written_again() {
    let running = Running::start(|_| {});
    running.say(&["1", "2", "3", "4"]).await;
    running.settled().await;
    running.fake.lock().taken.remove(2);
    eventually("it is there again", async || running.fake.ids() == ["1", "3", "4", "2"]).await;
    eventually("it is told as over", async || running.handle.status().state == reason::CONNECTED).await;
    assert!(running.handle.status().message.contains("a list"), "{:?}", running.handle.status());
    running.end().await;
}

#[tokio::test]
async fn ev_2_confirmed_records_that_are_gone_and_kept_nowhere_stay_told() {
    let running = Running::on(Kept::open().reopen_keeping_nothing().await, Fake::default());
    running.say(&["1", "2", "3"]).await;
    running.settled().await;
    // The archive takes what it is given again for known, as a trigger that swallows inserts would.
    let gone = {
        let mut behaviour = running.fake.lock();
        let gone = behaviour.taken.remove(1);
        behaviour.swallowed.push(gone.record.header.id);
        gone.record.header.sequence
    };
    let told = async || {
        let status = running.handle.status();
        status.state == reason::WENT_BACK && status.message.contains("holds 3 of 4 records")
    };
    eventually("it is told", told).await;
    let counts = running.fake.lock().counts;
    eventually("it was counted again", async || running.fake.lock().counts > counts + 2).await;
    let writes = running.fake.lock().writes;
    eventually("and again", async || running.fake.lock().counts > counts + 5).await;
    assert!(told().await, "{gone}: {:?}", running.handle.status());
    assert_eq!(running.fake.lock().writes, writes, "it is not tried for ever");
    running.end().await;
}

#[tokio::test]
async fn a_foreign_record_far_ahead_does_not_hide_that_the_archive_went_back() {
    let running = Running::start(|_| {});
    running.say(&["1", "2", "3"]).await;
    running.settled().await;
    {
        let mut behaviour = running.fake.lock();
        let mut foreign = behaviour.taken.last().expect("taken").clone();
        foreign.record.header.sequence = i64::MAX.unsigned_abs();
        foreign.record.header.content = Content::Close;
        behaviour.taken.truncate(2);
        behaviour.taken.push(foreign);
    }
    eventually("it is refilled", async || running.fake.ids() == ["1", "2", "3"]).await;
    running.end().await;
}

#[tokio::test]
async fn a_record_that_the_disk_does_not_give_back_is_told_and_holds_up_nothing() {
    let running = Running::start(|behaviour| behaviour.down = true);
    running.say(&["1", "2", "3"]).await;
    let segment = running.kept.dir.path().join("journal/00000000000000000001.segment");
    let mut bytes = std::fs::read(&segment).expect("the segment");
    let at = bytes.windows(5).position(|bytes| bytes == b">2</b").expect("the second message");
    bytes[at + 1] = b'X';
    std::fs::write(&segment, bytes).expect("changed");
    running.fake.lock().down = false;
    running.settled().await;
    assert_eq!(running.fake.ids(), ["1", "3"]);
    let gap = running.fake.lock().taken.iter().find_map(|stored| match &stored.record.header.content {
        Content::Body(Body::Gap(gap)) => Some(gap.clone()),
        _ => None,
    });
    let gap = gap.expect("the stream says that it is missing");
    assert_eq!((gap.first, gap.count, gap.reason), (Some(2), 1, GapReason::Quarantined));
    assert_eq!(running.kept.journal.status().unreadable, 1);
    let counts = running.fake.lock().counts;
    eventually("it was counted", async || running.fake.lock().counts > counts + 1).await;
    assert_eq!(running.handle.status().state, reason::CONNECTED, "the archive has lost nothing");
    running.end().await;
}

#[tokio::test]
async fn an_archive_that_goes_back_while_connected_is_refilled_too() {
    let running = Running::start(|_| {});
    running.say(&["1", "2", "3"]).await;
    running.settled().await;
    running.fake.lock().taken.truncate(2);
    eventually("it is refilled", async || running.fake.ids() == ["1", "2", "3"]).await;
    eventually("it is told as over", async || running.handle.status().state == reason::CONNECTED).await;
    running.end().await;
}

#[tokio::test]
async fn an_archive_that_went_back_behind_what_is_kept_stays_told_after_new_records() {
    let before = Running::start(|_| {});
    before.say(&["1", "2", "3"]).await;
    before.settled().await;
    let (kept, fake) = before.end().await;
    // The next start writes a segment of its own, so that nothing of this one is kept once its closing record is archived.
    let running = Running::on(kept.reopen_keeping_nothing().await, fake);
    running.settled().await;
    running.fake.lock().taken.truncate(2);
    let told = async || {
        let status = running.handle.status();
        status.state == reason::WENT_BACK && status.message.contains("3 records, 2 to 4,")
    };
    eventually("it is told", told).await;
    running.say(&["4"]).await;
    running.settled().await;
    let looks = running.fake.lock().looks;
    eventually("it was looked at again", async || running.fake.lock().looks > looks + 3).await;
    assert!(told().await, "{:?}", running.handle.status());
    running.fake.lock().down = true;
    eventually("an outage comes first", async || running.handle.status().state == reason::UNREACHABLE).await;
    running.end().await;
}
