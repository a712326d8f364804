//! The superblock, the descriptors, and their copies.

use super::{Finding, Pass};
use crate::error::Error;
use crate::geometry::{Geometry, SUPER_AT, feature};
use crate::raw::{RawGroup, RawSuper, bytes_at};
use xip_core::{Device, PAGE_SIZE};

/// `s_state`: the volume was closed; Linux has seen an error.
const CLOSED: u16 = 1;
const ERRORS: u16 = 2;
const STATE_AT: u64 = SUPER_AT + 58;
/// `s_last_orphan`.
const ORPHAN: usize = 232;
/// Fields of journals and quotas: their names, and where their words stand.
const JOURNAL_UUID: [usize; 4] = [208, 212, 216, 220];
const UNUSED: [(&str, &[usize]); 5] = [
    ("s_journal_uuid", &JOURNAL_UUID),
    ("s_journal_inum", &[224]),
    ("s_usr_quota_inum", &[576]),
    ("s_grp_quota_inum", &[580]),
    ("s_prj_quota_inum", &[620]),
];
/// The inodes that are kept for quotas, which e2fsck allows to be named.
const QUOTAS: [u32; 2] = [3, 4];
/// `s_desc_size`, and the most that e2fsck allows.
const DESCRIPTOR_SIZE: (usize, u16) = (254, 1024);
/// `s_log_groups_per_flex`.
const LOG_FLEX: usize = 372;
/// `bg_flags`: a bitmap or a table was never written.
const UNINITIALISED: u8 = 1 | 2;
/// A clock may be wrong by this, in seconds, as e2fsck has it.
const DAY: u64 = 86_400;

/// The shape of the volume on a device; in the inner result what makes it impossible.
pub(super) fn read<D: Device>(device: &D) -> Result<Result<Geometry, Error>, Error> {
    let raw = match raw(device) {
        Err(Error::Device(xip_core::Error::OutOfRange { .. })) => {
            return Err(Error::NotExt2 { what: "shorter than a superblock" });
        }
        other => other?,
    };
    let geometry = match Geometry::try_from(&raw) {
        Ok(geometry) => geometry,
        Err(error @ (Error::NotExt2 { .. } | Error::UnknownFeature { .. } | Error::NeedsRecovery)) => {
            return Err(error);
        }
        Err(error) => return Ok(Err(error)),
    };
    let compat = feature::COMPAT_EXT_ATTR | feature::COMPAT_DIR_INDEX | feature::COMPAT_RESIZE_INODE;
    let ro_compat = feature::RO_COMPAT_SPARSE_SUPER | feature::RO_COMPAT_LARGE_FILE;
    if raw.revision() == 0 || geometry.compat & !compat != 0 || geometry.ro_compat & !ro_compat != 0 {
        return Err(Error::Unsupported(
            "the volume has features that this program does not check; run e2fsck -f on it",
        ));
    }
    // Whole bytes of the bitmaps.
    for (field, value) in
        [("s_blocks_per_group", geometry.blocks_per_group), ("s_inodes_per_group", geometry.inodes_per_group)]
    {
        if !value.is_multiple_of(8) {
            return Ok(Err(Error::BadGeometry { field, value: value.into() }));
        }
    }
    let (have, needs) = (device.pages().saturating_mul(PAGE_SIZE as u64), geometry.bytes());
    if have < needs {
        return Ok(Err(Error::CutOff { have, needs }));
    }
    Ok(Ok(geometry))
}

fn raw<D: Device>(device: &D) -> Result<RawSuper, Error> {
    let mut raw = RawSuper::default();
    device.read(SUPER_AT, &mut raw.0)?;
    Ok(raw)
}

impl<D: Device> Pass<'_, D> {
    /// Fields of the superblock that the geometry does not know.
    pub(super) fn check_super(&mut self) -> Result<(), Error> {
        let raw = raw(self.device)?;
        let mut bad = |field, value: u32, bad: bool| {
            if bad {
                self.found(Finding::Superblock { field, value: value.into() });
            }
        };
        bad("s_r_blocks_count", raw.reserved_blocks(), raw.reserved_blocks() > raw.blocks_count() / 2);
        bad("s_log_frag_size", raw.log_fragment_size(), raw.log_fragment_size() != raw.log_block_size());
        bad("s_frags_per_group", raw.fragments_per_group(), raw.fragments_per_group() != raw.blocks_per_group());
        // What other features keep here is not used without them.
        let word = |at: usize| u32::from_le_bytes(bytes_at(&raw.0, at));
        for (field, places) in UNUSED {
            let quota = places.len() == 1 && places[0] > 512;
            let values = places.iter().map(|&at| word(at));
            if let Some(value) = values.into_iter().find(|value| *value != 0 && !(quota && QUOTAS.contains(value))) {
                self.found(Finding::Superblock { field, value: value.into() });
            }
        }
        let size = u16::from_le_bytes(bytes_at(&raw.0, DESCRIPTOR_SIZE.0));
        if size > DESCRIPTOR_SIZE.1 {
            self.found(Finding::Superblock { field: "s_desc_size", value: size.into() });
        }
        let flex = raw.0[LOG_FLEX];
        let kept = u64::from(raw.reserved_descriptor_blocks());
        if flex > 31 {
            self.found(Finding::Superblock { field: "s_log_groups_per_flex", value: flex.into() });
        }
        if kept != 0 && self.geometry.compat & feature::COMPAT_RESIZE_INODE == 0 {
            self.found(Finding::Superblock { field: "s_reserved_gdt_blocks", value: kept });
        }
        let room = u32::from(self.geometry.inode_size) - 128;
        for (field, at) in [("s_min_extra_isize", 348), ("s_want_extra_isize", 350)] {
            let value = u32::from(u16::from_le_bytes(bytes_at(&raw.0, at)));
            if value != 0 && (!(4..=room).contains(&value) || !value.is_multiple_of(4)) {
                self.found(Finding::Superblock { field, value: value.into() });
            }
        }
        for group in 0..self.geometry.groups {
            let raw = self.raw_group(group)?;
            let (flags, unused) = (raw.0[18] & UNINITIALISED, u16::from_le_bytes(bytes_at(&raw.0, 28)));
            if flags != 0 || unused != 0 {
                self.found(Finding::Superblock { field: "bg_flags", value: u64::from(flags) });
            }
        }
        if let Some(now) = self.now {
            for (field, time) in [("s_mtime", raw.mount_time()), ("s_wtime", raw.write_time())] {
                if u64::from(time) > now.saturating_add(DAY) {
                    self.found(Finding::Superblock { field, value: time.into() });
                }
            }
        }
        Ok(())
    }

    /// The copies of the superblock and the descriptors say the same about the shape.
    pub(super) fn check_copies(&mut self) -> Result<(), Error> {
        let first = raw(self.device)?;
        let shape = |raw: &RawSuper| {
            [
                ("s_magic", raw.magic().into()),
                ("s_inodes_count", raw.inodes_count()),
                ("s_blocks_count", raw.blocks_count()),
                ("s_first_data_block", raw.first_data_block()),
                ("s_log_block_size", raw.log_block_size()),
                ("s_blocks_per_group", raw.blocks_per_group()),
                ("s_inodes_per_group", raw.inodes_per_group()),
                ("s_rev_level", raw.revision()),
                ("s_inode_size", raw.inode_size().into()),
                ("s_feature_incompat", raw.incompat()),
            ]
        };
        let geometry = self.geometry;
        for group in (1..geometry.groups).filter(|&group| geometry.has_super(group)) {
            let at = self.geometry.byte(self.geometry.group_blocks(group).start);
            let mut copy = RawSuper::default();
            self.device.read(at, &mut copy.0)?;
            let mut differs = shape(&first).iter().zip(shape(&copy)).find(|(a, b)| **a != *b).map(|(a, _)| a.0);
            let descriptors = geometry.first_data_block + 1;
            for n in 0..geometry.descriptor_blocks() {
                if differs.is_some() {
                    break;
                }
                let (mut one, mut other) = ([0; 4096], [0; 4096]);
                let one = &*self.read(descriptors + n, &mut one)?;
                let other = &*self.read(geometry.group_blocks(group).start + 1 + n, &mut other)?;
                let left = (geometry.groups as usize).saturating_sub(n as usize * one.len() / RawGroup::LEN);
                let mut pairs = one.chunks(RawGroup::LEN).zip(other.chunks(RawGroup::LEN)).take(left);
                // Where the bitmaps and the table are; the counters are kept up to date only in the first.
                if pairs.any(|(one, other)| one[..12] != other[..12]) {
                    differs = Some("a group descriptor");
                }
            }
            if let Some(field) = differs {
                self.found(Finding::Copy { group, field });
            }
        }
        Ok(())
    }

    /// Last of all, so that the volume is called clean when it is.
    pub(super) fn check_state(&mut self) -> Result<(), Error> {
        let raw = raw(self.device)?;
        let orphan = u32::from_le_bytes(bytes_at(&raw.0, ORPHAN));
        if orphan != 0 {
            self.found(Finding::Orphans { inode: orphan });
            self.mend(SUPER_AT + ORPHAN as u64, &[0; 4])?;
        }
        let state = raw.state();
        if state & (CLOSED | ERRORS) != CLOSED {
            self.found(Finding::Unclean { state });
            self.mend(STATE_AT, &(state & !ERRORS | CLOSED).to_le_bytes())?;
        }
        self.settle()
    }
}
