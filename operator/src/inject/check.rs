//! Whether a pod is of a kind that can be recorded at all, before anything is put into it.
//!
//! These are refusals of the whole pod; what is wrong with the XMPP server's container is found where it is prepared. Nothing
//! here changes the pod.

use super::Refusal;
use crate::reasons::refusal as reason;
use cartulary_compliance::names::{ADMIN_PORT, SIDECAR_CONTAINER};
use serde_json::Value;

/// The kubelet writes it on the image it makes of a pod that it starts from a file.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Refuses what no sidecar can be put into, or should not be.
pub fn check(pod: &Value) -> Result<(), Refusal> {
    if !pod["metadata"]["annotations"][MIRROR].is_null() {
        return Err(Refusal::new(
            reason::STATIC_POD,
            "the kubelet starts this pod from a file on its node, where nothing can be put into it: run the XMPP server as a \
             StatefulSet, or take the label out of the file",
        ));
    }
    let spec = &pod["spec"];
    if spec["os"]["name"] == "windows" || spec["nodeSelector"]["kubernetes.io/os"] == "windows" {
        return Err(Refusal::new(
            reason::NOT_LINUX,
            "the sidecar and the link run on Linux only: run the XMPP server on Linux nodes",
        ));
    }
    if spec["hostNetwork"] == true {
        return Err(Refusal::new(
            reason::HOST_NETWORK,
            "with hostNetwork the sidecar's status port would be open on the node's own addresses: leave hostNetwork away and \
             let clients in by a Service of type LoadBalancer or NodePort, or by hostPort",
        ));
    }
    // Among the init containers the name is ours, and whatever has it is replaced.
    if containers(spec, "containers").any(|container| container["name"] == SIDECAR_CONTAINER) {
        return Err(Refusal::new(
            reason::NAME_TAKEN,
            format!(
                "a container of the pod is called {SIDECAR_CONTAINER}, which is the sidecar's name: call it otherwise"
            ),
        ));
    }
    ports_free(spec)
}

/// All containers of a pod share its addresses, so nobody else may want the sidecar's port.
fn ports_free(spec: &Value) -> Result<(), Refusal> {
    let all = ["containers", "initContainers"].into_iter().flat_map(|kind| containers(spec, kind));
    for container in all.filter(|container| container["name"] != SIDECAR_CONTAINER) {
        let ports = container["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
        if ports.iter().any(|port| port["containerPort"] == ADMIN_PORT) {
            return Err(Refusal::new(
                reason::PORT_TAKEN,
                format!(
                    "the container {} uses port {ADMIN_PORT}, which the sidecar needs: give it another one",
                    container["name"]
                ),
            ));
        }
    }
    Ok(())
}

fn containers<'a>(spec: &'a Value, kind: &str) -> impl Iterator<Item = &'a Value> {
    spec[kind].as_array().map(Vec::as_slice).unwrap_or_default().iter()
}
