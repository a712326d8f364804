//! `xip vm run`: a program in a guest, or in several.

use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::net::Shutdown;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use signal_hook::consts::SIGTERM;
use xip_vm::{End, Guest, Handle, Options, Share, Streams};

use super::machine::{Attachment, Machine, say_if_slow, segment};
use crate::commands::RUN_FAILED as OUR_OWN;
use crate::failure::Failure;
use crate::output::Output;
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
  xip vm run debian
  xip vm run debian -- python3 -c 'print(6 * 7)'
  xip vm run debian --overlay -- sh -c 'echo gone afterwards > /etc/motd'
  xip vm run debian --share $PWD --workdir /mnt -- gcc -c main.c
  xip vm run debian --count 4 --memory 256M -- perl -e 1";

/// Run a program in a guest, in place
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// A segment, or an image
    #[arg(value_name = "IMAGE|SEGMENT")]
    source: PathBuf,

    /// The program and its arguments. Without a slash it is looked for on PATH, in the image
    #[arg(value_name = "PROGRAM", default_value = "/bin/sh", trailing_var_arg = true)]
    program: Vec<OsString>,

    /// So many guests at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    count: u16,

    #[command(flatten)]
    machine: Machine,

    /// Take changes to files in the guest's memory, and forget them at the end
    #[arg(long)]
    overlay: bool,

    /// The root directory cannot be changed (the default)
    #[arg(long, conflicts_with = "overlay")]
    read_only: bool,

    #[command(flatten)]
    attachment: Attachment,

    /// Show a directory of this machine in the guest, at INSIDE (/mnt unless given, and needed if there is a `:` in DIRECTORY); what
    /// the program writes there, it writes here
    #[arg(long, value_name = "DIRECTORY[:INSIDE]", value_parser = OsStringValueParser::new().try_map(parse_share))]
    share: Option<Share>,

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

fn parse_share(text: OsString) -> Result<Share, String> {
    let bytes = text.as_bytes();
    let at = bytes.iter().rposition(|byte| *byte == b':').unwrap_or(bytes.len());
    let part = |part: &[u8]| PathBuf::from(OsStr::from_bytes(part));
    let (host, inside) = (part(&bytes[..at]), part(bytes.get(at + 1..).unwrap_or(b"/mnt")));
    if host.as_os_str().is_empty() || !inside.is_absolute() || inside.parent().is_none() {
        return Err("it is DIRECTORY or DIRECTORY:INSIDE, and INSIDE an absolute path below /".into());
    }
    Ok(Share { host, inside })
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
        let (qemu, kernel) = self.machine.prerequisites()?;
        let terminal = self.count == 1 && io::stdin().is_terminal() && io::stdout().is_terminal();
        let terminal =
            if terminal { tcgetwinsize(io::stdout()).ok().map(|size| (size.ws_row, size.ws_col)) } else { None };
        let environment = self.environment(terminal.is_some())?;
        let (segment, lease) = segment(&self.source, self.rm)?;
        say_if_slow(&qemu, output);
        let mut options = self.machine.options(kernel, &segment, self.attachment);
        // Of several of one name, the last counts.
        options.environment.extend(environment);
        let (workdir, program, share) = (self.workdir.clone(), self.program.clone(), self.share.clone());
        let options = Options { overlay: self.overlay, terminal, workdir, program, share, ..options };
        let size = segment.info().size;
        xip_vm::check_memory(options.memory, size, self.count.into())?;
        // Before there is a guest: a signal that comes from here on ends it, or reaches its program.
        let waiting = Waiting::begin()?;
        let waker = waiting.waker()?;
        let mut guests = Vec::new();
        for _ in 0..self.count {
            let (guest, streams) = Guest::start(&qemu, segment.fd(), size, &options)?;
            let running = Running { handle: guest.handle()?, started: Arc::default() };
            guests.push((guest, streams, running));
        }
        let in_place = options.attach.is_memory();
        let mut all = Vec::new();
        let mut serving = Vec::new();
        for (at, (guest, streams, running)) in guests.into_iter().enumerate() {
            let number = (self.count > 1).then_some(at + 1);
            all.push(Running { handle: running.handle.try_clone()?, started: Arc::clone(&running.started) });
            serving.push(thread::spawn(move || serve(guest, in_place, streams, number, terminal.is_some(), &running)));
        }
        let serving = thread::spawn(move || {
            let ends: Vec<_> = serving.into_iter().map(thread::JoinHandle::join).collect();
            waker.end();
            ends
        });
        let (mut ended_by, mut terminated) = (None, false);
        while let Some(signal) = waiting.wait() {
            // A program that does not obey, or a guest that hangs, is ended by the second one.
            let again = signal == SIGTERM && std::mem::replace(&mut terminated, signal == SIGTERM);
            let passed = all.iter().map(|guest| !again && guest.pass(signal) || guest.end()).collect::<Vec<_>>();
            ended_by = passed.contains(&false).then_some(signal).or(ended_by);
        }
        let ends = serving.join().unwrap_or_default();
        if let Some(lease) = lease {
            lease.end();
        }
        if let Some(signal) = ended_by {
            return Err(Failure::silent().by_signal(signal));
        }
        let lost = || Failure::new("a thread of xip ended in the middle of its work");
        ends.into_iter().map(|end| end.map_err(|_| lost())?).collect()
    }

    /// What is set besides what every guest has.
    fn environment(&self, terminal: bool) -> Result<Vec<(OsString, OsString)>, Failure> {
        let kind = std::env::var_os("TERM").filter(|_| terminal);
        let mut environment: Vec<(OsString, OsString)> = kind.map(|kind| ("TERM".into(), kind)).into_iter().collect();
        for variable in &self.env {
            let Some((name, value)) = variable.split_once('=').filter(|(name, _)| !name.is_empty()) else {
                return Err(Failure::new(format!("--env {variable}: a variable is NAME=VALUE"))
                    .with_code(crate::failure::USAGE));
            };
            environment.push((name.into(), value.into()));
        }
        Ok(environment)
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
    handle: Handle,
    started: Arc<AtomicBool>,
}

impl Running {
    /// Passes a signal on to the program; false when there is none yet.
    fn pass(&self, signal: i32) -> bool {
        let started = self.started.load(Ordering::Acquire);
        if started {
            self.handle.signal(signal);
        }
        started
    }

    /// Ends the guest; never true, as nothing was passed.
    fn end(&self) -> bool {
        self.handle.kill();
        false
    }
}

/// Carries what the program reads and writes, and waits for its end.
fn serve(
    mut guest: Guest,
    in_place: bool,
    streams: Streams,
    number: Option<usize>,
    terminal: bool,
    running: &Running,
) -> Result<End, Failure> {
    let Streams { input, output, errors } = streams;
    let out = thread::spawn(move || say(output, io::stdout(), number));
    let err = thread::spawn(move || say(errors, io::stderr(), number));
    let mounted = guest.mounted()?;
    tracing::info!("guest {}: in place: {}, mounted with {}", number.unwrap_or(1), mounted.in_place, mounted.options);
    if in_place && !mounted.in_place {
        let _ =
            writeln!(io::stderr(), "warning: the guest says that its files are not in place; `xip vm check` has more");
    }
    guest.started()?;
    running.started.store(true, Ordering::Release);
    // Only now: as long as the guest starts, Ctrl-C is a signal.
    let raw = if terminal { Some(Raw::begin()?) } else { None };
    if number.is_some() {
        let _ = input.shutdown(Shutdown::Write);
    } else {
        // Blocks in a read that nobody ends: it goes with the process.
        thread::spawn(move || {
            carry(io::stdin(), &input);
            if !terminal {
                let _ = input.shutdown(Shutdown::Write);
            }
        });
    }
    if terminal {
        let handle = running.handle.try_clone()?;
        thread::spawn(move || keep_size(&handle));
    }
    let end = guest.wait()?.end;
    // With QEMU gone the streams end.
    drop(guest);
    let _ = (out.join(), err.join());
    drop(raw);
    Ok(end)
}

fn say(from: impl Read, mut to: impl Write, number: Option<usize>) {
    let Some(number) = number else {
        carry(from, to);
        return;
    };
    let mut from = BufReader::new(from);
    loop {
        let mut line = format!("{number}: ").into_bytes();
        let before = line.len();
        // A longer one is cut: a guest does not decide how much memory is used here.
        if !matches!((&mut from).take(LONGEST_LINE).read_until(b'\n', &mut line), Ok(1..)) {
            return;
        }
        if line[before..].last() != Some(&b'\n') {
            line.push(b'\n');
        }
        if to.write_all(&line).and_then(|()| to.flush()).is_err() {
            return;
        }
    }
}

/// The longest line of a guest that is shown as one, in bytes.
const LONGEST_LINE: u64 = 64 << 10;

/// Bytes as they come, each at once.
pub(super) fn carry(mut from: impl Read, mut to: impl Write) {
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
