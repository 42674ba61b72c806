//! The text formats of Prometheus and of OpenMetrics, which differ in a few words.

use std::fmt::Write as _;

use super::{Label, Metrics, Values, bounds_s, seconds};
use crate::outside::formats::label;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `text/plain; version=0.0.4`.
    Prometheus,
    /// `application/openmetrics-text; version=1.0.0`.
    OpenMetrics,
}

impl Dialect {
    /// The one that somebody understands who accepts this.
    pub fn accepted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// What the text says that it is.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// All metrics as text.
pub fn text(metrics: &Metrics, dialect: Dialect) -> String {
    let open = dialect == Dialect::OpenMetrics;
    let mut out = String::with_capacity(16 << 10);
    // OpenMetrics has the suffix of a counter at its values only, Prometheus at its name, too.
    let head = |out: &mut String, name: &str, kind: &str, help: &str| {
        let name = match kind {
            "counter" if !open => format!("{name}_total"),
            "info" if !open => format!("{name}_info"),
            _ => name.to_owned(),
        };
        let kind = if kind == "info" && !open { "gauge" } else { kind };
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        if open && name.ends_with("_seconds") {
            let _ = writeln!(out, "# UNIT {name} seconds");
        }
    };
    head(
        &mut out,
        "tracer",
        "info",
        "What is watched, and by which version.",
    );
    out.push_str("tracer_info{");
    for (at, (name, value)) in metrics.about.iter().enumerate() {
        let comma = if at > 0 { "," } else { "" };
        let _ = write!(out, "{comma}{name}=\"{}\"", label(value));
    }
    out.push_str("} 1\n");
    for family in &metrics.families {
        let name = family.name;
        match &family.values {
            Values::Counter(all) => {
                head(&mut out, name, "counter", family.help);
                for (label, value) in all {
                    let _ = writeln!(out, "{name}_total{} {value}", braces(*label, None));
                }
            }
            Values::Gauge(all) => {
                head(&mut out, name, "gauge", family.help);
                for (label, value) in all {
                    let _ = writeln!(out, "{name}{} {value}", braces(*label, None));
                }
            }
            Values::Seconds(all) => {
                head(&mut out, name, "histogram", family.help);
                for (label, one) in all {
                    let mut sum = 0;
                    let bounds = bounds_s().map(|bound| format!("{bound:?}"));
                    let bounds = bounds.iter().map(String::as_str).chain(["+Inf"]);
                    for (count, bound) in one.buckets.iter().zip(bounds) {
                        sum += count;
                        let _ = writeln!(out, "{name}_bucket{} {sum}", braces(*label, Some(bound)));
                    }
                    let braces = braces(*label, None);
                    let _ = writeln!(out, "{name}_sum{braces} {:?}", seconds(one.total_ns));
                    let _ = writeln!(out, "{name}_count{braces} {}", one.count);
                }
            }
        }
    }
    if open {
        out.push_str("# EOF\n");
    }
    out
}

fn braces(label: Label, bound: Option<&str>) -> String {
    let parts = label.map(|(name, value)| format!("{name}=\"{value}\""));
    let parts: Vec<String> = parts
        .into_iter()
        .chain(bound.map(|bound| format!("le=\"{bound}\"")))
        .collect();
    if parts.is_empty() {
        String::new()
    } else {
        format!("{{{}}}", parts.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::metrics::tests::sample;

    #[test]
    fn both_say_the_same_in_their_own_words() {
        let open = text(&sample(), Dialect::OpenMetrics);
        let plain = text(&sample(), Dialect::Prometheus);
        assert!(open.ends_with("# EOF\n") && !plain.contains("# EOF"));
        assert!(open.contains("# TYPE tracer_events counter\n"));
        assert!(plain.contains("# TYPE tracer_events_total counter\n"));
        assert!(open.contains("# UNIT tracer_wait_seconds seconds\n"));
        let value = "tracer_wait_seconds_bucket{lock=\"mmap_write\",le=\"1.024e-6\"} 0\n\
                     tracer_wait_seconds_bucket{lock=\"mmap_write\",le=\"4.096e-6\"} 1\n";
        assert!(open.contains(value) && plain.contains(value), "{open}");
        assert!(open.contains("host=\"a\\\"b\\\\c\\nd\"} 1\n"), "{open}");
    }

    #[test]
    fn who_accepts_it_gets_openmetrics() {
        let accept = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5";
        assert_eq!(Dialect::accepted(accept), Dialect::OpenMetrics);
        assert_eq!(Dialect::accepted("*/*"), Dialect::Prometheus);
    }
}
