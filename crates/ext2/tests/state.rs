//! What a volume says of itself between two openings: closed properly or not, and what was interrupted halfway.

mod support;

use std::cell::Cell;
use std::process::Command;
use support::{Bytes, NOW, fsck_file, volume};
use xip_core::{Alone, Device, Properties};
use xip_ext2::{InodeNo, NewInode, NewKind, Rename, SetAttributes, Volume};

fn new(kind: NewKind<'_>) -> NewInode<'_> {
    NewInode { kind, permissions: 0o644, uid: 0, gid: 0 }
}

/// The state as e2fsprogs reads it.
fn state(bytes: &[u8]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let out = Command::new("dumpe2fs").arg("-h").arg(file.path()).output().expect("dumpe2fs: run cargo xtask setup");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let line = text.lines().find(|line| line.starts_with("Filesystem state:")).unwrap();
    line.split(':').nth(1).unwrap().trim().to_owned()
}

#[test]
fn a_volume_is_not_clean_from_its_first_change_until_it_is_closed() {
    let made = volume(256, 16);
    made.create(InodeNo::ROOT, b"f", &new(NewKind::Regular)).unwrap();
    assert_eq!(state(&made.device().to_vec()), "clean", "a new volume is no one's yet");
    let before = made.device().to_vec();
    let mut volume = Volume::open(made.device(), Alone::at(NOW)).unwrap();
    assert!(volume.is_clean());
    volume.lookup(InodeNo::ROOT, b"f").unwrap();
    volume.close().unwrap();
    assert!(made.device().to_vec() == before, "reading changed something");

    volume.create(InodeNo::ROOT, b"g", &new(NewKind::Regular)).unwrap();
    assert_eq!(state(&made.device().to_vec()), "not clean");
    volume.close().unwrap();
    assert_eq!(state(&made.device().to_vec()), "clean");
    volume.unlink(InodeNo::ROOT, b"g").unwrap();
    assert_eq!(state(&made.device().to_vec()), "not clean");

    // It was not closed. Closing it now must not hide that; having it repaired may.
    let mut volume = Volume::open(made.device(), Alone::at(NOW)).unwrap();
    assert!(!volume.is_clean());
    volume.create(InodeNo::ROOT, b"h", &new(NewKind::Regular)).unwrap();
    volume.close().unwrap();
    assert_eq!(state(&made.device().to_vec()), "not clean");
    volume.repaired();
    volume.close().unwrap();
    assert_eq!(state(&made.device().to_vec()), "clean");
    assert!(Volume::open(made.device(), Alone::at(NOW)).unwrap().is_clean());
}

/// Loses power after so many stores.
struct Dying<'a> {
    bytes: &'a Bytes,
    left: Cell<u32>,
}

impl Device for Dying<'_> {
    fn pages(&self) -> u64 {
        self.bytes.pages()
    }
    fn properties(&self) -> Properties {
        self.bytes.properties()
    }
    fn read(&self, at: u64, to: &mut [u8]) -> Result<(), xip_core::Error> {
        self.bytes.read(at, to)
    }
    fn write(&self, at: u64, from: &[u8]) -> Result<(), xip_core::Error> {
        match self.left.get() {
            0 => Err(xip_core::Error::Gone),
            left => {
                self.left.set(left - 1);
                self.bytes.write(at, from)
            }
        }
    }
}

/// A volume with a file and two directories.
fn world() -> Volume<Bytes, Alone> {
    let made = volume(256, 64);
    for dir in [b"d", b"e"] {
        made.create(InodeNo::ROOT, dir, &new(NewKind::Directory)).unwrap();
    }
    let d = made.lookup(InodeNo::ROOT, b"d").unwrap().unwrap();
    made.create(d, b"moved", &new(NewKind::Directory)).unwrap();
    made
}

/// Does `what` on a copy of the world, with the power lost after every number of stores, and gives each image, from none
/// to all of them.
fn at_every_store(what: impl Fn(&Volume<Dying<'_>, Alone>) -> bool) -> Vec<Vec<u8>> {
    let image = world().device().to_vec();
    let mut images = Vec::new();
    for left in 0.. {
        let bytes = Bytes::of(&image);
        let volume = Volume::open(Dying { bytes: &bytes, left: Cell::new(left) }, Alone::at(NOW)).unwrap();
        let done = what(&volume);
        images.push(bytes.to_vec());
        if done {
            return images;
        }
    }
    unreachable!()
}

fn rename(volume: &Volume<Dying<'_>, Alone>) -> bool {
    let [d, e] = [b"d", b"e"].map(|name| volume.lookup(InodeNo::ROOT, name).unwrap().unwrap());
    volume.rename(d, b"moved", e, b"there", Rename::Replace).is_ok()
}

/// Where the name is, and how many links the directories have.
fn seen(volume: &Volume<impl Device, Alone>) -> (bool, bool, [u16; 2], bool) {
    let [d, e] = [b"d", b"e"].map(|name| volume.lookup(InodeNo::ROOT, name).unwrap().unwrap());
    let [old, new] = [volume.lookup(d, b"moved").unwrap(), volume.lookup(e, b"there").unwrap()];
    let parent = volume.lookup(old.or(new).unwrap(), b"..").unwrap();
    (old.is_some(), new.is_some(), [d, e].map(|dir| volume.inode(dir).unwrap().links), parent == Some(e))
}

/// Contract 7: the directory, its `..` and the counts of links of both parents move at once or not at all.
#[test]
fn a_rename_is_done_wholly_or_not_at_all_wherever_the_power_is_lost() {
    const BEFORE: (bool, bool, [u16; 2], bool) = (true, false, [3, 2], false);
    const AFTER: (bool, bool, [u16; 2], bool) = (false, true, [2, 3], true);
    let images = at_every_store(rename);
    let (mut befores, mut halves) = (0, 0);
    for image in &images {
        let bytes = Bytes::of(image);
        // As it stands, which is what the record is for.
        let raw = Volume::open(&bytes, xip_core::Frozen).map(|volume| {
            let [d, e] = [b"d", b"e"].map(|name| volume.lookup(InodeNo::ROOT, name).unwrap().unwrap());
            (volume.lookup(d, b"moved").unwrap().is_some(), volume.lookup(e, b"there").unwrap().is_some())
        });
        let (old, new) = raw.unwrap();
        halves += u32::from(old == new);
        assert!(old != new || keeps_away(image), "who knows no record could take a half for the whole");
        let volume = Volume::open(&bytes, Alone::at(NOW)).unwrap();
        let found = seen(&volume);
        assert!(found == BEFORE || found == AFTER, "{found:?}");
        befores += u32::from(found == BEFORE);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes.to_vec()).unwrap();
        fsck_file(file.path());
        // Completed once: nothing is left of the record.
        assert!(bytes.to_vec()[2048..4096].iter().all(|&byte| byte == 0));
    }
    assert!(befores > 0 && befores < images.len() as u32 && halves > 0, "{befores} {halves} of {}", images.len());
}

/// Whether the superblock has the bit that stands for a record.
fn keeps_away(image: &[u8]) -> bool {
    image[1024 + 96 + 3] & 0x40 != 0
}

/// The image in which the record is written and nothing else is.
fn interrupted() -> Vec<u8> {
    let images = at_every_store(rename);
    images.into_iter().find(|image| image[2048..2052] != [0; 4]).unwrap()
}

#[test]
fn a_record_is_dropped_when_another_had_the_volume_in_between_or_it_is_damaged() {
    let image = interrupted();
    let len = HEAD + u32::from_le_bytes(image[2056..2060].try_into().unwrap()) as usize;
    let completed = |image: &[u8]| {
        let bytes = Bytes::of(image);
        let volume = Volume::open(&bytes, Alone::at(NOW)).unwrap();
        seen(&volume).1
    };
    assert!(completed(&image));
    // Any bit of it.
    for at in 0..len {
        let mut damaged = image.clone();
        damaged[2048 + at] ^= 1 << (at % 8);
        assert!(!completed(&damaged), "byte {at}");
    }
    // A mount counts, and so does a time of writing; and so do bytes that are neither the old nor the new ones.
    for at in [1024 + 44, 1024 + 48, 1024 + 52] {
        let mut mounted = image.clone();
        mounted[at] ^= 1;
        assert!(!completed(&mounted), "superblock byte {at}");
    }
    let first = u64::from_le_bytes(image[2048 + HEAD..2048 + HEAD + 8].try_into().unwrap());
    let mut changed = image.clone();
    changed[first as usize] = 0x77;
    let bytes = Bytes::of(&changed);
    let _ = Volume::open(&bytes, Alone::at(NOW));
    assert_eq!(bytes.to_vec()[first as usize], 0x77, "a record was completed over what it does not know");
}

/// What is half done is not for those who know no record.
#[test]
fn e2fsck_refuses_a_volume_with_a_record_and_takes_it_when_it_was_opened() {
    let image = at_every_store(rename).into_iter().find(|image| keeps_away(image)).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &image).unwrap();
    let out = Command::new("e2fsck").arg("-fy").arg(file.path()).output().unwrap();
    assert!(!out.status.success());
    assert!(String::from_utf8_lossy(&out.stderr).contains("unsupported feature"), "{out:?}");
    assert!(std::fs::read(file.path()).unwrap() == image, "e2fsck changed it");
    let bytes = Bytes::of(&image);
    Volume::open(&bytes, Alone::at(NOW)).unwrap();
    std::fs::write(file.path(), bytes.to_vec()).unwrap();
    fsck_file(file.path());
}

/// Bytes of a record before its stores.
const HEAD: usize = 36;

#[test]
fn attributes_of_a_file_change_at_once() {
    let change =
        SetAttributes { permissions: Some(0o4711), uid: Some(70_000), gid: Some(80_000), ..Default::default() };
    let images = at_every_store(|volume| {
        let d = volume.lookup(InodeNo::ROOT, b"d").unwrap().unwrap();
        volume.set_attributes(d, &change).is_ok()
    });
    let mut seen = std::collections::BTreeSet::new();
    for image in &images {
        let volume = Volume::open(Bytes::of(image), Alone::at(NOW)).unwrap();
        let inode = volume.inode(volume.lookup(InodeNo::ROOT, b"d").unwrap().unwrap()).unwrap();
        seen.insert((inode.permissions, inode.uid, inode.gid));
    }
    assert_eq!(seen, [(0o644, 0, 0), (0o4711, 70_000, 80_000)].into());
}
