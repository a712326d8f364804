//! How blocks leave a file: cut off at its end, punched out of it, or all of them when the file itself goes.
//!
//! Rule 2 of contract 7: pointers are cleared, and that is durable, before the blocks they led to are free. Below a
//! pointer that is cleared nothing has to be: no one gets there any more, and no block of it is reused before it is free.

use crate::error::Error;
use crate::file::Blocks;
use crate::intent::Intent;
use crate::raw::{INODE_BLOCKS, RawInode, bytes_at};
use xip_core::{Device, Env, Freed, PageNo, Run};

/// Pointers that are looked at together.
const CHUNK: usize = 64;
/// Pointers in the inode: to data, and one each to one, two and three levels of pointers.
const ALL: usize = 15;
const DIRECT: usize = 12;

impl<D: Device, E: Env> Blocks<'_, D, E> {
    /// Makes `size`, which is not above the old one, the size, and takes what is beyond away. The size and the pointers in the
    /// inode change at once; for what is left in blocks of pointers a crash in between leaves blocks beyond the
    /// end, as leaks.
    pub(crate) fn cut(&self, size: u64) -> Result<(), Error> {
        let volume = self.volume;
        volume.check_writable()?;
        volume.env.moved(self.number.0);
        let first = size.div_ceil(volume.geometry.block_size.into());
        let old = volume.raw_inode_at(self.at)?;
        let mut new = old;
        new.set_size(size);
        let gone = self.clear_pointers(&mut new, first)?;
        let all_gone = new.0[INODE_BLOCKS..INODE_BLOCKS + 4 * ALL] == [0; 4 * ALL];
        if all_gone {
            let attributes = if new.attribute_block() != 0 { volume.geometry.block_size / 512 } else { 0 };
            new.set_blocks512(attributes);
        }
        let mut intent = Intent::new();
        intent.inode(self.at, &old, &new)?;
        volume.apply(volume.fence()?, &mut intent)?;
        volume.fence()?;
        let freed = self.drop_inode_pointers(&gone)?;
        if !all_gone {
            self.count_blocks(-freed)?;
            self.free_range(first, u64::MAX)?;
        }
        Ok(())
    }

    /// Takes all blocks of the dead inode `raw` away from it. Nothing leads to the inode, so any mixture of old and new
    /// is right; and when it is durable the blocks are free.
    pub(crate) fn drop_all(&self, raw: &mut RawInode) -> Result<(), Error> {
        let gone = self.clear_pointers(raw, 0)?;
        raw.set_blocks512(0);
        self.volume.write_raw_inode(self.at, raw)?;
        self.volume.fence()?;
        self.drop_inode_pointers(&gone).map(|_| ())
    }

    /// Makes holes of the blocks `[first, end)`.
    pub(crate) fn free_range(&self, first: u64, end: u64) -> Result<(), Error> {
        self.volume.check_writable()?;
        self.volume.env.moved(self.number.0);
        let inode = self.at + INODE_BLOCKS as u64;
        let mut freed = self.clear(inode, DIRECT as u64, 0, 0, first, end)?;
        let mut start = DIRECT as u64;
        for depth in 1..=3 {
            let slot = inode + 4 * (DIRECT as u64 + u64::from(depth) - 1);
            freed += self.clear(slot, 1, depth, start, first, end)?;
            start += self.pointers().pow(depth);
        }
        self.count_blocks(-freed)
    }

    /// Clears the pointers in the inode that lead only to blocks from `first` on: what they were.
    fn clear_pointers(&self, raw: &mut RawInode, first: u64) -> Result<[u32; ALL], Error> {
        let mut gone = [0; ALL];
        if raw.0[INODE_BLOCKS..INODE_BLOCKS + 4 * ALL] == [0; 4 * ALL] {
            return Ok(gone);
        }
        let mut start = 0;
        for (slot, gone) in gone.iter_mut().enumerate() {
            if start >= first {
                *gone = self.checked(raw.block(slot))?;
                raw.0[INODE_BLOCKS + 4 * slot..][..4].fill(0);
            }
            start += self.pointers().pow(depth_of(slot));
        }
        Ok(gone)
    }

    /// Frees what pointers led to that were in the inode; how many blocks.
    fn drop_inode_pointers(&self, gone: &[u32; ALL]) -> Result<i64, Error> {
        if *gone == [0; ALL] {
            return Ok(0);
        }
        let mut freed = self.drop_trees(&gone[..DIRECT], 0)?;
        for slot in DIRECT..ALL {
            freed += self.drop_trees(&gone[slot..=slot], depth_of(slot))?;
        }
        Ok(freed)
    }

    /// Makes holes of what belongs to the blocks `[first, end)` below `slots` pointers at `array`, each `depth` blocks of
    /// pointers above data; the first stands for blocks from `start` on. How many blocks became free.
    fn clear(&self, array: u64, slots: u64, depth: u32, start: u64, first: u64, end: u64) -> Result<i64, Error> {
        let span = self.pointers().pow(depth);
        let mut slot = first.saturating_sub(start) / span;
        let last = end.saturating_sub(start).div_ceil(span).min(slots);
        let mut freed = 0;
        while slot < last {
            let count = usize::try_from(last - slot).unwrap_or(CHUNK).min(CHUNK);
            let at = array + 4 * slot;
            let mut bytes = [0; 4 * CHUNK];
            self.volume.device.read(at, &mut bytes[..4 * count])?;
            let (mut gone, mut any) = ([0; CHUNK], false);
            for (n, pointer) in bytes[..4 * count].chunks_exact_mut(4).enumerate() {
                let block = self.checked(u32::from_le_bytes(bytes_at(pointer, 0)))?;
                let from = start + (slot + n as u64) * span;
                if block == 0 {
                } else if from >= first && from + span <= end {
                    gone[n] = block;
                    pointer.fill(0);
                    any = true;
                } else {
                    // At most two of them, at the edges.
                    freed +=
                        self.clear(self.volume.geometry.byte(block), self.pointers(), depth - 1, from, first, end)?;
                }
            }
            if any {
                self.volume.put(at, &bytes[..4 * count])?;
                self.volume.fence()?;
                freed += self.drop_trees(&gone[..count], depth)?;
            }
            slot += count as u64;
        }
        Ok(freed)
    }

    /// Frees the blocks of pointers that nobody leads to any more, and what is below them; how many blocks. Depth is at most
    /// 3, and a block of pointers that is met a second time is free by then, which is an error: that bounds the walk on
    /// any volume.
    fn drop_trees(&self, gone: &[u32], depth: u32) -> Result<i64, Error> {
        let mut freed = 0;
        if depth == 0 {
            let mut left = gone;
            while let [first, ..] = *left {
                let count = left.iter().zip(first..).take_while(|&(&block, next)| block == next).count();
                if first != 0 {
                    freed += self.give_back(first, u32::try_from(count).unwrap_or(1))?;
                    left = &left[count..];
                } else {
                    left = &left[1..];
                }
            }
            return Ok(freed);
        }
        for &block in gone.iter().filter(|&&block| block != 0) {
            let array = self.volume.geometry.byte(block);
            for chunk in 0..self.pointers() / CHUNK as u64 {
                let mut bytes = [0; 4 * CHUNK];
                self.volume.device.read(array + 4 * CHUNK as u64 * chunk, &mut bytes)?;
                let mut below = [0; CHUNK];
                for (below, pointer) in below.iter_mut().zip(bytes.chunks_exact(4)) {
                    *below = self.checked(u32::from_le_bytes(bytes_at(pointer, 0)))?;
                }
                freed += self.drop_trees(&below, depth - 1)?;
            }
            self.volume.free_blocks(block, 1)?;
            freed += 1;
        }
        Ok(freed)
    }

    /// Frees blocks of data, but for those that someone has pinned: they have left the file, and come back by
    /// [`Volume::free_run`](crate::Volume::free_run) (contract 6). How many blocks left the file.
    fn give_back(&self, first: u32, count: u32) -> Result<i64, Error> {
        let mut done = 0;
        while done < count {
            let run = Run { first: PageNo((first + done).into()), count: (count - done).into() };
            let part = |n: u64| u32::try_from(n.min(run.count)).unwrap_or(u32::MAX).max(1);
            done += match self.volume.env.freed(run) {
                Freed::Now(n) => {
                    self.volume.free_blocks(first + done, part(n))?;
                    part(n)
                }
                Freed::Later(n) => part(n),
            };
        }
        Ok(count.into())
    }
}

/// Blocks of pointers between the inode's pointer `slot` and data.
fn depth_of(slot: usize) -> u32 {
    match slot {
        12 => 1,
        13 => 2,
        14 => 3,
        _ => 0,
    }
}
