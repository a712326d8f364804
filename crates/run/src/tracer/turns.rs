//! Runner and program take turns on one processor.
//!
//! Most of what a stop costs is to wake somebody on another processor, which sleeps or has to be interrupted: ten times what it
//! costs to change from one thread to the next on the same processor. The kernel looks for an idle one, since it does not know that
//! whoever wakes goes to sleep at once. So while a thread maps one file after the other, as at a program's start, the runner stays on
//! the thread's processor, and the thread is kept there whenever the runner lets it go on to calls of the runner's. It may go where it
//! could before, before it goes on in the program.

use super::Tracer;
use super::sys::{self, Result, Status};
use libc::pid_t;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::AsFd;
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

/// With whom the runner takes turns.
#[derive(Debug)]
pub(super) struct Turns {
    /// Where the runner's thread may be. Nothing where there is no choice.
    own: Option<CpuSet>,
    /// The thread whose processor it stays on.
    with: Option<pid_t>,
}

/// A thread that is kept on the runner's processor, until this is dropped.
#[derive(Debug)]
pub(super) struct Held {
    thread: Option<Pid>,
    /// Where it may be otherwise.
    own: CpuSet,
    here: CpuSet,
}

impl Drop for Held {
    fn drop(&mut self) {
        // Somebody else may have set it meanwhile, and that stands. The thread may be gone.
        if sched_getaffinity(self.thread).is_ok_and(|now| now == self.here) {
            let _ = sched_setaffinity(self.thread, &self.own);
        }
    }
}

impl Turns {
    pub(super) fn new() -> Self {
        // One that others wait for as long as it likes, as by `chrt -f`, must not have its program on the same processor.
        let turns = super::sys::is_time_shared();
        Self { own: sched_getaffinity(None).ok().filter(|own| turns && own.count() > 1), with: None }
    }

    /// Keeps a thread, which is in a stop, on this processor, if the runner stays with it. One that has just executed a program has
    /// next to nothing in a processor's caches: the runner has it come here, if it stays with no other.
    pub(super) fn hold(&mut self, thread: pid_t, executed: bool) -> Option<Held> {
        if executed {
            self.stay(thread);
        }
        if self.with != Some(thread) {
            self.end();
            return None;
        }
        let thread = Pid::from_raw(thread);
        let here = sched_getcpu();
        let own = sched_getaffinity(thread).ok().filter(|own| own.count() > 1 && own.is_set(here))?;
        let here = only(here);
        sched_setaffinity(thread, &here).ok()?;
        Some(Held { thread, own, here })
    }

    /// The runner stays where it is, on the processor of this thread, if it stays with no other.
    fn stay(&mut self, thread: pid_t) {
        if self.with.is_some() || self.own.is_none() {
            return;
        }
        // As it is now: somebody may have set it since.
        if let Ok(own) = sched_getaffinity(None)
            && sched_setaffinity(None, &only(sched_getcpu())).is_ok()
        {
            (self.own, self.with) = (Some(own), Some(thread));
        }
    }

    /// A thread is served: no other stays where the runner is.
    pub(super) fn serve(&mut self, thread: pid_t) {
        if self.with.is_some_and(|with| with != thread) {
            self.end();
        }
    }

    /// The runner goes where there is room.
    pub(super) fn end(&mut self) {
        if let (Some(_), Some(own)) = (self.with.take(), self.own) {
            let _ = sched_setaffinity(None, &own);
        }
    }

    /// A thread is gone.
    pub(super) fn ended(&mut self, thread: pid_t) {
        if self.with == Some(thread) {
            self.end();
        }
    }
}

fn only(processor: usize) -> CpuSet {
    let mut set = CpuSet::new();
    set.set(processor);
    set
}

impl Tracer<'_> {
    /// Waits for the notification of a thread that is on its way to one. `Err` with what happens to the thread instead, within
    /// `wait` nanoseconds; `None` if nothing does.
    pub(super) fn notification(
        &mut self,
        thread: pid_t,
        wait: i64,
    ) -> Result<Option<std::result::Result<u64, Status>>> {
        let ready = loop {
            let listener = self.listener.as_fd();
            let mut polled = [PollFd::new(&listener, PollFlags::IN)];
            let ready = poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: wait }));
            let received = match ready {
                Ok(1..) if polled[0].revents().contains(PollFlags::IN) => sys::receive_notification(listener).ok(),
                _ => None,
            };
            match received {
                Some((id, who)) if who == thread => {
                    // The kernel has woken the runner where the thread was.
                    self.turns.stay(thread);
                    return Ok(Some(Ok(id)));
                }
                // A program that makes our call by itself.
                Some((id, _)) => drop(sys::deny(listener, id, libc::ENOSYS)),
                None => break ready,
            }
        };
        // Nothing yet, or never more: the end of the last thread under the filter shows as a hang-up, at once and for ever. Is the
        // thread still in its call?
        let status = self.look_for(thread)?;
        if status.is_none() && matches!(ready, Ok(1..)) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        Ok(status.map(Err))
    }
}
