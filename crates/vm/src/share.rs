//! A directory of the host, shown in a guest by virtio-fs: `virtiofsd` serves it to QEMU.

use crate::error::{Doing, Error, Result};
use rustix::io::dup;
use std::env;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

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
pub(crate) struct Serving(Child);

impl Serving {
    /// Starts `virtiofsd`, whose messages go to `messages`; also QEMU's end of the line.
    pub(crate) fn start(share: &Share, messages: OwnedFd) -> Result<(Self, UnixStream)> {
        let program = find()?;
        let host = &share.host;
        if !host.is_dir() {
            return Err(Error::System {
                doing: format!("share {}", host.display()),
                source: rustix::io::Errno::NOTDIR.into(),
            });
        }
        let place = tempfile::tempdir().doing(|| "make a directory for a socket".into())?;
        let socket = place.path().join("s");
        let listener = UnixListener::bind(&socket).doing(|| "make a socket".into())?;
        // Accepted when it is ready; the name is not needed any more.
        let line = UnixStream::connect(&socket).doing(|| "make a socket".into())?;
        let inherited = dup(listener.as_fd()).doing(|| "copy a descriptor".into())?;
        let mut command = Command::new(&program);
        command.arg(format!("--fd={}", inherited.as_raw_fd()));
        // There are two programs of that name: QEMU's own, up to its version 7, and the one that came after it.
        let help = Command::new(&program).arg("--help").output().doing(|| format!("start {}", program.display()))?;
        if String::from_utf8_lossy(&help.stdout).contains("--shared-dir") {
            command.arg("--shared-dir").arg(host);
        } else {
            let mut source = std::ffi::OsString::from("source=");
            source.push(host);
            command.args(["-f", "-o"]).arg(source);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::from(messages));
        // Signals of the terminal are for the program, and reach it through us.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command.spawn().doing(|| format!("start {}", program.display()))?;
        Ok((Self(child), line))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It ends with QEMU, most often.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn find() -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path: Vec<PathBuf> = env::split_paths(&path).collect();
    let places = on_path.iter().map(PathBuf::as_path).chain(PLACES.iter().map(Path::new));
    places.map(|place| place.join("virtiofsd")).find(|file| file.is_file()).ok_or(Error::NoVirtiofsd)
}
