//! A directory of the host, shown in a guest by virtio-fs: `virtiofsd` serves it to QEMU.

use crate::error::{Doing, Error, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, dup};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

/// Where distributions put it when it is not on `PATH`.
const PLACES: [&str; 3] = ["/usr/libexec", "/usr/lib/qemu", "/usr/lib"];

/// A directory of the host and where it is shown.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Share {
    /// The directory.
    pub host: PathBuf,
    /// Where in the guest: an absolute path.
    pub inside: PathBuf,
}

/// Who serves it. Dropped, it is ended.
#[derive(Debug)]
pub(crate) struct Serving {
    process: Option<Child>,
    watching: Option<JoinHandle<()>>,
    handle: OwnedFd,
    ended: Arc<AtomicBool>,
}

impl Serving {
    /// Starts `virtiofsd`, whose messages go to `messages`; also QEMU's end of the line.
    pub(crate) fn start(share: &Share, messages: OwnedFd) -> Result<(Self, UnixStream)> {
        let program = find()?;
        // It changes its own root, where a relative name would be another one.
        let host = share.host.canonicalize().doing(|| format!("share {}", share.host.display()))?;
        if !host.is_dir() {
            let source = rustix::io::Errno::NOTDIR.into();
            return Err(Error::System { doing: format!("share {}", host.display()), source });
        }
        let place = tempfile::tempdir().doing(|| "make a directory for a socket".into())?;
        let opened = fs::File::open(place.path()).doing(|| "make a directory for a socket".into())?;
        // By this name it is short enough wherever the directory is.
        let socket = format!("/proc/self/fd/{}/s", opened.as_raw_fd());
        let listener = UnixListener::bind(&socket).doing(|| "make a socket".into())?;
        // Accepted when it is ready; the name is not needed any more.
        let line = UnixStream::connect(&socket).doing(|| "make a socket".into())?;
        // There are two programs of that name: QEMU's own, up to its version 7, and the one that came after it.
        let help = Command::new(&program).arg("--help").output().doing(|| format!("start {}", program.display()))?;
        let mut command = Command::new(&program);
        if String::from_utf8_lossy(&help.stdout).contains("--shared-dir") {
            command.arg("--shared-dir").arg(host);
        } else {
            let mut source = b"source=".to_vec();
            for byte in host.as_os_str().as_bytes() {
                // A comma would begin another option.
                if matches!(byte, b',' | b'\\') {
                    source.push(b'\\');
                }
                source.push(*byte);
            }
            command.args(["-f", "-o"]).arg(OsString::from_vec(source));
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::from(messages));
        // Signals of the terminal are for the program, and reach it through us.
        command.process_group(0);
        let process = {
            let _alone = starting();
            let inherited = dup(listener.as_fd()).doing(|| "copy a descriptor".into())?;
            command.arg(format!("--fd={}", inherited.as_raw_fd()));
            command.spawn().doing(|| format!("start {}", program.display()))?
        };
        let handle = handle_of(&process)?;
        Ok((Self { process: Some(process), watching: None, handle, ended: Arc::default() }, line))
    }

    /// From now on, `qemu` is ended when this has ended: a guest waits for ever for an answer that does not come.
    pub(crate) fn end_with_it(&mut self, qemu: OwnedFd) {
        let Some(mut process) = self.process.take() else { return };
        let ended = Arc::clone(&self.ended);
        self.watching = Some(thread::spawn(move || {
            let _ = process.wait();
            // The other way round it ends with QEMU; then this finds nothing to end.
            let mut seen = [PollFd::new(&qemu, PollFlags::IN)];
            // A little later, as both end at once when QEMU does.
            let lives = matches!(poll(&mut seen, Some(&Timespec { tv_sec: 0, tv_nsec: 200_000_000 })), Ok(0));
            ended.store(lives, Ordering::Release);
            let _ = pidfd_send_signal(&qemu, Signal::KILL);
        }));
    }

    /// Whether it ended before QEMU did.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It ends with QEMU, most often.
        let _ = pidfd_send_signal(&self.handle, Signal::KILL);
        if let Some(process) = &mut self.process {
            let _ = process.wait();
        }
        if let Some(watching) = self.watching.take() {
            let _ = watching.join();
        }
    }
}

/// A descriptor of a process that has not been waited for.
pub(crate) fn handle_of(process: &Child) -> Result<OwnedFd> {
    let number = i32::try_from(process.id()).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH);
    number.and_then(|number| pidfd_open(number, PidfdFlags::empty())).doing(|| "watch a process".into())
}

/// Held while descriptors are open that the next process is to inherit, so that no other one does.
pub(crate) fn starting() -> MutexGuard<'static, ()> {
    static STARTING: Mutex<()> = Mutex::new(());
    STARTING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn find() -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path: Vec<PathBuf> = env::split_paths(&path).collect();
    let places = on_path.iter().map(PathBuf::as_path).chain(PLACES.iter().map(Path::new));
    places.map(|place| place.join("virtiofsd")).find(|file| file.is_file()).ok_or(Error::NoVirtiofsd)
}
