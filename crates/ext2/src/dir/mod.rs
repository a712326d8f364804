//! Directories: names that lead to inodes.
//!
//! | module | what it knows |
//! |---|---|
//! | `entry` | the entries of one block, checked |
//! | `linear` | all blocks one after the other |
//! | `htree` | the index (`dir_index`): a tree of hashes of names, whose leaves are blocks of entries |
//! | `hash` | the hashes |
//! | `scan` | a block looked at where it stands: a name, and room for one |
//! | `roomy` | what room is |
//! | `listing` | all entries, from any on |
//!
//! To one who does not know the index its blocks look like entries that are free, so a walk through all blocks sees
//! every name once in any directory. What a directory's blocks are made of is the business of [`DirBlocks`].
//!
//! Order of stores (contract 7): a new entry is written where nothing leads to it; then one store, of the length of the
//! entry before it or of its inode number, publishes it. Removal is one store, of inode number 0: no entry moves, so whoever remembers
//! where a name's is need not look for it. Free entries are made one when a new name needs the room of several. When a directory grows, all the blocks
//! that change are written anew, and then take the places of the old ones at once ([`DirBlocks::replace`]): no crash
//! leaves a name twice, or an index that does not lead to it.

pub(crate) mod entry;
pub(crate) mod hash;
mod htree;
mod linear;
mod listing;
mod roomy;
mod scan;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use crate::error::Error;
use crate::inode::{InodeNo, Kind};
use entry::{Block, ENTRY_MAX, NAME_MAX};
pub(crate) use listing::{Listing, Order};
pub(crate) use scan::Both;
use xip_core::Region;

/// A name in a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DirEntry<'a> {
    /// What it leads to.
    pub ino: InodeNo,
    /// The kind of that, where the entry says it.
    pub kind: Option<Kind>,
    /// The name: no slash, no zero byte, not empty.
    pub name: &'a [u8],
    /// The cursor of what comes after it: see [`Volume::read_dir`](crate::Volume::read_dir).
    pub next: u64,
}

/// The blocks of a directory.
pub(crate) trait DirBlocks {
    /// Its inode, for errors.
    fn ino(&self) -> u32;
    /// 1024, 2048 or 4096.
    fn block_size(&self) -> usize;
    /// How many blocks: no more than the volume has, which bounds every walk.
    fn count(&self) -> u32;
    /// Block `n` where it stands, if that can be looked at in place. A hole is an error.
    fn region(&self, n: u32) -> Result<Option<Region<'_>>, Error> {
        let _ = n;
        Ok(None)
    }
    /// Fills the first `block_size` bytes of `to` with block `n`. A hole is an error.
    fn read(&self, n: u32, to: &mut [u8; 4096]) -> Result<(), Error>;
    /// Stores into block `n` where nothing leads yet.
    fn put(&mut self, n: u32, at: usize, bytes: &[u8]) -> Result<(), Error>;
    /// Stores at most 4 bytes of one word, after all that was put is durable.
    fn publish(&mut self, n: u32, at: usize, bytes: &[u8]) -> Result<(), Error>;
    /// Gives blocks new contents, at once; the last may be a new one at the end.
    fn replace(&mut self, blocks: &[(u32, &[u8])], indexed: bool) -> Result<(), Error>;
    /// Makes entries of block `n` one, by this store: durable when it returns.
    fn merge(&mut self, n: u32, store: &Store) -> Result<(), Error>;
    /// Whether it has an index (`EXT2_INDEX_FL`).
    fn indexed(&self) -> bool;
    /// Forgets the index; its blocks look like free entries then.
    fn drop_index(&mut self) -> Result<(), Error>;
    /// Whether it may get one (`dir_index`).
    fn index_allowed(&self) -> bool;
    /// `s_hash_seed`.
    fn hash_seed(&self) -> [u32; 4];
    /// `s_def_hash_version`: the hash of new indexes.
    fn default_hash(&self) -> u8;
    /// Whether hashes take characters as unsigned.
    fn unsigned_hash(&self) -> bool;
    /// The largest inode number there is.
    fn max_inode(&self) -> u32;
    /// Whether entries say the kind of what they lead to (`filetype`).
    fn has_kinds(&self) -> bool;
}

/// Where an entry is, and what it says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) block: u32,
    pub(crate) at: usize,
    pub(crate) inode: u32,
    pub(crate) kind: u8,
}

/// Where a new entry has room.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    pub(crate) block: u32,
    /// Where the entry will be, and its length.
    at: usize,
    len: usize,
    /// The entry before it whose end it takes, and the length that is left to that; `None`: it takes the place of a free
    /// entry.
    before: Option<(usize, usize)>,
    /// The entry that the free ones behind it are made part of first, and its length with them.
    merged: Option<(usize, usize)>,
}

/// A store into a block that publishes an entry or takes it away.
#[derive(Clone, Copy)]
pub(crate) struct Store {
    pub(crate) at: usize,
    bytes: [u8; 4],
    len: usize,
}

impl Store {
    fn of_len(entry: usize, len: usize) -> Self {
        let [a, b] = u16::try_from(len).unwrap_or(u16::MAX).to_le_bytes();
        Self { at: entry + 4, bytes: [a, b, 0, 0], len: 2 }
    }

    pub(crate) fn of_inode(entry: usize, inode: u32) -> Self {
        Self { at: entry, bytes: inode.to_le_bytes(), len: 4 }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Room {
    /// The block, and where in it the entry will be.
    pub(crate) fn place(&self) -> (u32, usize) {
        (self.block, self.at)
    }

    /// What makes the entry one, when it has been put.
    pub(crate) fn store(&self, inode: u32) -> Store {
        match self.before {
            Some((at, len)) => Store::of_len(at, len),
            None => Store::of_inode(self.at, inode),
        }
    }
}

impl Found {
    /// What takes the entry away.
    pub(crate) fn removal(&self) -> Store {
        Store::of_inode(self.at, 0)
    }

    pub(crate) fn place(&self) -> (u32, usize) {
        (self.block, self.at)
    }
}

/// A block that was read, for its entries.
fn view<'a>(blocks: &impl DirBlocks, number: u32, bytes: &'a [u8; 4096]) -> Block<'a> {
    let bytes = &bytes[..blocks.block_size()];
    Block { bytes, number, directory: blocks.ino(), max_inode: blocks.max_inode() }
}

/// That a name may be given to a file.
///
/// # Errors
/// [`Error::NameTooLong`], [`Error::InvalidName`]; [`Error::Exists`] for `.` and `..`, which every directory has.
pub(crate) fn check_new_name(name: &[u8]) -> Result<(), Error> {
    check_len(name)?;
    if name.is_empty() || !entry::is_plain(name) {
        return Err(Error::InvalidName);
    }
    if is_dot(name) { Err(Error::Exists) } else { Ok(()) }
}

/// That a name can be one at all.
pub(crate) fn check_len(name: &[u8]) -> Result<(), Error> {
    if name.len() > NAME_MAX { Err(Error::NameTooLong) } else { Ok(()) }
}

fn stored_kind(blocks: &impl DirBlocks, kind: u8) -> u8 {
    if blocks.has_kinds() { kind } else { 0 }
}

pub(crate) fn is_dot(name: &[u8]) -> bool {
    name == b"." || name == b".."
}

/// Fills the first block of a new directory; `kinds` says whether entries have one (`filetype`).
pub(crate) fn first_block(to: &mut [u8], own: u32, parent: u32, kinds: bool) {
    let size = to.len();
    let kind = if kinds { Kind::Directory.entry_type() } else { 0 };
    entry::put(to, own, entry::ENTRY_MIN, kind, b".");
    entry::put(&mut to[entry::ENTRY_MIN..], parent, size - entry::ENTRY_MIN, kind, b"..");
}

/// What `name` leads to, and the kind that its entry says.
#[cfg(test)]
pub(crate) fn lookup(blocks: &impl DirBlocks, name: &[u8]) -> Result<Option<(u32, u8)>, Error> {
    Ok(find(blocks, name)?.map(|found| (found.inode, found.kind)))
}

/// Where `name` is.
pub(crate) fn find(blocks: &impl DirBlocks, name: &[u8]) -> Result<Option<Found>, Error> {
    check_len(name)?;
    if !blocks.indexed() {
        return linear::find(blocks, name, 0..blocks.count());
    }
    if is_dot(name) {
        return linear::find(blocks, name, 0..blocks.count().min(1));
    }
    match htree::find(blocks, name)? {
        htree::Answer::Here(found) => Ok(found),
        // The entries are all there without it.
        htree::Answer::DamagedIndex(_) => linear::find(blocks, name, 0..blocks.count()),
    }
}

/// In a directory of one block without an index: the entry of a name that is known to begin at a place and to lead to an inode; `None`
/// where the block does not bear that out.
pub(crate) fn find_at(blocks: &impl DirBlocks, name: &[u8], inode: u32, at: usize) -> Result<Option<Found>, Error> {
    scan::find_at(blocks, name, inode, at)
}

/// The block that has room for entries of this name if any has: the only one, or a leaf of the index. `None` where a look at more blocks
/// is needed to say.
pub(crate) fn block_of(blocks: &impl DirBlocks, name: &[u8]) -> Result<Option<u32>, Error> {
    if blocks.indexed() { htree::leaf_of(blocks, name) } else { Ok((blocks.count() == 1).then_some(0)) }
}

/// Room in this block for an entry of a name that is known not to be there, from a place on where an entry begins.
pub(crate) fn room_from(blocks: &impl DirBlocks, number: u32, from: usize, name: &[u8]) -> Result<Option<Room>, Error> {
    scan::room_from(blocks, number, from, name)
}

/// Finds room for an entry of this name, and makes it where there is none. Nothing is there for anyone to see yet.
///
/// # Errors
/// As [`check_new_name`]; [`Error::Exists`]; [`Error::DirectoryFull`] when the index is; [`Error::Corrupt`].
pub(crate) fn room(blocks: &mut impl DirBlocks, name: &[u8]) -> Result<Room, Error> {
    check_new_name(name)?;
    if blocks.indexed() {
        if let Some(room) = htree::room(blocks, name)? {
            return Ok(room);
        }
        // The index contradicts itself. The entries are all there without it, and go on without it, as in the kernel.
        blocks.drop_index()?;
    }
    if let Some(room) = linear::room(blocks, name)? {
        return Ok(room);
    }
    if blocks.index_allowed()
        && blocks.count() == 1
        && htree::convert(blocks)?
        && let Some(room) = htree::room(blocks, name)?
    {
        return Ok(room);
    }
    linear::append(blocks)
}

/// What a rename within a directory has to know: where the two names are, and where the new one has room, which is made if
/// it is not to be an `exchange` and there is none. When blocks were replaced for that, the old name has to be looked for
/// again.
///
/// # Errors
/// As [`room`], but for [`Error::Exists`].
pub(crate) fn both(blocks: &mut impl DirBlocks, old: &[u8], new: &[u8], exchange: bool) -> Result<Both, Error> {
    // A directory of one block is walked through once for all of it.
    if !blocks.indexed() && blocks.count() == 1 {
        let both = scan::both(blocks, 0, old, new)?;
        if both.room.is_some() || both.new.is_some() {
            return Ok(both);
        }
    }
    let found = find(blocks, old)?;
    if found.is_none() || exchange {
        return Ok(Both { old: found, new: find(blocks, new)?, room: None });
    }
    // Who looks for room sees whether there is the name.
    match room(blocks, new) {
        Ok(room) => Ok(Both { old: found, new: None, room: Some(room) }),
        Err(Error::Exists) => Ok(Both { old: found, new: find(blocks, new)?, room: None }),
        Err(error) => Err(error),
    }
}

/// Puts an entry where there is room for it; [`Room::store`] makes it one.
pub(crate) fn put(blocks: &mut impl DirBlocks, room: &Room, name: &[u8], inode: u32, kind: u8) -> Result<(), Error> {
    if let Some((at, len)) = room.merged {
        // The new entry may begin where a free one does: before that is overwritten nobody may see it.
        blocks.merge(room.block, &Store::of_len(at, len))?;
    }
    let mut bytes = [0; ENTRY_MAX];
    entry::put(&mut bytes, inode, room.len, stored_kind(blocks, kind), name);
    // A free entry's inode number is what publishes it.
    let from = if room.before.is_some() { 0 } else { 4 };
    blocks.put(room.block, room.at + from, &bytes[from..entry::needed(name.len())])
}

/// Adds a name. `kind` is the number of [`Kind::entry_type`].
///
/// # Errors
/// As [`room`].
#[cfg(test)]
pub(crate) fn insert(blocks: &mut impl DirBlocks, name: &[u8], inode: u32, kind: u8) -> Result<(), Error> {
    let room = room(blocks, name)?;
    put(blocks, &room, name, inode, kind)?;
    let store = room.store(inode);
    blocks.publish(room.block, store.at, store.bytes())
}

/// Takes away an entry that was found.
pub(crate) fn remove(blocks: &mut impl DirBlocks, found: &Found) -> Result<(), Error> {
    let store = found.removal();
    blocks.publish(found.block, store.at, store.bytes())
}

/// The byte of an entry that says its kind, and what it has to be.
pub(crate) fn kind_of(blocks: &impl DirBlocks, found: &Found, kind: u8) -> (usize, u8) {
    (found.at + 7, stored_kind(blocks, kind))
}

/// Whether `.` and `..` are all it has.
pub(crate) fn is_empty(blocks: &impl DirBlocks) -> Result<bool, Error> {
    let mut bytes = [0; 4096];
    for number in 0..blocks.count() {
        blocks.read(number, &mut bytes)?;
        for entry in view(blocks, number, &bytes).entries() {
            let entry = entry?;
            if entry.inode != 0 && !is_dot(entry.name) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}
