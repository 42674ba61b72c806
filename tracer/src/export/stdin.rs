//! The standard input, which ends when somebody presses ^C: whoever writes there may not have noticed.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// How long a ^C may take to be seen, in milliseconds.
const PATIENCE_MS: libc::c_int = 100;

/// The standard input without a buffer, which would hide from `poll` what is there already.
pub(super) struct Stdin {
    file: File,
    stop: Arc<AtomicBool>,
}

impl Stdin {
    /// Ends as soon as `stop` is set.
    pub(super) fn new(stop: Arc<AtomicBool>) -> io::Result<Self> {
        let file = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        Ok(Self { file, stop })
    }
}

impl Read for Stdin {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        while !self.stop.load(Ordering::Relaxed) {
            let mut poll = libc::pollfd {
                fd: self.file.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: one valid pollfd.
            match unsafe { libc::poll(&raw mut poll, 1, PATIENCE_MS) } {
                0 => {}
                1 => return self.file.read(bytes),
                _ => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
        Ok(0)
    }
}
