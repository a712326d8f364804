//! Which pages are in use from outside the volume (contract 6), and which files are mapped, so that whoever changes one can say
//! so.
//!
//! Who maps a file pins its pages, under the file's lock. A page that the file loses while it is pinned is not free: it is
//! given back by whoever unpins it last. Lock order: those here are taken last of all, and nothing else is taken under them.

use crate::sync::{Arc, AtomicU64, AtomicUsize, Mutex, MutexGuard, Ordering, PoisonError};
use std::collections::{BTreeMap, HashMap};
use xip_core::{Freed, PageNo, Run};

/// Pins and mapped files of a volume.
#[derive(Debug, Default)]
pub(crate) struct Maps {
    /// How many maps there are: without any, nothing else is looked at.
    count: AtomicUsize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    pins: Pins,
    files: HashMap<u32, Mapped>,
}

/// A file that is mapped.
#[derive(Debug)]
struct Mapped {
    maps: usize,
    layout: Arc<AtomicU64>,
}

impl Maps {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more map of a file: what counts the changes of its layout.
    pub(crate) fn enter(&self, ino: u32) -> Arc<AtomicU64> {
        self.count.fetch_add(1, Ordering::SeqCst);
        let mut inner = self.inner();
        let mapped = inner.files.entry(ino).or_insert_with(|| Mapped { maps: 0, layout: Arc::default() });
        mapped.maps += 1;
        mapped.layout.clone()
    }

    /// A map less.
    pub(crate) fn leave(&self, ino: u32) {
        let mut inner = self.inner();
        if let Some(mapped) = inner.files.get_mut(&ino) {
            mapped.maps -= 1;
            if mapped.maps == 0 {
                inner.files.remove(&ino);
            }
        }
        drop(inner);
        self.count.fetch_sub(1, Ordering::SeqCst);
    }

    /// The layout of a file changes. Its lock is held exclusively, so who looks at the file after this sees it changed.
    #[inline]
    pub(crate) fn moved(&self, ino: u32) {
        // Who enters has its map look at the file, under the file's lock, only after that: it is not missed.
        if self.count.load(Ordering::SeqCst) != 0 {
            self.say_moved(ino);
        }
    }

    #[cold]
    fn say_moved(&self, ino: u32) {
        if let Some(mapped) = self.inner().files.get(&ino) {
            mapped.layout.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Pins pages of a file, by one who has its lock.
    pub(crate) fn pin(&self, runs: impl Iterator<Item = Run>) {
        let mut inner = self.inner();
        runs.for_each(|run| inner.pins.add(run));
    }

    /// Takes pins away: the runs that the caller is to give back to the volume.
    #[must_use]
    pub(crate) fn unpin(&self, runs: impl Iterator<Item = Run>) -> Vec<Run> {
        let mut inner = self.inner();
        let mut free = Vec::new();
        runs.for_each(|run| inner.pins.remove(run, &mut free));
        free
    }

    /// As [`xip_core::Env::freed`].
    #[inline]
    pub(crate) fn freed(&self, run: Run) -> Freed {
        if self.count.load(Ordering::SeqCst) == 0 {
            return Freed::Now(run.count);
        }
        self.inner().pins.freed(run)
    }
}

/// Pages that are pinned, as stretches that do not overlap: by their first page.
#[derive(Debug, Default)]
struct Pins(BTreeMap<u64, Stretch>);

#[derive(Clone, Copy, Debug)]
struct Stretch {
    end: u64,
    pins: u64,
    /// They belong to no file any more.
    lost: bool,
}

impl Pins {
    /// Makes a stretch begin at `at`, if one goes across it.
    fn split(&mut self, at: u64) {
        if let Some((_, stretch)) = self.0.range_mut(..at).next_back()
            && stretch.end > at
        {
            let rest = *stretch;
            stretch.end = at;
            self.0.insert(at, rest);
        }
    }

    fn add(&mut self, run: Run) {
        let (mut at, end) = (run.first.0, run.first.0 + run.count);
        self.split(at);
        self.split(end);
        while at < end {
            match self.0.range_mut(at..end).next() {
                Some((&first, stretch)) if first == at => {
                    stretch.pins += 1;
                    at = stretch.end;
                }
                next => {
                    let end = next.map_or(end, |(&first, _)| first);
                    self.0.insert(at, Stretch { end, pins: 1, lost: false });
                    at = end;
                }
            }
        }
    }

    fn remove(&mut self, run: Run, free: &mut Vec<Run>) {
        let end = run.first.0 + run.count;
        self.split(run.first.0);
        self.split(end);
        let mut gone = Vec::new();
        for (&first, stretch) in self.0.range_mut(run.first.0..end) {
            stretch.pins -= 1;
            if stretch.pins == 0 {
                gone.push(first);
            }
        }
        for first in gone {
            if let Some(Stretch { end, lost: true, .. }) = self.0.remove(&first) {
                free.push(Run { first: PageNo(first), count: end - first });
            }
        }
    }

    fn freed(&mut self, run: Run) -> Freed {
        let (first, end) = (run.first.0, run.first.0 + run.count);
        self.split(first);
        self.split(end);
        match self.0.range_mut(first..end).next() {
            Some((&at, stretch)) if at == first => {
                stretch.lost = true;
                Freed::Later(stretch.end - first)
            }
            Some((&at, _)) => Freed::Now(at - first),
            None => Freed::Now(run.count),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first: u64, count: u64) -> Run {
        Run { first: PageNo(first), count }
    }

    /// Contract 6, against a count for each page.
    #[test]
    fn a_page_comes_back_when_its_last_pin_goes_and_only_if_its_file_lost_it() {
        let mut state = 7u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % below
        };
        for _ in 0..200 {
            let (mut pins, mut held) = (Pins::default(), Vec::new());
            let (mut count, mut lost) = ([0u32; 16], [false; 16]);
            for _ in 0..60 {
                let first = random(16);
                let part = run(first, 1 + random(16 - first));
                let pages = part.first.0 as usize..(part.first.0 + part.count) as usize;
                match random(3) {
                    // Only pages of a file are pinned.
                    0 if !lost[pages.clone()].contains(&true) => {
                        pins.add(part);
                        held.push(part);
                        count[pages].iter_mut().for_each(|count| *count += 1);
                    }
                    1 if !held.is_empty() => {
                        let part = held.swap_remove(random(held.len() as u64) as usize);
                        let mut free = Vec::new();
                        pins.remove(part, &mut free);
                        let mut expected = Vec::new();
                        for page in part.first.0 as usize..(part.first.0 + part.count) as usize {
                            count[page] -= 1;
                            if count[page] == 0 && lost[page] {
                                lost[page] = false;
                                expected.push(page as u64);
                            }
                        }
                        let free: Vec<u64> = free.iter().flat_map(|run| run.first.0..run.first.0 + run.count).collect();
                        assert_eq!(free, expected);
                    }
                    2 if !lost[pages.clone()].contains(&true) => {
                        let mut at = pages.start;
                        while at < pages.end {
                            let answer = pins.freed(run(at as u64, (pages.end - at) as u64));
                            let (now, len) = match answer {
                                Freed::Now(len) => (true, len as usize),
                                Freed::Later(len) => (false, len as usize),
                            };
                            assert!(len > 0 && at + len <= pages.end);
                            for page in at..at + len {
                                assert_eq!(count[page] == 0, now, "{page}");
                                lost[page] = !now;
                            }
                            at += len;
                        }
                    }
                    _ => {}
                }
            }
            let mut free = Vec::new();
            held.drain(..).for_each(|part| pins.remove(part, &mut free));
            assert!(pins.0.is_empty(), "{pins:?}");
        }
    }
}
