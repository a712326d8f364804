//! A process becomes another program.
//!
//! The kernel ends its other threads first, and the one that executed gets the number of the first, the leader. What is
//! known of the leader is then wrong from one moment to the next: registers that were meant for it would be those of the new
//! program, which stands in its first stop by then. So threads that share memory stop before they execute, and nothing
//! is done with any thread of the process until it is known what came of it.

use super::sys::{self, Result, Status};
use super::{Thread, Tracer};
use libc::pid_t;

/// A process of several threads, one of which executes a program.
#[derive(Debug)]
pub(super) struct Executing {
    by: pid_t,
    /// What the others stopped for meanwhile. The kernel ends them where they stand.
    held: Vec<(pid_t, Status)>,
}

impl Tracer<'_> {
    /// A thread is about to execute a program.
    pub(super) fn execute(&mut self, thread: pid_t) -> Result<()> {
        let Some(known) = self.threads.get(&thread).filter(|known| !known.alone) else {
            return sys::resume(thread, 0);
        };
        self.executing.insert(known.process, Executing { by: thread, held: Vec::new() });
        // It stops again at the end of the call if it has failed, and else in the new program.
        sys::resume_to_syscall(thread)
    }

    /// Whether a thread has to wait with what it stopped for.
    pub(super) fn waits_for_exec(&mut self, thread: pid_t, status: Status) -> bool {
        let process = self.threads.get(&thread).map(|known| known.process);
        let Some(executing) = process.and_then(|process| self.executing.get_mut(&process)) else { return false };
        if thread == executing.by || matches!(status, Status::Event(libc::PTRACE_EVENT_EXEC, _)) {
            return false;
        }
        executing.held.push((thread, status));
        true
    }

    /// A thread came to the end of a call, or to its own: if it was to execute a program, it has not, and the others go on.
    pub(super) fn not_executed(&mut self, thread: pid_t) {
        let Some(process) = self.threads.get(&thread).map(|known| known.process) else { return };
        let Some(executing) = self.executing.get_mut(&process) else { return };
        if executing.by != thread {
            executing.held.retain(|&(who, _)| who != thread);
        } else if let Some(Executing { held, .. }) = self.executing.remove(&process) {
            self.queue.extend(held);
        }
    }

    /// A thread has executed a program.
    pub(super) fn executed(&mut self, thread: pid_t) -> Result<()> {
        // All other threads of the process are gone, and this one has the process's number now.
        let former = pid_t::try_from(sys::event_message(thread)?).unwrap_or(thread);
        // What was learnt of either before is of threads that are gone.
        self.queue.retain(|&(who, _)| who != thread && who != former);
        // Filters and namespaces outlive the program.
        let known = self.forget(former);
        self.turns.ended(former);
        self.forget(thread);
        if self.executing.remove(&thread).is_some() {
            self.introduce_orphans();
        }
        let (sandboxed, shielded) = known.map_or((false, false), |known| (known.sandboxed, known.shielded));
        self.threads.insert(
            thread,
            Thread { known: true, process: thread, alone: true, plain: true, sandboxed, shielded, ..Thread::NEW },
        );
        self.files.processes.executed(thread);
        self.report.programs += 1;
        self.exec(thread)
    }
}
