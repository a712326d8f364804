//! Images that inputs start from.

use crate::NOW;
use crate::disk::Disk;
use std::sync::LazyLock;
use xip_core::ops::{self, Writer};
use xip_core::{Alone, PAGE_SIZE};
use xip_ext2::{Error, File, Format, InodeNo, NewInode, NewKind, Rename, Volume};

/// Pages of a base.
const PAGES: usize = 64;

/// Zeros for 0, a volume with something of everything for 1, and for the others that volume after a crash in a rename.
pub fn image(number: u8, pages: usize) -> Vec<u8> {
    static BASES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(all);
    match usize::from(number) % (BASES.len() + 1) {
        0 => vec![0; pages * PAGE_SIZE],
        number => BASES[number - 1].clone(),
    }
}

/// A new volume, without direct access: every store counts.
fn volume(pages: usize, inodes: u32) -> Volume<Disk, Alone> {
    let format = Format {
        blocks: pages as u64,
        inodes,
        uuid: *b"0123456789abcdef",
        hash_seed: *b"seedseedseedseed",
        root_permissions: 0o755,
        ..Format::default()
    };
    let disk = Disk::of(&vec![0; pages * PAGE_SIZE], false);
    Volume::format(disk, Alone::at(NOW), &format).expect("a small volume can be made")
}

/// Volumes of several sizes, with many inodes and with few.
pub fn volumes() -> &'static [Vec<u8>] {
    static VOLUMES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
        let sized = |n: usize| volume(24 + 16 * (n % 8), if n < 8 { 16 } else { 64 });
        (0..16).map(|n| sized(n).device().bytes()).collect()
    });
    &VOLUMES
}

fn all() -> Vec<Vec<u8>> {
    let everything = everything().expect("there is room for everything");
    let mut bases = vec![everything];
    loop {
        let disk = Disk::of(&bases[0], false);
        let volume = Volume::open(&disk, Alone::at(NOW)).expect("a volume that was just made");
        disk.stores.set(bases.len() as u64 - 1);
        let done = rename(&volume);
        bases.push(disk.bytes());
        if done.is_ok() {
            return bases;
        }
    }
}

fn new(kind: NewKind<'_>) -> NewInode<'_> {
    NewInode { kind, permissions: 0o755, uid: 0, gid: 0 }
}

fn everything() -> Result<Vec<u8>, Error> {
    let mut volume = volume(PAGES, 32);
    let root = InodeNo::ROOT;
    let directory = volume.create(root, b"dir", &new(NewKind::Directory))?;
    let file = volume.create(directory, b"file", &new(NewKind::Regular))?;
    if let File::Cached(open) = volume.file(file)? {
        for page in [0, 12, 12 + 1024, 12 + 1024 + 1024 * 1024] {
            ops::write(&open, page * PAGE_SIZE as u64, b"data", &Writer::default())?;
        }
    }
    for (name, kind) in [
        (&b"fast"[..], NewKind::Symlink(b"file")),
        (b"slow", NewKind::Symlink(&[b's'; 200])),
        (b"null", NewKind::Character(1, 3)),
        (b"fifo", NewKind::Fifo),
        (b"old", NewKind::Directory),
    ] {
        volume.create(directory, name, &new(kind))?;
    }
    // So many that they have an index.
    let names = volume.create(root, b"names", &new(NewKind::Directory))?;
    for n in 0..30 {
        volume.link(names, format!("{n:0>200}").as_bytes(), file)?;
    }
    for (name, len) in [(&b"user.small"[..], 4), (b"user.large", 1000)] {
        volume.set_xattr(file, name, Some(&vec![b'x'; len]))?;
    }
    volume.set_xattr(names, b"user.in_inode", Some(b"1"))?;
    volume.close()?;
    Ok(volume.device().bytes())
}

/// One that takes an intent: a directory, to another one, in the place of a third.
fn rename(volume: &Volume<&Disk, Alone>) -> Result<(), Error> {
    let at = |parent, name| volume.lookup(parent, name)?.ok_or(Error::NotFound);
    let root = InodeNo::ROOT;
    let moved = volume.create(root, b"moved", &new(NewKind::Directory))?;
    volume.create(moved, b"inside", &new(NewKind::Regular))?;
    let left = volume.rename(root, b"moved", at(root, b"dir")?, b"old", Rename::Replace)?;
    left.map_or(Ok(()), |left| volume.release(left))
}
