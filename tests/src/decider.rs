//! A sidecar made of nothing but a socket: answers the plugin as a test wants, and keeps it waiting for as long.
//!
//! It records nothing. For what a real sidecar cannot be made to do: be slow for one message and quick for the next.

use crate::client::DEADLINE;
use crate::process::{repository, run};
use crate::prosody::{Prosody, Setup};
use anyhow::{Context, Result, anyhow};
use cartulary_compliance::link::{Action, Event, Frame, PROTOCOL, Settings, Unanswered, Verdict, Welcome};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// A socket that decides.
#[derive(Debug)]
pub struct Decider {
    asked: Arc<Mutex<Vec<Event>>>,
    held: watch::Receiver<Vec<u64>>,
    answers: mpsc::UnboundedSender<u64>,
    task: JoinHandle<()>,
}

impl Decider {
    /// Starts a server of `setup` under `dir` whose plugin asks this. Messages that hold `keep` wait until they are let go, all
    /// others go on at once.
    pub async fn start(dir: &Path, setup: Setup, keep: &'static str) -> Result<(Self, Prosody)> {
        let (server, socket) = (dir.join("xmpp"), dir.join("decider.sock"));
        fs::create_dir_all(&server)?;
        // Copied, because the server's user may not be let into the repository.
        run(Command::new("cp").arg("-r").arg(repository().join("plugins/prosody")).arg(&server))?;
        let listener = UnixListener::bind(&socket)?;
        fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (hold, held) = watch::channel(Vec::new());
        let (answers, to_answer) = mpsc::unbounded_channel();
        let decide = decide(listener, keep, asked.clone(), hold, to_answer);
        let task = tokio::spawn(async move {
            // The end of the link is seen by the test as what does not come any more.
            let _ = decide.await;
        });
        let mut prosody = Prosody::prepare(&server, setup, Some(socket))?;
        prosody.resume().await?;
        crate::process::until("the plugin's word that it is linked", async || prosody.is_linked()).await?;
        Ok((Self { asked, held, answers, task }, prosody))
    }

    /// Waits until this many messages wait.
    pub async fn holds(&self, count: usize) -> Result<()> {
        let mut held = self.held.clone();
        let enough = held.wait_for(|held| held.len() >= count);
        tokio::time::timeout(DEADLINE, enough)
            .await
            .map_err(|_| anyhow!("{count} messages were to be held, and are not: {:#?}", self.asked()))??;
        Ok(())
    }

    /// Lets everything go that waits.
    pub fn release(&self) -> Result<()> {
        for id in self.held.borrow().iter() {
            self.answers.send(*id).context("the link has ended")?;
        }
        Ok(())
    }

    /// What was asked, in its order.
    #[must_use]
    pub fn asked(&self) -> Vec<Event> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Decider {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn decide(
    listener: UnixListener,
    keep: &'static str,
    asked: Arc<Mutex<Vec<Event>>>,
    hold: watch::Sender<Vec<u64>>,
    mut to_answer: mpsc::UnboundedReceiver<u64>,
) -> Result<()> {
    let (stream, _) = listener.accept().await?;
    let (mut read, mut write) = UnixStream::into_split(stream);
    let mut unread = Vec::new();
    loop {
        tokio::select! {
            frame = next_frame(&mut read, &mut unread) => match frame? {
                Frame::Hello(_) => {
                    let welcome =
                        Welcome { protocol: PROTOCOL, refused: None, sidecar_version: "0".to_owned() };
                    send(&mut write, &Frame::Welcome(welcome)).await?;
                    let settings = Settings {
                        ask_about: Vec::new(),
                        unanswered: Unanswered::Refuse,
                        answer_timeout_ms: 60_000,
                        max_waiting: 10_000,
                        generation: 1,
                    };
                    send(&mut write, &Frame::Settings(settings)).await?;
                }
                Frame::Event(id, event) => {
                    let kept = event.stanza.contains(keep);
                    asked.lock().unwrap_or_else(PoisonError::into_inner).push(event);
                    if kept {
                        hold.send_modify(|held| held.push(id));
                    } else if id > 0 {
                        send(&mut write, &Frame::Verdict(id, Verdict::unrecorded(Action::Deliver))).await?;
                    }
                }
                _ => {}
            },
            Some(id) = to_answer.recv() => {
                hold.send_modify(|held| held.retain(|other| *other != id));
                send(&mut write, &Frame::Verdict(id, Verdict::unrecorded(Action::Deliver))).await?;
            }
        }
    }
}

async fn send(write: &mut OwnedWriteHalf, frame: &Frame) -> Result<()> {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    Ok(write.write_all(&bytes).await?)
}

// Cancelled, it loses nothing: what was read stays in `unread`.
async fn next_frame(read: &mut OwnedReadHalf, unread: &mut Vec<u8>) -> Result<Frame> {
    loop {
        if let Some(raw) = Frame::cut(unread)? {
            let (frame, taken) = (Frame::decode_payload(raw)?, raw.taken);
            unread.drain(..taken);
            if let Some(frame) = frame {
                return Ok(frame);
            }
            continue;
        }
        if read.read_buf(unread).await? == 0 {
            return Err(anyhow!("the plugin closed the link"));
        }
    }
}
