//! How an index grows: a full leaf is split, a full block of the index is split, the root gets a level below it; and
//! how a directory gets an index at first.
//!
//! Each time all the blocks that change are replaced at once.

use super::super::entry::{self, ENTRY_MIN, needed};
use super::super::{DirBlocks, view};
use super::table::{self, ELEMENT, NODE, ROOT, put_counts};
use super::{INFO, Path, default_version};
use crate::error::Error;

/// More entries than a block can have.
const MOST: usize = 4096 / ENTRY_MIN + 2;

/// The entries of a block, to be sorted: hash, position, bytes needed.
struct Map {
    items: [(u32, u16, u16); MOST],
    count: usize,
}

impl Map {
    const EMPTY: Self = Self { items: [(0, 0, 0); MOST], count: 0 };

    // A block has no more entries than the map has room for, and positions and lengths are inside it.
    #[allow(clippy::cast_possible_truncation)]
    fn push(&mut self, hash: u32, at: usize, name: &[u8]) {
        self.items[self.count] = (hash, at as u16, needed(name.len()) as u16);
        self.count += 1;
    }

    fn items(&self) -> &[(u32, u16, u16)] {
        &self.items[..self.count]
    }
}

fn bytes_of(items: &[(u32, u16, u16)]) -> usize {
    items.iter().map(|item| usize::from(item.2)).sum()
}

/// Puts entries into a block of their own, one after the other; the last has what is left.
fn pack(to: &mut [u8], items: &[(u32, u16, u16)], from: &[u8]) {
    let mut at = 0;
    for (n, &(_, position, len)) in items.iter().enumerate() {
        let (position, len) = (usize::from(position), usize::from(len));
        to[at..at + len].copy_from_slice(&from[position..position + len]);
        let all = if n + 1 == items.len() { to.len() - at } else { len };
        entry::put_len(&mut to[at..], all);
        at += len;
    }
}

/// Makes room for `name` in the leaf at the end of `path`, which has none in one piece: half of the names, those of the
/// larger hashes, go to a new leaf. The table that leads there has room for it.
pub(super) fn leaf(blocks: &mut impl DirBlocks, path: &Path, name: &[u8]) -> Result<(), Error> {
    let size = blocks.block_size();
    let mut bytes = [0; 4096];
    blocks.read(path.leaf, &mut bytes)?;
    let mut map = Map::EMPTY;
    for entry in view(blocks, path.leaf, &bytes).entries() {
        let entry = entry?;
        if entry.inode != 0 {
            map.push(path.hasher.hash(entry.name), entry.at, entry.name);
        }
    }
    let mut low = [0; 4096];
    let total = bytes_of(map.items());
    if total + needed(name.len()) <= size || map.count < 2 {
        // There is room, in pieces.
        pack(&mut low[..size], map.items(), &bytes);
        return blocks.replace(&[(path.leaf, &low[..size])], true);
    }
    let items = &mut map.items[..map.count];
    items.sort_unstable();
    // At least one entry on either side: each is smaller than half of all.
    let (mut split, mut low_bytes) = (1, usize::from(items[0].2));
    while split + 1 < items.len() && low_bytes + usize::from(items[split].2) <= total / 2 {
        low_bytes += usize::from(items[split].2);
        split += 1;
    }
    let hash = items[split].0;
    let continued = u32::from(items[split - 1].0 == hash);
    let mut high = [0; 4096];
    pack(&mut low[..size], &items[..split], &bytes);
    pack(&mut high[..size], &items[split..], &bytes);
    let added = blocks.count();
    let (number, offset, slot) = path.last();
    table::read(blocks, number, offset, &mut bytes)?;
    table::insert_after(&mut bytes, offset, slot, (hash | continued, added));
    blocks.replace(&[(path.leaf, &low[..size]), (number, &bytes[..size]), (added, &high[..size])], true)
}

/// Makes room in the full table that leads to the leaf of `path`. The path does not hold any more.
///
/// # Errors
/// [`Error::DirectoryFull`] when the root has no room either.
pub(super) fn index(blocks: &mut impl DirBlocks, path: &Path) -> Result<(), Error> {
    let size = blocks.block_size();
    let mut bytes = [0; 4096];
    let (block, offset, slot) = path.last();
    if path.node.is_some() && path.root.is_full() {
        return Err(Error::DirectoryFull);
    }
    let table = table::read(blocks, block, offset, &mut bytes)?;
    // All of the root's elements go one level down; half of another table's go to its new neighbour.
    let kept = if path.node.is_some() { slot.count / 2 } else { 0 };
    let moved = slot.count - kept;
    let hash = table.hash(kept);
    let mut node = [0; 4096];
    entry::put_len(&mut node, size);
    node[NODE..NODE + moved * ELEMENT].copy_from_slice(&bytes[offset + kept * ELEMENT..][..moved * ELEMENT]);
    put_counts(&mut node[NODE..], table::limit(size, NODE), moved);
    let added = blocks.count();
    let mut root = [0; 4096];
    if path.node.is_some() {
        put_counts(&mut bytes[offset..], slot.limit, kept);
        table::read(blocks, 0, ROOT, &mut root)?;
        table::insert_after(&mut root, ROOT, path.root, (hash, added));
        let changed = [(block, &bytes[..size]), (0, &root[..size]), (added, &node[..size])];
        return blocks.replace(&changed, true);
    }
    bytes[INFO + 6] = 1;
    put_counts(&mut bytes[ROOT..], slot.limit, 1);
    bytes[ROOT + 4..ROOT + 8].copy_from_slice(&added.to_le_bytes());
    blocks.replace(&[(0, &bytes[..size]), (added, &node[..size])], true)
}

/// Gives an index to a directory of one block; whether it could. Its entries, but `.` and `..`, move to a leaf.
pub(in super::super) fn convert(blocks: &mut impl DirBlocks) -> Result<bool, Error> {
    let size = blocks.block_size();
    let mut bytes = [0; 4096];
    blocks.read(0, &mut bytes)?;
    let mut map = Map::EMPTY;
    for (n, entry) in view(blocks, 0, &bytes).entries().enumerate() {
        let entry = entry?;
        let dot = [(".", 0), ("..", ENTRY_MIN)].get(n).copied();
        if let Some((name, at)) = dot {
            if entry.name != name.as_bytes() || entry.at != at || entry.inode == 0 {
                return Ok(false);
            }
        } else if entry.inode != 0 {
            map.push(0, entry.at, entry.name);
        }
    }
    let version = default_version(blocks);
    let mut leaf = [0; 4096];
    entry::put_len(&mut leaf, size);
    pack(&mut leaf[..size], map.items(), &bytes);
    let added = blocks.count();
    entry::put_len(&mut bytes[ENTRY_MIN..], size - ENTRY_MIN);
    bytes[INFO..size].fill(0);
    bytes[INFO + 4] = version;
    bytes[INFO + 5] = 8;
    put_counts(&mut bytes[ROOT..], table::limit(size, ROOT), 1);
    bytes[ROOT + 4..ROOT + 8].copy_from_slice(&added.to_le_bytes());
    blocks.replace(&[(0, &bytes[..size]), (added, &leaf[..size])], true)?;
    Ok(true)
}
