//! The server of a volume that is written.
//!
//! What the kernel may keep: entries, also those that do not exist, attributes, links, directories and pages, all for ever.
//! Everything that changes passes through it, and it knows what its requests change.
//!
//! What it may not keep back: writes. They are in the image when the call returns, so that only who maps a file
//! has to ask (`msync`, `fsync`) for what the death of this program must not take. A write-back cache would be a second one
//! besides the image's own, with the times and the lack of space of a file known too late.

use super::{
    WANTED, agree, reply_attr, reply_entries, reply_entries_plus, reply_entry, reply_link, reply_read, reply_seek,
    reply_server, reply_statfs, reply_xattr, reply_xattrs, seek_asked,
};
use crate::live::{Caller, Live, New, Set, Space};
use crate::session::SERVER;
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, INodeNo, InitFlags, KernelConfig, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};
use xip::{Kind, NewKind, Rename, SetAttributes, Timestamp};

pub(super) struct Server {
    pub(super) live: Live,
    pub(super) read_ahead: u32,
    pub(super) name: Option<String>,
}

fn caller(request: &Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid() }
}

fn reply_done(reply: ReplyEmpty, done: Result<(), i32>) {
    match done {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(Errno::from_i32(errno)),
    }
}

/// One request is at most 16 MiB.
fn reply_written(reply: ReplyWrite, written: Result<usize, i32>) {
    match written {
        Ok(count) => reply.written(u32::try_from(count).unwrap_or(u32::MAX)),
        Err(errno) => reply.error(Errno::from_i32(errno)),
    }
}

/// The time that was asked for. Before 1970 `fuser` takes the nanoseconds for a part of the seconds before; the kernel counts
/// them forward.
fn timestamp(time: TimeOrNow) -> Timestamp {
    let time = match time {
        // By the clock of all other times: what is made after it is not to be older.
        TimeOrNow::Now => return xip::now(),
        TimeOrNow::SpecificTime(time) => time,
    };
    let seconds = |whole: u64| i64::try_from(whole).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => Timestamp { seconds: seconds(after.as_secs()), nanoseconds: after.subsec_nanos() },
        Err(before) => {
            let before = before.duration();
            Timestamp { seconds: -seconds(before.as_secs()), nanoseconds: before.subsec_nanos() }
        }
    }
}

/// What `mknod` is to make.
fn kind_of(mode: u32, device: u32) -> Option<NewKind<'static>> {
    // Linux's encoding of a device in 32 bits.
    let (major, minor) = (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xf_ff00);
    // The upper 4 of 16 bits.
    Some(match Kind::from_mode((mode & 0o170_000) as u16)? {
        Kind::Regular => NewKind::Regular,
        Kind::Fifo => NewKind::Fifo,
        Kind::Socket => NewKind::Socket,
        Kind::Block => NewKind::Block(major, minor),
        Kind::Character => NewKind::Character(major, minor),
        Kind::Directory | Kind::Symlink => return None,
    })
}

impl Filesystem for Server {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // The umask does not count where a default ACL does. And set-id bits are dropped here when bytes change: the kernel would
        // ask for an attribute before each write.
        let wanted = WANTED | InitFlags::FUSE_DONT_MASK | InitFlags::FUSE_HANDLE_KILLPRIV_V2;
        agree(config, wanted, self.read_ahead);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        tracing::trace!(parent = parent.0, ?name, "lookup");
        reply_entry(reply, self.live.lookup(parent.0, name.as_bytes()));
    }

    fn forget(&self, _: &Request, ino: INodeNo, times: u64) {
        tracing::trace!(ino = ino.0, times, "forget");
        self.live.forget(ino.0, times);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        tracing::trace!(ino = ino.0, "getattr");
        reply_attr(reply, self.live.attributes(ino.0));
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        tracing::trace!(ino = ino.0, ?mode, ?uid, ?gid, ?size, ?atime, ?mtime, "setattr");
        let change = SetAttributes {
            // The lower 12 bits fit.
            permissions: mode.map(|mode| (mode & 0o7777) as u16),
            atime: atime.map(timestamp),
            mtime: mtime.map(timestamp),
            ..SetAttributes::default()
        };
        reply_attr(reply, self.live.set_attributes(ino.0, size, (uid, gid), &change, caller(request)));
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        tracing::trace!(ino = ino.0, "readlink");
        reply_link(reply, self.live.read_link(ino.0));
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        device: u32,
        reply: ReplyEntry,
    ) {
        tracing::trace!(parent = parent.0, ?name, mode, "mknod");
        let Some(kind) = kind_of(mode, device) else { return reply.error(Errno::EINVAL) };
        let new = New { kind, mode, umask, caller: caller(request) };
        reply_entry(reply, self.live.make(parent.0, name.as_bytes(), &new).map(Some));
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        tracing::trace!(parent = parent.0, ?name, mode, "mkdir");
        let new = New { kind: NewKind::Directory, mode, umask, caller: caller(request) };
        reply_entry(reply, self.live.make(parent.0, name.as_bytes(), &new).map(Some));
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        tracing::trace!(parent = parent.0, ?name, ?target, "symlink");
        let kind = NewKind::Symlink(target.as_os_str().as_bytes());
        let new = New { kind, mode: 0o777, umask: 0, caller: caller(request) };
        reply_entry(reply, self.live.make(parent.0, name.as_bytes(), &new).map(Some));
    }

    fn link(&self, _: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        tracing::trace!(ino = ino.0, parent = parent.0, ?name, "link");
        reply_entry(reply, self.live.link(ino.0, parent.0, name.as_bytes()).map(Some));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        tracing::trace!(parent = parent.0, ?name, "unlink");
        reply_done(reply, self.live.unlink(parent.0, name.as_bytes()));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        tracing::trace!(parent = parent.0, ?name, "rmdir");
        reply_done(reply, self.live.rmdir(parent.0, name.as_bytes()));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        tracing::trace!(parent = parent.0, ?name, new_parent = new_parent.0, ?new_name, %flags, "rename");
        let how = match flags {
            _ if flags.is_empty() => Rename::Replace,
            RenameFlags::RENAME_NOREPLACE => Rename::NoReplace,
            RenameFlags::RENAME_EXCHANGE => Rename::Exchange,
            _ => return reply.error(Errno::EINVAL),
        };
        let (from, to) = ((parent.0, name.as_bytes()), (new_parent.0, new_name.as_bytes()));
        reply_done(reply, self.live.rename(from, to, how));
    }

    /// Not needed: files are known by their numbers as long as they are open, and the kernel asks by `mknod` for new ones.
    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    /// As [`Server::open`].
    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn create(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: i32, reply: fuser::ReplyCreate) {
        reply.error(Errno::ENOSYS);
    }

    /// Not needed: nothing is kept back here that a close would have to give out.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
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
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        reply_read(reply, size, |to| self.live.read(ino.0, to, offset));
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        bytes: &[u8],
        flags: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        tracing::trace!(ino = ino.0, offset, len = bytes.len(), ?flags, "write");
        let keep_set_id = !flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        reply_written(reply, self.live.write(ino.0, bytes, offset, keep_set_id));
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        tracing::trace!(ino = ino.0, "fsync");
        reply_done(reply, self.live.sync(ino.0));
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        tracing::trace!(ino = ino.0, "fsyncdir");
        reply_done(reply, self.live.sync(ino.0));
    }

    fn fallocate(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, len: u64, mode: i32, reply: ReplyEmpty) {
        const KEEP_SIZE: i32 = 0x01;
        const PUNCH_HOLE: i32 = 0x02;
        const ZERO_RANGE: i32 = 0x10;
        tracing::trace!(ino = ino.0, offset, len, mode, "fallocate");
        let keep_size = mode & KEEP_SIZE != 0;
        let what = match mode & !KEEP_SIZE {
            0 => Space::Allocate,
            PUNCH_HOLE if keep_size => Space::Punch,
            ZERO_RANGE => Space::Zero,
            _ => return reply.error(Errno::EOPNOTSUPP),
        };
        reply_done(reply, self.live.space(ino.0, (offset, len), what, keep_size));
    }

    fn lseek(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        tracing::trace!(ino = ino.0, offset, whence, "lseek");
        match seek_asked(offset, whence) {
            Ok((from, data)) => reply_seek(reply, self.live.seek(ino.0, from, data)),
            Err(errno) => reply.error(errno),
        }
    }

    fn copy_file_range(
        &self,
        _: &Request,
        from: INodeNo,
        _: FileHandle,
        from_offset: u64,
        to: INodeNo,
        _: FileHandle,
        to_offset: u64,
        len: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        tracing::trace!(from = from.0, from_offset, to = to.0, to_offset, len, "copy_file_range");
        reply_written(reply, self.live.copy((from.0, from_offset), (to.0, to_offset), len));
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, reply: ReplyDirectory) {
        tracing::trace!(ino = ino.0, offset, "readdir");
        reply_entries(reply, |add| {
            self.live.read_dir(ino.0, offset, &mut |entry| add(&entry, entry.kind.unwrap_or(Kind::Regular)))
        });
    }

    fn readdirplus(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, reply: ReplyDirectoryPlus) {
        tracing::trace!(ino = ino.0, offset, "readdirplus");
        reply_entries_plus(reply, |add| {
            self.live.read_dir_plus(ino.0, offset, &mut |found, name, next| add(found, OsStr::from_bytes(name), next))
        });
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply_statfs(reply, &self.live.volume);
    }

    fn setxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        tracing::trace!(ino = ino.0, ?name, flags, "setxattr");
        if name == SERVER {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let how = match flags {
            0 => Set::Any,
            1 => Set::Create,
            2 => Set::Replace,
            _ => return reply.error(Errno::EINVAL),
        };
        reply_done(reply, self.live.set_xattr(ino.0, name.as_bytes(), value, how, caller(request)));
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        tracing::trace!(ino = ino.0, ?name, "getxattr");
        if name == SERVER {
            return reply_server(reply, size, ino, self.name.as_ref());
        }
        reply_xattr(reply, size, self.live.xattr(ino.0, name.as_bytes()));
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        tracing::trace!(ino = ino.0, "listxattr");
        reply_xattrs(reply, size, self.live.xattrs(ino.0));
    }

    fn removexattr(&self, _: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        tracing::trace!(ino = ino.0, ?name, "removexattr");
        reply_done(reply, self.live.remove_xattr(ino.0, name.as_bytes()));
    }
}
