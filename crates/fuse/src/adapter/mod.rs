//! The only place that knows `fuser`: requests in, calls on the tree and the volume, replies out. The crate changes its
//! interface with every release, so its version is pinned and its names end here.
//!
//! Two servers: [`frozen`] for a volume that cannot change, [`live`] for one that is written. What they have in common,
//! starting and replying, is here. Neither is asked to open files or directories: the kernel knows all that opening
//! would tell it.

mod frozen;
mod live;

use crate::error::Error;
use crate::live::Live;
use crate::reads::Reads;
use crate::session::ServeOptions;
use crate::tree::{Attributes, Entry, Tree};
use fuser::{
    Config, Errno, FileAttr, FileType, Filesystem, Generation, INodeNo, InitFlags, KernelConfig, ReplyAttr, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEntry, ReplyLseek, ReplyStatfs, ReplyXattr, Session, SessionACL,
};
use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::{self, JoinHandle};
use std::time::{Duration, UNIX_EPOCH};
use xip::{Kind, Metadata, Volume};

/// For ever: the kernel saturates it.
const TTL: Duration = Duration::MAX;

/// The most that the kernel asks for in one read is 1 MiB; a buffer this large is kept by each thread that needs one.
const MOST_KEPT: usize = 1 << 20;

thread_local! {
    /// For bytes that cannot be sent from where they are.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The thread that has those which answer the kernel. Besides, only the thread that clears the page cache has the descriptor: should
/// they all end, whoever waits for an answer gets an error and does not wait for ever.
#[derive(Debug)]
pub(crate) struct Serving {
    thread: JoinHandle<io::Result<()>>,
    /// Only of a volume that cannot change.
    reads: Option<Arc<Reads>>,
}

impl Serving {
    pub(crate) fn wait(self) -> Result<(), Error> {
        let ended = self.thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread that served it panicked")));
        ended.map_err(Error::Served)
    }

    pub(crate) fn lift_limit(&self) {
        if let Some(reads) = &self.reads {
            reads.lift_limit();
        }
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }
}

/// Serves a volume that cannot change.
pub(crate) fn serve_frozen(device: OwnedFd, tree: Tree, options: &ServeOptions) -> Result<Serving, Error> {
    let reads = Arc::new(Reads::new(options.page_cache_limit));
    let (clearing, told) = sync_channel(1);
    let name = options.server.clone();
    let server = frozen::Server { tree, read_ahead: options.read_ahead, reads: reads.clone(), clearing, name };
    let session = session(server, device, options)?;
    let (kernel, of_clearing) = (session.notifier(), reads.clone());
    thread::Builder::new()
        .name("xip-clear".into())
        .spawn(move || of_clearing.clear_when_told(&kernel, &told))
        .map_err(Error::Handshake)?;
    run(session, Some(reads))
}

/// Serves a volume that is written.
pub(crate) fn serve_live(device: OwnedFd, live: Live, options: &ServeOptions) -> Result<Serving, Error> {
    run(
        session(live::Server { live, read_ahead: options.read_ahead, name: options.server.clone() }, device, options)?,
        None,
    )
}

fn session<F: Filesystem>(server: F, device: OwnedFd, options: &ServeOptions) -> Result<Session<F>, Error> {
    let mut config = Config::default();
    config.n_threads = Some(options.threads.max(1));
    // Who may come in is decided by the mount (`allow_other`) and by the permissions that the kernel checks.
    Session::from_fd(server, device, SessionACL::All, config).map_err(Error::Handshake)
}

fn run<F: Filesystem>(session: Session<F>, reads: Option<Arc<Reads>>) -> Result<Serving, Error> {
    let thread =
        thread::Builder::new().name("xip-fuse".into()).spawn(move || session.run()).map_err(Error::Handshake)?;
    Ok(Serving { thread, reads })
}

/// What both servers want of the kernel: to list with attributes, to look up in parallel, to keep links and data until it is
/// told otherwise, to open without asking, and to know ACLs.
const WANTED: InitFlags = InitFlags::FUSE_DO_READDIRPLUS
    .union(InitFlags::FUSE_READDIRPLUS_AUTO)
    .union(InitFlags::FUSE_PARALLEL_DIROPS)
    .union(InitFlags::FUSE_ASYNC_DIO)
    .union(InitFlags::FUSE_CACHE_SYMLINKS)
    .union(InitFlags::FUSE_NO_OPEN_SUPPORT)
    .union(InitFlags::FUSE_NO_OPENDIR_SUPPORT)
    .union(InitFlags::FUSE_EXPLICIT_INVAL_DATA)
    .union(InitFlags::FUSE_POSIX_ACL);

fn agree(config: &mut KernelConfig, wanted: InitFlags, read_ahead: u32) {
    // Of what is offered nothing can be refused; the largest value that can be had is right for the others.
    let _ = config.add_capabilities(wanted & config.capabilities());
    if let Err(most) = config.set_max_readahead(read_ahead.max(1)) {
        let _ = config.set_max_readahead(most);
    }
    let _ = config.set_max_background(64);
}

fn reply_entry(reply: ReplyEntry, found: Result<Option<Attributes>, i32>) {
    match found {
        Ok(Some(found)) => reply.entry(&TTL, &attr(&found, found.id), generation(&found)),
        // Node 0: the kernel remembers that there is no such name.
        Ok(None) => reply.entry(&TTL, &NOTHING, Generation(0)),
        Err(errno) => reply.error(Errno::from_i32(errno)),
    }
}

fn reply_attr(reply: ReplyAttr, found: Result<Attributes, i32>) {
    match found {
        Ok(found) => reply.attr(&TTL, &attr(&found, found.ino)),
        Err(errno) => reply.error(Errno::from_i32(errno)),
    }
}

/// Entries of a directory: those that `list` adds, which ends when there is no more room.
fn reply_entries(
    mut reply: ReplyDirectory,
    list: impl FnOnce(&mut dyn FnMut(&Entry<'_>, Kind) -> bool) -> Result<(), i32>,
) {
    match list(&mut |entry, kind| !reply.add(INodeNo(entry.ino), entry.next, file_type(kind), entry.name)) {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(Errno::from_i32(errno)),
    }
}

/// As [`reply_entries`], with what is known of each: attributes, name, and where the next one is.
fn reply_entries_plus(
    mut reply: ReplyDirectoryPlus,
    list: impl FnOnce(&mut dyn FnMut(&Attributes, &OsStr, u64) -> bool) -> Result<(), i32>,
) {
    let listed = list(&mut |found, name, next| {
        // The kernel makes nodes of all but the dots, which are only shown.
        let dots = name == "." || name == "..";
        let attr = attr(found, if dots { found.ino } else { found.id });
        !reply.add(attr.ino, next, name, &TTL, &attr, generation(found))
    });
    match listed {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(Errno::from_i32(errno)),
    }
}

fn reply_link(reply: ReplyData, target: Result<OsString, i32>) {
    match target {
        Ok(target) => reply.data(target.as_bytes()),
        Err(errno) => reply.error(Errno::from_i32(errno)),
    }
}

/// What `read` puts into a buffer of `len` bytes.
fn reply_read(reply: ReplyData, len: usize, read: impl FnOnce(&mut [u8]) -> Result<usize, i32>) {
    BUFFER.with_borrow_mut(|buffer| {
        buffer.resize(buffer.len().max(len), 0);
        match read(&mut buffer[..len]) {
            Ok(count) => reply.data(&buffer[..count]),
            Err(errno) => reply.error(Errno::from_i32(errno)),
        }
        if buffer.len() > MOST_KEPT {
            *buffer = Vec::new();
        }
    });
}

fn reply_statfs(reply: ReplyStatfs, volume: &Volume) {
    match volume.statfs() {
        Ok(figures) => {
            let (free, size) = (figures.free_blocks.into(), figures.block_size);
            let (inodes, free_inodes) = (figures.inodes.into(), figures.free_inodes.into());
            reply.statfs(figures.blocks.into(), free, free, inodes, free_inodes, size, 255, size);
        }
        Err(error) => reply.error(Errno::from_i32(error.errno())),
    }
}

/// [`SERVER`](crate::SERVER) of a file: the root directory alone has it, whatever the volume may have under this name.
fn reply_server(reply: ReplyXattr, size: u32, ino: INodeNo, ours: Option<&String>) {
    let ours = ours.filter(|_| ino == INodeNo::ROOT);
    reply_xattr(reply, size, Ok(ours.map(|ours| ours.clone().into_bytes())));
}

fn reply_xattr(reply: ReplyXattr, size: u32, value: Result<Option<Vec<u8>>, i32>) {
    match value {
        Ok(Some(value)) => give(reply, size, &value),
        Ok(None) => reply.error(Errno::ENODATA),
        Err(errno) => reply.error(Errno::from_i32(errno)),
    }
}

fn reply_xattrs(reply: ReplyXattr, size: u32, names: Result<Vec<OsString>, i32>) {
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

/// An attribute's value or the list of names: its length when that is what was asked for.
fn give(reply: ReplyXattr, size: u32, bytes: &[u8]) {
    match (size, u32::try_from(bytes.len())) {
        (0, Ok(len)) => reply.size(len),
        (_, Ok(len)) if len <= size => reply.data(bytes),
        _ => reply.error(Errno::ERANGE),
    }
}

/// What `lseek` asks: from where, and whether for data or for a hole.
fn seek_asked(offset: i64, whence: i32) -> Result<(u64, bool), Errno> {
    const SEEK_DATA: i32 = 3;
    const SEEK_HOLE: i32 = 4;
    match (u64::try_from(offset), whence) {
        (Ok(from), SEEK_DATA | SEEK_HOLE) => Ok((from, whence == SEEK_DATA)),
        (Err(_), SEEK_DATA | SEEK_HOLE) => Err(Errno::ENXIO),
        _ => Err(Errno::EINVAL),
    }
}

fn reply_seek(reply: ReplyLseek, found: Result<Option<u64>, i32>) {
    match found {
        Ok(Some(at)) => match i64::try_from(at) {
            Ok(at) => reply.offset(at),
            Err(_) => reply.error(Errno::EOVERFLOW),
        },
        Ok(None) => reply.error(Errno::ENXIO),
        Err(errno) => reply.error(Errno::from_i32(errno)),
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
