//! A directory as a row of blocks.

use super::entry::{self, Block, ENTRY_MAX, needed};
use super::{DirBlocks, Found, New, view};
use crate::error::Error;
use core::ops::Range;

/// Looks for a name in some of the blocks.
pub(super) fn find(blocks: &impl DirBlocks, name: &[u8], range: Range<u32>) -> Result<Option<Found>, Error> {
    let mut bytes = [0; 4096];
    for number in range {
        blocks.read(number, &mut bytes)?;
        if let Some(found) = find_in(view(blocks, number, &bytes), name)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Looks for a name in one block.
pub(super) fn find_in(block: Block<'_>, name: &[u8]) -> Result<Option<Found>, Error> {
    let mut before = None;
    for entry in block.entries() {
        let entry = entry?;
        // The last byte first: names in one directory often differ only there.
        if entry.name.len() == name.len() && entry.name.last() == name.last() && entry.name == name && entry.inode != 0
        {
            block.check_name(&entry)?;
            let (at, len, inode, kind) = (entry.at, entry.len, entry.inode, entry.kind);
            return Ok(Some(Found { block: block.number, at, len, before, inode, kind }));
        }
        before = Some((entry.at, entry.len));
    }
    Ok(None)
}

/// Adds an entry to the first block that has room; whether one had.
pub(super) fn insert(blocks: &mut impl DirBlocks, new: &New<'_>) -> Result<bool, Error> {
    let mut bytes = [0; 4096];
    for number in 0..blocks.count() {
        blocks.read(number, &mut bytes)?;
        if insert_in(blocks, number, &bytes, new)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Adds an entry to block `number`, whose bytes these are, if it has room; whether it had.
pub(super) fn insert_in(
    blocks: &mut impl DirBlocks,
    number: u32,
    bytes: &[u8; 4096],
    new: &New<'_>,
) -> Result<bool, Error> {
    let need = needed(new.name.len());
    let mut room = None;
    for entry in view(blocks, number, bytes).entries() {
        let entry = entry?;
        if entry.inode != 0 && entry.name == new.name {
            return Err(Error::Exists);
        }
        if room.is_none() && entry.len - entry.used() >= need {
            room = Some(entry);
        }
    }
    let Some(room) = room else { return Ok(false) };
    let mut bytes = [0; ENTRY_MAX];
    let at = room.at + room.used();
    entry::put(&mut bytes, new.inode, room.len - room.used(), new.kind, new.name);
    if room.inode == 0 {
        // Its inode number makes it an entry.
        blocks.write(number, at + 4, &bytes[4..need])?;
        blocks.write(number, at, &bytes[..4])?;
    } else {
        // The end of the entry before it makes it one.
        blocks.write(number, at, &bytes[..need])?;
        let len = u16::try_from(room.used()).unwrap_or(u16::MAX);
        blocks.write(number, room.at + 4, &len.to_le_bytes())?;
    }
    Ok(true)
}

/// Adds an entry in a new block.
pub(super) fn append(blocks: &mut impl DirBlocks, new: &New<'_>) -> Result<(), Error> {
    let size = blocks.block_size();
    let mut bytes = [0; 4096];
    entry::put(&mut bytes, new.inode, size, new.kind, new.name);
    let number = blocks.append()?;
    blocks.write(number, 0, &bytes[..size])
}
