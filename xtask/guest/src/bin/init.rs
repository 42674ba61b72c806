//! The first process of a test virtual machine: mounts what a tracer needs, runs one command, sends back its
//! output, its status and `/out`, and powers off.
//!
//! It is a program and not a shell script because the command's bytes, its signal, and the difference between "not
//! found" and "failed" have to reach the host exactly.

use std::ffi::{CString, OsStr};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tracer_guest::{
    COMMAND_FILE, Checksum, Frame, MAX_FRAME, MODULES_DIR, PORT_CONTROL, PORT_STDERR, PORT_STDOUT,
    WANT_OUT_FILE,
};

const PATH: &str = "/add:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";

fn main() {
    if std::process::id() != 1 {
        eprintln!(
            "guest-init is the first process of a test virtual machine; `cargo xtask vm run` starts it"
        );
        std::process::exit(2);
    }
    if let Err(error) = serve() {
        // The host shows the end of the console when a guest stops without a word.
        eprintln!("guest-init: {error}");
    }
    power_off();
}

fn serve() -> Result<(), String> {
    prepare();
    load_modules()?;
    let mut control = port(PORT_CONTROL)?;
    let stdout = port(PORT_STDOUT)?;
    let stderr = port(PORT_STDERR)?;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    send(&mut control, &Frame::Hello(release.trim().into()))?;

    let mut log = kernel_log();
    let words = fs::read(COMMAND_FILE).map_err(|e| format!("reading {COMMAND_FILE}: {e}"))?;
    let (code, stdout, stderr) = run(&words, stdout, stderr)?;
    send(&mut control, &Frame::Exit { code, stdout, stderr })?;
    if let Some(log) = &mut log {
        for line in warnings(log) {
            send(&mut control, &Frame::KernelWarning(line))?;
        }
    }
    let mut files = 0;
    if Path::new(WANT_OUT_FILE).exists() {
        send_tree(&mut control, Path::new("/out"), Path::new(""), &mut files)?;
    }
    send(&mut control, &Frame::Done { files })?;
    // The host ends the machine as soon as it has everything; powering off is for the case that it does not.
    thread::sleep(Duration::from_secs(5));
    Ok(())
}

fn send(control: &mut File, frame: &Frame) -> Result<(), String> {
    frame
        .write(control)
        .map_err(|e| format!("writing to the host: {e}"))
}

/// Mounts and settings. What fails is said on the console and does not stop the rest: a kernel without bpffs can
/// still run most commands.
fn prepare() {
    for dir in ["/proc", "/sys", "/dev", "/tmp", "/out", "/run", "/root", "/add"] {
        complain(dir, fs::create_dir_all(dir));
    }
    mount("proc", "/proc", "proc", "");
    mount("sysfs", "/sys", "sysfs", "");
    mount("devtmpfs", "/dev", "devtmpfs", "");
    mount("tracefs", "/sys/kernel/tracing", "tracefs", "");
    mount("debugfs", "/sys/kernel/debug", "debugfs", "");
    mount("securityfs", "/sys/kernel/security", "securityfs", "");
    mount("bpf", "/sys/fs/bpf", "bpf", "");
    mount("cgroup2", "/sys/fs/cgroup", "cgroup2", "");
    mount("tmpfs", "/tmp", "tmpfs", "mode=1777");
    mount("tmpfs", "/out", "tmpfs", "mode=1777,size=90%");
    mount("tmpfs", "/run", "tmpfs", "mode=755");
    for dir in ["/dev/pts", "/dev/shm", "/dev/hugepages"] {
        complain(dir, fs::create_dir_all(dir));
    }
    mount("devpts", "/dev/pts", "devpts", "mode=620,ptmxmode=666");
    mount("tmpfs", "/dev/shm", "tmpfs", "mode=1777");
    mount("hugetlbfs", "/dev/hugepages", "hugetlbfs", "");
    for (from, to) in [
        ("/proc/self/fd", "/dev/fd"),
        ("fd/0", "/dev/stdin"),
        ("fd/1", "/dev/stdout"),
        ("fd/2", "/dev/stderr"),
    ] {
        if let Err(error) = std::os::unix::fs::symlink(from, to)
            && error.kind() != ErrorKind::AlreadyExists
        {
            eprintln!("guest-init: {to}: {error}");
        }
    }
    for (name, value) in [
        ("kernel/kptr_restrict", "0"),
        ("kernel/perf_event_paranoid", "-1"),
        ("kernel/hostname", "guest"),
    ] {
        complain(name, fs::write(Path::new("/proc/sys").join(name), value));
    }
    match Command::new("/bin/ip").args(["link", "set", "lo", "up"]).status() {
        Ok(status) if status.success() => {}
        Ok(status) => eprintln!("guest-init: bringing lo up: {status}"),
        Err(error) => eprintln!("guest-init: bringing lo up: {error}"),
    }
}

fn complain(what: &str, result: io::Result<()>) {
    if let Err(error) = result {
        eprintln!("guest-init: {what}: {error}");
    }
}

fn mount(source: &str, target: &str, kind: &str, data: &str) {
    let (Ok(from), Ok(to), Ok(fs), Ok(data)) = (
        CString::new(source),
        CString::new(target),
        CString::new(kind),
        CString::new(data),
    ) else {
        return;
    };
    // SAFETY: all four are NUL-terminated strings that outlive the call.
    let result = unsafe { libc::mount(from.as_ptr(), to.as_ptr(), fs.as_ptr(), 0, data.as_ptr().cast()) };
    if result != 0 {
        let error = io::Error::last_os_error();
        // Some kernels mount a few of these by themselves, and some lack a few.
        if !matches!(
            error.raw_os_error(),
            Some(libc::EBUSY | libc::ENODEV | libc::ENOENT)
        ) {
            eprintln!("guest-init: mounting {target}: {error}");
        }
    }
}

/// Loads the modules that this kernel needs to reach the host.
fn load_modules() -> Result<(), String> {
    for n in 0.. {
        let path = Path::new(MODULES_DIR).join(format!("{n}.ko"));
        let module = match File::open(&path) {
            Ok(module) => module,
            Err(error) if error.kind() == ErrorKind::NotFound => break,
            Err(error) => return Err(format!("opening {}: {error}", path.display())),
        };
        // SAFETY: the descriptor is open and the parameters are a NUL-terminated string; both outlive the call.
        let result = unsafe { libc::syscall(libc::SYS_finit_module, module.as_raw_fd(), c"".as_ptr(), 0) };
        if result != 0 {
            return Err(format!(
                "loading {}: {}",
                path.display(),
                io::Error::last_os_error()
            ));
        }
    }
    Ok(())
}

/// The device of a named port. Ports appear some time after the bus driver has found the device.
fn port(name: &str) -> Result<File, String> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Ok(entries) = fs::read_dir("/sys/class/virtio-ports") {
            for entry in entries.flatten() {
                let found = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
                if found.trim() == name {
                    let device = Path::new("/dev").join(entry.file_name());
                    return OpenOptions::new()
                        .write(true)
                        .open(&device)
                        .map_err(|e| format!("opening {}: {e}", device.display()));
                }
            }
        }
        if Instant::now() > deadline {
            return Err(format!(
                "no virtio serial port named {name}: this kernel needs VIRTIO_PCI and VIRTIO_CONSOLE built in"
            ));
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Runs the command and returns its status and how much it wrote.
fn run(words: &[u8], stdout: File, stderr: File) -> Result<(u8, u64, u64), String> {
    let mut words = words
        .split(|b| *b == 0)
        .filter(|w| !w.is_empty())
        .map(OsStr::from_bytes);
    let program = words.next().ok_or("the command is empty")?;
    let (out_read, out_write) = io::pipe().map_err(|e| format!("pipe: {e}"))?;
    let (err_read, err_write) = io::pipe().map_err(|e| format!("pipe: {e}"))?;
    let mut complaints = err_write.try_clone().map_err(|e| format!("pipe: {e}"))?;
    let out = thread::spawn(move || pump(out_read, stdout));
    let err = thread::spawn(move || pump(err_read, stderr));

    let mut command = Command::new(program);
    command.args(words).env_clear();
    command
        .env("PATH", PATH)
        .env("HOME", "/root")
        .env("USER", "root")
        .env("TERM", "dumb");
    command
        .stdin(Stdio::null())
        .stdout(out_write)
        .stderr(err_write)
        .process_group(0);
    let code = match command.spawn() {
        Ok(child) => wait_for(child.id().cast_signed()),
        Err(error) => {
            let name = program.to_string_lossy();
            let (code, why) = diagnose(&name, &error);
            writeln!(complaints, "vm: {name}: {why}").map_err(|e| format!("stderr: {e}"))?;
            code
        }
    };
    // The pipes' write ends live on in `command`, in `complaints`, and in whatever the command left running.
    drop(command);
    drop(complaints);
    // SAFETY: no memory is involved; as process 1 this signals every process but ourselves.
    unsafe { libc::kill(-1, libc::SIGKILL) };
    let out = out.join().map_err(|_| "the stdout pump died")??;
    let err = err.join().map_err(|_| "the stderr pump died")??;
    Ok((code, out, err))
}

fn diagnose(name: &str, error: &io::Error) -> (u8, String) {
    let exists = if name.contains('/') {
        Path::new(name).exists()
    } else {
        PATH.split(':').any(|dir| Path::new(dir).join(name).exists())
    };
    match error.kind() {
        ErrorKind::NotFound if exists => (
            127,
            "its dynamic loader or interpreter is not in the guest (link it statically, or --add them)"
                .into(),
        ),
        ErrorKind::NotFound => (127, "not found in the guest".into()),
        _ => (126, error.to_string()),
    }
}

fn pump(mut from: impl Read, mut to: File) -> Result<u64, String> {
    let mut buffer = vec![0; 64 << 10];
    let mut total = 0;
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(n) => {
                to.write_all(&buffer[..n])
                    .map_err(|e| format!("writing to the host: {e}"))?;
                total += n as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(format!("reading the command's output: {error}")),
        }
    }
}

/// Waits for one child and buries, as process 1 must, every orphan that dies meanwhile.
fn wait_for(child: libc::pid_t) -> u8 {
    loop {
        let mut status = 0;
        // SAFETY: `status` outlives the call.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, 0) };
        if pid == child {
            let code = if libc::WIFSIGNALED(status) {
                128 + libc::WTERMSIG(status)
            } else {
                libc::WEXITSTATUS(status)
            };
            return u8::try_from(code & 0xff).unwrap_or(255);
        }
        if pid < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::ECHILD) {
            return 255;
        }
    }
}

/// The kernel's log, set to after what has been said so far.
fn kernel_log() -> Option<File> {
    let log = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/kmsg");
    let mut log = log.map_err(|e| eprintln!("guest-init: /dev/kmsg: {e}")).ok()?;
    io::Seek::seek(&mut log, io::SeekFrom::End(0))
        .map_err(|e| eprintln!("guest-init: /dev/kmsg: {e}"))
        .ok()?;
    Some(log)
}

/// Lines at warning level or above, as the kernel wrote them since [`kernel_log`].
fn warnings(log: &mut File) -> Vec<String> {
    let mut lines = Vec::new();
    let mut buffer = vec![0; 16 << 10];
    loop {
        match log.read(&mut buffer) {
            Ok(0) => return lines,
            Ok(n) => {
                let record = String::from_utf8_lossy(&buffer[..n]);
                let Some((head, text)) = record.split_once(';') else {
                    continue;
                };
                let priority: u32 = head.split(',').next().and_then(|p| p.parse().ok()).unwrap_or(0);
                // The upper bits name the facility: 0 is the kernel, the rest is somebody's write to kmsg.
                if priority <= 4 {
                    lines.push(text.lines().next().unwrap_or_default().to_owned());
                }
            }
            // The log ran over while we were not reading: go on with what is left of it.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {
                lines.push("(earlier kernel messages were lost)".into());
            }
            Err(_) => return lines,
        }
    }
}

fn send_tree(control: &mut File, root: &Path, relative: &Path, files: &mut u32) -> Result<(), String> {
    let dir = root.join(relative);
    let at = |e: io::Error| format!("reading {}: {e}", dir.display());
    let mut entries = fs::read_dir(&dir)
        .map_err(at)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(at)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let inner: PathBuf = relative.join(entry.file_name());
        let Some(path) = inner.to_str().map(ToOwned::to_owned) else {
            send(
                control,
                &Frame::Note(format!("/out/{} is not copied: not UTF-8", inner.display())),
            )?;
            continue;
        };
        let meta = entry.metadata().map_err(at)?;
        let mode = meta.permissions().mode() & 0o7777;
        if meta.is_dir() {
            send(control, &Frame::Dir { mode, path })?;
            send_tree(control, root, &inner, files)?;
        } else if meta.is_symlink() {
            let target = fs::read_link(entry.path())
                .map_err(at)?
                .to_string_lossy()
                .into_owned();
            send(control, &Frame::Link { path, target })?;
        } else if meta.is_file() {
            *files += 1;
            send_file(control, &entry.path(), mode, path)?;
        } else {
            send(
                control,
                &Frame::Note(format!("/out/{path} is not copied: not a file, folder or link")),
            )?;
        }
    }
    Ok(())
}

fn send_file(control: &mut File, from: &Path, mode: u32, path: String) -> Result<(), String> {
    let at = |e: io::Error| format!("reading {}: {e}", from.display());
    let mut file = File::open(from).map_err(at)?;
    let size = file.metadata().map_err(at)?.len();
    send(control, &Frame::File { mode, size, path })?;
    let mut sum = Checksum::default();
    let mut buffer = vec![0; MAX_FRAME / 2];
    loop {
        let n = file.read(&mut buffer).map_err(at)?;
        if n == 0 {
            break;
        }
        sum.add(&buffer[..n]);
        send(control, &Frame::Data(buffer[..n].to_vec()))?;
    }
    send(control, &Frame::Sum(sum.finish()))
}

fn power_off() -> ! {
    // SAFETY: neither call touches memory.
    unsafe {
        libc::sync();
        libc::reboot(libc::RB_POWER_OFF);
    }
    // Process 1 must not return; the host's timeout ends a machine that cannot power off.
    loop {
        thread::sleep(Duration::from_secs(1));
    }
}
