//! What a directory gives to what is made in it: its group, and its default ACL; and how a file's own ACL and its
//! permission bits stay one thing. The rules are those of the kernel's file systems (`acl(5)`, "object creation and default
//! ACLs" and "changing the file mode bits").

use crate::error::Error;
use crate::inode::{InodeNo, Kind, Node, SetAttributes, gid};
use crate::namei::{NewInode, NewKind};
use crate::volume::Volume;
use crate::xattr::{self, ACCESS, BlockChange, DEFAULT, acl};
use xip_core::{Device, Env, LockId};

const SET_GID: u16 = 0o2000;
/// The nine bits that an ACL and a umask are about.
const NINE: u16 = 0o777;
/// The most bytes of a list in the kernel's form: one that fills a block, whose four entries without an id grow.
const MOST: usize = 4096 + 16;

/// A list in the kernel's form.
struct List {
    bytes: [u8; MOST],
    len: usize,
}

impl List {
    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

/// The attributes that a new file begins with.
pub(crate) struct Attributes<'a> {
    /// What stands in the inode after its fields.
    pub(crate) area: &'a [u8],
    /// The block of attributes, if it has one.
    pub(crate) block: Option<&'a [u8]>,
}

impl<D: Device, E: Env> Volume<D, E> {
    /// As [`Volume::create`], and the directory gives what directories give, as when a program makes a file: the group,
    /// if it has set-group-id; and its default ACL, which limits the permissions, becomes the file's own ACL where a
    /// mode does not say it all, and is the default of a new directory too. Where there is no default ACL, `umask` is taken
    /// from the permissions. The file has all of it from the first moment.
    ///
    /// # Errors
    /// As [`Volume::create`]; [`Error::Corrupt`] when the ACL is damaged.
    pub fn create_inheriting(
        &self,
        parent: InodeNo,
        name: &[u8],
        new: &NewInode<'_>,
        umask: u16,
    ) -> Result<InodeNo, Error> {
        self.inheriting(parent, Some(name), new, umask)
    }

    /// Makes an empty regular file that has no name, as `O_TMPFILE` does, and gets from `directory` what a file in it would. It is for its
    /// maker to see that it ends: by [`Volume::release`], unless [`Volume::link_unnamed`] gives it a name.
    ///
    /// # Errors
    /// As [`Volume::create`]; [`Error::WrongKind`] for anything but a regular file.
    pub fn create_unnamed(&self, directory: InodeNo, new: &NewInode<'_>, umask: u16) -> Result<InodeNo, Error> {
        if !matches!(new.kind, NewKind::Regular) {
            return Err(Error::WrongKind);
        }
        self.inheriting(directory, None, new, umask)
    }

    fn inheriting(
        &self,
        parent: InodeNo,
        name: Option<&[u8]>,
        new: &NewInode<'_>,
        umask: u16,
    ) -> Result<InodeNo, Error> {
        self.check_writable()?;
        let _guard = self.env.exclusive(LockId::Inode(parent.0));
        let parent = self.node(parent)?;
        let mut new = *new;
        if parent.permissions() & SET_GID != 0 {
            new.gid = gid(&self.raw_inode_at(parent.at)?);
            if matches!(new.kind, NewKind::Directory) {
                new.permissions |= SET_GID;
            }
        }
        // The permissions of symbolic links mean nothing.
        if matches!(new.kind, NewKind::Symlink(_)) {
            return self.create_as(&parent, name, &new, None);
        }
        if parent.kind == Kind::Directory && self.has_attributes(&parent)? {
            return self.create_by_list(&parent, name, &mut new, umask);
        }
        new.permissions &= !(umask & NINE);
        self.create_as(&parent, name, &new, None)
    }

    /// Apart, because of the room that it takes on the stack.
    #[inline(never)]
    fn create_by_list(
        &self,
        parent: &Node,
        name: Option<&[u8]>,
        new: &mut NewInode<'_>,
        umask: u16,
    ) -> Result<InodeNo, Error> {
        let Some(mut list) = self.list(parent.number, DEFAULT)? else {
            new.permissions &= !(umask & NINE);
            return self.create_as(parent, name, new, None);
        };
        let (mut area, mut block) = ([0; 4096], [0; 4096]);
        let area = &mut area[..self.new_area()];
        let block = &mut block[..self.geometry.block_size as usize];
        let mut has_block = false;
        let mut give = |name, list: &List| {
            let changed = xattr::set(area, block, has_block, parent.number.0, name, Some(list.bytes()))?;
            has_block |= changed.block == BlockChange::Store;
            Ok::<(), Error>(())
        };
        if matches!(new.kind, NewKind::Directory) {
            give(DEFAULT, &list)?;
        }
        acl::set_mode(list.bytes_mut(), new.permissions, true);
        let (mode, more) = acl::mode(list.bytes());
        new.permissions = new.permissions & !NINE | mode;
        if more {
            give(ACCESS, &list)?;
        }
        let attributes = Attributes { area, block: has_block.then_some(&*block) };
        self.create_as(parent, name, new, Some(&attributes))
    }

    /// A list of a file, by one who has its lock.
    fn list(&self, number: InodeNo, name: &[u8]) -> Result<Option<List>, Error> {
        let mut list = List { bytes: [0; MOST], len: 0 };
        let len = self.with_attributes_locked(number, |storage| xattr::get(storage, name, &mut list.bytes))?;
        list.len = len.unwrap_or(0);
        Ok(len.is_some().then_some(list))
    }

    /// Whether an inode may have attributes: most have none, and that is cheap to see.
    pub(crate) fn has_attributes(&self, node: &Node) -> Result<bool, Error> {
        let (at, len) = self.attribute_area(node)?;
        let first: [u8; 4] = if len >= 4 { self.load(at)? } else { [0; 4] };
        Ok(first != [0; 4] || self.attribute_block(node)? != 0)
    }

    /// New permission bits for a file that has attributes, by one who has its lock: if one of them is its ACL, that becomes one
    /// of these permissions, and `change` happens with it at once. Otherwise nothing has happened, and the answer is no.
    #[inline(never)]
    pub(crate) fn set_mode_of_list(&self, number: InodeNo, change: &SetAttributes, mode: u16) -> Result<bool, Error> {
        let Some(mut list) = self.list(number, ACCESS)? else { return Ok(false) };
        acl::set_mode(list.bytes_mut(), mode, false);
        self.change_attribute(number, ACCESS, Some(list.bytes()), change)?;
        Ok(true)
    }
}
