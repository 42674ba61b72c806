//! Whether the tests that `SECURITY.md` names are there.

use std::fs;

use super::{export_checks, guests};
use crate::ws;

/// What stands between backticks.
fn quoted(page: &str) -> impl Iterator<Item = &str> {
    page.split('`').skip(1).step_by(2)
}

/// Whether a check has that name, in which `*` stands for a kernel.
fn is_one(check: &str, name: &str) -> bool {
    let (check, name): (Vec<&str>, Vec<&str>) = (check.split('/').collect(), name.split('/').collect());
    let mut parts = check.iter().zip(&name);
    check.len() == name.len() && parts.all(|(check, name)| check == name || *name == "*")
}

#[test]
fn each_test_that_the_threat_model_names_exists() {
    let page = fs::read_to_string(ws::root().join("SECURITY.md")).unwrap();
    let checks: Vec<String> = export_checks::names("")
        .into_iter()
        .chain(guests::names(""))
        .collect();
    let mut named = 0;
    for name in quoted(&page) {
        if let Some((path, test)) = name.split_once(".rs: ") {
            let path = format!("{path}.rs");
            let text = fs::read_to_string(ws::root().join(&path)).unwrap_or_default();
            assert!(text.contains(&format!("fn {test}(")), "{path} has no test {test}");
        } else if ["vm/", "export/", "dist/"]
            .iter()
            .any(|start| name.starts_with(start))
            && name != "vm/KERNEL/SCENARIO/CHECK"
        {
            assert!(
                checks.iter().any(|check| is_one(check, name)),
                "no check is {name}"
            );
        } else {
            continue;
        }
        named += 1;
    }
    assert!(named > 40, "only {named} tests are named");
}
