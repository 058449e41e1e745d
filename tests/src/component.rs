//! An external component (XEP-0114): a service outside the server that owns a domain of it.

use crate::client::{Client, header};
use anyhow::{Context, Result, bail, ensure};
use futures::StreamExt;
use minidom::Element;
use sha1::{Digest, Sha1};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream};
use tokio::net::TcpStream;
use tokio_xmpp::xmlstream::{Timeouts, XmlStream, initiate_stream};

const ACCEPT: &str = "jabber:component:accept";

impl Client {
    /// Logs in as the component `domain`. What it sends needs a `from` of that domain.
    pub async fn component(server: SocketAddr, domain: &str, secret: &str) -> Result<Self> {
        let socket =
            TcpStream::connect(server).await.with_context(|| format!("no XMPP server at {server}"))?;
        socket.set_nodelay(true)?;
        let socket = socket.into_std()?;
        let mut writer = TcpStream::from_std(socket.try_clone()?)?;
        let (near, far) = tokio::io::duplex(1 << 16);
        // Its end is the end of the stream, which the reader sees.
        tokio::spawn(relay(TcpStream::from_std(socket)?, far));
        let stream =
            initiate_stream(BufReader::new(near), ACCEPT, header(domain), Timeouts::default()).await?;
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

// A component's stream has no version (XEP-0114, 3), and tokio-xmpp's reader of streams wants one: it is put into the header here.
async fn relay(mut socket: TcpStream, mut reader: DuplexStream) -> Result<()> {
    const TAG: &str = "<stream:stream";
    let mut ours = [0; 1024];
    let length = reader.read(&mut ours).await?;
    socket.write_all(&ours[..length]).await?;
    let mut theirs = Vec::new();
    let end = loop {
        if socket.read_buf(&mut theirs).await? == 0 {
            bail!("the server closed the stream");
        }
        let text = String::from_utf8_lossy(&theirs);
        if let Some(at) = text.find(TAG)
            && text[at..].contains('>')
        {
            break at + TAG.len();
        }
    };
    reader.write_all(&theirs[..end]).await?;
    reader.write_all(b" version='1.0'").await?;
    reader.write_all(&theirs[end..]).await?;
    tokio::io::copy_bidirectional(&mut socket, &mut reader).await?;
    Ok(())
}
