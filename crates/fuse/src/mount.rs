//! The mount itself: `/dev/fuse` and mount(2), as root or inside a user and mount namespace; elsewhere by `fusermount3`,
//! which is there to do it for others.

use crate::error::Error;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType, recvmsg, socketpair,
};
use std::ffi::{CString, OsString};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What mounts for those who may not.
const HELPER: &str = "fusermount3";

/// How a mount is made.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// Where the files come from, as the system's list of mounts shows it.
    pub source: PathBuf,
    /// Nothing can be changed through it.
    pub read_only: bool,
    /// Others than the user who mounts may use it, as far as permissions go. By `fusermount3` only where
    /// `/etc/fuse.conf` has `user_allow_other`.
    pub allow_other: bool,
    /// Set-id bits and file capabilities count.
    pub set_id: bool,
    /// Device files are devices.
    pub devices: bool,
    /// Programs can be executed.
    pub executable: bool,
    /// Reading a file changes its time of last access.
    pub access_times: bool,
}

/// Read-only and for everybody, without devices and set-id bits.
impl Default for MountOptions {
    fn default() -> Self {
        Self {
            source: "xip".into(),
            read_only: true,
            allow_other: true,
            set_id: false,
            devices: false,
            executable: true,
            access_times: false,
        }
    }
}

impl MountOptions {
    fn flags(&self) -> MountFlags {
        let of = |unset: bool, flag| if unset { flag } else { MountFlags::empty() };
        of(self.read_only, MountFlags::RDONLY)
            | of(!self.set_id, MountFlags::NOSUID)
            | of(!self.devices, MountFlags::NODEV)
            | of(!self.executable, MountFlags::NOEXEC)
            | of(!self.access_times, MountFlags::NOATIME)
    }

    /// As `fusermount3` wants them. The kernel checks permissions, by the owners and modes of the volume.
    fn words(&self) -> OsString {
        let of = |set: bool, yes: &'static str, no: &'static str| if set { yes } else { no };
        let mut words = Vec::from(*b"default_permissions,subtype=xip,");
        for word in [
            of(self.read_only, "ro,", "rw,"),
            of(self.set_id, "suid,", "nosuid,"),
            of(self.devices, "dev,", "nodev,"),
            of(self.executable, "exec,", "noexec,"),
            of(self.access_times, "", "noatime,"),
            of(self.allow_other, "allow_other,", ""),
        ] {
            words.extend_from_slice(word.as_bytes());
        }
        words.extend_from_slice(b"fsname=");
        for &byte in self.source.as_os_str().as_bytes() {
            if matches!(byte, b',' | b'\\') {
                words.push(b'\\');
            }
            words.push(byte);
        }
        OsString::from_vec(words)
    }
}

/// Mounts at `directory` and returns the descriptor that whoever serves the volume needs for
/// [`serve`](crate::serve). Until it is served, every access to the mount waits; when the descriptor is closed, every
/// access fails.
///
/// The kernel checks permissions, by the owners and modes of the volume.
///
/// # Errors
/// [`Error::Device`], [`Error::Mount`].
pub fn mount_device(directory: &Path, options: &MountOptions) -> Result<OwnedFd, Error> {
    let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| Error::Device { source: errno.into() })?;
    let data = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions{}",
        device.as_raw_fd(),
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
        if options.allow_other { ",allow_other" } else { "" },
    );
    let failed = |source| Error::Mount { at: directory.into(), source };
    let data = CString::new(data).map_err(|error| failed(error.into()))?;
    rustix::mount::mount(&options.source, directory, "fuse.xip", options.flags(), &*data)
        .map_err(|errno| failed(errno.into()))?;
    Ok(device)
}

/// As [`mount_device`], and by `fusermount3` for one who may not mount.
pub(crate) fn mount_device_for_anyone(directory: &Path, options: &MountOptions) -> Result<OwnedFd, Error> {
    match mount_device(directory, options) {
        Err(Error::Mount { source, .. }) if source.raw_os_error() == Some(Errno::PERM.raw_os_error()) => {
            mount_by_helper(directory, options)
        }
        other => other,
    }
}

/// `fusermount3` opens the device, mounts, and sends the descriptor through a socket: its standard input here.
fn mount_by_helper(directory: &Path, options: &MountOptions) -> Result<OwnedFd, Error> {
    let failed = |source| Error::Mount { at: directory.into(), source };
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(|errno| failed(errno.into()))?;
    let mut command = Command::new(HELPER);
    command.arg("-o").arg(options.words()).arg("--").arg(directory).env("_FUSE_COMMFD", "0").stdin(theirs);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let child = child.map_err(|source| Error::Helper { at: directory.into(), why: no_helper(&source) })?;
    // Our copy of its end.
    drop(command);
    let device = receive(&ours);
    let output = child.wait_with_output().map_err(failed)?;
    match device {
        Ok(Some(device)) if output.status.success() => Ok(device),
        Err(errno) => Err(failed(errno.into())),
        _ => Err(Error::Helper { at: directory.into(), why: said(&output.stderr) }),
    }
}

/// A descriptor from a socket; `None` when the other end has closed without sending one.
fn receive(socket: &OwnedFd) -> Result<Option<OwnedFd>, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    loop {
        let mut to = [IoSliceMut::new(&mut byte)];
        match recvmsg(socket, &mut to, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
            Ok(_) => break,
        }
    }
    Ok(control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    }))
}

fn no_helper(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => {
            format!("only root may mount, and {HELPER}, which does it for others, is not there; install fuse3")
        }
        _ => format!("{HELPER}: {error}"),
    }
}

/// What `fusermount3` had to say, in one line.
fn said(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() { format!("{HELPER} failed and did not say why") } else { lines.join("; ") }
}

/// Takes the mount at `directory` away, as root, or by `fusermount3`. With `detach`, at once from the tree of names, and
/// wholly when its last file is closed.
///
/// # Errors
/// [`Error::Unmount`], [`Error::Helper`].
pub fn unmount(directory: &Path, detach: bool) -> Result<(), Error> {
    let flags = UnmountFlags::NOFOLLOW | if detach { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    let failed = |source| Error::Unmount { at: directory.into(), source };
    match rustix::mount::unmount(directory, flags) {
        Ok(()) => Ok(()),
        Err(Errno::PERM) => {
            let mut command = Command::new(HELPER);
            command.arg("-u").args(detach.then_some("-z")).arg("--").arg(directory).stdin(Stdio::null());
            let output = command.output();
            let output = output.map_err(|error| Error::Helper { at: directory.into(), why: no_helper(&error) })?;
            match output.status.success() {
                true => Ok(()),
                // It says so in words.
                false if said(&output.stderr).contains("busy") => Err(failed(Errno::BUSY.into())),
                false => Err(Error::Helper { at: directory.into(), why: said(&output.stderr) }),
            }
        }
        Err(errno) => Err(failed(errno.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_helper_gets_every_option_and_a_source_that_is_one_word() {
        let options = MountOptions { source: "a,b\\c d".into(), executable: false, ..MountOptions::default() };
        let words = "default_permissions,subtype=xip,ro,nosuid,nodev,noexec,noatime,allow_other,fsname=a\\,b\\\\c d";
        assert_eq!(options.words(), words);
    }
}
