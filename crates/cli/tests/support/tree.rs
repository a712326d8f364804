//! A tree as a list of what each entry is, from three sources that know nothing of each other: a directory of this
//! machine, the kernel's mount of an image, and our own reader. Equal lists are equal trees.

use rustix::fs as sys;
use std::collections::BTreeMap;
use std::collections::hash_map::{DefaultHasher, Entry as Slot, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::hash::Hasher;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// What is compared of an entry. Not: access and change times, which looking and copying set, and the size of
/// directories, which is the format's own business.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Type and permissions.
    mode: u32,
    uid: u32,
    gid: u32,
    /// Seconds since the epoch, which may be negative, and nanoseconds.
    mtime: (i64, u32),
    size: u64,
    links: u64,
    /// For a file of many names: the first of them.
    same_as: Option<PathBuf>,
    device: (u32, u32),
    target: Option<PathBuf>,
    xattrs: BTreeMap<OsString, Vec<u8>>,
    content: Option<u64>,
}

impl Entry {
    fn is_directory(&self) -> bool {
        self.mode & 0o170_000 == 0o040_000
    }
}

/// Entries by their path in the tree; the root's is empty.
pub type Tree = BTreeMap<PathBuf, Entry>;

/// A tree that an image is made of. The links of directories are counted here: not every file system does.
pub fn of_source(root: &Path) -> Tree {
    let mut tree = of_directory(root);
    let directories: Vec<_> =
        tree.iter().filter(|(_, entry)| entry.is_directory()).map(|(path, _)| path.clone()).collect();
    for path in &directories {
        tree.get_mut(path).unwrap().links = 2;
    }
    for path in directories {
        if let Some(parent) = path.parent() {
            tree.get_mut(parent).unwrap().links += 1;
        }
    }
    tree
}

/// A directory of this machine: the mount of an image.
pub fn of_directory(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut names = Names::default();
    let mut waiting = vec![PathBuf::new()];
    while let Some(inside) = waiting.pop() {
        let path = root.join(&inside);
        let meta = fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| inside.join(entry.unwrap().file_name())));
        }
        let kind = meta.file_type();
        let device = if meta.rdev() == 0 { (0, 0) } else { (sys::major(meta.rdev()), sys::minor(meta.rdev())) };
        let entry = Entry {
            mode: meta.mode(),
            uid: meta.uid(),
            gid: meta.gid(),
            mtime: (meta.mtime(), meta.mtime_nsec().try_into().unwrap()),
            size: if kind.is_dir() { 0 } else { meta.len() },
            links: meta.nlink(),
            same_as: None,
            device,
            target: kind.is_symlink().then(|| fs::read_link(&path).unwrap()),
            xattrs: xattrs(&path),
            content: kind.is_file().then(|| hash(fs::File::open(&path).unwrap())),
        };
        names.add(&inside, meta.ino(), &entry);
        tree.insert(inside, entry);
    }
    names.finish(tree)
}

/// What our own reader finds on a volume.
pub fn of_volume(volume: &xip::Volume) -> Tree {
    let mut tree = Tree::new();
    let mut names = Names::default();
    let mut waiting = vec![PathBuf::new()];
    while let Some(inside) = waiting.pop() {
        let path = Path::new("/").join(&inside);
        let meta = volume.symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            waiting.extend(volume.read_dir(&path).unwrap().map(|entry| inside.join(entry.unwrap().file_name())));
        }
        let value = |name: OsString| {
            let value = volume.xattr(&path, &name).unwrap().unwrap();
            (name, value)
        };
        let entry = Entry {
            mode: meta.mode(),
            uid: meta.uid(),
            gid: meta.gid(),
            mtime: since_epoch(meta.modified()),
            size: if meta.is_dir() { 0 } else { meta.len() },
            links: meta.nlink().into(),
            same_as: None,
            device: meta.device(),
            target: meta.is_symlink().then(|| volume.read_link(&path).unwrap()),
            xattrs: volume.xattrs(&path).unwrap().into_iter().map(value).collect(),
            content: meta.is_file().then(|| hash(volume.file(&path).unwrap())),
        };
        names.add(&inside, u64::from(meta.ino().0), &entry);
        tree.insert(inside, entry);
    }
    names.finish(tree)
}

/// Says what differs, the first few of it, and fails if anything does.
#[track_caller]
pub fn assert_same(expected: &Tree, found: &Tree) {
    let mut differences = Vec::new();
    for (path, entry) in expected {
        match found.get(path) {
            None => differences.push(format!("missing: {path:?}")),
            Some(other) if other != entry => {
                differences.push(format!("{path:?}\n  expected {entry:?}\n  found    {other:?}"));
            }
            Some(_) => {}
        }
    }
    differences
        .extend(found.keys().filter(|path| !expected.contains_key(*path)).map(|path| format!("extra: {path:?}")));
    let first = differences.iter().take(10).map(String::as_str).collect::<Vec<_>>().join("\n");
    assert!(differences.is_empty(), "{} differences in {} entries:\n{first}", differences.len(), expected.len());
}

/// The names of each inode, in order of path.
#[derive(Default)]
struct Names(BTreeMap<PathBuf, u64>);

impl Names {
    fn add(&mut self, path: &Path, inode: u64, entry: &Entry) {
        if entry.links > 1 && !entry.is_directory() {
            self.0.insert(path.into(), inode);
        }
    }

    /// Names that lead to one file are told so.
    fn finish(self, mut tree: Tree) -> Tree {
        let mut first: HashMap<u64, PathBuf> = HashMap::new();
        for (path, inode) in self.0 {
            match first.entry(inode) {
                Slot::Vacant(slot) => {
                    slot.insert(path);
                }
                Slot::Occupied(slot) => {
                    if let Some(entry) = tree.get_mut(&path) {
                        entry.same_as = Some(slot.get().clone());
                    }
                }
            }
        }
        tree
    }
}

fn xattrs(path: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let mut list = vec![0; 65536];
    let len = match sys::llistxattr(path, &mut list) {
        Ok(len) => len,
        Err(rustix::io::Errno::NOTSUP) => 0,
        Err(error) => panic!("{path:?}: {error}"),
    };
    let names = list[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0; 65536];
            let len = sys::lgetxattr(path, OsStr::from_bytes(name), &mut value).unwrap();
            value.truncate(len);
            (OsString::from_vec(name.to_vec()), value)
        })
        .collect()
}

fn since_epoch(time: SystemTime) -> (i64, u32) {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => (after.as_secs().try_into().unwrap(), after.subsec_nanos()),
        Err(before) => {
            let before = before.duration();
            let seconds = -i64::try_from(before.as_secs()).unwrap();
            match before.subsec_nanos() {
                0 => (seconds, 0),
                nanos => (seconds - 1, 1_000_000_000 - nanos),
            }
        }
    }
}

/// Of all bytes. Holes of gigabytes are read too, and pieces of zeros are only counted.
fn hash(mut file: impl Read) -> u64 {
    let zeros = vec![0; 1 << 20];
    let mut piece = Vec::new();
    let mut hasher = DefaultHasher::new();
    loop {
        piece.clear();
        match file.by_ref().take(zeros.len() as u64).read_to_end(&mut piece).unwrap() {
            0 => return hasher.finish(),
            len if piece == zeros => hasher.write_usize(len),
            _ => hasher.write(&piece),
        }
    }
}
