//! Documents that repeat what the code says must repeat it rightly.

use tracer_common::wire::{Body, Kind};

#[test]
fn the_wire_format_page_lists_every_kind() {
    let page = include_str!("../../docs/wire-format.md");
    for &kind in Kind::ALL {
        let body = match kind.body() {
            Body::Mmap => "mmap",
            Body::Vma => "vma",
        };
        let row = format!("| {} | `{}` | {body} |", kind as u8, kind.name());
        assert!(page.contains(&row), "docs/wire-format.md lacks the row {row}");
    }
}

#[test]
fn the_screen_in_the_readme_is_the_one_that_is_drawn() {
    let readme = include_str!("../../README.md");
    let drawn = include_str!("../src/sink/top/snapshots/tracer__sink__top__tests__table_80x24.snap");
    let rows = drawn
        .lines()
        .filter_map(|line| line.strip_prefix('"')?.strip_suffix('"'));
    // A row with an escape in it is there to show that escapes do no harm; a README need not show that.
    let rows: Vec<&str> = rows
        .map(str::trim_end)
        .filter(|row| !row.is_empty() && !row.contains("\\u{"))
        .collect();
    assert!(rows.len() > 5, "the snapshot has changed its form");
    for row in rows {
        assert!(
            readme.contains(row),
            "README.md lacks this row of the screen: {row}"
        );
    }
}
