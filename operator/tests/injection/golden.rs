//! Each `golden/inject/NAME.pod.yaml` is an XMPPCluster's spec and a pod; beside it is what comes of it: `NAME.injected.yaml`,
//! the pod as it runs, or `NAME.refused.txt`, what whoever creates it reads.
//!
//! `UPDATE_GOLDEN=1 cargo test -p cartulary-operator --test injection` rewrites what is expected; read the difference.

use crate::{cluster, image};
use cartulary_operator::inject::inject;
use serde_json::Value;
use std::path::{Path, PathBuf};

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn files(ending: &str) -> Vec<(String, PathBuf)> {
    let folder = std::fs::read_dir(here("tests/golden/inject")).expect("golden files");
    let paths = folder.map(|entry| entry.expect("readable").path());
    let named = paths.filter_map(|path| {
        let name = path.file_name()?.to_str()?.strip_suffix(ending)?.to_owned();
        Some((name, path))
    });
    let mut named: Vec<_> = named.collect();
    named.sort();
    named
}

#[test]
fn ko_3_every_golden_pod_becomes_what_is_written_down() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let cases = files(".pod.yaml");
    for (name, path) in &cases {
        let source = text(path);
        assert!(source.starts_with("# "), "{name} says first what it is about");
        let mut documents = serde_yaml_ng::Deserializer::from_str(&source)
            .map(|document| <Value as serde::Deserialize>::deserialize(document).expect("YAML"));
        let spec = documents.next().expect("first the XMPPCluster's spec");
        let pod = documents.next().expect("then the pod");
        let (actual, ending) = match inject(&pod, &cluster(spec.clone()), &image()) {
            Ok(injected) => {
                let again = inject(&injected, &cluster(spec), &image());
                assert_eq!(again.as_ref(), Ok(&injected), "{name}: injecting twice is injecting once");
                (serde_yaml_ng::to_string(&injected).expect("YAML"), ".injected.yaml")
            }
            Err(refusal) => (format!("{refusal}\n"), ".refused.txt"),
        };
        let expected = path.with_file_name(format!("{name}{ending}"));
        if update {
            std::fs::write(&expected, &actual).expect("written");
        }
        assert_eq!(actual, text(&expected), "{name}");
    }
    let results = files(".injected.yaml").len() + files(".refused.txt").len();
    assert_eq!(results, cases.len(), "a file without the pod it comes of");
}

/// Refusals that are of no pod, or that one pod alone does not show, and the test that shows each with a real API server.
const WITH_API_SERVER: [(&str, &str); 9] = [
    ("CLUSTER_MISSING", "admission.rs"),
    ("CLUSTER_NOT_ACCEPTED", "admission.rs"),
    ("NOT_INJECTED", "policy.rs"),
    ("LABEL_FIXED", "policy.rs"),
    ("IMAGE_FIXED", "policy.rs"),
    ("PROFILE_IN_USE", "compliance.rs"),
    ("SERVER_IN_USE", "compliance.rs"),
    ("PROFILE_READ_ONLY", "compliance.rs"),
    ("DISPLAY_NAME_TAKEN", "compliance.rs"),
];

#[test]
fn ko_3_every_refusal_has_a_golden_file_or_a_test_and_a_row_in_the_docs() {
    let golden: Vec<_> = files(".refused.txt").iter().map(|(_, path)| text(path)).collect();
    let page = text(&here("../docs/resources.md"));
    let rows: Vec<_> = page.lines().filter(|line| line.starts_with("| `")).collect();
    let constants = refusals();
    assert!(constants.len() >= 16, "{constants:?}");
    for (constant, value) in constants {
        let shown = match WITH_API_SERVER.iter().find(|(name, _)| *name == constant) {
            Some((_, file)) => {
                text(&here("tests/control_plane").join(file)).contains(&format!("refusal::{constant}"))
            }
            None => golden.iter().any(|message| message.starts_with(&format!("{value}: "))),
        };
        assert!(shown, "no golden file or test shows {value}");
        assert!(rows.iter().any(|row| row.contains(&format!("`{value}`"))), "docs/resources.md: {value}");
    }
}

/// Name and value of each constant, from the source: a list kept beside them could lack one.
fn refusals() -> Vec<(String, String)> {
    let source = text(&here("src/reasons.rs"));
    let module = source.split("pub mod refusal {").nth(1).expect("the module").split("\n}").next();
    let constants = module.unwrap_or_default().lines().filter_map(|line| {
        let (name, value) = line.trim().strip_prefix("pub const ")?.split_once(": &str = \"")?;
        Some((name.to_owned(), value.trim_end_matches("\";").to_owned()))
    });
    constants.collect()
}
