//! Writes the definitions of our kinds as YAML, or checks that what is written is what the types say.
//!
//! `crds/yaml/*.yaml` are plain manifests; the chart's copies differ only in being templates that can be switched off and in
//! the annotation that makes Helm keep them when a release is removed, for removing a definition removes every object of it.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const NOTE: &str =
    "# Made from the types in crds/ by `cargo run -p cartulary-crds --bin crdgen -- --write`. Do not edit.\n";

fn main() -> ExitCode {
    // Asked when it runs: clones that share their build results must not look at each other's files.
    let folder =
        std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned());
    let files = files(Path::new(&folder));
    match std::env::args().nth(1).as_deref() {
        Some("--write") => write(&files),
        Some("--check") => check(&files),
        _ => {
            eprintln!("usage: crdgen --write | --check");
            ExitCode::from(2)
        }
    }
}

fn write(files: &[(PathBuf, String)]) -> ExitCode {
    for (path, content) in files {
        let folder = path.parent().unwrap_or(Path::new("."));
        if let Err(error) = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(path, content)) {
            eprintln!("cannot write {}: {error}", path.display());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn check(files: &[(PathBuf, String)]) -> ExitCode {
    let stale: Vec<_> = files
        .iter()
        .filter(|(path, content)| std::fs::read_to_string(path).ok().as_ref() != Some(content))
        .collect();
    for (path, _) in &stale {
        eprintln!(
            "{} is not what the types say: run `cargo run -p cartulary-crds --bin crdgen -- --write`",
            path.display()
        );
    }
    if stale.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn files(crate_folder: &Path) -> Vec<(PathBuf, String)> {
    let chart = crate_folder.join("../charts/cartulary/templates/crds");
    cartulary_crds::definitions()
        .into_iter()
        .flat_map(|definition| {
            let file = format!("{}.yaml", definition.spec.names.plural);
            let plain = yaml(&definition);
            let mut kept = definition;
            kept.metadata
                .annotations
                .get_or_insert_default()
                .insert("helm.sh/resource-policy".to_owned(), "keep".to_owned());
            let template =
                format!("{{{{- if .Values.crds.install }}}}\n{NOTE}{}{{{{- end }}}}\n", yaml(&kept));
            [(crate_folder.join("yaml").join(&file), format!("{NOTE}{plain}")), (chart.join(&file), template)]
        })
        .collect()
}

fn yaml(definition: &CustomResourceDefinition) -> String {
    // The types are ours and hold nothing that YAML cannot say.
    let text = serde_yaml_ng::to_string(definition).expect("a definition is plain data");
    assert!(!text.contains("{{"), "a doc comment would be taken for a template");
    text
}
