//! A real cluster of its own for one test, with the product installed as a user installs it: the chart, then `kubectl apply`.
//!
//! Everything goes through `kubectl` and `helm`, because that is what people use; pods are reached at their addresses, which the
//! harness routes. Dropping a [`Cluster`] takes it down.

pub mod archive;
pub mod compliance;
pub mod conversations;
pub mod endurance;
pub mod node;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::process::{repository, run};

/// How long anything in a cluster may take: pulling up a pod after a back-off of the kubelet is the slowest.
pub const DEADLINE: Duration = Duration::from_secs(240);
const POLL: Duration = Duration::from_millis(250);
/// The chart's release and its namespace.
const RELEASE: &str = "cartulary";
/// Where the operator runs.
pub const SYSTEM: &str = "cartulary-system";

/// A full node with the operator installed.
#[derive(Debug)]
pub struct Cluster {
    name: String,
    kubeconfig: PathBuf,
    path: String,
}

impl Cluster {
    /// Brings up a cluster called `name`, loads the product's image and installs the chart.
    pub fn with_product(name: &str) -> Result<Self> {
        Self::with_values(name, &[])
    }

    /// The same with values of the chart, each as `key=value`.
    pub fn with_values(name: &str, values: &[&str]) -> Result<Self> {
        let cluster = Self::up(name)?;
        cluster.load_product()?;
        cluster.install(values)?;
        Ok(cluster)
    }

    /// Puts the product's image onto the node.
    pub fn load_product(&self) -> Result<()> {
        self.load(&image("CARTULARY_IMAGE", &[])?)
    }

    /// Puts the image of the example compliance servers onto the node.
    pub fn load_kit(&self) -> Result<()> {
        self.load(&image("CARTULARY_KIT_IMAGE", &["--kit"])?)
    }

    /// A cluster that the tests of one process share: the first makes it with these values, the last to let it go takes it down.
    pub fn shared(name: &str, values: &[&str]) -> Result<Arc<Self>> {
        static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cluster) = shared.upgrade() {
            return Ok(cluster);
        }
        let cluster = Arc::new(Self::with_values(name, values)?);
        *shared = Arc::downgrade(&cluster);
        Ok(cluster)
    }

    /// Installs the chart, or upgrades it, and waits until the operator is there.
    pub fn install(&self, values: &[&str]) -> Result<()> {
        let mut arguments = vec![
            "upgrade",
            "--install",
            RELEASE,
            "charts/cartulary",
            "--namespace",
            SYSTEM,
            "--create-namespace",
        ];
        arguments.extend(["--wait", "--timeout", "120s"]);
        for value in ["image.repository=localhost/cartulary", "image.tag=dev"].iter().chain(values) {
            arguments.extend(["--set", value]);
        }
        self.helm(&arguments).map(drop)
    }

    /// Removes the chart's release.
    pub fn uninstall(&self) -> Result<()> {
        self.helm(&["uninstall", RELEASE, "--namespace", SYSTEM, "--wait", "--timeout", "120s"]).map(drop)
    }

    /// Brings up an empty cluster.
    pub fn up(name: &str) -> Result<Self> {
        // Tests kill more often than a kubelet's usual patience allows for.
        let printed = run(script("up").arg(name).env("CLUSTER_RESTART_BACKOFF", "2s"))?;
        let kubeconfig = PathBuf::from(printed.lines().last().context("up printed no kubeconfig")?);
        let environment = run(script("env").arg(name))?;
        let tools = environment
            .lines()
            .find_map(|line| line.strip_prefix("export PATH=")?.split(':').next())
            .context("env printed no PATH")?;
        let path = format!("{tools}:{}", std::env::var("PATH").unwrap_or_default());
        Ok(Self { name: name.to_owned(), kubeconfig, path })
    }

    /// Puts an image archive onto the node.
    pub fn load(&self, archive: &Path) -> Result<()> {
        run(script("load-image").arg(&self.name).arg(archive)).map(drop)
    }

    /// Runs `kubectl` and returns what it printed; its error output is in the error.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        run(self.tool("kubectl").args(arguments))
    }

    /// Runs `helm` in the root of the repository.
    pub fn helm(&self, arguments: &[&str]) -> Result<String> {
        run(self.tool("helm").args(arguments))
    }

    /// Applies YAML.
    pub fn apply(&self, yaml: &str) -> Result<String> {
        let mut child = self
            .tool("kubectl")
            .args(["apply", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        child.stdin.take().context("no stdin")?.write_all(yaml.as_bytes())?;
        let output = child.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        Ok(text)
    }

    /// What the API server would make of an object, admission included.
    pub fn dry_run(&self, yaml: &str) -> Result<Value> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("object.yaml");
        fs::write(&file, yaml)?;
        let file = file.to_string_lossy();
        Ok(serde_json::from_str(&self.kubectl(&[
            "create",
            "--dry-run=server",
            "-o",
            "json",
            "-f",
            &file,
        ])?)?)
    }

    /// Applies YAML in a namespace.
    pub fn apply_in(&self, namespace: &str, yaml: &str) -> Result<String> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("objects.yaml");
        fs::write(&file, yaml)?;
        self.kubectl(&["-n", namespace, "apply", "-f", &file.to_string_lossy()])
    }

    /// Waits until all `nodes` of a namespace's XMPPClusters say, asked now, that nothing waits for the archive.
    pub fn drained(&self, namespace: &str, nodes: usize) -> Result<()> {
        self.eventually("every record archived", || {
            // Its exit code tells of anything that is wrong, which is not asked here.
            let arguments = ["status", "-n", namespace, "-o", "json"];
            let output = self.cartulary_command(&arguments)?.output()?;
            let clusters: Vec<Value> = serde_json::from_slice(&output.stdout)?;
            let empty = |c: &Value| {
                c["waiting"] == 0
                    && c["complete"] == true
                    && c["pods"].as_array().is_some_and(|n| n.len() == nodes)
            };
            Ok((!clusters.is_empty() && clusters.iter().all(empty)).then_some(()))
        })
    }

    /// Applies an example as its user would, from a copy of `examples/` that has passwords and the images that tests build.
    pub fn apply_example(&self, name: &str) -> Result<()> {
        self.apply_example_with(name, "", &[])
    }

    /// The same with further lines of the overlay's kustomization, patches for instance, and files beside it, by name.
    pub fn apply_example_with(&self, name: &str, lines: &str, files: &[(&str, &str)]) -> Result<()> {
        let copy = tempfile::tempdir()?;
        run(Command::new("cp").arg("-r").arg(repository().join("examples")).arg(copy.path()))?;
        let secrets = copy.path().join("examples").join(name).join("secrets");
        fs::create_dir_all(&secrets)?;
        for role in ["postgres", "owner", "writer", "reader"] {
            fs::write(secrets.join(role), uuid::Uuid::now_v7().simple().to_string())?;
        }
        let images = [
            ("docker.io/prosodyim/prosody", "prosody", "13"),
            ("docker.io/library/postgres", "postgres", "15"),
        ]
        .map(|(from, to, tag)| format!("  - {{name: {from}, newName: localhost/{to}, newTag: \"{tag}\"}}\n"))
        .concat();
        let overlay = copy.path().join("overlay");
        fs::create_dir(&overlay)?;
        for (file, content) in files {
            fs::write(overlay.join(file), content)?;
        }
        fs::write(
            overlay.join("kustomization.yaml"),
            format!("resources: [../examples/{name}]\nimages:\n{images}{lines}"),
        )?;
        self.kubectl(&["apply", "-k", &overlay.to_string_lossy()]).map(drop)
    }

    /// An object as the API server has it.
    pub fn get(&self, namespace: &str, what: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.kubectl(&["-n", namespace, "get", what, "-o", "json"])?)?)
    }

    /// Asks again and again until `ask` finds what it looks for; errors on the way are part of waiting.
    pub fn eventually<T>(&self, what: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        let begin = Instant::now();
        loop {
            let last = match ask() {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => None,
                Err(error) => Some(error),
            };
            if begin.elapsed() > DEADLINE {
                let pods =
                    self.kubectl(&["get", "pods,xmppclusters,archiveendpoints,events", "-A", "-o", "wide"]);
                bail!("{what}: not within {DEADLINE:?}; last answer: {last:?}\n{}", pods.unwrap_or_default());
            }
            std::thread::sleep(POLL);
        }
    }

    /// A condition of an object: status, reason and message.
    pub fn condition(&self, namespace: &str, object: &str, kind: &str) -> Result<Option<[String; 3]>> {
        let found = self.get(namespace, object)?;
        let conditions = found["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(conditions
            .iter()
            .find(|condition| condition["type"] == kind)
            .map(|c| [text(&c["status"]), text(&c["reason"]), text(&c["message"])]))
    }

    /// Waits until a condition has this status and reason; returns its message.
    pub fn wait_condition(
        &self,
        namespace: &str,
        object: &str,
        kind: &str,
        status: &str,
        reason: &str,
    ) -> Result<String> {
        let mut last = None;
        self.eventually(&format!("{object}: {kind}={status} {reason}"), || {
            let now = self.condition(namespace, object, kind)?;
            let found =
                now.as_ref().filter(|[s, r, _]| s == status && r == reason).map(|[_, _, m]| m.clone());
            last = now;
            Ok(found)
        })
        .with_context(|| format!("the condition was {last:?}"))
    }

    /// Where a pod's XMPP clients connect, once the pod is ready.
    pub fn xmpp(&self, namespace: &str, pod: &str) -> Result<SocketAddr> {
        let address = self.eventually(&format!("pod {pod} ready"), || {
            let pod = self.get(namespace, &format!("pod/{pod}"))?;
            let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let ready = conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
            let going = pod["metadata"].get("deletionTimestamp").is_some();
            Ok(pod["status"]["podIP"].as_str().filter(|_| ready && !going).map(str::to_owned))
        })?;
        Ok(SocketAddr::new(address.parse::<IpAddr>()?, 5222))
    }

    /// Names of the operator's pods that are not on their way out.
    pub fn operators(&self) -> Result<Vec<String>> {
        let pods = self.get(SYSTEM, "pods")?;
        let stays = |pod: &&Value| pod["metadata"].get("deletionTimestamp").is_none();
        let pods = pods["items"].as_array().cloned().unwrap_or_default();
        Ok(pods
            .iter()
            .filter(stays)
            .filter(|pod| pod["spec"]["containers"][0]["name"] == "operator")
            .filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned))
            .collect())
    }

    /// Kills the processes of the node whose program is `program` with SIGKILL; their ids are found in the node's own process table.
    pub fn kill(&self, program: &str) -> Result<()> {
        let find = format!(
            "n=0; for p in /proc/[0-9]*; do case \"$(tr '\\0' ' ' <$p/cmdline 2>/dev/null)\" in \
             {program}|{program}\\ *|*/{program}|*/{program}\\ *) kill -KILL ${{p#/proc/}} && n=1;; esac; done; [ $n = 1 ]"
        );
        run(script("exec").args([self.name.as_str(), "sh", "-c", &find])).map(drop)
    }

    /// Events of a namespace, one line each.
    pub fn events(&self, namespace: &str) -> Result<String> {
        self.kubectl(&[
            "-n",
            namespace,
            "get",
            "events",
            "-o",
            "custom-columns=R:.reason,O:.involvedObject.name,M:.message",
            "--no-headers",
        ])
    }

    /// What the archive of the quickstart holds, through `cartulary search -o json` as an auditor runs it: one JSON object a line.
    pub fn cartulary(&self, arguments: &[&str]) -> Result<String> {
        run(&mut self.cartulary_command(arguments)?)
    }

    /// `cartulary` with these arguments, to be run against this cluster.
    pub fn cartulary_command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(program("cartulary")?);
        command.args(arguments).env("KUBECONFIG", &self.kubeconfig);
        Ok(command)
    }

    fn tool(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        command.env("PATH", &self.path).env("KUBECONFIG", &self.kubeconfig).current_dir(repository());
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // A failed test leaves its cluster when asked to, so that somebody can look.
        if std::env::var_os("KEEP").is_none()
            && let Err(error) = run(script("down").arg(&self.name))
        {
            eprintln!("{error:#}");
        }
    }
}

fn script(name: &str) -> Command {
    Command::new(repository().join("tests/cluster").join(name))
}

/// A program of ours, as `cargo build --workspace` left it beside the tests.
pub fn program(name: &str) -> Result<PathBuf> {
    let mut here = std::env::current_exe()?;
    while here.pop() {
        let candidate = here.join(name);
        if candidate.is_file() {
            return Ok(candidate);
        }
    }
    bail!("{name} is not built: run `cargo build --workspace` first (make test does)")
}

/// An image of ours; built by `tests/image`, which does nothing when it is fresh, unless `variable` names one.
fn image(variable: &str, arguments: &[&str]) -> Result<PathBuf> {
    if let Some(image) = std::env::var_os(variable) {
        return Ok(image.into());
    }
    let printed = run(Command::new(repository().join("tests/image")).args(arguments))?;
    Ok(PathBuf::from(printed.lines().last().context("tests/image printed no path")?))
}
