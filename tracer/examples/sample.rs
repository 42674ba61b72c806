//! Makes recordings for the tests of exports, and for benchmarks: `sample FILE` writes some scenes with everything in
//! them that a consumer might trip over, `sample FILE EVENTS` that many events of the kind that is most frequent.

#[path = "sample/scenes.rs"]
mod scenes;
#[path = "../benches/common/stream.rs"]
mod stream;

use std::path::Path;

use tracer::info::{CpuLosses, Losses, SiteInfo, SourceInfo};
use tracer::recording::create;
use tracer::sink::address::Addresses;

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let file = args
        .next()
        .ok_or_else(|| anyhow::anyhow!("sample FILE [EVENTS]"))?;
    match args.next() {
        None => scenes::write(Path::new(&file), &info()),
        Some(count) => {
            let events = stream::stream(count.parse()?, 64, 4_096);
            let mut writer = create(Path::new(&file), &info())?;
            for event in &events {
                writer.push(event)?;
            }
            let mut losses = Losses::default();
            losses.cpus.resize(4, CpuLosses::default());
            for event in &events {
                let cpu = &mut losses.cpus[usize::from(event.header.cpu)];
                cpu.produced += 1;
                cpu.received += 1;
            }
            writer.finish(&losses, "duration")?;
            Ok(())
        }
    }
}

fn info() -> SourceInfo {
    let mut info = SourceInfo {
        tracer_version: env!("CARGO_PKG_VERSION").into(),
        source: "live".into(),
        host: "host<a>/1".into(),
        command: ["tracer", "record", "--comm", "secret-of-the-user"]
            .map(Into::into)
            .into(),
        cpus: 4,
        self_pid: 1,
        start_monotonic_ns: 1_000_000,
        // 2026-11-22 23:59:59.5 UTC: half a second later is another day.
        start_realtime_ns: 1_795_391_999_500_000_000,
        address_key: Addresses::new_key(),
        ..SourceInfo::default()
    };
    info.kernel.release = "7.3.4-test".into();
    info.kernel.version = "#1 SMP".into();
    info.kernel.machine = "x86_64".into();
    for function in [
        "mmap_lock_start_locking",
        "handle_mm_fault",
        "lock_vma_under_rcu",
        "=cmd()",
    ] {
        info.sites.push(SiteInfo {
            function: function.into(),
            provenance: "observed".into(),
            attached: true,
            ..SiteInfo::default()
        });
    }
    info
}
