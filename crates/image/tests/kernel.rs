//! What the kernel and e2fsck make of an image: contract 5, "the kernel must mount every volume we write, and
//! `e2fsck -fn` must call it clean".

mod support;

use rustix::fs::FileType;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use support::*;
use xip_image::{Build, Summary};

fn build(source: &Path, image: &Path) -> Summary {
    let summary = Build::default().run(source, image, &()).unwrap();
    assert_clean(image);
    assert_eq!(fs::metadata(image).unwrap().len() % (2 << 20), 0, "a multiple of 2 MiB");
    summary
}

fn assert_kernel_agrees(source: &Path, image: &Path) {
    assert_same(source, Mounted::new(image).path());
}

#[test]
fn every_kind_of_file_arrives_as_it_was() {
    if !root("making devices and mounting") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (source, image) = (directory.path().join("tree"), directory.path().join("image"));
    plain_tree(&source);
    make_node(&source.join("null"), FileType::CharacterDevice, (1, 3));
    make_node(&source.join("disk"), FileType::BlockDevice, (259, 300_000));
    make_node(&source.join("pipe"), FileType::Fifo, (0, 0));
    make_node(&source.join("socket"), FileType::Socket, (0, 0));
    symlink("t".repeat(59), source.join("fast")).unwrap();
    symlink("t".repeat(60), source.join("slow")).unwrap();
    symlink("t".repeat(4000), source.join("long")).unwrap();
    fs::hard_link(source.join("null"), source.join("usr/null-too")).unwrap();
    fs::set_permissions(source.join("bin/file-1"), fs::Permissions::from_mode(0o6755)).unwrap();
    fs::set_permissions(source.join("usr"), fs::Permissions::from_mode(0o1777)).unwrap();
    std::os::unix::fs::lchown(source.join("link"), Some(70_000), Some(4_000_000_000)).unwrap();
    std::os::unix::fs::chown(source.join("usr/lib"), Some(1), Some(2)).unwrap();
    for (file, seconds, nanoseconds) in [
        ("bin/file-1", 0, 1),
        ("bin/file-2", 4_000_000_000, 999_999_999),
        ("pipe", -1, 5),
        ("slow", 7_000_000_000, 0),
        ("usr/lib", 1, 2),
    ] {
        set_mtime(&source.join(file), seconds, nanoseconds);
    }
    build(&source, &image);
    assert_kernel_agrees(&source, &image);
}

#[test]
fn names_of_any_bytes_and_of_255_bytes_arrive() {
    if !root("mounting") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (source, image) = (directory.path().join("tree"), directory.path().join("image"));
    fs::create_dir(&source).unwrap();
    for byte in (1..=255u8).filter(|&b| b != b'/' && b != b'.') {
        fs::write(source.join(name(&[byte])), [byte]).unwrap();
        fs::write(source.join(name(&[byte; 255])), [byte]).unwrap();
    }
    build(&source, &image);
    assert_kernel_agrees(&source, &image);
}

#[test]
fn a_path_longer_than_a_system_call_takes_arrives() {
    let directory = tempfile::tempdir().unwrap();
    let (source, image) = (directory.path().join("tree"), directory.path().join("image"));
    fs::create_dir(&source).unwrap();
    // Each step by descriptor: no path as long as this can be given to the system at once.
    let mut at = rustix::fs::open(&source, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    let long = "d".repeat(250);
    for _ in 0..40 {
        rustix::fs::mkdirat(&at, &*long, rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
        at = rustix::fs::openat(&at, &*long, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    }
    let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
    let file = rustix::fs::openat(&at, "end", flags, rustix::fs::Mode::from_raw_mode(0o644)).unwrap();
    File::from(file).write_all_at(b"here", 0).unwrap();
    let summary = build(&source, &image);
    assert_eq!((summary.info.files.directories, summary.info.density.content_bytes), (41, 4));
}

#[test]
fn holes_stay_holes_and_files_over_4_gib_arrive() {
    if !root("mounting") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (source, image) = (directory.path().join("tree"), directory.path().join("image"));
    fs::create_dir(&source).unwrap();
    let file = File::create(source.join("over-4-gib")).unwrap();
    for (n, at) in
        [0, 11 << 12, 12 << 12, 1035 << 12, 1036 << 12, (5 << 30) + 4096, (9 << 30) + 77].into_iter().enumerate()
    {
        file.write_all_at(&bytes(5000, n as u64), at).unwrap();
    }
    // A hole at the end, one at the start, nothing but a hole, and zeros that are data.
    file.set_len(10 << 30).unwrap();
    File::create(source.join("late")).unwrap().write_all_at(b"x", 1 << 20).unwrap();
    File::create(source.join("hole")).unwrap().set_len(12_345_678).unwrap();
    fs::write(source.join("zeros"), vec![0; 300_000]).unwrap();
    // Much data with a hole in it.
    let file = File::create(source.join("gap")).unwrap();
    file.write_all_at(&bytes(3 << 20, 1), 0).unwrap();
    file.write_all_at(&bytes(3 << 20, 2), 10 << 20).unwrap();
    let summary = build(&source, &image);
    assert!(summary.info.bytes < 16 << 20, "holes take no room: {}", summary.info.bytes);
    assert_eq!(summary.info.runs.cut, 0, "{:?}", summary.info.runs);
    assert_kernel_agrees(&source, &image);
}

#[test]
fn a_directory_of_100_000_entries_arrives() {
    if !root("mounting") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (source, image) = (directory.path().join("tree"), directory.path().join("image"));
    fs::create_dir_all(source.join("many")).unwrap();
    for n in 0..10 {
        fs::write(source.join(format!("file-{n}")), [n]).unwrap();
    }
    // Hard links: it is the names that are many.
    for n in 0..100_000 {
        fs::hard_link(
            source.join(format!("file-{}", n % 10)),
            source.join(format!("many/a-name-that-is-number-{n:06}")),
        )
        .unwrap();
    }
    build(&source, &image);
    assert_kernel_agrees(&source, &image);
}

#[test]
fn extended_attributes_and_acls_arrive() {
    if !root("attributes of the kinds security and trusted, and mounting") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (source, image) = (directory.path().join("tree"), directory.path().join("image"));
    plain_tree(&source);
    let file = |n: usize| source.join(format!("bin/file-{n}"));
    set_xattr(&file(0), "user.short", b"value");
    set_xattr(&file(0), "user.empty", b"");
    set_xattr(&file(1), "user.long", &bytes(3000, 1));
    set_xattr(&file(1), "security.other", b"mine");
    set_xattr(&file(2), "trusted.thing", &bytes(100, 2));
    set_xattr(&source.join("usr"), "user.directory", b"yes");
    set_xattr(&source.join("link"), "trusted.link", b"yes");
    // Version 2; owner rwx, user 1234 r, group r-x, mask r-x, other nothing.
    let entry =
        |tag: u16, bits: u16, id: u32| [&tag.to_le_bytes()[..], &bits.to_le_bytes(), &id.to_le_bytes()].concat();
    let none = u32::MAX;
    let acl = [
        2u32.to_le_bytes().to_vec(),
        entry(1, 7, none),
        entry(2, 4, 1234),
        entry(4, 5, none),
        entry(0x10, 5, none),
        entry(0x20, 0, none),
    ]
    .concat();
    set_xattr(&file(3), "system.posix_acl_access", &acl);
    set_xattr(&source.join("bin"), "system.posix_acl_default", &acl);
    let summary = build(&source, &image);
    assert_eq!(summary.notes, []);
    assert_kernel_agrees(&source, &image);
}

#[test]
fn a_file_larger_than_a_group_is_cut_once_and_maps_by_2_mib() {
    let directory = tempfile::tempdir().unwrap();
    let (source, image) = (directory.path().join("tree"), directory.path().join("image"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("giant"), bytes(140 << 20, 1)).unwrap();
    fs::write(source.join("large"), bytes((2 << 20) + 1, 2)).unwrap();
    fs::write(source.join("small"), bytes(100_000, 3)).unwrap();
    let summary = build(&source, &image);
    let runs = summary.info.runs;
    assert_eq!((runs.one_run, runs.cut), (2, 1), "{runs:?}");
    assert_eq!((runs.huge_files, runs.huge_pages), (2, 71), "{runs:?}");
}

#[test]
fn the_debian_tree_is_clean_dense_and_equal() {
    let tree = std::env::var_os("XIP_ROOTFS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/rootfs"), Into::into);
    if !tree.exists() {
        println!("skipped: there is no Debian tree; `cargo xtask rootfs` makes one");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image");
    let summary = build(&tree, &image);
    assert_eq!(summary.info.runs.cut, 0);
    assert_eq!(summary.info.runs.huge_files, summary.info.runs.large_files, "{:?}", summary.info.runs);
    assert!(summary.info.density.free_percent <= 3.0, "{:?}", summary.info.density);
    if root("mounting") {
        assert_kernel_agrees(&tree, &image);
    }
}
