//! A volume: opened, its shape checked, its records at hand.

use crate::error::Error;
use crate::geometry::{Geometry, Group, SUPER_AT, feature};
use crate::inode::{Inode, InodeNo, SetAttributes};
use crate::raw::{INODE_BASE, RawGroup, RawInode, RawSuper};
use xip_core::{Device, Env, LockId, PAGE_SIZE};

/// An ext2 file system on a device. All methods take `&self`; whoever shares a volume between threads gives it an
/// [`Env`] with real locks.
#[derive(Debug)]
pub struct Volume<D, E> {
    pub(crate) device: D,
    pub(crate) env: E,
    pub(crate) geometry: Geometry,
    pub(crate) read_only: Option<&'static str>,
}

/// Figures of a volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Statfs {
    /// Bytes in a block.
    pub block_size: u32,
    /// Blocks, all of them.
    pub blocks: u32,
    /// Blocks that no one has.
    pub free_blocks: u32,
    /// Inodes, all of them.
    pub inodes: u32,
    /// Inodes that no one has.
    pub free_inodes: u32,
    /// The volume's identity.
    pub uuid: [u8; 16],
    /// The volume's name, filled up with zeros.
    pub label: [u8; 16],
}

impl<D: Device, E: Env> Volume<D, E> {
    /// Opens the volume on `device`. It is read-only when the device or the environment is, when it has features that ask for it, or
    /// when its blocks are not pages; [`Volume::read_only`] says which.
    ///
    /// # Errors
    /// [`Error::NotExt2`], [`Error::BadGeometry`] with the field, [`Error::CutOff`], [`Error::UnknownFeature`]; what the device says.
    pub fn open(device: D, env: E) -> Result<Self, Error> {
        let mut raw = RawSuper::default();
        match device.read(SUPER_AT, &mut raw.0) {
            Err(xip_core::Error::OutOfRange { .. }) => {
                return Err(Error::NotExt2 { what: "shorter than a superblock" });
            }
            other => other?,
        }
        let geometry = Geometry::try_from(&raw)?;
        let (have, needs) = (device.pages().saturating_mul(PAGE_SIZE as u64), geometry.bytes());
        if have < needs {
            return Err(Error::CutOff { have, needs });
        }
        let known = feature::RO_COMPAT_SPARSE_SUPER | feature::RO_COMPAT_LARGE_FILE;
        let read_only = if geometry.ro_compat & !known != 0 {
            Some("it has features that this program can read but not write")
        } else if geometry.block_size as usize != PAGE_SIZE {
            Some("only volumes with blocks of 4096 bytes are written")
        } else if geometry.inode_size < 256 {
            Some("only volumes with inodes of 256 bytes or more are written")
        } else {
            None
        };
        let mut volume = Self { device, env, geometry, read_only };
        volume.read_only = volume.forbidden().or(read_only);
        for group in 0..geometry.groups {
            volume.group(group)?;
        }
        if !volume.inode(InodeNo::ROOT).is_ok_and(|root| root.kind == crate::inode::Kind::Directory) {
            return Err(Error::Corrupt { what: "the root is not a directory", inode: InodeNo::ROOT.0, at: 0 });
        }
        Ok(volume)
    }

    /// Its shape.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The device.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// Its locks and clock.
    pub fn env(&self) -> &E {
        &self.env
    }

    /// Why it cannot be written, `None` when it can.
    pub fn read_only(&self) -> Option<&'static str> {
        self.read_only
    }

    /// Whether its files can be used in place.
    ///
    /// # Errors
    /// Why not: [`Error::UnsupportedBlocksize`], or [`xip_core::Error::NoDirectAccess`] with the device's reason.
    pub fn in_place(&self) -> Result<(), Error> {
        if let Some(reason) = self.device.properties().not_in_place {
            return Err(xip_core::Error::NoDirectAccess { reason }.into());
        }
        if self.geometry.block_size as usize != PAGE_SIZE {
            return Err(Error::UnsupportedBlocksize { size: self.geometry.block_size });
        }
        Ok(())
    }

    /// Counters and names, as they are now.
    ///
    /// # Errors
    /// The device's.
    pub fn statfs(&self) -> Result<Statfs, Error> {
        let mut raw = RawSuper::default();
        self.device.read(SUPER_AT, &mut raw.0)?;
        Ok(Statfs {
            block_size: self.geometry.block_size,
            blocks: self.geometry.blocks,
            free_blocks: raw.free_blocks().min(self.geometry.blocks),
            inodes: self.geometry.inodes,
            free_inodes: raw.free_inodes().min(self.geometry.inodes),
            uuid: raw.uuid().to_le_bytes(),
            label: raw.label().to_le_bytes(),
        })
    }

    /// The inode `number`, checked.
    ///
    /// # Errors
    /// [`Error::NotFound`] for one that is not in use, [`Error::Corrupt`].
    pub fn inode(&self, number: InodeNo) -> Result<Inode, Error> {
        Inode::check(&self.raw_inode(number)?, number, self.geometry.largest_file())
    }

    /// Changes attributes of an inode. Its ctime becomes now, unless given.
    ///
    /// # Errors
    /// [`Error::ReadOnly`]; as [`Volume::inode`].
    pub fn set_attributes(&self, number: InodeNo, change: &SetAttributes) -> Result<(), Error> {
        self.check_writable()?;
        let _guard = self.env.exclusive(LockId::Inode(number.0));
        // That it is in use.
        self.inode(number)?;
        let mut raw = self.raw_inode(number)?;
        change.apply(&mut raw, self.env.now());
        self.write_raw_inode(number, &raw)
    }

    /// Makes all that was written durable.
    ///
    /// # Errors
    /// The device's.
    pub fn sync(&self) -> Result<(), Error> {
        self.device.flush(0, self.geometry.bytes())?;
        Ok(self.device.fence()?)
    }

    /// Why nobody may write here, whatever the volume is like.
    pub(crate) fn forbidden(&self) -> Option<&'static str> {
        if !self.device.properties().writable {
            Some("its device is")
        } else if E::READ_ONLY {
            Some("it was opened only to be read")
        } else {
            None
        }
    }

    pub(crate) fn check_writable(&self) -> Result<(), Error> {
        self.read_only.map_or(Ok(()), |reason| Err(Error::ReadOnly { reason }))
    }

    pub(crate) fn group(&self, group: u32) -> Result<Group, Error> {
        let mut raw = RawGroup::default();
        self.device.read(self.geometry.descriptor_at(group), &mut raw.0)?;
        Group::check(&raw, &self.geometry, group)
    }

    /// Byte address of an inode: inside the inode table of a checked group.
    #[inline]
    pub(crate) fn inode_at(&self, number: InodeNo) -> Result<u64, Error> {
        let geometry = &self.geometry;
        if number.0 == 0 || number.0 > geometry.inodes {
            return Err(Error::Corrupt { what: "no such inode number", inode: number.0, at: 0 });
        }
        let group = (number.0 - 1) / geometry.inodes_per_group;
        let index = (number.0 - 1) % geometry.inodes_per_group;
        let table = self.group(group)?.inode_table;
        Ok(geometry.byte(table) + u64::from(index) * u64::from(geometry.inode_size))
    }

    pub(crate) fn raw_inode(&self, number: InodeNo) -> Result<RawInode, Error> {
        let at = self.inode_at(number)?;
        let mut raw = RawInode::default();
        let len = RawInode::LEN.min(self.geometry.inode_size.into());
        self.device.read(at, &mut raw.0[..len])?;
        Ok(raw)
    }

    /// Stores the first 160 bytes of an inode; those after them, the attributes, have a door of their own.
    pub(crate) fn write_raw_inode(&self, number: InodeNo, raw: &RawInode) -> Result<(), Error> {
        let at = self.inode_at(number)?;
        // Not beyond what the inode says of itself: its attributes begin there, on other makers' volumes before byte 160.
        let own = INODE_BASE + usize::from(raw.extra_size());
        let len = RawInode::LEN.min(self.geometry.inode_size.into()).min(own);
        self.device.write(at, &raw.0[..len])?;
        Ok(self.device.flush(at, len as u64)?)
    }

    /// Where the attributes in an inode begin, and how many bytes they may have.
    pub(crate) fn attribute_area(&self, number: InodeNo, raw: &RawInode) -> Result<(u64, usize), Error> {
        let size = usize::from(self.geometry.inode_size);
        let start = INODE_BASE + usize::from(raw.extra_size());
        let at = self.inode_at(number)?;
        // The extra part must be of whole words and inside the inode, else there is no area.
        if size == INODE_BASE || start > size || !start.is_multiple_of(4) {
            return Ok((at + size as u64, 0));
        }
        Ok((at + start as u64, size - start))
    }

    /// Fills a block with zeros, before it is linked anywhere (contract 2, zero before publish).
    pub(crate) fn zero_blocks(&self, first: u32, count: u32) -> Result<(), Error> {
        let (at, len) = (self.geometry.byte(first), u64::from(count) * u64::from(self.geometry.block_size));
        if self.device.properties().not_in_place.is_none() && self.geometry.block_size as usize == PAGE_SIZE {
            self.device.zero(xip_core::PageNo(first.into()), count.into())?;
        } else {
            let zeros = [0u8; 512];
            for n in 0..len / zeros.len() as u64 {
                self.device.write(at + n * zeros.len() as u64, &zeros)?;
            }
        }
        Ok(self.device.flush(at, len)?)
    }
}
