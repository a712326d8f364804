//! A file, in the feel of `std::fs::File`, and what only a file in place has: its bytes where they are.

use crate::error::{Error, Result};
use crate::extents::{Kept, OnVolume, Placed, Runs, add};
use crate::metadata::Metadata;
use crate::send;
use crate::volume::{Fs, Volume};
use std::io::{self, IoSliceMut, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::sync::OnceLock;
use xip_core::page::PAGE_BYTES;
use xip_core::{Create, Extent, InPlace, Mapping, PAGE_SIZE, PageIndex, ops};
use xip_ext2::{Inode, InodeNo, Kind};

pub use xip_core::mapping::Piece;

/// A regular file, opened to be read.
///
/// In place or cached, decided when it is opened ([`File::in_place`]). A file in place is read from where it is stored:
/// no page of it is copied to a cache first, and [`File::layout`], [`File::piece`], [`File::as_slice`] show the
/// storage itself.
#[derive(Debug)]
pub struct File {
    volume: Volume,
    inode: Inode,
    in_place: bool,
    /// Found at the first read, so that to open a file only to look at it costs nothing.
    runs: OnceLock<Runs>,
    position: u64,
}

type Cached<'v> = xip_core::Cached<xip_ext2::Blocks<'v, crate::storage::Storage, xip_core::Frozen>>;

impl File {
    pub(crate) fn open(volume: &Volume, ino: InodeNo) -> std::result::Result<Self, xip_ext2::Error> {
        let inode = volume.0.fs.inode(ino)?;
        match inode.kind {
            Kind::Regular => {}
            Kind::Directory => return Err(xip_ext2::Error::IsDirectory),
            _ => return Err(xip_ext2::Error::WrongKind),
        }
        let in_place = volume.0.in_place;
        Ok(Self { volume: volume.clone(), inode, in_place, runs: OnceLock::new(), position: 0 })
    }

    /// What is known of the file.
    pub fn metadata(&self) -> Metadata {
        Metadata(self.inode)
    }

    /// Size in bytes.
    #[allow(clippy::len_without_is_empty)] // As in std: a file is not a collection.
    pub fn len(&self) -> u64 {
        self.inode.size
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
        // Runs are known only of a file in place, on a volume that cannot change: no lock, no size to sample, no atime.
        let first = self.runs.get()?.in_one(PageIndex::of(offset).0, want)?;
        let region = xip_core::Device::direct_access(self.volume.0.fs.device(), first, want).ok()?;
        region.part(within, to.len())?.read(0, to);
        Some(())
    }

    #[inline(never)]
    fn read_pieces(&self, to: &mut [u8], offset: u64) -> Result<usize> {
        if self.in_place {
            return Ok(ops::read(&self.kept(), offset, to)?);
        }
        Ok(ops::read(&self.cached()?, offset, to)?)
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
        if self.in_place {
            return Ok(ops::readv(&self.kept(), offset, to)?);
        }
        Ok(ops::readv(&self.cached()?, offset, to)?)
    }

    /// Sends `[offset, offset + count)`, as far as the file goes, to a socket, pipe or file; how many bytes it took.
    /// From the storage itself, without a buffer of ours, where the file is in place and its storage is sealed or
    /// has a descriptor.
    ///
    /// # Errors
    /// As [`File::read_at`], and those of the other end, when nothing was sent.
    pub fn sendfile(&self, to: impl AsFd, offset: u64, count: usize) -> Result<usize> {
        let to = to.as_fd();
        if !self.in_place {
            return send::copied(self, to, offset, count);
        }
        let mut failure = None;
        let sent = ops::sendfile(&self.kept(), offset, count, |piece| {
            send::piece(self.volume.0.fs.device(), to, piece).map_err(|error| {
                let errno = error.raw_os_error().unwrap_or(xip_core::error::errno::EIO);
                failure = Some(error);
                xip_core::Error::Io { errno }.into()
            })
        });
        sent.map_err(|error| failure.map_or(Error::Volume(error), Error::Io))
    }

    /// All bytes.
    ///
    /// # Errors
    /// As [`File::read_at`]; no memory for as many.
    pub fn read_all(&self) -> std::result::Result<Vec<u8>, xip_ext2::Error> {
        let too_large = xip_ext2::Error::Device(xip_core::Error::TooLarge);
        let len = usize::try_from(self.inode.size).map_err(|_| too_large)?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| too_large)?;
        bytes.resize(len, 0);
        let mut done = 0;
        while done < len {
            let count = if self.in_place {
                ops::read(&self.kept(), done as u64, &mut bytes[done..])?
            } else {
                ops::read(&self.cached()?, done as u64, &mut bytes[done..])?
            };
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
    /// The file is not in place, with the reason; the volume is damaged.
    pub fn piece(&self, offset: u64, len: usize) -> Result<Option<Piece<'_>>> {
        self.check_in_place()?;
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
    /// them is holes. Pages wholly beyond the end of the file are left out.
    ///
    /// # Errors
    /// The file is not in place, with the reason; the volume is damaged.
    pub fn layout(&self, first: PageIndex, pages: u64) -> Result<Vec<Placed>> {
        self.check_in_place()?;
        let mut runs = Vec::new();
        let end = first.0.saturating_add(pages).min(PageIndex::count(self.inode.size).0);
        let (mut index, mut stored) = (first.0, 0);
        while index < end {
            match self.mapping().get_xip_pages(PageIndex(index), end - index, Create::No)? {
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
        // The remainder is below 4096.
        let within = (self.inode.size % PAGE_BYTES) as usize;
        if within == 0 {
            return Ok(true);
        }
        Ok(match self.mapping().get_xip_page(PageIndex::of(self.inode.size), Create::No)? {
            Extent::Storage(run) => {
                xip_core::Device::direct_access(self.volume.0.fs.device(), run.first, 1)?.is_zero_from(within)
            }
            Extent::Hole(_) => true,
        })
    }

    /// The first byte at or after `offset` that is in storage (`data`) or in a hole (not `data`), as `SEEK_DATA` and
    /// `SEEK_HOLE`; the end of the file counts as a hole. `None` when there is none.
    ///
    /// # Errors
    /// The volume is damaged.
    pub fn seek_extent(&self, offset: u64, data: bool) -> Result<Option<u64>> {
        let size = self.inode.size;
        let (mut at, mut stored) = (offset, 0);
        while at < size {
            let index = PageIndex::of(at);
            let left = PageIndex::count(size).0 - index.0;
            // The cached path does not show storage: all is data, as the call allows.
            let (is_data, pages) = match self.in_place {
                false => (true, left),
                true => match self.mapping().get_xip_pages(index, left, Create::No)? {
                    Extent::Storage(run) => (true, run.count),
                    Extent::Hole(count) => (false, count),
                },
            };
            if is_data == data {
                return Ok(Some(at));
            }
            if is_data && self.in_place {
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
        self.runs.get_or_init(|| match self.on_volume() {
            Ok(file) => Runs::of(&file, PageIndex::count(self.inode.size).0),
            Err(_) => Runs::none(),
        })
    }

    #[inline]
    fn kept(&self) -> InPlace<Kept<'_>> {
        InPlace::new(self.mapping())
    }

    fn fs(&self) -> &Fs {
        &self.volume.0.fs
    }

    fn on_volume(&self) -> std::result::Result<OnVolume<'_>, xip_ext2::Error> {
        self.fs().file_in_place(self.inode.number, Default::default())
    }

    fn cached(&self) -> std::result::Result<Cached<'_>, xip_ext2::Error> {
        match self.fs().file(self.inode.number)? {
            xip_ext2::File::Cached(cached) => Ok(cached),
            // Decided when it was opened: the volume cannot have changed its mind.
            xip_ext2::File::InPlace(_) => Err(xip_ext2::Error::Unsupported("a file in place has no cached path")),
        }
    }
}

/// Where in its page `offset` is, and how many pages `len` bytes from there touch.
#[inline]
fn span(offset: u64, len: usize) -> (usize, u64) {
    // The remainder is below 4096.
    let within = (offset % PAGE_BYTES) as usize;
    (within, len.saturating_add(within).div_ceil(PAGE_SIZE) as u64)
}

impl Read for File {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let count = self.read_at(to, self.position)?;
        self.position += count as u64;
        Ok(count)
    }

    fn read_vectored(&mut self, to: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let mut to: Vec<&mut [u8]> = to.iter_mut().take(ops::MAX_SEGMENTS).map(|slice| &mut **slice).collect();
        let count = self.readv_at(&mut to, self.position)?;
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for File {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(by) => self.inode.size.checked_add_signed(by),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}
