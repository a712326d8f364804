//! System calls that a stopped thread makes for the runner.
//!
//! A thread that stands before a system call, in a seccomp stop, is given another call to make, and a place in our page of
//! code ([`super::stub`]) to come back to; its fifth argument carries the cookie. There it makes a call that does not
//! exist, and so stands in a seccomp stop again, where the result is read and the next call given. One stop for each call,
//! no signals, and at the end everything is as it was.
//!
//! The segment's descriptor comes by a call of that page which the filter turns into a notification; the runner's answer
//! puts the descriptor into the thread's table. That is done only where nobody else can get at it meanwhile:
//!
//! * a thread that is alone, with memory and descriptors that no other uses, is sent off to map and to go on by itself.
//!   While it has the descriptor its process is undumpable, which keeps other processes out of `/proc/TID/fd`;
//! * else a helper, a process with the caller's memory and a copy of its descriptors, does it and ends, before anything
//!   else is served. Threads of the program could make the memory dumpable again meanwhile; the second filter
//!   ([`crate::seccomp::shield`]), which they are under, has them wait for the runner instead.

use super::stub::{self, At, Entry, PR_GET_DUMPABLE, Returns, Script, Slot};
use super::sys::{self, EVENT_STOP, Gone, Registers, Result, Status};
use super::turns::Held;
use super::{Ride, Scripted, Tracer};
use crate::place::Piece;
use crate::seccomp::{MAGIC, Stop};
use libc::pid_t;
use rustix::fd::{AsFd, BorrowedFd};

/// A mapping to make, the file it is of, and what of the file.
pub(super) type Work = (Entry, u64, Piece);

fn entries(work: &[Work]) -> Vec<Entry> {
    work.iter().map(|&(entry, ..)| entry).collect()
}

/// A thread that has our page in its new program, as it says itself.
pub(super) struct Given {
    pub(super) page: u64,
    /// The page's descriptor there, still open.
    pub(super) fd: u32,
    saved: Registers,
    blocked: u64,
    stopped: bool,
    held: Option<Held>,
}

/// A thread that makes calls for us.
pub(super) struct Injection<'t, 'a> {
    pub(super) tracer: &'t mut Tracer<'a>,
    /// Who makes the calls: the program's thread or its helper.
    thread: pid_t,
    /// Where our page is in its memory.
    page: u64,
    /// The program's.
    saved: Registers,
    blocked: u64,
    /// The thread was seen in a group-stop, to which it must return.
    stopped: bool,
    /// What is waited for may not come.
    doubtful: bool,
    /// Only the thread, not a helper, and only until it goes on by itself.
    held: Option<Held>,
}

impl<'t, 'a> Injection<'t, 'a> {
    /// On a thread in a seccomp stop.
    pub(super) fn at_call(tracer: &'t mut Tracer<'a>, thread: pid_t, page: u64, saved: Registers) -> Result<Self> {
        let held = tracer.turns.hold(thread, false);
        Self::on(tracer, thread, page, saved, held)
    }

    fn on(tracer: &'t mut Tracer<'a>, thread: pid_t, page: u64, saved: Registers, held: Option<Held>) -> Result<Self> {
        let blocked = sys::blocked_signals(thread)?;
        sys::block_signals(thread, !0)?;
        Ok(Self { tracer, thread, page, saved, blocked, stopped: false, doubtful: false, held })
    }

    /// On a thread that is about to enter a new program: gives it our page. `instruction` is the address of a `syscall`
    /// instruction of its own. `None` when it cannot have the page; then it has gone on.
    pub(super) fn at_exec(
        tracer: &'t mut Tracer<'a>,
        thread: pid_t,
        saved: Registers,
        instruction: u64,
    ) -> Result<Option<Given>> {
        let held = tracer.turns.hold(thread, true);
        let mut this = Self::on(tracer, thread, 0, saved, held)?;
        // Back to that same instruction after each call, with the result as the number of a call that is none.
        let nothing = u64::from(MAGIC) + 1;
        let come_back = Registers { rip: instruction, r8: this.cookie(), rax: nothing, orig_rax: u64::MAX, ..saved };
        sys::set_registers(thread, &come_back)?;
        sys::resume(thread, 0)?;
        this.wait_injected()?;
        let stub = this.tracer.stub.clone();
        sys::set_registers(thread, &Registers { orig_rax: MAGIC.into(), ..come_back })?;
        sys::resume(thread, 0)?;
        let fd = this.answer_notification(stub.borrow().fd(), Some(nothing.cast_signed()), false)?;
        this.wait_injected()?;
        let Some(fd) = fd else {
            this.finish(None)?;
            return Ok(None);
        };
        let map = Registers {
            orig_rax: libc::SYS_mmap.cast_unsigned(),
            rdi: 0,
            rsi: stub::SIZE,
            rdx: (libc::PROT_READ | libc::PROT_EXEC).cast_unsigned().into(),
            r10: libc::MAP_SHARED.cast_unsigned().into(),
            r8: this.cookie() | u64::from(fd),
            r9: 0,
            ..come_back
        };
        sys::set_registers(thread, &map)?;
        sys::resume(thread, 0)?;
        this.wait_injected()?;
        let page = sys::registers(thread)?.orig_rax;
        if page.cast_signed() <= 0 {
            let close = libc::SYS_close.cast_unsigned();
            sys::set_registers(thread, &Registers { orig_rax: close, rdi: fd.into(), ..come_back })?;
            sys::resume(thread, 0)?;
            this.wait_injected()?;
            this.finish(None)?;
            return Ok(None);
        }
        Ok(Some(Given { page, fd, saved, blocked: this.blocked, stopped: this.stopped, held: this.held }))
    }

    /// Goes on with a thread that was given our page.
    pub(super) fn entered(tracer: &'t mut Tracer<'a>, thread: pid_t, given: Given) -> Self {
        let Given { page, saved, blocked, stopped, held, .. } = given;
        Self { tracer, thread, page, saved, blocked, stopped, doubtful: false, held }
    }

    pub(super) fn page(&self) -> u64 {
        self.page
    }

    fn cookie(&self) -> u64 {
        u64::from(self.tracer.cookie) << 32
    }

    /// The registers of a thread that makes a call in the page, and goes on at `then`.
    fn calling(&self, number: i64, arguments: [u64; 6], then: At) -> Registers {
        let [rdi, rsi, rdx, r10, r8, r9] = arguments;
        let r8 = self.cookie() | r8 & 0xffff_ffff;
        let (orig_rax, rip) = (number.cast_unsigned(), self.page + then.offset());
        Registers { orig_rax, rip, rdi, rsi, rdx, r10, r8, r9, rbx: 0, ..self.saved }
    }

    /// Makes a system call; its result, negative for an error. Of the fifth argument only the lower half is used.
    pub(super) fn call(&mut self, number: i64, arguments: [u64; 6]) -> Result<i64> {
        sys::set_registers(self.thread, &self.calling(number, arguments, At::Said))?;
        sys::resume(self.thread, 0)?;
        self.wait_injected()?;
        Ok(sys::registers(self.thread)?.r9.cast_signed())
    }

    /// Maps pieces of the segment and waits for it; how many were mapped, and what the last call returned.
    pub(super) fn map(&mut self, work: &[Work], first: At) -> Result<(usize, i64)> {
        let script = Script::new(self.page).map(&entries(work)).stop();
        let rsp = self.tracer.stub.borrow().write(&Slot::WAITED_FOR, &script).map_err(|_| Gone)?;
        let call = self.calling(libc::SYS_prctl, [PR_GET_DUMPABLE, 0, 0, 0, 0, 0], first);
        sys::set_registers(self.thread, &Registers { rsp, ..call })?;
        sys::resume(self.thread, 0)?;
        self.answer_notification(self.tracer.segment, None, false)?;
        self.wait_injected()?;
        let after = sys::registers(self.thread)?;
        let result = after.r9.cast_signed();
        let done = if (-4095..0).contains(&result) { stub::mapped(rsp, &after) } else { work.len() };
        Ok((done, result))
    }

    /// Sends the thread, which is alone, off to map entries of the segment in the place of its call, and to go on. When it
    /// cannot do all of it, it stops: see [`Tracer::stranded`].
    pub(super) fn send_off(self, work: Vec<Work>, slot: Slot) -> Result<()> {
        let script = Script::new(self.page).map(&entries(&work)).leave(&self.saved, self.blocked, Returns::Last);
        let call = self.calling(libc::SYS_prctl, [PR_GET_DUMPABLE, 0, 0, 0, 0, 0], At::Alone);
        self.send(call, &script, work, slot, Returns::Last)
    }

    /// The same behind its own `mmap`, with these arguments: the entries go over that, and their addresses count from there.
    pub(super) fn send_off_behind(self, own: [u64; 6], work: Vec<Work>, slot: Slot) -> Result<()> {
        let script = Script::new(self.page).borrow_alone(&entries(&work));
        let script = script.leave(&self.saved, self.blocked, Returns::Own);
        let call = self.calling(libc::SYS_mmap, own, At::Own);
        self.send(call, &script, work, slot, Returns::Own)
    }

    /// The same for one that enters a new program: it also closes the page's descriptor, and seals the page.
    pub(super) fn send_off_to_program(self, fd: u32, work: Vec<Work>, slot: Slot) -> Result<()> {
        let mut script = Script::new(self.page);
        if self.tracer.stub.borrow().sealable {
            script = script.call(libc::SYS_mseal, [self.page, stub::SIZE, 0]);
        }
        if !work.is_empty() {
            script = script.borrow_alone(&entries(&work));
        }
        let result = Returns::Value(self.saved.rax);
        let script = script.leave(&self.saved, self.blocked, result);
        let call = self.calling(libc::SYS_close, [fd.into(), 0, 0, 0, 0, 0], At::Script);
        self.send(call, &script, work, slot, result)
    }

    fn send(mut self, call: Registers, script: &Script, work: Vec<Work>, slot: Slot, result: Returns) -> Result<()> {
        let borrows = !work.is_empty();
        let start = self.tracer.stub.borrow().write(&slot, script).map_err(|_| Gone)?;
        let (saved, blocked, page) = (self.saved, self.blocked, self.page);
        let script = Scripted { blocked, slot, first: start + script.before_entries(), result };
        let ride = Ride { saved, page, work, script: Some(script) };
        if let Some(known) = self.tracer.threads.get_mut(&self.thread) {
            known.ride = Some(ride);
        }
        sys::set_registers(self.thread, &Registers { rsp: start, ..call })?;
        if !borrows {
            self.held = None;
        }
        sys::resume(self.thread, 0)?;
        // Its own call may fail, and then it stops in the place of what is waited for.
        self.doubtful = matches!(result, Returns::Own);
        let answered =
            if borrows { self.answer_notification(self.tracer.segment, None, true).map(drop) } else { Ok(()) };
        if self.stopped {
            sys::interrupt(self.thread)?;
        }
        answered
    }

    /// Has a helper do something: a process with the thread's memory and a copy of its descriptors. `None` when none can
    /// be had, or somebody ended it.
    pub(super) fn by_helper<T>(&mut self, what: impl FnOnce(&mut Self) -> Result<T>) -> Result<Option<T>> {
        const SET: u64 = libc::PR_SET_DUMPABLE.unsigned_abs() as u64;
        let caller = self.thread;
        let dumpable = self.call(libc::SYS_prctl, [PR_GET_DUMPABLE, 0, 0, 0, 0, 0])? == 1;
        if dumpable {
            self.call(libc::SYS_prctl, [SET, 0, 0, 0, 0, 0])?;
        }
        let call = self.calling(libc::SYS_clone, [libc::CLONE_VM.unsigned_abs().into(), 0, 0, 0, 0, 0], At::Said);
        sys::set_registers(caller, &call)?;
        sys::resume(caller, 0)?;
        let helper = loop {
            match self.next_stop()? {
                Status::Event(libc::PTRACE_EVENT_CLONE, _) => {
                    let helper = pid_t::try_from(sys::event_message(caller)?).map_err(|_| Gone)?;
                    if let Err(gone) = sys::resume(caller, 0).and_then(|()| self.wait_injected()) {
                        // Another thread has executed a program, or ended them all.
                        self.thread = helper;
                        self.end_helper();
                        return Err(gone);
                    }
                    break Some(helper);
                }
                // Interrupted by a stop, and made again by the kernel: not as ours, for the filter.
                Status::Event(libc::PTRACE_EVENT_SECCOMP, _)
                    if Stop::from_data(sys::event_message(caller)?) == Some(Stop::Share) =>
                {
                    sys::resume(caller, 0)?;
                }
                other => {
                    self.expect_injected(other)?;
                    break None;
                }
            }
        };
        let mut done = None;
        if let Some(helper) = helper {
            // Its number where the program is.
            let number = sys::registers(caller)?.r9;
            self.thread = helper;
            done = self.wait_injected().and_then(|()| what(self)).ok();
            self.end_helper();
            self.thread = caller;
            self.call(libc::SYS_wait4, [number, 0, libc::__WALL.cast_unsigned().into(), 0, 0, 0])?;
        }
        if dumpable {
            self.call(libc::SYS_prctl, [SET, 1, 0, 0, 0, 0])?;
        }
        Ok(done)
    }

    /// It is dead when this returns.
    fn end_helper(&mut self) {
        // Killed and not asked to exit: it may stand anywhere by now.
        sys::kill(self.thread, libc::SIGKILL);
        while let Ok(status) = self.tracer.wait_for(self.thread) {
            if matches!(status, Status::Exited(_) | Status::Killed(_)) {
                break;
            }
        }
        self.tracer.turns.ended(self.thread);
    }

    /// Everything as it was, but for the result of the program's call; the program goes on.
    pub(super) fn finish(self, result: Option<i64>) -> Result<()> {
        let rax = result.map_or(self.saved.rax, i64::cast_unsigned);
        // No call is in progress any more: it is not made, and not restarted.
        sys::set_registers(self.thread, &Registers { orig_rax: u64::MAX, rax, ..self.saved })?;
        self.release()
    }

    /// The program's own call is made as if nothing had been.
    pub(super) fn make_own_call(self) -> Result<()> {
        sys::set_registers(self.thread, &self.saved)?;
        self.release()
    }

    fn release(mut self) -> Result<()> {
        self.held = None;
        sys::block_signals(self.thread, self.blocked)?;
        if self.stopped {
            sys::interrupt(self.thread)?;
        }
        sys::resume(self.thread, 0)
    }

    /// Waits until the thread stands before its next call.
    fn wait_injected(&mut self) -> Result<()> {
        let status = self.next_stop()?;
        self.expect_injected(status)
    }

    fn expect_injected(&mut self, status: Status) -> Result<()> {
        match status {
            Status::Event(libc::PTRACE_EVENT_SECCOMP, _)
                if Stop::from_data(sys::event_message(self.thread)?) == Some(Stop::Injected) =>
            {
                Ok(())
            }
            // The thread died, or another one has executed a program in its place: the tracer's affair.
            other => {
                self.tracer.queue.push_back((self.thread, other));
                Err(Gone)
            }
        }
    }

    /// The thread's next stop that is not about signals.
    fn next_stop(&mut self) -> Result<Status> {
        loop {
            match self.tracer.wait_for(self.thread)? {
                Status::Event(EVENT_STOP, signal) => {
                    // Also how a new thread begins, with SIGTRAP.
                    self.stopped |= signal != libc::SIGTRAP;
                    sys::resume(self.thread, 0)?;
                }
                // Only SIGSTOP cannot be blocked: delivered, it becomes a group-stop.
                Status::Signal(signal) => sys::resume(self.thread, signal)?,
                other => return Ok(other),
            }
        }
    }

    /// Waits for the thread's notification; its number.
    fn notification(&mut self) -> Result<u64> {
        // How long to wait for it before looking at the thread itself; less while things happen to the thread, such as
        // stops and continues, each of which ends its call and makes it anew.
        const QUIET: i64 = 20_000_000;
        const BUSY: i64 = 200_000;
        let mut wait = if self.doubtful { BUSY } else { QUIET };
        loop {
            let status = match self.tracer.notification(self.thread, wait)? {
                Some(Ok(id)) => return Ok(id),
                Some(Err(status)) => status,
                None => {
                    wait = QUIET;
                    continue;
                }
            };
            wait = BUSY;
            match status {
                Status::Event(EVENT_STOP, signal) => {
                    self.stopped |= signal != libc::SIGTRAP;
                    sys::resume(self.thread, 0)?;
                }
                Status::Signal(signal) => sys::resume(self.thread, signal)?,
                other => {
                    self.tracer.queue.push_back((self.thread, other));
                    return Err(Gone);
                }
            }
        }
    }

    /// Waits for the thread's notification and answers it with `fd`, or with the error that this gives. With `value` that is
    /// what its call returns; otherwise the number of the descriptor there, which is also what this gives. `last`: the thread goes on
    /// in the program by itself then.
    fn answer_notification(&mut self, fd: BorrowedFd<'_>, value: Option<i64>, last: bool) -> Result<Option<u32>> {
        loop {
            let id = self.notification()?;
            if last {
                self.held = None;
            }
            let listener = self.tracer.listener.as_fd();
            let given = sys::give_fd(listener, id, fd, value.is_none());
            let answered = match (&given, value) {
                (Ok(_), None) => Ok(()),
                (Ok(_), Some(value)) => sys::answer(listener, id, value),
                (Err(_), Some(value)) => sys::answer(listener, id, value),
                (Err(error), None) => sys::deny(listener, id, error.raw_os_error().unwrap_or(libc::EIO)),
            };
            // Otherwise it was interrupted, and makes its call again.
            if answered.is_ok() {
                return Ok(given.ok().and_then(|fd| u32::try_from(fd).ok()));
            }
        }
    }
}
