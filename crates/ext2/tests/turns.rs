//! The kernel and this crate take turns on one image: each reads what the other wrote, e2fsck judges in between.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::{Bytes, NOW, fsck_file, volume};
use xip_core::Alone;
use xip_core::ops::{self, Writer};
use xip_ext2::{File, InodeNo, Kind, NewInode, NewKind, Rename, Volume};

/// An image, mounted by the kernel's own driver.
struct Mounted {
    at: tempfile::TempDir,
}

impl Mounted {
    fn new(image: &Path) -> Self {
        let at = tempfile::tempdir().unwrap();
        let out = Command::new("mount").args(["-o", "loop"]).arg(image).arg(at.path()).output().unwrap();
        assert!(out.status.success(), "mount: {}", String::from_utf8_lossy(&out.stderr));
        Self { at }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let done = Command::new("umount").arg(self.at.path()).status();
        assert!(done.is_ok_and(|status| status.success()), "umount");
    }
}

/// Path to contents; `None` for a directory.
type Tree = BTreeMap<PathBuf, Option<Vec<u8>>>;

/// What both of them do.
enum Step {
    Write(PathBuf, usize, Vec<u8>),
    Mkdir(PathBuf),
    Remove(PathBuf),
    Move(PathBuf, PathBuf),
    Cut(PathBuf, usize),
}

struct Random(u64);

impl Random {
    fn below(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % below
    }

    /// A step that succeeds on this tree, which it changes.
    fn step(&mut self, tree: &mut Tree) -> Step {
        loop {
            let dirs: Vec<_> = tree.iter().filter(|(_, bytes)| bytes.is_none()).map(|(path, _)| path.clone()).collect();
            let files: Vec<_> =
                tree.iter().filter(|(_, bytes)| bytes.is_some()).map(|(path, _)| path.clone()).collect();
            let dir = dirs[self.below(dirs.len())].clone();
            // Many names of different lengths, so that directories grow to have an index.
            let n = self.below(400);
            let fresh = dir.join(format!("{n}{}", "-name".repeat(n % 20)));
            let some = (!files.is_empty()).then(|| files[self.below(files.len())].clone());
            match (self.below(10), some) {
                (0..4, _) if !tree.contains_key(&fresh) => {
                    let bytes = vec![n as u8 | 1; self.below(30_000)];
                    tree.insert(fresh.clone(), Some(bytes.clone()));
                    return Step::Write(fresh, 0, bytes);
                }
                (4, _) if !tree.contains_key(&fresh) && dirs.len() < 8 => {
                    tree.insert(fresh.clone(), None);
                    return Step::Mkdir(fresh);
                }
                (5, Some(file)) => {
                    let (at, bytes) = (self.below(60_000), vec![n as u8 | 2; 1 + self.below(9000)]);
                    let old = tree.get_mut(&file).unwrap().as_mut().unwrap();
                    old.resize(old.len().max(at + bytes.len()), 0);
                    old[at..at + bytes.len()].copy_from_slice(&bytes);
                    return Step::Write(file, at, bytes);
                }
                (6, Some(file)) => {
                    let size = self.below(60_000);
                    tree.get_mut(&file).unwrap().as_mut().unwrap().resize(size, 0);
                    return Step::Cut(file, size);
                }
                (7, Some(file)) => {
                    tree.remove(&file);
                    return Step::Remove(file);
                }
                (8.., Some(file)) if tree.get(&fresh).is_none_or(Option::is_some) && fresh != file => {
                    let bytes = tree.remove(&file).unwrap();
                    tree.insert(fresh.clone(), bytes);
                    return Step::Move(file, fresh);
                }
                _ => {}
            }
        }
    }
}

fn by_kernel(root: &Path, step: &Step) {
    let at = |path: &Path| root.join(path);
    match step {
        Step::Write(path, offset, bytes) => {
            let file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(at(path)).unwrap();
            file.write_all_at(bytes, *offset as u64).unwrap();
        }
        Step::Mkdir(path) => fs::create_dir(at(path)).unwrap(),
        Step::Remove(path) => fs::remove_file(at(path)).unwrap(),
        Step::Move(from, to) => fs::rename(at(from), at(to)).unwrap(),
        Step::Cut(path, size) => {
            fs::OpenOptions::new().write(true).open(at(path)).unwrap().set_len(*size as u64).unwrap();
        }
    }
}

fn find(volume: &Volume<Bytes, Alone>, path: &Path) -> InodeNo {
    path.iter().fold(InodeNo::ROOT, |dir, name| volume.lookup(dir, name.as_encoded_bytes()).unwrap().unwrap())
}

fn by_us(volume: &Volume<Bytes, Alone>, step: &Step) {
    let place =
        |path: &Path| (find(volume, path.parent().unwrap()), path.file_name().unwrap().as_encoded_bytes().to_vec());
    let create = |path: &Path, kind| {
        let (dir, name) = place(path);
        volume.create(dir, &name, &NewInode { kind, permissions: 0o755, uid: 0, gid: 0 }).unwrap()
    };
    let open = |number| match volume.file(number).unwrap() {
        File::Cached(file) => file,
        File::InPlace(_) => unreachable!("the device has no direct access"),
    };
    match step {
        Step::Write(path, offset, bytes) => {
            let (dir, name) = place(path);
            let number = volume.lookup(dir, &name).unwrap().unwrap_or_else(|| create(path, NewKind::Regular));
            assert_eq!(ops::write(&open(number), *offset as u64, bytes, &Writer::default()), Ok(bytes.len()));
        }
        Step::Mkdir(path) => _ = create(path, NewKind::Directory),
        Step::Remove(path) => {
            let (dir, name) = place(path);
            volume.release(volume.unlink(dir, &name).unwrap().unwrap()).unwrap();
        }
        Step::Move(from, to) => {
            let ((from, old), (to, new)) = (place(from), place(to));
            if let Some(left) = volume.rename(from, &old, to, &new, Rename::Replace).unwrap() {
                volume.release(left).unwrap();
            }
        }
        Step::Cut(path, size) => ops::truncate(&open(find(volume, path)), *size as u64).unwrap(),
    }
}

fn seen_by_kernel(root: &Path, dir: &Path, tree: &mut Tree) {
    tree.insert(dir.to_owned(), None);
    for entry in fs::read_dir(root.join(dir)).unwrap() {
        let entry = entry.unwrap();
        let path = dir.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            seen_by_kernel(root, &path, tree);
        } else {
            tree.insert(path, Some(fs::read(entry.path()).unwrap()));
        }
    }
}

fn seen_by_us(volume: &Volume<Bytes, Alone>, number: InodeNo, dir: &Path, tree: &mut Tree) {
    tree.insert(dir.to_owned(), None);
    let mut names = Vec::new();
    volume
        .read_dir(number, 0, &mut |entry| {
            names.push((String::from_utf8(entry.name.to_vec()).unwrap(), entry.ino));
            true
        })
        .unwrap();
    for (name, number) in names.into_iter().filter(|(name, _)| name != "." && name != "..") {
        let (path, inode) = (dir.join(name), volume.inode(number).unwrap());
        if inode.kind == Kind::Directory {
            seen_by_us(volume, number, &path, tree);
        } else {
            let File::Cached(file) = volume.file(number).unwrap() else { unreachable!() };
            let mut bytes = vec![0xaa; inode.size as usize];
            assert_eq!(ops::read(&file, 0, &mut bytes), Ok(bytes.len()));
            tree.insert(path, Some(bytes));
        }
    }
}

#[test]
fn the_kernel_and_we_take_turns_and_each_reads_what_the_other_wrote() {
    let image = tempfile::NamedTempFile::new().unwrap();
    let made = volume(6000, 3000);
    fs::write(image.path(), &made.device().to_vec()[..made.geometry().bytes() as usize]).unwrap();
    let mut tree = Tree::from([(PathBuf::new(), None)]);
    let mut random = Random(7);
    for round in 0..50 {
        let steps: Vec<Step> = (0..50).map(|_| random.step(&mut tree)).collect();
        let mut seen = Tree::new();
        if round % 2 == 0 {
            let mounted = Mounted::new(image.path());
            steps.iter().for_each(|step| by_kernel(mounted.at.path(), step));
            seen_by_kernel(mounted.at.path(), Path::new(""), &mut seen);
        } else {
            let mut volume = Volume::open(Bytes::of(&fs::read(image.path()).unwrap()), Alone::at(NOW)).unwrap();
            assert!(volume.is_clean(), "the kernel closed it");
            steps.iter().for_each(|step| by_us(&volume, step));
            seen_by_us(&volume, InodeNo::ROOT, Path::new(""), &mut seen);
            volume.close().unwrap();
            fs::write(image.path(), volume.device().to_vec()).unwrap();
        }
        assert!(seen == tree, "round {round}");
        fsck_file(image.path());
    }
    assert!(tree.len() > 100, "{}", tree.len());
}
