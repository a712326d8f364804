//! The bytes of files: read, written, made room for, copied, made durable.

use super::{Caller, Live, number};
use crate::tree::Errno;
use xip::Error;

/// How much one request copies from file to file: the kernel asks again for the rest.
const MOST_COPIED: usize = 4 << 20;

/// What becomes of a range of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Space {
    /// It gets storage.
    Allocate,
    /// It loses it.
    Punch,
    /// It has storage and is zeros.
    Zero,
}

impl Live {
    /// Reads into `to`; how many bytes.
    pub(crate) fn read(&self, id: u64, to: &mut [u8], offset: u64) -> Result<usize, Errno> {
        let node = self.nodes.get(id)?;
        let read = node.file(&self.volume, true).and_then(|file| {
            if file.has_hole(offset, to.len() as u64)? {
                node.shown().add(offset, to.len() as u64);
            }
            file.read_at(to, offset)
        });
        read.map_err(errno)
    }

    /// Writes; how many bytes, fewer than all when space ends. Set-id bits go unless `keep_set_id`.
    pub(crate) fn write(&self, id: u64, from: &[u8], offset: u64, keep_set_id: bool) -> Result<usize, Errno> {
        let node = self.nodes.get(id)?;
        node.file(&self.volume, keep_set_id).and_then(|file| file.write_at(from, offset)).map_err(errno)
    }

    /// Sets the size. Set-id bits go, unless root asks: whether the caller may keep them (`CAP_FSETID`) the kernel says with the
    /// request, but `fuser` does not pass it on.
    pub(super) fn truncate(&self, id: u64, size: u64, caller: Caller) -> Result<(), Errno> {
        let node = self.nodes.get(id)?;
        node.file(&self.volume, caller.uid == 0).and_then(|file| file.set_len(size)).map_err(errno)?;
        node.shown().cut(size);
        Ok(())
    }

    /// Changes what storage a range has. Of set-id bits see [`Live::set_attributes`].
    pub(crate) fn space(&self, id: u64, (offset, len): (u64, u64), what: Space, keep_size: bool) -> Result<(), Errno> {
        let node = self.nodes.get(id)?;
        let done = node.file(&self.volume, true).and_then(|file| match what {
            Space::Allocate => file.allocate(offset, len, keep_size),
            Space::Punch => file.punch_hole(offset, len),
            Space::Zero => file.zero_range(offset, len, keep_size),
        });
        done.map_err(errno)
    }

    /// `SEEK_DATA` or `SEEK_HOLE`. Holes that the kernel has in its page cache count as data.
    pub(crate) fn seek(&self, id: u64, offset: u64, data: bool) -> Result<Option<u64>, Errno> {
        let node = self.nodes.get(id)?;
        let file = node.file(&self.volume, true).map_err(errno)?;
        let (size, shown) = (file.len(), node.shown());
        if offset >= size {
            return Ok(None);
        }
        if data {
            let stored = file.seek_data(offset).map_err(errno)?.unwrap_or(size);
            let kept = shown.from(offset).map_or(size, |range| range.start.max(offset));
            return Ok(Some(stored.min(kept)).filter(|&at| at < size));
        }
        let mut at = offset;
        loop {
            let hole = file.seek_hole(at).map_err(errno)?.unwrap_or(size);
            match shown.from(hole) {
                Some(range) if range.start <= hole && hole < size => at = range.end,
                _ => return Ok(Some(hole.min(size))),
            }
        }
    }

    /// Copies from one file to another, or within one; how many bytes. Of set-id bits see [`Live::set_attributes`].
    pub(crate) fn copy(&self, from: (u64, u64), to: (u64, u64), len: u64) -> Result<usize, Errno> {
        let (source, target) = (self.nodes.get(from.0)?, self.nodes.get(to.0)?);
        let copied = source.file(&self.volume, true).and_then(|source| {
            let target = target.file(&self.volume, true)?;
            let left = source.len().saturating_sub(from.1).min(len);
            let mut bytes = vec![0; usize::try_from(left).unwrap_or(MOST_COPIED).min(MOST_COPIED)];
            let count = source.read_at(&mut bytes, from.1)?;
            if count == 0 { Ok(0) } else { target.write_at(&bytes[..count], to.1) }
        });
        copied.map_err(errno)
    }

    /// `fsync` of a file or directory. What is stored is in the image already; this waits until the image is on its disk.
    pub(crate) fn sync(&self, id: u64) -> Result<(), Errno> {
        number(id)?;
        self.volume.sync().map_err(errno)
    }
}

#[allow(clippy::needless_pass_by_value)] // For `map_err`.
fn errno(error: Error) -> Errno {
    error.errno()
}
