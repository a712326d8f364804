//! A directory as the source of an image.
//!
//! The tree is walked once, breadth first, with names in order of their bytes, so that the order in which the file
//! system lists them makes no difference. What every regular file was like then is kept, and compared before and after
//! its data is read: a tree that changes meanwhile gives an error, never an image of a state that never was.

use crate::error::Error;
use crate::pattern::Pattern;
use crate::progress::{Phase, Progress};
use crate::source::{Name, Node, NodeId, NodeKind, Note, Sink, Source, Tree};
use crate::xattrs;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, SeekFrom, Stat};
use rustix::io::Errno;
use std::collections::{HashMap, VecDeque};
use std::ffi::{CStr, CString, OsStr};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use xip_core::Timestamp;

/// The longest path that a system call takes, with its final zero.
const PATH_MAX: usize = 4096;
const PAGE: u64 = 4096;
/// How much is asked for in one read.
const READ: usize = 256 * 1024;

/// A directory of this machine.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    root: OwnedFd,
    exclude: Vec<Pattern>,
    /// Files that are not part of the source wherever they stand, by device and inode: the image itself.
    not: Vec<(u64, u64)>,
    /// What each node was like, regular files and directories only.
    stamps: Vec<Option<Stamp>>,
}

/// What a file was like when it was listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    mtime: (i64, u64),
    ctime: (i64, u64),
}

impl Directory {
    /// The directory at `path`, without what a pattern names.
    ///
    /// # Errors
    /// [`Error::Source`] when it cannot be opened, or is not a directory.
    pub fn open(path: &Path, exclude: Vec<Pattern>) -> Result<Self, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| Error::Source {
            path: path.into(),
            what: "open the directory",
            error: error.into(),
        })?;
        Ok(Self { path: path.into(), root, exclude, not: Vec::new(), stamps: Vec::new() })
    }

    /// Leaves out a file wherever it is met, by device and inode: an image that is built inside its own source.
    pub fn leave_out(&mut self, device: u64, inode: u64) {
        self.not.push((device, inode));
    }

    /// Opens something below the root; a path of any length.
    fn open_below(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut at: Option<OwnedFd> = None;
        let mut rest = path;
        while rest.len() >= PATH_MAX {
            let cut = rest[..PATH_MAX].iter().rposition(|&b| b == b'/').ok_or(Errno::NAMETOOLONG)?;
            let below = at.as_ref().map_or(self.root.as_fd(), OwnedFd::as_fd);
            let part = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            at = Some(rustix::fs::openat(below, &rest[..cut], part, Mode::empty())?);
            rest = &rest[cut + 1..];
        }
        let below = at.as_ref().map_or(self.root.as_fd(), OwnedFd::as_fd);
        rustix::fs::openat(below, if rest.is_empty() { b"." } else { rest }, flags, Mode::empty())
    }

    fn error(&self, path: &[u8], what: &'static str, error: Errno) -> Error {
        let path = self.path.join(OsStr::from_bytes(path));
        match error {
            // It was there when its directory was listed.
            Errno::NOENT | Errno::STALE => Error::Changed { path, what: "vanished" },
            _ => Error::Source { path, what, error: error.into() },
        }
    }

    fn changed(&self, path: &[u8]) -> Error {
        Error::Changed { path: self.path.join(OsStr::from_bytes(path)), what: "changed" }
    }

    fn names(&self, fd: &OwnedFd) -> Result<Vec<CString>, Errno> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(fd)? {
            let entry = entry?;
            let name = entry.file_name();
            if !matches!(name.to_bytes(), b"." | b"..") {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        // A directory that is changed while it is listed may show a name twice.
        names.dedup();
        Ok(names)
    }

    fn node(&self, fd: &OwnedFd, name: &CStr, path: &[u8], stat: &Stat, tree: &mut Tree) -> Result<Node, Error> {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                NodeKind::Regular { size, data: self.data(fd, name, path, size, stat)? }
            }
            FileType::Directory => NodeKind::Directory,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(fd, name, Vec::new())
                    .map_err(|error| self.error(path, "read the link", error))?;
                NodeKind::Symlink(target.into_bytes().into())
            }
            FileType::BlockDevice => NodeKind::Block(rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)),
            FileType::CharacterDevice => {
                NodeKind::Character(rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev))
            }
            FileType::Fifo => NodeKind::Fifo,
            FileType::Socket => NodeKind::Socket,
            FileType::Unknown => return Err(self.error(path, "tell what kind of file it is", Errno::INVAL)),
        };
        let (xattrs, problems) = xattrs::read(&self.attribute_path(fd, name, path))
            .map_err(|error| self.error(path, "read the extended attributes", error))?;
        let shown = String::from_utf8_lossy(path);
        tree.notes.extend(problems.into_iter().map(|what| Note { path: shown.clone().into_owned(), what }));
        Ok(Node {
            kind,
            // The type bits are above the lower 12.
            permissions: (stat.st_mode & 0o7777) as u16,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: Timestamp { seconds: stat.st_mtime, nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) },
            xattrs,
            first_name: 0,
        })
    }

    /// A path for the calls on attributes, which know no directories (short of very new kernels). Should someone put a
    /// link in its way, the directory that it is put in has changed, which is found in the end.
    fn attribute_path(&self, at: &OwnedFd, name: &CStr, path: &[u8]) -> Vec<u8> {
        let mut whole = self.path.as_os_str().as_bytes().to_vec();
        whole.push(b'/');
        whole.extend_from_slice(path);
        if whole.len() >= PATH_MAX {
            whole = format!("/proc/self/fd/{}/", at.as_raw_fd()).into_bytes();
            whole.extend_from_slice(name.to_bytes());
        }
        whole
    }

    /// The pages of a file that have data.
    fn data(&self, at: &OwnedFd, name: &CStr, path: &[u8], size: u64, stat: &Stat) -> Result<Vec<Range<u64>>, Error> {
        if size == 0 {
            return Ok(Vec::new());
        }
        // A file with storage for all of its size is not opened for this; if there is a hole in it even so, it is found
        // when the data is read, and stays a hole.
        if u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512) >= size {
            return Ok(std::iter::once(0..size.div_ceil(PAGE)).collect());
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(at, name, flags, Mode::empty()).map_err(|error| self.error(path, "open", error))?;
        let mut pages: Vec<Range<u64>> = Vec::new();
        for bytes in stretches(&fd, size).map_err(|error| self.error(path, "look for holes", error))? {
            let part = bytes.start / PAGE..bytes.end.div_ceil(PAGE);
            match pages.last_mut() {
                Some(last) if part.start <= last.end => last.end = part.end,
                _ => pages.push(part),
            }
        }
        Ok(pages)
    }

    fn stamp(stat: &Stat) -> Stamp {
        Stamp {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime: (stat.st_mtime, stat.st_mtime_nsec),
            ctime: (stat.st_ctime, stat.st_ctime_nsec),
        }
    }

    fn read_file(&self, node: NodeId, stamp: &Stamp, path: &[u8], sink: &mut dyn Sink) -> Result<(), Error> {
        // Not to wait if it has become a pipe.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let fd = self.open_below(path, flags).map_err(|error| match error {
            Errno::LOOP | Errno::NOTDIR | Errno::NXIO => self.changed(path),
            _ => self.error(path, "open", error),
        })?;
        self.check(&fd, Some(stamp), path)?;
        for stretch in stretches(&fd, stamp.size).map_err(|error| self.error(path, "look for holes", error))? {
            // Whole pages, so that a piece never begins inside one; what is not data there is zeros.
            let mut at = stretch.start / PAGE * PAGE;
            while at < stretch.end {
                let want = usize::try_from(stretch.end - at).unwrap_or(READ).min(READ);
                let room = sink.room(want)?;
                let len = match rustix::io::pread(&fd, room, at) {
                    Err(Errno::INTR) => continue,
                    other => other.map_err(|error| self.error(path, "read", error))?,
                };
                if len == 0 {
                    return Err(self.changed(path));
                }
                sink.filled(node, at, len);
                at += len as u64;
            }
        }
        self.check(&fd, Some(stamp), path)
    }

    /// Whether an open file is still what it was when it was listed.
    fn check(&self, fd: &OwnedFd, stamp: Option<&Stamp>, path: &[u8]) -> Result<(), Error> {
        let stat = rustix::fs::fstat(fd).map_err(|error| self.error(path, "look at", error))?;
        if stamp == Some(&Self::stamp(&stat)) { Ok(()) } else { Err(self.changed(path)) }
    }
}

/// The parts of a file that are not holes. Where the system cannot tell, all of it.
fn stretches(fd: &OwnedFd, size: u64) -> Result<Vec<Range<u64>>, Errno> {
    let mut parts = Vec::new();
    let mut at = 0;
    // Nearly every file: one call.
    if rustix::fs::seek(fd, SeekFrom::Hole(0)).is_ok_and(|end| end >= size) {
        parts.push(0..size);
        at = size;
    }
    while at < size {
        let start = match rustix::fs::seek(fd, SeekFrom::Data(at)) {
            Ok(start) => start.min(size),
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
            Err(error) => return Err(error),
        };
        if start >= size {
            break;
        }
        let end = match rustix::fs::seek(fd, SeekFrom::Hole(start)) {
            // A file that shrinks meanwhile; the comparison afterwards says so.
            Ok(end) if end <= start => break,
            Ok(end) => end.min(size),
            Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NXIO) => size,
            Err(error) => return Err(error),
        };
        parts.push(start..end);
        at = end;
    }
    Ok(parts)
}

impl Source for Directory {
    fn tree(&mut self, progress: &dyn Progress) -> Result<Tree, Error> {
        progress.phase(Phase::Scan, 0);
        let mut tree = Tree::default();
        let mut stamps = Vec::new();
        let stat = rustix::fs::fstat(&self.root).map_err(|error| self.error(b"", "look at", error))?;
        let root = self.node(&self.root, c".", b"", &stat, &mut tree)?;
        tree.nodes.push(root);
        stamps.push(None);

        let mut links: HashMap<(u64, u64), NodeId> = HashMap::new();
        stamps[0] = Some(Self::stamp(&stat));
        let mut queue = VecDeque::from([(NodeId::ROOT, Vec::new())]);
        while let Some((parent, path)) = queue.pop_front() {
            if progress.cancelled() {
                return Err(Error::Cancelled);
            }
            let fd = self
                .open_below(&path, OFlags::RDONLY | OFlags::DIRECTORY)
                .map_err(|error| self.error(&path, "open the directory", error))?;
            self.check(&fd, stamps[parent.index()].as_ref(), &path)?;
            let names = self.names(&fd).map_err(|error| self.error(&path, "list the directory", error))?;
            progress.advance(names.len() as u64);
            for name in names {
                let mut below = path.clone();
                if !below.is_empty() {
                    below.push(b'/');
                }
                below.extend_from_slice(name.to_bytes());
                let stat = rustix::fs::statat(&fd, &*name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(|error| self.error(&below, "look at", error))?;
                let kind = FileType::from_raw_mode(stat.st_mode);
                let is_directory = kind == FileType::Directory;
                if self.not.contains(&(stat.st_dev, stat.st_ino))
                    || self.exclude.iter().any(|pattern| pattern.matches(&below, is_directory))
                {
                    continue;
                }
                let identity = (stat.st_dev, stat.st_ino);
                let linked = if is_directory { None } else { links.get(&identity).copied() };
                let node = match linked {
                    Some(node) => node,
                    None => {
                        let id = NodeId(
                            u32::try_from(tree.nodes.len())
                                .map_err(|_| Error::TooLarge { what: "it has more than 4,294,967,295 files" })?,
                        );
                        let mut node = self.node(&fd, &name, &below, &stat, &mut tree)?;
                        node.first_name = u32::try_from(tree.names.len()).unwrap_or(u32::MAX);
                        tree.nodes.push(node);
                        let stamped = is_directory || kind == FileType::RegularFile;
                        stamps.push(stamped.then(|| Self::stamp(&stat)));
                        if !is_directory && stat.st_nlink > 1 {
                            links.insert(identity, id);
                        }
                        id
                    }
                };
                tree.names.push(Name { parent, name: name.to_bytes().into(), node });
                if is_directory {
                    queue.push_back((node, below));
                }
            }
        }
        self.stamps = stamps;
        Ok(tree)
    }

    fn read(&self, tree: &Tree, sink: &mut dyn Sink) -> Result<(), Error> {
        let each = |wanted: fn(&NodeKind) -> bool| {
            let nodes = tree.nodes.iter().zip(&self.stamps).enumerate();
            nodes.filter_map(move |(n, (node, stamp))| {
                let stamp = stamp.as_ref().filter(|_| wanted(&node.kind))?;
                Some((NodeId(u32::try_from(n).ok()?), stamp))
            })
        };
        for (node, stamp) in each(|kind| matches!(kind, NodeKind::Regular { size: 1.., .. })) {
            self.read_file(node, stamp, tree.path(node).as_os_str().as_bytes(), sink)?;
        }
        // Names that came or went meanwhile changed their directory.
        for (node, stamp) in each(|kind| matches!(kind, NodeKind::Directory)) {
            let path = tree.path(node);
            let path = path.as_os_str().as_bytes();
            let fd = self
                .open_below(path, OFlags::PATH | OFlags::DIRECTORY)
                .map_err(|error| self.error(path, "open the directory", error))?;
            self.check(&fd, Some(stamp), path)?;
        }
        Ok(())
    }
}
