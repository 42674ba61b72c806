//! The pictures: shapes with titles, placed by attributes alone, since styles in place would need a weaker policy.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::timeline::{Bar, Longest, Step, Timeline};
use crate::outside::{self, formats::markup};
use crate::sink::text;
use crate::state::{Histogram, Lock, What};

const WIDTH: f64 = 1000.0;
/// Tasks with a row in the timeline.
const ROWS: usize = 60;
/// Waits and holds in one row: the longest.
const BARS: usize = 400;

/// The curves above the timeline.
#[expect(clippy::cast_precision_loss, reason = "pixels")]
pub(super) fn rates(page: &mut String, timeline: &Timeline, length_ns: u64) {
    type Value = fn(&Step) -> u64;
    let curves: [(&str, &str, Value); 4] = [
        ("events", "events", |step| step.events),
        ("waited", "time waited for others", |step| step.waited_ns),
        ("failed", "failed look-ups", |step| step.failed),
        ("lost", "lost events", |step| step.lost),
    ];
    for (class, name, value) in curves {
        let most = timeline.steps.iter().map(value).max().unwrap_or(0);
        if most == 0 && class != "events" {
            continue;
        }
        let shown = if class == "waited" {
            text::duration(most)
        } else {
            text::count(most)
        };
        let step = text::duration(timeline.step_ns);
        let _ = write!(
            page,
            "<div class=\"row\"><span>{name} <span class=\"faint\">up to {shown} in {step}</span></span>\
             <svg class=\"lane rate\" viewBox=\"0 0 1000 20\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{name}\">\
             <path class=\"{class}\" d=\"M0 20"
        );
        let width = timeline.step_ns as f64 / length_ns.max(1) as f64 * WIDTH;
        for (at, one) in timeline.steps.iter().enumerate() {
            let height = 20.0 - value(one) as f64 / most.max(1) as f64 * 19.0;
            let x = at as f64 * width;
            let _ = write!(page, "L{x:.3} {height:.2}L{:.3} {height:.2}", x + width);
        }
        page.push_str("V20Z\"/></svg></div>\n");
    }
}

/// A row for each task that waited or held longest.
pub(super) fn tasks(page: &mut String, longest: &Longest, start_ns: u64, length_ns: u64) {
    let mut by_task: HashMap<(u32, u32), (u64, Vec<&Bar>)> = HashMap::new();
    for bar in longest.bars() {
        let task = by_task.entry((bar.pid, bar.tid)).or_default();
        // What others wait for counts for more than what nobody notices.
        let weight = if bar.what == What::Hold { 1 } else { 2 };
        task.0 = task.0.saturating_add(bar.ns.saturating_mul(weight));
        task.1.push(bar);
    }
    let mut rows: Vec<_> = by_task.into_iter().collect();
    rows.sort_by_key(|(task, (weight, _))| (core::cmp::Reverse(*weight), *task));
    for ((pid, tid), (_, mut bars)) in rows.into_iter().take(ROWS) {
        bars.sort_by_key(|bar| core::cmp::Reverse(**bar));
        bars.truncate(BARS);
        let comm = outside::name(&bars[0].comm);
        let _ = write!(
            page,
            "<div class=\"row\" data-task=\"{tid} {pid} {0}\"><span title=\"thread {tid} of process {pid}\">{tid} {0}</span>\
             <svg class=\"lane\" viewBox=\"0 0 1000 20\" preserveAspectRatio=\"none\">",
            markup(&comm)
        );
        for bar in bars {
            shape(page, bar, start_ns, length_ns);
        }
        page.push_str("</svg></div>\n");
    }
}

#[expect(clippy::cast_precision_loss, reason = "pixels")]
fn shape(page: &mut String, bar: &Bar, start_ns: u64, length_ns: u64) {
    let scale = WIDTH / length_ns.max(1) as f64;
    let since = bar.begin_ns.saturating_sub(start_ns);
    let (class, verb, y) = match (bar.what, bar.lock) {
        (What::Hold, Lock::MmapRead | Lock::VmaRead) => ("hold", "held", 10),
        (What::Hold, Lock::MmapWrite | Lock::VmaWrite) => ("write", "held", 10),
        (What::Wait, _) => ("wait", "waited for", 0),
        (What::GaveUp, _) => ("wait", "waited in vain for", 0),
    };
    let _ = write!(
        page,
        "<rect class=\"{class}\" x=\"{:.5}\" y=\"{y}\" width=\"{:.5}\" height=\"10\"><title>{verb} {} {}, at {}, {}",
        since as f64 * scale,
        // So that even the shortest can be seen and pointed at.
        (bar.ns as f64 * scale).max(0.02),
        bar.lock.name(),
        text::duration(bar.ns),
        text::duration(since),
        bar.how.name(),
    );
    if bar.holder != 0 {
        let _ = write!(page, ", given back by thread {}", bar.holder);
    }
    page.push_str("</title></rect>");
}

/// Durations by size, a bar for each doubling.
#[expect(clippy::cast_precision_loss, reason = "pixels")]
pub(super) fn histogram(page: &mut String, title: &str, histogram: &Histogram) {
    if histogram.count() == 0 {
        return;
    }
    let mut doublings = [0u64; 64];
    for (low, _, count) in histogram.buckets() {
        doublings[low.max(1).ilog2() as usize] += count;
    }
    let first = doublings.iter().position(|&count| count > 0).unwrap_or(0);
    let last = doublings.iter().rposition(|&count| count > 0).unwrap_or(0);
    let most = doublings.iter().copied().max().unwrap_or(1).max(1);
    let bars = (last - first + 1) as f64;
    let width = (WIDTH / bars).min(60.0);
    let _ = write!(
        page,
        "<figure><figcaption>{title}: {}, {} to {}</figcaption>\
         <svg class=\"histogram\" viewBox=\"0 0 1000 110\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{title}\">",
        text::count(histogram.count()),
        text::duration(1 << first),
        text::duration(histogram.max_ns()),
    );
    for (at, &count) in doublings[first..=last].iter().enumerate() {
        // The square root, so that the rare long ones are seen beside the many short ones.
        let height = (count as f64 / most as f64).sqrt() * 100.0;
        let low = 1u64 << (first + at);
        let _ = write!(
            page,
            "<rect class=\"bar\" x=\"{:.1}\" y=\"{:.2}\" width=\"{:.1}\" height=\"{height:.2}\"><title>{} to {}: {}</title></rect>",
            at as f64 * width,
            110.0 - height,
            width - 2.0,
            text::duration(low),
            text::duration(low.saturating_mul(2)),
            text::count(count),
        );
    }
    page.push_str("</svg></figure>\n");
}
