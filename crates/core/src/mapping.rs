//! A file's address space: which page of storage is which page of the file, by `get_xip_page`.
//!
//! A file is in place or cached, never both, decided when it is opened (contract 2). So there are two types:
//! [`InPlace`] over a [`Mapping`], and [`Cached`](crate::Cached) over a [`PageIo`](crate::PageIo). The file operations
//! take either; only an `InPlace` can be mapped or sent, because only it has storage to show.

use crate::device::Device;
use crate::error::Error;
use crate::page::{PAGE_BYTES, PAGE_SIZE, PageIndex, Run};
use crate::region::Region;

/// The third argument of `get_xip_page`: whether a hole is given storage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Create {
    /// A hole stays a hole.
    No,
    /// Storage is allocated where there is none: reserved, zeroed, made durable, only then linked (contract 2, zero
    /// before publish).
    Yes,
}

/// What stands at a page of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// Storage, for this page and those after it.
    Storage(Run),
    /// No storage, for this many pages (at least 1). Reads as zeros.
    Hole(u64),
}

/// What owns a mapping, Linux's `mapping->host`: the inode, as far as the file operations need one.
pub trait Host {
    /// The errors of the file system.
    type Error: From<Error>;
    /// The file's lock, while it is held.
    type Guard<'a>
    where
        Self: 'a;

    /// Taken by readers; they do not wait for each other.
    fn shared(&self) -> Self::Guard<'_>;
    /// Taken by writers, for the whole call.
    fn exclusive(&self) -> Self::Guard<'_>;
    /// Size in bytes.
    ///
    /// # Errors
    /// The file system's.
    fn size(&self) -> Result<u64, Self::Error>;
    /// The largest size the format allows.
    fn largest(&self) -> u64;
    /// After bytes were read: atime, by the rules of the mount.
    fn accessed(&self);
    /// Before anything else of a change of bytes: drops set-id bits unless the caller may keep them, durably, so that no
    /// crash leaves changed bytes with the bits. [`Host::will_change`] includes it.
    ///
    /// # Errors
    /// The file system's; then nothing is changed.
    fn drop_set_id(&self, keep_set_id: bool) -> Result<(), Self::Error> {
        let _ = keep_set_id;
        Ok(())
    }
    /// Before bytes change: drops set-id bits unless the caller may keep them, then sets mtime and ctime.
    ///
    /// # Errors
    /// The file system's; then nothing is written.
    fn will_change(&self, keep_set_id: bool) -> Result<(), Self::Error>;
    /// Makes `size`, which is not below the old one, the size that everyone sees. Called after the data is in place.
    ///
    /// # Errors
    /// The file system's.
    fn publish_size(&self, size: u64) -> Result<(), Self::Error>;
    /// Takes all pages from `first` on away from the file. The size is already below them.
    ///
    /// # Errors
    /// The file system's.
    fn free_from(&self, first: PageIndex) -> Result<(), Self::Error>;
    /// Makes `size`, which is not above the old one, the size, and takes what is beyond away: the size first, or both at
    /// once where the format can.
    ///
    /// # Errors
    /// The file system's.
    fn shrink(&self, size: u64) -> Result<(), Self::Error> {
        self.publish_size(size)?;
        self.free_from(PageIndex::count(size))
    }
    /// Makes holes of `count` pages from `first` on.
    ///
    /// # Errors
    /// The file system's; by default it has no way to.
    fn free_pages(&self, first: PageIndex, count: u64) -> Result<(), Self::Error> {
        let _ = (first, count);
        Err(Error::Unsupported("holes cannot be punched here").into())
    }
    /// After bytes changed: returns when they are durable, on storage that is persistent (contract 7). What no one
    /// asks to be durable costs nothing elsewhere.
    ///
    /// # Errors
    /// The medium's.
    fn settle(&self) -> Result<(), Self::Error> {
        Ok(())
    }
    /// Makes what was written durable.
    ///
    /// # Errors
    /// The file system's.
    fn sync(&self, data_only: bool) -> Result<(), Self::Error>;
}

/// A file's pages as pages of a device.
pub trait Mapping: Host {
    /// The device.
    type Device: Device + ?Sized;

    /// The device whose pages these are.
    fn device(&self) -> &Self::Device;

    /// The storage of `index` and of the pages after it as far as it is one run, at most `want` pages (`want` >= 1).
    ///
    /// # Errors
    /// The file system's; no space where `create` asks for some.
    fn get_xip_pages(&self, index: PageIndex, want: u64, create: Create) -> Result<Extent, Self::Error>;

    /// Gives storage to the hole of at most `want` pages that begins at `index`, and puts `from`, which is not empty,
    /// into it from byte `within` on, as far as it fits; the rest is zeros. All before anyone can see the page (contract 2,
    /// zero before publish); what fails leaves the hole. How many bytes of `from` are in place, at least 1.
    ///
    /// A file system can do better than this, which writes what is written twice.
    ///
    /// # Errors
    /// The file system's; no space.
    fn fill(&self, index: PageIndex, want: u64, within: usize, from: &[u8]) -> Result<usize, Self::Error> {
        match self.get_xip_pages(index, want, Create::Yes)? {
            Extent::Storage(run) => Ok(store(self.device(), run, want, within, from)?),
            // Contract 2: an internal error, never a panic.
            Extent::Hole(_) => Err(Error::Lost { index }.into()),
        }
    }

    /// The storage page of one file page, or a hole: the operation of the 2008 document.
    ///
    /// # Errors
    /// As [`Mapping::get_xip_pages`].
    #[inline]
    fn get_xip_page(&self, index: PageIndex, create: Create) -> Result<Extent, Self::Error> {
        self.get_xip_pages(index, 1, create)
    }
}

/// A file's bytes, in place or cached: what the file operations work on.
pub trait Pages: Host {
    /// Copies bytes at `offset` into `to`: at least one, as many as are at hand in one stretch. Holes are zeros. Knows
    /// nothing of the size.
    ///
    /// # Errors
    /// The file system's.
    fn copy_out(&self, offset: u64, to: &mut [u8]) -> Result<usize, Self::Error>;
    /// Copies bytes of `from` to `offset`: at least one, as many as fit in one stretch; allocates where there is a
    /// hole.
    ///
    /// # Errors
    /// The file system's.
    fn copy_in(&self, offset: u64, from: &[u8]) -> Result<usize, Self::Error>;
    /// Zeros `[from, to)`, which lies in one page, where there is storage. A hole stays one.
    ///
    /// # Errors
    /// The file system's.
    fn zero_within_page(&self, from: u64, to: u64) -> Result<(), Self::Error>;
    /// Gives storage that reads as zeros to the pages from `index` on that have none, at most `want` of them: how many
    /// have storage now, at least 1.
    ///
    /// # Errors
    /// The file system's; no space.
    fn allocate(&self, index: PageIndex, want: u64) -> Result<u64, Self::Error>;
    /// Whether there is storage at `index`, and for how many pages, at most `want`, it is the same.
    ///
    /// # Errors
    /// The file system's.
    fn has_storage(&self, index: PageIndex, want: u64) -> Result<(bool, u64), Self::Error>;
}

/// Stores `from` at byte `within` of a run, as far as it fits; how many bytes.
fn store<D: Device + ?Sized>(device: &D, run: Run, want: u64, within: usize, from: &[u8]) -> Result<usize, Error> {
    let room = run.count.min(want).saturating_mul(PAGE_BYTES).saturating_sub(within as u64);
    let len = from.len().min(usize::try_from(room).unwrap_or(usize::MAX));
    let at = run.first.byte().ok_or(Error::Invalid("a page beyond 2^64 bytes"))? + within as u64;
    device.store(at, &from[..len])?;
    if device.properties().persistent {
        device.flush(at, len as u64)?;
    }
    Ok(len)
}

/// A file that is used in place. Made by a file system when it opens one; there is no way from here to a cache.
#[derive(Clone, Copy, Debug)]
pub struct InPlace<M>(M);

impl<M: Mapping> InPlace<M> {
    /// A file in place over its mapping.
    pub fn new(mapping: M) -> Self {
        Self(mapping)
    }

    /// The mapping, for those who map the storage into a process or a guest.
    pub fn mapping(&self) -> &M {
        &self.0
    }

    /// The storage at `offset`, as much as is one stretch and at most `len` bytes, or how many bytes are a hole.
    ///
    /// # Errors
    /// The file system's.
    #[inline]
    pub fn piece(&self, offset: u64, len: usize) -> Result<Piece<'_>, M::Error> {
        let (within, want) = span(offset, len);
        Ok(match self.0.get_xip_pages(PageIndex::of(offset), want, Create::No)? {
            Extent::Storage(run) => {
                let region = self.0.device().direct_access(run.first, run.count.min(want))?;
                let len = len.min(region.len().saturating_sub(within));
                Piece::Storage(region.part(within, len).ok_or(Error::Invalid("a region shorter than a page"))?)
            }
            Extent::Hole(pages) => {
                let bytes = pages.min(want).saturating_mul(PAGE_BYTES) - within as u64;
                Piece::Hole(usize::try_from(bytes).unwrap_or(usize::MAX).min(len))
            }
        })
    }
}

/// Bytes of a file where they are.
#[derive(Clone, Copy, Debug)]
pub enum Piece<'a> {
    /// The storage itself.
    Storage(Region<'a>),
    /// This many zeros.
    Hole(usize),
}

impl Piece<'_> {
    /// Length in bytes.
    pub fn len(&self) -> usize {
        match self {
            Self::Storage(region) => region.len(),
            Self::Hole(len) => *len,
        }
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Where in its page `offset` is, and how many pages `len` bytes from there touch.
#[inline]
fn span(offset: u64, len: usize) -> (usize, u64) {
    // The remainder is below 4096.
    let within = (offset % PAGE_BYTES) as usize;
    (within, len.saturating_add(within).div_ceil(PAGE_SIZE).max(1) as u64)
}

impl<M: Mapping> Pages for InPlace<M> {
    #[inline]
    fn copy_out(&self, offset: u64, to: &mut [u8]) -> Result<usize, M::Error> {
        Ok(match self.piece(offset, to.len())? {
            Piece::Storage(region) => region.read(0, to),
            Piece::Hole(len) => {
                to[..len].fill(0);
                len
            }
        })
    }

    #[inline]
    fn copy_in(&self, offset: u64, from: &[u8]) -> Result<usize, M::Error> {
        let index = PageIndex::of(offset);
        let (within, want) = span(offset, from.len());
        match self.0.get_xip_pages(index, want, Create::No)? {
            Extent::Storage(run) => Ok(store(self.0.device(), run, want, within, from)?),
            Extent::Hole(count) => self.0.fill(index, want.min(count), within, from),
        }
    }

    fn zero_within_page(&self, from: u64, to: u64) -> Result<(), M::Error> {
        if let Extent::Storage(run) = self.0.get_xip_page(PageIndex::of(from), Create::No)? {
            let (within, _) = span(from, 0);
            let count = usize::try_from(to - from).unwrap_or(PAGE_SIZE).min(PAGE_SIZE - within);
            let device = self.0.device();
            device.direct_access_mut(run.first, 1)?.zero(within, count);
            if device.properties().persistent {
                let start = run.first.byte().ok_or(Error::Invalid("a page beyond 2^64 bytes"))?;
                device.flush(start + within as u64, count as u64)?;
            }
        }
        Ok(())
    }

    fn allocate(&self, index: PageIndex, want: u64) -> Result<u64, M::Error> {
        match self.0.get_xip_pages(index, want, Create::Yes)? {
            Extent::Storage(run) => Ok(run.count.min(want)),
            Extent::Hole(_) => Err(Error::Lost { index }.into()),
        }
    }

    fn has_storage(&self, index: PageIndex, want: u64) -> Result<(bool, u64), M::Error> {
        Ok(match self.0.get_xip_pages(index, want, Create::No)? {
            Extent::Storage(run) => (true, run.count.min(want)),
            Extent::Hole(count) => (false, count.min(want)),
        })
    }
}

impl<M: Mapping> Host for InPlace<M> {
    type Error = M::Error;
    type Guard<'a>
        = M::Guard<'a>
    where
        Self: 'a;
    #[inline]
    fn shared(&self) -> Self::Guard<'_> {
        self.0.shared()
    }
    fn exclusive(&self) -> Self::Guard<'_> {
        self.0.exclusive()
    }
    #[inline]
    fn size(&self) -> Result<u64, M::Error> {
        self.0.size()
    }
    fn largest(&self) -> u64 {
        self.0.largest()
    }
    #[inline]
    fn accessed(&self) {
        self.0.accessed();
    }
    fn drop_set_id(&self, keep_set_id: bool) -> Result<(), M::Error> {
        self.0.drop_set_id(keep_set_id)
    }
    fn will_change(&self, keep_set_id: bool) -> Result<(), M::Error> {
        self.0.will_change(keep_set_id)
    }
    fn publish_size(&self, size: u64) -> Result<(), M::Error> {
        self.0.publish_size(size)
    }
    fn free_from(&self, first: PageIndex) -> Result<(), M::Error> {
        self.0.free_from(first)
    }
    fn shrink(&self, size: u64) -> Result<(), M::Error> {
        self.0.shrink(size)
    }
    fn free_pages(&self, first: PageIndex, count: u64) -> Result<(), M::Error> {
        self.0.free_pages(first, count)
    }
    fn settle(&self) -> Result<(), M::Error> {
        self.0.settle()
    }
    fn sync(&self, data_only: bool) -> Result<(), M::Error> {
        self.0.sync(data_only)
    }
}
