//! A device that records every store, flush and fence.
//!
//! It owns its memory, so there are two ways to change a byte of it. One is `write`, `store` and `zero`, which are
//! recorded as they are called. The other is a region from `direct_access_mut`: its pages are watched from then on, and at
//! every later event, the hand-out of a region and the end of recording, they are compared with what the record says; what
//! differs is a store too. [`Recorder::take`] compares the whole memory, so that a third way would be an error, not a
//! gap. (Not seen is a byte that a region changes and changes back between two events.)

use std::cell::RefCell;
use std::collections::BTreeSet;
use xip_core::{Device, Error, PAGE_SIZE, PageNo, Properties, Region, RegionMut};
use xip_segment::Memory;

/// What happened, in the order in which it did.
#[derive(Clone, Debug)]
pub enum Event {
    Store { at: usize, bytes: Vec<u8> },
    Flush { at: usize, len: usize },
    Fence,
}

#[derive(Debug)]
pub struct Recorder {
    memory: Memory,
    state: RefCell<State>,
}

#[derive(Debug)]
struct State {
    /// The memory, as the record has it.
    known: Vec<u8>,
    /// Pages of which regions to write to were handed out.
    watched: BTreeSet<usize>,
    events: Vec<Event>,
}

impl Recorder {
    pub fn new(image: &[u8]) -> Self {
        let memory = Memory::new((image.len() / PAGE_SIZE) as u64).unwrap();
        memory.write(0, image).unwrap();
        let state = State { known: image.to_vec(), watched: BTreeSet::new(), events: Vec::new() };
        Self { memory, state: RefCell::new(state) }
    }

    /// What was recorded since the last call.
    pub fn take(&self) -> Vec<Event> {
        self.catch_up();
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        for (page, known) in state.known.chunks(PAGE_SIZE).enumerate() {
            assert!(self.page(page) == known, "a store to page {page} was not recorded");
        }
        std::mem::take(&mut state.events)
    }

    /// Changes bytes without a record of it: for those who put an image there.
    pub fn put(&self, at: usize, bytes: &[u8]) {
        self.memory.write(at as u64, bytes).unwrap();
        self.state.borrow_mut().known[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// What was recorded since the last call, without looking for stores that were not.
    pub fn take_quickly(&self) -> Vec<Event> {
        self.catch_up();
        std::mem::take(&mut self.state.borrow_mut().events)
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.catch_up();
        self.state.borrow().known.clone()
    }

    fn page(&self, page: usize) -> [u8; PAGE_SIZE] {
        let mut bytes = [0; PAGE_SIZE];
        self.memory.read((page * PAGE_SIZE) as u64, &mut bytes).unwrap();
        bytes
    }

    /// Records what was stored through regions since the last event.
    fn catch_up(&self) {
        let mut state = self.state.borrow_mut();
        let State { known, watched, events } = &mut *state;
        for &page in &*watched {
            let now = self.page(page);
            let start = page * PAGE_SIZE;
            let mut at = 0;
            while let Some(first) = (at..PAGE_SIZE).find(|&n| now[n] != known[start + n]) {
                let end = (first..PAGE_SIZE).find(|&n| now[n] == known[start + n]).unwrap_or(PAGE_SIZE);
                events.push(Event::Store { at: start + first, bytes: now[first..end].to_vec() });
                known[start + first..start + end].copy_from_slice(&now[first..end]);
                at = end;
            }
        }
    }

    fn record(&self, at: u64, bytes: &[u8]) {
        let at = usize::try_from(at).unwrap();
        let mut state = self.state.borrow_mut();
        state.known[at..at + bytes.len()].copy_from_slice(bytes);
        state.events.push(Event::Store { at, bytes: bytes.to_vec() });
    }
}

impl Device for Recorder {
    fn pages(&self) -> u64 {
        self.memory.pages()
    }

    fn properties(&self) -> Properties {
        Properties { writable: true, persistent: true, ..Properties::default() }
    }

    fn direct_access(&self, first: PageNo, count: u64) -> Result<Region<'_>, Error> {
        self.memory.direct_access(first, count)
    }

    fn direct_access_mut(&self, first: PageNo, count: u64) -> Result<RegionMut<'_>, Error> {
        self.catch_up();
        let region = self.memory.direct_access_mut(first, count)?;
        let first = usize::try_from(first.0).unwrap();
        self.state.borrow_mut().watched.extend(first..first + region.len() / PAGE_SIZE);
        Ok(region)
    }

    fn write(&self, at: u64, from: &[u8]) -> Result<(), Error> {
        self.catch_up();
        self.memory.write(at, from)?;
        self.record(at, from);
        Ok(())
    }

    fn zero(&self, at: u64, len: u64) -> Result<(), Error> {
        self.catch_up();
        self.memory.zero(at, len)?;
        self.record(at, &vec![0; usize::try_from(len).unwrap()]);
        Ok(())
    }

    fn flush(&self, at: u64, len: u64) -> Result<(), Error> {
        self.catch_up();
        let (at, len) = (usize::try_from(at).unwrap(), usize::try_from(len).unwrap());
        self.state.borrow_mut().events.push(Event::Flush { at, len });
        Ok(())
    }

    fn fence(&self) -> Result<(), Error> {
        self.catch_up();
        self.state.borrow_mut().events.push(Event::Fence);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_through_regions_are_seen_and_in_their_order() {
        let device = Recorder::new(&[7; 2 * PAGE_SIZE]);
        let region = device.direct_access_mut(PageNo(1), 1).unwrap();
        region.write(10, &[1, 2]);
        device.write(0, &[3]).unwrap();
        region.zero(100, 1);
        device.fence().unwrap();
        // What changes nothing is no store.
        region.write(10, &[1]);
        region.write(20, &[4]);
        let seen: Vec<_> = device
            .take()
            .into_iter()
            .map(|event| match event {
                Event::Store { at, bytes } => (at, bytes),
                _ => (0, Vec::new()),
            })
            .collect();
        let at = |n: usize| PAGE_SIZE + n;
        assert_eq!(seen, [(at(10), vec![1, 2]), (0, vec![3]), (at(100), vec![0]), (0, vec![]), (at(20), vec![4])]);
        assert!(device.take().is_empty());
    }

    #[test]
    #[should_panic(expected = "was not recorded")]
    fn a_store_past_the_recorder_is_an_error() {
        let device = Recorder::new(&[7; PAGE_SIZE]);
        device.memory.write(0, &[1]).unwrap();
        device.take();
    }
}
