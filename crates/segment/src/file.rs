//! A file or shared-memory object mapped into this process: the device on which files are used in place.
//!
//! A file that is cut shorter while it is mapped takes its memory away: the next access there is a `SIGBUS`, which ends
//! the program. Nothing in user space can prevent that for an ordinary file; a sealed one cannot be cut, which is why
//! segments are sealed. [`MappedFile::is_whole`] asks for the length again.

use crate::error::{Error, Result};
use crate::memory::{Advise, Map, bytes};
use rustix::fs::FileType;
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use xip_core::device::{check_bytes, write_pages};
use xip_core::page::PAGE_BYTES;
use xip_core::{Device, PAGE_SIZE, PageNo, Properties, Region, RegionMut};

/// What a device may do with its file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Read it.
    ReadOnly,
    /// Read and write it.
    ReadWrite,
}

/// How much of a new file is made present at a time. One page at a time costs a fault each, three times as much in all;
/// the whole file at once would count as memory before it is needed.
const STEP: usize = 4 << 20;

/// A file or shared-memory object, mapped shared.
#[derive(Debug)]
pub struct MappedFile {
    map: Map,
    fd: OwnedFd,
    /// [`MappedFile::start`].
    start: u64,
    access: Access,
    /// For a new file, which steps of it were made present: their pages have storage, so that a store cannot fault for
    /// lack of space. Empty for any other.
    present: Box<[AtomicBool]>,
    /// For a new file, a bit for each page that was written, or given out to be written: the others are zeros as they
    /// are. Empty for any other.
    written: Box<[AtomicU64]>,
}

impl MappedFile {
    /// Maps a whole file, or what is behind its [NVDIMM header](crate::nvdimm). Its length is a whole number of pages, and at least one.
    ///
    /// # Errors
    /// It is not a regular file or shared-memory object; it is empty, or not whole pages; the system's.
    pub fn open(file: impl Into<OwnedFd>, access: Access) -> Result<Self> {
        let fd = file.into();
        let (start, len) = map_range(&fd)?;
        Self::map(fd, start, len, access, 0)
    }

    /// Makes `file` (opened to read and write) `pages` long, with nothing but zeros in it, and maps it to be written.
    /// Lack of space shows as an error of `direct_access_mut` or `write`, never as a `SIGBUS`.
    ///
    /// # Errors
    /// The system's.
    pub fn create(file: File, pages: u64) -> Result<Self> {
        Self::create_at(file, 0, pages)
    }

    /// As [`MappedFile::create`], with an [NVDIMM header](crate::nvdimm) in front.
    ///
    /// # Errors
    /// The system's.
    pub fn create_behind_header(file: File, pages: u64) -> Result<Self> {
        let device = Self::create_at(file, crate::nvdimm::HEADER_BYTES, pages)?;
        let header = crate::nvdimm::header(pages * PAGE_BYTES);
        crate::plain::write_all(device.fd(), 0, &header).map_err(|error| Error::File {
            action: "write the header of",
            path: path_of(&device.fd),
            errno: Errno::from_raw_os_error(error.errno()),
        })?;
        Ok(device)
    }

    fn create_at(file: File, start: u64, pages: u64) -> Result<Self> {
        let fd = OwnedFd::from(file);
        let size = pages.saturating_mul(PAGE_BYTES);
        let len = usize::try_from(size).map_err(|_| Error::TooLarge { path: path_of(&fd), bytes: size })?;
        if len == 0 {
            return Err(Error::Empty { path: path_of(&fd) });
        }
        // Down to nothing first: what the file had before must not show.
        rustix::fs::ftruncate(&fd, 0)
            .and_then(|()| rustix::fs::ftruncate(&fd, size.saturating_add(start)))
            .map_err(|errno| Error::File { action: "set the length of", path: path_of(&fd), errno })?;
        Self::map(fd, start, len, Access::ReadWrite, len.div_ceil(STEP))
    }

    fn map(fd: OwnedFd, start: u64, len: usize, access: Access, steps: usize) -> Result<Self> {
        let map = Map::shared(fd.as_fd(), start, len, access == Access::ReadWrite)
            .map_err(|errno| Error::map(&path_of(&fd), len as u64)(errno))?;
        let words = if steps == 0 { 0 } else { (len / PAGE_SIZE).div_ceil(64) };
        Ok(Self {
            map,
            fd,
            start,
            access,
            present: (0..steps).map(|_| AtomicBool::new(false)).collect(),
            written: (0..words).map(|_| AtomicU64::new(0)).collect(),
        })
    }

    /// The file.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Where in the file the device begins, in bytes: behind an NVDIMM header, if it has one.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// The file, for one who wants only that.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Whether the file still is as long as what is mapped of it. Always so when it is sealed.
    pub fn is_whole(&self) -> bool {
        self.map.is_sealed()
            || rustix::fs::fstat(&self.fd)
                .is_ok_and(|s| u64::try_from(s.st_size).is_ok_and(|n| n >= self.start + self.map.len() as u64))
    }

    /// Why single stores cannot be made durable in their order, and the device says that it is not persistent; `None` when they
    /// can, by flush and fence.
    pub fn not_persistent(&self) -> Option<&'static str> {
        match (self.map.is_persistent(), self.access) {
            (true, _) => None,
            (_, Access::ReadOnly) => Some("it is only read"),
            _ if !cfg!(target_arch = "x86_64") => Some("only x86-64 is known how to flush and fence for"),
            _ => Some(
                "the kernel does not map it synchronously (MAP_SYNC): it is not on a file system with DAX on persistent memory",
            ),
        }
    }

    /// Makes all that was written durable, where the file system is. It does not order single stores:
    /// [`MappedFile::not_persistent`].
    ///
    /// # Errors
    /// The system's.
    pub fn sync(&self) -> Result<()> {
        rustix::fs::fdatasync(&self.fd).map_err(|errno| Error::File { action: "sync", path: path_of(&self.fd), errno })
    }

    pub(crate) fn memory(&self) -> &Map {
        &self.map
    }

    fn mark_written(&self, from: usize, len: usize) {
        for page in from / PAGE_SIZE..(from + len).div_ceil(PAGE_SIZE) {
            // Whoever zeroes a page and whoever wrote it before agree by other means: it was freed in between. Mostly it was
            // written, and to look is cheaper than to say so again.
            let (word, bit) = (&self.written[page / 64], 1 << (page % 64));
            if word.load(Ordering::Relaxed) & bit == 0 {
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
    }

    fn is_written(&self, page: u64) -> bool {
        let word = usize::try_from(page / 64).ok().and_then(|word| self.written.get(word));
        word.is_none_or(|word| word.load(Ordering::Relaxed) >> (page % 64) & 1 == 1)
    }

    /// The bytes `[at, at + len)`, to be written, where there are no books to keep of them: the file is not new, or they are in a
    /// page that is present and was written. `None` also for what is not mapped, or not to be written.
    #[inline]
    fn plain_bytes(&self, at: u64, len: usize) -> Option<RegionMut<'_>> {
        let bytes = self.map.bytes_mut(at, len)?;
        let (page, within) = (at / PAGE_BYTES, at % PAGE_BYTES);
        let plain = || {
            let present = self.present.get(usize::try_from(at).ok()? / STEP)?;
            let one = len as u64 <= PAGE_BYTES - within;
            (one && present.load(Ordering::Relaxed) && self.is_written(page)).then_some(())
        };
        (self.present.is_empty() || plain().is_some()).then_some(bytes)
    }

    /// Data into pages of a new file that no store has touched yet goes by `pwrite`: measured at 500 MB it takes half
    /// the time of making them present, which zeroes them first, and storing then.
    fn store_new(&self, at: u64, from: &[u8]) -> std::result::Result<(), xip_core::Error> {
        let range = usize::try_from(at).ok().and_then(|start| Some(start..start.checked_add(from.len())?));
        let Some(range) = range.filter(|range| range.end <= self.map.len() && !self.present.is_empty()) else {
            return self.write(at, from);
        };
        // What is to be durable in order goes by stores, which can be flushed.
        if self.map.is_persistent() {
            return self.write(at, from);
        }
        if self.present[range.start / STEP..range.end.div_ceil(STEP)].iter().all(|step| step.load(Ordering::Relaxed)) {
            return self.write(at, from);
        }
        self.mark_written(range.start, from.len());
        crate::plain::write_all(self.fd(), self.start + at, from)
    }

    /// Gives the pages of a new file storage, so that a store to them cannot fault.
    fn make_present(&self, from: usize, len: usize) -> std::result::Result<(), xip_core::Error> {
        for step in from / STEP..(from + len).div_ceil(STEP) {
            // Two threads may both do it: no harm, so no order is needed.
            if !self.present[step].load(Ordering::Relaxed) {
                match self.map.advise(step * STEP, STEP, Advise::PopulateWrite) {
                    // A kernel before 5.14: the stores fault one by one.
                    Ok(()) | Err(Errno::INVAL) => self.present[step].store(true, Ordering::Relaxed),
                    // What would have been a SIGBUS.
                    Err(Errno::FAULT | Errno::NOSPC | Errno::DQUOT) => return Err(xip_core::Error::NoSpace),
                    Err(errno) => return Err(xip_core::Error::Io { errno: errno.raw_os_error() }),
                }
            }
        }
        Ok(())
    }
}

impl Device for MappedFile {
    #[inline]
    fn pages(&self) -> u64 {
        (self.map.len() / PAGE_SIZE) as u64
    }

    fn properties(&self) -> Properties {
        Properties {
            writable: self.access == Access::ReadWrite,
            sealed: self.map.is_sealed(),
            persistent: self.map.is_persistent(),
            ..Properties::default()
        }
    }

    #[inline]
    fn direct_access(&self, first: PageNo, count: u64) -> std::result::Result<Region<'_>, xip_core::Error> {
        let (from, len) = bytes(first, count, self.pages())?;
        Ok(self.map.region(from, len))
    }

    #[inline]
    fn direct_access_mut(&self, first: PageNo, count: u64) -> std::result::Result<RegionMut<'_>, xip_core::Error> {
        let (from, len) = bytes(first, count, self.pages())?;
        if !self.present.is_empty() {
            self.make_present(from, len)?;
            self.mark_written(from, len);
        }
        self.map.region_mut(from, len).ok_or(xip_core::Error::ReadOnly)
    }

    #[inline]
    fn bytes(&self, at: u64, len: usize) -> std::result::Result<Region<'_>, xip_core::Error> {
        let out_of_range = || check_bytes(at, len as u64, self.pages()).map(drop);
        match self.map.bytes(at, len) {
            Some(bytes) => Ok(bytes),
            None => Err(out_of_range().err().unwrap_or(xip_core::Error::Invalid("bytes beyond the mapping"))),
        }
    }

    #[inline]
    fn write(&self, at: u64, from: &[u8]) -> std::result::Result<(), xip_core::Error> {
        match self.plain_bytes(at, from.len()) {
            Some(bytes) if bytes.write(0, from) == from.len() => Ok(()),
            _ => write_pages(self, at, from),
        }
    }

    #[inline]
    fn store(&self, at: u64, from: &[u8]) -> std::result::Result<(), xip_core::Error> {
        match self.plain_bytes(at, from.len()) {
            Some(bytes) if bytes.write(0, from) == from.len() => Ok(()),
            _ => self.store_new(at, from),
        }
    }

    fn zero(&self, at: u64, len: u64) -> std::result::Result<(), xip_core::Error> {
        // First of all: a page beyond the end was never written either.
        let end = check_bytes(at, len, self.pages())?;
        let mut at = at;
        while at < end {
            let page = PageNo(at / PAGE_BYTES);
            let stop = end.min((page.0 + 1) * PAGE_BYTES);
            if self.is_written(page.0) {
                self.direct_access_mut(page, 1)?.zero((at % PAGE_BYTES) as usize, (stop - at) as usize);
            }
            at = stop;
        }
        Ok(())
    }

    fn flush(&self, at: u64, len: u64) -> std::result::Result<(), xip_core::Error> {
        let clip = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        self.map.flush(clip(at), clip(len));
        Ok(())
    }

    fn fence(&self) -> std::result::Result<(), xip_core::Error> {
        self.map.fence();
        Ok(())
    }
}

/// Where the device begins in a file that is to be mapped, and its length.
fn map_range(fd: &OwnedFd) -> Result<(u64, usize)> {
    let all = file_len(fd)?;
    let start = crate::nvdimm::offset_in(fd, all);
    let bytes = all - start;
    if !bytes.is_multiple_of(PAGE_BYTES) {
        return Err(Error::NotWholePages { path: path_of(fd), bytes });
    }
    Ok((start, usize::try_from(bytes).map_err(|_| Error::TooLarge { path: path_of(fd), bytes })?))
}

/// The length in bytes of a regular file or block device, more than 0.
pub(crate) fn file_len(fd: &impl AsFd) -> Result<u64> {
    let file = |errno| Error::File { action: "inspect", path: path_of(fd), errno };
    let stat = rustix::fs::fstat(fd).map_err(file)?;
    let len = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => u64::try_from(stat.st_size).unwrap_or(0),
        FileType::BlockDevice => rustix::fs::seek(fd, rustix::fs::SeekFrom::End(0)).map_err(file)?,
        _ => return Err(Error::NotAFile { path: path_of(fd) }),
    };
    if len == 0 { Err(Error::Empty { path: path_of(fd) }) } else { Ok(len) }
}

/// The name of an open file, for messages.
pub(crate) fn path_of(fd: &impl AsFd) -> PathBuf {
    use std::os::fd::AsRawFd;
    let link = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    std::fs::read_link(&link).unwrap_or_else(|_| link.into())
}
