//! The file operations about space, by the rules of contract 3: truncate, fallocate, punch hole, zero range, and where
//! data and holes are. As those of [`ops`](crate::ops), each takes the file's lock once, for the whole call.

use crate::error::Error;
use crate::mapping::{Host, Pages};
use crate::ops::{Writer, finish, page_end, zero_tail};
use crate::page::{PAGE_BYTES, PageIndex};
use core::ops::Range;

/// Sets the size. What is cut off is gone; what is added reads as zeros and needs no storage.
///
/// # Errors
/// As [`truncate_as`].
pub fn truncate<F: Pages>(file: &F, size: u64) -> Result<(), F::Error> {
    truncate_as(file, size, &Writer::default())
}

/// As [`truncate`], by a caller who may keep set-id bits, has a limit, or wants it durable.
///
/// # Errors
/// `EFBIG` past the largest size, or when the file would grow past the limit; the file system's.
pub fn truncate_as<F: Pages>(file: &F, size: u64, how: &Writer) -> Result<(), F::Error> {
    let _guard = file.exclusive();
    let old_size = file.size()?;
    if size > file.largest() || size > old_size && size > how.limit {
        return Err(Error::TooLarge.into());
    }
    // Before the tail is zeroed, which is a change of bytes; all else waits for the tail's error.
    file.drop_set_id(how.keep_set_id)?;
    if size <= old_size {
        // The order of contract 3: the tail of the last page first, and its error reported; then the size; then free. Also
        // for a size that stays: a crash may have left storage beyond it.
        if !size.is_multiple_of(PAGE_BYTES) {
            file.zero_within_page(size, page_end(size))?;
        }
        file.will_change(how.keep_set_id)?;
        file.shrink(size)?;
    } else {
        zero_tail(file, old_size, size)?;
        file.will_change(how.keep_set_id)?;
        file.publish_size(size)?;
    }
    finish(file, how)
}

/// Gives storage to all pages of `[offset, offset + len)`, which then reads as before, or as zeros where there was
/// nothing. The file grows to the end of it, unless `keep_size`.
///
/// # Errors
/// `EINVAL` for no bytes; `EFBIG` past the largest size or the limit; no space, and then a file that would have grown has
/// its old size; the file system's. `EOPNOTSUPP` for storage beyond the end of a file that keeps its size: the format
/// (ext2) has no way to say that it is meant, and `e2fsck` would take it for the file's.
pub fn fallocate<F: Pages>(file: &F, offset: u64, len: u64, keep_size: bool, how: &Writer) -> Result<(), F::Error> {
    give_storage(file, offset, len, keep_size, how, |_| Ok(()))
}

/// Makes `[offset, offset + len)` a hole, as far as the file goes: whole pages lose their storage, parts of pages are
/// zeroed. The size stays.
///
/// # Errors
/// `EINVAL` for no bytes; the file system's.
pub fn punch_hole<F: Pages>(file: &F, offset: u64, len: u64, how: &Writer) -> Result<(), F::Error> {
    let end = range_end(offset, len)?;
    let _guard = file.exclusive();
    let size = file.size()?;
    let end = if end >= size { page_end(size.saturating_sub(1)) } else { end };
    file.will_change(how.keep_set_id)?;
    let (first, last) = (offset.div_ceil(PAGE_BYTES), end / PAGE_BYTES);
    if offset < end {
        zero_edges(file, offset, end)?;
    }
    if first < last {
        file.free_pages(PageIndex(first), last - first)?;
    }
    finish(file, how)
}

/// Makes `[offset, offset + len)` zeros with storage; the file grows to the end of it, unless `keep_size`.
///
/// # Errors
/// As [`fallocate`].
pub fn zero_range<F: Pages>(file: &F, offset: u64, len: u64, keep_size: bool, how: &Writer) -> Result<(), F::Error> {
    give_storage(file, offset, len, keep_size, how, |mut range| {
        while !range.is_empty() {
            let index = PageIndex::of(range.start);
            let left = PageIndex::count(range.end).0 - index.0;
            let (storage, count) = file.has_storage(index, left)?;
            let stretch = range.end.min((index.0 + count.max(1)).saturating_mul(PAGE_BYTES));
            while storage && range.start < stretch {
                let to = page_end(range.start).min(stretch);
                file.zero_within_page(range.start, to)?;
                range.start = to;
            }
            range.start = stretch;
        }
        Ok(())
    })
}

/// What [`fallocate`] and [`zero_range`] have in common: storage for all of the range. `change` is given what of it is in
/// the file already, when nothing can be refused any more but by the storage.
fn give_storage<F: Pages>(
    file: &F,
    offset: u64,
    len: u64,
    keep_size: bool,
    how: &Writer,
    change: impl FnOnce(Range<u64>) -> Result<(), F::Error>,
) -> Result<(), F::Error> {
    let end = range_end(offset, len)?;
    let _guard = file.exclusive();
    let old_size = file.size()?;
    check_end(file, end, old_size, keep_size, how)?;
    file.will_change(how.keep_set_id)?;
    zero_tail(file, old_size, if keep_size { old_size } else { end })?;
    change(offset..end.min(old_size))?;
    allocate(file, offset, end, old_size)?;
    if end > old_size && !keep_size {
        file.publish_size(end)?;
    }
    finish(file, how)
}

/// The first byte at or after `offset` that has storage. The end of the file is no data.
///
/// # Errors
/// `ENXIO` when there is none, or `offset` is at or past the end; the file system's.
pub fn seek_data<F: Pages>(file: &F, offset: u64) -> Result<u64, F::Error> {
    seek(file, offset, true)?.ok_or(Error::NothingThere.into())
}

/// The first byte at or after `offset` that has no storage; the end of the file counts as a hole.
///
/// # Errors
/// `ENXIO` when `offset` is at or past the end; the file system's.
pub fn seek_hole<F: Pages>(file: &F, offset: u64) -> Result<u64, F::Error> {
    seek(file, offset, false)?.ok_or(Error::NothingThere.into())
}

fn seek<F: Pages>(file: &F, offset: u64, data: bool) -> Result<Option<u64>, F::Error> {
    let _guard = file.shared();
    let size = file.size()?;
    let mut at = offset;
    while at < size {
        let index = PageIndex::of(at);
        let (storage, count) = file.has_storage(index, PageIndex::count(size).0 - index.0)?;
        if storage == data {
            return Ok(Some(at));
        }
        at = (index.0 + count.max(1)).saturating_mul(PAGE_BYTES);
    }
    Ok((!data && offset < size).then_some(size))
}

fn range_end(offset: u64, len: u64) -> Result<u64, Error> {
    if len == 0 {
        return Err(Error::Invalid("a range of no bytes"));
    }
    offset.checked_add(len).ok_or(Error::TooLarge)
}

fn check_end<F: Host>(file: &F, end: u64, size: u64, keep_size: bool, how: &Writer) -> Result<(), F::Error> {
    if end > file.largest() || end > size && !keep_size && end > how.limit {
        return Err(Error::TooLarge.into());
    }
    if keep_size && PageIndex::count(end) > PageIndex::count(size) {
        return Err(Error::Unsupported("the format has no storage beyond the end of a file").into());
    }
    Ok(())
}

fn allocate<F: Pages>(file: &F, offset: u64, end: u64, old_size: u64) -> Result<(), F::Error> {
    let (mut index, last) = (PageIndex::of(offset).0, PageIndex::count(end).0);
    while index < last {
        match file.allocate(PageIndex(index), last - index) {
            Ok(count) => index += count.max(1),
            Err(error) => {
                // Beyond the end no one would find it.
                if PageIndex(last) > PageIndex::count(old_size) {
                    let _ = file.free_from(PageIndex::count(old_size));
                }
                return Err(error);
            }
        }
    }
    Ok(())
}

/// Zeros the parts of the first and the last page of `[from, to)` that are not whole pages.
fn zero_edges<F: Pages>(file: &F, from: u64, to: u64) -> Result<(), F::Error> {
    if !from.is_multiple_of(PAGE_BYTES) {
        file.zero_within_page(from, to.min(page_end(from)))?;
    }
    let last = to - to % PAGE_BYTES;
    if last < to && last >= from {
        file.zero_within_page(last, to)?;
    }
    Ok(())
}
