//! A stretch of this process's address space in which runs of a device's storage stand in the order of a file: what a file
//! mapping is made of. The table of what stands where and the kernel's mappings change together, here and nowhere else, so
//! whoever is given a region of a window has bytes that are there.

use super::{HUGE, non_null, reserve};
use crate::error::{Error, Result};
use crate::file::{MappedFile, path_of};
use rustix::io::Errno;
use rustix::mm::{self, MapFlags, ProtFlags};
use std::ptr::NonNull;
use xip_core::{Device, PAGE_SIZE, PageNo, Region, RegionMut};

/// How a window shows storage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sharing {
    /// The storage itself, to be read.
    Read,
    /// The storage itself, to be read and written.
    Write,
    /// The storage until the first store to a page, which then is a copy that only this window has.
    Private,
}

/// What stands at a page of a window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// Nothing: an access would be a fault.
    Nothing,
    /// Zeros without storage.
    Zeros,
    /// This page of the device, and in the pages after it those that follow it.
    Storage(PageNo),
    /// In a private window, bytes that only it has.
    Own,
    /// The kernel failed to map something here, and may have taken away what was there: never touched again.
    Lost,
}

impl Part {
    /// What stands `by` pages further in the same stretch.
    fn further(self, by: u64) -> Self {
        match self {
            Self::Storage(first) => Self::Storage(PageNo(first.0 + by)),
            other => other,
        }
    }
}

/// Reserved address space, with storage in it. Unmapped when it is dropped.
#[derive(Debug)]
pub struct Window {
    start: NonNull<u8>,
    pages: u64,
    sharing: Sharing,
    /// Every file in it has been one that nobody can change.
    sealed: bool,
    /// From which page on what stands there, up to the next; ascending, the first from 0.
    stretches: Vec<(u64, Part)>,
}

// SAFETY: a window is an address and a length that stay valid until it is dropped; what is mapped there changes only through
// `&mut self`, and its bytes are used only through regions, which tolerate access from any thread.
unsafe impl Send for Window {}
// SAFETY: as above.
unsafe impl Sync for Window {}

impl Window {
    /// `pages` pages with nothing in them. The first stands where byte `phase` of the device would: of storage that agrees
    /// with it the kernel can use huge pages, wherever 2 MiB of it are in one run.
    ///
    /// # Errors
    /// `EINVAL` for no pages; there is not that much address space.
    pub fn new(pages: u64, sharing: Sharing, phase: u64) -> Result<Self> {
        let len = usize::try_from(pages).ok().and_then(|pages| pages.checked_mul(PAGE_SIZE));
        let reserved = match len {
            None => Err(Errno::NOMEM),
            Some(0) => Err(Errno::INVAL),
            // The remainder is below 2 MiB.
            Some(len) => reserve(len, (phase % HUGE as u64) as usize),
        };
        let start = reserved.and_then(non_null).map_err(|errno| Error::Window { pages, errno })?;
        Ok(Self { start, pages, sharing, sealed: true, stretches: vec![(0, Part::Nothing)] })
    }

    /// How many pages it has.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// How it shows storage.
    pub fn sharing(&self) -> Sharing {
        self.sharing
    }

    /// Where it stands, for those who map or transfer the memory itself. Using it is `unsafe` at the place of use.
    pub fn as_ptr(&self) -> *const u8 {
        self.start.as_ptr()
    }

    /// What stands at a page, and for how many pages from there on it goes on.
    pub fn at(&self, page: u64) -> (Part, u64) {
        let after = self.stretches.partition_point(|&(from, _)| from <= page);
        let end = self.stretches.get(after).map_or(self.pages, |&(from, _)| from);
        match self.stretches.get(after.wrapping_sub(1)) {
            Some(&(from, part)) if page < end => (part.further(page - from), end - page),
            _ => (Part::Nothing, u64::MAX),
        }
    }

    /// Maps something at the `count` pages from `at` on, in place of what stands there.
    ///
    /// # Errors
    /// The range is not inside the window, or the storage not inside the file; no space for pages of a new file that are to be written;
    /// the system's, which has a limit to mappings. Then nothing can be accessed there any more.
    pub fn place(&mut self, file: &MappedFile, at: u64, count: u64, part: Part) -> Result<()> {
        let failed = |errno| Error::Window { pages: count, errno };
        let end = at.checked_add(count).filter(|&end| count > 0 && end <= self.pages).ok_or(failed(Errno::INVAL))?;
        let mut page = at;
        while page < end {
            let (old, more) = self.at(page);
            if old == Part::Lost {
                return Err(failed(Errno::FAULT));
            }
            page += more;
        }
        if let Part::Storage(first) = part {
            let inside = first.0.checked_add(count).is_some_and(|end| end <= file.pages());
            if !inside {
                let path = path_of(&file.fd());
                return Err(Error::File { action: "map", path, errno: Errno::OVERFLOW });
            }
        }
        if let (Sharing::Write, Part::Storage(first)) = (self.sharing, part) {
            // Stores through a window are not seen: the device gives the pages out to be written.
            file.direct_access_mut(first, count).map_err(|error| failed(Errno::from_raw_os_error(error.errno())))?;
        }
        let both = ProtFlags::READ | ProtFlags::WRITE;
        let prot = match (self.sharing, part) {
            (_, Part::Nothing) => ProtFlags::empty(),
            (Sharing::Private, _) | (Sharing::Write, Part::Storage(_)) => both,
            // A hole of a shared window cannot be stored to: it would need storage first.
            _ => ProtFlags::READ,
        };
        let flags = match (self.sharing, part) {
            (Sharing::Read | Sharing::Write, Part::Storage(_)) => MapFlags::SHARED,
            _ => MapFlags::PRIVATE | MapFlags::NORESERVE,
        } | MapFlags::FIXED;
        let (from, len) = bytes(at, count);
        // SAFETY: `[from, from + len)` is inside the window (checked), which is ours as long as no part of it is lost
        // (checked): nothing else of the process is touched. No region of the window exists, since they borrow it and this is
        // `&mut self`. The file reaches as far as is mapped of it (checked; what others cut off later is a SIGBUS,
        // as `MappedFile` says).
        let mapped = unsafe {
            let start = self.start.as_ptr().add(from).cast();
            match part {
                Part::Storage(first) => {
                    mm::mmap(start, len, prot, flags, file.fd(), file.start() + first.0 * PAGE_SIZE as u64)
                }
                Part::Nothing | Part::Zeros => mm::mmap_anonymous(start, len, prot, flags),
                Part::Own | Part::Lost => Err(Errno::INVAL),
            }
        };
        match mapped {
            Ok(_) => {
                self.sealed &= !matches!(part, Part::Storage(_)) || file.memory().is_sealed();
                self.set(at, end, part);
                Ok(())
            }
            Err(errno) if matches!(part, Part::Own | Part::Lost) => Err(failed(errno)),
            Err(errno) => {
                self.set(at, end, Part::Lost);
                Err(failed(errno))
            }
        }
    }

    /// Notes that the pages `[at, at + count)` of a private window have been stored to, and are its own now. Only what can be
    /// accessed is.
    pub fn make_own(&mut self, at: u64, count: u64) {
        let end = at.saturating_add(count).min(self.pages);
        let mut page = at;
        while page < end && self.sharing == Sharing::Private {
            let (part, more) = self.at(page);
            let next = end.min(page + more);
            if matches!(part, Part::Zeros | Part::Storage(_)) {
                self.set(page, next, Part::Own);
            }
            page = next;
        }
    }

    /// The bytes `[at, at + len)`, when all of them can be read.
    #[inline]
    pub fn region(&self, at: usize, len: usize) -> Option<Region<'_>> {
        self.all(at, len, |part| matches!(part, Part::Zeros | Part::Storage(_) | Part::Own))?;
        // SAFETY: the range is inside the window, and every part of it is mapped and readable (`all`, `place`). It stays so as
        // long as `self` is borrowed. Nobody makes references to it unless all of it is sealed and only read, when nobody
        // can store to it: neither through this window nor through the files, and zeros are mapped without the right to.
        unsafe {
            let start = self.start.add(at);
            let sealed = self.sealed && self.sharing == Sharing::Read;
            Some(if sealed { Region::new_sealed(start, len) } else { Region::new(start, len) })
        }
    }

    /// As [`Window::region`], when all of them can be written.
    #[inline]
    pub fn region_mut(&self, at: usize, len: usize) -> Option<RegionMut<'_>> {
        self.all(at, len, |part| match self.sharing {
            Sharing::Read => false,
            Sharing::Write => matches!(part, Part::Storage(_)),
            Sharing::Private => matches!(part, Part::Zeros | Part::Storage(_) | Part::Own),
        })?;
        // SAFETY: as in `region`, and every part is mapped writable (`place`).
        Some(unsafe { RegionMut::new(self.start.add(at), len) })
    }

    /// Whether all of `[at, at + len)` is inside the window and stands in parts that `allowed` takes.
    #[inline]
    fn all(&self, at: usize, len: usize, allowed: impl Fn(Part) -> bool) -> Option<()> {
        let end = at.checked_add(len)? as u64;
        let mut page = (at / PAGE_SIZE) as u64;
        if end > self.pages * PAGE_SIZE as u64 {
            return None;
        }
        while len != 0 && page * (PAGE_SIZE as u64) < end {
            let (part, more) = self.at(page);
            if !allowed(part) {
                return None;
            }
            page += more;
        }
        Some(())
    }

    /// Changes the table.
    fn set(&mut self, at: u64, end: u64, part: Part) {
        let rest = (end < self.pages).then(|| (end, self.at(end).0));
        let first = self.stretches.partition_point(|&(from, _)| from < at);
        let last = self.stretches.partition_point(|&(from, _)| from <= end.min(self.pages.saturating_sub(1)));
        self.stretches.splice(first..last, [(at, part)].into_iter().chain(rest));
        // What goes on is one stretch.
        for n in (first..=first + 1).rev() {
            if n > 0
                && let (Some(&(before, one)), Some(&(from, other))) = (self.stretches.get(n - 1), self.stretches.get(n))
                && one.further(from - before) == other
            {
                self.stretches.remove(n);
            }
        }
    }
}

/// Offset and length in bytes of pages of a window: both fit, since the whole window does.
#[allow(clippy::cast_possible_truncation)]
fn bytes(at: u64, count: u64) -> (usize, usize) {
    (at as usize * PAGE_SIZE, count as usize * PAGE_SIZE)
}

impl Drop for Window {
    fn drop(&mut self) {
        let mut page = 0;
        while page < self.pages {
            let (part, more) = self.at(page);
            if part != Part::Lost {
                let (from, len) = bytes(page, more);
                // SAFETY: mapped by us, and every region of it is gone: they borrow `self`. What may not be ours any more is
                // left out.
                let _ = unsafe { mm::munmap(self.start.as_ptr().add(from).cast(), len) };
            }
            page += more;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Access;
    use std::io::Write;

    fn file(pages: usize) -> MappedFile {
        let mut file = tempfile::tempfile().unwrap();
        for page in 0..pages {
            file.write_all(&[page as u8 + 1; PAGE_SIZE]).unwrap();
        }
        MappedFile::open(file, Access::ReadWrite).unwrap()
    }

    fn first_bytes(window: &Window) -> Vec<Option<u8>> {
        let byte = |page: u64| {
            let mut byte = [0];
            window.region(page as usize * PAGE_SIZE, 1).map(|region| region.read(0, &mut byte)).map(|_| byte[0])
        };
        (0..window.pages()).map(byte).collect()
    }

    #[test]
    fn the_table_says_what_is_mapped_whatever_was_placed_over_what() {
        let file = file(8);
        let mut window = Window::new(8, Sharing::Read, 0).unwrap();
        let mut model = [None; 8];
        let mut state = 12345u64;
        for _ in 0..300 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let at = (state >> 33) % 8;
            let count = 1 + (state >> 40) % (8 - at);
            let first = (state >> 50) % (9 - count);
            let part = match (state >> 60) % 4 {
                0 => Part::Nothing,
                1 => Part::Zeros,
                _ => Part::Storage(PageNo(first)),
            };
            window.place(&file, at, count, part).unwrap();
            for n in 0..count {
                model[(at + n) as usize] = match part {
                    Part::Storage(first) => Some((first.0 + n) as u8 + 1),
                    Part::Zeros => Some(0),
                    _ => None,
                };
            }
            assert_eq!(first_bytes(&window), model);
            assert!(window.stretches.is_sorted_by(|one, other| one.0 < other.0), "{:?}", window.stretches);
        }
        window.place(&file, 0, 8, Part::Storage(PageNo(0))).unwrap();
        assert_eq!(window.stretches, [(0, Part::Storage(PageNo(0)))], "one run, one stretch");
    }

    #[test]
    fn storage_beyond_the_file_and_pages_beyond_the_window_are_refused() {
        let file = file(2);
        let mut window = Window::new(4, Sharing::Read, 0).unwrap();
        for (at, count, part) in [
            (0, 3, Part::Storage(PageNo(0))),
            (0, 1, Part::Storage(PageNo(2))),
            (0, 2, Part::Storage(PageNo(u64::MAX))),
            (3, 2, Part::Zeros),
            (4, 1, Part::Zeros),
            (0, 0, Part::Zeros),
            (u64::MAX, 2, Part::Zeros),
            (0, 1, Part::Own),
        ] {
            assert!(window.place(&file, at, count, part).is_err(), "{at} {count} {part:?}");
        }
        assert_eq!(first_bytes(&window), [None; 4]);
        assert!(window.region(4 * PAGE_SIZE, 1).is_none() && window.region(usize::MAX, 2).is_none());
        assert!(Window::new(0, Sharing::Read, 0).is_err());
        assert!(Window::new(u64::MAX / 4096, Sharing::Read, 0).is_err());
    }

    #[test]
    fn an_address_agrees_with_its_storage_modulo_two_mebibytes() {
        for phase in [0, 4096, HUGE as u64 - 4096, 5 * HUGE as u64 + 3 * 4096] {
            let window = Window::new(3, Sharing::Read, phase).unwrap();
            assert_eq!(window.as_ptr().addr() as u64 % HUGE as u64, phase % HUGE as u64);
        }
    }

    #[test]
    fn what_may_be_stored_to_is_what_the_sharing_says() {
        let file = file(2);
        for (sharing, zeros, storage) in
            [(Sharing::Read, false, false), (Sharing::Write, false, true), (Sharing::Private, true, true)]
        {
            let mut window = Window::new(3, sharing, 0).unwrap();
            window.place(&file, 0, 1, Part::Zeros).unwrap();
            window.place(&file, 1, 1, Part::Storage(PageNo(1))).unwrap();
            for (page, allowed) in [(0, zeros), (1, storage), (2, false)] {
                let region = window.region_mut(page * PAGE_SIZE, 5);
                assert_eq!(region.is_some(), allowed, "{sharing:?} {page}");
                // Where the table says so, it must not fault.
                region.inspect(|region| assert_eq!(region.write(0, b"store"), 5));
            }
        }
        let mut byte = [0];
        xip_core::Device::read(&file, 4096, &mut byte).unwrap();
        assert_eq!(byte, *b"s", "of the shared window");
    }
}
