//! Segments that can be written: one has it, or many read it.

mod common;

use common::*;
use rustix::fs::ftruncate;
use rustix::io::Errno;
use std::fs;
use std::path::Path;
use xip_core::{Device, PageNo};
use xip_segment::{Access, Error, Outcome, Segment};

fn load(world: &World, image: &Path, name: &str) -> Segment {
    let loaded = world.store().exclusive().load(image, Some(name), &mut |_, _| {}, &mut |_| Ok(())).unwrap();
    assert_eq!((loaded.outcome, loaded.also, loaded.segment.info().exclusive), (Outcome::New, None, true));
    loaded.segment
}

/// Issue 3, section 1: one writer or many readers; who is refused learns who has it; whoever comes next gets it.
#[test]
fn one_writes_or_many_read() {
    let world = World::new();
    let segment = load(&world, &world.image("a", 3, 1), "rw");
    let refused = |access| match segment.open(access) {
        Err(Error::Locked { path, holder }) => {
            assert_eq!(path, Path::new("the segment rw"));
            let me = std::process::id();
            assert!(holder.starts_with(&format!("process {me} (")), "{holder}");
        }
        other => panic!("{other:?}"),
    };
    let writer = segment.device_writable().unwrap();
    writer.write(5000, b"changed").unwrap();
    refused(Access::ReadWrite);
    refused(Access::ReadOnly);
    assert!(matches!(segment.device(), Err(Error::Locked { .. })));
    // To look who has it is no use of it.
    segment.stat().unwrap();
    drop(writer);

    // Another who asks for it by its name sees what was written.
    let again = world.store().get("rw").unwrap();
    let readers = [segment.device().unwrap(), again.device().unwrap()];
    for reader in &readers {
        let mut bytes = [0; 7];
        reader.read(5000, &mut bytes).unwrap();
        assert_eq!(&bytes, b"changed");
        let properties = reader.properties();
        assert!(!properties.sealed && !properties.writable && reader.direct_access_mut(PageNo(0), 1).is_err());
        assert!(reader.direct_access(PageNo(0), 1).unwrap().as_sealed_slice().is_none(), "it may change one day");
    }
    refused(Access::ReadWrite);
    drop(readers);
    segment.device_writable().unwrap();
}

/// A holder keeps what a writer that is gone has written, and a writer cannot take memory away under those who map it.
#[test]
fn a_dead_writer_is_in_nobodys_way_and_the_length_stays() {
    let world = World::new();
    let segment = load(&world, &world.image("a", 3, 1), "rw");
    // Killed while it has the lock.
    let path = format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&segment.fd()));
    let script = format!("exec 3<>{path}; flock -n 3; printf kept >&3; kill -9 $$");
    assert!(!std::process::Command::new("bash").args(["-c", &script]).status().unwrap().success());
    let writer = segment.open(Access::ReadWrite).unwrap();
    let mut bytes = [0; 4];
    rustix::io::pread(&writer, &mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"kept");
    assert_eq!(ftruncate(&writer, 0), Err(Errno::PERM));
    assert_eq!(ftruncate(&writer, 1 << 20), Err(Errno::PERM));
}

/// A save takes time, in which another memory can get the name.
#[test]
fn a_save_is_noted_of_the_memory_that_was_saved() {
    let world = World::new();
    let (first, second) = (world.image("a", 30, 1), world.image("b", 30, 2));
    let saved = load(&world, &first, "rw");
    saved.device_writable().unwrap().write(0, b"changed").unwrap();
    let content = || world.store().get("rw").unwrap().info().content.clone();
    let loaded = content();
    world.store().note_saved(&saved).unwrap();
    assert_ne!(content(), loaded);
    assert!(world.store().get("rw").unwrap().image_has_changed().unwrap(), "it has the bytes of before");
    // Its times do not matter, and its bytes do.
    let other = world.store().get("rw").unwrap();
    fs::copy(&second, &first).unwrap();
    assert!(other.image_has_changed().unwrap());
    fs::remove_file(&first).unwrap();
    assert!(!other.image_has_changed().unwrap(), "one that is gone loses nothing");

    world.store().remove("rw", true).unwrap();
    let next = load(&world, &second, "rw");
    let loaded = content();
    assert_eq!(loaded, next.info().content);
    world.store().note_saved(&saved).unwrap();
    assert_eq!(content(), loaded);
    assert!(!next.image_has_changed().unwrap());
}

#[test]
fn its_memory_and_name_are_its_own() {
    let world = World::new();
    let image = world.image("a", 30, 1);
    let sealed = world.load(&image, None).unwrap().segment;
    let first = load(&world, &image, "rw");
    let second = load(&world, &image, "rw2");
    assert!(first.id() != second.id() && first.id() != sealed.id() && second.id() != sealed.id());
    // One that is to be shared is never one that can be written, though that was the same when it was loaded.
    drop(sealed);
    world.remove("a");
    let sealed = world.load(&image, Some("c")).unwrap();
    assert_eq!((sealed.outcome, sealed.segment.info().exclusive), (Outcome::New, false));
    assert!(matches!(sealed.segment.open(Access::ReadWrite), Err(Error::Sealed { .. })));
    // Neither has the other's name.
    let other = world.image("b", 30, 2);
    for image in [&image, &other] {
        for (store, name) in
            [(world.store(), "rw"), (world.store().replacing(), "rw"), (world.store().exclusive(), "c")]
        {
            let error = store.load(image, Some(name), &mut |_, _| {}, &mut |_| Ok(())).unwrap_err();
            assert!(matches!(&error, Error::Exclusive { name: taken, .. } if taken == name), "{error}");
            assert_eq!(error.errno(), Errno::EXIST.raw_os_error());
        }
    }
}

/// Whoever has no name for an image finds it where it is, and not in what can be written.
#[test]
fn an_image_without_a_name_given_is_found_under_another_name_than_an_exclusive_ones() {
    let world = World::new();
    let image = world.image("a", 30, 1);
    drop(load(&world, &image, "a"));
    assert!(matches!(world.load(&image, None), Err(Error::Exclusive { .. })));
    let sealed = world.load(&image, Some("b")).unwrap().segment;
    let found = world.load(&image, None).unwrap();
    assert_eq!((found.outcome, found.segment.id(), found.wanted.as_str()), (Outcome::Same, sealed.id(), "a"));
}

/// What is written to a memory that lost its name would be lost with it: either the one or the other happens.
#[test]
fn it_is_removed_or_opened_to_be_written_and_never_both() {
    let world = World::new();
    let image = world.image("a", 1000, 1);
    // How long it takes when nobody is in its way.
    drop(load(&world, &image, "rw"));
    let since = std::time::Instant::now();
    world.remove("rw");
    let alone = since.elapsed();
    let mut removed = 0;
    for round in 0..30 {
        drop(load(&world, &image, "rw"));
        // Asked for before it is removed, and opened at some moment then.
        let segment = world.store().get("rw").unwrap();
        let (opened, gone) = std::thread::scope(|scope| {
            let removing = scope.spawn(|| world.store().remove("rw", false));
            std::thread::sleep(alone * round / 25);
            let opened = segment.open(Access::ReadWrite);
            (opened, removing.join().unwrap())
        });
        match (&opened, &gone) {
            // Opened before, in use, or locked by the removal, or after it.
            (Ok(_), Err(Error::InUse { .. } | Error::Locked { .. })) => {}
            (Err(Error::Locked { .. } | Error::Removed { .. }), Ok(())) => removed += 1,
            other => panic!("round {round}: {other:?}"),
        }
        if gone.is_ok() {
            assert!(matches!(segment.open(Access::ReadOnly), Err(Error::Removed { .. })));
        }
        drop((opened, segment));
        let _ = world.store().remove("rw", true);
    }
    assert!(removed > 0, "it was always opened first");
}

#[test]
fn what_is_not_in_its_image_is_not_removed_by_mistake() {
    let world = World::new();
    let image = world.image("a", 300, 1);
    drop(load(&world, &image, "same"));
    world.remove("same");

    let segment = load(&world, &image, "rw");
    segment.device_writable().unwrap().write(299 * PAGE as u64 + 4095, b"!").unwrap();
    let mut bytes = fs::read(&image).unwrap();
    let unsaved = |why: &str| {
        // Those of another test may have all our descriptors for a moment: see `World::remove`.
        until("nobody uses it", || match world.store().remove("rw", false) {
            Err(Error::InUse { .. }) => false,
            Err(error @ Error::Unsaved { .. }) => {
                let text = error.to_string();
                assert!(text.contains(why) && text.contains(image.to_str().unwrap()), "{text}");
                true
            }
            other => panic!("{other:?}"),
        });
    };
    drop(segment);
    unsaved("does not have it");
    fs::remove_file(&image).unwrap();
    unsaved("does not have it");
    *bytes.last_mut().unwrap() = b'!';
    fs::write(&image, &bytes[..299 * PAGE]).unwrap();
    unsaved("does not have it");
    fs::write(&image, &bytes).unwrap();
    world.remove("rw");
    assert!(matches!(world.store().get("rw"), Err(Error::NoSegment { .. })));

    let segment = load(&world, &image, "rw");
    segment.device_writable().unwrap().write(0, b"changed").unwrap();
    drop(segment);
    world.store().remove("rw", true).unwrap();
}
