//! The sidecar as it runs in a pod: the real binary, with its configuration in a mounted file and its journal in a folder.

use crate::process::{Process, free_port, on_this_machine, repository, run, until};
use anyhow::{Context, Result, ensure};
use cartulary_compliance::config::SidecarConfig;
use cartulary_compliance::status::{ComplianceServerStatus, EndpointStatus, LinkCause, SidecarStatus};
use flate2::Compression;
use flate2::write::GzEncoder;
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The pod's name in tests that have one only.
pub const NODE: &str = "xmpp-0";

/// A sidecar, running or not.
#[derive(Debug)]
pub struct Sidecar {
    dir: PathBuf,
    plugins: PathBuf,
    binary: PathBuf,
    admin: SocketAddr,
    /// What it was last told to do.
    pub config: SidecarConfig,
    // What the command line begins with: a tracer, or a namespace with a small disk.
    wrapper: Vec<String>,
    node: String,
    process: Option<Process>,
}

impl Sidecar {
    /// Makes its folder `dir` and starts it with `config`, under the command `wrapper` if that is not empty. It copies the plugin
    /// into `plugins`, as it does in a pod.
    pub async fn start(
        dir: &Path,
        plugins: &Path,
        config: SidecarConfig,
        wrapper: Vec<String>,
    ) -> Result<Self> {
        Self::start_in(NODE, dir, plugins, config, wrapper).await
    }

    /// The same in the pod `node`.
    pub async fn start_in(
        node: &str,
        dir: &Path,
        plugins: &Path,
        config: SidecarConfig,
        wrapper: Vec<String>,
    ) -> Result<Self> {
        fs::create_dir_all(dir.join("data"))?;
        fs::create_dir_all(plugins)?;
        fs::create_dir_all(dir.join("config"))?;
        let admin = ([127, 0, 0, 1], free_port()?).into();
        let (dir, plugins) = (dir.to_owned(), plugins.to_owned());
        let (binary, node) = (binary()?, node.to_owned());
        let mut sidecar = Self { dir, plugins, binary, admin, config, wrapper, node, process: None };
        sidecar.write_config()?;
        sidecar.resume().await?;
        Ok(sidecar)
    }

    /// Starts it (again) on the same folder and waits until it answers.
    pub async fn resume(&mut self) -> Result<()> {
        self.launch()?;
        let admin = self.admin;
        let process = self.process.as_mut().context("launched just now")?;
        process.until("the sidecar answers", async || fetch(admin, "/status").await.is_ok()).await
    }

    /// Starts it without waiting for anything.
    pub fn launch(&mut self) -> Result<()> {
        let mut command = match self.wrapper.split_first() {
            Some((program, rest)) => {
                let mut command = on_this_machine(Path::new(program));
                command.args(rest).arg(&self.binary);
                command
            }
            None => on_this_machine(&self.binary),
        };
        command
            .arg("--config")
            .arg(self.config_file())
            .arg("--data-dir")
            .arg(self.data())
            .arg("--link")
            .arg(self.link())
            .args(["--admin", &self.admin.to_string(), "--node", &self.node])
            .arg("--plugin-source")
            .arg(repository().join("plugins"))
            .arg("--plugin-target")
            .arg(&self.plugins)
            .env("RUST_BACKTRACE", "1");
        let process = Process::start("the sidecar", &mut command, &self.dir.join("log"))?;
        self.process =
            Some(process.wrapping(self.wrapper.first().is_some_and(|program| program == "strace")));
        Ok(())
    }

    /// Its process id, or that of the command it runs under.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// kill -9.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().map_or(Ok(()), |mut process| process.kill())
    }

    /// Lets it stand still, or go on: SIGSTOP, SIGCONT.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        let signal = if frozen { Signal::STOP } else { Signal::CONT };
        self.process.as_ref().context("it does not run")?.signal(signal)
    }

    /// Makes its disk hang: no sync returns until the process that is given back is interrupted or dropped. Writes go on.
    pub async fn hang_disk(&self) -> Result<Process> {
        let id = self.id().context("it does not run")?;
        let mut command = on_this_machine(Path::new("strace"));
        command
            .args(["-f", "-p", &id.to_string(), "-o", "/dev/null", "-e", "trace=fsync,fdatasync"])
            .args(["-e", "inject=fsync,fdatasync:delay_enter=600000000"]);
        let mut tracer = Process::start("what makes the disk hang", &mut command, &self.dir.join("tracer"))?;
        let is_traced = |task: &Path| {
            let status = fs::read_to_string(task.join("status")).unwrap_or_default();
            !status.contains("TracerPid:\t0\n")
        };
        let tasks = format!("/proc/{id}/task");
        let attached = async || {
            fs::read_dir(&tasks).is_ok_and(|tasks| tasks.flatten().all(|task| is_traced(&task.path())))
        };
        tracer.until("every thread to be traced", attached).await?;
        Ok(tracer)
    }

    /// Stops it as the kubelet does first.
    pub async fn stop(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::TERM)?;
            let status = process.wait().await?;
            ensure!(status.success(), "the sidecar ended with {status}: {}", process.tail());
        }
        Ok(())
    }

    /// Changes the configuration, with a new generation, and puts it in place as a kubelet would: whole. It is in force when
    /// [`Self::in_force`] returns.
    pub fn configure(&mut self, change: impl FnOnce(&mut SidecarConfig)) -> Result<()> {
        change(&mut self.config);
        self.config.generation += 1;
        self.write_config()
    }

    /// Waits until the last configuration written is in force.
    pub async fn in_force(&self) -> Result<()> {
        let generation = self.config.generation;
        self.until("the new configuration", |status| status.config.generation == generation).await.map(|_| ())
    }

    /// Puts these bytes where the configuration is mounted.
    pub fn write_config_file(&self, bytes: &[u8]) -> Result<()> {
        let new = self.config_file().with_extension("new");
        fs::write(&new, bytes)?;
        Ok(fs::rename(new, self.config_file())?)
    }

    /// What it says of itself.
    pub async fn status(&self) -> Result<SidecarStatus> {
        Ok(serde_json::from_str(&fetch(self.admin, "/status").await?.1)?)
    }

    /// Status code and body of a page of the admin port.
    pub async fn page(&self, path: &str) -> Result<(u16, String)> {
        fetch(self.admin, path).await
    }

    /// The alarms on its metrics page: name, and the endpoint it is about, empty where it is about none.
    pub async fn alarms(&self) -> Result<BTreeSet<(String, String)>> {
        let (_, page) = self.page("/metrics").await?;
        let label = |line: &str, name: &str| {
            let rest = line.split_once(&format!("{name}=\""))?.1;
            Some(rest.split_once('"')?.0.to_owned())
        };
        let raised = page.lines().filter(|line| line.starts_with("cartulary_alarm{") && line.ends_with(" 1"));
        Ok(raised.filter_map(|line| Some((label(line, "alarm")?, label(line, "endpoint")?))).collect())
    }

    /// Waits until it raises the alarm `name`, or, if not `raised`, until it does not.
    pub async fn alarm(&self, name: &str, raised: bool) -> Result<()> {
        let what = format!("{} the alarm {name}", if raised { "" } else { "the end of" });
        let there = async || {
            self.alarms().await.is_ok_and(|all| all.iter().any(|(alarm, _)| alarm == name) == raised)
        };
        let found = until(&what, there).await;
        found.with_context(|| format!("its log: {}", self.log()))
    }

    /// The value of a line of its metrics page; `series` is the name with its labels.
    pub async fn metric(&self, series: &str) -> Result<f64> {
        let (_, page) = self.page("/metrics").await?;
        let value = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        Ok(value.with_context(|| format!("{series} is not in\n{page}"))?.parse()?)
    }

    /// What it logged, all its processes on this folder: one JSON object for each line.
    pub fn log_lines(&self) -> Result<Vec<serde_json::Value>> {
        let log = fs::read_to_string(self.dir.join("log"))?;
        Ok(log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// Waits until its status says what `condition` wants, and returns it.
    pub async fn until(
        &self,
        what: &str,
        condition: impl Fn(&SidecarStatus) -> bool,
    ) -> Result<SidecarStatus> {
        let mut last = None;
        let found = until(what, async || match self.status().await {
            Ok(status) => condition(last.insert(status)),
            Err(_) => false,
        })
        .await;
        found.with_context(|| format!("the sidecar's last status: {last:#?}\nits log: {}", self.log()))?;
        last.context("found")
    }

    /// Waits until the plugin is connected and every host armed.
    pub async fn covered(&self) -> Result<()> {
        let armed = |s: &SidecarStatus| {
            s.link.connected
                && !s.link.hosts.is_empty()
                && s.link.hosts.iter().all(|host| host.problem.is_none())
        };
        self.until("a plugin with every host armed", armed).await.map(|_| ())
    }

    /// Waits until events go to these compliance servers.
    pub async fn serves(&self, servers: &[&str]) -> Result<SidecarStatus> {
        let is_there = |s: &SidecarStatus| {
            servers.iter().all(|name| s.compliance_servers.get(*name).is_some_and(|link| link.in_service))
        };
        self.until("compliance servers in service", is_there).await
    }

    /// Waits until this compliance server is not in service, for this reason.
    pub async fn without(&self, server: &str, cause: LinkCause) -> Result<ComplianceServerStatus> {
        let is_so = |s: &SidecarStatus| {
            let link = s.compliance_servers.get(server);
            link.is_some_and(|link| !link.in_service && link.cause == Some(cause))
        };
        let mut status = self.until(&format!("{server} to be out of service: {cause:?}"), is_so).await?;
        status.compliance_servers.remove(server).context("found just now")
    }

    /// Waits until nothing waits for any endpoint.
    pub async fn drained(&self) -> Result<()> {
        let empty = |e: &EndpointStatus| e.waiting == 0;
        self.until("an empty queue", |s| !s.endpoints.is_empty() && s.endpoints.values().all(empty))
            .await
            .map(|_| ())
    }

    /// The end of what it logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.as_ref().map_or_else(|| "(it does not run)".to_owned(), Process::tail)
    }

    /// The folder of its journal.
    #[must_use]
    pub fn journal(&self) -> PathBuf {
        self.data().join("journal")
    }

    /// The folder of its volume.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The socket the plugin connects to.
    #[must_use]
    pub fn link(&self) -> PathBuf {
        self.dir.join("link.sock")
    }

    fn config_file(&self) -> PathBuf {
        self.dir.join("config/config.json.gz")
    }

    fn write_config(&self) -> Result<()> {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&self.config.to_json()?)?;
        self.write_config_file(&gzip.finish()?)
    }
}

/// The sidecar's binary, of the profile these tests were built with. It is built if it is not fresh, so that no test runs against
/// an old one; `CARTULARY_PROGRAMS` names a folder of binaries that are used as they are.
pub fn binary() -> Result<PathBuf> {
    static BINARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let find = || -> Result<PathBuf> {
        if let Some(folder) = std::env::var_os("CARTULARY_PROGRAMS") {
            return Ok(Path::new(&folder).join("cartulary-sidecar"));
        }
        let own = std::env::current_exe()?;
        // TARGET/PROFILE/deps/TEST, or TARGET/PROFILE/TOOL.
        let folder =
            own.ancestors().skip(1).find(|p| !p.ends_with("deps")).context("the test's own folder")?;
        let target = folder.parent().context("the target folder")?;
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo
            .args(["build", "--quiet", "--package", "cartulary-sidecar", "--target-dir"])
            .arg(target)
            .current_dir(repository());
        if folder.ends_with("release") {
            cargo.arg("--release");
        }
        run(&mut cargo)?;
        Ok(folder.join("cartulary-sidecar"))
    };
    BINARY.get_or_init(|| find().map_err(|e| format!("{e:#}"))).clone().map_err(anyhow::Error::msg)
}

// HTTP enough for a page of one's own server, without a library between the test and what is really answered.
async fn fetch(server: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {server}\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let code = head.split_whitespace().nth(1).and_then(|code| code.parse().ok()).context("no status code")?;
    Ok((code, body.to_owned()))
}
