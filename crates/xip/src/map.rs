//! A file mapped into the process: its storage itself, by contract 4.
//!
//! A map looks at the file's layout when it is made, and again at the first access after someone changed it: writing into a
//! hole, cutting the file shorter, punching a hole, making it longer. Between two looks its pages are pinned (contract
//! 6), so that what it shows is the file's, or was: never another file's.
//!
//! Lock order: a map's own lock, then the file's, then the pins'.

mod shown;

use crate::error::{Error, Result};
use crate::extents::Placed;
use crate::file::File;
use crate::volume::Volume;
use shown::{hole, phase, show};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use xip_core::page::PAGE_BYTES;
use xip_core::{Device, Host, PAGE_SIZE, PageIndex, Run, ops};
use xip_ext2::Error as VolumeError;
use xip_segment::{MappedFile, Part, Sharing, Window};

/// Part of a file, mapped into this process: made by [`File::map`], and unmapped when it is dropped. Threads share it.
///
/// It shows the storage itself. What is stored through a shared map ([`Sharing::Write`]) is seen at once by [`File::read_at`] and by
/// every other map, and what they write is seen here. In a private map the first store to a page makes a copy of it, which
/// only this map has.
///
/// * **The end of the file**: an access to a page that is wholly beyond it is an error (`EFAULT`), where a program's own mapping
///   would get a `SIGBUS`. That is so as of the moment of the access, however long the file was when it was mapped.
///   The rest of the last page can be read and written, and what is written there is zeros again when the file grows.
/// * **Holes** read as zeros, and reading them gives them no storage. [`Map::write`] does, in a shared map: only a call can say
///   that there is no space (`ENOSPC`), where a store by an instruction would end the program. So a map is made
///   without any storage being given to the file.
/// * **What the file loses** (cut off, punched out, all names removed) is not reused while a map shows it. A map keeps the
///   file, as an open [`File`] does.
/// * **2 MiB at a time**: the map stands where its longest run agrees with its storage modulo 2 MiB, so that the kernel can use huge
///   pages for it.
#[derive(Debug)]
pub struct Map {
    content: Content,
    /// First page of the file that is mapped.
    first: u64,
    /// Something was stored since the times of the file were set.
    changed: AtomicBool,
    /// Last, so that the file is held until everything else is gone.
    file: File,
}

#[derive(Debug)]
enum Content {
    /// Of a file that cannot change.
    Fixed(Window),
    Live(Box<RwLock<Live>>),
}

#[derive(Debug)]
struct Live {
    // In the order in which they go: unmapped, then unpinned.
    window: Window,
    pinned: Pinned,
    /// The count of changes of the file's layout at the last look.
    seen: Option<u64>,
    mapped: Mapped,
}

/// Pages that a map has pinned.
#[derive(Debug)]
struct Pinned {
    volume: Volume,
    runs: Vec<Run>,
}

impl Pinned {
    /// By one who has the lock of their file.
    fn new(volume: &Volume, placed: &[Placed]) -> Self {
        let runs: Vec<_> = placed.iter().map(|placed| placed.run).collect();
        if let Some(maps) = volume.0.fs.env().maps() {
            maps.pin(runs.iter().copied());
        }
        Self { volume: volume.clone(), runs }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let inner = &self.volume.0;
        let Some(maps) = inner.fs.env().maps() else { return };
        for run in maps.unpin(self.runs.drain(..)) {
            // What cannot be given back is leaked, and the next opening mends it.
            if inner.fs.free_run(run).is_err()
                && let Some(opens) = &inner.opens
            {
                opens.leak();
            }
        }
    }
}

/// That a file is mapped.
#[derive(Debug)]
struct Mapped {
    volume: Volume,
    ino: u32,
    layout: Arc<AtomicU64>,
}

impl Drop for Mapped {
    fn drop(&mut self) {
        if let Some(maps) = self.volume.0.fs.env().maps() {
            maps.leave(self.ino);
        }
    }
}

impl File {
    /// Maps the pages that hold `[offset, offset + len)` of the file, which may end before that: see [`Map`].
    ///
    /// ```
    /// # fn main() -> Result<(), xip::Error> {
    /// # let directory = tempfile::tempdir()?;
    /// # let volume = xip::Volume::create(directory.path().join("image"), 1 << 20)?;
    /// use xip::Sharing;
    /// let file = xip::OpenOptions::new().read(true).write(true).create(true).open(&volume, "counter")?;
    /// file.set_len(8)?;
    /// let map = file.map(0, 8, Sharing::Write)?;
    /// map.write(0, &42u64.to_le_bytes())?;
    /// assert_eq!(volume.read("counter")?, 42u64.to_le_bytes());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `EINVAL` for no bytes, or when `offset` is not a multiple of 4096; `EBADF` when the file was not opened to be read, or for
    /// [`Sharing::Write`] not to be written; the file is not in place, with the reason; `EOPNOTSUPP` for a volume in
    /// memory of this process, which has no descriptor to map it a second time by; the limits of the process.
    pub fn map(&self, offset: u64, len: usize, sharing: Sharing) -> Result<Map> {
        self.check_in_place()?;
        self.check_read()?;
        if sharing == Sharing::Write {
            self.check_write()?;
        }
        if len == 0 || !offset.is_multiple_of(PAGE_BYTES) {
            return Err(Error::Invalid("a map has bytes, and begins at a multiple of 4096"));
        }
        let (first, pages) = (offset / PAGE_BYTES, len.div_ceil(PAGE_SIZE) as u64);
        let file = self.again()?;
        let device = storage(&file)?;
        let placed = file.layout(PageIndex(first), pages)?;
        let window = Window::new(pages, sharing, phase(first, &placed))?;
        let content = match file.volume().0.fs.env().maps() {
            None => {
                let mut window = window;
                let end = PageIndex::count(file.len()).0;
                show(&mut window, device, first, end, &placed)?;
                Content::Fixed(window)
            }
            Some(maps) => {
                let volume = file.volume().clone();
                let layout = maps.enter(file.ino().0);
                let mapped = Mapped { volume: volume.clone(), ino: file.ino().0, layout };
                let pinned = Pinned::new(&volume, &[]);
                Content::Live(Box::new(RwLock::new(Live { window, pinned, seen: None, mapped })))
            }
        };
        let map = Map { content, first, changed: AtomicBool::new(false), file };
        map.refresh()?;
        Ok(map)
    }
}

/// The file that holds the storage.
fn storage(file: &File) -> Result<&MappedFile> {
    let what = "a volume in memory of this process cannot be mapped a second time; put it into a file or a segment";
    file.volume().0.fs.device().mapped().ok_or(VolumeError::Unsupported(what).into())
}

impl Map {
    /// Length in bytes, whole pages.
    #[allow(clippy::len_without_is_empty)] // Never 0.
    pub fn len(&self) -> usize {
        self.with(|window| window.pages() as usize * PAGE_SIZE)
    }

    /// Where in the file it begins.
    pub fn offset(&self) -> u64 {
        self.first * PAGE_BYTES
    }

    /// Copies `to.len()` bytes from `at` on out of the map.
    ///
    /// # Errors
    /// `EFAULT` when not all of them are in the map and in pages of the file; then `to` is as it was.
    #[inline]
    pub fn read(&self, at: usize, to: &mut [u8]) -> Result<()> {
        let mut copy = |window: &Window| {
            let region = window.region(at, to.len()).ok_or_else(|| self.fault(window, at, to.len()))?;
            region.read(0, to);
            Ok(())
        };
        match &self.content {
            Content::Fixed(window) => copy(window),
            Content::Live(live) => copy(&self.current(live)?.window),
        }
    }

    /// Copies `from` into the map, to `at` and after: in a shared map into the file, whose times change with the first store after
    /// each [`Map::sync`], as with a mapping of the kernel; its set-id bits go then, too.
    ///
    /// # Errors
    /// `EFAULT` when not all of it is in the map and in pages of the file; `EBADF` for a map that is only read; no
    /// space for a hole. Then nothing is stored.
    pub fn write(&self, at: usize, from: &[u8]) -> Result<()> {
        match &self.content {
            Content::Fixed(window) if window.sharing() == Sharing::Private => self.store(window, at, from),
            Content::Live(live) => match self.with(Window::sharing) {
                Sharing::Read => Err(Error::NotOpenedTo("written; map it with Sharing::Write")),
                Sharing::Write => self.write_shared(live, at, from),
                Sharing::Private => self.write_private(live, at, from),
            },
            Content::Fixed(_) => Err(Error::NotOpenedTo("written; map it with Sharing::Private")),
        }
    }

    /// All of it up to the end of the file, where nobody can change it: a map to be read of a sealed segment. However many runs the
    /// file has, it is one stretch here.
    pub fn as_slice(&self) -> Option<&[u8]> {
        let Content::Fixed(window) = &self.content else { return None };
        let left = usize::try_from(self.file.len().saturating_sub(self.offset())).unwrap_or(usize::MAX);
        window.region(0, left.min(self.len()))?.as_sealed_slice()
    }

    /// Makes what was stored durable, as far as the storage can: `msync`.
    ///
    /// # Errors
    /// The storage's.
    pub fn sync(&self) -> Result<()> {
        if self.changed.swap(false, Ordering::AcqRel) {
            self.touch()?;
        }
        // What was stored by the address itself nobody has flushed.
        let persistent = self.file.volume().0.fs.device().properties().persistent;
        if let (Content::Live(live), true) = (&self.content, persistent) {
            let live = self.current(live)?;
            if live.window.sharing() == Sharing::Write {
                self.flush(&live.window, 0, self.len())?;
            }
        }
        self.file.sync_data()
    }

    /// Looks at the file again, if its layout has changed. Every access does; this is for who uses [`Map::as_ptr`].
    ///
    /// # Errors
    /// The volume is damaged where the file is; the limits of the process.
    pub fn refresh(&self) -> Result<()> {
        match &self.content {
            Content::Fixed(_) => Ok(()),
            Content::Live(live) => self.current(live).map(drop),
        }
    }

    /// Where it stands, for who hands the memory itself to something else. To use it is `unsafe` there: pages beyond the end of the
    /// file cannot be accessed at all, holes of a shared map only be read, and changes of the layout are seen after
    /// [`Map::refresh`]. The address stays the same as long as the map lives.
    pub fn as_ptr(&self) -> *const u8 {
        self.with(Window::as_ptr)
    }

    fn with<T>(&self, what: impl FnOnce(&Window) -> T) -> T {
        match &self.content {
            Content::Fixed(window) => what(window),
            Content::Live(live) => what(&live.read().unwrap_or_else(PoisonError::into_inner).window),
        }
    }

    /// The map as the file is now, and locked so. What changes while it is locked was changed after.
    #[inline]
    fn current<'m>(&self, live: &'m RwLock<Live>) -> Result<RwLockReadGuard<'m, Live>> {
        let guard = live.read().unwrap_or_else(PoisonError::into_inner);
        if guard.seen == Some(guard.mapped.layout.load(Ordering::SeqCst)) {
            return Ok(guard);
        }
        drop(guard);
        self.looked(live).map(RwLockWriteGuard::downgrade)
    }

    /// As [`Map::current`], for one who changes the map.
    #[cold]
    fn looked<'m>(&self, live: &'m RwLock<Live>) -> Result<RwLockWriteGuard<'m, Live>> {
        let mut guard = live.write().unwrap_or_else(PoisonError::into_inner);
        let Live { window, pinned, seen, mapped } = &mut *guard;
        let volume = self.file.volume();
        let file = volume.0.fs.file_in_place(self.file.ino(), xip_ext2::Goal::default())?;
        // Nobody changes the file from here on until its pages are pinned and mapped.
        let lock = file.shared();
        let now = mapped.layout.load(Ordering::SeqCst);
        if *seen == Some(now) {
            drop(lock);
            return Ok(guard);
        }
        let end = PageIndex::count(file.size()?).0;
        let placed = self.file.walk(&file, PageIndex(self.first), window.pages())?;
        let mut pins = Pinned::new(volume, &placed);
        if let Err(error) = show(window, storage(&self.file)?, self.first, end, &placed) {
            // Some of the old may still be mapped, and some of the new.
            pinned.runs.append(&mut pins.runs);
            return Err(error);
        }
        let old = std::mem::replace(pinned, pins);
        *seen = Some(now);
        drop(lock);
        drop(old);
        Ok(guard)
    }

    fn write_private(&self, live: &RwLock<Live>, at: usize, from: &[u8]) -> Result<()> {
        let mut live = self.looked(live)?;
        let window = &mut live.window;
        if window.region_mut(at, from.len()).is_none() {
            return Err(self.fault(window, at, from.len()));
        }
        let page = (at / PAGE_SIZE) as u64;
        window.make_own(page, (at + from.len()).div_ceil(PAGE_SIZE) as u64 - page);
        self.store(window, at, from)
    }

    fn write_shared(&self, live: &RwLock<Live>, at: usize, from: &[u8]) -> Result<()> {
        // Each time round someone else has made a hole where there was none.
        for _ in 0..1000 {
            let live = self.current(live)?;
            if live.window.region_mut(at, from.len()).is_some() {
                if !from.is_empty() && !self.changed.swap(true, Ordering::AcqRel) {
                    self.touch()?;
                }
                self.store(&live.window, at, from)?;
                return self.flush(&live.window, at, from.len());
            }
            let Some((page, count)) = hole(&live.window, at, from.len()) else {
                return Err(self.fault(&live.window, at, from.len()));
            };
            drop(live);
            self.fill(page, count)?;
        }
        Err(VolumeError::Busy.into())
    }

    fn store(&self, window: &Window, at: usize, from: &[u8]) -> Result<()> {
        window.region_mut(at, from.len()).ok_or_else(|| self.fault(window, at, from.len()))?.write(0, from);
        Ok(())
    }

    /// Gives storage to a hole, before anyone can store to it (contract 2, zero before publish).
    fn fill(&self, page: u64, count: u64) -> Result<()> {
        let file = self.file.volume().0.fs.file_in_place(self.file.ino(), xip_ext2::Goal::default())?;
        let offset = (self.first + page) * PAGE_BYTES;
        match ops::fallocate(&file, offset, count * PAGE_BYTES, true, &self.file.how()) {
            // The file was cut shorter meanwhile: what stands there now is seen when it is looked at again.
            Ok(()) | Err(VolumeError::Device(xip_core::Error::Unsupported(_))) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The times of the file, and its set-id bits, as before any change of its bytes.
    fn touch(&self) -> Result<()> {
        let file = self.file.volume().0.fs.file_in_place(self.file.ino(), xip_ext2::Goal::default())?;
        let _lock = file.exclusive();
        Ok(file.will_change(self.file.how().keep_set_id)?)
    }

    /// On persistent storage, makes what was stored durable: a fence is only for what its own thread has flushed, so it is not
    /// left to who syncs.
    fn flush(&self, window: &Window, at: usize, len: usize) -> Result<()> {
        let device = self.file.volume().0.fs.device();
        if !device.properties().persistent {
            return Ok(());
        }
        let end = (at + len) as u64;
        let mut at = at as u64;
        while at < end {
            let (page, within) = (at / PAGE_BYTES, at % PAGE_BYTES);
            let (part, more) = window.at(page);
            let stretch = end.min((page + more) * PAGE_BYTES) - at;
            if let Part::Storage(first) = part {
                device.flush(first.0 * PAGE_BYTES + within, stretch)?;
            }
            at += stretch;
        }
        Ok(device.fence()?)
    }

    /// Why `[at, at + len)` cannot be accessed: the first page of it that is not there.
    #[cold]
    fn fault(&self, window: &Window, at: usize, len: usize) -> Error {
        let end = (at.saturating_add(len)).div_ceil(PAGE_SIZE) as u64;
        let mut page = (at / PAGE_SIZE) as u64;
        while page < end.min(window.pages()) && !matches!(window.at(page).0, Part::Nothing | Part::Lost) {
            page = page.saturating_add(window.at(page).1);
        }
        Error::NotMapped { page: self.first.saturating_add(page), in_map: page < window.pages() }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // What was stored since the times were set last. Who wants to know of an error calls `Map::sync`.
        if *self.changed.get_mut() {
            let _ = self.touch();
        }
    }
}
