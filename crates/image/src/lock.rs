//! One who writes an image, or many who read it: a lock that ends with its process, however that ends. `xip::Volume` takes the
//! same.

use crate::error::Error;
use rustix::fs::{FlockOperation, fstat, major, minor};
use rustix::io::Errno;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Locks an open image until it is closed, to write it alone or to read it with others.
///
/// # Errors
/// [`Error::InUse`] with whoever has it; the system's.
pub(crate) fn lock(file: &File, image: &Path, write: bool) -> Result<(), Error> {
    let how = if write { FlockOperation::NonBlockingLockExclusive } else { FlockOperation::NonBlockingLockShared };
    loop {
        match rustix::fs::flock(file, how) {
            Ok(()) => break,
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) => return Err(Error::InUse { image: image.into(), by: holder(file) }),
            // A file system without locks cannot tell; that is no reason not to read there.
            Err(_) if !write => break,
            Err(errno) => return Err(xip_segment::Error::File { action: "lock", path: image.into(), errno }.into()),
        }
    }
    // The kernel takes no such lock on the file behind a loop device.
    match loop_device(file, write) {
        Some(by) => Err(Error::InUse { image: image.into(), by }),
        None => Ok(()),
    }
}

/// Who holds a lock on the file, as far as the kernel tells: it does not where it numbers the file's device otherwise, nor in
/// another namespace of processes.
fn holder(file: &File) -> String {
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
        Some((name, pid)) => format!("{} ({pid})", String::from_utf8_lossy(&name).trim_end().escape_debug()),
        None => "another process".into(),
    }
}

/// The loop device that the file stands behind; to read it beside one that is read-only does no harm.
fn loop_device(file: &File, write: bool) -> Option<String> {
    let ours = file.metadata().ok()?;
    fs::read_dir("/sys/block").ok()?.flatten().find_map(|entry| {
        let backing = fs::read_to_string(entry.path().join("loop/backing_file")).ok()?;
        let found = fs::metadata(backing.strip_suffix('\n').unwrap_or(&backing)).ok()?;
        let writes = fs::read_to_string(entry.path().join("ro")).is_ok_and(|text| text.trim() == "0");
        let same = (found.dev(), found.ino()) == (ours.dev(), ours.ino());
        (same && (write || writes)).then(|| format!("/dev/{}", entry.file_name().display()))
    })
}
