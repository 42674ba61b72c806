//! Documents that repeat what the screen says must repeat it rightly.

use super::scene;
use super::{Bench, keys_of};
use crate::filter::Field;
use crate::tui::command::COMMANDS;
use crate::tui::keys::Keymap;
use crate::tui::snapshot::View;
use crate::tui::theme::Role;

fn page(name: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What stands between `<!-- NAME -->` and `<!-- end -->` of a page has to be `wanted`.
fn compare(name: &str, part: &str, wanted: &str) {
    let page = page(name);
    let begin = format!("<!-- {part} -->\n");
    let found = page
        .split_once(&begin)
        .and_then(|(_, rest)| rest.split_once("<!-- end -->"))
        .map(|(part, _)| part.trim());
    if std::env::var_os("TRACER_WRITE_DOCS").is_some() {
        let (before, rest) = page.split_once(&begin).unwrap();
        let (_, after) = rest.split_once("<!-- end -->").unwrap();
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("..")
            .join(name);
        std::fs::write(
            path,
            format!("{before}{begin}{}\n<!-- end -->{after}", wanted.trim()),
        )
        .unwrap();
        return;
    }
    assert_eq!(
        found,
        Some(wanted.trim()),
        "{name}: the part '{part}' is stale; TRACER_WRITE_DOCS=1 cargo test -p tracer documents writes it"
    );
}

/// Of a recording of a real kernel, when four tasks are stuck.
fn real_screenshot(view: View, keys: &str, width: u16, height: u16) -> String {
    let world = scene::stuck();
    let later_ns = scene::STUCK_NS - world.now_ns();
    screenshot_of(Bench::at(world, later_ns), view, keys, (width, height))
}

fn screenshot(view: View, keys: &str, width: u16, height: u16) -> String {
    let bench = Bench::at(scene::world(), 20_000_000);
    screenshot_of(bench, view, keys, (width, height))
}

fn screenshot_of(mut bench: Bench, view: View, keys: &str, (width, height): (u16, u16)) -> String {
    bench.app.show(view);
    bench.screen(width, height);
    for key in keys_of(keys) {
        bench.app.key(key, &bench.shot.clone());
        bench.screen(width, height);
    }
    // A row with an escape in it is there to show that escapes do no harm; a document need not show that.
    let screen = bench.screen(width, height);
    let lines: Vec<&str> = screen.lines().filter(|line| !line.contains("\\u{")).collect();
    format!("```text\n{}\n```", lines.join("\n"))
}

#[test]
fn the_page_about_the_screen_lists_all_there_is() {
    compare("docs/tui.md", "keys", &Keymap::default().document());
    let commands = COMMANDS.iter().map(|(name, argument, help)| {
        format!(
            "| `:{name}{}{argument}` | {help} |\n",
            if argument.is_empty() { "" } else { " " }
        )
    });
    compare(
        "docs/tui.md",
        "commands",
        &format!("| command | does |\n|---|---|\n{}", commands.collect::<String>()),
    );
    let fields = Field::ALL.map(|field| format!("| `{}` | {} |\n", field.name(), field.help()));
    compare(
        "docs/tui.md",
        "fields",
        &format!("| field | is |\n|---|---|\n{}", fields.concat()),
    );
    let roles = Role::ALL.map(|role| format!("`{}`", role.name()));
    compare("docs/tui.md", "roles", &roles.join(" "));
}

#[test]
fn screens_in_documents_are_those_that_are_drawn() {
    compare(
        "README.md",
        "screen",
        &real_screenshot(View::Overview, "", 100, 26),
    );
    compare(
        "docs/guide/slow-writer.md",
        "screen",
        &real_screenshot(View::Contention, "", 100, 18),
    );
    compare("docs/tui.md", "overview", &screenshot(View::Overview, "", 90, 26));
    compare(
        "docs/tui.md",
        "contention",
        &screenshot(View::Contention, "", 90, 16),
    );
    compare(
        "docs/tui.md",
        "vma",
        &screenshot(
            View::Space,
            "/pid=211<enter><enter>/lock=vma_read<enter><enter>",
            90,
            18,
        ),
    );
}
