//! A volume that is read and written, by the rules of contract 3 to 6; e2fsck and the kernel judge what is left.

mod common;

use common::{fsck, pattern, with_kernel_mount};
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};
use tempfile::TempDir;
use xip::{Error, Kind, NewKind, OpenOptions, Volume};

struct World {
    _dir: TempDir,
    image: PathBuf,
    volume: Volume,
}

fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let volume = Volume::create(&image, 32 << 20).unwrap();
    World { _dir: dir, image, volume }
}

impl World {
    /// Closes the volume; e2fsck must find it clean, and closed.
    fn closed(self) -> (TempDir, PathBuf) {
        self.volume.close().unwrap();
        fsck(&self.image);
        (self._dir, self.image)
    }
}

fn errno<T: std::fmt::Debug>(result: xip::Result<T>) -> i32 {
    result.unwrap_err().errno()
}

const ENOENT: i32 = 2;
const EBADF: i32 = 9;
const EBUSY: i32 = 16;
const EEXIST: i32 = 17;
const ENOTDIR: i32 = 20;
const EISDIR: i32 = 21;
const EINVAL: i32 = 22;
const EROFS: i32 = 30;
const ENOTEMPTY: i32 = 39;
const ELOOP: i32 = 40;
const ENODATA: i32 = 61;
const EOPNOTSUPP: i32 = 95;

#[test]
fn the_kernel_reads_what_was_written() {
    let world = world();
    let volume = &world.volume;
    volume.create_dir_all("/usr/share/doc").unwrap();
    let bytes = pattern(1, 3_000_001);
    volume.write("/usr/share/doc/large", &bytes).unwrap();
    volume.write("small", b"a few").unwrap();
    volume.hard_link("small", "usr/hard").unwrap();
    volume.symlink("share/doc", "/usr/link").unwrap();
    volume.make_node("pipe", NewKind::Fifo, 0o600).unwrap();
    volume.make_node("null", NewKind::Character(1, 3), 0o666).unwrap();
    volume.set_permissions("small", 0o640).unwrap();
    volume.set_owner("small", Some(1000), Some(70_000)).unwrap();
    let time = UNIX_EPOCH + Duration::new(1_600_000_000, 123_456_789);
    volume.set_times("small", Some(time), Some(time)).unwrap();
    volume.set_xattr("small", "user.origin", b"here").unwrap();
    // Read back by the same volume, at once.
    assert!(volume.read("/usr/link/large").unwrap() == bytes);
    assert_eq!(volume.metadata("usr/hard").unwrap().nlink(), 2);
    assert_eq!(volume.metadata("small").unwrap().modified(), time);
    assert_eq!(volume.xattr("small", "user.origin").unwrap().as_deref(), Some(&b"here"[..]));

    let (_dir, image) = world.closed();
    with_kernel_mount(&image, |mount| {
        assert!(fs::read(mount.join("usr/link/large")).unwrap() == bytes);
        assert_eq!(fs::read(mount.join("usr/hard")).unwrap(), b"a few");
        let small = fs::metadata(mount.join("small")).unwrap();
        assert_eq!((small.mode() & 0o7777, small.uid(), small.gid(), small.nlink()), (0o640, 1000, 70_000, 2));
        assert_eq!(small.modified().unwrap(), time);
        assert!(fs::metadata(mount.join("pipe")).unwrap().file_type().is_fifo());
        assert_eq!(fs::metadata(mount.join("null")).unwrap().rdev(), 0x103);
        // What the kernel writes is there for us afterwards.
        fs::write(mount.join("kernel"), b"was here").unwrap();
        fs::remove_file(mount.join("small")).unwrap();
        fs::set_permissions(mount.join("usr"), fs::Permissions::from_mode(0o700)).unwrap();
    });
    let volume = Volume::open_writable(&image).unwrap();
    if volume.exists("kernel") {
        assert_eq!(volume.read("kernel").unwrap(), b"was here");
        assert_eq!(volume.metadata("usr").unwrap().mode(), 0o040_700);
        assert_eq!(volume.metadata("usr/hard").unwrap().nlink(), 1);
    }
    volume.close().unwrap();
    fsck(&image);
}

#[test]
fn files_are_opened_as_the_options_say() {
    let world = world();
    let volume = &world.volume;
    let open = OpenOptions::new;
    assert_eq!(errno(open().read(true).open(volume, "f")), ENOENT);
    assert_eq!(errno(open().open(volume, "f")), EINVAL);
    assert_eq!(errno(open().read(true).create(true).open(volume, "f")), EINVAL);
    assert_eq!(errno(open().append(true).truncate(true).open(volume, "f")), EINVAL);
    assert_eq!(errno(open().write(true).create(true).open(volume, "none/f")), ENOENT);
    assert_eq!(errno(open().write(true).create(true).open(volume, "f/")), EISDIR);
    assert!(!volume.exists("f"));

    let mut file = open().read(true).write(true).create_new(true).mode(0o4600).open(volume, "f").unwrap();
    assert_eq!(errno(open().write(true).create_new(true).open(volume, "f")), EEXIST);
    assert_eq!(file.metadata().unwrap().mode(), 0o104_600);
    file.write_all(b"hello, world").unwrap();
    // Contract 3, write: set-id bits go.
    assert_eq!(file.metadata().unwrap().mode(), 0o100_600);
    file.seek(SeekFrom::End(-5)).unwrap();
    let mut read = String::new();
    file.read_to_string(&mut read).unwrap();
    assert_eq!(read, "world");

    // Both see one file: nothing stale is kept.
    let other = volume.file("f").unwrap();
    file.write_all_at(b"HELLO", 0).unwrap();
    file.set_len(5).unwrap();
    assert_eq!((other.len(), other.read_all().unwrap()), (5, b"HELLO".to_vec()));
    assert_eq!(errno(other.write_at(b"x", 0)), EBADF);
    assert_eq!(errno(other.set_len(0)), EBADF);
    let write_only = open().write(true).open(volume, "f").unwrap();
    assert_eq!(errno(write_only.read_at(&mut [0; 1], 0)), EBADF);

    open().write(true).truncate(true).open(volume, "f").unwrap();
    assert_eq!(other.len(), 0);

    // A link to nothing is made into something, as by open(2), but not by create_new.
    volume.symlink("made", "link").unwrap();
    assert_eq!(errno(open().write(true).create_new(true).open(volume, "link")), EEXIST);
    open().write(true).create(true).open(volume, "link").unwrap();
    assert!(volume.symlink_metadata("made").unwrap().is_file());
    volume.symlink("round", "round").unwrap();
    assert_eq!(errno(open().write(true).create(true).open(volume, "round")), ELOOP);
    volume.create_dir("d").unwrap();
    assert_eq!(errno(open().write(true).create(true).open(volume, "d")), EISDIR);
    assert_eq!(errno(open().write(true).create(true).open(volume, "/")), EISDIR);
    drop((file, other, write_only));
    world.closed();
}

/// Contract 3: vectored writes are one operation, holes read as zeros and are found, space comes and goes.
#[test]
fn space_is_given_found_and_taken_back() {
    let world = world();
    let file = OpenOptions::new().read(true).write(true).create(true).open(&world.volume, "f").unwrap();
    assert_eq!(file.writev_at(&[b"one ", b"and ", b"two"], 8192).unwrap(), 11);
    assert_eq!(file.read_all().unwrap(), [&[0; 8192][..], b"one and two"].concat());
    assert_eq!((file.seek_data(0).unwrap(), file.seek_hole(8192).unwrap()), (Some(8192), Some(8203)));
    assert_eq!((file.seek_data(8203).unwrap(), file.seek_hole(8203).unwrap()), (None, None));
    assert_eq!(file.extents().unwrap().len(), 1);
    assert!(file.tail_is_zero().unwrap());

    file.allocate(0, 8192, true).unwrap();
    assert_eq!((file.seek_hole(0).unwrap(), file.len()), (Some(8203), 8203));
    assert_eq!(errno(file.allocate(1 << 20, 4096, true)), EOPNOTSUPP);
    file.allocate(0, 1 << 20, false).unwrap();
    assert_eq!(file.len(), 1 << 20);
    let pages: u64 = file.extents().unwrap().iter().map(|placed| placed.run.count).sum();
    assert_eq!(pages, 256);
    file.write_all_at(&pattern(3, 1 << 20), 0).unwrap();
    file.punch_hole(100, 20_000).unwrap();
    let mut expected = pattern(3, 1 << 20);
    expected[100..20_100].fill(0);
    file.zero_range(500_000, 70_000, true).unwrap();
    expected[500_000..570_000].fill(0);
    assert!(file.read_all().unwrap() == expected);
    assert_eq!(file.seek_hole(0).unwrap(), Some(4096));
    let (mut sent, mut receiver) = (Vec::new(), tempfile::tempfile().unwrap());
    assert_eq!(file.sendfile(&receiver, 50, 30_000).unwrap(), 30_000);
    receiver.rewind().unwrap();
    receiver.read_to_end(&mut sent).unwrap();
    assert!(sent == expected[50..30_050]);
    // Its storage may become another's, so it is not lent.
    assert_eq!(errno(file.piece(0, 1)), EOPNOTSUPP);
    assert!(file.as_slice(0, 1).is_none());
    file.sync_all().unwrap();
    file.sync_data().unwrap();
    drop(file);
    world.closed();
}

/// Contract 6: a pipe and a socket keep what they were sent, and nobody waits for who reads it.
#[test]
fn what_was_sent_stays_what_it_was_whatever_becomes_of_the_file() {
    let pipe = std::io::pipe().unwrap();
    let socket = std::os::unix::net::UnixStream::pair().unwrap();
    let ends: [(Box<dyn Read>, OwnedFd); 2] =
        [(Box::new(pipe.0), pipe.1.into()), (Box::new(socket.0), socket.1.into())];
    for (mut reader, writer) in ends {
        let world = world();
        let volume = &world.volume;
        volume.write("old", [1; 4096]).unwrap();
        let file = volume.file("old").unwrap();
        assert_eq!(file.sendfile(&writer, 0, 4096).unwrap(), 4096);
        drop(file);
        volume.remove_file("old").unwrap();
        // All the storage there is.
        let mut new = OpenOptions::new().write(true).create(true).open(volume, "new").unwrap();
        while new.write(&[2; 1 << 20]).is_ok() {}
        let mut sent = [0; 4096];
        reader.read_exact(&mut sent).unwrap();
        assert!(sent == [1; 4096], "another file's bytes");

        new.set_len(4 << 20).unwrap();
        let (sender, done) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let sending = scope.spawn(|| volume.file("new").unwrap().sendfile(&writer, 0, 4 << 20).unwrap());
            // It has begun, and cannot end.
            reader.read_exact(&mut [0]).unwrap();
            scope.spawn(move || {
                volume.read("new").unwrap();
                new.write_all_at(&[3; 100], 0).unwrap();
                volume.remove_file("new").unwrap();
                volume.write("other", b"").unwrap();
                drop(new);
                sender.send(()).unwrap();
            });
            let waited = done.recv_timeout(Duration::from_secs(20));
            let mut rest = reader.take((4 << 20) - 1);
            std::io::copy(&mut rest, &mut std::io::sink()).unwrap();
            waited.expect("who uses the file waits for who reads the other end");
            assert_eq!(sending.join().unwrap(), 4 << 20);
        });
        world.closed();
    }
}

/// As above: an image that was only read can be written when nobody reads it any more.
#[test]
fn what_was_sent_of_an_image_that_is_read_stays_when_it_is_written_later() {
    let world = world();
    world.volume.write("f", [1; 4096]).unwrap();
    let (_dir, image) = world.closed();
    let (mut reader, writer) = std::io::pipe().unwrap();
    assert_eq!(Volume::open(&image).unwrap().file("f").unwrap().sendfile(&writer, 0, 4096).unwrap(), 4096);
    let volume = Volume::open_writable(&image).unwrap();
    OpenOptions::new().write(true).open(&volume, "f").unwrap().write_all_at(&[2; 4096], 0).unwrap();
    let mut sent = [0; 4096];
    reader.read_exact(&mut sent).unwrap();
    assert!(sent == [1; 4096]);
    volume.close().unwrap();
    fsck(&image);
}

#[test]
fn names_come_move_and_go() {
    let world = world();
    let volume = &world.volume;
    for name in ["a", "b"] {
        volume.write(name, name).unwrap();
        volume.create_dir_all(format!("dir-{name}/sub")).unwrap();
    }
    assert_eq!(errno(volume.create_dir("a")), EEXIST);
    assert_eq!(errno(volume.create_dir("none/d")), ENOENT);
    assert_eq!(errno(volume.create_dir("a/d")), ENOTDIR);
    assert_eq!(errno(volume.create_dir_all("a/d/e")), ENOTDIR);
    assert_eq!(errno(volume.create_dir("/")), EEXIST);
    volume.create_dir("slash/").unwrap();
    assert_eq!(errno(volume.rename_no_replace("a", "b")), EEXIST);
    let error = volume.rename("a", "dir-b").unwrap_err();
    assert_eq!(error.errno(), EISDIR);
    assert!(error.to_string().starts_with("a -> dir-b: "), "{error}");
    assert_eq!(errno(volume.rename("dir-a", "dir-a/sub/below")), EINVAL);
    assert_eq!(errno(volume.rename("a", "c/")), ENOTDIR);
    volume.exchange("a", "dir-a").unwrap();
    assert_eq!(volume.read("dir-a").unwrap(), b"a");
    assert!(volume.metadata("a/sub").unwrap().is_dir());
    volume.exchange("a", "dir-a").unwrap();
    volume.rename("a", "b").unwrap();
    assert_eq!(volume.read("b").unwrap(), b"a");
    assert_eq!(errno(volume.remove_file("a")), ENOENT);
    assert_eq!(errno(volume.remove_file("dir-a")), EISDIR);
    assert_eq!(errno(volume.remove_file("b/")), ENOTDIR);
    assert_eq!(errno(volume.remove_dir("dir-a")), ENOTEMPTY);
    assert_eq!(errno(volume.remove_dir("b")), ENOTDIR);
    assert_eq!(errno(volume.hard_link("dir-a", "hard")), EISDIR);
    assert_eq!(errno(volume.remove_xattr("b", "user.none")), ENODATA);
    volume.set_xattr("b", "user.one", b"1").unwrap();
    volume.remove_xattr("b", "user.one").unwrap();
    assert!(volume.xattrs("b").unwrap().is_empty());

    // Everything in a directory goes, links are not followed.
    volume.symlink("/b", "dir-b/sub/link").unwrap();
    for n in 0..300 {
        volume.write(format!("dir-b/sub/{n}"), [1]).unwrap();
    }
    volume.remove_dir_all("dir-b").unwrap();
    assert_eq!(errno(volume.remove_dir_all("b")), ENOTDIR);
    volume.remove_file("b").unwrap();
    volume.remove_dir("dir-a/sub").unwrap();
    let mut names: Vec<_> = volume.read_dir("/").unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names.retain(|name| name != "lost+found");
    assert_eq!(names, ["dir-a", "slash"]);
    world.closed();
}

#[test]
fn a_directory_with_set_group_id_gives_its_group() {
    let world = world();
    let volume = &world.volume;
    volume.create_dir("d").unwrap();
    volume.set_owner("d", None, Some(77)).unwrap();
    volume.set_permissions("d", 0o2755).unwrap();
    volume.write("d/f", b"").unwrap();
    volume.create_dir("d/d").unwrap();
    assert_eq!(volume.metadata("d/f").unwrap().gid(), 77);
    let below = volume.metadata("d/d").unwrap();
    assert_eq!((below.gid(), below.mode()), (77, 0o042_755));
    // Who owns a file is no reason for the next owner to run it as the old one.
    volume.set_permissions("d/f", 0o6755).unwrap();
    volume.set_owner("d/f", Some(5), None).unwrap();
    assert_eq!(volume.metadata("d/f").unwrap().mode(), 0o100_755);
    world.closed();
}

/// Contract 6, "unlink while open": the file stays until its last close, and then its storage is free.
#[test]
fn a_file_without_a_name_lives_until_its_last_close() {
    let world = world();
    let volume = &world.volume;
    let free = volume.statfs().unwrap();
    let bytes = pattern(9, 1 << 20);
    volume.write("f", &bytes).unwrap();
    let first = OpenOptions::new().read(true).write(true).open(volume, "f").unwrap();
    let second = volume.file("f").unwrap();
    volume.remove_file("f").unwrap();
    assert!(!volume.exists("f"));
    first.write_all_at(b"still", 0).unwrap();
    drop(first);
    let mut read = [0; 5];
    second.read_exact_at(&mut read, 0).unwrap();
    assert_eq!(&read, b"still");
    assert_eq!(second.metadata().unwrap().nlink(), 0);
    assert!(volume.statfs().unwrap().free_blocks < free.free_blocks - 200);
    // Its number is no one else's meanwhile.
    let new = volume.create_file("g").unwrap();
    assert_ne!(new.ino(), second.ino());
    drop(second);
    drop(new);
    volume.remove_file("g").unwrap();
    assert_eq!(volume.statfs().unwrap(), free);

    // The same for what a rename replaces, and for a directory that is being read.
    volume.write("old", &bytes).unwrap();
    volume.write("new", b"new").unwrap();
    let open = volume.file("old").unwrap();
    volume.rename("new", "old").unwrap();
    assert!(open.read_all().unwrap() == bytes);
    drop(open);
    volume.remove_file("old").unwrap();
    volume.create_dir("d").unwrap();
    let reading = volume.read_dir("d").unwrap();
    volume.remove_dir("d").unwrap();
    assert_eq!(volume.statfs().unwrap().free_inodes, free.free_inodes - 1);
    assert_eq!(reading.count(), 0);
    assert_eq!(volume.statfs().unwrap(), free);
    world.closed();
}

#[test]
fn a_volume_that_is_only_read_refuses_every_change() {
    let world = world();
    world.volume.write("f", b"as it was").unwrap();
    let (_dir, image) = world.closed();
    let before = fs::read(&image).unwrap();
    let volume = Volume::open(&image).unwrap();
    assert_eq!(errno(volume.write("f", b"new")), EROFS);
    assert_eq!(errno(volume.create_dir("d")), EROFS);
    assert_eq!(errno(volume.remove_file("f")), EROFS);
    assert_eq!(errno(volume.rename("f", "g")), EROFS);
    assert_eq!(errno(volume.set_permissions("f", 0)), EROFS);
    assert_eq!(errno(volume.set_xattr("f", "user.a", b"")), EROFS);
    let why = OpenOptions::new().append(true).open(&volume, "f").unwrap_err();
    assert!(why.to_string().contains("open_writable"), "{why}");
    assert_eq!(volume.read("f").unwrap(), b"as it was");
    volume.close().unwrap();
    assert!(fs::read(&image).unwrap() == before);
}

/// Issue 3: one writer or many readers; who is refused learns who has it.
#[test]
fn one_program_writes_an_image_or_many_read_it() {
    let world = world();
    let second = Volume::open_writable(&world.image).unwrap_err();
    assert_eq!(second.errno(), EBUSY);
    let me = format!("process {} (", std::process::id());
    assert!(second.to_string().contains(&me), "{second}");
    assert!(matches!(Volume::open(&world.image), Err(Error::InUse { .. })));
    let (_dir, image) = world.closed();
    let readers = [Volume::open(&image).unwrap(), Volume::open(&image).unwrap()];
    assert_eq!(errno(Volume::open_writable(&image)), EBUSY);
    drop(readers);
    Volume::open_writable(&image).unwrap();
}

#[test]
fn a_volume_in_use_is_not_closed_but_by_its_last_user() {
    let world = world();
    world.volume.write("f", b"x").unwrap();
    let file = world.volume.file("f").unwrap();
    assert!(matches!(world.volume.close(), Err(Error::StillInUse)));
    assert_eq!(file.read_all().unwrap(), b"x");
    drop(file);
    fsck(&world.image);
}

/// What is left by a program that was killed is repaired by the next opening; what is damaged is refused and named.
#[test]
fn an_unclean_volume_is_repaired_when_it_is_opened() {
    let world = world();
    world.volume.write("kept", pattern(4, 100_000)).unwrap();
    world.volume.write("lost", pattern(5, 100_000)).unwrap();
    let free = world.volume.statfs().unwrap().free_blocks;
    let open = world.volume.file("lost").unwrap();
    world.volume.remove_file("lost").unwrap();
    // What stands in the image at this moment is what a killed program would leave.
    let left = world._dir.path().join("left");
    fs::copy(&world.image, &left).unwrap();
    drop(open);
    let (_dir, _) = world.closed();

    let volume = Volume::open_writable(&left).unwrap();
    assert!(volume.read("kept").unwrap() == pattern(4, 100_000));
    assert!(volume.statfs().unwrap().free_blocks > free + 20);
    volume.write("more", b"x").unwrap();
    volume.close().unwrap();
    fsck(&left);
}

#[test]
fn a_damaged_volume_is_not_written() {
    let world = world();
    world.volume.write("f", pattern(4, 100_000)).unwrap();
    let ino = world.volume.resolve("f").unwrap().0;
    let table = {
        // The inode table of group 0: the block number stands 8 bytes into its descriptor, which is in block 1.
        let bytes = fs::read(&world.image).unwrap();
        u32::from_le_bytes(bytes[4096 + 8..4096 + 12].try_into().unwrap()) as usize * 4096
    };
    let left = world._dir.path().join("left");
    fs::copy(&world.image, &left).unwrap();
    let mut bytes = fs::read(&left).unwrap();
    let first_block = table + (ino as usize - 1) * 256 + 40;
    bytes[first_block..first_block + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    fs::write(&left, &bytes).unwrap();
    let why = Volume::open_writable(&left).unwrap_err();
    assert!(matches!(why, Error::Damaged { .. }), "{why}");
    assert!(fs::read(&left).unwrap() == bytes);
}

#[test]
fn a_directory_entry_shows_its_file_as_it_is_now() {
    let world = world();
    world.volume.write("f", b"1").unwrap();
    let entry = world.volume.read_dir("/").unwrap().map(Result::unwrap).find(|e| e.file_name() == "f").unwrap();
    world.volume.write("f", b"22").unwrap();
    assert_eq!(entry.metadata().unwrap().len(), 2);
    world.volume.remove_file("f").unwrap();
    world.volume.create_dir("f").unwrap();
    assert_eq!(entry.file_type().unwrap(), Kind::Directory);
    world.volume.remove_dir("f").unwrap();
    assert_eq!(errno(entry.metadata()), ENOENT);
    drop(entry);
    world.closed();
}
