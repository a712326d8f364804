//! `cargo xtask bench`: one run of everything that is measured, written to `docs/benchmarks.md` and a chart.

mod bed;
mod build;
mod chart;
mod programs;
mod reads;
mod report;
mod series;

use anyhow::Result;
use bed::Bed;

/// Measures all and writes the page.
pub(crate) fn run_all() -> Result<()> {
    let mut bed = Bed::make()?;
    println!("bench: building images");
    let mut comparisons = vec![build::compare(&bed)?];
    println!("bench: reading");
    comparisons.extend(reads::compare(&mut bed)?);
    println!("bench: programs");
    comparisons.extend(programs::starts(&bed)?);
    comparisons.extend(programs::whole_runs(&bed)?);
    comparisons.extend(programs::steady(&bed)?);
    report::write(&comparisons)
}
