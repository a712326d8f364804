//! The entries of a directory in an order in which a reader can stop and go on, while names come and go.
//!
//! Where names may change, the order is that of the hashes of the names ([`Order::Hash`]), as in the kernel's ext4: a name
//! keeps its place when others are removed, and when blocks are split. A cursor is, from the top: 31 bits of the hash,
//! 10 bits that count the leaves with names of this hash, 22 bits of another hash of the name; with room for `.` and
//! `..` before all others. So a name that is there all the time is seen once. Only names of one and the same hash, of
//! which a real directory has next to none, may be missed or seen twice, when they are parted by a split in between.
//!
//! Where nothing changes, and in directories of several blocks without an index, the order is that of the blocks
//! ([`Order::Place`]), and a cursor is a position in bytes: removals and additions there move nothing.

use super::htree::{self, Answer};
use super::{DirBlocks, DirEntry, view};
use crate::error::Error;
use crate::inode::{InodeNo, Kind};

/// More entries than a block can have.
const MOST: usize = 4096 / 12 + 2;

/// Which order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Order {
    Place,
    Hash,
}

/// Entries of one block, copied, in order.
pub(crate) struct Listing {
    bytes: [u8; 4096],
    number: u32,
    /// The cursor of each entry, and where it is.
    entries: [(u64, u16); MOST],
    count: usize,
    /// The cursor of what comes after this block, if anything does.
    pub(crate) next: Option<u64>,
}

/// The cursors of `.`, of `..`, and of the first other name.
const DOT: u64 = 0;
const DOT_DOT: u64 = 1;
const NAMES: u64 = 2;

fn cursor_of(hash: u32, chain: u32, minor: u32) -> u64 {
    NAMES + (u64::from(hash >> 1) << 32 | u64::from(chain.min((1 << 10) - 1)) << 22 | u64::from(minor >> 10))
}

/// Tells names of one hash apart (FNV-1a).
fn minor(name: &[u8]) -> u32 {
    name.iter().fold(0x811c_9dc5, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

impl Listing {
    pub(crate) fn new() -> Self {
        Self { bytes: [0; 4096], number: 0, entries: [(0, 0); MOST], count: 0, next: None }
    }

    /// Takes in the entries that come first from `cursor` on, those of one block.
    pub(crate) fn fill(&mut self, blocks: &impl DirBlocks, cursor: u64, order: Order) -> Result<(), Error> {
        self.count = 0;
        self.next = None;
        if order == Order::Hash && blocks.index_allowed() {
            if !blocks.indexed() && blocks.count() == 1 {
                return self.only_block(blocks, cursor);
            }
            if blocks.indexed() && cursor < NAMES {
                return self.dots(blocks, cursor);
            }
            if blocks.indexed() && self.leaf(blocks, cursor)? {
                return Ok(());
            }
        }
        self.block(blocks, cursor)
    }

    fn block(&mut self, blocks: &impl DirBlocks, cursor: u64) -> Result<(), Error> {
        let size = blocks.block_size() as u64;
        let Some(number) = u32::try_from(cursor / size).ok().filter(|&number| number < blocks.count()) else {
            return Ok(());
        };
        let start = u64::from(number) * size;
        if number + 1 < blocks.count() {
            self.next = Some(start + size);
        }
        self.take(blocks, number, cursor, |at, _| start + at as u64)
    }

    fn only_block(&mut self, blocks: &impl DirBlocks, cursor: u64) -> Result<(), Error> {
        let Some(hasher) = htree::default_hasher(blocks) else { return Ok(()) };
        self.take(blocks, 0, cursor, |_, name| match name {
            b"." => DOT,
            b".." => DOT_DOT,
            name => cursor_of(hasher.hash(name), 0, minor(name)),
        })?;
        self.sort();
        Ok(())
    }

    fn dots(&mut self, blocks: &impl DirBlocks, cursor: u64) -> Result<(), Error> {
        self.next = Some(NAMES);
        // The root of an index has no other names.
        self.take(blocks, 0, cursor, |_, name| if name == b"." { DOT } else { DOT_DOT })
    }

    /// Takes in a leaf; `false` for an index that contradicts itself.
    fn leaf(&mut self, blocks: &impl DirBlocks, cursor: u64) -> Result<bool, Error> {
        let key = cursor - NAMES;
        let Ok(hash) = u32::try_from((key >> 32) << 1) else { return Ok(true) };
        let chain = u32::try_from(key >> 22 & 0x3ff).unwrap_or(0);
        let Answer::Here(leaf) = htree::leaf_at(blocks, hash, chain)? else { return Ok(false) };
        self.take(blocks, leaf.number, cursor, |_, name| {
            let of = leaf.hasher.hash(name);
            cursor_of(of, if of == hash { leaf.chain } else { 0 }, minor(name))
        })?;
        // In the root of a small index `.` and `..` are not met; a leaf that has them is damaged.
        self.sort();
        if let Some(low) = leaf.next {
            let goes_on = low & 1 == 1;
            let chain = match goes_on {
                true if low & !1 == hash => leaf.chain + 1,
                true => 1,
                false => 0,
            };
            let next = cursor_of(low, chain, 0);
            if next <= cursor {
                let what = "the hashes of a directory's index go down";
                return Err(Error::Corrupt { what, inode: blocks.ino(), at: u64::from(low) });
            }
            self.next = Some(next);
        }
        Ok(true)
    }

    /// Takes in the entries of a block that have cursors from `cursor` on.
    fn take(
        &mut self,
        blocks: &impl DirBlocks,
        number: u32,
        cursor: u64,
        of: impl Fn(usize, &[u8]) -> u64,
    ) -> Result<(), Error> {
        blocks.read(number, &mut self.bytes)?;
        self.number = number;
        for entry in view(blocks, number, &self.bytes).entries() {
            let entry = entry?;
            let own = of(entry.at, entry.name);
            if entry.inode != 0 && own >= cursor && self.count < MOST {
                self.entries[self.count] = (own, u16::try_from(entry.at).unwrap_or(0));
                self.count += 1;
            }
        }
        Ok(())
    }

    fn sort(&mut self) {
        self.entries[..self.count].sort_unstable();
    }

    /// Calls `each` for the entries, until it says `false`; whether it never did.
    pub(crate) fn each(
        &self,
        blocks: &impl DirBlocks,
        each: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Result<bool, Error> {
        let block = view(blocks, self.number, &self.bytes);
        for &(cursor, at) in &self.entries[..self.count] {
            let entry = block.entry(at.into())?;
            block.check_name(&entry)?;
            let going_on = each(DirEntry {
                ino: InodeNo(entry.inode),
                kind: Kind::from_entry_type(entry.kind),
                name: entry.name,
                next: cursor + 1,
            });
            if !going_on {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Calls `each` for all entries of a directory that stands still.
#[cfg(test)]
pub(crate) fn iterate(
    blocks: &impl DirBlocks,
    cursor: u64,
    order: Order,
    each: &mut dyn FnMut(DirEntry<'_>) -> bool,
) -> Result<(), Error> {
    let mut listing = Listing::new();
    let mut next = Some(cursor);
    while let Some(cursor) = next {
        listing.fill(blocks, cursor, order)?;
        if !listing.each(blocks, each)? {
            break;
        }
        next = listing.next;
    }
    Ok(())
}
