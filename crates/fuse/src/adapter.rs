//! The only place that knows `fuser`: requests in, calls on the tree and the volume, replies out. The crate changes its
//! interface with every release, so its version is pinned and its names end here.
//!
//! What the kernel may keep: everything, since nothing can change. Entries, also those that do not exist, and attributes get
//! the longest time to live; directories and symbolic links are cached. Files and directories are opened without asking us.
//! What is read of files is kept within a limit: see [`crate::reads`].

use crate::error::Error;
use crate::reads::{Reads, tell};
use crate::session::ServeOptions;
use crate::tree::{Attributes, Tree};
use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, InitFlags, KernelConfig, LockOwner,
    OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEntry, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyXattr, Request, SessionACL,
};
use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, UNIX_EPOCH};
use xip::{File, Kind, Metadata};

/// For ever: the kernel saturates it.
const TTL: Duration = Duration::MAX;

/// The most that the kernel asks for in one read is 1 MiB; a buffer this large is kept by each thread that needs one.
const MOST_KEPT: usize = 1 << 20;

/// The thread that has those which answer the kernel. It has the only descriptor: should they all end, whoever waits for
/// an answer gets an error and does not wait for ever.
#[derive(Debug)]
pub(crate) struct Serving {
    thread: JoinHandle<io::Result<()>>,
    reads: Arc<Reads>,
}

impl Serving {
    pub(crate) fn wait(self) -> Result<(), Error> {
        let ended = self.thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread that served it panicked")));
        ended.map_err(Error::Served)
    }

    pub(crate) fn lift_limit(&self) {
        self.reads.lift_limit();
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }
}

pub(crate) fn serve(device: OwnedFd, tree: Tree, options: &ServeOptions) -> Result<Serving, Error> {
    let mut config = Config::default();
    config.n_threads = Some(options.threads.max(1));
    let reads = Arc::new(Reads::new(options.page_cache_limit));
    let (clearing, told) = sync_channel(1);
    let server = Server { tree, read_ahead: options.read_ahead, reads: reads.clone(), clearing };
    // Who may come in is decided by the mount (`allow_other`) and by the permissions that the kernel checks.
    let session = fuser::Session::from_fd(server, device, SessionACL::All, config).map_err(Error::Handshake)?;
    let (kernel, of_clearing) = (session.notifier(), reads.clone());
    thread::Builder::new()
        .name("xip-clear".into())
        .spawn(move || of_clearing.clear_when_told(&kernel, &told))
        .map_err(Error::Handshake)?;
    let thread =
        thread::Builder::new().name("xip-fuse".into()).spawn(move || session.run()).map_err(Error::Handshake)?;
    Ok(Serving { thread, reads })
}

struct Server {
    tree: Tree,
    read_ahead: u32,
    reads: Arc<Reads>,
    /// The thread that clears the page cache; it ends with this.
    clearing: SyncSender<()>,
}

thread_local! {
    /// For bytes that cannot be sent from where they are.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Server {
    /// The file behind a number; `None` for a synthetic file, which is empty.
    fn file(&self, ino: INodeNo) -> Result<Option<Arc<File>>, i32> {
        let Some(number) = self.tree.inode_no(ino.0)? else { return Ok(None) };
        let open = || self.tree.volume.inodes().file(number).map_err(|error| error.errno());
        self.reads.file(ino.0, open).map(Some)
    }
}

impl Filesystem for Server {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let offered = config.capabilities();
        let wanted = InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_NO_OPEN_SUPPORT
            | InitFlags::FUSE_NO_OPENDIR_SUPPORT
            | InitFlags::FUSE_EXPLICIT_INVAL_DATA
            | InitFlags::FUSE_POSIX_ACL;
        // Of what is offered nothing can be refused; the largest value that can be had is right for the others.
        let _ = config.add_capabilities(wanted & offered);
        if let Err(most) = config.set_max_readahead(self.read_ahead.max(1)) {
            let _ = config.set_max_readahead(most);
        }
        let _ = config.set_max_background(64);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        tracing::trace!(parent = parent.0, ?name, "lookup");
        match self.tree.lookup(parent.0, name) {
            Ok(Some(found)) => reply.entry(&TTL, &attr(&found, found.id), generation(&found)),
            // Node 0: the kernel remembers that there is no such name.
            Ok(None) => reply.entry(&TTL, &NOTHING, Generation(0)),
            Err(errno) => reply.error(Errno::from_i32(errno)),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        tracing::trace!(ino = ino.0, "getattr");
        match self.tree.attributes(ino.0) {
            Ok(found) => reply.attr(&TTL, &attr(&found, found.ino)),
            Err(errno) => reply.error(Errno::from_i32(errno)),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        tracing::trace!(ino = ino.0, "readlink");
        let target = self.tree.inode_no(ino.0).and_then(|number| {
            let number = number.ok_or(rustix::io::Errno::INVAL.raw_os_error())?;
            self.tree.volume.inodes().read_link(number).map_err(|error| error.errno())
        });
        match target {
            Ok(target) => reply.data(target.as_bytes()),
            Err(errno) => reply.error(Errno::from_i32(errno)),
        }
    }

    /// Not needed, and asked for once: the kernel then opens files, cached, without asking again. The mount is read-only.
    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        tracing::trace!(ino = ino.0, offset, size, "read");
        let file = match self.file(ino) {
            Ok(Some(file)) => file,
            Ok(None) => return reply.data(&[]),
            Err(errno) => return reply.error(Errno::from_i32(errno)),
        };
        let left = file.len().saturating_sub(offset).min(size.into());
        // At most `size`, which has 32 bits.
        let len = usize::try_from(left).unwrap_or(0);
        if let Some(bytes) = file.as_slice(offset, len) {
            reply.data(bytes);
        } else {
            BUFFER.with_borrow_mut(|buffer| {
                buffer.resize(buffer.len().max(len), 0);
                match file.read_at(&mut buffer[..len], offset) {
                    Ok(count) => reply.data(&buffer[..count]),
                    Err(error) => reply.error(Errno::from_i32(error.errno())),
                }
                if buffer.len() > MOST_KEPT {
                    *buffer = Vec::new();
                }
            });
        }
        if self.reads.note(ino.0, file, len) {
            tell(&self.clearing);
        }
    }

    /// Not needed: the kernel then opens directories, cached, without asking again.
    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        tracing::trace!(ino = ino.0, offset, "readdir");
        let read = self.tree.read_dir(ino.0, offset, &mut |entry| {
            // The kernel wants a type; programs that care ask the inode when the directory does not know.
            let kind = match entry.kind {
                Some(kind) => kind,
                None => self.tree.attributes(entry.id)?.inode.kind,
            };
            Ok(!reply.add(INodeNo(entry.ino), entry.next, file_type(kind), entry.name))
        });
        match read {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(Errno::from_i32(errno)),
        }
    }

    fn readdirplus(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        tracing::trace!(ino = ino.0, offset, "readdirplus");
        let read = self.tree.read_dir(ino.0, offset, &mut |entry| {
            let found = self.tree.attributes(entry.id)?;
            // The kernel makes nodes of all but the dots, which are only shown.
            let dots = entry.name == "." || entry.name == "..";
            let attr = attr(&found, if dots { found.ino } else { found.id });
            Ok(!reply.add(attr.ino, entry.next, entry.name, &TTL, &attr, generation(&found)))
        });
        match read {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(Errno::from_i32(errno)),
        }
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        match self.tree.volume.statfs() {
            Ok(figures) => {
                let (free, size) = (figures.free_blocks.into(), figures.block_size);
                reply.statfs(
                    figures.blocks.into(),
                    free,
                    free,
                    figures.inodes.into(),
                    figures.free_inodes.into(),
                    size,
                    255,
                    size,
                );
            }
            Err(error) => reply.error(Errno::from_i32(error.errno())),
        }
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        tracing::trace!(ino = ino.0, ?name, "getxattr");
        let value = self.tree.inode_no(ino.0).and_then(|number| match number {
            Some(number) => self.tree.volume.inodes().xattr(number, name.as_bytes()).map_err(|error| error.errno()),
            None => Ok(None),
        });
        match value {
            Ok(Some(value)) => give(reply, size, &value),
            Ok(None) => reply.error(Errno::ENODATA),
            Err(errno) => reply.error(Errno::from_i32(errno)),
        }
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        tracing::trace!(ino = ino.0, "listxattr");
        let names = self.tree.inode_no(ino.0).and_then(|number| match number {
            Some(number) => self.tree.volume.inodes().xattrs(number).map_err(|error| error.errno()),
            None => Ok(Vec::new()),
        });
        match names {
            Ok(names) => {
                let mut list = Vec::new();
                for name in names {
                    list.extend_from_slice(name.as_bytes());
                    list.push(0);
                }
                give(reply, size, &list);
            }
            Err(errno) => reply.error(Errno::from_i32(errno)),
        }
    }

    fn lseek(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        const SEEK_DATA: i32 = 3;
        const SEEK_HOLE: i32 = 4;
        let Ok(from) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        let file = match self.file(ino) {
            Ok(file) => file,
            Err(errno) => return reply.error(Errno::from_i32(errno)),
        };
        let found = match (file, whence) {
            (Some(file), SEEK_DATA | SEEK_HOLE) => file.seek_extent(from, whence == SEEK_DATA),
            (None, SEEK_DATA | SEEK_HOLE) => Ok(None),
            _ => return reply.error(Errno::EINVAL),
        };
        match found {
            Ok(Some(at)) => match i64::try_from(at) {
                Ok(at) => reply.offset(at),
                Err(_) => reply.error(Errno::EOVERFLOW),
            },
            Ok(None) => reply.error(Errno::ENXIO),
            Err(error) => reply.error(Errno::from_i32(error.errno())),
        }
    }
}

/// An attribute's value or the list of names: its length when that is what was asked for.
fn give(reply: ReplyXattr, size: u32, bytes: &[u8]) {
    match (size, u32::try_from(bytes.len())) {
        (0, Ok(len)) => reply.size(len),
        (_, Ok(len)) if len <= size => reply.data(bytes),
        _ => reply.error(Errno::ERANGE),
    }
}

fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::Regular => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Block => FileType::BlockDevice,
        Kind::Character => FileType::CharDevice,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
    }
}

fn generation(found: &Attributes) -> Generation {
    Generation(found.inode.generation.into())
}

/// In replies that make a node known, `ino` is what the kernel will call it; in others, what programs are shown.
fn attr(found: &Attributes, ino: u64) -> FileAttr {
    let inode = &found.inode;
    let times = Metadata::from(*inode);
    let (major, minor) = inode.device;
    FileAttr {
        ino: INodeNo(ino),
        size: inode.size,
        blocks: inode.blocks512.into(),
        atime: times.accessed(),
        mtime: times.modified(),
        ctime: times.changed(),
        crtime: times.created(),
        kind: file_type(inode.kind),
        perm: inode.permissions,
        nlink: inode.links.into(),
        uid: inode.uid,
        gid: inode.gid,
        // Linux's encoding of a device in 32 bits.
        rdev: minor & 0xff | major << 8 | (minor & 0xf_ff00) << 12,
        blksize: 4096,
        flags: 0,
    }
}

/// The attributes of a name that does not exist: none of them is looked at.
const NOTHING: FileAttr = FileAttr {
    ino: INodeNo(0),
    size: 0,
    blocks: 0,
    atime: UNIX_EPOCH,
    mtime: UNIX_EPOCH,
    ctime: UNIX_EPOCH,
    crtime: UNIX_EPOCH,
    kind: FileType::RegularFile,
    perm: 0,
    nlink: 0,
    uid: 0,
    gid: 0,
    rdev: 0,
    blksize: 0,
    flags: 0,
};
