//! A file's block map, kept: which runs of storage it has, so that a read walks no blocks of pointers.
//!
//! Only for volumes that cannot change. The runs are found at the first read. What is beyond the bounds below, or
//! could not be read, is asked of the volume each time: always right, only slower.

use crate::env::Threads;
use crate::storage::Backing;
use xip_core::{Create, Extent, Host, InPlace, Mapping, PageIndex, PageNo, Run};
use xip_ext2::{Blocks, Error};

/// The most runs that are kept: 96 KiB. A file built by `xip build` has one per 128 MiB.
const MOST_RUNS: usize = 4096;
/// The most pages whose pointers are looked at for one file: 1 GiB of data, 1 MiB of pointers.
const MOST_PAGES: u64 = 1 << 18;

pub(crate) type OnVolume<'v> = InPlace<Blocks<'v, Backing, Threads>>;

/// Pages of a file that stand in storage one after the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Placed {
    /// The first page of the file.
    pub index: PageIndex,
    /// Its storage, and how many pages follow it.
    pub run: Run,
}

/// The runs of a file in the order of its pages; what lies between them is holes.
#[derive(Debug)]
pub(crate) struct Runs {
    runs: Box<[Placed]>,
    /// Pages from here on were not looked at.
    known: u64,
}

impl Runs {
    pub(crate) fn of(file: &OnVolume<'_>, pages: u64) -> Self {
        let mut runs = Vec::new();
        let mut known = 0;
        let end = pages.min(MOST_PAGES);
        while known < end && runs.len() < MOST_RUNS {
            // An error ends what is known: who reads there gets it from the volume.
            match file.mapping().get_xip_pages(PageIndex(known), end - known, Create::No) {
                Ok(Extent::Storage(run)) => {
                    add(&mut runs, Placed { index: PageIndex(known), run });
                    known += run.count.max(1);
                }
                Ok(Extent::Hole(count)) => known += count.max(1),
                Err(_) => break,
            }
        }
        Self { runs: runs.into_boxed_slice(), known: known.min(end) }
    }

    /// Nothing is known: every page is asked of the volume.
    pub(crate) fn none() -> Self {
        Self { runs: Box::default(), known: 0 }
    }

    /// Where `want` pages from `index` on stand, when the file is in one run, as nearly every file is, and they are
    /// in it.
    #[inline]
    pub(crate) fn in_one(&self, index: u64, want: u64) -> Option<PageNo> {
        let [one] = &*self.runs else { return None };
        let within = index.checked_sub(one.index.0)?;
        (within.checked_add(want)? <= one.run.count).then(|| PageNo(one.run.first.0 + within))
    }

    /// What stands at `index`, `None` when that is not known.
    #[inline]
    pub(crate) fn at(&self, index: u64, want: u64) -> Option<Extent> {
        if index >= self.known {
            return None;
        }
        let after = self.runs.partition_point(|placed| placed.index.0 <= index);
        if let Some(placed) = after.checked_sub(1).map(|before| self.runs[before]) {
            let within = index - placed.index.0;
            if within < placed.run.count {
                let run = Run { first: PageNo(placed.run.first.0 + within), count: placed.run.count - within };
                return Some(Extent::Storage(Run { count: run.count.min(want), ..run }));
            }
        }
        let next = self.runs.get(after).map_or(self.known, |placed| placed.index.0);
        Some(Extent::Hole((next - index).min(want)))
    }
}

/// Adds a run, to the last one where both file and storage continue it.
pub(crate) fn add(runs: &mut Vec<Placed>, placed: Placed) {
    if let Some(last) = runs.last_mut()
        && last.index.0 + last.run.count == placed.index.0
        && last.run.first.0 + last.run.count == placed.run.first.0
    {
        last.run.count += placed.run.count;
    } else {
        runs.push(placed);
    }
}

/// A file in place on a frozen volume: its mapping is what was kept.
#[derive(Clone, Copy)]
pub(crate) struct Kept<'f> {
    pub(crate) fs: &'f crate::volume::Fs,
    pub(crate) inode: &'f xip_ext2::Inode,
    pub(crate) runs: &'f Runs,
}

impl Mapping for Kept<'_> {
    type Device = Backing;

    #[inline]
    fn device(&self) -> &Backing {
        self.fs.device()
    }

    #[inline]
    fn get_xip_pages(&self, index: PageIndex, want: u64, create: Create) -> Result<Extent, Error> {
        match (create, self.runs.at(index.0, want)) {
            (Create::No, Some(extent)) => Ok(extent),
            _ => self
                .fs
                .file_in_place(self.inode.number, Default::default())?
                .mapping()
                .get_xip_pages(index, want, create),
        }
    }
}

impl Host for Kept<'_> {
    type Error = Error;
    type Guard<'a>
        = ()
    where
        Self: 'a;

    #[inline]
    fn shared(&self) {}
    #[inline]
    fn exclusive(&self) {}
    #[inline]
    fn size(&self) -> Result<u64, Error> {
        Ok(self.inode.size)
    }
    fn largest(&self) -> u64 {
        self.inode.size
    }
    #[inline]
    fn accessed(&self) {}
    fn will_change(&self, _: bool) -> Result<(), Error> {
        Err(FROZEN)
    }
    fn publish_size(&self, _: u64) -> Result<(), Error> {
        Err(FROZEN)
    }
    fn free_from(&self, _: PageIndex) -> Result<(), Error> {
        Err(FROZEN)
    }
    fn sync(&self, _: bool) -> Result<(), Error> {
        Ok(())
    }
}

const FROZEN: Error = Error::ReadOnly { reason: "it was opened to be read only" };

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(index: u64, first: u64, count: u64) -> Placed {
        Placed { index: PageIndex(index), run: Run { first: PageNo(first), count } }
    }

    #[test]
    fn neighbours_become_one_run_only_when_file_and_storage_both_go_on() {
        let mut runs = Vec::new();
        for next in [placed(0, 100, 12), placed(12, 112, 1024), placed(1037, 1136, 1), placed(1038, 1200, 1)] {
            add(&mut runs, next);
        }
        assert_eq!(runs, [placed(0, 100, 1036), placed(1037, 1136, 1), placed(1038, 1200, 1)]);
    }

    #[test]
    fn every_page_is_in_a_run_in_a_hole_or_unknown() {
        let runs = Runs { runs: Box::new([placed(2, 50, 3), placed(9, 7, 1)]), known: 12 };
        let storage = |first, count| Some(Extent::Storage(Run { first: PageNo(first), count }));
        assert_eq!(runs.at(0, 99), Some(Extent::Hole(2)));
        assert_eq!(runs.at(2, 99), storage(50, 3));
        assert_eq!(runs.at(4, 99), storage(52, 1));
        assert_eq!(runs.at(2, 2), storage(50, 2));
        assert_eq!(runs.at(5, 99), Some(Extent::Hole(4)));
        assert_eq!(runs.at(9, 99), storage(7, 1));
        assert_eq!(runs.at(10, 99), Some(Extent::Hole(2)));
        assert_eq!(runs.at(12, 99), None);
    }

    #[test]
    fn pages_are_in_one_run_only_when_all_are_in_the_only_one() {
        let runs = Runs { runs: Box::new([placed(2, 50, 3)]), known: 12 };
        assert_eq!(runs.in_one(1, 2), None);
        assert_eq!(runs.in_one(2, 3), Some(PageNo(50)));
        assert_eq!(runs.in_one(4, 1), Some(PageNo(52)));
        assert_eq!(runs.in_one(4, 2), None);
        assert_eq!(runs.in_one(5, 1), None);
        assert_eq!(runs.in_one(4, u64::MAX), None);
        assert_eq!(Runs { runs: Box::new([placed(0, 50, 3), placed(9, 7, 1)]), known: 12 }.in_one(0, 1), None);
        assert_eq!(Runs::none().in_one(0, 1), None);
    }
}
