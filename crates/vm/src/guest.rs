//! One guest: started, spoken with, waited for.

use crate::error::{Doing, Error, Result};
use crate::initramfs::Archive;
use crate::kernel::Kernel;
use crate::qemu::{Attach, Machine, Qemu};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::dup;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

/// The guest's first program, linked statically; empty where it could not be built.
const INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/init"));
/// Memory devices are multiples of this.
const ALIGNMENT: u64 = 2 << 20;
/// How much of what the kernel said is shown when a guest is lost.
const LAST_LINES: usize = 8;

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
    /// The program has a terminal, and the output stream is that terminal's, both ways.
    pub terminal: bool,
    /// Where the program starts.
    pub workdir: PathBuf,
    /// The program's environment, all of it.
    pub environment: Vec<(OsString, OsString)>,
    /// The program and its arguments; without a slash it is looked for on the `PATH` of the environment.
    pub program: Vec<OsString>,
}

/// How the guest's program ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// With an exit status.
    Exited(u8),
    /// By a signal.
    Signalled(i32),
}

/// What the guest found when it mounted the volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mounted {
    /// The kernel says of a file that it is in place (`STATX_ATTR_DAX`).
    pub in_place: bool,
    /// The options of the mount as they came out.
    pub options: String,
}

/// What the program reads and writes.
#[derive(Debug)]
pub struct Streams {
    /// To its standard input; its end is the input's end.
    pub input: UnixStream,
    /// From its standard output, or from and to its terminal.
    pub output: UnixStream,
    /// From its standard error.
    pub errors: UnixStream,
}

/// For those who have something to tell the guest while others wait for it.
#[derive(Debug)]
pub struct Handle(UnixStream);

/// A guest that runs. Dropped, it is ended.
#[derive(Debug)]
pub struct Guest {
    qemu: Child,
    control: BufReader<UnixStream>,
    console: fs::File,
}

impl Guest {
    /// Starts a guest that has the segment `segment` of `size` bytes.
    ///
    /// # Errors
    /// [`Error::Size`], [`Error::NoInit`], [`Error::System`].
    pub fn start(qemu: &Qemu, segment: BorrowedFd<'_>, size: u64, options: &Options) -> Result<(Self, Streams)> {
        if INIT.is_empty() {
            return Err(Error::NoInit);
        }
        if options.attach == Attach::Memory && !size.is_multiple_of(ALIGNMENT) {
            return Err(Error::Size { bytes: size });
        }
        let mut initramfs = memory_file("xip-initramfs")?;
        initramfs.write_all(&archive(options)?).doing(|| "write the guest's first file system".into())?;
        let console = memory_file("xip-console")?;
        let pair = || UnixStream::pair().doing(|| "make a socket".into());
        let lines = [pair()?, pair()?, pair()?, pair()?];
        let [control, input, output, errors] = lines;
        // QEMU inherits copies that are not closed when it is executed.
        let copy = |fd: BorrowedFd<'_>| dup(fd).doing(|| "copy a descriptor".into());
        let ports = [
            ("xip.control", &control.1),
            ("xip.input", &input.1),
            ("xip.output", &output.1),
            ("xip.errors", &errors.1),
        ];
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
            initramfs: inherit(initramfs.as_fd())?,
            console: inherit(console.as_fd())?,
            segment: inherit(segment)?,
            size,
            attach: options.attach,
            ports: ports.iter().map(|(name, end)| Ok((*name, inherit(end.as_fd())?))).collect::<Result<_>>()?,
        };
        let errors_of_qemu = console.try_clone().doing(|| "copy a descriptor".into())?;
        let mut command = qemu.command(&machine);
        tracing::debug!("{command:?}");
        let qemu = command.stderr(Stdio::from(errors_of_qemu)).spawn().doing(|| "start QEMU".into())?;
        drop(inherited);
        let streams = Streams { input: input.0, output: output.0, errors: errors.0 };
        Ok((Self { qemu, control: BufReader::new(control.0), console }, streams))
    }

    /// For signals and sizes of terminals.
    ///
    /// # Errors
    /// [`Error::System`] when there are no descriptors left.
    pub fn handle(&self) -> Result<Handle> {
        self.control.get_ref().try_clone().map(Handle).doing(|| "copy a descriptor".into())
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
        let line = self.line()?;
        let said = line.strip_prefix("mounted dax=").and_then(|rest| rest.split_once(" options="));
        let (in_place, options) = said.ok_or_else(|| refused(&line))?;
        Ok(Mounted { in_place: in_place == "1", options: options.into() })
    }

    /// Waits until the program's process is there, after [`Guest::mounted`]. What is sent to the guest earlier, input too, is lost: nobody
    /// listens there yet.
    ///
    /// # Errors
    /// [`Error::Guest`] when there can be no process; [`Error::Lost`].
    pub fn started(&mut self) -> Result<()> {
        let line = self.line()?;
        if line == "started" { Ok(()) } else { Err(refused(&line)) }
    }

    /// Waits for the program's end, after [`Guest::started`], and for the guest's.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub fn wait(mut self) -> Result<End> {
        let line = self.line()?;
        let end = match line.split_once(' ') {
            Some(("exited", status)) => status.parse().map(End::Exited).map_err(|_| refused(&line))?,
            Some(("killed", signal)) => signal.parse().map(End::Signalled).map_err(|_| refused(&line))?,
            _ => return Err(refused(&line)),
        };
        // It powers itself off; there is nothing in it that could be lost.
        let _ = self.qemu.wait();
        Ok(end)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        match self.control.read_line(&mut line) {
            Ok(1..) => Ok(line.trim_end().to_owned()),
            _ => {
                let _ = self.qemu.wait();
                Err(Error::Lost { console: self.last_words() })
            }
        }
    }

    /// The end of what the guest's kernel and QEMU have said.
    fn last_words(&mut self) -> String {
        let mut bytes = Vec::new();
        let _ = self.console.rewind().and_then(|()| self.console.read_to_end(&mut bytes));
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<_> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
    }
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
        self.0.try_clone().map(Self).doing(|| "copy a descriptor".into())
    }

    /// Sends a signal to the program and its process group.
    pub fn signal(&self, number: i32) {
        self.say(&format!("signal {number}\n"));
    }

    /// Tells the program's terminal its size, in characters.
    pub fn resize(&self, rows: u16, columns: u16) {
        self.say(&format!("size {rows} {columns}\n"));
    }

    fn say(&self, line: &str) {
        // A guest that is gone needs no telling.
        let _ = (&self.0).write_all(line.as_bytes());
    }
}

fn refused(line: &str) -> Error {
    Error::Guest(line.strip_prefix("failed ").unwrap_or(line).to_owned())
}

fn memory_file(name: &str) -> Result<fs::File> {
    memfd_create(name, MemfdFlags::CLOEXEC).map(fs::File::from).doing(|| "make shared memory".into())
}

/// The guest's first file system: the first program, modules, and what it is to do.
fn archive(options: &Options) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    let mut job = Vec::new();
    let mut record = |key: &str, value: &OsStr| {
        job.extend_from_slice(key.as_bytes());
        job.push(b' ');
        // A zero byte is in no argument, path or variable: the kernel would not take it.
        job.extend_from_slice(value.as_bytes());
        job.push(0);
    };
    archive.program("init", INIT);
    archive.directory("modules");
    for module in options.kernel.modules() {
        let name = module.file_name().unwrap_or_default();
        let content = fs::read(module).doing(|| format!("read the module {}", module.display()))?;
        let place = Path::new("modules").join(name);
        archive.file(&place.to_string_lossy(), &content);
        record("module", Path::new("/").join(place).as_os_str());
    }
    let (device, mount) = match options.attach {
        Attach::Memory => ("/dev/pmem0", "dax=always"),
        Attach::Disk => ("/dev/vda", ""),
    };
    record("device", device.as_ref());
    record("options", mount.as_ref());
    record("workdir", options.workdir.as_os_str());
    for flag in [(options.overlay, "overlay"), (options.terminal, "terminal")] {
        if flag.0 {
            record(flag.1, OsStr::new(""));
        }
    }
    for (name, value) in &options.environment {
        let mut variable = name.clone();
        variable.push("=");
        variable.push(value);
        record("environment", &variable);
    }
    options.program.iter().for_each(|argument| record("argument", argument));
    archive.file("job", &job);
    Ok(archive.finish())
}
