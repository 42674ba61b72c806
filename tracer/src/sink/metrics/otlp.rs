//! The body of an OTLP/HTTP request, `ExportMetricsServiceRequest`, in its JSON encoding.

use serde_json::{Value, json};

use super::{Label, Metrics, Values, bounds_s, seconds};
use crate::outside::plain;

/// Since the beginning, not since the last time.
const CUMULATIVE: u32 = 2;

/// All metrics at `now_ns`, in nanoseconds since 1970.
pub fn otlp(metrics: &Metrics, now_ns: u64) -> Value {
    let about = |name: &str| {
        let found = metrics.about.iter().find(|(known, _)| *known == name);
        found.map_or(String::new(), |(_, value)| plain(value).into_owned())
    };
    let version = about("version");
    let attribute = |name: &str, value: String| json!({"key": name, "value": {"stringValue": value}});
    let all: Vec<Value> = metrics
        .families
        .iter()
        .map(|family| one(family, metrics.start_ns, now_ns))
        .collect();
    json!({"resourceMetrics": [{
        "resource": {"attributes": [
            attribute("service.name", "tracer".to_owned()),
            attribute("service.version", version.clone()),
            attribute("host.name", about("host")),
            attribute("os.type", "linux".to_owned()),
            attribute("os.version", about("kernel")),
        ]},
        "scopeMetrics": [{"scope": {"name": "tracer", "version": version}, "metrics": all}],
    }]})
}

fn one(family: &super::Family, start_ns: u64, now_ns: u64) -> Value {
    // 64-bit numbers are strings, as JSON of protocol buffers has it.
    let point = |label: &Label| {
        let attributes: Vec<Value> = label
            .iter()
            .map(|(name, value)| json!({"key": name, "value": {"stringValue": value}}))
            .collect();
        json!({"attributes": attributes, "startTimeUnixNano": start_ns.to_string(), "timeUnixNano": now_ns.to_string()})
    };
    let with = |mut point: Value, more: Value| {
        if let (Value::Object(point), Value::Object(more)) = (&mut point, more) {
            point.extend(more);
        }
        point
    };
    let numbers = |all: &[(Label, u64)]| -> Vec<Value> {
        all.iter()
            .map(|(label, value)| with(point(label), json!({"asInt": value.to_string()})))
            .collect()
    };
    // Its own names have dots, and no unit.
    let name = family
        .name
        .trim_end_matches("_seconds")
        .replacen("tracer_", "tracer.", 1);
    let mut metric = json!({"name": name, "description": family.help});
    match &family.values {
        Values::Counter(all) => {
            metric["unit"] = json!("1");
            metric["sum"] = json!({
                "aggregationTemporality": CUMULATIVE, "isMonotonic": true, "dataPoints": numbers(all),
            });
        }
        Values::Gauge(all) => {
            metric["unit"] = json!("1");
            metric["gauge"] = json!({"dataPoints": numbers(all)});
        }
        Values::Seconds(all) => {
            let points: Vec<Value> = all
                .iter()
                .map(|(label, one)| {
                    let buckets: Vec<String> = one.buckets.iter().map(u64::to_string).collect();
                    let more = json!({
                        "count": one.count.to_string(), "sum": seconds(one.total_ns),
                        "bucketCounts": buckets, "explicitBounds": bounds_s(),
                    });
                    with(point(label), more)
                })
                .collect();
            metric["unit"] = json!("s");
            metric["histogram"] = json!({"aggregationTemporality": CUMULATIVE, "dataPoints": points});
        }
    }
    metric
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::metrics::tests::sample;

    #[test]
    fn a_histogram_has_one_bucket_more_than_bounds() {
        let body = otlp(&sample(), 5);
        let metrics = body.pointer("/resourceMetrics/0/scopeMetrics/0/metrics").unwrap();
        let waits = metrics
            .as_array()
            .unwrap()
            .iter()
            .find(|metric| metric["name"] == "tracer.wait");
        let point = &waits.unwrap()["histogram"]["dataPoints"][1];
        assert_eq!(
            point["bucketCounts"].as_array().unwrap().len(),
            point["explicitBounds"].as_array().unwrap().len() + 1
        );
        assert_eq!(point["count"], "1");
    }
}
