//! What tracer exports, and what its bill of materials says, read by programs that nobody here wrote.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::report::Report;
use crate::{build, consumers, dist, ui, ws};

/// What the checks work on.
struct Place {
    tracer: PathBuf,
    /// A recording with everything in it that a consumer might trip over.
    sample: PathBuf,
    scratch: ws::Scratch,
}

type Check = (&'static str, fn(&Place) -> Result<()>);

const CHECKS: &[Check] = &[
    ("export/jsonl/jsonschema", jsonl),
    ("export/csv/python+duckdb", csv),
    ("export/perfetto/python-protos", perfetto),
    ("export/parquet/duckdb", duckdb),
    ("export/parquet/spark", spark),
    ("export/folded/inferno", folded),
    ("export/flamegraph/xml", flamegraph),
    ("export/html/chromium", html),
    ("export/metrics/prometheus+otlp", metrics),
    ("dist/bill-of-materials/cyclonedx-python-lib", bill),
    ("export/interrupt-leaves-whole-files", interrupt),
    ("export/files-are-whole-and-private", files),
];

/// The names of all checks that contain `only`.
pub(super) fn names(only: &str) -> Vec<String> {
    let found = CHECKS.iter().filter(|(name, _)| name.contains(only));
    found.map(|(name, _)| (*name).to_owned()).collect()
}

/// Runs the checks whose names contain `only`.
pub(super) fn run(report: &Report, only: &str) {
    let checks: Vec<&Check> = CHECKS.iter().filter(|(name, _)| name.contains(only)).collect();
    if checks.is_empty() {
        return;
    }
    let place = match Place::new() {
        Ok(place) => place,
        Err(error) => {
            for (name, _) in checks {
                report.result(name, None, Err(format!("{error:#}")), &again(name));
            }
            return;
        }
    };
    for (name, check) in checks {
        let start = Instant::now();
        let progress = ui::Progress::start(name);
        let result = check(&place).map_err(|error| format!("{error:#}"));
        drop(progress);
        report.result(name, Some(start.elapsed()), result, &again(name));
    }
}

fn again(name: &str) -> String {
    format!("cargo xtask test --only {name}")
}

impl Place {
    fn new() -> Result<Self> {
        let tracer = build::tracer()?;
        let scratch = ws::Scratch::new(None)?;
        let sample = scratch.path().join("sample.rec");
        ws::capture(Command::new(build::sample()?).arg(&sample))?;
        consumers::python()?;
        Ok(Self {
            tracer,
            sample,
            scratch,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn tracer(&self, args: &[&str]) -> Result<String> {
        ws::capture(
            Command::new(&self.tracer)
                .args(args)
                .current_dir(self.scratch.path()),
        )
    }

    /// Exports the sample, and says where to.
    fn export(&self, format: &str, to: &str, more: &[&str]) -> Result<PathBuf> {
        self.tracer(&[&["export", "sample.rec", "-f", format, "-o", to], more].concat())?;
        Ok(self.path(to))
    }

    /// What `tracer stats` says of the sample: what a consumer counts has to agree.
    fn stats(&self) -> Result<PathBuf> {
        let path = self.path("stats.json");
        fs::write(&path, self.tracer(&["stats", "--json", "sample.rec"])?).context("writing stats.json")?;
        Ok(path)
    }
}

fn schema(name: &str) -> PathBuf {
    ws::root().join("docs/schema").join(name)
}

fn jsonl(place: &Place) -> Result<()> {
    let lines = place.export("jsonl", "a.jsonl", &[])?;
    consumers::run(
        "jsonl.py",
        &[&schema("event.schema.json"), &lines, &place.stats()?],
        &[],
    )
    .map(drop)
}

fn csv(place: &Place) -> Result<()> {
    let table = place.export("csv", "a.csv", &[])?;
    let lines = place.export("jsonl", "b.jsonl", &[])?;
    consumers::run("table.py", &[&table, &lines], &[]).map(drop)
}

fn perfetto(place: &Place) -> Result<()> {
    let trace = place.export("perfetto", "a.perfetto-trace", &[])?;
    consumers::run("perfetto_trace.py", &[&trace, &place.stats()?], &[]).map(drop)
}

/// The questions of the page for fleets, and their answers by DuckDB.
fn ask(place: &Place, engine: &str, environment: &[(&str, &Path)]) -> Result<()> {
    let questions = ws::root().join("docs/fleet.md");
    let (tables, answers) = (place.path("lake"), place.path("answers.json"));
    consumers::run(
        "fleet.py",
        &[Path::new(engine), &questions, &tables, &answers],
        environment,
    )
    .map(drop)
}

fn duckdb(place: &Place) -> Result<()> {
    place.export("parquet", "lake", &[])?;
    // What is exported again replaces itself.
    place.export("parquet", "lake", &[])?;
    ask(place, "duckdb", &[])?;
    let answers = fs::read_to_string(place.path("answers.json")).context("answers.json")?;
    let answers: serde_json::Value = serde_json::from_str(&answers).context("answers.json")?;
    let stats: serde_json::Value = serde_json::from_str(&fs::read_to_string(place.stats()?)?)?;
    ensure!(
        answers["counts"][0][0] == stats["events"]["total"],
        "{} rows, {} events",
        answers["counts"],
        stats["events"]["total"]
    );
    Ok(())
}

fn spark(place: &Place) -> Result<()> {
    if !place.path("answers.json").exists() {
        duckdb(place)?;
    }
    // Spark brings all but Java.
    consumers::installed("java", "default-jre-headless")?;
    ask(place, "spark", &[("SPARK_LOCAL_DIRS", place.scratch.path())])
}

/// The format that flame graph tools read, by the tool that most read it with.
fn folded(place: &Place) -> Result<()> {
    for measure in ["waited", "held"] {
        let lines = place.export("folded", "a.folded", &["--measure", measure])?;
        let text = fs::read_to_string(&lines).context("a.folded")?;
        ensure!(!text.is_empty(), "no stack has any time");
        let mut sum = 0;
        for line in text.lines() {
            let (_, count) = line.rsplit_once(' ').context("a line without a count")?;
            sum += count
                .parse::<u64>()
                .with_context(|| format!("a line ends with {count:?}"))?;
        }
        let svg = ws::capture(
            Command::new(consumers::inferno()?)
                .args(["--countname", "ns"])
                .arg(&lines),
        )?;
        // inferno says the sum of all lines; a line that it could not read would not be in it.
        let said = format!("all ({} ns, 100%)", thousands(sum));
        ensure!(svg.contains(&said), "inferno does not say {said:?}");
    }
    Ok(())
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let parts: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .filter_map(|p| std::str::from_utf8(p).ok())
        .collect();
    parts.join(",")
}

fn flamegraph(place: &Place) -> Result<()> {
    let svg = place.export("flamegraph", "a.svg", &[])?;
    let lines = place.export("folded", "b.folded", &[])?;
    consumers::run("flamegraph.py", &[&svg, &lines], &[]).map(drop)
}

/// In a real browser, without any network.
fn html(place: &Place) -> Result<()> {
    let page = place.export("html", "a.html", &[])?;
    let chromium = consumers::installed("chromium", "chromium")?;
    let profile = place.path("profile");
    consumers::run("page.py", &[&chromium, &profile, &page], &[]).map(drop)
}

/// What Prometheus fetches, and what a collector is pushed.
fn metrics(place: &Place) -> Result<()> {
    let promtool = consumers::unpacked("promtool", "prometheus")?;
    let prometheus = consumers::unpacked("prometheus", "prometheus")?;
    consumers::run(
        "metrics.py",
        &[
            &place.tracer,
            &place.sample,
            &place.stats()?,
            &promtool,
            &prometheus,
            place.scratch.path(),
        ],
        &[],
    )
    .map(drop)
}

/// What `cargo xtask dist` says is inside of the program, by the library of those who made the format.
fn bill(place: &Place) -> Result<()> {
    let made = place.path("dist");
    dist::package(&place.tracer, &made)?;
    consumers::run(
        "bill.py",
        &[
            &made.join(dist::BILL),
            &made.join("tracer"),
            &ws::root().join("Cargo.lock"),
        ],
        &[],
    )
    .map(drop)
}

/// ^C ends an export early, with what there is of it at its place, whole.
fn interrupt(place: &Place) -> Result<()> {
    let sample = fs::read(&place.sample).context("sample.rec")?;
    for format in [
        "jsonl",
        "csv",
        "perfetto",
        "folded",
        "flamegraph",
        "html",
        "parquet",
    ] {
        let path = place.path(&format!("early.{format}"));
        stop_early(place, &sample, format, &path).with_context(|| format!("an export as {format}"))?;
    }
    let text = fs::read_to_string(place.path("early.jsonl")).context("early.jsonl")?;
    ensure!(
        text.ends_with('\n') && text.lines().count() > 1,
        "no whole lines: {text:.200}"
    );
    for line in text.lines() {
        serde_json::from_str::<serde_json::Value>(line).with_context(|| format!("line {line:?}"))?;
    }
    let csv = place.path("early.csv");
    let lines = place.path("early.jsonl");
    consumers::run("table.py", &[&csv, &lines], &[])?;
    let (tables, questions) = (place.path("early.parquet"), ws::root().join("docs/fleet.md"));
    let answers = place.path("early.json");
    consumers::run(
        "fleet.py",
        &[Path::new("duckdb"), &questions, &tables, &answers],
        &[],
    )?;
    let page = fs::read_to_string(place.path("early.html")).context("early.html")?;
    ensure!(
        page.ends_with("</html>\n") && page.contains("stopped by a signal"),
        "the page does not say that it is not all"
    );
    let svg = place.path("early.flamegraph");
    consumers::run("flamegraph.py", &[&svg, &place.path("early.folded")], &[]).map(drop)
}

/// Feeds most of a recording, presses ^C, and wants an orderly end.
fn stop_early(place: &Place, sample: &[u8], format: &str, path: &Path) -> Result<()> {
    let mut child = Command::new(&place.tracer)
        .args(["export", "-", "-f", format, "-o"])
        .arg(path)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting tracer")?;
    let mut input = child.stdin.take().context("tracer's input")?;
    input
        .write_all(&sample[..sample.len() * 9 / 10])
        .context("feeding tracer")?;
    let pid = libc::pid_t::try_from(child.id()).context("a process ID")?;
    let begun = Instant::now();
    while !catches_interrupts(pid)? {
        ensure!(begun.elapsed().as_secs() < 20, "tracer does not catch ^C");
        thread::sleep(Duration::from_millis(20));
    }
    thread::sleep(Duration::from_millis(300));
    ensure!(
        format == "parquet" || !path.exists(),
        "the file is there before it is whole"
    );
    // SAFETY: kill touches no memory of ours; the child has not been waited for.
    unsafe { libc::kill(pid, libc::SIGINT) };
    // Its input stays open: whoever writes there need not have noticed.
    let out = child.wait_with_output().context("waiting for tracer")?;
    drop(input);
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "tracer ended with {}: {said}", out.status);
    ensure!(
        said.contains("stopped by a signal"),
        "it does not say that it stopped: {said}"
    );
    Ok(())
}

/// Whether a process has a handler for SIGINT by now.
fn catches_interrupts(pid: libc::pid_t) -> Result<bool> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let caught = status
        .lines()
        .find_map(|line| line.strip_prefix("SigCgt:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .with_context(|| format!("{path} has no SigCgt"))?;
    Ok(caught & 1 << (libc::SIGINT - 1) != 0)
}

/// Nobody else may read them, and what fails leaves the old one.
fn files(place: &Place) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let path = place.export("csv", "private.csv", &[])?;
    let mode = fs::metadata(&path).context("private.csv")?.permissions().mode() & 0o777;
    ensure!(mode == 0o600, "private.csv has mode {mode:o}");
    let before = fs::read(&path).context("private.csv")?;
    let cut = place.path("cut.rec");
    let sample = fs::read(&place.sample).context("sample.rec")?;
    fs::write(&cut, &sample[..12]).context("cut.rec")?;
    let failed = place.tracer(&["export", "cut.rec", "-f", "csv", "-o", "private.csv"]);
    ensure!(failed.is_err(), "a recording that is none was exported");
    ensure!(
        fs::read(&path).is_ok_and(|now| now == before),
        "the old file is gone"
    );
    let folder = fs::read_dir(place.scratch.path()).context("the scratch folder")?;
    let left: Vec<_> = folder
        .flatten()
        .map(|entry| entry.file_name())
        .filter(|name| Path::new(name).extension().is_some_and(|end| end == "unfinished"))
        .collect();
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}
