//! Which block is which page of a file: 12 pointers in the inode, then one, two and three levels of blocks of pointers.
//!
//! Order of stores when a hole is given storage (contract 2 and 7): reserve in the bitmap; fill the data with zeros and
//! the new blocks of pointers with their pointers; make these durable; then one store links them all: the pointer in
//! the inode, or in a block of pointers that was there before. When blocks are taken away: that pointer first, then
//! the bitmap.

use crate::alloc::Reservation;
use crate::error::Error;
use crate::file::Blocks;
use crate::raw::{INODE_BLOCKS, INODE_BLOCKS512};
use xip_core::{Create, Device, Env, Extent, PageIndex, PageNo, Run};

/// Pointers in the inode that lead to data.
const DIRECT: u64 = 12;

/// Where new blocks should stand. An image builder knows; others take the default, which is after what is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Goal {
    /// For data; `None`: after the file's last block, else in the group of its inode.
    pub data: Option<u32>,
    /// For blocks of pointers; `None`: as data.
    pub pointers: Option<u32>,
}

/// The way from the inode to a page: at each level the index of the pointer, and how many pages it stands for.
struct Path {
    /// `slots[0]` is in the inode, the others in blocks of pointers.
    slots: [u32; 4],
    /// How many of them.
    depth: usize,
}

impl Path {
    fn to(index: u64, pointers: u64) -> Option<Self> {
        let slot = |n: u64| u32::try_from(n % pointers).unwrap_or(0);
        let mut rest = index;
        if rest < DIRECT {
            return Some(Self { slots: [slot(rest), 0, 0, 0], depth: 1 });
        }
        rest -= DIRECT;
        if rest < pointers {
            return Some(Self { slots: [12, slot(rest), 0, 0], depth: 2 });
        }
        rest -= pointers;
        if rest < pointers * pointers {
            return Some(Self { slots: [13, slot(rest / pointers), slot(rest), 0], depth: 3 });
        }
        rest -= pointers * pointers;
        if rest < pointers * pointers * pointers {
            let slots = [14, slot(rest / pointers / pointers), slot(rest / pointers), slot(rest)];
            return Some(Self { slots, depth: 4 });
        }
        None
    }

    /// Pages from the one this path leads to, to the end of what the pointer at `level` stands for.
    fn pages_left(&self, level: usize, pointers: u64) -> u64 {
        let mut within = 0;
        let mut whole = 1;
        for &slot in &self.slots[level + 1..self.depth] {
            within = within * pointers + u64::from(slot);
            whole *= pointers;
        }
        whole - within
    }
}

impl<D: Device, E: Env> Blocks<'_, D, E> {
    fn pointers(&self) -> u64 {
        u64::from(self.volume.geometry.block_size / 4)
    }

    /// The storage of page `index` of the file, in blocks of the volume; at most `want` of them.
    pub(crate) fn map(&self, index: PageIndex, want: u64, create: Create) -> Result<Extent, Error> {
        let Some(path) = Path::to(index.0, self.pointers()) else {
            return match create {
                Create::No => Ok(Extent::Hole(want)),
                Create::Yes => Err(xip_core::Error::TooLarge.into()),
            };
        };
        let want = want.max(1);
        let mut at = self.volume.inode_at(self.number)? + INODE_BLOCKS as u64;
        for (level, &slot) in path.slots[..path.depth].iter().enumerate() {
            let pointer_at = at + 4 * u64::from(slot);
            let pointer = self.pointer(pointer_at)?;
            let last = level + 1 == path.depth;
            if pointer == 0 {
                return match create {
                    Create::No => self.hole(&path, level, pointer_at, want),
                    Create::Yes => self.fill(&path, level, pointer_at, index, want),
                };
            }
            if last {
                let slots = self.slots_left(&path, level);
                let count = self.run_length(pointer, pointer_at, want.min(slots))?;
                return Ok(Extent::Storage(Run { first: PageNo(pointer.into()), count }));
            }
            at = self.volume.geometry.byte(pointer);
        }
        Err(self.corrupt("a block map without end", index.0))
    }

    /// Pointers from this one to the end of its array.
    fn slots_left(&self, path: &Path, level: usize) -> u64 {
        let len = if level == 0 { DIRECT } else { self.pointers() };
        // The inode's pointers to pointers come after the direct ones, and are no array.
        len.saturating_sub(u64::from(path.slots[level])).max(1)
    }

    fn hole(&self, path: &Path, level: usize, pointer_at: u64, want: u64) -> Result<Extent, Error> {
        let mut pages = path.pages_left(level, self.pointers());
        // Further zero pointers of the same array belong to the hole.
        let whole: u64 = (level + 1..path.depth).map(|_| self.pointers()).product();
        let mut slots = self.slots_left(path, level);
        let mut at = pointer_at;
        while pages < want && slots > 1 && (level > 0 || path.depth == 1) {
            at += 4;
            slots -= 1;
            if self.pointer(at)? != 0 {
                break;
            }
            pages += whole;
        }
        Ok(Extent::Hole(pages.min(want)))
    }

    /// How many pointers from `at` on count up from `first`, at most `want`.
    fn run_length(&self, first: u32, at: u64, want: u64) -> Result<u64, Error> {
        let mut count = 1;
        let mut chunk = [0u8; 256];
        while count < want {
            let len = usize::try_from((want - count) * 4).unwrap_or(usize::MAX).min(chunk.len());
            self.volume.device.read(at + 4 * count, &mut chunk[..len])?;
            for bytes in chunk[..len].chunks_exact(4) {
                let next = u64::from(u32::from_le_bytes(crate::raw::bytes_at(bytes, 0)));
                if next != u64::from(first) + count || next >= self.volume.geometry.blocks.into() {
                    return Ok(count);
                }
                count += 1;
            }
        }
        Ok(count)
    }

    /// The pointer at byte address `at`: 0, or a block that can be a file's.
    fn pointer(&self, at: u64) -> Result<u32, Error> {
        let mut bytes = [0; 4];
        self.volume.device.read(at, &mut bytes)?;
        let block = u32::from_le_bytes(bytes);
        if block != 0 && !self.volume.geometry.is_data(block) {
            return Err(self.corrupt("a block beyond the volume", block.into()));
        }
        Ok(block)
    }

    pub(crate) fn corrupt(&self, what: &'static str, at: u64) -> Error {
        Error::Corrupt { what, inode: self.number.0, at }
    }

    /// Gives storage to the hole that the null pointer at `pointer_at`, of `level`, makes.
    fn fill(&self, path: &Path, level: usize, pointer_at: u64, index: PageIndex, want: u64) -> Result<Extent, Error> {
        let volume = self.volume;
        let geometry = &volume.geometry;
        volume.check_writable()?;
        // Only null pointers of one array are filled at once: those after the page's own, in the same block of pointers
        // (a new one is all null).
        let last = path.depth - 1;
        let mut room = self.slots_left(path, last).min(want);
        if level == last {
            let mut free = 1;
            while free < room && self.pointer(pointer_at + 4 * free)? == 0 {
                free += 1;
            }
            room = free;
        }
        let goal = self.goal_for(index)?;
        let data = volume.reserve(goal, u32::try_from(room).unwrap_or(u32::MAX))?;
        volume.zero_blocks(data.first, data.count)?;

        // New blocks of pointers, from the lowest up, so that each is whole before the next names it.
        let mut made: [Option<Reservation<'_, D, E>>; 3] = [None, None, None];
        let mut child = data.first;
        for above in (level + 1..path.depth).rev() {
            let pointers = volume.reserve(self.goal.get().pointers.unwrap_or(goal), 1)?;
            volume.zero_blocks(pointers.first, 1)?;
            let at = geometry.byte(pointers.first) + 4 * u64::from(path.slots[above]);
            let count = if above == last { data.count } else { 1 };
            self.put_pointers(at, child, count)?;
            if let Some(goal) = self.goal.get().pointers {
                self.goal.update(|old| Goal { pointers: Some(goal.max(pointers.first + 1)), ..old });
            }
            child = pointers.first;
            made[above - 1] = Some(pointers);
        }
        // Rule 1 of contract 7: all of it durable before anything points at it.
        volume.device.fence()?;
        let pointer_blocks: u32 = made.iter().flatten().map(|pointers| pointers.count).sum();
        self.count_blocks(i64::from(data.count + pointer_blocks))?;
        // This publishes.
        let published = if level == last { data.count } else { 1 };
        if let Err(error) = self.put_pointers(pointer_at, child, published) {
            // Some may be stored. Only when none is, the blocks can be given back (rule 2 of contract 7); else they are
            // leaked.
            if self.clear_pointers(pointer_at, published).is_ok() {
                let _ = self.count_blocks(-i64::from(data.count + pointer_blocks));
            } else {
                made.into_iter().flatten().for_each(Reservation::commit);
                data.commit();
            }
            return Err(error);
        }

        if self.goal.get().data.is_some() {
            self.goal.update(|old| Goal { data: Some(data.first + data.count), ..old });
        }
        let run = Run { first: PageNo(data.first.into()), count: data.count.into() };
        made.into_iter().flatten().for_each(Reservation::commit);
        data.commit();
        Ok(Extent::Storage(run))
    }

    /// Stores `count` pointers that count up from `first`.
    fn put_pointers(&self, at: u64, first: u32, count: u32) -> Result<(), Error> {
        let mut chunk = [0u8; 256];
        let mut done = 0;
        while done < count {
            let n = (count - done).min(64);
            for k in 0..n {
                let slot = 4 * k as usize;
                chunk[slot..slot + 4].copy_from_slice(&(first + done + k).to_le_bytes());
            }
            self.volume.device.write(at + 4 * u64::from(done), &chunk[..4 * n as usize])?;
            done += n;
        }
        Ok(self.volume.device.flush(at, 4 * u64::from(count))?)
    }

    fn clear_pointers(&self, at: u64, count: u32) -> Result<(), Error> {
        for n in 0..u64::from(count) {
            self.volume.device.write(at + 4 * n, &[0; 4])?;
        }
        self.volume.device.flush(at, 4 * u64::from(count))?;
        Ok(self.volume.device.fence()?)
    }

    /// Where the block of page `index` should stand.
    fn goal_for(&self, index: PageIndex) -> Result<u32, Error> {
        if let Some(goal) = self.goal.get().data {
            return Ok(goal);
        }
        if index.0 > 0
            && let Extent::Storage(run) = self.map(PageIndex(index.0 - 1), 1, Create::No)?
        {
            return Ok(u32::try_from(run.first.0).unwrap_or(0).saturating_add(1));
        }
        let geometry = &self.volume.geometry;
        Ok(geometry.group_data((self.number.0 - 1) / geometry.inodes_per_group).start)
    }

    /// Adds blocks to what the inode says it has.
    fn count_blocks(&self, change: i64) -> Result<(), Error> {
        let at = self.volume.inode_at(self.number)? + INODE_BLOCKS512;
        let mut bytes = [0; 4];
        self.volume.device.read(at, &mut bytes)?;
        let units = change * i64::from(self.volume.geometry.block_size / 512);
        let new = (i64::from(u32::from_le_bytes(bytes)) + units).clamp(0, u32::MAX.into());
        self.volume.device.write(at, &u32::try_from(new).unwrap_or(u32::MAX).to_le_bytes())?;
        Ok(self.volume.device.flush(at, 4)?)
    }

    /// Takes all blocks from page `first` on away from the file.
    pub(crate) fn free_blocks_from(&self, first: u64) -> Result<(), Error> {
        self.volume.check_writable()?;
        let pointers = self.pointers();
        let inode = self.volume.inode_at(self.number)? + INODE_BLOCKS as u64;
        let mut start = 0;
        for slot in 0..15 {
            let depth = if slot < 12 { 0 } else { slot - 11 };
            self.free_tree(inode + 4 * u64::from(slot), depth, start, first)?;
            start += pointers.pow(depth);
        }
        Ok(())
    }

    /// Frees what the pointer at `pointer_at` leads to, `depth` blocks of pointers deep, as far as it belongs to pages
    /// from `first` on; it stands for those from `start` on. Depth is at most 3, and no block is freed twice, which
    /// bounds the walk on any volume.
    fn free_tree(&self, pointer_at: u64, depth: u32, start: u64, first: u64) -> Result<(), Error> {
        let volume = self.volume;
        let span = self.pointers().pow(depth);
        if start + span <= first {
            return Ok(());
        }
        let block = self.pointer(pointer_at)?;
        if block == 0 {
            return Ok(());
        }
        if !volume.is_allocated(block)? {
            return Err(self.corrupt("a block of the file is not allocated", block.into()));
        }
        let whole = start >= first;
        if whole {
            // Rule 2 of contract 7: nothing may point at what is free.
            volume.device.write(pointer_at, &[0; 4])?;
            volume.device.flush(pointer_at, 4)?;
            volume.device.fence()?;
        }
        if depth > 0 {
            let array = volume.geometry.byte(block);
            for slot in 0..self.pointers() {
                self.free_tree(array + 4 * slot, depth - 1, start + slot * (span / self.pointers()), first)?;
            }
        }
        if whole {
            volume.free_blocks(block, 1)?;
            self.count_blocks(-1)?;
        }
        Ok(())
    }
}
