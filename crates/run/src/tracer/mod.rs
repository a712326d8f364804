//! The tracer: the only part that touches the processes that run in place, and the only one with unsafe code.
//!
//! One thread waits for all traced threads and serves one stop after the other. A filter in the kernel
//! ([`crate::seccomp`]) lets them stop for few things only: a file is mapped, a mapping is moved, a program is executed, a
//! process begins or ends, a signal arrives.

mod child;
mod exec;
mod family;
mod files;
mod grow;
mod inject;
mod keep;
mod map;
mod maps;
mod processes;
mod signals;
mod start;
mod stub;
mod sys;
mod turns;

pub(crate) use start::{run, trial};

use crate::report::{End, Reason, Report};
use crate::seccomp::Stop;
use exec::Executing;
use files::{Files, Found};
use inject::Work;
use libc::pid_t;
use rustix::fd::{BorrowedFd, OwnedFd};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use stub::{Returns, Slot, Stub};
use sys::{EVENT_STOP, Gone, Registers, Result, Status};
use turns::Turns;

/// A thread of the program, or of what it started.
#[derive(Debug)]
struct Thread {
    /// Its parent's word is in, or it has executed a program. Until then the rest is not known, and it waits.
    known: bool,
    /// The number of its process, which is that of the first of its threads.
    process: pid_t,
    /// No other uses its memory or its table of descriptors, as long as it runs.
    alone: bool,
    /// It uses the memory of this one, which waits for it (`vfork`).
    lender: Option<pid_t>,
    /// It is under the second filter.
    shielded: bool,
    /// Where its process was given our page of code.
    page: Option<u64>,
    /// That is so, by the kernel's word.
    seen: bool,
    /// It makes no calls of ours: it has a filter of its own, which could end it for one, or is in a user namespace of its
    /// own, where others could look at it while it has the segment's descriptor.
    sandboxed: bool,
    /// All that its mappings of the segment are is in the kernel's list of them and in its tables of pages, and no other
    /// memory is a copy of theirs that is more.
    plain: bool,
    /// It was sent off to our page, and was not seen since.
    ride: Option<Ride>,
}

impl Thread {
    /// One of which nothing is known yet.
    const NEW: Self = Self {
        known: false,
        process: 0,
        alone: false,
        lender: None,
        shielded: false,
        page: None,
        seen: false,
        sandboxed: false,
        plain: false,
        ride: None,
    };
}

/// What a thread was sent off to do.
#[derive(Debug)]
struct Ride {
    /// The program's registers.
    saved: Registers,
    page: u64,
    work: Vec<Work>,
    /// Nothing where it does not map, and only keeps what is there.
    script: Option<Scripted>,
}

/// A ride by a script.
#[derive(Debug)]
struct Scripted {
    /// The signals that the program blocks.
    blocked: u64,
    slot: Slot,
    /// Address of the first entry.
    first: u64,
    result: Returns,
}

/// All that is traced.
struct Tracer<'a> {
    /// The program's process.
    main: pid_t,
    threads: BTreeMap<pid_t, Thread>,
    /// What was learnt while waiting for something else.
    queue: VecDeque<(pid_t, Status)>,
    /// Processes that are about to become another program.
    executing: BTreeMap<pid_t, Executing>,
    listener: OwnedFd,
    segment: BorrowedFd<'a>,
    /// Device and inode number of the segment, as mappings show them.
    segment_id: (u64, u64),
    /// Pages of the segment that were mapped: first page to the page after the last, and the file.
    placed: BTreeMap<u64, (u64, u64)>,
    cookie: u32,
    stub: Rc<RefCell<Stub>>,
    turns: Turns,
    files: Files<'a>,
    /// Where the kernel's page of code has a `syscall` instruction.
    instruction_at: Option<u64>,
    report: Report,
    notice: fn(&str),
    end: Option<End>,
}

impl Tracer<'_> {
    /// Serves until no traced process is left. The program's own end ends them all.
    fn run(mut self) -> (End, Report) {
        while let Some((thread, status)) = self.next() {
            if self.serve(thread, status).is_err() {
                // It died in between: its end is reported by the next waits.
            }
        }
        self.files.report(&mut self.report);
        (self.end.unwrap_or(End::Signalled(libc::SIGKILL)), self.report)
    }

    fn next(&mut self) -> Option<(pid_t, Status)> {
        match self.queue.pop_front() {
            Some(known) => Some(known),
            None => sys::wait(-1, true).ok().flatten(),
        }
    }

    /// Waits for one thread. What others have to say is kept, and their ends are taken note of: until then the kernel
    /// may keep this one waiting.
    fn wait_for(&mut self, thread: pid_t) -> Result<Status> {
        if let Some(status) = self.queued(thread) {
            return Ok(status);
        }
        loop {
            match sys::wait(-1, true)? {
                Some((who, status)) if who == thread => return Ok(status),
                Some(other) => self.queue.push_back(other),
                None => return Err(Gone),
            }
        }
    }

    /// As [`Tracer::wait_for`], without waiting.
    fn look_for(&mut self, thread: pid_t) -> Result<Option<Status>> {
        if let Some(status) = self.queued(thread) {
            return Ok(Some(status));
        }
        while let Some((who, status)) = sys::wait(-1, false)? {
            if who == thread {
                return Ok(Some(status));
            }
            self.queue.push_back((who, status));
        }
        Ok(None)
    }

    fn queued(&mut self, thread: pid_t) -> Option<Status> {
        let at = self.queue.iter().position(|(who, _)| *who == thread)?;
        self.queue.remove(at).map(|(_, status)| status)
    }

    fn serve(&mut self, thread: pid_t, status: Status) -> Result<()> {
        match status {
            Status::Exited(code) => self.ended(thread, End::Exited(code)),
            Status::Killed(signal) => self.ended(thread, End::Signalled(signal)),
            _ if self.end.is_some() => {
                sys::kill(thread, libc::SIGKILL);
                return sys::resume(thread, 0);
            }
            _ if self.waits_for_exec(thread, status) => {}
            Status::Signal(signal) => {
                self.hasten(thread)?;
                return sys::resume(thread, signal);
            }
            Status::Event(EVENT_STOP, signal) => return self.stopped(thread, signal),
            Status::Event(libc::PTRACE_EVENT_SECCOMP, _) => return self.call(thread),
            Status::Event(libc::PTRACE_EVENT_EXEC, _) => return self.executed(thread),
            Status::Event(libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE, _) => {
                return self.forked(thread);
            }
            Status::Syscall => {
                self.not_executed(thread);
                return sys::resume(thread, 0);
            }
            Status::Event(..) => return sys::resume(thread, 0),
        }
        Ok(())
    }

    fn ended(&mut self, thread: pid_t, end: End) {
        self.not_executed(thread);
        // A leader's end is told last, also when what it tells of is an exec that failed half-way in its name.
        self.executing.remove(&thread);
        self.forget(thread);
        self.turns.ended(thread);
        self.files.processes.ended(thread);
        self.introduce_orphans();
        if thread == self.main {
            self.end = Some(end);
            for &other in self.threads.keys() {
                sys::kill(other, libc::SIGKILL);
            }
        }
    }

    fn forget(&mut self, thread: pid_t) -> Option<Thread> {
        self.landed(thread);
        self.threads.remove(&thread)
    }

    /// A thread that was sent off has gone on: all was mapped.
    fn landed(&mut self, thread: pid_t) {
        if let Some(ride) = self.threads.get_mut(&thread).and_then(|known| known.ride.take()) {
            ride.work.iter().for_each(|&(_, ino, piece)| self.placed(ino, piece));
            if let Some(Scripted { slot, .. }) = ride.script {
                self.stub.borrow_mut().give_back(slot);
            }
        }
    }

    /// Whether a thread that was sent off is still in our page.
    fn is_riding(&self, thread: pid_t) -> Result<bool> {
        let ride = self.threads.get(&thread).and_then(|known| known.ride.as_ref());
        ride.map_or(Ok(false), |ride| Ok(stub::is_in(ride.page, &sys::registers(thread)?)))
    }

    /// A signal is about to be delivered to a thread, which may still be on its way out of our page: then it is put where
    /// it goes, since a handler needs its stack, and may come to our page again.
    fn hasten(&mut self, thread: pid_t) -> Result<()> {
        let Some(ride) = self.threads.get(&thread).and_then(|known| known.ride.as_ref()) else { return Ok(()) };
        let now = sys::registers(thread)?;
        if ride.script.is_none() {
            return self.hasten_keeper(thread, &now);
        }
        match stub::on_the_way_out(ride.page, &now) {
            Some(rax) => sys::set_registers(thread, &Registers { orig_rax: u64::MAX, rax, ..ride.saved })?,
            // Stopped in the midst of it.
            None if stub::is_in(ride.page, &now) => return Ok(()),
            None => {}
        }
        self.landed(thread);
        Ok(())
    }

    fn stopped(&mut self, thread: pid_t, signal: i32) -> Result<()> {
        self.turns.end();
        if !matches!(signal, libc::SIGSTOP | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU) {
            // The first stop of a new thread, or the end of a group-stop.
            return match self.threads.entry(thread).or_insert(Thread::NEW).known {
                true => sys::resume(thread, 0),
                // Its parent's stop is on its way, and says who it is.
                false => Ok(()),
            };
        }
        sys::listen(thread)?;
        if thread == self.main {
            // For a shell that waits for this process: its job is stopped.
            signals::stop_self();
            sys::kill(self.main, libc::SIGCONT);
        }
        Ok(())
    }

    fn call(&mut self, thread: pid_t) -> Result<()> {
        self.turns.serve(thread);
        // By far the most usual, and the filters stop nothing else with this number by any interface: a question less.
        let registers = sys::registers(thread)?;
        if registers.orig_rax == libc::SYS_mmap.cast_unsigned() && !self.sandboxed(thread) {
            self.landed(thread);
            return self.mmap(thread, registers);
        }
        let said = Stop::from_data(sys::event_message(thread)?);
        let stop = if said.is_none() || self.sandboxed(thread) { stop_of(thread)? } else { said };
        if stop == Some(Stop::Injected) {
            return self.stranded(thread);
        }
        if stop == Some(Stop::Dumpable) && self.is_riding(thread)? {
            return sys::resume(thread, 0);
        }
        self.landed(thread);
        match stop {
            Some(Stop::Mmap) => self.mmap(thread, registers),
            Some(Stop::Mmap32) => self.mmap_32(thread),
            Some(Stop::Mremap) => self.mremap(thread, false),
            Some(Stop::Mremap32) => self.mremap(thread, true),
            Some(Stop::Remap) => self.remap(thread),
            Some(Stop::Ptrace) => {
                if self.report.refused_ptrace == 0 {
                    (self.notice)(
                        "a program tried to trace another: that fails, since a program cannot be traced twice; \
                         with --page-cache it runs untraced, and not in place",
                    );
                }
                self.report.refused_ptrace += 1;
                sys::resume(thread, 0)
            }
            Some(Stop::Dumpable) => self.finish_call(thread).map(|_| ()),
            Some(Stop::Share) => self.share(thread),
            Some(Stop::Sandbox) => self.sandbox(thread),
            Some(Stop::Execute) => self.execute(thread),
            Some(Stop::Special) => {
                self.not_plain(thread);
                sys::resume(thread, 0)
            }
            Some(Stop::Injected) | None => sys::resume(thread, 0),
        }
    }

    /// Has a thread make its call, which does not wait for anything, before anything else is done; its result, if it
    /// came to one.
    fn finish_call(&mut self, thread: pid_t) -> Result<Option<i64>> {
        sys::resume_to_syscall(thread)?;
        match self.wait_for(thread)? {
            Status::Syscall => {
                let result = sys::registers(thread)?.rax.cast_signed();
                sys::resume(thread, 0)?;
                Ok(Some(result))
            }
            other => {
                self.queue.push_back((thread, other));
                Ok(None)
            }
        }
    }

    /// A file mapped by the 32-bit interface: left to the page cache, and counted.
    fn mmap_32(&mut self, thread: pid_t) -> Result<()> {
        let registers = sys::registers(thread)?;
        // The old interface has its arguments in memory; only programs from before 1998 use it.
        if registers.orig_rax == 192 {
            let found = self.files.of_fd(thread, false, registers.rdi as u32 as i32);
            if let Found::Ours(ino) | Found::CopiedUp(ino) = found {
                self.files.count_left(ino, Reason::Bits32, registers.rcx & 0xffff_ffff);
            }
        }
        sys::resume(thread, 0)
    }

    /// Where our page is in the thread's memory, if it may be lent the segment's descriptor there; and whether it is alone.
    fn page_of(&mut self, thread: pid_t) -> Option<(u64, bool)> {
        // One that was killed meanwhile would leave its lender's memory as it is in between.
        let page = self.threads.get(&thread).filter(|known| known.lender.is_none())?.page?;
        if !self.has_page(thread, page) {
            return None;
        }
        let known = self.threads.get(&thread)?;
        // What is not sealed could be exchanged by another thread at any moment.
        let safe = known.alone || known.shielded && self.stub.borrow().sealable;
        safe.then_some((page, known.alone))
    }

    fn sandboxed(&self, thread: pid_t) -> bool {
        self.threads.get(&thread).is_some_and(|thread| thread.sandboxed)
    }
}

/// What a thread stopped for, by the call that it makes: for one under a filter of its own, of which the newest has the
/// last word in what it says to the tracer.
fn stop_of(thread: pid_t) -> Result<Option<Stop>> {
    const X32: u64 = 0x4000_0000;
    let registers = sys::registers(thread)?;
    Ok(match (sys::calls_as_32_bit(thread)?, registers.orig_rax & !X32) {
        (false, 9) => Some(Stop::Mmap),
        (false, 25) => Some(Stop::Mremap),
        (false, 216) | (true, 257) => Some(Stop::Remap),
        (false, 59 | 322 | 520 | 545) | (true, 11 | 358) => Some(Stop::Execute),
        (false, 28 | 149 | 151 | 237 | 323 | 325 | 329 | 440) => Some(Stop::Special),
        (false, 157) if registers.rdi as i32 == libc::PR_SET_DUMPABLE => Some(Stop::Dumpable),
        (true, 150 | 152 | 219 | 274 | 374 | 376 | 380 | 440) => Some(Stop::Special),
        (true, 163) => Some(Stop::Mremap32),
        (true, 172) if registers.rbx as i32 == libc::PR_SET_DUMPABLE => Some(Stop::Dumpable),
        (true, 90 | 192) => Some(Stop::Mmap32),
        _ => None,
    })
}
