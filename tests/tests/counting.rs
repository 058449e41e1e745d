//! What was said is counted apart from what is recorded, and both from what is archived (EV-2): the three agree over every ingress,
//! and where something gets past the gate the difference shows.

use anyhow::{Context, Result, ensure};
use cartulary_compliance::link::{Ingress, Sums};
use cartulary_tests::federation::Federation;
use cartulary_tests::oracle::{Archive, counts};
use cartulary_tests::prosody::{BOT, DOMAIN};
use cartulary_tests::world::World;
use std::fs;

const PARTNER: &str = "partner.test";

// Sums over days and processes, once every process has told its last; the test may run over midnight.
fn total(archive: &Archive) -> Option<Sums> {
    let tallies = archive.tallies();
    let newest = tallies.iter().map(|tally| tally.day).max()?;
    if !tallies.iter().all(|tally| tally.is_final || tally.day < newest) {
        return None;
    }
    let add = |a: Sums, b: Sums| Sums {
        said: a.said + b.said,
        recorded: a.recorded + b.recorded,
        unrecorded: a.unrecorded + b.unrecorded,
        refused: a.refused + b.refused,
        refused_alone: a.refused_alone + b.refused_alone,
        delivered_alone: a.delivered_alone + b.delivered_alone,
        ended_before: a.ended_before + b.ended_before,
        waiting: a.waiting + b.waiting,
    };
    Some(tallies.iter().fold(Sums::default(), |sum, tally| add(sum, tally.sums)))
}

fn accounted(sums: &Sums) -> u64 {
    let [_, rest @ ..] = sums.to_array();
    rest.iter().sum()
}

// What entered by an ingress and is archived; what the server says itself is not said to it.
fn archived(archive: &Archive) -> u64 {
    archive.accepted().filter(|(_, accepted)| accepted.ingress != Ingress::Internal).count() as u64
}

async fn counted(world: &mut World) -> Result<(Archive, Sums)> {
    world.prosody.stop().await?;
    let archive = world.archive_when("the last count", |archive| total(archive).is_some()).await?;
    let sums = total(&archive).context("just seen")?;
    Ok((archive, sums))
}

#[tokio::test]
async fn ev_2_said_is_recorded_is_archived_over_every_ingress() -> Result<()> {
    let federation = Federation::of(&[DOMAIN, PARTNER])?;
    let ours = World::builder().every_ingress().federated(federation.member(DOMAIN)?);
    let theirs = World::builder().users(&["pia"]).every_ingress().federated(federation.member(PARTNER)?);
    let (mut ours, mut theirs) = tokio::try_join!(ours.start(), theirs.start())?;
    let clients = [
        ours.client("anna/desk").await?,
        ours.websocket_client("ben/browser").await?,
        ours.bosh_client("cleo/kiosk").await?,
        theirs.client("pia/desk").await?,
    ];
    let bot = ours.component().await?;
    let room = ours.room("lobby");
    for (client, nick) in clients.iter().zip(["Anna", "Ben", "Cleo", "Pia"]) {
        client.join(&room, nick).await?;
    }
    let mut said = 0;
    for round in 0..10 {
        for (from, to) in clients.iter().zip(clients.iter().skip(1).chain(&clients[..1])) {
            from.message(to.bare(), "chat", &format!("d-{said}"), &format!("round {round}")).await?;
            to.answer_to(&format!("d-{said}")).await?;
            from.message(&room, "groupchat", &format!("r-{said}"), &format!("round {round}")).await?;
            to.answer_to(&format!("r-{said}")).await?;
            said += 2;
        }
        bot.raw(&format!(
            "<message from='clerk@{BOT}' to='{}' id='b-{round}'><body>next</body></message>",
            clients[0].bare()
        ))
        .await?;
        clients[0].answer_to(&format!("b-{round}")).await?;
        said += 1;
    }
    // To somebody away, to nobody, and to what is no address: said all the same.
    for to in ["nobody@example.test", "@example.test", "somebody@elsewhere.test"] {
        clients[0].message(to, "chat", &format!("x-{to}"), "hello").await?;
        said += 1;
    }
    for client in &clients {
        client.settle().await?;
    }
    bot.settle_at(DOMAIN).await?;

    let (archive, sums) = counted(&mut ours).await?;
    assert_eq!(sums.said, accounted(&sums), "{sums:?}");
    assert_eq!(sums.recorded, archived(&archive), "{sums:?}");
    // What came back as errors is said by the other server.
    ensure!(sums.said >= said && sums.recorded + sums.ended_before >= said, "{said} were said: {sums:?}");
    assert_eq!(
        (sums.waiting, sums.refused, sums.unrecorded, sums.delivered_alone, sums.refused_alone),
        (0, 0, 0, 0, 0),
        "{sums:?}"
    );
    assert!(sums.ended_before > 0, "{sums:?}");
    let (archive, sums) = counted(&mut theirs).await?;
    assert_eq!(sums.said, accounted(&sums), "{sums:?}");
    assert_eq!(sums.recorded, archived(&archive), "{sums:?}");
    for world in [&ours, &theirs] {
        let report = counts(&world.postgres).await?;
        assert!(report.is_equal, "{report:#?}");
    }
    Ok(())
}

#[tokio::test]
async fn ev_2_a_message_that_passes_the_gate_by_is_missed_in_the_count() -> Result<()> {
    let mut world = World::builder().server_stopped().start().await?;
    let file = world.prosody.plugin().join("mod_cartulary_host.lua");
    let source = fs::read_to_string(&file)?;
    let gate = "gate.from_client)";
    ensure!(source.contains(gate), "the plugin's gate for clients is not where it was");
    let open = "function (handlers, name, event) if event.stanza:get_child(\"psst\") then return handlers(name, event); end return gate.from_client(handlers, name, event); end)";
    fs::write(&file, source.replace(gate, open))?;
    world.prosody.resume().await?;
    world.covered().await?;
    let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/desk").await?);
    for n in 0..10 {
        anna.message(ben.bare(), "chat", &format!("m-{n}"), "for everybody's eyes").await?;
    }
    // Nothing of it may stand in the queue behind a message that waits, for then it is asked about ahead.
    anna.settle().await?;
    for n in 0..3 {
        anna.raw(&format!("<message to='{}' type='chat' id='p-{n}'><body>between us</body><psst xmlns='jabber:client'/></message>", ben.bare())).await?;
        ben.answer_to(&format!("p-{n}")).await?;
        anna.settle().await?;
    }
    let (archive, sums) = counted(&mut world).await?;
    assert_eq!((sums.said, sums.recorded), (13, 10), "{sums:?}");
    assert_eq!(sums.said - accounted(&sums), 3, "{sums:?}");
    assert_eq!(archived(&archive), 10);
    let report = counts(&world.postgres).await?;
    let problems: Vec<_> = report.days.iter().flat_map(|day| &day.problems).collect();
    assert!(!report.is_equal && !problems.is_empty(), "{report:#?}");
    Ok(())
}
