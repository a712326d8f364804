//! The devices of contract 1: what each allows, and what it refuses.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use xip_core::{Device, Error as CoreError, PAGE_SIZE, PageNo};
use xip_segment::{Access, Error, MappedFile, Memory, PlainFile};

fn file_of(len: usize) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&vec![7; len]).unwrap();
    file
}

fn sealed(seals: rustix::fs::SealFlags) -> OwnedFd {
    let fd = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::io::write(&fd, &[7; PAGE_SIZE]).unwrap();
    rustix::fs::fcntl_add_seals(&fd, seals).unwrap();
    fd
}

#[test]
fn memory_keeps_what_is_written_and_ends_where_it_ends() {
    let memory = Memory::new(3).unwrap();
    memory.write(4094, b"abcd").unwrap();
    let mut back = [0; 4];
    memory.read(4094, &mut back).unwrap();
    assert_eq!(&back, b"abcd");
    assert_eq!(memory.direct_access(PageNo(1), 100).unwrap().len(), 2 * PAGE_SIZE);
    // Contract 1: past the end ERANGE.
    assert_eq!(memory.direct_access(PageNo(3), 1).unwrap_err().errno(), 34);
    assert!(memory.read(3 * 4096 - 1, &mut back).is_err());
    assert!(memory.write(u64::MAX - 1, &back).is_err());
    assert!(memory.direct_access(PageNo(0), 1).unwrap().as_sealed_slice().is_none());
}

#[test]
fn mapped_file_shows_stores_to_the_file_and_the_file_to_loads() {
    let file = file_of(2 * PAGE_SIZE);
    let device = MappedFile::open(file.try_clone().unwrap(), Access::ReadWrite).unwrap();
    device.write(4096, b"through the map").unwrap();
    let mut back = [0; 15];
    rustix::io::pread(&file, &mut back, 4096).unwrap();
    assert_eq!(&back, b"through the map");
    rustix::io::pwrite(&file, b"by pwrite", 0).unwrap();
    let mut back = [0; 9];
    device.read(0, &mut back).unwrap();
    assert_eq!(&back, b"by pwrite");
    assert!(device.is_whole());
    file.set_len(4096).unwrap();
    assert!(!device.is_whole());
}

#[test]
fn a_read_only_device_refuses_writes_itself() {
    let mapped = MappedFile::open(file_of(1 << 20), Access::ReadOnly).unwrap();
    let plain = PlainFile::open(file_of(1 << 20), Access::ReadOnly).unwrap();
    assert!(!mapped.properties().writable && !plain.properties().writable);
    for len in [1, 4096, 512 << 10] {
        assert_eq!(mapped.write(0, &vec![1; len]), Err(CoreError::ReadOnly));
        assert_eq!(plain.write(0, &vec![1; len]), Err(CoreError::ReadOnly));
    }
    assert!(mapped.direct_access_mut(PageNo(0), 1).is_err());
}

#[test]
fn a_length_that_is_no_number_of_pages_is_refused_and_says_so() {
    assert!(matches!(MappedFile::open(file_of(0), Access::ReadOnly), Err(Error::Empty { .. })));
    let error = MappedFile::open(file_of(4097), Access::ReadOnly).unwrap_err();
    assert!(matches!(error, Error::NotWholePages { bytes: 4097, .. }));
    assert_eq!(error.errno(), 22);
    assert!(error.to_string().contains("4097 bytes"), "{error}");
    let directory = File::open("/").unwrap();
    assert!(matches!(MappedFile::open(directory, Access::ReadOnly), Err(Error::NotAFile { .. })));
    assert!(matches!(PlainFile::open(file_of(0), Access::ReadOnly), Err(Error::Empty { .. })));
}

#[test]
fn only_an_object_that_can_neither_be_written_nor_shrunk_is_sealed() {
    use rustix::fs::SealFlags;
    let both = MappedFile::open(sealed(SealFlags::WRITE | SealFlags::SHRINK), Access::ReadOnly).unwrap();
    assert!(both.properties().sealed);
    assert_eq!(both.direct_access(PageNo(0), 1).unwrap().as_sealed_slice(), Some(&[7; PAGE_SIZE][..]));
    for seals in [SealFlags::WRITE, SealFlags::SHRINK, SealFlags::FUTURE_WRITE | SealFlags::SHRINK] {
        let one = MappedFile::open(sealed(seals), Access::ReadOnly).unwrap();
        assert!(!one.properties().sealed);
        assert!(one.direct_access(PageNo(0), 1).unwrap().as_sealed_slice().is_none());
    }
}

#[test]
fn a_created_file_takes_small_and_large_writes_at_any_place() {
    let path = tempfile::NamedTempFile::new().unwrap();
    let open = || OpenOptions::new().read(true).write(true).open(path.path()).unwrap();
    open().write_all(b"old bytes must not show").unwrap();
    let pages = (9 << 20) / PAGE_SIZE as u64;
    let device = MappedFile::create(open(), pages).unwrap();
    assert_eq!(device.pages(), pages);
    let large: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
    device.write(4 << 20, &large).unwrap();
    device.write((4 << 20) - 3, b"abcdef").unwrap();
    device.direct_access_mut(PageNo(pages - 1), 1).unwrap().write(4090, b"end");
    assert!(device.write((9 << 20) - 1, b"xy").is_err());
    assert!(device.write((9 << 20) - 1, &large).is_err());
    device.sync().unwrap();

    let mut expected = vec![0; 9 << 20];
    expected[4 << 20..][..large.len()].copy_from_slice(&large);
    expected[(4 << 20) - 3..][..6].copy_from_slice(b"abcdef");
    expected[(9 << 20) - 6..][..3].copy_from_slice(b"end");
    let mut found = Vec::new();
    open().read_to_end(&mut found).unwrap();
    assert!(found == expected);
}

#[test]
fn a_plain_file_is_not_in_place_and_gives_the_reason() {
    let plain = PlainFile::open(file_of(4096 + 10), Access::ReadWrite).unwrap();
    assert_eq!(plain.pages(), 2);
    let reason = plain.properties().not_in_place.unwrap();
    assert_eq!(plain.direct_access(PageNo(0), 1).unwrap_err(), CoreError::NoDirectAccess { reason });
    // The rest of the last page is zeros; beyond it there is nothing.
    let mut tail = [1; 20];
    plain.read(4096, &mut tail).unwrap();
    assert_eq!((&tail[..10], &tail[10..]), (&[7; 10][..], &[0; 10][..]));
    assert!(plain.read(8190, &mut tail).is_err());
    plain.write(100, b"xyz").unwrap();
    let mut back = [0; 3];
    plain.read(100, &mut back).unwrap();
    assert_eq!(&back, b"xyz");
}

#[test]
fn a_plain_file_that_was_cut_off_gives_an_error() {
    let file = file_of(8192);
    let plain = PlainFile::open(file.try_clone().unwrap(), Access::ReadOnly).unwrap();
    file.set_len(4096).unwrap();
    assert_eq!(plain.read(4096, &mut [0; 8]).unwrap_err().errno(), 5);
}

#[test]
fn no_space_is_an_error_and_not_a_signal() {
    // A file system with 1 MiB in it: needs a mount.
    let dir = tempfile::tempdir().unwrap();
    let options = Some(c"size=1m");
    let flags = rustix::mount::MountFlags::empty();
    if rustix::mount::mount("none", dir.path(), "tmpfs", flags, options).is_err() {
        println!("skipped: mounting a small tmpfs needs root");
        return;
    }
    let open = |name: &str| {
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(dir.path().join(name)).unwrap()
    };
    let stored = MappedFile::create(open("a"), 1024).unwrap();
    assert_eq!(stored.direct_access_mut(PageNo(0), 1).unwrap_err(), CoreError::NoSpace);
    drop(stored);
    std::fs::remove_file(dir.path().join("a")).unwrap();
    let copied = MappedFile::create(open("b"), 1024).unwrap();
    assert_eq!(copied.write(0, &vec![1; 2 << 20]), Err(CoreError::NoSpace));
    drop(copied);
    rustix::mount::unmount(dir.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
}

/// What a build of an image rests on: the rest of a file's last page is zeroed, and costs nothing where it is fresh.
#[test]
fn zeros_in_fresh_pages_of_a_new_file_take_no_storage_and_in_used_ones_are_stored() {
    let file = tempfile::tempfile().unwrap();
    let device = MappedFile::create(file.try_clone().unwrap(), 2048).unwrap();
    let blocks = || std::os::unix::fs::MetadataExt::blocks(&file.metadata().unwrap());
    device.zero(5, 1 << 20).unwrap();
    assert_eq!(blocks(), 0, "nothing was stored");
    device.store(4096, &[7; 100]).unwrap();
    assert!(blocks() <= 64, "one page was stored: {} blocks", blocks());
    device.zero(4096 + 10, 3).unwrap();
    let mut bytes = [1; 102];
    device.read(4095, &mut bytes).unwrap();
    assert!(
        bytes.iter().enumerate().all(|(n, &byte)| byte == if matches!(n, 0 | 11..=13 | 101) { 0 } else { 7 }),
        "{bytes:?}"
    );
}

/// Contract 1: past the end is `ERANGE`, in every operation, also where there is nothing to do, and nothing is done in part.
#[test]
fn what_reaches_past_the_end_is_out_of_range_in_every_operation_and_changes_nothing() {
    let new = MappedFile::create(tempfile::tempfile().unwrap(), 3).unwrap();
    let opened = MappedFile::open(file_of(3 * PAGE_SIZE), Access::ReadWrite).unwrap();
    let plain = PlainFile::open(file_of(3 * PAGE_SIZE), Access::ReadWrite).unwrap();
    let memory = Memory::new(3).unwrap();
    let devices: [(&str, &dyn Device); 4] =
        [("new", &new), ("opened", &opened), ("plain", &plain), ("memory", &memory)];
    for (name, device) in devices {
        device.write(0, &[7; 3 * PAGE_SIZE]).unwrap();
        for (at, len) in [(0, 3 * 4096 + 1), (3 * 4096 - 1, 2), (3 * 4096, 1), (70 * 4096, 5), (u64::MAX - 2, 5)] {
            let mut bytes = vec![1; usize::try_from(len).unwrap()];
            let answers =
                [device.zero(at, len), device.write(at, &bytes), device.store(at, &bytes), device.read(at, &mut bytes)];
            for answer in answers {
                assert!(matches!(answer, Err(CoreError::OutOfRange { pages: 3, .. })), "{name} {at} {len}: {answer:?}");
            }
        }
        let mut bytes = [0; 3 * PAGE_SIZE];
        device.read(0, &mut bytes).unwrap();
        assert!(bytes.iter().all(|&byte| byte == 7), "{name}");
        device.zero(3 * 4096, 0).unwrap();
    }
    // Where nothing was written yet there is nothing to zero, and it is out of range all the same.
    let fresh = MappedFile::create(tempfile::tempfile().unwrap(), 3).unwrap();
    assert!(matches!(fresh.zero(2 * 4096, 4097), Err(CoreError::OutOfRange { pages: 3, .. })));
}

/// Contract 1: a device states what it is. Where the kernel refuses `MAP_SYNC` nothing promises that flushed is durable, and it says so.
#[test]
fn a_file_that_is_not_on_persistent_memory_says_that_it_is_not_persistent_and_why() {
    let device = MappedFile::open(file_of(2 * PAGE_SIZE), Access::ReadWrite).unwrap();
    match device.not_persistent() {
        Some(reason) => {
            assert!(reason.contains("MAP_SYNC"), "{reason}");
            assert!(!device.properties().persistent);
        }
        None => {
            println!("the temporary directory is on persistent memory");
            assert!(device.properties().persistent);
        }
    }
    // Whatever it is, and whatever the range: no fault.
    for (at, len) in [(0, 1), (4095, 2), (8191, 1), (8192, 10), (u64::MAX, u64::MAX), (0, u64::MAX)] {
        device.flush(at, len).unwrap();
    }
    device.fence().unwrap();
    let device = MappedFile::open(file_of(PAGE_SIZE), Access::ReadOnly).unwrap();
    assert!(device.not_persistent().is_some() && !device.properties().persistent);
}

#[test]
fn who_is_locked_is_who_has_the_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    let names = ["old", "newer", "newest"].map(|name| directory.path().join(name));
    names.iter().for_each(|name| std::fs::write(name, name.as_os_str().as_encoded_bytes()).unwrap());
    let next = std::cell::Cell::new(1);
    std::fs::rename(&names[0], &path).unwrap();
    // Between opening and locking it is replaced, twice.
    let open = || {
        let file = File::options().read(true).write(true).open(&path).unwrap();
        if let Some(other) = names.get(next.replace(next.get() + 1)) {
            std::fs::rename(other, &path).unwrap();
        }
        Ok::<_, Error>(file)
    };
    let mut locked = xip_segment::open_locked(&path, Access::ReadWrite, open, || rustix::fs::stat(&path)).unwrap();
    let mut bytes = Vec::new();
    locked.read_to_end(&mut bytes).unwrap();
    assert!(bytes.ends_with(b"newest"), "{}", bytes.escape_ascii());
    let again = File::open(&path).unwrap();
    assert!(matches!(xip_segment::lock(&again, &path, Access::ReadOnly), Err(Error::Locked { .. })));
}
