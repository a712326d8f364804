//! Any operations on a small volume do what they do in a model, and the check finds nothing wrong after them: on a volume
//! that is so small that space gives out, in place and through copies, with files that are still open when their last
//! name goes.
//!
//! An input is one byte for the volume, and then for each operation a byte and what it needs. An input that ends in the
//! middle of an operation ends before it.

use crate::NOW;
use crate::base::volumes;
use crate::change::Change;
use crate::disk::Disk;
use crate::hostile::checked;
use crate::input::Input;
use crate::model::{Body, Content, Model, Node};
use crate::walk::walk;
use std::collections::BTreeMap;
use xip_core::{Alone, Create, Device, Extent, Mapping, PAGE_SIZE, PageIndex, ops};
use xip_ext2::check::Summary;
use xip_ext2::{Error, File, InodeNo, Kind, NewInode, NewKind, Rename, SetAttributes, Volume};

/// The most operations of an input.
const MOST: usize = 150;
/// More blocks than a name takes, with the blocks of directories that grow for it, or an attribute.
const NAMES: u64 = 13;
/// Of all but the root.
const OWNER: (u32, u32) = (1000, 100_000);
const PAGE: u64 = PAGE_SIZE as u64;

type Name = (InodeNo, Vec<u8>);

struct Run<'d> {
    volume: Volume<&'d Disk, Alone>,
    model: Model,
    /// Makes the bytes of each write other bytes.
    turn: u8,
}

pub fn run(input: &[u8]) {
    let mut input = Input(input);
    let Some(shape) = input.byte() else { return };
    let disk = Disk::of(&volumes()[usize::from(shape % 16)], shape & 16 == 0);
    let volume = Volume::open(&disk, Alone::at(NOW)).expect("a new volume");
    let mut run = Run { volume, model: Model::new(), turn: 0 };
    for _ in 0..MOST {
        run.turn = run.turn.wrapping_add(1);
        if run.step(&disk, &mut input).is_none() {
            break;
        }
    }
    for number in run.model.held.clone() {
        run.release(number);
    }
    run.reopen(&disk);
}

impl<'d> Run<'d> {
    fn step(&mut self, disk: &'d Disk, input: &mut Input<'_>) -> Option<()> {
        match input.byte()? % 32 {
            0..=3 => self.create(input, |_| Body::File(Content::default())),
            4 | 5 => self.create(input, |parent| Body::Directory { names: BTreeMap::new(), parent }),
            6 => {
                let len = [0, 1, 59, 60, 200, 4095, 4096][usize::from(input.byte()?) % 7];
                self.create(input, |_| Body::Symlink(vec![b't'; len]))
            }
            7 => self.create(input, |_| Body::Other(Kind::Fifo)),
            8 | 9 => self.link(input),
            10 | 11 => self.unlink(input),
            12 => self.rmdir(input),
            13..=15 => self.rename(input),
            16..=22 => self.change(input),
            23 => self.read(input),
            24 | 25 => self.set_attribute(input),
            26 => self.remove_attribute(input),
            27 => self.chmod(input),
            28 => {
                let number = self.any(input)?;
                self.release(number);
                Some(())
            }
            29 => self.stray(disk, input),
            30 => {
                self.compare();
                Some(())
            }
            _ => {
                self.reopen(disk);
                Some(())
            }
        }
    }

    /// What an operation answered is what the model says. Where space gives out, which the model knows nothing of, that is
    /// believed when less than `wanted` blocks, all that it can take, or no inodes are free.
    fn judge<T>(&self, what: &str, wanted: u64, got: Result<T, Error>, expected: Result<(), Error>) -> Option<T> {
        match (got, expected) {
            (Ok(got), Ok(())) => Some(got),
            (Err(Error::NoSpace), _) if wanted > 0 => {
                let free = self.volume.statfs().expect("figures");
                let none = u64::from(free.free_blocks) < wanted || free.free_inodes == 0;
                assert!(none, "{what}: no space, and there is: {free:?}");
                None
            }
            (Err(got), Err(expected)) if got.errno() == expected.errno() => None,
            (got, expected) => panic!("{what}: {:?}, and not {expected:?}", got.map(drop)),
        }
    }

    fn any(&self, input: &mut Input<'_>) -> Option<InodeNo> {
        let n = usize::from(input.byte()?) % self.model.nodes.len();
        self.model.nodes.keys().nth(n).copied()
    }

    /// Nearly always a directory.
    fn directory(&self, input: &mut Input<'_>) -> Option<InodeNo> {
        let n = usize::from(input.byte()?);
        let all = || self.model.nodes.keys().copied().filter(|number| n >= 250 || self.model.is_directory(*number));
        all().nth(n % all().count())
    }

    fn name(&self, input: &mut Input<'_>) -> Option<Name> {
        Some((self.directory(input)?, input.name()?))
    }

    /// A name that is there, if there is any.
    fn old_name(&self, input: &mut Input<'_>) -> Option<Name> {
        let (parent, name) = self.name(input)?;
        match self.model.names(parent) {
            Ok(names) if !names.is_empty() && name.len() < 200 => {
                names.keys().nth(name.len() % names.len()).map(|name| (parent, name.clone()))
            }
            _ => Some((parent, name)),
        }
    }

    fn create(&mut self, input: &mut Input<'_>, body: impl Fn(InodeNo) -> Body) -> Option<()> {
        let ((parent, name), permissions) = (self.name(input)?, input.permissions()?);
        let node = Node::new(body(parent), permissions);
        let kind = match &node.body {
            Body::File(_) => NewKind::Regular,
            Body::Directory { .. } => NewKind::Directory,
            Body::Symlink(target) => NewKind::Symlink(target),
            Body::Other(_) => NewKind::Fifo,
        };
        let new = NewInode { kind, permissions, uid: OWNER.0, gid: OWNER.1 };
        let expected = self.model.takes(parent, &name).and_then(|()| match kind {
            NewKind::Symlink([]) => Err(Error::NotFound),
            NewKind::Symlink(target) if target.len() >= PAGE_SIZE => Err(Error::NameTooLong),
            _ => Ok(()),
        });
        if let Some(number) = self.judge("create", NAMES, self.volume.create(parent, &name, &new), expected) {
            self.model.add(parent, &name, number, node);
        }
        Some(())
    }

    fn link(&mut self, input: &mut Input<'_>) -> Option<()> {
        let ((parent, name), number) = (self.name(input)?, self.any(input)?);
        let expected = match number {
            _ if self.model.is_directory(number) => Err(Error::IsDirectory),
            _ if self.model.held.contains(&number) => Err(Error::NotFound),
            _ => self.model.takes(parent, &name),
        };
        if self.judge("link", NAMES, self.volume.link(parent, &name, number), expected).is_some() {
            self.model.link(parent, &name, number);
        }
        Some(())
    }

    fn unlink(&mut self, input: &mut Input<'_>) -> Option<()> {
        let ((parent, name), keep) = (self.old_name(input)?, input.byte()?);
        let expected = self.model.can_unlink(parent, &name);
        if let Some(left) = self.judge("unlink", 0, self.volume.unlink(parent, &name), expected) {
            assert_eq!(left, self.model.unlink(parent, &name), "unlink: what is left without a name");
            self.left(left, keep);
        }
        Some(())
    }

    fn rmdir(&mut self, input: &mut Input<'_>) -> Option<()> {
        let ((parent, name), keep) = (self.old_name(input)?, input.byte()?);
        let expected = self.model.can_rmdir(parent, &name);
        if let Some(left) = self.judge("rmdir", 0, self.volume.rmdir(parent, &name), expected) {
            assert_eq!(Some(left), self.model.unlink(parent, &name), "rmdir: what is left without a name");
            self.left(Some(left), keep);
        }
        Some(())
    }

    fn rename(&mut self, input: &mut Input<'_>) -> Option<()> {
        let ((from, old), (to, new)) = (self.old_name(input)?, self.name(input)?);
        let how = [Rename::Replace, Rename::NoReplace, Rename::Exchange][usize::from(input.byte()? % 3)];
        let keep = input.byte()?;
        let expected = self.model.can_rename((from, &old), (to, &new), how);
        let got = self.volume.rename(from, &old, to, &new, how);
        if let Some(left) = self.judge("rename", NAMES, got, expected) {
            let expected = self.model.rename((from, &old), (to, &new), how);
            assert_eq!(left, expected, "rename: what is left without a name");
            self.left(left, keep);
        }
        Some(())
    }

    /// What has lost its last name is sometimes still open.
    fn left(&mut self, left: Option<InodeNo>, keep: u8) {
        if let Some(left) = left.filter(|_| keep % 4 != 0) {
            self.release(left);
        }
    }

    fn release(&mut self, number: InodeNo) {
        let expected = if self.model.held.contains(&number) { Ok(()) } else { Err(Error::Busy) };
        if self.judge("release", 0, self.volume.release(number), expected).is_some() {
            self.model.held.remove(&number);
            self.model.nodes.remove(&number);
        }
    }

    /// A regular file; `None` where there is none.
    fn file(&self, input: &mut Input<'_>) -> Option<Option<InodeNo>> {
        let n = usize::from(input.byte()?);
        let files = || self.model.nodes.iter().filter(|(_, node)| matches!(node.body, Body::File(_)));
        Some(files().nth(n % files().count().max(1)).map(|(number, _)| *number))
    }

    /// Something that changes bytes or storage of a file.
    fn change(&mut self, input: &mut Input<'_>) -> Option<()> {
        let operation = input.byte()? % 6;
        let (file, at, len, flag) = (self.file(input)?, input.offset()?, input.len()?, input.byte()? % 2 == 0);
        let Some(number) = file else { return Some(()) };
        let bytes: Vec<u8> = (0..len).map(|n| self.turn.wrapping_add((n / 512) as u8).max(1)).collect();
        let change = match operation {
            0 | 1 => Change::Write { at, bytes: &bytes, append: flag },
            2 => Change::Truncate { size: if flag { at } else { len as u64 } },
            3 => Change::Allocate { at, len: len as u64, keep_size: flag },
            4 => Change::Punch { at, len: len as u64 },
            _ => Change::Zero { at, len: len as u64, keep_size: flag },
        };
        let node = self.model.nodes.get(&number)?;
        let Body::File(content) = &node.body else { return Some(()) };
        let expected = change.expected(content.size);
        let got = self.volume.file(number).and_then(|file| match file {
            File::InPlace(file) => change.run(&file),
            File::Cached(file) => change.run(&file),
        });
        let what = format!("{change:?} of {number:?}");
        let done = self.judge(&what, change.wanted(), got, expected);
        if let (Ok(()), Some(done)) = (expected, done.or(Some(0).filter(|_| change.wanted() > 0)))
            && let Some(node) = self.model.nodes.get_mut(&number)
        {
            let in_part = change.apply(node, done);
            if in_part {
                // A page and the pointers to it.
                let free = self.volume.statfs().expect("figures").free_blocks;
                assert!(free < 4, "{what}: only {done} bytes, and {free} blocks are free");
            }
        }
        Some(())
    }

    fn read(&self, input: &mut Input<'_>) -> Option<()> {
        let (file, at, len) = (self.file(input)?, input.offset()?, input.len()?);
        let Some(number) = file else { return Some(()) };
        let Body::File(content) = &self.model.nodes[&number].body else { return Some(()) };
        let file = self.volume.file(number).expect("a regular file");
        let mut bytes = vec![0xaa; len];
        let read = match &file {
            File::InPlace(file) => ops::read(file, at, &mut bytes),
            File::Cached(file) => ops::read(file, at, &mut bytes),
        };
        bytes.truncate(read.expect("what can be read"));
        assert!(bytes == content.read(at, len), "{len} bytes at {at} of {number:?}");
        for data in [true, false].into_iter().filter(|_| !content.vague) {
            let found = match &file {
                File::InPlace(file) if data => ops::seek_data(file, at),
                File::InPlace(file) => ops::seek_hole(file, at),
                File::Cached(file) if data => ops::seek_data(file, at),
                File::Cached(file) => ops::seek_hole(file, at),
            };
            assert_eq!(found.ok(), content.seek(at, data), "seek from {at} of {number:?}, data: {data}");
        }
        Some(())
    }

    /// Bytes beyond the end of a file, to the end of its page, as stores through a mapping leave them (contract 3, tail rule).
    fn stray(&self, disk: &Disk, input: &mut Input<'_>) -> Option<()> {
        let Some(number) = self.file(input)? else { return Some(()) };
        let Body::File(content) = &self.model.nodes[&number].body else { return Some(()) };
        let within = (content.size % PAGE) as usize;
        if let (File::InPlace(file), 1..) = (self.volume.file(number).expect("a regular file"), within)
            && let Ok(Extent::Storage(run)) = file.mapping().get_xip_page(PageIndex::of(content.size), Create::No)
        {
            let region = disk.direct_access_mut(run.first, 1).expect("a page of the volume");
            region.write(within, &vec![0x77; PAGE_SIZE - within]);
        }
        Some(())
    }

    fn set_attribute(&mut self, input: &mut Input<'_>) -> Option<()> {
        let (number, name) = (self.any(input)?, input.attribute()?);
        let len = [0, 1, 10, 90, 300, 1000, 3000, 4000, 5000][usize::from(input.byte()?) % 9];
        let value = vec![self.turn; len];
        let got = self.volume.set_xattr(number, &name, Some(&value));
        let node = self.model.nodes.get_mut(&number)?;
        let size =
            |(name, value): (&Vec<u8>, &Vec<u8>)| 16 + name.len().next_multiple_of(4) + value.len().next_multiple_of(4);
        let others: usize = node.attributes.iter().filter(|(other, _)| **other != name).map(size).sum();
        if let Err(Error::AttributesFull | Error::ValueTooLarge) = got {
            // A block has a header of 32 bytes and 4 bytes of zeros at the end.
            assert!(
                others + size((&name, &value)) > PAGE_SIZE - 36,
                "{len} bytes for {name:?} beside {others}: {got:?}"
            );
            return Some(());
        }
        let expected = can_be_attribute(&name);
        if self.judge("set_xattr", NAMES, got, expected).is_some() {
            self.model.nodes.get_mut(&number)?.attributes.insert(name, value);
        }
        Some(())
    }

    fn remove_attribute(&mut self, input: &mut Input<'_>) -> Option<()> {
        let (number, name) = (self.any(input)?, input.attribute()?);
        let there = self.model.nodes[&number].attributes.contains_key(&name);
        let expected = can_be_attribute(&name).and(if there { Ok(()) } else { Err(Error::NoAttribute) });
        // What was in a block that others share goes to a new one.
        if self.judge("remove xattr", NAMES, self.volume.set_xattr(number, &name, None), expected).is_some() {
            self.model.nodes.get_mut(&number)?.attributes.remove(&name);
        }
        Some(())
    }

    fn chmod(&mut self, input: &mut Input<'_>) -> Option<()> {
        let (number, permissions) = (self.any(input)?, input.permissions()?);
        let change = SetAttributes { permissions: Some(permissions), ..SetAttributes::default() };
        self.judge("chmod", 0, self.volume.set_attributes(number, &change), Ok(()));
        self.model.nodes.get_mut(&number)?.permissions = permissions;
        Some(())
    }

    /// Closes the volume, which then is clean but for what is still open, and opens it again.
    fn reopen(&mut self, disk: &'d Disk) {
        self.volume.close().expect("a volume is closed");
        let (summary, findings) = checked(disk, false).expect("a volume is checked");
        assert_eq!(summary.damages, 0, "{findings:?}");
        // What is still open has been leaked by one who closes the volume nevertheless.
        assert!(!self.model.held.is_empty() || summary == Summary::default(), "nothing is open: {findings:?}");
        self.volume = Volume::open(disk, Alone::at(NOW)).expect("what was just closed");
        assert!(self.volume.is_clean());
        self.compare();
    }

    /// All that the volume says against all that the model says.
    fn compare(&self) {
        let walked = walk(&self.volume);
        assert_eq!(walked.len() + self.model.held.len(), self.model.nodes.len(), "how many inodes names lead to");
        for (number, node) in self.model.nodes.iter().filter(|(number, _)| !self.model.held.contains(number)) {
            let said = walked.get(number).unwrap_or_else(|| panic!("no name leads to {number:?}"));
            assert!(said.errors.is_empty(), "{number:?}: {:?}", said.errors);
            let inode = said.inode.expect("without an error");
            assert_eq!(inode.kind, node.kind(), "{number:?}");
            assert_eq!(inode.permissions, node.permissions, "permissions of {number:?}");
            let owner = if *number == InodeNo::ROOT { (0, 0) } else { OWNER };
            assert_eq!((inode.uid, inode.gid), owner, "owner of {number:?}");
            assert_eq!(inode.links, self.model.links(*number), "links of {number:?}");
            assert!(said.attributes == node.attributes, "attributes of {number:?}");
            match &node.body {
                Body::Directory { names, parent } => {
                    let mut all = names.clone();
                    all.extend([(b".".to_vec(), *number), (b"..".to_vec(), *parent)]);
                    assert!(said.names == all.into_iter().collect::<Vec<_>>(), "names in {number:?}");
                }
                Body::File(content) => {
                    assert_eq!(inode.size, content.size, "size of {number:?}");
                    for (at, _, bytes) in &said.pieces {
                        assert!(*bytes == content.read(*at, bytes.len()), "bytes of {number:?} at {at}");
                    }
                }
                Body::Symlink(target) => assert!(said.target == *target, "target of {number:?}"),
                Body::Other(_) => {}
            }
        }
    }
}

fn can_be_attribute(name: &[u8]) -> Result<(), Error> {
    match name {
        _ if name.len() > 255 => Err(Error::NameTooLong),
        b"" | b"user." => Err(Error::InvalidName),
        _ if name.starts_with(b"bogus") => Err(Error::Unsupported("")),
        _ => Ok(()),
    }
}
