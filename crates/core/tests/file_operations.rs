//! The file operations by the rules of contract 3, over a mapping and a device made for the test.

mod support;

use support::{OneFile, Ram};
use xip_core::mapping::Piece;
use xip_core::ops::{self, Durable, Writer};
use xip_core::{Device, Error, InPlace, PAGE_SIZE, PageNo};

fn put(file: &OneFile, offset: u64, bytes: &[u8]) -> usize {
    ops::write(&InPlace::new(file), offset, bytes, &Writer::default()).unwrap()
}

fn get(file: &OneFile, offset: u64, len: usize) -> Vec<u8> {
    let mut to = vec![0xaa; len];
    let count = ops::read(&InPlace::new(file), offset, &mut to).unwrap();
    to.truncate(count);
    to
}

/// Contract 3, read: "4096+10 bytes into a 4106-byte buffer must not touch byte 4106".
#[test]
fn read_does_not_touch_the_byte_after_the_end_of_file() {
    let file = OneFile::new(4);
    put(&file, 0, &vec![7; PAGE_SIZE + 10]);
    let mut to = vec![0xaa; PAGE_SIZE + 11];
    assert_eq!(ops::read(&InPlace::new(&file), 0, &mut to).unwrap(), PAGE_SIZE + 10);
    assert_eq!(to[PAGE_SIZE + 9], 7);
    assert_eq!(to[PAGE_SIZE + 10], 0xaa);
}

#[test]
fn read_at_or_past_the_end_is_zero_bytes() {
    let file = OneFile::new(2);
    put(&file, 0, b"abc");
    assert_eq!(get(&file, 3, 10), b"");
    assert_eq!(get(&file, u64::MAX, 10), b"");
    assert_eq!(get(&file, 1, 10), b"bc");
}

#[test]
fn holes_read_as_zeros_and_stay_holes() {
    let file = OneFile::new(4);
    put(&file, 3 * PAGE_SIZE as u64, b"x");
    assert_eq!(get(&file, 0, 3 * PAGE_SIZE + 1)[..3 * PAGE_SIZE], vec![0; 3 * PAGE_SIZE]);
    assert_eq!(file.next.get(), 1, "reading allocated storage");
}

/// Contract 3, tail rule.
#[test]
fn growing_by_write_or_truncate_zeros_what_mappings_left_after_the_old_end() {
    for by_write in [true, false] {
        let file = OneFile::new(4);
        put(&file, 0, b"abc");
        // A store through a mapping, between the end of file and the end of its page.
        file.ram.direct_access_mut(PageNo(0), 1).unwrap().write(3, b"leftover");
        if by_write {
            put(&file, 2 * PAGE_SIZE as u64, b"z");
        } else {
            ops::truncate(&InPlace::new(&file), 5000).unwrap();
        }
        assert_eq!(get(&file, 0, 20), [b"abc".as_slice(), &[0; 17]].concat());
    }
}

/// Contract 3, truncate: "down: zero the tail of the last page first and report its error, then size, then free".
#[test]
fn truncate_down_zeros_the_tail_then_publishes_the_size_then_frees() {
    let file = OneFile::new(4);
    put(&file, 0, &[9; 3 * PAGE_SIZE]);
    file.log.borrow_mut().clear();
    ops::truncate(&InPlace::new(&file), 100).unwrap();
    assert_eq!(*file.log.borrow(), ["exclusive", "will_change false", "size 100", "free 1"]);
    ops::truncate(&InPlace::new(&file), 200).unwrap();
    assert_eq!(get(&file, 100, 100), [0; 100]);
}

#[test]
fn truncate_down_reports_the_error_of_zeroing_and_changes_nothing() {
    let file = OneFile::new(4);
    put(&file, 0, &[9; PAGE_SIZE]);
    file.bad_page.set(Some(PageNo(0)));
    let error = ops::truncate(&InPlace::new(&file), 100).unwrap_err();
    assert_eq!(error, Error::BadMedium { page: PageNo(0) });
    assert_eq!(file.size.get(), PAGE_SIZE as u64);
}

/// Contract 3, write: "the size is published after the data", "`ENOSPC` after progress is a short write".
#[test]
fn write_is_short_when_space_ends_and_fails_when_there_was_none() {
    let file = OneFile::new(2);
    assert_eq!(put(&file, 0, &[1; 3 * PAGE_SIZE]), 2 * PAGE_SIZE);
    assert_eq!(file.size.get(), 2 * PAGE_SIZE as u64);
    let error = ops::write(&InPlace::new(&file), 2 * PAGE_SIZE as u64, b"x", &Writer::default()).unwrap_err();
    assert_eq!(error, Error::NoSpace);
    assert_eq!(file.size.get(), 2 * PAGE_SIZE as u64);
}

/// Contract 3, write: "past the largest size or the limit: short, then `EFBIG`".
#[test]
fn write_stops_at_the_limit() {
    let file = OneFile::new(2);
    let how = Writer { limit: 10, ..Writer::default() };
    assert_eq!(ops::write(&InPlace::new(&file), 5, &[1; 20], &how), Ok(5));
    assert_eq!(ops::write(&InPlace::new(&file), 10, &[1; 20], &how), Err(Error::TooLarge));
    assert_eq!(ops::truncate(&InPlace::new(&file), file.largest + 1), Err(Error::TooLarge));
}

/// Contract 3, write: "zero bytes: no side effects".
#[test]
fn writing_no_bytes_has_no_side_effects() {
    let file = OneFile::new(2);
    assert_eq!(put(&file, 100, b""), 0);
    assert!(file.log.borrow().is_empty());
}

/// Contract 3, write: "`O_APPEND` takes the size under the lock"; `O_SYNC` and `O_DSYNC` are honoured.
#[test]
fn append_ignores_the_offset_and_durability_is_asked_for_last() {
    let file = OneFile::new(2);
    put(&file, 0, b"abc");
    file.log.borrow_mut().clear();
    let how = Writer { append: true, durable: Durable::Data, ..Writer::default() };
    ops::write(&InPlace::new(&file), 0, b"def", &how).unwrap();
    assert_eq!(get(&file, 0, 10), b"abcdef");
    assert_eq!(file.log.borrow()[..4], ["exclusive", "will_change false", "size 6", "sync true"]);
}

/// Contract 3, readv and writev: one operation, one lock; 0 segments: 0; more than 1024: `EINVAL`.
#[test]
fn vectored_operations_are_one_operation() {
    let file = OneFile::new(4);
    let big = vec![2; PAGE_SIZE];
    let written = ops::writev(&InPlace::new(&file), 0, &[b"ab", b"", &big, b"c"], &Writer::default());
    assert_eq!(written, Ok(PAGE_SIZE + 3));
    assert_eq!(file.log.borrow().iter().filter(|line| *line == "exclusive").count(), 1);

    let (mut first, mut second, mut third) = ([0; 2], vec![0; PAGE_SIZE], [0xaa; 5]);
    let read = ops::readv(&InPlace::new(&file), 0, &mut [&mut first, &mut second, &mut third]);
    assert_eq!(read, Ok(PAGE_SIZE + 3));
    assert_eq!((&first, &second, &third), (b"ab", &big, &[b'c', 0xaa, 0xaa, 0xaa, 0xaa]));

    assert_eq!(ops::writev(&InPlace::new(&file), 0, &[], &Writer::default()), Ok(0));
    assert_eq!(ops::readv(&InPlace::new(&file), 0, &mut []), Ok(0));
    let many = vec![b"x".as_slice(); 1025];
    assert!(matches!(ops::writev(&InPlace::new(&file), 0, &many, &Writer::default()), Err(Error::Invalid(_))));
    let mut bytes = [[0]; 1025];
    let mut many: Vec<_> = bytes.iter_mut().map(|byte| &mut byte[..]).collect();
    assert!(matches!(ops::readv(&InPlace::new(&file), 0, &mut many), Err(Error::Invalid(_))));
}

/// Contract 2: "a missing block after `create` is an internal error, reported as `EIO`, never a panic".
#[test]
fn a_file_system_that_loses_what_it_allocates_gives_an_error() {
    let file = OneFile::new(4);
    file.forgetful.set(true);
    let lost = [
        ops::write(&InPlace::new(&file), 0, b"x", &Writer::default()).map(drop),
        ops::fallocate(&InPlace::new(&file), 0, 1, false, &Writer::default()),
    ];
    for result in lost {
        assert_eq!(result.unwrap_err().errno(), 5);
    }
    assert_eq!(file.size.get(), 0);
}

/// Contract 3, sendfile: from storage, holes send zeros, count 0: 0, a sink that takes less ends it.
#[test]
fn sendfile_gives_the_storage_itself() {
    let file = OneFile::new(4);
    put(&file, 0, b"abc");
    put(&file, 2 * PAGE_SIZE as u64, b"xyz");
    let storage = file.ram.direct_access(PageNo(0), 1).unwrap().as_ptr();
    let mut out = Vec::new();
    let sent = ops::sendfile(&InPlace::new(&file), 0, usize::MAX, |piece| {
        match piece {
            Piece::Storage(region) => {
                if out.is_empty() {
                    assert_eq!(region.as_ptr(), storage, "a copy was sent");
                }
                let start = out.len();
                out.resize(start + region.len(), 0);
                region.read(0, &mut out[start..]);
            }
            Piece::Hole(len) => out.resize(out.len() + len, 0),
        }
        Ok(piece.len())
    });
    assert_eq!(sent, Ok(2 * PAGE_SIZE + 3));
    assert_eq!(out, get(&file, 0, 3 * PAGE_SIZE));
    assert_eq!(ops::sendfile(&InPlace::new(&file), 0, 0, |_| unreachable!()), Ok(0));
    assert_eq!(ops::sendfile(&InPlace::new(&file), 0, 100, |_| Ok(1)), Ok(1));
}

/// Contract 1: `direct_access` may return less than asked; past the end `ERANGE`; read-only by the device itself.
#[test]
fn the_device_rules_hold() {
    let mut ram = Ram::new(4);
    ram.stretch = 1;
    let mut to = vec![0; 3 * PAGE_SIZE];
    ram.write(100, &vec![5; 3 * PAGE_SIZE]).unwrap();
    ram.read(100, &mut to).unwrap();
    assert_eq!(to, vec![5; 3 * PAGE_SIZE]);
    assert_eq!(ram.direct_access(PageNo(4), 1).unwrap_err().errno(), 34);
    assert_eq!(ram.read(3 * PAGE_SIZE as u64 + 1, &mut to[..PAGE_SIZE]).unwrap_err().errno(), 34);
    assert_eq!(ram.read(u64::MAX, &mut to[..1]).unwrap_err().errno(), 34);
    ram.writable = false;
    assert_eq!(ram.write(0, b"x"), Err(Error::ReadOnly));
}
