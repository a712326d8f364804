//! Names that go: unlink, rmdir, and what becomes of a file without names.
//!
//! Order of stores (contract 7): the entry first, durable; then the count of links, which a crash leaves too high. A
//! file without names stays as it is while someone has it open; [`Volume::release`] ends it. A crash before that leaks
//! it.

use crate::dir::{self, DirBlocks, Found};
use crate::directory::Directory;
use crate::error::Error;
use crate::inode::{InodeNo, Kind, Node};
use crate::symlink::FAST;
use crate::volume::Volume;
use xip_core::{Device, Env, LockId};

impl<D: Device, E: Env> Volume<D, E> {
    /// Takes away a name of a file that is no directory. If it was the last one: what has no name any more, which the
    /// caller gives to [`Volume::release`] when no one has it open.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::IsDirectory`], [`Error::NotDirectory`] for the parent, [`Error::NameTooLong`],
    /// [`Error::ReadOnly`].
    pub fn unlink(&self, parent: InodeNo, name: &[u8]) -> Result<Option<InodeNo>, Error> {
        if dir::is_dot(name) {
            return Err(Error::IsDirectory);
        }
        self.with_child(parent, name, |mut directory, found, child| {
            if child.kind == Kind::Directory {
                return Err(Error::IsDirectory);
            }
            self.remove_entry(&mut directory, name, found)?;
            self.fence()?;
            let links = self.change_links(child.at, -1)?;
            self.stamp(directory.map.at, true)?;
            self.fence()?;
            Ok((links == 0).then_some(child.number))
        })
    }

    /// Removes an empty directory: what has no name any more, which the caller gives to [`Volume::release`] when no one has it
    /// open.
    ///
    /// # Errors
    /// [`Error::NotEmpty`]; [`Error::InvalidName`] for `.`; and as [`Volume::unlink`].
    pub fn rmdir(&self, parent: InodeNo, name: &[u8]) -> Result<InodeNo, Error> {
        match name {
            b"." => return Err(Error::InvalidName),
            b".." => return Err(Error::NotEmpty),
            _ => {}
        }
        self.with_child(parent, name, |mut directory, found, child| {
            if !dir::is_empty(&self.directory_of(child)?)? {
                return Err(Error::NotEmpty);
            }
            self.remove_entry(&mut directory, name, found)?;
            self.fence()?;
            // Its own `.` counts, and its `..` counts for the parent.
            self.set_links(child.at, |_| 0)?;
            self.change_links(directory.map.at, -1)?;
            self.stamp(directory.map.at, true)?;
            self.fence()?;
            Ok(child.number)
        })
    }

    fn remove_entry(&self, directory: &mut Directory<'_, D, E>, name: &[u8], found: &Found) -> Result<(), Error> {
        let removed = dir::remove(directory, found);
        match removed {
            Ok(()) => {
                self.env.remember(directory.ino(), name, None);
                self.remember_place(directory, found.place());
            }
            // It may be gone and may not.
            Err(_) => self.env.forget(directory.ino(), name),
        }
        removed
    }

    /// Frees the inode, the blocks and the attributes of what [`Volume::unlink`], [`Volume::rmdir`] or
    /// [`Volume::rename`] left without a name, now that no one has it open.
    ///
    /// # Errors
    /// [`Error::Busy`] for what has a name; [`Error::NotFound`] for what is free already.
    pub fn release(&self, number: InodeNo) -> Result<(), Error> {
        self.check_writable()?;
        let _guard = self.env.exclusive(LockId::Inode(number.0));
        let node = self.node(number)?;
        let mut raw = self.raw_inode_at(node.at)?;
        if raw.links() != 0 {
            return Err(Error::Busy);
        }
        // A time that is not 0 says that the inode is free. To e2fsck a small number is not a time but the next inode of a
        // list.
        let now = u32::try_from(self.env.now().seconds).unwrap_or(0);
        raw.set_dtime(now.max(self.geometry.inodes));
        let attributes = raw.attribute_block();
        let has_blocks = match node.kind {
            Kind::Regular | Kind::Directory => true,
            Kind::Symlink => node.size > FAST as u64,
            _ => false,
        };
        raw.set_attribute_block(0);
        raw.set_size(0);
        if has_blocks {
            self.blocks(number, node.at).drop_all(&mut raw)?;
        } else {
            raw.set_blocks512(0);
            self.write_raw_inode(node.at, &raw)?;
            self.fence()?;
        }
        if attributes != 0 {
            if !self.is_file_block(attributes)? {
                let what = "a block of attributes that cannot be one";
                return Err(Error::Corrupt { what, inode: number.0, at: attributes.into() });
            }
            self.leave_block(attributes)?;
        }
        self.free_inode(number, node.kind == Kind::Directory)?;
        self.fence()?;
        Ok(())
    }

    /// Runs `what` for a name, with its directory and what it leads to locked.
    fn with_child<'v, T>(
        &'v self,
        parent: InodeNo,
        name: &[u8],
        what: impl FnOnce(Directory<'v, D, E>, &Found, &Node) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.check_writable()?;
        let find = || {
            let directory = self.directory(parent)?;
            let found = self.find_entry(&directory, name)?.ok_or(Error::NotFound)?;
            if found.inode == parent.0 {
                let what = "a directory has a name for itself";
                return Err(Error::Corrupt { what, inode: parent.0, at: found.at as u64 });
            }
            Ok((directory, found))
        };
        // The lower number first. What that is shows when the name is looked up; then it may lead elsewhere. Each time round
        // someone else has got on.
        let mut first = None;
        for _ in 0..1000 {
            let _low = first.map(|number| self.env.exclusive(LockId::Inode(number)));
            let _guard = self.env.exclusive(LockId::Inode(parent.0));
            let (directory, found) = find()?;
            if found.inode > parent.0 {
                let _high = self.env.exclusive(LockId::Inode(found.inode));
                return what(directory, &found, &self.node(InodeNo(found.inode))?);
            }
            if first == Some(found.inode) {
                return what(directory, &found, &self.node(InodeNo(found.inode))?);
            }
            first = Some(found.inode);
        }
        Err(Error::Busy)
    }
}
