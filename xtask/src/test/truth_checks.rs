//! What tracer says beside what the kernel counts itself, on the kernel with lockdep.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::guests::{Ctx, Evidence, On, Scenario, expect};
use super::tracer_checks::{Event, VM_FAULT_RETRY, events, json, nothing_lost, number, stats};
use crate::vm::Outcome;

pub(crate) const SCENARIOS: &[Scenario] = &[Scenario {
    name: "truth",
    on: On::These(&["oracle"]),
    boot: truth,
    checks: &[
        ("nothing-lost", nothing_lost),
        ("vmstat-success", |e| {
            Counted::of(e, ALL)?.equals_vmstat("vma_lock_success")
        }),
        ("vmstat-retry", |e| {
            Counted::of(e, ALL)?.equals_vmstat("vma_lock_retry")
        }),
        ("vmstat-abort", |e| {
            Counted::of(e, ALL)?.equals_vmstat("vma_lock_abort")
        }),
        ("vmstat-miss", |e| {
            Counted::of(e, ALL)?.equals_vmstat("vma_lock_miss")
        }),
        ("vmstat-by-process-and-vma", |e| {
            super::contention_checks::faults_equal_vmstat(&stats(e)?)
        }),
        ("lockdep-acquires", |e| Counted::of(e, ALL)?.equals_acquires()),
        ("lockdep-releases", |e| Counted::of(e, ALL)?.equals_releases()),
        ("tries-that-came-to-nothing", tries),
        ("own-activity-is-told-apart", own_activity),
        ("kernel-is-content", Evidence::kernel_is_content),
    ],
}];

/// The recording of everything, and that of tries that come to nothing: they are rare, unless readers are kept where they
/// are easily overtaken.
const ALL: &str = "a";
const TRIES: &str = "b";

fn truth(ctx: &Ctx) -> Result<Outcome> {
    let mut guest = ctx.guest();
    guest.smp = 6;
    guest.timeout = Duration::from_secs(300);
    guest.sh("counted() {
           name=$1; how=$2; shift 2; rm -f /out/$name.rec
           tracer record --include-self $how -o /out/$name.rec 2> /out/err & t=$!
           while ! test -s /out/$name.rec; do sleep 0.1; done; sleep 0.5
           witness \"$@\" > /out/$name.witness || exit 1
           sleep 0.3; kill -INT $t; wait $t
           tracer stats --json /out/$name.rec > /out/stats.json || exit 1
           grep -q '\"missed\": 0' /out/stats.json && grep -q '\"dropped\": 0' /out/stats.json
         }
         for try in 1 2 3 4 5 6; do
           counted b '--linger 2ms --buffer 64M' tracer provoke split-merge --unprivileged --duration 700ms || continue
           tracer export /out/b.rec -f jsonl -o - | grep -q vma_read_temporary && break
         done
         for try in 1 2 3 4 5 6; do
           echo $try > /out/tries
           counted a '' workload mixed --json --threads 3 && exit 0
         done")
}

/// What the kernel counted, and what tracer saw meanwhile, of all tasks.
struct Counted {
    witness: Value,
    events: Vec<Event>,
}

impl Counted {
    fn of(e: &Evidence, recording: &str) -> Result<Self> {
        let witness = json(e.out_text(&format!("{recording}.witness"))?.trim())?;
        let (begin, end) = (number(&witness, "/begin_ns")?, number(&witness, "/end_ns")?);
        let mut events = events(e, &format!("{recording}.rec"))?;
        events.retain(|event| (begin..end).contains(&event.ts_ns));
        Ok(Self { witness, events })
    }

    fn counted(&self, what: &str) -> Result<u64> {
        number(&self.witness, &format!("/counted/{what}"))
    }

    fn seen(&self, kind: &str) -> u64 {
        self.events.iter().filter(|event| event.kind == kind).count() as u64
    }

    fn equals_vmstat(&self, counter: &str) -> Result<()> {
        const FAULT_FLAG_VMA_LOCK: u64 = 1 << 12;
        const EAGAIN: u64 = 11;
        let seen = self.events.iter().filter(|event| {
            let vma_fault = event.kind == "fault_end" && event.fault_flags & FAULT_FLAG_VMA_LOCK != 0;
            match counter {
                "vma_lock_success" => vma_fault && event.result & VM_FAULT_RETRY == 0,
                "vma_lock_retry" => vma_fault && event.result & VM_FAULT_RETRY != 0,
                "vma_lock_abort" => event.kind == "vma_read_fail",
                // A detached VMA, after which the walk starts again: told by what the function returned, or by the place.
                _ => {
                    event.kind == "vma_read_refused" && (event.errno == EAGAIN || event.reason == "detached")
                }
            }
        });
        expect(counter, &(seen.count() as u64), &self.counted(counter)?)
    }

    /// lockdep counts a reader once the reference is taken; a temporary reader has one, too, and gives it back before
    /// `vma_start_read` returns: a release that no acquire of the same task stands before.
    fn equals_acquires(&self) -> Result<()> {
        let (holds, temporary) = (self.seen("vma_read_acquire"), self.seen("vma_read_temporary"));
        let counted = self.counted("read_acquire")?;
        ensure!(
            counted == holds + temporary,
            "lockdep counted {counted} readers, but there are {holds} vma_read_acquire and {temporary} \
             vma_read_temporary:{}",
            self.temporaries()?
        );
        Ok(())
    }

    /// Writers tell lockdep of themselves, too, while they wait for readers; what is left are readers.
    fn equals_releases(&self) -> Result<()> {
        let (holds, temporary) = (self.seen("vma_read_release"), self.seen("vma_read_temporary"));
        let writers = self.counted("acquire")? - self.counted("read_acquire")?;
        let counted = self.counted("release")? - writers;
        ensure!(
            counted == holds + temporary,
            "lockdep counted {counted} releases of readers, but there are {holds} vma_read_release and {temporary} \
             vma_read_temporary:{}",
            self.temporaries()?
        );
        Ok(())
    }

    /// Each temporary reader, and when it was there, by the clock of whoever counted.
    fn temporaries(&self) -> Result<String> {
        let (begin, end) = (
            number(&self.witness, "/begin_ns")?,
            number(&self.witness, "/end_ns")?,
        );
        let of = self
            .events
            .iter()
            .filter(|event| event.kind == "vma_read_temporary");
        let lines = of.map(|event| {
            format!(
                "\n  {} {} of {} at {}, {} ns after the start and {} ns before the end",
                event.comm,
                event.reason,
                event.vma,
                event.site,
                event.ts_ns - begin,
                end - event.ts_ns
            )
        });
        Ok(lines.collect())
    }
}

/// Temporary readers are told once each, whether lockdep tells of them or the place where they give up, and with the reason.
fn tries(e: &Evidence) -> Result<()> {
    let tries = Counted::of(e, TRIES)?;
    tries.equals_acquires()?;
    tries.equals_releases()?;
    tries.equals_vmstat("vma_lock_abort")?;
    tries.equals_vmstat("vma_lock_miss")?;
    let unknown = tries
        .events
        .iter()
        .filter(|event| event.kind == "vma_read_temporary" && event.reason == "unknown");
    let unknown = unknown.count() as u64;
    ensure!(
        tries.seen("vma_read_temporary") > 0,
        "no temporary reader was met: there is nothing to judge by"
    );
    expect("temporary readers of whom nobody knows why", &unknown, &0)
}

fn own_activity(e: &Evidence) -> Result<()> {
    let stats = stats(e)?;
    let own = stats["tasks"]
        .as_array()
        .context("no tasks")?
        .iter()
        .filter(|task| task["is_self"] == true);
    ensure!(own.count() > 0, "the tracer's own tasks are not marked");
    Ok(())
}
