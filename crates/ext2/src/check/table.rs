//! All inodes: those that nobody names are leaked; the others own blocks and count their names.

use super::inode::{DELETED_AT, LINKS_AT};
use super::tree::DIRECTORY;
use super::{Finding, Pass};
use crate::error::Error;
use crate::geometry::{ROOT, feature};
use crate::raw::RawInode;
use xip_core::Device;

/// The inode that keeps room for more descriptors.
const RESIZE: u32 = 7;
/// Flags that say that block pointers, or names, are of another form.
const FLAGS_OF_FORM: u32 = 0x5008_3800;
/// The inode of a journal; this format has none.
const JOURNAL: u32 = 8;
/// Those of quotas.
const QUOTA_OF_USERS: u32 = 3;
const QUOTA_OF_GROUPS: u32 = 4;
/// The inode that keeps bad blocks.
const BAD_BLOCKS: u32 = 1;
/// The boot loader's.
const BOOT: u32 = 5;

impl<D: Device> Pass<'_, D> {
    pub(super) fn check_table(&mut self) -> Result<(), Error> {
        // What may be read to see whether directories that nobody names are empty: all of them together have no more.
        let mut budget = self.geometry.blocks;
        self.each_inode(&mut |pass, number, raw, record| {
            if number < pass.geometry.first_inode && number != ROOT {
                return pass.check_reserved(number, raw);
            }
            if pass.memory.is_reached(number) {
                return pass.check_reached(number, raw, record);
            }
            if raw.links() == 0 {
                // Until it is gone, Linux has the number of another inode in the place of the time.
                let is_number = (1..=pass.geometry.inodes).contains(&raw.dtime());
                if raw.mode() != 0 && raw.dtime() == 0 || is_number {
                    pass.found(Finding::DeletionTime { inode: number });
                    pass.erase(number)?;
                }
                return Ok(());
            }
            if pass.memory.kind(number) == DIRECTORY && !pass.is_empty_directory(raw, &mut budget)? {
                pass.damage("no name leads to a directory that is not empty", number, 0);
                return Ok(());
            }
            pass.found(Finding::LeakedInode { inode: number });
            pass.erase(number)
        })
    }

    fn check_reached(&mut self, number: u32, raw: &RawInode, record: &[u8]) -> Result<(), Error> {
        self.check_inner_attributes(number, raw, record);
        if raw.dtime() != 0 {
            self.found(Finding::DeletionTime { inode: number });
            self.mend(self.inode_at(number)? + DELETED_AT, &[0; 4])?;
        }
        let (stored, found) = (raw.links(), self.memory.names(number));
        if stored > found {
            self.found(Finding::LinksTooHigh { inode: number, stored, found });
            self.mend(self.inode_at(number)? + LINKS_AT, &found.to_le_bytes())?;
        } else if stored < found {
            self.damage("more names lead to it than it counts", number, found.into());
        }
        if self.memory.kind(number) == DIRECTORY {
            // The rest was done when it was walked.
            return Ok(());
        }
        self.check_fields(number, raw);
        self.check_contents(number, raw)
    }

    /// Nothing of it is left.
    fn erase(&mut self, number: u32) -> Result<(), Error> {
        self.memory.set_kind(number, 0);
        let at = self.inode_at(number)?;
        for part in (0..u64::from(self.geometry.inode_size)).step_by(128) {
            self.mend(at + part, &[0; 128])?;
        }
        Ok(())
    }

    /// Inodes that the format keeps for itself.
    fn check_reserved(&mut self, number: u32, raw: &RawInode) -> Result<(), Error> {
        let has_resize = self.geometry.compat & feature::COMPAT_RESIZE_INODE != 0;
        if (1..=self.geometry.inodes).contains(&raw.dtime()) {
            self.found(Finding::DeletionTime { inode: number });
            self.mend(self.inode_at(number)? + DELETED_AT, &[0; 4])?;
        }
        let size = u64::from(raw.size_high()) << 32 | u64::from(raw.size_low());
        if size > 2 * self.geometry.largest_file() {
            self.damage("the size of a reserved inode", number, size);
        }
        if number == RESIZE && has_resize {
            return self.check_resize(raw);
        }
        let pointers = (0..15).fold(0, |all, n| all | raw.block(n));
        let attributes = self.reserved_attributes(raw);
        let (mode, links) = (u32::from(raw.mode()), u32::from(raw.links()));
        let owners = u32::from(raw.uid_low() | raw.gid_low() | raw.uid_high() | raw.gid_high());
        // As e2fsck has it: what counts differs from one to the other.
        let used = match number {
            BAD_BLOCKS => mode | links | owners | raw.flags() | attributes | pointers,
            QUOTA_OF_USERS | QUOTA_OF_GROUPS | JOURNAL => links | raw.blocks512() | raw.block(0),
            RESIZE => raw.blocks512() | attributes | pointers,
            BOOT if raw.mode() & 0o170_000 != 0o040_000 => raw.blocks512() | attributes,
            _ => mode | raw.blocks512() | attributes,
        };
        if used != 0 {
            self.damage("a reserved inode is in use", number, used.into());
        }
        Ok(())
    }

    /// The block of attributes of a reserved inode. None has one; a number that is none does no harm.
    fn reserved_attributes(&self, raw: &RawInode) -> u32 {
        Some(raw.attribute_block()).filter(|&block| self.geometry.is_data(block)).unwrap_or(0)
    }

    /// The inode that keeps room for more descriptors: a block of pointers to what is kept in the first group, which
    /// are blocks of pointers to what is kept in the groups with a copy. All but the first block belongs to the format.
    fn check_resize(&mut self, raw: &RawInode) -> Result<(), Error> {
        let mut bytes = [0; 4096];
        let top = raw.block(13);
        let kept = self.geometry.reserved_descriptor_blocks;
        let direct = (0..15).filter(|&n| n != 13).any(|n| raw.block(n) != 0);
        let other = raw.flags() & FLAGS_OF_FORM | self.reserved_attributes(raw);
        if direct || other != 0 || raw.mode() & 0o170_000 != 0o100_000 || raw.links() == 0 {
            self.damage("the inode that keeps room for growing", RESIZE, top.into());
            return Ok(());
        }
        if !self.claim(top, RESIZE) {
            return Ok(());
        }
        let pointers = self.geometry.block_size / 4;
        let descriptors = self.geometry.descriptor_blocks();
        let start = self.geometry.first_data_block + 1 + descriptors;
        let bytes = &*self.read(top, &mut bytes)?;
        let (mut blocks, mut last) = (1_u64, 0);
        for (n, pointer) in (0..pointers).zip(bytes.as_chunks().0) {
            let pointer = u32::from_le_bytes(*pointer);
            // The place of a kept block is its number among all blocks of descriptors.
            let place = (n + pointers - descriptors % pointers) % pointers;
            let expected = if place < kept { start + place } else { 0 };
            if pointer != expected {
                self.damage("the inode that keeps room for growing", RESIZE, pointer.into());
                return Ok(());
            }
            if pointer == 0 {
                continue;
            }
            blocks += 1;
            let mut bytes = [0; 4096];
            let bytes = &*self.read(pointer, &mut bytes)?;
            let geometry = self.geometry;
            let copies = (1..geometry.groups).filter(|&group| geometry.has_super(group));
            let mut expected = copies.map(|group| geometry.group_blocks(group).start + 1 + descriptors + place);
            let mut count = 0;
            for (m, pointer) in (0..pointers).zip(bytes.as_chunks().0) {
                let pointer = u32::from_le_bytes(*pointer);
                if pointer != 0 {
                    // Its page: after the direct ones, and those of the first block of pointers.
                    last = 12 + u64::from(pointers) * (1 + u64::from(n)) + u64::from(m);
                }
                if pointer != expected.next().unwrap_or(0) {
                    self.damage("the inode that keeps room for growing", RESIZE, pointer.into());
                    return Ok(());
                }
                count += u64::from(pointer != 0);
            }
            blocks += count;
        }
        let size = u64::from(raw.size_high()) << 32 | u64::from(raw.size_low());
        if size < last * u64::from(self.geometry.block_size) {
            self.damage("the size of the inode that keeps room for growing", RESIZE, size);
        }
        let found = blocks * u64::from(self.geometry.block_size / 512);
        if found != raw.blocks512().into() {
            self.damage("the storage of the inode that keeps room for growing", RESIZE, found);
        }
        Ok(())
    }
}
