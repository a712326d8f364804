//! An inode's fields, read where they stand: one look at the device for all that a file operation asks for, whose whole work
//! is a few hundred instructions.

use crate::error::Error;
use crate::inode::encode_time;
use crate::raw::{INODE_ATIME, INODE_ATIME_EXTRA, INODE_BASE, INODE_CTIME, INODE_CTIME_EXTRA, RawInode};
use crate::volume::Volume;
use xip_core::{Device, Env, Region, Timestamp};

/// An inode, by one who has its lock.
pub(crate) struct Record<'v, D, E> {
    volume: &'v Volume<D, E>,
    at: u64,
    /// Its fields up to the extra parts of the times; `None` on a device that does not show them.
    there: Option<Region<'v>>,
}

impl<'v, D: Device, E: Env> Record<'v, D, E> {
    /// The bytes at an offset.
    #[inline(always)]
    pub(crate) fn field<const N: usize>(&self, offset: u64) -> Result<[u8; N], Error> {
        let there = usize::try_from(offset).ok().and_then(|offset| self.there?.array(offset));
        there.map_or_else(|| self.loaded(offset), Ok)
    }

    #[cold]
    fn loaded<const N: usize>(&self, offset: u64) -> Result<[u8; N], Error> {
        self.volume.load(self.at + offset)
    }

    #[inline(always)]
    pub(crate) fn u16(&self, offset: u64) -> Result<u16, Error> {
        Ok(u16::from_le_bytes(self.field(offset)?))
    }

    #[inline(always)]
    pub(crate) fn u32(&self, offset: u64) -> Result<u32, Error> {
        Ok(u32::from_le_bytes(self.field(offset)?))
    }

    #[inline(always)]
    fn u64(&self, offset: u64) -> Result<u64, Error> {
        Ok(u64::from_le_bytes(self.field(offset)?))
    }
}

impl<D: Device, E: Env> Volume<D, E> {
    /// The inode at byte address `at`.
    #[inline(always)]
    pub(crate) fn record(&self, at: u64) -> Record<'_, D, E> {
        Record { volume: self, at, there: self.device.bytes(at, RawInode::LEN).ok() }
    }

    /// The inode at `at` changes now, and with `data` its data does. Puts what differs: a clock that is coarse often has the time
    /// that is there already.
    pub(crate) fn stamp(&self, at: u64, data: bool) -> Result<(), Error> {
        self.stamp_record(&self.record(at), data)
    }

    /// When it was last read, and nothing beside it.
    pub(crate) fn put_access_time(&self, at: u64, time: Timestamp) -> Result<(), Error> {
        self.check_writable()?;
        let (seconds, extra) = encode_time(time);
        self.put(at + INODE_ATIME, &seconds.to_le_bytes())?;
        match self.record(at).u16(INODE_BASE as u64)? {
            room if u64::from(room) < INODE_ATIME_EXTRA + 4 - INODE_BASE as u64 => Ok(()),
            _ => self.put(at + INODE_ATIME_EXTRA, &extra.to_le_bytes()),
        }
    }

    /// As [`Volume::stamp`], by one who has looked at it.
    #[inline]
    pub(crate) fn stamp_record(&self, record: &Record<'_, D, E>, data: bool) -> Result<(), Error> {
        let (seconds, extra) = encode_time(self.env.now());
        // The time of the change, and after it that of the data.
        let both = |change: u32, old: u64| {
            let rest = if data { u64::from(change) << 32 } else { old & !u64::from(u32::MAX) };
            rest | u64::from(change)
        };
        let old = record.u64(INODE_CTIME)?;
        let new = both(seconds, old);
        if new != old {
            self.put(record.at + INODE_CTIME, &new.to_le_bytes())?;
        }
        // What the inode says that it has room for.
        let room = record.u16(INODE_BASE as u64)?;
        if room < 8 {
            return Ok(());
        }
        let old = record.u64(INODE_CTIME_EXTRA)?;
        // With less room the word of the data belongs to an attribute.
        let new = if room < 12 { old & !u64::from(u32::MAX) | u64::from(extra) } else { both(extra, old) };
        match new == old {
            true => Ok(()),
            false => self.put(record.at + INODE_CTIME_EXTRA, &new.to_le_bytes()[..if room < 12 { 4 } else { 8 }]),
        }
    }
}
