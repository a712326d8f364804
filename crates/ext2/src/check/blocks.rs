//! The blocks of an inode: each belongs to it alone, and lies before its end.

use super::{Finding, Pass};
use crate::error::Error;
use crate::geometry::Geometry;
use crate::raw::{INODE_BLOCKS, RawInode, bytes_at};
use xip_core::Device;

/// What a walk over the blocks of an inode does and finds.
pub(super) struct Walk<'f, 'a, D> {
    pub(super) inode: u32,
    /// Pages up to here may have storage.
    pub(super) limit: u64,
    /// What lies beyond must be zeros, or it is no leftover of a crash.
    pub(super) new_only: bool,
    /// Called for each block of data, in order.
    #[allow(clippy::type_complexity)]
    pub(super) each: &'f mut dyn FnMut(&mut Pass<'a, D>, u64, u32) -> Result<(), Error>,
    /// Blocks claimed, those of pointers too.
    pub(super) blocks: u64,
    /// There is storage beyond the limit.
    pub(super) beyond: bool,
}

impl<'a, D: Device> Pass<'a, D> {
    /// Blocks of the format belong to no file.
    pub(super) fn claim_format(&mut self) -> Result<(), Error> {
        for group in 0..self.geometry.groups {
            let range = self.geometry.group_blocks(group);
            let place = self.group(group)?;
            let head = range.start..range.start + self.geometry.head_of(group);
            let table = place.inode_table..place.inode_table + self.geometry.inode_table_blocks();
            for block in head.chain(table).chain([place.block_bitmap, place.inode_bitmap]) {
                let bit = self.bit(block);
                self.memory.claimed.set(bit);
            }
        }
        Ok(())
    }

    /// The number of a block among those of the groups.
    fn bit(&self, block: u32) -> u32 {
        block - self.geometry.first_data_block
    }

    /// Whether a block can be this inode's, and was nobody's until now.
    pub(super) fn claim(&mut self, block: u32, inode: u32) -> bool {
        if !self.geometry.is_data(block) {
            self.damage("a block beyond the volume", inode, block.into());
            return false;
        }
        let bit = self.bit(block);
        if !self.memory.claimed.set(bit) {
            self.found(Finding::TwoOwners { block, inode });
            return false;
        }
        true
    }

    pub(super) fn walk(&mut self, raw: &RawInode, walk: &mut Walk<'_, 'a, D>) -> Result<(), Error> {
        let at = self.inode_at(walk.inode)? + INODE_BLOCKS as u64;
        let mut start = 0;
        for (slot, depth) in (0..12).map(|slot| (slot, 0)).chain([(12, 1), (13, 2), (14, 3)]) {
            self.walk_tree((at + 4 * slot as u64, raw.block(slot)), depth, start, walk)?;
            start += pages_of(&self.geometry, depth);
        }
        if walk.beyond {
            self.found(Finding::BeyondEnd { inode: walk.inode });
        }
        Ok(())
    }

    /// What the pointer at `pointer_at` leads to, `depth` blocks of pointers deep, for pages from `start` on.
    fn walk_tree(
        &mut self,
        (pointer_at, block): (u64, u32),
        depth: u32,
        start: u64,
        walk: &mut Walk<'_, 'a, D>,
    ) -> Result<(), Error> {
        if block == 0 {
            return Ok(());
        }
        if start >= walk.limit {
            if !self.geometry.is_data(block) {
                self.damage("a block beyond the volume", walk.inode, block.into());
            } else if walk.new_only && !self.is_new(block, depth)? {
                self.damage("blocks beyond the end", walk.inode, block.into());
            }
            walk.beyond = true;
            return self.mend(pointer_at, &[0; 4]);
        }
        if !self.claim(block, walk.inode) {
            return Ok(());
        }
        walk.blocks += 1;
        if depth == 0 {
            return (walk.each)(self, start, block);
        }
        let mut bytes = [0; 4096];
        let bytes = self.read(block, &mut bytes)?;
        let (mut at, mut start) = (self.geometry.byte(block), start);
        for pointer in bytes.as_chunks().0 {
            self.walk_tree((at, u32::from_le_bytes(*pointer)), depth - 1, start, walk)?;
            at += 4;
            start += pages_of(&self.geometry, depth - 1);
        }
        Ok(())
    }

    /// Whether a block was taken and has nothing in it; blocks of pointers: that lead to one such block.
    fn is_new(&self, mut block: u32, depth: u32) -> Result<bool, Error> {
        let mut bytes = [0; 4096];
        for _ in 0..depth {
            let bytes = self.read(block, &mut bytes)?;
            let mut pointers = bytes.as_chunks().0.iter().map(|pointer| u32::from_le_bytes(*pointer));
            let first = pointers.find(|&pointer| pointer != 0);
            match first {
                None => return Ok(true),
                Some(next) if self.geometry.is_data(next) && pointers.all(|pointer| pointer == 0) => block = next,
                Some(_) => return Ok(false),
            }
        }
        Ok(self.read(block, &mut bytes)?.iter().all(|&byte| byte == 0))
    }

    /// The first block of a file, where it has one that can be read.
    pub(super) fn first_block(&self, raw: &RawInode) -> Option<u32> {
        Some(raw.block(0)).filter(|&block| self.geometry.is_data(block))
    }

    /// The storage of page `n`, found as the kernel does; `None` for a hole and for what is no block.
    pub(super) fn block_of(&self, raw: &RawInode, n: u32) -> Result<Option<u32>, Error> {
        let pointers = u64::from(self.geometry.block_size / 4);
        let mut rest = u64::from(n);
        let mut slot = None;
        if rest < 12 {
            slot = Some((n as usize, 0));
        } else {
            rest -= 12;
            for depth in 1..=3 {
                let pages = pages_of(&self.geometry, depth);
                if rest < pages {
                    slot = Some((11 + depth as usize, depth));
                    break;
                }
                rest -= pages;
            }
        }
        let Some((slot, depth)) = slot else { return Ok(None) };
        let mut block = raw.block(slot);
        for level in (0..depth).rev() {
            if !self.geometry.is_data(block) {
                return Ok(None);
            }
            let within = rest / pages_of(&self.geometry, level) % pointers;
            let mut bytes = [0; 4];
            self.device.read(self.geometry.byte(block) + 4 * within, &mut bytes)?;
            block = u32::from_le_bytes(bytes_at(&bytes, 0));
        }
        Ok(self.geometry.is_data(block).then_some(block))
    }
}

/// Pages that a pointer stands for, `depth` blocks of pointers above them.
fn pages_of(geometry: &Geometry, depth: u32) -> u64 {
    u64::from(geometry.block_size / 4).pow(depth)
}
