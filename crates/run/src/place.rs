//! Where a mapping of a file goes in the segment: from what was asked and what the file has, the pieces to map over it.
//! Pure: nothing is called here.

use crate::report::Reason;
use xip::{PAGE_BYTES, Placed};

/// A mapping of a file, or the part of it that may be replaced, in pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Request {
    /// The first page of the file.
    pub(crate) first: u64,
    /// How many pages.
    pub(crate) pages: u64,
    /// The last page of the mapping is not as in the file: the kernel has written to it.
    pub(crate) last_changed: bool,
}

/// What is known of a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout<'a> {
    /// Size in bytes.
    pub(crate) size: u64,
    /// Whether storage has zeros from the end of the file to the end of its last page.
    pub(crate) tail_is_zero: bool,
    /// The storage of the pages asked for, in the order of the file.
    pub(crate) runs: &'a [Placed],
}

/// A piece of the segment to map over a piece of the mapping, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Piece {
    /// From the start of the mapping.
    pub(crate) at: u64,
    pub(crate) len: u64,
    /// From the start of the segment.
    pub(crate) storage: u64,
}

/// What to do for a mapping.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Plan {
    pub(crate) pieces: Vec<Piece>,
    /// What is not replaced, though it is inside the file: reason and bytes.
    pub(crate) left: Vec<(Reason, u64)>,
}

/// The plan for `request` on a file of `layout`. Pages beyond the end of the file are in no piece and not counted:
/// their `SIGBUS` stays the kernel's (contract 4).
pub(crate) fn plan(request: Request, layout: Layout<'_>) -> Plan {
    let mut plan = Plan::default();
    let file_pages = layout.size.div_ceil(PAGE_BYTES);
    let mapped_end = request.first.saturating_add(request.pages);
    let mut end = mapped_end.min(file_pages);
    if request.last_changed && request.pages > 0 && end == mapped_end && end > request.first {
        end -= 1;
        plan.left.push((Reason::ProgramData, PAGE_BYTES));
    }
    if !layout.tail_is_zero && end == file_pages && end > request.first {
        end -= 1;
        plan.left.push((Reason::Tail, PAGE_BYTES));
    }
    let mut next = request.first;
    let mut holes = 0;
    for placed in layout.runs {
        let from = placed.index.0.max(next);
        let to = placed.index.0.saturating_add(placed.run.count).min(end);
        if from >= to {
            continue;
        }
        holes += from - next;
        plan.pieces.push(Piece {
            at: (from - request.first) * PAGE_BYTES,
            len: (to - from) * PAGE_BYTES,
            storage: (placed.run.first.0 + (from - placed.index.0)) * PAGE_BYTES,
        });
        next = to;
    }
    holes += end.saturating_sub(next);
    if holes > 0 {
        plan.left.push((Reason::Hole, holes * PAGE_BYTES));
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use xip::{PageIndex, PageNo, Run};

    fn placed(index: u64, first: u64, count: u64) -> Placed {
        Placed { index: PageIndex(index), run: Run { first: PageNo(first), count } }
    }

    fn piece(at: u64, len: u64, storage: u64) -> Piece {
        Piece { at: at * PAGE_BYTES, len: len * PAGE_BYTES, storage: storage * PAGE_BYTES }
    }

    fn of(first: u64, pages: u64) -> Request {
        Request { first, pages, last_changed: false }
    }

    #[test]
    fn a_file_in_one_run_is_one_piece() {
        let layout = Layout { size: 10 * PAGE_BYTES - 5, tail_is_zero: true, runs: &[placed(0, 100, 10)] };
        let all = plan(of(0, 10), layout);
        assert_eq!(all, Plan { pieces: vec![piece(0, 10, 100)], left: vec![] });
        assert_eq!(plan(of(3, 2), layout).pieces, [piece(0, 2, 103)]);
    }

    #[test]
    fn what_is_beyond_the_last_page_of_the_file_is_left_to_the_kernel() {
        let layout = Layout { size: PAGE_BYTES + 1, tail_is_zero: true, runs: &[placed(0, 100, 2)] };
        let beyond = plan(of(1, 5), layout);
        assert_eq!(beyond, Plan { pieces: vec![piece(0, 1, 101)], left: vec![] });
        assert_eq!(plan(of(2, 5), layout), Plan::default());
        assert_eq!(plan(of(u64::MAX, 5), layout), Plan::default());
    }

    #[test]
    fn holes_are_left_and_counted() {
        let layout = Layout { size: 12 * PAGE_BYTES, tail_is_zero: true, runs: &[placed(2, 50, 3), placed(9, 7, 1)] };
        let holes = plan(of(0, 12), layout);
        assert_eq!(holes.pieces, [piece(2, 3, 50), piece(9, 1, 7)]);
        assert_eq!(holes.left, [(Reason::Hole, 8 * PAGE_BYTES)]);
        assert_eq!(plan(of(3, 3), layout).pieces, [piece(0, 2, 51)]);
        assert_eq!(plan(of(5, 4), layout).left, [(Reason::Hole, 4 * PAGE_BYTES)]);
    }

    #[test]
    fn a_last_page_with_other_bytes_behind_the_end_is_left() {
        let layout = Layout { size: 2 * PAGE_BYTES + 7, tail_is_zero: false, runs: &[placed(0, 100, 3)] };
        assert_eq!(plan(of(0, 3), layout).pieces, [piece(0, 2, 100)]);
        assert_eq!(plan(of(0, 9), layout).left, [(Reason::Tail, PAGE_BYTES)]);
        assert_eq!(plan(of(0, 2), layout), Plan { pieces: vec![piece(0, 2, 100)], left: vec![] });
        assert_eq!(plan(of(2, 1), layout).pieces, []);
    }

    #[test]
    fn the_page_that_the_kernel_has_written_to_is_left() {
        let layout = Layout { size: 9 * PAGE_BYTES, tail_is_zero: true, runs: &[placed(0, 100, 9)] };
        let data = plan(Request { last_changed: true, ..of(4, 3) }, layout);
        assert_eq!(data.pieces, [piece(0, 2, 104)]);
        assert_eq!(data.left, [(Reason::ProgramData, PAGE_BYTES)]);
    }
}
