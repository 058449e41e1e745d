//! What fails outside the server and the sidecar: archive, disk, configuration, plugin. Nothing is delivered unrecorded where that
//! is forbidden, nothing is lost where it is on record, and the status says what is wrong (MA-6, MA-7, MA-10).

use anyhow::{Context, Result, ensure};
use cartulary_archive::record::{ActionCode, GapReason};
use cartulary_compliance::config::{EndpointTarget, PostgreSql, SidecarConfig};
use cartulary_compliance::link::DeliveryResult;
use cartulary_compliance::names::reason;
use cartulary_tests::client::Client;
use cartulary_tests::oracle::{
    Archive, create_database, everything_is_archived_once, nothing_is_unrecorded, verify,
};
use cartulary_tests::process::until;
use cartulary_tests::prosody::ROOMS;
use cartulary_tests::transcript::{Kind, Transcript};
use cartulary_tests::world::{DATABASE, ENDPOINT, WRITER, World};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// Says `count` messages and waits until each was delivered or refused.
async fn say(transcript: &mut Transcript, from: &Client, to: &Client, count: usize) -> Result<()> {
    for n in 0..count {
        transcript.say(from, Kind::OneToOne, to.bare(), &format!("message {n}")).await?;
    }
    from.settle().await?;
    to.settle().await
}

fn database(config: &mut SidecarConfig) -> &mut PostgreSql {
    match config.endpoints.get_mut(ENDPOINT).map(|endpoint| &mut endpoint.target) {
        Some(EndpointTarget::PostgreSql(target)) => target,
        _ => panic!("every world begins with a PostgreSQL endpoint"),
    }
}

async fn endpoint_says(world: &World, what: &str) -> Result<()> {
    let is = |s: &cartulary_compliance::status::SidecarStatus| {
        s.endpoints.get(ENDPOINT).is_some_and(|e| e.state == what)
    };
    let status = world.sidecar.until(what, is).await?;
    let message = &status.endpoints[ENDPOINT].message;
    ensure!(what == reason::CONNECTED || message.len() > 20, "{what} is explained by {message:?} only");
    Ok(())
}

#[tokio::test]
async fn ma_6_a_lost_database_holds_up_nobody_in_rooms_or_elsewhere_and_gets_everything_when_it_is_back()
-> Result<()> {
    for block in [true, false] {
        let mut world =
            World::builder().config(move |c| c.archiving.block_if_unable_to_record = block).start().await?;
        let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/desk").await?);
        let mut transcript = Transcript::default();
        let old = format!("old@{ROOMS}");
        anna.join(&old, "anna").await?;
        ben.join(&old, "ben").await?;
        say(&mut transcript, &anna, &ben, 20).await?;
        world.postgres.stop().await?;
        say(&mut transcript, &anna, &ben, 50).await?;
        // Rooms go on, and can still be made.
        let new = format!("new@{ROOMS}");
        anna.join(&new, "anna").await?;
        ben.join(&new, "ben").await?;
        for room in [&old, &new] {
            for n in 0..10 {
                transcript.say(&ben, Kind::Room, room, &format!("to the room {n}")).await?;
            }
        }
        ben.settle().await?;
        anna.settle().await?;
        endpoint_says(&world, reason::UNREACHABLE).await?;
        world.sidecar.alarm("ArchiveUnreachable", true).await?;
        let status = world.sidecar.status().await?;
        assert!(
            status.endpoints[ENDPOINT].waiting >= 70
                && status.endpoints[ENDPOINT].oldest_waiting_micros.is_some()
        );
        assert_eq!((status.counts.refused, status.counts.delivered_unrecorded), (0, 0));
        world.postgres.resume().await?;
        say(&mut transcript, &ben, &anna, 20).await?;
        endpoint_says(&world, reason::CONNECTED).await?;
        world.sidecar.alarm("ArchiveUnreachable", false).await?;
        transcript.hear(&anna);
        transcript.hear(&ben);
        assert_eq!((transcript.delivered().len(), transcript.refused.len()), (110, 0));
        everything_is_archived_once(&transcript, &world.archive().await?)?;
        verify(&world.postgres).await?.holds()?;
    }
    Ok(())
}

#[tokio::test]
async fn ma_7_what_waits_is_on_disk_and_arrives_once_in_the_order_of_each_conversation() -> Result<()> {
    let mut world = World::start().await?;
    let anna = world.client("anna/desk").await?;
    let (ben, cleo) = (world.client("ben/desk").await?, world.client("cleo/desk").await?);
    let (mut transcript, mut conversation) = (Transcript::default(), Vec::new());
    world.postgres.stop().await?;
    for round in 0..20 {
        // Whoever answers has read what was said: that is the order of this conversation.
        for (from, to) in [(&anna, &ben), (&ben, &anna)] {
            let id = transcript.say(from, Kind::OneToOne, to.bare(), &format!("{round}")).await?;
            to.wait("it", |e| (e.attr("id") == Some(&id)).then_some(())).await?;
            conversation.push(id);
        }
        transcript.say(&cleo, Kind::OneToOne, ben.bare(), "in between").await?;
        if round == 10 {
            cleo.settle().await?;
            world.sidecar.kill()?;
            world.sidecar.resume().await?;
            world.covered().await?;
        }
    }
    cleo.settle().await?;
    ben.settle().await?;
    world.postgres.resume().await?;
    for client in [&anna, &ben, &cleo] {
        transcript.hear(client);
    }
    let archive = world.archive().await?;
    everything_is_archived_once(&transcript, &archive)?;
    assert_eq!(transcript.delivered().len(), 60);
    let archived: Vec<_> = archive
        .accepted()
        .filter_map(|(_, accepted)| accepted.stanza_id.as_ref())
        .filter(|id| conversation.contains(id))
        .collect();
    assert_eq!(archived, conversation.iter().collect::<Vec<_>>());
    verify(&world.postgres).await?.holds()
}

#[tokio::test]
async fn ma_10_the_loss_of_the_database_its_return_and_a_queue_that_fills_are_told() -> Result<()> {
    let mut world = World::builder()
        .config(|config| {
            for endpoint in config.endpoints.values_mut() {
                endpoint.queue.max_records = 500;
            }
        })
        .start()
        .await?;
    let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/desk").await?);
    let mut transcript = Transcript::default();
    let told = |world: &World, message: &str, alarm: &str| -> Result<Vec<serde_json::Value>> {
        let lines = world.sidecar.log_lines()?.into_iter();
        Ok(lines.filter(|line| line["message"] == message && line["alarm"] == alarm).collect())
    };
    say(&mut transcript, &anna, &ben, 5).await?;
    world.sidecar.drained().await?;
    assert!(world.sidecar.alarms().await?.is_empty(), "all is well");
    assert!(told(&world, "an alarm is raised", "ArchiveUnreachable")?.is_empty());
    world.postgres.stop().await?;
    world.sidecar.alarm("ArchiveUnreachable", true).await?;
    assert!(world.sidecar.alarms().await?.contains(&("ArchiveUnreachable".into(), ENDPOINT.into())));
    // A message makes one record, and another of what became of it.
    while !world.sidecar.alarms().await?.contains(&("QueueHighWater".into(), ENDPOINT.into())) {
        say(&mut transcript, &anna, &ben, 20).await?;
        ensure!(transcript.said.len() <= 500, "no alarm came");
    }
    let waiting = world.sidecar.status().await?.endpoints[ENDPOINT].waiting;
    assert!((400..500).contains(&waiting), "{waiting}");
    world.postgres.resume().await?;
    world.sidecar.drained().await?;
    for (alarm, level, severity) in
        [("ArchiveUnreachable", "ERROR", "critical"), ("QueueHighWater", "WARN", "warning")]
    {
        world.sidecar.alarm(alarm, false).await?;
        until("the end of an alarm in the log", async || {
            told(&world, "an alarm is over", alarm).is_ok_and(|lines| lines.len() == 1)
        })
        .await?;
        let raised = told(&world, "an alarm is raised", alarm)?;
        let [line] = &raised[..] else { panic!("told once: {raised:#?}") };
        assert_eq!((&line["level"], &line["severity"]), (&level.into(), &severity.into()));
        assert_eq!(line["endpoint"], ENDPOINT);
    }
    transcript.hear(&anna);
    transcript.hear(&ben);
    everything_is_archived_once(&transcript, &world.archive().await?)
}

#[tokio::test]
async fn ma_11_every_change_of_configuration_takes_effect_without_restarting_anything_or_dropping_a_session()
-> Result<()> {
    let mut world = World::start().await?;
    let process = world.sidecar.id();
    let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/desk").await?);
    let mut first = Transcript::default();

    // Limits: nothing fits, then everything.
    world.sidecar.configure(|c| c.endpoints.get_mut(ENDPOINT).expect("there").queue.max_records = 0)?;
    world.sidecar.in_force().await?;
    let refused = first.say(&anna, Kind::OneToOne, ben.bare(), "no room").await?;
    assert!(anna.answer_to(&refused).await?.is_error());
    world.sidecar.configure(|c| c.endpoints.get_mut(ENDPOINT).expect("there").queue.max_records = 1000)?;
    world.sidecar.in_force().await?;
    say(&mut first, &anna, &ben, 5).await?;

    // Directions: neither is recorded, then both.
    world.sidecar.configure(|c| (c.archiving.inbound, c.archiving.outbound) = (false, false))?;
    world.sidecar.in_force().await?;
    say(&mut Transcript::default(), &anna, &ben, 5).await?;
    world.sidecar.configure(|c| (c.archiving.inbound, c.archiving.outbound) = (true, true))?;
    world.sidecar.in_force().await?;
    say(&mut first, &anna, &ben, 5).await?;

    // The password: the former one is void, its connections are ended.
    world.sidecar.drained().await?;
    let rotate = format!(
        "ALTER ROLE {WRITER} PASSWORD 'rotated'; \
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{WRITER}'"
    );
    world.postgres.sql("postgres", &rotate).await?;
    say(&mut first, &anna, &ben, 5).await?;
    endpoint_says(&world, reason::AUTHENTICATION_FAILED).await?;
    world.sidecar.configure(|c| database(c).password = "rotated".to_owned())?;
    endpoint_says(&world, reason::CONNECTED).await?;
    world.sidecar.drained().await?;

    // The endpoint.
    create_database(&world.postgres, "second", true).await?;
    world.sidecar.configure(|c| {
        let mut second = c.endpoints[ENDPOINT].clone();
        if let EndpointTarget::PostgreSql(target) = &mut second.target {
            target.database = "second".to_owned();
        }
        c.endpoints.insert("second".to_owned(), second);
        c.archiving.endpoint = Some("second".to_owned());
    })?;
    world.sidecar.in_force().await?;
    let mut second = Transcript::default();
    say(&mut second, &anna, &ben, 5).await?;
    world.sidecar.drained().await?;

    assert_eq!(world.sidecar.id(), process, "the sidecar is the same process");
    assert!(!anna.ended() && !ben.ended(), "no session was dropped");
    assert_eq!(ben.messages().len(), 25);
    let archives = (world.archive().await?, Archive::read(&world.postgres, "second").await?);
    assert_eq!((archives.0.accepted().count(), archives.1.accepted().count()), (15, 5));
    for (archive, transcript) in [(&archives.0, &first), (&archives.1, &second)] {
        let delivered = transcript.said.iter().filter(|said| said.id != refused);
        for said in delivered {
            archive.message(&said.id)?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn p7_every_kind_of_loss_is_in_the_status_an_alarm_a_metric_and_the_stream() -> Result<()> {
    let mut world = World::builder()
        .config(|config| {
            config.archiving.block_if_unable_to_record = false;
            for endpoint in config.endpoints.values_mut() {
                endpoint.queue.max_records = 20;
            }
        })
        .start()
        .await?;
    let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/desk").await?);
    let mut transcript = Transcript::default();
    let gaps = async |world: &World, reason: GapReason| -> Result<u64> {
        let archive = world.archive().await?;
        Ok(archive.gaps().filter(|gap| gap.reason == reason).map(|gap| gap.count).sum())
    };

    // The queue is full.
    world.sidecar.drained().await?;
    world.postgres.stop().await?;
    for _ in 0..30 {
        say(&mut transcript, &anna, &ben, 1).await?;
    }
    world.sidecar.alarm("QueueFull", true).await?;
    world.sidecar.alarm("DeliveredUnrecorded", true).await?;
    let lost = world.sidecar.status().await?.counts.delivered_unrecorded;
    assert!(lost >= 10, "{lost}");
    assert_eq!(world.sidecar.metric("cartulary_delivered_unrecorded_total").await?, lost as f64);
    world.postgres.resume().await?;
    until("the gap record of the full queue", async || {
        gaps(&world, GapReason::QueueFull).await.is_ok_and(|count| count == lost)
    })
    .await?;
    world.sidecar.alarm("QueueFull", false).await?;

    // The server was alone.
    world.sidecar.stop().await?;
    say(&mut transcript, &anna, &ben, 7).await?;
    world.sidecar.resume().await?;
    world.covered().await?;
    world.sidecar.until("what was delivered alone", |s| s.counts.delivered_unrecorded == 7).await?;
    world.sidecar.alarm("DeliveredUnrecorded", true).await?;
    until("the gap record of the missing sidecar", async || {
        gaps(&world, GapReason::NoLink).await.is_ok_and(|count| count == 7)
    })
    .await?;

    // The archive refuses a record alone.
    let refuse = "ALTER TABLE cartulary.record ADD CONSTRAINT poison CHECK (stanza_id <> 'poison') NOT VALID";
    world.postgres.sql(DATABASE, refuse).await?;
    anna.message(ben.bare(), "chat", "poison", "nothing is wrong with it").await?;
    anna.settle().await?;
    world.sidecar.alarm("RecordsRejected", true).await?;
    let series = format!("cartulary_dead_letters{{endpoint=\"{ENDPOINT}\"}}");
    assert_eq!(world.sidecar.metric(&series).await?, 1.0);
    until("the gap record of the refused record", async || {
        gaps(&world, GapReason::Rejected).await.is_ok_and(|count| count == 1)
    })
    .await?;

    // The disk gives something else back than was written.
    world.postgres.stop().await?;
    let hit = "the bit that flips is in here";
    for text in ["before", hit, "after"] {
        transcript.say(&anna, Kind::OneToOne, ben.bare(), text).await?;
    }
    anna.settle().await?;
    world.sidecar.kill()?;
    flip(&world, hit)?;
    world.sidecar.resume().await?;
    world.covered().await?;
    world.sidecar.alarm("JournalDamaged", true).await?;
    assert_eq!(world.sidecar.metric("cartulary_quarantined_total").await?, 1.0);
    world.postgres.resume().await?;
    until("the gap record of the damage", async || {
        gaps(&world, GapReason::Quarantined).await.is_ok_and(|count| count == 1)
    })
    .await?;
    verify(&world.postgres).await?.holds_but_for_gaps()
}

#[tokio::test]
async fn an_archive_restored_from_a_backup_is_refilled_and_somebody_is_told() -> Result<()> {
    let mut world = World::start().await?;
    let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/desk").await?);
    let mut transcript = Transcript::default();
    say(&mut transcript, &anna, &ben, 30).await?;
    world.sidecar.drained().await?;
    world.postgres.back_up("yesterday").await?;
    say(&mut transcript, &anna, &ben, 30).await?;
    world.sidecar.drained().await?;
    world.postgres.restore("yesterday").await?;
    say(&mut transcript, &anna, &ben, 10).await?;
    transcript.hear(&anna);
    transcript.hear(&ben);
    let told = |s: &cartulary_compliance::status::SidecarStatus| {
        s.endpoints.values().any(|e| e.state == reason::WENT_BACK || e.message.contains("backup"))
            || s.notes.iter().any(|n| n.contains("backup"))
    };
    world.sidecar.until("the alarm that the archive went back", told).await?;
    everything_is_archived_once(&transcript, &world.archive().await?)?;
    verify(&world.postgres).await?.holds()
}

#[tokio::test]
async fn the_status_says_which_way_an_archive_cannot_be_used() -> Result<()> {
    let mut world = World::builder().unmigrated().start().await?;
    let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/desk").await?);
    let mut transcript = Transcript::default();
    say(&mut transcript, &anna, &ben, 5).await?;
    endpoint_says(&world, reason::NOT_MIGRATED).await?;

    create_database(&world.postgres, "newer", true).await?;
    cartulary_tests::oracle::pretend_newer_schema(&world.postgres, "newer").await?;
    world.sidecar.configure(|c| database(c).database = "newer".to_owned())?;
    endpoint_says(&world, reason::UNKNOWN_SCHEMA).await?;

    world.sidecar.configure(|c| database(c).database = "nowhere".to_owned())?;
    endpoint_says(&world, reason::DATABASE_MISSING).await?;

    world.sidecar.configure(|c| database(c).password = "guessed".to_owned())?;
    endpoint_says(&world, reason::AUTHENTICATION_FAILED).await?;

    let port = database(&mut world.sidecar.config.clone()).port;
    world.sidecar.configure(|c| database(c).port = cartulary_tests::process::free_port().unwrap_or(1))?;
    endpoint_says(&world, reason::UNREACHABLE).await?;

    say(&mut transcript, &anna, &ben, 5).await?;
    create_database(&world.postgres, "good", true).await?;
    world.sidecar.configure(|c| {
        let database = database(c);
        database.port = port;
        database.database = "good".to_owned();
        cartulary_tests::postgres::PASSWORD.clone_into(&mut database.password);
    })?;
    endpoint_says(&world, reason::CONNECTED).await?;
    transcript.hear(&ben);
    assert_eq!(transcript.delivered().len(), 10);
    world.sidecar.drained().await?;
    everything_is_archived_once(&transcript, &Archive::read(&world.postgres, "good").await?)
}

#[tokio::test]
async fn a_configuration_that_cannot_be_taken_leaves_the_last_good_one_and_says_why() -> Result<()> {
    let mut world = World::start().await?;
    let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/desk").await?);
    let mut transcript = Transcript::default();
    let good = world.sidecar.config.clone();
    let json = |change: &dyn Fn(&mut serde_json::Value)| -> Result<Vec<u8>> {
        let mut value = serde_json::to_value(&good)?;
        value["generation"] = 99.into();
        change(&mut value);
        Ok(serde_json::to_vec(&value)?)
    };
    for bad in [
        b"not JSON".to_vec(),
        Vec::new(),
        json(&|v| v["format"] = 99.into())?,
        json(&|v| v["archiving"]["inbuond"] = true.into())?,
        json(&|v| v["archiving"]["endpoint"] = "elsewhere".into())?,
    ] {
        let before = world.sidecar.status().await?.config.problem;
        world.sidecar.write_config_file(&bad)?;
        let differs = |s: &cartulary_compliance::status::SidecarStatus| {
            s.config.problem.is_some() && s.config.problem != before
        };
        let status = world.sidecar.until("a problem", differs).await?;
        assert_eq!(status.config.generation, 1);
        say(&mut transcript, &anna, &ben, 3).await?;
    }
    world.sidecar.configure(|_| ())?;
    world.sidecar.in_force().await?;
    assert_eq!(world.sidecar.status().await?.config.problem, None);
    transcript.hear(&ben);
    assert_eq!(transcript.delivered().len(), 15);
    everything_is_archived_once(&transcript, &world.archive().await?)
}

// A sidecar whose volume holds eight mebibytes, in a mount namespace of its own.
fn small_volume() -> Vec<String> {
    // The script's arguments are the sidecar's command line; its volume is the folder after --data-dir.
    let script = "for word; do [ \"$last\" = --data-dir ] && volume=$word; last=$word; done\n\
        mount -t tmpfs -o size=8m tmpfs \"$volume\" && exec setpriv --pdeathsig KILL \"$@\"";
    ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"].map(str::to_owned).to_vec()
}

#[tokio::test]
async fn a_full_volume_refuses_or_lets_go_as_declared_and_recovers_by_itself() -> Result<()> {
    for block in [true, false] {
        let start = World::builder().under(small_volume()).config(move |config| {
            config.archiving.block_if_unable_to_record = block;
            config.journal.keep_confirmed_seconds = 0;
        });
        let mut world = start.start().await?;
        let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/desk").await?);
        let mut transcript = Transcript::default();
        world.postgres.stop().await?;
        let large = "x".repeat(200_000);
        for _ in 0..60 {
            transcript.say(&anna, Kind::OneToOne, ben.bare(), &large).await?;
            anna.settle().await?;
        }
        ben.settle().await?;
        let status = world.sidecar.status().await?;
        assert!(
            !status.ready || status.journal.problem.is_some(),
            "the status says that the volume is full: {status:#?}"
        );
        let refused = anna.messages().iter().filter(|message| message.is_error()).count();
        if block {
            assert!((1..60).contains(&refused), "{refused} of 60 were refused");
            assert_eq!(ben.messages().len() + refused, 60);
        } else {
            assert_eq!((refused, ben.messages().len()), (0, 60));
            assert!(status.counts.delivered_unrecorded > 0);
        }
        world.postgres.resume().await?;
        world.sidecar.drained().await?;
        // Room again, without anybody's doing.
        until("a message to be recorded again", async || {
            let Ok(id) = transcript.say(&anna, Kind::OneToOne, ben.bare(), "small again").await else {
                return false;
            };
            let delivered =
                anna.settle().await.is_ok() && !anna.messages().iter().any(|m| m.is_error() && m.id == id);
            delivered && world.archive().await.is_ok_and(|archive| archive.message(&id).is_ok())
        })
        .await?;
        ben.settle().await?;
        transcript.hear(&anna);
        transcript.hear(&ben);
        let archive = world.archive().await?;
        if block {
            nothing_is_unrecorded(&transcript, &archive)?;
        } else {
            let archived = archive.accepted().count();
            let missing: u64 =
                archive.gaps().filter(|gap| gap.reason != GapReason::NoLink).map(|gap| gap.count).sum();
            assert_eq!(
                archived as u64 + missing,
                transcript.delivered().len() as u64,
                "{:?}",
                archive.gaps().collect::<Vec<_>>()
            );
        }
        verify(&world.postgres).await?.holds_but_for_gaps()?;
    }
    Ok(())
}

#[tokio::test]
async fn ma_7_a_full_queue_refuses_or_lets_go_as_declared_and_the_missing_are_counted() -> Result<()> {
    for block in [true, false] {
        let start = World::builder().config(move |config| {
            config.archiving.block_if_unable_to_record = block;
            for endpoint in config.endpoints.values_mut() {
                endpoint.queue.max_records = 40;
            }
        });
        let mut world = start.start().await?;
        let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/desk").await?);
        let mut transcript = Transcript::default();
        world.sidecar.drained().await?;
        world.postgres.stop().await?;
        for _ in 0..60 {
            say(&mut transcript, &anna, &ben, 1).await?;
        }
        let refused: Vec<_> = anna.messages().into_iter().filter(|message| message.is_error()).collect();
        let heard = ben.messages().len();
        world.sidecar.alarm("QueueFull", true).await?;
        world.sidecar.alarm(if block { "RefusedUnrecorded" } else { "DeliveredUnrecorded" }, true).await?;
        if block {
            // Outcomes take their share of the forty.
            assert!(heard > 0 && heard <= 40, "{heard}");
            assert_eq!(heard + refused.len(), 60);
            assert!(
                refused.iter().all(|m| m.condition.as_deref() == Some("resource-constraint")),
                "{refused:?}"
            );
        } else {
            assert_eq!((refused.len(), heard), (0, 60));
            assert!(world.sidecar.status().await?.counts.delivered_unrecorded >= 20);
        }
        world.postgres.resume().await?;
        world.sidecar.drained().await?;
        say(&mut transcript, &anna, &ben, 5).await?;
        transcript.hear(&anna);
        transcript.hear(&ben);
        if block {
            nothing_is_unrecorded(&transcript, &world.archive().await?)?;
        } else {
            until("the gap record", async || {
                let Ok(archive) = world.archive().await else { return false };
                let missing: u64 = archive
                    .gaps()
                    .filter(|gap| gap.reason == GapReason::QueueFull)
                    .map(|gap| gap.count)
                    .sum();
                archive.accepted().count() as u64 + missing == 65
            })
            .await?;
        }
    }
    Ok(())
}

fn segments(world: &World) -> Result<Vec<PathBuf>> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(world.sidecar.journal())? {
        let path = entry?.path();
        if fs::read(&path).is_ok_and(|bytes| bytes.starts_with(b"CTJS")) {
            segments.push(path);
        }
    }
    segments.sort();
    Ok(segments)
}

#[tokio::test]
async fn a_torn_tail_is_cut_off_and_costs_nothing() -> Result<()> {
    let mut world = World::start().await?;
    let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/desk").await?);
    let mut transcript = Transcript::default();
    world.postgres.stop().await?;
    say(&mut transcript, &anna, &ben, 10).await?;
    world.sidecar.kill()?;
    // What a power cut leaves of a write that was never synced: the beginning of a record.
    let segment = segments(&world)?.pop().context("a segment")?;
    let bytes = fs::read(&segment)?;
    let record = bytes.windows(4).position(|window| window == b"CTJR").context("a record")?;
    let torn = [bytes.as_slice(), &bytes[record..record + 60]].concat();
    fs::write(&segment, torn)?;
    world.sidecar.resume().await?;
    world.covered().await?;
    world.postgres.resume().await?;
    say(&mut transcript, &anna, &ben, 10).await?;
    transcript.hear(&anna);
    transcript.hear(&ben);
    let archive = world.archive().await?;
    nothing_is_unrecorded(&transcript, &archive)?;
    assert_eq!(transcript.delivered().len(), 20);
    assert_eq!(archive.gaps().filter(|gap| gap.reason == GapReason::Quarantined).count(), 0);
    verify(&world.postgres).await?.holds()
}

// Changes the first letter of a text wherever it lies in the journal.
fn flip(world: &World, text: &str) -> Result<()> {
    for segment in segments(world)? {
        let bytes = fs::read(&segment)?;
        for at in
            bytes.windows(text.len()).enumerate().filter(|(_, w)| *w == text.as_bytes()).map(|(at, _)| at)
        {
            fs::File::options().write(true).open(&segment)?.write_all_at(b"T", at as u64)?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_flipped_byte_costs_one_record_which_is_told_counted_and_named_by_verify() -> Result<()> {
    let mut world = World::start().await?;
    let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/desk").await?);
    let mut transcript = Transcript::default();
    world.postgres.stop().await?;
    let text = "the bit that flips is in here";
    say(&mut transcript, &anna, &ben, 5).await?;
    let hit = transcript.say(&anna, Kind::OneToOne, ben.bare(), text).await?;
    say(&mut transcript, &anna, &ben, 5).await?;
    world.sidecar.kill()?;
    flip(&world, text)?;
    world.sidecar.resume().await?;
    world.covered().await?;
    world.postgres.resume().await?;
    say(&mut transcript, &anna, &ben, 5).await?;
    world.sidecar.until("the damage in the status", |s| s.journal.quarantined == 1).await?;
    let archive = world.archive().await?;
    transcript.hear(&ben);
    let archived = |id: &str| archive.message(id).is_ok();
    let missing: Vec<_> = transcript.delivered().into_iter().filter(|id| !archived(id)).collect();
    assert_eq!(missing, [hit.as_str()]);
    let lost: u64 =
        archive.gaps().filter(|gap| gap.reason == GapReason::Quarantined).map(|gap| gap.count).sum();
    assert_eq!(lost, 1);
    let verified = verify(&world.postgres).await?;
    verified.holds_but_for_gaps()?;
    assert!(verified.text().contains("quarantined"), "{}", verified.text());
    Ok(())
}

#[tokio::test]
async fn without_a_sidecar_the_server_does_as_declared_and_the_missing_are_counted() -> Result<()> {
    for block in [true, false] {
        let mut world =
            World::builder().config(move |c| c.archiving.block_if_unable_to_record = block).start().await?;
        let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/desk").await?);
        let mut transcript = Transcript::default();
        say(&mut transcript, &anna, &ben, 5).await?;
        world.sidecar.stop().await?;
        say(&mut transcript, &anna, &ben, 7).await?;
        let heard = ben.messages().len();
        assert_eq!(heard, if block { 5 } else { 12 });
        world.sidecar.resume().await?;
        world.covered().await?;
        say(&mut transcript, &anna, &ben, 5).await?;
        transcript.hear(&anna);
        transcript.hear(&ben);
        assert_eq!(transcript.refused.len(), if block { 7 } else { 0 });
        until("the gap record", async || {
            let Ok(archive) = world.archive().await else { return false };
            let missing: u64 =
                archive.gaps().filter(|gap| gap.reason == GapReason::NoLink).map(|gap| gap.count).sum();
            archive.accepted().count() == 10 && missing == if block { 0 } else { 7 }
        })
        .await
        .with_context(|| world.sidecar.log())?;
        verify(&world.postgres).await?.holds_but_for_gaps()?;
    }
    Ok(())
}

#[tokio::test]
async fn a_sidecar_that_does_not_answer_holds_messages_no_longer_than_declared_and_hears_what_was_done()
-> Result<()> {
    for block in [true, false] {
        let start = World::builder().config(move |config| {
            config.archiving.block_if_unable_to_record = block;
            config.link.answer_timeout_ms = 3000;
        });
        let world = start.start().await?;
        let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/desk").await?);
        let mut transcript = Transcript::default();
        world.sidecar.freeze(true)?;
        say(&mut transcript, &anna, &ben, 3).await?;
        world.sidecar.freeze(false)?;
        transcript.hear(&anna);
        transcript.hear(&ben);
        let (delivered, refused) = (transcript.delivered().len(), transcript.refused.len());
        assert_eq!((delivered, refused), if block { (0, 3) } else { (3, 0) });
        // The link stood all the time; it is told all the same.
        let told = |s: &cartulary_compliance::status::SidecarStatus| {
            if block { s.counts.refused >= 3 } else { s.counts.delivered_unrecorded >= 3 }
        };
        world.sidecar.until("what the server decided alone", told).await?;
        what_was_decided_alone_is_an_outcome(&world, &transcript, &ben, block).await?;
        // The answers that came late were nobody's: what follows is answered as ever.
        let mut afterwards = Transcript::default();
        say(&mut afterwards, &anna, &ben, 3).await?;
        afterwards.hear(&ben);
        assert_eq!(afterwards.delivered().len(), if block { 3 } else { 6 });
    }
    Ok(())
}

// The sidecar has recorded, late, that these messages may be delivered; their outcomes say what the server did instead.
async fn what_was_decided_alone_is_an_outcome(
    world: &World,
    transcript: &Transcript,
    to: &Client,
    refused: bool,
) -> Result<()> {
    let ids: Vec<_> = transcript.said.iter().map(|said| said.id.as_str()).collect();
    let archive = world.archive_with_outcomes(&ids).await?;
    for id in ids {
        let (record, accepted) = archive.message(id)?;
        assert_eq!(accepted.action, ActionCode::Deliver);
        let told: Vec<_> = archive
            .results(id, to.bare())?
            .into_iter()
            .map(|delivery| (delivery.result, delivery.reason.as_deref()))
            .collect();
        let expected = if refused {
            (DeliveryResult::Bounced, Some("unanswered"))
        } else {
            (DeliveryResult::Delivered, None)
        };
        assert_eq!(told, [expected], "{id}");
        let streams: Vec<_> = archive
            .records
            .iter()
            .filter(|other| other.header.event() == Some(accepted.event))
            .map(|other| &other.header.stream)
            .collect();
        assert!(streams.iter().all(|stream| **stream == record.header.stream));
    }
    Ok(())
}

#[tokio::test]
async fn a_disk_that_hangs_holds_messages_no_longer_than_declared_and_loses_none_of_them() -> Result<()> {
    for block in [true, false] {
        let start = World::builder().config(move |config| {
            config.archiving.block_if_unable_to_record = block;
            config.link.answer_timeout_ms = 3000;
        });
        let world = start.start().await?;
        let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/desk").await?);
        let mut transcript = Transcript::default();
        let mut hung = world.sidecar.hang_disk().await?;
        say(&mut transcript, &anna, &ben, 5).await?;
        hung.signal(rustix::process::Signal::INT)?;
        hung.wait().await?;
        transcript.hear(&anna);
        transcript.hear(&ben);
        let done = (transcript.delivered().len(), transcript.refused.len());
        assert_eq!(done, if block { (0, 5) } else { (5, 0) });
        let told = |s: &cartulary_compliance::status::SidecarStatus| {
            if block { s.counts.refused >= 5 } else { s.counts.delivered_unrecorded >= 5 }
        };
        world.sidecar.until("what the server decided alone", told).await?;
        what_was_decided_alone_is_an_outcome(&world, &transcript, &ben, block).await?;
        let mut afterwards = Transcript::default();
        say(&mut afterwards, &anna, &ben, 3).await?;
        afterwards.hear(&ben);
        assert_eq!(afterwards.delivered().len(), if block { 3 } else { 8 });
        verify(&world.postgres).await?.holds_but_for_gaps()?;
    }
    Ok(())
}

// Changes a file of the plugin where the sidecar has put it, before the server starts.
fn break_plugin(world: &World, file: &str, change: impl FnOnce(&str) -> String) -> Result<()> {
    let path = world.prosody.plugin().join(file);
    let text = fs::read_to_string(&path)?;
    let changed = change(&text);
    ensure!(changed != text, "nothing was broken in {file}");
    Ok(fs::write(path, changed)?)
}

fn before_last_return(text: &str, line: &str) -> String {
    let at = text.rfind("\nreturn ").map_or(text.len(), |at| at + 1);
    format!("{}{line}\n{}", &text[..at], &text[at..])
}

#[tokio::test]
async fn a_hook_that_throws_refuses_the_message_and_is_counted() -> Result<()> {
    let mut world = World::builder().server_stopped().start().await?;
    break_plugin(&world, "cartulary/event.lua", |text| {
        before_last_return(text, "event.describe = function () error('broken on purpose'); end")
    })?;
    world.prosody.resume().await?;
    world.covered().await?;
    let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/desk").await?);
    anna.message(ben.bare(), "chat", "m-1", "into the void").await?;
    assert!(anna.answer_to("m-1").await?.is_error());
    ben.settle().await?;
    assert!(ben.messages().is_empty());
    world.sidecar.until("the failed hook in the status", |s| s.counts.failed_hooks >= 1).await.map(|_| ())
}

#[tokio::test]
async fn a_server_whose_plugin_does_not_load_does_not_start() -> Result<()> {
    for file in ["mod_cartulary.lua", "cartulary/gate.lua", "cartulary/link.lua"] {
        let mut world = World::builder().server_stopped().start().await?;
        break_plugin(&world, file, |text| format!("error('broken on purpose')\n{text}"))?;
        // It may end before it listens, or refuse everybody; what it may not do is deliver.
        match world.prosody.resume().await {
            Err(_) => assert!(world.prosody.log().contains("broken on purpose"), "{}", world.prosody.log()),
            Ok(()) => nobody_is_heard(&world).await.with_context(|| file.to_owned())?,
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_host_that_cannot_be_armed_delivers_nothing() -> Result<()> {
    let mut world = World::builder().server_stopped().start().await?;
    break_plugin(&world, "mod_cartulary_host.lua", |text| format!("error('broken on purpose')\n{text}"))?;
    if world.prosody.resume().await.is_err() {
        return Ok(());
    }
    let unarmed = |s: &cartulary_compliance::status::SidecarStatus| {
        !s.ready && s.link.hosts.iter().any(|h| h.problem.is_some())
    };
    world.sidecar.until("a host that is not armed", unarmed).await?;
    nobody_is_heard(&world).await
}

async fn nobody_is_heard(world: &World) -> Result<()> {
    let Ok(ben) = world.client("ben/desk").await else { return Ok(()) };
    let anna = world.client("anna/desk").await?;
    anna.message(ben.bare(), "chat", "m-1", "psst").await?;
    anna.settle().await?;
    ben.settle().await?;
    ensure!(ben.messages().is_empty(), "ben received {:?}", ben.messages());
    Ok(())
}

#[tokio::test]
async fn the_archive_is_the_writers_to_add_to_and_nothing_else() -> Result<()> {
    let world = World::start().await?;
    let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/desk").await?);
    say(&mut Transcript::default(), &anna, &ben, 3).await?;
    world.sidecar.drained().await?;
    let mut writer = world.postgres.connect_as(WRITER, DATABASE).await?;
    for table in cartulary_tests::oracle::tables(&world.postgres, DATABASE).await? {
        for statement in
            [format!("DELETE FROM {table}"), format!("TRUNCATE {table}"), format!("DROP TABLE {table}")]
        {
            let refused =
                sqlx::Executor::execute(&mut writer, sqlx::AssertSqlSafe(statement.as_str())).await.is_err();
            ensure!(refused, "the sidecar's role may {statement}");
        }
    }
    Ok(())
}
