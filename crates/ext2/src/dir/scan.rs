//! Blocks of a directory looked at where they stand: what a lookup and a new name do, without a copy.
//!
//! Storage may be changed by others at any moment, so everything is loaded once, and checked after that.

use super::entry::{Block, ENTRY_MIN, HEAD, Head, is_plain};
use super::roomy::Roomy;
use super::{DirBlocks, Found, Room};
use crate::error::Error;
use crate::raw::bytes_at;
use xip_core::{PAGE_SIZE, Region};

/// The bytes of a block: in place, or a copy.
pub(super) trait Bytes: Copy {
    fn len(self) -> usize;
    /// `N` bytes at `at`; zeros where they are not inside.
    fn array<const N: usize>(self, at: usize) -> [u8; N];

    /// Whether `name` stands at `at`.
    #[inline(always)]
    fn is(self, at: usize, name: &[u8]) -> bool {
        let (words, rest) = name.as_chunks::<8>();
        words.iter().enumerate().all(|(n, word)| self.array(at + 8 * n) == *word)
            && rest.iter().enumerate().all(|(n, &byte)| self.array(at + 8 * words.len() + n) == [byte])
    }
}

impl Bytes for Region<'_> {
    #[inline(always)]
    fn len(self) -> usize {
        Region::len(&self)
    }
    #[inline(always)]
    fn array<const N: usize>(self, at: usize) -> [u8; N] {
        Region::array(&self, at).unwrap_or([0; N])
    }
}

impl Bytes for &[u8] {
    #[inline(always)]
    fn len(self) -> usize {
        <[u8]>::len(self)
    }
    #[inline(always)]
    fn array<const N: usize>(self, at: usize) -> [u8; N] {
        self.get(at..at + N).map_or([0; N], |bytes| bytes_at(bytes, 0))
    }
}

/// What is to be learnt of a block.
pub(super) trait Look {
    type Out;
    fn look(self, bytes: impl Bytes) -> Result<Self::Out, Error>;
}

/// Lets `what` look at block `number`.
#[inline]
pub(super) fn look<L: Look>(blocks: &impl DirBlocks, number: u32, what: L) -> Result<L::Out, Error> {
    match blocks.region(number)? {
        // Of a length that is known here no place has to be compared with it twice.
        Some(region) if region.len() == PAGE_SIZE => what.look(region),
        _ => look_at_copy(blocks, number, what),
    }
}

#[inline(never)]
fn look_at_copy<L: Look>(blocks: &impl DirBlocks, number: u32, what: L) -> Result<L::Out, Error> {
    let mut bytes = [0; 4096];
    blocks.read(number, &mut bytes)?;
    what.look(&bytes[..blocks.block_size()])
}

/// Bytes that are one or the other.
#[derive(Clone, Copy)]
pub(super) enum Window<'a> {
    Here(Region<'a>),
    Copy(&'a [u8]),
}

impl Bytes for Window<'_> {
    #[inline(always)]
    fn len(self) -> usize {
        match self {
            Self::Here(region) => Bytes::len(region),
            Self::Copy(bytes) => Bytes::len(bytes),
        }
    }
    #[inline(always)]
    fn array<const N: usize>(self, at: usize) -> [u8; N] {
        match self {
            Self::Here(region) => Bytes::array(region, at),
            Self::Copy(bytes) => bytes.array(at),
        }
    }
}

/// Gives `what` the bytes of block `number`: for what is not asked of every entry.
#[inline]
pub(super) fn with_window<B: DirBlocks, T>(
    blocks: &B,
    number: u32,
    what: impl FnOnce(Window<'_>) -> Result<T, Error>,
) -> Result<T, Error> {
    match blocks.region(number)? {
        Some(region) => what(Window::Here(region)),
        None => {
            let mut bytes = [0; 4096];
            blocks.read(number, &mut bytes)?;
            what(Window::Copy(&bytes[..blocks.block_size()]))
        }
    }
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

/// Calls `each` for the entries of a block, where they are and what stands before their names, until it answers. On the way only
/// lengths are checked: what `each` takes it has to check.
#[inline(always)]
fn walk<B: Bytes, T>(bytes: B, mut each: impl FnMut(usize, Head) -> Option<T>) -> Walked<T> {
    let mut at = 0;
    while at < bytes.len() {
        let head = Head::of(bytes.array::<HEAD>(at));
        if let Some(answer) = each(at, head) {
            return Walked::Answer(answer);
        }
        let Some(next) = after(at, head.len) else { return Walked::Damage };
        at = next;
    }
    if at == bytes.len() { Walked::End } else { Walked::Damage }
}

/// Where the entry after the one at `at` of `len` bytes is; `None` where that cannot be an entry.
#[inline(always)]
fn after(at: usize, len: usize) -> Option<usize> {
    (len >= ENTRY_MIN && len.is_multiple_of(4)).then_some(at + len)
}

enum Walked<T> {
    Answer(T),
    End,
    Damage,
}

/// A name that is looked for.
#[derive(Clone, Copy)]
struct Key<'a> {
    name: &'a [u8],
    /// Its last four bytes, which are where names in one directory often differ; of a shorter one those that are not its own
    /// are masked out.
    tail: u32,
    mask: u32,
}

impl<'a> Key<'a> {
    fn new(name: &'a [u8]) -> Self {
        let mut tail = [0; 4];
        let mut mask = [0; 4];
        let own = name.len().min(4);
        tail[4 - own..].copy_from_slice(&name[name.len() - own..]);
        mask[4 - own..].fill(0xff);
        Self { name, tail: u32::from_le_bytes(tail), mask: u32::from_le_bytes(mask) }
    }

    /// Whether the entry at `at`, if it is good, has this name and leads somewhere.
    #[inline(always)]
    fn is(&self, bytes: impl Bytes, at: usize, head: Head) -> bool {
        // What stands before a name is longer than four bytes.
        head.name_len == self.name.len()
            && u32::from_le_bytes(bytes.array(at + HEAD + self.name.len() - 4)) & self.mask == self.tail
            && head.inode != 0
            && bytes.is(at + HEAD, self.name)
    }
}

/// What was found in block `block`, `at` a place in it.
#[inline(always)]
fn found(block: u32, at: usize, head: Head) -> Found {
    Found { block, at, inode: head.inode, kind: head.kind }
}

struct Find<'a, D> {
    blocks: &'a D,
    number: u32,
    key: Key<'a>,
}

impl<D: DirBlocks> Look for Find<'_, D> {
    type Out = Option<Found>;

    #[inline]
    fn look(self, bytes: impl Bytes) -> Result<Option<Found>, Error> {
        let Self { blocks, number, key } = self;
        let max_inode = blocks.max_inode();
        let walked = walk(bytes, |at, head| {
            let good = || head.is_good(bytes.len() - at, max_inode);
            key.is(bytes, at, head).then(|| good().then(|| found(number, at, head)))
        });
        match walked {
            Walked::Answer(Some(found)) if is_plain(key.name) => Ok(Some(found)),
            Walked::Answer(Some(found)) => {
                let at = u64::from(number) * bytes.len() as u64 + found.at as u64;
                Err(Error::Corrupt { what: "a name with a slash or a zero byte", inode: blocks.ino(), at })
            }
            Walked::End => Ok(None),
            Walked::Answer(None) | Walked::Damage => Err(what_is_wrong(blocks, number)),
        }
    }
}

/// Looks for a name in one block.
pub(super) fn find(blocks: &impl DirBlocks, number: u32, name: &[u8]) -> Result<Option<Found>, Error> {
    look(blocks, number, Find { blocks, number, key: Key::new(name) })
}

struct FindRoom<'a, D>(Find<'a, D>);

impl<D: DirBlocks> Look for FindRoom<'_, D> {
    type Out = Option<Room>;

    #[inline]
    fn look(self, bytes: impl Bytes) -> Result<Option<Room>, Error> {
        let Find { blocks, number, key } = self.0;
        let mut roomy = Roomy::new(key.name);
        let max_inode = blocks.max_inode();
        let exists = walk(bytes, |at, head| {
            roomy.see(at, head);
            key.is(bytes, at, head).then(|| head.is_good(bytes.len() - at, max_inode))
        });
        match (exists, roomy.room(number, bytes.len(), max_inode)) {
            (Walked::Answer(true), _) => Err(Error::Exists),
            (Walked::End, Some(room)) => Ok(room),
            _ => Err(what_is_wrong(blocks, number)),
        }
    }
}

/// The first room in a block for an entry of this name.
///
/// # Errors
/// [`Error::Exists`] if it has the name.
pub(super) fn room(blocks: &impl DirBlocks, number: u32, name: &[u8]) -> Result<Option<Room>, Error> {
    look(blocks, number, FindRoom(Find { blocks, number, key: Key::new(name) }))
}

/// What a rename within one block has to know: where the names are, and room for the new one.
#[derive(Clone, Copy)]
pub(crate) struct Both {
    pub(crate) old: Option<Found>,
    pub(crate) new: Option<Found>,
    pub(crate) room: Option<Room>,
}

struct FindAt<'a> {
    name: &'a [u8],
    inode: u32,
    at: usize,
}

impl Look for FindAt<'_> {
    type Out = Option<Found>;

    #[inline]
    fn look(self, bytes: impl Bytes) -> Result<Option<Found>, Error> {
        let at = self.at;
        if at >= bytes.len() {
            return Ok(None);
        }
        let head = Head::of(bytes.array::<HEAD>(at));
        let good = head.inode == self.inode && head.is_good(bytes.len() - at, self.inode);
        Ok((good && Key::new(self.name).is(bytes, at, head)).then(|| found(0, at, head)))
    }
}

/// In the only block of a directory: the entry of a name that is known to begin at a place and to lead to an inode. `None` where the
/// block does not bear that out.
pub(super) fn find_at(blocks: &impl DirBlocks, name: &[u8], inode: u32, at: usize) -> Result<Option<Found>, Error> {
    look(blocks, 0, FindAt { name, inode, at })
}

struct RoomFrom {
    number: u32,
    from: usize,
    roomy: Roomy,
    max_inode: u32,
}

impl Look for RoomFrom {
    type Out = Option<Room>;

    #[inline]
    fn look(self, bytes: impl Bytes) -> Result<Option<Room>, Error> {
        let Self { number, from: mut at, mut roomy, max_inode } = self;
        while at < bytes.len() && !roomy.is_found() {
            let head = Head::of(bytes.array::<HEAD>(at));
            roomy.see(at, head);
            let Some(next) = after(at, head.len) else { return Ok(None) };
            at = next;
        }
        Ok(roomy.room(number, bytes.len(), max_inode).flatten())
    }
}

/// Room in a block for an entry of this name, which is known not to be there, from a place on where an entry begins. Only lengths are
/// looked at on the way; `None` says that there may be room all the same.
pub(super) fn room_from(blocks: &impl DirBlocks, number: u32, from: usize, name: &[u8]) -> Result<Option<Room>, Error> {
    look(blocks, number, RoomFrom { number, from, roomy: Roomy::new(name), max_inode: blocks.max_inode() })
}

struct FindBoth<'a, D> {
    old: Find<'a, D>,
    new: Key<'a>,
}

impl<D: DirBlocks> Look for FindBoth<'_, D> {
    type Out = Both;

    #[inline]
    fn look(self, bytes: impl Bytes) -> Result<Both, Error> {
        let Find { blocks, number, key } = self.old;
        let mut roomy = Roomy::new(self.new.name);
        let (mut old, mut new) = (None, None);
        let max_inode = blocks.max_inode();
        let walked = walk(bytes, |at, head| {
            roomy.see(at, head);
            for (name, place) in [(key, &mut old), (self.new, &mut new)] {
                if name.is(bytes, at, head) {
                    if !head.is_good(bytes.len() - at, max_inode) {
                        return Some(());
                    }
                    *place = Some(found(number, at, head));
                }
            }
            None
        });
        match (walked, roomy.room(number, bytes.len(), max_inode)) {
            (Walked::End, Some(room)) => Ok(Both { old, new, room }),
            _ => Err(what_is_wrong(blocks, number)),
        }
    }
}

/// Looks for two names in one block, and for room for the second.
pub(super) fn both(blocks: &impl DirBlocks, number: u32, old: &[u8], new: &[u8]) -> Result<Both, Error> {
    look(blocks, number, FindBoth { old: Find { blocks, number, key: Key::new(old) }, new: Key::new(new) })
}
