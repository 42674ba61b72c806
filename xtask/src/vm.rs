//! Virtual machines: boots a kernel, runs one command in it as root, and hands back all that came of it.

use std::fs::{self, File};
use std::io::{BufWriter, ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use tracer_guest::{COMMAND_FILE, MODULES_DIR, PORT_CONTROL, PORT_STDERR, PORT_STDOUT, WANT_OUT_FILE};

use crate::kernels::Kernel;
use crate::vm_out::{Event, receive};
use crate::{build, cpio, deps, ws};

/// A guest that has not come up after this has hung: it takes seconds, and half a minute with the largest of roots.
const UP: Duration = Duration::from_secs(240);
/// The status of a guest that was killed at its timeout, as timeout(1) has it.
pub(crate) const TIMED_OUT: u8 = 124;
/// The status of a guest that stopped without having run its command to the end: panic, reset, no init.
pub(crate) const CRASHED: u8 = 125;

/// Programs of our own that a guest has in its PATH. Built once, used by many guests.
#[derive(Debug)]
pub(crate) struct Tools {
    qemu: PathBuf,
    busybox: PathBuf,
    applets: Vec<String>,
    init: PathBuf,
    /// Those that are under test.
    pub(crate) programs: Vec<(&'static str, PathBuf)>,
}

impl Tools {
    /// Fetches and builds what is missing.
    pub(crate) fn get(with_programs: bool) -> Result<Arc<Self>> {
        let qemu = deps::qemu()?;
        let busybox = deps::busybox()?;
        let applets = ws::capture(Command::new(&busybox).arg("--list"))?;
        let applets = applets
            .lines()
            .filter(|a| *a != "busybox")
            .map(ToOwned::to_owned)
            .collect();
        let init = build::guest_init()?;
        let mut programs = Vec::new();
        if with_programs {
            programs.extend(build::guest_programs()?);
            programs.push(("tracer", build::tracer()?));
        }
        Ok(Arc::new(Self {
            qemu,
            busybox,
            applets,
            init,
            programs,
        }))
    }
}

/// A guest that has not been booted yet.
#[derive(Debug, Clone)]
pub(crate) struct Guest {
    /// The kernel to boot.
    pub(crate) kernel: Kernel,
    /// Processors.
    pub(crate) smp: u32,
    /// Memory in MiB, `/out` and the files that are added included.
    pub(crate) mem: u32,
    /// Files and folders of this machine, and where the guest shall see them.
    pub(crate) adds: Vec<(PathBuf, String)>,
    /// The guest is killed after this time, boot included.
    pub(crate) timeout: Duration,
    /// Let guest time advance with the instructions that were executed, and not with the host's clock: then a busy
    /// host changes nothing. Takes one processor.
    pub(crate) icount: bool,
    /// More words for the kernel's command line.
    pub(crate) append: String,
    /// Where the guest's `/out` goes.
    pub(crate) out: Option<PathBuf>,
    /// Pass stdout and stderr through as they come, besides keeping them.
    pub(crate) pass_through: bool,
    tools: Arc<Tools>,
}

/// What came of a guest.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// The command's exit status, 128 + N if signal N ended it, [`TIMED_OUT`] or [`CRASHED`].
    pub(crate) status: u8,
    /// All it wrote to standard output (not kept when passed through).
    pub(crate) stdout: Vec<u8>,
    /// All it wrote to standard error (not kept when passed through).
    pub(crate) stderr: Vec<u8>,
    /// Was the guest killed at its timeout?
    pub(crate) timed_out: bool,
    /// Did the guest stop without having finished?
    pub(crate) crashed: bool,
    /// What the kernel wrote to its console, up to the last 64 KiB.
    pub(crate) console: String,
    /// The kernel's own messages at warning level or above while the command ran.
    pub(crate) kernel_warnings: Vec<String>,
    /// The release that the guest said it runs.
    pub(crate) release: String,
    /// Things a person should read, such as files that could not be copied.
    pub(crate) notes: Vec<String>,
    /// From the start of the emulator to the start of the command.
    pub(crate) boot: Duration,
    /// From the start of the emulator to the end of all.
    pub(crate) total: Duration,
}

impl Outcome {
    /// Standard output as text.
    pub(crate) fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The last lines of the console, for messages.
    pub(crate) fn console_tail(&self, lines: usize) -> String {
        let all: Vec<&str> = self.console.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// The guest ended by itself, and its command with 0.
    ///
    /// # Errors
    /// They say how it ended, and what the command said.
    pub(crate) fn ended_well(&self) -> Result<()> {
        if let Some(trouble) = self.trouble() {
            bail!("{trouble}");
        }
        ensure!(
            self.status == 0,
            "the guest's command ended with {}: {}",
            self.status,
            plain(&String::from_utf8_lossy(&self.stderr))
        );
        Ok(())
    }

    /// The guest never came up: the emulator hung or went away before the kernel had said a word to us. That says nothing of
    /// what was to be run in it.
    pub(crate) fn never_came_up(&self) -> bool {
        self.release.is_empty() && (self.timed_out || self.crashed)
    }

    /// One sentence about a guest that did not end by itself, with the end of its console.
    pub(crate) fn trouble(&self) -> Option<String> {
        let tail = self.console_tail(25);
        let console = if tail.trim().is_empty() {
            "its console is empty".to_owned()
        } else {
            format!("the end of its console:\n{tail}")
        };
        if self.timed_out {
            let booted = if self.release.is_empty() {
                " before it had booted"
            } else {
                ""
            };
            Some(format!(
                "the guest was killed at its timeout, after {} s{booted}; {console}",
                self.total.as_secs()
            ))
        } else if self.crashed {
            Some(format!(
                "the guest stopped before its command had ended (panic or reset); {console}"
            ))
        } else {
            None
        }
    }
}

impl Guest {
    /// A guest with two processors, 1 GiB and two minutes.
    pub(crate) fn new(kernel: Kernel, tools: Arc<Tools>) -> Self {
        Self {
            kernel,
            smp: 2,
            mem: 1024,
            adds: Vec::new(),
            timeout: Duration::from_secs(120),
            icount: false,
            append: String::new(),
            out: None,
            pass_through: false,
            tools,
        }
    }

    /// Boots the guest and runs a shell script in it.
    pub(crate) fn sh(&self, script: &str) -> Result<Outcome> {
        self.run(&["sh".to_owned(), "-c".to_owned(), script.to_owned()])
    }

    /// Boots the guest and runs a command in it.
    pub(crate) fn run(&self, command: &[String]) -> Result<Outcome> {
        let scratch = ws::Scratch::new(None)?;
        let initrd = scratch.path().join("initrd");
        self.pack(&initrd, command)?;
        let names = ["out", "err", "ctl"];
        let listeners = names.map(|name| {
            let path = scratch.path().join(name);
            let listener =
                UnixListener::bind(&path).with_context(|| format!("listening on {}", path.display()))?;
            listener
                .set_nonblocking(true)
                .with_context(|| format!("listening on {}", path.display()))?;
            Ok::<_, anyhow::Error>(listener)
        });
        let start = Instant::now();
        let mut running = Running(self.start(scratch.path(), &initrd)?);
        let mut streams = Vec::new();
        for listener in listeners {
            streams.push(accept(&listener?, &mut running, scratch.path())?);
        }
        let [out, err, ctl]: [UnixStream; 3] = streams
            .try_into()
            .map_err(|_| anyhow!("three listeners gave not three streams"))?;
        let mut outcome = Outcome::default();
        self.follow(&mut running, start, (out, err, ctl), &mut outcome)?;
        outcome.total = start.elapsed();
        outcome.console = console(&scratch.path().join("console"))?;
        if outcome.timed_out {
            outcome.status = TIMED_OUT;
        } else if outcome.crashed {
            outcome.status = CRASHED;
            // If it was the emulator that gave up, then its words say why.
            let said = fs::read_to_string(scratch.path().join("qemu.log")).unwrap_or_default();
            if !said.trim().is_empty() {
                outcome.console.push_str(&format!("\n(emulator) {}", said.trim()));
            }
        }
        Ok(outcome)
    }

    /// Packs the guest's root.
    fn pack(&self, to: &Path, command: &[String]) -> Result<()> {
        let file = File::create(to).with_context(|| format!("creating {}", to.display()))?;
        let mut cpio = cpio::Writer::new(BufWriter::new(file));
        let tools = &self.tools;
        let packing = || format!("writing {}", to.display());
        for dir in [
            "dev", "proc", "sys", "tmp", "root", "etc", "add", "bin", "sbin", "usr/bin", "usr/sbin", "out",
        ] {
            cpio.dir(dir).with_context(packing)?;
        }
        // The kernel gives the first process this as its standard streams; devtmpfs comes later.
        cpio.device("dev/console", 5, 1).with_context(packing)?;
        cpio.add(&tools.init, "init")?;
        for (name, path) in &tools.programs {
            cpio.add(path, &format!("usr/bin/{name}"))?;
        }
        cpio.file(
            "bin/busybox",
            0o755,
            &fs::read(&tools.busybox).context("reading busybox")?,
        )
        .with_context(packing)?;
        for applet in &tools.applets {
            cpio.link(&format!("bin/{applet}"), "busybox")
                .with_context(packing)?;
        }
        let passwd = b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/tmp:/bin/sh\nnobody:x:65534:65534:nobody:/tmp:/bin/sh\n";
        cpio.file("etc/passwd", 0o644, passwd).with_context(packing)?;
        cpio.file("etc/group", 0o644, b"root:x:0:\nuser:x:1000:\nnogroup:x:65534:\n")
            .with_context(packing)?;
        let mut words = Vec::new();
        for word in command {
            words.extend_from_slice(word.as_bytes());
            words.push(0);
        }
        cpio.file(COMMAND_FILE, 0o644, &words).with_context(packing)?;
        for (n, module) in self.kernel.modules.iter().enumerate() {
            cpio.add(module, &format!("{MODULES_DIR}/{n}.ko"))?;
        }
        if self.out.is_some() {
            cpio.file(WANT_OUT_FILE, 0o644, b"").with_context(packing)?;
        }
        for (host, guest) in &self.adds {
            cpio.add(host, guest)?;
        }
        cpio.finish().with_context(packing)?;
        Ok(())
    }

    fn start(&self, dir: &Path, initrd: &Path) -> Result<Child> {
        let log = File::create(dir.join("qemu.log")).context("creating the emulator's log")?;
        let log_too = log.try_clone().context("using the emulator's log")?;
        let mut command = Command::new(&self.tools.qemu);
        if self.icount {
            // An instruction takes a nanosecond, and nobody waits while the guest is idle.
            command.args(["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off"]);
        } else {
            command.args(["-accel", "tcg,thread=multi"]);
        }
        command.args(["-cpu", "max", "-nodefaults", "-no-user-config"]);
        command.args(["-nic", "none", "-display", "none", "-no-reboot"]);
        command.args(["-smp", &self.smp.to_string(), "-m", &self.mem.to_string()]);
        command
            .arg("-kernel")
            .arg(&self.kernel.image)
            .arg("-initrd")
            .arg(initrd);
        // Emulated processors may stand still for seconds on a busy machine: watchdogs would bark at that.
        let append = format!(
            "console=ttyS0 panic=-1 oops=panic quiet nowatchdog rcupdate.rcu_cpu_stall_suppress=1 {}",
            self.append
        );
        command.args(["-append", append.trim_end()]);
        command
            .arg("-serial")
            .arg(format!("file:{}", dir.join("console").display()));
        command.args(["-device", "virtio-serial-pci,max_ports=4"]);
        for (name, port) in [("out", PORT_STDOUT), ("err", PORT_STDERR), ("ctl", PORT_CONTROL)] {
            let path = dir.join(name);
            command
                .arg("-chardev")
                .arg(format!("socket,id={name},path={}", path.display()));
            command
                .arg("-device")
                .arg(format!("virtserialport,chardev={name},name={port}"));
        }
        command.stdin(Stdio::null()).stdout(log).stderr(log_too);
        ws::dies_with_us(&mut command, libc::SIGKILL);
        command
            .spawn()
            .with_context(|| format!("starting `{}`", ws::show(&command)))
    }

    /// Follows a running guest to its end.
    fn follow(
        &self,
        running: &mut Running,
        start: Instant,
        (out, err, ctl): (UnixStream, UnixStream, UnixStream),
        outcome: &mut Outcome,
    ) -> Result<()> {
        let pass = self.pass_through;
        let out = Pump::start(
            out,
            if pass {
                Sink::Through(Box::new(std::io::stdout()))
            } else {
                Sink::Keep
            },
        );
        let err = Pump::start(
            err,
            if pass {
                Sink::Through(Box::new(std::io::stderr()))
            } else {
                Sink::Keep
            },
        );
        let (events, inbox) = mpsc::channel();
        let out_dir = self.out.clone();
        let receiver = thread::spawn(move || receive(ctl, out_dir.as_deref(), &events));

        let mut deadline = start + self.timeout.min(UP);
        let mut counts = None;
        let mut done = false;
        loop {
            match inbox.recv_timeout(
                Duration::from_millis(50).min(deadline.saturating_duration_since(Instant::now())),
            ) {
                Ok(Event::Hello(release)) => {
                    outcome.release = release;
                    outcome.boot = start.elapsed();
                    deadline = start + self.timeout;
                }
                Ok(Event::Note(note)) => outcome.notes.push(note),
                Ok(Event::KernelWarning(line)) => outcome.kernel_warnings.push(line),
                Ok(Event::Exit { code, stdout, stderr }) => {
                    outcome.status = code;
                    counts = Some((stdout, stderr));
                }
                Ok(Event::Done) => done = true,
                Err(RecvTimeoutError::Timeout) => {}
                // The stream ended: the emulator is gone, or is about to be, or what it sent made no sense.
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if out.broken() || err.broken() {
                break;
            }
            if done && counts.is_some_and(|(o, e)| out.count() >= o && err.count() >= e) {
                break;
            }
            if Instant::now() >= deadline {
                outcome.timed_out = !done;
                break;
            }
        }
        running.kill();
        let (stdout, out_broken) = out.finish()?;
        let (stderr, err_broken) = err.finish()?;
        outcome.stdout = stdout;
        outcome.stderr = stderr;
        receiver
            .join()
            .map_err(|_| anyhow!("the thread that receives from the guest panicked"))??;
        while let Ok(event) = inbox.try_recv() {
            if let Event::Done = event {
                done = true;
            }
        }
        if out_broken || err_broken {
            // Nobody reads us any more, as with `| head`: say nothing and leave as a shell would have it.
            outcome.status = 128 + 13;
        } else if !done && !outcome.timed_out {
            outcome.crashed = true;
        }
        Ok(())
    }
}

/// A guest's emulator, which does not outlive this value.
struct Running(Child);

impl Running {
    fn kill(&mut self) {
        // Errors mean that it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

fn accept(listener: &UnixListener, running: &mut Running, dir: &Path) -> Result<UnixStream> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream
                    .set_nonblocking(false)
                    .context("using the emulator's connection")?;
                return Ok(stream);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("waiting for the emulator to connect"),
        }
        let ended = running.0.try_wait().context("waiting for the emulator")?;
        if ended.is_some() || Instant::now() > deadline {
            let said = fs::read_to_string(dir.join("qemu.log")).unwrap_or_default();
            bail!("the emulator did not start: {}", said.trim());
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// The last part of the console, without what a terminal would act on.
fn console(path: &Path) -> Result<String> {
    const KEEP: usize = 64 << 10;
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let text = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(KEEP)..]).replace('\r', "");
    Ok(plain(&text))
}

/// Text without control characters and escape sequences, line breaks and tabs aside.
pub(crate) fn plain(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            // A control sequence ends with a letter; other escapes are one character long.
            if chars.next() == Some('[') {
                chars.by_ref().find(|c| c.is_ascii_alphabetic());
            }
        } else if !c.is_control() || c == '\n' || c == '\t' {
            kept.push(c);
        }
    }
    kept
}

enum Sink {
    Keep,
    Through(Box<dyn Write + Send>),
}

/// A thread that carries one of the command's streams.
struct Pump {
    thread: JoinHandle<Result<Vec<u8>>>,
    count: Arc<AtomicU64>,
    broken: Arc<AtomicBool>,
}

impl Pump {
    fn start(mut from: UnixStream, mut sink: Sink) -> Self {
        let count = Arc::new(AtomicU64::new(0));
        let broken = Arc::new(AtomicBool::new(false));
        let (counter, breaker) = (Arc::clone(&count), Arc::clone(&broken));
        let thread = thread::spawn(move || {
            let mut kept = Vec::new();
            let mut buffer = vec![0; 64 << 10];
            loop {
                let n = match from.read(&mut buffer) {
                    Ok(0) => return Ok(kept),
                    Ok(n) => n,
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    // The emulator was killed with bytes of ours unread.
                    Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(kept),
                    Err(error) => return Err(error).context("reading the guest's output"),
                };
                let bytes = &buffer[..n];
                match &mut sink {
                    Sink::Keep => kept.extend_from_slice(bytes),
                    Sink::Through(to) => {
                        if let Err(error) = to.write_all(bytes).and_then(|()| to.flush()) {
                            breaker.store(true, Ordering::Release);
                            if error.kind() == ErrorKind::BrokenPipe {
                                return Ok(kept);
                            }
                            return Err(error).context("passing on the guest's output");
                        }
                    }
                }
                counter.fetch_add(n as u64, Ordering::Release);
            }
        });
        Self {
            thread,
            count,
            broken,
        }
    }

    fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    fn broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    fn finish(self) -> Result<(Vec<u8>, bool)> {
        let kept = self
            .thread
            .join()
            .map_err(|_| anyhow!("the thread that carries the guest's output panicked"))??;
        Ok((kept, self.broken.load(Ordering::Acquire)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_cannot_drive_our_terminal() {
        assert_eq!(plain("a\u{1b}[2Jb\u{1b}cc\u{7}\n\td"), "abc\n\td");
    }
}
