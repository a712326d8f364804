//! Which pages of a file the kernel was given.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use xip::PAGE_BYTES;

/// More ranges than this become one.
pub(crate) const MOST: usize = 1024;

/// Ranges of bytes, of whole pages, by their starts; none touches another.
#[derive(Debug, Default)]
pub(crate) struct Ranges(Mutex<BTreeMap<u64, u64>>);

impl Ranges {
    fn ranges(&self) -> MutexGuard<'_, BTreeMap<u64, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The kernel has the pages of `[offset, offset + len)`.
    pub(crate) fn add(&self, offset: u64, len: u64) {
        let mut start = offset / PAGE_BYTES * PAGE_BYTES;
        let mut end = offset.saturating_add(len).checked_next_multiple_of(PAGE_BYTES).unwrap_or(u64::MAX);
        let mut ranges = self.ranges();
        while let Some((&before, &until)) = ranges.range(..=end).next_back()
            && until >= start
        {
            ranges.remove(&before);
            (start, end) = (start.min(before), end.max(until));
        }
        ranges.insert(start, end);
        if ranges.len() > MOST
            && let (Some((&first, _)), Some((_, &last))) = (ranges.first_key_value(), ranges.last_key_value())
        {
            *ranges = BTreeMap::from([(first, last)]);
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.ranges().len()
    }

    /// The file ends at `size` now, and the kernel has let go of all pages beyond.
    pub(crate) fn cut(&self, size: u64) {
        let end = size.checked_next_multiple_of(PAGE_BYTES).unwrap_or(u64::MAX);
        let mut ranges = self.ranges();
        ranges.split_off(&end);
        if let Some(mut last) = ranges.last_entry() {
            *last.get_mut() = end.min(*last.get());
        }
    }

    pub(crate) fn into_inner(self) -> impl Iterator<Item = Range<u64>> {
        let ranges = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        ranges.into_iter().map(|(start, end)| start..end)
    }

    /// The first range that ends after `offset`.
    pub(crate) fn from(&self, offset: u64) -> Option<Range<u64>> {
        let ranges = self.ranges();
        let before = ranges.range(..=offset).next_back().filter(|(_, end)| **end > offset);
        before.or_else(|| ranges.range(offset..).next()).map(|(start, end)| *start..*end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In pages.
    fn all(given: &Ranges) -> Vec<(u64, u64)> {
        let pages = |n: u64| n / PAGE_BYTES;
        given.ranges().iter().map(|(start, end)| (pages(*start), pages(*end))).collect()
    }

    #[test]
    fn ranges_are_of_whole_pages_and_none_touches_another() {
        let given = Ranges::default();
        let page = PAGE_BYTES;
        given.add(10 * page + 1, 1);
        given.add(20 * page, 2 * page);
        assert_eq!(all(&given), [(10, 11), (20, 22)]);
        given.add(11 * page, page);
        given.add(19 * page + 5, page);
        assert_eq!(all(&given), [(10, 12), (19, 22)]);
        given.add(11 * page, 20 * page);
        assert_eq!(all(&given), [(10, 31)]);
        assert_eq!(given.from(0), Some(10 * page..31 * page));
        assert_eq!(given.from(30 * page), given.from(0));
        assert_eq!(given.from(31 * page), None);
        given.add(40 * page, 1);
        given.cut(20 * page + 1);
        assert_eq!(all(&given), [(10, 21)]);
        given.cut(5);
        assert_eq!(all(&given), []);
        given.add(u64::MAX, 5);
        assert_eq!(given.from(u64::MAX - 1).map(|range| range.end), Some(u64::MAX));
    }

    #[test]
    fn there_is_a_bound() {
        let given = Ranges::default();
        for n in 0..=MOST as u64 {
            given.add(2 * n * PAGE_BYTES, 1);
        }
        assert_eq!(all(&given), [(0, 2 * MOST as u64 + 1)]);
    }
}
