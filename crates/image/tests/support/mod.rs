//! Trees to build images of, and the kernel's and e2fsck's word on the result.
#![allow(dead_code)]

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Whether this test can do what only root can; says so if not.
pub fn root(what: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: {what} needs root");
    }
    root
}

/// `e2fsck` finds nothing wrong.
pub fn assert_clean(image: &Path) {
    let output = Command::new("e2fsck").arg("-fn").arg(image).output().expect("e2fsck is there (e2fsprogs)");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "e2fsck -fn {}: {}\n{text}", image.display(), output.status);
}

/// An image, mounted by the kernel.
pub struct Mounted {
    directory: tempfile::TempDir,
}

impl Mounted {
    pub fn new(image: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "ext4", "-o", "loop,ro,noload"]).arg(image).arg(directory.path());
        let output = mount.output().unwrap();
        assert!(output.status.success(), "mount: {}", String::from_utf8_lossy(&output.stderr));
        Self { directory }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.directory.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}

/// All there is to know about a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    pub mode: u32,
    pub owner: (u32, u32),
    pub mtime: (i64, i64),
    pub size: u64,
    pub links: u64,
    pub device: u64,
    pub target: Option<PathBuf>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the data is, and a sum of it.
    pub data: Vec<(u64, u64)>,
    pub sum: u64,
    /// The first path, by order of names, that leads to the same file.
    pub same_as: PathBuf,
}

/// Everything below `root`, and `root` itself as the empty path.
pub fn entries(root: &Path) -> BTreeMap<PathBuf, Entry> {
    let mut found = BTreeMap::new();
    let mut paths = vec![PathBuf::new()];
    while let Some(path) = paths.pop() {
        let whole = root.join(&path);
        let meta = fs::symlink_metadata(&whole).unwrap();
        if meta.is_dir() {
            for entry in fs::read_dir(&whole).unwrap() {
                paths.push(path.join(entry.unwrap().file_name()));
            }
        }
        let (data, sum) = if meta.is_file() { contents(&whole) } else { (Vec::new(), 0) };
        let is_device = meta.file_type().is_block_device() || meta.file_type().is_char_device();
        found.insert(
            path,
            Entry {
                mode: meta.mode(),
                owner: (meta.uid(), meta.gid()),
                mtime: (meta.mtime(), meta.mtime_nsec()),
                size: if meta.is_dir() { 0 } else { meta.size() },
                // File systems differ in what they count for directories.
                links: if meta.is_dir() { 0 } else { meta.nlink() },
                device: if is_device { meta.rdev() } else { 0 },
                target: fs::read_link(&whole).ok(),
                xattrs: xattrs(&whole),
                data,
                sum,
                same_as: PathBuf::from(format!("{}", meta.ino())),
            },
        );
    }
    // Inode numbers differ between a tree and its image: which names belong together does not.
    let mut first: HashMap<PathBuf, PathBuf> = HashMap::new();
    let paths: Vec<PathBuf> = found.keys().cloned().collect();
    for path in paths {
        let entry = found.get_mut(&path).unwrap();
        entry.same_as = first.entry(entry.same_as.clone()).or_insert(path).clone();
    }
    found
}

/// The two trees are the same, entry by entry.
pub fn assert_same(source: &Path, image: &Path) {
    let (ours, theirs) = (entries(source), entries(image));
    let names = |map: &BTreeMap<PathBuf, Entry>| map.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&ours), names(&theirs), "names");
    for (path, entry) in &ours {
        assert_eq!(entry, &theirs[path], "{}", path.display());
    }
}

fn contents(path: &Path) -> (Vec<(u64, u64)>, u64) {
    use rustix::fs::{SeekFrom, seek};
    let file = File::open(path).unwrap();
    let size = file.metadata().unwrap().len();
    let mut parts = Vec::new();
    let mut at = 0;
    while let Ok(start) = seek(&file, SeekFrom::Data(at)) {
        let end = seek(&file, SeekFrom::Hole(start)).unwrap();
        parts.push((start, end.min(size)));
        at = end;
        if at >= size {
            break;
        }
    }
    let mut sum = 0xcbf2_9ce4_8422_2325u64;
    let mut buffer = vec![0; usize::try_from(size).unwrap().clamp(1, 1 << 20)];
    for &(start, end) in &parts {
        let mut at = start;
        while at < end {
            let want = usize::try_from(end - at).unwrap().min(buffer.len());
            let got = rustix::io::pread(&file, &mut buffer[..want], at).unwrap();
            assert!(got > 0);
            for word in buffer[..got].chunks(8) {
                let mut bytes = [0; 8];
                bytes[..word.len()].copy_from_slice(word);
                sum = (sum ^ u64::from_le_bytes(bytes)).wrapping_mul(0x0100_0000_01b3);
            }
            at += got as u64;
        }
    }
    (parts, sum)
}

pub fn xattrs(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut list = [0; 4096];
    let len = rustix::fs::llistxattr(path, &mut list[..]).unwrap();
    let mut found: Vec<_> = list[..len]
        .split(|&b| b == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 4096];
            let len = rustix::fs::lgetxattr(path, name, &mut value).unwrap();
            (name.to_vec(), value[..len].to_vec())
        })
        .collect();
    found.sort();
    found
}

pub fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
}

pub fn make_node(path: &Path, kind: rustix::fs::FileType, device: (u32, u32)) {
    let device = rustix::fs::makedev(device.0, device.1);
    let mode = rustix::fs::Mode::from_raw_mode(0o640);
    rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, device).unwrap();
}

pub fn set_mtime(path: &Path, seconds: i64, nanoseconds: i64) {
    use rustix::fs::{AtFlags, Timespec, Timestamps};
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Bytes that are the same in every run and differ along the file.
pub fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        out.extend_from_slice(&(state ^ state >> 29).to_le_bytes());
    }
    out.truncate(len);
    out
}

/// A small tree of regular files, directories and links, as any user can make it.
pub fn plain_tree(at: &Path) {
    for (n, directory) in ["", "bin", "usr", "usr/lib", "usr/lib/deep/er"].iter().enumerate() {
        let directory = at.join(directory);
        fs::create_dir_all(&directory).unwrap();
        for k in 0..20usize {
            let len = [0, 1, 4095, 4096, 4097, 49_152, 49_153, 200_000][k % 8];
            fs::write(directory.join(format!("file-{k}")), bytes(len, (n * 100 + k) as u64)).unwrap();
        }
        symlink("file-1", directory.join("link")).unwrap();
    }
    fs::write(at.join("usr/lib/large"), bytes(3 << 20, 7)).unwrap();
    fs::hard_link(at.join("bin/file-5"), at.join("usr/other-name")).unwrap();
}

/// A name of these bytes.
pub fn name(bytes: &[u8]) -> PathBuf {
    std::ffi::OsString::from_vec(bytes.to_vec()).into()
}

/// Everything in a directory, by name.
pub fn list(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| String::from_utf8_lossy(entry.unwrap().file_name().as_bytes()).into_owned())
        .collect();
    names.sort();
    names
}
