//! TCP that maps what it receives.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::cli::{Entry, Opts, PLAIN};
use crate::report::{Count, Counts, Report};
use crate::sys::{self, Mapping, PAGE, impossible};
use crate::team::{Phase, measure};

/// The workloads of this file.
pub(crate) const TABLE: &[Entry] = &[Entry {
    name: "tcp-zerocopy",
    about: "A thread receives over loopback by mapping (TCP_ZEROCOPY_RECEIVE), another sends",
    detail: "The sender sends --rounds times --pages pages with MSG_ZEROCOPY, which loopback copies once into whole \
             pages of their own: pages that can be mapped. zerocopy_calls counts the getsockopt calls that had data, \
             each of which looks up and locks the mapping once; zerocopy_empty those that had none and lock \
             nothing. bytes = rounds x pages x 4096 of which bytes_mapped were mapped, the rest copied; \
             touches = 0, since mapped pages are read without a fault.",
    threads: 0,
    pages: 14,
    rounds: 16,
    run: tcp,
    ..PLAIN
}];

const TCP_ZEROCOPY_RECEIVE: i32 = 35;

/// struct tcp_zerocopy_receive, as far as kernels of interest know it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Receive {
    address: u64,
    length: u32,
    recv_skip_hint: u32,
    inq: u32,
    err: i32,
    copybuf_address: u64,
    copybuf_len: i32,
    flags: u32,
    msg_control: u64,
    msg_controllen: u64,
    msg_flags: u32,
    reserved: u32,
}

/// The size of segments: seven whole pages (the limit is 32767 bytes) and the time stamps.
const SEGMENT: i32 = 7 * 4096 + 12;

fn option(fd: &impl AsRawFd, level: i32, name: i32, value: i32, what: &str) -> Result<()> {
    // SAFETY: one integer, as is said.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<i32>() as u32,
        )
    };
    sys::check(result, what).map(drop)
}

/// Both ends of a connection over loopback, and the window that is received through.
struct Link {
    sender: TcpStream,
    receiver: TcpStream,
    window: Mapping,
    source: Mapping,
    rounds: usize,
    empty: AtomicUsize,
    copied: Mutex<Vec<u8>>,
}

impl Link {
    fn new(pages: usize, rounds: usize) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")
            .map_err(|e| impossible(format!("no TCP over loopback: {e} (is the interface lo up?)")))?;
        option(
            &listener,
            libc::IPPROTO_TCP,
            libc::TCP_MAXSEG,
            SEGMENT,
            "TCP_MAXSEG",
        )?;
        let address = listener.local_addr().context("the listener's address")?;
        let sender = TcpStream::connect(address)
            .map_err(|e| impossible(format!("no TCP over loopback: {e} (is the interface lo up?)")))?;
        let (receiver, _) = listener.accept().context("accept")?;
        option(
            &sender,
            libc::IPPROTO_TCP,
            libc::TCP_MAXSEG,
            SEGMENT,
            "TCP_MAXSEG",
        )?;
        option(&sender, libc::SOL_SOCKET, libc::SO_ZEROCOPY, 1, "SO_ZEROCOPY")?;
        sender.set_nodelay(true).context("TCP_NODELAY")?;
        // If the other thread fails nothing comes any more.
        for end in [&sender, &receiver] {
            end.set_read_timeout(Some(Duration::from_secs(20)))
                .context("SO_RCVTIMEO")?;
        }
        let fd = receiver.as_raw_fd();
        let len = pages * PAGE;
        let window = Mapping::map(len, libc::PROT_READ, libc::MAP_SHARED, fd)
            .map_err(|e| impossible(format!("a TCP socket cannot be mapped: {e:#}")))?;
        let source = Mapping::anon(pages)?;
        source.write_all();
        Ok(Self {
            sender,
            receiver,
            window,
            source,
            rounds,
            empty: AtomicUsize::new(0),
            copied: Mutex::new(vec![1; len]),
        })
    }

    fn send(&self) -> Result<()> {
        for _ in 0..self.rounds {
            let mut sent = 0;
            while sent < self.source.len() {
                // SAFETY: the rest of the source mapping, which lives as long as the link.
                let n = unsafe {
                    libc::send(
                        self.sender.as_raw_fd(),
                        (self.source.base() + sent) as *const _,
                        self.source.len() - sent,
                        libc::MSG_ZEROCOPY | libc::MSG_NOSIGNAL,
                    )
                };
                sent += usize::try_from(sys::check(n as i64, "send")?).unwrap_or(0);
            }
            // One piece at a time: the next one must not be joined to it before it is received.
            let mut byte = [0];
            (&self.sender)
                .read_exact(&mut byte)
                .context("waiting for the receiver")?;
        }
        Ok(())
    }

    fn receive(&self, counts: &mut Counts) -> Result<()> {
        let mut buffer = self
            .copied
            .lock()
            .map_err(|_| anyhow!("the other thread panicked"))?;
        for _ in 0..self.rounds {
            let mut left = self.source.len();
            while left > 0 {
                left -= self.piece(left, &mut buffer, counts)?;
            }
            (&self.receiver).write_all(&[1]).context("answering the sender")?;
        }
        Ok(())
    }

    /// One call, and the copy of what could not be mapped. Returns how many bytes came.
    fn piece(&self, left: usize, buffer: &mut [u8], counts: &mut Counts) -> Result<usize> {
        let mut poll = libc::pollfd {
            fd: self.receiver.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one structure, as is said.
        if sys::check(unsafe { libc::poll(&raw mut poll, 1, 10_000) }, "poll")? == 0 {
            bail!("nothing came for 10 s; {left} bytes are missing");
        }
        let mut receive = Receive {
            address: self.window.base() as u64,
            length: u32::try_from(left.min(self.window.len())).unwrap_or(u32::MAX),
            ..Receive::default()
        };
        let mut len = size_of::<Receive>() as u32;
        // SAFETY: one structure of this length; the address in it is a mapping of this socket.
        let result = unsafe {
            libc::getsockopt(
                self.receiver.as_raw_fd(),
                libc::IPPROTO_TCP,
                TCP_ZEROCOPY_RECEIVE,
                (&raw mut receive).cast(),
                &raw mut len,
            )
        };
        sys::check(result, "getsockopt TCP_ZEROCOPY_RECEIVE")?;
        let mapped = receive.length as usize;
        let skip = (receive.recv_skip_hint as usize).min(left - mapped);
        // With less than a page in the queue the kernel does not look at the mapping.
        if mapped > 0 || skip >= PAGE {
            counts.add(Count::Zerocopy, 1);
        } else {
            self.empty.fetch_add(1, Ordering::Relaxed);
        }
        for page in 0..mapped / PAGE {
            self.window.read(page);
        }
        if skip > 0 {
            (&self.receiver)
                .read_exact(&mut buffer[..skip])
                .context("receiving what could not be mapped")?;
        }
        counts.add(Count::BytesMapped, mapped);
        counts.add(Count::Bytes, mapped + skip);
        Ok(mapped + skip)
    }
}

fn tcp(opts: &Opts) -> Result<Report> {
    let links = [Link::new(opts.pages, 4)?, Link::new(opts.pages, opts.rounds)?];
    let mut report = measure(
        2,
        |index, phase: Phase| Ok((index, &links[phase.index()])),
        |(index, link), counts| {
            if *index == 0 {
                link.send()
            } else {
                link.receive(counts)
            }
        },
        |_| Ok(()),
    )?;
    report.set("zerocopy_empty", links[1].empty.load(Ordering::Relaxed));
    if report.counts.get(Count::BytesMapped) == 0 {
        return Err(impossible(
            "nothing that came over loopback could be mapped: this kernel hands on data in pages that TCP cannot map",
        ));
    }
    Ok(report)
}
