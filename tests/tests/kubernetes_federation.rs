//! Two recorded servers in one cluster that federate over TLS, found by the cluster's DNS, each with an archive of its own: both
//! hold whole conversations, also when one side's database was away meanwhile.

use anyhow::{Result, ensure};
use cartulary_archive::record::Accepted;
use cartulary_compliance::link::Ingress;
use cartulary_tests::client::Client;
use cartulary_tests::kubernetes::Cluster;
use cartulary_tests::oracle::text_of;
use cartulary_tests::transcript::{Kind, Said, Transcript};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair};
use std::collections::BTreeMap;
use std::net::SocketAddr;

const NORTH: &str = "north";
const SOUTH: &str = "south";

fn host(side: &str) -> String {
    format!("chat.{side}.svc.cluster.local")
}

// A certificate whose name is its issuer's would be taken for one that signed itself.
fn named(name: &str) -> DistinguishedName {
    let mut named = DistinguishedName::new();
    named.push(DnType::CommonName, name);
    named
}

fn rooms(side: &str) -> String {
    format!("rooms.{side}.svc.cluster.local")
}

// Names are those of Services, so that servers find each other as pods find anything.
fn declare(cluster: &Cluster, side: &str, issuer: &Issuer<'_, KeyPair>, authority: &str) -> Result<()> {
    let key = KeyPair::generate()?;
    let mut certificate = CertificateParams::new(vec![host(side), rooms(side)])?;
    certificate.distinguished_name = named(&host(side));
    let certificate = certificate.signed_by(&key, issuer)?;
    let config = format!(
        r#"modules_enabled = {{ "roster"; "saslauth"; "tls"; "disco"; "ping"; "register"; "offline"; "dialback" }}
log = {{ info = "*console" }}
pidfile = "/run/prosody/prosody.pid"
storage = "internal"
authentication = "internal_hashed"
allow_registration = true
c2s_require_encryption = false
s2s_require_encryption = true
s2s_secure_auth = true
ssl = {{ certificate = "/etc/prosody/tls/tls.crt", key = "/etc/prosody/tls/tls.key", cafile = "/etc/prosody/tls/ca.crt" }}
VirtualHost "{}"
Component "{}" "muc"
	restrict_room_creation = false
"#,
        host(side),
        rooms(side)
    );
    let services: Vec<_> = ["chat", "rooms"]
        .map(|name| {
            format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  selector: {{app: prosody}}\n  \
                 ports: [{{name: c2s, port: 5222}}, {{name: s2s, port: 5269}}]\n"
            )
        })
        .into();
    let lines = format!(
        r"namespace: {side}
generatorOptions: {{disableNameSuffixHash: true}}
configMapGenerator: [{{name: prosody, behavior: replace, files: [prosody.cfg.lua]}}]
secretGenerator: [{{name: prosody-tls, files: [tls.crt, tls.key, ca.crt]}}]
patches:
  - target: {{kind: StatefulSet, name: prosody}}
    patch: |-
      - {{op: add, path: /spec/template/spec/volumes/-, value: {{name: tls, secret: {{secretName: prosody-tls}}}}}}
      - {{op: add, path: /spec/template/spec/containers/0/volumeMounts/-, value: {{name: tls, mountPath: /etc/prosody/tls}}}}
"
    );
    let files = [
        ("prosody.cfg.lua", config.as_str()),
        ("tls.crt", &certificate.pem()),
        ("tls.key", &key.serialize_pem()),
        ("ca.crt", authority),
    ];
    cluster.apply_example_with("postgresql", &lines, &files)?;
    for service in services {
        cluster.apply_in(side, &service)?;
    }
    Ok(())
}

async fn login(cluster: &Cluster, side: &str, user: &str) -> Result<Client> {
    cluster.xmpp(side, "prosody-0")?;
    let server: SocketAddr = format!("{}:5222", cluster.service_address(side, "chat")?).parse()?;
    Client::register(server, &host(side), user, "secret").await?;
    let client = Client::connect(server, &format!("{user}@{}/desk", host(side)), "secret").await?;
    client.available().await?;
    Ok(client)
}

#[tokio::test(flavor = "multi_thread")]
async fn ma_1_federated_conversations_are_whole_in_both_archives_though_one_was_away() -> Result<()> {
    let cluster = Cluster::with_product("e2e-federation")?;
    let authority_key = KeyPair::generate()?;
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.distinguished_name = named("authority of the tests");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = authority.self_signed(&authority_key)?.pem();
    let issuer = Issuer::new(authority, authority_key);
    for side in [NORTH, SOUTH] {
        declare(&cluster, side, &issuer, &certificate)?;
    }
    for side in [NORTH, SOUTH] {
        cluster.wait_condition(side, "xmppcluster/chat", "Ready", "True", "AsDeclared")?;
    }
    let (anna, cleo) = (login(&cluster, NORTH, "anna").await?, login(&cluster, SOUTH, "cleo").await?);
    let room = format!("lobby@{}", rooms(NORTH));
    anna.join(&room, "anna").await?;
    cleo.join(&room, "cleo").await?;

    let mut transcript = Transcript::default();
    converse(&anna, &cleo, &room, &mut transcript).await?;
    cluster.kubectl(&["-n", SOUTH, "scale", "statefulset/postgres", "--replicas=0"])?;
    cluster.wait_condition(SOUTH, "archiveendpoint/archive", "Reachable", "False", "Unreachable")?;
    cluster.wait_condition(NORTH, "archiveendpoint/archive", "Reachable", "True", "Connected")?;
    converse(&anna, &cleo, &room, &mut transcript).await?;
    cluster.kubectl(&["-n", SOUTH, "scale", "statefulset/postgres", "--replicas=1"])?;
    cluster.wait_condition(SOUTH, "archiveendpoint/archive", "Reachable", "True", "Connected")?;
    converse(&anna, &cleo, &room, &mut transcript).await?;
    transcript.hear(&anna);
    transcript.hear(&cleo);
    ensure!(transcript.refused.is_empty(), "refused: {:?}", transcript.refused);

    for side in [NORTH, SOUTH] {
        cluster.drained(side, 1)?;
        whole(&cluster, side, &transcript.said).await?;
        let (code, printed) = cluster.cartulary_as_reader(side, "verify", &[])?;
        ensure!(code == 0, "{side}: cartulary verify ends with {code}:\n{printed}");
    }
    Ok(())
}

// Both say something to each other and to the room, and have heard all of it at the end.
async fn converse(anna: &Client, cleo: &Client, room: &str, transcript: &mut Transcript) -> Result<()> {
    for n in 0..10 {
        for (from, to) in [(anna, cleo), (cleo, anna)] {
            let text = format!("{n}: שלום from {}", from.jid());
            let id = transcript.say(from, Kind::OneToOne, to.bare(), &text).await?;
            to.answer_to(&id).await?;
            let id = transcript.say(from, Kind::Room, room, &text).await?;
            from.answer_to(&id).await?;
            to.answer_to(&id).await?;
        }
    }
    Ok(())
}

// The archive of a side holds every message once for each way in: that of its own client, and that of the other server, over which
// what its people said in a foreign room comes back to them.
async fn whole(cluster: &Cluster, side: &str, said: &[Said]) -> Result<()> {
    let archive = cluster.archive(side).await?;
    let mut found = BTreeMap::<&str, Vec<(&Accepted, String)>>::new();
    for (record, accepted) in archive.accepted() {
        found
            .entry(accepted.stanza_id.as_deref().unwrap_or_default())
            .or_default()
            .push((accepted, text_of(record)?));
    }
    for said in said {
        let records = found.remove(said.id.as_str()).unwrap_or_default();
        let ways = |ingress: Ingress| records.iter().filter(|(a, _)| a.ingress == ingress).count();
        let ours = said.from.contains(&host(side));
        let echo = side == SOUTH && said.kind == Kind::Room;
        let expected = (usize::from(ours), usize::from(!ours || echo));
        ensure!(
            (ways(Ingress::Client), ways(Ingress::RemoteServer)) == expected
                && records.len() == expected.0 + expected.1,
            "{side}: {said:?} should be there {expected:?} times (by client, by server): {records:#?}"
        );
        ensure!(records.iter().all(|(_, text)| *text == said.text), "{side}: {said:?}: {records:#?}");
    }
    // A room tells its subject to whoever enters: a message on record, without a text.
    found.retain(|_, records| records.iter().any(|(_, text)| !text.is_empty()));
    ensure!(found.is_empty(), "{side}: nobody said {:?}", found.keys());
    Ok(())
}
