//! The mount against the tree that its image was made of, seen by the kernel and by programs. Needs root, for mount(2),
//! and `mke2fs`; says so where they are missing.

// The same world as the tests of the library.
#[path = "../../xip/tests/common/mod.rs"]
mod common;

use rustix::mm::{MapFlags, ProtFlags};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;
use xip::Volume;
use xip_fuse::{MountOptions, MountPoint, ServeOptions, Session, mount};

struct World {
    session: Session,
    tree: PathBuf,
    mount: PathBuf,
    dir: TempDir,
}

fn world(options: &ServeOptions) -> Option<World> {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: to mount, this test must be run by root");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let (tree, mountpoint) = (dir.path().join("tree"), dir.path().join("mnt"));
    fs::create_dir(&mountpoint).unwrap();
    common::tree(&tree);
    special_files(&tree);
    let image = common::image(&tree, &dir.path().join("image"), 4096)?;
    let session = mount(&mountpoint, &Volume::open(image).unwrap(), &MountOptions::default(), options).unwrap();
    Some(World { session, tree, mount: mountpoint, dir })
}

/// What only root can make, and extended attributes.
fn special_files(tree: &Path) {
    use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat, setxattr};
    let mode = Mode::from_raw_mode(0o620);
    mknodat(CWD, tree.join("fifo"), FileType::Fifo, mode, 0).unwrap();
    mknodat(CWD, tree.join("socket"), FileType::Socket, mode, 0).unwrap();
    mknodat(CWD, tree.join("char"), FileType::CharacterDevice, mode, makedev(1, 3)).unwrap();
    mknodat(CWD, tree.join("block"), FileType::BlockDevice, mode, makedev(259, 70_000)).unwrap();
    rustix::fs::chown(tree.join("bin/f1"), Some(rustix::fs::Uid::from_raw(70_000)), None).unwrap();
    // Not every file system under a temporary directory has attributes for users; those of the system it has.
    for name in ["user.origin", "trusted.origin"] {
        if let Err(error) = setxattr(tree.join("bin/f4097"), name, b"here", XattrFlags::empty()) {
            println!("{name} not tested: {error}");
        }
    }
    let _ = setxattr(tree.join("bin"), "trusted.long", &[b'v'; 1500], XattrFlags::empty());
}

/// Unmounts. Other tests of this process start programs, and between fork and exec these hold our open files too.
fn unmount(session: &mut Session) {
    for _ in 0..500 {
        match session.unmount() {
            Err(xip_fuse::Error::Unmount { .. }) => std::thread::sleep(std::time::Duration::from_millis(10)),
            other => return other.unwrap(),
        }
    }
    panic!("the mount is still in use");
}

fn xattrs(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut list = vec![0; 65_536];
    let len = rustix::fs::llistxattr(path, &mut list).unwrap();
    let names = list[..len].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    let mut all: Vec<_> = names
        .map(|name| {
            let mut value = vec![0; 65_536];
            let len = rustix::fs::lgetxattr(path, name, &mut value).unwrap();
            (name.to_vec(), value[..len].to_vec())
        })
        .collect();
    all.sort();
    all
}

fn names(at: &Path) -> BTreeSet<std::ffi::OsString> {
    fs::read_dir(at).unwrap().map(|entry| entry.unwrap().file_name()).collect()
}

fn compare(tree: &Path, mount: &Path) -> usize {
    let mut shown = names(mount);
    shown.remove(std::ffi::OsStr::new("lost+found"));
    assert_eq!(shown, names(tree), "{}", mount.display());
    let mut count = 0;
    for name in shown {
        let (theirs, ours) = (tree.join(&name), mount.join(&name));
        let (a, b) = (fs::symlink_metadata(&theirs).unwrap(), fs::symlink_metadata(&ours).unwrap());
        let place = ours.display();
        assert_eq!((b.mode(), b.uid(), b.gid()), (a.mode(), a.uid(), a.gid()), "{place}");
        assert_eq!((b.nlink(), b.rdev(), b.mtime()), (a.nlink(), a.rdev(), a.mtime()), "{place}");
        assert!(xattrs(&ours) == xattrs(&theirs), "{place}: extended attributes");
        if a.is_dir() {
            count += compare(&theirs, &ours);
        } else if a.is_symlink() {
            // Twice: the second time from the kernel's cache.
            for _ in 0..2 {
                assert_eq!(fs::read_link(&ours).unwrap(), fs::read_link(&theirs).unwrap(), "{place}");
            }
        } else if a.is_file() {
            assert_eq!(b.len(), a.len(), "{place}");
            assert!(fs::read(&ours).unwrap() == fs::read(&theirs).unwrap(), "{place}");
        }
        count += 1;
    }
    count
}

#[test]
fn the_mount_shows_the_tree_as_it_is() {
    let Some(mut world) = world(&ServeOptions::default()) else { return };
    assert!(compare(&world.tree, &world.mount) > 300);
    assert!(fs::metadata(world.mount.join("char")).unwrap().file_type().is_char_device());
    // The kernel answers from its caches the second time.
    assert!(compare(&world.tree, &world.mount) > 300);
    unmount(&mut world.session);
    assert!(names(&world.mount).is_empty());
}

#[test]
fn inode_numbers_are_those_of_the_volume() {
    let Some(world) = world(&ServeOptions::default()) else { return };
    let volume = Volume::open(world.dir.path().join("image")).unwrap();
    for path in ["", "bin", "bin/f1", "usr/hard"] {
        let shown = fs::symlink_metadata(world.mount.join(path)).unwrap().ino();
        let stored = volume.symlink_metadata(Path::new("/").join(path)).unwrap().ino().0;
        assert_eq!(shown, u64::from(stored), "{path}");
    }
}

#[test]
fn figures_of_the_file_system_are_those_of_the_volume() {
    let Some(world) = world(&ServeOptions::default()) else { return };
    let shown = rustix::fs::statvfs(&world.mount).unwrap();
    let stored = Volume::open(world.dir.path().join("image")).unwrap().statfs().unwrap();
    assert_eq!((shown.f_bsize, shown.f_namemax), (4096, 255));
    assert_eq!(
        (shown.f_bfree, shown.f_files, shown.f_ffree),
        (stored.free_blocks.into(), stored.inodes.into(), stored.free_inodes.into())
    );
}

#[test]
fn nothing_can_be_changed() {
    let Some(world) = world(&ServeOptions::default()) else { return };
    const EROFS: Option<i32> = Some(30);
    let errno = |result: io::Result<()>| result.unwrap_err().raw_os_error();
    assert_eq!(errno(fs::write(world.mount.join("new"), b"x")), EROFS);
    assert_eq!(errno(fs::write(world.mount.join("bin/f1"), b"x")), EROFS);
    assert_eq!(errno(fs::remove_file(world.mount.join("bin/f1"))), EROFS);
    assert_eq!(errno(fs::create_dir(world.mount.join("d"))), EROFS);
    assert_eq!(errno(fs::rename(world.mount.join("bin/f1"), world.mount.join("f"))), EROFS);
    assert_eq!(errno(File::open(world.mount.join("missing")).map(drop)), Some(2));
    assert_eq!(errno(File::open(world.mount.join("missing")).map(drop)), Some(2));
    assert_eq!(errno(File::open(world.mount.join("loop1")).map(drop)), Some(40));
}

#[test]
fn eight_threads_read_what_one_reads() {
    let Some(world) = world(&ServeOptions::default()) else { return };
    let whole = fs::read(world.tree.join("bin/f3145728")).unwrap();
    let sparse = fs::read(world.tree.join("sparse")).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8usize {
            let (world, whole, sparse) = (&world, &whole, &sparse);
            scope.spawn(move || {
                for round in 0..40 {
                    let (name, bytes) = if round % 2 == 0 { ("bin/f3145728", whole) } else { ("sparse", sparse) };
                    let file = File::open(world.mount.join(name)).unwrap();
                    let at = (round * 7_919_777 + thread * 104_729) % bytes.len();
                    let mut read = vec![1; 200_000.min(bytes.len() - at)];
                    file.read_exact_at(&mut read, at as u64).unwrap();
                    assert!(read == bytes[at..at + read.len()], "{name} at {at}");
                    let entry = format!("usr/share/doc/entry-{:04}", (round * 31 + thread) % 300);
                    assert_eq!(fs::read(world.mount.join(&entry)).unwrap(), fs::read(world.tree.join(&entry)).unwrap());
                }
            });
        }
    });
}

/// Pages of `file` in the page cache, by cachestat(2); `None` before Linux 6.5.
fn cached_pages(file: &File) -> Option<u64> {
    const SYS_CACHESTAT: libc::c_long = 451;
    let range = [0u64, 0];
    let mut stat = [0u64; 5];
    // SAFETY: the call reads two and writes five 64-bit numbers, which is what the two arrays are.
    let answer =
        unsafe { libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), range.as_ptr(), stat.as_mut_ptr(), 0 as libc::c_uint) };
    (answer == 0).then_some(stat[0])
}

/// Pages of all regular files of the world in the page cache; `None` before Linux 6.5.
fn all_cached_pages(world: &World) -> Option<u64> {
    let mut pages = 0;
    let mut waiting = vec![world.tree.clone()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                waiting.push(entry.path());
            } else if kind.is_file() {
                let inside = world.mount.join(entry.path().strip_prefix(&world.tree).unwrap());
                pages += cached_pages(&File::open(inside).unwrap())?;
            }
        }
    }
    Some(pages)
}

#[test]
fn what_was_read_stays_in_the_page_cache_up_to_the_limit() {
    const LIMIT: u64 = 256 << 10;
    let mut without_limit = 0;
    for limit in [None, Some(LIMIT)] {
        let Some(world) = world(&ServeOptions { page_cache_limit: limit, ..ServeOptions::default() }) else { return };
        assert!(compare(&world.tree, &world.mount) > 300);
        let Some(mut pages) = all_cached_pages(&world) else {
            return println!("SKIPPED: this kernel has no cachestat");
        };
        if limit.is_none() {
            without_limit = pages;
            continue;
        }
        assert!(without_limit * 4096 > 4 * LIMIT, "only {without_limit} pages are read: too little for this test");
        // It is cleared by a thread of its own.
        for _ in 0..500 {
            if pages * 4096 <= LIMIT {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
            pages = all_cached_pages(&world).unwrap();
        }
        assert!(pages * 4096 <= LIMIT, "{pages} pages stay");
        assert!(compare(&world.tree, &world.mount) > 300, "cleared pages are read again");
    }
}

#[test]
fn without_its_limit_the_page_cache_keeps_what_is_read() {
    let options = ServeOptions { page_cache_limit: Some(64 << 10), ..ServeOptions::default() };
    let Some(world) = world(&options) else { return };
    world.session.lift_page_cache_limit();
    fs::read(world.mount.join("bin/f3145728")).unwrap();
    match cached_pages(&File::open(world.mount.join("bin/f3145728")).unwrap()) {
        Some(pages) => assert_eq!(pages, 768),
        None => println!("SKIPPED: this kernel has no cachestat"),
    }
}

/// A mapping of a file that lives as long as the value.
struct Map {
    start: *mut core::ffi::c_void,
    len: usize,
}

impl Map {
    fn new(file: impl AsFd, len: usize, prot: ProtFlags, flags: MapFlags) -> Self {
        // SAFETY: no address is asked for, so nothing that exists is touched.
        let start = unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, prot, flags, file, 0).unwrap() };
        Self { start, len }
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: mapped by `new` for as long as the value lives, readable, and written only by tests that mapped it
        // private and writable. The file cannot change: nothing writes to the image while it is mounted.
        unsafe { std::slice::from_raw_parts_mut(self.start.cast(), self.len) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: nothing borrows the mapping any more.
        unsafe { rustix::mm::munmap(self.start, self.len).unwrap() }
    }
}

/// Whoever maps through the mount gets the page cache, and the right bytes: data, holes, and zeros after the end.
#[test]
fn files_can_be_mapped_shared_and_private() {
    for read_ahead in [0, 131_072] {
        let Some(world) = world(&ServeOptions { read_ahead, ..ServeOptions::default() }) else { return };
        for name in ["bin/f3145728", "sparse", "bin/f4097", "bin/f1"] {
            let expected = fs::read(world.tree.join(name)).unwrap();
            let len = expected.len().next_multiple_of(4096);
            let file = File::open(world.mount.join(name)).unwrap();
            for flags in [MapFlags::SHARED, MapFlags::PRIVATE] {
                let mut map = Map::new(&file, len, ProtFlags::READ, flags);
                let (data, tail) = map.bytes().split_at(expected.len());
                assert!(data == expected, "{name}");
                assert!(tail.iter().all(|&byte| byte == 0), "{name}: bytes after the end of the file");
            }
            let mut map = Map::new(&file, len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
            map.bytes().fill(0xaa);
            drop(map);
            assert!(fs::read(world.mount.join(name)).unwrap() == expected, "{name}: a private store came through");
        }
    }
}

#[test]
fn holes_are_found_by_lseek() {
    let Some(world) = world(&ServeOptions::default()) else { return };
    let sparse = File::open(world.mount.join("sparse")).unwrap();
    use rustix::fs::{SeekFrom, seek};
    assert_eq!(seek(&sparse, SeekFrom::Data(0)).unwrap(), 5_000_000 / 4096 * 4096);
    assert_eq!(seek(&sparse, SeekFrom::Hole(5_000_000)).unwrap(), (5_000_000 / 4096 + 1) * 4096);
    assert_eq!(seek(&sparse, SeekFrom::Data(8_000_000)).unwrap_err(), rustix::io::Errno::NXIO);
}

#[test]
fn a_program_is_executed_from_the_mount() {
    if !rustix::process::geteuid().is_root() {
        return println!("SKIPPED: to mount, this test must be run by root");
    }
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    fs::copy("/bin/sh", tree.join("sh")).unwrap();
    fs::write(tree.join("script"), "#!/bin/sh\necho from a script\n").unwrap();
    fs::set_permissions(tree.join("script"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let Some(image) = common::image(&tree, &dir.path().join("image"), 4096) else { return };
    let at = dir.path().join("mnt");
    fs::create_dir(&at).unwrap();
    let mut session =
        mount(&at, &Volume::open(image).unwrap(), &MountOptions::default(), &ServeOptions::default()).unwrap();
    for _ in 0..3 {
        let output = Command::new(at.join("sh")).args(["-c", "echo in $(echo place)"]).output().unwrap();
        assert_eq!(output.stdout, b"in place\n");
    }
    assert_eq!(Command::new(at.join("script")).output().unwrap().stdout, b"from a script\n");
    unmount(&mut session);
}

#[test]
fn mount_points_that_the_image_lacks_are_shown() {
    use MountPoint::{Directory, File as Plain};
    let mount_points = [
        ("/proc", Directory),
        ("dev", Directory),
        ("/bin", Directory), // is there
        ("/usr/new/deep/er", Directory),
        ("/usr/new/deep/file", Plain),
        ("/fast/bound", Directory), // a symbolic link to usr/share
        ("/usr/../etc/./resolv.conf", Plain),
        ("/dangling/x", Directory), // a symbolic link to nowhere
    ];
    let mount_points = mount_points.map(|(path, kind)| (PathBuf::from(path), kind)).to_vec();
    let Some(mut world) = world(&ServeOptions { mount_points, ..ServeOptions::default() }) else { return };
    let at = |path: &str| world.mount.join(path);
    for path in ["proc", "dev", "usr/new/deep/er", "usr/share/bound", "nowhere/x", "dangling/x"] {
        let found = fs::metadata(at(path)).unwrap();
        assert!(found.is_dir() && found.mode() & 0o7777 == 0o755, "{path}");
        assert_eq!(names(&at(path)).len(), 0, "{path}");
    }
    for path in ["usr/new/deep/file", "etc/resolv.conf"] {
        let found = fs::metadata(at(path)).unwrap();
        assert!(found.is_file() && found.mode() & 0o7777 == 0o644, "{path}");
        assert_eq!(fs::read(at(path)).unwrap(), b"", "{path}");
    }
    assert_eq!(names(&at("usr/new/deep")), BTreeSet::from(["er".into(), "file".into()]));
    let mut root = names(&world.tree);
    root.extend(["proc", "dev", "etc", "nowhere", "lost+found"].map(Into::into));
    assert_eq!(names(&world.mount), root);
    let links = |path: &Path| fs::metadata(path).unwrap().nlink();
    assert_eq!(links(&at("usr/share")), links(&world.tree.join("usr/share")) + 1);
    // What is there is still what it was, and something can be mounted on what is not.
    assert_eq!(fs::read(at("bin/f1")).unwrap(), fs::read(world.tree.join("bin/f1")).unwrap());
    rustix::mount::mount_bind(&world.tree, at("usr/new/deep/er")).unwrap();
    assert_eq!(names(&at("usr/new/deep/er")), names(&world.tree));
    rustix::mount::unmount(at("usr/new/deep/er"), rustix::mount::UnmountFlags::empty()).unwrap();
    unmount(&mut world.session);
}

#[test]
fn a_mount_point_below_a_file_is_refused_with_its_path() {
    let Some(world) = world(&ServeOptions::default()) else { return };
    let volume = Volume::open(world.dir.path().join("image")).unwrap();
    for (path, errno) in [("/bin/f1/x", 20), ("/loop1/x", 40)] {
        let mount_points = vec![(PathBuf::from(path), MountPoint::Directory)];
        let at = world.dir.path().join("other");
        fs::create_dir_all(&at).unwrap();
        let options = ServeOptions { mount_points, ..ServeOptions::default() };
        let error = mount(&at, &volume, &MountOptions::default(), &options).unwrap_err();
        assert_eq!(error.errno(), errno, "{error}");
        assert!(error.to_string().contains(path), "{error}");
        // Nothing is left mounted.
        fs::remove_dir(&at).unwrap();
    }
}

#[test]
fn a_busy_mount_is_served_until_it_is_free() {
    let Some(mut world) = world(&ServeOptions::default()) else { return };
    let held = File::open(world.mount.join("bin/f4097")).unwrap();
    let error = world.session.unmount().unwrap_err();
    assert!(error.to_string().contains("end the programs"), "{error}");
    assert!(!world.session.is_finished());
    let mut bytes = [0; 10];
    held.read_exact_at(&mut bytes, 0).unwrap();
    drop(held);
    unmount(&mut world.session);
    assert!(world.session.is_finished());
}

/// Bad input: a damaged image gives errors to those who read it, and the server goes on.
#[test]
fn a_damaged_image_never_ends_the_server() {
    let Some(mut world) = world(&ServeOptions::default()) else { return };
    unmount(&mut world.session);
    let image = world.dir.path().join("image");
    let good = fs::read(&image).unwrap();
    let mut served = 0;
    for seed in 1..40u64 {
        let mut bad = good.clone();
        for chunk in common::pattern(seed, 900).chunks_exact(9) {
            let place = u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]) as usize;
            // Mostly where the metadata is.
            let reach = if chunk[4] < 200 { 2 << 20 } else { bad.len() };
            bad[place % reach] = chunk[5];
        }
        // The superblock stays, so that something opens.
        bad[..4096].copy_from_slice(&good[..4096]);
        fs::write(&image, &bad).unwrap();
        let Ok(volume) = Volume::open(&image) else { continue };
        let mut session = mount(&world.mount, &volume, &MountOptions::default(), &ServeOptions::default()).unwrap();
        visit(&world.mount, 0, &mut 3000);
        assert!(!session.is_finished(), "the server ended");
        rustix::fs::statvfs(&world.mount).unwrap();
        unmount(&mut session);
        served += 1;
    }
    assert!(served > 10, "too few damaged images could be mounted to say anything");
}

fn visit(at: &Path, depth: usize, left: &mut usize) {
    let Ok(entries) = fs::read_dir(at) else { return };
    for entry in entries.take(1000) {
        let Ok(entry) = entry else { return };
        if *left == 0 || depth > 20 {
            return;
        }
        *left -= 1;
        let path = entry.path();
        let _ = (fs::read_link(&path), rustix::fs::llistxattr(&path, &mut [0u8; 4096]));
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => visit(&path, depth + 1, left),
            Ok(found) if found.is_file() => {
                if let Ok(file) = File::open(&path) {
                    for offset in [0, 50_000, found.len() / 2] {
                        let _ = file.read_at(&mut [0; 65_536], offset);
                    }
                }
            }
            _ => {}
        }
    }
}
