//! One inode: its fields.

use super::blocks::Walk;
use super::{Finding, Pass};
use crate::error::Error;
use crate::geometry::feature;
use crate::inode::{FLAG_INDEX, Inode, InodeNo, Kind};
use crate::raw::{INODE_BASE, INODE_BLOCKS, INODE_BLOCKS_LEN, INODE_BLOCKS512, RawInode, bytes_at};
use xip_core::Device;

/// Linux keeps what may be done to a file here; they mean nothing for what is no file or directory.
const FLAGS_SPECIAL: u32 = 0x10 | 0x20;
/// Magic inodes, and directories without case.
const FLAGS_UNKNOWN: u32 = 0x2000 | 0x4000_0000;
/// `i_dtime`.
pub(super) const DELETED_AT: u64 = 20;
/// `i_links_count`.
pub(super) const LINKS_AT: u64 = 26;
/// `i_faddr`, and the upper halves of `i_blocks` and `i_file_acl`, which this format does not use.
const FRAGMENT_AT: usize = 112;
const UPPER_AT: usize = 116;

impl<'a, D: Device> Pass<'a, D> {
    /// What the inode says of itself, whatever its kind. Only for inodes that are reached.
    pub(super) fn check_fields(&mut self, number: u32, raw: &RawInode) {
        let inode = match Inode::check(raw, InodeNo(number), self.geometry.largest_file()) {
            Ok(inode) => inode,
            Err(Error::Corrupt { what, at, .. }) => return self.damage(what, number, at),
            // No links, though a name leads there: said where links are counted.
            Err(_) => return,
        };
        let mut wrong = None;
        let mut bad = |is_bad: bool, what: &'static str, at: u64| {
            if is_bad && wrong.is_none() {
                wrong = Some((what, at));
            }
        };
        let extra = raw.extra_size();
        let room = usize::from(self.geometry.inode_size) - INODE_BASE;
        let extra_is_bad = extra != 0 && (!(4..=room).contains(&extra.into()) || !extra.is_multiple_of(4));
        bad(room > 0 && extra_is_bad, "the size of the extra fields", extra.into());
        let upper = u32::from_le_bytes(bytes_at(&raw.0, UPPER_AT));
        let fragment = u32::from_le_bytes(bytes_at(&raw.0, FRAGMENT_AT));
        bad(upper != 0 || fragment != 0, "a field that this format does not use", upper.max(fragment).into());
        bad(raw.flags() & FLAGS_UNKNOWN != 0, "a flag that this format does not have", raw.flags().into());
        let indexed = raw.flags() & FLAG_INDEX != 0;
        bad(indexed && inode.kind != Kind::Directory, "an index on what is no directory", raw.flags().into());
        let special = !matches!(inode.kind, Kind::Regular | Kind::Directory);
        bad(special && raw.flags() & FLAGS_SPECIAL != 0, "flags of a file on what is none", raw.flags().into());
        let no_size = special && inode.kind != Kind::Symlink;
        bad(no_size && raw.size_low() | raw.size_high() != 0, "a size of what has none", raw.size_low().into());
        bad(inode.kind == Kind::Symlink && raw.size_high() != 0, "the size of a link", raw.size_high().into());
        let large = inode.kind == Kind::Regular && inode.size > 0x7fff_ffff;
        let large_allowed = self.geometry.ro_compat & feature::RO_COMPAT_LARGE_FILE != 0;
        bad(large && !large_allowed, "a large file on a volume that has none", inode.size);
        if let Some((what, at)) = wrong {
            self.damage(what, number, at);
        }
    }

    /// The blocks of an inode that is reached and no directory.
    pub(super) fn check_contents(&mut self, number: u32, raw: &RawInode) -> Result<(), Error> {
        let size = u64::from(raw.size_high()) << 32 | u64::from(raw.size_low());
        let block_size = u64::from(self.geometry.block_size);
        match Kind::from_mode(raw.mode()) {
            Some(Kind::Regular) => {
                // As e2fsck has it: a block that begins at the end is no mistake.
                let mut walk = Walk {
                    inode: number,
                    limit: size / block_size + 1,
                    new_only: false,
                    each: &mut |_, _, _| Ok(()),
                    blocks: 0,
                    beyond: false,
                };
                self.walk(raw, &mut walk)?;
                let blocks = walk.blocks;
                self.check_storage(number, raw, blocks)
            }
            Some(Kind::Symlink) => self.check_link(number, raw),
            _ => self.check_storage(number, raw, 0),
        }
    }

    /// A symbolic link: the target, in the inode when it fits there, with a zero byte after it.
    fn check_link(&mut self, number: u32, raw: &RawInode) -> Result<(), Error> {
        let size = raw.size_low() as usize;
        let mut bytes = [0; 4096];
        let mut blocks = 0;
        let target = if size < INODE_BLOCKS_LEN {
            &raw.0[INODE_BLOCKS..INODE_BLOCKS + INODE_BLOCKS_LEN]
        } else {
            let first = raw.block(0);
            if first == 0 || (1..15).any(|n| raw.block(n) != 0) {
                self.damage("the block of a link", number, first.into());
                return Ok(());
            }
            if !self.claim(first, number) {
                return Ok(());
            }
            blocks = 1;
            &*self.read(first, &mut bytes)?
        };
        let len = target.iter().position(|&byte| byte == 0);
        if size == 0 || len != Some(size) {
            self.damage("the target of a link", number, size as u64);
        }
        self.check_storage(number, raw, blocks)
    }

    /// Attributes; then the count of storage, with their block.
    pub(super) fn check_storage(&mut self, number: u32, raw: &RawInode, blocks: u64) -> Result<(), Error> {
        let attributes = self.check_attribute_block(number, raw)?;
        let found = (blocks + u64::from(attributes)) * u64::from(self.geometry.block_size / 512);
        let stored = raw.blocks512();
        if found != stored.into() {
            self.found(Finding::BlockCount { inode: number, stored, found });
            // No file has more than the format can count, or its size is damaged.
            if let Ok(found) = u32::try_from(found) {
                self.mend(self.inode_at(number)? + INODE_BLOCKS512, &found.to_le_bytes())?;
            }
        }
        Ok(())
    }
}
