//! Where the data of each file stands: a pure function of sizes.
//!
//! ```text
//!   group 0                                            group 1
//!   ┌──────┬─────────────┬──┬─────────────────┬───┬────┬──────┬──┬────────────
//!   │format│ directories │··│ large file      │···│ l… │format│··│ large file
//!   │      │ and pointers│  │ (2 MiB bounds)  │   │    │      │  │
//!   └──────┴─────────────┴──┴─────────────────┴───┴────┴──────┴──┴────────────
//!                          └ small files ┘      └ small files ┘
//! ```
//!
//! Three rules, the earlier stronger: data is one run unless no group could hold it; what is large starts where a page
//! of 2 MiB can start; nothing is wasted that a smaller file could fill.

use std::collections::BTreeSet;
use std::ops::Range;
use xip_core::{PageNo, Run};

/// Pages of 4096 bytes in a page of 2 MiB.
pub const HUGE: u64 = 512;

/// Where everything stands.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Layout {
    /// The runs of each file, in order of its pages.
    pub runs: Vec<Vec<Run>>,
    /// The blocks of pointers, for all files together; each a part of one free range.
    pub pointers: Vec<Range<u64>>,
    /// Pages that stay free.
    pub free: u64,
}

/// The room does not do; this many pages found no place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Short(pub u64);

/// Places files of `files[n]` pages, and `pointers` blocks of pointers, into `free`: ranges in ascending order, none of
/// which reaches from one block group into the next. Files of `large` pages and more start on a 2 MiB boundary; those
/// of more than `most` pages, which is what an empty group has room for, are cut.
///
/// # Errors
/// [`Short`].
pub fn place(free: &[Range<u64>], pointers: u64, files: &[u64], large: u64, most: u64) -> Result<Layout, Short> {
    let mut layout = Layout { runs: vec![Vec::new(); files.len()], ..Layout::default() };
    let mut room = Room::default();
    // Pointers first, at the front, where the names are: what is read together stands together.
    let mut left = pointers;
    for range in free {
        let taken = left.min(range.end - range.start);
        left -= taken;
        if taken > 0 {
            layout.pointers.push(range.start..range.start + taken);
        }
        room.give(range.start + taken..range.end);
    }
    let mut short = left;

    // The largest first: what comes later is smaller and fits more places.
    let mut order: Vec<usize> = (0..files.len()).filter(|&n| files[n] > 0).collect();
    order.sort_by_key(|&n| (std::cmp::Reverse(files[n]), n));
    for n in order {
        let pages = files[n];
        let placed = if pages > most {
            room.take_cut(pages)
        } else if pages >= large {
            room.take(pages, HUGE).map(|run| vec![run])
        } else {
            room.take(pages, 1).map(|run| vec![run])
        };
        match placed {
            Some(runs) => layout.runs[n] = runs,
            None => short += pages,
        }
    }
    if short > 0 {
        return Err(Short(short));
    }
    layout.free = room.by_start.iter().map(|&(start, end)| end - start).sum();
    Ok(layout)
}

/// Free ranges, by place and by size.
#[derive(Default)]
struct Room {
    by_start: BTreeSet<(u64, u64)>,
    /// What is left from the first 2 MiB boundary in a range on, and the start of that range; only ranges that have one.
    by_aligned: BTreeSet<(u64, u64, u64)>,
    by_size: BTreeSet<(u64, u64)>,
}

impl Room {
    fn give(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        self.by_start.insert((range.start, range.end));
        self.by_size.insert((range.end - range.start, range.start));
        if let Some(aligned) = aligned(&range) {
            self.by_aligned.insert((aligned, range.start, range.end));
        }
    }

    fn remove(&mut self, range: &Range<u64>) {
        self.by_start.remove(&(range.start, range.end));
        self.by_size.remove(&(range.end - range.start, range.start));
        if let Some(aligned) = aligned(range) {
            self.by_aligned.remove(&(aligned, range.start, range.end));
        }
    }

    /// `pages` pages in one run from a multiple of `align` (1 or [`HUGE`]) on, from the range that this fills best.
    fn take(&mut self, pages: u64, align: u64) -> Option<Run> {
        let range = if align == 1 {
            let &(size, start) = self.by_size.range((pages, 0)..).next()?;
            start..start + size
        } else {
            let &(_, start, end) = self.by_aligned.range((pages, 0, 0)..).next()?;
            start..end
        };
        Some(self.carve(&range, range.start.next_multiple_of(align), pages))
    }

    /// Whole pages of 2 MiB from one range after the other, then what is left: for what no group can hold.
    fn take_cut(&mut self, pages: u64) -> Option<Vec<Run>> {
        let ranges: Vec<Range<u64>> = self.by_start.iter().map(|&(start, end)| start..end).collect();
        let mut plan = Vec::new();
        let mut left = pages;
        for range in ranges {
            let room = aligned(&range).unwrap_or(0);
            // Only the last part may end inside a page of 2 MiB: else the parts after it could not be mapped by such.
            let part = if room >= left { left } else { room / HUGE * HUGE };
            if part > 0 {
                plan.push((range, part));
                left -= part;
            }
            if left == 0 {
                break;
            }
        }
        (left == 0).then(|| {
            plan.into_iter().map(|(range, part)| self.carve(&range, range.start.next_multiple_of(HUGE), part)).collect()
        })
    }

    fn carve(&mut self, range: &Range<u64>, start: u64, pages: u64) -> Run {
        self.remove(range);
        self.give(range.start..start);
        self.give(start + pages..range.end);
        Run { first: PageNo(start), count: pages }
    }
}

/// Pages of a range from its first 2 MiB boundary on.
fn aligned(range: &Range<u64>) -> Option<u64> {
    let start = range.start.checked_next_multiple_of(HUGE)?;
    range.end.checked_sub(start).filter(|&pages| pages > 0)
}
