//! A new volume.

use crate::error::Error;
use crate::geometry::{Geometry, MAGIC, ROOT, SUPER_AT, feature};
use crate::inode::{InodeNo, Kind};
use crate::namei::{NewInode, NewKind};
use crate::raw::{RawGroup, RawSuper};
use crate::state::State;
use crate::volume::Volume;
use xip_core::{Device, Env, PAGE_SIZE};

/// What a new volume is to be like. Nothing comes from chance: the same values make the same bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Format {
    /// Blocks of 4096 bytes.
    pub blocks: u64,
    /// Inodes, at least; [`Geometry::plan`] says how many it will be.
    pub inodes: u32,
    /// The volume's identity.
    pub uuid: [u8; 16],
    /// The volume's name, filled up with zeros.
    pub label: [u8; 16],
    /// Mixed into the hashes of names, so that nobody can make names that collide.
    pub hash_seed: [u8; 16],
    /// Permission bits of the root directory.
    pub root_permissions: u16,
    /// Owner and group of the root directory.
    pub root_owner: (u32, u32),
}

impl<D: Device, E: Env> Volume<D, E> {
    /// Makes a volume on `device`, with an empty root directory. What was there is gone. Times are the
    /// environment's.
    ///
    /// # Errors
    /// As [`Geometry::plan`]; [`Error::ReadOnly`]; [`Error::CannotMake`] when the device is shorter.
    pub fn format(device: D, env: E, format: &Format) -> Result<Self, Error> {
        let geometry = Geometry::plan(format.blocks, format.inodes)?;
        if format.blocks > device.pages() {
            return Err(Error::CannotMake { what: "the number of pages of the device", value: device.pages() });
        }
        let mut volume = Self::new(device, env, geometry, State::new_volume());
        volume.read_only = volume.forbidden();
        volume.check_writable()?;
        volume.write_metadata(format)?;
        let hash_seed = format.hash_seed;
        let word = |n: usize| u32::from_le_bytes(crate::raw::bytes_at(&hash_seed, 4 * n));
        volume.geometry.hash_seed = [word(0), word(1), word(2), word(3)];
        volume.make_root(format)?;
        Ok(volume)
    }

    fn write_metadata(&self, format: &Format) -> Result<(), Error> {
        let geometry = &self.geometry;
        let mut free_blocks = 0;
        for group in 0..geometry.groups {
            let blocks = geometry.group_blocks(group);
            let overhead = geometry.overhead_of(group);
            let reserved_inodes = if group == 0 { geometry.first_inode - 1 } else { 0 };
            self.zero_blocks(blocks.start, overhead)?;
            let bitmap = blocks.start + geometry.head_of(group);
            self.fill_bitmap(bitmap, overhead, blocks.end - blocks.start)?;
            self.fill_bitmap(bitmap + 1, reserved_inodes, geometry.inodes_per_group)?;
            free_blocks += blocks.end - blocks.start - overhead;
        }
        let mut raw = RawSuper::default();
        let time = u32::try_from(self.env.now().seconds.max(0)).unwrap_or(u32::MAX);
        raw.set_inodes_count(geometry.inodes);
        raw.set_blocks_count(geometry.blocks);
        raw.set_free_blocks(free_blocks);
        raw.set_free_inodes(geometry.inodes - (geometry.first_inode - 1));
        raw.set_log_block_size(2);
        raw.set_log_fragment_size(2);
        raw.set_blocks_per_group(geometry.blocks_per_group);
        raw.set_fragments_per_group(geometry.blocks_per_group);
        raw.set_inodes_per_group(geometry.inodes_per_group);
        raw.set_write_time(time);
        raw.set_make_time(time);
        raw.set_last_check(time);
        // No check by count of mounts: -1.
        raw.set_max_mount_count(u16::MAX);
        raw.set_magic(MAGIC);
        raw.set_state(1);
        raw.set_errors(1);
        raw.set_revision(1);
        raw.set_first_inode(geometry.first_inode);
        raw.set_inode_size(geometry.inode_size);
        raw.set_compat(geometry.compat);
        raw.set_incompat(geometry.incompat);
        raw.set_ro_compat(geometry.ro_compat);
        raw.set_uuid(u128::from_le_bytes(format.uuid));
        raw.set_label(u128::from_le_bytes(format.label));
        raw.set_hash_seed(u128::from_le_bytes(format.hash_seed));
        raw.set_hash_version(geometry.hash_version);
        raw.set_flags(feature::FLAG_UNSIGNED_HASH);

        // The copies first: a crash before the last store leaves no volume rather than half of one.
        for copy in (0..geometry.groups).rev().filter(|&group| geometry.has_super(group)) {
            let start = geometry.byte(geometry.group_blocks(copy).start);
            for group in 0..geometry.groups {
                let at = start + PAGE_SIZE as u64 + u64::from(group) * RawGroup::LEN as u64;
                self.device.write(at, &self.new_descriptor(group).0)?;
            }
            // Linux keeps the group number of a copy in 16 bits; there are no more groups in any volume in use.
            raw.set_block_group(u16::try_from(copy).unwrap_or(u16::MAX));
            self.device.write(start + if copy == 0 { SUPER_AT } else { 0 }, &raw.0)?;
        }
        Ok(())
    }

    fn new_descriptor(&self, group: u32) -> RawGroup {
        let geometry = &self.geometry;
        let blocks = geometry.group_blocks(group);
        let head = blocks.start + geometry.head_of(group);
        let reserved = if group == 0 { geometry.first_inode - 1 } else { 0 };
        let mut raw = RawGroup::default();
        raw.set_block_bitmap(head);
        raw.set_inode_bitmap(head + 1);
        raw.set_inode_table(head + 2);
        // Both at most 32768: 8 bits for each byte of a block.
        let narrow = |count: u32| u16::try_from(count).unwrap_or(u16::MAX);
        raw.set_free_blocks(narrow(blocks.end - blocks.start - geometry.overhead_of(group)));
        raw.set_free_inodes(narrow(geometry.inodes_per_group - reserved));
        raw
    }

    /// A bitmap of which the first `taken` of `len` bits are set, and those past the end.
    fn fill_bitmap(&self, block: u32, taken: u32, len: u32) -> Result<(), Error> {
        let mut bits = [0u8; PAGE_SIZE];
        for (first, byte) in (0u32..).step_by(8).zip(&mut bits) {
            for bit in 0..8 {
                let number = first + bit;
                if number < taken || number >= len {
                    *byte |= 1 << bit;
                }
            }
        }
        Ok(self.device.write(self.geometry.byte(block), &bits)?)
    }

    fn make_root(&self, format: &Format) -> Result<(), Error> {
        let root = NewInode {
            kind: NewKind::Directory,
            permissions: format.root_permissions,
            uid: format.root_owner.0,
            gid: format.root_owner.1,
        };
        let mut record = self.new_record(&root)?;
        self.make(InodeNo(ROOT), InodeNo(ROOT), &root, &mut record, None)?;
        self.count_directory(InodeNo(ROOT))?;
        debug_assert_eq!(self.inode(InodeNo::ROOT)?.kind, Kind::Directory);
        Ok(())
    }
}
