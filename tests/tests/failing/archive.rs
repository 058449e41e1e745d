//! The archive is away, full, put back to an older state, or not as it must be.

use crate::{database, endpoint_says, say};
use anyhow::{Result, ensure};
use cartulary_archive::record::GapReason;
use cartulary_compliance::names::reason;
use cartulary_tests::oracle::{
    Archive, create_database, everything_is_archived_once, nothing_is_unrecorded, verify,
};
use cartulary_tests::process::until;
use cartulary_tests::prosody::ROOMS;
use cartulary_tests::transcript::{Kind, Transcript};
use cartulary_tests::world::{DATABASE, ENDPOINT, WRITER, World};

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
