//! The device: something whose storage the CPU can address, and that says so by `direct_access`.

use crate::error::Error;
use crate::page::{PAGE_BYTES, PAGE_SIZE, PageNo};
use crate::region::{Region, RegionMut};

/// What a device is (contract 1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Properties {
    /// Whether its storage is addressed by the CPU. `None`: yes. Otherwise the reason, in words.
    pub not_in_place: Option<&'static str>,
    /// Writes are possible. A device that says no refuses them itself.
    pub writable: bool,
    /// What was flushed and fenced survives a loss of power.
    pub persistent: bool,
    /// No one can change it, in this program or outside: regions of it may become slices.
    pub sealed: bool,
    /// References are leases: while a page is referenced its chip cannot be programmed or erased (NOR flash; `point`
    /// and `unpoint` in the old MTD interface).
    pub leases: bool,
}

/// Storage in pages of 4096 bytes.
///
/// `direct_access` is optional, as in 2008: a device without it implements `read` and `write`, gives the reason in its
/// [`Properties`], and a volume on it is not XIP. A device with it gets `read` and `write` for nothing.
pub trait Device {
    /// How many pages there are.
    fn pages(&self) -> u64;

    /// What it is.
    fn properties(&self) -> Properties;

    /// The storage from `first` on, at most `count` pages of it, at least one: as many as are usable in one stretch.
    ///
    /// # Errors
    /// [`Error::OutOfRange`], [`Error::Gone`], [`Error::BadMedium`]; [`Error::NoDirectAccess`] where it is not offered.
    fn direct_access(&self, first: PageNo, count: u64) -> Result<Region<'_>, Error> {
        let _ = (first, count);
        Err(Error::NoDirectAccess { reason: self.properties().not_in_place.unwrap_or("the device does not offer it") })
    }

    /// As [`Device::direct_access`], to be written too.
    ///
    /// # Errors
    /// Also [`Error::ReadOnly`]: the device enforces it, not a mount flag (contract 1).
    fn direct_access_mut(&self, first: PageNo, count: u64) -> Result<RegionMut<'_>, Error> {
        self.direct_access(first, count)?;
        Err(Error::ReadOnly)
    }

    /// The bytes `[at, at + len)` where they are stored: a record of metadata, which a few loads read. It lies in one page.
    ///
    /// # Errors
    /// As [`Device::direct_access`]; [`Error::Invalid`] for what lies in several pages, if the device does not show them at once.
    #[inline]
    fn bytes(&self, at: u64, len: usize) -> Result<Region<'_>, Error> {
        let pages = Error::Invalid("a record in more than one page");
        let (page, within) = in_one_page(at, len).ok_or(pages)?;
        self.direct_access(page, 1)?.part(within, len).ok_or(pages)
    }

    /// Copies the bytes at `at` into `to`, all of them. For small things such as records of metadata, and for the
    /// cached path.
    ///
    /// # Errors
    /// As [`Device::direct_access`]; then `to` may be partly filled.
    #[inline]
    fn read(&self, at: u64, to: &mut [u8]) -> Result<(), Error> {
        match self.bytes(at, to.len()) {
            Ok(bytes) if bytes.read(0, to) == to.len() => Ok(()),
            _ => read_pages(self, at, to),
        }
    }

    /// Copies `from` to the bytes at `at`, all of them.
    ///
    /// # Errors
    /// As [`Device::direct_access_mut`]; then part of it may be written.
    #[inline]
    fn write(&self, at: u64, from: &[u8]) -> Result<(), Error> {
        if let Some((page, within)) = in_one_page(at, from.len()) {
            let region = self.direct_access_mut(page, 1)?;
            if region.write(within, from) == from.len() {
                return Ok(());
            }
        }
        write_pages(self, at, from)
    }

    /// Copies `from` to the bytes at `at`, all of them: as [`Device::write`], for data of files rather than records of
    /// metadata. A device may have a better way for much.
    ///
    /// # Errors
    /// As [`Device::write`].
    #[inline]
    fn store(&self, at: u64, from: &[u8]) -> Result<(), Error> {
        self.write(at, from)
    }

    /// Makes `len` bytes at `at` read as zeros. A device that knows that they do has nothing to do.
    ///
    /// # Errors
    /// As [`Device::write`]; out of range, nothing is written.
    fn zero(&self, at: u64, len: u64) -> Result<(), Error> {
        check_bytes(at, len, self.pages())?;
        let mut done = 0;
        while done < len {
            let part = usize::try_from(len - done).unwrap_or(PAGE_SIZE).min(PAGE_SIZE);
            self.write(at + done, &ZEROS[..part])?;
            done += part as u64;
        }
        Ok(())
    }

    /// Starts to make `[at, at + len)` durable; [`Device::fence`] waits for it. Nothing to do in plain memory.
    ///
    /// # Errors
    /// The medium's.
    fn flush(&self, at: u64, len: u64) -> Result<(), Error> {
        let _ = (at, len);
        Ok(())
    }

    /// Returns when all that was flushed is durable: nothing after it becomes durable before.
    ///
    /// # Errors
    /// The medium's.
    fn fence(&self) -> Result<(), Error> {
        Ok(())
    }
}

static ZEROS: [u8; PAGE_SIZE] = [0; PAGE_SIZE];

impl<D: Device + ?Sized> Device for &D {
    fn pages(&self) -> u64 {
        (**self).pages()
    }
    fn properties(&self) -> Properties {
        (**self).properties()
    }
    fn direct_access(&self, first: PageNo, count: u64) -> Result<Region<'_>, Error> {
        (**self).direct_access(first, count)
    }
    fn direct_access_mut(&self, first: PageNo, count: u64) -> Result<RegionMut<'_>, Error> {
        (**self).direct_access_mut(first, count)
    }
    fn bytes(&self, at: u64, len: usize) -> Result<Region<'_>, Error> {
        (**self).bytes(at, len)
    }
    fn read(&self, at: u64, to: &mut [u8]) -> Result<(), Error> {
        (**self).read(at, to)
    }
    fn write(&self, at: u64, from: &[u8]) -> Result<(), Error> {
        (**self).write(at, from)
    }
    fn store(&self, at: u64, from: &[u8]) -> Result<(), Error> {
        (**self).store(at, from)
    }
    fn zero(&self, at: u64, len: u64) -> Result<(), Error> {
        (**self).zero(at, len)
    }
    fn flush(&self, at: u64, len: u64) -> Result<(), Error> {
        (**self).flush(at, len)
    }
    fn fence(&self) -> Result<(), Error> {
        (**self).fence()
    }
}

/// The rule every `direct_access` shares: the range is inside the device, and at least one page long.
/// Returns how many pages may be given.
///
/// # Errors
/// [`Error::OutOfRange`], [`Error::Invalid`] for no pages at all.
#[inline]
pub fn check_range(first: PageNo, count: u64, pages: u64) -> Result<u64, Error> {
    if count == 0 {
        return Err(Error::Invalid("direct access to no pages"));
    }
    if first.0 >= pages {
        return Err(Error::OutOfRange { first, count, pages });
    }
    Ok(count.min(pages - first.0))
}

/// The rule every access by bytes shares: `[at, at + len)` is inside the device. Returns where it ends.
///
/// # Errors
/// [`Error::OutOfRange`].
#[inline]
pub fn check_bytes(at: u64, len: u64, pages: u64) -> Result<u64, Error> {
    match at.checked_add(len) {
        Some(end) if end.div_ceil(PAGE_BYTES) <= pages => Ok(end),
        _ => Err(Error::OutOfRange { first: PageNo(at / PAGE_BYTES), count: len.div_ceil(PAGE_BYTES), pages }),
    }
}

/// The page that holds all of `len` bytes at `at`, and where in it they are: so it is with nearly all records of metadata.
#[inline(always)]
fn in_one_page(at: u64, len: usize) -> Option<(PageNo, usize)> {
    // The remainder is below 4096.
    let within = (at % PAGE_BYTES) as usize;
    (len <= PAGE_SIZE - within && len > 0).then_some((PageNo(at / PAGE_BYTES), within))
}

/// [`Device::read`] of any length, apart so that the usual way is short.
#[inline(never)]
fn read_pages<D: Device + ?Sized>(device: &D, at: u64, to: &mut [u8]) -> Result<(), Error> {
    let mut done = 0;
    while done < to.len() {
        let (region, within) = stretch(device.pages(), at, done, to.len(), |p, n| device.direct_access(p, n))?;
        done += region.read(within, &mut to[done..]);
    }
    Ok(())
}

/// [`Device::write`], page by page: for a device that has a faster way for what is mapped.
///
/// # Errors
/// As [`Device::write`].
#[inline(never)]
pub fn write_pages<D: Device + ?Sized>(device: &D, at: u64, from: &[u8]) -> Result<(), Error> {
    let mut done = 0;
    while done < from.len() {
        let (region, within) = stretch(device.pages(), at, done, from.len(), |p, n| device.direct_access_mut(p, n))?;
        done += region.write(within, &from[done..]);
    }
    Ok(())
}

/// The region that holds byte `at + done`, and where in it that byte is.
#[inline]
fn stretch<R>(
    pages: u64,
    at: u64,
    done: usize,
    len: usize,
    access: impl FnOnce(PageNo, u64) -> Result<R, Error>,
) -> Result<(R, usize), Error> {
    check_bytes(at, len as u64, pages)?;
    let byte = at + done as u64;
    let within = (byte % PAGE_BYTES) as usize % PAGE_SIZE;
    let count = (within + (len - done)).div_ceil(PAGE_SIZE) as u64;
    let first = PageNo(byte / PAGE_BYTES);
    Ok((access(first, count)?, within))
}
