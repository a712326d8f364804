//! What has to be measured inside one process: the library beside system calls and `memcpy`, and calls on files that are
//! mounted in several ways. `cargo xtask bench` runs it and reads what it prints: lines of
//! `title <tab> goal <tab> contender <tab> seconds seconds ...`.

#![forbid(unsafe_code)]

mod calls;
mod directories;
mod mounts;
mod reads;
mod writing;

use anyhow::{Result, bail};
use std::path::Path;
use std::time::Instant;

const PAGE: usize = 4096;

fn main() -> Result<()> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(Path::new).collect();
    match arguments.split_first().and_then(|(what, rest)| Some((what.to_str()?, rest))) {
        Some(("reads", [segments, segment, tree, on_loop, on_fuse2fs])) => {
            reads::measure(segments, segment, tree, on_loop, on_fuse2fs)
        }
        Some(("writing", [scratch])) => writing::measure(scratch),
        Some(("directories", [scratch])) => directories::measure(scratch),
        Some(("mounts", [xip, on_fuse2fs, on_loop])) => mounts::measure(xip, on_fuse2fs, on_loop),
        _ => bail!(
            "wanted: reads SEGMENTS SEGMENT TREE LOOP FUSE2FS | writing SCRATCH | directories SCRATCH | \
             mounts XIP FUSE2FS LOOP"
        ),
    }
}

/// What `each` takes for one of `items`, in seconds.
fn per_item<T>(items: &[T], mut each: impl FnMut(&T) -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    for item in items {
        each(item)?;
    }
    Ok(start.elapsed().as_secs_f64() / items.len() as f64)
}

/// Lets all contenders take turns, `rounds` times after one that does not count. A turn gives a time for each of `M`
/// measures; these come back by measure, contender and round.
fn in_turns<C, const M: usize>(
    rounds: usize,
    contenders: &mut [C],
    mut turn: impl FnMut(&mut C) -> Result<[f64; M]>,
) -> Result<[Vec<Vec<f64>>; M]> {
    let mut times = [(); M].map(|()| vec![Vec::new(); contenders.len()]);
    for round in 0..=rounds {
        for (place, contender) in contenders.iter_mut().enumerate() {
            let taken = turn(contender)?;
            for (times, taken) in times.iter_mut().zip(taken).filter(|_| round > 0) {
                times[place].push(taken);
            }
        }
    }
    Ok(times)
}

/// Says what `names` took for one measure, ours first.
fn say_all(title: &str, goal: &str, names: &[&str], times: &[Vec<f64>]) {
    for (name, rounds) in names.iter().zip(times) {
        say(title, goal, name, rounds);
    }
}

fn say(title: &str, goal: &str, name: &str, rounds: &[f64]) {
    let rounds: Vec<_> = rounds.iter().map(|seconds| format!("{seconds:e}")).collect();
    println!("{title}\t{goal}\t{name}\t{}", rounds.join(" "));
}

/// The same order in every run.
fn shuffle<T>(items: &mut [T]) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for last in (1..items.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        items.swap(last, (state % (last as u64 + 1)) as usize);
    }
}

/// Offsets of all 4 KiB pages of `len` bytes, in a random order.
fn pages(len: usize) -> Vec<u64> {
    let mut offsets: Vec<_> = (0..len / PAGE).map(|page| (page * PAGE) as u64).collect();
    shuffle(&mut offsets);
    offsets
}
