//! The operations whose crashes are tried: on a volume, and on the tree that says what is right.

use crate::recorder::Recorder;
use crate::tree::{Body, Data, Node, Refused, Tree, split};
use std::rc::Rc;
use xip_core::ops::{self, Durable, Writer};
use xip_core::{Alone, Create, Device, Extent, InPlace, Mapping, PAGE_SIZE, PageIndex, Timestamp, space};
use xip_ext2::{Blocks, Error, File, InodeNo, NewInode, NewKind, Rename, SetAttributes, Volume};

pub type Disk<'a> = Volume<&'a Recorder, Alone>;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Op {
    Create(&'static str),
    /// Made without a name, with some bytes, and then given its name.
    CreateUnnamed(&'static str, usize),
    Mkdir(&'static str),
    Link(&'static str, &'static str),
    /// Where, and how long the target is.
    Symlink(&'static str, usize),
    Unlink(&'static str),
    Rmdir(&'static str),
    Rename(&'static str, &'static str),
    RenameNoReplace(&'static str, &'static str),
    Exchange(&'static str, &'static str),
    /// Where in the file, and how much.
    Write(&'static str, usize, usize, Durable),
    Append(&'static str, usize),
    Truncate(&'static str, usize),
    Allocate(&'static str, usize, usize),
    Punch(&'static str, usize, usize),
    Zero(&'static str, usize, usize),
    /// Name, and how long the value is.
    SetAttribute(&'static str, &'static str, usize),
    RemoveAttribute(&'static str, &'static str),
    Chmod(&'static str, u16),
    /// Times of the last read and of the last change, to their nanoseconds.
    SetTimes(&'static str, Timestamp, Timestamp),
    /// Bytes beyond the end of a file, to the end of its page, that come through a mapping (contract 3, tail rule).
    Stray(&'static str),
    /// The volume is closed; what comes after opens it again.
    Close,
}

/// What may be found when a crash comes during an operation, and what must be found after it.
pub struct Outcome {
    pub during: Vec<Tree>,
    pub after: Tree,
}

pub fn target(len: usize) -> String {
    "target/".chars().cycle().take(len).collect()
}

impl Op {
    /// Bytes that no other operation stores, and that are never zero.
    fn bytes(&self, at: usize, len: usize) -> Vec<u8> {
        let tag = format!("{self:?}").bytes().fold(7u8, |tag, byte| tag.wrapping_mul(31).wrapping_add(byte));
        (at..at + len).map(|n| tag.wrapping_add((n / 8 % 5) as u8).max(1)).collect()
    }

    /// Does it to the tree.
    pub fn expect(&self, before: &Tree) -> Result<Outcome, Refused> {
        let mut after = before.clone();
        let mut during = vec![before.clone()];
        match *self {
            Self::Create(path) => after.add(path, Node::new(Body::File(Data::new(Vec::new())), 0o640))?,
            Self::CreateUnnamed(path, len) => {
                after.add(path, Node::new(Body::File(Data::new(self.bytes(0, len))), 0o640))?;
            }
            Self::Mkdir(path) => after.add(path, Node::directory())?,
            Self::Link(from, to) => after.link(from, to)?,
            Self::Symlink(path, len) => after.add(path, Node::new(Body::Symlink(target(len)), 0o777))?,
            Self::Unlink(path) => after.remove(path, false)?,
            Self::Rmdir(path) => after.remove(path, true)?,
            Self::Rename(from, to) => after.rename(from, to, false)?,
            Self::RenameNoReplace(from, to) => after.rename(from, to, true)?,
            Self::Exchange(one, other) => after.exchange(one, other)?,
            Self::Write(path, at, len, _) => write(&mut after, &mut during, path, at, &self.bytes(at, len))?,
            Self::Append(path, len) => {
                let at = after.data(path)?.size;
                write(&mut after, &mut during, path, at, &self.bytes(at, len))?;
            }
            Self::Truncate(path, size) => {
                let data = after.data(path)?;
                // The tail of the last page comes before the size (contract 3).
                let mut tail = data.newest();
                let end = size.next_multiple_of(PAGE_SIZE).min(tail.len());
                if let Some(tail) = tail.get_mut(size..end) {
                    tail.fill(0);
                }
                for version in &mut data.versions {
                    Rc::make_mut(version).truncate(size);
                }
                data.size = size;
                drop_set_id(&mut after, &mut during, path)?;
                during.last_mut().unwrap().data(path)?.versions.push(Rc::new(tail));
            }
            Self::Allocate(path, at, len) => {
                let data = after.data(path)?;
                data.size = data.size.max(at + len);
                drop_set_id(&mut after, &mut during, path)?;
            }
            Self::Punch(path, at, len) => {
                // The size stays.
                let len = len.min(after.data(path)?.size.saturating_sub(at));
                match len {
                    0 => drop_set_id(&mut after, &mut during, path)?,
                    _ => write(&mut after, &mut during, path, at, &vec![0; len])?,
                }
            }
            Self::Zero(path, at, len) => write(&mut after, &mut during, path, at, &vec![0; len])?,
            Self::SetAttribute(path, name, len) => {
                after.node(path)?.attributes.insert(name.into(), self.bytes(0, len));
            }
            Self::RemoveAttribute(path, name) => {
                after.node(path)?.attributes.remove(name).ok_or(Refused)?;
            }
            Self::Chmod(path, permissions) => after.node(path)?.permissions = permissions,
            Self::SetTimes(path, atime, mtime) => {
                let path = after.node(path)?;
                (path.times, path.changed) = (Some((atime, mtime)), false);
            }
            Self::Stray(path) => drop(after.data(path)?),
            Self::Close => {}
        }
        // What changes a file gives it times that are not said here, and any moment during it may have them.
        for (number, node) in &mut after.nodes {
            if std::mem::take(&mut node.changed) {
                node.times = None;
                during.iter_mut().filter_map(|tree| tree.nodes.get_mut(number)).for_each(|node| node.times = None);
            }
        }
        during.iter_mut().flat_map(|tree| tree.nodes.values_mut()).for_each(|node| node.changed = false);
        during.push(after.clone());
        Ok(Outcome { during, after })
    }

    /// Does it to the volume.
    pub fn run(&self, volume: &mut Disk<'_>) -> Result<(), Error> {
        if let Self::Close = self {
            return volume.close();
        }
        let volume = &*volume;
        let new = |path: &str, kind, permissions| {
            let (parent, name) = split(path);
            let new = NewInode { kind, permissions, uid: 0, gid: 0 };
            volume.create(find(volume, parent)?, name.as_bytes(), &new).map(drop)
        };
        match *self {
            Self::Create(path) => new(path, NewKind::Regular, 0o640),
            Self::CreateUnnamed(path, len) => {
                let (parent, name) = split(path);
                let parent = find(volume, parent)?;
                let new = NewInode { kind: NewKind::Regular, permissions: 0o640, uid: 0, gid: 0 };
                let number = volume.create_unnamed(parent, &new, 0)?;
                let File::InPlace(file) = volume.file(number)? else { unreachable!("the device has direct access") };
                let how = Writer { durable: Durable::All, ..Writer::default() };
                let done = ops::write(&file, 0, &self.bytes(0, len), &how).and_then(|done| match done == len {
                    true => volume.link_unnamed(parent, name.as_bytes(), number),
                    false => Err(Error::NoSpace),
                });
                // As a program that gives it up.
                done.or_else(|error| volume.release(number).and(Err(error)))
            }
            Self::Mkdir(path) => new(path, NewKind::Directory, 0o755),
            Self::Link(from, to) => {
                let (parent, name) = split(to);
                volume.link(find(volume, parent)?, name.as_bytes(), find(volume, from)?)
            }
            Self::Symlink(path, len) => new(path, NewKind::Symlink(target(len).as_bytes()), 0o777),
            Self::Unlink(path) => {
                let (parent, name) = split(path);
                match volume.unlink(find(volume, parent)?, name.as_bytes())? {
                    Some(dead) => volume.release(dead),
                    None => Ok(()),
                }
            }
            Self::Rmdir(path) => {
                let (parent, name) = split(path);
                volume.release(volume.rmdir(find(volume, parent)?, name.as_bytes())?)
            }
            Self::Rename(from, to) => rename(volume, from, to, Rename::Replace),
            Self::RenameNoReplace(from, to) => rename(volume, from, to, Rename::NoReplace),
            Self::Exchange(one, other) => rename(volume, one, other, Rename::Exchange),
            Self::Write(path, at, len, durable) => {
                let bytes = self.bytes(at, len);
                let how = Writer { durable, ..Writer::default() };
                with(volume, path, |file| ops::write(file, at as u64, &bytes, &how).map(|done| assert_eq!(done, len)))
            }
            Self::Append(path, len) => {
                let at = volume.inode(find(volume, path)?)?.size as usize;
                let bytes = self.bytes(at, len);
                let how = Writer { append: true, ..Writer::default() };
                with(volume, path, |file| ops::write(file, 0, &bytes, &how).map(|done| assert_eq!(done, len)))
            }
            Self::Truncate(path, size) => with(volume, path, |file| space::truncate(file, size as u64)),
            Self::Allocate(path, at, len) => {
                with(volume, path, |file| space::fallocate(file, at as u64, len as u64, false, &Writer::default()))
            }
            Self::Punch(path, at, len) => {
                with(volume, path, |file| space::punch_hole(file, at as u64, len as u64, &Writer::default()))
            }
            Self::Zero(path, at, len) => {
                with(volume, path, |file| space::zero_range(file, at as u64, len as u64, false, &Writer::default()))
            }
            Self::SetAttribute(path, name, len) => {
                let value = self.bytes(0, len);
                volume.set_xattr(find(volume, path)?, name.as_bytes(), Some(&value))
            }
            Self::RemoveAttribute(path, name) => volume.set_xattr(find(volume, path)?, name.as_bytes(), None),
            Self::Chmod(path, permissions) => {
                let change = SetAttributes { permissions: Some(permissions), ..SetAttributes::default() };
                volume.set_attributes(find(volume, path)?, &change)
            }
            Self::SetTimes(path, atime, mtime) => {
                let change = SetAttributes { atime: Some(atime), mtime: Some(mtime), ..SetAttributes::default() };
                volume.set_attributes(find(volume, path)?, &change)
            }
            Self::Stray(path) => {
                let size = volume.inode(find(volume, path)?)?.size as usize;
                with(volume, path, |file| {
                    let within = size % PAGE_SIZE;
                    let page = file.mapping().get_xip_page(PageIndex::of(size as u64), Create::No)?;
                    if let (Extent::Storage(run), 1..) = (page, within) {
                        let device = volume.device();
                        device.direct_access_mut(run.first, 1)?.write(within, &vec![0x77; PAGE_SIZE - within]);
                        device.flush(run.first.0 * PAGE_SIZE as u64, PAGE_SIZE as u64)?;
                        device.fence()?;
                    }
                    Ok(())
                })
            }
            Self::Close => unreachable!("done above"),
        }
    }
}

/// A write under way may be found in part, each byte old or new, as far as the file went before; its size comes after
/// all of its bytes (contract 3). When it has returned, all of it is durable.
fn write(tree: &mut Tree, during: &mut Vec<Tree>, path: &str, at: usize, bytes: &[u8]) -> Result<(), Refused> {
    let data = tree.data(path)?;
    let mut new = data.newest();
    new.resize(new.len().max(at + bytes.len()), 0);
    new[at..at + bytes.len()].copy_from_slice(bytes);
    let new = Rc::new(new);
    data.size = new.len();
    data.versions = vec![new.clone()];
    drop_set_id(tree, during, path)?;
    during.last_mut().unwrap().data(path)?.versions.push(new);
    Ok(())
}

/// Before a byte changes, the bits that would lend the owner's rights to what is written are gone (contract 3).
fn drop_set_id(tree: &mut Tree, during: &mut Vec<Tree>, path: &str) -> Result<(), Refused> {
    let node = tree.node(path)?;
    let dropped = 0o4000 | if node.permissions & 0o010 != 0 { 0o2000 } else { 0 };
    if node.permissions & dropped != 0 {
        node.permissions &= !dropped;
        let mut without = during[0].clone();
        without.node(path)?.permissions &= !dropped;
        during.push(without);
    }
    Ok(())
}

pub fn find(volume: &Disk<'_>, path: &str) -> Result<InodeNo, Error> {
    path.split('/')
        .filter(|name| !name.is_empty())
        .try_fold(InodeNo::ROOT, |directory, name| volume.lookup(directory, name.as_bytes())?.ok_or(Error::NotFound))
}

fn rename(volume: &Disk<'_>, from: &str, to: &str, how: Rename) -> Result<(), Error> {
    let ((parent, name), (new_parent, new_name)) = (split(from), split(to));
    let (parent, new_parent) = (find(volume, parent)?, find(volume, new_parent)?);
    match volume.rename(parent, name.as_bytes(), new_parent, new_name.as_bytes(), how)? {
        Some(dead) => volume.release(dead),
        None => Ok(()),
    }
}

fn with(
    volume: &Disk<'_>,
    path: &str,
    what: impl FnOnce(&InPlace<Blocks<'_, &Recorder, Alone>>) -> Result<(), Error>,
) -> Result<(), Error> {
    match volume.file(find(volume, path)?)? {
        File::InPlace(file) => what(&file),
        File::Cached(_) => unreachable!("the device has direct access"),
    }
}
