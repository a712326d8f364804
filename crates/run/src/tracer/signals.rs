//! Signals to the runner while a program runs: those that somebody sends are passed on to the program; those of the
//! terminal reach it anyway, and are not ours.

use libc::{c_int, c_void, pid_t, siginfo_t};
use std::mem;
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};

/// The program's process; 0 when none runs.
static PROGRAM: AtomicI32 = AtomicI32::new(0);

const PASSED_ON: [c_int; 9] = [
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTSTP,
    libc::SIGTERM,
    libc::SIGHUP,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGWINCH,
];

extern "C" fn pass_on(signal: c_int, info: *mut siginfo_t, _: *mut c_void) {
    let program = PROGRAM.load(Ordering::Relaxed);
    // SAFETY: the kernel gives handlers with SA_SIGINFO a valid structure; `kill` may be called in a handler.
    unsafe {
        let by_kernel = info.as_ref().is_none_or(|info| info.si_code == libc::SI_KERNEL);
        if program > 0 && !by_kernel {
            libc::kill(program, signal);
        }
    }
}

/// While this lives, signals are passed on.
pub(super) struct Passing(Vec<(c_int, libc::sigaction)>);

impl Passing {
    pub(super) fn start(program: pid_t) -> Self {
        PROGRAM.store(program, Ordering::Relaxed);
        let mut before = Vec::new();
        for signal in PASSED_ON {
            // SAFETY: both structures are plain C, for which zeros are a value (an empty mask); the handler has the
            // signature that SA_SIGINFO asks for and does only what a handler may.
            unsafe {
                let mut old: libc::sigaction = mem::zeroed();
                let mut new: libc::sigaction = mem::zeroed();
                new.sa_sigaction = pass_on as *const () as usize;
                new.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
                if libc::sigaction(signal, ptr::null(), &raw mut old) == 0
                    && libc::sigaction(signal, &raw const new, ptr::null_mut()) == 0
                {
                    before.push((signal, old));
                }
            }
        }
        Self(before)
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        PROGRAM.store(0, Ordering::Relaxed);
        for (signal, old) in &self.0 {
            // SAFETY: `old` is what the kernel gave for this signal.
            unsafe { libc::sigaction(*signal, old, ptr::null_mut()) };
        }
    }
}

/// Stops this process, all its threads, until it is told to continue. The signal is for this thread, which is stopped before it goes on;
/// one for the process would be taken by its first thread, some time, and what the caller does after it be done before it.
pub(super) fn stop_self() {
    // SAFETY: the call takes a number only.
    unsafe { libc::raise(libc::SIGSTOP) };
}
