//! Who has an image: one who writes it, or many who read it. A lock on the open file (`flock`), which ends with its process,
//! however that ends, so that a dead holder is never in the way of the next.

use crate::error::{Error, Result};
use crate::file::Access;
use rustix::fs::{FileType, FlockOperation, Stat, flock, fstat, major, minor};
use rustix::io::Errno;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Locks an open image, which is called `path` in errors, until it is closed: to write it alone, or to read it with others.
/// Does not wait.
///
/// # Errors
/// [`Error::Locked`] with whoever has it, be it a loop device; to write, also where there are no locks.
pub fn lock(file: impl AsFd, path: &Path, access: Access) -> Result<()> {
    let (file, write) = (file.as_fd(), access == Access::ReadWrite);
    let locked = |holder| Err(Error::Locked { path: path.into(), holder });
    let how = if write { FlockOperation::NonBlockingLockExclusive } else { FlockOperation::NonBlockingLockShared };
    loop {
        match flock(file, how) {
            Ok(()) => break,
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) => return locked(holder(file)),
            // A file system without locks cannot tell; that is no reason not to read there.
            Err(_) if !write => break,
            Err(errno) => return Err(Error::File { action: "lock", path: path.into(), errno }),
        }
    }
    // The kernel takes no such lock on the file behind a loop device.
    match loop_device(file, write) {
        Some(device) => locked(device),
        None => Ok(()),
    }
}

/// Opens an image and locks it as [`lock`] does. Whoever had it may put another in its place between the two; then that one is
/// opened: what is locked is what its name leads to, by `stat`.
///
/// # Errors
/// Those of `open` and `stat`; as [`lock`].
pub fn open_locked<F: AsFd, E: From<Error>>(
    path: &Path,
    access: Access,
    open: impl Fn() -> std::result::Result<F, E>,
    stat: impl Fn() -> rustix::io::Result<Stat>,
) -> std::result::Result<F, E> {
    const TRIES: usize = 100;
    for _ in 0..TRIES {
        let file = open()?;
        lock(&file, path, access)?;
        let ours = fstat(&file).map_err(|errno| Error::File { action: "inspect", path: path.into(), errno })?;
        match stat() {
            Ok(named) if (named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino) => return Ok(file),
            // Without a name there is nothing to open the next time, which says so.
            Ok(_) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(Error::File { action: "inspect", path: path.into(), errno }.into()),
        }
    }
    Err(Error::Locked { path: path.into(), holder: "whoever replaces it again and again".into() }.into())
}

/// Who holds a lock on the file, as far as the kernel tells: it does not where it numbers the file's device otherwise, nor in
/// another namespace of processes.
fn holder(file: BorrowedFd<'_>) -> String {
    let pid = fstat(file).ok().and_then(|stat| {
        let id = format!("{:02x}:{:02x}:{}", major(stat.st_dev), minor(stat.st_dev), stat.st_ino);
        let locks = fs::read_to_string("/proc/locks").ok()?;
        locks.lines().find_map(|line| {
            // `1: FLOCK  ADVISORY  WRITE 4711 08:01:1234 0 EOF`; who only waits for it has `->` after the colon.
            let words: Vec<_> = line.split_ascii_whitespace().collect();
            let [_, "FLOCK", _, _, pid, found, ..] = words[..] else { return None };
            (found == id).then_some(pid)?.parse::<u32>().ok().filter(|pid| *pid != 0)
        })
    });
    // The process that took the lock may have ended, and another of its family have it now.
    let command = pid.and_then(|pid| fs::read(format!("/proc/{pid}/comm")).ok().map(|name| (name, pid)));
    match command {
        Some((name, pid)) => format!("process {pid} ({})", String::from_utf8_lossy(&name).trim_end().escape_debug()),
        None => "another process".into(),
    }
}

/// The loop device that the file stands behind; to read it beside one that is read-only does no harm.
fn loop_device(file: BorrowedFd<'_>, write: bool) -> Option<String> {
    let ours = fstat(file).ok().filter(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)?;
    fs::read_dir("/sys/block").ok()?.flatten().find_map(|entry| {
        let backing = fs::read_to_string(entry.path().join("loop/backing_file")).ok()?;
        let found = fs::metadata(backing.strip_suffix('\n').unwrap_or(&backing)).ok()?;
        let writes = fs::read_to_string(entry.path().join("ro")).is_ok_and(|text| text.trim() == "0");
        let same = (found.dev(), found.ino()) == (ours.st_dev, ours.st_ino);
        (same && (write || writes)).then(|| format!("/dev/{}", entry.file_name().display()))
    })
}
