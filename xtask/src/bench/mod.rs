//! `cargo xtask bench`: one run of everything that is measured, written to `docs/benchmarks.md` and a chart.

mod bed;
mod build;
mod chart;
mod guests;
mod inside;
mod interrupt;
mod programs;
mod report;
mod series;

use anyhow::Result;
use bed::Bed;
use clap::ValueEnum;

/// What is measured.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub(crate) enum Section {
    /// Making images
    Build,
    /// Reading and opening through the library
    Reads,
    /// Writing through the library
    Writing,
    /// Directories of 100,000 names, through the library
    Directories,
    /// A volume that is mounted to be written
    Mounts,
    /// Programs in place
    Programs,
    /// The first output of guests
    Guests,
}

/// Measures these, or all; only all of it, which is one run, is written to the page.
pub(crate) fn run(sections: &[Section]) -> Result<()> {
    let all = Section::value_variants();
    let sections = if sections.is_empty() { all } else { sections };
    interrupt::notice()?;
    let mut bed = Bed::make()?;
    if [Section::Build, Section::Reads, Section::Programs, Section::Guests]
        .iter()
        .any(|section| sections.contains(section))
    {
        bed.add_debian()?;
    }
    let mut comparisons = Vec::new();
    for section in all.iter().filter(|section| sections.contains(section)) {
        println!("bench: {}", section.to_possible_value().as_ref().map_or("", |value| value.get_name()));
        match section {
            Section::Build => comparisons.push(build::compare(&bed)?),
            Section::Reads => comparisons.extend(inside::reads(&mut bed)?),
            Section::Writing => comparisons.extend(inside::scratch(&bed, "writing")?),
            Section::Directories => comparisons.extend(inside::scratch(&bed, "directories")?),
            Section::Mounts => comparisons.extend(inside::mounts(&mut bed)?),
            Section::Programs => {
                comparisons.extend(programs::starts(&bed)?);
                comparisons.extend(programs::whole_runs(&bed)?);
                comparisons.extend(programs::steady(&bed)?);
            }
            Section::Guests => comparisons.extend(guests::first_output(&bed)?),
        }
    }
    report::print(&comparisons);
    if sections.len() == all.len() { report::write(&comparisons) } else { Ok(()) }
}
