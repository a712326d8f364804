//! The file operations of the old `mm/filemap_xip.c`, by the rules of contract 3: straight from and to storage.
//!
//! Every operation takes the file's lock once, for the whole call, so a vectored operation is one operation, and a read
//! sees a write wholly or not at all.

use crate::error::Error;
use crate::mapping::{Host, InPlace, Mapping, Pages, Piece};
use crate::page::{PAGE_BYTES, PageIndex};
pub use crate::space::{fallocate, punch_hole, seek_data, seek_hole, truncate, truncate_as, zero_range};

/// The most segments of one vectored operation (`IOV_MAX`).
pub const MAX_SEGMENTS: usize = 1024;

/// What becomes durable before a write returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Durable {
    /// Nothing in particular.
    #[default]
    No,
    /// The data and what is needed to find it: `O_DSYNC`.
    Data,
    /// All of the inode too: `O_SYNC`.
    All,
}

/// How a write is done, beside where and what.
#[derive(Clone, Copy, Debug)]
pub struct Writer {
    /// Write at the end, whatever the offset: `O_APPEND`. The size is taken under the lock.
    pub append: bool,
    /// The caller may keep set-id bits (`CAP_FSETID`).
    pub keep_set_id: bool,
    /// No byte at or beyond this offset: `RLIMIT_FSIZE`.
    pub limit: u64,
    /// `O_SYNC`, `O_DSYNC`.
    pub durable: Durable,
}

impl Default for Writer {
    fn default() -> Self {
        Self { append: false, keep_set_id: false, limit: u64::MAX, durable: Durable::No }
    }
}

/// Reads at `offset` into `to`; how many bytes: 0 at or past the end. Progress beats an error.
///
/// # Errors
/// The file system's, when nothing was read.
#[inline]
pub fn read<F: Pages>(file: &F, offset: u64, to: &mut [u8]) -> Result<usize, F::Error> {
    let guard = file.shared();
    // Sampled once: contract 3, read.
    let size = file.size()?;
    let done = read_locked(file, size, offset, to)?;
    drop(guard);
    if done != 0 {
        file.accessed();
    }
    Ok(done)
}

/// Reads at `offset` into one segment after the other, as one operation.
///
/// # Errors
/// `EINVAL` for more than 1024 segments or a total over `isize::MAX`; the file system's, when nothing was read.
pub fn readv<F: Pages>(file: &F, offset: u64, to: &mut [&mut [u8]]) -> Result<usize, F::Error> {
    check_segments(to.len(), to.iter().map(|s| s.len()))?;
    let guard = file.shared();
    let size = file.size()?;
    let mut done = 0usize;
    for segment in to {
        match read_locked(file, size, offset.saturating_add(done as u64), segment) {
            Ok(count) => {
                done += count;
                if count < segment.len() {
                    break;
                }
            }
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    drop(guard);
    if done != 0 {
        file.accessed();
    }
    Ok(done)
}

#[inline]
fn read_locked<F: Pages>(file: &F, size: u64, offset: u64, to: &mut [u8]) -> Result<usize, F::Error> {
    let left = usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX);
    // Never a byte of `to` beyond the end of the file, whatever stands in the rest of its last page.
    let want = to.len().min(left);
    let mut done = 0;
    while done < want {
        match file.copy_out(offset + done as u64, &mut to[done..want]) {
            Ok(count) => done += count,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done)
}

/// Writes `from` at `offset`; how many bytes. Short when space or the limit ends it.
///
/// # Errors
/// `EFBIG` at or past the limit, `ENOSPC`, and the file system's, when nothing was written.
pub fn write<F: Pages>(file: &F, offset: u64, from: &[u8], how: &Writer) -> Result<usize, F::Error> {
    writev(file, offset, &[from], how)
}

/// Writes one segment after the other at `offset`, as one operation.
///
/// # Errors
/// As [`write()`], and `EINVAL` for more than 1024 segments or a total over `isize::MAX`.
#[inline]
pub fn writev<F: Pages>(file: &F, offset: u64, from: &[&[u8]], how: &Writer) -> Result<usize, F::Error> {
    Ok(writev_ending(file, offset, from, how)?.0)
}

/// As [`writev`], and where in the file it ended: what only the operation itself knows of a file that is appended to.
///
/// # Errors
/// As [`writev`].
pub fn writev_ending<F: Pages>(file: &F, offset: u64, from: &[&[u8]], how: &Writer) -> Result<(usize, u64), F::Error> {
    let total = check_segments(from.len(), from.iter().map(|s| s.len()))?;
    if total == 0 {
        return Ok((0, offset));
    }
    let _guard = file.exclusive();
    let old_size = file.size()?;
    let start = if how.append { old_size } else { offset };
    let limit = how.limit.min(file.largest());
    if start >= limit {
        return Err(Error::TooLarge.into());
    }
    let want = usize::try_from(limit - start).unwrap_or(usize::MAX).min(total);

    file.will_change(how.keep_set_id)?;
    zero_tail(file, old_size, start)?;

    let mut done = 0;
    let mut failure = None;
    'all: for segment in from {
        let segment = &segment[..segment.len().min(want - done)];
        let mut at = 0;
        while at < segment.len() {
            match file.copy_in(start + done as u64, &segment[at..]) {
                Ok(count) => {
                    at += count;
                    done += count;
                }
                Err(error) => {
                    failure = Some(error);
                    break 'all;
                }
            }
        }
    }
    let end = start + done as u64;
    if end > old_size && done != 0 {
        // After the data: no one sees a size whose bytes are not there yet.
        if let Err(error) = file.publish_size(end) {
            // Beyond the end no one would find it.
            let _ = file.free_from(PageIndex::count(old_size));
            return Err(error);
        }
    }
    match failure {
        // What got no bytes got no storage either, so there is nothing to give back.
        Some(error) if done == 0 => return Err(error),
        _ => {}
    }
    finish(file, how)?;
    Ok((done, end))
}

/// The end of every operation that changes bytes: what its caller, and persistent storage, ask to be durable.
#[inline]
pub(crate) fn finish<F: Host>(file: &F, how: &Writer) -> Result<(), F::Error> {
    match how.durable {
        Durable::No => file.settle(),
        Durable::Data => file.sync(true),
        Durable::All => file.sync(false),
    }
}

/// Gives `sink` the storage of `[offset, offset + count)` piece by piece, as far as the file goes, until it takes less
/// than it is given: no byte passes through a buffer of ours. Returns how many bytes it took.
///
/// The file's lock is held, shared, while `sink` runs, so that the storage it is given stays the file's: `sink` must not
/// change this file, nor wait for someone who does.
///
/// # Errors
/// The file system's or the sink's, when nothing was sent.
pub fn sendfile<M: Mapping>(
    file: &InPlace<M>,
    offset: u64,
    count: usize,
    mut sink: impl FnMut(Piece<'_>) -> Result<usize, M::Error>,
) -> Result<usize, M::Error> {
    let guard = file.shared();
    let left = usize::try_from(file.size()?.saturating_sub(offset)).unwrap_or(usize::MAX);
    let want = count.min(left);
    let mut done = 0;
    while done < want {
        let step = file.piece(offset + done as u64, want - done).and_then(|piece| Ok((piece.len(), sink(piece)?)));
        match step {
            Ok((given, taken)) => {
                done += taken.min(given);
                if taken < given {
                    break;
                }
            }
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    drop(guard);
    if done != 0 {
        file.accessed();
    }
    Ok(done)
}

/// Contract 3, tail rule: before the size grows from `old_size` to `new_size`, zero what stores through a mapping may
/// have left between the old end of file and the end of its page.
pub(crate) fn zero_tail<F: Pages>(file: &F, old_size: u64, new_size: u64) -> Result<(), F::Error> {
    if old_size.is_multiple_of(PAGE_BYTES) || new_size <= old_size {
        return Ok(());
    }
    file.zero_within_page(old_size, new_size.min(page_end(old_size)))
}

/// The end of the page that holds byte `offset`.
pub(crate) fn page_end(offset: u64) -> u64 {
    (offset | (PAGE_BYTES - 1)).saturating_add(1)
}

fn check_segments(count: usize, lens: impl Iterator<Item = usize>) -> Result<usize, Error> {
    if count > MAX_SEGMENTS {
        return Err(Error::Invalid("more than 1024 segments"));
    }
    lens.into_iter()
        .try_fold(0usize, usize::checked_add)
        .filter(|&total| isize::try_from(total).is_ok())
        .ok_or(Error::Invalid("the segments are longer than a call can count"))
}
