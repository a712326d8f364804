//! The server of a volume that cannot change.
//!
//! What the kernel may keep: everything. Entries, also those that do not exist, and attributes get the longest time to live;
//! directories and symbolic links are cached. What is read of files is kept within a limit: see [`crate::reads`].

use super::{
    WANTED, agree, reply_attr, reply_entries, reply_entries_plus, reply_entry, reply_link, reply_read, reply_seek,
    reply_server, reply_statfs, reply_xattr, reply_xattrs, seek_asked,
};
use crate::reads::{Reads, tell};
use crate::session::SERVER;
use crate::tree::Tree;
use fuser::{
    Errno, FileHandle, Filesystem, INodeNo, KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use xip::File;

pub(super) struct Server {
    pub(super) tree: Tree,
    pub(super) read_ahead: u32,
    pub(super) reads: Arc<Reads>,
    /// The thread that clears the page cache; it ends with this.
    pub(super) clearing: SyncSender<()>,
    pub(super) name: Option<String>,
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
        agree(config, WANTED, self.read_ahead);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        tracing::trace!(parent = parent.0, ?name, "lookup");
        reply_entry(reply, self.tree.lookup(parent.0, name));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        tracing::trace!(ino = ino.0, "getattr");
        reply_attr(reply, self.tree.attributes(ino.0));
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        tracing::trace!(ino = ino.0, "readlink");
        let target = self.tree.inode_no(ino.0).and_then(|number| {
            let number = number.ok_or(rustix::io::Errno::INVAL.raw_os_error())?;
            self.tree.volume.inodes().read_link(number).map_err(|error| error.errno())
        });
        reply_link(reply, target);
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
        match file.as_slice(offset, len) {
            Some(bytes) => reply.data(bytes),
            None => reply_read(reply, len, |to| file.read_at(to, offset).map_err(|error| error.errno())),
        }
        if self.reads.note(ino.0, file, offset, len) {
            tell(&self.clearing);
        }
    }

    /// Not needed: the kernel then opens directories, cached, without asking again.
    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, reply: ReplyDirectory) {
        tracing::trace!(ino = ino.0, offset, "readdir");
        reply_entries(reply, |add| {
            self.tree.read_dir(ino.0, offset, &mut |entry| {
                // The kernel wants a type; programs that care ask the inode when the directory does not know.
                let kind = match entry.kind {
                    Some(kind) => kind,
                    None => self.tree.attributes(entry.id)?.inode.kind,
                };
                Ok(add(&entry, kind))
            })
        });
    }

    fn readdirplus(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, reply: ReplyDirectoryPlus) {
        tracing::trace!(ino = ino.0, offset, "readdirplus");
        reply_entries_plus(reply, |add| {
            self.tree
                .read_dir(ino.0, offset, &mut |entry| Ok(add(&self.tree.attributes(entry.id)?, entry.name, entry.next)))
        });
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply_statfs(reply, &self.tree.volume);
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        tracing::trace!(ino = ino.0, ?name, "getxattr");
        if name == SERVER {
            return reply_server(reply, size, ino, self.name.as_ref());
        }
        let value = self.tree.inode_no(ino.0).and_then(|number| match number {
            Some(number) => self.tree.volume.inodes().xattr(number, name.as_bytes()).map_err(|error| error.errno()),
            None => Ok(None),
        });
        reply_xattr(reply, size, value);
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        tracing::trace!(ino = ino.0, "listxattr");
        let names = self.tree.inode_no(ino.0).and_then(|number| match number {
            Some(number) => self.tree.volume.inodes().xattrs(number).map_err(|error| error.errno()),
            None => Ok(Vec::new()),
        });
        reply_xattrs(reply, size, names);
    }

    fn lseek(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let (from, data) = match seek_asked(offset, whence) {
            Ok(asked) => asked,
            Err(errno) => return reply.error(errno),
        };
        let found = match self.file(ino) {
            Ok(Some(file)) => file.seek_extent(from, data).map_err(|error| error.errno()),
            Ok(None) => Ok(None),
            Err(errno) => Err(errno),
        };
        reply_seek(reply, found);
    }
}
