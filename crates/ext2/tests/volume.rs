//! Volumes made by this crate, judged by e2fsck and read back.

mod support;

use support::{Bytes, NOW, fsck, volume};
use xip_core::ops::{self, Writer};
use xip_core::{Alone, Pages, Timestamp};
use xip_ext2::{Error, File, Format, Geometry, InodeNo, Kind, NewInode, NewKind, SetAttributes, Volume};

fn new(kind: NewKind<'_>) -> NewInode<'_> {
    NewInode { kind, permissions: 0o644, uid: 1000, gid: 70_000 }
}

fn write(volume: &Volume<Bytes, Alone>, number: InodeNo, offset: u64, bytes: &[u8]) -> Result<usize, Error> {
    match volume.file(number).unwrap() {
        File::Cached(file) => ops::write(&file, offset, bytes, &Writer::default()),
        File::InPlace(_) => unreachable!("the device has no direct access"),
    }
}

fn read(volume: &Volume<Bytes, Alone>, number: InodeNo, offset: u64, len: usize) -> Vec<u8> {
    fn all(file: &impl Pages<Error = Error>, offset: u64, len: usize) -> Vec<u8> {
        let mut to = vec![0xaa; len];
        let count = ops::read(file, offset, &mut to).unwrap();
        to.truncate(count);
        to
    }
    match volume.file(number).unwrap() {
        File::Cached(file) => all(&file, offset, len),
        File::InPlace(file) => all(&file, offset, len),
    }
}

#[test]
fn a_new_volume_is_clean_at_every_size() {
    // One group, its edge, two, the copies of sparse_super, a small last group.
    for (blocks, inodes) in
        [(64, 12), (512, 16), (32768, 100), (32769 + 20, 20), (65536, 3000), (12_000, 60_000), (32768 * 4, 40_000)]
    {
        fsck(&volume(blocks, inodes));
    }
}

#[test]
fn a_last_group_too_small_for_its_metadata_is_refused() {
    let error = Geometry::plan(32768 + 3, 1000).unwrap_err();
    assert!(matches!(error, Error::CannotMake { value: 3, .. }), "{error}");
    assert!(Geometry::plan(0, 1).is_err());
    assert!(Geometry::plan(u64::MAX, 1).is_err());
    assert!(Geometry::plan(1000, u32::MAX).is_err());
}

#[test]
fn every_kind_of_file_keeps_what_it_is() {
    let volume = volume(512, 64);
    let long = vec![b'x'; 300];
    let kinds: [(&[u8], NewKind<'_>, Kind); 9] = [
        (b"file", NewKind::Regular, Kind::Regular),
        (b"dir", NewKind::Directory, Kind::Directory),
        (b"fast", NewKind::Symlink(b"target"), Kind::Symlink),
        (b"edge", NewKind::Symlink(&long[..59]), Kind::Symlink),
        (b"slow", NewKind::Symlink(&long), Kind::Symlink),
        (b"block", NewKind::Block(8, 1), Kind::Block),
        (b"character", NewKind::Character(300, 70_000), Kind::Character),
        (b"fifo", NewKind::Fifo, Kind::Fifo),
        (b"socket", NewKind::Socket, Kind::Socket),
    ];
    for (name, kind, expected) in kinds {
        let number = volume.create(InodeNo::ROOT, name, &new(kind)).unwrap();
        assert_eq!(volume.lookup(InodeNo::ROOT, name).unwrap(), Some(number));
        let inode = volume.inode(number).unwrap();
        assert_eq!((inode.kind, inode.permissions, inode.uid, inode.gid), (expected, 0o644, 1000, 70_000));
        assert_eq!(inode.mtime, NOW);
        assert_eq!(inode.links, if expected == Kind::Directory { 2 } else { 1 });
        let mut to = [0; 400];
        match kind {
            NewKind::Symlink(target) => {
                assert_eq!(volume.read_link(number, &mut to).unwrap(), target.len());
                assert_eq!(&to[..target.len()], target);
            }
            NewKind::Block(major, minor) | NewKind::Character(major, minor) => {
                assert_eq!(inode.device, (major, minor));
            }
            _ => assert_eq!(volume.read_link(number, &mut to), Err(Error::WrongKind)),
        }
    }
    assert_eq!(volume.inode(InodeNo::ROOT).unwrap().links, 3);
    assert_eq!(volume.create(InodeNo::ROOT, b"file", &new(NewKind::Fifo)), Err(Error::Exists));
    fsck(&volume);
}

#[test]
fn hard_links_count_and_directories_have_none() {
    let volume = volume(512, 64);
    let number = volume.create(InodeNo::ROOT, b"a", &new(NewKind::Regular)).unwrap();
    let dir = volume.create(InodeNo::ROOT, b"d", &new(NewKind::Directory)).unwrap();
    volume.link(dir, b"b", number).unwrap();
    assert_eq!(volume.inode(number).unwrap().links, 2);
    assert_eq!(volume.lookup(dir, b"b").unwrap(), Some(number));
    assert_eq!(volume.link(dir, b"b", number), Err(Error::Exists));
    assert_eq!(volume.link(dir, b"c", dir), Err(Error::IsDirectory));
    fsck(&volume);
}

/// All four ways from the inode to a page, with holes between: direct, one, two and three levels. Over 4 GiB.
#[test]
fn sparse_files_reach_every_level_of_the_block_map() {
    let volume = volume(2048, 64);
    let number = volume.create(InodeNo::ROOT, b"sparse", &new(NewKind::Regular)).unwrap();
    let page = 4096u64;
    let places =
        [0, 11 * page, 12 * page, (12 + 1023) * page, (12 + 1024) * page + 5, (12 + 1024 + 1024 * 1024) * page];
    for (n, &place) in places.iter().enumerate() {
        assert_eq!(write(&volume, number, place, &[n as u8 + 1; 10]).unwrap(), 10);
    }
    for (n, &place) in places.iter().enumerate() {
        assert_eq!(read(&volume, number, place, 10), [n as u8 + 1; 10]);
    }
    assert_eq!(read(&volume, number, page, 5000), [0; 5000]);
    assert!(volume.inode(number).unwrap().size > 4 << 30);
    fsck(&volume);

    let free = volume.statfs().unwrap().free_blocks;
    let File::Cached(file) = volume.file(number).unwrap() else { unreachable!() };
    ops::truncate(&file, (12 + 1024) * page).unwrap();
    fsck(&volume);
    ops::truncate(&file, 0).unwrap();
    assert_eq!(volume.inode(number).unwrap().blocks512, 0);
    assert_eq!(volume.statfs().unwrap().free_blocks, free + 6 + 1 + 2 + 3);
    fsck(&volume);
}

/// A hole under each of the inode's pointers to pointers, none of which is there.
#[test]
fn an_empty_file_of_any_size_reads_as_zeros() {
    let volume = volume(512, 16);
    let number = volume.create(InodeNo::ROOT, b"hole", &new(NewKind::Regular)).unwrap();
    let File::Cached(file) = volume.file(number).unwrap() else { unreachable!() };
    ops::truncate(&file, 8 << 30).unwrap();
    for page in [0, 11, 12, 12 + 1024, 12 + 1024 + 1024 * 1024] {
        assert_eq!(read(&volume, number, page * 4096, 5000), [0; 5000]);
    }
    fsck(&volume);
}

/// Contract 2: the reservation is undone, and contract 3: a short write, then `ENOSPC`.
#[test]
fn a_full_volume_stays_whole() {
    let volume = volume(256, 64);
    let number = volume.create(InodeNo::ROOT, b"big", &new(NewKind::Regular)).unwrap();
    let written = write(&volume, number, 0, &vec![1; 300 * 4096]).unwrap();
    assert!(written > 200 * 4096 && written < 256 * 4096);
    assert_eq!(volume.statfs().unwrap().free_blocks, 0);
    assert_eq!(write(&volume, number, written as u64, b"x"), Err(Error::NoSpace));
    assert_eq!(volume.create(InodeNo::ROOT, b"dir", &new(NewKind::Directory)), Err(Error::NoSpace));
    fsck(&volume);
}

#[test]
fn inodes_run_out_with_an_error() {
    let volume = volume(256, 12);
    let made =
        (0..).take_while(|n| volume.create(InodeNo::ROOT, format!("f{n}").as_bytes(), &new(NewKind::Regular)).is_ok());
    assert_eq!(made.count() as u32, volume.geometry().inodes - 10);
    fsck(&volume);
}

#[test]
fn times_and_owners_are_kept_to_the_nanosecond_and_past_2038() {
    let volume = volume(256, 16);
    let number = volume.create(InodeNo::ROOT, b"f", &new(NewKind::Regular)).unwrap();
    let time = |seconds, nanoseconds| Some(Timestamp { seconds, nanoseconds });
    let change = SetAttributes {
        permissions: Some(0o6755),
        uid: Some(u32::MAX - 1),
        gid: Some(65_536),
        atime: time(-1, 1),
        mtime: time(1 << 33, 999_999_999),
        ctime: time(0, 0),
        crtime: time(1_000_000_000, 5),
        drop_set_id: false,
    };
    volume.set_attributes(number, &change).unwrap();
    let inode = volume.inode(number).unwrap();
    assert_eq!((inode.permissions, inode.uid, inode.gid), (0o6755, u32::MAX - 1, 65_536));
    let times = [inode.atime, inode.mtime, inode.ctime, inode.crtime].map(Some);
    assert_eq!(times, [change.atime, change.mtime, change.ctime, change.crtime]);
    // Contract 3, write: setuid always dropped, setgid where the group may execute.
    write(&volume, number, 0, b"x").unwrap();
    assert_eq!(volume.inode(number).unwrap().permissions, 0o755);
    fsck(&volume);
}

#[test]
fn the_same_format_makes_the_same_bytes() {
    let make = || volume(1000, 100).device().to_vec();
    // What the format does not write is not compared: it is the device's, which is the same here.
    assert_eq!(make(), make());
}

#[test]
fn a_read_only_device_makes_a_read_only_volume() {
    let image = volume(256, 16).device().to_vec();
    let mut device = Bytes::of(&image);
    device.writable = false;
    let volume = Volume::open(device, Alone::default()).unwrap();
    assert!(volume.read_only().is_some());
    let error = volume.create(InodeNo::ROOT, b"f", &new(NewKind::Regular)).unwrap_err();
    assert_eq!(error.errno(), 30);
    assert_eq!(volume.device().to_vec(), image);
}

#[test]
fn a_device_too_short_for_the_format_is_refused() {
    let format = Format { blocks: 100, inodes: 16, ..Format::default() };
    assert!(Volume::format(Bytes::new(99), Alone::default(), &format).is_err());
}

/// Contract 5, `dir_index`: an index of two levels, which e2fsck follows as the kernel does.
#[test]
fn a_directory_of_a_hundred_thousand_entries_is_clean_and_every_name_is_found() {
    let volume = volume(8192, 32);
    let file = volume.create(InodeNo::ROOT, b"file", &new(NewKind::Regular)).unwrap();
    let dir = volume.create(InodeNo::ROOT, b"dir", &new(NewKind::Directory)).unwrap();
    // A file can have 65,000 names.
    let other = volume.create(InodeNo::ROOT, b"other", &new(NewKind::Fifo)).unwrap();
    let name = |n: u32| format!("name-{n}-of-many").into_bytes();
    let target = |n: u32| if n.is_multiple_of(2) { file } else { other };
    for n in 0..100_000 {
        volume.link(dir, &name(n), target(n)).unwrap();
    }
    for n in 0..100_000 {
        assert_eq!(volume.lookup(dir, &name(n)).unwrap(), Some(target(n)));
    }
    assert_eq!(volume.lookup(dir, &name(100_000)).unwrap(), None);
    let mut count = 0;
    volume
        .read_dir(dir, 0, &mut |_| {
            count += 1;
            true
        })
        .unwrap();
    assert_eq!(count, 100_002);
    fsck(&volume);
}
