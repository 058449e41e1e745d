//! What is declared changes, or cannot be taken.

use crate::{database, endpoint_says, say};
use anyhow::Result;
use cartulary_compliance::config::EndpointTarget;
use cartulary_compliance::names::reason;
use cartulary_tests::oracle::{Archive, create_database, everything_is_archived_once};
use cartulary_tests::transcript::{Kind, Transcript};
use cartulary_tests::world::{ENDPOINT, WRITER, World};

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
