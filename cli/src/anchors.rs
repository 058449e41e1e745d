//! `cartulary anchors`: what journals signed, as the operator keeps it in its own namespace, as one file that proves completeness
//! elsewhere; and where other commands get theirs from.
//!
//! The file is one line of JSON on standard output. What is missing stands on standard error. Signatures are not checked here: whoever
//! uses the file does.

use crate::Found;
use crate::args::{AnchorSource, AnchorsArgs};
use crate::kubernetes::Kubernetes;
use crate::output;
use crate::source::Source;
use anyhow::Context;
use cartulary_archive::anchors::{AnchorsFile, JournalAnchors};
use cartulary_compliance::names::{ANCHORS_KEY, label};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use kube::api::DynamicObject;
use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

/// Runs the command.
pub async fn run(args: AnchorsArgs) -> anyhow::Result<Found> {
    let kubernetes = Kubernetes::connect(&args.kube).await?;
    let system = &args.system.system_namespace;
    let (file, mut missing) = of_cluster(&kubernetes, args.cluster.as_deref(), system).await?;
    for cluster in kubernetes.list("XMPPCluster", false).await.unwrap_or_default() {
        if args.cluster.as_ref().is_none_or(|name| *name == cluster.name_any()) {
            missing.extend(unanchored(&cluster, &file));
        }
    }
    for missing in &missing {
        eprintln!("MISSING: {}", output::printable(missing));
    }
    let heads: usize = file.journals.iter().map(|journal| journal.heads.len()).sum();
    eprintln!("{} journals, {heads} signed heads.", file.journals.len());
    let mut out = output::stdout();
    output::json_line(&mut out, &file)?;
    out.flush()?;
    Ok(if file.journals.is_empty() || !missing.is_empty() { Found::Wrong } else { Found::Fine })
}

/// The anchors that the operator keeps of one XMPPCluster, or of all in the namespace, and what of them cannot be read.
pub async fn of_cluster(
    kubernetes: &Kubernetes,
    cluster: Option<&str>,
    system: &str,
) -> anyhow::Result<(AnchorsFile, Vec<String>)> {
    let namespace = &kubernetes.namespace;
    let mut labels = format!("{},{}={namespace}", label::ANCHORS, label::NAMESPACE);
    if let Some(cluster) = cluster {
        labels = format!("{labels},{}={cluster}", label::CLUSTER);
    }
    let maps = kubernetes.config_maps(system, &labels).await.with_context(|| {
        format!("cannot read the anchors in the operator's namespace '{system}' (--system-namespace)")
    })?;
    let mut file = AnchorsFile::default();
    let mut clusters: BTreeSet<String> =
        cluster.map(|name| format!("{namespace}/{name}")).into_iter().collect();
    let mut missing = Vec::new();
    for map in &maps {
        match journal_of(map) {
            Ok(journal) => {
                clusters.insert(journal.cluster.clone());
                file.merge(AnchorsFile { journals: vec![journal], ..AnchorsFile::default() });
            }
            Err(error) => missing.push(format!("ConfigMap {system}/{}: {error:#}", map.name_any())),
        }
    }
    file.clusters = clusters.into_iter().collect();
    Ok((file, missing))
}

/// The anchors a command is to use: from files, from the cluster it looks at, or none. Beside them, why some could not be had.
pub async fn given(
    args: &AnchorSource,
    source: &Source,
) -> anyhow::Result<(Option<AnchorsFile>, Vec<String>)> {
    if !args.anchors.is_empty() {
        let mut whole = AnchorsFile::default();
        for path in &args.anchors {
            whole
                .merge(read(path).with_context(|| format!("cannot read the anchors in {}", path.display()))?);
        }
        return Ok((Some(whole), Vec::new()));
    }
    let Source::Pods(pods) = source else { return Ok((None, Vec::new())) };
    match of_cluster(&pods.kubernetes, Some(&pods.name), &args.system.system_namespace).await {
        // Not anchored at all: an installation that keeps none, or a very young one.
        Ok((file, missing)) if file.journals.is_empty() && missing.is_empty() => Ok((None, Vec::new())),
        Ok((file, missing)) => Ok((Some(file), missing)),
        Err(error) => Ok((None, vec![format!("{error:#}")])),
    }
}

fn read(path: &Path) -> anyhow::Result<AnchorsFile> {
    if path == Path::new("-") {
        return Ok(AnchorsFile::read(std::io::stdin().lock())?);
    }
    let file = std::fs::File::open(path)?;
    Ok(AnchorsFile::read(std::io::BufReader::new(file))?)
}

fn journal_of(map: &ConfigMap) -> anyhow::Result<JournalAnchors> {
    let text = map
        .data
        .as_ref()
        .and_then(|data| data.get(ANCHORS_KEY))
        .with_context(|| format!("it has no key {ANCHORS_KEY}"))?;
    serde_json::from_str(text).context("what it holds are no anchors")
}

/// Journals of a cluster that the operator names in its status and of which no anchor is kept.
fn unanchored(cluster: &DynamicObject, file: &AnchorsFile) -> Vec<String> {
    let journals = cluster.data.pointer("/status/journals").and_then(|journals| journals.as_array());
    let text = |journal: &serde_json::Value, key: &str| {
        journal.get(key).and_then(|value| value.as_str()).unwrap_or_default().to_owned()
    };
    journals
        .into_iter()
        .flatten()
        .map(|journal| (text(journal, "pod"), text(journal, "journal")))
        .filter(|(_, id)| {
            !file.journals.iter().any(|anchored| anchored.journal == *id && !anchored.heads.is_empty())
        })
        .map(|(pod, id)| match id.as_str() {
            "" => format!("pod {pod}: its journal is not known yet"),
            id => format!("pod {pod}: its journal {id} is not anchored yet"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn journals_that_the_status_names_and_nobody_anchored_are_missing() {
        let cluster: DynamicObject = serde_json::from_value(json!({"metadata": {"name": "chat"}, "status": {"journals": [
            {"pod": "a", "journal": "1", "state": "InUse"}, {"pod": "b", "journal": "2", "state": "Left"}, {"pod": "c", "state": "InUse"}
        ]}}))
        .expect("an object");
        let journal = JournalAnchors {
            journal: "1".into(),
            node: "a".into(),
            cluster: "chat/chat".into(),
            public_key: String::new(),
            heads: vec![Default::default()],
        };
        let file = AnchorsFile { journals: vec![journal], ..Default::default() };
        let missing = unanchored(&cluster, &file);
        assert_eq!(missing.len(), 2, "{missing:?}");
        assert!(missing[0].contains("pod b") && missing[1].contains("pod c"), "{missing:?}");
        assert!(unanchored(&cluster, &AnchorsFile::default()).len() == 3);
    }

    #[test]
    fn a_config_map_without_anchors_is_told_and_not_passed_over() {
        let map = |data| serde_json::from_value::<ConfigMap>(json!({"data": data})).expect("a ConfigMap");
        for (data, why) in [(json!({}), "no key anchors.json"), (json!({"anchors.json": "{}"}), "no anchors")]
        {
            let error = format!("{:#}", journal_of(&map(data)).expect_err(why));
            assert!(error.contains(why), "{error}");
        }
        let text =
            json!({"journal": "j", "node": "n", "cluster": "c/c", "publicKey": "", "heads": []}).to_string();
        assert_eq!(journal_of(&map(json!({"anchors.json": text}))).expect("anchors").journal, "j");
    }
}
