//! Bitmaps and counters, against what was found.

use super::tree::DIRECTORY;
use super::{Finding, Pass};
use crate::error::Error;
use crate::geometry::{ROOT, SUPER_AT};
use crate::raw::RawSuper;
use xip_core::Device;

impl<D: Device> Pass<'_, D> {
    pub(super) fn check_bitmaps(&mut self) -> Result<(), Error> {
        let (mut all_blocks, mut all_inodes) = (0, 0);
        for group in 0..self.geometry.groups {
            let place = self.group(group)?;
            let free_blocks = self.check_block_bitmap(group, place.block_bitmap)?;
            let (free_inodes, directories) = self.check_inode_bitmap(group, place.inode_bitmap)?;
            let (at, raw) = (self.geometry.descriptor_at(group), self.raw_group(group)?);
            for (field, offset, stored, found) in [
                ("bg_free_blocks_count", 12, raw.free_blocks(), free_blocks),
                ("bg_free_inodes_count", 14, raw.free_inodes(), free_inodes),
                ("bg_used_dirs_count", 16, raw.directories(), directories),
            ] {
                if found != u32::from(stored) {
                    self.found(Finding::Counter { field, group: Some(group), stored: stored.into(), found });
                    // A group has at most 8 inodes or blocks for each byte of a block.
                    self.mend(at + offset, &u16::try_from(found).unwrap_or(u16::MAX).to_le_bytes())?;
                }
            }
            all_blocks += free_blocks;
            all_inodes += free_inodes;
        }
        let mut raw = RawSuper::default();
        self.device.read(SUPER_AT, &mut raw.0)?;
        for (field, offset, stored, found) in [
            ("s_free_blocks_count", 12, raw.free_blocks(), all_blocks),
            ("s_free_inodes_count", 16, raw.free_inodes(), all_inodes),
        ] {
            if found != stored {
                self.found(Finding::Counter { field, group: None, stored, found });
                self.mend(SUPER_AT + offset, &found.to_le_bytes())?;
            }
        }
        Ok(())
    }

    /// How many blocks of a group are free.
    fn check_block_bitmap(&mut self, group: u32, bitmap: u32) -> Result<u32, Error> {
        let range = self.geometry.group_blocks(group);
        let len = range.end - range.start;
        let first = group * self.geometry.blocks_per_group / 8;
        let (mut free, mut leaked, mut padded) = (0, None, true);
        let mut bytes = [0; 4096];
        let bytes = &*self.read(bitmap, &mut bytes)?;
        for (n, &stored) in (0u32..).zip(bytes) {
            // Bits of blocks that there are; those past the end are set.
            let valid = valid_bits(len, n);
            let used = if valid == 0 { 0xff } else { self.memory.claimed.byte((first + n) as usize) | !valid };
            free += used.count_zeros();
            padded &= stored | valid == 0xff;
            self.compare("block", bitmap, (n, stored, used, valid), range.start, &mut leaked)?;
        }
        if !padded {
            self.found(Finding::Padding { what: "block", group });
        }
        if let Some((first, count)) = leaked {
            self.found(Finding::LeakedBlocks { first, count });
        }
        Ok(free)
    }

    /// How many inodes of a group are free, and how many are directories.
    fn check_inode_bitmap(&mut self, group: u32, bitmap: u32) -> Result<(u32, u32), Error> {
        let first = group * self.geometry.inodes_per_group + 1;
        let (mut free, mut directories, mut padded) = (0, 0, true);
        let mut bytes = [0; 4096];
        let bytes = &*self.read(bitmap, &mut bytes)?;
        for (n, &stored) in (0u32..).zip(bytes) {
            let valid = valid_bits(self.geometry.inodes_per_group, n);
            let mut used = !valid;
            for bit in (0..8).filter(|bit| valid & 1 << bit != 0) {
                let number = first + 8 * n + bit;
                let kind = self.memory.kind(number);
                if kind != 0 || number < self.geometry.first_inode {
                    used |= 1 << bit;
                }
                if kind == DIRECTORY && (number == ROOT || number >= self.geometry.first_inode) {
                    directories += 1;
                }
            }
            free += used.count_zeros();
            padded &= stored | valid == 0xff;
            self.compare("inode", bitmap, (n, stored, used, valid), first, &mut None)?;
        }
        if !padded {
            self.found(Finding::Padding { what: "inode", group });
        }
        Ok((free, directories))
    }

    /// Compares byte `n` of a bitmap with what was found. Blocks that are leaked are gathered to runs.
    fn compare(
        &mut self,
        what: &'static str,
        bitmap: u32,
        (n, stored, used, valid): (u32, u8, u8, u8),
        first: u32,
        leaked: &mut Option<(u32, u32)>,
    ) -> Result<(), Error> {
        if stored == used {
            return Ok(());
        }
        for bit in (0..8).filter(|bit| (stored ^ used) & valid & 1 << bit != 0) {
            let number = first + 8 * n + bit;
            if used & 1 << bit != 0 {
                self.found(Finding::NotMarked { what, number });
            } else if what == "inode" {
                self.found(Finding::LeakedInode { inode: number });
            } else {
                match leaked {
                    Some((first, count)) if *first + *count == number => *count += 1,
                    _ => {
                        if let Some((first, count)) = leaked.replace((number, 1)) {
                            self.found(Finding::LeakedBlocks { first, count });
                        }
                    }
                }
            }
        }
        self.mend(self.geometry.byte(bitmap) + u64::from(n), &[used])
    }
}

/// Which bits of byte `n` of a bitmap stand for something, of which there are `len`.
fn valid_bits(len: u32, n: u32) -> u8 {
    match len.saturating_sub(8 * n) {
        8.. => 0xff,
        left => (1 << left) - 1,
    }
}
