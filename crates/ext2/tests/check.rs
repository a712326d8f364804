//! The checker: what a crash may leave is mended and e2fsck then calls the volume clean; anything else is named and left
//! alone (contract 7).

mod support;

use std::cell::Cell;
use support::{Bytes, NOW, fsck_file, volume};
use xip_core::ops::{self, Writer};
use xip_core::{Alone, Device, Properties};
use xip_ext2::check::{Class, Finding, Options, Summary, check, memory_wanted};
use xip_ext2::{Error, File, InodeNo, NewInode, NewKind, Rename, Volume};

fn run(device: &Bytes, repair: bool) -> (Summary, Vec<Finding>) {
    let mut memory = vec![0xaa; memory_wanted(device).unwrap()];
    let mut found = Vec::new();
    let options = Options { repair, now: Some(NOW.seconds.unsigned_abs()) };
    let summary = check(device, &mut memory, &options, &mut |finding| found.push(*finding)).unwrap();
    assert_eq!(summary.leaks, found.iter().filter(|finding| finding.class() == Class::Leak).count() as u64);
    assert_eq!(summary.damages, found.iter().filter(|finding| finding.class() == Class::Damage).count() as u64);
    (summary, found)
}

fn codes(found: &[Finding]) -> Vec<&'static str> {
    let mut codes: Vec<_> = found.iter().map(Finding::code).collect();
    codes.sort_unstable();
    codes.dedup();
    codes
}

fn e2fsck(device: &Bytes) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), device.to_vec()).unwrap();
    fsck_file(file.path());
}

/// A volume with something of everything, and where its parts are.
struct Sample {
    device: Bytes,
    file: u32,
    dir: u32,
    empty: u32,
    names: u32,
    with_block: u32,
}

fn sample() -> Sample {
    let volume = volume(512, 64);
    let new = |kind| NewInode { kind, permissions: 0o755, uid: 0, gid: 0 };
    let create = |dir, name: &[u8], kind| volume.create(dir, name, &new(kind)).unwrap();
    let dir = create(InodeNo::ROOT, b"dir", NewKind::Directory);
    let file = create(dir, b"file", NewKind::Regular);
    let File::Cached(open) = volume.file(file).unwrap() else { unreachable!() };
    for place in [0, 4096, 2 * 4096, 12 * 4096, (12 + 1024) * 4096, (12 + 1024 + 1024 * 1024) * 4096] {
        ops::write(&open, place, b"data", &Writer::default()).unwrap();
    }
    create(dir, b"fast", NewKind::Symlink(b"file"));
    create(dir, b"slow", NewKind::Symlink(&[b's'; 200]));
    create(dir, b"null", NewKind::Character(1, 3));
    create(dir, b"fifo", NewKind::Fifo);
    create(dir, b"socket", NewKind::Socket);
    let empty = create(InodeNo::ROOT, b"empty", NewKind::Directory);
    let names = create(InodeNo::ROOT, b"names", NewKind::Directory);
    for n in 0..60 {
        volume.link(names, format!("{n:0>200}").as_bytes(), file).unwrap();
    }
    let with_block = create(InodeNo::ROOT, b"attributes", NewKind::Regular);
    volume.set_xattr(with_block, b"user.small", Some(b"1")).unwrap();
    volume.set_xattr(with_block, b"user.large", Some(&[b'x'; 1000])).unwrap();
    let device = Bytes::of(&volume.device().to_vec());
    e2fsck(&device);
    assert_eq!(run(&device, true), (Summary::default(), vec![]));
    Sample { device, file: file.0, dir: dir.0, empty: empty.0, names: names.0, with_block: with_block.0 }
}

impl Sample {
    fn word(&self, at: u64) -> u32 {
        let mut bytes = [0; 4];
        self.device.read(at, &mut bytes).unwrap();
        u32::from_le_bytes(bytes)
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.device.write(at, bytes).unwrap();
    }

    fn inode(&self, number: u32) -> u64 {
        u64::from(self.word(4096 + 8)) * 4096 + u64::from(number - 1) * 256
    }

    /// Block `n` of a file that has it directly.
    fn block(&self, number: u32, n: u64) -> u64 {
        u64::from(self.word(self.inode(number) + 40 + 4 * n)) * 4096
    }

    /// Where the entry of a name is in the first block of a directory.
    fn entry(&self, directory: u32, name: &[u8]) -> u64 {
        let block = self.block(directory, 0);
        let mut bytes = [0; 4096];
        self.device.read(block, &mut bytes).unwrap();
        block + bytes.windows(name.len()).position(|part| part == name).unwrap() as u64 - 8
    }

    fn free_block(&self) -> u32 {
        let mut free = None;
        let volume = Volume::open(&self.device, Alone::at(NOW)).unwrap();
        volume.free_runs(&mut |run| free = free.or(Some(run.start))).unwrap();
        free.unwrap()
    }

    /// Marks a block as taken.
    fn take(&self, block: u32) {
        let at = u64::from(self.word(4096)) * 4096 + u64::from(block / 8);
        let byte = self.word(at) as u8;
        self.put(at, &[byte | 1 << (block % 8)]);
    }
}

#[test]
fn new_volumes_are_clean_at_every_size() {
    for (blocks, inodes) in
        [(64, 12), (512, 16), (32768, 100), (32769 + 20, 20), (65536, 3000), (12_000, 60_000), (32768 * 4, 40_000)]
    {
        let volume = volume(blocks, inodes);
        assert_eq!(run(volume.device(), true), (Summary::default(), vec![]), "{blocks} {inodes}");
    }
}

#[test]
fn what_is_not_ext2_or_needs_e2fsck_is_refused() {
    let image = volume(64, 12).device().to_vec();
    let wanted = |at: usize, value: u8| {
        let mut image = image.clone();
        image[at] = value;
        memory_wanted(&Bytes::of(&image))
    };
    assert!(matches!(wanted(1024 + 56, 0), Err(Error::NotExt2 { .. })));
    // Extents; a journal; checksums.
    assert!(matches!(wanted(1024 + 96, 0x42), Err(Error::UnknownFeature { .. })));
    assert!(matches!(wanted(1024 + 92, 0x2c), Err(Error::Unsupported(_))));
    assert!(matches!(wanted(1024 + 101, 0x04), Err(Error::Unsupported(_))));
    let device = Bytes::of(&image);
    let mut memory = vec![0; memory_wanted(&device).unwrap() - 1];
    assert!(check(&device, &mut memory, &Options::default(), &mut |_| {}).is_err());
    let mut device = Bytes::of(&image);
    device.writable = false;
    let repair = Options { repair: true, ..Options::default() };
    assert!(matches!(check(&device, &mut [0; 4096], &repair, &mut |_| {}), Err(Error::ReadOnly { .. })));
}

/// Contract 7: "nothing but leaked blocks and inodes and link counts that are too high needs repair".
#[test]
fn what_a_crash_may_leave_is_mended_and_e2fsck_agrees() {
    type Case = (&'static [&'static str], fn(&Sample));
    let cases: [Case; 16] = [
        (&["unclean"], |s| s.put(1024 + 58, &[0])),
        (&["unclean"], |s| s.put(1024 + 58, &[3])),
        (&["orphans"], |s| s.put(1024 + 232, &[12])),
        (&["leaked-blocks"], |s| {
            let free = s.free_block();
            (free..free + 3).for_each(|block| s.take(block));
        }),
        // Made, not yet named.
        (&["counter", "leaked-blocks", "leaked-inode", "links-too-high"], |s| {
            s.put(s.entry(2, b"empty"), &[0; 4]);
        }),
        (&["counter", "leaked-inode"], |s| s.put(s.entry(s.dir, b"fast"), &[0; 4])),
        // Deleted, and the bitmap not yet told.
        (&["counter", "deletion-time", "leaked-inode"], |s| {
            let entry = s.entry(s.dir, b"fifo");
            let number = s.word(entry);
            s.put(entry, &[0; 4]);
            s.put(s.inode(number) + 26, &[0; 2]);
        }),
        (&["links-too-high"], |s| s.put(s.inode(s.file) + 26, &[99])),
        (&["links-too-high"], |s| s.put(s.inode(s.dir) + 26, &[9])),
        (&["block-count"], |s| s.put(s.inode(s.file) + 28, &[200])),
        (&["block-count"], |s| s.put(s.inode(s.file) + 28, &[8])),
        (&["beyond-end", "block-count", "counter", "leaked-blocks"], |s| {
            s.put(s.inode(s.file) + 4, &5000u32.to_le_bytes());
            s.put(s.inode(s.file) + 108, &[0; 4]);
        }),
        (&["deletion-time"], |s| s.put(s.inode(s.file) + 20, &[1, 2, 3, 4])),
        (&["counter"], |s| {
            s.put(4096 + 12, &[1; 6]);
            s.put(1024 + 12, &[1; 8]);
        }),
        (&["owners-too-high"], |s| {
            let block = u64::from(s.word(s.inode(s.with_block) + 104));
            s.put(4096 * block + 4, &[7]);
        }),
        // A directory that was growing.
        (&["block-count", "counter", "empty-block"], |s| {
            let free = s.free_block();
            s.take(free);
            s.put(u64::from(free) * 4096, &[0; 4096]);
            s.put(s.inode(s.dir) + 44, &free.to_le_bytes());
            s.put(s.inode(s.dir) + 4, &8192u32.to_le_bytes());
        }),
    ];
    for (n, (expected, change)) in cases.into_iter().enumerate() {
        let sample = sample();
        change(&sample);
        let before = sample.device.to_vec();
        let (summary, found) = run(&sample.device, false);
        assert_eq!(codes(&found), expected, "case {n}: {found:?}");
        assert!(!summary.is_clean() && !summary.mended);
        assert!(sample.device.to_vec() == before, "case {n}: a check without repair has written");

        let (summary, same) = run(&sample.device, true);
        assert!(summary.is_clean() && summary.mended, "case {n}");
        assert_eq!(same, found, "case {n}");
        e2fsck(&sample.device);
        let mended = sample.device.to_vec();
        assert_eq!(run(&sample.device, true), (Summary::default(), vec![]), "case {n}");
        assert!(sample.device.to_vec() == mended, "case {n}: a second repair has written");
        // What was not concerned is still there.
        let volume = Volume::open(&sample.device, Alone::at(NOW)).unwrap();
        assert_eq!(volume.lookup(InodeNo(sample.dir), b"file").unwrap(), Some(InodeNo(sample.file)));
    }
}

#[test]
fn damage_is_named_and_nothing_is_touched() {
    type Case = (&'static str, fn(&Sample));
    let cases: [Case; 28] = [
        ("volume", |s| s.put(4096, &[0; 4])),
        ("volume", |s| s.put(1024 + 32, &[1, 0x80])),
        ("superblock", |s| s.put(1024 + 8, &[0xff; 4])),
        ("superblock", |s| s.put(1024 + 48, &[0xff; 4])),
        ("padding", |s| s.put(u64::from(s.word(4096)) * 4096 + 4095, &[0x7f])),
        ("padding", |s| s.put(u64::from(s.word(4096 + 4)) * 4096 + 4095, &[0x7f])),
        ("not-marked", |s| s.put(u64::from(s.word(4096)) * 4096 + 2, &[0])),
        ("not-marked", |s| s.put(u64::from(s.word(4096 + 4)) * 4096 + 1, &[0])),
        ("damaged", |s| s.put(s.inode(s.file) + 26, &[1])),
        ("damaged", |s| s.put(s.inode(s.file) + 1, &[0x91])),
        ("damaged", |s| s.put(s.inode(s.file) + 40, &[0xff; 4])),
        ("damaged", |s| s.put(s.inode(s.file) + 128, &[33])),
        ("damaged", |s| s.put(s.inode(s.dir) + 5, &[0x20])),
        ("two-owners", |s| s.put(s.inode(s.file) + 40, &s.word(s.inode(s.file) + 44).to_le_bytes())),
        ("two-owners", |s| s.put(s.inode(s.file) + 40, &[2, 0, 0, 0])),
        // Two names for one directory; a loop; a name for the root.
        ("damaged", |s| s.put(s.entry(s.dir, b"fifo"), &s.empty.to_le_bytes())),
        ("damaged", |s| s.put(s.entry(2, b"dir"), &s.empty.to_le_bytes())),
        ("damaged", |s| s.put(s.entry(s.dir, b"fifo"), &[2, 0, 0, 0])),
        ("damaged", |s| s.put(s.entry(s.dir, b"fifo"), &[60, 0, 0, 0])),
        ("damaged", |s| s.put(s.entry(s.dir, b"fifo") + 7, &[1])),
        ("damaged", |s| s.put(s.entry(s.dir, b"fifo") + 8, b"fast")),
        ("damaged", |s| s.put(s.entry(s.dir, b"fifo") + 8, b"f/fo")),
        // The hash from which on names are in the second leaf of an index.
        ("damaged", |s| s.put(s.block(s.names, 0) + 40, &[2, 0, 0, 0])),
        ("damaged", |s| {
            let block = u64::from(s.word(s.inode(s.with_block) + 104));
            s.put(4096 * block + 4095, b"y");
        }),
        // A zero byte in the name of an attribute in an inode, without a hash (found by fuzzing).
        ("damaged", |s| s.put(s.inode(s.with_block) + 176, &[0; 5])),
        // Blocks of an index that had names (found by fuzzing): in the middle, and the last.
        ("damaged", |s| s.put(s.block(s.names, 1), &[0; 4096])),
        ("damaged", |s| s.put(s.block(s.names, u64::from(s.word(s.inode(s.names) + 4)) / 4096 - 1), &[0; 4096])),
        // One without an index, before the last block.
        ("damaged", |s| {
            for (n, block) in (1..).zip([s.free_block(), s.free_block() + 1]) {
                s.take(block);
                s.put(u64::from(block) * 4096, &[0; 4096]);
                s.put(s.inode(s.dir) + 40 + 4 * n, &block.to_le_bytes());
            }
            s.put(s.inode(s.dir) + 4, &(3 * 4096u32).to_le_bytes());
        }),
    ];
    for (n, (expected, change)) in cases.into_iter().enumerate() {
        let sample = sample();
        change(&sample);
        // A leak beside it is not touched either: it may be what was lost.
        sample.put(1024 + 58, &[0]);
        let before = sample.device.to_vec();
        let (summary, found) = run(&sample.device, true);
        assert!(codes(&found).contains(&expected), "case {n}: {found:?}");
        assert!(summary.damages > 0 && !summary.mended && !summary.is_clean(), "case {n}");
        assert!(sample.device.to_vec() == before, "case {n}");
    }
}

/// The directory that loses its name is not empty, or was not: no crash leaves that, and it is not freed.
#[test]
fn a_directory_that_lost_its_name_keeps_what_is_in_it() {
    type Case = (&'static [u8], fn(&Sample) -> u32, fn(&Sample));
    let cases: [Case; 4] = [
        (b"dir", |s| s.dir, |_| {}),
        (b"dir", |s| s.dir, |s| s.put(s.block(s.dir, 0), &[0; 4096])),
        (
            b"names",
            |s| s.names,
            |s| {
                let blocks = u64::from(s.word(s.inode(s.names) + 4)) / 4096;
                (1..blocks).for_each(|n| s.put(s.block(s.names, n), &[0; 4096]));
            },
        ),
        (b"names", |s| s.names, |s| s.put(s.inode(s.names) + 44, &[0; 56])),
    ];
    for (n, (name, number, change)) in cases.into_iter().enumerate() {
        let sample = sample();
        let number = number(&sample);
        sample.put(sample.entry(2, name), &[0; 4]);
        change(&sample);
        let before = sample.device.to_vec();
        let (_, found) = run(&sample.device, true);
        let damaged = |finding: &Finding| finding.class() == Class::Damage && finding.inode() == Some(number);
        assert!(found.iter().any(damaged), "case {n}: {found:?}");
        assert!(sample.device.to_vec() == before, "case {n}");
    }
}

/// A device that takes so many stores and loses all that come after.
struct Failing<'d>(&'d Bytes, Cell<u32>);

impl Device for Failing<'_> {
    fn pages(&self) -> u64 {
        self.0.pages()
    }
    fn properties(&self) -> Properties {
        self.0.properties()
    }
    fn read(&self, at: u64, to: &mut [u8]) -> Result<(), xip_core::Error> {
        self.0.read(at, to)
    }
    fn write(&self, at: u64, from: &[u8]) -> Result<(), xip_core::Error> {
        match self.1.get().checked_sub(1) {
            Some(left) => self.1.set(left),
            None => return Ok(()),
        }
        self.0.write(at, from)
    }
}

/// Contract 7: a directory that moves is named once, wherever the power was lost. The check sees it as it will be when
/// the move is completed, and completes it.
#[test]
fn a_move_of_a_directory_that_was_under_way_is_completed() {
    let clean = sample().device.to_vec();
    let mut under_way = 0;
    for stores in 0..40 {
        let device = Bytes::of(&clean);
        let volume = Volume::open(Failing(&device, Cell::new(stores)), Alone::at(NOW)).unwrap();
        let dir = volume.lookup(InodeNo::ROOT, b"dir").unwrap().unwrap();
        let _ = volume.rename(InodeNo::ROOT, b"empty", dir, b"moved", Rename::default());
        let (summary, found) = run(&device, false);
        assert_eq!(summary.damages, 0, "{stores} stores: {found:?}");
        under_way += u32::from(found.contains(&Finding::Intent));
        assert!(run(&device, true).0.is_clean());
        assert_eq!(run(&device, true), (Summary::default(), vec![]));
        e2fsck(&device);
        let volume = Volume::open(&device, Alone::at(NOW)).unwrap();
        let names = [(InodeNo::ROOT, &b"empty"[..]), (dir, b"moved")];
        let there = names.map(|(parent, name)| volume.lookup(parent, name).unwrap().is_some());
        assert!(there == [true, false] || there == [false, true], "{stores} stores: {there:?}");
    }
    assert!(under_way > 0);
}
