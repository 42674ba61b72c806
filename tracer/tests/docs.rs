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
