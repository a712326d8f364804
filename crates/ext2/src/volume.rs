//! A volume: opened, its shape checked, its records at hand.

use crate::alloc::Hints;
use crate::error::Error;
use crate::geometry::{Geometry, Group, SUPER_AT, feature};
use crate::inode::{Inode, InodeNo, Kind, Node, SetAttributes};
use crate::intent::{Intent, each_change};
use crate::raw::{INODE_ATTRIBUTE_BLOCK, INODE_BASE, INODE_SIZE_HIGH, RawGroup, RawInode, RawSuper};
use crate::state::State;
use xip_core::{Device, Env, LockId, PAGE_SIZE};

/// An ext2 file system on a device. All methods take `&self`; whoever shares a volume between threads gives it an
/// [`Env`] with real locks.
#[derive(Debug)]
pub struct Volume<D, E> {
    pub(crate) device: D,
    pub(crate) env: E,
    pub(crate) geometry: Geometry,
    pub(crate) read_only: Option<&'static str>,
    /// The device keeps what is flushed; else flushes and fences are left out.
    pub(crate) persistent: bool,
    /// As [`Volume::in_place`] says.
    pub(crate) in_place: bool,
    pub(crate) state: State,
    pub(crate) hints: Hints,
    /// Blocks of a group from this one on are a file's or free, in every group.
    pub(crate) plain_from: u32,
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
    /// One that can be written completes what a crash interrupted halfway, as far as that was written down (`docs/order.md`).
    /// [`Volume::is_clean`] says whether it was closed properly; one that was not is in order but for what a crash
    /// may leave, and should be checked and repaired before it is written.
    ///
    /// # Errors
    /// [`Error::NotExt2`], [`Error::BadGeometry`] with the field, [`Error::CutOff`], [`Error::UnknownFeature`],
    /// [`Error::NeedsRecovery`]; what the device says.
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
        let mut volume = Self::new(device, env, geometry, State::of(&raw));
        volume.read_only = volume.forbidden().or(read_only);
        if volume.read_only.is_none() {
            volume.complete_intent()?;
        }
        let mut plain = true;
        for group in 0..geometry.groups {
            let head = geometry.group_blocks(group).start + geometry.head_of(group);
            let Group { block_bitmap, inode_bitmap, inode_table } = volume.read_group(group)?;
            if [block_bitmap, inode_bitmap, inode_table] != [head, head + 1, head + 2] {
                plain = false;
            }
        }
        if !plain {
            volume.plain_from = u32::MAX;
        }
        if !volume.inode(InodeNo::ROOT).is_ok_and(|root| root.kind == crate::inode::Kind::Directory) {
            return Err(Error::Corrupt { what: "the root is not a directory", inode: InodeNo::ROOT.0, at: 0 });
        }
        Ok(volume)
    }

    pub(crate) fn new(device: D, env: E, geometry: Geometry, state: State) -> Self {
        let properties = device.properties();
        let in_place = properties.not_in_place.is_none() && geometry.block_size as usize == PAGE_SIZE;
        let persistent = properties.persistent;
        // Group 0 has all that a group can have before its data.
        let plain_from = geometry.overhead_of(0);
        Self {
            device,
            env,
            geometry,
            read_only: None,
            persistent,
            in_place,
            state,
            hints: Hints::default(),
            plain_from,
        }
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
        let _guard = self.env.shared(LockId::Inode(number.0));
        self.read_inode(number)
    }

    /// As [`Volume::inode`], by one who holds its lock.
    pub(crate) fn read_inode(&self, number: InodeNo) -> Result<Inode, Error> {
        Inode::check(&self.raw_inode(number)?, number, self.geometry.largest_file())
    }

    /// The inode `number`, checked, for one who has its lock and goes on with it.
    #[inline]
    pub(crate) fn node(&self, number: InodeNo) -> Result<Node, Error> {
        let at = self.inode_at(number)?;
        let (head, size_high) = (self.load(at)?, self.load(at + INODE_SIZE_HIGH)?);
        Node::check(head, size_high, number, at, self.geometry.largest_file())
    }

    /// Changes attributes of an inode. Its ctime becomes now, unless given. New permissions are those of its ACL too, if it has
    /// one.
    ///
    /// # Errors
    /// [`Error::ReadOnly`]; as [`Volume::inode`].
    pub fn set_attributes(&self, number: InodeNo, change: &SetAttributes) -> Result<(), Error> {
        self.check_writable()?;
        let _guard = self.env.exclusive(LockId::Inode(number.0));
        let node = self.node(number)?;
        match change.permissions {
            Some(mode) if self.has_attributes(&node)? && self.set_mode_of_list(number, change, mode)? => Ok(()),
            _ => self.store_attributes(&node, change),
        }
    }

    /// As [`Volume::set_attributes`], of the inode alone, by one who has its lock.
    pub(crate) fn store_attributes(&self, node: &Node, change: &SetAttributes) -> Result<(), Error> {
        let old = self.raw_inode_at(node.at)?;
        let mut new = old;
        change.apply(&mut new, self.env.now());
        let mut intent = Intent::new();
        intent.inode(node.at, &old, &new)?;
        self.apply(self.fence()?, &mut intent)?;
        self.fence()?;
        Ok(())
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

    /// The descriptor of a group.
    #[inline]
    pub(crate) fn group(&self, group: u32) -> Result<Group, Error> {
        if self.plain_from == u32::MAX {
            return self.read_group(group);
        }
        // It was seen when the volume was opened that everything stands at the start of its group.
        let head = self.geometry.group_blocks(group).start + self.geometry.head_of(group);
        Ok(Group { block_bitmap: head, inode_bitmap: head + 1, inode_table: head + 2 })
    }

    fn read_group(&self, group: u32) -> Result<Group, Error> {
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
        self.raw_inode_at(self.inode_at(number)?)
    }

    /// The inode at a byte address that [`Volume::inode_at`] gave.
    #[inline(always)]
    pub(crate) fn raw_inode_at(&self, at: u64) -> Result<RawInode, Error> {
        if usize::from(self.geometry.inode_size) >= RawInode::LEN {
            return Ok(RawInode(self.load(at)?));
        }
        let mut raw = RawInode::default();
        self.device.read(at, &mut raw.0[..usize::from(self.geometry.inode_size)])?;
        Ok(raw)
    }

    /// `N` bytes at a byte address: a few fields, or an inode.
    #[inline(always)]
    pub(crate) fn load<const N: usize>(&self, at: u64) -> Result<[u8; N], Error> {
        // From where they are, if they are in memory.
        if let Ok(bytes) = self.device.bytes(at, N)
            && let Some(bytes) = bytes.array(0)
        {
            return Ok(bytes);
        }
        let mut bytes = [0; N];
        self.device.read(at, &mut bytes)?;
        Ok(bytes)
    }

    /// What an inode is.
    ///
    /// # Errors
    /// As [`Volume::inode`], as far as it is looked at.
    pub fn kind(&self, number: InodeNo) -> Result<Kind, Error> {
        let _guard = self.env.shared(LockId::Inode(number.0));
        self.kind_locked(number)
    }

    /// As [`Volume::kind`], by one who is sure that it stays in use.
    pub(crate) fn kind_locked(&self, number: InodeNo) -> Result<Kind, Error> {
        let mut raw = RawInode::default();
        let first: [u8; 28] = self.load(self.inode_at(number)?)?;
        raw.0[..first.len()].copy_from_slice(&first);
        Inode::kind_of(&raw, number)
    }

    /// Stores the first 160 bytes of the inode at `at`; those after them, the attributes, have a door of their own.
    pub(crate) fn write_raw_inode(&self, at: u64, raw: &RawInode) -> Result<(), Error> {
        // Not beyond what the inode says of itself: its attributes begin there, on other makers' volumes before byte 160.
        let own = INODE_BASE + usize::from(raw.extra_size());
        let len = RawInode::LEN.min(self.geometry.inode_size.into()).min(own);
        self.put(at, &raw.0[..len])
    }

    /// Stores what differs between two states of the inode at `at`: fields of which any mixture is right.
    #[inline]
    pub(crate) fn put_changes(&self, at: u64, old: &RawInode, new: &RawInode) -> Result<(), Error> {
        each_change(old, new, |from, to| self.put(at + from as u64, &new.0[from..to]))
    }

    /// Where the attributes in an inode begin, and how many bytes they may have.
    pub(crate) fn attribute_area(&self, node: &Node) -> Result<(u64, usize), Error> {
        let size = usize::from(self.geometry.inode_size);
        let extra = if size > INODE_BASE { self.load(node.at + INODE_BASE as u64)? } else { [0; 2] };
        let start = INODE_BASE + usize::from(u16::from_le_bytes(extra));
        // The extra part must be of whole words and inside the inode, else there is no area.
        if size == INODE_BASE || start > size || !start.is_multiple_of(4) {
            return Ok((node.at + size as u64, 0));
        }
        Ok((node.at + start as u64, size - start))
    }

    /// The block of attributes that an inode leads to, or 0; not checked.
    pub(crate) fn attribute_block(&self, node: &Node) -> Result<u32, Error> {
        Ok(u32::from_le_bytes(self.load(node.at + INODE_ATTRIBUTE_BLOCK)?))
    }

    /// Fills a block with zeros, before it is linked anywhere (contract 2, zero before publish).
    pub(crate) fn zero_blocks(&self, first: u32, count: u32) -> Result<(), Error> {
        self.put_zeros(self.geometry.byte(first), self.geometry.byte(count))
    }

    /// Whether a number can be that of a block of a file: on the volume, and not part of the format itself.
    #[inline(always)]
    pub(crate) fn is_file_block(&self, block: u32) -> Result<bool, Error> {
        if !self.geometry.is_data(block) {
            return Ok(false);
        }
        if self.geometry.within_group(block) >= self.plain_from { Ok(true) } else { self.is_not_format(block) }
    }

    /// Whether a block near the start of its group is not part of the format: the group says what it has.
    #[cold]
    fn is_not_format(&self, block: u32) -> Result<bool, Error> {
        let group = self.geometry.group_of_block(block);
        Ok(!self.group(group)?.owns(&self.geometry, group, block))
    }
}
