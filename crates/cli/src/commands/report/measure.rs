//! Guests and processes, started together, measured when the work of all has ended, and ended.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::thread;

use xip_segment::{Segment, Stat, stat};
use xip_vm::{Attach, End, Ended, Guest, Options, Output, Qemu};

use super::curve::{Guests, Host};
use crate::failure::Failure;

pub(super) struct Bench {
    pub(super) qemu: Qemu,
    pub(super) segment: Segment,
    pub(super) options: Options,
    /// The same image as a disk.
    pub(super) disk: Attach,
}

impl Bench {
    pub(super) fn guests(&self, attach: Attach, count: u16) -> Result<Guests, Failure> {
        let options = Options { attach, ..self.options.clone() };
        let before = self.users()?;
        let mut working = Vec::new();
        for _ in 0..count {
            let (guest, streams) = Guest::start(&self.qemu, self.segment.fd(), self.segment.info().size, &options)?;
            working.push(thread::spawn(move || work(guest, streams.output, streams.errors)));
        }
        let done = working.into_iter().map(|work| work.join().map_err(|_| lost())?);
        // They live until all are measured.
        let done = done.collect::<Result<Vec<(Guest, Ended)>, Failure>>()?;
        let processes: BTreeSet<u32> = done.iter().map(|(guest, _)| guest.process()).collect();
        let host = self.host(&processes, &before)?;
        let mean = |of: &dyn Fn(&Ended) -> u64| done.iter().map(|(_, ended)| of(ended)).sum::<u64>() / u64::from(count);
        Ok(Guests {
            host,
            used: mean(&|ended| options.memory.saturating_sub(ended.figures.free)),
            cached: mean(&|ended| ended.figures.cached),
            descriptors: done.first().and_then(|(_, ended)| ended.figures.descriptors),
        })
    }

    /// As many programs of this machine. A shell waits when the work has ended, as a guest's kernel does.
    pub(super) fn processes(&self, count: u16) -> Result<Host, Failure> {
        const THEN_WAIT: &str = "\"$@\" >/dev/null 2>&1 </dev/null; echo done; read -r end";
        let before = self.users()?;
        let start = || {
            Command::new("/proc/self/exe")
                .args(["run", self.segment.name(), "--", "sh", "-c", THEN_WAIT, "sh"])
                .args(&self.options.program)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .map(Running)
        };
        let mut running = (0..count).map(|_| start()).collect::<Result<Vec<_>, _>>()?;
        for Running(child) in &mut running {
            let mut line = String::new();
            let read = child.stdout.take().map(|out| BufReader::new(out).read_line(&mut line));
            if !matches!(read, Some(Ok(1..))) {
                let error = "a program of this machine ended before it was measured";
                return Err(Failure::new(error).remedy("`xip run` says why; the image needs /bin/sh for this"));
            }
        }
        let processes = self.stat()?.processes.iter().map(|mapper| mapper.user.pid).collect::<BTreeSet<_>>();
        self.host(&processes.difference(&before).copied().collect(), &before)
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
            tracing::warn!("the segment has other users: what they use of it is in the figures, too");
        }
        let stat = self.stat()?;
        let all: u64 = processes.iter().filter_map(|pid| stat::proportional(*pid)).sum();
        let mine = stat.processes.iter().filter(|mapper| processes.contains(&mapper.user.pid));
        let shares: u64 = mine.map(|mapper| mapper.proportional).sum();
        Ok(Host { own: all.saturating_sub(shares), segment: stat.shared.iter().map(|shared| shared.bytes).sum() })
    }
}

/// Waits for the end of a guest's work.
fn work(mut guest: Guest, output: Output, errors: Output) -> Result<(Guest, Ended), Failure> {
    let drain = |mut from: Output| thread::spawn(move || std::io::copy(&mut from, &mut std::io::sink()));
    drain(output);
    // Only for the case that it fails.
    let said = thread::spawn(move || {
        let mut said = String::new();
        let _ = errors.take(4096).read_to_string(&mut said);
        said
    });
    guest.mounted()?;
    guest.started()?;
    let ended = guest.wait()?;
    if ended.end == End::Exited(0) {
        return Ok((guest, ended));
    }
    drop(guest);
    let said = said.join().unwrap_or_default();
    let why = said.lines().next_back().map_or(String::new(), |line| format!(": {line}"));
    Err(Failure::new(format!("the work failed in a guest{why}")).remedy("`xip vm run` shows what it says"))
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // The shell reads to the end, and ends.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn lost() -> Failure {
    Failure::new("a thread of xip ended in the middle of its work")
}
