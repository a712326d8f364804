//! What a map shows where: the pages of a file in a window of address space.

use crate::error::Result;
use crate::extents::Placed;
use xip_core::page::PAGE_BYTES;
use xip_core::{PAGE_SIZE, PageNo};
use xip_segment::{MappedFile, Part, Window};

/// The address modulo 2 MiB that the longest run asks for.
pub(super) fn phase(first: u64, placed: &[Placed]) -> u64 {
    let longest = placed.iter().max_by_key(|placed| placed.run.count);
    longest.map_or(0, |placed| placed.run.first.0.wrapping_sub(placed.index.0 - first).wrapping_mul(PAGE_BYTES))
}

/// Makes a window show what the file is: `placed` in the order of its pages, holes between, nothing from page `end` on.
pub(super) fn show(window: &mut Window, device: &MappedFile, first: u64, end: u64, placed: &[Placed]) -> Result<()> {
    let pages = window.pages();
    let end = end.saturating_sub(first).min(pages);
    let (mut page, mut left) = (0, placed);
    while page < pages {
        let (want, until) = match left {
            _ if page >= end => (Part::Nothing, pages),
            [Placed { index, run }, rest @ ..] if index.0 <= first + page => {
                let within = first + page - index.0;
                if within >= run.count {
                    left = rest;
                    continue;
                }
                (Part::Storage(PageNo(run.first.0 + within)), (page + run.count - within).min(end))
            }
            [next, ..] => (Part::Zeros, (next.index.0 - first).min(end)),
            [] => (Part::Zeros, end),
        };
        let (have, more) = window.at(page);
        let until = until.min(page.saturating_add(more));
        // What a private map has stored it keeps, as long as the file is as long.
        if have != want && (have != Part::Own || want == Part::Nothing) {
            window.place(device, page, until - page, want)?;
        }
        page = until;
    }
    Ok(())
}

/// The first hole in `[at, at + len)`: its pages there, unless something comes before it that is none.
pub(super) fn hole(window: &Window, at: usize, len: usize) -> Option<(u64, u64)> {
    let end = (at.checked_add(len)?.div_ceil(PAGE_SIZE) as u64).min(window.pages());
    let mut page = (at / PAGE_SIZE) as u64;
    // Not one page is given storage for a store that cannot be.
    let mut first = None;
    while page < end {
        let (part, more) = window.at(page);
        let next = end.min(page + more);
        match part {
            Part::Zeros => first = first.or(Some((page, next - page))),
            Part::Storage(_) => {}
            _ => return None,
        }
        page = next;
    }
    first.filter(|_| at + len <= window.pages() as usize * PAGE_SIZE)
}
