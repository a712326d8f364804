//! The tracer: the only part that touches the processes that run in place, and the only one with unsafe code.
//!
//! One thread waits for all traced threads and serves one stop after the other. A filter in the kernel
//! ([`crate::seccomp`]) lets them stop for few things only: a file is mapped, a mapping is moved, a program is executed, a
//! process begins or ends, a signal arrives.

mod child;
mod files;
mod inject;
mod map;
mod maps;
mod signals;
mod start;
mod stub;
mod sys;

pub(crate) use start::{run, trial};

use crate::report::{End, Reason, Report};
use crate::seccomp::Stop;
use files::{Files, Found};
use libc::pid_t;
use rustix::fd::{BorrowedFd, OwnedFd};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;
use stub::Stub;
use sys::{EVENT_STOP, Gone, Registers, Result, Status};

/// A thread of the program, or of what it started.
#[derive(Clone, Copy, Debug)]
struct Thread {
    /// Others may use its table of descriptors. Exact once its parent's word is in; until then assumed.
    files_shared: bool,
    /// Where its process was given our page of code.
    stub: Option<u64>,
    /// It has a filter of its own, which could end it for a call of ours: it makes none.
    sandboxed: bool,
}

impl Thread {
    /// One of which nothing is known yet.
    const NEW: Self = Self { files_shared: true, stub: None, sandboxed: false };
}

/// All that is traced.
struct Tracer<'a> {
    /// The program's process.
    main: pid_t,
    threads: HashMap<pid_t, Thread>,
    /// What was learnt while waiting for something else.
    queue: VecDeque<(pid_t, Status)>,
    listener: OwnedFd,
    segment: BorrowedFd<'a>,
    /// Device and inode number of the segment, as mappings show them.
    segment_id: (u64, u64),
    /// Pages of the segment that were mapped: first page to the page after the last, and the file.
    placed: BTreeMap<u64, (u64, u64)>,
    cookie: u32,
    stub: Rc<Stub>,
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
            Status::Signal(signal) => return sys::resume(thread, signal),
            Status::Syscall => return sys::resume(thread, 0),
            Status::Event(EVENT_STOP, signal) => return self.stopped(thread, signal),
            Status::Event(libc::PTRACE_EVENT_SECCOMP, _) => return self.call(thread),
            Status::Event(libc::PTRACE_EVENT_EXEC, _) => return self.executed(thread),
            Status::Event(libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE, _) => {
                return self.forked(thread);
            }
            Status::Event(..) => return sys::resume(thread, 0),
        }
        Ok(())
    }

    fn ended(&mut self, thread: pid_t, end: End) {
        self.threads.remove(&thread);
        if thread == self.main {
            self.end = Some(end);
            for &other in self.threads.keys() {
                sys::kill(other, libc::SIGKILL);
            }
        }
    }

    fn stopped(&mut self, thread: pid_t, signal: i32) -> Result<()> {
        if !matches!(signal, libc::SIGSTOP | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU) {
            // The first stop of a new thread, or the end of a group-stop.
            self.threads.entry(thread).or_insert(Thread::NEW);
            return sys::resume(thread, 0);
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
        match Stop::from_data(sys::event_message(thread)?) {
            Some(Stop::Mmap) => self.mmap(thread),
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
            Some(Stop::TakeFd) => self.finish_call(thread).map(|_| ()),
            Some(Stop::Sandbox) => self.sandbox(thread),
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

    /// A thread puts itself, or its process, under a filter. From then on it and what it starts make no calls of ours.
    fn sandbox(&mut self, thread: pid_t) -> Result<()> {
        if self.finish_call(thread)?.is_some_and(|result| result < 0) {
            return Ok(());
        }
        let tasks = std::fs::read_dir(format!("/proc/{thread}/task")).into_iter().flatten();
        let tasks = tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok());
        for task in tasks.chain([thread]) {
            self.threads.entry(task).or_insert(Thread::NEW).sandboxed = true;
        }
        Ok(())
    }

    /// A file mapped by the 32-bit interface: left to the page cache, and counted.
    fn mmap_32(&mut self, thread: pid_t) -> Result<()> {
        let registers = sys::registers(thread)?;
        // The old interface has its arguments in memory; only programs from before 1998 use it.
        if registers.orig_rax == 192 {
            let found = self.files.of_fd(thread, registers.rdi as u32 as i32);
            if let Found::Ours(ino) | Found::CopiedUp(ino) = found {
                self.files.count_left(ino, Reason::Bits32, registers.rcx & 0xffff_ffff);
            }
        }
        sys::resume(thread, 0)
    }

    fn executed(&mut self, thread: pid_t) -> Result<()> {
        // All other threads of the process are gone, and this one has the process's number now.
        let former = pid_t::try_from(sys::event_message(thread)?).unwrap_or(thread);
        // A filter outlives the program.
        let sandboxed = self.threads.remove(&former).is_some_and(|thread| thread.sandboxed);
        self.threads.insert(thread, Thread { files_shared: false, stub: None, sandboxed });
        self.report.programs += 1;
        self.exec(thread)
    }

    fn forked(&mut self, thread: pid_t) -> Result<()> {
        if let Ok(child) = pid_t::try_from(sys::event_message(thread)?) {
            let shared = shares_files(&sys::registers(thread)?);
            let parent = self.threads.entry(thread).or_insert(Thread::NEW);
            parent.files_shared |= shared;
            let Thread { stub, sandboxed, .. } = *parent;
            let known = self.threads.entry(child).or_insert(Thread::NEW);
            // It may have executed a program already, which has a page of its own.
            let stub = known.stub.or(stub);
            *known = Thread { files_shared: shared, stub, sandboxed: sandboxed || known.sandboxed };
        }
        sys::resume(thread, 0)
    }

    fn files_shared(&self, thread: pid_t) -> bool {
        self.threads.get(&thread).is_none_or(|thread| thread.files_shared)
    }

    fn sandboxed(&self, thread: pid_t) -> bool {
        self.threads.get(&thread).is_some_and(|thread| thread.sandboxed)
    }
}

/// Whether the call that starts a process or thread lets it use the same table of descriptors.
fn shares_files(call: &Registers) -> bool {
    const X32: u64 = 0x4000_0000;
    // Numbers of one interface that are the same in another are not of calls that start something there.
    let flags = match call.orig_rax & !X32 {
        56 => call.rdi,
        120 => call.rbx,
        // fork, vfork
        57 | 58 | 2 | 190 => 0,
        _ => return true,
    };
    flags & u64::from(libc::CLONE_FILES.unsigned_abs()) != 0
}
