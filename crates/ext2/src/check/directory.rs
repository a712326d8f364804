//! One directory: its entries.

use super::blocks::Walk;
use super::tree::{DIRECTORY, Queue};
use super::{Finding, Pass};
use crate::dir::entry::{Block, ENTRY_MIN, is_plain};
use crate::error::Error;
use crate::geometry::feature;
use crate::inode::FLAG_INDEX;
use crate::raw::{RawInode, bytes_at};
use xip_core::Device;

/// More entries than a block can have.
const MOST: usize = 4096 / ENTRY_MIN + 1;

impl<'a, D: Device> Pass<'a, D> {
    /// A directory that is reached, from its parent.
    pub(super) fn check_directory(
        &mut self,
        number: u32,
        parent: u32,
        raw: &RawInode,
        queue: &mut Queue,
    ) -> Result<(), Error> {
        self.check_fields(number, raw);
        let size = u64::from(raw.size_high()) << 32 | u64::from(raw.size_low());
        let block_size = u64::from(self.geometry.block_size);
        let count = size / block_size;
        if !size.is_multiple_of(block_size) || count == 0 || count > self.geometry.blocks.into() {
            self.damage("the size of the directory", number, size);
            return Ok(());
        }
        let indexed = raw.flags() & FLAG_INDEX != 0;
        let mut expected = 0;
        let mut walk = Walk {
            inode: number,
            limit: count,
            new_only: true,
            each: &mut |pass, index, block| {
                if index != expected {
                    pass.damage("a hole in the directory", number, expected);
                }
                expected = index + 1;
                // A crash that came before its first entry leaves it the last, and in no index. What is filled with zeros
                // elsewhere had names.
                if index > 0 && expected == count && !indexed && pass.fill_new(number, block)? {
                    return Ok(());
                }
                pass.check_entries((number, parent), index, block, queue)
            },
            blocks: 0,
            beyond: false,
        };
        self.walk(raw, &mut walk)?;
        let blocks = walk.blocks;
        self.check_storage(number, raw, blocks)?;
        if expected != count {
            self.damage("a hole in the directory", number, expected);
            return Ok(());
        }
        if indexed {
            if self.geometry.compat & feature::COMPAT_DIR_INDEX == 0 {
                self.damage("an index on a volume that has none", number, 0);
            } else {
                self.check_index(number, raw, u32::try_from(count).unwrap_or(u32::MAX))?;
            }
        }
        Ok(())
    }

    /// Whether a block was taken for a directory and has nothing in it: it becomes one free entry.
    fn fill_new(&mut self, number: u32, block: u32) -> Result<bool, Error> {
        let mut bytes = [0; 4096];
        let bytes = &*self.read(block, &mut bytes)?;
        if bytes.iter().any(|&byte| byte != 0) {
            return Ok(false);
        }
        self.found(Finding::EmptyBlock { inode: number, block });
        let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        self.mend(self.geometry.byte(block) + 4, &len.to_le_bytes())?;
        Ok(true)
    }

    fn check_entries(
        &mut self,
        (number, parent): (u32, u32),
        index: u64,
        block: u32,
        queue: &mut Queue,
    ) -> Result<(), Error> {
        let mut bytes = [0; 4096];
        let bytes = &*self.read(block, &mut bytes)?;
        let view = Block {
            bytes,
            number: u32::try_from(index).unwrap_or(u32::MAX),
            directory: number,
            max_inode: self.geometry.inodes,
        };
        let start = index * bytes.len() as u64;
        let mut names = [(0_u32, 0_u16); MOST];
        let mut count = 0;
        for (n, entry) in view.entries().enumerate() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(Error::Corrupt { what, at, .. }) => {
                    self.damage(what, number, at);
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            let at = start + entry.at as u64;
            if index == 0 && n < 2 {
                let (name, inode, what) = match n {
                    0 => (&b"."[..], number, "the entry of the directory itself"),
                    _ => (&b".."[..], parent, "the entry of the parent directory"),
                };
                let ended = bytes.get(entry.at + 8 + name.len()) == Some(&0);
                if entry.name != name
                    || entry.inode != inode
                    || !self.is_kind(entry.kind, DIRECTORY)
                    || !ended
                    || n == 0 && entry.len != ENTRY_MIN
                {
                    self.damage(what, number, at);
                }
                continue;
            }
            if entry.inode == 0 {
                continue;
            }
            let wrong = if entry.name == b"." || entry.name == b".." {
                Some("a second entry of the directory itself, or of its parent")
            } else if !is_plain(entry.name) {
                Some("a name with a slash or a zero byte")
            } else {
                self.name(number, entry.inode, entry.kind, queue)
            };
            if let Some(what) = wrong {
                self.damage(what, number, at);
            }
            names[count] = (hash(entry.name), u16::try_from(entry.at).unwrap_or(u16::MAX));
            count += 1;
        }
        if index == 0 && bytes_at::<2>(bytes, 4) == [0, 0] {
            self.damage("a directory without entries", number, 0);
        }
        self.check_twice(number, start, bytes, &mut names[..count]);
        Ok(())
    }

    /// No name stands twice in one block.
    fn check_twice(&mut self, number: u32, start: u64, bytes: &[u8], names: &mut [(u32, u16)]) {
        let name = |at: u16| {
            let at = usize::from(at);
            &bytes[at + 8..at + 8 + usize::from(bytes[at + 6])]
        };
        names.sort_unstable();
        for same in names.chunk_by(|a, b| a.0 == b.0) {
            for (n, &(_, at)) in same.iter().enumerate() {
                if same[..n].iter().any(|&(_, other)| name(other) == name(at)) {
                    self.damage("a name that stands twice in the directory", number, start + u64::from(at));
                }
            }
        }
    }

    /// Whether a directory has nothing but itself and its parent in it, as far as it can be read. What has no name and
    /// is not empty was not left by a crash.
    pub(super) fn is_empty_directory(&self, raw: &RawInode, budget: &mut u32) -> Result<bool, Error> {
        let size = u64::from(raw.size_high()) << 32 | u64::from(raw.size_low());
        let count = size / u64::from(self.geometry.block_size);
        let mut bytes = [0; 4096];
        for n in 0..count {
            let Some(left) = budget.checked_sub(1) else { return Ok(false) };
            *budget = left;
            // One that was never filled, as where a name leads; or a new inode that was not stored wholly. Its first block is, before that.
            let may_be_new = n + 1 == count && raw.flags() & FLAG_INDEX == 0;
            let Some(block) = self.block_of(raw, u32::try_from(n).unwrap_or(u32::MAX))? else {
                if may_be_new { continue } else { return Ok(false) }
            };
            let bytes = &*self.read(block, &mut bytes)?;
            if n > 0 && may_be_new && bytes.iter().all(|&byte| byte == 0) {
                continue;
            }
            let view = Block { bytes, number: 0, directory: 0, max_inode: self.geometry.inodes };
            for entry in view.entries() {
                match entry {
                    Ok(entry) if entry.inode == 0 || entry.name == b"." || entry.name == b".." => {}
                    _ => return Ok(false),
                }
            }
        }
        Ok(true)
    }
}

/// Brings equal names together; which function does not matter.
fn hash(name: &[u8]) -> u32 {
    name.iter().fold(0x811c_9dc5, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
