//! System calls that name a file by an open folder and a name in it, which the standard library has none of: between two of
//! them nobody can put another folder in its place.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use libc::c_int;

fn named(name: &OsStr) -> io::Result<CString> {
    CString::new(name.as_bytes()).map_err(|_| io::Error::other("there is a zero byte in its name"))
}

fn done(result: c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Opens; without a folder, from where the program is.
pub(super) fn open(folder: Option<&File>, name: &OsStr, flags: c_int, mode: u32) -> io::Result<File> {
    let name = named(name)?;
    let folder = folder.map_or(libc::AT_FDCWD, |folder| folder.as_raw_fd());
    loop {
        // SAFETY: the name ends in a zero byte, and the folder is open or stands for the current one.
        let fd = unsafe { libc::openat(folder, name.as_ptr(), flags | libc::O_CLOEXEC, mode) };
        if fd >= 0 {
            // SAFETY: it was just opened, and nobody else knows of it.
            return Ok(unsafe { File::from_raw_fd(fd) });
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

pub(super) fn make_folder(folder: &File, name: &OsStr, mode: u32) -> io::Result<()> {
    let name = named(name)?;
    // SAFETY: the name ends in a zero byte, and the folder is open.
    done(unsafe { libc::mkdirat(folder.as_raw_fd(), name.as_ptr(), mode) })
}

pub(super) fn rename(folder: &File, from: &OsStr, to: &OsStr) -> io::Result<()> {
    let (from, to, fd) = (named(from)?, named(to)?, folder.as_raw_fd());
    // SAFETY: the names end in zero bytes, and the folder is open.
    done(unsafe { libc::renameat(fd, from.as_ptr(), fd, to.as_ptr()) })
}

pub(super) fn remove(folder: &File, name: &OsStr) -> io::Result<()> {
    let name = named(name)?;
    // SAFETY: the name ends in a zero byte, and the folder is open.
    done(unsafe { libc::unlinkat(folder.as_raw_fd(), name.as_ptr(), 0) })
}

/// Whether names can be made in it.
pub(super) fn is_writable(folder: &File) -> io::Result<()> {
    const HERE: &CStr = c".";
    // SAFETY: the name ends in a zero byte, and the folder is open.
    done(unsafe {
        libc::faccessat(
            folder.as_raw_fd(),
            HERE.as_ptr(),
            libc::W_OK | libc::X_OK,
            libc::AT_EACCESS,
        )
    })
}

/// Where a symbolic link points to, which is open by `O_PATH`.
pub(super) fn target(link: &File) -> io::Result<OsString> {
    let mut text = vec![0; libc::PATH_MAX as usize];
    let here = c"".as_ptr();
    // SAFETY: no name means the link itself, and no more is written than there is room for.
    let len = unsafe { libc::readlinkat(link.as_raw_fd(), here, text.as_mut_ptr().cast(), text.len()) };
    let len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
    text.truncate(len);
    Ok(OsString::from_vec(text))
}

/// The user that files are made for.
pub(super) fn user() -> u32 {
    // SAFETY: geteuid has no preconditions.
    unsafe { libc::geteuid() }
}

/// Something that was open when the program began, once more.
pub(super) fn again(fd: c_int) -> io::Result<File> {
    // SAFETY: it reads and makes numbers only; one that is not open is refused.
    let fd = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was just made, and nobody else knows of it.
    Ok(unsafe { File::from_raw_fd(fd) })
}
