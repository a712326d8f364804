//! Where a file stands in storage, and where it has none.

use super::{File, Opened, Piece, span};
use crate::error::Result;
use crate::extents::{Placed, add};
use std::ops::Range;
use xip_core::page::PAGE_BYTES;
use xip_core::{Create, Device, Extent, Host, InPlace, Mapping, PageIndex, Pages};

impl File {
    /// The storage at `offset`, as much as is one stretch and at most `len` bytes, or how many bytes are a hole; `None`
    /// at or past the end. Never a byte beyond the end of the file.
    ///
    /// # Errors
    /// The file is not in place, with the reason; the volume is damaged. `EOPNOTSUPP` on a volume that can be written: its
    /// storage may become another file's.
    pub fn piece(&self, offset: u64, len: usize) -> Result<Option<Piece<'_>>> {
        self.check_in_place()?;
        if self.live.is_some() {
            let what = "storage of a volume that can be written is not lent, as it may become another file's; read it";
            return Err(xip_ext2::Error::Unsupported(what).into());
        }
        let left = self.inode.size.saturating_sub(offset);
        let len = len.min(usize::try_from(left).unwrap_or(usize::MAX));
        if len == 0 {
            return Ok(None);
        }
        let (within, want) = span(offset, len);
        Ok(Some(match self.mapping().get_xip_pages(PageIndex::of(offset), want, Create::No)? {
            Extent::Storage(run) => {
                let region = xip_core::Device::direct_access(self.fs().device(), run.first, run.count.min(want))?;
                let len = len.min(region.len().saturating_sub(within));
                let lost = xip_core::Error::Lost { index: PageIndex::of(offset) };
                Piece::Storage(region.part(within, len).ok_or(lost)?)
            }
            Extent::Hole(pages) => {
                let bytes = pages.saturating_mul(PAGE_BYTES) - within as u64;
                Piece::Hole(usize::try_from(bytes).unwrap_or(usize::MAX).min(len))
            }
        }))
    }

    /// The bytes `[offset, offset + len)` where they are, when they are one stretch of sealed storage inside the file.
    /// Otherwise `None`: read them.
    pub fn as_slice(&self, offset: u64, len: usize) -> Option<&[u8]> {
        match self.piece(offset, len).ok()?? {
            Piece::Storage(region) if region.len() == len => region.as_sealed_slice(),
            _ => None,
        }
    }

    /// The storage of `pages` pages of the file from `first` on, as runs in the order of the file; what lies between
    /// them is holes. Pages wholly beyond the end of the file are left out. On a volume that can be written that is how it is at this
    /// moment.
    ///
    /// # Errors
    /// The file is not in place, with the reason; the volume is damaged.
    pub fn layout(&self, first: PageIndex, pages: u64) -> Result<Vec<Placed>> {
        self.check_in_place()?;
        match self.opened()? {
            Opened::Kept(file) => self.walk(&file, first, pages),
            Opened::InPlace(file) => {
                let _guard = file.shared();
                self.walk(&file, first, pages)
            }
            // Said by `check_in_place`.
            Opened::Cached(_) => Ok(Vec::new()),
        }
    }

    /// All of [`File::layout`], as `fiemap` shows it.
    ///
    /// # Errors
    /// As [`File::layout`].
    pub fn extents(&self) -> Result<Vec<Placed>> {
        self.layout(PageIndex(0), u64::MAX)
    }

    /// [`File::layout`], by one who has the file's lock.
    pub(crate) fn walk<M: Mapping<Error = xip_ext2::Error>>(
        &self,
        file: &InPlace<M>,
        first: PageIndex,
        pages: u64,
    ) -> Result<Vec<Placed>> {
        let mut runs = Vec::new();
        let end = first.0.saturating_add(pages).min(PageIndex::count(file.size()?).0);
        let (mut index, mut stored) = (first.0, 0);
        while index < end {
            match file.mapping().get_xip_pages(PageIndex(index), end - index, Create::No)? {
                Extent::Storage(run) => {
                    self.count(&mut stored, run.count)?;
                    add(&mut runs, Placed { index: PageIndex(index), run });
                    index += run.count.max(1);
                }
                Extent::Hole(count) => index += count.max(1),
            }
        }
        Ok(runs)
    }

    /// Whether the bytes between the end of the file and the end of its last page are zeros, as who maps that page
    /// expects (contract 3, tail rule). True where there are none.
    ///
    /// # Errors
    /// The file is not in place, with the reason; the volume is damaged.
    pub fn tail_is_zero(&self) -> Result<bool> {
        self.check_in_place()?;
        match self.opened()? {
            Opened::Kept(file) => tail_is_zero(&file),
            Opened::InPlace(file) => tail_is_zero(&file),
            Opened::Cached(_) => Ok(false),
        }
    }

    /// The first byte at or after `offset` that has storage, as `SEEK_DATA`; `None` when there is none before the end.
    ///
    /// # Errors
    /// The volume is damaged.
    pub fn seek_data(&self, offset: u64) -> Result<Option<u64>> {
        self.seek_extent(offset, true)
    }

    /// The first byte at or after `offset` that has none, as `SEEK_HOLE`: the end of the file counts as a hole. `None` at or
    /// past the end.
    ///
    /// # Errors
    /// The volume is damaged.
    pub fn seek_hole(&self, offset: u64) -> Result<Option<u64>> {
        self.seek_extent(offset, false)
    }

    /// [`File::seek_data`] (`data`) or [`File::seek_hole`] (not `data`).
    ///
    /// # Errors
    /// The volume is damaged.
    pub fn seek_extent(&self, offset: u64, data: bool) -> Result<Option<u64>> {
        let (found, size) = on!(self.opened()?, file => self.first(&file, offset..u64::MAX, data))?;
        // The end counts as a hole.
        Ok(found.or((!data && offset < size).then_some(size)))
    }

    /// Whether any page of `[offset, offset + len)`, as far as the file goes, has no storage.
    ///
    /// # Errors
    /// The volume is damaged.
    pub fn has_hole(&self, offset: u64, len: u64) -> Result<bool> {
        let range = offset..offset.saturating_add(len);
        Ok(on!(self.opened()?, file => self.first(&file, range, false))?.0.is_some())
    }

    /// The first byte of `range` before the end of the file that has storage (`data`) or none, and the file's size.
    fn first(
        &self,
        file: &impl Pages<Error = xip_ext2::Error>,
        range: Range<u64>,
        data: bool,
    ) -> Result<(Option<u64>, u64)> {
        let _guard = file.shared();
        let size = file.size()?;
        let end = range.end.min(size);
        let (mut at, mut stored) = (range.start, 0);
        while at < end {
            let index = PageIndex::of(at);
            let (is_data, pages) = file.has_storage(index, PageIndex::count(end).0 - index.0)?;
            if is_data == data {
                return Ok((Some(at), size));
            }
            if is_data {
                self.count(&mut stored, pages)?;
            }
            at = index.0.saturating_add(pages.max(1)).saturating_mul(PAGE_BYTES);
        }
        Ok((None, size))
    }

    /// Bounds a walk through a file: a block belongs to one page of one file, so no file has more pages in storage than
    /// the volume has blocks.
    fn count(&self, stored: &mut u64, pages: u64) -> Result<()> {
        *stored = stored.saturating_add(pages);
        if *stored > self.volume().geometry().blocks.into() {
            let what = "more pages in storage than the volume has";
            return Err(xip_ext2::Error::Corrupt { what, inode: self.inode.number.0, at: *stored }.into());
        }
        Ok(())
    }
}

fn tail_is_zero<M: Mapping<Error = xip_ext2::Error>>(file: &InPlace<M>) -> Result<bool> {
    let _guard = file.shared();
    let size = file.size()?;
    // The remainder is below 4096.
    let within = (size % PAGE_BYTES) as usize;
    if within == 0 {
        return Ok(true);
    }
    Ok(match file.mapping().get_xip_page(PageIndex::of(size), Create::No)? {
        Extent::Storage(run) => {
            let device = file.mapping().device();
            device.direct_access(run.first, 1).map_err(xip_ext2::Error::from)?.is_zero_from(within)
        }
        Extent::Hole(_) => true,
    })
}
