//! The harness itself.
use anyhow::Result;
use cartulary_tests::client::Client;
use cartulary_tests::prosody::{DOMAIN, Extra, PASSWORD, Prosody};
use cartulary_tests::postgres::Postgres;

#[tokio::test]
async fn two_clients_talk() -> Result<()> {
    let dir = tempfile::Builder::new().prefix("cartulary-test-").permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755)).tempdir()?;
    let t = std::time::Instant::now();
    let p = Prosody::start(&dir.path().join("xmpp"), &["anna".into(), "ben".into()], Extra::Nothing).await?;
    eprintln!("prosody {:?}", t.elapsed());
    let a = Client::connect(p.address(), &format!("anna@{DOMAIN}/desk"), PASSWORD).await?;
    let b = Client::connect(p.address(), &format!("ben@{DOMAIN}/desk"), PASSWORD).await?;
    a.available().await?; b.available().await?;
    a.message(b.bare(), "chat", "m1", "hello & goodbye").await?;
    eprintln!("{:?}", b.answer_to("m1").await?);
    a.join("lobby@rooms.example.test", "anna").await?;
    b.join("lobby@rooms.example.test", "ben").await?;
    Client::register(p.address(), DOMAIN, "cleo", "x").await?;
    a.close().await?;
    eprintln!("talk {:?}", t.elapsed());
    let mut g = Postgres::start(&dir.path().join("pg")).await?;
    eprintln!("pg {:?}", t.elapsed());
    g.sql("postgres", "create table x(a int)").await?;
    for _ in 0..3 { g.kill()?; g.resume().await?;
    eprintln!("pg kill/resume {:?}", t.elapsed());
    }
    g.back_up("bak").await?;
    g.restore("bak").await?;
    eprintln!("pg {:?}", t.elapsed());
    Ok(())
}
