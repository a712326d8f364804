//! Extended attributes: in what is left of an inode, and in blocks that inodes may share.

use super::{Finding, Pass};
use crate::error::Error;
use crate::raw::{INODE_BASE, RawInode, bytes_at};
use xip_core::Device;

const MAGIC: u32 = 0xea02_0000;
/// Bytes of an entry before its name, and of what ends the entries.
const HEAD: usize = 16;
const END: usize = 4;
/// Bytes before the entries, in a block and in an inode.
const BLOCK_HEAD: usize = 32;
const INNER_HEAD: usize = 4;
/// Where a block counts its owners.
const OWNERS: u64 = 4;

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes_at(bytes, at))
}

impl<D: Device> Pass<'_, D> {
    /// The attributes in an inode, all of whose bytes these are.
    pub(super) fn check_inner_attributes(&mut self, number: u32, raw: &RawInode, record: &[u8]) {
        let start = INODE_BASE + usize::from(raw.extra_size());
        let Some(area) = record.get(start..).filter(|area| area.len() >= INNER_HEAD + END) else { return };
        if raw.extra_size() == 0 || word(area, 0) != MAGIC {
            return;
        }
        if let Err((what, at)) = check_entries(area, INNER_HEAD, INNER_HEAD, false) {
            self.damage(what, number, at as u64);
        }
    }

    /// Whether an inode has a block of attributes, which it may share.
    pub(super) fn check_attribute_block(&mut self, number: u32, raw: &RawInode) -> Result<bool, Error> {
        let block = raw.attribute_block();
        if block == 0 {
            return Ok(false);
        }
        let shared = self.geometry.is_data(block) && self.memory.attributes.has(block);
        if shared {
            return Ok(true);
        }
        if !self.claim(block, number) {
            return Ok(true);
        }
        self.memory.attributes.set(block);
        let mut bytes = [0; 4096];
        let bytes = &*self.read(block, &mut bytes)?;
        if word(bytes, 0) != MAGIC || word(bytes, 8) != 1 {
            self.damage("the block of attributes is none", number, block.into());
        } else if let Err((what, at)) = check_entries(bytes, BLOCK_HEAD, 0, true) {
            self.damage(what, number, at as u64);
        }
        Ok(true)
    }

    /// Each block of attributes counts its owners right. Only after all inodes were seen.
    pub(super) fn check_owners(&mut self) -> Result<(), Error> {
        // The directories in it are done with: now blocks, in order, each with its owners. No more than inodes.
        let mut count = 0;
        for block in 0..self.geometry.blocks {
            if self.memory.attributes.has(block) {
                self.memory.set_pair(count, (block, 0));
                count += 1;
            }
        }
        if count == 0 {
            return Ok(());
        }
        self.each_inode(&mut |pass, number, raw, _| {
            if pass.memory.is_reached(number) && raw.attribute_block() != 0 {
                let (mut low, mut high) = (0, count);
                while high - low > 1 {
                    let middle = low.midpoint(high);
                    if pass.memory.pair(middle).0 > raw.attribute_block() { high = middle } else { low = middle }
                }
                let (block, owners) = pass.memory.pair(low);
                if block == raw.attribute_block() {
                    pass.memory.set_pair(low, (block, owners + 1));
                }
            }
            Ok(())
        })?;
        for n in 0..count {
            let (block, found) = self.memory.pair(n);
            let at = self.geometry.byte(block) + OWNERS;
            let mut stored = [0; 4];
            self.device.read(at, &mut stored)?;
            let stored = u32::from_le_bytes(stored);
            if stored > found {
                self.found(Finding::OwnersTooHigh { block, stored, found });
                self.mend(at, &found.to_le_bytes())?;
            } else if stored < found {
                self.damage("a block of attributes has more owners than it counts", 0, block.into());
            }
        }
        Ok(())
    }
}

/// The entries of an area and their values: inside, apart from each other, with their hashes. What is wrong, and where.
fn check_entries(area: &[u8], first: usize, base: usize, is_block: bool) -> Result<(), (&'static str, usize)> {
    // Entries grow up to the first value, and values have no entry in them.
    let mut taken = [0_u64; 4096 / 4 / 64];
    let mut take = |from: usize, len: usize| {
        (from / 4..(from + len).div_ceil(4)).all(|word| {
            let bit = 1 << (word % 64);
            let free = taken[word / 64] & bit == 0;
            taken[word / 64] |= bit;
            free
        })
    };
    take(0, first);
    let mut at = first;
    loop {
        if at + END > area.len() {
            return Err(("the attributes have no end", at));
        }
        if word(area, at) == 0 {
            return if take(at, END) { Ok(()) } else { Err(("the values of attributes overlap", at)) };
        }
        let name_len = usize::from(area[at]);
        let len = (HEAD + name_len).next_multiple_of(4);
        if at + len + END > area.len() {
            return Err(("an attribute's entry crosses the end", at));
        }
        let start = base + usize::from(u16::from_le_bytes(bytes_at(area, at + 2)));
        let (inode, size, hash) = (word(area, at + 4), word(area, at + 8) as usize, word(area, at + 12));
        if inode != 0 {
            return Err(("an attribute's value is in another inode", at));
        }
        let padded = size.checked_next_multiple_of(4).unwrap_or(usize::MAX);
        if size > 0 && start.checked_add(size).is_none_or(|end| end > area.len()) {
            return Err(("an attribute's value is outside", at));
        }
        if is_block && area[at + 1] == 0 {
            return Err(("an attribute without a prefix", at));
        }
        // The last value may end with the area, in the middle of a word.
        let end = start.saturating_add(padded).min(area.len());
        if !take(at, len) || size > 0 && !take(start, end - start) {
            return Err(("the values of attributes overlap", at));
        }
        let name = &area[at + HEAD..at + HEAD + name_len];
        // Where it can be left out, no hash tells: the kernel reads none of the attributes then.
        if name.contains(&0) {
            return Err(("an attribute's name has a zero byte", at));
        }
        let value = if size == 0 { &[][..] } else { &area[start..end] };
        // In an inode the hash may be left out.
        if (is_block || hash != 0) && hash != entry_hash(name, value, true) && hash != entry_hash(name, value, false) {
            return Err(("the hash of an attribute", at));
        }
        at += len;
    }
}

/// The hash of a name and a value of whole words; Linux has taken the name's characters as signed, too.
fn entry_hash(name: &[u8], value: &[u8], unsigned: bool) -> u32 {
    let character = |byte: u8| if unsigned { byte.into() } else { i32::from(byte.cast_signed()).cast_unsigned() };
    let hash = name.iter().fold(0_u32, |hash, &byte| hash.rotate_left(5) ^ character(byte));
    value.as_chunks().0.iter().fold(hash, |hash, word| hash.rotate_left(16) ^ u32::from_le_bytes(*word))
}
