//! What is handed to others, installed by a real package manager in a guest that has nothing else of ours.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::guests::{Ctx, Evidence, On, Scenario, expect};
use crate::vm::Outcome;
use crate::{dist, peers, ws};

/// Scenarios of what is released.
pub(crate) const SCENARIOS: &[Scenario] = &[Scenario {
    name: "dist",
    on: On::These(&["7.3"]),
    boot,
    checks: &[
        ("same-bytes-again", |e| {
            let (once, again) = (e.ctx.scratch().join("dist"), e.ctx.scratch().join("again"));
            dist::package(e.ctx.program("tracer")?, &again)?;
            let differ = dist::differing(&once, &again)?;
            expect("files that differ", &differ, &Vec::new())
        }),
        ("sums-are-right", |e| {
            let said = e.out_text("sums")?;
            let fine = said.lines().filter(|line| line.ends_with(": OK")).count();
            ensure!(fine == 4 && said.lines().count() == 4, "{said}");
            Ok(())
        }),
        ("installs", |e| {
            e.succeeded()?;
            let said = e.out_text("installed")?;
            ensure!(said.contains("Setting up tracer"), "dpkg -i says {said:?}");
            let status = e.out_text("status")?;
            let well = status.contains("\nStatus: install ok installed\n");
            ensure!(well, "dpkg -s says {status:?}");
            // One line for each file that is not as packed.
            expect("dpkg --verify", &e.out_text("verified")?.as_str(), &"")
        }),
        ("runs-from-there", |e| {
            expect(
                "which, version",
                &e.out_text("version")?,
                &format!("/usr/bin/tracer\ntracer {}\n", dist::VERSION),
            )?;
            let doctor: Value = serde_json::from_str(&e.out_text("doctor")?).context("doctor --json")?;
            ensure!(doctor["coverage"]["unseen"] == 0, "{}", doctor["coverage"]);
            let stats: Value = serde_json::from_str(&e.out_text("stats")?).context("stats --json")?;
            ensure!(
                stats["events"]["total"].as_u64() > Some(100),
                "{}",
                stats["events"]
            );
            Ok(())
        }),
        ("has-a-page-for-each-command", |e| {
            let pages = e.out_text("pages")?;
            let help = e.out_text("help")?;
            let commands = help
                .lines()
                .skip_while(|line| *line != "Commands:")
                .skip(1)
                .take_while(|line| !line.is_empty())
                .filter_map(|line| {
                    line.strip_prefix("  ")?
                        .split(' ')
                        .next()
                        .filter(|name| !name.is_empty())
                });
            let commands: Vec<&str> = commands.filter(|name| *name != "help").collect();
            ensure!(commands.len() > 10, "{commands:?} in\n{help}");
            for command in commands {
                let page = format!("tracer-{command}.1.gz");
                ensure!(pages.lines().any(|line| line == page), "no {page} in\n{pages}");
            }
            ensure!(
                e.out_text("page")?.contains("\n.TH tracer 1 "),
                "{}",
                e.out_text("page")?
            );
            Ok(())
        }),
        ("completes", completes),
        ("archive-has-the-same-program", |e| {
            expect(
                "version",
                &e.out_text("unpacked")?,
                &format!("tracer {}\n", dist::VERSION),
            )
        }),
        ("goes-without-a-trace", |e| {
            expect("files that are left", &e.out_text("left")?.as_str(), &"")
        }),
        ("kernel-is-content", Evidence::kernel_is_content),
    ],
}];

/// Bash itself fills in what was begun.
fn completes(e: &Evidence) -> Result<()> {
    e.out("tracer.bash")?;
    let script = "source ./tracer.bash; COMP_WORDS=(tracer exp); COMP_CWORD=1; _tracer tracer exp tracer; \
                  echo \"${COMPREPLY[@]}\"";
    let mut bash = Command::new("bash");
    bash.args(["-c", script]).current_dir(e.ctx.out());
    expect(
        "completions of `tracer exp`",
        &ws::capture(&mut bash)?.trim(),
        &"export",
    )?;
    for (file, word) in [
        ("_tracer", "#compdef tracer"),
        ("tracer.fish", "complete -c tracer"),
    ] {
        let text = e.out_text(file)?;
        ensure!(text.contains(word), "no {word:?} in {file}");
    }
    Ok(())
}

fn boot(ctx: &Ctx) -> Result<Outcome> {
    let to = ctx.scratch().join("dist");
    dist::package(ctx.program("tracer")?, &to)?;
    let mut guest = ctx.guest();
    guest.timeout = Duration::from_secs(240);
    guest.adds.extend(peers::get(&["dpkg"])?.adds);
    guest.adds.push((to, "/add/dist".to_owned()));
    guest.sh(SCRIPT)
}

const SCRIPT: &str = "
fail() { echo \"$1\" >&2; exit 1; }
rm /usr/bin/tracer
which tracer && fail 'there is another tracer'
# A package manager that has installed nothing yet, with the programs of its own system first. By its path, since the shell
# has one of its own by that name, and without ldconfig, which comes with compilers' libraries and which nothing here needs.
dpkg='/usr/bin/dpkg --force-bad-path'
mkdir -p /var/lib/dpkg/info /var/lib/dpkg/updates /var/log
touch /var/lib/dpkg/status
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
cd /add/dist
sha256sum -c SHA256SUMS > /out/sums || fail 'the sums are wrong'
$dpkg -i tracer_*_amd64.deb > /out/installed 2>&1 || { cat /out/installed >&2; fail 'dpkg -i'; }
$dpkg -s tracer > /out/status || fail 'dpkg -s'
$dpkg --verify tracer > /out/verified
$dpkg -L tracer > /tmp/files || fail 'dpkg -L'
which tracer > /out/version
tracer --version >> /out/version
tracer --help > /out/help
ls /usr/share/man/man1 > /out/pages
zcat /usr/share/man/man1/tracer.1.gz > /out/page
cp /usr/share/bash-completion/completions/tracer /out/tracer.bash
cp /usr/share/zsh/vendor-completions/_tracer /usr/share/fish/vendor_completions.d/tracer.fish /out
tracer doctor --json > /out/doctor || fail 'tracer doctor'
# Attached in a moment; the other checks are about the rest.
tracer record --without kprobe,breakpoint -o /tmp/a.rec -- ls -R /usr > /dev/null || fail 'tracer record'
tracer stats --json /tmp/a.rec > /out/stats || fail 'tracer stats'
cd /tmp
tar xzf /add/dist/tracer-*.tar.gz || fail 'tar'
cd tracer-*-x86_64-linux
cmp tracer /usr/bin/tracer || fail 'the programs differ'
./tracer --version > /out/unpacked
$dpkg -r tracer > /out/removed 2>&1 || { cat /out/removed >&2; fail 'dpkg -r'; }
while read -r file; do [ -f \"$file\" ] && echo \"$file\"; done < /tmp/files > /out/left
exit 0
";
