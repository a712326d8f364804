//! Memory that is storage. The only home of raw pointers in the lower floors.
//!
//! Storage may be changed by others at any moment: another process that maps the same segment, a guest, a thread of
//! this program. Rust's references promise that this does not happen, so a region never hands out `&[u8]`, except
//! from memory that is sealed, which nobody can change. All other access copies, with bounds checked.
#![allow(unsafe_code)]

use core::marker::PhantomData;
use core::ptr::{self, NonNull};

/// A stretch of storage that can be read. A reference: it lives as long as the borrow of the device that gave it
/// (contract 1: "stays valid until it is released; in Rust that is the borrow").
#[derive(Clone, Copy, Debug)]
pub struct Region<'a> {
    start: NonNull<u8>,
    len: usize,
    sealed: bool,
    life: PhantomData<&'a [u8]>,
}

/// A stretch of storage that can be read and written, by others too.
#[derive(Clone, Copy, Debug)]
pub struct RegionMut<'a>(Region<'a>);

// SAFETY: a region is an address and a length. Every access through it is a copy that tolerates concurrent change
// (see `Region::new`), so it does not matter which thread makes it.
unsafe impl Send for Region<'_> {}
// SAFETY: as above.
unsafe impl Sync for Region<'_> {}

impl<'a> Region<'a> {
    /// Storage that others may change.
    ///
    /// # Safety
    /// For all of `'a`, `[start, start + len)` is mapped and readable, and no `&mut` to any of it exists. Other
    /// threads and processes may store to it; they must do so by raw copies, as this module does.
    #[inline]
    pub unsafe fn new(start: NonNull<u8>, len: usize) -> Self {
        Self { start, len, sealed: false, life: PhantomData }
    }

    /// Storage that nobody can change, neither this program nor any other.
    ///
    /// # Safety
    /// As [`Region::new`], and for all of `'a` no byte changes and the memory cannot be taken away (an object
    /// with its write and shrink seals, ROM).
    #[inline]
    pub unsafe fn new_sealed(start: NonNull<u8>, len: usize) -> Self {
        Self { start, len, sealed: true, life: PhantomData }
    }

    /// Length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing in it.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The part `[from, from + len)`, `None` when it is not wholly inside.
    #[inline]
    pub fn part(&self, from: usize, len: usize) -> Option<Region<'a>> {
        if from > self.len || len > self.len - from {
            return None;
        }
        // SAFETY: `from <= self.len`, so the sum is inside the mapped stretch, or one past it when `len` is 0.
        let start = unsafe { self.start.add(from) };
        Some(Self { start, len, ..*self })
    }

    /// Copies bytes from `from` on into `to`; how many: what is left, at most `to.len()`.
    #[inline]
    pub fn read(&self, from: usize, to: &mut [u8]) -> usize {
        let count = to.len().min(self.len.saturating_sub(from));
        if count != 0 {
            // SAFETY: `from + count <= len`, so the source is mapped and readable (`new`). `to` is a live exclusive
            // slice of at least `count` bytes, and cannot overlap the region since no `&mut` into it exists (`new`).
            unsafe { ptr::copy_nonoverlapping(self.start.as_ptr().add(from), to.as_mut_ptr(), count) }
        }
        count
    }

    /// `N` bytes from `from` on, `None` when they are not all inside: one load where `N` is that of a number.
    #[inline]
    pub fn array<const N: usize>(&self, from: usize) -> Option<[u8; N]> {
        if N > self.len || from > self.len - N {
            return None;
        }
        // SAFETY: `from + N <= len`, so the source is mapped and readable (`new`). Bytes have no alignment, and any are right.
        Some(unsafe { ptr::read(self.start.as_ptr().add(from).cast()) })
    }

    /// The bytes themselves, when the region is sealed.
    #[inline]
    pub fn as_sealed_slice(&self) -> Option<&'a [u8]> {
        // SAFETY: sealed storage is mapped and never changes for all of 'a (`new_sealed`).
        self.sealed.then(|| unsafe { core::slice::from_raw_parts(self.start.as_ptr(), self.len) })
    }

    /// Whether all bytes from `from` to the end are zero.
    pub fn is_zero_from(&self, from: usize) -> bool {
        let mut at = from;
        let mut chunk = [0u8; 256];
        while at < self.len {
            let count = self.read(at, &mut chunk);
            if chunk[..count].iter().any(|&b| b != 0) {
                return false;
            }
            at += count;
        }
        true
    }

    /// The address, for those who map or transfer the storage itself. Using it is `unsafe` at the place of use.
    #[inline]
    pub fn as_ptr(&self) -> *const u8 {
        self.start.as_ptr()
    }
}

impl<'a> RegionMut<'a> {
    /// Storage that this program and others may change.
    ///
    /// # Safety
    /// As [`Region::new`], and the stretch is writable for all of `'a`.
    #[inline]
    pub unsafe fn new(start: NonNull<u8>, len: usize) -> Self {
        // SAFETY: the caller's promise includes that of `Region::new`.
        Self(unsafe { Region::new(start, len) })
    }

    /// The same storage, for reading.
    #[inline]
    pub fn as_region(&self) -> Region<'a> {
        self.0
    }

    /// Length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.0.len
    }

    /// Whether there is nothing in it.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// The part `[from, from + len)`, `None` when it is not wholly inside.
    #[inline]
    pub fn part(&self, from: usize, len: usize) -> Option<RegionMut<'a>> {
        self.0.part(from, len).map(Self)
    }

    /// Copies `bytes` to `at`; how many: what fits.
    #[inline]
    pub fn write(&self, at: usize, bytes: &[u8]) -> usize {
        let room = self.0.len.saturating_sub(at);
        // Not the smaller of the two: where the caller's length is a constant, what fits is one store.
        let count = if bytes.len() <= room { bytes.len() } else { room };
        if count != 0 {
            // SAFETY: `at + count <= len`, so the target is mapped and writable (`new`). No reference into the region
            // exists unless it is sealed, and a writable one never is; `bytes` therefore cannot overlap it.
            unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.0.start.as_ptr().add(at), count) }
        }
        count
    }

    /// Fills `[at, at + count)` with zeros, as far as it is inside.
    #[inline]
    pub fn zero(&self, at: usize, count: usize) {
        let count = count.min(self.0.len.saturating_sub(at));
        if count != 0 {
            // SAFETY: as in `write`.
            unsafe { ptr::write_bytes(self.0.start.as_ptr().add(at), 0, count) }
        }
    }
}
