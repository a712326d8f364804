//! Page numbers. A number of a page of storage and a number of a page of a file are different types, so that one
//! is never used for the other.

use core::fmt;

/// Bytes in a page of storage, of a file, and of an ext2 block that can be used in place.
pub const PAGE_SIZE: usize = 4096;

/// Bytes in a page, for arithmetic on storage, which is in 64 bits throughout (contract 1).
pub const PAGE_BYTES: u64 = PAGE_SIZE as u64;

/// A page of storage: byte address `n * 4096` on the device.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct PageNo(pub u64);

/// A page of a file: bytes `[n * 4096, (n + 1) * 4096)` of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct PageIndex(pub u64);

/// Pages of storage that follow each other.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Run {
    /// The first page.
    pub first: PageNo,
    /// How many; at least 1 wherever a run is returned.
    pub count: u64,
}

impl PageNo {
    /// The byte address on the device, `None` past 2^64.
    #[inline]
    pub fn byte(self) -> Option<u64> {
        self.0.checked_mul(PAGE_BYTES)
    }
}

impl PageIndex {
    /// The page that holds byte `offset` of a file.
    #[inline]
    pub fn of(offset: u64) -> Self {
        Self(offset / PAGE_BYTES)
    }

    /// How many pages a file of `size` bytes has: the first index that is wholly beyond it.
    #[inline]
    pub fn count(size: u64) -> Self {
        Self(size.div_ceil(PAGE_BYTES))
    }
}

impl fmt::Display for PageNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for PageIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
