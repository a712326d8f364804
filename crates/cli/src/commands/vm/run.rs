//! `xip vm run`: a program in a guest, or in several.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::net::Shutdown;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use xip_segment::{Lease, Segment};
use xip_vm::{Accelerator, Attach, End, Guest, Handle, Kernel, Options, Qemu, Streams};

use crate::commands::{RUN_FAILED as OUR_OWN, segments};
use crate::failure::Failure;
use crate::output::{Output, parse_size};
use crate::signals::{Waiting, die_by};

const HELP: &str = "\
The guest has the segment as persistent memory, mounts it read-only with dax=always and runs the program with it as the \
root directory. Its pages are those that processes of the host and all other guests use. The guest needs a kernel (see \
`xip vm kernel`) and QEMU; where KVM does not work it is emulated, which is slow.\n\n\
What stands before PROGRAM is a segment if there is one of that name, otherwise an image, which is loaded first.\n\n\
With a terminal the program has one, too. --count starts several guests at once; each line they print begins with the \
guest's number, and they have no input.\n\n\
Exit status: the program's own (of several guests, the largest). 125: xip itself, or the guest, failed; 126: the program cannot \
be executed; 127: it is not in the image.\n\n\
Examples:
  xip vm run debian -- python3 -c 'print(6 * 7)'
  xip vm run debian --overlay -- sh -c 'echo gone afterwards > /etc/motd'
  xip vm run debian --count 4 --memory 256M -- perl -e 1";

/// Run a program in a guest, in place
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// A segment, or an image
    #[arg(value_name = "IMAGE|SEGMENT")]
    source: PathBuf,

    /// The program and its arguments. Without a slash it is looked for on PATH, in the image
    #[arg(value_name = "PROGRAM", required = true, trailing_var_arg = true)]
    program: Vec<OsString>,

    /// So many guests at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    count: u16,

    /// Memory of each guest, beside the segment (K, M, G)
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = parse_size)]
    memory: u64,

    /// Kernel of the guest: a file vmlinuz-VERSION, with its modules in ../lib/modules/VERSION or /lib/modules/VERSION
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,

    /// Take changes to files in the guest's memory, and forget them at the end
    #[arg(long)]
    overlay: bool,

    /// The root directory cannot be changed (the default)
    #[arg(long, conflicts_with = "overlay")]
    read_only: bool,

    /// Give the guest the segment as a disk, not in place: its files come from the guest's page cache (to compare)
    #[arg(long)]
    page_cache: bool,

    /// Set an environment variable (may be given many times)
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,

    /// Directory in the guest in which the program starts
    #[arg(long, value_name = "DIRECTORY", default_value = "/")]
    workdir: PathBuf,

    /// Remove the segment at the end, however that comes, if this command loaded it
    #[arg(long)]
    rm: bool,
}

impl Args {
    pub(crate) fn run(self, output: Output) -> Result<ExitCode, Failure> {
        let ends = self.execute(output).map_err(|failure| failure.or_code(OUR_OWN))?;
        Ok(match ends.as_slice() {
            [End::Signalled(signal)] => ExitCode::from(die_by(*signal)),
            ends => ExitCode::from(ends.iter().map(status).max().unwrap_or(OUR_OWN)),
        })
    }

    fn execute(&self, output: Output) -> Result<Vec<End>, Failure> {
        // What a guest needs, before an image is loaded for it.
        let qemu = Qemu::find()?;
        let kernel = Kernel::find(self.kernel.as_deref())?;
        let terminal = self.count == 1 && io::stdin().is_terminal() && io::stdout().is_terminal();
        let options = self.options(kernel, terminal)?;
        let (segment, _lease) = self.segment()?;
        if qemu.accelerator() == Accelerator::Emulation && io::stderr().is_terminal() {
            output.aside("no KVM here: the guest is emulated, and slow");
        }
        let size = segment.info().size;
        let mut guests = Vec::new();
        for _ in 0..self.count {
            guests.push(Guest::start(&qemu, segment.fd(), size, &options)?);
        }
        let mut running = Vec::new();
        for (guest, _) in &guests {
            running.push(Running { process: guest.process(), handle: guest.handle()?, started: Arc::default() });
        }
        let raw = if terminal { Some(Raw::begin()?) } else { None };
        let waiting = Waiting::begin()?;
        let waker = waiting.waker()?;
        let several = self.count > 1;
        let mut serving = Vec::new();
        for (at, ((guest, streams), running)) in guests.into_iter().zip(&running).enumerate() {
            let number = several.then_some(at + 1);
            let (handle, started) = (running.handle.try_clone()?, Arc::clone(&running.started));
            serving.push(thread::spawn(move || serve(guest, streams, number, terminal, handle, &started)));
        }
        let serving = thread::spawn(move || {
            let ends: Vec<_> = serving.into_iter().map(thread::JoinHandle::join).collect();
            waker.end();
            ends
        });
        let mut ended_by = None;
        while let Some(signal) = waiting.wait() {
            ended_by = running.iter().any(|guest| !guest.pass(signal)).then_some(signal).or(ended_by);
        }
        let ends = serving.join().unwrap_or_default();
        drop(raw);
        if let Some(signal) = ended_by {
            return Err(Failure::reader_gone().by_signal(signal));
        }
        let lost = || Failure::new("a thread of xip ended in the middle of its work");
        ends.into_iter().map(|end| end.map_err(|_| lost())?).collect()
    }

    fn options(&self, kernel: Kernel, terminal: bool) -> Result<Options, Failure> {
        let mut environment: Vec<(OsString, OsString)> = vec![
            ("PATH".into(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()),
            ("HOME".into(), "/root".into()),
        ];
        if let Some(kind) = std::env::var_os("TERM").filter(|_| terminal) {
            environment.push(("TERM".into(), kind));
        }
        for variable in &self.env {
            let Some((name, value)) = variable.split_once('=').filter(|(name, _)| !name.is_empty()) else {
                return Err(Failure::new(format!("--env {variable}: a variable is NAME=VALUE"))
                    .with_code(crate::failure::USAGE));
            };
            environment.retain(|(known, _)| known != name);
            environment.push((name.into(), value.into()));
        }
        let attach = if self.page_cache { Attach::Disk } else { Attach::Memory };
        let (overlay, workdir, program) = (self.overlay, self.workdir.clone(), self.program.clone());
        Ok(Options { kernel, memory: self.memory, attach, overlay, terminal, workdir, environment, program })
    }

    fn segment(&self) -> Result<(Segment, Option<Lease>), Failure> {
        let store = segments::store()?;
        let store = if self.rm { store.temporary() } else { store };
        if let Some(segment) = segments::named(&store, &self.source)? {
            return Ok((segment, None));
        }
        let loaded = segments::load(&store, &self.source, None)?;
        Ok((loaded.segment, loaded.lease))
    }
}

fn status(end: &End) -> u8 {
    match end {
        End::Exited(status) => *status,
        End::Signalled(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
    }
}

/// A guest, for the thread that waits for signals.
struct Running {
    process: u32,
    handle: Handle,
    started: Arc<AtomicBool>,
}

impl Running {
    /// Passes a signal on to the program. Before there is one, it ends the guest: then this is false.
    fn pass(&self, signal: i32) -> bool {
        let started = self.started.load(Ordering::Acquire);
        if started {
            self.handle.signal(signal);
        } else if let Some(process) = i32::try_from(self.process).ok().and_then(Pid::from_raw) {
            // Ours, and not waited for yet, since its program has not ended.
            let _ = kill_process(process, Signal::KILL);
        }
        started
    }
}

/// Carries what the program reads and writes, and waits for its end.
fn serve(
    mut guest: Guest,
    streams: Streams,
    number: Option<usize>,
    terminal: bool,
    handle: Handle,
    started: &AtomicBool,
) -> Result<End, Failure> {
    let Streams { input, output, errors } = streams;
    let written = if terminal { Some(output.try_clone()?) } else { None };
    let out = thread::spawn(move || say(output, io::stdout(), number));
    let err = thread::spawn(move || say(errors, io::stderr(), number));
    let mounted = guest.mounted()?;
    tracing::info!("guest {}: in place: {}, mounted with {}", number.unwrap_or(1), mounted.in_place, mounted.options);
    guest.started()?;
    started.store(true, Ordering::Release);
    if number.is_some() {
        let _ = input.shutdown(Shutdown::Write);
    } else {
        let to = written.unwrap_or(input);
        // Blocks in a read that nobody ends: it goes with the process.
        thread::spawn(move || {
            carry(io::stdin(), &to);
            if !terminal {
                let _ = to.shutdown(Shutdown::Write);
            }
        });
    }
    if terminal {
        thread::spawn(move || keep_size(&handle));
    }
    let end = guest.wait()?;
    // With QEMU gone the streams end.
    let _ = (out.join(), err.join());
    Ok(end)
}

fn say(from: impl Read, mut to: impl Write, number: Option<usize>) {
    let Some(number) = number else {
        carry(from, to);
        return;
    };
    for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
        let whole = [format!("{number}: ").as_bytes(), &line, b"\n"].concat();
        if to.write_all(&whole).and_then(|()| to.flush()).is_err() {
            return;
        }
    }
}

/// Bytes as they come, each at once.
fn carry(mut from: impl Read, mut to: impl Write) {
    let mut bytes = [0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        if to.write_all(&bytes[..count]).and_then(|()| to.flush()).is_err() {
            return;
        }
    }
}

/// The terminal of this process, handed through byte by byte as long as this lives.
struct Raw(Termios);

impl Raw {
    fn begin() -> Result<Self, Failure> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// Tells the guest the size of the terminal, and when it changes.
fn keep_size(guest: &Handle) {
    let mut last = None;
    while let Ok(size) = tcgetwinsize(io::stdout()) {
        if last.replace((size.ws_row, size.ws_col)) != Some((size.ws_row, size.ws_col)) {
            guest.resize(size.ws_row, size.ws_col);
        }
        thread::sleep(Duration::from_millis(250));
    }
}
