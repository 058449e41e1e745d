//! Injection: what makes a pod of an XMPP server a recorded one. A pure function from a pod to a pod, or to a refusal.
//!
//! Invariants:
//! - `inject(inject(p)) = inject(p)`: whatever is ours is taken out before it is put in;
//! - what the user wrote stays, fields this version has never heard of included: the pod is handled as JSON, not as a type;
//! - the sidecar is the first of the init containers, so that it is up before anything of the user's runs.
//!
//! What it does not do: change the user's image, configuration, service account or grace period; look anything up.

mod check;
pub mod parts;
mod refusal;

pub use parts::{PodFacts, SidecarImage};
pub use refusal::Refusal;

use crate::reasons::refusal as reason;
use cartulary_compliance::names::{SIDECAR_CONTAINER, label};
use cartulary_crds::XmppCluster;
use parts::{
    ENV_LINK, ENV_PROSODY_CONFIG, ENV_SERVER_CONFIG, JOURNAL_VOLUME, PROSODY_CONFIG, RUN_FOLDER, RUN_VOLUME,
};
use serde_json::{Map, Value, json};

/// The pod with everything it needs to be recorded as one of `cluster`'s.
pub fn inject(pod: &Value, cluster: &XmppCluster, image: &SidecarImage) -> Result<Value, Refusal> {
    check::check(pod)?;
    let mut pod = pod.clone();
    let claim = journal(&pod, cluster)?;
    let name = cluster.metadata.name.as_deref().unwrap_or_default();

    let metadata = object(&mut pod, "metadata")?;
    map(metadata, "labels")?.insert(label::INJECTED.to_owned(), json!(label_value(&image.version)));

    let spec = object(&mut pod, "spec")?;
    let facts = security(spec)?;
    let server = list(spec, "containers")?;
    let index = server_container(server, cluster)?;
    prepare_server(&mut list(spec, "containers")?[index], &cluster.spec.prosody.config_path)?;

    let init = list(spec, "initContainers")?;
    init.retain(|container| container["name"] != SIDECAR_CONTAINER);
    init.insert(0, parts::container(image, facts));

    let volumes = list(spec, "volumes")?;
    volumes.retain(|volume| !parts::VOLUMES.iter().any(|ours| volume["name"] == *ours));
    volumes.extend(parts::volumes(name, claim.as_deref()));
    Ok(pod)
}

/// The StatefulSet pod's claim; `None` where the journal goes with the pod.
fn journal(pod: &Value, cluster: &XmppCluster) -> Result<Option<String>, Refusal> {
    let of_stateful_set = pod["metadata"]["ownerReferences"].as_array().is_some_and(|owners| {
        owners.iter().any(|owner| owner["kind"] == "StatefulSet" && owner["controller"] == true)
    });
    let name = pod["metadata"]["name"].as_str().filter(|name| of_stateful_set && !name.is_empty());
    match name {
        _ if cluster.spec.journal.ephemeral => Ok(None),
        Some(name) => Ok(Some(parts::journal_claim(name))),
        None if cluster.spec.archiving.block_if_unable_to_record => Err(Refusal::new(
            reason::JOURNAL_NOT_DURABLE,
            "blockIfUnableToRecord needs a journal that outlives the pod, which only pods of a StatefulSet can have: run \
             the server as a StatefulSet, or set journal.ephemeral: true in the XMPPCluster and so accept that what waits is \
             lost with the pod",
        )),
        None => Ok(None),
    }
}

/// Gives the pod a group for its volumes where it has none, and says as whom the sidecar runs.
fn security(spec: &mut Value) -> Result<PodFacts, Refusal> {
    let context = map(spec, "securityContext")?;
    if context.get("fsGroup").is_none_or(Value::is_null) {
        context.insert("fsGroup".to_owned(), json!(parts::USER));
        // Volumes with many files would otherwise be walked through at each start.
        context.insert("fsGroupChangePolicy".to_owned(), json!("OnRootMismatch"));
    }
    let user = context.get("runAsUser").and_then(Value::as_i64);
    // Who sees the sidecar's process and is of its user could read its configuration and journal through /proc.
    let alone = spec["shareProcessNamespace"] != true;
    Ok(PodFacts { own_user: !alone || user.is_none_or(|user| user == 0) })
}

fn server_container(containers: &[Value], cluster: &XmppCluster) -> Result<usize, Refusal> {
    match &cluster.spec.container {
        Some(name) => containers.iter().position(|container| container["name"] == **name).ok_or_else(|| {
            Refusal::new(
                reason::CONTAINER_MISSING,
                format!(
                    "the XMPPCluster says that the container \"{name}\" runs the XMPP server, and the pod has none of that \
                     name: correct spec.container"
                ),
            )
        }),
        None if containers.len() == 1 => Ok(0),
        None => Err(Refusal::new(
            reason::CONTAINER_NOT_NAMED,
            "the pod has several containers: name the one that runs the XMPP server in spec.container of the XMPPCluster",
        )),
    }
}

/// Makes the XMPP server load our plugin: its own start variable leads to a configuration that includes the user's.
fn prepare_server(container: &mut Value, config_path: &str) -> Result<(), Refusal> {
    if ["command", "args"].iter().any(|list| names_config(&container[*list])) {
        return Err(Refusal::new(
            reason::CONFIG_ON_COMMAND_LINE,
            "Prosody is started with --config or PROSODY_CONFIG= on its command line, which would keep our plugin out: leave it \
             away and set spec.prosody.configPath of the XMPPCluster to that path",
        ));
    }
    let path = server_config(container, config_path)?;
    let env = list(container, "env")?;
    let ours = [ENV_PROSODY_CONFIG, ENV_SERVER_CONFIG, ENV_LINK];
    env.retain(|variable| !ours.iter().any(|name| variable["name"] == *name));
    env.push(json!({ "name": ENV_SERVER_CONFIG, "value": path }));
    env.push(json!({ "name": ENV_PROSODY_CONFIG, "value": PROSODY_CONFIG }));
    env.push(json!({ "name": ENV_LINK, "value": parts::LINK_SOCKET }));

    let mounts = list(container, "volumeMounts")?;
    mounts.retain(|mount| mount["name"] != RUN_VOLUME && mount["name"] != JOURNAL_VOLUME);
    if mounts.iter().any(|mount| mount["mountPath"].as_str().is_some_and(is_in_run_folder)) {
        return Err(Refusal::new(
            reason::MOUNT_TAKEN,
            format!(
                "the XMPP container has a volume of its own in {RUN_FOLDER}, where the link and the plugin must be: mount it elsewhere"
            ),
        ));
    }
    mounts.push(json!({ "name": RUN_VOLUME, "mountPath": RUN_FOLDER }));
    Ok(())
}

/// Where the user's configuration is: what the container itself says counts more than the XMPPCluster.
fn server_config(container: &Value, config_path: &str) -> Result<String, Refusal> {
    let variable = |name: &str| {
        let env = container["env"].as_array().map(Vec::as_slice).unwrap_or_default();
        // Of several with one name the last counts, as for the kubelet.
        env.iter().rev().find(|variable| variable["name"] == name)
    };
    let Some(set) = variable(ENV_PROSODY_CONFIG) else { return Ok(config_path.to_owned()) };
    let own = match set["value"].as_str() {
        Some(PROSODY_CONFIG) => variable(ENV_SERVER_CONFIG).and_then(|path| path["value"].as_str()),
        _ if !set["valueFrom"].is_null() => {
            return Err(Refusal::new(
                reason::CONFIG_PATH_UNKNOWN,
                "the XMPP container takes PROSODY_CONFIG from elsewhere (valueFrom), which cannot be looked up when the pod is \
                 created: write its value out, or leave it away and set spec.prosody.configPath of the XMPPCluster",
            ));
        }
        other => other.filter(|path| !path.is_empty()),
    };
    Ok(own.unwrap_or(config_path).to_owned())
}

/// Whether a command line names a configuration, also inside a shell's script.
fn names_config(arguments: &Value) -> bool {
    let arguments = arguments.as_array().map(Vec::as_slice).unwrap_or_default();
    let words = arguments
        .iter()
        .filter_map(Value::as_str)
        .flat_map(|argument| argument.split([' ', '\t', '\n', '"', '\'', ';', '&', '|', '(']));
    words.into_iter().any(|word| {
        if word.strip_prefix(ENV_PROSODY_CONFIG).is_some_and(|rest| rest.starts_with('=')) {
            return true;
        }
        // Prosody takes one dash for two.
        let Some(option) = word.strip_prefix('-') else { return false };
        let option = option.strip_prefix('-').unwrap_or(option);
        option == "config" || option.starts_with("config=")
    })
}

/// Whether a volume mounted at `path` would hide the link, the plugin or a part of it.
fn is_in_run_folder(path: &str) -> bool {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    // In the usual images a link leads from here to /run.
    if parts.first() == Some(&"var") {
        parts.remove(0);
    }
    format!("/{}/", parts.join("/")).starts_with(&format!("{RUN_FOLDER}/"))
}

/// A version as a label's value: build metadata (`+…`) may not stand there.
fn label_value(version: &str) -> String {
    version
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || ".-_".contains(c) { c } else { '-' })
        .take(63)
        .collect()
}

fn malformed(field: &str) -> Refusal {
    Refusal::new(reason::MALFORMED, format!("the pod's field {field} is not of the shape Kubernetes says"))
}

/// The object under `key`, which must be there.
fn object<'a>(of: &'a mut Value, key: &str) -> Result<&'a mut Value, Refusal> {
    of.get_mut(key).filter(|value| value.is_object()).ok_or_else(|| malformed(key))
}

/// The object under `key`, made where there is none.
fn map<'a>(of: &'a mut Value, key: &str) -> Result<&'a mut Map<String, Value>, Refusal> {
    let parent = of.as_object_mut().ok_or_else(|| malformed(key))?;
    let value = parent.entry(key).or_insert(Value::Null);
    if value.is_null() {
        *value = json!({});
    }
    value.as_object_mut().ok_or_else(|| malformed(key))
}

/// The list under `key`, made where there is none.
fn list<'a>(of: &'a mut Value, key: &str) -> Result<&'a mut Vec<Value>, Refusal> {
    let parent = of.as_object_mut().ok_or_else(|| malformed(key))?;
    let value = parent.entry(key).or_insert(Value::Null);
    if value.is_null() {
        *value = json!([]);
    }
    value.as_array_mut().ok_or_else(|| malformed(key))
}
