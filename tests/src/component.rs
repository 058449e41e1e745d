//! An external component (XEP-0114): a service outside the server that owns a domain of it.

use crate::client::{Client, open};
use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use minidom::Element;
use sha1::{Digest, Sha1};
use std::net::SocketAddr;
use tokio::io::AsyncWriteExt;
use tokio_xmpp::xmlstream::XmlStream;

const ACCEPT: &str = "jabber:component:accept";

impl Client {
    /// Logs in as the component `domain`. What it sends needs a `from` of that domain; without one the server takes the domain.
    pub async fn component(server: SocketAddr, domain: &str, secret: &str) -> Result<Self> {
        let (mut writer, stream) = open(server, ACCEPT, domain).await?;
        let id = stream.header().id.context("the server's header has no id")?.into_owned();
        let mut stream: XmlStream<_, Element> = stream.skip_features();
        let proof = Sha1::digest(format!("{id}{secret}"));
        let proof: String = proof.iter().map(|byte| format!("{byte:02x}")).collect();
        writer.write_all(format!("<handshake>{proof}</handshake>").as_bytes()).await?;
        let answer = stream.next().await.context("the server closed the stream")??;
        ensure!(answer.name() == "handshake", "refused as a component: {}", String::from(&answer));
        Ok(Self::on_stream(domain, writer, stream))
    }
}
