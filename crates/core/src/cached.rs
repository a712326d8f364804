//! The cached path: files whose storage cannot be used in place, because the device has no `direct_access` or the
//! blocks are not pages. They are read and written by copies, `read_page` and `write_page`; the cache itself is the
//! device's affair (for a plain file, the kernel's page cache).

use crate::error::Error;
use crate::mapping::{Host, Pages};
use crate::page::{PAGE_BYTES, PAGE_SIZE, PageIndex};

/// What a file system offers for files that are not in place; exclusive with [`Mapping`](crate::Mapping).
pub trait PageIo: Host {
    /// Copies `to.len()` bytes of page `index`, from byte `within` of it on; a hole is zeros. Stays inside the page.
    ///
    /// # Errors
    /// The file system's.
    fn read_page(&self, index: PageIndex, within: usize, to: &mut [u8]) -> Result<(), Self::Error>;

    /// Copies `from` into page `index`, from byte `within` of it on. Stays inside the page.
    ///
    /// # Errors
    /// The file system's; by default the volume cannot be written this way.
    fn write_page(&self, index: PageIndex, within: usize, from: &[u8]) -> Result<(), Self::Error> {
        let _ = (index, within, from);
        Err(Error::ReadOnly.into())
    }

    /// As [`Pages::allocate`].
    ///
    /// # Errors
    /// The file system's; by default the volume cannot be written this way.
    fn allocate_pages(&self, index: PageIndex, want: u64) -> Result<u64, Self::Error> {
        let _ = (index, want);
        Err(Error::ReadOnly.into())
    }

    /// As [`Pages::has_storage`]. By default all has, which is always a right answer to who looks for data.
    ///
    /// # Errors
    /// The file system's.
    fn pages_have_storage(&self, index: PageIndex, want: u64) -> Result<(bool, u64), Self::Error> {
        let _ = index;
        Ok((true, want))
    }
}

/// A file that goes through copies. There is no way from here to the storage itself.
#[derive(Clone, Copy, Debug)]
pub struct Cached<P>(P);

impl<P: PageIo> Cached<P> {
    /// A cached file over its pages.
    pub fn new(pages: P) -> Self {
        Self(pages)
    }
}

#[inline]
fn place(offset: u64, len: usize) -> (PageIndex, usize, usize) {
    // The remainder is below 4096.
    let within = (offset % PAGE_BYTES) as usize;
    (PageIndex::of(offset), within, len.min(PAGE_SIZE - within))
}

impl<P: PageIo> Pages for Cached<P> {
    fn copy_out(&self, offset: u64, to: &mut [u8]) -> Result<usize, P::Error> {
        let (index, within, len) = place(offset, to.len());
        self.0.read_page(index, within, &mut to[..len])?;
        Ok(len)
    }

    fn copy_in(&self, offset: u64, from: &[u8]) -> Result<usize, P::Error> {
        let (index, within, len) = place(offset, from.len());
        self.0.write_page(index, within, &from[..len])?;
        Ok(len)
    }

    fn zero_within_page(&self, from: u64, to: u64) -> Result<(), P::Error> {
        let mut bytes = [0u8; 256];
        let mut at = from;
        while at < to {
            let len = usize::try_from(to - at).unwrap_or(bytes.len()).min(bytes.len());
            let len = self.copy_out(at, &mut bytes[..len])?;
            // What reads as zeros may be a hole, which a write would give storage.
            if bytes[..len].iter().any(|&byte| byte != 0) {
                bytes[..len].fill(0);
                self.copy_in(at, &bytes[..len])?;
            }
            at += len as u64;
        }
        Ok(())
    }

    fn allocate(&self, index: PageIndex, want: u64) -> Result<u64, P::Error> {
        self.0.allocate_pages(index, want)
    }

    fn has_storage(&self, index: PageIndex, want: u64) -> Result<(bool, u64), P::Error> {
        self.0.pages_have_storage(index, want)
    }
}

impl<P: PageIo> Host for Cached<P> {
    type Error = P::Error;
    type Guard<'a>
        = P::Guard<'a>
    where
        Self: 'a;
    fn shared(&self) -> Self::Guard<'_> {
        self.0.shared()
    }
    fn exclusive(&self) -> Self::Guard<'_> {
        self.0.exclusive()
    }
    fn size(&self) -> Result<u64, P::Error> {
        self.0.size()
    }
    fn largest(&self) -> u64 {
        self.0.largest()
    }
    fn accessed(&self) {
        self.0.accessed();
    }
    fn drop_set_id(&self, keep_set_id: bool) -> Result<(), P::Error> {
        self.0.drop_set_id(keep_set_id)
    }
    fn will_change(&self, keep_set_id: bool) -> Result<(), P::Error> {
        self.0.will_change(keep_set_id)
    }
    fn publish_size(&self, size: u64) -> Result<(), P::Error> {
        self.0.publish_size(size)
    }
    fn free_from(&self, first: PageIndex) -> Result<(), P::Error> {
        self.0.free_from(first)
    }
    fn shrink(&self, size: u64) -> Result<(), P::Error> {
        self.0.shrink(size)
    }
    fn free_pages(&self, first: PageIndex, count: u64) -> Result<(), P::Error> {
        self.0.free_pages(first, count)
    }
    fn settle(&self) -> Result<(), P::Error> {
        self.0.settle()
    }
    fn sync(&self, data_only: bool) -> Result<(), P::Error> {
        self.0.sync(data_only)
    }
}
