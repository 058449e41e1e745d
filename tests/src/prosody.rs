//! Prosody as a user would run it, 13 or 0.12, in a folder and at an address of its own, with our plugin loaded the way injection
//! loads it: by environment variables, the user's configuration untouched.

use crate::federation::Member;
use crate::process::{Process, User, in_root, run};
use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use tokio::net::TcpStream;

/// The virtual host.
pub const DOMAIN: &str = "example.test";
/// The room service.
pub const ROOMS: &str = "rooms.example.test";
/// The external component, where there is one.
pub const BOT: &str = "bot.example.test";
/// Every user's password, and the component's.
pub const PASSWORD: &str = "open sesame";
/// The most bytes a client's stanza may have; small enough that tests at the limit are quick.
pub const STANZA_LIMIT: usize = 256 * 1024;
// Group 0, because the sidecar of a test runs as root and lets its group at the socket, as a pod's fsGroup does.
const USER: User = "101:0";
const CLIENTS: u16 = 5222;
const COMPONENTS: u16 = 5347;
const WEB: u16 = 5280;

/// Which Prosody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// 13.0.
    V13,
    /// 0.12, Debian 12's own.
    V12,
}

impl Version {
    /// What tests run on that do not say: 13, but in the suite `prosody12` everything runs on 0.12.
    #[must_use]
    pub fn of_this_suite() -> Self {
        let suite = std::env::current_exe().unwrap_or_default();
        let name = suite.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name.starts_with("prosody12-") { Self::V12 } else { Self::V13 }
    }

    fn root(self) -> &'static str {
        match self {
            Self::V13 => "prosody13",
            Self::V12 => "prosody12",
        }
    }
}

/// What a Prosody is to be like.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Which one.
    pub version: Version,
    /// Who has an account.
    pub users: Vec<String>,
    /// Further lines of its configuration, before its hosts.
    pub lines: String,
    /// Lines after its hosts.
    pub hosts: String,
    /// Lets in whoever can come in: websocket, BOSH, stream resumption, an external component.
    pub every_ingress: bool,
    /// The servers it federates with; none if absent.
    pub federation: Option<Member>,
}

impl Setup {
    /// A plain one.
    #[must_use]
    pub fn new(users: &[String], lines: &str) -> Self {
        Self {
            version: Version::of_this_suite(),
            users: users.to_vec(),
            lines: lines.to_owned(),
            hosts: String::new(),
            every_ingress: false,
            federation: None,
        }
    }

    /// Its virtual host.
    #[must_use]
    pub fn domain(&self) -> &str {
        self.federation.as_ref().map_or(DOMAIN, |member| &member.domain)
    }
}

/// A Prosody, running or not.
#[derive(Debug)]
pub struct Prosody {
    dir: PathBuf,
    host: Ipv4Addr,
    link: Option<PathBuf>,
    /// What it was made of; what is changed here counts when it is started again.
    pub setup: Setup,
    process: Option<Process>,
}

impl Prosody {
    /// Makes its folder `dir` with the accounts. With a `link` it loads our plugin, which a sidecar has put into the same
    /// folder, and which asks the sidecar at that socket; without one it is bare.
    pub fn prepare(dir: &Path, setup: Setup, link: Option<PathBuf>) -> Result<Self> {
        let accounts = dir.join("data").join(setup.domain().replace('.', "%2e")).join("accounts");
        fs::create_dir_all(&accounts)?;
        for user in &setup.users {
            fs::write(
                accounts.join(format!("{user}.dat")),
                format!("return {{ [\"password\"] = \"{PASSWORD}\" }};\n"),
            )?;
        }
        run(Command::new("chown").args(["-R", USER]).arg(dir))?;
        let host = setup.federation.as_ref().map_or_else(own_address, |member| Ok(member.address))?;
        Ok(Self { dir: dir.to_owned(), host, link, setup, process: None })
    }

    /// A bare one, running.
    pub async fn bare(dir: &Path, users: &[String], lines: &str) -> Result<Self> {
        let mut prosody = Self::prepare(dir, Setup::new(users, lines), None)?;
        prosody.resume().await?;
        Ok(prosody)
    }

    /// Starts it (again).
    pub async fn resume(&mut self) -> Result<()> {
        let config = self.dir.join("prosody.cfg.lua");
        fs::write(&config, self.config())?;
        let mut command = in_root(self.setup.version.root(), USER, "prosody");
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
        if self.log().contains("Failed to open server port") {
            bail!("Prosody has not all of its ports at {}: {}", self.host, process.tail());
        }
        self.process = Some(process);
        Ok(())
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

    /// Has it read its configuration again.
    pub fn reload(&self) -> Result<()> {
        self.process.as_ref().context("it does not run")?.signal(Signal::HUP)
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (self.host, CLIENTS).into()
    }

    /// Where external components connect.
    #[must_use]
    pub fn component_address(&self) -> SocketAddr {
        (self.host, COMPONENTS).into()
    }

    /// Where HTTP is spoken.
    #[must_use]
    pub fn web_address(&self) -> SocketAddr {
        (self.host, WEB).into()
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
        let (dir, host, domain) = (self.dir.display(), self.host, self.setup.domain());
        let Setup { lines, hosts, every_ingress, federation, .. } = &self.setup;
        let mut modules = vec!["disco", "roster", "saslauth", "ping", "register", "carbons"];
        let mut disabled = Vec::new();
        let mut component = String::new();
        if *every_ingress {
            modules.extend(["smacks", "bosh", "websocket", "announce"]);
            component = format!("Component \"bot.{domain}\"\n  component_secret = \"{PASSWORD}\"");
        }
        match federation {
            Some(_) => modules.extend(["tls", "dialback"]),
            None => disabled.extend(["s2s", "tls"]),
        }
        let list = |names: &[&str]| names.iter().map(|name| format!("\"{name}\"; ")).collect::<String>();
        let (modules, disabled) = (list(&modules), list(&disabled));
        let federation = federation.as_ref().map(Member::config).unwrap_or_default();
        format!(
            r#"-- Written by the tests: what a user's configuration might say.
data_path = "{dir}/data"
pidfile = "{dir}/prosody.pid"
log = {{ info = "*stdout" }}
modules_enabled = {{ {modules} }}
modules_disabled = {{ {disabled} }}
interfaces = {{ "{host}" }}
c2s_ports = {{ {CLIENTS} }}
component_interfaces = {{ "{host}" }}
component_ports = {{ {COMPONENTS} }}
http_interfaces = {{ "{host}" }}
http_ports = {{ {WEB} }}
https_ports = {{ }}
http_default_host = "{domain}"
consider_bosh_secure = true
consider_websocket_secure = true
c2s_require_encryption = false
c2s_stanza_size_limit = {STANZA_LIMIT}
allow_unencrypted_plain_auth = true
allow_registration = true
authentication = "internal_plain"
storage = "internal"
{federation}
{lines}
VirtualHost "{domain}"
Component "rooms.{domain}" "muc"
{component}
{hosts}
"#
        )
    }
}

/// An address of this machine nobody else serves clients at.
pub(crate) fn own_address() -> Result<Ipv4Addr> {
    for _ in 0..100 {
        let random = uuid::Uuid::new_v4().into_bytes();
        let address = Ipv4Addr::new(127, random[0].clamp(1, 254), random[1], random[2].clamp(1, 254));
        if TcpListener::bind((address, CLIENTS)).is_ok() {
            return Ok(address);
        }
    }
    bail!("no free address in 127.0.0.0/8")
}
