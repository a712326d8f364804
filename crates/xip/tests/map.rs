//! Files mapped into the process: contract 4, and the pins of contract 6.

mod common;

use common::mapped::{PAGE, bytes, errno, world};
use common::{fsck, pattern};
use std::os::unix::fs::FileExt;
use xip::{OpenOptions, Sharing, Volume};

const EBADF: i32 = 9;
const EFAULT: i32 = 14;
const EBUSY: i32 = 16;
const EINVAL: i32 = 22;
const ENOSPC: i32 = 28;
const EOPNOTSUPP: i32 = 95;

/// Contract 4: the storage itself, run by run.
#[test]
fn a_map_shows_every_run_and_hole_of_a_file_where_it_is() {
    let world = world(8);
    let (file, mut expected) = world.fragmented("f", 40);
    file.punch_hole(5 * PAGE as u64, 2 * PAGE as u64).unwrap();
    file.punch_hole(20 * PAGE as u64 + 10, 3 * PAGE as u64).unwrap();
    expected[5 * PAGE..7 * PAGE].fill(0);
    expected[20 * PAGE + 10..23 * PAGE + 10].fill(0);
    assert!(file.extents().unwrap().len() > 10);
    let map = file.map(0, expected.len(), Sharing::Read).unwrap();
    assert_eq!(map.len(), 40 * PAGE);
    assert!(bytes(&map, 0, expected.len()) == expected);
    // A part that begins in the middle, and reaches beyond the end.
    let part = file.map(6 * PAGE as u64, 1 << 20, Sharing::Read).unwrap();
    assert!(bytes(&part, 0, 34 * PAGE - 100) == expected[6 * PAGE..]);
    assert_eq!(bytes(&part, 33 * PAGE + 4000, 96), [0; 96], "the rest of the last page");
    // The same through the volume opened to be read, which keeps what it finds.
    drop((map, part, file));
    world.volume.close().unwrap();
    let volume = Volume::open(&world.image).unwrap();
    let map = volume.file("f").unwrap().map(0, expected.len(), Sharing::Read).unwrap();
    assert!(bytes(&map, 0, expected.len()) == expected);
    assert!(map.as_slice().is_none(), "an image file can change");
    fsck(&world.image);
}

/// Contract 4: a store is visible at once to `read` and to every other mapping, and theirs to it.
#[test]
fn a_store_through_a_shared_map_is_seen_at_once_by_reads_and_other_maps() {
    let world = world(4);
    let (file, mut expected) = world.fragmented("f", 12);
    let [one, other] = [(); 2].map(|()| file.map(0, 12 * PAGE, Sharing::Write).unwrap());
    let middle = world.volume.file("f").unwrap().map(4 * PAGE as u64, PAGE, Sharing::Read).unwrap();
    let store = pattern(9, 3 * PAGE);
    one.write(3 * PAGE + 17, &store).unwrap();
    expected[3 * PAGE + 17..][..store.len()].copy_from_slice(&store);
    assert!(world.volume.read("f").unwrap() == expected);
    assert!(bytes(&other, 0, expected.len()) == expected);
    assert!(bytes(&middle, 0, PAGE) == expected[4 * PAGE..5 * PAGE]);
    file.write_all_at(b"by a write", 4 * PAGE as u64).unwrap();
    assert_eq!(bytes(&middle, 0, 10), b"by a write");
    // And whoever reads the image sees it too: it is the storage.
    let run = file.extents().unwrap()[0].run;
    one.write(0, b"in the image").unwrap();
    let mut in_image = [0; 12];
    std::fs::File::open(&world.image).unwrap().read_exact_at(&mut in_image, run.first.0 * 4096).unwrap();
    assert_eq!(&in_image, b"in the image");
    drop((one, other, middle, file));
    world.closed();
}

/// Contract 4: the error that stands for `SIGBUS`, as of the moment of the access.
#[test]
fn a_page_wholly_beyond_the_end_is_an_error_however_long_the_file_was() {
    let world = world(4);
    let file = world.file("f");
    file.write_all_at(&[1; 3 * PAGE], 0).unwrap();
    let map = file.map(0, 5 * PAGE, Sharing::Write).unwrap();
    let mut byte = [7];
    assert_eq!(errno(map.read(3 * PAGE, &mut byte)), EFAULT);
    assert_eq!(errno(map.read(2 * PAGE, &mut [0; PAGE + 1])), EFAULT);
    assert_eq!(errno(map.write(3 * PAGE, b"x")), EFAULT);
    assert_eq!(errno(map.read(5 * PAGE, &mut byte)), EFAULT);
    assert_eq!(errno(map.read(usize::MAX, &mut byte)), EFAULT);
    assert_eq!(byte, [7]);
    map.read(5 * PAGE, &mut []).unwrap();
    file.set_len(5 * PAGE as u64).unwrap();
    assert_eq!(bytes(&map, 4 * PAGE, PAGE), [0; PAGE]);
    file.set_len(PAGE as u64 + 1).unwrap();
    assert_eq!(errno(map.read(2 * PAGE, &mut byte)), EFAULT);
    let words = map.read(2 * PAGE, &mut byte).unwrap_err().to_string();
    assert!(words.contains("page 2 ") && words.contains("end"), "{words}");
    // The last page is there to its end.
    map.write(2 * PAGE - 1, b"t").unwrap();
    // Contract 3, tail rule: what was stored beyond the end is gone when the file grows.
    file.set_len(4 * PAGE as u64).unwrap();
    assert_eq!(bytes(&map, PAGE + 1, PAGE - 1), [0; PAGE - 1]);
    assert_eq!(bytes(&map, 0, PAGE + 1), [1; PAGE + 1]);
    drop((map, file));
    world.closed();
}

/// Contract 4: a read of a hole gives zeros and allocates nothing, a write allocates; no space is an error.
#[test]
fn a_hole_gets_storage_when_it_is_written_through_a_map_and_not_when_it_is_read() {
    let world = world(4);
    let file = world.file("f");
    file.set_len(300 * PAGE as u64).unwrap();
    let free = world.free();
    let [map, other] = [Sharing::Write, Sharing::Read].map(|how| file.map(0, 300 * PAGE, how).unwrap());
    assert_eq!(bytes(&map, 0, 300 * PAGE), [0; 300 * PAGE]);
    assert_eq!((world.free(), file.metadata().unwrap().blocks()), (free, 0));
    map.write(10 * PAGE - 2, b"over").unwrap();
    assert_eq!(file.metadata().unwrap().blocks() / 8, 2);
    assert_eq!(bytes(&other, 10 * PAGE - 4, 8), b"\0\0over\0\0");
    assert_eq!(world.volume.read("f").unwrap()[10 * PAGE - 2..][..4], *b"over");
    assert_eq!(file.len(), 300 * PAGE as u64);
    // A store that cannot be made gives nothing storage.
    assert_eq!(errno(map.write(299 * PAGE, &[1; PAGE + 1])), EFAULT);
    assert_eq!(file.metadata().unwrap().blocks() / 8, 2);
    let filler = world.file("filler");
    let _ = filler.write_at(&vec![1; 4 << 20], 0);
    assert_eq!(world.free(), 0);
    assert_eq!(errno(map.write(200 * PAGE, b"x")), ENOSPC);
    map.write(10 * PAGE, b"still").unwrap();
    drop((map, other, file, filler));
    world.closed();
}

/// Contract 4: a private map shares storage until its first store to a page.
#[test]
fn a_private_map_has_copies_only_of_the_pages_it_has_stored_to() {
    let world = world(4);
    let file = world.file("f");
    file.write_all_at(&[1; 4 * PAGE], 0).unwrap();
    file.set_len(8 * PAGE as u64).unwrap();
    let blocks = file.metadata().unwrap().blocks();
    // A file that is only opened to be read is enough.
    let map = world.volume.file("f").unwrap().map(0, 9 * PAGE, Sharing::Private).unwrap();
    map.write(PAGE - 1, b"mine").unwrap();
    map.write(5 * PAGE, b"mine").unwrap();
    assert_eq!(file.metadata().unwrap().blocks(), blocks, "a private store gives the file nothing");
    assert_eq!(world.volume.read("f").unwrap()[..4 * PAGE], [1; 4 * PAGE]);
    file.write_all_at(&[2; 8 * PAGE], 0).unwrap();
    assert_eq!(bytes(&map, PAGE - 2, 6), b"\x01mine\x01", "its own");
    assert_eq!(bytes(&map, 2 * PAGE, 2 * PAGE), [2; 2 * PAGE], "shared still");
    assert_eq!(bytes(&map, 5 * PAGE, 5), b"mine\0", "its own, although there was a hole");
    assert_eq!(bytes(&map, 6 * PAGE, PAGE), [2; PAGE], "a hole that was written");
    // A punched hole takes nothing from it; what is cut off is gone.
    file.punch_hole(0, 4 * PAGE as u64).unwrap();
    assert_eq!(bytes(&map, PAGE - 2, 6), b"\x01mine\x01");
    assert_eq!(bytes(&map, 2 * PAGE, PAGE), [0; PAGE]);
    file.set_len(PAGE as u64).unwrap();
    assert_eq!(errno(map.read(5 * PAGE, &mut [0])), EFAULT);
    assert_eq!(errno(map.write(8 * PAGE, b"x")), EFAULT);
    file.set_len(8 * PAGE as u64).unwrap();
    assert_eq!(bytes(&map, 5 * PAGE, 5), [0; 5]);
    assert_eq!(bytes(&map, PAGE - 1, 5), b"m\0\0\0\0");
    drop((map, file));
    // On a volume that is only read, too.
    world.volume.close().unwrap();
    let volume = Volume::open(&world.image).unwrap();
    let map = volume.file("f").unwrap().map(0, 8 * PAGE, Sharing::Private).unwrap();
    map.write(3 * PAGE, b"mine").unwrap();
    assert_eq!(bytes(&map, 3 * PAGE, 4), b"mine");
    assert_eq!(volume.read("f").unwrap()[3 * PAGE..][..4], [0; 4]);
    fsck(&world.image);
}

#[test]
fn what_a_map_may_do_is_what_its_file_was_opened_for() {
    let world = world(4);
    world.volume.write("f", [1; PAGE]).unwrap();
    let read = world.volume.file("f").unwrap();
    let write = OpenOptions::new().write(true).open(&world.volume, "f").unwrap();
    assert_eq!(errno(read.map(0, PAGE, Sharing::Write)), EBADF);
    assert_eq!(errno(write.map(0, PAGE, Sharing::Read)), EBADF);
    assert_eq!(errno(read.map(0, 0, Sharing::Read)), EINVAL);
    assert_eq!(errno(read.map(1, 1, Sharing::Read)), EINVAL);
    let map = read.map(0, PAGE, Sharing::Read).unwrap();
    assert_eq!(errno(map.write(0, b"x")), EBADF);
    drop((read, write));
    // A map uses the volume.
    assert_eq!(errno(world.volume.clone().close()), EBUSY);
    drop(map);
    world.closed();
    let memory = xip_segment::Memory::new(1024).unwrap();
    xip_ext2::Volume::format(
        &memory,
        xip_core::Alone::default(),
        &xip_ext2::Format { blocks: 1024, inodes: 64, ..xip_ext2::Format::default() },
    )
    .unwrap();
    let volume = Volume::writable(memory).unwrap();
    volume.write("f", b"x").unwrap();
    assert_eq!(errno(volume.file("f").unwrap().map(0, 1, Sharing::Read)), EOPNOTSUPP);
}

/// Contract 3: set-id bits and times change before the bytes do, also when these are stored through a map.
#[test]
fn the_first_store_through_a_map_sets_times_and_drops_set_id_bits() {
    let world = world(4);
    let file = world.file("f");
    file.write_all_at(&[1; PAGE], 0).unwrap();
    file.set_permissions(0o6755).unwrap();
    let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
    file.set_times(Some(old), Some(old)).unwrap();
    let map = file.map(0, PAGE, Sharing::Write).unwrap();
    map.read(0, &mut [0]).unwrap();
    assert_eq!((file.metadata().unwrap().modified(), file.metadata().unwrap().mode() & 0o7777), (old, 0o6755));
    map.write(0, b"x").unwrap();
    assert!(file.metadata().unwrap().modified() > old);
    assert_eq!(file.metadata().unwrap().mode() & 0o7777, 0o755);
    file.set_times(None, Some(old)).unwrap();
    map.write(0, b"y").unwrap();
    map.sync().unwrap();
    assert!(file.metadata().unwrap().modified() > old, "a store before a sync is in the times after it");
    drop((map, file));
    world.closed();
}

/// Sealed memory is the only one that is lent as a slice; here it is one, however the file is scattered.
#[test]
fn a_map_of_sealed_memory_is_one_slice_over_runs_and_holes() {
    let world = world(4);
    let (file, mut expected) = world.fragmented("f", 20);
    file.punch_hole(3 * PAGE as u64, PAGE as u64).unwrap();
    expected[3 * PAGE..4 * PAGE].fill(0);
    drop(file);
    world.volume.close().unwrap();
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
    let memfd = std::fs::File::from(memfd_create("image", MemfdFlags::ALLOW_SEALING).unwrap());
    memfd.write_all_at(&std::fs::read(&world.image).unwrap(), 0).unwrap();
    fcntl_add_seals(&memfd, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW).unwrap();
    let device = xip_segment::MappedFile::open(memfd, xip_segment::Access::ReadOnly).unwrap();
    let volume = Volume::from_device(device).unwrap();
    let file = volume.file("f").unwrap();
    assert!(file.as_slice(0, expected.len()).is_none(), "it is not one run");
    let map = file.map(0, 1 << 20, Sharing::Read).unwrap();
    assert!(map.as_slice().unwrap() == expected);
    assert!(file.map(0, PAGE, Sharing::Private).unwrap().as_slice().is_none());
    let beyond = file.map(25 * PAGE as u64, PAGE, Sharing::Read).unwrap();
    assert_eq!(beyond.as_slice(), Some(&[][..]));
    fsck(&world.image);
}

/// Contract 4: the address agrees with the storage modulo 2 MiB, as huge pages need it.
#[test]
fn a_map_stands_where_its_longest_run_agrees_with_its_storage() {
    let world = world(16);
    let file = world.file("f");
    file.write_all_at(&vec![1; 5 << 20], 0).unwrap();
    for first in [0, 3, 700] {
        let map = file.map(first * 4096, 4 << 20, Sharing::Read).unwrap();
        let placed = file.layout(xip::PageIndex(first), 1024).unwrap();
        let longest = placed.iter().max_by_key(|placed| placed.run.count).unwrap();
        let address = map.as_ptr().addr() as u64 + (longest.index.0 - first) * 4096;
        assert_eq!(address % (2 << 20), longest.run.first.0 * 4096 % (2 << 20));
    }
    drop(file);
    world.closed();
}
