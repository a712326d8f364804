//! The blocks of a directory on a volume. What the bytes mean is known to `dir`.

use crate::blockmap::Prepared;
use crate::dir::{DirBlocks, DirEntry, Listing, Order, Store};
use crate::error::Error;
use crate::file::Blocks;
use crate::geometry::feature;
use crate::inode::{FLAG_INDEX, InodeNo, Kind, Node};
use crate::intent::Intent;
use crate::raw::{INODE_BLOCKS, RawInode};
use crate::volume::Volume;
use core::cell::Cell;
use xip_core::{Device, Env, LockId, PageIndex, PageNo, Region};

/// The most blocks that change together when a directory grows: a leaf, a table, and a new one.
const MOST: usize = 3;

/// The blocks of a directory.
pub(crate) struct Directory<'v, D, E> {
    pub(crate) map: Blocks<'v, D, E>,
    /// The block that was asked for last, and where it is: mostly the next one, too.
    last: Cell<(u32, u32)>,
    blocks: u32,
    indexed: bool,
    /// Blocks were replaced: what was found before stands elsewhere.
    pub(crate) replaced: bool,
}

impl<D: Device, E: Env> Volume<D, E> {
    /// Calls `each` for the entries of a directory, `.` and `..` too, from `cursor` on (0 at first, then
    /// [`DirEntry::next`] of the last one seen) until it says `false`. No lock is held while `each` runs.
    ///
    /// A name that is there from the first call to the last is seen exactly once, whatever is added or removed in between; one
    /// that comes or goes is seen once or not at all. There are three exceptions. Names of one and the same 31-bit hash
    /// may be missed or repeated when their block of the index is split. A directory of several blocks without an index
    /// (no `dir_index`) is read in the order of its blocks, where that cannot happen, but it changes to that order if its index
    /// turns out to be damaged. And cursors of a volume that is read-only are not those of one that is not.
    ///
    /// # Errors
    /// [`Error::NotDirectory`]; [`Error::Corrupt`].
    pub fn read_dir(
        &self,
        number: InodeNo,
        cursor: u64,
        each: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Result<(), Error> {
        let order = if self.read_only.is_some() { Order::Place } else { Order::Hash };
        let mut listing = Listing::new();
        let mut next = Some(cursor);
        while let Some(cursor) = next {
            let guard = self.env.shared(LockId::Inode(number.0));
            let directory = self.directory(number)?;
            listing.fill(&directory, cursor, order)?;
            drop(guard);
            if !listing.each(&directory, each)? {
                break;
            }
            next = listing.next;
        }
        Ok(())
    }

    pub(crate) fn directory(&self, number: InodeNo) -> Result<Directory<'_, D, E>, Error> {
        self.directory_of(&self.node(number)?)
    }

    /// A directory that names are added to: one that was removed, and is only still open, takes none.
    pub(crate) fn live_directory(&self, node: &Node) -> Result<Directory<'_, D, E>, Error> {
        let directory = self.directory_of(node)?;
        if node.links == 0 { Err(Error::NotFound) } else { Ok(directory) }
    }

    #[inline]
    pub(crate) fn directory_of(&self, inode: &Node) -> Result<Directory<'_, D, E>, Error> {
        if inode.kind != Kind::Directory {
            return Err(Error::NotDirectory);
        }
        let block_size = u64::from(self.geometry.block_size);
        let blocks = inode.size / block_size;
        // A directory cannot have more blocks than the volume: that bounds every walk through it.
        if !inode.size.is_multiple_of(block_size) || blocks > self.geometry.blocks.into() {
            return Err(Error::Corrupt { what: "the size of the directory", inode: inode.number.0, at: inode.size });
        }
        Ok(Directory {
            map: self.blocks(inode.number, inode.at),
            last: Cell::new((u32::MAX, 0)),
            blocks: u32::try_from(blocks).unwrap_or(u32::MAX),
            replaced: false,
            indexed: inode.flags & FLAG_INDEX != 0 && self.geometry.compat & feature::COMPAT_DIR_INDEX != 0,
        })
    }
}

impl<D: Device, E: Env> Directory<'_, D, E> {
    /// Whether all of its entries stand in one block, one after the other.
    pub(crate) fn is_one_block(&self) -> bool {
        self.blocks == 1 && !self.indexed
    }

    /// Byte address of a block of the directory.
    pub(crate) fn place(&self, n: u32) -> Result<u64, Error> {
        Ok(self.map.volume.geometry.byte(self.block(n)?))
    }

    /// Block `n` of the directory as a block of the volume.
    #[inline]
    fn block(&self, n: u32) -> Result<u32, Error> {
        let (last, block) = self.last.get();
        if last == n {
            return Ok(block);
        }
        let (_, block) = self.map.pointer_to(n.into())?;
        self.last.set((n, block));
        Ok(block)
    }

    /// Makes an intent of giving blocks new contents: what takes their places, and the `old` ones, which are free then.
    fn prepare<'m>(
        &'m self,
        changed: &[(u32, &[u8])],
        new: &mut RawInode,
        intent: &mut Intent,
        old: &mut [u32; MOST],
    ) -> Result<[Option<Prepared<'m, D, E>>; MOST], Error> {
        let volume = self.map.volume;
        let mut made = [None, None, None];
        for ((&(n, bytes), made), old) in changed.iter().zip(&mut made).zip(old) {
            let prepared = if n < self.blocks {
                let (at, block) = self.map.pointer_to(n.into())?;
                *old = block;
                self.map.prepare_copy(at, block, bytes)?
            } else {
                let prepared = self.map.prepare(PageIndex(n.into()), 1, 0, bytes)?;
                new.set_size((u64::from(n) + 1) * u64::from(volume.geometry.block_size));
                let units = prepared.blocks() * (volume.geometry.block_size / 512);
                new.set_blocks512(new.blocks512().saturating_add(units));
                prepared
            };
            let pointer = prepared.pointers().0.to_le_bytes();
            // A pointer in the inode is part of its other changes.
            match prepared.pointer_at.checked_sub(self.map.at).and_then(|at| usize::try_from(at).ok()) {
                Some(at) if (INODE_BLOCKS..RawInode::LEN - 4).contains(&at) => {
                    new.0[at..at + 4].copy_from_slice(&pointer);
                }
                _ => intent.change(prepared.pointer_at, &old.to_le_bytes(), &pointer)?,
            }
            *made = Some(prepared);
        }
        Ok(made)
    }
}

impl<D: Device, E: Env> DirBlocks for Directory<'_, D, E> {
    fn ino(&self) -> u32 {
        self.map.number.0
    }

    fn block_size(&self) -> usize {
        self.map.volume.geometry.block_size as usize
    }

    fn count(&self) -> u32 {
        self.blocks
    }

    #[inline]
    fn read(&self, n: u32, to: &mut [u8; 4096]) -> Result<(), Error> {
        let at = self.place(n)?;
        Ok(self.map.volume.device.read(at, &mut to[..self.map.volume.geometry.block_size as usize])?)
    }

    #[inline]
    fn region(&self, n: u32) -> Result<Option<Region<'_>>, Error> {
        if !self.map.volume.in_place {
            return Ok(None);
        }
        Ok(Some(self.map.volume.device.direct_access(PageNo(self.block(n)?.into()), 1)?))
    }

    fn put(&mut self, n: u32, at: usize, bytes: &[u8]) -> Result<(), Error> {
        let at = self.place(n)? + at as u64;
        self.map.volume.put(at, bytes)
    }

    fn publish(&mut self, n: u32, at: usize, bytes: &[u8]) -> Result<(), Error> {
        let at = self.place(n)? + at as u64;
        let durable = self.map.volume.fence()?;
        self.map.volume.publish(&durable, at, bytes)
    }

    fn replace(&mut self, changed: &[(u32, &[u8])], indexed: bool) -> Result<(), Error> {
        let volume = self.map.volume;
        let raw = volume.raw_inode_at(self.map.at)?;
        let mut new = raw;
        new.set_flags(if indexed { raw.flags() | FLAG_INDEX } else { raw.flags() & !FLAG_INDEX });
        let mut intent = Intent::new();
        let mut old = [0; MOST];
        for &(n, _) in changed {
            volume.forget_place(self.map.number, n);
        }
        let made = self.prepare(changed, &mut new, &mut intent, &mut old)?;
        intent.inode(self.map.at, &raw, &new)?;
        let applied = volume.apply(volume.fence()?, &mut intent);
        // What failed may have been stored partly: the blocks are leaked then, not reused.
        made.into_iter().flatten().for_each(Prepared::commit);
        self.replaced = true;
        self.last.set((u32::MAX, 0));
        applied?;
        volume.fence()?;
        self.indexed = indexed;
        self.blocks = changed.iter().map(|&(n, _)| n + 1).fold(self.blocks, u32::max);
        for block in old.into_iter().filter(|&block| block != 0) {
            volume.free_blocks(block, 1)?;
        }
        Ok(())
    }

    fn merge(&mut self, n: u32, store: &Store) -> Result<(), Error> {
        self.map.volume.forget_place(self.map.number, n);
        self.publish(n, store.at, store.bytes())?;
        self.map.volume.fence()?;
        Ok(())
    }

    fn indexed(&self) -> bool {
        self.indexed
    }

    fn drop_index(&mut self) -> Result<(), Error> {
        let volume = self.map.volume;
        let raw = volume.raw_inode_at(self.map.at)?;
        let mut new = raw;
        new.set_flags(raw.flags() & !FLAG_INDEX);
        volume.put_changes(self.map.at, &raw, &new)?;
        volume.fence()?;
        self.indexed = false;
        Ok(())
    }

    fn index_allowed(&self) -> bool {
        self.map.volume.geometry.compat & feature::COMPAT_DIR_INDEX != 0
    }

    fn hash_seed(&self) -> [u32; 4] {
        self.map.volume.geometry.hash_seed
    }

    fn default_hash(&self) -> u8 {
        self.map.volume.geometry.hash_version
    }

    fn unsigned_hash(&self) -> bool {
        self.map.volume.geometry.unsigned_hash
    }

    fn has_kinds(&self) -> bool {
        self.map.volume.geometry.incompat & feature::INCOMPAT_FILETYPE != 0
    }

    fn max_inode(&self) -> u32 {
        self.map.volume.geometry.inodes
    }
}
