//! `-- CMD`: starts a command as the user who called us, held back until the probes know it.

use std::ffi::{CString, OsString};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread;

use anyhow::Context as _;

use crate::outside;

/// Who called us through sudo.
#[derive(Debug)]
struct Invoker {
    uid: libc::uid_t,
    gid: libc::gid_t,
    groups: Vec<libc::gid_t>,
    name: OsString,
}

/// Whether the command may write to our terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// As if the user had started it.
    Shown,
    /// No: we draw there.
    Hidden,
}

/// A command that was started and waits to be let go.
pub struct Child {
    /// Its process ID.
    pub pid: u32,
    go: Option<io::PipeWriter>,
    ended: Receiver<io::Result<ExitStatus>>,
    /// For messages.
    name: String,
}

impl Child {
    /// Forks; the new process waits for [`Self::go`] before it becomes the command.
    ///
    /// # Errors
    /// When no process can be made. That the command does not exist shows only after [`Self::go`].
    pub fn start(command: &[String], output: Output) -> anyhow::Result<Self> {
        let (program, arguments) = command.split_first().context("no command after --")?;
        let (mut pid_reader, pid_writer) = io::pipe().context("cannot make a pipe")?;
        let (go_reader, go) = io::pipe().context("cannot make a pipe")?;
        let (pid_writer, go_reader) = (OwnedFd::from(pid_writer), OwnedFd::from(go_reader));

        let mut process = Command::new(program);
        process.args(arguments);
        if output == Output::Hidden {
            process
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
        }
        let invoker = invoker();
        if let Some(invoker) = &invoker {
            process.env("USER", &invoker.name).env("LOGNAME", &invoker.name);
            for variable in ["SUDO_USER", "SUDO_UID", "SUDO_GID", "SUDO_COMMAND"] {
                process.env_remove(variable);
            }
        }
        let (tell, wait, let_go) = (pid_writer.as_raw_fd(), go_reader.as_raw_fd(), go.as_raw_fd());
        let before_exec = move || {
            if let Some(Invoker { uid, gid, groups, .. }) = &invoker {
                // SAFETY: plain system calls; the list lives in this closure.
                unsafe {
                    check(libc::setgroups(groups.len(), groups.as_ptr()))?;
                    check(libc::setgid(*gid))?;
                    check(libc::setuid(*uid))?;
                }
            }
            // SAFETY: plain system calls on descriptors that the fork inherited.
            unsafe {
                // The fork has the writing end too; with it open, the pipe would never end.
                check(libc::close(let_go))?;
                let pid = libc::getpid().to_ne_bytes();
                check(libc::write(tell, pid.as_ptr().cast(), pid.len()) as i32)?;
                let mut byte = 0u8;
                // 0 bytes: our parent is gone, and nobody wants the command any more.
                if check(libc::read(wait, (&raw mut byte).cast(), 1) as i32)? == 0 {
                    libc::_exit(0);
                }
            }
            Ok(())
        };
        // SAFETY: between fork and exec only system calls are made, no memory is allocated.
        unsafe { process.pre_exec(before_exec) };

        // `spawn` returns only once the command runs, which is after we let it go: so it waits in a
        // thread of its own, and stays there to collect the status.
        let (send, ended) = channel();
        thread::Builder::new()
            .name("command".to_owned())
            .spawn(move || {
                let result = process.spawn();
                drop((pid_writer, go_reader));
                let status = result.and_then(|mut child| child.wait());
                // Nobody listens any more when the program is on its way out.
                let _ = send.send(status);
            })
            .context("cannot start a thread")?;
        let mut pid = [0; 4];
        if pid_reader.read_exact(&mut pid).is_err() {
            let error = match ended.recv() {
                Ok(Err(error)) => error,
                _ => io::Error::other("it ended before it began"),
            };
            return Err(error).with_context(|| format!("cannot start {}", outside::plain(program)));
        }
        Ok(Self {
            pid: u32::from_ne_bytes(pid),
            go: Some(go),
            ended,
            name: outside::plain(program).into_owned(),
        })
    }

    /// Lets the command begin.
    ///
    /// # Errors
    /// When its process is gone.
    pub fn go(&mut self) -> anyhow::Result<()> {
        if let Some(mut go) = self.go.take() {
            go.write_all(&[1])
                .with_context(|| format!("{} ended before it began", self.name))?;
        }
        Ok(())
    }

    /// How it ended, in words, if it has.
    ///
    /// # Errors
    /// When it could not be started at all.
    pub fn ended(&mut self) -> anyhow::Result<Option<String>> {
        match self.ended.try_recv() {
            Ok(Ok(status)) => Ok(Some(self.describe(status))),
            Ok(Err(error)) => Err(error).with_context(|| format!("cannot start {}", self.name)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Ok(Some(format!("{} is gone", self.name))),
        }
    }

    fn describe(&self, status: ExitStatus) -> String {
        match (status.code(), status.signal()) {
            (Some(code), _) => format!("{} ended with status {code}", self.name),
            (None, Some(signal)) => format!("{} was killed by signal {signal}", self.name),
            (None, None) => format!("{} ended", self.name),
        }
    }
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// The user behind sudo, if we are root by its grace.
fn invoker() -> Option<Invoker> {
    // SAFETY: no precondition.
    if unsafe { libc::geteuid() } != 0 {
        return None;
    }
    let number = |name| std::env::var(name).ok()?.parse::<u32>().ok();
    let (uid, gid) = (number("SUDO_UID")?, number("SUDO_GID")?);
    let name = std::env::var_os("SUDO_USER")?;
    let c_name = CString::new(name.as_encoded_bytes()).ok()?;
    let mut groups = vec![0; 256];
    let mut count = groups.len() as libc::c_int;
    // SAFETY: the list has room for `count` groups, and the name ends in a zero byte.
    let found = unsafe { libc::getgrouplist(c_name.as_ptr(), gid, groups.as_mut_ptr(), &raw mut count) };
    if found < 0 {
        // More groups than anybody has: the primary one alone is the safe answer.
        return Some(Invoker {
            uid,
            gid,
            groups: vec![gid],
            name,
        });
    }
    groups.truncate(count as usize);
    Some(Invoker {
        uid,
        gid,
        groups,
        name,
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn wait(child: &mut Child) -> anyhow::Result<String> {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(how) = child.ended()? {
                return Ok(how);
            }
            anyhow::ensure!(Instant::now() < until, "the command did not end");
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn command(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn a_command_does_not_begin_before_it_may() {
        let file = std::env::temp_dir().join(format!("tracer-child-{}", std::process::id()));
        let mut child = Child::start(
            &command(&["sh", "-c", &format!("echo > {}; exit 3", file.display())]),
            Output::Shown,
        )
        .unwrap();
        thread::sleep(Duration::from_millis(50));
        assert!(!file.exists());
        child.go().unwrap();
        assert_eq!(wait(&mut child).unwrap(), "sh ended with status 3");
        assert!(file.exists());
        std::fs::remove_file(file).unwrap();
    }

    #[test]
    fn a_command_that_does_not_exist_is_an_error() {
        let mut child = Child::start(&command(&["/nonexistent/command"]), Output::Hidden).unwrap();
        child.go().unwrap();
        let error = wait(&mut child).unwrap_err();
        assert!(format!("{error:#}").contains("cannot start /nonexistent/command"));
    }

    #[test]
    fn a_command_that_is_never_let_go_ends() {
        let child = Child::start(&command(&["sh", "-c", "exit 3"]), Output::Hidden).unwrap();
        let Child { go, ended, .. } = child;
        drop(go);
        assert_eq!(ended.recv().unwrap().unwrap().code(), Some(0));
    }
}
