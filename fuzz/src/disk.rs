//! Memory that a volume is on, in place or through copies, and that can give out in the middle of an operation.

use std::cell::Cell;
use xip_core::{Device, Error, PAGE_SIZE, PageNo, Properties, Region, RegionMut};
use xip_segment::Memory;

const REASON: &str = "it is to go through copies";
const NOT_IN_PLACE: Error = Error::NoDirectAccess { reason: REASON };

#[derive(Debug)]
pub struct Disk {
    memory: Memory,
    in_place: bool,
    /// How many more stores it takes: for those who want to see a crash.
    pub stores: Cell<u64>,
}

impl Disk {
    pub fn of(image: &[u8], in_place: bool) -> Self {
        let memory = Memory::new(image.len().div_ceil(PAGE_SIZE) as u64).expect("memory for a small image");
        memory.write(0, image).expect("it is as long as the image");
        Self { memory, in_place, stores: Cell::new(u64::MAX) }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.memory.pages() as usize * PAGE_SIZE];
        self.memory.read(0, &mut bytes).expect("all of it");
        bytes
    }
}

impl Device for Disk {
    fn pages(&self) -> u64 {
        self.memory.pages()
    }

    fn properties(&self) -> Properties {
        let not_in_place = (!self.in_place).then_some(REASON);
        Properties { not_in_place, writable: true, ..Properties::default() }
    }

    fn direct_access(&self, first: PageNo, count: u64) -> Result<Region<'_>, Error> {
        if self.in_place { self.memory.direct_access(first, count) } else { Err(NOT_IN_PLACE) }
    }

    fn direct_access_mut(&self, first: PageNo, count: u64) -> Result<RegionMut<'_>, Error> {
        if self.in_place { self.memory.direct_access_mut(first, count) } else { Err(NOT_IN_PLACE) }
    }

    fn read(&self, at: u64, to: &mut [u8]) -> Result<(), Error> {
        self.memory.read(at, to)
    }

    fn write(&self, at: u64, from: &[u8]) -> Result<(), Error> {
        let left = self.stores.get().checked_sub(1).ok_or(Error::Gone)?;
        self.stores.set(left);
        self.memory.write(at, from)
    }
}
