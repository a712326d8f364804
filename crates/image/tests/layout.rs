//! The rules of the layout, on trees of any sizes.

use proptest::prelude::*;
use std::ops::Range;
use xip_core::Run;
use xip_image::layout::{HUGE, Layout, Short, place};

const GROUP: u64 = 32_768;
/// What the format takes of each group in these tests: a bitmap or two and an inode table.
const FORMAT: u64 = 180;
const MOST: u64 = GROUP - HUGE;

/// The free ranges of a volume of `pages` pages, `names` of which names took at the front.
fn free(pages: u64, names: u64) -> Vec<Range<u64>> {
    let mut names = names;
    let mut ranges = Vec::new();
    for start in (0..pages).step_by(GROUP as usize) {
        let end = pages.min(start + GROUP);
        let first = (start + FORMAT).min(end);
        let taken = names.min(end - first);
        names -= taken;
        ranges.push(first + taken..end);
    }
    ranges
}

/// The smallest volume that holds the files, as the builder looks for it.
fn smallest(files: &[u64], pointers: u64) -> (u64, Layout) {
    let content: u64 = files.iter().sum();
    let mut pages = (content + pointers).next_multiple_of(HUGE);
    loop {
        match place(&free(pages, 100), pointers, files, HUGE, MOST) {
            Ok(layout) => return (pages, layout),
            Err(Short(_)) => pages += HUGE,
        }
    }
}

fn check_rules(files: &[u64], layout: &Layout, free: &[Range<u64>], pointers: u64) {
    let inside = |start: u64, end: u64| free.iter().any(|range| range.start <= start && end <= range.end);
    let mut taken: Vec<(u64, u64)> = layout.pointers.iter().map(|range| (range.start, range.end)).collect();
    assert_eq!(layout.pointers.iter().map(|r| r.end - r.start).sum::<u64>(), pointers);
    for (n, runs) in layout.runs.iter().enumerate() {
        let pages = files[n];
        assert_eq!(runs.iter().map(|run| run.count).sum::<u64>(), pages, "file {n} has all its pages");
        if pages <= MOST {
            assert!(runs.len() <= 1, "file {n} of {pages} pages is in {} runs", runs.len());
        } else {
            let mut groups: Vec<u64> = runs.iter().map(|run| run.first.0 / GROUP).collect();
            groups.dedup();
            assert_eq!(groups.len(), runs.len(), "file {n} is cut more than once in a group");
        }
        for (k, run) in runs.iter().enumerate() {
            if pages >= HUGE {
                assert_eq!(run.first.0 % HUGE, 0, "file {n} starts between 2 MiB boundaries");
            }
            assert!(k + 1 == runs.len() || run.count % HUGE == 0, "file {n} is cut inside a page of 2 MiB");
            taken.push((run.first.0, run.first.0 + run.count));
        }
    }
    taken.sort_unstable();
    for pair in taken.windows(2) {
        assert!(pair[0].1 <= pair[1].0, "{pair:?} overlap");
    }
    for &(start, end) in &taken {
        assert!(inside(start, end), "{start}..{end} is not in the free room");
    }
    let room: u64 = free.iter().map(|range| range.end - range.start).sum();
    assert_eq!(layout.free, room - taken.iter().map(|(start, end)| end - start).sum::<u64>());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_file_is_one_run_and_large_ones_start_on_2_mib(
        small in prop::collection::vec(0u64..HUGE, 0..400),
        large in prop::collection::vec(HUGE..3 * GROUP, 0..8),
        pointers in 0u64..3000,
    ) {
        let files: Vec<u64> = small.into_iter().chain(large).collect();
        let (pages, layout) = smallest(&files, pointers);
        check_rules(&files, &layout, &free(pages, 100), pointers);
    }

    /// As in a tree of programs: most bytes in small and middling files, a few large ones.
    #[test]
    fn an_image_is_dense_when_small_files_can_fill_the_gaps(
        small in prop::collection::vec(prop_oneof![8 => 1u64..8, 3 => 8u64..64, 1 => 64u64..HUGE], 1500..4000),
        large in prop::collection::vec(HUGE..6000, 0..20),
    ) {
        let files: Vec<u64> = small.into_iter().chain(large).collect();
        let (pages, layout) = smallest(&files, 100);
        let content: u64 = files.iter().sum();
        // Half a page of 2 MiB on average is lost to the multiple of 2 MiB, at most one.
        prop_assert!(layout.free <= content * 3 / 100 + HUGE, "{} of {pages} pages free, content {content}", layout.free);
    }

    #[test]
    fn the_layout_depends_on_nothing_but_its_input(
        files in prop::collection::vec(0u64..5000, 0..100),
    ) {
        prop_assert_eq!(smallest(&files, 7), smallest(&files, 7));
    }
}

#[test]
fn a_file_larger_than_a_group_is_cut_once_per_group() {
    let files = [3 * GROUP];
    let (pages, layout) = smallest(&files, 10);
    check_rules(&files, &layout, &free(pages, 100), 10);
    assert_eq!(layout.runs[0].len(), 4, "{:?}", layout.runs[0]);
    assert!(matches!(layout.runs[0][0], Run { count: MOST, .. }));
}

#[test]
fn room_that_does_not_do_says_by_how_much() {
    assert_eq!(place(&free(HUGE, 0), 0, &[100, 1000], HUGE, MOST), Err(Short(1000)));
}
