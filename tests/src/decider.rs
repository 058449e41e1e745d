//! A sidecar made of nothing but a socket: answers the plugin as a test wants, and keeps it waiting for as long.
//!
//! It records nothing. For what a real sidecar cannot be made to do: be slow for one message and quick for the next.

use crate::client::DEADLINE;
use crate::process::{repository, run};
use crate::prosody::{Prosody, Setup};
use anyhow::{Context, Result, anyhow};
use cartulary_compliance::link::{
    Action, AskAbout, Event, Frame, Notice, PROTOCOL, Settings, Subject, Unanswered, Verdict, Welcome,
};
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
    heard: Arc<Heard>,
    held: watch::Receiver<Vec<u64>>,
    says: mpsc::UnboundedSender<Frame>,
    task: JoinHandle<()>,
}

/// What is answered to a question at once; nothing where it shall wait.
pub type Script = Box<dyn Fn(&Event) -> Option<Verdict> + Send + Sync>;

#[derive(Debug, Default)]
struct Heard {
    asked: Mutex<Vec<Event>>,
    notices: Mutex<Vec<Notice>>,
}

/// The settings of a decider that asks about messages and these subjects, which are refused when nobody answers in a minute.
#[must_use]
pub fn asking_about(subjects: &[Subject]) -> Settings {
    let refuse = |subject: &Subject| AskAbout { subject: *subject, unanswered: Unanswered::Refuse };
    Settings {
        ask_about: subjects.iter().map(refuse).collect(),
        unanswered: Unanswered::Refuse,
        answer_timeout_ms: 60_000,
        max_waiting: 10_000,
        generation: 1,
    }
}

impl Decider {
    /// Starts a server of `setup` under `dir` whose plugin asks this. Messages that hold `keep` wait until they are let go, all
    /// others go on at once.
    pub async fn start(dir: &Path, setup: Setup, keep: &'static str) -> Result<(Self, Prosody)> {
        let script =
            move |event: &Event| (!event.stanza.contains(keep)).then(|| Verdict::unrecorded(Action::Deliver));
        Self::scripted(dir, setup, asking_about(&[]), Box::new(script)).await
    }

    /// Starts a server of `setup` under `dir` whose plugin asks this about what `settings` say, and is answered by `script`.
    pub async fn scripted(
        dir: &Path,
        setup: Setup,
        settings: Settings,
        script: Script,
    ) -> Result<(Self, Prosody)> {
        let (server, socket) = (dir.join("xmpp"), dir.join("decider.sock"));
        fs::create_dir_all(&server)?;
        // Copied, because the server's user may not be let into the repository.
        run(Command::new("cp").arg("-r").arg(repository().join("plugins/prosody")).arg(&server))?;
        let listener = UnixListener::bind(&socket)?;
        fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
        let heard = Arc::new(Heard::default());
        let (hold, held) = watch::channel(Vec::new());
        let (says, to_say) = mpsc::unbounded_channel();
        let decide = decide(listener, settings, script, heard.clone(), hold, to_say);
        let task = tokio::spawn(async move {
            // The end of the link is seen by the test as what does not come any more.
            let _ = decide.await;
        });
        let mut prosody = Prosody::prepare(&server, setup, Some(socket))?;
        prosody.resume().await?;
        crate::process::until("the plugin's word that it is linked", async || prosody.is_linked()).await?;
        Ok((Self { heard, held, says, task }, prosody))
    }

    /// Waits until this many stanzas wait.
    pub async fn holds(&self, count: usize) -> Result<()> {
        let mut held = self.held.clone();
        let enough = held.wait_for(|held| held.len() >= count);
        tokio::time::timeout(DEADLINE, enough)
            .await
            .map_err(|_| anyhow!("{count} stanzas were to be held, and are not: {:#?}", self.asked()))??;
        Ok(())
    }

    /// Lets everything go that waits.
    pub fn release(&self) -> Result<()> {
        self.answer(&Verdict::unrecorded(Action::Deliver))
    }

    /// Answers everything that waits.
    pub fn answer(&self, verdict: &Verdict) -> Result<()> {
        for id in self.held.borrow().iter() {
            self.say(Frame::Verdict(*id, verdict.clone()))?;
        }
        Ok(())
    }

    /// Sends any frame.
    pub fn say(&self, frame: Frame) -> Result<()> {
        self.says.send(frame).context("the link has ended")
    }

    /// What was asked, in its order.
    #[must_use]
    pub fn asked(&self) -> Vec<Event> {
        self.heard.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was asked about this subject.
    #[must_use]
    pub fn asked_about(&self, subject: Subject) -> Vec<Event> {
        self.asked().into_iter().filter(|event| event.subject == subject).collect()
    }

    /// What was told, in its order.
    #[must_use]
    pub fn notices(&self) -> Vec<Notice> {
        self.heard.notices.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for a notice of this name that is as wanted.
    pub async fn notice(&self, name: &str, wanted: impl Fn(&Notice) -> bool) -> Result<Notice> {
        let find = || self.notices().into_iter().find(|notice| notice.name == name && wanted(notice));
        crate::process::until(&format!("a notice {name}"), async || find().is_some())
            .await
            .with_context(|| format!("{:#?}", self.notices()))?;
        find().context("found")
    }
}

impl Drop for Decider {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn push<T>(list: &Mutex<Vec<T>>, item: T) {
    list.lock().unwrap_or_else(PoisonError::into_inner).push(item);
}

async fn decide(
    listener: UnixListener,
    settings: Settings,
    script: Script,
    heard: Arc<Heard>,
    hold: watch::Sender<Vec<u64>>,
    mut to_say: mpsc::UnboundedReceiver<Frame>,
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
                    send(&mut write, &Frame::Settings(settings.clone())).await?;
                }
                Frame::Event(id, event) => {
                    let answer = script(&event);
                    push(&heard.asked, event);
                    match answer {
                        _ if id == 0 => {}
                        Some(verdict) => send(&mut write, &Frame::Verdict(id, verdict)).await?,
                        None => hold.send_modify(|held| held.push(id)),
                    }
                }
                Frame::Notice(notice) => push(&heard.notices, notice),
                _ => {}
            },
            Some(frame) = to_say.recv() => {
                if let Frame::Verdict(id, _) = &frame {
                    hold.send_modify(|held| held.retain(|other| other != id));
                }
                send(&mut write, &frame).await?;
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
