//! Where things are on a volume: the superblock, checked.

use crate::error::Error;
use crate::raw::{RawGroup, RawSuper};
use core::ops::Range;

pub(crate) const MAGIC: u16 = 0xef53;
/// Byte address of the superblock.
pub(crate) const SUPER_AT: u64 = 1024;
/// Blocks, and inodes, that the bitmaps of a group can count: the bits of a block of 4096 bytes.
const MOST_IN_GROUP: u32 = 8 * 4096;
/// Bytes of a group descriptor.
const DESCRIPTOR: u32 = 32;
const _: () = assert!(DESCRIPTOR as usize == RawGroup::LEN);
/// The root directory.
pub(crate) const ROOT: u32 = 2;
/// The first inode that is not reserved, on volumes that do not say.
pub(crate) const FIRST_INODE: u32 = 11;

pub(crate) mod feature {
    pub(crate) const COMPAT_HAS_JOURNAL: u32 = 0x4;
    pub(crate) const COMPAT_EXT_ATTR: u32 = 0x8;
    pub(crate) const COMPAT_RESIZE_INODE: u32 = 0x10;
    pub(crate) const COMPAT_DIR_INDEX: u32 = 0x20;
    pub(crate) const INCOMPAT_FILETYPE: u32 = 0x2;
    pub(crate) const INCOMPAT_RECOVER: u32 = 0x4;
    /// Not a feature of the format: an intent record may be there (`intent`), and who does not know the bit leaves the volume
    /// alone.
    pub(crate) const INCOMPAT_INTENT: u32 = 0x4000_0000;
    pub(crate) const RO_COMPAT_SPARSE_SUPER: u32 = 0x1;
    pub(crate) const RO_COMPAT_LARGE_FILE: u32 = 0x2;
    /// `s_flags`: directory hashes take characters as unsigned.
    pub(crate) const FLAG_UNSIGNED_HASH: u32 = 0x2;
}
use feature::*;

/// The shape of a volume. Every number in it is in range: the groups cover the volume, and what is computed from it
/// stays inside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// Bytes in a block: 1024, 2048 or 4096.
    pub block_size: u32,
    /// Blocks on the volume.
    pub blocks: u32,
    /// Inodes on the volume.
    pub inodes: u32,
    /// Number of the first block that belongs to a group: 1 for blocks of 1024 bytes, else 0.
    pub first_data_block: u32,
    /// Blocks in a group; the last group may have fewer.
    pub blocks_per_group: u32,
    /// Inodes in a group.
    pub inodes_per_group: u32,
    /// Groups.
    pub groups: u32,
    /// Bytes in an inode.
    pub inode_size: u16,
    /// The first inode that is not reserved.
    pub first_inode: u32,
    /// `s_feature_compat`.
    pub compat: u32,
    /// `s_feature_incompat`: none but `filetype`.
    pub incompat: u32,
    /// `s_feature_ro_compat`.
    pub ro_compat: u32,
    /// Blocks kept after the group descriptors for growing (`resize_inode`).
    pub reserved_descriptor_blocks: u32,
    pub(crate) hash_seed: [u32; 4],
    pub(crate) hash_version: u8,
    pub(crate) unsigned_hash: bool,
    /// As [`Geometry::head_of`] a group with a copy of the superblock, [`Geometry::largest_file`] and [`Geometry::largest_written`]: asked for
    /// at every step.
    head: u32,
    largest_file: u64,
    largest_written: u64,
}

impl TryFrom<&RawSuper> for Geometry {
    type Error = Error;

    fn try_from(raw: &RawSuper) -> Result<Self, Error> {
        if raw.magic() != MAGIC {
            return Err(Error::NotExt2 { what: "no superblock 1024 bytes in" });
        }
        let bad = |field, value: u32| Err(Error::BadGeometry { field, value: value.into() });
        let dynamic = match raw.revision() {
            0 => false,
            1 => true,
            other => return bad("s_rev_level", other),
        };
        let (compat, incompat, ro_compat) =
            if dynamic { (raw.compat(), raw.incompat(), raw.ro_compat()) } else { (0, 0, 0) };
        if incompat & !INCOMPAT_FILETYPE != 0 {
            return Err(match incompat & !INCOMPAT_FILETYPE {
                // Of one that has other features too, the journal is the least; without a journal there is nothing to play back.
                INCOMPAT_RECOVER if compat & COMPAT_HAS_JOURNAL != 0 => Error::NeedsRecovery,
                incompat => Error::UnknownFeature { incompat },
            });
        }
        if raw.log_block_size() > 2 {
            return bad("s_log_block_size", raw.log_block_size());
        }
        let block_size = 1024u32 << raw.log_block_size();
        let first_data_block = u32::from(block_size == 1024);
        if raw.first_data_block() != first_data_block {
            return bad("s_first_data_block", raw.first_data_block());
        }
        let blocks = raw.blocks_count();
        if blocks <= first_data_block + 3 {
            return bad("s_blocks_count", blocks);
        }
        let blocks_per_group = raw.blocks_per_group();
        if blocks_per_group < 8 || blocks_per_group > 8 * block_size {
            return bad("s_blocks_per_group", blocks_per_group);
        }
        let inode_size = if dynamic { raw.inode_size() } else { 128 };
        if !inode_size.is_power_of_two() || inode_size < 128 || u32::from(inode_size) > block_size {
            return bad("s_inode_size", inode_size.into());
        }
        let inodes_per_group = raw.inodes_per_group();
        if inodes_per_group < block_size / u32::from(inode_size) || inodes_per_group > 8 * block_size {
            return bad("s_inodes_per_group", inodes_per_group);
        }
        let groups = (blocks - first_data_block).div_ceil(blocks_per_group);
        let inodes = raw.inodes_count();
        if groups.checked_mul(inodes_per_group) != Some(inodes) {
            return bad("s_inodes_count", inodes);
        }
        let first_inode = if dynamic { raw.first_inode() } else { FIRST_INODE };
        if first_inode < FIRST_INODE || first_inode > inodes {
            return bad("s_first_ino", first_inode);
        }
        let reserved_descriptor_blocks =
            if compat & COMPAT_RESIZE_INODE != 0 { raw.reserved_descriptor_blocks().into() } else { 0 };
        if reserved_descriptor_blocks > block_size / 4 {
            return bad("s_reserved_gdt_blocks", reserved_descriptor_blocks);
        }
        let seed = raw.hash_seed().to_le_bytes();
        let word = |n: usize| u32::from_le_bytes(crate::raw::bytes_at(&seed, 4 * n));
        let mut geometry = Self {
            block_size,
            blocks,
            inodes,
            first_data_block,
            blocks_per_group,
            inodes_per_group,
            groups,
            inode_size,
            first_inode,
            compat,
            incompat,
            ro_compat,
            reserved_descriptor_blocks,
            hash_seed: [word(0), word(1), word(2), word(3)],
            hash_version: raw.hash_version(),
            unsigned_hash: raw.flags() & FLAG_UNSIGNED_HASH != 0,
            head: 0,
            largest_file: 0,
            largest_written: 0,
        };
        geometry.derive();
        // Every group must hold its own metadata: then no address computed from the geometry leaves the volume.
        for group in [0, groups - 1] {
            let range = geometry.group_blocks(group);
            if geometry.overhead_of(group) > range.end - range.start {
                return bad("blocks of a group", range.end - range.start);
            }
        }
        Ok(geometry)
    }
}

impl Geometry {
    /// What [`Volume::format`](crate::Volume::format) makes of `blocks` blocks of 4096 bytes with at least `inodes`
    /// inodes.
    ///
    /// # Errors
    /// [`Error::CannotMake`] when the blocks are too few or too many, when a group cannot have that many inodes, or
    /// when the last group could not hold its own metadata: a few blocks more or fewer will do.
    pub fn plan(blocks: u64, inodes: u32) -> Result<Self, Error> {
        let bad = |what, value| Err(Error::CannotMake { what, value });
        let Ok(count) = u32::try_from(blocks) else { return bad("the number of blocks", blocks) };
        if count == 0 {
            return bad("the number of blocks", 0);
        }
        let inodes = inodes.max(FIRST_INODE + 1);
        // Whole blocks of the inode table, whole bytes of the bitmap.
        let in_group = |groups: u32| inodes.div_ceil(groups).checked_next_multiple_of(4096 / 256).unwrap_or(u32::MAX);
        // As large as a bitmap of one block allows; smaller where many small files need more groups for their inodes.
        let Some(blocks_per_group) = [MOST_IN_GROUP, 16384, 8192, 4096]
            .into_iter()
            .find(|&size| in_group(count.div_ceil(size)) <= MOST_IN_GROUP)
        else {
            return bad("the number of inodes", inodes.into());
        };
        let groups = count.div_ceil(blocks_per_group);
        let inodes_per_group = in_group(groups);
        let mut geometry = Self {
            block_size: 4096,
            blocks: count,
            inodes: match groups.checked_mul(inodes_per_group) {
                Some(inodes) => inodes,
                None => return bad("the number of inodes", inodes.into()),
            },
            first_data_block: 0,
            blocks_per_group,
            inodes_per_group,
            groups,
            inode_size: 256,
            first_inode: FIRST_INODE,
            compat: COMPAT_EXT_ATTR | COMPAT_DIR_INDEX,
            incompat: INCOMPAT_FILETYPE,
            ro_compat: RO_COMPAT_SPARSE_SUPER | RO_COMPAT_LARGE_FILE,
            reserved_descriptor_blocks: 0,
            hash_seed: [0; 4],
            hash_version: 1,
            unsigned_hash: true,
            head: 0,
            largest_file: 0,
            largest_written: 0,
        };
        geometry.derive();
        for group in [0, groups - 1] {
            let range = geometry.group_blocks(group);
            // One more for the root directory, or so that the group is of any use.
            if geometry.overhead_of(group) + 1 > range.end - range.start {
                return bad("the number of blocks of the last group", u64::from(range.end - range.start));
            }
        }
        Ok(geometry)
    }

    /// Fills in what follows from the rest.
    fn derive(&mut self) {
        self.head = 1 + self.descriptor_blocks() + self.reserved_descriptor_blocks;
        let pointers = u64::from(self.block_size / 4);
        let reach = 12 + pointers + pointers * pointers + pointers * pointers * pointers;
        let counted = u64::from(u32::MAX / (self.block_size / 512));
        let least = counted - counted / (pointers - 2) - 8;
        let largest = reach.min(least) * u64::from(self.block_size);
        self.largest_file = largest;
        // Without the feature, a size of 2 GiB or more is one that other implementations would misread.
        let written = if self.ro_compat & RO_COMPAT_LARGE_FILE == 0 { 0x7fff_ffff } else { largest };
        self.largest_written = largest.min(written);
    }

    /// The blocks of a group.
    #[inline]
    pub fn group_blocks(&self, group: u32) -> Range<u32> {
        let start = self.first_data_block + group * self.blocks_per_group;
        start..start.saturating_add(self.blocks_per_group).min(self.blocks)
    }

    /// The blocks of a group after its superblock copy, descriptors, bitmaps and inode table, when these stand
    /// together at its start, as on every volume this crate makes.
    pub fn group_data(&self, group: u32) -> Range<u32> {
        let range = self.group_blocks(group);
        (range.start + self.overhead_of(group)).min(range.end)..range.end
    }

    /// Blocks that the format itself needs, on the whole volume.
    pub fn overhead(&self) -> u64 {
        (0..self.groups).map(|group| u64::from(self.overhead_of(group))).sum::<u64>() + u64::from(self.first_data_block)
    }

    /// Bytes of the volume.
    pub fn bytes(&self) -> u64 {
        u64::from(self.blocks) * u64::from(self.block_size)
    }

    pub(crate) fn overhead_of(&self, group: u32) -> u32 {
        self.head_of(group) + 2 + self.inode_table_blocks()
    }

    /// Blocks of the superblock copy and the descriptors at the start of a group.
    #[inline]
    pub(crate) fn head_of(&self, group: u32) -> u32 {
        if self.has_super(group) { self.head } else { 0 }
    }

    /// Whether a group has a copy of the superblock and the descriptors: with `sparse_super` 0, 1 and the powers of 3,
    /// 5 and 7.
    #[inline]
    pub(crate) fn has_super(&self, group: u32) -> bool {
        if self.ro_compat & RO_COMPAT_SPARSE_SUPER == 0 || group <= 1 {
            return true;
        }
        [3, 5, 7].iter().any(|&base| {
            let mut power = base;
            while power < group {
                power = match power.checked_mul(base) {
                    Some(next) => next,
                    None => return false,
                };
            }
            power == group
        })
    }

    pub(crate) fn descriptor_blocks(&self) -> u32 {
        let per_block = self.block_size / DESCRIPTOR;
        self.groups.div_ceil(per_block)
    }

    pub(crate) fn inode_table_blocks(&self) -> u32 {
        self.inodes_per_group.div_ceil(self.block_size / u32::from(self.inode_size))
    }

    /// Byte address of the descriptor of `group`.
    pub(crate) fn descriptor_at(&self, group: u32) -> u64 {
        self.byte(self.first_data_block + 1) + u64::from(group) * u64::from(DESCRIPTOR)
    }

    /// Byte address of a block.
    #[inline]
    pub(crate) fn byte(&self, block: u32) -> u64 {
        u64::from(block) * u64::from(self.block_size)
    }

    /// The group of a block, which is in range.
    #[inline]
    pub(crate) fn group_of_block(&self, block: u32) -> u32 {
        (block - self.first_data_block) / self.blocks_per_group
    }

    /// How far into its group a block is, which is in range.
    #[inline(always)]
    pub(crate) fn within_group(&self, block: u32) -> u32 {
        let (at, len) = (block - self.first_data_block, self.blocks_per_group);
        // As good as always, and cheaper than to divide.
        if len.is_power_of_two() { at & (len - 1) } else { at % len }
    }

    /// Whether a number can be that of a block of a file.
    #[inline]
    pub(crate) fn is_data(&self, block: u32) -> bool {
        block > self.first_data_block && block < self.blocks
    }

    /// The largest size of a file: what three levels of pointers reach, and 2^32 sectors of 512 bytes count, less the
    /// pointers' own blocks.
    #[inline]
    pub(crate) fn largest_file(&self) -> u64 {
        self.largest_file
    }

    /// The largest size that a file is given.
    #[inline]
    pub(crate) fn largest_written(&self) -> u64 {
        self.largest_written
    }
}

/// A group descriptor whose bitmaps and table lie in its group.
#[derive(Clone, Copy)]
pub(crate) struct Group {
    pub(crate) block_bitmap: u32,
    pub(crate) inode_bitmap: u32,
    pub(crate) inode_table: u32,
}

impl Group {
    /// The descriptor of `group`, checked. Without `flex_bg` everything stands in its own group.
    pub(crate) fn check(raw: &RawGroup, geometry: &Geometry, group: u32) -> Result<Self, Error> {
        let range = geometry.group_blocks(group);
        let usable = range.start + geometry.head_of(group)..range.end;
        let bad = |field, value: u32| Err(Error::BadGeometry { field, value: value.into() });
        let (block_bitmap, inode_bitmap, inode_table) = (raw.block_bitmap(), raw.inode_bitmap(), raw.inode_table());
        if !usable.contains(&block_bitmap) {
            return bad("bg_block_bitmap", block_bitmap);
        }
        if !usable.contains(&inode_bitmap) || inode_bitmap == block_bitmap {
            return bad("bg_inode_bitmap", inode_bitmap);
        }
        let end = inode_table.checked_add(geometry.inode_table_blocks());
        let table = inode_table..end.unwrap_or(u32::MAX);
        if !usable.contains(&inode_table)
            || end.is_none_or(|end| end > range.end)
            || table.contains(&block_bitmap)
            || table.contains(&inode_bitmap)
        {
            return bad("bg_inode_table", inode_table);
        }
        Ok(Self { block_bitmap, inode_bitmap, inode_table })
    }

    /// Whether `block` belongs to the metadata of this group, which no file may own.
    pub(crate) fn owns(&self, geometry: &Geometry, group: u32, block: u32) -> bool {
        let start = geometry.group_blocks(group).start;
        block == self.block_bitmap
            || block == self.inode_bitmap
            || (self.inode_table..self.inode_table + geometry.inode_table_blocks()).contains(&block)
            || (start..start + geometry.head_of(group)).contains(&block)
    }
}
