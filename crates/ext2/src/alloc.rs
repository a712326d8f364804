//! Bitmaps and counters: which blocks and inodes are free.
//!
//! What is allocated is *reserved* first: a [`Reservation`] gives its blocks back unless it is committed, so that a
//! failure between reserving and linking loses nothing (contract 2).
//!
//! Locks: a group's while its bitmap and counters change, then the volume's for its counters, never two groups'.

use crate::error::Error;
use crate::geometry::{FIRST_INODE, SUPER_AT};
use crate::inode::InodeNo;
use crate::volume::Volume;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use xip_core::{Device, Env, LockId, Run};

/// Blocks that were taken from the bitmap and belong to no file yet.
pub(crate) struct Reservation<'v, D: Device, E: Env> {
    volume: &'v Volume<D, E>,
    pub(crate) first: u32,
    pub(crate) count: u32,
}

impl<D: Device, E: Env> Reservation<'_, D, E> {
    /// Takes the last of several blocks away from it.
    pub(crate) fn split_last(&mut self) -> Option<Self> {
        self.count = self.count.checked_sub(1).filter(|&left| left > 0)?;
        Some(Self { volume: self.volume, first: self.first + self.count, count: 1 })
    }

    /// They are linked now.
    pub(crate) fn commit(self) {
        core::mem::forget(self);
    }
}

impl<D: Device, E: Env> Drop for Reservation<'_, D, E> {
    fn drop(&mut self) {
        // Best effort: what cannot be given back is leaked, which a check finds.
        let _ = self.volume.free_blocks(self.first, self.count);
    }
}

/// Where the first free bit of some bitmaps is at the earliest, so that a search need not begin at the start. A group's entry
/// is read and written under that group's lock; groups that share a place forget each other's, no more.
#[derive(Debug, Default)]
pub(crate) struct Hints {
    blocks: [AtomicU64; 32],
    inodes: [AtomicU64; 32],
}

/// One bitmap's hint.
#[derive(Clone, Copy)]
struct Hint<'a> {
    place: &'a AtomicU64,
    group: u32,
}

impl Hints {
    fn blocks(&self, group: u32) -> Hint<'_> {
        Hint { place: &self.blocks[group as usize % 32], group }
    }

    fn inodes(&self, group: u32) -> Hint<'_> {
        Hint { place: &self.inodes[group as usize % 32], group }
    }
}

impl Hint<'_> {
    /// No bit below this one is free.
    fn get(self) -> u32 {
        let value = self.place.load(Ordering::Relaxed).to_le_bytes();
        let [a, b, c, d, e, f, g, h] = value;
        if u32::from_le_bytes([e, f, g, h]) == self.group { u32::from_le_bytes([a, b, c, d]) } else { 0 }
    }

    fn set(self, bit: u32) {
        self.place.store(u64::from(self.group) << 32 | u64::from(bit), Ordering::Relaxed);
    }

    /// Bits were taken that a search from `from` on found first.
    fn taken(self, from: u32, bits: &Range<u32>) {
        if from <= self.get() {
            self.set(bits.end);
        }
    }

    fn freed(self, bit: u32) {
        if bit < self.get() {
            self.set(bit);
        }
    }
}

/// Which counter of a group descriptor; the superblock has one of the same meaning.
#[derive(Clone, Copy)]
enum Counter {
    Blocks,
    Inodes,
    Directories,
}

impl<D: Device, E: Env> Volume<D, E> {
    /// Takes up to `want` free blocks that follow each other, as near after `goal` as can be.
    pub(crate) fn reserve(&self, goal: u32, want: u32) -> Result<Reservation<'_, D, E>, Error> {
        self.check_writable()?;
        let geometry = &self.geometry;
        let goal = if geometry.is_data(goal) { goal } else { geometry.first_data_block + 1 };
        let goal_group = geometry.group_of_block(goal);
        // The goal's group from the goal on, every other group, and the goal's group once more from its start.
        for step in 0..=geometry.groups {
            let group = (goal_group + step) % geometry.groups;
            let range = geometry.group_blocks(group);
            let from = if step == 0 { goal - range.start } else { 0 };
            if let Some(taken) = self.take_bits(group, from, want)? {
                return Ok(Reservation {
                    volume: self,
                    first: range.start + taken.start,
                    count: taken.end - taken.start,
                });
            }
        }
        Err(Error::NoSpace)
    }

    fn take_bits(&self, group: u32, from: u32, want: u32) -> Result<Option<Range<u32>>, Error> {
        let _guard = self.env.exclusive(LockId::Group(group));
        if self.group_counter(group, Counter::Blocks)?.1 == 0 {
            return Ok(None);
        }
        let descriptor = self.group(group)?;
        let bitmap = self.geometry.byte(descriptor.block_bitmap);
        let blocks = self.geometry.group_blocks(group);
        let len = blocks.end - blocks.start;
        let hint = self.hints.blocks(group);
        let from = from.max(hint.get());
        let Some(mut start) = self.find_zero(bitmap, from, len)? else { return Ok(None) };
        // Only a damaged bitmap calls metadata free; it is stepped over, not handed out.
        while descriptor.owns(&self.geometry, group, blocks.start + start) {
            start = match self.find_zero(bitmap, start + 1, len)? {
                Some(next) => next,
                None => return Ok(None),
            };
        }
        let limit = start.saturating_add(want.max(1)).min(len);
        let mut end = if limit == start + 1 { limit } else { self.find_one(bitmap, start, limit)?.unwrap_or(limit) };
        if start < self.plain_from
            && let Some(owned) = (start..end).find(|&bit| descriptor.owns(&self.geometry, group, blocks.start + bit))
        {
            end = owned;
        }
        self.take(group, Counter::Blocks, bitmap, start..end)?;
        hint.taken(from, &(start..end));
        Ok(Some(start..end))
    }

    /// Takes free bits of a bitmap, and counts that there are fewer: both or nothing, as far as a device that fails lets it.
    fn take(&self, group: u32, counter: Counter, bitmap: u64, bits: Range<u32>) -> Result<(), Error> {
        let taken = self.set_bits(bitmap, bits.clone(), true);
        taken.and_then(|()| self.count(group, counter, -i64::from(bits.end - bits.start))).inspect_err(|_| {
            let _ = self.set_bits(bitmap, bits, false);
        })
    }

    /// Gives blocks back. They are in the range of the volume, but maybe of several groups.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a block that is free already or belongs to the format: the volume is damaged.
    pub(crate) fn free_blocks(&self, first: u32, count: u32) -> Result<(), Error> {
        let (mut first, end) = (first, first + count);
        while first < end {
            let group = self.geometry.group_of_block(first);
            let blocks = self.geometry.group_blocks(group);
            let part = first..end.min(blocks.end);
            let _guard = self.env.exclusive(LockId::Group(group));
            let descriptor = self.group(group)?;
            let bitmap = self.geometry.byte(descriptor.block_bitmap);
            let bits = part.start - blocks.start..part.end - blocks.start;
            let owned =
                bits.start < self.plain_from && part.clone().any(|block| descriptor.owns(&self.geometry, group, block));
            if owned || self.find_zero(bitmap, bits.start, bits.end)?.is_some() {
                return Err(Error::Corrupt {
                    what: "a block that is freed is not allocated",
                    inode: 0,
                    at: first.into(),
                });
            }
            let freed = i64::from(bits.end - bits.start);
            self.hints.blocks(group).freed(bits.start);
            self.set_bits(bitmap, bits, false)?;
            self.count(group, Counter::Blocks, freed)?;
            first = part.end;
        }
        Ok(())
    }

    /// Gives back pages of which the environment said [`Freed::Later`](xip_core::Freed) when their file lost them, now that
    /// nobody has pinned them.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when they are not pages of the volume that belong to nobody; the device's.
    pub fn free_run(&self, run: Run) -> Result<(), Error> {
        self.check_writable()?;
        let end = run.first.0.checked_add(run.count).filter(|&end| end <= self.geometry.blocks.into());
        match (u32::try_from(run.first.0), end, u32::try_from(run.count)) {
            (Ok(first), Some(_), Ok(count)) if self.geometry.is_data(first) => self.free_blocks(first, count),
            _ => {
                Err(Error::Corrupt { what: "a run that is given back is not on the volume", inode: 0, at: run.first.0 })
            }
        }
    }

    /// Calls `each` for the runs of free blocks, from the first on; none crosses a group. A group is locked while `each`
    /// sees its runs: it must not change the volume.
    ///
    /// # Errors
    /// The device's.
    pub fn free_runs(&self, each: &mut dyn FnMut(Range<u32>)) -> Result<(), Error> {
        for group in 0..self.geometry.groups {
            let _guard = self.env.shared(LockId::Group(group));
            let blocks = self.geometry.group_blocks(group);
            let bitmap = self.geometry.byte(self.group(group)?.block_bitmap);
            let len = blocks.end - blocks.start;
            let mut bit = 0;
            while let Some(start) = self.find_zero(bitmap, bit, len)? {
                let end = self.find_one(bitmap, start, len)?.unwrap_or(len);
                each(blocks.start + start..blocks.start + end);
                bit = end;
            }
        }
        Ok(())
    }

    /// Takes a free inode, in the group of `near` if it has one.
    pub(crate) fn reserve_inode(&self, near: InodeNo, directory: bool) -> Result<InodeNo, Error> {
        self.check_writable()?;
        let geometry = &self.geometry;
        let start = (near.0 - 1) / geometry.inodes_per_group;
        for step in 0..geometry.groups {
            let group = (start + step) % geometry.groups;
            let _guard = self.env.exclusive(LockId::Group(group));
            if self.group_counter(group, Counter::Inodes)?.1 == 0 {
                continue;
            }
            let bitmap = geometry.byte(self.group(group)?.inode_bitmap);
            // Reserved inodes are all in the first group, whatever its bitmap says.
            let hint = self.hints.inodes(group);
            let first = if group == 0 { geometry.first_inode.max(FIRST_INODE) - 1 } else { 0 };
            let from = first.max(hint.get());
            if let Some(bit) = self.find_zero(bitmap, from, geometry.inodes_per_group)? {
                self.take(group, Counter::Inodes, bitmap, bit..bit + 1)?;
                if directory && let Err(error) = self.count(group, Counter::Directories, 1) {
                    let _ = self.set_bits(bitmap, bit..bit + 1, false);
                    let _ = self.count(group, Counter::Inodes, 1);
                    return Err(error);
                }
                hint.set(bit + 1);
                return Ok(InodeNo(group * geometry.inodes_per_group + bit + 1));
            }
        }
        Err(Error::NoSpace)
    }

    /// Gives an inode back.
    pub(crate) fn free_inode(&self, number: InodeNo, directory: bool) -> Result<(), Error> {
        let group = (number.0 - 1) / self.geometry.inodes_per_group;
        let bit = (number.0 - 1) % self.geometry.inodes_per_group;
        let _guard = self.env.exclusive(LockId::Group(group));
        let bitmap = self.geometry.byte(self.group(group)?.inode_bitmap);
        self.hints.inodes(group).freed(bit);
        self.set_bits(bitmap, bit..bit + 1, false)?;
        self.count(group, Counter::Inodes, 1)?;
        if directory {
            self.count(group, Counter::Directories, -1)?;
        }
        Ok(())
    }

    /// Counts a directory whose inode was reserved by other means: the root.
    pub(crate) fn count_directory(&self, number: InodeNo) -> Result<(), Error> {
        self.count((number.0 - 1) / self.geometry.inodes_per_group, Counter::Directories, 1)
    }

    fn group_counter(&self, group: u32, counter: Counter) -> Result<(u64, u16), Error> {
        let offset = match counter {
            Counter::Blocks => 12,
            Counter::Inodes => 14,
            Counter::Directories => 16,
        };
        let at = self.geometry.descriptor_at(group) + offset;
        Ok((at, u16::from_le_bytes(self.load(at)?)))
    }

    /// Adds to a counter of a group, and of the volume: to both or none. A damaged counter saturates; it never wraps.
    fn count(&self, group: u32, counter: Counter, change: i64) -> Result<(), Error> {
        let (at, old) = self.group_counter(group, counter)?;
        let new = u16::try_from((i64::from(old) + change).clamp(0, u16::MAX.into())).unwrap_or(u16::MAX);
        self.put(at, &new.to_le_bytes())?;
        let offset = match counter {
            Counter::Blocks => 12,
            Counter::Inodes => 16,
            Counter::Directories => return Ok(()),
        };
        self.count_of_volume(SUPER_AT + offset, change).inspect_err(|_| {
            let _ = self.put(at, &old.to_le_bytes());
        })
    }

    fn count_of_volume(&self, at: u64, change: i64) -> Result<(), Error> {
        let _guard = self.env.exclusive(LockId::Super);
        let old = u32::from_le_bytes(self.load(at)?);
        let new = u32::try_from((i64::from(old) + change).clamp(0, u32::MAX.into())).unwrap_or(u32::MAX);
        self.put(at, &new.to_le_bytes())
    }

    fn set_bits(&self, bitmap: u64, bits: Range<u32>, value: bool) -> Result<(), Error> {
        let mut bit = bits.start;
        while bit < bits.end {
            let at = bitmap + u64::from(bit / 8);
            // Whole bytes at once, up to a buffer's worth; the edges bit by bit.
            if bit.is_multiple_of(8) && bits.end - bit >= 8 {
                let bytes = [if value { 0xff } else { 0 }; 128];
                let count = ((bits.end - bit) / 8).min(128);
                self.device.write(at, &bytes[..count as usize])?;
                bit += 8 * count;
            } else {
                let [byte] = self.load(at)?;
                let mask = 1 << (bit % 8);
                self.device.write(at, &[if value { byte | mask } else { byte & !mask }])?;
                bit += 1;
            }
        }
        let (first, last) = (bits.start / 8, bits.end.div_ceil(8));
        self.flush(bitmap + u64::from(first), u64::from(last - first))
    }

    fn find_zero(&self, bitmap: u64, from: u32, to: u32) -> Result<Option<u32>, Error> {
        self.find(bitmap, from, to, u64::MAX)
    }

    fn find_one(&self, bitmap: u64, from: u32, to: u32) -> Result<Option<u32>, Error> {
        self.find(bitmap, from, to, 0)
    }

    /// The first bit in `[from, to)` that differs from those of `same`, which is all ones or all zeros.
    fn find(&self, bitmap: u64, from: u32, to: u32, same: u64) -> Result<Option<u32>, Error> {
        let mut bit = from;
        while bit < to {
            // By the word that holds the bit: bitmaps are whole blocks.
            let start = bit / 64 * 64;
            let word = u64::from_le_bytes(self.load(bitmap + u64::from(start / 8))?);
            let differing = (word ^ same) & u64::MAX << (bit - start);
            if differing != 0 {
                let found = start + differing.trailing_zeros();
                return Ok((found < to).then_some(found));
            }
            bit = start + 64;
        }
        Ok(None)
    }
}
