//! The program: started, given what it reads, told of signals, and waited for.

use crate::job::Job;
use crate::ports::{Control, Streams, carry_in, carry_out};
use crate::{Result, Tried};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, kill_process_group, wait};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::system::{RebootCommand, reboot};
use rustix::termios::{Winsize, tcsetwinsize};
use rustix::time::{ClockId, Timespec, clock_settime};
use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How this program starts another in a session of its own: it executes itself, with this as its first argument.
pub(crate) const SESSION: &str = "--session";
const WITH_TERMINAL: &str = "terminal";
/// As shells have it: found, but cannot be executed; not found.
const CANNOT: u8 = 126;
const NOT_FOUND: u8 = 127;

/// The program that runs, once there is one, and its terminal.
type Running = Arc<OnceLock<(Pid, Option<OwnedFd>)>>;

/// Who listens to the host.
pub(crate) struct Listener {
    running: Running,
    thread: JoinHandle<()>,
    /// Told when the clock is set.
    time: Receiver<()>,
}

/// Does what the host says from now on. When the host is gone nobody waits for this guest any more, and it ends.
pub(crate) fn listen(control: &Control) -> Result<Listener> {
    let lines = control.lines()?;
    let running = Running::default();
    let known = Arc::clone(&running);
    let (told, time) = channel();
    let thread = thread::spawn(move || {
        lines.for_each(|line| {
            if let Some(nanoseconds) = line.strip_prefix("time ").and_then(|text| text.parse().ok()) {
                set_clock(nanoseconds);
                let _ = told.send(());
            }
            if let Some((main, terminal)) = known.get() {
                obey(&line, *main, terminal.as_ref());
            }
        });
        let _ = reboot(RebootCommand::PowerOff);
    });
    Ok(Listener { running, thread, time })
}

/// The machine's own clock has whole seconds only, and files of a shared directory have the host's times.
fn set_clock(nanoseconds: i64) {
    let time = Timespec { tv_sec: nanoseconds / 1_000_000_000, tv_nsec: nanoseconds % 1_000_000_000 };
    let _ = clock_settime(ClockId::Realtime, time);
}

impl Listener {
    /// Waits until the host has told the time; not for long.
    pub(crate) fn wait_for_time(&self) {
        let _ = self.time.recv_timeout(Duration::from_secs(2));
    }

    /// Waits for the host's end, which is this guest's.
    pub(crate) fn wait(self) {
        let _ = self.thread.join();
    }
}

/// Runs the program until it ends; how it did, and how many bytes of output went to the host before.
pub(crate) fn run(control: &mut Control, listener: &Listener, job: &Job, streams: Streams) -> Result<String> {
    let mut command = command(job, job.terminal.is_some())?;
    let ended = Arc::new(AtomicBool::new(false));
    let out = |from, port| carry_out(from, port, Arc::clone(&ended));
    let Streams { input, output, errors } = streams;
    let (carried, terminal) = match job.terminal {
        Some(size) => {
            let terminal = terminal(&mut command, size)?;
            let copy = |fd: &OwnedFd| fd.try_clone().tried("cannot use the terminal");
            carry_in(output.try_clone().tried("cannot use a port")?, copy(&terminal)?);
            (vec![out(copy(&terminal)?, output)], Some(terminal))
        }
        None => {
            let pipe = || pipe_with(PipeFlags::CLOEXEC).tried("cannot make a pipe");
            let (for_input, for_output, for_errors) = (pipe()?, pipe()?, pipe()?);
            command.stdin(for_input.0).stdout(for_output.1).stderr(for_errors.1);
            carry_in(input, for_input.1);
            (vec![out(for_output.0, output), out(for_errors.0, errors)], None)
        }
    };
    let main = start(&mut command)?;
    // The copies of what the program reads and writes are its own now.
    drop(command);
    let _ = listener.running.set((main, terminal));
    control.say("started");
    let status = wait_for(main)?;
    // Who was left behind does not keep the guest.
    ended.store(true, Ordering::Release);
    let mut sent = carried.into_iter().map(|carrying| carrying.join().unwrap_or(0));
    let sent = format!("output={} errors={}", sent.next().unwrap_or(0), sent.next().unwrap_or(0));
    Ok(match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("status={code} {sent}"),
        (None, signal) => format!("signal={} {sent}", signal.unwrap_or(Signal::KILL.as_raw())),
    })
}

/// Runs the program on the kernel's console until it ends.
pub(crate) fn run_on_console(job: &Job) -> Result<()> {
    // `/dev/console` stands for it and can be nobody's terminal.
    let active = std::fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
    let name = active.split_ascii_whitespace().next_back().unwrap_or("console");
    let console =
        OpenOptions::new().read(true).write(true).open(format!("/dev/{name}")).tried("cannot open the console")?;
    let copy = || console.try_clone().map(Stdio::from).tried("cannot use the console");
    let main = start(command(job, true)?.stdin(copy()?).stdout(copy()?).stderr(copy()?))?;
    wait_for(main)?;
    // What it wrote last is not to be lost with the machine.
    let _ = rustix::termios::tcdrain(&console);
    Ok(())
}

/// The program, in a session of its own.
fn command(job: &Job, terminal: bool) -> Result<Command> {
    std::env::set_current_dir(&job.workdir)
        .tried(format_args!("cannot change to the directory {}", job.workdir.display()))?;
    let mut command = Command::new("/proc/self/exe");
    command.arg(SESSION).arg(if terminal { WITH_TERMINAL } else { "streams" }).args(&job.program);
    command.env_clear().envs(job.environment.iter().map(|(name, value)| (name, value)));
    Ok(command)
}

fn start(command: &mut Command) -> Result<Pid> {
    let child = command.spawn().tried("cannot start a process")?;
    Ok(Pid::from_child(&child))
}

/// Waits for the program, and for everybody's orphans meanwhile.
fn wait_for(main: Pid) -> Result<WaitStatus> {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == main => return Ok(status),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(format!("cannot wait for the program: {error}")),
        }
    }
}

/// What the host wants of a program that runs.
fn obey(line: &str, main: Pid, terminal: Option<&OwnedFd>) {
    let mut words = line.split(' ');
    match (words.next(), words.next(), words.next()) {
        (Some("signal"), Some(number), None) => {
            if let Some(signal) = number.parse().ok().and_then(Signal::from_named_raw) {
                // At its very beginning it has no group of its own yet.
                let _ = kill_process_group(main, signal).or_else(|_| kill_process(main, signal));
            }
        }
        (Some("size"), Some(rows), Some(columns)) => {
            if let (Some(terminal), Ok(rows), Ok(columns)) = (terminal, rows.parse(), columns.parse()) {
                let _ = tcsetwinsize(terminal, size(rows, columns));
            }
        }
        _ => {}
    }
}

fn size(ws_row: u16, ws_col: u16) -> Winsize {
    Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 }
}

/// Makes a terminal and gives it to the program; the other side of it.
fn terminal(command: &mut Command, (rows, columns): (u16, u16)) -> Result<OwnedFd> {
    const WHAT: &str = "cannot make a terminal";
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).tried(WHAT)?;
    grantpt(&ours).and_then(|()| unlockpt(&ours)).tried(WHAT)?;
    tcsetwinsize(&ours, size(rows, columns)).tried(WHAT)?;
    let name = ptsname(&ours, Vec::new()).tried(WHAT)?;
    let theirs = OpenOptions::new().read(true).write(true).open(OsStr::from_bytes(name.as_bytes())).tried(WHAT)?;
    let copy = || theirs.try_clone().map(Stdio::from).tried(WHAT);
    command.stdin(copy()?).stdout(copy()?).stderr(copy()?);
    Ok(ours)
}

/// In the new process: a session, with the terminal if there is one, and the program in the place of this.
pub(crate) fn session(arguments: &[OsString]) -> ExitCode {
    let _ = rustix::process::setsid();
    if arguments.first().is_some_and(|kind| kind == WITH_TERMINAL) {
        let _ = rustix::process::ioctl_tiocsctty(rustix::stdio::stdin());
    }
    let Some((program, rest)) = arguments.get(1..).and_then(<[_]>::split_first) else {
        return ExitCode::from(NOT_FOUND);
    };
    let error = Command::new(program).args(rest).exec();
    let program = program.to_string_lossy();
    if error.kind() == std::io::ErrorKind::NotFound {
        eprintln!("error: {program}: not found in the image");
        return ExitCode::from(NOT_FOUND);
    }
    eprintln!("error: {program}: cannot be executed: {error}");
    ExitCode::from(CANNOT)
}
