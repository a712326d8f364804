//! The figures as a page: tables in `docs/benchmarks.md`, a chart in `docs/benchmarks.svg`.

use super::chart;
use super::series::{Comparison, Series};
use crate::process::{command, output};
use anyhow::Result;
use std::fmt::Write;
use std::fs;

/// Prints the tables.
pub(crate) fn print(comparisons: &[Comparison]) {
    println!("{}", comparisons.iter().map(table).collect::<String>());
}

/// Writes both files.
pub(crate) fn write(comparisons: &[Comparison]) -> Result<()> {
    let docs = crate::workspace().join("docs");
    let tables: String = comparisons.iter().map(table).collect();
    fs::write(docs.join("benchmarks.svg"), chart::draw(comparisons))?;
    fs::write(docs.join("benchmarks.md"), format!("{}{tables}", introduction()?))?;
    println!("bench: docs/benchmarks.md and docs/benchmarks.svg are written");
    Ok(())
}

fn introduction() -> Result<String> {
    let date = output(command("date").args(["-u", "+%Y-%m-%d"]))?;
    let kernel = output(command("uname").arg("-sr"))?;
    let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
    let models = cpuinfo.lines().filter_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = models.map(|(_, model)| model).next().unwrap_or("unknown");
    let processors = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    Ok(format!(
        "\
# Benchmarks

One run of `cargo xtask bench` on {date}: {processors} processors ({model}), {kernel}. This page and the chart are written
by that command.

![The same figures as bars](benchmarks.svg)

How it is measured: all contenders of a table take turns, round by round, after a round that does not count. A figure is
the median of the rounds; a ratio is the median of the ratios of rounds that stood next to each other, so that whatever
else the machine did falls on both. Everything stands in memory (tmpfs, a segment, the page cache), all caches are warm
unless a row says cold: what is compared is the work, not a disk.

* **Build**: the tree of `cargo xtask rootfs` lies on disk and in the page cache, the image is written to tmpfs.
* **Reads**: the largest file of the tree, read through the library, in one process, from the segment; through system
  calls from tmpfs, and from the same image mounted by the kernel (`loop`) and by `fuse2fs`. `memcpy` copies the same
  bytes of the same segment. *Cold*: the mount's page cache of the file is dropped before each round, as it is when a
  program is the first to use the file; a segment has no such state.
* **open + stat**: 500 files whose path is five deep, in random order; from tmpfs by `openat`, `statx` and `close`.
* **Library, writing**: the same calls on a new volume whose image is on tmpfs, and on tmpfs; paths are two deep. A new file is
  closed at once. The directory of 100,000 names is on one volume with a thousand directories of 100 names each, so that the
  processor's caches hold as little of either, and with a single one of 100, all of which they hold. Names are in random order, and
  are given with their directory's number. A file that is appended to was cut to nothing just before. Both files are tried at a length that
  the processor's caches hold, and at one where all who write wait for memory; `memcpy` copies the same bytes to memory of tmpfs,
  which is what nobody who writes can spare.
* **Mount**: copies of one volume of `mke2fs`, on tmpfs, mounted to be written. A `stat` is of a file that was used 1.1 s ago, as
  most are (`fuse2fs` lets the kernel remember for 1 s, `xip mount` for ever), or of one of which the kernel has
  forgotten name and inode (`drop_caches`). 4 KiB are written where the file has storage, and read without read-ahead. What is
  *cold* is not in the mount's page cache, but in the image's.
* **Start-up**: a shell that already runs in place (or in the chroot) starts the program 100 times. **One run** is the
  whole command from outside, with the namespaces, the mount and the tracer that `xip run` sets up for it.
* **Steady work**: timed by a shell that already runs there.

",
        date = date.trim(),
        kernel = kernel.trim(),
    ))
}

fn table(comparison: &Comparison) -> String {
    let Some((ours, others)) = comparison.series.split_first() else { return String::new() };
    let mut table =
        format!("## {}\n\n| | median | {} takes | goal |\n|---|---:|---:|---|\n", comparison.title, ours.name);
    let _ = writeln!(table, "| **{}** | {} | | |", ours.name, time(ours.median()));
    for other in others {
        let ratio = ours.ratio(other);
        let _ = writeln!(
            table,
            "| {} | {} | {ratio:.2} × | {} |",
            other.name,
            time(other.median()),
            goal(comparison, other, ratio)
        );
    }
    table.push('\n');
    table
}

fn goal(comparison: &Comparison, other: &Series, ratio: f64) -> String {
    match &comparison.goal {
        Some(goal) if goal.against == other.name => {
            let judgement = if ratio <= goal.at_most { "met" } else { "**not met**" };
            format!("at most {} ×: {judgement}", goal.at_most)
        }
        _ => String::new(),
    }
}

/// A time with three digits and a unit a person can compare.
pub(crate) fn time(seconds: f64) -> String {
    let (value, unit) = match seconds {
        s if s < 1e-6 => (s * 1e9, "ns"),
        s if s < 1e-3 => (s * 1e6, "µs"),
        s if s < 1.0 => (s * 1e3, "ms"),
        s => (s, "s"),
    };
    let digits = if value < 10.0 {
        2
    } else if value < 100.0 {
        1
    } else {
        0
    };
    format!("{value:.digits$} {unit}")
}
