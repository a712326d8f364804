//! Blocks of a directory looked at where they stand: what a lookup and a new name do, without a copy.
//!
//! Storage may be changed by others at any moment, so everything is loaded once, and checked after that.

use super::entry::{Block, HEAD, Head, is_plain, needed};
use super::{DirBlocks, Found, Room};
use crate::error::Error;
use crate::raw::bytes_at;
use xip_core::Region;

/// The bytes of a block: in place, or a copy.
#[derive(Clone, Copy)]
pub(super) enum Window<'a> {
    Here(Region<'a>),
    Copy(&'a [u8]),
}

impl Window<'_> {
    #[inline(always)]
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Here(region) => region.len(),
            Self::Copy(bytes) => bytes.len(),
        }
    }

    /// `N` bytes at `at`; zeros where they are not inside.
    #[inline(always)]
    pub(super) fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        match self {
            Self::Here(region) => region.array(at).unwrap_or([0; N]),
            Self::Copy(bytes) => bytes.get(at..at + N).map_or([0; N], |bytes| bytes_at(bytes, 0)),
        }
    }

    /// Whether `name` stands at `at`.
    #[inline(always)]
    fn is(&self, at: usize, name: &[u8]) -> bool {
        // The last byte first: names in one directory often differ only there.
        let Some((&last, _)) = name.split_last() else { return false };
        if self.array(at + name.len() - 1) != [last] {
            return false;
        }
        let (words, rest) = name.as_chunks::<8>();
        words.iter().enumerate().all(|(n, word)| self.array(at + 8 * n) == *word)
            && rest.iter().enumerate().all(|(n, &byte)| self.array(at + 8 * words.len() + n) == [byte])
    }
}

/// Gives `what` the bytes of block `number`.
#[inline]
pub(super) fn with_window<B: DirBlocks, T>(
    blocks: &B,
    number: u32,
    what: impl FnOnce(Window<'_>) -> Result<T, Error>,
) -> Result<T, Error> {
    match blocks.region(number)? {
        Some(region) => what(Window::Here(region)),
        None => copied(blocks, number, what),
    }
}

#[inline(never)]
fn copied<B: DirBlocks, T>(
    blocks: &B,
    number: u32,
    what: impl FnOnce(Window<'_>) -> Result<T, Error>,
) -> Result<T, Error> {
    let mut bytes = [0; 4096];
    blocks.read(number, &mut bytes)?;
    what(Window::Copy(&bytes[..blocks.block_size()]))
}

/// What is wrong with a block that has an entry which is none.
#[cold]
#[inline(never)]
fn what_is_wrong(blocks: &impl DirBlocks, number: u32) -> Error {
    let mut bytes = [0; 4096];
    if let Err(error) = blocks.read(number, &mut bytes) {
        return error;
    }
    let block: Block<'_> = super::view(blocks, number, &bytes);
    match block.entries().find_map(Result::err) {
        Some(error) => error,
        None => block.corrupt("a directory entry that changes while it is read", 0),
    }
}

/// Looks for a name in one block.
pub(super) fn find(blocks: &impl DirBlocks, number: u32, name: &[u8]) -> Result<Option<Found>, Error> {
    let max_inode = blocks.max_inode();
    with_window(blocks, number, |window| {
        let (mut at, mut before) = (0, None);
        while at < window.len() {
            let head = Head::of(window.array::<HEAD>(at));
            if !head.is_good(window.len() - at, max_inode) {
                return Err(what_is_wrong(blocks, number));
            }
            if head.name_len == name.len() && head.inode != 0 && window.is(at + HEAD, name) {
                if !is_plain(name) {
                    let start = u64::from(number) * window.len() as u64;
                    let what = "a name with a slash or a zero byte";
                    return Err(Error::Corrupt { what, inode: blocks.ino(), at: start + at as u64 });
                }
                let Head { inode, len, kind, .. } = head;
                return Ok(Some(Found { block: number, at, len, before, inode, kind }));
            }
            before = Some((at, head.len));
            at += head.len;
        }
        Ok(None)
    })
}

/// The first room in a block for an entry of this name.
///
/// # Errors
/// [`Error::Exists`] if it has the name.
pub(super) fn room(blocks: &impl DirBlocks, number: u32, name: &[u8]) -> Result<Option<Room>, Error> {
    let (max_inode, need) = (blocks.max_inode(), needed(name.len()));
    with_window(blocks, number, |window| {
        let (mut at, mut room) = (0, None);
        while at < window.len() {
            let head = Head::of(window.array::<HEAD>(at));
            if !head.is_good(window.len() - at, max_inode) {
                return Err(what_is_wrong(blocks, number));
            }
            let used = if head.inode == 0 { 0 } else { needed(head.name_len) };
            if head.name_len == name.len() && head.inode != 0 && window.is(at + HEAD, name) {
                return Err(Error::Exists);
            }
            if room.is_none() && head.len - used >= need {
                let before = (head.inode != 0).then_some((at, used));
                room = Some(Room { block: number, at: at + used, len: head.len - used, before });
            }
            at += head.len;
        }
        Ok(room)
    })
}
