//! A file that is read and written, not mapped: the cached path. The cache is the kernel's page cache.

use crate::error::Result;
use crate::file::{Access, file_len, path_of};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use xip_core::device::check_bytes;
use xip_core::page::PAGE_BYTES;
use xip_core::{Device, Error, PageNo, Properties};

/// A file or block device without direct access. A volume on it can be read, but is not XIP.
#[derive(Debug)]
pub struct PlainFile {
    fd: OwnedFd,
    /// Where in the file the device begins: behind an NVDIMM header, if it has one.
    start: u64,
    bytes: u64,
    access: Access,
}

impl PlainFile {
    /// Opens it. A length that is not whole pages is rounded up; what is missing of the last page reads as zeros.
    ///
    /// # Errors
    /// It is not a regular file or block device, or is empty; the system's.
    pub fn open(file: impl Into<OwnedFd>, access: Access) -> Result<Self> {
        let fd = file.into();
        let all = file_len(&fd)?;
        let start = crate::nvdimm::offset_in(&fd, all);
        let bytes = all - start;
        Ok(Self { fd, start, bytes, access })
    }

    /// Makes all that was written durable, where the file system is. (The device says it is not persistent: it does
    /// not order single writes.)
    ///
    /// # Errors
    /// The system's.
    pub fn sync(&self) -> Result<()> {
        rustix::fs::fdatasync(&self.fd).map_err(|errno| crate::Error::File {
            action: "sync",
            path: path_of(&self.fd),
            errno,
        })
    }
}

impl Device for PlainFile {
    fn pages(&self) -> u64 {
        self.bytes.div_ceil(PAGE_BYTES)
    }

    fn properties(&self) -> Properties {
        Properties {
            not_in_place: Some("a plain file that is not mapped into memory; load it as a segment to use it in place"),
            writable: self.access == Access::ReadWrite,
            ..Properties::default()
        }
    }

    fn read(&self, at: u64, to: &mut [u8]) -> std::result::Result<(), Error> {
        check_bytes(at, to.len() as u64, self.pages())?;
        let mut done = 0;
        while done < to.len() {
            let byte = at + done as u64;
            match rustix::io::pread(&self.fd, &mut to[done..], self.start + byte) {
                // The rest of the last page.
                Ok(0) if byte >= self.bytes => {
                    to[done..].fill(0);
                    break;
                }
                // The file was cut shorter since it was opened.
                Ok(0) => return Err(Error::BadMedium { page: PageNo(byte / PAGE_BYTES) }),
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::Io { errno: errno.raw_os_error() }),
            }
        }
        Ok(())
    }

    fn write(&self, at: u64, from: &[u8]) -> std::result::Result<(), Error> {
        if self.access == Access::ReadOnly {
            return Err(Error::ReadOnly);
        }
        check_bytes(at, from.len() as u64, self.pages())?;
        write_all(self.fd.as_fd(), self.start + at, from)
    }
}

/// Writes all of `from` at `at`.
pub(crate) fn write_all(fd: BorrowedFd<'_>, at: u64, from: &[u8]) -> std::result::Result<(), Error> {
    let mut done = 0;
    while done < from.len() {
        match rustix::io::pwrite(fd, &from[done..], at + done as u64) {
            Ok(0) | Err(Errno::NOSPC | Errno::DQUOT) => return Err(Error::NoSpace),
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::Io { errno: errno.raw_os_error() }),
        }
    }
    Ok(())
}
