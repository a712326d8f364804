//! Random operations on a volume and on a reference in memory, which must agree after each of them, by the rules of contract 3 to
//! 6. What fails is made smaller until nothing can be left out. At the end of each case the volume is closed, opened
//! again and compared once more, and `e2fsck -fn` judges it.
//!
//! `XIP_MODEL_CASES=100000 cargo nextest run -p xip --test model` for longer.

#[path = "../common/mod.rs"]
mod common;
mod reference;

use common::fsck;
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestCaseResult};
use reference::{Id, MapModel, Model, Node, ROOT, TARGET};
use std::collections::BTreeMap;
use xip::{File, Map, OpenOptions, Rename, Sharing, Volume};

/// Few names, so that operations meet.
const PATHS: [&str; 12] = ["a", "b", "c", "d", "d/a", "d/b", "d/d", "d/d/a", "e", "e/a", "e/d", "e/d/b"];
const ATTRIBUTES: [&str; 3] = ["user.a", "user.longer", "trusted.b"];
const SLOTS: usize = 3;

type Path = usize;
type Slot = usize;

#[derive(Clone, Debug)]
enum Op {
    Create(Path),
    Mkdir(Path),
    Symlink(Path),
    Link(Path, Path),
    Unlink(Path),
    Rmdir(Path),
    Rename(Path, Path, u8),
    SetAttribute(Path, usize, usize),
    RemoveAttribute(Path, usize),
    Open(Slot, Path, bool),
    Close(Slot),
    Write(Slot, usize, usize, u8),
    Writev(Slot, usize, Vec<usize>, u8),
    Read(Slot, usize, usize),
    Readv(Slot, usize, Vec<usize>),
    Truncate(Slot, usize),
    Punch(Slot, usize, usize),
    Allocate(Slot, usize, usize, bool, bool),
    Map(Slot, usize, usize, u8),
    Unmap(Slot),
    MapRead(Slot, usize, usize),
    MapWrite(Slot, usize, usize, u8),
    /// A store behind the end of the file, in its last page.
    MapTail(Slot, u8),
    Reopen,
}

/// Offsets and lengths in the first pages, and around the end of the direct pointers; often at the edge of a page.
fn place() -> impl Strategy<Value = usize> {
    let page = prop_oneof![4 => 0usize..4, 1 => 11usize..14, 1 => 30usize..33];
    let within = prop_oneof![2 => Just(0usize), 1 => Just(4095), 2 => 0usize..4096];
    (page, within).prop_map(|(page, within)| page * 4096 + within)
}

fn len() -> impl Strategy<Value = usize> {
    prop_oneof![1 => Just(0usize), 3 => 1usize..100, 3 => 4000usize..4200, 1 => 8192usize..20_000]
}

fn op() -> impl Strategy<Value = Op> {
    let path = || 0..PATHS.len();
    let slot = || 0..SLOTS;
    let names = prop_oneof![
        4 => path().prop_map(Op::Create),
        3 => path().prop_map(Op::Mkdir),
        1 => path().prop_map(Op::Symlink),
        2 => (path(), path()).prop_map(|(from, to)| Op::Link(from, to)),
        2 => path().prop_map(Op::Unlink),
        1 => path().prop_map(Op::Rmdir),
        4 => (path(), path(), 0..3u8).prop_map(|(from, to, how)| Op::Rename(from, to, how)),
        2 => (path(), 0..3usize, 0..400usize).prop_map(|(path, name, len)| Op::SetAttribute(path, name, len)),
        1 => (path(), 0..3usize).prop_map(|(path, name)| Op::RemoveAttribute(path, name)),
    ];
    let bytes = prop_oneof![
        5 => (slot(), path(), any::<bool>()).prop_map(|(slot, path, append)| Op::Open(slot, path, append)),
        1 => slot().prop_map(Op::Close),
        4 => (slot(), place(), len(), any::<u8>()).prop_map(|(slot, at, len, byte)| Op::Write(slot, at, len, byte)),
        1 => (slot(), place(), prop::collection::vec(len(), 0..4), any::<u8>())
            .prop_map(|(slot, at, lens, byte)| Op::Writev(slot, at, lens, byte)),
        1 => (slot(), place(), len()).prop_map(|(slot, at, len)| Op::Read(slot, at, len)),
        1 => (slot(), place(), prop::collection::vec(len(), 0..4)).prop_map(|(slot, at, lens)| Op::Readv(slot, at, lens)),
        2 => (slot(), place()).prop_map(|(slot, size)| Op::Truncate(slot, size)),
        2 => (slot(), place(), len()).prop_map(|(slot, at, len)| Op::Punch(slot, at, len)),
        2 => (slot(), place(), len(), any::<bool>(), any::<bool>())
            .prop_map(|(slot, at, len, keep, zero)| Op::Allocate(slot, at, len, keep, zero)),
    ];
    let maps = prop_oneof![
        3 => (slot(), 0..4usize, 1..16usize, 0..3u8).prop_map(|(slot, first, pages, how)| Op::Map(slot, first, pages, how)),
        1 => slot().prop_map(Op::Unmap),
        2 => (slot(), place(), len()).prop_map(|(slot, at, len)| Op::MapRead(slot, at, len)),
        4 => (slot(), place(), len(), any::<u8>()).prop_map(|(slot, at, len, byte)| Op::MapWrite(slot, at, len, byte)),
        2 => (slot(), any::<u8>()).prop_map(|(slot, byte)| Op::MapTail(slot, byte)),
    ];
    prop_oneof![8 => names, 12 => bytes, 6 => maps, 1 => Just(Op::Reopen)]
}

/// What each case begins with, so that most operations find something.
const BEGINNING: [Op; 7] = [
    Op::Mkdir(3),
    Op::Mkdir(8),
    Op::Create(0),
    Op::Create(4),
    Op::Open(0, 0, false),
    Op::Open(1, 4, false),
    Op::Map(0, 0, 8, 1),
];

/// Bytes that tell where they are from.
fn filled(len: usize, byte: u8) -> Vec<u8> {
    (0..len).map(|n| byte.wrapping_add(n as u8).wrapping_add((n / 4096) as u8)).collect()
}

struct Opened {
    id: Id,
    append: bool,
    file: File,
}

struct World {
    image: std::path::PathBuf,
    /// `None` only while it is opened again.
    volume: Option<Volume>,
    model: Model,
    open: [Option<Opened>; SLOTS],
    maps: [Option<(Id, MapModel, Map, Sharing)>; SLOTS],
}

/// What the volume said, and the reference: both or none.
fn agree<T, E: std::fmt::Display>(said: Result<T, E>, expected: bool) -> TestCaseResult {
    match said {
        Ok(_) if expected => Ok(()),
        Err(_) if !expected => Ok(()),
        Ok(_) => Err(TestCaseError::fail("it worked, and should not have")),
        Err(error) => Err(TestCaseError::fail(format!("it should have worked: {error}"))),
    }
}

impl World {
    fn apply(&mut self, op: &Op) -> TestCaseResult {
        let (Some(volume), model) = (&self.volume, &mut self.model) else { return Ok(()) };
        match *op {
            Op::Create(path) => {
                let made = OpenOptions::new().write(true).create_new(true).open(volume, PATHS[path]);
                agree(made, model.make(PATHS[path], Node::File(Default::default())))
            }
            Op::Mkdir(path) => {
                agree(volume.create_dir(PATHS[path]), model.make(PATHS[path], Node::Directory(BTreeMap::new())))
            }
            Op::Symlink(path) => agree(volume.symlink(TARGET, PATHS[path]), model.make(PATHS[path], Node::Symlink)),
            Op::Link(from, to) => agree(volume.hard_link(PATHS[from], PATHS[to]), model.link(PATHS[from], PATHS[to])),
            Op::Unlink(path) => agree(volume.remove_file(PATHS[path]), model.remove(PATHS[path], false)),
            Op::Rmdir(path) => agree(volume.remove_dir(PATHS[path]), model.remove(PATHS[path], true)),
            Op::Rename(from, to, how) => {
                let (from, to) = (PATHS[from], PATHS[to]);
                match how {
                    0 => agree(volume.rename(from, to), model.rename(from, to, Rename::Replace)),
                    1 => agree(volume.rename_no_replace(from, to), model.rename(from, to, Rename::NoReplace)),
                    _ => agree(volume.exchange(from, to), model.rename(from, to, Rename::Exchange)),
                }
            }
            Op::SetAttribute(path, name, len) => {
                let value = filled(len, name as u8);
                let set = volume.set_xattr(PATHS[path], ATTRIBUTES[name], &value);
                let id = model.find(PATHS[path]);
                if let Some(id) = id {
                    model.attributes[id].insert(ATTRIBUTES[name].into(), value);
                }
                agree(set, id.is_some())
            }
            Op::RemoveAttribute(path, name) => {
                let removed = volume.remove_xattr(PATHS[path], ATTRIBUTES[name]);
                let id = model.find(PATHS[path]);
                agree(removed, id.is_some_and(|id| model.attributes[id].remove(ATTRIBUTES[name]).is_some()))
            }
            Op::Open(slot, path, append) => {
                let opened = OpenOptions::new().read(true).write(true).append(append).open(volume, PATHS[path]);
                let id = model.open(PATHS[path]);
                if let (Ok(file), Some(id)) = (&opened, id) {
                    prop_assert_eq!(file.len(), model.file(id).size as u64);
                }
                self.open[slot] = match (opened, id) {
                    (Ok(file), Some(id)) => Some(Opened { id, append, file }),
                    (opened, id) => return agree(opened, id.is_some()),
                };
                Ok(())
            }
            Op::Close(slot) => {
                self.open[slot] = None;
                Ok(())
            }
            Op::Unmap(slot) => {
                self.maps[slot] = None;
                Ok(())
            }
            Op::MapRead(slot, at, len) => {
                let Some((id, shown, map, _)) = &mut self.maps[slot] else { return Ok(()) };
                let mut to = vec![0xee; len];
                let read = map.read(at, &mut to);
                let expected = shown.range(model.file(*id), at, len);
                if let Some(expected) = &expected {
                    prop_assert!(read.is_err() || to == *expected, "what a map shows");
                }
                agree(read, expected.is_some())
            }
            Op::MapWrite(slot, at, len, byte) => {
                let Some((id, shown, map, sharing)) = &mut self.maps[slot] else { return Ok(()) };
                let bytes = filled(len, byte);
                let written = map.write(at, &bytes);
                agree(written, *sharing != Sharing::Read && shown.write(model.file(*id), at, &bytes))
            }
            Op::MapTail(slot, byte) => {
                let Some((id, shown, ..)) = &self.maps[slot] else { return Ok(()) };
                let file = model.file(*id);
                let (at, left) = (file.size.checked_sub(shown.first * 4096), file.pages.len() - file.size);
                at.map_or(Ok(()), |at| self.apply(&Op::MapWrite(slot, at, left.min(100), byte)))
            }
            Op::Reopen => self.reopen(),
            _ => self.apply_to_file(op),
        }
    }

    fn apply_to_file(&mut self, op: &Op) -> TestCaseResult {
        let (Op::Write(slot, ..)
        | Op::Writev(slot, ..)
        | Op::Read(slot, ..)
        | Op::Readv(slot, ..)
        | Op::Truncate(slot, ..)
        | Op::Punch(slot, ..)
        | Op::Allocate(slot, ..)
        | Op::Map(slot, ..)) = *op
        else {
            return Ok(());
        };
        let Some(Opened { id, append, file }) = &self.open[slot] else { return Ok(()) };
        let model = self.model.file(*id);
        match op {
            Op::Write(_, at, len, byte) => {
                let bytes = filled(*len, *byte);
                prop_assert_eq!(file.write_at(&bytes, *at as u64)?, *len);
                model.write(if *append { model.size } else { *at }, &bytes);
            }
            Op::Writev(_, at, lens, byte) => {
                let bytes = filled(lens.iter().sum(), *byte);
                let mut rest = &bytes[..];
                let parts: Vec<_> = lens.iter().map(|&len| rest.split_off(..len).unwrap()).collect();
                prop_assert_eq!(file.writev_at(&parts, *at as u64)?, bytes.len());
                model.write(if *append { model.size } else { *at }, &bytes);
            }
            Op::Read(_, at, len) => {
                let mut to = vec![0xee; *len];
                let count = file.read_at(&mut to, *at as u64)?;
                let expected = model.bytes().get(*at..).unwrap_or_default();
                let expected = &expected[..expected.len().min(*len)];
                prop_assert!(to[..count] == *expected, "what is read");
                prop_assert!(to[count..].iter().all(|&byte| byte == 0xee), "not a byte more");
            }
            Op::Readv(_, at, lens) => {
                let mut parts: Vec<_> = lens.iter().map(|&len| vec![0xee; len]).collect();
                let count =
                    file.readv_at(&mut parts.iter_mut().map(|part| &mut part[..]).collect::<Vec<_>>(), *at as u64)?;
                let expected = model.bytes().get(*at..).unwrap_or_default();
                let expected = &expected[..expected.len().min(lens.iter().sum())];
                prop_assert!(parts.concat()[..count] == *expected, "what is read in parts");
            }
            Op::Truncate(_, size) => {
                file.set_len(*size as u64)?;
                model.truncate(*size);
            }
            Op::Punch(_, at, len) => return agree(file.punch_hole(*at as u64, *len as u64), model.punch(*at, *len)),
            Op::Allocate(_, at, len, keep, zero) => {
                let how = if *zero { File::zero_range } else { File::allocate };
                return agree(how(file, *at as u64, *len as u64, *keep), model.allocate(*at, *len, *keep, *zero));
            }
            Op::Map(_, first, pages, how) => {
                let sharing = [Sharing::Read, Sharing::Write, Sharing::Private][usize::from(*how)];
                let map = file.map(*first as u64 * 4096, pages * 4096, sharing)?;
                let private = sharing == Sharing::Private;
                let shown = MapModel { first: *first, pages: *pages, private, own: BTreeMap::new() };
                self.maps[slot] = Some((*id, shown, map, sharing));
            }
            _ => {}
        }
        Ok(())
    }

    /// Everything that has a name, and everything that is open.
    fn compare(&mut self) -> TestCaseResult {
        let Some(volume) = &self.volume else { return Ok(()) };
        let mut way = vec![(ROOT, String::from("/"))];
        while let Some((id, path)) = way.pop() {
            let metadata = volume.symlink_metadata(&path)?;
            prop_assert_eq!(metadata.nlink(), self.model.links(id), "links of {}", path);
            let names = volume.xattrs(&path)?;
            let found: BTreeMap<_, _> = names
                .into_iter()
                .map(|name| {
                    let value = volume.xattr(&path, &name).unwrap().unwrap();
                    (name.into_string().unwrap(), value)
                })
                .collect();
            prop_assert_eq!(&found, &self.model.attributes[id], "attributes of {}", path);
            match &self.model.nodes[id] {
                Node::File(file) => prop_assert!(volume.read(&path)? == file.bytes(), "bytes of {}", path),
                Node::Symlink => prop_assert_eq!(volume.read_link(&path)?, std::path::Path::new(TARGET)),
                Node::Directory(entries) => {
                    let mut names: Vec<_> = volume
                        .read_dir(&path)?
                        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                        .collect();
                    names.sort();
                    prop_assert!(names.iter().eq(entries.keys()), "{:?} in {}", names, path);
                    way.extend(entries.iter().map(|(name, &id)| (id, format!("{path}/{name}"))));
                }
            }
        }
        for Opened { id, file, .. } in self.open.iter().flatten() {
            prop_assert!(file.read_all().unwrap() == self.model.file(*id).bytes(), "bytes of an open file");
        }
        Ok(())
    }

    fn reopen(&mut self) -> TestCaseResult {
        self.compare()?;
        self.open = Default::default();
        self.maps = Default::default();
        self.volume.take().map_or(Ok(()), Volume::close)?;
        self.volume = Some(Volume::open_writable(&self.image)?);
        self.compare()
    }
}

#[test]
fn a_volume_does_what_a_reference_in_memory_does() {
    let cases = std::env::var("XIP_MODEL_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(150);
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let directory = tempfile::tempdir().unwrap();
    let (mut count, mut judged) = (0, 0);
    let start = std::time::Instant::now();
    let counters = std::cell::RefCell::new((&mut count, &mut judged));
    let result = proptest::test_runner::TestRunner::new(config).run(&prop::collection::vec(op(), 1..120), |ops| {
        let image = directory.path().join("image");
        let _ = std::fs::remove_file(&image);
        let volume = Volume::create(&image, 8 << 20)?;
        let mut world = World {
            image,
            volume: Some(volume),
            model: Model::new(),
            open: Default::default(),
            maps: Default::default(),
        };
        for op in BEGINNING.iter().chain(&ops) {
            world.apply(op)?;
        }
        world.reopen()?;
        let World { image, volume, .. } = world;
        volume.map_or(Ok(()), Volume::close)?;
        fsck(&image);
        let mut counters = counters.borrow_mut();
        *counters.0 += ops.len();
        *counters.1 += 1;
        Ok(())
    });
    println!("{count} operations, {judged} volumes judged by e2fsck, {:.1} s", start.elapsed().as_secs_f64());
    if let Err(error) = result {
        panic!("{error}");
    }
}
