//! The file operations in place, over a device that has direct access: memory.

use std::fs::{self, File};
use std::process::Command;
use xip_core::ops::{self, Writer};
use xip_core::{Alone, Create, Device, Extent, Host, Mapping, PAGE_SIZE, PageIndex, Timestamp};
use xip_ext2::{Error, Format, Goal, InodeNo, NewInode, NewKind, Volume};
use xip_segment::{Access, Memory, PlainFile};

const NOW: Timestamp = Timestamp { seconds: 1_700_000_000, nanoseconds: 0 };
const MIB: usize = 1 << 20;

fn volume() -> Volume<Memory, Alone> {
    let format = Format { blocks: 8192, inodes: 64, root_permissions: 0o755, ..Format::default() };
    Volume::format(Memory::new(8192).unwrap(), Alone::at(NOW), &format).unwrap()
}

fn create(volume: &Volume<impl Device, Alone>, name: &str) -> InodeNo {
    let new = NewInode { kind: NewKind::Regular, permissions: 0o644, uid: 0, gid: 0 };
    volume.create(InodeNo::ROOT, name.as_bytes(), &new).unwrap()
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n / 4096 * 31 + n) as u8 | 1).collect()
}

/// What stands on the device, as a file; `e2fsck -fn` must call it clean.
fn fsck(volume: &Volume<Memory, Alone>) -> tempfile::NamedTempFile {
    let mut bytes = vec![0; volume.geometry().bytes() as usize];
    volume.device().read(0, &mut bytes).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let out = Command::new("e2fsck").arg("-fn").arg(file.path()).env("PATH", path).output();
    let out = out.expect("e2fsck: run cargo xtask setup");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
    file
}

/// Contract 3: written, cut, grown and sent, straight to and from storage.
#[test]
fn a_file_is_written_cut_grown_and_sent_in_place() {
    let volume = volume();
    let number = create(&volume, "f");
    let file = volume.file_in_place(number, Goal::default()).unwrap();
    let bytes = pattern(3 * MIB + 10);
    assert_eq!(ops::write(&file, 5000, &bytes, &Writer::default()), Ok(bytes.len()));
    let mut expected = vec![0; 5000];
    expected.extend(&bytes);
    let mut read = vec![0xaa; expected.len() + 10];
    assert_eq!(ops::read(&file, 0, &mut read), Ok(expected.len()));
    assert!(read[..expected.len()] == expected);
    fsck(&volume);

    // Tail rule: a store through a mapping beyond the end is gone when the file grows.
    ops::truncate(&file, 20_000).unwrap();
    let Ok(Extent::Storage(run)) = file.mapping().get_xip_page(PageIndex(4), Create::No) else { panic!("a hole") };
    volume.device().direct_access_mut(run.first, 1).unwrap().write(20_000 % PAGE_SIZE, b"beyond");
    ops::truncate(&file, MIB as u64).unwrap();
    expected.truncate(20_000);
    expected.resize(MIB, 0);
    fsck(&volume);

    let (mut sent, mut holes) = (Vec::new(), 0);
    let count = ops::sendfile(&file, 0, usize::MAX, |piece| {
        match piece {
            xip_core::mapping::Piece::Storage(region) => {
                let mut bytes = vec![0; region.len()];
                region.read(0, &mut bytes);
                sent.extend(bytes);
            }
            xip_core::mapping::Piece::Hole(len) => {
                holes += len;
                sent.resize(sent.len() + len, 0);
            }
        }
        Ok(piece.len())
    });
    assert_eq!(count, Ok(MIB));
    assert!(sent == expected);
    // The first page, and all that was added.
    assert_eq!(holes, 4096 + MIB - 20_480);

    let free = volume.statfs().unwrap().free_blocks;
    let used = volume.inode(number).unwrap().blocks512 / 8;
    ops::truncate(&file, 0).unwrap();
    assert_eq!(volume.statfs().unwrap().free_blocks, free + used);
    fsck(&volume);
}

/// Contract 2, zero before publish: a page that another file had shows nothing of it.
#[test]
fn a_page_given_to_a_file_is_zeros_whoever_had_it() {
    let volume = volume();
    let goal = Goal { data: Some(5000), pointers: None };
    let old = volume.file_in_place(create(&volume, "old"), goal).unwrap();
    ops::write(&old, 0, &[0xff; 4096], &Writer::default()).unwrap();
    ops::truncate(&old, 0).unwrap();
    let new = volume.file_in_place(create(&volume, "new"), goal).unwrap();
    let Ok(Extent::Storage(run)) = new.mapping().get_xip_page(PageIndex(0), Create::Yes) else { panic!("a hole") };
    assert_eq!(run.first.0, 5000);
    assert!(volume.device().direct_access(run.first, 1).unwrap().is_zero_from(0));
    ops::truncate(&new, 4096).unwrap();
    fsck(&volume);
}

/// The builder's promise: pointers stand elsewhere, so the data of a file is one run.
#[test]
fn a_file_of_ten_megabytes_is_one_run_where_the_goal_says() {
    let volume = volume();
    let goal = Goal { data: Some(4096), pointers: Some(2000) };
    let file = volume.file_in_place(create(&volume, "f"), goal).unwrap();
    let bytes = pattern(10 * MIB);
    // In pieces, as a builder reads them.
    for (n, part) in bytes.chunks(MIB + 4096).enumerate() {
        let at = n * (MIB + 4096);
        assert_eq!(ops::write(&file, at as u64, part, &Writer::default()), Ok(part.len()));
    }
    for index in 0..PageIndex::count(file.size().unwrap()).0 {
        let Ok(Extent::Storage(run)) = file.mapping().get_xip_page(PageIndex(index), Create::No) else {
            panic!("a hole")
        };
        assert_eq!(run.first.0, 4096 + index, "page {index}");
    }
    let image = fsck(&volume);

    // The same bytes through a file without direct access: read by copies, and in place is refused with the reason.
    let plain = PlainFile::open(File::open(image.path()).unwrap(), Access::ReadOnly).unwrap();
    let cached = Volume::open(plain, Alone::at(NOW)).unwrap();
    let number = cached.lookup(InodeNo::ROOT, b"f").unwrap().unwrap();
    match cached.file_in_place(number, Goal::default()).map(drop) {
        Err(error @ Error::Device(xip_core::Error::NoDirectAccess { reason })) => {
            assert!(error.to_string().contains(reason) && reason.len() > 10, "{error}");
            assert_eq!(error.errno(), 95);
        }
        other => panic!("{other:?}"),
    }
    let xip_ext2::File::Cached(open) = cached.file(number).unwrap() else { panic!("in place without direct access") };
    let mut read = vec![0; bytes.len()];
    assert_eq!(ops::read(&open, 0, &mut read), Ok(bytes.len()));
    assert!(read == bytes);
}
