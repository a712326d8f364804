//! Directories: names that lead to inodes.
//!
//! | module | what it knows |
//! |---|---|
//! | `entry` | the entries of one block, checked |
//! | `linear` | all blocks one after the other |
//! | `htree` | the index (`dir_index`): a tree of hashes of names, whose leaves are blocks of entries |
//! | `hash` | the hashes |
//!
//! To one who does not know the index its blocks look like entries that are free, so a walk through all blocks sees
//! every name once in any directory. What a directory's blocks are made of is the business of [`DirBlocks`].
//!
//! Order of stores (contract 7): a new entry is written where nothing leads to it; then one aligned store, of the
//! length of the entry before it or of its inode number, publishes it. Removal is one such store. When a leaf of the
//! index is split, the new leaf is written before the index leads to it, and the old one is cleared last: a crash in
//! between can leave names twice, never lose one.

pub(crate) mod entry;
pub(crate) mod hash;
mod htree;
mod linear;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use crate::error::Error;
use crate::inode::{InodeNo, Kind};
use entry::{Block, NAME_MAX};

/// A name in a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DirEntry<'a> {
    /// What it leads to.
    pub ino: InodeNo,
    /// The kind of that, where the entry says it.
    pub kind: Option<Kind>,
    /// The name: no slash, no zero byte, not empty.
    pub name: &'a [u8],
    /// The cursor of what comes after it.
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
    /// Fills the first `block_size` bytes of `to` with block `n`. A hole is an error.
    fn read(&self, n: u32, to: &mut [u8; 4096]) -> Result<(), Error>;
    /// Stores into block `n`, before any store that comes after.
    fn write(&mut self, n: u32, at: usize, bytes: &[u8]) -> Result<(), Error>;
    /// A new block of zeros at the end; its number. The caller fills it at once.
    fn append(&mut self) -> Result<u32, Error>;
    /// Whether it has an index (`EXT2_INDEX_FL`).
    fn indexed(&self) -> bool;
    /// Changes that.
    fn set_indexed(&mut self, indexed: bool) -> Result<(), Error>;
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
#[derive(Clone, Copy)]
struct Found {
    block: u32,
    at: usize,
    len: usize,
    /// The entry before it in its block, and the length of that.
    before: Option<(usize, usize)>,
    inode: u32,
    kind: u8,
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
    if name.len() > NAME_MAX {
        return Err(Error::NameTooLong);
    }
    if name.is_empty() || !entry::is_plain(name) {
        return Err(Error::InvalidName);
    }
    if is_dot(name) { Err(Error::Exists) } else { Ok(()) }
}

fn stored_kind(blocks: &impl DirBlocks, kind: u8) -> u8 {
    if blocks.has_kinds() { kind } else { 0 }
}

fn is_dot(name: &[u8]) -> bool {
    name == b"." || name == b".."
}

/// Makes an empty directory of one that has no blocks.
pub(crate) fn init(blocks: &mut impl DirBlocks, own: u32, parent: u32) -> Result<(), Error> {
    let size = blocks.block_size();
    let kind = stored_kind(blocks, Kind::Directory.entry_type());
    let mut block = [0; 4096];
    entry::put(&mut block, own, entry::ENTRY_MIN, kind, b".");
    entry::put(&mut block[entry::ENTRY_MIN..], parent, size - entry::ENTRY_MIN, kind, b"..");
    let first = blocks.append()?;
    blocks.write(first, 0, &block[..size])
}

/// What `name` leads to, and the kind that its entry says.
pub(crate) fn lookup(blocks: &impl DirBlocks, name: &[u8]) -> Result<Option<(u32, u8)>, Error> {
    Ok(find(blocks, name)?.map(|found| (found.inode, found.kind)))
}

fn find(blocks: &impl DirBlocks, name: &[u8]) -> Result<Option<Found>, Error> {
    if name.len() > NAME_MAX {
        return Err(Error::NameTooLong);
    }
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

/// Calls `each` for the entries from `cursor` on, until it says `false`. A cursor is a position in bytes; one that is
/// not the start of an entry (any more) stands for the next that is.
pub(crate) fn iterate(
    blocks: &impl DirBlocks,
    cursor: u64,
    each: &mut dyn FnMut(DirEntry<'_>) -> bool,
) -> Result<(), Error> {
    let size = blocks.block_size() as u64;
    let mut bytes = [0; 4096];
    let Ok(first) = u32::try_from(cursor / size) else { return Ok(()) };
    for number in first..blocks.count() {
        let start = u64::from(number) * size;
        blocks.read(number, &mut bytes)?;
        let block = view(blocks, number, &bytes);
        for entry in block.entries() {
            let entry = entry?;
            if entry.inode == 0 || start + (entry.at as u64) < cursor {
                continue;
            }
            block.check_name(&entry)?;
            let going_on = each(DirEntry {
                ino: InodeNo(entry.inode),
                kind: Kind::from_entry_type(entry.kind),
                name: entry.name,
                next: start + entry.end() as u64,
            });
            if !going_on {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Adds a name. `kind` is the number of [`Kind::entry_type`].
///
/// # Errors
/// As [`check_new_name`]; [`Error::Exists`] where it is noticed in passing (the caller looks first);
/// [`Error::DirectoryFull`] when the index is; [`Error::Corrupt`], also for an index that a lookup could do without.
pub(crate) fn insert(blocks: &mut impl DirBlocks, name: &[u8], inode: u32, kind: u8) -> Result<(), Error> {
    check_new_name(name)?;
    let new = New { name, inode, kind: stored_kind(blocks, kind) };
    if blocks.indexed() {
        return htree::insert(blocks, &new);
    }
    if linear::insert(blocks, &new)? {
        return Ok(());
    }
    if blocks.index_allowed() && blocks.count() == 1 && htree::convert(blocks)? {
        return htree::insert(blocks, &new);
    }
    linear::append(blocks, &new)
}

/// An entry to be.
struct New<'a> {
    name: &'a [u8],
    inode: u32,
    kind: u8,
}

/// Takes a name away; what it led to.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Corrupt`].
#[allow(dead_code, reason = "for unlink and rename")]
pub(crate) fn remove(blocks: &mut impl DirBlocks, name: &[u8]) -> Result<u32, Error> {
    let found = find(blocks, name)?.ok_or(Error::NotFound)?;
    match found.before {
        // The entry before it takes its bytes.
        Some((at, len)) => {
            let len = u16::try_from(len + found.len).unwrap_or(u16::MAX);
            blocks.write(found.block, at + 4, &len.to_le_bytes())?;
        }
        None => blocks.write(found.block, found.at, &0_u32.to_le_bytes())?,
    }
    Ok(found.inode)
}

/// Makes a name that is there lead to something else.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Corrupt`].
#[allow(dead_code, reason = "for unlink and rename")]
pub(crate) fn set_target(blocks: &mut impl DirBlocks, name: &[u8], inode: u32, kind: u8) -> Result<(), Error> {
    let found = find(blocks, name)?.ok_or(Error::NotFound)?;
    let kind = stored_kind(blocks, kind);
    if found.kind != kind {
        blocks.write(found.block, found.at + 7, &[kind])?;
    }
    blocks.write(found.block, found.at, &inode.to_le_bytes())
}

/// Whether `.` and `..` are all it has.
#[allow(dead_code, reason = "for unlink and rename")]
pub(crate) fn is_empty(blocks: &impl DirBlocks) -> Result<bool, Error> {
    let mut empty = true;
    iterate(blocks, 0, &mut |entry| {
        empty = is_dot(entry.name);
        empty
    })?;
    Ok(empty)
}
