//! One guest: started, spoken with, waited for.

use crate::error::{Doing, Error, Result};
use crate::job::archive;
use crate::kernel::Kernel;
use crate::qemu::{ALIGNMENT, Attach, Machine, Qemu, inherited as path_of};
use crate::said::{Ended, Mounted, Said, refused};
use crate::share::{Serving, Share, handle_of, starting};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::dup;
use rustix::process::{Signal, pidfd_send_signal};
use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How much of what the kernel said is shown when a guest is lost.
const LAST_LINES: usize = 8;
const KEPT: usize = 16 << 10;
/// The longest line that a guest's first program says is a path and what is wrong with it.
const LONGEST_LINE: u64 = 64 << 10;
/// With less a guest's kernel does not come to its first program (96 MiB did, without a segment).
const LEAST_MEMORY: u64 = 112 << 20;

/// What a guest is, and what it runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its kernel.
    pub kernel: Kernel,
    /// Its own memory, in bytes; the segment comes on top.
    pub memory: u64,
    /// How it sees the segment.
    pub attach: Attach,
    /// A layer in its memory takes what is written; else its root is read-only.
    pub overlay: bool,
    /// The program has a terminal, of so many rows and columns: then its input goes there, and all its output comes from there.
    pub terminal: Option<(u16, u16)>,
    /// Where the program starts.
    pub workdir: PathBuf,
    /// The program's environment, all of it.
    pub environment: Vec<(OsString, OsString)>,
    /// The program and its arguments; without a slash it is looked for on the `PATH` of the environment. Empty: none is run.
    pub program: Vec<OsString>,
    /// How it and the host talk.
    pub talk: Talk,
    /// A directory of the host that the program sees.
    pub share: Option<Share>,
    /// At the end, so many files are asked for whether they are in place.
    pub sample: Option<u32>,
}

/// How a guest and its host talk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Talk {
    /// By ports of a virtio console, as [`Guest`] does.
    #[default]
    Ports,
    /// The program has the kernel's console, and nobody is told how it ends: for guests that others start.
    Console {
        /// At the end it restarts instead of powering off, which is how a guest of Firecracker ends.
        restart: bool,
    },
}

/// What the program reads and writes.
#[derive(Debug)]
pub struct Streams {
    /// To its standard input; shut down for writing it is the input's end.
    pub input: UnixStream,
    /// From its standard output, or from its terminal.
    pub output: Output,
    /// From its standard error; nothing comes from a program with a terminal.
    pub errors: Output,
}

/// What a program in a guest writes. When this is dropped the program is told so when it writes more, as by a pipe.
#[derive(Debug)]
pub struct Output {
    from: UnixStream,
    read: Arc<Progress>,
}

/// How much of an output was read, or that nobody will read more.
#[derive(Debug, Default)]
struct Progress {
    bytes: AtomicU64,
    over: AtomicBool,
}

impl Read for Output {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(to)?;
        self.read.bytes.fetch_add(count as u64, Ordering::Release);
        if count == 0 && !to.is_empty() {
            self.read.over.store(true, Ordering::Release);
        }
        Ok(count)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.read.over.store(true, Ordering::Release);
    }
}

/// For those who have something to tell the guest while others wait for it.
#[derive(Debug)]
pub struct Handle {
    control: UnixStream,
    qemu: OwnedFd,
}

/// A guest that runs. Dropped, it is ended.
#[derive(Debug)]
pub struct Guest {
    qemu: Child,
    control: BufReader<UnixStream>,
    console: Console,
    outputs: [Arc<Progress>; 2],
    /// So many files are looked at, at most.
    sample: usize,
    /// Who serves a directory to it.
    serving: Option<Serving>,
    /// A socket that is closed at this end has QEMU drop what it has not read yet.
    _input: UnixStream,
}

impl Guest {
    /// Starts a guest that has the segment `segment` of `size` bytes.
    ///
    /// # Errors
    /// [`Error::NotSealed`], [`Error::Size`], [`Error::NoInit`], [`Error::System`].
    pub fn start(qemu: &Qemu, segment: BorrowedFd<'_>, size: u64, options: &Options) -> Result<(Self, Streams)> {
        if !xip_segment::is_sealed(segment) {
            return Err(Error::NotSealed);
        }
        if options.attach.is_memory() && !size.is_multiple_of(ALIGNMENT) {
            return Err(Error::Size { bytes: size });
        }
        let mut initramfs = memory_file("xip-initramfs")?;
        initramfs.write_all(&archive(options)?).doing(|| "write the guest's first file system".into())?;
        check_memory(options.memory, size, 1)?;
        options.kernel.check(options)?;
        let (console, for_console) = Console::begin()?;
        let messages = || for_console.try_clone().map(OwnedFd::from).doing(|| "copy a descriptor".into());
        let serving = options.share.as_ref().map(|share| Serving::start(share, messages()?)).transpose()?;
        let pair = || UnixStream::pair().doing(|| "make a socket".into());
        let lines = [pair()?, pair()?, pair()?, pair()?];
        let [control, input, out, errors] = lines;
        // QEMU inherits copies that are not closed when it is executed.
        let alone = starting();
        let copy = |fd: BorrowedFd<'_>| dup(fd).doing(|| "copy a descriptor".into());
        let ports =
            [("xip.control", &control.1), ("xip.input", &input.1), ("xip.output", &out.1), ("xip.errors", &errors.1)];
        let mut inherited: Vec<OwnedFd> = Vec::new();
        let mut inherit = |fd: BorrowedFd<'_>| {
            let fd = copy(fd)?;
            let number = fd.as_raw_fd();
            inherited.push(fd);
            Result::Ok(number)
        };
        let machine = Machine {
            kernel: options.kernel.image().into(),
            memory: options.memory,
            initramfs: path_of(inherit(initramfs.as_fd())?),
            console: Some(inherit(for_console.as_fd())?),
            segment: path_of(inherit(segment)?),
            size,
            attach: options.attach,
            ports: ports.iter().map(|(name, end)| Ok((*name, inherit(end.as_fd())?))).collect::<Result<_>>()?,
            share: serving.as_ref().map(|(_, line)| inherit(line.as_fd())).transpose()?,
        };
        let mut command = qemu.command(&machine);
        tracing::debug!("{command:?}");
        let command = command.stderr(Stdio::from(OwnedFd::from(for_console)));
        // A terminal is one line for both ways.
        let to = if options.terminal.is_some() { out.0.try_clone() } else { input.0.try_clone() };
        let to = to.doing(|| "copy a descriptor".into())?;
        let qemu = command.spawn().doing(|| "start QEMU".into())?;
        drop((inherited, alone));
        let outputs: [Arc<Progress>; 2] = Default::default();
        let output = |from, read: &Arc<Progress>| Output { from, read: Arc::clone(read) };
        let streams = Streams { input: to, output: output(out.0, &outputs[0]), errors: output(errors.0, &outputs[1]) };
        let serving = serving.map(|(serving, _)| serving);
        let control = BufReader::new(control.0);
        let sample = options.sample.unwrap_or(0).try_into().unwrap_or(usize::MAX);
        let mut guest = Self { qemu, control, console, outputs, sample, serving, _input: input.0 };
        if let Some(serving) = &mut guest.serving {
            serving.end_with_it(handle_of(&guest.qemu)?);
        }
        Ok((guest, streams))
    }

    /// For signals and sizes of terminals.
    ///
    /// # Errors
    /// [`Error::System`] when there are no descriptors left.
    pub fn handle(&self) -> Result<Handle> {
        let control = self.control.get_ref().try_clone().doing(|| "copy a descriptor".into())?;
        Ok(Handle { control, qemu: handle_of(&self.qemu)? })
    }

    /// QEMU's process.
    pub fn process(&self) -> u32 {
        self.qemu.id()
    }

    /// Waits until the guest has mounted the volume.
    ///
    /// # Errors
    /// [`Error::Guest`] with the guest's reason why it could not; [`Error::Lost`].
    pub fn mounted(&mut self) -> Result<Mounted> {
        match self.next()? {
            Said::Mounted(mounted) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                // A guest that is gone is found by what comes next.
                let _ = self.control.get_ref().write_all(format!("time {}\n", now.as_nanos()).as_bytes());
                Ok(mounted)
            }
            other => Err(refused(&other)),
        }
    }

    /// Waits until the program's process is there, after [`Guest::mounted`]. What is sent to the guest earlier, input too, is lost: nobody
    /// listens there yet.
    ///
    /// # Errors
    /// [`Error::Guest`] when there can be no process; [`Error::Lost`].
    pub fn started(&mut self) -> Result<()> {
        match self.next()? {
            Said::Started => Ok(()),
            other => Err(refused(&other)),
        }
    }

    /// Waits for the program's end, after [`Guest::started`], until all of its output is read or nobody reads it. The guest's kernel
    /// is there as it was at that end, until this is dropped.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub fn wait(&mut self) -> Result<Ended> {
        let mut files = Vec::new();
        let (mut ended, written) = loop {
            match self.next()? {
                Said::Ended(ended, written) => break (ended, written),
                // No more than were asked for.
                Said::File(file) if files.len() < self.sample => files.push(file),
                other => return Err(refused(&other)),
            }
        };
        if let Some(sample) = &mut ended.sample {
            sample.looked_at = files;
        }
        // What was written may be on its way still, which nobody in the guest can know.
        for (output, written) in self.outputs.iter().zip(written) {
            let read = || output.over.load(Ordering::Acquire) || output.bytes.load(Ordering::Acquire) >= written;
            while !read() && matches!(self.qemu.try_wait(), Ok(None)) {
                thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(ended)
    }

    fn next(&mut self) -> Result<Said> {
        let line = self.line()?;
        Said::parse(&line).ok_or(Error::Guest(line))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        let got = (&mut self.control).take(LONGEST_LINE).read_until(b'\n', &mut line);
        if got.is_ok() && line.pop_if(|last| *last == b'\n').is_some() {
            return Ok(shown(&String::from_utf8_lossy(&line)));
        }
        // It has ended, or says what no guest says.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        if self.serving.as_ref().is_some_and(Serving::has_ended) {
            return Err(Error::ShareLost);
        }
        Err(Error::Lost { console: self.console.last_words() })
    }
}

/// What the guest's kernel, and QEMU, say: only the end of it is kept.
#[derive(Debug)]
struct Console(Option<JoinHandle<VecDeque<u8>>>);

impl Console {
    /// Also the end to write to.
    fn begin() -> Result<(Self, UnixStream)> {
        let (mut ours, theirs) = UnixStream::pair().doing(|| "make a socket".into())?;
        let reading = thread::spawn(move || {
            let (mut kept, mut bytes) = (VecDeque::new(), [0; 4096]);
            while let Ok(count @ 1..) = ours.read(&mut bytes) {
                kept.extend(&bytes[..count]);
                kept.drain(..kept.len().saturating_sub(KEPT));
            }
            kept
        });
        Ok((Self(Some(reading)), theirs))
    }

    /// The last lines, when QEMU has ended.
    fn last_words(&mut self) -> String {
        let kept = self.0.take().and_then(|reading| reading.join().ok()).unwrap_or_default();
        let bytes = Vec::from(kept);
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<_> = text.lines().map(|line| shown(line.trim_end())).filter(|line| !line.is_empty()).collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
    }
}

/// What a guest says, for a terminal, which it is not to control.
fn shown(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { char::REPLACEMENT_CHARACTER } else { letter }).collect()
}

/// Whether `count` guests can start with `memory` bytes each, beside a segment of `size` bytes, and this machine has that much.
///
/// # Errors
/// [`Error::LittleMemory`], [`Error::Memory`].
pub fn check_memory(memory: u64, size: u64, count: u64) -> Result<()> {
    // Its kernel and first file system; and 64 bytes for each page of the segment.
    let least = LEAST_MEMORY + size / 64;
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available =
        text.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.trim().split(' ').next()?.parse::<u64>().ok());
    let most = available.map_or(u64::MAX, |kilobytes| kilobytes.saturating_mul(1024));
    let enough = memory.checked_mul(count).is_some_and(|all| all <= most);
    if memory < least {
        return Err(Error::LittleMemory { memory, least });
    }
    if enough { Ok(()) } else { Err(Error::Memory { memory, count, most }) }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Already ended, most often.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

impl Handle {
    /// Another one.
    ///
    /// # Errors
    /// [`Error::System`] when there are no descriptors left.
    pub fn try_clone(&self) -> Result<Self> {
        let copied = self.control.try_clone().and_then(|control| Ok(Self { control, qemu: self.qemu.try_clone()? }));
        copied.doing(|| "copy a descriptor".into())
    }

    /// Sends a signal to the program and its process group.
    pub fn signal(&self, number: i32) {
        self.say(&format!("signal {number}\n"));
    }

    /// Tells the program's terminal its size, in characters.
    pub fn resize(&self, rows: u16, columns: u16) {
        self.say(&format!("size {rows} {columns}\n"));
    }

    /// Ends the guest at once.
    pub fn kill(&self) {
        // One that has ended needs no killing.
        let _ = pidfd_send_signal(&self.qemu, Signal::KILL);
    }

    fn say(&self, line: &str) {
        // A guest that is gone needs no telling.
        let _ = (&self.control).write_all(line.as_bytes());
    }
}

fn memory_file(name: &str) -> Result<fs::File> {
    memfd_create(name, MemfdFlags::CLOEXEC).map(fs::File::from).doing(|| "make shared memory".into())
}
