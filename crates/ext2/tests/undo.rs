//! What fails leaves a volume as it was: e2fsck finds nothing.

mod support;

use std::cell::Cell;
use support::{Bytes, NOW, fsck, volume};
use xip_core::ops::{self, Writer};
use xip_core::{Alone, Device, Properties};
use xip_ext2::{Error, File, InodeNo, NewInode, NewKind, SetAttributes, Volume};

fn new(kind: NewKind<'_>) -> NewInode<'_> {
    NewInode { kind, permissions: 0o644, uid: 0, gid: 0 }
}

/// The new directory gets the last block; the name needs one more.
#[test]
fn a_directory_whose_name_finds_no_space_leaves_no_link_in_its_parent() {
    let volume = volume(256, 64);
    // 15 names of 255 bytes fill the root's only block.
    for n in 0..14 {
        volume.create(InodeNo::ROOT, format!("{n:0>255}").as_bytes(), &new(NewKind::Fifo)).unwrap();
    }
    let file = volume.create(InodeNo::ROOT, b"big", &new(NewKind::Regular)).unwrap();
    let File::Cached(open) = volume.file(file).unwrap() else { unreachable!() };
    while volume.statfs().unwrap().free_blocks > 1 {
        let size = u64::from(volume.inode(file).unwrap().blocks512) * 512;
        ops::write(&open, size.next_multiple_of(4096), &[1; 4096], &Writer::default()).unwrap();
    }
    let mut n = 14;
    let error = loop {
        // Fifos need no block of their own: what fails is the name.
        let name = format!("{n:0>255}");
        let free = volume.statfs().unwrap();
        let kind = if n < 15 { NewKind::Fifo } else { NewKind::Directory };
        if let Err(error) = volume.create(InodeNo::ROOT, name.as_bytes(), &new(kind)) {
            assert_eq!(volume.statfs().unwrap(), free);
            break error;
        }
        n += 1;
    };
    assert_eq!(error, Error::NoSpace);
    assert_eq!(volume.inode(InodeNo::ROOT).unwrap().links, 2);
    fsck(&volume);
}

/// Fails once, after so many writes.
struct Failing<'a> {
    bytes: &'a Bytes,
    left: Cell<u32>,
}

impl Device for Failing<'_> {
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
        let left = self.left.get();
        self.left.set(left.wrapping_sub(1));
        if left == 0 {
            // Part of it has arrived, as on a full disk.
            self.bytes.write(at, &from[..from.len() / 8 * 4])?;
            return Err(xip_core::Error::Io { errno: 28 });
        }
        self.bytes.write(at, from)
    }
}

/// Contract 2: "If zeroing fails, the reservation is undone"; and so it is when linking does.
#[test]
fn a_store_that_fails_while_blocks_are_given_to_a_file_leaves_none_linked_and_free_nor_lost() {
    for page in [0, 8, 12, 12 + 1024] {
        for fail_at in 0.. {
            let made = volume(256, 16);
            let file = made.create(InodeNo::ROOT, b"f", &new(NewKind::Regular)).unwrap();
            let device = Failing { bytes: made.device(), left: Cell::new(u32::MAX) };
            let volume = Volume::open(device, Alone::at(NOW)).unwrap();
            // Only the map is tried here, by its own door: what a fault does.
            let File::Cached(open) = volume.file(file).unwrap() else { unreachable!() };
            volume.device().left.set(fail_at);
            let result = ops::write(&open, page * 4096, &[1; 3 * 4096], &Writer::default());
            let failed = volume.device().left.get() > fail_at;
            if !failed {
                assert_eq!(result, Ok(3 * 4096));
                break;
            }
            // No block is linked that the bitmap calls free.
            ops::truncate(&open, 0).unwrap();
            assert_eq!(volume.inode(file).unwrap().blocks512, 0, "page {page}, store {fail_at}");
            fsck(&made);
        }
    }
}

#[test]
fn cached_files_keep_their_holes_when_the_size_changes() {
    let volume = volume(256, 16);
    let file = volume.create(InodeNo::ROOT, b"f", &new(NewKind::Regular)).unwrap();
    let File::Cached(open) = volume.file(file).unwrap() else { unreachable!() };
    for size in [50_000, 20_001, 40_000, 5] {
        ops::truncate(&open, size).unwrap();
        assert_eq!(volume.inode(file).unwrap().blocks512, 0);
    }
    fsck(&volume);
}

#[test]
fn an_inode_that_is_not_in_use_cannot_be_changed() {
    let volume = volume(256, 16);
    let before = volume.device().to_vec();
    let change = SetAttributes { permissions: Some(0o777), ..SetAttributes::default() };
    assert_eq!(volume.set_attributes(InodeNo(14), &change), Err(Error::NotFound));
    assert_eq!(volume.device().to_vec(), before);
}

#[test]
fn what_cannot_be_made_is_refused_before_anything_is_taken() {
    let volume = volume(256, 16);
    let before = volume.device().to_vec();
    let create = |kind| volume.create(InodeNo::ROOT, b"f", &new(kind)).unwrap_err().errno();
    assert_eq!(create(NewKind::Symlink(b"")), 2);
    assert_eq!(create(NewKind::Symlink(&[b'x'; 4096])), 36);
    assert_eq!(create(NewKind::Block(4096, 0)), 95);
    assert_eq!(volume.device().to_vec(), before);
}
