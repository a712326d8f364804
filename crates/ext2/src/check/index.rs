//! The index of a directory: every leaf is reached once, and holds the names that its place says.

use super::Pass;
use crate::dir::entry::Block;
use crate::dir::hash::Hasher;
use crate::error::Error;
use crate::raw::{RawInode, bytes_at};
use core::ops::Range;
use xip_core::Device;

/// Where the root's own fields begin, its table, and that of a block below it.
const INFO: usize = 24;
const ROOT: usize = 32;
const NODE: usize = 8;
const ELEMENT: usize = 8;
/// Of a block's number the upper four bits are for something else, as Linux has it.
const BLOCK: u32 = 0x0fff_ffff;

/// A directory with an index.
struct Index<'r> {
    directory: u32,
    raw: &'r RawInode,
    blocks: u32,
    hasher: Hasher,
    /// Blocks that were reached.
    reached: u32,
}

impl<D: Device> Pass<'_, D> {
    pub(super) fn check_index(&mut self, directory: u32, raw: &RawInode, blocks: u32) -> Result<(), Error> {
        let mut bytes = [0; 4096];
        let Some(first) = self.first_block(raw) else { return Ok(()) };
        let bytes = &*self.read(first, &mut bytes)?;
        let [version, info_len, levels, flags] = bytes_at(bytes, INFO + 4);
        let rest = bytes_at::<2>(bytes, 16).map(usize::from);
        let hasher = Hasher::new(version, self.geometry.unsigned_hash, self.geometry.hash_seed);
        let whole = rest[0] | rest[1] << 8 == bytes.len() - 12 && bytes_at(bytes, INFO) == [0; 4];
        let Some(hasher) = hasher.filter(|_| whole && info_len == 8 && levels <= 1 && flags & 1 == 0) else {
            self.damage("the root of the directory's index", directory, INFO as u64);
            return Ok(());
        };
        self.memory.attributes.clear(blocks);
        let mut index = Index { directory, raw, blocks, hasher, reached: 1 };
        self.check_table_of(&mut index, 0, (bytes, ROOT), 0..u32::MAX, u32::from(levels))?;
        if index.reached != blocks {
            self.damage("the directory's index does not reach all blocks", directory, index.reached.into());
        }
        self.memory.attributes.clear(blocks);
        Ok(())
    }

    /// A table, whose names have hashes in `hashes`, `levels` above the leaves' table.
    fn check_table_of(
        &mut self,
        index: &mut Index<'_>,
        number: u32,
        (bytes, offset): (&[u8], usize),
        hashes: Range<u32>,
        levels: u32,
    ) -> Result<(), Error> {
        let at = u64::from(number) * bytes.len() as u64 + offset as u64;
        let [limit, count] = [0, 2].map(|at| usize::from(u16::from_le_bytes(bytes_at(bytes, offset + at))));
        let room = (bytes.len() - offset) / ELEMENT;
        if limit != room || count == 0 || count > limit {
            self.damage("the counts of the directory's index", index.directory, at);
            return Ok(());
        }
        let word = |n: usize| u32::from_le_bytes(bytes_at(bytes, offset + 4 * n));
        for n in 0..count {
            let from = if n == 0 { hashes.start } else { word(2 * n) };
            let to = if n + 1 == count { hashes.end } else { word(2 * n + 2) };
            let below = word(2 * n + 1) & BLOCK;
            if from > to || n > 1 && from <= word(2 * n - 2) || from < hashes.start || to > hashes.end {
                self.damage("the hashes of the directory's index are not in order", index.directory, at);
                return Ok(());
            }
            if below == 0 || below >= index.blocks || !self.memory.attributes.set(below) {
                self.damage(
                    "the directory's index leads to a block twice, or out of the directory",
                    index.directory,
                    at,
                );
                continue;
            }
            index.reached += 1;
            let Some(block) = self.block_of(index.raw, below)? else { continue };
            let mut bytes = [0; 4096];
            let bytes = &*self.read(block, &mut bytes)?;
            if levels == 0 {
                self.check_leaf(index, below, bytes, from..to);
                continue;
            }
            // One free entry, which hides the table.
            let len = usize::from(u16::from_le_bytes(bytes_at(bytes, 4)));
            if bytes_at(bytes, 0) != [0; 4] || len != bytes.len() {
                self.damage("a block of the directory's index is none", index.directory, below.into());
                continue;
            }
            self.check_table_of(index, below, (bytes, NODE), from..to, levels - 1)?;
        }
        Ok(())
    }

    fn check_leaf(&mut self, index: &Index<'_>, number: u32, bytes: &[u8], hashes: Range<u32>) {
        let view = Block { bytes, number, directory: index.directory, max_inode: self.geometry.inodes };
        // What is wrong with the entries themselves was said before.
        for entry in view.entries().map_while(Result::ok).filter(|entry| entry.inode != 0) {
            let hash = index.hasher.hash(entry.name);
            // An odd hash says that names of this hash stand in the block before, too.
            let after = hash >= hashes.end && !(hashes.end & 1 == 1 && hash == hashes.end & !1);
            if hash < hashes.start & !1 || after {
                let at = u64::from(number) * bytes.len() as u64 + entry.at as u64;
                self.damage("a name in the wrong block of the directory's index", index.directory, at);
            }
        }
    }
}
