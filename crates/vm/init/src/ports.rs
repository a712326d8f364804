//! The lines to the host: ports of a virtio console, found by their names.
//!
//! A port opens once, a write to one without a host waits for ever, and a write that has returned is not yet with the host. So
//! programs never have a port: pipes or a terminal are theirs, and what passes is carried here and counted.

use crate::{Result, Tried};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);
/// A port has its name a little before it has its other end. A host that was killed meanwhile has none.
const AT_THE_OTHER_END: Duration = Duration::from_secs(3);
/// How long a program that ended may leave its output to others before nobody waits for more.
const SILENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// All lines to the host.
pub(crate) struct Ports {
    pub(crate) control: Control,
    pub(crate) streams: Streams,
}

/// What the program reads and writes. With a terminal only `output` is used, both ways.
pub(crate) struct Streams {
    pub(crate) input: File,
    pub(crate) output: File,
    pub(crate) errors: File,
}

/// Where this program talks to the host, in lines.
pub(crate) struct Control(File);

impl Control {
    pub(crate) fn say(&mut self, line: &str) {
        // A host that does not listen any more ends the guest: see `run::listen`.
        let _ = writeln!(self.0, "{}", line.replace('\n', " "));
    }

    /// What the host says, up to its end.
    pub(crate) fn lines(&self) -> Result<impl Iterator<Item = String> + use<>> {
        let file = self.0.try_clone().tried("cannot listen to the host")?;
        Ok(BufReader::new(file).lines().map_while(std::result::Result::ok))
    }
}

impl Ports {
    /// Waits for them, since the kernel finds devices in its own time.
    pub(crate) fn find() -> Result<Self> {
        let control = Control(open("xip.control")?);
        let stream = |name| {
            let port = open(name)?;
            fcntl_setfl(&port, OFlags::NONBLOCK).tried("cannot use a port")?;
            Result::Ok(port)
        };
        let streams =
            Streams { input: stream("xip.input")?, output: stream("xip.output")?, errors: stream("xip.errors")? };
        Ok(Self { control, streams })
    }
}

/// Opens a port when it has a name and its other end.
fn open(name: &str) -> Result<File> {
    let start = Instant::now();
    let device = wait_for(start, PATIENCE, || look_for(name));
    let device = device.ok_or_else(|| format!("no port {name}: the kernel has no virtio console"))?;
    let file = OpenOptions::new().read(true).write(true).open(Path::new("/dev").join(device));
    let file = file.tried(format_args!("cannot open the port {name}"))?;
    let start = Instant::now();
    let connected = || (!ready(&file, PollFlags::empty()).contains(PollFlags::HUP)).then_some(());
    wait_for(start, AT_THE_OTHER_END, connected)
        .ok_or_else(|| format!("nobody is at the other end of the port {name}"))?;
    Ok(file)
}

fn wait_for<T>(start: Instant, patience: Duration, look: impl Fn() -> Option<T>) -> Option<T> {
    loop {
        match look() {
            None if start.elapsed() < patience => thread::sleep(Duration::from_millis(5)),
            found => return found,
        }
    }
}

fn look_for(name: &str) -> Option<std::ffi::OsString> {
    fs::read_dir("/sys/class/virtio-ports").ok()?.flatten().find_map(|port| {
        let found = fs::read_to_string(port.path().join("name")).ok()?;
        (found.trim() == name).then(|| port.file_name())
    })
}

/// What holds of a file now.
fn ready(file: &impl AsFd, wanted: PollFlags) -> PollFlags {
    let mut polled = [PollFd::new(file, wanted)];
    let _ = poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    polled[0].revents()
}

/// Carries what a program writes to the host, until nobody can write any more, or the program has `ended` and nobody does; how many
/// bytes. When the host does not want more, the program is told as the reader's end tells it.
pub(crate) fn carry_out(from: OwnedFd, port: File, ended: Arc<AtomicBool>) -> JoinHandle<u64> {
    thread::spawn(move || {
        let mut bytes = [0; 16 << 10];
        let mut sent = 0;
        loop {
            let was_ended = ended.load(Ordering::Acquire);
            let mut polled = [PollFd::new(&from, PollFlags::IN), PollFd::new(&port, PollFlags::empty())];
            match poll(&mut polled, Some(&SILENCE)) {
                Err(Errno::INTR) => continue,
                Ok(0) if was_ended => return sent,
                Ok(0) => continue,
                _ => {}
            }
            if polled[1].revents().contains(PollFlags::HUP) {
                return sent;
            }
            // An error of a terminal is its end.
            let Ok(count @ 1..) = rustix::io::read(&from, &mut bytes) else { return sent };
            if !put(&port, &bytes[..count]) {
                return sent;
            }
            sent += count as u64;
        }
    })
}

/// Writes to a port; false when nobody is at its other end.
fn put(port: &File, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match rustix::io::write(port, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::AGAIN | Errno::INTR) => {
                let mut polled = [PollFd::new(port, PollFlags::OUT)];
                let _ = poll(&mut polled, Some(&SILENCE));
                if polled[0].revents().contains(PollFlags::HUP) {
                    return false;
                }
            }
            Err(_) => return false,
        }
    }
    true
}

/// Carries what the host sends to a program, up to its end, or the program's.
pub(crate) fn carry_in(port: File, to: OwnedFd) {
    thread::spawn(move || {
        let mut bytes = [0; 16 << 10];
        loop {
            match rustix::io::read(&port, &mut bytes) {
                Err(Errno::AGAIN | Errno::INTR) => {
                    let _ = poll(&mut [PollFd::new(&port, PollFlags::IN)], None);
                }
                Ok(count @ 1..) => {
                    let mut rest = &bytes[..count];
                    while let Ok(count @ 1..) = rustix::io::write(&to, rest) {
                        rest = &rest[count..];
                    }
                    if !rest.is_empty() {
                        return;
                    }
                }
                _ => return,
            }
        }
    });
}
