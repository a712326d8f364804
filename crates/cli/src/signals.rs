//! Ctrl-C that cleans up, and death by the signal that a program died of.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Resource, Rlimit, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level;

/// Remembers a request to stop, so that work ends between two steps and removes what it made.
#[derive(Clone)]
pub(crate) struct Interrupt {
    signal: Arc<AtomicUsize>,
}

impl Interrupt {
    /// From here on SIGINT, SIGTERM and SIGHUP are remembered instead of ending the process.
    pub(crate) fn catch() -> io::Result<Self> {
        let signal = Arc::new(AtomicUsize::new(0));
        for number in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register_usize(number, Arc::clone(&signal), number.unsigned_abs() as usize)?;
        }
        Ok(Interrupt { signal })
    }

    /// The signal that asked us to stop.
    pub(crate) fn asked(&self) -> Option<i32> {
        i32::try_from(self.signal.load(Ordering::Relaxed)).ok().filter(|number| *number != 0)
    }
}

/// Ends this process by `signal`, so that whoever waits for us sees what the program died of. Returns only if
/// the signal does not end a process; then the exit code is the shell's `128 + signal`.
pub(crate) fn die_by(signal: i32) -> u8 {
    // The program has left its core, if it wanted one. Ours would only hide it.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: None });
    let _ = low_level::emulate_default_handler(signal);
    let _ = low_level::raise(signal);
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}
