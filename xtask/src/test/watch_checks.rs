//! What `tracer watch` must get right on real kernels: it is what the other commands are measured by.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::agreement::{self, Agreement};
use super::guests::{Ctx, Evidence, On, Scenario, expect};
use crate::vm::Outcome;
use crate::{ui, ws};

/// Kernels whose lock is a reference count.
const REFCOUNT: On = On::These(&[
    "6.16", "6.17", "6.18", "6.19", "7.0", "7.1", "7.2", "7.3", "oracle",
]);

/// Scenarios of `tracer watch`.
pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "watch",
        on: REFCOUNT,
        boot: watch,
        checks: &[
            ("ends-well", |e| {
                e.succeeded()?;
                for run in ["one", "four"] {
                    expect(
                        &format!("exit code of {run}"),
                        &e.out_text(&format!("{run}.code"))?.trim(),
                        &"0",
                    )?;
                }
                Ok(())
            }),
            ("two-changes-a-touch", two_changes_a_touch),
            ("the-chain-is-exact", chain_is_exact),
            ("each-change-is-told-where", each_change_is_told_where),
            ("each-task-gives-back-what-it-took", each_task_gives_back),
            ("detaching-ends-it", detaching_ends_it),
            ("both-fields-are-watched", both_fields),
            ("kernel-is-content", Evidence::kernel_is_content),
        ],
    },
    Scenario {
        name: "watch-beside-record",
        on: REFCOUNT,
        boot: |ctx| {
            let mut guest = ctx.guest();
            guest.smp = 4;
            guest.timeout = Duration::from_secs(240);
            guest.sh(&format!(
                "{FUNCTIONS}
                 for try in 1 2 3; do
                   rm -f /out/a.rec /out/it.*; hot 3 200 3
                   tracer record -o /out/a.rec -p $pid 2> /out/record.err & r=$!; wait_for /out/a.rec; sleep 1
                   watch it; go; kill -INT $t; ended it; sleep 0.3; kill -INT $r; wait $r; echo > /tmp/h/quit; wait $w
                   tail -n 1 /out/it.jsonl | grep -q '\"held_back\": *0' && break
                 done; true"
            ))
        },
        checks: &[
            (
                "the-engine-tells-the-same-change-by-change",
                agrees_with_the_engine,
            ),
            ("kernel-is-content", Evidence::kernel_is_content),
        ],
    },
    Scenario {
        name: "watch-refused",
        on: On::These(&["7.3"]),
        boot: refusals,
        checks: &[
            ("dead-process", |e| refused(e, "dead", "1", "no process 999999")),
            ("no-mapping", |e| refused(e, "nomap", "1", "no mapping at 0x1000")),
            ("kernel-thread", |e| {
                refused(e, "kthread", "1", "thread of the kernel")
            }),
            ("thread", |e| {
                refused(e, "thread", "1", "is a thread, not a process")
            }),
            ("no-privileges", |e| refused(e, "user", "4", "not permitted")),
            ("bad-address", |e| refused(e, "address", "2", "0x")),
            ("slots-are-not-stolen", |e| {
                refused(e, "taken", "4", "likely held by")?;
                ensure!(e.out_text("taken.err")?.contains("CPU 0"), "no CPU is named");
                // The other goes on. (The one after it watches the same bytes; emulators report but one of two.)
                ensure!(
                    changes(&lines(e, "first")?).count() > 0,
                    "it saw nothing any more"
                );
                lines(e, "second")?;
                Ok(())
            }),
            ("one-slot-is-enough", |e| {
                let lines = lines(e, "single")?;
                let begin = lines.first().context("no first line")?;
                expect("fields", &begin["fields"], &serde_json::json!(["vm_refcnt"]))?;
                ensure!(
                    begin["no_vm_lock_seq"]
                        .as_str()
                        .is_some_and(|why| why.contains("CPU 0")),
                    "{begin}"
                );
                Ok(())
            }),
            ("counted-changes", |e| {
                expect("changes", &changes(&lines(e, "counted")?).count(), &10)
            }),
            ("nothing-is-left", |e| {
                for how in ["INT", "KILL"] {
                    expect(
                        &format!("programs and maps after SIG{how}"),
                        &e.out_text(&format!("after-{how}"))?,
                        &e.out_text("before")?,
                    )?;
                }
                Ok(())
            }),
            ("kernel-is-content", Evidence::kernel_is_content),
        ],
    },
    Scenario {
        name: "watch-impossible",
        on: On::These(&["6.12", "7.3"]),
        boot: |ctx| {
            let mut guest = ctx.guest();
            if ctx.name != "6.12" {
                "lockdown=confidentiality".clone_into(&mut guest.append);
            }
            guest.sh("tracer watch -p $$ -a 0x1000 > /out/it.out 2> /out/it.err; echo $? > /out/it.code")
        },
        checks: &[("is-said-clearly", |e| {
            let why = if e.ctx.name == "6.12" {
                "rw-semaphore"
            } else {
                "lockdown (confidentiality)"
            };
            refused(e, "it", "4", why)
        })],
    },
];

/// Starts what is watched, and the watch; waits until both stand.
const FUNCTIONS: &str = "
    wait_for() { i=0; while ! test -s $1; do sleep 0.1; i=$((i+1)); test $i -lt 600 || exit 9; done; }
    hot() { rm -rf /tmp/h; mkdir /tmp/h; hotvma /tmp/h $1 $2 ${3:-0} & w=$!; wait_for /tmp/h/hot; read pid addr len < /tmp/h/hot; }
    watch() { out=$1; shift; tracer watch -p $pid -a $addr --json $* > /out/$out.jsonl 2> /out/$out.err & t=$!; wait_for /out/$out.jsonl; }
    go() { echo > /tmp/h/go; wait_for /tmp/h/done; sleep 0.3; }
    ended() { wait $t; echo $? > /out/$1.code; }
";

fn watch(ctx: &Ctx) -> Result<Outcome> {
    let mut guest = ctx.guest();
    guest.smp = 4;
    guest.timeout = Duration::from_secs(240);
    guest.sh(&format!(
        "{FUNCTIONS}
         hot 1 1000; watch one; go; kill -INT $t; ended one; echo > /tmp/h/quit; wait $w
         hot 4 500; watch four; go; echo > /tmp/h/quit; ended four; wait $w"
    ))
}

fn refusals(ctx: &Ctx) -> Result<Outcome> {
    let mut guest = ctx.guest();
    guest.timeout = Duration::from_secs(240);
    guest.sh(&format!(
        "{FUNCTIONS}
         try() {{ name=$1; shift; \"$@\" > /out/$name.out 2> /out/$name.err < /dev/null; echo $? > /out/$name.code; }}
         witness --bpf > /out/before
         hot 2 100; thread=$(ls /proc/$pid/task | tail -n 1)
         try dead tracer watch -p 999999 -a 0x1000
         try nomap tracer watch -p $pid -a 0x1000
         try kthread tracer watch -p 2 -a 0x1000
         try thread tracer watch -p $thread -a $addr
         try user su user -c \"tracer watch -p $pid -a $addr\"
         try address tracer watch -p $pid -a 7f00zz
         hotvma --slot & s=$!; sleep 0.3
         watch first; a=$t; watch single; kill -INT $t; wait $t; kill $s; wait $s
         watch second; b=$t
         try taken tracer watch -p $pid -a $addr
         go; kill -INT $a $b; wait $a; wait $b; echo > /tmp/h/quit; wait $w
         hot 1 100; watch counted -n 10; go; wait $t; echo > /tmp/h/quit; wait $w
         for how in INT KILL; do
           hot 1 10; watch $how; go; kill -$how $t; wait $t; echo > /tmp/h/quit; wait $w
           for i in 1 2 3 4 5 6 7 8 9 10; do
             sleep 0.2; witness --bpf > /out/after-$how; cmp -s /out/before /out/after-$how && break
           done
         done; true"
    ))
}

fn refused(e: &Evidence, name: &str, code: &str, why: &str) -> Result<()> {
    let said = e.out_text(&format!("{name}.err"))?;
    ensure!(said.contains(why), "does not say {why:?}: {said}");
    expect("exit code", &e.out_text(&format!("{name}.code"))?.trim(), &code)?;
    ensure!(!said.contains("panicked"), "{said}");
    Ok(())
}

/// The lines of a run, each a JSON object: whole, the first and the last of their kinds.
fn lines(e: &Evidence, run: &str) -> Result<Vec<Value>> {
    let text = e.out_text(&format!("{run}.jsonl"))?;
    let lines = text
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("no JSON: {line}")))
        .collect::<Result<Vec<Value>>>()?;
    let kind = |line: Option<&Value>| line.and_then(|line| line["type"].as_str()).map(str::to_owned);
    expect("first line", &kind(lines.first()).as_deref(), &Some("begin"))?;
    expect("last line", &kind(lines.last()).as_deref(), &Some("end"))?;
    Ok(lines)
}

fn changes(lines: &[Value]) -> impl Iterator<Item = &Value> {
    lines
        .iter()
        .filter(|line| line["type"] == "change" && line["field"] == "vm_refcnt")
}

/// Those by readers.
fn reads(lines: &[Value]) -> impl Iterator<Item = &Value> {
    changes(lines).filter(|line| line["operation"] == "read_try" || line["operation"] == "read_put")
}

fn end(lines: &[Value], at: &str) -> Result<i64> {
    let end = lines.last().context("no lines")?;
    end.pointer(at)
        .and_then(Value::as_i64)
        .with_context(|| format!("no number at {at} in {end}"))
}

fn two_changes_a_touch(e: &Evidence) -> Result<()> {
    for (run, touches) in [("one", 1000), ("four", 2000)] {
        let lines = lines(e, run)?;
        let (mut taken, mut given) = (0, 0);
        for change in reads(&lines) {
            match change["delta"].as_i64() {
                Some(1) => taken += 1,
                Some(-1) => given += 1,
                other => anyhow::bail!("a reader changed the count by {other:?}: {change}"),
            }
        }
        expect(&format!("{run}: +1"), &taken, &touches)?;
        expect(&format!("{run}: -1"), &given, &touches)?;
    }
    // Nobody else was there, and the VMA was left as it was.
    let one = lines(e, "one")?;
    expect("changes", &end(&one, "/changes")?, &2000)?;
    expect("sum", &end(&one, "/sum")?, &0)
}

fn chain_is_exact(e: &Evidence) -> Result<()> {
    for run in ["one", "four"] {
        let lines = lines(e, run)?;
        for what in [
            "/lost/dropped",
            "/lost/held_back",
            "/order/broken",
            "/values_read_later",
        ] {
            expect(&format!("{run}: {what}"), &end(&lines, what)?, &0)?;
        }
        let mut value = 1;
        for change in changes(&lines) {
            expect("old", &change["old"].as_i64(), &Some(value))?;
            value = change["new"].as_i64().context("no new value")?;
        }
    }
    expect(
        "uncertain with one thread",
        &end(&lines(e, "one")?, "/order/uncertain")?,
        &0,
    )
}

fn each_change_is_told_where(e: &Evidence) -> Result<()> {
    for run in ["one", "four"] {
        for change in reads(&lines(e, run)?) {
            let frames = change["stack"].as_array().map_or(0, Vec::len);
            ensure!(frames >= 3, "{frames} frames: {change}");
            // On a stock kernel all is inlined; the oracle has the functions.
            let inlined = e.ctx.name != "oracle";
            if change["operation"] == "read_try" {
                expect("inlined", &change["inlined"].as_bool(), &Some(inlined))?;
            }
            let top = change
                .pointer("/stack/0")
                .and_then(Value::as_str)
                .unwrap_or_default();
            let function = change["function"].as_str().unwrap_or("none");
            ensure!(top.starts_with(function), "{top} is not in {function}");
            expect("name", &change["comm"].as_str(), &Some("hotvma"))?;
        }
    }
    Ok(())
}

fn each_task_gives_back(e: &Evidence) -> Result<()> {
    let lines = lines(e, "four")?;
    let mut tasks = BTreeMap::<i64, (i64, i64)>::new();
    for change in reads(&lines) {
        let task = tasks
            .entry(change["tid"].as_i64().context("no tid")?)
            .or_default();
        task.0 += 1;
        task.1 += change["delta"].as_i64().context("no delta")?;
        ensure!(
            (0..=1).contains(&task.1),
            "a task holds the lock {} times: {change}",
            task.1
        );
    }
    expect("tasks", &tasks.len(), &4)?;
    for (tid, task) in tasks {
        expect(&format!("changes and sum of {tid}"), &task, &(1000, 0))?;
    }
    Ok(())
}

fn detaching_ends_it(e: &Evidence) -> Result<()> {
    let lines = lines(e, "four")?;
    let reason = lines
        .last()
        .and_then(|end| end["reason"].as_str())
        .unwrap_or_default();
    ensure!(reason.contains("detached"), "{reason}");
    let last = changes(&lines).last().context("no change")?;
    expect("the last value", &last["new"].as_i64(), &Some(0))?;
    let operation = last["operation"].as_str().unwrap_or_default();
    ensure!(["detach", "writer_leave"].contains(&operation), "{last}");
    // The writer that detached it marked it.
    let marks = lines
        .iter()
        .filter(|line| line["field"] == "vm_lock_seq" && line["operation"] == "writer_mark");
    ensure!(marks.count() > 0, "no write to vm_lock_seq");
    Ok(())
}

fn agrees_with_the_engine(e: &Evidence) -> Result<()> {
    e.succeeded()?;
    let watched = lines(e, "it")?;
    // A kernel that is slow holds back changes that come too fast; then the run was made again, up to three times.
    // The order of all changes is not asked for: emulated processors stand still between a change and its time.
    for what in ["/lost/dropped", "/lost/held_back"] {
        expect(what, &end(&watched, what)?, &0)?;
    }
    // The recording's probes sit on some of the very instructions, which then run from copies.
    let copied = changes(&watched)
        .filter(|change| change["kprobe"] == true)
        .count();
    let unknown = changes(&watched).find(|change| change["operation"] == "unknown");
    ensure!(unknown.is_none(), "a change without a name: {unknown:?}");
    let text = ws::capture(
        Command::new(e.ctx.program("tracer")?)
            .args(["export", "-f", "jsonl", "-o", "-"])
            .arg(e.ctx.out().join("a.rec")),
    )?;
    let recorded = text
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("no JSON: {line}")))
        .collect::<Result<Vec<Value>>>()?;
    let Agreement {
        changes,
        tasks,
        median_ns,
        worst_ns,
    } = agreement::compare(&watched, &recorded)?;
    ui::line(&format!(
        "       {changes} changes by {tasks} tasks ({copied} under a kprobe), told alike; times apart by {median_ns} ns in the middle, {worst_ns} ns at most"
    ));
    expect("tasks", &tasks, &3)
}

fn both_fields(e: &Evidence) -> Result<()> {
    let lines = lines(e, "one")?;
    let begin = lines.first().context("no first line")?;
    expect(
        "fields",
        &begin["fields"],
        &serde_json::json!(["vm_refcnt", "vm_lock_seq"]),
    )
}
