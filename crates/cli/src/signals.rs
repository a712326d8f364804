//! Ctrl-C that cleans up, and death by the signal that a program died of.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::process::{Resource, Rlimit, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
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
        for number in wanted() {
            signal_hook::flag::register_usize(number, Arc::clone(&signal), number.unsigned_abs() as usize)?;
        }
        Ok(Interrupt { signal })
    }

    /// The signal that came since this was asked last.
    fn take(&self) -> Option<i32> {
        i32::try_from(self.signal.swap(0, Ordering::Relaxed)).ok().filter(|number| *number != 0)
    }

    /// The signal that asked us to stop.
    pub(crate) fn asked(&self) -> Option<i32> {
        i32::try_from(self.signal.load(Ordering::Relaxed)).ok().filter(|number| *number != 0)
    }
}

/// The signals that ask to stop, without those that whoever started this process wanted ignored, as `nohup` does.
fn wanted() -> impl Iterator<Item = i32> {
    [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|number| !is_ignored(*number))
}

fn is_ignored(number: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    ignored.unwrap_or(0) >> (number - 1) & 1 == 1
}

/// What writes beyond the limit of a file's size (`ulimit -f`) gets an error to tell of, and does not end this process. By a handler:
/// programs that are started have what is usual again.
pub(crate) fn survive_file_size_limit() {
    if !is_ignored(SIGXFSZ) {
        // Without it the process ends as any would.
        let _ = signal_hook::flag::register(SIGXFSZ, Arc::default());
    }
}

/// Waits for a signal that asks to stop, or for the end of something.
pub(crate) struct Waiting {
    interrupt: Interrupt,
    ended: Arc<AtomicBool>,
    woken: UnixStream,
    waker: UnixStream,
}

/// For the thread that knows of the end.
pub(crate) struct Waker {
    ended: Arc<AtomicBool>,
    waker: UnixStream,
}

impl Waiting {
    /// From here on SIGINT, SIGTERM and SIGHUP are waited for instead of ending the process.
    pub(crate) fn begin() -> io::Result<Self> {
        let interrupt = Interrupt::catch()?;
        let (woken, waker) = UnixStream::pair()?;
        for number in wanted() {
            // After the number is known: handlers run in the order in which they are registered.
            low_level::pipe::register(number, waker.try_clone()?)?;
        }
        Ok(Waiting { interrupt, ended: Arc::default(), woken, waker })
    }

    pub(crate) fn waker(&self) -> io::Result<Waker> {
        Ok(Waker { ended: Arc::clone(&self.ended), waker: self.waker.try_clone()? })
    }

    /// From here on this signal wakes, too, and says nothing else.
    pub(crate) fn also(&self, number: i32) -> io::Result<()> {
        low_level::pipe::register(number, self.waker.try_clone()?).map(drop)
    }

    /// What can be read from when a signal has come: for those who wait for something else, too. Then [`Waiting::now`] tells.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.woken.as_fd()
    }

    /// The signal that has come, if it is one that asks to stop.
    pub(crate) fn now(&self) -> Option<i32> {
        let _ = (&self.woken).read(&mut [0; 64]);
        self.interrupt.take()
    }

    /// The next signal; `None` at the end.
    pub(crate) fn wait(&self) -> Option<i32> {
        loop {
            if self.ended.load(Ordering::Acquire) {
                return None;
            }
            if let Some(signal) = self.interrupt.take() {
                return Some(signal);
            }
            // Whoever changes one of these writes a byte then, so that the next look sees it.
            (&self.woken).read_exact(&mut [0]).ok()?;
        }
    }
}

impl Waker {
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        // If nobody reads, nobody waits.
        let _ = (&self.waker).write(&[0]);
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
