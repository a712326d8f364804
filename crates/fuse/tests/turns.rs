//! The kernel's own driver and `xip mount` take turns on one image, with everything that can be done to files; the same is done in a
//! directory of this machine. Each finds what the other left, to the nanosecond, and both say of each step what the directory says;
//! `e2fsck` judges in between. Needs root, for mount(2).

mod live_support;

use live_support::{World, rename, set_xattr, world};
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Mode, OFlags, RenameFlags, Timespec, Timestamps, XattrFlags, chownat,
    fallocate, mknodat, utimensat,
};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

const ROUNDS: usize = 50;
const STEPS: usize = 80;

struct Random(u64);

impl Random {
    fn below(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % below
    }

    /// A place that may or may not have something, seldom that of a directory; names are long enough for directories to grow.
    fn path(&mut self) -> PathBuf {
        let parent = if self.below(5) == 0 { PathBuf::new() } else { self.directory() };
        match self.below(50) {
            0 => self.directory(),
            n => parent.join(format!("{}{}", n % 30, "-name".repeat(n % 30))),
        }
    }

    fn directory(&mut self) -> PathBuf {
        ["d0", "d1", "d0/d2", "d1/d0"][self.below(4)].into()
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        vec![self.below(256) as u8; self.below(most)]
    }

    fn step(&mut self) -> Step {
        let what = self.below(20);
        let path = if (7..10).contains(&what) { self.directory() } else { self.path() };
        let what = match what {
            0..4 => What::Write(self.below(60_000) as u64, self.bytes(20_000)),
            4 => What::Append(self.bytes(5000)),
            5 => What::Cut(self.below(60_000) as u64),
            6 => What::Punch(self.below(60_000) as u64, 1 + self.below(30_000) as u64),
            7 | 8 => What::Mkdir,
            9 => What::Rmdir,
            10 => What::Unlink,
            11 => What::Link(self.path()),
            12 => {
                let (target, long) = (self.path(), self.below(100));
                What::Symlink(target.file_name().unwrap().into(), long == 0)
            }
            13 => What::Fifo,
            14 => What::Chmod(self.below(0o10000) as u32),
            15 => What::Chown(self.below(70_000) as u32, self.below(3) as u32),
            16 => What::Xattr(self.below(4), (self.below(3) > 0).then(|| self.bytes(1000))),
            17 => What::Times(self.below(4_000_000_000) as i64, self.below(1_000_000_000) as i64),
            _ => {
                let how = [RenameFlags::empty(), RenameFlags::NOREPLACE, RenameFlags::EXCHANGE][self.below(3)];
                What::Rename(self.path(), how)
            }
        };
        Step { path, what }
    }
}

#[derive(Debug)]
struct Step {
    path: PathBuf,
    what: What,
}

#[derive(Debug)]
enum What {
    Write(u64, Vec<u8>),
    Append(Vec<u8>),
    Cut(u64),
    Punch(u64, u64),
    Mkdir,
    Rmdir,
    Unlink,
    Link(PathBuf),
    /// With whether the target is long.
    Symlink(PathBuf, bool),
    Fifo,
    Chmod(u32),
    Chown(u32, u32),
    Xattr(usize, Option<Vec<u8>>),
    Times(i64, i64),
    Rename(PathBuf, RenameFlags),
}

impl Step {
    /// Does it below `root`; its errno where it fails.
    fn run(&self, root: &Path) -> Result<(), i32> {
        let at = root.join(&self.path);
        // Not to wait for who reads a fifo.
        let open = |options: &mut OpenOptions| -> io::Result<File> {
            options.custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(&at)
        };
        let of_rustix = |done: rustix::io::Result<()>| done.map_err(io::Error::from);
        let done = match &self.what {
            What::Write(offset, bytes) => open(OpenOptions::new().write(true).create(true).truncate(false))
                .and_then(|file| file.write_all_at(bytes, *offset)),
            What::Append(bytes) => {
                open(OpenOptions::new().append(true)).and_then(|mut file| io::Write::write_all(&mut file, bytes))
            }
            What::Cut(size) => open(OpenOptions::new().write(true)).and_then(|file| file.set_len(*size)),
            What::Punch(offset, len) => open(OpenOptions::new().write(true)).and_then(|file| {
                let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                of_rustix(fallocate(&file, how, *offset, *len))
            }),
            What::Mkdir => fs::create_dir(&at),
            What::Rmdir => fs::remove_dir(&at),
            What::Unlink => fs::remove_file(&at),
            What::Link(to) => fs::hard_link(&at, root.join(to)),
            What::Symlink(target, long) => {
                let prefix = if *long { "./".repeat(500) } else { String::new() };
                symlink(Path::new(&prefix).join(target), &at)
            }
            What::Fifo => of_rustix(mknodat(CWD, &at, FileType::Fifo, Mode::from_raw_mode(0o644), 0)),
            What::Chmod(mode) => of_rustix(rustix::fs::chmod(&at, Mode::from_raw_mode(*mode))),
            What::Chown(uid, gid) => {
                let (uid, gid) = (rustix::fs::Uid::from_raw(*uid), rustix::fs::Gid::from_raw(*gid));
                of_rustix(chownat(CWD, &at, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW))
            }
            What::Xattr(n, Some(value)) => {
                of_rustix(set_xattr(&at, &format!("trusted.n{n}"), value, XattrFlags::empty()))
            }
            What::Xattr(n, None) => of_rustix(rustix::fs::lremovexattr(&at, format!("trusted.n{n}"))),
            What::Times(seconds, nanoseconds) => {
                let time = Timespec { tv_sec: *seconds, tv_nsec: *nanoseconds };
                let times = Timestamps { last_access: time, last_modification: time };
                of_rustix(utimensat(CWD, &at, &times, AtFlags::SYMLINK_NOFOLLOW))
            }
            What::Rename(to, how) => of_rustix(rename(&at, &root.join(to), *how)),
        };
        done.map_err(|error| error.raw_os_error().unwrap())
    }
}

/// What is the same on every file system.
#[derive(PartialEq, Eq)]
struct Seen {
    mode: u32,
    owner: (u32, u32),
    /// Of no directory.
    links: u64,
    /// Of a file, or where a link points.
    bytes: Vec<u8>,
    xattrs: BTreeMap<String, Vec<u8>>,
}

impl std::fmt::Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { mode, owner, links, bytes, xattrs } = self;
        let xattrs: Vec<_> = xattrs.iter().map(|(name, value)| (name, value.len(), value.first())).collect();
        // The bytes by where they change.
        let runs = bytes.chunk_by(|one, next| one == next).map(|run| (run.len(), run[0])).collect::<Vec<_>>();
        write!(f, "{mode:o} {owner:?}, {links} links, {xattrs:?}, {} bytes: {runs:?}", bytes.len())
    }
}

/// What one volume keeps.
#[derive(PartialEq, Eq, Debug)]
struct Kept {
    inode: u64,
    blocks: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// A tree by its paths.
fn tree(root: &Path) -> BTreeMap<PathBuf, (Seen, Kept)> {
    let mut found = BTreeMap::new();
    let mut left = vec![PathBuf::new()];
    while let Some(path) = left.pop() {
        let at = root.join(&path);
        let metadata = fs::symlink_metadata(&at).unwrap();
        let bytes = match () {
            () if metadata.is_file() => fs::read(&at).unwrap(),
            () if metadata.is_symlink() => fs::read_link(&at).unwrap().as_os_str().as_bytes().to_vec(),
            () => Vec::new(),
        };
        if metadata.is_dir() {
            left.extend(fs::read_dir(&at).unwrap().map(|entry| path.join(entry.unwrap().file_name())));
        }
        let mut xattrs = BTreeMap::new();
        for n in 0..4 {
            let name = format!("trusted.n{n}");
            xattrs.extend(live_support::xattr(&at, &name).map(|value| (name, value)));
        }
        let seen = Seen {
            mode: metadata.mode(),
            owner: (metadata.uid(), metadata.gid()),
            links: if metadata.is_dir() { 0 } else { metadata.nlink() },
            bytes,
            xattrs,
        };
        let kept = Kept {
            inode: metadata.ino(),
            blocks: metadata.blocks(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        };
        found.insert(path, (seen, kept));
    }
    found.remove(Path::new("lost+found"));
    found
}

/// Mounts by `mount` what `with` is then given; unmounts, whatever happens.
fn by_kernel(image: &Path, with: impl FnOnce(&Path)) {
    struct Mounted(tempfile::TempDir);
    impl Drop for Mounted {
        fn drop(&mut self) {
            let done = Command::new("umount").arg(self.0.path()).status();
            assert!(done.is_ok_and(|status| status.success()) || std::thread::panicking(), "umount");
        }
    }
    let mounted = Mounted(tempfile::tempdir().unwrap());
    live_support::run("mount", &["-o", "loop", image.to_str().unwrap(), mounted.0.path().to_str().unwrap()]);
    with(mounted.0.path());
}

#[test]
fn the_kernel_and_a_mount_take_turns_and_each_finds_what_the_other_left() {
    let Some(made) = world(32) else { return };
    let keep = tempfile::tempdir().unwrap();
    let image = keep.path().join("image");
    made.end_as(&image);
    let beside = tempfile::tempdir_in(if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" }).unwrap();
    live_support::set_mode(beside.path(), 0o755);
    let mut random = Random(11);
    let mut left = None;
    let (mut failed, mut most) = (BTreeMap::new(), 0);
    for round in 0..ROUNDS {
        let mut turn = |root: &Path| {
            let found = tree(root);
            assert!(left.take().is_none_or(|left| left == found), "round {round}: it is not as it was left");
            for _ in 0..STEPS {
                let step = random.step();
                let done = step.run(beside.path());
                assert_eq!(step.run(root), done, "round {round}: {step:?}");
                *failed.entry(done.err()).or_insert(0) += 1;
            }
            let (ours, theirs) = (tree(root), tree(beside.path()));
            for (path, (seen, _)) in &theirs {
                let found = ours.get(path).map(|(seen, _)| seen);
                assert!(found == Some(seen), "round {round}: {}: {found:?}, not {seen:?}", path.display());
            }
            assert_eq!(ours.len(), theirs.len(), "round {round}");
            most = most.max(ours.len());
            left = Some(ours);
        };
        if round % 2 == 0 {
            by_kernel(&image, turn);
        } else {
            let world = World::of(&image);
            turn(&world.mount);
            world.ends();
        }
        let fsck = Command::new("e2fsck").arg("-fn").arg(&image).output().unwrap();
        assert!(fsck.status.success(), "round {round}: {}", String::from_utf8_lossy(&fsck.stdout));
    }
    println!("{most} names at most; steps by what they said: {failed:?}");
    assert!(most > 60 && failed[&None] > ROUNDS * STEPS / 4);
}
