//! Prosody 13 as a user would run it, in a folder of its own, with our plugin loaded the way injection loads it: by environment
//! variables, the user's configuration untouched.

use crate::process::{Process, User, free_port, in_root, run};
use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use tokio::net::TcpStream;

/// The virtual host.
pub const DOMAIN: &str = "example.test";
/// The room service.
pub const ROOMS: &str = "rooms.example.test";
/// Every user's password.
pub const PASSWORD: &str = "open sesame";
/// The most bytes a client's stanza may have; small enough that tests at the limit are quick.
pub const STANZA_LIMIT: usize = 256 * 1024;
// Group 0, because the sidecar of a test runs as root and lets its group at the socket, as a pod's fsGroup does.
const USER: User = "101:0";

/// A Prosody, running or not.
#[derive(Debug)]
pub struct Prosody {
    dir: PathBuf,
    port: u16,
    link: Option<PathBuf>,
    lines: String,
    process: Option<Process>,
}

impl Prosody {
    /// Makes its folder `dir` with accounts for `users`. With a `link` it loads our plugin, which a sidecar has put into the same
    /// folder, and which asks the sidecar at that socket; without one it is bare. `lines` are put into its configuration before the hosts.
    pub fn prepare(dir: &Path, users: &[String], link: Option<PathBuf>, lines: &str) -> Result<Self> {
        let accounts = dir.join("data").join(DOMAIN.replace('.', "%2e")).join("accounts");
        fs::create_dir_all(&accounts)?;
        for user in users {
            fs::write(
                accounts.join(format!("{user}.dat")),
                format!("return {{ [\"password\"] = \"{PASSWORD}\" }};\n"),
            )?;
        }
        run(Command::new("chown").args(["-R", USER]).arg(dir))?;
        Ok(Self { dir: dir.to_owned(), port: 0, link, lines: lines.to_owned(), process: None })
    }

    /// A bare one, running.
    pub async fn bare(dir: &Path, users: &[String], lines: &str) -> Result<Self> {
        let mut prosody = Self::prepare(dir, users, None, lines)?;
        prosody.resume().await?;
        Ok(prosody)
    }

    /// Starts it (again).
    pub async fn resume(&mut self) -> Result<()> {
        for _ in 0..5 {
            if self.port == 0 {
                self.port = free_port()?;
            }
            let config = self.dir.join("prosody.cfg.lua");
            fs::write(&config, self.config())?;
            let mut command = in_root("prosody13", USER, "prosody");
            command.arg("-F");
            match &self.link {
                Some(link) => command
                    .env("PROSODY_CONFIG", self.plugin().join("prosody.cfg.lua"))
                    .env("CARTULARY_SERVER_CONFIG", &config)
                    .env("CARTULARY_LINK", link),
                None => command.env("PROSODY_CONFIG", &config),
            };
            let mut process = Process::start("Prosody", &mut command, &self.log_file())?;
            let address = self.address();
            process.until("Prosody listens", async || TcpStream::connect(address).await.is_ok()).await?;
            // It runs on without the port if somebody else took it meanwhile, and that somebody has answered.
            if self.log().contains("Failed to open server port") {
                process.kill()?;
                self.port = 0;
                fs::remove_file(self.log_file())?;
                continue;
            }
            self.process = Some(process);
            return Ok(());
        }
        bail!("no port for Prosody")
    }

    /// Stops it in an orderly way.
    pub async fn stop(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::TERM)?;
            process.wait().await?;
        }
        Ok(())
    }

    /// kill -9.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().map_or(Ok(()), |mut process| process.kill())
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// Where our plugin was put by the sidecar, for tests that break it.
    #[must_use]
    pub fn plugin(&self) -> PathBuf {
        self.dir.join("prosody")
    }

    /// What it logged.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    /// Whether its plugin has said that it is linked to a sidecar, and not since that the link is gone.
    #[must_use]
    pub fn is_linked(&self) -> bool {
        let log = self.log();
        log.rfind("Linked to sidecar") > log.rfind("The link to the sidecar is gone")
    }

    /// Waits for it to end by itself.
    pub async fn wait(&mut self) -> Result<std::process::ExitStatus> {
        self.process.take().context("it does not run")?.wait().await
    }

    fn log_file(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// CPU time it used so far, in seconds.
    #[must_use]
    pub fn cpu_seconds(&self) -> f64 {
        self.process.as_ref().map_or(0.0, |process| crate::process::cpu_seconds(process.id()))
    }

    fn config(&self) -> String {
        let dir = self.dir.display();
        let (port, lines) = (self.port, &self.lines);
        format!(
            r#"-- Written by the tests: what a user's configuration might say.
data_path = "{dir}/data"
pidfile = "{dir}/prosody.pid"
log = {{ info = "*stdout" }}
modules_enabled = {{ "disco", "roster", "saslauth", "ping", "register", "carbons" }}
modules_disabled = {{ "s2s", "tls" }}
interfaces = {{ "127.0.0.1" }}
c2s_ports = {{ {port} }}
c2s_require_encryption = false
c2s_stanza_size_limit = {STANZA_LIMIT}
allow_unencrypted_plain_auth = true
allow_registration = true
authentication = "internal_plain"
storage = "internal"
{lines}
VirtualHost "{DOMAIN}"
Component "{ROOMS}" "muc"
"#
        )
    }
}
