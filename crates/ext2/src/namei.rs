//! New files and new names: create, link.
//!
//! Order of stores when something is made (contract 7, rule 1): a directory's first block; the inode, whole; then the
//! entry that names it, which publishes. Link counts go up before the name that they count, so that a crash leaves
//! them too high, never too low. A file that is made without a name is what [`Volume::unlink`] leaves of one that is open, and as
//! that is leaked by a crash; its first name comes as any other.

use crate::alloc::Reservation;
use crate::dir::{self, DirBlocks};
use crate::error::Error;
use crate::geometry::feature;
use crate::inherit::Attributes;
use crate::inode::{InodeNo, Kind, Node, SetAttributes, encode_device};
use crate::raw::{INODE_BASE, INODE_BLOCKS, INODE_BLOCKS_LEN, INODE_DTIME, INODE_GENERATION, INODE_LINKS, RawInode};
use crate::symlink::FAST;
use crate::volume::Volume;
use xip_core::{Device, Env, LockId, PAGE_SIZE};

/// The most links a file can have: Linux's limit for volumes without `dir_nlink`.
pub(crate) const MAX_LINKS: u16 = 65_000;

/// Up to the end of the 160 bytes known here: room for times to the nanosecond and past 2038.
const EXTRA: u16 = 32;
const _: () = assert!(INODE_BASE + EXTRA as usize == RawInode::LEN);

/// What to create.
#[derive(Clone, Copy, Debug)]
pub enum NewKind<'a> {
    /// An empty regular file.
    Regular,
    /// An empty directory.
    Directory,
    /// A symbolic link to this target.
    Symlink(&'a [u8]),
    /// A block device, major and minor.
    Block(u32, u32),
    /// A character device, major and minor.
    Character(u32, u32),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl NewKind<'_> {
    fn kind(&self) -> Kind {
        match self {
            Self::Regular => Kind::Regular,
            Self::Directory => Kind::Directory,
            Self::Symlink(_) => Kind::Symlink,
            Self::Block(..) => Kind::Block,
            Self::Character(..) => Kind::Character,
            Self::Fifo => Kind::Fifo,
            Self::Socket => Kind::Socket,
        }
    }
}

/// A new file, and whose it is.
#[derive(Clone, Copy, Debug)]
pub struct NewInode<'a> {
    /// What it is.
    pub kind: NewKind<'a>,
    /// Permission bits, with set-id and sticky.
    pub permissions: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl<D: Device, E: Env> Volume<D, E> {
    /// Makes a new file with a name.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::NameTooLong`], [`Error::InvalidName`], [`Error::NotDirectory`],
    /// [`Error::TooManyLinks`] for a directory in a full parent, [`Error::NoSpace`], [`Error::ReadOnly`];
    /// [`Error::NotFound`] for a link to nothing, as the kernel has it, [`Error::Unsupported`] for device numbers too
    /// large.
    pub fn create(&self, parent: InodeNo, name: &[u8], new: &NewInode<'_>) -> Result<InodeNo, Error> {
        self.check_writable()?;
        let _guard = self.env.exclusive(LockId::Inode(parent.0));
        self.create_as(&self.node(parent)?, Some(name), new, None)
    }

    /// As [`Volume::create`], by one who has the lock of `parent`, and with attributes; without a name, as
    /// [`Volume::create_unnamed`].
    pub(crate) fn create_as(
        &self,
        parent: &Node,
        name: Option<&[u8]>,
        new: &NewInode<'_>,
        attributes: Option<&Attributes<'_>>,
    ) -> Result<InodeNo, Error> {
        let mut directory = self.live_directory(parent)?;
        let Some(name) = name else {
            let (number, mut record) = self.new_inode(parent, new)?;
            record.set_links(0);
            if let Err(error) = self.make(number, parent.number, new, &mut record, attributes) {
                let _ = self.unmake(number, false, None);
                return Err(error);
            }
            self.fence()?;
            return Ok(number);
        };
        let is_directory = matches!(new.kind, NewKind::Directory);
        let room = self.room(&mut directory, name)?;
        if is_directory && parent.links >= MAX_LINKS {
            return Err(Error::TooManyLinks);
        }
        let (number, mut record) = self.new_inode(parent, new)?;
        let (mut made, mut counted) = (false, false);
        let named = self.make(number, parent.number, new, &mut record, attributes).and_then(|()| {
            made = true;
            if is_directory {
                self.change_links(parent.at, 1)?;
                counted = true;
            }
            dir::put(&mut directory, &room, name, number.0, new.kind.kind().entry_type())?;
            let store = room.store(number.0);
            directory.publish(room.block, store.at, store.bytes())
        });
        if let Err(error) = named {
            // Undo: nothing names the inode. What cannot be undone is leaked, which a check finds.
            let _ = self.unmake(number, is_directory, made.then_some(&record));
            if counted {
                let _ = self.change_links(parent.at, -1);
            }
            self.env.forget(parent.number.0, name);
            return Err(error);
        }
        self.remember(&directory, name, number, new.kind.kind(), room.place());
        self.remember_place(&directory, room.place());
        self.stamp(parent.at, true)?;
        self.fence()?;
        Ok(number)
    }

    /// A number for a new inode, and its record.
    fn new_inode(&self, parent: &Node, new: &NewInode<'_>) -> Result<(InodeNo, RawInode), Error> {
        let mut record = self.new_record(new)?;
        let number = self.reserve_inode(parent.number, matches!(new.kind, NewKind::Directory))?;
        let at = self.inode_at(number)?;
        if self.load(at + INODE_DTIME)? != [0; 4] {
            // The number was another file's: who still has both number and generation of that finds out.
            record.set_generation(u32::from_le_bytes(self.load(at + INODE_GENERATION)?).wrapping_add(1));
        }
        Ok((number, record))
    }

    /// Gives a file one more name.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a file that has lost all of its names, [`Error::IsDirectory`], [`Error::TooManyLinks`], and as
    /// [`Volume::create`].
    pub fn link(&self, parent: InodeNo, name: &[u8], number: InodeNo) -> Result<(), Error> {
        self.link_as(parent, name, number, false)
    }

    /// Gives its first name to what [`Volume::create_unnamed`] made.
    ///
    /// # Errors
    /// As [`Volume::create`].
    pub fn link_unnamed(&self, parent: InodeNo, name: &[u8], number: InodeNo) -> Result<(), Error> {
        self.link_as(parent, name, number, true)
    }

    fn link_as(&self, parent: InodeNo, name: &[u8], number: InodeNo, first: bool) -> Result<(), Error> {
        self.check_writable()?;
        // Both change; the lower number first, as the order of locks has it.
        let (low, high) = (parent.min(number), parent.max(number));
        let _low = self.env.exclusive(LockId::Inode(low.0));
        let _high = (low != high).then(|| self.env.exclusive(LockId::Inode(high.0)));
        let node = self.node(number)?;
        if node.kind == Kind::Directory {
            return Err(Error::IsDirectory);
        }
        if node.links >= MAX_LINKS {
            return Err(Error::TooManyLinks);
        }
        if node.links == 0 && !first {
            return Err(Error::NotFound);
        }
        let parent = self.node(parent)?;
        let mut directory = self.live_directory(&parent)?;
        let room = self.room(&mut directory, name)?;
        self.change_links(node.at, 1)?;
        let named = dir::put(&mut directory, &room, name, number.0, node.kind.entry_type()).and_then(|()| {
            let store = room.store(number.0);
            directory.publish(room.block, store.at, store.bytes())
        });
        if let Err(error) = named {
            let _ = self.change_links(node.at, -1);
            self.env.forget(parent.number.0, name);
            return Err(error);
        }
        self.remember(&directory, name, number, node.kind, room.place());
        self.remember_place(&directory, room.place());
        self.stamp(parent.at, true)?;
        self.fence()?;
        Ok(())
    }

    /// Stores a new inode, whole, and before it what it leads to.
    pub(crate) fn make(
        &self,
        number: InodeNo,
        parent: InodeNo,
        new: &NewInode<'_>,
        record: &mut RawInode,
        attributes: Option<&Attributes<'_>>,
    ) -> Result<(), Error> {
        let unit = self.geometry.block_size / 512;
        let goal = self.geometry.group_data((number.0 - 1) / self.geometry.inodes_per_group).start;
        let area = attributes.map(|attributes| attributes.area);
        let mut shared = None;
        if let Some(bytes) = attributes.and_then(|attributes| attributes.block) {
            let reserved = self.reserve(goal, 1)?;
            self.put(self.geometry.byte(reserved.first), bytes)?;
            self.fence()?;
            record.set_attribute_block(reserved.first);
            record.set_blocks512(unit);
            shared = Some(reserved);
        }
        // Room for a block's contents is made only for what has some.
        if !matches!(new.kind, NewKind::Directory)
            && !matches!(new.kind, NewKind::Symlink(target) if target.len() > FAST)
        {
            self.write_new_inode(number, record, area)?;
            shared.into_iter().for_each(Reservation::commit);
            return Ok(());
        }
        let mut block = [0; PAGE_SIZE];
        match new.kind {
            NewKind::Directory => {
                let kinds = self.geometry.incompat & feature::INCOMPAT_FILETYPE != 0;
                dir::first_block(&mut block, number.0, parent.0, kinds);
                // The number may have been another directory's.
                self.forget_place(number, 0);
                record.set_size(PAGE_SIZE as u64);
            }
            NewKind::Symlink(target) => block[..target.len()].copy_from_slice(target),
            _ => {}
        }
        let reserved = self.reserve(goal, 1)?;
        self.put(self.geometry.byte(reserved.first), &block)?;
        // Rule 1 of contract 7, although nothing leads to the inode yet: what finds it after a crash sees it whole.
        self.fence()?;
        record.set_first_block(reserved.first);
        record.set_blocks512(record.blocks512() + unit);
        self.write_new_inode(number, record, area)?;
        reserved.commit();
        shared.into_iter().for_each(Reservation::commit);
        Ok(())
    }

    /// The inode of a new file; what cannot be one is refused here, before anything is taken for it.
    pub(crate) fn new_record(&self, new: &NewInode<'_>) -> Result<RawInode, Error> {
        let mut raw = RawInode::default();
        raw.set_mode(new.kind.kind().mode());
        raw.set_links(if matches!(new.kind, NewKind::Directory) { 2 } else { 1 });
        raw.set_extra_size(EXTRA);
        match new.kind {
            NewKind::Symlink(target) => {
                if target.is_empty() {
                    return Err(Error::NotFound);
                }
                // With its final zero a target fits in one block, as the kernel reads it.
                if target.len() >= self.geometry.block_size as usize {
                    return Err(Error::NameTooLong);
                }
                raw.set_size_low(u32::try_from(target.len()).unwrap_or(u32::MAX));
                if target.len() <= FAST {
                    raw.0[INODE_BLOCKS..INODE_BLOCKS + target.len()].copy_from_slice(target);
                }
            }
            NewKind::Block(major, minor) | NewKind::Character(major, minor) => {
                let (old, new) = encode_device(major, minor)
                    .ok_or(Error::Unsupported("device numbers beyond 12 bits of major and 20 of minor"))?;
                raw.0[INODE_BLOCKS..INODE_BLOCKS + 4].copy_from_slice(&old.to_le_bytes());
                raw.0[INODE_BLOCKS + 4..INODE_BLOCKS + 8].copy_from_slice(&new.to_le_bytes());
            }
            _ => {}
        }
        const { assert!(INODE_BLOCKS_LEN > FAST) };
        let now = Some(self.env.now());
        SetAttributes {
            permissions: Some(new.permissions),
            uid: Some(new.uid),
            gid: Some(new.gid),
            atime: now,
            mtime: now,
            ctime: now,
            crtime: now,
            drop_set_id: false,
        }
        .apply(&mut raw, self.env.now());
        Ok(raw)
    }

    /// Stores a new inode with what stands in it of attributes; without, zeros, so that no attribute of a file that was
    /// here before survives.
    fn write_new_inode(&self, number: InodeNo, record: &RawInode, attributes: Option<&[u8]>) -> Result<(), Error> {
        let at = self.inode_at(number)?;
        let area = at + RawInode::LEN as u64;
        match attributes {
            Some(bytes) => self.put(area, bytes)?,
            None => self.put_zeros(area, self.new_area() as u64)?,
        }
        self.write_raw_inode(at, record)
    }

    /// Bytes for attributes in a new inode.
    pub(crate) fn new_area(&self) -> usize {
        usize::from(self.geometry.inode_size).saturating_sub(RawInode::LEN)
    }

    /// Gives an inode back that nothing names, with the blocks of `made`, its record, if it came so far.
    fn unmake(&self, number: InodeNo, directory: bool, made: Option<&RawInode>) -> Result<(), Error> {
        self.write_raw_inode(self.inode_at(number)?, &RawInode::default())?;
        self.fence()?;
        if let Some(raw) = made {
            let attributes = raw.attribute_block();
            let of_attributes = if attributes != 0 { self.geometry.block_size / 512 } else { 0 };
            // The first pointer of a file without blocks of its own may be something else.
            let own = if raw.blocks512() > of_attributes { raw.block(0) } else { 0 };
            for block in [own, attributes].into_iter().filter(|&block| block != 0) {
                self.free_blocks(block, 1)?;
            }
        }
        self.free_inode(number, directory)
    }

    /// Puts a new count of links for the inode at `at`, and the time of the change: the count.
    pub(crate) fn set_links(&self, at: u64, count: impl FnOnce(u16) -> u16) -> Result<u16, Error> {
        let links = count(u16::from_le_bytes(self.load(at + INODE_LINKS)?));
        self.put(at + INODE_LINKS, &links.to_le_bytes())?;
        self.stamp(at, false)?;
        Ok(links)
    }

    /// As [`Volume::set_links`], up or down; never below 0.
    pub(crate) fn change_links(&self, at: u64, change: i16) -> Result<u16, Error> {
        self.set_links(at, |links| links.saturating_add_signed(change))
    }
}
