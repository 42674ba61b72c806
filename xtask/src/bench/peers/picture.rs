//! The picture of a run: for each operation a bar for everybody who looked, made of the JSON of the run and of nothing
//! else. Written by hand, since it is rectangles and words: a drawing library would be larger than it.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::super::turns::whole;

const WIDTH: f64 = 960.0;
/// Where bars begin, and how long the longest is.
const LEFT: f64 = 250.0;
const LONGEST: f64 = 480.0;
/// From one bar to the next.
const LINE: f64 = 22.0;
const BAR: f64 = 14.0;
/// Above the bars of an operation: its name, and the numbers of the scale.
const HEAD: f64 = 62.0;

/// No font and no colour comes from elsewhere; both follow who looks at it.
const STYLE: &str = "\
    text { font: 13px system-ui, sans-serif; fill: #1f2328; }
    .name { text-anchor: end; }
    .head { font-weight: 600; font-size: 15px; }
    .dim { fill: #59636e; font-size: 12px; }
    .tick { text-anchor: middle; }
    .line { stroke: #d1d9e0; stroke-width: 1; }
    .ours { fill: #0969da; }
    .peer { fill: #9a6700; }
    .limit { fill: #1a7f37; }
    .all { opacity: 0.3; }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3; }
      .dim { fill: #9198a1; }
      .line { stroke: #3d444d; }
      .ours { fill: #4493f8; }
      .peer { fill: #d29922; }
      .limit { fill: #3fb950; }
    }
";

/// One bar.
struct Bar<'a> {
    label: &'a str,
    side: &'a str,
    /// Instructions that it adds to the thread that is looked at, and to everybody.
    added: f64,
    everybody: f64,
    sees: bool,
    missed: bool,
    by_limit: Option<f64>,
}

/// Draws what `peers.json` says.
pub(super) fn svg(figures: &Value) -> Result<String> {
    let operations = figures["operations"].as_object().context("no operations")?;
    let observers = figures["observers"].as_array().context("no observers")?;
    let mut body = String::new();
    let mut top = 76.0;
    for (name, operation) in operations {
        let bars: Vec<Bar<'_>> = observers.iter().filter_map(|one| bar(one, name)).collect();
        let label = operation["label"].as_str().unwrap_or(name);
        let untraced = operation["instructions"].as_f64().context("no instructions")?;
        panel(
            &mut body,
            top,
            &format!("{label}: {} instructions untraced", whole(untraced)),
            &bars,
        );
        top += HEAD + LINE * bars.len() as f64 + 18.0;
    }
    for one in observers {
        let Some(why) = one["refused"].as_str() else {
            continue;
        };
        let label = one["label"].as_str().unwrap_or_default();
        let last = why.lines().last().unwrap_or_default();
        let short: String = last.chars().take(110).collect();
        text(
            &mut body,
            20.0,
            top + 14.0,
            "dim",
            &format!("{label} did not run: {short}"),
        );
        top += LINE;
    }
    let kernel = figures["kernel"].as_str().unwrap_or_default();
    let peers = figures["peers"].as_array().into_iter().flatten();
    let peers: Vec<&str> = peers.filter_map(Value::as_str).collect();
    for line in [
        "Dark: added to the thread that does it; pale: to everybody on the one CPU, the reader of the events included.".to_owned(),
        "Blind: it cannot see this operation's lock. × limit: by an event of 96 bytes, reserved and submitted at the same places.".to_owned(),
        format!("Linux {kernel} guest, 1 instruction = 1 ns (QEMU -icount); {}", peers.join(", ")),
    ] {
        text(&mut body, 20.0, top + 14.0, "dim", &line);
        top += 18.0;
    }
    let height = top + 12.0;
    Ok(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-label=\"Instructions that tracers add to an operation\">\n  <style>\n{STYLE}  </style>\n\
         {}{body}</svg>\n",
        legend()
    ))
}

/// What an observer adds to an operation.
fn bar<'a>(one: &'a Value, operation: &str) -> Option<Bar<'a>> {
    let of = one["operations"].get(operation)?;
    let missed = &one["missed"]["counted"];
    let some = |name: &str| missed[name].as_u64().unwrap_or(0) > 0;
    Some(Bar {
        label: one["label"].as_str()?,
        side: one["side"].as_str()?,
        added: of["added"].as_f64()?,
        everybody: of["added_everybody"].as_f64()?,
        sees: of["sees"] == true,
        missed: some("mmap_lock") || some("faults") || some("lost"),
        by_limit: of["by_limit"].as_f64(),
    })
}

fn legend() -> String {
    let mut out = String::new();
    text(
        &mut out,
        20.0,
        28.0,
        "head",
        "Instructions that looking adds to an operation: less is better",
    );
    for (at, (side, label)) in [
        ("ours", "tracer"),
        ("peer", "others"),
        ("limit", "the least that a probe can do"),
    ]
    .into_iter()
    .enumerate()
    {
        let x = 20.0 + 110.0 * at as f64;
        rectangle(&mut out, x, 44.0, 12.0, side);
        text(&mut out, x + 18.0, 56.0, "dim", label);
    }
    out
}

fn panel(out: &mut String, top: f64, head: &str, bars: &[Bar<'_>]) {
    text(out, 20.0, top + 22.0, "head", head);
    let most = bars
        .iter()
        .map(|bar| bar.everybody.max(bar.added))
        .fold(1.0, f64::max);
    let step = step(most);
    let scale = LONGEST / most;
    let bottom = top + HEAD + LINE * bars.len() as f64;
    let mut tick = 0.0;
    while tick <= most {
        let x = LEFT + tick * scale;
        let _ = writeln!(
            out,
            "  <line class=\"line\" x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\"/>",
            top + HEAD - 8.0
        );
        text(out, x, top + HEAD - 14.0, "dim tick", &whole(tick));
        tick += step;
    }
    for (at, bar) in bars.iter().enumerate() {
        let y = top + HEAD + LINE * at as f64;
        text(out, LEFT - 8.0, y + 12.0, "name", bar.label);
        let width = |instructions: f64| (instructions * scale).max(0.0);
        rectangle(out, LEFT, y, width(bar.everybody), &format!("{} all", bar.side));
        rectangle(out, LEFT, y, width(bar.added), bar.side);
        let longest = width(bar.everybody.max(bar.added));
        text(out, LEFT + longest + 6.0, y + 12.0, "dim", &said(bar));
    }
}

/// What stands beside a bar.
fn said(bar: &Bar<'_>) -> String {
    let mut said = format!("{} ({} everybody)", whole(bar.added), whole(bar.everybody));
    if !bar.sees {
        said += ", blind";
    } else if let Some(ratio) = bar.by_limit {
        let _ = write!(said, ", {ratio:.1} × limit");
    }
    if bar.missed {
        said += ", lost some";
    }
    said
}

/// Round numbers, four to eight of them.
fn step(most: f64) -> f64 {
    let ten = 10_f64.powf((most / 8.0).log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .map(|times| times * ten)
        .into_iter()
        .find(|step| most / step <= 8.0)
        .unwrap_or(10.0 * ten)
}

fn rectangle(out: &mut String, x: f64, y: f64, width: f64, class: &str) {
    let _ = writeln!(
        out,
        "  <rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR}\"/>"
    );
}

fn text(out: &mut String, x: f64, y: f64, class: &str, said: &str) {
    let said = said
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    let _ = writeln!(
        out,
        "  <text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{said}</text>"
    );
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::ws;

    #[test]
    fn the_picture_in_the_documents_is_that_of_the_run() {
        let file = |name: &str| {
            let file = ws::root().join("docs/benchmarks").join(name);
            std::fs::read_to_string(&file).unwrap()
        };
        let figures: Value = serde_json::from_str(&file("peers.json")).unwrap();
        assert!(
            svg(&figures).unwrap() == file("peers.svg"),
            "docs/benchmarks/peers.svg is not made of peers.json: cargo xtask bench peers --svg"
        );
    }

    #[test]
    fn a_bar_is_as_long_as_its_number() {
        let observer = |label: &str, added: u64, sees: bool| {
            json!({"label": label, "side": "peer", "missed": {"counted": {"lost": 0}}, "operations":
                {"fault": {"added": added, "added_everybody": added, "sees": sees, "by_limit": 1.5}}})
        };
        let figures = json!({
            "operations": {"fault": {"label": "page fault", "instructions": 7000.0}},
            "observers": [observer("a", 1000, true), observer("b & c", 500, false),
                {"label": "d", "side": "peer", "operations": {}, "refused": "x\nno such kernel <1>"}],
        });
        let drawn = svg(&figures).unwrap();
        assert!(
            drawn.contains("width=\"480.0\"") && drawn.contains("width=\"240.0\""),
            "{drawn}"
        );
        assert!(drawn.contains("b &amp; c") && drawn.contains("blind"), "{drawn}");
        assert!(
            drawn.contains("d did not run: no such kernel &lt;1&gt;"),
            "{drawn}"
        );
        assert!(svg(&json!({})).is_err());
    }

    #[test]
    fn scales_have_round_numbers() {
        assert_eq!(
            [1000.0, 850.0, 12_000.0, 7.0].map(step),
            [200.0, 200.0, 2000.0, 1.0]
        );
    }
}
