//! The program: started, given what it reads, told of signals, and waited for.

use crate::job::Job;
use crate::ports::{Control, Streams};
use crate::{Result, Tried};
use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, wait};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::system::{RebootCommand, reboot};
use rustix::termios::{Winsize, tcsetwinsize};
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::thread;

/// How this program starts another in a session of its own: it executes itself, with this as its first argument.
pub(crate) const SESSION: &str = "--session";
const WITH_TERMINAL: &str = "terminal";
/// As shells have it: found, but cannot be executed; not found.
const CANNOT: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Runs the program until it ends, and tells how.
pub(crate) fn run(control: &mut Control, job: &Job, streams: Streams) -> Result<()> {
    std::env::set_current_dir(&job.workdir)
        .tried(format_args!("cannot change to the directory {}", job.workdir.display()))?;
    let mut command = Command::new("/proc/self/exe");
    command.arg(SESSION).arg(if job.terminal { WITH_TERMINAL } else { "streams" }).args(&job.program);
    command.env_clear().envs(job.environment.iter().map(|(name, value)| (name, value)));
    let terminal = if job.terminal { Some(Arc::new(terminal(&mut command)?)) } else { None };
    if !job.terminal {
        let Streams { input, output, errors } = streams;
        command.stdin(input).stdout(output).stderr(errors);
        return started(control, command, None, None);
    }
    started(control, command, terminal, Some(streams.output))
}

fn started(
    control: &mut Control,
    mut command: Command,
    terminal: Option<Arc<OwnedFd>>,
    line: Option<File>,
) -> Result<()> {
    let child = command.spawn().tried("cannot start a process")?;
    // The copies of what the program reads and writes are its own now.
    drop(command);
    let main = Pid::from_raw(i32::try_from(child.id()).tried("a process number")?).ok_or("a process number of 0")?;
    let relay = match (&terminal, line) {
        (Some(terminal), Some(line)) => Some(relay(terminal, line)?),
        _ => None,
    };
    control.say("started");
    let lines = control.lines()?;
    thread::spawn(move || {
        lines.for_each(|line| obey(&line, main, terminal.as_deref()));
        // The host is gone: nobody waits for the program any more.
        let _ = reboot(RebootCommand::PowerOff);
    });
    let status = loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == main => break status,
            // Somebody's orphan.
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(format!("cannot wait for the program: {error}")),
        }
    };
    if let Some(relay) = relay {
        // Ends when nobody has the terminal any more; who was left behind does not keep the guest.
        let _ = kill_process_group(main, Signal::HUP);
        let _ = relay.join();
    }
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => control.say(&format!("exited {code}")),
        (None, signal) => control.say(&format!("killed {}", signal.unwrap_or(Signal::KILL.as_raw()))),
    }
    Ok(())
}

/// What the host wants of a program that runs.
fn obey(line: &str, main: Pid, terminal: Option<&OwnedFd>) {
    let mut words = line.split(' ');
    match (words.next(), words.next(), words.next()) {
        (Some("signal"), Some(number), None) => {
            if let Some(signal) = number.parse().ok().and_then(Signal::from_named_raw) {
                let _ = kill_process_group(main, signal);
            }
        }
        (Some("size"), Some(rows), Some(columns)) => {
            if let (Some(terminal), Ok(ws_row), Ok(ws_col)) = (terminal, rows.parse(), columns.parse()) {
                let _ = tcsetwinsize(terminal, Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 });
            }
        }
        _ => {}
    }
}

/// Makes a terminal and gives it to the program; the other side of it.
fn terminal(command: &mut Command) -> Result<OwnedFd> {
    let ours =
        openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).tried("cannot make a terminal")?;
    grantpt(&ours).and_then(|()| unlockpt(&ours)).tried("cannot make a terminal")?;
    let name = ptsname(&ours, Vec::new()).tried("cannot make a terminal")?;
    let theirs = OpenOptions::new().read(true).write(true).open(OsStr::from_bytes(name.as_bytes()));
    let theirs = theirs.tried("cannot open the terminal")?;
    let copy = || theirs.try_clone().map(Stdio::from).tried("cannot open the terminal");
    command.stdin(copy()?).stdout(copy()?).stderr(copy()?);
    Ok(ours)
}

/// Carries bytes between the terminal and the host; ends when the last program has closed the terminal.
fn relay(terminal: &Arc<OwnedFd>, line: File) -> Result<thread::JoinHandle<()>> {
    let copy = |fd: &OwnedFd| fd.try_clone().map(File::from).tried("cannot use the terminal");
    let (mut from, mut to) = (copy(terminal)?, copy(terminal)?);
    let (mut out, mut into) = (line.try_clone().tried("cannot use a port")?, line);
    thread::spawn(move || carry(&mut into, &mut to));
    Ok(thread::spawn(move || carry(&mut from, &mut out)))
}

fn carry(from: &mut File, to: &mut File) {
    let mut bytes = [0; 4096];
    // An error of a terminal is its end.
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        if to.write_all(&bytes[..count]).is_err() {
            return;
        }
    }
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
    eprintln!("xip: {}: {error}", program.to_string_lossy());
    ExitCode::from(if error.kind() == std::io::ErrorKind::NotFound { NOT_FOUND } else { CANNOT })
}
