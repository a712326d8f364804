//! The index of a directory (`dir_index`): a tree, two levels at most, from hashes of names to blocks of entries.
//!
//! Block 0 is the root. After `.` and `..`, whose length hides the rest, come eight bytes (0, number of the hash
//! function, 8, levels below the root, flags) and a table. A block of the level below is one free entry as large as
//! the block, and a table in it. A table is an array of (hash, block), ascending: names from that hash on, up to the
//! next, are found through that block. The first has no hash, since it takes all that is smaller; in its place are
//! the limit and the count of the table. An odd hash says that names with this hash stand in the block before, too.

mod split;
mod table;

use super::hash::Hasher;
use super::{DirBlocks, Found, Room, scan};
use crate::error::Error;
pub(super) use split::convert;
use table::{NODE, ROOT};

/// Where the root keeps the number of the hash function, and what follows it.
const INFO: usize = 24;

/// What an index says to a question.
pub(super) enum Answer<T> {
    /// The answer.
    Here(T),
    /// The index contradicts itself; the blocks of entries may still be whole.
    DamagedIndex(Error),
}

/// The way from the root to a leaf. Its depth is part of its type: no index, however damaged, leads further.
#[derive(Clone, Copy)]
struct Path {
    hasher: Hasher,
    hash: u32,
    /// The slot in the root's table.
    root: Slot,
    /// The block of the level below and the slot in its table, if there is that level.
    node: Option<(u32, Slot)>,
    /// The block of entries.
    leaf: u32,
}

/// A place in a table.
#[derive(Clone, Copy)]
struct Slot {
    at: usize,
    count: usize,
    limit: usize,
}

impl Slot {
    fn is_full(&self) -> bool {
        self.count == self.limit
    }
}

impl Path {
    /// The block whose table leads to the leaf, and where that table is.
    fn last(&self) -> (u32, usize, Slot) {
        match self.node {
            Some((block, slot)) => (block, NODE, slot),
            None => (0, ROOT, self.root),
        }
    }
}

/// Looks for a name, which is not `.` or `..`.
pub(super) fn find(blocks: &impl DirBlocks, name: &[u8]) -> Result<Answer<Option<Found>>, Error> {
    let mut path = match probe(blocks, name)? {
        Answer::Here(path) => path,
        Answer::DamagedIndex(error) => return Ok(Answer::DamagedIndex(error)),
    };
    // Names of the same hash may fill more than one leaf, but no more than there are.
    for _ in 0..blocks.count() {
        if let Some(found) = scan::find(blocks, path.leaf, name)? {
            return Ok(Answer::Here(Some(found)));
        }
        match next_leaf(blocks, &mut path)? {
            Answer::Here(true) => {}
            Answer::Here(false) => return Ok(Answer::Here(None)),
            Answer::DamagedIndex(error) => return Ok(Answer::DamagedIndex(error)),
        }
    }
    Ok(Answer::Here(None))
}

/// Room for an entry of this name, made where there is none; `None` when the index contradicts itself.
///
/// # Errors
/// [`Error::Exists`]; [`Error::DirectoryFull`] when neither the root nor what is below it has room.
pub(super) fn room(blocks: &mut impl DirBlocks, name: &[u8]) -> Result<Option<Room>, Error> {
    // At most: the root grows a level, or a block of the index is split; then the leaf, once more where its halves are
    // uneven.
    for _ in 0..5 {
        let Answer::Here(path) = probe(blocks, name)? else { return Ok(None) };
        let room = scan::room(blocks, path.leaf, name)?;
        match is_in_next(blocks, path, name)? {
            Answer::Here(true) => return Err(Error::Exists),
            Answer::Here(false) => {}
            Answer::DamagedIndex(_) => return Ok(None),
        }
        if room.is_some() {
            return Ok(room);
        }
        let full = path.last().2.is_full();
        let grown = if full { split::index(blocks, &path) } else { split::leaf(blocks, &path, name) };
        match answer(grown)? {
            Answer::Here(()) => {}
            Answer::DamagedIndex(_) => return Ok(None),
        }
    }
    Err(Error::DirectoryFull)
}

/// The first leaf that a new entry of this name may stand in.
pub(super) fn leaf_of(blocks: &impl DirBlocks, name: &[u8]) -> Result<Option<u32>, Error> {
    Ok(match probe(blocks, name)? {
        Answer::Here(path) => Some(path.leaf),
        Answer::DamagedIndex(_) => None,
    })
}

/// Whether a leaf after that of `path`, with names of the same hash, has `name`.
fn is_in_next(blocks: &impl DirBlocks, mut path: Path, name: &[u8]) -> Result<Answer<bool>, Error> {
    for _ in 0..blocks.count() {
        match next_leaf(blocks, &mut path)? {
            Answer::Here(true) => {}
            Answer::Here(false) => break,
            Answer::DamagedIndex(error) => return Ok(Answer::DamagedIndex(error)),
        }
        if scan::find(blocks, path.leaf, name)?.is_some() {
            return Ok(Answer::Here(true));
        }
    }
    Ok(Answer::Here(false))
}

/// Turns "this is damaged", said of the index, into an answer; other errors stay errors.
fn answer<T>(result: Result<T, Error>) -> Result<Answer<T>, Error> {
    match result {
        Ok(value) => Ok(Answer::Here(value)),
        Err(error @ (Error::Corrupt { .. } | Error::Unsupported(_))) => Ok(Answer::DamagedIndex(error)),
        Err(error) => Err(error),
    }
}

/// The way to the first leaf that can have `name`.
fn probe(blocks: &impl DirBlocks, name: &[u8]) -> Result<Answer<Path>, Error> {
    answer(try_probe(blocks, |hasher| hasher.hash(name)))
}

fn try_probe(blocks: &impl DirBlocks, hash: impl FnOnce(&Hasher) -> u32) -> Result<Path, Error> {
    let corrupt = |what, at| Error::Corrupt { what, inode: blocks.ino(), at };
    if blocks.count() == 0 {
        return Err(corrupt("a directory without blocks", 0));
    }
    let (levels, path) = table::with(blocks, 0, ROOT, |table| {
        let [version, info_len, levels, flags] = table.array(INFO + 4);
        let lens = [4, 16].map(|at| usize::from(u16::from_le_bytes(table.array(at))));
        if lens != [12, blocks.block_size() - 12] || info_len != 8 || flags & 1 != 0 || levels > 1 {
            return Err(corrupt("the root of the directory's index", INFO as u64));
        }
        let hasher = Hasher::new(version, blocks.unsigned_hash(), blocks.hash_seed())
            .ok_or(Error::Unsupported("the directory's index has a hash function that this program does not know"))?;
        let hash = hash(&hasher);
        let root = table.search(hash);
        Ok((levels, Path { hasher, hash, root, node: None, leaf: table.block(root.at)? }))
    })?;
    if levels == 0 {
        return Ok(path);
    }
    table::with(blocks, path.leaf, NODE, |table| {
        let slot = table.search(path.hash);
        Ok(Path { node: Some((path.leaf, slot)), leaf: table.block(slot.at)?, ..path })
    })
}

/// Goes on to the next leaf if that has names with the same hash; whether it has.
fn next_leaf(blocks: &impl DirBlocks, path: &mut Path) -> Result<Answer<bool>, Error> {
    answer(try_next_leaf(blocks, path))
}

fn try_next_leaf(blocks: &impl DirBlocks, path: &mut Path) -> Result<bool, Error> {
    Ok(match try_next(blocks, path)? {
        Some((low, next)) if low & !1 == path.hash => {
            *path = next;
            true
        }
        _ => false,
    })
}

/// The leaf after that of `path`, whatever its hashes: the first of them, as the index has it, and the way there.
fn try_next(blocks: &impl DirBlocks, path: &Path) -> Result<Option<(u32, Path)>, Error> {
    let (block, offset, slot) = path.last();
    let next = slot.at + 1;
    if next < slot.count {
        return table::with(blocks, block, offset, |table| {
            if next >= table.count {
                return Ok(None);
            }
            let mut after = Path { leaf: table.block(next)?, ..*path };
            match &mut after.node {
                Some((_, slot)) => slot.at = next,
                None => after.root.at = next,
            }
            Ok(Some((table.hash(next), after)))
        });
    }
    let next = path.root.at + 1;
    if path.node.is_none() || next >= path.root.count {
        return Ok(None);
    }
    let element = table::with(blocks, 0, ROOT, |root| {
        Ok(if next < root.count { Some((root.hash(next), root.block(next)?)) } else { None })
    })?;
    let Some((low, below)) = element else { return Ok(None) };
    table::with(blocks, below, NODE, |table| {
        let root = Slot { at: next, ..path.root };
        let node = Some((below, Slot { at: 0, ..table.slot(0) }));
        Ok(Some((low, Path { root, node, leaf: table.block(0)?, ..*path })))
    })
}

/// The leaf of a position in the order of the index.
pub(super) struct Leaf {
    pub(super) hasher: Hasher,
    pub(super) number: u32,
    /// How many leaves before this one have names of the hash asked for.
    pub(super) chain: u32,
    /// The smallest hash of the leaf after it, as the index has it.
    pub(super) next: Option<u32>,
}

/// The leaf that has names of `hash`, or the smallest above, after passing over `chain` leaves that have names of the same
/// hash.
pub(super) fn leaf_at(blocks: &impl DirBlocks, hash: u32, chain: u32) -> Result<Answer<Leaf>, Error> {
    answer(try_leaf_at(blocks, hash, chain))
}

fn try_leaf_at(blocks: &impl DirBlocks, hash: u32, chain: u32) -> Result<Leaf, Error> {
    let mut path = try_probe(blocks, |_| hash)?;
    let mut passed = 0;
    while passed < chain.min(blocks.count()) && try_next_leaf(blocks, &mut path)? {
        passed += 1;
    }
    let next = try_next(blocks, &path)?.map(|(low, _)| low);
    Ok(Leaf { hasher: path.hasher, number: path.leaf, chain: passed, next })
}

/// The hash function of a directory that has no index, but may get one.
pub(super) fn default_hasher(blocks: &impl DirBlocks) -> Option<Hasher> {
    Hasher::new(default_version(blocks), blocks.unsigned_hash(), blocks.hash_seed())
}

fn default_version(blocks: &impl DirBlocks) -> u8 {
    if blocks.default_hash() <= 2 { blocks.default_hash() } else { Hasher::DEFAULT }
}
