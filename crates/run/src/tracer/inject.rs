//! System calls that a stopped thread makes for the runner.
//!
//! A thread that stands before a system call, in a seccomp stop, is given another call to make, and the address of
//! a `syscall` instruction to come back to; its fifth argument carries the cookie. So it makes the call, comes
//! back, makes a call whose number is the result of the first, and stands in a seccomp stop again, where the result is
//! read and the next call given. One stop for each call, no signals, and at the end everything is as it was. Calls that
//! can be interrupted are looked at when they end, before the kernel makes them again.
//!
//! Where the thread's process has our page of code ([`super::stub`]), all mappings are made in one go.
//!
//! The segment's descriptor comes by such a call too, [`MAGIC`], which the filter turns into a notification; the
//! runner's answer puts the descriptor into the thread's table. It is closed before the thread goes on. Where other
//! threads share the table they could use it in between, so there a helper thread with a table of its own makes the calls.

use super::Tracer;
use super::stub::{self, Entry};
use super::sys::{self, EVENT_STOP, Gone, Registers, Result, Status};
use crate::seccomp::{MAGIC, Stop};
use libc::pid_t;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd};

/// A thread that makes calls for us.
pub(super) struct Injection<'t, 'a> {
    pub(super) tracer: &'t mut Tracer<'a>,
    /// Who makes the calls.
    thread: pid_t,
    /// The program's thread, if that is another one.
    caller: Option<pid_t>,
    saved: Registers,
    blocked: u64,
    /// Address of a `syscall` instruction.
    instruction: u64,
    /// The thread was seen in a group-stop, to which it must return.
    stopped: bool,
}

/// `syscall` has two bytes; a thread before a system call stands behind it.
const INSTRUCTION_BYTES: u64 = 2;

impl<'t, 'a> Injection<'t, 'a> {
    /// On a thread in a seccomp stop.
    pub(super) fn at_call(tracer: &'t mut Tracer<'a>, thread: pid_t, saved: Registers) -> Result<Self> {
        let blocked = sys::blocked_signals(thread)?;
        sys::block_signals(thread, !0)?;
        let instruction = saved.rip.wrapping_sub(INSTRUCTION_BYTES);
        Ok(Self { tracer, thread, caller: None, saved, blocked, instruction, stopped: false })
    }

    /// On a thread that is about to enter a new program.
    pub(super) fn at_exec(
        tracer: &'t mut Tracer<'a>,
        thread: pid_t,
        saved: Registers,
        instruction: u64,
    ) -> Result<Self> {
        let blocked = sys::blocked_signals(thread)?;
        sys::block_signals(thread, !0)?;
        let mut this = Self { tracer, thread, caller: None, saved, blocked, instruction, stopped: false };
        this.enter()?;
        Ok(this)
    }

    /// As [`Injection::at_call`], by a helper with a table of descriptors of its own. `None` when no helper can be had:
    /// then the thread has gone on with its own call.
    pub(super) fn by_helper(tracer: &'t mut Tracer<'a>, caller: pid_t, saved: Registers) -> Result<Option<Self>> {
        const FLAGS: i32 =
            libc::CLONE_VM | libc::CLONE_SIGHAND | libc::CLONE_THREAD | libc::CLONE_FS | libc::CLONE_SYSVSEM;
        let mut this = Self::at_call(tracer, caller, saved)?;
        let helper = loop {
            this.set_call(libc::SYS_clone, [FLAGS.unsigned_abs().into(), 0, 0, 0, 0, 0])?;
            sys::resume_to_syscall(caller)?;
            match this.next_stop()? {
                Status::Event(libc::PTRACE_EVENT_CLONE, _) => {
                    break pid_t::try_from(sys::event_message(caller)?).map_err(|_| Gone)?;
                }
                Status::Syscall if this.interrupted()? => this.enter()?,
                Status::Syscall => {
                    this.enter()?;
                    sys::set_registers(caller, &saved)?;
                    this.release(caller)?;
                    return Ok(None);
                }
                other => return this.unexpected(other),
            }
        };
        // The caller waits at the end of its call.
        sys::resume_to_syscall(caller)?;
        match this.next_stop()? {
            Status::Syscall => {}
            other => return this.unexpected(other),
        }
        this.caller = Some(caller);
        this.thread = helper;
        this.wait_injected()?;
        Ok(Some(this))
    }

    fn cookie(&self) -> u64 {
        u64::from(self.tracer.cookie) << 32
    }

    fn set_call(&mut self, number: i64, arguments: [u64; 6]) -> Result<()> {
        let [rdi, rsi, rdx, r10, r8, r9] = arguments;
        let r8 = self.cookie() | r8 & 0xffff_ffff;
        let (orig_rax, rip) = (number.cast_unsigned(), self.instruction);
        sys::set_registers(self.thread, &Registers { orig_rax, rip, rdi, rsi, rdx, r10, r8, r9, ..self.saved })
    }

    /// Makes a system call; its result, negative for an error. Of the fifth argument only the lower half is used.
    pub(super) fn call(&mut self, number: i64, arguments: [u64; 6]) -> Result<i64> {
        self.set_call(number, arguments)?;
        sys::resume(self.thread, 0)?;
        self.wait_injected()?;
        Ok(sys::registers(self.thread)?.orig_rax.cast_signed())
    }

    /// From anywhere outside of a call: to a stop before the next one.
    fn enter(&mut self) -> Result<()> {
        let (rip, r8) = (self.instruction, self.cookie());
        let nothing = Registers { rip, r8, rax: u64::from(MAGIC) + 1, orig_rax: u64::MAX, ..self.saved };
        sys::set_registers(self.thread, &nothing)?;
        sys::resume(self.thread, 0)?;
        self.wait_injected()
    }

    /// Whether the call that the thread is at the end of is one that the kernel would have it make again: behind our
    /// back, and by going back one instruction from where we sent it.
    fn interrupted(&self) -> Result<bool> {
        let result = sys::registers(self.thread)?.rax.cast_signed();
        // ERESTARTSYS and its like.
        Ok((-516..=-512).contains(&result))
    }

    /// Gives the thread a descriptor of the runner's; its number, or a negative error.
    pub(super) fn give(&mut self, fd: BorrowedFd<'_>) -> Result<i64> {
        loop {
            self.set_call(MAGIC.into(), [0; 6])?;
            sys::resume_to_syscall(self.thread)?;
            let answered = self.answer_notification(fd)?;
            if answered {
                match self.next_stop()? {
                    Status::Syscall => {}
                    other => return self.unexpected(other),
                }
            }
            let result = sys::registers(self.thread)?.rax.cast_signed();
            self.enter()?;
            if answered {
                return Ok(result);
            }
        }
    }

    /// Maps `entries` of the segment by the page of code at `stub`, and closes the descriptor; how many were mapped, and
    /// what the last mapping returned.
    pub(super) fn stitch(&mut self, stub: u64, entries: &[Entry]) -> Result<(usize, i64)> {
        let table = self.tracer.stub.fill(entries).map_err(|_| Gone)?;
        let (r8, r12) = (self.cookie(), self.cookie());
        let (rip, rbx, rbp) = (stub + stub::ENTER, stub + table, entries.len() as u64);
        let enter = Registers { orig_rax: MAGIC.into(), rip, rbx, rbp, r8, r12, r13: 0, ..self.saved };
        sys::set_registers(self.thread, &enter)?;
        sys::resume(self.thread, 0)?;
        if !self.answer_notification(self.tracer.segment)? {
            return Err(Gone);
        }
        self.wait_injected()?;
        let after = sys::registers(self.thread)?;
        let left = usize::try_from(after.rbp & 0xffff_ffff).unwrap_or(0).min(entries.len());
        Ok((entries.len() - left, after.r13.cast_signed()))
    }

    /// Everything as it was, but for the result of the program's call; the program goes on.
    pub(super) fn finish(mut self, result: Option<i64>) -> Result<()> {
        let rax = result.map_or(self.saved.rax, i64::cast_unsigned);
        let program = self.caller.unwrap_or(self.thread);
        if self.caller.is_some() {
            self.set_call(libc::SYS_exit, [0; 6])?;
            sys::resume(self.thread, 0)?;
            match self.next_stop()? {
                Status::Exited(_) | Status::Killed(_) => {}
                other => return self.unexpected(other),
            }
        }
        // No call is in progress any more: it is not made, and not restarted.
        sys::set_registers(program, &Registers { orig_rax: u64::MAX, rax, ..self.saved })?;
        self.release(program)
    }

    fn release(&self, program: pid_t) -> Result<()> {
        sys::block_signals(program, self.blocked)?;
        if self.stopped {
            sys::interrupt(program)?;
        }
        sys::resume(program, 0)
    }

    /// Waits until the thread stands before its next call.
    fn wait_injected(&mut self) -> Result<()> {
        match self.next_stop()? {
            Status::Event(libc::PTRACE_EVENT_SECCOMP, _)
                if Stop::from_data(sys::event_message(self.thread)?) == Some(Stop::Injected) =>
            {
                Ok(())
            }
            other => self.unexpected(other),
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

    /// The thread died, or another one has executed a program in its place: the tracer's affair.
    fn unexpected<T>(&mut self, status: Status) -> Result<T> {
        self.tracer.queue.push_back((self.thread, status));
        Err(Gone)
    }

    /// Waits for the thread's notification and answers it with `fd`, or with the error that this gives. False when the
    /// thread's call came to its end without: it was interrupted.
    fn answer_notification(&mut self, fd: BorrowedFd<'_>) -> Result<bool> {
        // How long to wait for it before looking at the thread itself; less while things happen to the thread, such as
        // stops and continues, each of which ends its call and makes it anew.
        const QUIET: i64 = 20_000_000;
        const BUSY: i64 = 200_000;
        let mut wait = QUIET;
        loop {
            let listener = self.tracer.listener.as_fd();
            let mut polled = [PollFd::new(&listener, PollFlags::IN)];
            let ready = poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: wait }));
            let received = match ready {
                Ok(1..) if polled[0].revents().contains(PollFlags::IN) => sys::receive_notification(listener).ok(),
                _ => None,
            };
            let Some((id, thread)) = received else {
                // Nothing yet, or never more: the end of the last thread under the filter shows as a hang-up, at once and
                // for ever. Is the thread still in its call?
                let status = self.tracer.look_for(self.thread)?;
                wait = if status.is_some() { BUSY } else { QUIET };
                match status {
                    None if matches!(ready, Ok(1..)) => std::thread::sleep(std::time::Duration::from_millis(1)),
                    None => {}
                    Some(Status::Event(EVENT_STOP, signal)) => {
                        self.stopped |= signal != libc::SIGTRAP;
                        sys::resume(self.thread, 0)?;
                    }
                    Some(Status::Signal(signal)) => sys::resume(self.thread, signal)?,
                    Some(Status::Syscall) => return Ok(false),
                    Some(other) => return self.unexpected(other),
                }
                continue;
            };
            if thread != self.thread {
                // A program that makes our call by itself.
                let _ = sys::deny(listener, id, libc::ENOSYS);
                continue;
            }
            let answered = match sys::give_fd(listener, id, fd) {
                Ok(_) => true,
                Err(error) => sys::deny(listener, id, error.raw_os_error().unwrap_or(libc::EIO)).is_ok(),
            };
            if answered {
                return Ok(true);
            }
        }
    }
}
