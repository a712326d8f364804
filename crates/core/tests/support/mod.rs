//! A small file in memory, over a device that hands out its pages one stretch at a time.
#![allow(dead_code)]

use std::cell::{Cell, RefCell, UnsafeCell};
use std::ptr::NonNull;
use xip_core::device::check_range;
use xip_core::{
    Create, Device, Error, Extent, Host, Mapping, PAGE_SIZE, PageIndex, PageNo, Properties, Region, RegionMut, Run,
};

/// Owned pages, filled with `0xee`: what was never zeroed shows.
pub struct Ram {
    bytes: Box<[UnsafeCell<u8>]>,
    /// Pages of one stretch: `direct_access` may return less than asked (contract 1).
    pub stretch: u64,
    pub writable: bool,
}

impl Ram {
    pub fn new(pages: usize) -> Self {
        let bytes = (0..pages * PAGE_SIZE).map(|_| UnsafeCell::new(0xee)).collect();
        Self { bytes, stretch: u64::MAX, writable: true }
    }

    fn at(&self, first: PageNo, count: u64) -> Result<(NonNull<u8>, usize), Error> {
        let count = check_range(first, count, self.pages())?.min(self.stretch);
        let cell = &self.bytes[first.0 as usize * PAGE_SIZE..];
        Ok((NonNull::new(cell.as_ptr() as *mut u8).unwrap(), count as usize * PAGE_SIZE))
    }
}

impl Device for Ram {
    fn pages(&self) -> u64 {
        (self.bytes.len() / PAGE_SIZE) as u64
    }
    fn properties(&self) -> Properties {
        Properties { writable: self.writable, ..Properties::default() }
    }
    fn direct_access(&self, first: PageNo, count: u64) -> Result<Region<'_>, Error> {
        let (start, len) = self.at(first, count)?;
        // SAFETY: `at` returns a stretch of `self.bytes`, which lives as long as the borrow; it is in cells, and this
        // test has one thread and makes no reference into it.
        Ok(unsafe { Region::new(start, len) })
    }
    fn direct_access_mut(&self, first: PageNo, count: u64) -> Result<RegionMut<'_>, Error> {
        if !self.writable {
            return Err(Error::ReadOnly);
        }
        let (start, len) = self.at(first, count)?;
        // SAFETY: as above; the cells may be written.
        Ok(unsafe { RegionMut::new(start, len) })
    }
}

/// One file: pages in the order in which they were allocated, and a log of what was called.
pub struct OneFile {
    pub ram: Ram,
    pub map: RefCell<Vec<Option<PageNo>>>,
    pub next: Cell<u64>,
    pub size: Cell<u64>,
    pub largest: u64,
    pub log: RefCell<Vec<String>>,
    /// Fail the zeroing of a tail, as bad memory would.
    pub bad_page: Cell<Option<PageNo>>,
    /// Say that all is a hole, also what was just given storage.
    pub forgetful: Cell<bool>,
}

impl OneFile {
    pub fn new(pages: usize) -> Self {
        Self {
            ram: Ram::new(pages),
            map: RefCell::default(),
            next: Cell::new(0),
            size: Cell::new(0),
            largest: 1 << 40,
            log: RefCell::default(),
            bad_page: Cell::new(None),
            forgetful: Cell::default(),
        }
    }

    fn note(&self, what: impl Into<String>) {
        self.log.borrow_mut().push(what.into());
    }
}

impl Host for &OneFile {
    type Error = Error;
    type Guard<'a>
        = ()
    where
        Self: 'a;
    fn shared(&self) {
        self.note("shared");
    }
    fn exclusive(&self) {
        self.note("exclusive");
    }
    fn size(&self) -> Result<u64, Error> {
        Ok(self.size.get())
    }
    fn largest(&self) -> u64 {
        self.largest
    }
    fn accessed(&self) {
        self.note("accessed");
    }
    fn will_change(&self, keep: bool) -> Result<(), Error> {
        self.note(format!("will_change {keep}"));
        Ok(())
    }
    fn publish_size(&self, size: u64) -> Result<(), Error> {
        self.note(format!("size {size}"));
        self.size.set(size);
        Ok(())
    }
    fn free_from(&self, first: PageIndex) -> Result<(), Error> {
        self.note(format!("free {first}"));
        self.map.borrow_mut().truncate(first.0 as usize);
        Ok(())
    }
    fn sync(&self, data_only: bool) -> Result<(), Error> {
        self.note(format!("sync {data_only}"));
        Ok(())
    }
}

impl Mapping for &OneFile {
    type Device = Ram;
    fn device(&self) -> &Ram {
        &self.ram
    }
    fn get_xip_pages(&self, index: PageIndex, _want: u64, create: Create) -> Result<Extent, Error> {
        let mut map = self.map.borrow_mut();
        let n = index.0 as usize;
        if let Some(Some(page)) = map.get(n) {
            if self.bad_page.get() == Some(*page) {
                return Err(Error::BadMedium { page: *page });
            }
            return Ok(Extent::Storage(Run { first: *page, count: 1 }));
        }
        if create == Create::No || self.forgetful.get() {
            return Ok(Extent::Hole(1));
        }
        let page = PageNo(self.next.get());
        if page.0 >= self.ram.pages() {
            return Err(Error::NoSpace);
        }
        self.next.set(page.0 + 1);
        // Zero before publish.
        self.ram.direct_access_mut(page, 1)?.zero(0, PAGE_SIZE);
        if map.len() <= n {
            map.resize(n + 1, None);
        }
        map[n] = Some(page);
        Ok(Extent::Storage(Run { first: page, count: 1 }))
    }
}
