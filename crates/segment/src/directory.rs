//! The directory of a user's segments: one socket for each, and locks.
//!
//! Whoever could write to it could put a segment of their own in the place of a name; so it belongs to the user, nobody
//! else may write to it, and that is looked up on the open directory, which cannot be swapped afterwards.

use crate::error::{Error, Result};
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::OsString;
use std::fs::DirBuilder;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    fd: OwnedFd,
}

/// Where segments are when nobody says otherwise, as [`Store::open_default`](crate::Store::open_default) has it. While this directory
/// is not there, there are none.
pub fn default_directory() -> PathBuf {
    let set = |name| std::env::var_os(name).filter(|value: &OsString| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = set("XIP_DIR") {
        return absolute(&path);
    }
    let uid = rustix::process::geteuid().as_raw();
    let run = set("XDG_RUNTIME_DIR").unwrap_or_else(|| format!("/run/user/{uid}").into());
    // After `su` or `sudo` the variable can still name the directory of someone else.
    match rustix::fs::stat(&run) {
        Ok(stat) if stat.st_uid == uid => absolute(&run.join("xip")),
        _ => format!("/tmp/xip-{uid}").into(),
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.into())
}

impl Directory {
    /// Opens it; makes it when it is not there, for its owner alone.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let path = absolute(path);
        let failed = |action| {
            let path = path.clone();
            move |errno| Error::File { action, path, errno }
        };
        match DirBuilder::new().recursive(true).mode(0o700).create(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(failed("make the directory of segments")(
                    Errno::from_io_error(&error).unwrap_or(Errno::IO),
                ));
            }
            _ => {}
        }
        // NOFOLLOW: a link put there by somebody else leads to a place of their choice.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&path, flags, Mode::empty()).map_err(failed("open the directory of segments"))?;
        let stat = rustix::fs::fstat(&fd).map_err(failed("inspect the directory of segments"))?;
        if stat.st_uid != rustix::process::geteuid().as_raw() || stat.st_mode & 0o022 != 0 {
            return Err(Error::ForeignDirectory { path });
        }
        // The open directory stays ours; but the next one who looks for it by name would find another.
        let parent = rustix::fs::statat(&fd, "..", AtFlags::empty()).map_err(failed("inspect what is above"))?;
        if parent.st_mode & 0o1002 == 0o002 {
            return Err(Error::OpenParent { path });
        }
        Ok(Self { path, fd })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// A path to `name` in it that fits into the address of a socket, however deep the directory is.
    pub(crate) fn address(fd: BorrowedFd<'_>, name: &str) -> String {
        format!("/proc/self/fd/{}/{name}", fd.as_raw_fd())
    }

    /// The names of sockets in it that can be names of segments, sorted.
    pub(crate) fn names(&self) -> Result<Vec<String>> {
        let mut names = names(self.fd()).map_err(Error::file("read the directory of segments", &self.path))?;
        names.sort();
        Ok(names)
    }

    /// Takes a name away; it need not be there.
    pub(crate) fn unlink(&self, name: &str) -> Result<()> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(Error::File { action: "remove", path: self.path.join(name), errno }),
        }
    }

    /// Waits until no one else holds the lock of `name`, and holds it. All generations of a name have one lock.
    pub(crate) fn lock(&self, name: &str) -> Result<Lock<'_>> {
        loop {
            if let Some(lock) = self.lock_once(name, FlockOperation::LockExclusive)? {
                return Ok(lock);
            }
        }
    }

    /// Holds the lock of `name` if no one else does.
    pub(crate) fn try_lock(&self, name: &str) -> Result<Option<Lock<'_>>> {
        self.lock_once(name, FlockOperation::NonBlockingLockExclusive)
    }

    fn lock_once(&self, name: &str, how: FlockOperation) -> Result<Option<Lock<'_>>> {
        let file = format!(".{}.lock", crate::name::given(name));
        let path = self.path.join(&file);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, &file, flags, Mode::RUSR | Mode::WUSR)
            .map_err(Error::file("open the lock", &path))?;
        loop {
            match rustix::fs::flock(&fd, how) {
                Ok(()) => break,
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(errno) => return Err(Error::File { action: "lock", path, errno }),
            }
        }
        // The holder before us took the file away; a lock on it protects nothing any more.
        let here = rustix::fs::statat(&self.fd, &file, AtFlags::SYMLINK_NOFOLLOW).map(|s| (s.st_dev, s.st_ino));
        let ours = rustix::fs::fstat(&fd).map(|s| (s.st_dev, s.st_ino));
        Ok((here.is_ok() && here == ours).then_some(Lock { directory: self, file, fd }))
    }
}

/// The names of sockets in a directory that can be names of segments.
pub(crate) fn names(directory: BorrowedFd<'_>) -> rustix::io::Result<Vec<String>> {
    let entries = rustix::fs::Dir::read_from(directory)?.collect::<rustix::io::Result<Vec<_>>>()?;
    let names = entries.iter().filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned));
    let names = names.filter(|name| {
        crate::name::check_any(name).is_ok()
            && rustix::fs::statat(directory, name.as_str(), AtFlags::SYMLINK_NOFOLLOW)
                .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Socket)
    });
    Ok(names.collect())
}

/// The lock of a name, held until it is dropped, or until whoever was given its descriptor closes that too.
#[derive(Debug)]
pub(crate) struct Lock<'a> {
    directory: &'a Directory,
    file: String,
    fd: OwnedFd,
}

impl Lock<'_> {
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        // Before the lock goes with the descriptor, so that nobody takes it on a file that is on its way out. If it
        // fails, an empty file stays, and the next one uses it.
        let _ = self.directory.unlink(&self.file);
    }
}
