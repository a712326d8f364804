//! What can go wrong before a volume is served. What goes wrong later is the errno that the kernel gets.

use rustix::io::Errno;
use std::io;
use std::path::PathBuf;

/// An error of mounting or serving.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `/dev/fuse` cannot be opened: the errno of the call.
    #[error("/dev/fuse: {source}; {}", device_remedy(source))]
    Device {
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refuses the mount: the errno of the call.
    #[error("cannot mount at {}: {source}; {}", at.display(), mount_remedy(source))]
    Mount {
        /// The directory.
        at: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// `fusermount3`, which mounts for those who are not root, cannot: `EPERM`.
    #[error("{}: {why}", at.display())]
    Helper {
        /// The directory.
        at: PathBuf,
        /// What it said.
        why: String,
    },
    /// The kernel refuses to unmount, for instance because files are open: the errno of the call.
    #[error("cannot unmount {}: {source}{}", at.display(), unmount_remedy(source))]
    Unmount {
        /// The directory.
        at: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The first exchange with the kernel failed: the errno of the call.
    #[error("the kernel and this program did not agree on a FUSE session: {0}")]
    Handshake(#[source] io::Error),
    /// The session ended with an error: its errno.
    #[error("serving ended: {0}")]
    Served(#[source] io::Error),
    /// A mount point that was asked for cannot be shown: `EINVAL`, or the errno of the reason.
    #[error("the mount point {} cannot be shown: {why}", path.display())]
    MountPoint {
        /// The path inside the volume.
        path: PathBuf,
        /// Why.
        why: String,
        /// The errno that stands for it.
        errno: i32,
    },
}

impl Error {
    /// The errno that stands for this error.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Device { source } | Self::Mount { source, .. } | Self::Unmount { source, .. } => errno_of(source),
            Self::Helper { .. } => Errno::PERM.raw_os_error(),
            Self::Handshake(source) | Self::Served(source) => errno_of(source),
            Self::MountPoint { errno, .. } => *errno,
        }
    }
}

fn errno_of(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(Errno::IO.raw_os_error())
}

/// What a person can do about a `/dev/fuse` that cannot be opened, by what the kernel said.
pub fn device_remedy(source: &io::Error) -> &'static str {
    match source.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT | Errno::NODEV | Errno::NXIO) => {
            "load the kernel's fuse module (modprobe fuse), or give the container the device (--device /dev/fuse)"
        }
        Some(Errno::ACCESS) => {
            "it is closed to this user: chmod 666 /dev/fuse as root; where its group may open it, join that"
        }
        Some(Errno::PERM) => "the container's device rules forbid it: --device /dev/fuse",
        _ => "FUSE is not usable here",
    }
}

fn unmount_remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::ResourceBusy => "; end the programs that use it first",
        io::ErrorKind::InvalidInput => ": nothing is mounted there",
        _ => "",
    }
}

fn mount_remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => "be root, or be in a user namespace with a mount namespace of its own",
        _ => "it must be a directory that exists",
    }
}
