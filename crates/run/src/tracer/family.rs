//! Who starts whom: what a new thread shares with others, and what it may do.

use super::inject::Injection;
use super::sys::{self, Gone, Registers, Result, Status};
use super::{Thread, Tracer, maps};
use crate::seccomp;
use libc::pid_t;

impl Tracer<'_> {
    /// A thread is about to start another that uses its memory. From then on others could undo what keeps the segment's
    /// descriptor out of sight, so they get the second filter first.
    ///
    /// One that is under it is about to start a thread or process. That is made to its end before anything else is served: a
    /// copy of the memory, made while a helper works, would be undumpable for ever.
    pub(super) fn share(&mut self, thread: pid_t) -> Result<()> {
        let known = self.threads.get(&thread);
        if known.is_some_and(|known| known.shielded && !known.alone) {
            sys::resume_to_syscall(thread)?;
            match self.wait_for(thread)? {
                Status::Event(libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE, _) => {
                    return self.forked(thread);
                }
                Status::Syscall => return sys::resume(thread, 0),
                other => self.queue.push_back((thread, other)),
            }
            return Ok(());
        }
        let page = known.filter(|known| known.alone && !known.shielded && !known.sandboxed && known.lender.is_none());
        let Some(page) = page.and_then(|known| known.page) else { return sys::resume(thread, 0) };
        if !self.has_page(thread, page) {
            return sys::resume(thread, 0);
        }
        let saved = sys::registers(thread)?;
        let shield = seccomp::shield(self.cookie);
        let program = self.stub.borrow().write_filter(page, &shield).map_err(|_| Gone)?;
        let mut injection = Injection::at_call(self, thread, page, saved)?;
        let mode = libc::SECCOMP_SET_MODE_FILTER.into();
        let installed = injection.call(libc::SYS_seccomp, [mode, 0, program, 0, 0, 0])? == 0;
        if let Some(known) = injection.tracer.threads.get_mut(&thread) {
            known.shielded = installed;
        }
        injection.make_own_call()
    }

    /// A thread puts itself, or its process, under a filter, or into a user namespace. From then on it and what it starts
    /// make no calls of ours.
    pub(super) fn sandbox(&mut self, thread: pid_t) -> Result<()> {
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

    /// A thread has started another, or a process.
    pub(super) fn forked(&mut self, thread: pid_t) -> Result<()> {
        self.landed(thread);
        self.turns.end();
        if let Ok(child) = pid_t::try_from(sys::event_message(thread)?) {
            let flags = clone_flags(&sys::registers(thread)?);
            let set = |flag: i32| flags & u64::from(flag.unsigned_abs()) != 0;
            let (memory, waits) = (set(libc::CLONE_VM), set(libc::CLONE_VM) && set(libc::CLONE_VFORK));
            let parent = self.threads.entry(thread).or_insert(Thread::NEW);
            let new = Thread {
                known: true,
                process: if set(libc::CLONE_THREAD) { parent.process } else { child },
                alone: !set(libc::CLONE_FILES) && (!memory || waits && parent.alone),
                lender: if waits { Some(thread) } else { None },
                shielded: parent.shielded,
                page: parent.page,
                seen: memory && parent.seen,
                sandboxed: parent.sandboxed || set(libc::CLONE_NEWUSER),
                // What others that use the same memory have done is not known here.
                plain: parent.plain && parent.alone,
                ride: None,
            };
            if memory && !waits || set(libc::CLONE_FILES) {
                parent.alone = false;
                let mut lender = parent.lender;
                while let Some(known) = lender.and_then(|lender| self.threads.get_mut(&lender)) {
                    known.alone = false;
                    lender = known.lender;
                }
            }
            let waiting = self.threads.get(&child).is_some_and(|known| !known.known);
            if waiting || !self.threads.contains_key(&child) {
                self.threads.insert(child, new);
            }
            if waiting {
                // It may have been killed meanwhile.
                let _ = sys::resume(child, 0);
            }
        }
        sys::resume(thread, 0)
    }

    /// Lets those go on whose creator was killed before it told of them: nobody will now. They could be in a sandbox,
    /// and so are taken to be in one. Whose creator's process is there still will be told of: a thread tells before it does
    /// anything else.
    pub(super) fn introduce_orphans(&mut self) {
        let unknown: Vec<_> =
            self.threads.iter().filter(|(_, known)| !known.known).map(|(&thread, _)| thread).collect();
        for thread in unknown {
            let Some((process, parent)) = maps::family(thread) else { continue };
            let creator = if process == thread { parent } else { process };
            if !self.threads.values().any(|known| known.known && known.process == creator) {
                self.threads.insert(thread, Thread { known: true, process, sandboxed: true, ..Thread::NEW });
                let _ = sys::resume(thread, 0);
            }
        }
    }
}

/// The flags of the call that starts a process or thread, or for an unknown one those that share the most.
fn clone_flags(call: &Registers) -> u64 {
    const X32: u64 = 0x4000_0000;
    const VFORK: u64 = (libc::CLONE_VM | libc::CLONE_VFORK) as u64;
    // Numbers of one interface that are the same in another are not of calls that start something there.
    match call.orig_rax & !X32 {
        56 => call.rdi,
        120 => call.rbx,
        57 | 2 => 0,
        58 | 190 => VFORK,
        _ => (libc::CLONE_VM | libc::CLONE_FILES) as u64,
    }
}
