//! From nothing to a link in service, and each way to fail (CS-1, CS-2, CS-3).

use super::peer::{HEADER, attribute};
use super::*;
use cartulary_compliance::status::LinkState;
use tokio::net::{TcpSocket, TcpStream};

#[tokio::test]
async fn cs_1_the_link_goes_out_over_either_namespace_and_address_family() {
    for (host, bound, stream) in [
        ("127.0.0.1", "127.0.0.1:0", StreamNamespace::Accept),
        ("localhost", "127.0.0.1:0", StreamNamespace::Connect),
        ("::1", "[::1]:0", StreamNamespace::Accept),
        ("[::1]", "[::1]:0", StreamNamespace::Connect),
    ] {
        let peer = Peer::at(bound).await;
        let linked = Linked::to(ComplianceServer { host: host.into(), stream, ..declared(peer.port()) });
        let mut line = peer.accept().await;
        let header = line.greet().await;
        assert!(header.contains(&format!("xmlns='{}'", stream.uri())), "{header}");
        // XEP-0114's header has no version: servers would send features after one that has.
        assert!(!header.contains("'1.0'>") && !header.contains(" version='1.0' "), "{header}");
        line.let_in().await;
        line.pong().await;
        linked.stands(Standing::InService).await;
        let shown = linked.wall().address;
        assert!(shown.ends_with(&format!(":{}", peer.port())) && !shown.contains("[["), "{shown}");
    }
}

#[tokio::test]
async fn cs_2_the_component_name_is_made_of_server_and_node_and_shown() {
    let peer = Peer::bind().await;
    let linked = Linked::to(declared(peer.port()));
    let header = peer.accept().await.greet().await;
    assert_eq!(attribute(&header, "<stream:stream", "to"), "op-wall.prosody-0-eu");
    assert_eq!(linked.wall().component, "op-wall.prosody-0-eu");
}

#[tokio::test]
async fn cs_3_connected_active_and_in_service_are_told_apart() {
    let peer = Peer::bind().await;
    let linked = Linked::to(declared(peer.port()));
    let mut line = peer.accept().await;
    linked.counts("CONNECTED", |wall| wall.state == LinkState::Connected).await;
    line.greet().await;
    line.let_in().await;
    linked.counts("ACTIVE", |wall| wall.state == LinkState::Active).await;
    let id = line.ping().await;
    assert!(!linked.wall().in_service && linked.wall().queueing);
    // Any answer serves, an error too.
    line.say(&format!("<iq type='error' id='{id}'><error type='cancel'/></iq>")).await;
    linked.stands(Standing::InService).await;
    assert_eq!(linked.wall().counts.connected, 1);
    drop(line);
    linked.counts("GONE", |wall| wall.state == LinkState::Gone && !wall.in_service).await;
    assert_eq!(linked.wall().counts.lost, 1);
}

/// Says this after the handshake, or in place of a header where it says so.
async fn says(peer: &Peer, instead_of_a_header: bool, text: &str) {
    let mut line = peer.accept().await;
    if instead_of_a_header {
        line.until(">").await;
    } else {
        line.greet().await;
        line.until("</handshake>").await;
    }
    line.shout(text).await;
    // What is refused is read to its end, so that no reset overtakes it.
    line.rest().await;
}

#[tokio::test]
async fn cs_3_each_way_to_fail_has_its_cause_and_says_where() {
    let error = |condition: &str| {
        format!(
            "<stream:error><{condition} xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>"
        )
    };
    let table = [
        (LinkCause::WrongPassword, false, error("not-authorized")),
        (LinkCause::WrongName, false, error("host-unknown")),
        (LinkCause::WrongName, true, format!("{HEADER}{}", error("host-unknown"))),
        (LinkCause::Closed, false, error("system-shutdown")),
        (LinkCause::Closed, false, "</stream:stream>".to_owned()),
        (LinkCause::Protocol, false, error("conflict")),
        (LinkCause::Protocol, false, "<iq/>".to_owned()),
        (LinkCause::Protocol, false, "<handshake xmlns='else'/>".to_owned()),
        (LinkCause::Protocol, true, "HTTP/1.1 400 Bad Request\r\n\r\n".to_owned()),
        (LinkCause::Protocol, true, "<html>".to_owned()),
    ];
    for (cause, instead, text) in table {
        let peer = Peer::bind().await;
        let linked = Linked::to(declared(peer.port()));
        let speaking = says(&peer, instead, &text);
        let (status, ()) = futures::future::join(linked.fails_by(cause), speaking).await;
        assert!(status.message.contains(&peer.address().to_string()), "{text}: {}", status.message);
        assert!(!status.in_service, "{text}");
    }
}

#[tokio::test]
async fn cs_3_what_cannot_be_reached_is_told_apart_from_what_refuses_us() {
    let refused = Peer::bind().await.port();
    let linked = Linked::to(declared(refused));
    let status = linked.fails_by(LinkCause::Refused).await;
    assert!(status.message.contains(&format!("127.0.0.1:{refused}")), "{}", status.message);
    assert!(status.message.contains("os error 111"), "{}", status.message);
    assert_eq!(status.state, LinkState::Gone);

    let linked = Linked::to(ComplianceServer { host: "nobody.invalid".into(), ..declared(5275) });
    let status = linked.fails_by(LinkCause::UnknownHost).await;
    assert!(status.message.contains("nobody.invalid:5275"), "{}", status.message);

    // A socket whose backlog is full answers nobody.
    let full = TcpSocket::new_v4().expect("a socket");
    full.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let listener = full.listen(1).expect("listening");
    let address = listener.local_addr().expect("bound");
    let _held = futures::future::join_all((0..4).map(|_| async move {
        tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await
    }))
    .await;
    let linked = Linked::to(ComplianceServer { keepalive_seconds: 1, ..declared(address.port()) });
    let status = linked.fails_by(LinkCause::TimedOut).await;
    assert!(status.message.contains(&address.to_string()), "{}", status.message);

    let mute = Peer::bind().await;
    let linked = Linked::to(ComplianceServer { keepalive_seconds: 1, ..declared(mute.port()) });
    let _line = mute.accept().await;
    linked.fails_by(LinkCause::NotAnswering).await;

    let broken = Peer::bind().await;
    let linked = Linked::to(declared(broken.port()));
    drop(broken.accept().await);
    linked.fails_by(LinkCause::Lost).await;
}

#[tokio::test]
async fn one_that_is_away_is_tried_again_until_it_is_there() {
    let peer = Peer::bind().await;
    let linked = Linked::to(declared(peer.port()));
    for _ in 0..3 {
        drop(peer.accept().await);
    }
    let _line = peer.serve().await;
    linked.stands(Standing::InService).await;
}

#[tokio::test]
async fn only_servers_that_profiles_of_this_node_use_are_linked_and_unchanged_ones_stay() {
    let (used, elsewhere, idle) = (Peer::bind().await, Peer::bind().await, Peer::bind().await);
    let mut config = config(&[("wall", declared(used.port()))]);
    let elsewhere_only = Profile {
        name: "Elsewhere".into(),
        events: system_default(),
        servers: vec!["elsewhere".into()],
        nodes: Some(vec!["prosody-1".into()]),
    };
    config.compliance.profiles.push(elsewhere_only);
    config.compliance.servers.insert("elsewhere".into(), declared(elsewhere.port()));
    config.compliance.servers.insert("idle".into(), declared(idle.port()));
    let linked = Linked::start(config.clone());
    let _line = used.serve().await;
    linked.stands(Standing::InService).await;
    assert!(elsewhere.is_alone().await && idle.is_alone().await);
    assert_eq!(linked.servers.standing("idle"), Standing::Out);

    // It is used now; the other link is not touched.
    config.compliance.profiles[0].servers.push("idle".into());
    linked.config.send_replace(in_force(config.clone()));
    let mut second = idle.serve().await;
    until("the second link", || linked.servers.standing("idle") == Standing::InService).await;
    assert_eq!(linked.wall().counts.connected, 1);

    // It is used no longer: its stream ends in order.
    config.compliance.profiles[0].servers.pop();
    linked.config.send_replace(in_force(config));
    assert!(second.rest().await.ends_with("</stream:stream>"));
    until("it is unknown", || linked.servers.standing("idle") == Standing::Out).await;
    assert!(linked.wall().in_service);
}

#[tokio::test]
async fn a_password_may_change_while_questions_wait_and_nothing_is_lost() {
    let (linked, peer, mut line) = Linked::in_service().await;
    let asked = tokio::spawn(linked.servers.ask("wall", question(1, "a"), far()));
    let first = line.question().await;
    let rotated = ComplianceServer { password: "another".into(), ..declared(peer.port()) };
    linked.config.send_replace(in_force(config(&[("wall", rotated)])));
    assert!(line.rest().await.ends_with("</stream:stream>"));
    drop(line);
    let mut line = peer.accept().await;
    line.greet().await;
    let handshake = line.until("</handshake>").await;
    let right = {
        use sha1::Digest as _;
        hex::encode(sha1::Sha1::digest("3BF96D32another"))
    };
    assert!(handshake.contains(&right), "{handshake}");
    line.say("<handshake/>").await;
    line.pong().await;
    let again = line.question().await;
    assert_eq!(again.event, first.event);
    line.pass(&again).await;
    assert!(matches!(asked.await.expect("no panic"), crate::servers::Asked::Answered(_)));
    assert_eq!(linked.wall().cause, Some(LinkCause::Reconfigured));
}

#[tokio::test]
async fn a_sidecar_that_stops_ends_its_streams_in_order() {
    let (linked, _peer, mut line) = Linked::in_service().await;
    linked.stop.cancel();
    assert!(line.rest().await.ends_with("</stream:stream>"));
    drop(line);
    linked.task.await.expect("no panic");
}
