//! The first program of a guest. It loads the kernel's modules, waits for the segment's device, mounts it, runs one program
//! from it, and powers the guest off.
//!
//! What it is to do stands in `/job`, what it has to say goes through a port of its own, never through the program's output.

#![deny(unsafe_code)]

mod figures;
mod job;
mod ports;
mod root;
mod run;
mod sample;

use figures::Figures;
use job::Job;
use ports::Ports;
use rustix::system::{RebootCommand, reboot};
use std::process::ExitCode;

/// What went wrong, in words.
type Result<T> = std::result::Result<T, String>;

/// An error that says what was tried.
trait Tried<T> {
    fn tried(self, what: impl std::fmt::Display) -> Result<T>;
}

impl<T, E: std::fmt::Display> Tried<T> for std::result::Result<T, E> {
    fn tried(self, what: impl std::fmt::Display) -> Result<T> {
        self.map_err(|error| format!("{what}: {error}"))
    }
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    if arguments.first().is_some_and(|first| first == run::SESSION) {
        return run::session(&arguments[1..]);
    }
    if std::process::id() != 1 {
        eprintln!("this is the first program of a guest: xip vm run starts it");
        return ExitCode::FAILURE;
    }
    let end = guest().unwrap_or_else(|error| {
        // Nobody to tell but the kernel's console, of which the host shows the end.
        eprintln!("xip: {error}");
        RebootCommand::PowerOff
    });
    rustix::fs::sync();
    let _ = reboot(end);
    ExitCode::FAILURE
}

fn guest() -> Result<RebootCommand> {
    root::prepare()?;
    let job = Job::read()?;
    root::load_modules(&job.modules)?;
    if job.console {
        let done = root::mount_volume(&job).and_then(|_| {
            root::enter(&job)?;
            run::run_on_console(&job)
        });
        done.unwrap_or_else(|error| eprintln!("xip: {error}"));
        return Ok(if job.restart { RebootCommand::Restart } else { RebootCommand::PowerOff });
    }
    let Ports { mut control, streams } = Ports::find()?;
    let listener = run::listen(&control)?;
    let figures = Figures::begin()?;
    let done = root::mount_volume(&job).and_then(|(in_place, options)| {
        control.say(&format!("mounted dax={} {} text={options}", u8::from(in_place), figures.now()?));
        let ended = if job.program.is_empty() {
            control.say("started");
            "status=0 output=0 errors=0".into()
        } else {
            root::enter(&job)?;
            listener.wait_for_time();
            run::run(&mut control, &listener, &job, streams)?
        };
        // Before the sample, which reads directories.
        let figures = figures.now()?;
        let mut tell = |line: String| control.say(&line);
        let sample = job.sample.map(|files| sample::look(root::volume(&job), files, &mut tell)).unwrap_or_default();
        control.say(&format!("ended {ended} {figures}{sample}"));
        Ok(())
    });
    if let Err(error) = done {
        control.say(&format!("failed {error}"));
    }
    // The host has what was sent when it has read it, which only the host knows.
    listener.wait();
    Ok(RebootCommand::PowerOff)
}
