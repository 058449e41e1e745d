//! The harness itself: that clients and servers do what the other suites take for granted, without anything of ours in between.

use anyhow::Result;
use cartulary_tests::prosody::{DOMAIN, PASSWORD, Prosody, ROOMS};
use cartulary_tests::talk::{Talk, talk};
use std::time::Duration;

#[tokio::test]
async fn a_bare_server_delivers_everything_that_is_said() -> Result<()> {
    let dir = cartulary_tests::process::folder()?;
    let users = ["anna", "ben", "cleo"];
    let prosody = Prosody::bare(&dir.path().join("xmpp"), &["anna".to_owned()], "").await?;
    let options = Talk {
        server: prosody.address(),
        domain: DOMAIN.to_owned(),
        rooms: ROOMS.to_owned(),
        users: users.map(|user| (user.to_owned(), PASSWORD.to_owned())).to_vec(),
        walled: None,
        register: true,
        messages: 120,
        pace: Duration::ZERO,
    };
    let transcript = talk(&options, |_| ()).await?;
    assert_eq!(transcript.said.len(), 120);
    assert_eq!(transcript.delivered().len(), 120);
    assert!(transcript.refused.is_empty(), "{:?}", transcript.refused);
    Ok(())
}
