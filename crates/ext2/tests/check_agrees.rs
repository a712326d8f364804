//! The checker and `e2fsck -fn` say the same of a volume: of those that others make, and of thousands that were damaged.

mod support;

use std::cell::Cell;
use std::path::Path;
use std::process::Command;
use support::{Bytes, NOW, volume};
use xip_core::ops::{self, Writer};
use xip_core::{Alone, Device, Properties};
use xip_ext2::check::{Finding, Options, Summary, check, memory_wanted};
use xip_ext2::{Error, File, InodeNo, NewInode, NewKind, Volume};

/// Damaged images that are shown to e2fsck in the tests; `XIP_CHECK_IMAGES` for more.
const IMAGES: u64 = 300;

/// Counts what is read: a check of a hostile volume must end, and soon.
struct Counting<'d>(&'d Bytes, Cell<u64>);

impl Device for Counting<'_> {
    fn pages(&self) -> u64 {
        self.0.pages()
    }
    fn properties(&self) -> Properties {
        self.0.properties()
    }
    fn read(&self, at: u64, to: &mut [u8]) -> Result<(), xip_core::Error> {
        self.1.update(|count| count + 1);
        self.0.read(at, to)
    }
    fn write(&self, at: u64, from: &[u8]) -> Result<(), xip_core::Error> {
        self.0.write(at, from)
    }
}

fn run(device: &Bytes, repair: bool) -> Result<(Summary, Vec<Finding>), Error> {
    let counting = Counting(device, Cell::new(0));
    let mut memory = vec![0x55; memory_wanted(&counting)?];
    let mut found = Vec::new();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let options = Options { repair, now: Some(now) };
    let summary = check(&counting, &mut memory, &options, &mut |finding| found.push(*finding))?;
    let most = 20 * device.pages() + 10_000;
    assert!(counting.1.get() < most, "{} reads for {} pages", counting.1.get(), device.pages());
    Ok((summary, found))
}

/// What `e2fsck -fn` says.
fn e2fsck(image: &[u8]) -> (bool, String) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), image).unwrap();
    // Some damage makes it try for minutes.
    let out = Command::new("timeout").args(["5", "e2fsck", "-fn"]).arg(file.path()).output();
    let out = out.expect("e2fsck: run cargo xtask setup");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    (out.status.success() && !text.contains("? no"), text)
}

/// A volume with something of everything, small enough that random damage hits it.
fn image() -> Vec<u8> {
    let volume = volume(128, 64);
    let new = |kind| NewInode { kind, permissions: 0o755, uid: 0, gid: 0 };
    let dir = volume.create(InodeNo::ROOT, b"dir", &new(NewKind::Directory)).unwrap();
    let file = volume.create(dir, b"file", &new(NewKind::Regular)).unwrap();
    let File::Cached(open) = volume.file(file).unwrap() else { unreachable!() };
    for place in [0, 12 * 4096, (12 + 1024) * 4096, (12 + 1024 + 1024 * 1024) * 4096] {
        ops::write(&open, place, b"data", &Writer::default()).unwrap();
    }
    volume.create(dir, b"fast", &new(NewKind::Symlink(b"file"))).unwrap();
    volume.create(dir, b"slow", &new(NewKind::Symlink(&[b's'; 200]))).unwrap();
    volume.create(dir, b"null", &new(NewKind::Character(1, 3))).unwrap();
    volume.set_xattr(file, b"user.small", Some(b"1")).unwrap();
    volume.set_xattr(dir, b"user.large", Some(&[b'x'; 1000])).unwrap();
    volume.set_xattr(dir, b"user.other", Some(&[b'y'; 100])).unwrap();
    let names = volume.create(InodeNo::ROOT, b"names", &new(NewKind::Directory)).unwrap();
    for n in 0..40 {
        volume.link(names, format!("{n:0>200}").as_bytes(), file).unwrap();
    }
    volume.device().to_vec()
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % n
    }
}

/// The bytes of a volume that mean something: of blocks in use those that are not zero, and a few after them.
fn places(image: &[u8]) -> Vec<usize> {
    let volume = Volume::open(Bytes::of(image), Alone::at(NOW)).unwrap();
    let mut free = vec![false; image.len() / 4096];
    volume.free_runs(&mut |run| free[run.start as usize..run.end as usize].fill(true)).unwrap();
    let near = |at: usize| (at.saturating_sub(8)..=at).any(|at| image[at] != 0);
    (1024..image.len()).filter(|&at| !(2048..4096).contains(&at) && !free[at / 4096] && near(at)).collect()
}

/// What no crash makes e2fsck say, and what it says nothing of.
fn is_only_for_us(found: &[Finding]) -> bool {
    found.iter().all(|finding| matches!(finding, Finding::Unclean { .. } | Finding::Orphans { .. }))
}

#[test]
fn random_damage_is_judged_as_by_e2fsck_and_what_is_mended_is_clean() {
    let clean = image();
    let places = places(&clean);
    let images = std::env::var("XIP_CHECK_IMAGES").map_or(IMAGES, |count| count.parse().unwrap());
    let mut counts = [0; 3];
    for n in 0..images {
        let mut random = Random((n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut image = clean.clone();
        let mut damage = Vec::new();
        for _ in 0..1 + n % 2 {
            let at = places[random.below(places.len())];
            match random.below(4) {
                0 => image[at] ^= 1 << random.below(8),
                1 => image[at] = random.below(256) as u8,
                2 => image[at] = 0,
                _ => image[at] = image[at].wrapping_add([1, 255][random.below(2)]),
            }
            damage.push((at, clean[at], image[at]));
        }
        let (theirs, text) = e2fsck(&image);
        let device = Bytes::of(&image);
        match run(&device, false) {
            Ok((summary, found)) => {
                let agreed = summary.is_clean() == theirs || theirs && is_only_for_us(&found);
                assert!(agreed, "image {n}, {damage:?}: {found:?}\n{text}");
                counts[if summary.damages > 0 { 2 } else { usize::from(summary.leaks > 0) }] += 1;
                if summary.damages == 0 {
                    assert!(run(&device, true).unwrap().0.is_clean());
                    let (clean, text) = e2fsck(&device.to_vec());
                    assert!(clean, "image {n}, {damage:?}: {found:?}\nafter the repair: {text}");
                    assert_eq!(run(&device, true).unwrap().0, Summary::default());
                }
            }
            // Not ext2 any more, or with features that are not known. Of unknown compatible ones e2fsck says nothing.
            Err(_) => counts[2] += 1,
        }
    }
    println!("{images} images: {} clean, {} with leaks, {} damaged", counts[0], counts[1], counts[2]);
    assert!(counts.iter().all(|&count| count > 0), "{counts:?}");
}

/// Contract 5: "never a panic, a hang, an unbounded loop or a read outside the device".
#[test]
fn much_damage_ends_the_check_soon() {
    let clean = image();
    let places = places(&clean);
    for n in 0..3000_u64 {
        let mut random = Random((n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let device = Bytes::of(&clean);
        for _ in 0..1 + random.below(40) {
            let at = places[random.below(places.len())];
            if !(1024 + 56..1024 + 58).contains(&at) {
                device.write(at as u64, &[random.below(256) as u8]).unwrap();
            }
        }
        // `run` counts the reads.
        if let Ok((summary, _)) = run(&device, true) {
            assert!(!summary.mended || run(&device, true).unwrap().0 == Summary::default());
        }
    }
}

/// Every pointer of every inode leads to the same blocks of pointers: followed each time, they would never end.
#[test]
fn pointers_that_meet_again_and_again_are_followed_once() {
    let device = Bytes::of(&image());
    let table = 4 * 4096;
    let block = 100u32;
    device.write(u64::from(block) * 4096, &block.to_le_bytes().repeat(1024)).unwrap();
    for number in 10..64 {
        let inode = table + number * 256;
        device.write(inode, &[0xff, if number % 2 == 0 { 0x41 } else { 0x81 }]).unwrap();
        device.write(inode + 26, &[1, 0]).unwrap();
        device.write(inode + 4, &[0xff, 0xff, 0xff, 0x7f]).unwrap();
        device.write(inode + 40, &block.to_le_bytes().repeat(15)).unwrap();
    }
    assert!(run(&device, true).unwrap().0.damages > 0);
}

/// A clean volume is clean for both, and a repair leaves it as it is.
fn assert_clean(path: &Path) {
    let image = std::fs::read(path).unwrap();
    let (clean, text) = e2fsck(&image);
    assert!(clean, "{text}");
    let device = Bytes::of(&image);
    assert_eq!(run(&device, true).unwrap(), (Summary::default(), vec![]));
    assert!(device.to_vec() == image);
}

fn command(program: &str, arguments: &[&str], path: &Path) {
    let status = Command::new(program).args(arguments).arg(path).status().expect("run cargo xtask setup");
    assert!(status.success(), "{program} {arguments:?}");
}

#[test]
fn volumes_of_mke2fs_are_clean() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    std::fs::create_dir_all(tree.join("a/b")).unwrap();
    std::fs::write(tree.join("big"), vec![7; 6 << 20]).unwrap();
    std::os::unix::fs::symlink("x".repeat(500), tree.join("a/slow")).unwrap();
    for n in 0..1000 {
        std::fs::write(tree.join(format!("a/b/{n}")), [7; 5]).unwrap();
    }
    // With room to grow (`resize_inode`) and without, small groups, all sizes.
    for options in [
        &["-b", "4096"][..],
        &["-b", "4096", "-O", "^resize_inode", "-I", "128"],
        &["-b", "4096", "-g", "1024"],
        &["-b", "1024", "-I", "128"],
        &["-b", "2048", "-O", "^sparse_super,^resize_inode"],
        &["-b", "4096", "-O", "^filetype,^dir_index"],
    ] {
        let image = dir.path().join("image");
        let _ = std::fs::remove_file(&image);
        let made = Command::new("mke2fs")
            .args(["-q", "-t", "ext2", "-N", "2000", "-d"])
            .arg(&tree)
            .args(options)
            .arg(&image)
            .arg("20M")
            .status();
        assert!(made.expect("mke2fs: run cargo xtask setup").success());
        assert_clean(&image);
    }
}

/// What Linux writes: names in an index, deleted ones, attributes that inodes share, holes, all kinds of files.
#[test]
fn volumes_that_the_kernel_wrote_are_clean() {
    const WORK: &str = r#"
        set -e
        mount -o loop,user_xattr "$1" "$2"
        trap 'umount "$2"' EXIT
        cd "$2"
        mkdir -p d/e; echo hi > d/file; ln d/file d/link
        ln -s target fast; ln -s "$(printf 'x%.0s' $(seq 200))" slow
        mknod null c 1 3; mknod large c 300 70000; mkfifo fifo
        dd if=/dev/zero of=big bs=4096 count=2000 status=none
        dd if=/dev/zero of=sparse bs=1 count=1 seek=3000000000 status=none
        mkdir names; for n in $(seq 300); do ln d/file "names/$(printf '%0120d' $n)"; done
        for n in $(seq 2 3 300); do rm "names/$(printf '%0120d' $n)"; done
        for n in 1 2 3; do echo $n > shared$n; setfattr -n user.large -v "$(printf 'v%.0s' $(seq 300))" shared$n; done
        setfattr -n user.own -v "$(printf 'w%.0s' $(seq 500))" d
        echo gone > gone; rm gone; rm shared2
        cd /
    "#;
    let dir = tempfile::tempdir().unwrap();
    let (image, mount) = (dir.path().join("image"), dir.path().join("mount"));
    std::fs::create_dir(&mount).unwrap();
    std::fs::write(&image, []).unwrap();
    command("truncate", &["-s", "32M"], &image);
    command("mke2fs", &["-q", "-t", "ext2", "-b", "4096", "-I", "256"], &image);
    let worked = Command::new("bash").args(["-c", WORK, "bash"]).arg(&image).arg(&mount).status().unwrap();
    assert!(worked.success(), "needs root, a loop device, and what cargo xtask setup installs");
    assert_clean(&image);
}
