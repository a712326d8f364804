//! From an image file to sealed memory that has no name yet.

use crate::error::{Error, Result};
use crate::file::{Access, MappedFile, file_len};
use crate::memory::{Advise, HUGE, Map};
use crate::segment::{Stamp, seals};
use crate::space;
use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use xip_core::page::PAGE_BYTES;

/// How much is read, hashed and written at a time: a huge page, which then is allocated and filled at once.
const STEP: usize = HUGE;

/// How much is made into huge pages at a time: each time the kernel waits for all processors, and for all at once it
/// would need the memory twice.
const BATCH: usize = 64 << 20;

/// Told how many bytes are done, of how many.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// Looks into an image before it gets its name: `Err` says in words why it is none.
pub type Check<'a> = &'a mut dyn FnMut(&MappedFile) -> std::result::Result<(), String>;

/// An image file that is to be loaded.
pub(crate) struct Image {
    pub(crate) path: PathBuf,
    fd: OwnedFd,
    pub(crate) size: u64,
    pub(crate) stamp: Stamp,
}

impl Image {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.into());
        // NONBLOCK: to open a fifo must not wait for its writer.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = rustix::fs::open(&path, flags, Mode::empty()).map_err(Error::file("open", &path))?;
        crate::lock(&fd, &path, Access::ReadOnly)?;
        let size = file_len(&fd)?;
        if !size.is_multiple_of(PAGE_BYTES) {
            return Err(Error::NotWholePages { path, bytes: size });
        }
        let stat = rustix::fs::fstat(&fd).map_err(Error::file("inspect", &path))?;
        Ok(Self { path, fd, size, stamp: Stamp::of(&stat) })
    }

    /// The hash of its content.
    pub(crate) fn hash(&self, progress: Progress<'_>) -> Result<String> {
        read(&self.fd, &self.path, self.size, progress, |_, _| Ok(()))
    }

    /// Its bytes in sealed memory, opened read-only, and the hash of its content.
    pub(crate) fn fill(
        &self,
        name: &str,
        exclusive: bool,
        limit: u64,
        progress: Progress<'_>,
    ) -> Result<(OwnedFd, String)> {
        let free = space::free().min(limit);
        let short = || Error::NoMemory { image: self.path.clone(), needed: self.size, free };
        // A write past this limit ends the program, so it is asked for first.
        let longest = rustix::process::getrlimit(rustix::process::Resource::Fsize).current.unwrap_or(u64::MAX);
        if self.size > longest {
            return Err(Error::File {
                action: "load (`ulimit -f` is below its size)",
                path: self.path.clone(),
                errno: Errno::FBIG,
            });
        }
        if self.size > free {
            return Err(short());
        }
        let failed = |errno| match errno {
            Errno::NOMEM | Errno::NOSPC => short(),
            errno => Error::File { action: "make shared memory for", path: self.path.clone(), errno },
        };
        let memory = create(&format!("xip:{name}")).map_err(failed)?;
        rustix::fs::ftruncate(&memory, self.size).map_err(failed)?;
        // A descriptor that was opened to read gives no mapping that `mprotect` could make writable.
        let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
        let read_only = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
        let len = usize::try_from(self.size).map_err(|_| short())?;
        let map = Map::shared(read_only.as_fd(), 0, len, false).map_err(Error::map(&self.path, self.size))?;
        let content = read(&self.fd, &self.path, self.size, progress, |at, bytes| {
            crate::plain::write_all(memory.as_fd(), at, bytes).map_err(|error| match error {
                xip_core::Error::NoSpace => short(),
                other => failed(Errno::from_raw_os_error(other.errno())),
            })?;
            let at = usize::try_from(at).unwrap_or(len);
            let end = at + bytes.len();
            if end.is_multiple_of(BATCH) || end == len {
                // Into huge pages, where the kernel did not make them at once and is willing to. Both are attempts: the
                // bytes are there. Present pages are collapsed ten times as fast as absent ones.
                let start = at / BATCH * BATCH;
                let _ = map.advise(start, end - start, Advise::PopulateRead);
                let _ = map.advise(start, (end - start) / HUGE * HUGE, Advise::Collapse);
            }
            Ok(())
        })?;
        let now = rustix::fs::fstat(&self.fd).map_err(Error::file("inspect", &self.path))?;
        if Stamp::of(&now) != self.stamp {
            return Err(Error::Changed { image: self.path.clone() });
        }
        // Its owner's, as far as permissions go; no one writes, as far as seals go.
        let mode = if exclusive { Mode::RUSR | Mode::WUSR } else { Mode::RUSR };
        rustix::fs::fchmod(&memory, mode).map_err(failed)?;
        rustix::fs::fcntl_add_seals(&memory, seals(exclusive)).map_err(failed)?;
        Ok((read_only, content))
    }
}

/// The hash of the `size` bytes of an open file, which is called `path` in errors.
pub(crate) fn hash(file: impl AsFd, path: &Path, size: u64) -> Result<String> {
    read(file, path, size, &mut |_, _| {}, |_, _| Ok(()))
}

/// Reads all of a file, and returns its hash.
fn read(
    file: impl AsFd,
    path: &Path,
    size: u64,
    progress: Progress<'_>,
    mut each: impl FnMut(u64, &[u8]) -> Result<()>,
) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; STEP];
    let mut at = 0;
    while at < size {
        let step = usize::try_from(size - at).unwrap_or(STEP).min(STEP);
        let mut have = 0;
        while have < step {
            match rustix::io::pread(&file, &mut buffer[have..step], at + have as u64) {
                Ok(0) => return Err(Error::Changed { image: path.into() }),
                Ok(count) => have += count,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::File { action: "read", path: path.into(), errno }),
            }
        }
        hasher.update(&buffer[..step]);
        each(at, &buffer[..step])?;
        at += step as u64;
        progress(at, size);
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// Maps every page of it now, if the kernel does that (since 5.14).
pub(crate) fn make_present(device: &MappedFile) {
    let _ = device.memory().advise(0, device.memory().len(), Advise::PopulateRead);
}

fn create(name: &str) -> rustix::io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match rustix::fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        // A kernel before 6.3 does not know the flag, which says that the object itself is no program.
        Err(Errno::INVAL) => rustix::fs::memfd_create(name, flags),
        other => other,
    }
}
