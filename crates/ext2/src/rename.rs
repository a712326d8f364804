//! Names that move.
//!
//! A rename takes a name away and adds one, and nobody may see a half of it: all its stores are one intent
//! ([`crate::intent`]). What can be prepared is prepared before: room for the new name, where nothing leads to it yet.
//!
//! Locks: the tree when two directories take part, so that no loop arises and every `..` stands still; then the inodes,
//! lower numbers first. Which inodes is only known by looking, so it is looked again when they are locked.

use crate::dir::{self, Both, Found, Room, Store};
use crate::directory::Directory;
use crate::error::Error;
use crate::inode::{InodeNo, Kind, Node};
use crate::intent::Intent;
use crate::namei::MAX_LINKS;
use crate::volume::Volume;
use xip_core::{Device, Env, LockId};

/// What becomes of a file that has the new name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Rename {
    /// It loses that name.
    #[default]
    Replace,
    /// It keeps it, and the rename fails.
    NoReplace,
    /// It gets the old name; there must be one.
    Exchange,
}

/// A name, in a directory.
type Name<'a> = (InodeNo, &'a [u8]);

/// What a rename left without a name.
struct Left(Option<InodeNo>);

/// The most inodes that take part: two directories, what is moved, what is replaced.
const MOST: usize = 4;

/// An inode that takes part.
#[derive(Clone, Copy)]
struct Part {
    node: Node,
    /// Its count of links, as it shall be.
    links: u16,
}

/// Each of them once.
struct Parts([Option<Part>; MOST]);

impl Parts {
    fn node(&self, number: InodeNo) -> Result<&Node, Error> {
        let part = self.0.iter().flatten().find(|part| part.node.number == number);
        part.map(|part| &part.node).ok_or(Error::NotFound)
    }

    /// Changes a count of links: the new one.
    fn links(&mut self, number: InodeNo, change: impl FnOnce(u16) -> u16) -> u16 {
        let Some(part) = self.0.iter_mut().flatten().find(|part| part.node.number == number) else { return 0 };
        part.links = change(part.links);
        part.links
    }
}

fn up(links: u16) -> u16 {
    links.saturating_add(1)
}

fn down(links: u16) -> u16 {
    links.saturating_sub(1)
}

impl<D: Device, E: Env> Volume<D, E> {
    /// Moves a name. If that leaves a file or an empty directory without one: what it is, which the caller gives to
    /// [`Volume::release`] when no one has it open. Two names of one file: nothing happens.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Exists`] by [`Rename::NoReplace`]; [`Error::IsDirectory`],
    /// [`Error::NotDirectory`], [`Error::NotEmpty`] for what would be replaced; [`Error::OwnSubtree`];
    /// [`Error::InvalidName`] for `.` and `..`; [`Error::TooManyLinks`], [`Error::NoSpace`], [`Error::NameTooLong`],
    /// [`Error::ReadOnly`].
    pub fn rename(
        &self,
        old_parent: InodeNo,
        old_name: &[u8],
        new_parent: InodeNo,
        new_name: &[u8],
        how: Rename,
    ) -> Result<Option<InodeNo>, Error> {
        if dir::is_dot(old_name) || dir::is_dot(new_name) {
            return Err(Error::InvalidName);
        }
        dir::check_len(old_name)?;
        dir::check_new_name(new_name)?;
        self.check_writable()?;
        let (from, to) = ((old_parent, old_name), (new_parent, new_name));
        if old_parent == new_parent
            && let Some(left) = self.rename_within(old_parent, old_name, new_name, how)?
        {
            return Ok(left.0);
        }
        let _tree = (old_parent != new_parent).then(|| self.env.exclusive(LockId::Tree));
        // Each time round someone else has got on.
        for _ in 0..1000 {
            let source = self.lookup(old_parent, old_name)?.ok_or(Error::NotFound)?;
            let target = self.lookup(new_parent, new_name)?;
            if old_parent != new_parent {
                // One that was removed takes no name; nor can it be said what it was below, since its `..` leads to a number that
                // may be another's by now.
                if self.inode(new_parent)?.links == 0 {
                    return Err(Error::NotFound);
                }
                self.check_no_loop(source, new_parent)?;
                if let (Rename::Exchange, Some(target)) = (how, target) {
                    self.check_no_loop(target, old_parent)?;
                }
            }
            let mut numbers = [Some(old_parent), Some(new_parent), Some(source), target];
            numbers.sort_unstable();
            let _guards: [_; MOST] = core::array::from_fn(|n| {
                let number = numbers[n].filter(|_| n == 0 || numbers[n - 1] != numbers[n])?;
                Some(self.env.exclusive(LockId::Inode(number.0)))
            });
            let old = self.find_entry(&self.directory(old_parent)?, old_name)?;
            let new = self.find_entry(&self.directory(new_parent)?, new_name)?;
            let number = |found: Option<Found>| found.map(|found| InodeNo(found.inode));
            if let Some(old) = old
                && (number(Some(old)), number(new)) == (Some(source), target)
            {
                return self.rename_locked(from, to, old, (new, None), how);
            }
        }
        Err(Error::Busy)
    }

    /// The usual rename: in one directory, whose number is below those of what the names lead to, so that all can be locked
    /// in order when they have been looked up. `None` when it is another.
    fn rename_within(
        &self,
        parent: InodeNo,
        old_name: &[u8],
        new_name: &[u8],
        how: Rename,
    ) -> Result<Option<Left>, Error> {
        let _guard = self.env.exclusive(LockId::Inode(parent.0));
        let mut directory = self.directory(parent)?;
        let Both { old, new, room } = self.both(&mut directory, old_name, new_name, how == Rename::Exchange)?;
        let old = if directory.replaced { dir::find(&directory, old_name)? } else { old };
        let old = old.ok_or(Error::NotFound)?;
        let (source, target) = (old.inode, new.map_or(old.inode, |new| new.inode));
        let (low, high) = (source.min(target), source.max(target));
        if low <= parent.0 {
            return Ok(None);
        }
        let _low = self.env.exclusive(LockId::Inode(low));
        let _high = (low != high).then(|| self.env.exclusive(LockId::Inode(high)));
        self.rename_locked((parent, old_name), (parent, new_name), old, (new, room), how).map(|left| Some(Left(left)))
    }

    /// That `moved` is not `below` or a directory above it. The tree is locked: no `..` changes.
    fn check_no_loop(&self, moved: InodeNo, below: InodeNo) -> Result<(), Error> {
        if self.inode(moved)?.kind != Kind::Directory {
            return Ok(());
        }
        let mut at = below;
        // No path is longer than there are inodes.
        for _ in 0..self.geometry.inodes {
            if at == moved {
                return Err(Error::OwnSubtree);
            }
            if at == InodeNo::ROOT {
                return Ok(());
            }
            at = self.lookup(at, b"..")?.ok_or(Error::NotFound)?;
        }
        Err(Error::Corrupt { what: "directories lead in circles", inode: below.0, at: 0 })
    }

    /// The rename itself, of what was found under locks that are held: the old name's entry; the new one's, or room for it
    /// if that was looked for.
    fn rename_locked(
        &self,
        from: Name<'_>,
        to: Name<'_>,
        mut old: Found,
        (new, room): (Option<Found>, Option<Room>),
        how: Rename,
    ) -> Result<Option<InodeNo>, Error> {
        let (source, target) = (InodeNo(old.inode), new.map(|new| InodeNo(new.inode)));
        let mut parts = Parts([None; MOST]);
        for number in [Some(from.0), Some(to.0), Some(source), target].into_iter().flatten() {
            let Some(free) = parts.0.iter_mut().find(|part| part.is_none_or(|part| part.node.number == number)) else {
                break;
            };
            if free.is_none() {
                let node = self.node(number)?;
                *free = Some(Part { node, links: node.links });
            }
        }
        let moved = parts.node(source)?.kind;
        let other = target.map(|target| parts.node(target).map(|node| node.kind)).transpose()?;
        let [is_directory, other_is] = [Some(moved), other].map(|kind| kind == Some(Kind::Directory));
        let across = from.0 != to.0;
        let [old_parent, new_parent] = [parts.node(from.0)?, parts.node(to.0)?];
        let full = [old_parent, new_parent].map(|parent| parent.links >= MAX_LINKS);
        if old_parent.links == 0 || new_parent.links == 0 {
            return Err(Error::NotFound);
        }
        let [mut out, mut into] = [self.directory_of(old_parent)?, self.directory_of(new_parent)?];
        match (how, target) {
            (Rename::NoReplace, Some(_)) => return Err(Error::Exists),
            (Rename::Exchange, None) => return Err(Error::NotFound),
            (_, Some(target)) if target == source => return Ok(None),
            (Rename::Replace, Some(target)) => {
                match (is_directory, other_is) {
                    (true, false) => return Err(Error::NotDirectory),
                    (false, true) => return Err(Error::IsDirectory),
                    _ => {}
                }
                // What is moved out of it, or into it, is not empty.
                if other_is && !dir::is_empty(&self.directory(target)?)? {
                    return Err(Error::NotEmpty);
                }
            }
            _ => {}
        }
        // Who gains a `..` that leads to it, and loses none.
        let (gains, loses) = match how {
            Rename::Exchange => (is_directory && !other_is, other_is && !is_directory),
            _ => (is_directory && !other_is, false),
        };
        if across && (gains && full[1] || loses && full[0]) {
            return Err(Error::TooManyLinks);
        }

        let mut intent = Intent::new();
        let mut left = None;
        let kind = moved.entry_type();
        let room = match new {
            Some(new) => {
                self.change_entry(&mut intent, &into, &new, source, kind)?;
                None
            }
            None => {
                let room = match room {
                    Some(room) => room,
                    None => self.room(&mut into, to.1)?,
                };
                if into.replaced && !across {
                    out = self.directory(from.0)?;
                    old = dir::find(&out, from.1)?.ok_or(Error::NotFound)?;
                }
                Some(room)
            }
        };
        if let Some(room) = room {
            dir::put(&mut into, &room, to.1, source.0, kind)?;
            self.store_entry(&mut intent, &into, room.block, &room.store(source.0))?;
        }
        match (how, target, other) {
            (Rename::Exchange, Some(target), Some(other)) => {
                self.change_entry(&mut intent, &out, &old, target, other.entry_type())?;
            }
            _ => self.store_entry(&mut intent, &out, old.block, &old.removal())?,
        }
        if is_directory && across {
            self.change_name(&mut intent, (source, b".."), to.0, kind)?;
            parts.links(from.0, down);
            parts.links(to.0, up);
        }
        match (how, target, other_is) {
            (Rename::Exchange, Some(target), true) if across => {
                self.change_name(&mut intent, (target, b".."), from.0, Kind::Directory.entry_type())?;
                parts.links(to.0, down);
                parts.links(from.0, up);
            }
            (Rename::Replace, Some(target), true) => {
                // Its own `.`, and its `..`.
                parts.links(target, |_| 0);
                parts.links(to.0, down);
                left = Some(target);
            }
            (Rename::Replace, Some(target), false) => {
                left = (parts.links(target, down) == 0).then_some(target);
            }
            _ => {}
        }
        for part in parts.0.iter().flatten() {
            intent.links(part.node.at, part.node.links, part.links)?;
        }
        // Nobody recalls one of the two names as it was and the other as it is: this one is unknown until the other is told.
        self.env.forget(from.0.0, from.1);
        // This publishes.
        if let Err(error) = self.fence().and_then(|durable| self.apply(durable, &mut intent)) {
            self.env.forget(to.0.0, to.1);
            return Err(error);
        }
        let place = room.map(|room| room.place()).or(new.map(|new| new.place())).unwrap_or_default();
        self.remember(&into, to.1, source, moved, place);
        match (how, target, other) {
            (Rename::Exchange, Some(target), Some(other)) => {
                self.remember(&out, from.1, target, other, old.place());
            }
            _ => {
                self.env.remember(from.0.0, from.1, None);
                self.remember_place(&out, old.place());
                if let Some(room) = room.filter(|room| across || room.block != old.block) {
                    self.remember_place(&into, room.place());
                }
            }
        }
        // Times may be those from before.
        for part in parts.0.iter().flatten() {
            self.stamp(part.node.at, part.node.number == from.0 || part.node.number == to.0)?;
        }
        self.fence()?;
        Ok(left)
    }

    /// Makes a name lead to something else.
    fn change_name(&self, intent: &mut Intent, name: Name<'_>, number: InodeNo, kind: u8) -> Result<(), Error> {
        let directory = self.directory(name.0)?;
        let found = dir::find(&directory, name.1)?.ok_or(Error::NotFound)?;
        self.change_entry(intent, &directory, &found, number, kind)
    }

    fn change_entry(
        &self,
        intent: &mut Intent,
        directory: &Directory<'_, D, E>,
        found: &Found,
        number: InodeNo,
        kind: u8,
    ) -> Result<(), Error> {
        let (at, kind) = dir::kind_of(directory, found, kind);
        intent.change(directory.place(found.block)? + at as u64, &[found.kind], &[kind])?;
        self.store_entry(intent, directory, found.block, &Store::of_inode(found.at, number.0))
    }

    fn store_entry(
        &self,
        intent: &mut Intent,
        directory: &Directory<'_, D, E>,
        block: u32,
        store: &Store,
    ) -> Result<(), Error> {
        let at = directory.place(block)? + store.at as u64;
        let mut old = [0; 4];
        let old = &mut old[..store.bytes().len()];
        self.device.read(at, old)?;
        intent.change(at, old, store.bytes())
    }
}
