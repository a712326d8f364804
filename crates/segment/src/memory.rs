//! Memory of this process: the one unsafe room of this crate.
//!
//! [`Map`] is a stretch of address space that is unmapped when it is dropped; what it gives out are the regions of
//! `xip-core`, which live as long as the borrow of it. Whether a region is sealed is decided here, from the seals of
//! the object itself, so no one else has to be believed.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
mod persist;
pub(crate) mod window;

use rustix::fs::SealFlags;
use rustix::io::{Errno, Result};
use rustix::mm::{self, MapFlags, ProtFlags};
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::{self, NonNull};
use xip_core::device::check_range;
use xip_core::{Device, PAGE_SIZE, PageNo, Properties, Region, RegionMut};

/// What one huge page covers on the machines this runs on; mappings start at a multiple of it, so that file offset
/// and address agree and the kernel can use one.
pub(crate) const HUGE: usize = 2 << 20;

/// A stretch of memory mapped into this process.
#[derive(Debug)]
pub(crate) struct Map {
    start: NonNull<u8>,
    len: usize,
    writable: bool,
    sealed: bool,
    /// Mapped so that what is flushed and fenced survives a loss of power.
    persistent: bool,
}

// SAFETY: a map is an address and a length that stay valid until it is dropped, and is only used through regions, which
// tolerate access from any thread.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Map {
    /// New zeroed memory.
    pub(crate) fn anonymous(len: usize) -> Result<Self> {
        // SAFETY: no address is asked for, so nothing that exists is touched.
        let start =
            unsafe { mm::mmap_anonymous(ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)? };
        Ok(Self { start: non_null(start)?, len, writable: true, sealed: false, persistent: false })
    }

    /// The `len` bytes of an object from `offset` on (a whole number of pages), shared with all who map it. If it is to be written and is on persistent memory, so that
    /// stores can be made durable by [`Map::flush`].
    pub(crate) fn shared(fd: BorrowedFd<'_>, offset: u64, len: usize, writable: bool) -> Result<Self> {
        let sealed = is_sealed(fd);
        let prot = if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };

        let persistent = writable && cfg!(target_arch = "x86_64") && is_synchronous(fd);
        let flags = if persistent { MapFlags::SHARED_VALIDATE | MapFlags::SYNC } else { MapFlags::SHARED };
        let start = reserve(len, 0)?;
        // SAFETY: `[start, start + len)` is the reservation, which is ours and unused; `len` is a whole number of pages (callers).
        let start = unsafe {
            mm::mmap(start, len, prot, flags | MapFlags::FIXED, fd, offset).inspect_err(|_| {
                let _ = mm::munmap(start, len);
            })?
        };
        Ok(Self { start: non_null(start)?, len, writable, sealed, persistent })
    }

    pub(crate) fn is_sealed(&self) -> bool {
        self.sealed
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The part `[from, from + len)`, clipped to what is mapped.
    #[inline]
    pub(crate) fn region(&self, from: usize, len: usize) -> Region<'_> {
        let from = from.min(self.len);
        let len = len.min(self.len - from);
        // SAFETY: the part is inside the map, which lives as long as the borrow of `self`; no `&mut` to it is ever made.
        // Sealed only when the object has the seals, which cannot be taken off again.
        unsafe {
            let start = self.start.add(from);
            if self.sealed { Region::new_sealed(start, len) } else { Region::new(start, len) }
        }
    }

    /// As [`Map::region`], for writing; `None` where the map is read-only.
    #[inline]
    pub(crate) fn region_mut(&self, from: usize, len: usize) -> Option<RegionMut<'_>> {
        if !self.writable {
            return None;
        }
        let from = from.min(self.len);
        let len = len.min(self.len - from);
        // SAFETY: as in `region`, and the map is writable.
        Some(unsafe { RegionMut::new(self.start.add(from), len) })
    }

    /// The part `[at, at + len)`, `None` where not all of it is mapped.
    #[inline(always)]
    pub(crate) fn bytes(&self, at: u64, len: usize) -> Option<Region<'_>> {
        let from = usize::try_from(at).ok()?;
        (from <= self.len && len <= self.len - from).then(|| self.region(from, len))
    }

    /// As [`Map::bytes`], for writing; `None` also where the map is read-only.
    #[inline(always)]
    pub(crate) fn bytes_mut(&self, at: u64, len: usize) -> Option<RegionMut<'_>> {
        let from = usize::try_from(at).ok()?;
        if from <= self.len && len <= self.len - from { self.region_mut(from, len) } else { None }
    }

    /// Advice on `[from, from + len)`, clipped to what is mapped; whole pages.
    pub(crate) fn advise(&self, from: usize, len: usize, advice: Advise) -> Result<()> {
        let from = from.min(self.len) & !(PAGE_SIZE - 1);
        let len = len.min(self.len - from);
        // SAFETY: the part is mapped and ours. None of these pieces of advice changes or discards a byte.
        let answer = unsafe { libc::madvise(self.start.as_ptr().add(from).cast(), len, advice.raw()) };
        if answer == 0 { Ok(()) } else { Err(last_errno()) }
    }

    /// Whether [`Map::flush`] and [`Map::fence`] make stores durable.
    pub(crate) fn is_persistent(&self) -> bool {
        self.persistent
    }

    /// Starts to make `[from, from + len)` durable, clipped to what is mapped.
    pub(crate) fn flush(&self, from: usize, len: usize) {
        #[cfg(target_arch = "x86_64")]
        if self.persistent {
            let from = from.min(self.len);
            let len = len.min(self.len - from);
            // SAFETY: the part is inside the map, and the processor was asked for the instruction.
            unsafe { persist::Flush::of_processor().range(self.start.as_ptr().add(from), len) }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (from, len);
    }

    /// Returns when all that this thread has flushed is durable.
    pub(crate) fn fence(&self) {
        #[cfg(target_arch = "x86_64")]
        if self.persistent {
            persist::fence();
        }
    }

    /// Where it is.
    pub(crate) fn address(&self) -> usize {
        self.start.as_ptr().addr()
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the stretch was mapped by us, and every region of it is gone: they borrow `self`.
        // An error could only mean that it is not mapped, and there is nobody to tell.
        let _ = unsafe { mm::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// Whether the object can be mapped so that its storage itself is what is stored to: a file system refuses that elsewhere
/// than on persistent memory, and a kernel that does not know it does too.
fn is_synchronous(fd: BorrowedFd<'_>) -> bool {
    let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED_VALIDATE | MapFlags::SYNC);
    // SAFETY: no address is asked for, so nothing that exists is touched, and nobody else knows what is unmapped again.
    unsafe {
        let Ok(probe) = mm::mmap(ptr::null_mut(), PAGE_SIZE, prot, flags, fd, 0) else { return false };
        let _ = mm::munmap(probe, PAGE_SIZE);
    }
    true
}

/// Takes address space without memory, of `len` bytes, whole pages. Its address is `phase` modulo 2 MiB, itself a multiple of a page
/// and less than that.
fn reserve(len: usize, phase: usize) -> Result<*mut std::ffi::c_void> {
    let space = len.checked_add(HUGE).ok_or(Errno::NOMEM)?;
    // SAFETY: no address is asked for, so nothing that exists is touched.
    let reserved = unsafe {
        mm::mmap_anonymous(ptr::null_mut(), space, ProtFlags::empty(), MapFlags::PRIVATE | MapFlags::NORESERVE)?
    };
    let before = phase.wrapping_sub(reserved.addr()) % HUGE;
    let start = reserved.wrapping_byte_add(before);
    // SAFETY: both ends that are given back are inside the reservation, which is ours and unused, and outside of `[start,
    // start + len)`: `before` is less than 2 MiB, and all bounds are whole pages. Should it fail, they stay reserved:
    // address space without memory.
    unsafe {
        if before != 0 {
            mm::munmap(reserved, before)?;
        }
        mm::munmap(start.wrapping_byte_add(len), HUGE - before)?;
    }
    Ok(start)
}

fn non_null(start: *mut std::ffi::c_void) -> Result<NonNull<u8>> {
    NonNull::new(start.cast()).ok_or(Errno::NOMEM)
}

/// The pieces of advice that [`Map::advise`] can give. All keep every byte as it is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Advise {
    /// Make pages present and writable now; an error where a store would have been a `SIGBUS`.
    PopulateWrite,
    /// Make pages present now.
    PopulateRead,
    /// Make huge pages of what is there.
    Collapse,
}

impl Advise {
    fn raw(self) -> libc::c_int {
        match self {
            Self::PopulateWrite => libc::MADV_POPULATE_WRITE,
            Self::PopulateRead => libc::MADV_POPULATE_READ,
            // In Linux since 6.1; rustix does not have it.
            Self::Collapse => libc::MADV_COLLAPSE,
        }
    }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// A device of memory that belongs to this process: for tests, and to build small volumes.
#[derive(Debug)]
pub struct Memory(Map);

impl Memory {
    /// `pages` zeroed pages, at least one.
    ///
    /// # Errors
    /// There is not that much memory.
    pub fn new(pages: u64) -> std::result::Result<Self, xip_core::Error> {
        let len = usize::try_from(pages.max(1)).ok().and_then(|pages| pages.checked_mul(PAGE_SIZE));
        let map = Map::anonymous(len.ok_or(xip_core::Error::NoSpace)?);
        map.map(Self).map_err(|errno| xip_core::Error::Io { errno: errno.raw_os_error() })
    }
}

impl Device for Memory {
    fn pages(&self) -> u64 {
        (self.0.len / PAGE_SIZE) as u64
    }

    fn properties(&self) -> Properties {
        Properties { writable: true, ..Properties::default() }
    }

    #[inline]
    fn direct_access(&self, first: PageNo, count: u64) -> std::result::Result<Region<'_>, xip_core::Error> {
        let (from, len) = bytes(first, count, self.pages())?;
        Ok(self.0.region(from, len))
    }

    #[inline]
    fn direct_access_mut(&self, first: PageNo, count: u64) -> std::result::Result<RegionMut<'_>, xip_core::Error> {
        let (from, len) = bytes(first, count, self.pages())?;
        self.0.region_mut(from, len).ok_or(xip_core::Error::ReadOnly)
    }
}

/// Offset and length in bytes of pages that are mapped: both fit, since the whole map does.
#[inline]
#[allow(clippy::cast_possible_truncation)]
pub(crate) fn bytes(first: PageNo, count: u64, pages: u64) -> std::result::Result<(usize, usize), xip_core::Error> {
    let count = check_range(first, count, pages)?;
    Ok((first.0 as usize * PAGE_SIZE, count as usize * PAGE_SIZE))
}

/// Whether nobody can change an object any more, nor take its end away, by the kernel's word. Only a memfd can be so.
pub fn is_sealed(object: impl AsFd) -> bool {
    let needed = SealFlags::WRITE | SealFlags::SHRINK;
    rustix::fs::fcntl_get_seals(object).is_ok_and(|seals| seals.contains(needed))
}

/// Closes every descriptor from `first` on that this process was started with.
pub(crate) fn close_from(first: u32) {
    // SAFETY: called first thing in a process that was started to hold a segment, before anything was opened: nobody in
    // it owns any of these. An old kernel says no, and then they stay open.
    let _ = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
}

/// What the kernel says about the pages of an object, by `cachestat(2)`.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct CacheStat {
    /// Pages in memory.
    pub(crate) cached: u64,
    dirty: u64,
    writeback: u64,
    /// Pages that were in memory and are not: for shared memory, swapped out.
    pub(crate) evicted: u64,
    recently_evicted: u64,
}

/// Asks for [`CacheStat`] of a whole object. In Linux since 6.5.
pub(crate) fn cachestat(fd: BorrowedFd<'_>) -> Result<CacheStat> {
    use std::os::fd::AsRawFd;
    const SYS_CACHESTAT: libc::c_long = 451;
    let whole = [0u64; 2];
    let mut stat = CacheStat::default();
    // SAFETY: both pointers are to live memory of the layout that the call is documented to read and write: two and
    // five numbers of 64 bits.
    let answer = unsafe { libc::syscall(SYS_CACHESTAT, fd.as_raw_fd(), whole.as_ptr(), &raw mut stat, 0) };
    if answer == 0 { Ok(stat) } else { Err(last_errno()) }
}
