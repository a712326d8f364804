//! Names that come, go and move, as POSIX has it, judged by e2fsck.

mod support;

use std::collections::BTreeMap;
use support::{Bytes, fsck, volume};
use xip_core::Alone;
use xip_core::ops::{self, Writer};
use xip_ext2::{Error, File, InodeNo, Kind, NewInode, NewKind, Rename, Volume};

type Test = Volume<Bytes, Alone>;

fn make(volume: &Test, parent: InodeNo, name: &str, kind: NewKind<'_>) -> InodeNo {
    volume.create(parent, name.as_bytes(), &NewInode { kind, permissions: 0o755, uid: 0, gid: 0 }).unwrap()
}

fn links(volume: &Test, number: InodeNo) -> u16 {
    volume.inode(number).unwrap().links
}

fn names(volume: &Test, number: InodeNo) -> BTreeMap<String, InodeNo> {
    let mut found = BTreeMap::new();
    volume
        .read_dir(number, 0, &mut |entry| {
            assert_eq!(found.insert(String::from_utf8(entry.name.to_vec()).unwrap(), entry.ino), None);
            true
        })
        .unwrap();
    found
}

/// Makes free what lost its last name, as a caller does who has nothing open.
fn release(volume: &Test, left: Option<InodeNo>) {
    if let Some(number) = left {
        volume.release(number).unwrap();
        assert_eq!(volume.inode(number), Err(Error::NotFound));
    }
}

#[test]
fn what_is_removed_gives_back_all_that_it_had() {
    let volume = volume(2048, 64);
    let empty = volume.statfs().unwrap();
    let long = [b'l'; 300];
    let kinds = [
        NewKind::Regular,
        NewKind::Symlink(b"short"),
        NewKind::Symlink(&long),
        NewKind::Fifo,
        NewKind::Socket,
        NewKind::Block(8, 1),
        NewKind::Character(300, 70_000),
    ];
    for kind in kinds {
        let number = make(&volume, InodeNo::ROOT, "f", kind);
        volume.set_xattr(number, b"trusted.large", Some(&[7; 1000])).unwrap();
        if let NewKind::Regular = kind {
            let File::Cached(open) = volume.file(number).unwrap() else { unreachable!() };
            for page in [0, 20, 3000, 2_000_000] {
                ops::write(&open, page * 4096, &[1; 10_000], &Writer::default()).unwrap();
            }
        }
        assert_eq!(volume.unlink(InodeNo::ROOT, b"f"), Ok(Some(number)));
        assert_eq!(volume.lookup(InodeNo::ROOT, b"f"), Ok(None));
        assert_eq!(links(&volume, number), 0);
        release(&volume, Some(number));
        assert_eq!(volume.statfs().unwrap(), empty, "{kind:?}");
        fsck(&volume);
    }
    let dir = make(&volume, InodeNo::ROOT, "d", NewKind::Directory);
    for n in 0..300 {
        make(&volume, dir, &format!("{n:0>200}"), NewKind::Symlink(b"x"));
        if n == 40 {
            break;
        }
    }
    assert_eq!(volume.rmdir(InodeNo::ROOT, b"d"), Err(Error::NotEmpty));
    for n in 0..=40 {
        release(&volume, volume.unlink(dir, format!("{n:0>200}").as_bytes()).unwrap());
    }
    assert_eq!(volume.rmdir(InodeNo::ROOT, b"d"), Ok(dir));
    assert_eq!(links(&volume, InodeNo::ROOT), 2);
    assert_eq!(make_error(&volume, dir), Error::NotFound, "a directory that is gone takes a name");
    release(&volume, Some(dir));
    assert_eq!(volume.statfs().unwrap(), empty);
    fsck(&volume);
}

fn make_error(volume: &Test, dir: InodeNo) -> Error {
    let new = NewInode { kind: NewKind::Fifo, permissions: 0, uid: 0, gid: 0 };
    volume.create(dir, b"x", &new).unwrap_err()
}

/// Unlink while open: the file is whole until it is released.
#[test]
fn a_file_without_names_is_used_until_it_is_released() {
    let volume = volume(512, 64);
    let number = make(&volume, InodeNo::ROOT, "f", NewKind::Regular);
    let File::Cached(open) = volume.file(number).unwrap() else { unreachable!() };
    assert_eq!(volume.release(number), Err(Error::Busy));
    assert_eq!(volume.unlink(InodeNo::ROOT, b"f"), Ok(Some(number)));
    ops::write(&open, 5000, b"still there", &Writer::default()).unwrap();
    let other = make(&volume, InodeNo::ROOT, "f", NewKind::Regular);
    assert_ne!(other, number);
    let mut to = [0; 20];
    assert_eq!(ops::read(&open, 5000, &mut to), Ok(11));
    assert_eq!(&to[..11], b"still there");
    assert_eq!(volume.link(InodeNo::ROOT, b"again", number), Err(Error::NotFound));
    volume.release(number).unwrap();
    assert_eq!(volume.release(number), Err(Error::NotFound));
    fsck(&volume);
}

/// What an old file handle has, a number and a generation, is never another file.
#[test]
fn a_number_that_is_used_again_has_another_generation() {
    let volume = volume(256, 64);
    let mut seen = Vec::new();
    for _ in 0..5 {
        let number = make(&volume, InodeNo::ROOT, "f", NewKind::Regular);
        let found = (number, volume.inode(number).unwrap().generation);
        assert!(!seen.contains(&found));
        seen.push(found);
        release(&volume, volume.unlink(InodeNo::ROOT, b"f").unwrap());
    }
    assert!(seen.iter().any(|&(number, generation)| number == seen[0].0 && generation > seen[0].1));
    fsck(&volume);
}

#[test]
fn unlink_and_rmdir_tell_files_from_directories() {
    let volume = volume(512, 64);
    make(&volume, InodeNo::ROOT, "f", NewKind::Regular);
    let dir = make(&volume, InodeNo::ROOT, "d", NewKind::Directory);
    assert_eq!(volume.unlink(InodeNo::ROOT, b"d"), Err(Error::IsDirectory));
    assert_eq!(volume.rmdir(InodeNo::ROOT, b"f"), Err(Error::NotDirectory));
    assert_eq!(volume.unlink(InodeNo::ROOT, b"x"), Err(Error::NotFound));
    assert_eq!(volume.rmdir(InodeNo::ROOT, b"x"), Err(Error::NotFound));
    assert_eq!(volume.rmdir(dir, b".").unwrap_err().errno(), 22);
    assert_eq!(volume.rmdir(dir, b".."), Err(Error::NotEmpty));
    assert_eq!(volume.unlink(dir, b".."), Err(Error::IsDirectory));
    fsck(&volume);
}

#[test]
fn rename_replaces_only_what_may_be_replaced() {
    let volume = volume(512, 64);
    let root = InodeNo::ROOT;
    let [a, b] = ["a", "b"].map(|name| make(&volume, root, name, NewKind::Regular));
    let [d, e, full] = ["d", "e", "full"].map(|name| make(&volume, root, name, NewKind::Directory));
    make(&volume, full, "x", NewKind::Fifo);
    let replace = |from: &[u8], to: &[u8]| volume.rename(root, from, root, to, Rename::Replace);
    assert_eq!(replace(b"none", b"b"), Err(Error::NotFound));
    assert_eq!(replace(b"a", b"d"), Err(Error::IsDirectory));
    assert_eq!(replace(b"d", b"a"), Err(Error::NotDirectory));
    assert_eq!(replace(b"d", b"full"), Err(Error::NotEmpty));
    assert_eq!(replace(b"a", b"."), Err(Error::InvalidName));
    assert_eq!(replace(b"..", b"x"), Err(Error::InvalidName));
    assert_eq!(replace(b"a", &[b'x'; 256]), Err(Error::NameTooLong));
    assert_eq!(volume.rename(root, b"a", root, b"b", Rename::NoReplace), Err(Error::Exists));
    assert_eq!(volume.rename(root, b"a", root, b"c", Rename::Exchange), Err(Error::NotFound));
    assert_eq!(volume.rename(root, b"d", e, b"d", Rename::NoReplace), Ok(None));
    assert_eq!(volume.rename(root, b"e", d, b"e", Rename::Replace), Err(Error::OwnSubtree));
    assert_eq!(volume.rename(root, b"e", e, b"e", Rename::Replace), Err(Error::OwnSubtree));
    assert_eq!(volume.rename(root, b"a", d, b"e", Rename::NoReplace), Ok(None));
    assert_eq!(volume.rename(d, b"e", root, b"e", Rename::Exchange), Err(Error::OwnSubtree));
    assert_eq!(volume.rename(e, b"d", root, b"e", Rename::Replace), Err(Error::NotEmpty));
    assert_eq!(names(&volume, d)["e"], a);
    assert_eq!((links(&volume, root), links(&volume, e), links(&volume, d)), (4, 3, 2));
    assert_eq!(volume.lookup(d, b".."), Ok(Some(e)));
    fsck(&volume);

    // Two names of one file: nothing happens, and both stay.
    volume.link(root, b"b2", b).unwrap();
    assert_eq!(replace(b"b", b"b2"), Ok(None));
    assert_eq!((names(&volume, root)["b"], names(&volume, root)["b2"], links(&volume, b)), (b, b, 2));
    // What is replaced is told when it was its last name, and only then.
    let c = make(&volume, root, "c", NewKind::Regular);
    assert_eq!(replace(b"c", b"b"), Ok(None));
    assert_eq!((names(&volume, root)["b"], links(&volume, b)), (c, 1));
    assert_eq!(replace(b"b", b"b2"), Ok(Some(b)));
    release(&volume, Some(b));
    let f = make(&volume, root, "f", NewKind::Directory);
    let left = volume.rename(e, b"d", root, b"f", Rename::Replace);
    assert_eq!(left, Ok(Some(f)));
    release(&volume, left.unwrap());
    assert_eq!((links(&volume, root), links(&volume, e), links(&volume, d)), (5, 2, 2));
    assert_eq!(volume.lookup(d, b".."), Ok(Some(root)));
    fsck(&volume);
}

/// It is only still open; below what it was, its `..` does not tell.
#[test]
fn a_directory_that_was_removed_takes_no_name_by_rename() {
    let volume = volume(256, 64);
    let root = InodeNo::ROOT;
    let above = make(&volume, root, "above", NewKind::Directory);
    let removed = make(&volume, above, "removed", NewKind::Directory);
    assert_eq!(volume.rmdir(above, b"removed"), Ok(removed));
    for how in [Rename::Replace, Rename::NoReplace, Rename::Exchange] {
        assert_eq!(volume.rename(root, b"above", removed, b"name", how), Err(Error::NotFound), "{how:?}");
    }
    volume.release(removed).unwrap();
    fsck(&volume);
}

#[test]
fn exchange_swaps_files_and_directories_across_directories() {
    let volume = volume(512, 64);
    let root = InodeNo::ROOT;
    let [d, e] = ["d", "e"].map(|name| make(&volume, root, name, NewKind::Directory));
    let inner = make(&volume, d, "inner", NewKind::Directory);
    let file = make(&volume, e, "file", NewKind::Regular);
    assert_eq!(volume.rename(d, b"inner", e, b"file", Rename::Exchange), Ok(None));
    assert_eq!((names(&volume, d)["inner"], names(&volume, e)["file"]), (file, inner));
    assert_eq!((links(&volume, d), links(&volume, e)), (2, 3));
    assert_eq!(volume.lookup(inner, b".."), Ok(Some(e)));
    fsck(&volume);
    let other = make(&volume, d, "other", NewKind::Directory);
    assert_eq!(volume.rename(d, b"other", e, b"file", Rename::Exchange), Ok(None));
    assert_eq!((volume.lookup(inner, b".."), volume.lookup(other, b"..")), (Ok(Some(d)), Ok(Some(e))));
    assert_eq!(volume.rename(root, b"d", root, b"e", Rename::Exchange), Ok(None));
    assert_eq!((names(&volume, root)["d"], names(&volume, root)["e"]), (e, d));
    let mut kind = None;
    volume
        .read_dir(d, 0, &mut |entry| {
            if entry.name == b"inner" {
                kind = entry.kind;
            }
            true
        })
        .unwrap();
    assert_eq!(kind, Some(Kind::Regular), "the kind in the entry is that of what it leads to");
    fsck(&volume);
}

/// The directory that a directory is moved to grows on the way: its size, its count of blocks and its links are all right.
#[test]
fn directories_move_into_one_that_grows() {
    let volume = volume(1024, 200);
    let [from, to] = ["from", "to"].map(|name| make(&volume, InodeNo::ROOT, name, NewKind::Directory));
    for n in 0..60 {
        let name = format!("{n:0>200}");
        make(&volume, from, &name, NewKind::Directory);
        assert_eq!(volume.rename(from, name.as_bytes(), to, name.as_bytes(), Rename::Replace), Ok(None));
        assert_eq!((links(&volume, from), links(&volume, to)), (2, 3 + n));
        fsck(&volume);
    }
    assert!(volume.inode(to).unwrap().size > 3 * 4096);
}

/// Names of all lengths come, go and move between a small, a large and an indexed directory, against a model.
#[test]
fn names_are_a_map_whatever_is_done_to_them() {
    let volume = volume(4096, 4000);
    let root = InodeNo::ROOT;
    let dirs = ["p", "q", "r"].map(|name| make(&volume, root, name, NewKind::Directory));
    let mut model: BTreeMap<(usize, String), InodeNo> = BTreeMap::new();
    let mut seed = 12345u64;
    let mut random = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    };
    let name = |n: usize| format!("{n}-{}", "x".repeat(n * 37 % 240));
    for step in 0..6000 {
        let (from, to) = (random(3), random(3));
        // The third directory grows large.
        let many = |dir: usize| [5, 60, 1500][dir];
        let (a, b) = ((from, name(random(many(from)))), (to, name(random(many(to)))));
        let [p, q] = [from, to].map(|n| dirs[n]);
        match random(8) {
            0..3 => {
                let new = NewInode { kind: NewKind::Regular, permissions: 0o644, uid: 0, gid: 0 };
                match volume.create(p, a.1.as_bytes(), &new) {
                    Ok(number) => assert_eq!(model.insert(a, number), None),
                    Err(error) => assert!(error == Error::Exists && model.contains_key(&a), "{error}"),
                }
            }
            3 => match volume.unlink(p, a.1.as_bytes()) {
                Ok(left) => {
                    assert_eq!(left, model.remove(&a));
                    release(&volume, left);
                }
                Err(error) => assert!(error == Error::NotFound && !model.contains_key(&a), "{error}"),
            },
            how => {
                let how = [Rename::Replace, Rename::Replace, Rename::NoReplace, Rename::Exchange][how - 4];
                let result = volume.rename(p, a.1.as_bytes(), q, b.1.as_bytes(), how);
                match (model.get(&a).copied(), model.get(&b).copied(), how) {
                    (None, _, _) => assert_eq!(result, Err(Error::NotFound)),
                    (_, Some(_), Rename::NoReplace) => assert_eq!(result, Err(Error::Exists)),
                    (_, None, Rename::Exchange) => assert_eq!(result, Err(Error::NotFound)),
                    (Some(x), Some(y), _) if x == y => assert_eq!(result, Ok(None)),
                    (Some(x), Some(y), Rename::Exchange) => {
                        assert_eq!(result, Ok(None));
                        model.insert(a, y);
                        model.insert(b, x);
                    }
                    (Some(x), y, _) => {
                        assert_eq!(result, Ok(y));
                        release(&volume, y);
                        model.remove(&a);
                        model.insert(b, x);
                    }
                }
            }
        }
        if step % 1000 == 999 {
            for (n, &dir) in dirs.iter().enumerate() {
                let mut found = names(&volume, dir);
                found.remove(".");
                found.remove("..");
                let expected: BTreeMap<String, InodeNo> =
                    model.iter().filter(|((at, _), _)| *at == n).map(|((_, name), ino)| (name.clone(), *ino)).collect();
                assert_eq!(found, expected);
                for (name, number) in expected {
                    assert_eq!(volume.lookup(dir, name.as_bytes()), Ok(Some(number)));
                }
            }
            fsck(&volume);
        }
    }
    assert!(model.keys().filter(|key| key.0 == 2).count() > 300);
}

/// What is promised of cursors: a name that is there all the time is seen once, whatever else comes and goes.
#[test]
fn a_reader_of_a_directory_sees_what_stays_exactly_once() {
    for removing in [true, false] {
        let volume = volume(4096, 4000);
        let dir = make(&volume, InodeNo::ROOT, "d", NewKind::Directory);
        let stays = |n: usize| n.is_multiple_of(3);
        for n in 0..1200 {
            if removing || stays(n) {
                make(&volume, dir, &format!("name-{n}"), NewKind::Fifo);
            }
        }
        let (mut cursor, mut seen, mut n) = (0, BTreeMap::new(), 0);
        loop {
            let mut next = None;
            volume
                .read_dir(dir, cursor, &mut |entry| {
                    let name = String::from_utf8(entry.name.to_vec()).unwrap();
                    *seen.entry(name).or_insert(0) += 1;
                    next = Some(entry.next);
                    false
                })
                .unwrap();
            let Some(next) = next else { break };
            cursor = next;
            // Between two calls others go, or come until blocks are split.
            for _ in 0..3 {
                n += 1;
                let name = format!("name-{}", n % 1200);
                if stays(n % 1200) {
                } else if removing {
                    let _ = volume.unlink(dir, name.as_bytes()).map(|left| release(&volume, left));
                } else if volume.lookup(dir, name.as_bytes()).unwrap().is_none() {
                    make(&volume, dir, &name, NewKind::Fifo);
                }
            }
        }
        for n in (0..1200).filter(|&n| stays(n)) {
            assert_eq!(seen.get(&format!("name-{n}")), Some(&1), "{n}");
        }
        assert!(seen.values().all(|&times| times == 1));
        fsck(&volume);
    }
}
