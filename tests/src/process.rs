//! Child processes that never outlive the test: the kernel kills them with their parent, and dropping the handle does it at once.

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::client::DEADLINE;

/// A running child whose output goes to a file.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
    wraps: bool,
}

/// Who a program of the unpacked Debian runs as: `UID:GID`.
pub type User = &'static str;

/// The command that runs `program` out of the unpacked Debian root `root` (`prosody13`, `postgres15`). See `tests/cluster/in-root`.
#[must_use]
pub fn in_root(root: &str, user: User, program: &str) -> Command {
    let mut command = Command::new(repository().join("tests/cluster/in-root"));
    // Inside, because entering the root changes the user, and that would clear the signal.
    command.args(["-u", user, root, "setpriv", "--pdeathsig", "KILL", program]).current_dir("/tmp");
    command
}

/// The command that runs `program` of this machine.
#[must_use]
pub fn on_this_machine(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

/// The repository's folder.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from(".."), Path::to_path_buf)
}

/// Where things are kept that are slow to make.
#[must_use]
pub fn cache() -> PathBuf {
    let var = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let home = || var("HOME").map_or_else(std::env::temp_dir, |home| home.join(".cache"));
    var("CARTULARY_CACHE").unwrap_or_else(|| var("XDG_CACHE_HOME").unwrap_or_else(home).join("cartulary"))
}

/// A folder for a test, gone with it. Other users may enter: the servers in it do not run as root.
pub fn folder() -> Result<tempfile::TempDir> {
    let anybody = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    Ok(tempfile::Builder::new().prefix("cartulary-test-").permissions(anybody).tempdir_in("/tmp")?)
}

/// A port of 127.0.0.1 nobody listens on. Between this call and its use another may take it; callers that can, try again.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?.local_addr()?.port())
}

/// Runs a command to its end; its output is in the error if it fails, else returned.
pub fn run(command: &mut Command) -> Result<String> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {command:?}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if !output.status.success() {
        bail!("{command:?}: {}\n{}{}", output.status, text(&output.stdout), text(&output.stderr));
    }
    Ok(text(&output.stdout))
}

impl Process {
    /// Starts `command`; what it prints is appended to `log`.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let out = File::options().create(true).append(true).open(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self { child, name: name.to_owned(), log: log.to_owned(), wraps: false })
    }

    /// Says that it runs the program that is meant under it.
    #[must_use]
    pub fn wrapping(mut self, wraps: bool) -> Self {
        self.wraps = wraps;
        self
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The end of what it printed.
    #[must_use]
    pub fn tail(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(4000)..]).into_owned()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits until `ready` says so. That the process ends first is an error, and its output is told.
    pub async fn until(&mut self, what: &str, mut ready: impl AsyncFnMut() -> bool) -> Result<()> {
        let begin = Instant::now();
        while !ready().await {
            if let Some(status) = self.ended()? {
                bail!("{} ended before {what} ({status}):\n{}", self.name, self.tail());
            }
            if begin.elapsed() > DEADLINE {
                bail!("{}: {what} did not come within {DEADLINE:?}:\n{}", self.name, self.tail());
            }
            pause().await;
        }
        Ok(())
    }

    /// Sends a signal. One that runs another program under it, as a tracer does, has it sent to that.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let child = children_of(self.id()).first().copied().filter(|_| self.wraps);
        let pid = child
            .or_else(|| i32::try_from(self.id()).ok())
            .and_then(Pid::from_raw)
            .context("no process id")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Kills it with -9, and every process it had started; returns when it is gone.
    pub fn kill(&mut self) -> Result<()> {
        let children = children_of(self.id());
        self.child.kill()?;
        for child in children.into_iter().filter_map(Pid::from_raw) {
            // It may have gone with its parent.
            let _ = kill_process(child, Signal::KILL);
        }
        self.child.wait()?;
        Ok(())
    }

    /// Waits for it to end by itself, after it was told to.
    pub async fn wait(&mut self) -> Result<ExitStatus> {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if begin.elapsed() > DEADLINE {
                bail!("{} did not end within {DEADLINE:?}:\n{}", self.name, self.tail());
            }
            pause().await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// One turn of looking again at a condition nothing announces.
pub async fn pause() {
    tokio::time::sleep(Duration::from_millis(10)).await;
}

/// Waits until `condition` holds; `what` is for the error.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) -> Result<()> {
    let begin = Instant::now();
    while !condition().await {
        if begin.elapsed() > DEADLINE {
            bail!("{what} did not come within {DEADLINE:?}");
        }
        pause().await;
    }
    Ok(())
}

/// User and system time a process has used so far, in seconds.
#[must_use]
pub fn cpu_seconds(process: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // Field 2 is the name and may hold spaces; utime and stime are fields 14 and 15.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u32 =
        after_name.split_whitespace().skip(11).take(2).filter_map(|f| f.parse::<u32>().ok()).sum();
    f64::from(ticks) / 100.0
}

fn children_of(process: u32) -> Vec<i32> {
    let path = format!("/proc/{process}/task/{process}/children");
    let list = fs::read_to_string(path).unwrap_or_default();
    list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}
