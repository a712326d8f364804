//! A directory as a row of blocks.

use super::{DirBlocks, Found, Room, entry, scan};
use crate::error::Error;
use core::ops::Range;

/// Looks for a name in some of the blocks.
pub(super) fn find(blocks: &impl DirBlocks, name: &[u8], range: Range<u32>) -> Result<Option<Found>, Error> {
    for number in range {
        if let Some(found) = scan::find(blocks, number, name)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The first room for an entry of this name, when no block has the name.
pub(super) fn room(blocks: &impl DirBlocks, name: &[u8]) -> Result<Option<Room>, Error> {
    let mut first = None;
    for number in 0..blocks.count() {
        let room = scan::room(blocks, number, name)?;
        first = first.or(room);
    }
    Ok(first)
}

/// Room in a new block, which is all free.
pub(super) fn append(blocks: &mut impl DirBlocks) -> Result<Room, Error> {
    let size = blocks.block_size();
    let mut bytes = [0; 4096];
    entry::put_len(&mut bytes, size);
    let block = blocks.count();
    blocks.replace(&[(block, &bytes[..size])], false)?;
    Ok(Room { block, at: 0, len: size, before: None, merged: None })
}
