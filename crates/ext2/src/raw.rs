//! The bytes of the records on storage, little-endian, as they are. Nothing here is checked: see `geometry` and
//! `inode`, which turn records into checked types. Fields that are not named survive a rewrite.

use crate::geometry::feature::INCOMPAT_INTENT;

/// A record: its bytes, and its named fields at their offsets. That every field lies inside is checked when compiling.
macro_rules! record {
    ($(#[$meta:meta])* $name:ident: $len:literal { $($field:ident $set:ident: $ty:ty = $offset:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy)]
        pub(crate) struct $name(pub(crate) [u8; $len]);

        #[allow(dead_code)]
        impl $name {
            pub(crate) const LEN: usize = $len;
            $(
                #[inline]
                pub(crate) fn $field(&self) -> $ty {
                    const { assert!($offset + size_of::<$ty>() <= $len) };
                    <$ty>::from_le_bytes(bytes_at(&self.0, $offset))
                }
                #[inline]
                pub(crate) fn $set(&mut self, value: $ty) {
                    self.0[$offset..$offset + size_of::<$ty>()].copy_from_slice(&value.to_le_bytes());
                }
            )*
        }

        impl Default for $name {
            fn default() -> Self {
                Self([0; $len])
            }
        }
    };
}

/// `N` bytes at `offset`, which the caller knows to be inside.
#[inline]
pub(crate) fn bytes_at<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[offset..offset + N]);
    out
}

record! {
    /// The superblock, 1024 bytes into the volume.
    RawSuper: 1024 {
        inodes_count set_inodes_count: u32 = 0,
        blocks_count set_blocks_count: u32 = 4,
        reserved_blocks set_reserved_blocks: u32 = 8,
        free_blocks set_free_blocks: u32 = 12,
        free_inodes set_free_inodes: u32 = 16,
        first_data_block set_first_data_block: u32 = 20,
        log_block_size set_log_block_size: u32 = 24,
        log_fragment_size set_log_fragment_size: u32 = 28,
        blocks_per_group set_blocks_per_group: u32 = 32,
        fragments_per_group set_fragments_per_group: u32 = 36,
        inodes_per_group set_inodes_per_group: u32 = 40,
        mount_time set_mount_time: u32 = 44,
        write_time set_write_time: u32 = 48,
        mount_count set_mount_count: u16 = 52,
        max_mount_count set_max_mount_count: u16 = 54,
        magic set_magic: u16 = 56,
        state set_state: u16 = 58,
        errors set_errors: u16 = 60,
        last_check set_last_check: u32 = 64,
        revision set_revision: u32 = 76,
        first_inode set_first_inode: u32 = 84,
        inode_size set_inode_size: u16 = 88,
        block_group set_block_group: u16 = 90,
        compat set_compat: u32 = 92,
        all_incompat set_incompat: u32 = 96,
        ro_compat set_ro_compat: u32 = 100,
        uuid set_uuid: u128 = 104,
        label set_label: u128 = 120,
        reserved_descriptor_blocks set_reserved_descriptor_blocks: u16 = 206,
        hash_seed set_hash_seed: u128 = 236,
        hash_version set_hash_version: u8 = 252,
        make_time set_make_time: u32 = 264,
        flags set_flags: u32 = 352,
    }
}

impl RawSuper {
    /// The features that the format has, without the bit that stands for an intent record and keeps others away.
    pub(crate) fn incompat(&self) -> u32 {
        self.all_incompat() & !INCOMPAT_INTENT
    }
}

record! {
    /// A group descriptor.
    RawGroup: 32 {
        block_bitmap set_block_bitmap: u32 = 0,
        inode_bitmap set_inode_bitmap: u32 = 4,
        inode_table set_inode_table: u32 = 8,
        free_blocks set_free_blocks: u16 = 12,
        free_inodes set_free_inodes: u16 = 14,
        directories set_directories: u16 = 16,
    }
}

record! {
    /// The first 160 bytes of an inode; of an inode of 128 bytes the rest is zero here.
    RawInode: 160 {
        mode set_mode: u16 = 0,
        uid_low set_uid_low: u16 = 2,
        size_low set_size_low: u32 = 4,
        atime set_atime: u32 = 8,
        ctime set_ctime: u32 = 12,
        mtime set_mtime: u32 = 16,
        dtime set_dtime: u32 = 20,
        gid_low set_gid_low: u16 = 24,
        links set_links: u16 = 26,
        blocks512 set_blocks512: u32 = 28,
        flags set_flags: u32 = 32,
        first_block set_first_block: u32 = 40,
        generation set_generation: u32 = 100,
        attribute_block set_attribute_block: u32 = 104,
        size_high set_size_high: u32 = 108,
        uid_high set_uid_high: u16 = 120,
        gid_high set_gid_high: u16 = 122,
        extra_size set_extra_size: u16 = 128,
        ctime_extra set_ctime_extra: u32 = 132,
        mtime_extra set_mtime_extra: u32 = 136,
        atime_extra set_atime_extra: u32 = 140,
        crtime set_crtime: u32 = 144,
        crtime_extra set_crtime_extra: u32 = 148,
    }
}

/// Offset of the 15 block pointers in an inode; a fast symbolic link has its target there.
pub(crate) const INODE_BLOCKS: usize = 40;
/// Bytes of the block pointers.
pub(crate) const INODE_BLOCKS_LEN: usize = 60;
/// Bytes of an inode of revision 0; the rest begins with its own length.
pub(crate) const INODE_BASE: usize = 128;
/// Offsets of fields that are stored alone: `i_mode`, the two halves of `i_size`, `i_atime`, `i_ctime` and its extra part, each before that of
/// `i_mtime`, the extra part of `i_atime`, `i_dtime`, `i_links_count`, `i_blocks` and `i_generation`.
pub(crate) const INODE_MODE: u64 = 0;
pub(crate) const INODE_SIZE: u64 = 4;
pub(crate) const INODE_SIZE_HIGH: u64 = 108;
pub(crate) const INODE_ATIME: u64 = 8;
pub(crate) const INODE_CTIME: u64 = 12;
pub(crate) const INODE_CTIME_EXTRA: u64 = 132;
pub(crate) const INODE_ATIME_EXTRA: u64 = 140;
pub(crate) const INODE_DTIME: u64 = 20;
pub(crate) const INODE_LINKS: u64 = 26;
pub(crate) const INODE_BLOCKS512: u64 = 28;
pub(crate) const INODE_GENERATION: u64 = 100;
pub(crate) const INODE_ATTRIBUTE_BLOCK: u64 = 104;
/// The bytes with mode, size, links and flags.
pub(crate) const INODE_HEAD: usize = 36;

impl RawInode {
    /// The size of a regular file or a directory.
    #[inline]
    pub(crate) fn set_size(&mut self, size: u64) {
        let [a, b, c, d, e, f, g, h] = size.to_le_bytes();
        self.set_size_low(u32::from_le_bytes([a, b, c, d]));
        self.set_size_high(u32::from_le_bytes([e, f, g, h]));
    }

    /// Block pointer `n` of 15.
    #[inline]
    pub(crate) fn block(&self, n: usize) -> u32 {
        u32::from_le_bytes(bytes_at(&self.0, INODE_BLOCKS + 4 * n))
    }
}
