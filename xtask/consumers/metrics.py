"""Starts `tracer serve` on a recording: Prometheus scrapes it, and what a collector is pushed is decoded.

metrics.py TRACER RECORDING STATS PROMTOOL PROMETHEUS SCRATCH
"""

import http.server
import json
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request

from google.protobuf import json_format
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from prometheus_client.openmetrics import parser

tracer, recording, stats, promtool, prometheus, scratch = sys.argv[1:]
stats = json.load(open(stats))
scratch = pathlib.Path(scratch)
pushed = []


class Collector(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        pushed.append((self.path, self.headers["content-type"], body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


collector = http.server.HTTPServer(("127.0.0.1", 0), Collector)
threading.Thread(target=collector.serve_forever, daemon=True).start()
server = subprocess.Popen(
    [tracer, "serve", "--listen", "127.0.0.1:0", "--file", recording,
     "--otlp", f"http://127.0.0.1:{collector.server_port}", "--otlp-every", "200ms"],
    stderr=subprocess.PIPE, text=True,
)
try:
    address = None
    for line in server.stderr:
        found = re.search(r"serving (http://127\.0\.0\.1:\d+/metrics)", line)
        address = found.group(1) if found else address
        if "read to its end" in line:
            break
    assert address, "it says no address"

    def fetch(accept):
        request = urllib.request.Request(address, headers={"Accept": accept})
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.headers["content-type"], answer.read().decode()

    # By Prometheus's own linter: names, units, help, types.
    kind, plain = fetch("text/plain")
    assert kind.startswith("text/plain; version=0.0.4"), kind
    checked = subprocess.run([promtool, "check", "metrics"], input=plain, text=True, capture_output=True)
    assert checked.returncode == 0 and not checked.stderr.strip(), checked.stdout + checked.stderr

    # By the strict parser of the client library.
    kind, text = fetch("application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text"), kind
    families = {family.name: family for family in parser.text_string_to_metric_families(text)}

    def samples(name, suffix, label):
        return {s.labels[label]: s.value for s in families[name].samples if s.name == name + suffix}

    assert samples("tracer_events", "_total", "kind") == stats["events"]["by_kind"]
    for name, key in (("tracer_wait_seconds", "waits"), ("tracer_hold_seconds", "holds")):
        assert families[name].unit == "seconds"
        expected = stats[key]
        assert samples(name, "_count", "lock") == {lock: one["count"] for lock, one in expected.items()}
        for lock, total in samples(name, "_sum", "lock").items():
            assert abs(total - expected[lock]["total_ns"] / 1e9) < 1e-9, (lock, total)
    lost = samples("tracer_lost_events", "_total", "cause")
    assert lost["missing"] == stats["events"]["missing"] and lost["ring_full"] == stats["events"]["dropped"]
    assert text.count("\n") < 400, "too many series"

    # By Prometheus itself, which scrapes and answers questions.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    target = urllib.parse.urlsplit(address).netloc
    config = scratch / "prometheus.json"
    config.write_text(json.dumps({
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [{"job_name": "tracer", "static_configs": [{"targets": [target]}]}],
    }))
    scraper = subprocess.Popen(
        [prometheus, f"--config.file={config}", f"--storage.tsdb.path={scratch / 'prometheus'}",
         f"--web.listen-address=127.0.0.1:{port}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )

    def query(expression):
        """By the labels that are left, all in one string."""
        asked = f"http://127.0.0.1:{port}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(asked, timeout=20) as answer:
            found = json.load(answer)["data"]["result"]
        return {" ".join(sorted(one["metric"].values())): float(one["value"][1]) for one in found}

    try:
        until = time.monotonic() + 60
        while True:
            try:
                if query('up{job="tracer"} == 1'):
                    break
            except OSError:
                # It does not listen yet.
                assert scraper.poll() is None, "Prometheus ended at once"
            assert time.monotonic() < until, "Prometheus does not find what is served"
            time.sleep(0.3)
        assert sum(query("sum by (kind) (tracer_events_total)").values()) == stats["events"]["total"]
        waited = query("sum by (lock) (tracer_wait_seconds_count)")
        assert waited == {lock: one["count"] for lock, one in stats["waits"].items()}, waited
        half = query("histogram_quantile(0.5, sum by (le) (tracer_hold_seconds_bucket))")
        assert list(half) == [""] and 0 < half[""] < 1, half
    finally:
        scraper.terminate()
        scraper.wait(30)

    server.send_signal(signal.SIGINT)
    rest = server.stderr.read()
    assert server.wait(20) == 0, rest
finally:
    server.kill()
    server.wait()

assert len(pushed) >= 1, "nothing was pushed"
path, kind, body = pushed[-1]
assert path == "/v1/metrics" and kind == "application/json", (path, kind)
request = json_format.Parse(body, ExportMetricsServiceRequest())
(resource,) = request.resource_metrics
about = {attribute.key: attribute.value.string_value for attribute in resource.resource.attributes}
assert about["service.name"] == "tracer" and about["host.name"] == "host<a>/1", about
metrics = {metric.name: metric for metric in resource.scope_metrics[0].metrics}
events = metrics["tracer.events"].sum
assert events.is_monotonic and events.aggregation_temporality == 2
assert sum(point.as_int for point in events.data_points) == stats["events"]["total"]
waits = metrics["tracer.wait"]
assert waits.unit == "s"
for point in waits.histogram.data_points:
    assert len(point.bucket_counts) == len(point.explicit_bounds) + 1
    assert sum(point.bucket_counts) == point.count
    assert 0 < point.start_time_unix_nano < point.time_unix_nano
assert sum(point.count for point in waits.histogram.data_points) == sum(one["count"] for one in stats["waits"].values())
