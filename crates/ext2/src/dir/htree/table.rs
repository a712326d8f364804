//! A table of an index: hashes and the blocks they lead to.

use super::super::DirBlocks;
use super::super::scan::{self, Bytes, Window};
use super::Slot;
use crate::error::Error;

/// Where the table of the root begins, and that of a block below it.
pub(super) const ROOT: usize = 32;
pub(super) const NODE: usize = 8;
/// Bytes of one element.
pub(super) const ELEMENT: usize = 8;

/// The most elements that a table can have.
pub(super) fn limit(block_size: usize, offset: usize) -> usize {
    (block_size - offset) / ELEMENT
}

/// A table, checked: its count is from 1 to its limit, and that is what the block has room for.
pub(super) struct Table<'a> {
    bytes: Window<'a>,
    pub(super) count: usize,
    offset: usize,
    block: u32,
    blocks: u32,
    directory: u32,
}

/// Gives `what` the table at `offset` of block `block` of the directory.
#[inline]
pub(super) fn with<B: DirBlocks, T>(
    blocks: &B,
    block: u32,
    offset: usize,
    what: impl FnOnce(Table<'_>) -> Result<T, Error>,
) -> Result<T, Error> {
    scan::with_window(blocks, block, |bytes| what(Table::check(blocks, block, offset, bytes)?))
}

/// Reads block `block` of the directory, and checks the table at `offset`.
pub(super) fn read<'a>(
    blocks: &impl DirBlocks,
    block: u32,
    offset: usize,
    bytes: &'a mut [u8; 4096],
) -> Result<Table<'a>, Error> {
    blocks.read(block, bytes)?;
    Table::check(blocks, block, offset, Window::Copy(&bytes[..blocks.block_size()]))
}

impl<'a> Table<'a> {
    fn check(blocks: &impl DirBlocks, block: u32, offset: usize, bytes: Window<'a>) -> Result<Self, Error> {
        let [stated, count] = [0, 2].map(|at| usize::from(u16::from_le_bytes(bytes.array(offset + at))));
        let table = Self { bytes, count, offset, block, blocks: blocks.count(), directory: blocks.ino() };
        if stated != limit(bytes.len(), offset) || count == 0 || count > stated {
            return Err(table.corrupt("the counts of a directory's index"));
        }
        Ok(table)
    }

    /// Bytes of the block that are not of the table.
    pub(super) fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        self.bytes.array(at)
    }

    fn corrupt(&self, what: &'static str) -> Error {
        let at = u64::from(self.block) * self.bytes.len() as u64 + self.offset as u64;
        Error::Corrupt { what, inode: self.directory, at }
    }

    #[inline]
    pub(super) fn hash(&self, n: usize) -> u32 {
        u32::from_le_bytes(self.bytes.array(self.offset + n * ELEMENT))
    }

    /// The block that an element leads to: one of the directory, not the root.
    pub(super) fn block(&self, n: usize) -> Result<u32, Error> {
        let block = u32::from_le_bytes(self.bytes.array(self.offset + n * ELEMENT + 4));
        if block == 0 || block >= self.blocks {
            return Err(self.corrupt("a directory's index leads out of the directory"));
        }
        Ok(block)
    }

    pub(super) fn slot(&self, at: usize) -> Slot {
        Slot { at, count: self.count, limit: limit(self.bytes.len(), self.offset) }
    }

    /// The last element whose hash is not above `hash`.
    pub(super) fn search(&self, hash: u32) -> Slot {
        let (mut low, mut high) = (0, self.count);
        while high - low > 1 {
            let middle = low.midpoint(high);
            if self.hash(middle) > hash {
                high = middle;
            } else {
                low = middle;
            }
        }
        self.slot(low)
    }
}

/// Puts limit and count at the start of a table.
pub(super) fn put_counts(to: &mut [u8], limit: usize, count: usize) {
    // A table has at most 511 elements.
    to[..2].copy_from_slice(&u16::try_from(limit).unwrap_or(u16::MAX).to_le_bytes());
    to[2..4].copy_from_slice(&u16::try_from(count).unwrap_or(u16::MAX).to_le_bytes());
}

/// Adds an element to a table with room, after the one at `slot`.
pub(super) fn insert_after(bytes: &mut [u8; 4096], offset: usize, slot: Slot, (hash, leads_to): (u32, u32)) {
    let at = offset + (slot.at + 1) * ELEMENT;
    let end = offset + slot.count * ELEMENT;
    bytes.copy_within(at..end, at + ELEMENT);
    bytes[at..at + 4].copy_from_slice(&hash.to_le_bytes());
    bytes[at + 4..at + 8].copy_from_slice(&leads_to.to_le_bytes());
    put_counts(&mut bytes[offset..], slot.limit, slot.count + 1);
}
