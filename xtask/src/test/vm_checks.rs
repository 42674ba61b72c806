//! What is checked on real kernels.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::guests::{Ctx, Evidence, On, SITES_OUT, Scenario, expect};
use crate::vm::{CRASHED, Outcome, TIMED_OUT};

/// Every scenario, in the order in which they run on each kernel.
pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "machine",
        on: On::All,
        boot: machine,
        checks: &[
            ("boots-what-was-asked-for", |e| {
                expect(
                    "release",
                    &e.outcome.release.as_str(),
                    &e.out_text("release")?.trim(),
                )?;
                let family = e.outcome.release.starts_with(e.ctx.name) || e.ctx.name == "oracle";
                ensure!(family, "{} runs {}", e.ctx.name, e.outcome.release);
                Ok(())
            }),
            ("exit-status", |e| expect("status", &e.outcome.status, &7)),
            ("streams-apart", |e| {
                expect("stdout", &e.outcome.stdout_text().as_str(), &"out\r\n\u{1b}[0m\n")?;
                expect(
                    "stderr",
                    &String::from_utf8_lossy(&e.outcome.stderr).as_ref(),
                    &"err\n",
                )
            }),
            ("out-byte-exact", out_byte_exact),
            ("mounts-and-tools", |e| {
                let mounts = e.out_text("mounts")?;
                for place in [
                    "/proc",
                    "/sys",
                    "/dev",
                    "/tmp",
                    "/sys/kernel/tracing",
                    "/sys/fs/bpf",
                    "/sys/fs/cgroup",
                ] {
                    ensure!(
                        mounts.contains(&format!(" {place} ")),
                        "{place} is not mounted:\n{mounts}"
                    );
                }
                for tool in ["tracer", "workload", "busybox"] {
                    ensure!(
                        e.out_text("which")?.contains(tool),
                        "no {tool} in PATH:\n{}",
                        e.story()
                    );
                }
                Ok(())
            }),
            ("kernel-is-content", Evidence::kernel_is_content),
        ],
    },
    Scenario {
        name: "hang",
        on: On::These(&["7.3"]),
        boot: |ctx| {
            let mut guest = ctx.guest();
            guest.timeout = Duration::from_secs(25);
            guest.sh("echo before; sleep 1000")
        },
        checks: &[
            ("is-killed-at-its-timeout", |e| {
                expect("status", &e.outcome.status, &TIMED_OUT)?;
                ensure!(e.outcome.timed_out && !e.outcome.crashed, "not told as a timeout");
                ensure!(
                    e.outcome.total < Duration::from_secs(35),
                    "took {:?}",
                    e.outcome.total
                );
                expect(
                    "what was printed before",
                    &e.outcome.stdout_text().as_str(),
                    &"before\n",
                )
            }),
            ("says-so", |e| {
                let trouble = e.outcome.trouble().context("nothing is said")?;
                ensure!(trouble.contains("killed at its timeout"), "{trouble}");
                Ok(())
            }),
        ],
    },
    Scenario {
        name: "panic",
        on: On::These(&["7.3"]),
        boot: |ctx| {
            ctx.guest()
                .sh("echo before; echo c > /proc/sysrq-trigger; sleep 1000")
        },
        checks: &[("is-told-with-the-console", |e| {
            expect("status", &e.outcome.status, &CRASHED)?;
            expect(
                "what was printed before",
                &e.outcome.stdout_text().as_str(),
                &"before\n",
            )?;
            let trouble = e.outcome.trouble().context("nothing is said")?;
            ensure!(e.outcome.console.contains("sysrq triggered crash"), "{trouble}");
            Ok(())
        })],
    },
    Scenario {
        name: "signal",
        on: On::These(&["7.3"]),
        boot: |ctx| ctx.guest().sh("kill -KILL $$"),
        checks: &[("is-128-and-its-number", |e| {
            expect("status", &e.outcome.status, &137)
        })],
    },
    Scenario {
        name: "no-command",
        on: On::These(&["7.3"]),
        boot: |ctx| ctx.guest().run(&["no-such-command".to_owned()]),
        checks: &[("is-127", |e| expect("status", &e.outcome.status, &127))],
    },
    Scenario {
        name: "lockdown",
        on: On::These(&["7.3"]),
        boot: |ctx| {
            let mut guest = ctx.guest();
            "lockdown=confidentiality".clone_into(&mut guest.append);
            guest.sh("cp /sys/kernel/security/lockdown /out/")
        },
        checks: &[("still-works", |e| {
            ensure!(
                e.out_text("lockdown")?.contains("[confidentiality]"),
                "{}",
                e.story()
            );
            e.succeeded()
        })],
    },
];

/// What the machine itself promises, in one boot.
fn machine(ctx: &Ctx) -> Result<Outcome> {
    let folder = ctx.scratch().join("folder");
    std::fs::create_dir(&folder).context("creating a folder to add")?;
    std::fs::write(folder.join("bytes"), pattern()).context("writing a file to add")?;
    let mut guest = ctx.guest();
    guest.adds.push((folder, "/add/folder".into()));
    // What is found in the kernel's text is kept for the guests to come.
    let script = "cd /out && uname -r > release && cp /proc/mounts mounts && which tracer workload busybox > which\n\
         cp /add/folder/bytes bytes && mkdir d && for i in 1 2 3 4 5 6 7 8; do cat bytes; done > d/more\n\
         ln -s d/more link && chmod 750 d/more && : > empty\n\
         tracer sites >/dev/null 2>&1 && cp -r /root/.cache/tracer SITES\n\
         printf 'out\\r\\n\\033[0m\\n'; echo err >&2; exit 7";
    guest.sh(&script.replace("SITES", SITES_OUT))
}

/// A megabyte in which every byte value occurs, and which is never the same for long.
fn pattern() -> Vec<u8> {
    let mut state = 1_u32;
    let mut bytes = Vec::with_capacity(1 << 20);
    for _ in 0..1 << 20 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bytes.push(state.to_be_bytes()[0]);
    }
    bytes
}

fn out_byte_exact(e: &Evidence) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let pattern = pattern();
    ensure!(
        e.out("bytes")? == pattern,
        "/out/bytes differs from what was added"
    );
    ensure!(
        e.out("d/more")? == pattern.repeat(8),
        "/out/d/more differs from what the guest wrote"
    );
    expect("size of /out/empty", &e.out("empty")?.len(), &0)?;
    let out = e.ctx.out();
    let target = std::fs::read_link(out.join("link")).context("/out/link")?;
    expect(
        "target of /out/link",
        &target.to_string_lossy().as_ref(),
        &"d/more",
    )?;
    let mode = std::fs::metadata(out.join("d/more"))
        .context("/out/d/more")?
        .permissions()
        .mode()
        & 0o777;
    expect("mode of /out/d/more", &mode, &0o750)
}
