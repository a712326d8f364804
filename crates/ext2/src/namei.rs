//! Names to inodes: look up, create, link.
//!
//! Order of stores when something is made (contract 7, rule 1): the inode, whole; a directory's first block; then the
//! entry that names it, which publishes. Link counts go up before the name that they count, so that a crash leaves
//! them too high, never too low.

use crate::blockmap::Goal;
use crate::dir::{self, DirBlocks, DirEntry};
use crate::error::Error;
use crate::geometry::feature;
use crate::inode::{FLAG_INDEX, Inode, InodeNo, Kind, SetAttributes, encode_device};
use crate::raw::{INODE_BASE, INODE_BLOCKS, INODE_BLOCKS_LEN, RawInode};
use crate::symlink::FAST;
use crate::volume::Volume;
use core::cell::Cell;
use xip_core::{Create, Device, Env, Extent, Host, LockId, PageIndex};

/// The most links a file can have: Linux's limit for volumes without `dir_nlink`.
const MAX_LINKS: u16 = 65_000;

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

/// The blocks of a directory.
pub(crate) struct Directory<'v, D, E> {
    volume: &'v Volume<D, E>,
    number: InodeNo,
    blocks: u32,
    indexed: bool,
    goal: Cell<Goal>,
}

impl<D: Device, E: Env> Volume<D, E> {
    /// What `name` in directory `parent` leads to. `.` and `..` are names like others.
    ///
    /// # Errors
    /// [`Error::NotDirectory`], [`Error::NameTooLong`]; [`Error::Corrupt`].
    pub fn lookup(&self, parent: InodeNo, name: &[u8]) -> Result<Option<InodeNo>, Error> {
        let _guard = self.env.shared(LockId::Inode(parent.0));
        Ok(dir::lookup(&self.directory(parent)?, name)?.map(|(number, _)| InodeNo(number)))
    }

    /// Calls `each` for the entries of a directory, `.` and `..` too, from `cursor` on (0 at first, then
    /// [`DirEntry::next`] of the last one seen) until it says `false`.
    ///
    /// # Errors
    /// [`Error::NotDirectory`]; [`Error::Corrupt`].
    pub fn read_dir(
        &self,
        number: InodeNo,
        cursor: u64,
        each: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Result<(), Error> {
        let _guard = self.env.shared(LockId::Inode(number.0));
        dir::iterate(&self.directory(number)?, cursor, each)
    }

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
        let mut directory = self.directory(parent)?;
        dir::check_new_name(name)?;
        if dir::lookup(&directory, name)?.is_some() {
            return Err(Error::Exists);
        }
        let is_directory = matches!(new.kind, NewKind::Directory);
        if is_directory && self.raw_inode(parent)?.links() >= MAX_LINKS {
            return Err(Error::TooManyLinks);
        }
        let record = self.new_record(new)?;
        let number = self.reserve_inode(parent, is_directory)?;
        let mut counted = false;
        let made = self.make(number, parent, new, &record).and_then(|()| {
            if is_directory {
                self.change_links(parent, 1)?;
                counted = true;
            }
            self.device.fence()?;
            dir::insert(&mut directory, name, number.0, new.kind.kind().entry_type())
        });
        if let Err(error) = made {
            // Undo: nothing names the inode. What cannot be undone is leaked, which a check finds.
            let _ = self.unmake(number, is_directory);
            if counted {
                let _ = self.change_links(parent, -1);
            }
            return Err(error);
        }
        self.touch(parent)?;
        Ok(number)
    }

    /// Gives a file one more name.
    ///
    /// # Errors
    /// [`Error::IsDirectory`], [`Error::TooManyLinks`], and as [`Volume::create`].
    pub fn link(&self, parent: InodeNo, name: &[u8], number: InodeNo) -> Result<(), Error> {
        self.check_writable()?;
        // Both change; the lower number first, as the order of locks has it.
        let (low, high) = (parent.min(number), parent.max(number));
        let _low = self.env.exclusive(LockId::Inode(low.0));
        let _high = (low != high).then(|| self.env.exclusive(LockId::Inode(high.0)));
        let inode = self.inode(number)?;
        if inode.kind == Kind::Directory {
            return Err(Error::IsDirectory);
        }
        if inode.links >= MAX_LINKS {
            return Err(Error::TooManyLinks);
        }
        dir::check_new_name(name)?;
        let mut directory = self.directory(parent)?;
        if dir::lookup(&directory, name)?.is_some() {
            return Err(Error::Exists);
        }
        self.change_links(number, 1)?;
        self.device.fence()?;
        if let Err(error) = dir::insert(&mut directory, name, number.0, inode.kind.entry_type()) {
            let _ = self.change_links(number, -1);
            return Err(error);
        }
        self.touch(parent)
    }

    pub(crate) fn directory(&self, number: InodeNo) -> Result<Directory<'_, D, E>, Error> {
        let inode = self.inode(number)?;
        if inode.kind != Kind::Directory {
            return Err(Error::NotDirectory);
        }
        self.directory_of(&inode)
    }

    fn directory_of(&self, inode: &Inode) -> Result<Directory<'_, D, E>, Error> {
        let block_size = u64::from(self.geometry.block_size);
        let blocks = inode.size / block_size;
        // A directory cannot have more blocks than the volume: that bounds every walk through it.
        if !inode.size.is_multiple_of(block_size) || blocks > self.geometry.blocks.into() {
            return Err(Error::Corrupt { what: "the size of the directory", inode: inode.number.0, at: inode.size });
        }
        Ok(Directory {
            volume: self,
            number: inode.number,
            blocks: u32::try_from(blocks).unwrap_or(u32::MAX),
            indexed: inode.flags & FLAG_INDEX != 0 && self.geometry.compat & feature::COMPAT_DIR_INDEX != 0,
            goal: Cell::default(),
        })
    }

    /// Stores a new inode, whole, and what it needs to be one.
    fn make(&self, number: InodeNo, parent: InodeNo, new: &NewInode<'_>, record: &RawInode) -> Result<(), Error> {
        self.write_new_inode(number, record)?;
        match new.kind {
            NewKind::Directory => dir::init(&mut self.directory(number)?, number.0, parent.0),
            NewKind::Symlink(target) if target.len() > FAST => {
                let Extent::Storage(run) = self.blocks(number).map(PageIndex(0), 1, Create::Yes)? else {
                    return Err(xip_core::Error::Lost { index: PageIndex(0) }.into());
                };
                let at = run.first.0 * u64::from(self.geometry.block_size);
                self.device.write(at, target)?;
                Ok(self.device.flush(at, target.len() as u64)?)
            }
            _ => Ok(()),
        }
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
        }
        .apply(&mut raw, self.env.now());
        Ok(raw)
    }

    pub(crate) fn write_new_inode(&self, number: InodeNo, record: &RawInode) -> Result<(), Error> {
        // The whole record, so that no attribute of a file that was here before survives.
        let at = self.inode_at(number)?;
        let rest = at + RawInode::LEN as u64..at + u64::from(self.geometry.inode_size);
        // An inode's size is a power of two of at least 256 here, so 32 divides what is left of it.
        for part in rest.step_by(32) {
            self.device.write(part, &[0; 32])?;
        }
        self.write_raw_inode(number, record)
    }

    fn unmake(&self, number: InodeNo, directory: bool) -> Result<(), Error> {
        // A fast link's target and a device's numbers stand where the pointers of others do.
        if let Ok(inode) = self.inode(number)
            && inode.blocks512 != 0
        {
            self.blocks(number).free_blocks_from(0)?;
        }
        self.write_raw_inode(number, &RawInode::default())?;
        self.free_inode(number, directory)
    }

    fn change_links(&self, number: InodeNo, change: i16) -> Result<(), Error> {
        let mut raw = self.raw_inode(number)?;
        raw.set_links(raw.links().saturating_add_signed(change));
        let now = self.env.now();
        SetAttributes::default().apply(&mut raw, now);
        self.write_raw_inode(number, &raw)
    }

    /// A directory has changed: mtime and ctime.
    fn touch(&self, number: InodeNo) -> Result<(), Error> {
        let now = self.env.now();
        let mut raw = self.raw_inode(number)?;
        SetAttributes { mtime: Some(now), ..SetAttributes::default() }.apply(&mut raw, now);
        self.write_raw_inode(number, &raw)
    }
}

impl<D: Device, E: Env> DirBlocks for Directory<'_, D, E> {
    fn ino(&self) -> u32 {
        self.number.0
    }

    fn block_size(&self) -> usize {
        self.volume.geometry.block_size as usize
    }

    fn count(&self) -> u32 {
        self.blocks
    }

    fn read(&self, n: u32, to: &mut [u8; 4096]) -> Result<(), Error> {
        let at = self.place(n)?;
        Ok(self.volume.device.read(at, &mut to[..self.volume.geometry.block_size as usize])?)
    }

    fn write(&mut self, n: u32, at: usize, bytes: &[u8]) -> Result<(), Error> {
        let at = self.place(n)? + at as u64;
        self.volume.device.write(at, bytes)?;
        Ok(self.volume.device.flush(at, bytes.len() as u64)?)
    }

    fn append(&mut self) -> Result<u32, Error> {
        let n = self.blocks;
        let blocks = crate::file::Blocks { volume: self.volume, number: self.number, goal: self.goal.clone() };
        blocks.map(PageIndex(n.into()), 1, Create::Yes)?;
        self.blocks += 1;
        blocks.publish_size(u64::from(self.blocks) * u64::from(self.volume.geometry.block_size))?;
        Ok(n)
    }

    fn indexed(&self) -> bool {
        self.indexed
    }

    fn set_indexed(&mut self, indexed: bool) -> Result<(), Error> {
        let mut raw = self.volume.raw_inode(self.number)?;
        raw.set_flags(if indexed { raw.flags() | FLAG_INDEX } else { raw.flags() & !FLAG_INDEX });
        self.volume.write_raw_inode(self.number, &raw)?;
        self.indexed = indexed;
        Ok(())
    }

    fn index_allowed(&self) -> bool {
        self.volume.geometry.compat & feature::COMPAT_DIR_INDEX != 0
    }

    fn hash_seed(&self) -> [u32; 4] {
        self.volume.geometry.hash_seed
    }

    fn default_hash(&self) -> u8 {
        self.volume.geometry.hash_version
    }

    fn unsigned_hash(&self) -> bool {
        self.volume.geometry.unsigned_hash
    }

    fn has_kinds(&self) -> bool {
        self.volume.geometry.incompat & feature::INCOMPAT_FILETYPE != 0
    }

    fn max_inode(&self) -> u32 {
        self.volume.geometry.inodes
    }
}

impl<D: Device, E: Env> Directory<'_, D, E> {
    /// Byte address of a block of the directory.
    fn place(&self, n: u32) -> Result<u64, Error> {
        let blocks = self.volume.blocks(self.number);
        match blocks.map(PageIndex(n.into()), 1, Create::No)? {
            Extent::Storage(run) => Ok(run.first.0 * u64::from(self.volume.geometry.block_size)),
            Extent::Hole(_) => Err(blocks.corrupt("a hole in the directory", n.into())),
        }
    }
}
