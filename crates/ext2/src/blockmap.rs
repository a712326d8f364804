//! Which block is which page of a file: 12 pointers in the inode, then one, two and three levels of blocks of pointers.
//!
//! Order of stores when a hole is given storage (contract 2 and 7): reserve in the bitmap; fill the data, with zeros
//! or with what is to be written, and the new blocks of pointers with their pointers; make these durable; then one store
//! links them all: the pointer in the inode, or in a block of pointers that was there before. How blocks are taken away
//! is in `free`.

mod path;

use self::path::{DIRECT, Path};
use crate::alloc::Reservation;
use crate::error::Error;
use crate::file::Blocks;
use crate::order::Durable;
use crate::raw::{INODE_BLOCKS, INODE_BLOCKS512};
use xip_core::{Create, Device, Env, Extent, PageIndex, PageNo, Run};

/// Where new blocks should stand. An image builder knows; others take the default, which is after what is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Goal {
    /// For data; `None`: after the file's last block, else in the group of its inode.
    pub data: Option<u32>,
    /// For blocks of pointers; `None`: as data.
    pub pointers: Option<u32>,
}

/// Storage for a hole, reserved, and linked to nothing yet. Given back unless it is committed.
pub(crate) struct Prepared<'v, D: Device, E: Env> {
    data: Reservation<'v, D, E>,
    /// New blocks of pointers on the way there, from the top down, and which of their pointers leads on.
    made: [Option<(Reservation<'v, D, E>, u32)>; 3],
    /// Where the pointers are stored that link all of it.
    pub(crate) pointer_at: u64,
}

impl<D: Device, E: Env> Prepared<'_, D, E> {
    /// All blocks that the file gains.
    pub(crate) fn blocks(&self) -> u32 {
        self.data.count + self.made.iter().flatten().map(|(pointers, _)| pointers.count).sum::<u32>()
    }

    /// The pointers that link all of it: the first, and how many; the others count up from there.
    pub(crate) fn pointers(&self) -> (u32, u32) {
        self.made.iter().flatten().next().map_or((self.data.first, self.data.count), |(top, _)| (top.first, 1))
    }

    /// They are linked now: nothing is given back, and there is nothing else in it that would have to be.
    pub(crate) fn commit(self) {
        core::mem::forget(self);
    }
}

impl<'v, D: Device, E: Env> Blocks<'v, D, E> {
    /// How many pointers a block has.
    pub(crate) fn pointers(&self) -> u64 {
        1 << self.pointer_bits()
    }

    /// Blocks are powers of two, of pointers of 4 bytes.
    #[inline(always)]
    fn pointer_bits(&self) -> u32 {
        self.volume.geometry.block_size.trailing_zeros() - 2
    }

    /// The storage of page `index` of the file, in blocks of the volume; at most `want` of them.
    pub(crate) fn map(&self, index: PageIndex, want: u64, create: Create) -> Result<Extent, Error> {
        let want = want.max(1);
        let Some(path) = Path::to(index.0, self.pointer_bits()) else {
            return match create {
                Create::No => Ok(Extent::Hole(want)),
                Create::Yes => Err(xip_core::Error::TooLarge.into()),
            };
        };
        let (level, pointer_at, pointer) = self.walk(&path)?;
        if pointer != 0 {
            let slots = self.slots_left(&path, level);
            let count = self.run_length(pointer, pointer_at, want.min(slots))?;
            return Ok(Extent::Storage(Run { first: PageNo(pointer.into()), count }));
        }
        match create {
            Create::No => self.hole(&path, level, pointer_at, want),
            Create::Yes => Ok(Extent::Storage(self.fill_hole(index, want, 0, &[])?)),
        }
    }

    /// Follows a path as far as it goes: the level where it ends, where the pointer there stands, and what it is: 0
    /// for a hole, else the page's block.
    #[inline]
    fn walk(&self, path: &Path) -> Result<(usize, u64, u32), Error> {
        let mut array = self.at + INODE_BLOCKS as u64;
        let mut level = 0;
        loop {
            let pointer_at = array + 4 * u64::from(path.slots[level]);
            let pointer = self.pointer(pointer_at)?;
            if pointer == 0 || level + 1 == path.depth {
                return Ok((level, pointer_at, pointer));
            }
            array = self.volume.geometry.byte(pointer);
            level += 1;
        }
    }

    /// Where the pointer to page `index` stands, and the block it leads to. A hole is an error.
    pub(crate) fn pointer_to(&self, index: u64) -> Result<(u64, u32), Error> {
        match Path::to(index, self.pointer_bits()).map(|path| self.walk(&path)).transpose()? {
            Some((_, at, block)) if block != 0 => Ok((at, block)),
            _ => Err(self.corrupt("a hole in the directory", index)),
        }
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
            // One that leads nowhere is an error of the page behind the hole, not of the hole: progress beats an error (contract 3).
            match self.pointer(at) {
                Ok(0) => pages += whole,
                _ => break,
            }
        }
        Ok(Extent::Hole(pages.min(want)))
    }

    /// How many pointers from `at` on count up from `first`, at most `want`, within the group.
    fn run_length(&self, first: u32, at: u64, want: u64) -> Result<u64, Error> {
        if want == 1 {
            return Ok(1);
        }
        let geometry = &self.volume.geometry;
        let group = geometry.group_of_block(first);
        let plain = geometry.within_group(first) >= self.volume.plain_from;
        let want = want.min((geometry.group_blocks(group).end - first).into());
        let mut count = 1;
        let mut chunk = [0u8; 256];
        while count < want {
            let len = usize::try_from((want - count) * 4).unwrap_or(usize::MAX).min(chunk.len());
            self.volume.device.read(at + 4 * count, &mut chunk[..len])?;
            for bytes in chunk[..len].chunks_exact(4) {
                let next = u32::from_le_bytes(crate::raw::bytes_at(bytes, 0));
                if u64::from(next) != u64::from(first) + count || !plain && !self.volume.is_file_block(next)? {
                    return Ok(count);
                }
                count += 1;
            }
        }
        Ok(count)
    }

    /// How many pointers from `at` on are null, at most `want`.
    fn null_run(&self, at: u64, want: u64) -> Result<u64, Error> {
        let mut count = 0;
        let mut chunk = [0u8; 256];
        while count < want {
            let len = usize::try_from((want - count) * 4).unwrap_or(usize::MAX).min(chunk.len());
            self.volume.device.read(at + 4 * count, &mut chunk[..len])?;
            for bytes in chunk[..len].chunks_exact(4) {
                if bytes != [0; 4] {
                    return Ok(count);
                }
                count += 1;
            }
        }
        Ok(count)
    }

    /// The pointer at byte address `at`: 0, or a block that can be a file's.
    #[inline(always)]
    pub(crate) fn pointer(&self, at: u64) -> Result<u32, Error> {
        self.checked(u32::from_le_bytes(self.volume.load(at)?))
    }

    /// A pointer: 0, or a block that can be a file's. Every one comes through here before it is followed, so that what
    /// is written to a file never lands in the metadata of the volume.
    #[inline(always)]
    pub(crate) fn checked(&self, block: u32) -> Result<u32, Error> {
        if block != 0 && !self.volume.is_file_block(block)? {
            return Err(self.corrupt("a block that cannot be a file's", block.into()));
        }
        Ok(block)
    }

    #[cold]
    pub(crate) fn corrupt(&self, what: &'static str, at: u64) -> Error {
        Error::Corrupt { what, inode: self.number.0, at }
    }

    /// Gives storage to at most `want` pages of the hole at `index`: `from` stands at byte `within` of it, as far as it
    /// fits, all else is zeros.
    pub(crate) fn fill_hole(&self, index: PageIndex, want: u64, within: usize, from: &[u8]) -> Result<Run, Error> {
        // Not by `prepare`, which returns what it has reserved after the data is stored: a processor that reads such a struct by larger words
        // than it was just written by waits until all stores before are done, which took more than all else here.
        let prepared = self.reserve(index, want)?;
        self.put_prepared(&prepared, within, from)?;
        self.volume.env.moved(self.number.0);
        // Rule 1 of contract 7: all of it durable before anything points at it.
        let durable = self.volume.fence()?;
        self.count_blocks(prepared.blocks().into())?;
        if let Err(error) = self.link(&durable, &prepared) {
            // Some may be stored. Only when none is, the blocks can be given back (rule 2 of contract 7); else they are
            // leaked.
            if self.unlink(&prepared).is_ok() {
                let _ = self.count_blocks(-i64::from(prepared.blocks()));
            } else {
                prepared.commit();
            }
            return Err(error);
        }
        let data = &prepared.data;
        if self.goal.get().data.is_some() {
            self.goal.update(|old| Goal { data: Some(data.first + data.count), ..old });
        }
        let run = Run { first: PageNo(data.first.into()), count: data.count.into() };
        prepared.commit();
        Ok(run)
    }

    /// Reserves storage for at most `want` pages of the hole at `index`, and puts what is to stand there.
    pub(crate) fn prepare(
        &self,
        index: PageIndex,
        want: u64,
        within: usize,
        from: &[u8],
    ) -> Result<Prepared<'v, D, E>, Error> {
        let prepared = self.reserve(index, want)?;
        self.put_prepared(&prepared, within, from)?;
        Ok(prepared)
    }

    /// Reserves storage for at most `want` pages of the hole at `index`. Nothing stands there yet.
    fn reserve(&self, index: PageIndex, want: u64) -> Result<Prepared<'v, D, E>, Error> {
        let volume = self.volume;
        volume.check_writable()?;
        let path = Path::to(index.0, self.pointer_bits()).ok_or(xip_core::Error::TooLarge)?;
        let (level, pointer_at, pointer) = self.walk(&path)?;
        if pointer != 0 {
            return Err(self.corrupt("storage where a hole was", index.0));
        }
        // Only null pointers of one array are filled at once: those after the page's own, in the same block of pointers
        // (a new one is all null).
        let last = path.depth - 1;
        let mut room = self.slots_left(&path, last).min(want.max(1));
        if level == last && room > 1 {
            room = self.null_run(pointer_at, room)?.max(1);
        }
        // The page before this one: mostly its pointer stands before this one's.
        let before = if level == last && path.slots[last] > 0 {
            self.pointer(pointer_at - 4)?
        } else {
            self.block_before(index)?
        };
        let goal = self.goal_after(before);
        let mut data = volume.reserve(goal, u32::try_from(room).unwrap_or(u32::MAX))?;
        let mut made = [const { None }; 3];
        for above in (level + 1..path.depth).rev() {
            let pointers = match volume.reserve(self.goal.get().pointers.unwrap_or(goal), 1) {
                // The data has taken all there was: less of it, then.
                Err(Error::NoSpace) => data.split_last().ok_or(Error::NoSpace)?,
                reserved => reserved?,
            };
            if let Some(goal) = self.goal.get().pointers {
                self.goal.update(|old| Goal { pointers: Some(goal.max(pointers.first + 1)), ..old });
            }
            made[above - 1] = Some((pointers, path.slots[above]));
        }
        Ok(Prepared { data, made, pointer_at })
    }

    /// Puts what is to stand in reserved storage.
    fn put_prepared(&self, prepared: &Prepared<'_, D, E>, within: usize, from: &[u8]) -> Result<(), Error> {
        let volume = self.volume;
        self.put_content(&prepared.data, within, from)?;
        // New blocks of pointers, from the lowest up, so that each is whole before the next names it.
        let (mut first, mut count) = (prepared.data.first, prepared.data.count);
        for (pointers, slot) in prepared.made.iter().rev().flatten() {
            volume.zero_blocks(pointers.first, 1)?;
            self.put_pointers(volume.geometry.byte(pointers.first) + 4 * u64::from(*slot), first, count)?;
            (first, count) = (pointers.first, 1);
        }
        Ok(())
    }

    /// A new block with these contents, to take the place of `old`, which the pointer at `pointer_at` leads to.
    pub(crate) fn prepare_copy(&self, pointer_at: u64, old: u32, bytes: &[u8]) -> Result<Prepared<'v, D, E>, Error> {
        self.volume.check_writable()?;
        let data = self.volume.reserve(old, 1)?;
        self.volume.put(self.volume.geometry.byte(data.first), bytes)?;
        Ok(Prepared { data, made: [const { None }; 3], pointer_at })
    }

    /// Fills new blocks: `from` at byte `within`, as far as it fits, zeros before and after.
    fn put_content(&self, data: &Reservation<'_, D, E>, within: usize, from: &[u8]) -> Result<(), Error> {
        if from.is_empty() {
            return self.volume.zero_blocks(data.first, data.count);
        }
        let (at, len) = (self.volume.geometry.byte(data.first), self.volume.geometry.byte(data.count));
        let room = usize::try_from(len).unwrap_or(usize::MAX).saturating_sub(within);
        let from = &from[..from.len().min(room)];
        let end = (within + from.len()) as u64;
        // The zeros first: a device that knows of fresh pages that they are has nothing to do for them.
        self.volume.put_zeros(at, within as u64)?;
        self.volume.put_zeros(at + end, len - end)?;
        self.volume.put_data(at + within as u64, from)
    }

    fn link(&self, _durable: &Durable, prepared: &Prepared<'_, D, E>) -> Result<(), Error> {
        // Each pointer is one store, and a page of its own.
        let (first, count) = prepared.pointers();
        self.put_pointers(prepared.pointer_at, first, count)
    }

    fn unlink(&self, prepared: &Prepared<'_, D, E>) -> Result<(), Error> {
        self.volume.put_zeros(prepared.pointer_at, 4 * u64::from(prepared.pointers().1))?;
        self.volume.fence()?;
        Ok(())
    }

    /// Puts `count` pointers that count up from `first`.
    fn put_pointers(&self, at: u64, first: u32, count: u32) -> Result<(), Error> {
        let mut chunk = [0u8; 256];
        let mut done = 0;
        while done < count {
            let n = (count - done).min(64);
            for k in 0..n {
                let slot = 4 * k as usize;
                chunk[slot..slot + 4].copy_from_slice(&(first + done + k).to_le_bytes());
            }
            self.volume.put(at + 4 * u64::from(done), &chunk[..4 * n as usize])?;
            done += n;
        }
        Ok(())
    }

    /// The block of the page before `index`, 0 when it has none.
    fn block_before(&self, index: PageIndex) -> Result<u32, Error> {
        match index.0.checked_sub(1).and_then(|before| Path::to(before, self.pointer_bits())) {
            Some(path) => self.walk(&path).map(|(_, _, block)| block),
            None => Ok(0),
        }
    }

    /// Where a page's block should stand, if that of the page before it is `before`.
    fn goal_after(&self, before: u32) -> u32 {
        let geometry = &self.volume.geometry;
        match self.goal.get().data {
            Some(goal) => goal,
            None if before != 0 => before.saturating_add(1),
            None => geometry.group_data((self.number.0 - 1) / geometry.inodes_per_group).start,
        }
    }

    /// Adds blocks to what the inode says it has. When they are gained it is counted before they are linked, when they
    /// are lost after: a crash leaves the count too high, as if the blocks that it leaks were the file's.
    pub(crate) fn count_blocks(&self, change: i64) -> Result<(), Error> {
        if change == 0 {
            return Ok(());
        }
        let at = self.at + INODE_BLOCKS512;
        let old = u32::from_le_bytes(self.volume.load(at)?);
        let units = change * i64::from(self.volume.geometry.block_size / 512);
        let new = (i64::from(old) + units).clamp(0, u32::MAX.into());
        self.volume.put(at, &u32::try_from(new).unwrap_or(u32::MAX).to_le_bytes())
    }
}
