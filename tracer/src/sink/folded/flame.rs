//! A flame graph as one SVG without any script: names and times are shown by the browser itself when pointed at.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::outside::formats::markup as escape;

const WIDTH: f64 = 1200.0;
const ROW: f64 = 17.0;
const TOP: f64 = 40.0;
/// What is narrower than this many pixels is left out, as nobody could see it.
const NARROWEST: f64 = 0.3;
/// Width of a letter, about.
const LETTER: f64 = 6.6;

/// A frame, with all that was called from it.
#[derive(Default)]
struct Node<'a> {
    total: u64,
    children: BTreeMap<&'a str, Node<'a>>,
}

/// Draws folded lines with their times in nanoseconds.
pub(super) fn draw<'a>(title: &str, lines: impl Iterator<Item = (&'a str, u64)>) -> String {
    let mut root = Node::default();
    for (line, ns) in lines {
        root.total += ns;
        let mut node = &mut root;
        for frame in line.split(';') {
            node = node.children.entry(frame).or_default();
            node.total += ns;
        }
    }
    let height = TOP + ROW * (depth(&root) + 1) as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"monospace\" font-size=\"11\">\n<title>{title}</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"{:.0}\" y=\"24\" font-size=\"15\" text-anchor=\"middle\">{title}</text>\n",
        WIDTH / 2.0
    );
    let total = root.total;
    shape(&mut svg, "all", &root, 0.0, 0, total.max(1));
    svg.push_str("</svg>\n");
    svg
}

fn depth(node: &Node<'_>) -> usize {
    node.children
        .values()
        .map(|child| 1 + depth(child))
        .max()
        .unwrap_or(0)
}

#[expect(clippy::cast_precision_loss, reason = "pixels")]
fn shape(svg: &mut String, name: &str, node: &Node<'_>, x: f64, level: usize, all: u64) {
    let width = node.total as f64 / all as f64 * WIDTH;
    if width < NARROWEST {
        return;
    }
    let y = TOP + ROW * level as f64;
    let part = node.total as f64 / all as f64 * 100.0;
    let name = escape(name);
    // Alike for the same name, warm for the program and cool for the kernel.
    let hue = name
        .bytes()
        .fold(7u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()))
        % 40;
    let hue = if name.ends_with("_[k]") {
        180 + hue
    } else {
        10 + hue
    };
    let _ = write!(
        svg,
        "<g><title>{name}: {}, {part:.2} %</title><rect x=\"{x:.1}\" y=\"{y:.0}\" width=\"{width:.1}\" height=\"{:.0}\" \
         rx=\"2\" fill=\"hsl({hue},75%,70%)\" stroke=\"#fff\" stroke-width=\".5\"/>",
        crate::sink::text::duration(node.total),
        ROW - 1.0
    );
    let room = ((width - 6.0) / LETTER).max(0.0) as usize;
    if room >= 3 {
        let shown: String = if name.chars().count() > room && !name.contains('&') {
            name.chars().take(room - 1).chain(['…']).collect()
        } else if name.chars().count() > room {
            String::new()
        } else {
            name
        };
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.0}\">{shown}</text>",
            x + 3.0,
            y + 12.0
        );
    }
    svg.push_str("</g>\n");
    let mut x = x;
    for (name, child) in &node.children {
        shape(svg, name, child, x, level + 1, all);
        x += child.total as f64 / all as f64 * WIDTH;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_are_shares_of_the_time() {
        let svg = draw("t", [("a;b", 30), ("a;c_[k]", 10), ("d", 60)].into_iter());
        assert!(
            svg.contains("<title>a: 40 ns, 40.00 %</title><rect x=\"0.0\""),
            "{svg}"
        );
        assert!(
            svg.contains("<title>d: 60 ns, 60.00 %</title><rect x=\"480.0\""),
            "{svg}"
        );
        assert_eq!(svg.matches("<rect x=").count(), 5);
    }

    #[test]
    fn names_are_text_and_nothing_else() {
        let svg = draw("t", [("<script>alert(1)</script>;\"&'", 1)].into_iter());
        assert!(!svg.contains("<script"));
        assert!(svg.contains("&lt;script&gt;"));
    }

    #[test]
    fn nothing_is_an_empty_picture() {
        assert!(draw("t", [].into_iter()).ends_with("</svg>\n"));
    }
}
