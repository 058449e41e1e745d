//! The manual explains every metric a user can meet. (Conditions and reasons: `operator/tests/documentation.rs`.)

const NAMES: &str = include_str!("../../compliance/src/names.rs");
const MANUAL: &str = include_str!("../../docs/sidecar.md");

#[test]
fn every_metric_is_explained_in_the_manual() {
    let (_, metrics) = NAMES.split_once("pub mod metric {").expect("the metrics' names");
    let names: Vec<&str> = metrics.lines().filter_map(|line| line.split('"').nth(1)).collect();
    assert!(names.len() > 15, "only {names:?} were found: has compliance/src/names.rs another form now?");
    for name in names {
        let row = |suffix: &str| MANUAL.contains(&format!("| `{name}{suffix}` |"));
        assert!(row("") || row("_total"), "docs/sidecar.md has no row for `{name}`");
    }
}
