//! Bytes of files on a mount that is written, by every way that programs have to them. Needs root, for mount(2); says so
//! where it is missing.

mod live_support;

use live_support::{errno, soon, world};
use rustix::fs::{FallocateFlags, FlockOperation, OFlags, SeekFrom, fallocate, flock, seek};
use rustix::io::Errno;
use rustix::mm::{MapFlags, MsyncFlags, ProtFlags};
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

const PAGE: usize = 4096;

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

/// A shared mapping of the beginning of a file, used by calls that copy.
struct Mapped {
    at: *mut std::ffi::c_void,
    len: usize,
}

impl Mapped {
    fn new(file: &File, len: usize) -> Self {
        let both = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, at a place of the kernel's choice.
        let at = unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, both, MapFlags::SHARED, file, 0) }.unwrap();
        Self { at, len }
    }

    fn get(&self, at: usize) -> u8 {
        assert!(at < self.len);
        // SAFETY: inside the mapping, as was just seen.
        unsafe { self.at.cast::<u8>().add(at).read_volatile() }
    }

    fn set(&self, at: usize, byte: u8) {
        assert!(at < self.len);
        // SAFETY: inside the mapping, as was just seen.
        unsafe { self.at.cast::<u8>().add(at).write_volatile(byte) }
    }

    fn sync(&self) {
        // SAFETY: the mapping as it is.
        unsafe { rustix::mm::msync(self.at, self.len, MsyncFlags::SYNC) }.unwrap();
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the mapping as it is, of which nothing is borrowed.
        let _ = unsafe { rustix::mm::munmap(self.at, self.len) };
    }
}

fn read(file: &File, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, at).unwrap();
    bytes
}

/// Contract 4: a store through a shared mapping is visible to `read` and to other mappings, and a write to mappings.
#[test]
fn shared_mappings_and_reads_and_writes_see_each_other() {
    let Some(world) = world(16) else { return };
    let file = open(&world.at("f"));
    file.set_len(3 * PAGE as u64).unwrap();
    let (one, other) = (Mapped::new(&file, 3 * PAGE), Mapped::new(&open(&world.at("f")), 3 * PAGE));
    one.set(5000, 42);
    assert_eq!((other.get(5000), read(&file, 5000, 1)), (42, vec![42]));
    file.write_all_at(b"written", 100).unwrap();
    assert_eq!((one.get(100), other.get(106)), (b'w', b'n'));
    one.sync();
    // It is in the image, and has storage there.
    let stored = || world.volume.file("f").unwrap().read_all().unwrap();
    assert_eq!(stored()[5000], 42);
    // Closing all that was mapped stores the rest.
    other.set(9000, 43);
    drop((one, other, file));
    soon(|| stored()[9000] == 43);
    world.end(|volume| assert_eq!(volume.read("f").unwrap()[9000], 43));
}

/// Contract 3, tail rule, as far as the kernel lets us: it is what keeps the pages of a mapping (`docs/mount.md`).
#[test]
fn what_was_stored_behind_the_end_is_not_in_the_image_and_does_not_appear_when_the_file_is_made_longer() {
    let Some(world) = world(16) else { return };
    let file = open(&world.at("f"));
    file.set_len(100).unwrap();
    let mapped = Mapped::new(&file, PAGE);
    mapped.set(99, 1);
    mapped.set(100, 2);
    mapped.set(PAGE - 1, 3);
    mapped.sync();
    file.set_len(2 * PAGE as u64).unwrap();
    let bytes = read(&file, 0, PAGE);
    assert_eq!((bytes[99], bytes[100], bytes[PAGE - 1], mapped.get(100)), (1, 0, 0, 0));
    drop((mapped, file));
    world.end(|volume| assert_eq!(volume.read("f").unwrap()[99..], [&[1][..], &[0; 2 * PAGE - 100]].concat()));
}

#[test]
fn lines_appended_by_many_threads_are_whole_and_none_is_lost() {
    let Some(world) = world(16) else { return };
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let path = world.at("log");
            scope.spawn(move || {
                let mut log = OpenOptions::new().append(true).create(true).open(path).unwrap();
                for n in 0..250 {
                    let line = format!("{thread} {n} {}\n", "x".repeat(n));
                    assert_eq!(log.write(line.as_bytes()).unwrap(), line.len());
                }
            });
        }
    });
    let text = fs::read_to_string(world.at("log")).unwrap();
    let mut next = [0; 4];
    for line in text.lines() {
        let words: Vec<_> = line.split(' ').collect();
        let (thread, n) = (words[0].parse::<usize>().unwrap(), words[1].parse::<usize>().unwrap());
        assert_eq!((n, words[2].len()), (next[thread], n));
        next[thread] += 1;
    }
    assert_eq!(next, [250; 4]);
    world.end(|volume| assert_eq!(volume.read("log").unwrap(), text.as_bytes()));
}

#[test]
fn space_is_given_taken_and_found() {
    let Some(world) = world(16) else { return };
    let file = open(&world.at("f"));
    let blocks = || file.metadata().unwrap().blocks();
    file.write_all_at(&[7; 4 * PAGE], 8 * PAGE as u64).unwrap();
    let page = |n: u64| n * PAGE as u64;
    let find = |from| (seek(&file, SeekFrom::Data(from)), seek(&file, SeekFrom::Hole(from)));
    assert_eq!(find(0), (Ok(page(8)), Ok(0)));
    assert_eq!(find(page(8) + 5), (Ok(page(8) + 5), Ok(page(12))));
    assert_eq!(seek(&file, SeekFrom::Data(page(12))), Err(Errno::NXIO));

    let keep = FallocateFlags::KEEP_SIZE;
    fallocate(&file, FallocateFlags::PUNCH_HOLE | keep, page(9) - 10, page(2)).unwrap();
    assert_eq!(find(page(8)), (Ok(page(8)), Ok(page(9))));
    let bytes = read(&file, page(8), 4 * PAGE);
    assert_eq!((bytes[PAGE - 11], bytes[PAGE - 10], bytes[3 * PAGE - 11], bytes[3 * PAGE - 10]), (7, 0, 0, 7));

    let before = blocks();
    fallocate(&file, keep, 0, page(2)).unwrap();
    assert_eq!((blocks(), file.metadata().unwrap().len()), (before + 16, page(12)));
    fallocate(&file, FallocateFlags::ZERO_RANGE, page(11), page(2)).unwrap();
    assert_eq!((file.metadata().unwrap().len(), read(&file, page(11), 2 * PAGE)), (page(13), vec![0; 2 * PAGE]));
    // Which ext2 cannot say, and we do not.
    assert_eq!(fallocate(&file, keep, page(20), page(1)), Err(Errno::OPNOTSUPP));
    assert_eq!(fallocate(&file, FallocateFlags::COLLAPSE_RANGE, 0, page(1)), Err(Errno::OPNOTSUPP));
    file.set_len(1).unwrap();
    assert_eq!(blocks(), 8);
    // Beyond what 32 bits count.
    file.write_all_at(b"far", 5 << 30).unwrap();
    assert_eq!(read(&file, 5 << 30, 3), b"far");
    drop(file);
    world.end(|volume| assert_eq!(volume.metadata("f").unwrap().len(), (5 << 30) + 3));
}

/// The stretches of data of a file.
fn data(file: &File) -> Vec<(u64, u64)> {
    let (mut found, mut at) = (Vec::new(), 0);
    while let Ok(start) = seek(file, SeekFrom::Data(at)) {
        at = seek(file, SeekFrom::Hole(start)).unwrap();
        assert!(start < at);
        found.push((start, at));
    }
    found
}

/// What is stored through a shared mapping is in the kernel's page cache alone: it is found, also where the image has a hole.
#[test]
fn data_that_was_stored_through_a_mapping_is_found_where_the_image_has_a_hole() {
    const PAGES: usize = 1000;
    let Some(world) = world(16) else { return };
    let file = open(&world.at("f"));
    let page = |n: usize| (n * PAGE) as u64;
    file.set_len(page(PAGES)).unwrap();
    file.write_all_at(&[1; PAGE], page(500)).unwrap();
    assert_eq!(data(&file), [(page(500), page(501))]);
    let mapped = Mapped::new(&file, PAGES * PAGE);
    let mut stored = vec![500];
    for n in [20, 21, 499, 502, 700, PAGES - 1] {
        mapped.set(n * PAGE + 5, 2);
        stored.push(n);
        let found = data(&file);
        for n in &stored {
            assert!(found.iter().any(|(start, end)| (*start..*end).contains(&(page(*n) + 5))), "page {n} in {found:?}");
        }
        // What the kernel reads beside them counts, too, and no more.
        let all: u64 = found.iter().map(|(start, end)| end - start).sum();
        assert!(all <= page(64 * stored.len()), "{found:?}");
    }
    assert_eq!(seek(&file, SeekFrom::Hole(page(250))), Ok(page(250)));
    // Cut to nothing, it is all a hole again.
    file.set_len(0).unwrap();
    file.set_len(page(PAGES)).unwrap();
    assert_eq!(data(&file), []);
    mapped.set(0, 3);
    assert_eq!(data(&file)[0].0, 0);
    drop((mapped, file));
    world.ends();
}

#[test]
fn reads_and_writes_past_the_page_cache_agree_with_those_through_it() {
    let Some(world) = world(16) else { return };
    let cached = open(&world.at("f"));
    cached.write_all_at(&[1; 4 * PAGE], 0).unwrap();
    let flags = OFlags::DIRECT.bits().cast_signed();
    let direct = OpenOptions::new().read(true).write(true).custom_flags(flags).open(world.at("f")).unwrap();
    direct.write_all_at(&[2; PAGE], PAGE as u64).unwrap();
    assert_eq!(read(&cached, PAGE as u64 - 1, PAGE + 2), [&[1][..], &[2; PAGE], &[1]].concat());
    cached.write_all_at(&[3; 10], 0).unwrap();
    assert_eq!(read(&direct, 0, PAGE)[..11], [&[3; 10][..], &[1]].concat());
    direct.write_all_at(&[4; 2 * PAGE], 3 * PAGE as u64).unwrap();
    assert_eq!(cached.metadata().unwrap().len(), 5 * PAGE as u64);
    drop((cached, direct));
    world.ends();
}

/// Contract 3, write: no space after some progress is a short write; nothing is lost of what was there.
#[test]
fn a_full_volume_says_so_and_has_room_again_later() {
    let Some(world) = world(4) else { return };
    fs::write(world.at("kept"), [9; 50_000]).unwrap();
    let file = open(&world.at("large"));
    let mut at = 0;
    let full = loop {
        match file.write_at(&[5; 100_000], at) {
            Ok(count) => at += count as u64,
            Err(error) => break error,
        }
    };
    assert_eq!(full.kind(), ErrorKind::StorageFull);
    assert_eq!((file.metadata().unwrap().len(), rustix::fs::statvfs(&world.mount).unwrap().f_bfree), (at, 0));
    assert_eq!(errno(fs::create_dir(world.at("d"))), Errno::NOSPC.raw_os_error());
    assert!(fs::read(world.at("large")).unwrap().iter().all(|&byte| byte == 5));
    drop(file);
    fs::remove_file(world.at("large")).unwrap();
    soon(|| fs::create_dir(world.at("d")).is_ok());
    world.end(|volume| assert_eq!(volume.read("kept").unwrap(), [9; 50_000]));
}

#[test]
fn bytes_are_copied_from_file_to_file() {
    let Some(world) = world(32) else { return };
    let (from, to) = (open(&world.at("from")), open(&world.at("to")));
    let bytes: Vec<u8> = (0..9_000_000u32).map(|n| (n / 1000) as u8).collect();
    from.write_all_at(&bytes, 0).unwrap();
    let (mut at, mut done) = (10, 100);
    while rustix::fs::copy_file_range(&from, Some(&mut at), &to, Some(&mut done), 1 << 30).unwrap() != 0 {}
    assert_eq!((at, done), (9_000_000, 9_000_090));
    let copied = fs::read(world.at("to")).unwrap();
    assert!(copied[..100] == [0; 100] && copied[100..] == bytes[10..]);
    drop((from, to));
    world.ends();
}

#[test]
fn locks_hold_between_two_who_have_the_file_open() {
    let Some(world) = world(16) else { return };
    let (one, other) = (open(&world.at("f")), open(&world.at("f")));
    flock(&one, FlockOperation::LockExclusive).unwrap();
    assert_eq!(flock(&other, FlockOperation::NonBlockingLockShared), Err(Errno::WOULDBLOCK));
    drop(one);
    flock(&other, FlockOperation::NonBlockingLockShared).unwrap();
    rustix::fs::fcntl_lock(&other, FlockOperation::NonBlockingLockExclusive).unwrap();
    drop(other);
    world.ends();
}

#[test]
fn a_file_is_sent_to_a_pipe_and_read_in_pieces() {
    let Some(world) = world(16) else { return };
    fs::write(world.at("f"), b"through a pipe").unwrap();
    let (out, into) = rustix::pipe::pipe().unwrap();
    let file = File::open(world.at("f")).unwrap();
    assert_eq!(rustix::fs::sendfile(into.as_fd(), &file, None, 100).unwrap(), 14);
    drop((into, file));
    assert_eq!(std::io::read_to_string(File::from(out)).unwrap(), "through a pipe");
    world.ends();
}

/// Threads that make, write, move and remove in the same directories, and at the end a volume in order.
#[test]
fn many_threads_leave_a_volume_in_order() {
    let Some(world) = world(64) else { return };
    for directory in ["a", "b"] {
        fs::create_dir(world.at(directory)).unwrap();
    }
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let world = &world;
            scope.spawn(move || {
                let mut random = thread + 1;
                let mut next = |below: u64| {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (random >> 33) % below
                };
                for _ in 0..600 {
                    let mut name = || world.at(&format!("{}/{}", ["a", "b"][next(2) as usize], next(20)));
                    let (one, two) = (name(), name());
                    // Others do the same with the same names: what fails does so for a reason of theirs.
                    let _ = match next(8) {
                        0 | 1 => fs::write(&one, vec![thread as u8; next(30_000) as usize]),
                        2 => fs::rename(&one, &two),
                        3 => fs::remove_file(&one),
                        4 => fs::hard_link(&one, &two),
                        5 => fs::create_dir(&one),
                        6 => fs::remove_dir(&one),
                        _ => OpenOptions::new().write(true).open(&one).and_then(|file| file.set_len(next(50_000))),
                    };
                }
            });
        }
    });
    let listed = ["a", "b"].map(|name| fs::read_dir(world.at(name)).unwrap().count());
    world.end(|volume| assert_eq!(["a", "b"].map(|name| volume.read_dir(name).unwrap().count()), listed));
}
