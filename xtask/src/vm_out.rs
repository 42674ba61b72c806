//! Receiving from a guest: its frames, and the files of its `/out`.

use std::fs::{self, File};
use std::io::{BufReader, Read, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::mpsc::Sender;

use anyhow::{Context as _, Result, bail, ensure};
use tracer_guest::{Checksum, Frame};

/// What the guest said, files aside.
#[derive(Debug)]
pub(crate) enum Event {
    /// The command is about to start under this kernel.
    Hello(String),
    /// Something for a person to read.
    Note(String),
    /// A kernel message.
    KernelWarning(String),
    /// The command ended, having written so many bytes.
    Exit { code: u8, stdout: u64, stderr: u64 },
    /// Everything has been sent.
    Done,
}

/// A file that is arriving.
struct Arriving {
    path: PathBuf,
    file: File,
    mode: u32,
    size: u64,
    got: u64,
    sum: Checksum,
}

/// Reads frames to the end of the stream, writes files under `out`, and passes the rest on.
pub(crate) fn receive(from: impl Read, out: Option<&Path>, events: &Sender<Event>) -> Result<()> {
    let mut from = BufReader::with_capacity(256 << 10, from);
    let mut arriving: Option<Arriving> = None;
    let mut files = 0;
    loop {
        let frame = match Frame::read(&mut from) {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ok(()),
            // A guest that is killed or that crashes stops anywhere; whoever follows it knows which.
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error).context("reading what the guest says"),
        };
        let event = match frame {
            Frame::Hello(release) => Event::Hello(release),
            Frame::Note(note) => Event::Note(note),
            Frame::KernelWarning(line) => Event::KernelWarning(line),
            Frame::Exit { code, stdout, stderr } => Event::Exit { code, stdout, stderr },
            Frame::Dir { mode, path } => {
                let path = place(out, &path)?;
                fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
                set_mode(&path, mode | 0o700)?;
                continue;
            }
            Frame::Link { path, target } => {
                let path = place(out, &path)?;
                clear(&path)?;
                std::os::unix::fs::symlink(&target, &path)
                    .with_context(|| format!("creating {}", path.display()))?;
                continue;
            }
            Frame::File { mode, size, path } => {
                let path = place(out, &path)?;
                clear(&path)?;
                let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
                arriving = Some(Arriving {
                    path,
                    file,
                    mode,
                    size,
                    got: 0,
                    sum: Checksum::default(),
                });
                continue;
            }
            Frame::Data(bytes) => {
                let to = arriving.as_mut().context("the guest sent data without a file")?;
                to.file
                    .write_all(&bytes)
                    .with_context(|| format!("writing {}", to.path.display()))?;
                to.got += bytes.len() as u64;
                to.sum.add(&bytes);
                continue;
            }
            Frame::Sum(sum) => {
                let done = arriving
                    .take()
                    .context("the guest sent a checksum without a file")?;
                ensure!(
                    done.sum.finish() == sum,
                    "{} arrived damaged: its checksum differs",
                    done.path.display()
                );
                if done.got != done.size {
                    let note = format!(
                        "/out/{} changed while it was copied: {} bytes instead of {}",
                        done.path
                            .strip_prefix(out.unwrap_or(Path::new("")))
                            .unwrap_or(&done.path)
                            .display(),
                        done.got,
                        done.size
                    );
                    // Whoever follows the guest may have stopped listening; then nobody wants to know.
                    let _ = events.send(Event::Note(note));
                }
                set_mode(&done.path, done.mode)?;
                files += 1;
                continue;
            }
            Frame::Done { files: sent } => {
                ensure!(files == sent, "the guest sent {sent} files, and {files} arrived");
                Event::Done
            }
        };
        if events.send(event).is_err() {
            return Ok(());
        }
    }
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    // Set-id bits mean something in the guest and nothing good here.
    fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o777))
        .with_context(|| format!("setting the mode of {}", path.display()))
}

/// What is there is replaced, not written through: it may be a link to somewhere else.
fn clear(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => bail!("{} is a folder here and a file in the guest", path.display()),
        Ok(_) => fs::remove_file(path).with_context(|| format!("replacing {}", path.display())),
        Err(_) => Ok(()),
    }
}

/// Where a path of the guest's goes. A guest does not choose places outside.
fn place(out: Option<&Path>, path: &str) -> Result<PathBuf> {
    let out = out.context("the guest sent files that nobody asked for")?;
    let mut to = out.to_owned();
    let relative = Path::new(path);
    for part in relative.components() {
        // A link sent earlier would lead the next file through it.
        ensure!(!to.is_symlink() || to == out, "{path:?} leads through a link");
        match part {
            Component::Normal(name) => to.push(name),
            _ => bail!("the guest sent a file named {path:?}"),
        }
    }
    ensure!(to != out, "the guest sent a file without a name");
    Ok(to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ws::Scratch;

    fn wire(frames: &[Frame]) -> Vec<u8> {
        let mut wire = Vec::new();
        for frame in frames {
            frame.write(&mut wire).unwrap();
        }
        wire
    }

    fn sum(bytes: &[u8]) -> Frame {
        let mut sum = Checksum::default();
        sum.add(bytes);
        Frame::Sum(sum.finish())
    }

    fn file(path: &str) -> Frame {
        Frame::File {
            mode: 0o640,
            size: 3,
            path: path.into(),
        }
    }

    fn get(frames: &[Frame], out: &Path) -> Result<Vec<Event>> {
        let (events, inbox) = std::sync::mpsc::channel();
        receive(wire(frames).as_slice(), Some(out), &events)?;
        drop(events);
        Ok(inbox.iter().collect())
    }

    #[test]
    fn a_tree_arrives_as_it_was() {
        let out = Scratch::new(None).unwrap();
        let frames = [
            Frame::Dir {
                mode: 0o755,
                path: "d".into(),
            },
            file("d/f"),
            Frame::Data(vec![1, 2]),
            Frame::Data(vec![3]),
            sum(&[1, 2, 3]),
            Frame::Link {
                path: "l".into(),
                target: "d/f".into(),
            },
            Frame::Done { files: 1 },
        ];
        for _ in 0..2 {
            let events = get(&frames, out.path()).unwrap();
            assert!(matches!(events[..], [Event::Done]), "{events:?}");
        }
        assert_eq!(fs::read(out.path().join("l")).unwrap(), [1, 2, 3]);
        assert_eq!(
            fs::metadata(out.path().join("d/f")).unwrap().permissions().mode() & 0o777,
            0o640
        );
    }

    #[test]
    fn damage_is_noticed() {
        let out = Scratch::new(None).unwrap();
        let damaged = [file("f"), Frame::Data(vec![1, 2, 4]), sum(&[1, 2, 3])];
        assert!(
            get(&damaged, out.path())
                .unwrap_err()
                .to_string()
                .contains("damaged")
        );
        let lost = [
            file("f"),
            Frame::Data(vec![1, 2, 3]),
            sum(&[1, 2, 3]),
            Frame::Done { files: 2 },
        ];
        assert!(
            get(&lost, out.path())
                .unwrap_err()
                .to_string()
                .contains("1 arrived")
        );
    }

    #[test]
    fn a_guest_writes_nowhere_else() {
        let out = Scratch::new(None).unwrap();
        for path in ["../x", "/etc/x", "a/../../x", ""] {
            assert!(get(&[file(path)], out.path()).is_err(), "{path:?}");
        }
        let through = [
            Frame::Link {
                path: "l".into(),
                target: "/tmp".into(),
            },
            file("l/x"),
        ];
        assert!(get(&through, out.path()).is_err());
    }
}
