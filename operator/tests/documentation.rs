//! `docs/resources.md` names every condition, every reason and every refusal there is.

use std::path::PathBuf;

fn text(path: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The values of the constants in `source`, from `begin` to the end of that module.
fn constants<'a>(source: &'a str, begin: &str) -> Vec<&'a str> {
    let start = source.find(begin).expect(begin);
    let module = &source[start..];
    let module = &module[..module.find("\n}").unwrap_or(module.len())];
    let lines = module.lines().filter(|line| line.trim_start().starts_with("pub const"));
    lines.filter_map(|line| line.split('"').nth(1)).collect()
}

#[test]
fn every_condition_reason_and_refusal_is_documented() {
    let (names, reasons) = (text("compliance/src/names.rs"), text("operator/src/reasons.rs"));
    let page = text("docs/resources.md");
    let mut all = constants(&names, "pub mod condition {");
    all.extend(constants(&names, "pub mod reason {"));
    all.extend(constants(&reasons, "pub const OUTBOUND_OFF"));
    all.extend(constants(&reasons, "pub mod refusal {"));
    assert!(all.len() > 40, "{all:?}");
    let missing: Vec<_> = all.into_iter().filter(|name| !page.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "not in docs/resources.md: {missing:?}");
}
