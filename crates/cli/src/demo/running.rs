//! Programs that run for the demo: started together, asked one question each, and kept alive until dropped.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::programs::Program;
use crate::failure::{Doing, Failure};
use crate::signals::Interrupt;

/// How long a program may take to answer: far more than it needs, so that a demo never hangs.
const PATIENCE: Duration = Duration::from_secs(60);
/// An answer is one line; more than this is none.
const LONGEST_ANSWER: usize = 4096;

/// A program at work. Dropped, it is ended.
pub(crate) struct Running {
    pub(crate) name: &'static str,
    child: Child,
    errors: File,
}

impl Running {
    /// Starts `command` (the runner), which is to execute `program`.
    pub(crate) fn start(mut command: Command, program: &Program) -> Result<Self, Failure> {
        let errors = tempfile::tempfile().doing(|| "cannot make a temporary file".into())?;
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors.try_clone()?)
            .spawn()
            .doing(|| format!("cannot start {}", program.name))?;
        Ok(Running { name: program.name, child, errors })
    }

    /// Asks the program's question and checks its answer. From then on it waits for more input, alive.
    pub(crate) fn ask(&mut self, program: &Program, interrupt: &Interrupt) -> Result<(), Failure> {
        if let Some(input) = &mut self.child.stdin {
            // A program that is gone already does not answer either, and then its own words say why.
            let _ = writeln!(input, "{}", program.question);
        }
        let answer = self.line(interrupt)?;
        if (program.right)(&answer) {
            return Ok(());
        }
        let failure = Failure::new(format!("{} did not answer as it should, but `{answer}`", self.name));
        Err(match self.errors_said() {
            Some(words) => failure.because(format!("it said: {}", words.trim_start_matches("error: "))),
            None => failure,
        })
    }

    /// The process that was started.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The process that is the program itself: the runner's descendant that executes something else.
    pub(crate) fn program_pid(&self) -> io::Result<u32> {
        let runner = executable(self.child.id())?;
        let mut family = vec![self.child.id()];
        let processes = parents()?;
        let mut next = 0;
        while let Some(parent) = family.get(next).copied() {
            let children = processes.iter().filter(|(_, its_parent)| *its_parent == parent);
            family.extend(children.map(|(pid, _)| *pid));
            next += 1;
        }
        let is_program = |pid: &u32| executable(*pid).is_ok_and(|its_own| its_own != runner);
        family.into_iter().find(is_program).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Ends the program's input, and so the program.
    pub(crate) fn end_input(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Waits for the program's end.
    pub(crate) fn finish(mut self) -> io::Result<ExitStatus> {
        self.end_input();
        self.child.wait()
    }

    /// One line of the program's output.
    fn line(&mut self, interrupt: &Interrupt) -> Result<String, Failure> {
        let Some(output) = &mut self.child.stdout else { return Ok(String::new()) };
        let since = Instant::now();
        let mut line = Vec::new();
        let mut bytes = [0; 256];
        while !line.contains(&b'\n') && line.len() < LONGEST_ANSWER {
            if interrupt.asked().is_some() {
                return Err(Failure::new("interrupted"));
            }
            if since.elapsed() > PATIENCE {
                return Err(Failure::new(format!("{} has not answered for a minute", self.name)));
            }
            let tick = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            match poll(&mut [PollFd::new(&*output, PollFlags::IN)], Some(&tick)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => continue,
                other => other?,
            };
            match output.read(&mut bytes)? {
                0 => break,
                count => line.extend_from_slice(&bytes[..count]),
            }
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    fn errors_said(&mut self) -> Option<String> {
        let mut said = String::new();
        io::Seek::rewind(&mut self.errors).ok()?;
        (&mut self.errors).take(2000).read_to_string(&mut said).ok()?;
        Some(said.trim().to_owned()).filter(|said| !said.is_empty())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end_input();
        if let Ok(None) = self.child.try_wait() {
            // SIGTERM, not SIGKILL: the runner takes its mount and its program with it either way, but so
            // it can do it in order.
            if let Some(pid) = rustix::process::Pid::from_raw(self.child.id().cast_signed()) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
            let _ = self.child.wait();
        }
    }
}

/// Which program a process executes, by name: the file itself may be in a mount that only its owner may look into.
fn executable(pid: u32) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/{pid}/exe"))
}

/// Every process with its parent.
fn parents() -> io::Result<Vec<(u32, u32)>> {
    let mut processes = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // A process may end while we look.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        // `pid (name) state parent ...`, and the name may hold anything, spaces and brackets too.
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(1)?.parse().ok());
        processes.extend(parent.map(|parent| (pid, parent)));
    }
    Ok(processes)
}
