//! Files that are made without a name (`O_TMPFILE`): contract 2 to 7 hold for them as for one whose last name is gone.

mod common;

use common::fsck;
use common::mapped::{World, errno, world};
use xip::{File, OpenOptions, Volume};
use xip_core::error::errno::{EEXIST, EINVAL, ENOENT, ENOTDIR, EROFS};

fn unnamed(world: &World) -> File {
    OpenOptions::new().read(true).write(true).open_unnamed(&world.volume, "/").unwrap()
}

/// What a program that is killed now leaves, repaired.
fn after_a_kill(world: &World) -> Volume {
    let copy = world.image.with_extension("killed");
    std::fs::copy(&world.image, &copy).unwrap();
    Volume::open_writable(&copy).unwrap().close().unwrap();
    fsck(&copy);
    Volume::open(&copy).unwrap()
}

#[test]
fn it_goes_with_its_last_close_or_with_the_program() {
    let world = world(1);
    let before = world.volume.statfs().unwrap();
    let file = unnamed(&world);
    file.write_all_at(&[7; 10_000], 0).unwrap();
    assert_eq!((file.metadata().unwrap().nlink(), file.len()), (0, 10_000));
    assert_eq!(world.volume.read_dir("/").unwrap().count(), 0);
    let killed = after_a_kill(&world).statfs().unwrap();
    assert_eq!((killed.free_blocks, killed.free_inodes), (before.free_blocks, before.free_inodes));
    let map = file.map(0, 10_000, xip::Sharing::Read).unwrap();
    drop(file);
    assert!(world.free() < before.free_blocks, "a map holds it");
    drop(map);
    let after = world.volume.statfs().unwrap();
    assert_eq!((after.free_blocks, after.free_inodes), (before.free_blocks, before.free_inodes));
    world.closed();
}

#[test]
fn it_gets_a_first_name_with_all_that_is_in_it_and_then_is_as_any_file() {
    let world = world(1);
    let file = unnamed(&world);
    file.write_all_at(b"all of it", 0).unwrap();
    world.volume.write("taken", "").unwrap();
    // What fails changes nothing.
    assert_eq!(errno(file.link("taken")), EEXIST);
    assert_eq!(errno(file.link("nowhere/name")), ENOENT);
    assert_eq!(errno(file.link("name/")), ENOENT);
    file.link("name").unwrap();
    assert_eq!(after_a_kill(&world).read("name").unwrap(), b"all of it");
    file.link("second").unwrap();
    assert_eq!(world.volume.metadata("name").unwrap().nlink(), 2);
    world.volume.remove_file("name").unwrap();
    world.volume.remove_file("second").unwrap();
    assert_eq!(errno(file.link("third")), ENOENT, "it has lost all of its names");
    let free = world.free();
    drop(file);
    assert_eq!(world.free(), free + 1);
    let file = unnamed(&world);
    file.link("stays").unwrap();
    drop(file);
    assert!(world.volume.exists("stays"));
    world.closed();
}

#[test]
fn its_directory_gives_it_what_it_gives_and_what_cannot_be_is_refused() {
    let world = world(1);
    world.volume.create_dir("d").unwrap();
    world.volume.set_owner("d", None, Some(77)).unwrap();
    world.volume.set_permissions("d", 0o2755).unwrap();
    let options = |read: bool| OpenOptions::new().read(read).write(!read).mode(0o666).umask(0o027).clone();
    let file = options(false).open_unnamed(&world.volume, "d").unwrap();
    let metadata = file.metadata().unwrap();
    assert_eq!((metadata.gid(), metadata.mode() & 0o7777), (77, 0o640));
    world.volume.write("file", "").unwrap();
    assert_eq!(errno(options(false).open_unnamed(&world.volume, "file")), ENOTDIR);
    assert_eq!(errno(options(false).open_unnamed(&world.volume, "none")), ENOENT);
    assert_eq!(errno(options(true).open_unnamed(&world.volume, "d")), EINVAL);
    drop(file);
    let image = world.image.clone();
    let World { volume, .. } = world;
    volume.close().unwrap();
    assert_eq!(errno(options(false).open_unnamed(&Volume::open(&image).unwrap(), "d")), EROFS);
    fsck(&image);
}
