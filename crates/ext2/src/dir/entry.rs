//! The entries of one block of a directory: inode, length of the entry, length of the name, kind, name.
//!
//! The entries fill the block to its end; what is free belongs to the entry before it, or is an entry of inode 0. No
//! entry crosses into the next block. An entry is checked here, once, and only checked ones are handed on.

use crate::error::Error;
use crate::raw::bytes_at;

/// Bytes before the name.
pub(crate) const HEAD: usize = 8;
/// The longest name.
pub(crate) const NAME_MAX: usize = 255;
/// Bytes of the largest entry.
pub(crate) const ENTRY_MAX: usize = needed(NAME_MAX);
/// Bytes of the smallest entry, which has a name of one byte, or is free.
pub(crate) const ENTRY_MIN: usize = needed(1);

/// Bytes that an entry with a name of this length needs.
pub(crate) const fn needed(name: usize) -> usize {
    // `next_multiple_of` is a division and a branch, and this is asked of every entry on the way to a name.
    (HEAD + name + 3) & !3
}

/// An entry, checked: it is inside its block, and its name inside it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<'a> {
    /// Where in the block.
    pub(crate) at: usize,
    /// Bytes up to the next entry.
    pub(crate) len: usize,
    /// 0: free.
    pub(crate) inode: u32,
    pub(crate) kind: u8,
    pub(crate) name: &'a [u8],
}

impl Entry<'_> {
    pub(crate) fn end(&self) -> usize {
        self.at + self.len
    }
}

/// What stands before a name.
#[derive(Clone, Copy)]
pub(crate) struct Head {
    pub(crate) inode: u32,
    pub(crate) len: usize,
    pub(crate) name_len: usize,
    pub(crate) kind: u8,
}

impl Head {
    #[inline(always)]
    pub(crate) fn of(head: [u8; HEAD]) -> Self {
        Self {
            inode: u32::from_le_bytes([head[0], head[1], head[2], head[3]]),
            len: usize::from(u16::from_le_bytes([head[4], head[5]])),
            name_len: usize::from(head[6]),
            kind: head[7],
        }
    }

    /// Whether this can be an entry where `rest` bytes are left in the block. Then its name is inside, too.
    #[inline(always)]
    pub(crate) fn is_good(&self, rest: usize, max_inode: u32) -> bool {
        // A multiple of 4 that has room for the name has it with its padding. Nearly all entries lead somewhere: of one with
        // a name it need not be asked whether it is of the smallest size.
        self.len.is_multiple_of(4)
            && self.len >= HEAD + self.name_len
            && self.len <= rest
            && if self.inode.wrapping_sub(1) < max_inode {
                self.name_len > 0
            } else {
                self.inode == 0 && self.len >= ENTRY_MIN
            }
    }
}

/// A block of a directory, and what its entries are checked against.
#[derive(Clone, Copy)]
pub(crate) struct Block<'a> {
    pub(crate) bytes: &'a [u8],
    /// Number of the block within the directory.
    pub(crate) number: u32,
    pub(crate) directory: u32,
    pub(crate) max_inode: u32,
}

impl<'a> Block<'a> {
    pub(crate) fn entries(self) -> Entries<'a> {
        Entries { block: self, at: 0 }
    }

    pub(crate) fn corrupt(&self, what: &'static str, at: usize) -> Error {
        let start = u64::from(self.number) * self.bytes.len() as u64;
        Error::Corrupt { what, inode: self.directory, at: start + at as u64 }
    }

    /// The entry at `at`, which is inside the block. Every lookup comes through here for every entry on its way, so
    /// what is wrong is only told apart when something is.
    #[inline(always)]
    pub(crate) fn entry(&self, at: usize) -> Result<Entry<'a>, Error> {
        let rest = &self.bytes[at..];
        let Some((head, names)) = rest.split_first_chunk::<HEAD>() else { return Err(self.what_is_wrong(at)) };
        let head = Head::of(*head);
        match names.get(..head.name_len) {
            Some(name) if head.is_good(rest.len(), self.max_inode) => {
                Ok(Entry { at, len: head.len, inode: head.inode, kind: head.kind, name })
            }
            _ => Err(self.what_is_wrong(at)),
        }
    }

    #[cold]
    fn what_is_wrong(&self, at: usize) -> Error {
        if self.bytes.len() - at < ENTRY_MIN {
            return self.corrupt("no room for a directory entry where one must be", at);
        }
        let inode = u32::from_le_bytes(bytes_at(self.bytes, at));
        let len = usize::from(u16::from_le_bytes(bytes_at(self.bytes, at + 4)));
        let name_len = usize::from(self.bytes[at + 6]);
        let what = if !len.is_multiple_of(4) || len < needed(name_len.max(1)) {
            "the length of a directory entry"
        } else if len > self.bytes.len() - at {
            "a directory entry crosses the end of its block"
        } else if inode > self.max_inode {
            "a directory entry leads to an inode that does not exist"
        } else {
            "a directory entry has no name"
        };
        self.corrupt(what, at)
    }

    /// That a name could be looked up: no slash, no zero byte.
    pub(crate) fn check_name(&self, entry: &Entry<'_>) -> Result<(), Error> {
        if is_plain(entry.name) { Ok(()) } else { Err(self.corrupt("a name with a slash or a zero byte", entry.at)) }
    }
}

/// No slash and no zero byte.
pub(crate) fn is_plain(name: &[u8]) -> bool {
    !name.iter().any(|&byte| byte == b'/' || byte == 0)
}

/// The entries of a block, free ones too. Every step goes on by at least [`ENTRY_MIN`]; an error is the last item.
pub(crate) struct Entries<'a> {
    block: Block<'a>,
    at: usize,
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, Error>;

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.block.bytes.len() {
            return None;
        }
        let entry = self.block.entry(self.at);
        self.at = entry.as_ref().map_or(self.block.bytes.len(), Entry::end);
        Some(entry)
    }
}

/// Puts an entry of `len` bytes at the start of `to`. Both lengths fit: a block has at most 4096 bytes, and names are
/// checked before.
pub(crate) fn put(to: &mut [u8], inode: u32, len: usize, kind: u8, name: &[u8]) {
    to[..4].copy_from_slice(&inode.to_le_bytes());
    put_len(to, len);
    to[6] = u8::try_from(name.len()).unwrap_or(u8::MAX);
    to[7] = kind;
    to[HEAD..HEAD + name.len()].copy_from_slice(name);
    // What pads the name is not left over from someone else.
    let end = needed(name.len()).min(to.len());
    to[HEAD + name.len()..end].fill(0);
}

pub(crate) fn put_len(to: &mut [u8], len: usize) {
    to[4..6].copy_from_slice(&u16::try_from(len).unwrap_or(u16::MAX).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8]) -> Result<usize, Error> {
        let block = Block { bytes, number: 0, directory: 2, max_inode: 100 };
        block.entries().try_fold(0, |count, entry| entry.map(|_| count + 1))
    }

    fn good() -> [u8; 1024] {
        let mut block = [0; 1024];
        put(&mut block, 2, 12, 2, b".");
        put(&mut block[12..], 2, 1012, 2, b"..");
        block
    }

    #[test]
    fn entries_of_a_good_block_are_seen_to_its_end() {
        assert_eq!(check(&good()), Ok(2));
    }

    #[test]
    fn hostile_lengths_and_inodes_are_refused_not_followed() {
        for (at, value) in
            [(4, 0), (4, 4), (4, 8), (4, 11), (4, 13), (4, 1016), (4, 0xff), (16, 0xf8), (18, 255), (0, 101)]
        {
            let mut block = good();
            block[at..at + 2].copy_from_slice(&u16::to_le_bytes(value));
            if (at, value) == (18, 255) {
                block[16..18].copy_from_slice(&200_u16.to_le_bytes());
            }
            assert!(matches!(check(&block), Err(Error::Corrupt { inode: 2, .. })), "{at} {value}");
        }
        assert!(check(&[0; 1024]).is_err(), "a block of zeros is not an empty one");
        let mut nameless = good();
        nameless[6] = 0;
        assert!(check(&nameless).is_err());
    }

    #[test]
    fn names_that_no_path_can_have_are_refused() {
        let mut block = good();
        put(&mut block[12..], 2, 1012, 2, b"a/b");
        let view = Block { bytes: &block, number: 0, directory: 2, max_inode: 100 };
        let entry = view.entries().nth(1).unwrap().unwrap();
        assert!(view.check_name(&entry).is_err());
    }
}
