//! The screen on a real terminal in a real kernel under load: tmux types, and its picture of the terminal is looked at.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::guests::{Ctx, Evidence, On, Scenario, expect};
use crate::peers;
use crate::vm::Outcome;

/// Scenarios of the screen.
pub(crate) const SCENARIOS: &[Scenario] = &[Scenario {
    name: "screen",
    on: On::These(&["7.3"]),
    boot,
    checks: &[
        ("is-useful-at-once", |e| {
            let screen = shown(e, "start")?;
            ensure!(screen.contains("LIVE") && screen.contains("events"), "{screen}");
            Ok(())
        }),
        ("shows-who-is-stuck-on-whom", |e| {
            let screen = shown(e, "stuck")?;
            ensure!(
                screen.contains("w-writer") && screen.contains("vma:w"),
                "{screen}"
            );
            // Each line of the tree is held up by the one below it.
            let chains = shown(e, "chains")?;
            let mut lines = chains.lines();
            for (task, what) in [
                ("w-mmap", "waits mmap:w"),
                ("w-writer", "holds mmap:w"),
                ("w-holder", "holds vma:r"),
            ] {
                ensure!(
                    lines.any(|line| line.contains(task) && line.contains(what)),
                    "nothing about {task} that {what}, or not in this order:\n{chains}"
                );
            }
            Ok(())
        }),
        ("tells-what-its-probes-cost", |e| {
            let screen = shown(e, "large")?;
            let cost = screen
                .lines()
                .next()
                .and_then(|line| line.split(" probes ").nth(1))
                .and_then(|rest| rest.split(' ').next())
                .and_then(|percent| percent.parse::<f64>().ok());
            ensure!(cost.is_some_and(|percent| percent > 0.0), "{screen}");
            Ok(())
        }),
        ("filters", |e| {
            let screen = shown(e, "filtered")?;
            ensure!(screen.contains("filter: comm=w-*"), "{screen}");
            ensure!(
                screen.contains("w-holder") && !screen.contains("workload"),
                "{screen}"
            );
            Ok(())
        }),
        ("pauses", |e| {
            let (one, other) = (shown(e, "paused1")?, shown(e, "paused2")?);
            ensure!(one.contains("PAUSED"), "{one}");
            expect("a held screen after a second", &other, &one)
        }),
        ("records", |e| {
            let said = e.out_text("stats")?;
            ensure!(said.contains("w-writer"), "{said}");
            Ok(())
        }),
        ("is-stopped-and-goes-on", |e| {
            let stopped = shown(e, "stopped")?;
            ensure!(
                stopped.contains("Stopped") && !stopped.contains("LIVE"),
                "{stopped}"
            );
            let again = shown(e, "again")?;
            ensure!(again.contains("LIVE"), "{again}");
            Ok(())
        }),
        ("takes-the-size-of-the-terminal", |e| {
            for (name, columns, lines) in [("small", 80, 24), ("large", 200, 60)] {
                let screen = shown(e, name)?;
                let widest = screen.lines().map(|line| line.chars().count()).max();
                ensure!(screen.contains("LIVE"), "{screen}");
                ensure!(widest <= Some(columns), "{name}: {widest:?}\n{screen}");
                // The line with the keys is the last one.
                let last = screen.trim_end().lines().enumerate().last();
                ensure!(
                    last.is_some_and(|(at, line)| at + 1 == lines && line.contains("? help")),
                    "{name}: {screen}"
                );
            }
            Ok(())
        }),
        ("goes-through-the-recording", |e| {
            let screen = shown(e, "replay")?;
            ensure!(screen.contains("REPLAY") && screen.contains("event "), "{screen}");
            Ok(())
        }),
        ("leaves-a-clean-terminal", |e| {
            let screen = shown(e, "left")?;
            ensure!(
                screen.contains("left with 0") && !screen.contains("LIVE"),
                "{screen}"
            );
            Ok(())
        }),
        ("ends-with-its-terminal", |e| {
            expect("tasks that are left", &shown(e, "alive")?.trim(), &"")
        }),
        ("kernel-is-content", Evidence::kernel_is_content),
    ],
}];

fn shown(e: &Evidence, name: &str) -> Result<String> {
    e.succeeded()?;
    e.out_text(name)
}

fn boot(ctx: &Ctx) -> Result<Outcome> {
    let mut guest = ctx.guest();
    guest.smp = 3;
    guest.mem = guest.mem.max(1536);
    guest.timeout = Duration::from_secs(400);
    guest.adds.extend(peers::get(&["tmux", "locale"])?.adds);
    guest.sh(SCRIPT)
}

/// A task that holds a VMA for reading for half a minute while a writer waits for it, others behind that, and faults
/// beside it all.
const SCRIPT: &str = "
export TERM=xterm-256color LC_ALL=C.UTF-8 HOME=/tmp TMUX_TMPDIR=/tmp
cd /tmp
t() { tmux -u -L t \"$@\"; }
shot() { t capture-pane -p > /out/$1; }
# Until the screen shows a text, at most so many tenths of a second.
until_shown() { i=0; while ! t capture-pane -p | grep -q \"$1\"; do i=$((i+1)); [ $i -gt $2 ] && return 0; sleep 0.1; done; }
t new-session -d -s s -x 120 -y 40 sh || { echo 'tmux does not start' >&2; exit 1; }
t set -t s status off; t resize-window -t s -x 120 -y 40
t send-keys -t s tracer Enter
until_shown LIVE 600; shot start
# What it waits for has to begin while it is looked at.
workload holder --kind fault -d 40000 > /out/holder 2>&1 &
until_shown w-writer 300; t send-keys -t s 2; sleep 1; shot stuck
t send-keys -t s 4; sleep 1; shot chains
t send-keys -t s 2 '/'; t send-keys -t s -l 'comm=w-*'; t send-keys -t s Enter; sleep 1; shot filtered
t send-keys -t s p; sleep 1; shot paused1; sleep 1; shot paused2
t send-keys -t s p; t send-keys -t s -l ':record /tmp/a.rec'; t send-keys -t s Enter
wait
sleep 1
t send-keys -t s -l ':stop'; t send-keys -t s Enter; sleep 1
t send-keys -t s C-z; until_shown Stopped 100; shot stopped
t send-keys -t s 'fg; echo left with $?' Enter; until_shown LIVE 100; sleep 1; shot again
t resize-window -t s -x 80 -y 24; sleep 2; shot small
t resize-window -t s -x 200 -y 60; sleep 2; shot large
t resize-window -t s -x 120 -y 40; sleep 1
t send-keys -t s q; until_shown 'left with [0-9]' 200; shot left
tracer stats /tmp/a.rec > /out/stats 2>&1
t send-keys -t s clear Enter 'tracer replay /tmp/a.rec' Enter
until_shown REPLAY 100; sleep 1; shot replay
t send-keys -t s q; sleep 1
# A terminal that goes away ends it.
t send-keys -t s clear Enter tracer Enter; until_shown LIVE 600
t kill-server
i=0; while pidof tracer > /out/alive; do i=$((i+1)); [ $i -gt 300 ] && break; sleep 0.1; done
exit 0
";
