//! What the environment remembers of names ([`Env::recall`]), and how a directory is searched with it: a name that is known to be
//! nowhere is not looked for, and one that is known to be somewhere is gone to.
//!
//! It is told under the lock of the directory, as the last step of what changes the name, so whoever recalls without that lock sees
//! the names as they were before the change or as they are after it. Where two names change at once they are forgotten before: nobody
//! may recall one of them as it was and the other as it is.

use crate::dir::{self, Both, DirBlocks, Found, Room};
use crate::directory::Directory;
use crate::error::Error;
use crate::inode::{InodeNo, Kind};
use crate::volume::Volume;
use xip_core::{Dentry, Device, Env, LockId};

impl<D: Device, E: Env> Volume<D, E> {
    /// What `name` in directory `parent` leads to. `.` and `..` are names like others.
    ///
    /// # Errors
    /// [`Error::NotDirectory`], [`Error::NameTooLong`]; [`Error::Corrupt`].
    pub fn lookup(&self, parent: InodeNo, name: &[u8]) -> Result<Option<InodeNo>, Error> {
        let _guard = self.env.shared(LockId::Inode(parent.0));
        Ok(self.find_entry(&self.directory(parent)?, name)?.map(|found| InodeNo(found.inode)))
    }

    /// As [`Volume::lookup`], and the kind of what is found. The environment is told of it.
    ///
    /// # Errors
    /// As [`Volume::lookup`]; [`Error::NotFound`] for a name that leads to an inode that is not in use.
    pub fn lookup_kind(&self, parent: InodeNo, name: &[u8]) -> Result<Option<(InodeNo, Kind)>, Error> {
        let _guard = self.env.shared(LockId::Inode(parent.0));
        let directory = self.directory(parent)?;
        let Some(found) = self.find_entry(&directory, name)? else {
            self.env.remember(parent.0, name, None);
            return Ok(None);
        };
        let number = InodeNo(found.inode);
        // Without its own lock: it is in use as long as the name leads to it, and stays of its kind.
        let kind = self.kind_locked(number)?;
        if !dir::is_dot(name) {
            self.remember(&directory, name, number, kind, (found.block, found.at));
        }
        Ok(Some((number, kind)))
    }

    /// Tells the environment of a name that leads to `number` now, whose entry stands at a place in a block.
    pub(crate) fn remember(
        &self,
        directory: &Directory<'_, D, E>,
        name: &[u8],
        number: InodeNo,
        kind: Kind,
        (block, at): (u32, usize),
    ) {
        let at = if block == 0 && directory.is_one_block() { u16::try_from(at).unwrap_or(0) } else { 0 };
        self.env.remember(directory.ino(), name, Some(Dentry { inode: number.0, kind: kind.mode(), at }));
    }

    /// Not of an index: that finds a name about as fast, and is mostly so large that its names are forgotten by then.
    fn recall(&self, directory: &Directory<'_, D, E>, name: &[u8]) -> Option<Option<Dentry>> {
        if directory.indexed() || dir::is_dot(name) { None } else { self.env.recall(directory.ino(), name) }
    }

    /// [`dir::find`], with what is remembered.
    pub(crate) fn find_entry(&self, directory: &Directory<'_, D, E>, name: &[u8]) -> Result<Option<Found>, Error> {
        dir::check_len(name)?;
        match self.recall(directory, name) {
            Some(None) => return Ok(None),
            Some(Some(Dentry { inode, at, .. })) if at != 0 && directory.is_one_block() => {
                if let Some(found) = dir::find_at(directory, name, inode, at.into())? {
                    return Ok(Some(found));
                }
            }
            _ => {}
        }
        dir::find(directory, name)
    }

    /// [`dir::room`], with what is remembered.
    pub(crate) fn room(&self, directory: &mut Directory<'_, D, E>, name: &[u8]) -> Result<Room, Error> {
        dir::check_new_name(name)?;
        match self.recall(directory, name) {
            Some(Some(_)) => return Err(Error::Exists),
            Some(None) if directory.is_one_block() => {
                if let Some(room) = dir::first_room(directory, name)? {
                    return Ok(room);
                }
            }
            _ => {}
        }
        dir::room(directory, name)
    }

    /// [`dir::both`], with what is remembered.
    pub(crate) fn both(
        &self,
        directory: &mut Directory<'_, D, E>,
        old: &[u8],
        new: &[u8],
        exchange: bool,
    ) -> Result<Both, Error> {
        if directory.is_one_block()
            && let (Some(Some(Dentry { inode, at, .. })), Some(None)) =
                (self.recall(directory, old), self.recall(directory, new))
            && at != 0
            && let Some(found) = dir::find_at(directory, old, inode, at.into())?
            && let Some(room) = dir::first_room(directory, new)?
        {
            return Ok(Both { old: Some(found), new: None, room: Some(room) });
        }
        dir::both(directory, old, new, exchange)
    }
}
