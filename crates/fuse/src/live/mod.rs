//! A volume that is written, in the numbers of the kernel: lookups, names made and moved, attributes. Files are in `io`.
//! Knows nothing of FUSE's messages.
//!
//! The kernel is the only one who changes the volume (its lock says so), so what it has been told stays right for ever,
//! and it knows what each of its own requests changes. It also holds its own lock of a directory while names in it
//! change, and of an inode while attributes do: what needs two calls on the volume here is not seen in between.

mod io;
mod nodes;

use crate::tree::{Attributes, Entry, Errno, id_of, inode_of};
pub(crate) use io::Space;
use nodes::Nodes;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use xip::{InodeNo, Inodes, Kind, NewInode, NewKind, Rename, SetAttributes, Volume, VolumeError};

const ENOENT: Errno = rustix::io::Errno::NOENT.raw_os_error();
const SET_GID: u16 = 0o2000;
const ACCESS: &[u8] = b"system.posix_acl_access";
const DEFAULT: &[u8] = b"system.posix_acl_default";

/// A volume being served, to be read and written.
pub(crate) struct Live {
    pub(crate) volume: Volume,
    nodes: Nodes,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Something new, as asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct New<'a> {
    pub(crate) kind: NewKind<'a>,
    /// Permission bits, before the umask.
    pub(crate) mode: u32,
    pub(crate) umask: u32,
    pub(crate) caller: Caller,
}

/// What becomes of an attribute that is there, or is not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Set {
    Any,
    /// `XATTR_CREATE`.
    Create,
    /// `XATTR_REPLACE`.
    Replace,
}

impl Live {
    pub(crate) fn new(volume: Volume) -> Self {
        let nodes = Nodes::new(&volume);
        Self { volume, nodes }
    }

    fn inodes(&self) -> Inodes<'_> {
        self.volume.inodes()
    }

    /// The node that `name` leads to, `None` when there is none.
    pub(crate) fn lookup(&self, parent: u64, name: &[u8]) -> Result<Option<Attributes>, Errno> {
        match self.inodes().lookup_held(number(parent)?, name).map_err(errno)? {
            Some(held) => self.tell(held).map(Some),
            None => Ok(None),
        }
    }

    /// Takes note that the kernel is told of an inode: what it is told. On an error it is not told.
    fn tell(&self, held: xip::Held) -> Result<Attributes, Errno> {
        let found = self.attributes_of(held.ino())?;
        self.nodes.told(held);
        Ok(found)
    }

    pub(crate) fn forget(&self, id: u64, times: u64) {
        self.nodes.forget(id, times);
    }

    pub(crate) fn attributes(&self, id: u64) -> Result<Attributes, Errno> {
        self.attributes_of(number(id)?)
    }

    fn attributes_of(&self, ino: InodeNo) -> Result<Attributes, Errno> {
        let inode = *self.inodes().metadata(ino).map_err(errno)?.inode();
        // Shown is the inode's own number, also of the root.
        Ok(Attributes { id: id_of(ino), ino: ino.0.into(), inode })
    }

    pub(crate) fn read_link(&self, id: u64) -> Result<OsString, Errno> {
        self.inodes().read_link(number(id)?).map_err(errno)
    }

    /// Makes something new. Where its directory has a default ACL that says what its permissions are; the umask does elsewhere.
    pub(crate) fn make(&self, parent: u64, name: &[u8], new: &New<'_>) -> Result<Attributes, Errno> {
        let Caller { uid, gid } = new.caller;
        // The lower 12 bits fit.
        let inode = NewInode { kind: new.kind, permissions: (new.mode & 0o7777) as u16, uid, gid };
        self.tell(self.inodes().create_masked(number(parent)?, name, &inode, new.umask).map_err(errno)?)
    }

    /// Gives a file one more name.
    pub(crate) fn link(&self, id: u64, parent: u64, name: &[u8]) -> Result<Attributes, Errno> {
        let ino = number(id)?;
        self.inodes().link(ino, number(parent)?, name).map_err(errno)?;
        self.tell(self.inodes().hold(ino))
    }

    pub(crate) fn unlink(&self, parent: u64, name: &[u8]) -> Result<(), Errno> {
        self.inodes().unlink(number(parent)?, name).map_err(errno)
    }

    pub(crate) fn rmdir(&self, parent: u64, name: &[u8]) -> Result<(), Errno> {
        self.inodes().rmdir(number(parent)?, name).map_err(errno)
    }

    pub(crate) fn rename(&self, from: (u64, &[u8]), to: (u64, &[u8]), how: Rename) -> Result<(), Errno> {
        self.inodes().rename((number(from.0)?, from.1), (number(to.0)?, to.1), how).map_err(errno)
    }

    /// Changes a size, owners, and the rest, in this order; what is then known of the node.
    ///
    /// Nothing to change means that set-id bits go: so comes a `chown` that leaves both owners as they are, and so the kernel asks
    /// before the bytes of a file change by someone who may not keep these bits (`FUSE_HANDLE_KILLPRIV_V2`). It remembers what it
    /// is told here, and starts programs by that. The same comes before anybody changes a file that has capabilities, which go then:
    /// that one who may keep set-id bits loses them with the capabilities cannot be told apart.
    pub(crate) fn set_attributes(
        &self,
        id: u64,
        size: Option<u64>,
        owner: (Option<u32>, Option<u32>),
        change: &SetAttributes,
        caller: Caller,
    ) -> Result<Attributes, Errno> {
        let ino = number(id)?;
        if let Some(size) = size {
            self.truncate(id, size, caller)?;
        }
        let other = *change != SetAttributes::default();
        let new_owner = owner.0.is_some() || owner.1.is_some() || size.is_none() && !other;
        if new_owner {
            self.inodes().set_owner(ino, owner.0, owner.1).map_err(errno)?;
        }
        if other {
            self.inodes().set_attributes(ino, change).map_err(errno)?;
        }
        self.attributes_of(ino)
    }

    pub(crate) fn xattr(&self, id: u64, name: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
        self.inodes().xattr(number(id)?, name).map_err(errno)
    }

    pub(crate) fn xattrs(&self, id: u64) -> Result<Vec<OsString>, Errno> {
        self.inodes().xattrs(number(id)?).map_err(errno)
    }

    /// Sets an attribute. An access ACL changes the mode with it; one that says no more than the mode is not stored.
    pub(crate) fn set_xattr(&self, id: u64, name: &[u8], value: &[u8], how: Set, caller: Caller) -> Result<(), Errno> {
        let ino = number(id)?;
        if how != Set::Any {
            match (how, self.inodes().xattr(ino, name).map_err(errno)?) {
                (Set::Create, Some(_)) => return Err(rustix::io::Errno::EXIST.raw_os_error()),
                (Set::Replace, None) => return Err(rustix::io::Errno::NODATA.raw_os_error()),
                _ => {}
            }
        }
        self.inodes().set_xattr(ino, name, Some(value)).map_err(errno)?;
        if name != ACCESS {
            return Ok(());
        }
        // As `chmod`: who is not in the group makes no set-group-id program of it. Of groups beside the first the kernel says
        // nothing, so that such a member loses the bit, too.
        let inode = *self.inodes().metadata(ino).map_err(errno)?.inode();
        let outside = inode.kind == Kind::Regular && caller.uid != 0 && caller.gid != inode.gid;
        if !outside || inode.permissions & SET_GID == 0 {
            return Ok(());
        }
        let permissions = Some(inode.permissions & !SET_GID);
        self.inodes().set_attributes(ino, &SetAttributes { permissions, ..SetAttributes::default() }).map_err(errno)
    }

    pub(crate) fn remove_xattr(&self, id: u64, name: &[u8]) -> Result<(), Errno> {
        match self.inodes().set_xattr(number(id)?, name, None) {
            // A file without a list has none more than its mode, which is what was asked for.
            Err(VolumeError::NoAttribute) if name == ACCESS || name == DEFAULT => Ok(()),
            removed => removed.map_err(errno),
        }
    }

    /// Calls `each` with the entries of a directory from `cursor` on until it returns false.
    pub(crate) fn read_dir(&self, id: u64, cursor: u64, each: &mut dyn FnMut(Entry<'_>) -> bool) -> Result<(), Errno> {
        let read = self.inodes().read_dir(number(id)?, cursor, &mut |entry| {
            // Where the directory does not say it, the inode does, as long as it is there.
            let kind = entry.kind.or_else(|| self.inodes().kind(entry.ino).ok());
            let (id, ino, name) = (id_of(entry.ino), entry.ino.0.into(), OsStr::from_bytes(entry.name));
            each(Entry { id, ino, name, kind, next: entry.next })
        });
        read.map_err(errno)
    }

    /// As [`Live::read_dir`], with what is known of each, of which the kernel is told: each but the dots counts as looked
    /// up when `each` has taken it.
    pub(crate) fn read_dir_plus(
        &self,
        id: u64,
        cursor: u64,
        each: &mut dyn FnMut(&Attributes, &[u8], u64) -> bool,
    ) -> Result<(), Errno> {
        let directory = number(id)?;
        let read = self.inodes().read_dir(directory, cursor, &mut |entry| {
            if matches!(entry.name, b"." | b"..") {
                return match self.attributes_of(entry.ino) {
                    Ok(found) => each(&found, entry.name, entry.next),
                    Err(_) => true,
                };
            }
            // Looked up once more: the number in the entry may be another file's by now. A name that has gone is left out.
            let Ok(Some(held)) = self.inodes().lookup_held(directory, entry.name) else { return true };
            let Ok(found) = self.attributes_of(held.ino()) else { return true };
            let taken = each(&found, entry.name, entry.next);
            if taken {
                self.nodes.told(held);
            }
            taken
        });
        read.map_err(errno)
    }
}

/// The inode that the kernel calls `id`.
fn number(id: u64) -> Result<InodeNo, Errno> {
    inode_of(id).ok_or(ENOENT)
}

#[allow(clippy::needless_pass_by_value)] // For `map_err`.
fn errno(error: VolumeError) -> Errno {
    error.errno()
}
