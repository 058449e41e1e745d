//! TLS from the first byte: whom the link trusts, under which name, and what it shows of itself (CS-5).

use super::*;
use cartulary_compliance::config::{ClientTls, Identity};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        Self::named("one")
    }

    fn named(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("signed").pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    fn sign(&self, name: &str, until: i32) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer).expect("signed").pem();
        Identity { certificate, key: key.serialize_pem() }
    }

    /// A server with a certificate of this name that ends then, and that wants to see one of this authority if `asks`.
    fn acceptor(&self, name: &str, until: i32, asks: bool) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("versions");
        let builder = if asks {
            let mut roots = RootCertStore::empty();
            roots
                .add(CertificateDer::from_pem_slice(self.pem.as_bytes()).expect("PEM"))
                .expect("an authority");
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
        } else {
            builder.with_no_client_auth()
        };
        let Identity { certificate, key } = self.sign(name, until);
        let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("PEM")];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
        TlsAcceptor::from(Arc::new(builder.with_single_cert(chain, key).expect("they fit")))
    }
}

fn trusting(authority: &Authority, name: Option<&str>) -> ClientTls {
    ClientTls { ca: Some(authority.pem.clone()), server_name: name.map(str::to_owned), identity: None }
}

fn with_tls(peer: &Peer, tls: ClientTls) -> Linked {
    Linked::to(ComplianceServer { tls: Some(tls), ..declared(peer.port()) })
}

#[tokio::test]
async fn cs_5_a_server_with_the_right_certificate_is_spoken_to_and_shown_ours_if_it_asks() {
    let authority = Authority::new();
    let identified = ClientTls {
        identity: Some(authority.sign("us", 2100)),
        ..trusting(&authority, Some("wall.example"))
    };
    let table = [
        // By the declared name, by the address where none is declared, and with a client certificate.
        ("wall.example", false, trusting(&authority, Some("wall.example"))),
        ("127.0.0.1", false, trusting(&authority, None)),
        ("wall.example", true, identified),
    ];
    for (name, asks, tls) in table {
        let peer = Peer::bind().await;
        let linked = with_tls(&peer, tls);
        let stream = authority.acceptor(name, 2100, asks).accept(peer.socket().await).await.expect("TLS");
        let mut line = Line::over(stream);
        line.greet().await;
        line.let_in().await;
        line.pong().await;
        linked.stands(Standing::InService).await;
        let asked = tokio::spawn(linked.servers.ask("wall", question(1, "a"), far()));
        let seen = line.question().await;
        line.pass(&seen).await;
        assert!(matches!(asked.await.expect("no panic"), crate::servers::Asked::Answered(_)));
    }
}

#[tokio::test]
async fn cs_5_a_certificate_that_is_not_right_is_refused_and_said_in_words() {
    let (authority, other) = (Authority::named("one"), Authority::named("another"));
    let named = || trusting(&authority, Some("wall.example"));
    let unfit = ClientTls { identity: Some(other.sign("us", 2100)), ..named() };
    let table = [
        (
            "for another name",
            authority.acceptor("else.example", 2100, false),
            named(),
            "is not for wall.example",
        ),
        (
            "for no address",
            authority.acceptor("wall.example", 2100, false),
            trusting(&authority, None),
            "is not for 127.0.0.1",
        ),
        ("expired", authority.acceptor("wall.example", 2001, false), named(), "has expired"),
        ("of another authority", other.acceptor("wall.example", 2100, false), named(), "not trusted"),
        ("none of ours", authority.acceptor("wall.example", 2100, true), named(), "client certificate"),
        ("a wrong one of ours", authority.acceptor("wall.example", 2100, true), unfit, "client certificate"),
    ];
    for (what, acceptor, tls, words) in table {
        let peer = Peer::bind().await;
        let linked = with_tls(&peer, tls);
        let accepting = async {
            if let Ok(stream) = acceptor.accept(peer.socket().await).await {
                Line::over(stream).rest().await;
            }
        };
        let (wall, ()) = futures::future::join(linked.fails_by(LinkCause::Tls), accepting).await;
        assert!(wall.message.contains(words), "{what}: {}", wall.message);
        assert!(wall.message.contains(&peer.address().to_string()), "{what}: {}", wall.message);
    }
}

#[tokio::test]
async fn cs_5_where_tls_is_declared_nothing_is_said_in_the_clear() {
    let authority = Authority::new();
    let peer = Peer::bind().await;
    let linked = with_tls(&peer, trusting(&authority, None));
    let mut line = peer.accept().await;
    line.more().await;
    line.shout(peer::HEADER).await;
    let wall = linked.fails_by(LinkCause::Tls).await;
    assert!(wall.message.contains("does not speak TLS"), "{}", wall.message);
    assert!(!line.rest().await.contains("stream"));
}

#[tokio::test]
async fn cs_5_a_declaration_that_cannot_be_used_says_what_is_wrong_and_no_secret() {
    let authority = Authority::new();
    let identity = authority.sign("us", 2100);
    let unfit = Identity { certificate: identity.certificate.clone(), key: authority.sign("us", 2100).key };
    let broken = Identity { certificate: identity.certificate, key: "secret-key".into() };
    let good = trusting(&authority, None);
    let table = [
        (ClientTls { ca: Some("none".into()), ..good.clone() }, "the CA cannot be read"),
        (ClientTls { server_name: Some("no name".into()), ..good.clone() }, "set tls.serverName"),
        (ClientTls { identity: Some(unfit), ..good.clone() }, "client certificate and key"),
        (ClientTls { identity: Some(broken), ..good }, "key cannot be read"),
    ];
    for (tls, words) in table {
        let peer = Peer::bind().await;
        let linked = with_tls(&peer, tls);
        let wall = linked.fails_by(LinkCause::Tls).await;
        assert!(wall.message.contains(words), "{words}: {}", wall.message);
        assert!(!wall.message.contains("secret-key"));
    }
}
