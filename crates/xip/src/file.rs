//! A file, in the feel of `std::fs::File`, and what only a file in place has: its bytes where they are.
//!
//! One type for volumes that cannot change and those that can. Of the former a file keeps what it has found, and reads
//! without a lock; of the latter it keeps nothing.

use crate::change;
use crate::env::Threads;
use crate::error::{Error, Result};
use crate::extents::{Kept, Placed, Runs, add};
use crate::metadata::Metadata;
use crate::opens::Held;
use crate::send;
use crate::storage::Backing;
use crate::volume::{Fs, Volume};
use std::ffi::{OsStr, OsString};
use std::io::{self, IoSlice, IoSliceMut, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;
use xip_core::ops::Writer;
use xip_core::page::PAGE_BYTES;
use xip_core::{Cached, Create, Device, Extent, Host, InPlace, Mapping, PAGE_SIZE, PageIndex, Pages, ops};
use xip_ext2::{Inode, InodeNo, Kind, SetAttributes};

pub use xip_core::mapping::Piece;

/// A regular file, opened: by [`Volume::file`] to be read, by [`OpenOptions`](crate::OpenOptions) otherwise. All methods take
/// `&self`: threads share a file, and each call is one operation. Reads do not wait for each other; a write is seen wholly or not at
/// all.
///
/// In place or cached, decided when it is opened ([`File::in_place`]). A file in place is read and written where it is stored:
/// no page of it is copied to a cache first, and [`File::layout`], [`File::piece`], [`File::as_slice`] show the
/// storage itself.
///
/// It stays what it is when its names go, and its storage is given back with its last close.
#[derive(Debug)]
pub struct File {
    volume: Volume,
    /// As it was when the file was opened. On a volume that can be written the size and all else may have changed.
    inode: Inode,
    in_place: bool,
    /// Found at the first read, so that to open a file only to look at it costs nothing. Never on a volume that can be
    /// written.
    runs: OnceLock<Runs>,
    access: Access,
    how: Writer,
    /// Held while what moves it is under way, as the kernel does.
    position: Mutex<u64>,
    /// Only on a volume that can be written.
    _held: Option<Held>,
}

/// What a file was opened for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    pub(crate) read: bool,
    pub(crate) write: bool,
}

type Blocks<'f> = xip_ext2::Blocks<'f, Backing, Threads>;

/// A file for the operations of `xip-core`, in one of three ways.
enum Opened<'f> {
    /// In place, where nothing changes: its block map is kept.
    Kept(InPlace<Kept<'f>>),
    /// In place.
    InPlace(InPlace<Blocks<'f>>),
    /// By copies.
    Cached(Cached<Blocks<'f>>),
}

/// The same operation on whichever it is.
macro_rules! on {
    ($opened:expr, $file:ident => $call:expr) => {
        match $opened {
            Opened::Kept($file) => $call,
            Opened::InPlace($file) => $call,
            Opened::Cached($file) => $call,
        }
    };
}

impl File {
    #[inline]
    pub(crate) fn open(volume: &Volume, ino: InodeNo) -> std::result::Result<Self, xip_ext2::Error> {
        Self::open_as(volume, ino, Access { read: true, write: false }, Writer::default())
    }

    pub(crate) fn open_as(
        volume: &Volume,
        ino: InodeNo,
        access: Access,
        how: Writer,
    ) -> std::result::Result<Self, xip_ext2::Error> {
        let held = volume.is_writable().then(|| volume.hold(ino));
        let inode = volume.0.fs.inode(ino)?;
        match inode.kind {
            Kind::Regular => {}
            Kind::Directory => return Err(xip_ext2::Error::IsDirectory),
            _ => return Err(xip_ext2::Error::WrongKind),
        }
        Ok(Self {
            volume: volume.clone(),
            inode,
            in_place: volume.0.in_place,
            runs: OnceLock::new(),
            access,
            how,
            position: Mutex::new(0),
            _held: held,
        })
    }

    /// What is known of the file.
    ///
    /// # Errors
    /// The inode is damaged; the device's.
    pub fn metadata(&self) -> Result<Metadata> {
        Ok(Metadata(self.now()?))
    }

    /// Size in bytes.
    #[allow(clippy::len_without_is_empty)] // As in std: a file is not a collection.
    pub fn len(&self) -> u64 {
        // Where it cannot be read any more, what it was.
        self.now().unwrap_or(self.inode).size
    }

    /// Its number.
    pub fn ino(&self) -> InodeNo {
        self.inode.number
    }

    /// The inode as it is now.
    #[inline]
    fn now(&self) -> std::result::Result<Inode, xip_ext2::Error> {
        if self.volume.is_writable() { self.fs().inode(self.inode.number) } else { Ok(self.inode) }
    }

    /// The volume it is on.
    pub fn volume(&self) -> &Volume {
        &self.volume
    }

    /// Whether it is used in place. When not, [`Volume::in_place`] says why.
    pub fn in_place(&self) -> bool {
        self.in_place
    }

    /// Reads at `offset`; how many bytes: 0 at or past the end, else as many as there are up to `to.len()`.
    ///
    /// # Errors
    /// The volume is damaged where the bytes should be, or its device fails.
    #[inline]
    pub fn read_at(&self, to: &mut [u8], offset: u64) -> Result<usize> {
        match self.read_in_one(to, offset) {
            Some(()) => Ok(to.len()),
            None => self.read_pieces(to, offset),
        }
    }

    /// Fills `to` from `offset` on.
    ///
    /// # Errors
    /// As [`File::read_at`]; the file ends before.
    #[inline]
    pub fn read_exact_at(&self, to: &mut [u8], offset: u64) -> Result<()> {
        match self.read_in_one(to, offset) {
            Some(()) => Ok(()),
            None => self.read_exact_pieces(to, offset),
        }
    }

    /// The usual read, all of `to` in one copy; `None`, with nothing done, where it is not that.
    ///
    /// It stands apart so that next to nothing is saved on the stack on its way. Measured: twenty stores beside those
    /// of the copy make a read of 4 KiB at random 10 % slower. While the processor waits for memory its stores wait
    /// too, and it begins the next read only as long as there is room for more of them.
    #[inline]
    fn read_in_one(&self, to: &mut [u8], offset: u64) -> Option<()> {
        if offset.checked_add(to.len() as u64)? > self.inode.size {
            return None;
        }
        let (within, want) = span(offset, to.len());
        // Runs are known only of a file in place, on a volume that cannot change: no lock, no size to sample, no atime, and
        // opened to be read.
        let first = self.runs.get()?.in_one(PageIndex::of(offset).0, want)?;
        let region = xip_core::Device::direct_access(self.volume.0.fs.device(), first, want).ok()?;
        region.part(within, to.len())?.read(0, to);
        Some(())
    }

    #[inline(never)]
    fn read_pieces(&self, to: &mut [u8], offset: u64) -> Result<usize> {
        self.check_read()?;
        Ok(on!(self.opened()?, file => ops::read(&file, offset, to))?)
    }

    #[inline(never)]
    fn read_exact_pieces(&self, to: &mut [u8], offset: u64) -> Result<()> {
        let mut done = 0;
        while done < to.len() {
            match self.read_pieces(&mut to[done..], offset.saturating_add(done as u64))? {
                0 => return Err(Error::Io(io::ErrorKind::UnexpectedEof.into())),
                count => done += count,
            }
        }
        Ok(())
    }

    /// Reads at `offset` into one buffer after the other, as one operation.
    ///
    /// # Errors
    /// As [`File::read_at`]; `EINVAL` for more than 1024 buffers.
    pub fn readv_at(&self, to: &mut [&mut [u8]], offset: u64) -> Result<usize> {
        self.check_read()?;
        Ok(on!(self.opened()?, file => ops::readv(&file, offset, to))?)
    }

    /// Sends `[offset, offset + count)`, as far as the file goes, to a socket, pipe or file; how many bytes it took. Writers
    /// of this file wait meanwhile; what is sent to is not to be waiting for one of them.
    /// From the storage itself, without a buffer of ours, where the file is in place and its storage is sealed or
    /// has a descriptor.
    ///
    /// # Errors
    /// As [`File::read_at`], and those of the other end, when nothing was sent.
    pub fn sendfile(&self, to: impl AsFd, offset: u64, count: usize) -> Result<usize> {
        let to = to.as_fd();
        self.check_read()?;
        let mut failure = None;
        let sink = |piece: Piece<'_>| {
            send::piece(self.fs().device(), to, piece).map_err(|error| {
                let errno = error.raw_os_error().unwrap_or(xip_core::error::errno::EIO);
                failure = Some(error);
                xip_core::Error::Io { errno }.into()
            })
        };
        let sent = match self.opened()? {
            Opened::Kept(file) => ops::sendfile(&file, offset, count, sink),
            Opened::InPlace(file) => ops::sendfile(&file, offset, count, sink),
            Opened::Cached(_) => return send::copied(self, to, offset, count),
        };
        sent.map_err(|error| failure.map_or(Error::Volume(error), Error::Io))
    }

    /// All bytes.
    ///
    /// # Errors
    /// As [`File::read_at`]; no memory for as many.
    pub fn read_all(&self) -> std::result::Result<Vec<u8>, xip_ext2::Error> {
        let too_large = xip_ext2::Error::Device(xip_core::Error::TooLarge);
        let len = usize::try_from(self.now()?.size).map_err(|_| too_large)?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| too_large)?;
        bytes.resize(len, 0);
        let mut done = 0;
        while done < len {
            let count = on!(self.opened()?, file => ops::read(&file, done as u64, &mut bytes[done..]))?;
            if count == 0 {
                break;
            }
            done += count;
        }
        bytes.truncate(done);
        Ok(bytes)
    }

    /// The storage at `offset`, as much as is one stretch and at most `len` bytes, or how many bytes are a hole; `None`
    /// at or past the end. Never a byte beyond the end of the file.
    ///
    /// # Errors
    /// The file is not in place, with the reason; the volume is damaged. `EOPNOTSUPP` on a volume that can be written: its
    /// storage may become another file's.
    pub fn piece(&self, offset: u64, len: usize) -> Result<Option<Piece<'_>>> {
        self.check_in_place()?;
        if self.volume.is_writable() {
            let what = "storage of a volume that can be written is not lent, as it may become another file's; read it";
            return Err(xip_ext2::Error::Unsupported(what).into());
        }
        let left = self.inode.size.saturating_sub(offset);
        let len = len.min(usize::try_from(left).unwrap_or(usize::MAX));
        if len == 0 {
            return Ok(None);
        }
        let (within, want) = span(offset, len);
        Ok(Some(match self.mapping().get_xip_pages(PageIndex::of(offset), want, Create::No)? {
            Extent::Storage(run) => {
                let region =
                    xip_core::Device::direct_access(self.volume.0.fs.device(), run.first, run.count.min(want))?;
                let len = len.min(region.len().saturating_sub(within));
                let lost = xip_core::Error::Lost { index: PageIndex::of(offset) };
                Piece::Storage(region.part(within, len).ok_or(lost)?)
            }
            Extent::Hole(pages) => {
                let bytes = pages.saturating_mul(PAGE_BYTES) - within as u64;
                Piece::Hole(usize::try_from(bytes).unwrap_or(usize::MAX).min(len))
            }
        }))
    }

    /// The bytes `[offset, offset + len)` where they are, when they are one stretch of sealed storage inside the file.
    /// Otherwise `None`: read them.
    pub fn as_slice(&self, offset: u64, len: usize) -> Option<&[u8]> {
        match self.piece(offset, len).ok()?? {
            Piece::Storage(region) if region.len() == len => region.as_sealed_slice(),
            _ => None,
        }
    }

    /// The storage of `pages` pages of the file from `first` on, as runs in the order of the file; what lies between
    /// them is holes. Pages wholly beyond the end of the file are left out. On a volume that can be written that is how it is at this
    /// moment.
    ///
    /// # Errors
    /// The file is not in place, with the reason; the volume is damaged.
    pub fn layout(&self, first: PageIndex, pages: u64) -> Result<Vec<Placed>> {
        self.check_in_place()?;
        match self.opened()? {
            Opened::Kept(file) => self.walk(&file, first, pages),
            Opened::InPlace(file) => self.walk(&file, first, pages),
            // Said by `check_in_place`.
            Opened::Cached(_) => Ok(Vec::new()),
        }
    }

    /// All of [`File::layout`], as `fiemap` shows it.
    ///
    /// # Errors
    /// As [`File::layout`].
    pub fn extents(&self) -> Result<Vec<Placed>> {
        self.layout(PageIndex(0), u64::MAX)
    }

    fn walk<M: Mapping<Error = xip_ext2::Error>>(
        &self,
        file: &InPlace<M>,
        first: PageIndex,
        pages: u64,
    ) -> Result<Vec<Placed>> {
        let _guard = file.shared();
        let mut runs = Vec::new();
        let end = first.0.saturating_add(pages).min(PageIndex::count(file.size()?).0);
        let (mut index, mut stored) = (first.0, 0);
        while index < end {
            match file.mapping().get_xip_pages(PageIndex(index), end - index, Create::No)? {
                Extent::Storage(run) => {
                    self.count(&mut stored, run.count)?;
                    add(&mut runs, Placed { index: PageIndex(index), run });
                    index += run.count.max(1);
                }
                Extent::Hole(count) => index += count.max(1),
            }
        }
        Ok(runs)
    }

    /// Whether the bytes between the end of the file and the end of its last page are zeros, as who maps that page
    /// expects (contract 3, tail rule). True where there are none.
    ///
    /// # Errors
    /// The file is not in place, with the reason; the volume is damaged.
    pub fn tail_is_zero(&self) -> Result<bool> {
        self.check_in_place()?;
        match self.opened()? {
            Opened::Kept(file) => tail_is_zero(&file),
            Opened::InPlace(file) => tail_is_zero(&file),
            Opened::Cached(_) => Ok(false),
        }
    }

    /// The first byte at or after `offset` that has storage, as `SEEK_DATA`; `None` when there is none before the end.
    ///
    /// # Errors
    /// The volume is damaged.
    pub fn seek_data(&self, offset: u64) -> Result<Option<u64>> {
        self.seek_extent(offset, true)
    }

    /// The first byte at or after `offset` that has none, as `SEEK_HOLE`: the end of the file counts as a hole. `None` at or
    /// past the end.
    ///
    /// # Errors
    /// The volume is damaged.
    pub fn seek_hole(&self, offset: u64) -> Result<Option<u64>> {
        self.seek_extent(offset, false)
    }

    /// [`File::seek_data`] (`data`) or [`File::seek_hole`] (not `data`).
    ///
    /// # Errors
    /// The volume is damaged.
    pub fn seek_extent(&self, offset: u64, data: bool) -> Result<Option<u64>> {
        on!(self.opened()?, file => self.seek_in(&file, offset, data))
    }

    fn seek_in(&self, file: &impl Pages<Error = xip_ext2::Error>, offset: u64, data: bool) -> Result<Option<u64>> {
        let _guard = file.shared();
        let size = file.size()?;
        let (mut at, mut stored) = (offset, 0);
        while at < size {
            let index = PageIndex::of(at);
            let (is_data, pages) = file.has_storage(index, PageIndex::count(size).0 - index.0)?;
            if is_data == data {
                return Ok(Some(at));
            }
            if is_data {
                self.count(&mut stored, pages)?;
            }
            at = index.0.saturating_add(pages.max(1)).saturating_mul(PAGE_BYTES);
        }
        Ok((!data && offset < size).then_some(size))
    }

    /// Bounds a walk through a file: a block belongs to one page of one file, so no file has more pages in storage than
    /// the volume has blocks.
    fn count(&self, stored: &mut u64, pages: u64) -> Result<()> {
        *stored = stored.saturating_add(pages);
        if *stored > self.volume.geometry().blocks.into() {
            let what = "more pages in storage than the volume has";
            return Err(xip_ext2::Error::Corrupt { what, inode: self.inode.number.0, at: *stored }.into());
        }
        Ok(())
    }

    /// Writes at `offset`, or at the end for a file that was opened to append; how many bytes: fewer than all when space ends.
    ///
    /// # Errors
    /// The file was not opened to be written; no space for the first byte; past the largest size of a file; the device's.
    pub fn write_at(&self, from: &[u8], offset: u64) -> Result<usize> {
        self.writev_at(&[from], offset)
    }

    /// Writes all of `from` from `offset` on.
    ///
    /// # Errors
    /// As [`File::write_at`]; then some of it may be written.
    pub fn write_all_at(&self, from: &[u8], offset: u64) -> Result<()> {
        let mut done = 0;
        while done < from.len() {
            match self.write_at(&from[done..], offset.saturating_add(done as u64))? {
                0 => return Err(Error::Io(io::ErrorKind::WriteZero.into())),
                count => done += count,
            }
        }
        Ok(())
    }

    /// Writes one buffer after the other at `offset`, as one operation: nobody sees, or writes between, a part of it.
    ///
    /// # Errors
    /// As [`File::write_at`]; `EINVAL` for more than 1024 buffers.
    pub fn writev_at(&self, from: &[&[u8]], offset: u64) -> Result<usize> {
        self.check_write()?;
        Ok(on!(self.opened()?, file => ops::writev(&file, offset, from, &self.how))?)
    }

    /// Sets the size: what is cut off is gone, what is added reads as zeros and has no storage.
    ///
    /// # Errors
    /// The file was not opened to be written; past the largest size of a file; the device's.
    pub fn set_len(&self, size: u64) -> Result<()> {
        self.check_write()?;
        Ok(self.truncate(size)?)
    }

    pub(crate) fn truncate(&self, size: u64) -> std::result::Result<(), xip_ext2::Error> {
        on!(self.opened()?, file => ops::truncate_as(&file, size, &self.how))
    }

    /// Gives storage to `[offset, offset + len)`, so that writes there cannot fail for lack of space: `fallocate`. What had none
    /// reads as zeros. The file grows to the end of it, unless `keep_size`.
    ///
    /// # Errors
    /// `EINVAL` for no bytes; no space; `EOPNOTSUPP` for storage beyond the end of a file that keeps its size, for which ext2 has
    /// no way; as [`File::set_len`].
    pub fn allocate(&self, offset: u64, len: u64, keep_size: bool) -> Result<()> {
        self.check_write()?;
        Ok(on!(self.opened()?, file => ops::fallocate(&file, offset, len, keep_size, &self.how))?)
    }

    /// Makes `[offset, offset + len)` zeros, with storage. The file grows to the end of it, unless `keep_size`.
    ///
    /// # Errors
    /// As [`File::allocate`].
    pub fn zero_range(&self, offset: u64, len: u64, keep_size: bool) -> Result<()> {
        self.check_write()?;
        Ok(on!(self.opened()?, file => ops::zero_range(&file, offset, len, keep_size, &self.how))?)
    }

    /// Makes `[offset, offset + len)` a hole, as far as the file goes: whole pages give their storage back, parts of pages
    /// become zeros.
    ///
    /// # Errors
    /// `EINVAL` for no bytes; as [`File::set_len`].
    pub fn punch_hole(&self, offset: u64, len: u64) -> Result<()> {
        self.check_write()?;
        Ok(on!(self.opened()?, file => ops::punch_hole(&file, offset, len, &self.how))?)
    }

    /// Returns when everything about the file is durable, as far as the storage can: `fsync`.
    ///
    /// # Errors
    /// The storage's.
    pub fn sync_all(&self) -> Result<()> {
        Ok(on!(self.opened()?, file => file.sync(false))?)
    }

    /// Returns when the bytes of the file are durable, and what is needed to find them: `fdatasync`.
    ///
    /// # Errors
    /// The storage's.
    pub fn sync_data(&self) -> Result<()> {
        Ok(on!(self.opened()?, file => file.sync(true))?)
    }

    /// Sets permission bits, with set-id and sticky.
    ///
    /// # Errors
    /// The volume is only read; the device's.
    pub fn set_permissions(&self, mode: u32) -> Result<()> {
        self.set_attributes(&change::permissions(mode))
    }

    /// Sets owner and group; `None` stays. Set-id bits go with that.
    ///
    /// # Errors
    /// As [`File::set_permissions`].
    pub fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        Ok(self.volume.inodes().set_owner(self.ino(), uid, gid)?)
    }

    /// Sets when it was last read and last changed; `None` stays.
    ///
    /// # Errors
    /// As [`File::set_permissions`].
    pub fn set_times(&self, accessed: Option<SystemTime>, modified: Option<SystemTime>) -> Result<()> {
        self.set_attributes(&change::times(accessed, modified))
    }

    /// Sets any attributes, all at once.
    ///
    /// # Errors
    /// As [`File::set_permissions`].
    pub fn set_attributes(&self, change: &SetAttributes) -> Result<()> {
        Ok(self.volume.inodes().set_attributes(self.ino(), change)?)
    }

    /// The extended attribute `name`, such as `user.origin`; `None` when the file has no such attribute.
    ///
    /// # Errors
    /// The attributes are damaged.
    pub fn xattr(&self, name: impl AsRef<OsStr>) -> Result<Option<Vec<u8>>> {
        Ok(self.volume.inodes().xattr(self.ino(), name.as_ref().as_bytes())?)
    }

    /// The names of the extended attributes.
    ///
    /// # Errors
    /// The attributes are damaged.
    pub fn xattrs(&self) -> Result<Vec<OsString>> {
        Ok(self.volume.inodes().xattrs(self.ino())?)
    }

    /// Sets the extended attribute `name`.
    ///
    /// # Errors
    /// As [`Volume::set_xattr`].
    pub fn set_xattr(&self, name: impl AsRef<OsStr>, value: impl AsRef<[u8]>) -> Result<()> {
        Ok(self.volume.inodes().set_xattr(self.ino(), name.as_ref().as_bytes(), Some(value.as_ref()))?)
    }

    /// Takes the extended attribute `name` away.
    ///
    /// # Errors
    /// As [`Volume::remove_xattr`].
    pub fn remove_xattr(&self, name: impl AsRef<OsStr>) -> Result<()> {
        Ok(self.volume.inodes().set_xattr(self.ino(), name.as_ref().as_bytes(), None)?)
    }

    fn check_read(&self) -> Result<()> {
        if self.access.read { Ok(()) } else { Err(Error::NotOpenedTo("read")) }
    }

    fn check_write(&self) -> Result<()> {
        if self.access.write { Ok(()) } else { Err(Error::NotOpenedTo("written")) }
    }

    fn check_in_place(&self) -> std::result::Result<(), xip_ext2::Error> {
        if self.in_place { Ok(()) } else { self.volume.0.fs.in_place() }
    }

    #[inline]
    fn mapping(&self) -> Kept<'_> {
        let runs = match self.runs.get() {
            Some(runs) => runs,
            None => self.find_runs(),
        };
        Kept { fs: self.fs(), inode: &self.inode, runs }
    }

    #[cold]
    fn find_runs(&self) -> &Runs {
        self.runs.get_or_init(|| match self.fs().file_in_place(self.inode.number, Default::default()) {
            Ok(file) => Runs::of(&file, PageIndex::count(self.inode.size).0),
            Err(_) => Runs::none(),
        })
    }

    #[inline]
    fn opened(&self) -> std::result::Result<Opened<'_>, xip_ext2::Error> {
        if self.in_place && !self.volume.is_writable() {
            return Ok(Opened::Kept(InPlace::new(self.mapping())));
        }
        Ok(match self.fs().file(self.inode.number)? {
            xip_ext2::File::InPlace(file) => Opened::InPlace(file),
            xip_ext2::File::Cached(file) => Opened::Cached(file),
        })
    }

    fn fs(&self) -> &Fs {
        &self.volume.0.fs
    }
}

fn tail_is_zero<M: Mapping<Error = xip_ext2::Error>>(file: &InPlace<M>) -> Result<bool> {
    let _guard = file.shared();
    let size = file.size()?;
    // The remainder is below 4096.
    let within = (size % PAGE_BYTES) as usize;
    if within == 0 {
        return Ok(true);
    }
    Ok(match file.mapping().get_xip_page(PageIndex::of(size), Create::No)? {
        Extent::Storage(run) => {
            let device = file.mapping().device();
            device.direct_access(run.first, 1).map_err(xip_ext2::Error::from)?.is_zero_from(within)
        }
        Extent::Hole(_) => true,
    })
}

/// Where in its page `offset` is, and how many pages `len` bytes from there touch.
#[inline]
fn span(offset: u64, len: usize) -> (usize, u64) {
    // The remainder is below 4096.
    let within = (offset % PAGE_BYTES) as usize;
    (within, len.saturating_add(within).div_ceil(PAGE_SIZE) as u64)
}

/// At the file's position, which all who use this file share.
impl Read for &File {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let mut position = self.position();
        let count = self.read_at(to, *position)?;
        *position += count as u64;
        Ok(count)
    }

    fn read_vectored(&mut self, to: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let mut position = self.position();
        let mut to: Vec<&mut [u8]> = to.iter_mut().take(ops::MAX_SEGMENTS).map(|slice| &mut **slice).collect();
        let count = self.readv_at(&mut to, *position)?;
        *position += count as u64;
        Ok(count)
    }
}

/// At the file's position, which all who use this file share; at the end for one that was opened to append.
impl Write for &File {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(from)])
    }

    fn write_vectored(&mut self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut position = self.position();
        let from: Vec<&[u8]> = from.iter().take(ops::MAX_SEGMENTS).map(|slice| &**slice).collect();
        let count = self.writev_at(&from, *position)?;
        *position = if self.how.append { self.now().map_err(Error::from)?.size } else { *position + count as u64 };
        Ok(count)
    }

    /// Nothing waits: what was written is written. [`File::sync_data`] makes it durable.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for &File {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let mut position = self.position();
        let new = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(by) => self.now().map_err(Error::from)?.size.checked_add_signed(by),
            SeekFrom::Current(by) => position.checked_add_signed(by),
        };
        *position = new.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(*position)
    }
}

impl File {
    fn position(&self) -> MutexGuard<'_, u64> {
        self.position.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Read for File {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        (&*self).read(to)
    }

    fn read_vectored(&mut self, to: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        (&*self).read_vectored(to)
    }
}

impl Write for File {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        (&*self).write(from)
    }

    fn write_vectored(&mut self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        (&*self).write_vectored(from)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for File {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        (&*self).seek(to)
    }
}
