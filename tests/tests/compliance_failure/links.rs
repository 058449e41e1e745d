//! How a link comes up, and what is said when it does not.

use crate::patient;
use anyhow::{Context, Result, ensure};
use cartulary_compliance::config::{ComplianceServer, StreamNamespace};
use cartulary_compliance::events;
use cartulary_compliance::status::{LinkCause, LinkState};
use cartulary_tests::policy::tls::{Authority, SERVER_NAME};
use cartulary_tests::policy::{Answer, Manner, Policy, compliance, messages, profile};
use cartulary_tests::process::{free_port, until};
use cartulary_tests::world::World;

fn declare(world: &mut World, change: impl FnOnce(&mut ComplianceServer)) -> Result<()> {
    world.sidecar.configure(|c| {
        if let Some(server) = c.compliance.servers.get_mut("wall") {
            change(server);
        }
    })
}

#[tokio::test]
async fn cs_1_cs_2_a_link_goes_out_with_a_stable_name_in_either_namespace() -> Result<()> {
    let wall = Policy::start("wall").await?;
    wall.knows_only(&["op-wall.xmpp-0-eu"]);
    let asked = compliance(&[&wall], vec![profile("Wall", vec![messages(&events::ES_OUT)], &[&wall])]);
    let mut world = World::builder().node("xmpp-0.eu").asks(asked).start().await?;
    let status = world.sidecar.status().await?;
    let link = &status.compliance_servers["wall"];
    assert_eq!((link.component.as_str(), link.state), ("op-wall.xmpp-0-eu", LinkState::Active));
    assert_eq!((link.address.as_str(), link.counts.connected), (wall.address().to_string().as_str(), 1));
    declare(&mut world, |server| server.stream = StreamNamespace::Connect)?;
    wall.connected(2).await?;
    world.sidecar.in_force().await?;
    world.sidecar.serves(&["wall"]).await?;
    // The former stream was ended in order; a sidecar that ends does the same.
    assert_eq!(wall.ended(), 1);
    world.sidecar.stop().await?;
    until("the end of its stream", async || wall.ended() == 2).await?;
    world.sidecar.resume().await?;
    world.sidecar.serves(&["wall"]).await?;
    ensure!(wall.presented().iter().all(|name| name == "op-wall.xmpp-0-eu"), "{:?}", wall.presented());
    assert_eq!(wall.complaints(), [""; 0]);
    Ok(())
}

#[tokio::test]
async fn cs_2_the_component_name_is_made_of_server_and_node() -> Result<()> {
    let (wall, log) = (Policy::start("wall").await?, Policy::start("log-1").await?);
    let rules = || vec![messages(&events::ES_OUT)];
    let asked = compliance(
        &[&wall, &log],
        vec![profile("Wall", rules(), &[&wall]), profile("Log", rules(), &[&log])],
    );
    let world = World::builder().asks(asked).start().await?;
    assert_eq!(wall.presented(), ["op-wall.xmpp-0"]);
    assert_eq!(log.presented(), ["op-log-1.xmpp-0"]);
    let status = world.sidecar.status().await?;
    assert_eq!(status.compliance_servers["log-1"].component, "op-log-1.xmpp-0");
    Ok(())
}

#[tokio::test]
async fn cs_3_each_reason_why_a_link_is_not_in_service_is_told_apart() -> Result<()> {
    let wall = Policy::start("wall").await?;
    let mut asked = compliance(&[&wall], vec![profile("Wall", vec![messages(&events::ES_OUT)], &[&wall])]);
    if let Some(server) = asked.servers.get_mut("wall") {
        server.keepalive_seconds = 1;
    }
    let mut world = World::builder().asks(asked).start().await?;
    let status = world.sidecar.status().await?;
    assert_eq!(status.compliance_servers["wall"].state, LinkState::Active);

    let address = wall.address();
    let shut = free_port()?;
    type Change = Box<dyn FnOnce(&mut ComplianceServer)>;
    let declarations: [(LinkCause, Change, &str); 3] = [
        (LinkCause::WrongPassword, Box::new(|s| s.password = "wrong".to_owned()), "password"),
        (LinkCause::Refused, Box::new(move |s| s.port = shut), "127.0.0.1"),
        (LinkCause::UnknownHost, Box::new(|s| s.host = "nowhere.invalid".to_owned()), "nowhere.invalid"),
    ];
    for (cause, change, named) in declarations {
        declare(&mut world, change)?;
        let link = world.sidecar.without("wall", cause).await?;
        ensure!(link.message.contains(named) && !link.message.contains("wrong\""), "{cause:?}: {link:#?}");
        ensure!(link.state != LinkState::Active, "{link:#?}");
        let right = wall.declared();
        declare(&mut world, move |s| {
            *s = right;
            s.keepalive_seconds = 1;
        })?;
        world.sidecar.in_force().await?;
        world.sidecar.serves(&["wall"]).await?;
    }
    ensure!(address == wall.address(), "it did not move");

    wall.knows_only(&["op-other.xmpp-0"]);
    wall.break_links();
    let link = world.sidecar.without("wall", LinkCause::WrongName).await?;
    ensure!(link.message.contains("host-unknown") && link.component == "op-wall.xmpp-0", "{link:#?}");
    wall.knows_only(&["op-wall.xmpp-0"]);
    world.sidecar.serves(&["wall"]).await?;

    // ACTIVE and silent, silent from the beginning, and not the protocol at all.
    wall.behaves(Manner::Mute);
    world.sidecar.without("wall", LinkCause::NotAnswering).await?;
    // Another declaration is tried at once, however long it had failed before.
    let again = |world: &mut World| declare(world, |s| s.keepalive_seconds = 3 - s.keepalive_seconds);
    again(&mut world)?;
    let silent = |s: &cartulary_compliance::status::SidecarStatus| {
        let link = &s.compliance_servers["wall"];
        link.state != LinkState::Active && link.message.contains("handshake")
    };
    world.sidecar.until("a server that takes connections and says nothing", silent).await?;
    for greeting in [&b"HTTP/1.1 400 Bad Request\r\n\r\n<html>"[..], b"\x00\xff\xfe garbage", b"<a/>"] {
        wall.behaves(Manner::Greets(greeting.to_vec()));
        wall.break_links();
        again(&mut world)?;
        let link = world.sidecar.without("wall", LinkCause::Protocol).await?;
        ensure!(!link.message.is_empty(), "{link:#?}");
    }
    wall.behaves(Manner::Prompt);
    wall.break_links();
    again(&mut world)?;
    world.sidecar.in_force().await?;
    world.sidecar.serves(&["wall"]).await?;
    let metric = world.sidecar.metric("cartulary_compliance_server_in_service{server=\"wall\"}").await;
    ensure!(metric.as_ref().is_ok_and(|up| *up > 0.5), "{metric:?}");
    Ok(())
}

#[tokio::test]
async fn cs_5_a_link_is_protected_by_authority_name_and_a_certificate_of_its_own() -> Result<()> {
    let (authority, stranger) = (Authority::new()?, Authority::new()?);
    let wall = Policy::start("wall").await?;
    wall.protects(authority.server(SERVER_NAME, 2100)?);
    let mut asked = compliance(&[&wall], vec![profile("Wall", vec![messages(&events::ES_OUT)], &[&wall])]);
    if let Some(server) = asked.servers.get_mut("wall") {
        server.tls = Some(authority.client(true)?);
    }
    let mut world = World::builder().asks(asked).start().await?;
    let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/phone").await?);
    anna.message(ben.bare(), "chat", "m-1", "protected").await?;
    ben.answer_to("m-1").await?;
    wall.wait("the message", |seen| seen.stanza_id() == "m-1").await?;

    // The server's side changes: another name, another authority, a certificate that has expired.
    let wrong = [
        ("another name", authority.server("elsewhere.test", 2100)?, "name"),
        ("another authority", stranger.server(SERVER_NAME, 2100)?, ""),
        ("an expired certificate", authority.server(SERVER_NAME, 2001)?, "expired"),
    ];
    for (what, acceptor, named) in wrong {
        wall.protects(acceptor);
        wall.break_links();
        let link = world.sidecar.without("wall", LinkCause::Tls).await.context(what)?;
        ensure!(link.message.to_lowercase().contains(named), "{what}: {}", link.message);
        wall.protects(authority.server(SERVER_NAME, 2100)?);
        world.sidecar.serves(&["wall"]).await?;
    }
    // Ours: nobody without a certificate is let in, and a plain connection says nothing that is understood.
    let anonymous = authority.client(false)?;
    declare(&mut world, |s| s.tls = Some(anonymous))?;
    let link = world.sidecar.without("wall", LinkCause::Tls).await.context("no certificate")?;
    ensure!(link.message.to_lowercase().contains("certificate"), "{}", link.message);
    let right = authority.client(true)?;
    declare(&mut world, |s| s.tls = Some(right))?;
    world.sidecar.in_force().await?;
    world.sidecar.serves(&["wall"]).await?;
    anna.message(ben.bare(), "chat", "m-2", "protected again").await?;
    ben.answer_to("m-2").await?;
    assert_eq!(wall.complaints(), [""; 0]);
    Ok(())
}

#[tokio::test]
async fn cs_1_a_password_that_is_changed_while_connected_costs_a_reconnect_and_nothing_else() -> Result<()> {
    let wall = Policy::start("wall").await?;
    let asked = compliance(&[&wall], vec![profile("Wall", vec![messages(&events::ES_OUT)], &[&wall])]);
    let mut world = World::builder().asks(patient(asked)).start().await?;
    let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/phone").await?);
    wall.answers(|seen| if seen.connection == 0 { Answer::Hold } else { Answer::Pass });
    anna.message(ben.bare(), "chat", "m-1", "in flight").await?;
    wall.wait("the message", |seen| seen.stanza_id() == "m-1").await?;
    wall.wants_password("another one");
    declare(&mut world, |s| s.password = "another one".to_owned())?;
    ben.answer_to("m-1").await?;
    anna.message(ben.bare(), "chat", "m-2", "after").await?;
    ben.answer_to("m-2").await?;
    let asked = wall.about("m-1");
    ensure!(asked.len() == 2 && asked[0].id == asked[1].id, "{asked:#?}");
    let heard: Vec<_> = ben.messages().into_iter().map(|m| m.id).collect();
    assert_eq!(heard, ["m-1", "m-2"]);
    let status = world.sidecar.status().await?;
    assert_eq!((status.questions.passed, status.questions.stanzas), (2, 2));
    assert_eq!(status.compliance_servers["wall"].counts.connected, 2);
    Ok(())
}
