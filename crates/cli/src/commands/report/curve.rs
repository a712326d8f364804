//! The figures, and what follows from them. All in bytes.

use serde::Serialize;

/// What guests or processes cost this machine.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize)]
pub(super) struct Host {
    /// Their own memory, all together: `Pss` without the segment's part.
    pub(super) own: u64,
    /// Pages of the segment that any of them has in its page tables, each counted once.
    pub(super) segment: u64,
}

/// What so many guests cost.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize)]
pub(super) struct Guests {
    pub(super) host: Host,
    /// In its own view, what a guest uses of the memory it was given; the mean.
    pub(super) used: u64,
    /// Of that, its page cache for the volume; the mean.
    pub(super) cached: u64,
    /// Of that, what the segment's page descriptors take.
    pub(super) descriptors: Option<u64>,
}

/// What so many of each cost.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize)]
pub(super) struct Point {
    pub(super) count: u16,
    pub(super) disk: Guests,
    pub(super) in_place: Guests,
    pub(super) processes: Host,
}

#[derive(Clone, Default, Debug, Serialize)]
pub(super) struct Curve {
    pub(super) points: Vec<Point>,
    /// So many guests cost this machine less in place, with the whole segment, than as many with a disk.
    pub(super) break_even: Option<u64>,
}

impl Curve {
    /// From the largest number that was measured: a guest's own memory with a disk less that in place pays for the segment of
    /// `size` bytes. The disk's own memory, as in this machine's page cache, is not counted: it may be somewhere else.
    pub(super) fn find_break_even(&mut self, size: u64) {
        let Some(last) = self.points.last() else { return };
        let gain = last.disk.host.own.saturating_sub(last.in_place.host.own) / u64::from(last.count.max(1));
        self.break_even = (gain > 0).then(|| size.div_ceil(gain).max(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_segment_is_paid_for_by_what_each_guest_saves() {
        let host = |own| Guests { host: Host { own, segment: 7 }, ..Guests::default() };
        let mut curve = Curve::default();
        curve.find_break_even(100);
        assert_eq!(curve.break_even, None);
        curve.points.push(Point { count: 2, disk: host(100), in_place: host(40), ..Point::default() });
        // 30 for each guest: three pay 90, four 120.
        curve.find_break_even(100);
        assert_eq!(curve.break_even, Some(4));
        curve.points.push(Point { count: 4, disk: host(100), in_place: host(100), ..Point::default() });
        curve.find_break_even(100);
        assert_eq!(curve.break_even, None, "nothing is saved");
    }
}
