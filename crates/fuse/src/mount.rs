//! The mount itself: `/dev/fuse` and mount(2), as root or inside a user and mount namespace.

use crate::error::Error;
use rustix::fs::{Mode, OFlags};
use rustix::mount::MountFlags;
use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

/// Mounts at `directory` and returns the descriptor that whoever serves the volume needs for
/// [`serve`](crate::serve). Until it is served, every access to the mount waits; when the descriptor is closed, every
/// access fails.
///
/// Read-only, without devices; set-id programs and file capabilities count only with `set_id`. The kernel checks
/// permissions, by the owners and modes of the volume.
///
/// # Errors
/// [`Error::Device`], [`Error::Mount`].
pub fn mount_device(directory: &Path, set_id: bool) -> Result<OwnedFd, Error> {
    let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| Error::Device { source: errno.into() })?;
    let options = format!(
        "fd={},rootmode=40000,user_id={},group_id={},allow_other,default_permissions",
        device.as_raw_fd(),
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    );
    let failed = |source| Error::Mount { at: directory.into(), source };
    let options = CString::new(options).map_err(|error| failed(error.into()))?;
    let mut flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOATIME;
    if !set_id {
        flags |= MountFlags::NOSUID;
    }
    rustix::mount::mount("xip", directory, "fuse.xip", flags, &*options).map_err(|errno| failed(errno.into()))?;
    Ok(device)
}

/// Takes the mount at `directory` away. With `detach`, at once from the tree of names, and wholly when its last file is
/// closed.
pub(crate) fn unmount(directory: &Path, detach: bool) -> Result<(), Error> {
    let flags = if detach { rustix::mount::UnmountFlags::DETACH } else { rustix::mount::UnmountFlags::empty() };
    rustix::mount::unmount(directory, flags)
        .map_err(|errno| Error::Unmount { at: directory.into(), source: errno.into() })
}
