//! Power is lost at any instruction (contract 7): the volume mounts, what a finished call did is there, and the call under
//! way is there wholly or not at all.
//!
//! | module | what it knows |
//! |---|---|
//! | `recorder` | a device that records every store, flush and fence |
//! | `images` | what a crash could leave of them |
//! | `tree` | what a volume should hold |
//! | `ops` | the operations, on a volume and on that tree |
//! | `base` | the volume that they begin with |
//! | `walk` | what a volume really holds, and the difference |
//! | `judge` | whether an image is one that may be left |
//! | `explore` | sequences of operations, all of their images, and the count |

mod base;
mod explore;
mod images;
mod judge;
mod ops;
mod recorder;
mod tree;
mod walk;

use explore::{Explorer, Finding};
use ops::Op;
use recorder::Event;

/// Tries all sequences, on every core.
fn explore(sequences: &[Vec<Op>], budget: usize) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let start = std::time::Instant::now();
    let explorers: Vec<(explore::Count, Vec<Finding>)> = std::thread::scope(|scope| {
        let one = |thread: usize| {
            let mut explorer = Explorer::new();
            sequences.iter().skip(thread).step_by(threads).for_each(|sequence| explorer.explore(sequence, budget));
            (explorer.count, explorer.findings)
        };
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(move || one(thread))).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let sum = |what: fn(&explore::Count) -> usize| explorers.iter().map(|(count, _)| what(count)).sum::<usize>();
    let findings: Vec<_> = explorers.iter().flat_map(|(_, findings)| findings).collect();
    println!(
        "{} sequences: {} images tried, {} of crashes in repairs, {} shown to e2fsck, {} findings, {:.1?}",
        sum(|count| count.sequences),
        sum(|count| count.images),
        sum(|count| count.in_repairs),
        sum(|count| count.shown_to_e2fsck),
        findings.len(),
        start.elapsed(),
    );
    for finding in findings.iter().take(40) {
        println!("{finding}");
    }
    assert!(findings.is_empty(), "images that no crash may leave");
}

/// The operations that are fit to be tried.
fn operations() -> Vec<Op> {
    let all = base::operations();
    for op in &all {
        if let Some(reason) = base::not_yet(op) {
            println!("not yet: {op:?}: {reason}");
        }
    }
    all.into_iter().filter(|op| base::not_yet(op).is_none() || std::env::var_os("XIP_CRASH_ALL").is_some()).collect()
}

#[test]
fn one_operation_is_there_wholly_or_not_at_all_after_a_crash() {
    let sequences: Vec<_> = operations().into_iter().map(|op| vec![op]).collect();
    explore(&sequences, 2000);
}

#[test]
fn the_second_of_two_operations_is_there_wholly_or_not_at_all_and_the_first_wholly() {
    let all = operations();
    let sequences: Vec<_> = all.iter().flat_map(|&first| all.iter().map(move |&second| vec![first, second])).collect();
    explore(&sequences, 60);
}

/// That the tests above can fail.
#[test]
fn an_operation_whose_flushes_or_fences_are_lost_is_found() {
    let lost: [(&str, explore::Lose); 2] =
        [("flushes", |event| matches!(event, Event::Flush { .. })), ("fences", |event| matches!(event, Event::Fence))];
    for op in operations() {
        for (what, lose) in lost {
            let mut explorer = Explorer::new();
            explorer.lose = lose;
            explorer.explore(&[op], 100);
            assert!(!explorer.findings.is_empty(), "{op:?} without {what}");
        }
    }
}

/// `XIP_CRASH_LONG` says how many sequences.
#[test]
fn sequences_of_three_operations_are_there_but_for_the_last() {
    let Some(count) = std::env::var("XIP_CRASH_LONG").ok().and_then(|count| count.parse().ok()) else {
        println!("for sequences of three set XIP_CRASH_LONG to their number");
        return;
    };
    let all = operations();
    let mut random = images::Random::new(3);
    let mut any = || all[random.below(all.len())];
    let sequences: Vec<_> = (0..count).map(|_| vec![any(), any(), any()]).collect();
    explore(&sequences, 100);
}
