//! One connection of a test's compliance server.

use super::seen::{Answer, Seen};
use super::splitter::{Piece, Splitter, attribute};
use super::{Manner, Out, Shared, lock};
use anyhow::{Result, ensure};
use minidom::Element;
use sha1::{Digest, Sha1};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

const END: &str = "</stream:stream>";

/// Speaks with whoever connected until one of both ends it.
pub(super) async fn serve(socket: TcpStream, number: usize, shared: Arc<Shared>) {
    // Whoever breaks a connection here means a reset, as from a machine that has crashed and is back.
    let _ = (socket.set_nodelay(true), socket.set_zero_linger());
    let (outlet, orders) = mpsc::unbounded_channel();
    lock(&shared.links).insert(number, outlet);
    let tls = lock(&shared.settings).tls.clone();
    let met = match tls {
        None => converse(socket, number, &shared, orders).await,
        Some(acceptor) => match acceptor.accept(socket).await {
            Ok(stream) => converse(stream, number, &shared, orders).await,
            // Tests look at what the other side says of it.
            Err(_) => Ok(()),
        },
    };
    lock(&shared.links).remove(&number);
    if let Err(error) = met {
        lock(&shared.complaints).push(format!("{error:#}"));
    }
}

/// The state of one connection.
struct Connection<W> {
    writer: W,
    number: usize,
    id: String,
    active: bool,
}

// What a read or a write fails with is the end of a connection, as ever; an error is what breaks the protocol.
async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    number: usize,
    shared: &Shared,
    mut orders: mpsc::UnboundedReceiver<Out>,
) -> Result<()> {
    let (mut reader, writer) = tokio::io::split(stream);
    let id = uuid::Uuid::new_v4().simple().to_string();
    let mut connection = Connection { writer, number, id, active: false };
    let mut manner = shared.manner.subscribe();
    let greeting = manner.borrow_and_update().clone();
    if let Manner::Greets(bytes) = greeting {
        connection.write_bytes(&bytes).await;
    }
    let mut pieces = Splitter::default();
    loop {
        let deaf = *manner.borrow_and_update() == Manner::Deaf;
        tokio::select! {
            order = orders.recv() => {
                match order {
                    Some(Out::Text(text)) => connection.write(&text).await,
                    Some(Out::End) => {
                        connection.write(END).await;
                        return connection.close(&mut reader).await;
                    }
                    Some(Out::Break) | None => return Ok(()),
                }
            }
            read = reader.read_buf(pieces.room()), if !deaf => {
                if !matches!(read, Ok(count) if count > 0) {
                    return Ok(());
                }
                while let Some(piece) = pieces.next()? {
                    if !connection.take(piece, shared).await? {
                        return connection.close(&mut reader).await;
                    }
                }
            }
            _ = manner.changed() => {}
        }
    }
}

impl<W: AsyncWrite + Unpin> Connection<W> {
    /// Whether the connection goes on.
    async fn take(&mut self, piece: Piece, shared: &Shared) -> Result<bool> {
        if let Piece::End = piece {
            shared.ended.send_modify(|count| *count += 1);
            self.write(END).await;
            return Ok(false);
        }
        let manner = shared.manner.borrow().clone();
        let prompt = matches!(manner, Manner::Prompt | Manner::Slow);
        match piece {
            Piece::Header(tag) => self.greet(&tag, prompt, shared).await,
            Piece::Stanza(stanza) if !self.active => self.handshake(&stanza, prompt, shared).await,
            Piece::Stanza(stanza) => self.hear(&stanza, &manner, shared).await,
            Piece::End => Ok(false),
        }
    }

    async fn greet(&mut self, tag: &str, prompt: bool, shared: &Shared) -> Result<bool> {
        let (namespace, to) = (attribute(tag, "xmlns"), attribute(tag, "to"));
        let (Some(namespace), Some(to)) = (namespace, to) else {
            anyhow::bail!("a header without namespace or name: {tag}");
        };
        ensure!(namespace.starts_with("jabber:component:"), "the stream's namespace is {namespace}");
        lock(&shared.presented).push(to.clone());
        if !prompt {
            return Ok(true);
        }
        let header = format!(
            "<?xml version='1.0'?><stream:stream xmlns='{namespace}' xmlns:stream='http://etherx.jabber.org/streams' \
             from='{to}' id='{}'>",
            self.id
        );
        let known = lock(&shared.settings).components.as_ref().is_none_or(|names| names.contains(&to));
        self.write(&header).await;
        if !known {
            self.stream_error("host-unknown").await;
        }
        Ok(known)
    }

    async fn handshake(&mut self, stanza: &Element, prompt: bool, shared: &Shared) -> Result<bool> {
        ensure!(stanza.name() == "handshake", "{} before the handshake", stanza.name());
        if !prompt {
            return Ok(true);
        }
        let proof = {
            let settings = lock(&shared.settings);
            Sha1::digest(format!("{}{}", self.id, settings.password))
        };
        let proof: String = proof.iter().map(|byte| format!("{byte:02x}")).collect();
        if stanza.text() != proof {
            self.stream_error("not-authorized").await;
            return Ok(false);
        }
        self.active = true;
        self.write("<handshake/>").await;
        Ok(true)
    }

    async fn hear(&mut self, stanza: &Element, manner: &Manner, shared: &Shared) -> Result<bool> {
        let Some(seen) = Seen::read(stanza, self.number)? else {
            return self.answer_other(stanza, manner).await;
        };
        let script = lock(&shared.settings).script.clone();
        lock(&shared.seen).push(seen.clone());
        let answer = match manner {
            Manner::Prompt => script(&seen),
            _ => Answer::Hold,
        };
        if answer == Answer::Hold && seen.is_awaited() {
            lock(&shared.held).push(seen.clone());
        }
        shared.count.send_modify(|count| *count += 1);
        if let Some(xml) = answer.to_xml(&seen) {
            self.write(&xml).await;
        }
        Ok(true)
    }

    async fn answer_other(&mut self, stanza: &Element, manner: &Manner) -> Result<bool> {
        if stanza.name() == "error" {
            // The other side says why it ends the stream; what follows is the end.
            return Ok(true);
        }
        ensure!(
            stanza.name() == "iq" && stanza.get_child("ping", "urn:xmpp:ping").is_some(),
            "neither an event nor a ping: {:.500}",
            String::from(stanza)
        );
        if !matches!(manner, Manner::Prompt | Manner::Slow) {
            return Ok(true);
        }
        let attr = |name| stanza.attr(name).unwrap_or_default();
        let (id, from, to) = (attr("id"), attr("to"), attr("from"));
        self.write(&format!("<iq type='result' id='{id}' from='{from}' to='{to}'/>")).await;
        Ok(true)
    }

    async fn stream_error(&mut self, condition: &str) {
        let error = format!(
            "<stream:error><{condition} xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>{END}"
        );
        self.write(&error).await;
    }

    async fn write(&mut self, text: &str) {
        self.write_bytes(text.as_bytes()).await;
    }

    // One that cannot be written to cannot be read from either, which ends it.
    async fn write_bytes(&mut self, bytes: &[u8]) {
        let _ = self.writer.write_all(bytes).await;
        let _ = self.writer.flush().await;
    }

    // In order: a connection that ended in a reset would take with it what was not read yet.
    async fn close(&mut self, reader: &mut (impl AsyncRead + Unpin)) -> Result<()> {
        let _ = self.writer.shutdown().await;
        let mut sink = tokio::io::sink();
        let _ = tokio::time::timeout(crate::client::DEADLINE, tokio::io::copy(reader, &mut sink)).await;
        Ok(())
    }
}
