//! What the environment remembers of names ([`Env::recall`]), and how a directory is searched with it: a name that is known to be
//! nowhere is not looked for, and one that is known to be somewhere is gone to.
//!
//! It is told under the lock of the directory, as the last step of what changes the name, so whoever recalls without that lock sees
//! the names as they were before the change or as they are after it. Where two names change at once one is forgotten before, and told
//! after the other: nobody may recall one of them as it was when the other is as it is.
//!
//! Where the last change of a block of entries was is remembered too: a search for room begins there.

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
        let directory = self.directory(parent)?;
        dir::check_len(name)?;
        if let Some(known) = self.recall(&directory, name) {
            return Ok(known.map(|known| InodeNo(known.inode)));
        }
        let found = dir::find(&directory, name)?;
        match &found {
            None => self.remember_none(&directory, name),
            // One that leads to nothing is not remembered, and is an error of who goes there.
            Some(found) => {
                if let Ok(kind) = self.kind_locked(InodeNo(found.inode)) {
                    self.remember(&directory, name, InodeNo(found.inode), kind, found.place());
                }
            }
        }
        Ok(found.map(|found| InodeNo(found.inode)))
    }

    /// As [`Volume::lookup`], and the kind of what is found.
    ///
    /// # Errors
    /// As [`Volume::lookup`]; [`Error::NotFound`] for a name that leads to an inode that is not in use.
    pub fn lookup_kind(&self, parent: InodeNo, name: &[u8]) -> Result<Option<(InodeNo, Kind)>, Error> {
        let _guard = self.env.shared(LockId::Inode(parent.0));
        let directory = self.directory(parent)?;
        let Some(found) = self.find_entry(&directory, name)? else {
            self.remember_none(&directory, name);
            return Ok(None);
        };
        let number = InodeNo(found.inode);
        // Without its own lock: it is in use as long as the name leads to it, and stays of its kind.
        let kind = self.kind_locked(number)?;
        self.remember(&directory, name, number, kind, found.place());
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
        if dir::is_dot(name) {
            return;
        }
        let at = if block == 0 && directory.is_one_block() { u16::try_from(at).unwrap_or(0) } else { 0 };
        self.env.remember(directory.ino(), name, Some(Dentry { inode: number.0, kind: kind.mode(), at }));
    }

    fn remember_none(&self, directory: &Directory<'_, D, E>, name: &[u8]) {
        if !dir::is_dot(name) {
            self.env.remember(directory.ino(), name, None);
        }
    }

    fn recall(&self, directory: &Directory<'_, D, E>, name: &[u8]) -> Option<Option<Dentry>> {
        if dir::is_dot(name) { None } else { self.env.recall(directory.ino(), name) }
    }

    /// Tells the environment where a name has come or gone: that an entry begins there.
    pub(crate) fn remember_place(&self, directory: &Directory<'_, D, E>, (block, at): (u32, usize)) {
        if directory.indexed() || directory.is_one_block() {
            self.env.remember_place(directory.ino(), block, u16::try_from(at).ok());
        }
    }

    /// Entries of a block of this directory are no longer where they were.
    pub(crate) fn forget_place(&self, directory: InodeNo, block: u32) {
        self.env.remember_place(directory.0, block, None);
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
            Some(None) => {
                if let Some(room) = self.room_for_new(directory, name)? {
                    return Ok(room);
                }
            }
            None => {}
        }
        dir::room(directory, name)
    }

    /// Room for a name that is known not to be there, from the last change of its block on.
    fn room_for_new(&self, directory: &Directory<'_, D, E>, name: &[u8]) -> Result<Option<Room>, Error> {
        let Some(block) = dir::block_of(directory, name)? else { return Ok(None) };
        let from = self.env.recall_place(directory.ino(), block).map_or(0, usize::from);
        match dir::room_from(directory, block, from, name)? {
            None if from != 0 => dir::room_from(directory, block, 0, name),
            room => Ok(room),
        }
    }

    /// [`dir::both`], with what is remembered.
    pub(crate) fn both(
        &self,
        directory: &mut Directory<'_, D, E>,
        old: &[u8],
        new: &[u8],
        exchange: bool,
    ) -> Result<Both, Error> {
        if self.recall(directory, new) == Some(None)
            && let Some(found) = self.find_entry(directory, old)?
            && let Some(room) = self.room_for_new(directory, new)?
        {
            return Ok(Both { old: Some(found), new: None, room: Some(room) });
        }
        dir::both(directory, old, new, exchange)
    }
}
