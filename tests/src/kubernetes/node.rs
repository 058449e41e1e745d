//! Signals to the processes of a container, as whoever has the node's root may send them.
//!
//! A container's processes are found by its id in the control groups of the node's own process table, so nothing of another
//! container, or of the machine, is ever hit.

use super::{Cluster, script};
use crate::process::run;
use anyhow::{Context, Result};

/// Processes of one container that were stopped.
#[derive(Debug)]
#[must_use = "what is stopped stays stopped until it is continued"]
pub struct Frozen {
    ids: Vec<String>,
}

impl Cluster {
    /// Kills every process of a container with SIGKILL. Says whether there was one.
    pub fn kill_container(&self, namespace: &str, pod: &str, container: &str) -> Result<bool> {
        Ok(!self.signal(namespace, pod, container, "KILL")?.is_empty())
    }

    /// Stops every process of a container, as a hanging disk or machine would.
    pub fn freeze(&self, namespace: &str, pod: &str, container: &str) -> Result<Frozen> {
        Ok(Frozen { ids: self.signal(namespace, pod, container, "STOP")? })
    }

    /// Lets stopped processes go on; those that are gone meanwhile are passed over.
    pub fn thaw(&self, frozen: &Frozen) -> Result<()> {
        let go_on = "for p in \"$@\"; do kill -CONT $p 2>/dev/null || :; done";
        let mut arguments = vec![self.name.as_str(), "sh", "-c", go_on, "sh"];
        arguments.extend(frozen.ids.iter().map(String::as_str));
        run(script("exec").args(arguments)).map(drop)
    }

    /// Ids, in the node, of the processes that were sent the signal; none where the container does not run.
    fn signal(&self, namespace: &str, pod: &str, container: &str, signal: &str) -> Result<Vec<String>> {
        let found = self.get(namespace, &format!("pod/{pod}"))?;
        let statuses = ["initContainerStatuses", "containerStatuses"];
        let container = statuses
            .iter()
            .filter_map(|field| found["status"][field].as_array())
            .flatten()
            .find(|status| status["name"] == container)
            .with_context(|| format!("pod {pod} has no container {container}"))?;
        let Some(id) = container["containerID"].as_str().and_then(|id| id.strip_prefix("containerd://"))
        else {
            return Ok(Vec::new());
        };
        let send = "for p in /proc/[0-9]*; do grep -q \"/$1\\$\" $p/cgroup 2>/dev/null || continue; \
             kill -$2 ${p#/proc/} 2>/dev/null && echo ${p#/proc/}; done; :";
        let sent = run(script("exec").args([self.name.as_str(), "sh", "-c", send, "sh", id, signal]))?;
        Ok(sent.lines().map(str::to_owned).collect())
    }
}
