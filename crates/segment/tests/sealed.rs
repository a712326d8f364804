//! A segment is memory that nobody can change: by its seals, which the kernel keeps.

mod common;

use common::*;
use rustix::fs::{Mode, OFlags};
use std::os::fd::AsRawFd;
use xip_core::{Device, PageNo};
use xip_segment::{Loaded, Outcome};

#[test]
fn a_segment_holds_the_image_and_is_sealed() {
    let world = World::new();
    let image = world.image("deb.img", 1234, 1);
    let Loaded { segment, outcome, .. } = world.load(&image, None).unwrap();
    assert_eq!((segment.name(), outcome), ("deb", Outcome::New));
    assert!(bytes_of(&segment) == std::fs::read(&image).unwrap());
    let device = segment.device().unwrap();
    assert!(device.properties().sealed && !device.properties().writable);
    assert!(device.direct_access(PageNo(3), 2).unwrap().as_sealed_slice().is_some());
    // The image can go: the segment is its own.
    std::fs::remove_file(&image).unwrap();
    assert_eq!(world.store().get("deb").unwrap().id(), segment.id());
    assert_eq!(world.entries(), ["deb"]);
}

#[test]
fn nobody_can_write_to_it_or_shrink_it_not_even_root() {
    use rustix::fs::FallocateFlags;
    let world = World::new();
    let segment = world.load(&world.image("a", 16, 1), None).unwrap().segment;
    let before = bytes_of(&segment);
    // The descriptor that users get, and the best that can be had from it and from the holder's.
    let mut ways = vec![segment.fd().try_clone_to_owned().unwrap()];
    rustix::fs::fchmod(segment.fd(), Mode::RUSR | Mode::WUSR).unwrap();
    let holder = format!("/proc/{}/fd", segment.info().holder);
    let mut paths: Vec<_> = std::fs::read_dir(holder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.push(format!("/proc/self/fd/{}", segment.fd().as_raw_fd()).into());
    for path in paths {
        if std::fs::read_link(&path).unwrap().to_string_lossy().starts_with("/memfd:xip:") {
            ways.push(rustix::fs::open(&path, OFlags::RDWR, Mode::empty()).unwrap());
            let cut = rustix::fs::open(&path, OFlags::RDWR | OFlags::TRUNC, Mode::empty());
            assert!(cut.is_err(), "opened with O_TRUNC: {}", path.display());
        }
    }
    assert!(ways.len() >= 3, "the holder's descriptor was not found");
    for fd in &ways {
        assert!(rustix::io::write(fd, b"x").is_err());
        assert!(rustix::io::pwrite(fd, b"x", 0).is_err());
        assert!(rustix::fs::ftruncate(fd, 0).is_err());
        assert!(rustix::fs::ftruncate(fd, 1 << 20).is_err());
        for flags in [
            FallocateFlags::empty(),
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            FallocateFlags::ZERO_RANGE,
            FallocateFlags::COLLAPSE_RANGE,
        ] {
            assert!(rustix::fs::fallocate(fd, flags, 0, 1 << 20).is_err(), "{flags:?}");
        }
        let mapped = xip_segment::MappedFile::open(fd.try_clone().unwrap(), xip_segment::Access::ReadWrite);
        assert!(mapped.is_err(), "mapped shared and writable");
        assert!(rustix::fs::fcntl_add_seals(fd, rustix::fs::SealFlags::EXEC).is_err(), "seals can change");
    }
    assert!(bytes_of(&segment) == before);
}

#[test]
fn a_mapping_of_it_can_never_become_writable() {
    // `VmFlags: mw` in smaps is the kernel's word for "mprotect may make it writable" (VM_MAYWRITE).
    let world = World::new();
    let segment = world.load(&world.image("a", 16, 1), None).unwrap().segment;
    let _device = segment.device().unwrap();
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let inode = format!(" {} ", segment.id().1);
    let ours = smaps.split_inclusive("VmFlags").collect::<Vec<_>>();
    let at = ours.iter().position(|area| area.contains("/memfd:xip:a") && area.contains(&inode)).unwrap();
    let flags = ours[at + 1].lines().next().unwrap();
    assert!(flags.contains(" mr ") && flags.contains(" me "), "{flags}");
    assert!(!flags.contains(" mw ") && !flags.contains(" wr "), "{flags}");
}

#[test]
fn users_get_a_descriptor_that_is_open_to_read_only() {
    let world = World::new();
    let segment = world.load(&world.image("a", 16, 1), None).unwrap().segment;
    let flags = rustix::fs::fcntl_getfl(segment.fd()).unwrap();
    assert_eq!(flags & OFlags::RWMODE, OFlags::RDONLY);
}
