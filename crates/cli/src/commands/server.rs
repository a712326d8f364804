//! Which process serves a mount. What is only read many may have, and what is in a segment is no file of which all know the name: no
//! lock tells there when this one lets go of it.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// The name of this process: its number, and where that counts.
pub(crate) fn name() -> Option<String> {
    Some(format!("{} {}", std::process::id(), numbering()?))
}

/// The process that serves what is mounted at `directory`; `None` for one that has no name, or is not to be seen from here.
pub(crate) fn of(directory: &Path) -> Option<OwnedFd> {
    let mut name = [0; 64];
    let len = rustix::fs::getxattr(directory, xip_fuse::SERVER, &mut name[..]).ok()?;
    let (pid, counts_in) = std::str::from_utf8(name.get(..len)?).ok()?.split_once(' ')?;
    let pid = pid.parse().ok().and_then(Pid::from_raw).filter(|_| numbering().as_deref() == Some(counts_in))?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

/// Whether it has ended, at the latest after `patience`.
pub(crate) fn ends(server: &OwnedFd, patience: Duration) -> io::Result<bool> {
    let patience = Timespec::try_from(patience).map_err(io::Error::other)?;
    Ok(poll(&mut [PollFd::new(server, PollFlags::IN)], Some(&patience))? != 0)
}

/// The namespace of processes, as the kernel names it.
fn numbering() -> Option<String> {
    fs::read_link("/proc/self/ns/pid").ok()?.into_os_string().into_string().ok()
}
