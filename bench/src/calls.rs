//! The calls that are compared: by the library on a volume, by the system in a directory. Paths are relative to either.

use anyhow::Result;
use rustix::fs::{AtFlags, Mode, OFlags, openat, renameat, statat, unlinkat};
use std::cell::Cell;
use std::fs::File;
use std::hint::black_box;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use xip_core::Device;
use xip_segment::{Access, MappedFile};

/// Calls on names.
pub trait Calls {
    /// Makes an empty file, and closes it.
    fn create(&self, path: &str) -> Result<()>;
    fn rename(&self, from: &str, to: &str) -> Result<()>;
    fn unlink(&self, path: &str) -> Result<()>;
    fn create_dir(&self, path: &str) -> Result<()>;
    /// A new file, to be written; with `append`, at its end.
    fn open_new(&self, path: &str, append: bool) -> Result<Box<dyn Bytes>>;
}

/// Calls on an open file.
pub trait Bytes {
    fn write(&mut self, bytes: &[u8]) -> Result<()>;
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()>;
    fn set_len(&self, len: u64) -> Result<()>;
}

/// By `memcpy`, to memory of tmpfs: what every way to write needs at least.
pub struct Copied {
    memory: MappedFile,
    len: Cell<u64>,
}

impl Copied {
    pub fn new(path: &Path, len: usize) -> Result<Self> {
        let file = File::options().read(true).write(true).create_new(true).open(path)?;
        file.set_len(len as u64)?;
        Ok(Self { memory: MappedFile::open(file, Access::ReadWrite)?, len: Cell::new(0) })
    }
}

impl Bytes for Copied {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let end = self.len.get();
        self.memory.write(end, bytes)?;
        self.len.set(end + bytes.len() as u64);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        Ok(self.memory.write(offset, bytes)?)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.len.set(len);
        Ok(())
    }
}

/// By the library.
pub struct Library(pub xip::Volume);

impl Calls for Library {
    fn create(&self, path: &str) -> Result<()> {
        xip::OpenOptions::new().write(true).create_new(true).open(&self.0, path)?;
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        Ok(self.0.rename(from, to)?)
    }

    fn unlink(&self, path: &str) -> Result<()> {
        Ok(self.0.remove_file(path)?)
    }

    fn create_dir(&self, path: &str) -> Result<()> {
        Ok(self.0.create_dir(path)?)
    }

    fn open_new(&self, path: &str, append: bool) -> Result<Box<dyn Bytes>> {
        let mut options = xip::OpenOptions::new();
        options.write(true).append(append).create_new(true);
        Ok(Box::new(options.open(&self.0, path)?))
    }
}

impl Bytes for xip::File {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.write_all(bytes)?)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        Ok(self.write_all_at(bytes, offset)?)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        Ok(xip::File::set_len(self, len)?)
    }
}

/// By the system, in a directory.
pub struct System(OwnedFd);

impl System {
    pub fn at(directory: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(directory, flags, Mode::empty())?))
    }

    pub fn open(&self, path: &str, flags: OFlags) -> Result<File> {
        let mode = Mode::from_raw_mode(0o644);
        Ok(openat(&self.0, path, flags | OFlags::CLOEXEC, mode)?.into())
    }

    pub fn stat(&self, path: &str) -> Result<()> {
        black_box(statat(&self.0, path, AtFlags::empty())?);
        Ok(())
    }
}

impl Calls for System {
    fn create(&self, path: &str) -> Result<()> {
        self.open(path, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL).map(drop)
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        Ok(renameat(&self.0, from, &self.0, to)?)
    }

    fn unlink(&self, path: &str) -> Result<()> {
        Ok(unlinkat(&self.0, path, AtFlags::empty())?)
    }

    fn create_dir(&self, path: &str) -> Result<()> {
        Ok(rustix::fs::mkdirat(&self.0, path, Mode::from_raw_mode(0o755))?)
    }

    fn open_new(&self, path: &str, append: bool) -> Result<Box<dyn Bytes>> {
        let append = if append { OFlags::APPEND } else { OFlags::empty() };
        Ok(Box::new(self.open(path, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | append)?))
    }
}

impl Bytes for File {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.write_all(bytes)?)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        Ok(self.write_all_at(bytes, offset)?)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        Ok(File::set_len(self, len)?)
    }
}
