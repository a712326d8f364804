//! A file, in the feel of `std::fs::File`, and what only a file in place has: its bytes where they are.
//!
//! One type for volumes that cannot change and those that can. Of the former a file keeps what it has found, and reads
//! without a lock; of the latter it keeps nothing.

use crate::env::Threads;
use crate::error::{Error, Result};
use crate::extents::{Kept, Runs};
use crate::held::Held;
use crate::metadata::Metadata;
use crate::send;
use crate::storage::Backing;
use crate::volume::{Fs, Volume};
use std::io;
use std::os::fd::AsFd;
use std::sync::{Mutex, OnceLock};
use xip_core::ops::Writer;
use xip_core::page::PAGE_BYTES;
use xip_core::{Cached, InPlace, PAGE_SIZE, PageIndex, ops};
use xip_ext2::{Handle, Inode, InodeNo, Kind};

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
    /// With the volume it is on.
    held: Held,
    /// As it was when the file was opened. On a volume that can be written the size and all else may have changed.
    inode: Inode,
    in_place: bool,
    /// Found at the first read, so that to open a file only to look at it costs nothing. Never on a volume that can be
    /// written.
    runs: OnceLock<Runs>,
    /// Only on a volume that can be written; elsewhere a file is opened to be read.
    live: Option<Live>,
    /// Held while what moves it is under way, as the kernel does.
    position: Mutex<u64>,
}

/// What a file has besides on a volume that can be written.
#[derive(Debug)]
struct Live {
    access: Access,
    how: Writer,
    handle: Handle,
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

mod places;
mod stream;
mod write;

impl File {
    #[inline]
    pub(crate) fn open(volume: &Volume, ino: InodeNo) -> std::result::Result<Self, xip_ext2::Error> {
        Self::open_as(volume, ino, Access { read: true, write: false }, Writer::default())
    }

    #[inline]
    pub(crate) fn open_as(
        volume: &Volume,
        ino: InodeNo,
        access: Access,
        how: Writer,
    ) -> std::result::Result<Self, xip_ext2::Error> {
        Self::open_held(volume.hold(ino), access, how)
    }

    /// As [`File::open_as`], of one who holds it.
    #[inline]
    pub(crate) fn open_held(held: Held, access: Access, how: Writer) -> std::result::Result<Self, xip_ext2::Error> {
        let volume = held.volume();
        let handle = || volume.0.fs.handle(held.ino());
        let live = volume.is_writable().then(handle).transpose()?.map(|handle| Live { access, how, handle });
        let inode = volume.0.fs.inode(held.ino())?;
        match inode.kind {
            Kind::Regular => {}
            Kind::Directory => return Err(xip_ext2::Error::IsDirectory),
            _ => return Err(xip_ext2::Error::WrongKind),
        }
        Ok(Self { in_place: volume.0.in_place, held, inode, runs: OnceLock::new(), live, position: Mutex::new(0) })
    }

    /// The same file once more, with a position of its own.
    pub(crate) fn again(&self) -> std::result::Result<Self, xip_ext2::Error> {
        let access = self.live.as_ref().map_or(Access { read: true, write: false }, |live| live.access);
        Self::open_as(self.volume(), self.inode.number, access, self.how())
    }

    /// What is known of the file.
    ///
    /// # Errors
    /// The inode is damaged; the device's.
    #[inline]
    pub fn metadata(&self) -> Result<Metadata> {
        if self.live.is_none() { Ok(Metadata(self.inode)) } else { Ok(Metadata(self.now()?)) }
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
    #[inline(never)]
    fn now(&self) -> std::result::Result<Inode, xip_ext2::Error> {
        if self.live.is_some() { self.fs().inode(self.inode.number) } else { Ok(self.inode) }
    }

    /// The volume it is on.
    pub fn volume(&self) -> &Volume {
        self.held.volume()
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
        let region = xip_core::Device::direct_access(self.fs().device(), first, want).ok()?;
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

    /// Sends `[offset, offset + count)`, as far as the file goes, to a socket, pipe or file; how many bytes it took.
    ///
    /// From the storage itself, by the kernel's `sendfile`, where the file is in place and its storage is sealed: pipes and sockets get its
    /// pages and no copy of them; of an image that can change only to a file, and writers of this file wait meanwhile: what is sent to is not to be waiting for one of them. A pipe
    /// or socket would keep the pages of such an image until someone reads them, and by then they can be another file's; it is sent
    /// copies, of 64 KiB at a time, each as it is then.
    ///
    /// # Errors
    /// As [`File::read_at`], and those of the other end, when nothing was sent.
    pub fn sendfile(&self, to: impl AsFd, offset: u64, count: usize) -> Result<usize> {
        let to = to.as_fd();
        self.check_read()?;
        if !xip_core::Device::properties(self.fs().device()).sealed && !send::is_file(to) {
            return send::copied(self, to, offset, count);
        }
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

    pub(crate) fn how(&self) -> Writer {
        self.live.as_ref().map(|live| live.how).unwrap_or_default()
    }

    pub(crate) fn check_read(&self) -> Result<()> {
        if self.live.as_ref().is_none_or(|live| live.access.read) { Ok(()) } else { Err(Error::NotOpenedTo("read")) }
    }

    pub(crate) fn check_write(&self) -> Result<()> {
        if self.live.as_ref().is_some_and(|live| live.access.write) {
            Ok(())
        } else {
            Err(Error::NotOpenedTo("written"))
        }
    }

    pub(crate) fn check_in_place(&self) -> std::result::Result<(), xip_ext2::Error> {
        if self.in_place { Ok(()) } else { self.fs().in_place() }
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
        if self.in_place && self.live.is_none() {
            return Ok(Opened::Kept(InPlace::new(self.mapping())));
        }
        let handle = match &self.live {
            Some(live) => live.handle,
            None => self.fs().handle(self.inode.number)?,
        };
        Ok(match self.fs().file_again(handle) {
            xip_ext2::File::InPlace(file) => Opened::InPlace(file),
            xip_ext2::File::Cached(file) => Opened::Cached(file),
        })
    }

    fn fs(&self) -> &Fs {
        &self.held.volume().0.fs
    }
}

/// Where in its page `offset` is, and how many pages `len` bytes from there touch.
#[inline]
fn span(offset: u64, len: usize) -> (usize, u64) {
    // The remainder is below 4096.
    let within = (offset % PAGE_BYTES) as usize;
    (within, len.saturating_add(within).div_ceil(PAGE_SIZE) as u64)
}
