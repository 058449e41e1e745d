//! The manual explains every name a user can meet.

const NAMES: &str = include_str!("../../compliance/src/names.rs");
const MANUAL: &str = include_str!("../../docs/operate.md");

#[test]
fn every_condition_reason_and_metric_is_explained_in_the_manual() {
    let mut module = "";
    let mut found = 0;
    for line in NAMES.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("pub mod ") {
            module = name.trim_end_matches([' ', '{']);
        }
        let Some((_, value)) = line.strip_prefix("pub const ").and_then(|line| line.split_once("&str = \""))
        else {
            continue;
        };
        if !matches!(module, "condition" | "reason" | "metric") {
            continue;
        }
        let value = value.trim_end_matches("\";");
        found += 1;
        assert!(
            MANUAL.contains(&format!("| `{value}` |")),
            "docs/operate.md has no row for `{value}` ({module})"
        );
    }
    assert!(found > 40, "only {found} names were found: has compliance/src/names.rs another form now?");
}
