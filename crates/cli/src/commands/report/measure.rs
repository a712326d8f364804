//! Guests and processes, started together, measured when the work of all has ended, and ended.

use std::collections::{BTreeSet, VecDeque};
use std::io::{self, BufRead, BufReader, Read};
use std::net::Shutdown;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use xip_segment::{Segment, Stat, stat};
use xip_vm::{Attach, End, Ended, Guest, Handle, Options, Qemu, Streams};

use super::curve::{Guests, Host};
use crate::commands::vm::machine::how;
use crate::failure::Failure;
use crate::output::{Output, printable};
use crate::signals::Interrupt;

pub(super) struct Bench {
    pub(super) qemu: Qemu,
    pub(super) segment: Segment,
    pub(super) options: Options,
    /// The same image as a disk.
    pub(super) disk: Attach,
    pub(super) interrupt: Interrupt,
    pub(super) output: Output,
}

/// Guests that are ended when this is dropped, whatever their threads wait for.
#[derive(Default)]
struct Ending(Vec<Handle>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.iter().for_each(Handle::kill);
    }
}

impl Bench {
    pub(super) fn guests(&self, attach: Attach, count: u16) -> Result<Guests, Failure> {
        let options = Options { attach, ..self.options.clone() };
        let before = self.users()?;
        let (done, results) = channel();
        let mut ending = Ending::default();
        for _ in 0..count {
            let (guest, streams) = Guest::start(&self.qemu, self.segment.fd(), self.segment.info().size, &options)?;
            ending.0.push(guest.handle()?);
            let done = done.clone();
            thread::spawn(move || {
                // If nobody waits for it, the guest ends here.
                let _ = done.send(work(guest, streams));
            });
        }
        drop(done);
        // They live until all are measured.
        let done: Vec<(Guest, Ended)> = self.collect(&results, count)?;
        let processes: BTreeSet<u32> = done.iter().map(|(guest, _)| guest.process()).collect();
        let host = self.host(&processes, &before)?;
        // What a guest says is at most what it was given.
        let mean = |of: &dyn Fn(&Ended) -> u64| {
            done.iter().map(|(_, ended)| of(ended).min(options.memory)).sum::<u64>() / u64::from(count)
        };
        Ok(Guests {
            host,
            used: mean(&|ended| options.memory.saturating_sub(ended.figures.free)),
            cached: mean(&|ended| ended.figures.cached),
            descriptors: done.first().and_then(|(_, ended)| ended.figures.descriptors),
        })
    }

    /// As many programs of this machine. A shell waits when the work has ended, as a guest's kernel does.
    pub(super) fn processes(&self, count: u16) -> Result<Host, Failure> {
        const THEN_WAIT: &str = "\"$@\" >/dev/null 2>&1 </dev/null || exit; echo done; read -r end";
        let before = self.users()?;
        let (done, results) = channel();
        let mut running = Vec::new();
        for _ in 0..count {
            let mut command = Command::new("/proc/self/exe");
            command.arg("run");
            // The surroundings of a guest.
            for (name, _) in std::env::vars_os() {
                command.arg("--env").arg(name);
            }
            for (name, value) in &self.options.environment {
                let mut variable = name.clone();
                variable.push("=");
                variable.push(value);
                command.arg("--env").arg(variable);
            }
            command.args([self.segment.name(), "--", "sh", "-c", THEN_WAIT, "sh"]).args(&self.options.program);
            let mut child = Running(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?);
            let (out, done) = (child.0.stdout.take(), Sender::clone(&done));
            running.push(child);
            thread::spawn(move || {
                let mut line = String::new();
                let read = out.map(|out| BufReader::new(out).read_line(&mut line));
                let error = || {
                    let error = "the work failed, or could not be run, as a process of this machine";
                    Failure::new(error).remedy("`xip run` shows what it says; the image needs /bin/sh for this")
                };
                let _ = done.send(if matches!(read, Some(Ok(1..))) { Ok(()) } else { Err(error()) });
            });
        }
        drop(done);
        self.collect(&results, count)?;
        let processes = self.users()?;
        self.host(&processes.difference(&before).copied().collect(), &before)
    }

    /// The results of all, or the first failure, or the signal that came meanwhile.
    fn collect<T>(&self, results: &Receiver<Result<T, Failure>>, count: u16) -> Result<Vec<T>, Failure> {
        let mut all = Vec::new();
        while all.len() < usize::from(count) {
            if let Some(signal) = self.interrupt.asked() {
                return Err(Failure::silent().by_signal(signal));
            }
            match results.recv_timeout(Duration::from_millis(100)) {
                Ok(result) => all.push(result?),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Failure::new("a thread of xip ended in the middle of its work"));
                }
            }
        }
        Ok(all)
    }

    fn stat(&self) -> Result<Stat, Failure> {
        Ok(self.segment.stat()?)
    }

    /// Who maps the segment already.
    fn users(&self) -> Result<BTreeSet<u32>, Failure> {
        Ok(self.stat()?.processes.iter().map(|mapper| mapper.user.pid).collect())
    }

    /// What these processes cost. If there are `others`, their part of the segment cannot be told from it.
    fn host(&self, processes: &BTreeSet<u32>, others: &BTreeSet<u32>) -> Result<Host, Failure> {
        if !others.is_empty() {
            self.output.aside("the segment has other users: what they use of it is in the figures, too");
        }
        let stat = self.stat()?;
        let mut all = 0;
        for pid in processes {
            let gone = || Failure::new("a guest or process ended before it was measured");
            all += stat::proportional(*pid).ok_or_else(gone)?;
        }
        let mine = stat.processes.iter().filter(|mapper| processes.contains(&mapper.user.pid));
        let shares: u64 = mine.map(|mapper| mapper.proportional).sum();
        Ok(Host { own: all.saturating_sub(shares), segment: stat.shared.iter().map(|shared| shared.bytes).sum() })
    }
}

/// Waits for the end of a guest's work, which has no input and whose output nobody sees.
fn work(mut guest: Guest, streams: Streams) -> Result<(Guest, Ended), Failure> {
    let Streams { input, mut output, errors } = streams;
    thread::spawn(move || io::copy(&mut output, &mut io::sink()));
    let said = thread::spawn(move || last_line(errors));
    guest.mounted()?;
    guest.started()?;
    let _ = input.shutdown(Shutdown::Write);
    let ended = guest.wait()?;
    if ended.end == End::Exited(0) {
        return Ok((guest, ended));
    }
    drop(guest);
    let why = said.join().unwrap_or_default();
    let why = if why.is_empty() { why } else { format!(": {}", printable(&why)) };
    Err(Failure::new(format!("the work failed in a guest, {}{why}", how(ended.end)))
        .remedy("`xip vm run` shows all that it says"))
}

/// Reads to the end, and keeps the last line, or the end of it.
fn last_line(mut from: impl Read) -> String {
    const KEPT: usize = 4 << 10;
    let (mut kept, mut bytes) = (VecDeque::new(), [0; 4 << 10]);
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        kept.extend(&bytes[..count]);
        kept.drain(..kept.len().saturating_sub(KEPT));
    }
    let bytes = Vec::from(kept);
    String::from_utf8_lossy(&bytes).lines().next_back().unwrap_or_default().to_owned()
}

/// A run that is ended when this is dropped: with `xip run` its programs end.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
