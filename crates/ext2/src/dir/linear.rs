//! A directory as a row of blocks.

use super::entry::{Block, needed};
use super::{DirBlocks, Found, Room, view};
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

/// The first room for an entry of this name, when no block has the name.
pub(super) fn room(blocks: &impl DirBlocks, name: &[u8]) -> Result<Option<Room>, Error> {
    let mut bytes = [0; 4096];
    let mut first = None;
    for number in 0..blocks.count() {
        blocks.read(number, &mut bytes)?;
        let room = room_in(view(blocks, number, &bytes), name)?;
        first = first.or(room);
    }
    Ok(first)
}

/// The first room in a block for an entry of this name.
///
/// # Errors
/// [`Error::Exists`] if it has the name.
pub(super) fn room_in(block: Block<'_>, name: &[u8]) -> Result<Option<Room>, Error> {
    let need = needed(name.len());
    let mut room = None;
    for entry in block.entries() {
        let entry = entry?;
        if entry.name.len() == name.len() && entry.name.last() == name.last() && entry.name == name && entry.inode != 0
        {
            return Err(Error::Exists);
        }
        let used = entry.used();
        if room.is_none() && entry.len - used >= need {
            let before = (entry.inode != 0).then_some((entry.at, used));
            room = Some(Room { block: block.number, at: entry.at + used, len: entry.len - used, before });
        }
    }
    Ok(room)
}

/// Room in a new block, which is all free.
pub(super) fn append(blocks: &mut impl DirBlocks) -> Result<Room, Error> {
    let size = blocks.block_size();
    let mut bytes = [0; 4096];
    super::entry::put_len(&mut bytes, size);
    let block = blocks.count();
    blocks.replace(&[(block, &bytes[..size])], false)?;
    Ok(Room { block, at: 0, len: size, before: None })
}
