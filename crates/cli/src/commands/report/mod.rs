//! `xip report`: what the same work costs in so many guests and processes, in place and not.

mod curve;
mod html;
mod measure;

use std::path::PathBuf;

use serde::Serialize;
use xip_vm::Attach;

use super::vm::machine::{Attachment, Machine, say_if_slow, segment};
use crate::failure::{Failure, USAGE};
use crate::output::{NewFile, Output, Table, count, size};
use crate::progress::Progress;
use crate::signals::Interrupt;
use curve::{Curve, Host, Point};
use measure::Bench;

const HELP: &str = "\
Runs the same work in 1, 2, 4 and 8 guests (or as --guests says) that have the image as a disk, in as many that have it in place, and in as \
many processes of this machine, and says what each costs when the work has ended: in memory of this machine \
(/proc/PID/smaps), and in the guests' own view. docs/guests.md says how it is counted.\n\n\
The work is PROGRAM; without one, python3, perl, git and gcc, as far as the image has them. Its output is not shown.\n\n\
Examples:
  xip report debian
  xip report debian --guests 1,2,4 --html report.html -- python3 -c 'import json'
  xip report debian --json | jq .break_even";

/// Measure what guests and processes cost, in place and not
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// A segment, or an image
    #[arg(value_name = "IMAGE|SEGMENT")]
    source: PathBuf,

    /// The work: a program and its arguments
    #[arg(value_name = "PROGRAM", trailing_var_arg = true)]
    program: Vec<String>,

    /// How many guests, in rising order
    #[arg(long, value_name = "N,N,...", value_delimiter = ',', default_value = "1,2,4,8",
          value_parser = clap::value_parser!(u16).range(1..=256))]
    guests: Vec<u16>,

    /// Write a page with charts, which needs nothing else
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    #[command(flatten)]
    machine: Machine,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The work when none is named: what the image has of the programs that most images have.
const WORK: [&str; 3] = [
    "sh",
    "-c",
    "python3 -c 'import json, re, ssl'; perl -MPOSIX -e 1; git --version; echo 'int main(void){return 0;}' | gcc -x c -fsyntax-only -; true",
];

#[derive(Serialize)]
pub(crate) struct Report {
    segment: String,
    /// Bytes of the image; in place they are in memory once, used or not.
    size: u64,
    work: Vec<String>,
    /// Guests are emulated: QEMU's translated code is part of what they cost.
    emulated: bool,
    /// Memory given to each guest, in bytes.
    memory: u64,
    #[serde(flatten)]
    curve: Curve,
}

impl Args {
    pub(crate) fn run(self, output: Output) -> Result<(), Failure> {
        if !self.guests.is_sorted_by(|a, b| a < b) {
            return Err(Failure::new("--guests are not in rising order").remedy("--guests 1,2,4").with_code(USAGE));
        }
        let page = self.html.as_deref().map(NewFile::create).transpose()?;
        let (qemu, kernel) = self.machine.prerequisites()?;
        let (segment, _) = segment(&self.source, false)?;
        say_if_slow(&qemu, output);
        let work: Vec<String> =
            if self.program.is_empty() { WORK.map(str::to_owned).into() } else { self.program.clone() };
        let mut options = self.machine.options(kernel, &segment, Attachment::default());
        options.program = work.iter().map(Into::into).collect();
        let disk = if options.attach == Attach::Nvdimm { Attach::Partition } else { Attach::Disk };
        let emulated = qemu.accelerator() == xip_vm::Accelerator::Emulation;
        let memory = options.memory;
        xip_vm::check_memory(memory, segment.info().size, self.guests.iter().copied().max().unwrap_or(1).into())?;
        let interrupt = Interrupt::catch()?;
        let bench = Bench { qemu, segment, options, disk, interrupt, output };
        let mut curve = Curve::default();
        let measured = self.measure(&bench, &mut curve);
        // What was measured before something failed is worth telling.
        if curve.points.is_empty() {
            return measured;
        }
        curve.find_break_even(bench.segment.info().size);
        let report = Report {
            segment: bench.segment.name().into(),
            size: bench.segment.info().size,
            work,
            emulated,
            memory,
            curve,
        };
        if self.json { output.json(&report) } else { text(&report, output) }?;
        page.map_or(Ok(()), |page| page.write(html::page(&report).as_bytes())).and(measured)
    }

    fn measure(&self, bench: &Bench, curve: &mut Curve) -> Result<(), Failure> {
        let progress = Progress::of_steps("measuring");
        let total = self.guests.len() as u64 * 3;
        for (at, &number) in self.guests.iter().enumerate() {
            let at = at as u64 * 3;
            progress.at(at, total);
            let disk = bench.guests(bench.disk, number)?;
            progress.at(at + 1, total);
            let in_place = bench.guests(bench.options.attach, number)?;
            progress.at(at + 2, total);
            let processes = bench.processes(number)?;
            curve.points.push(Point { count: number, disk, in_place, processes });
        }
        Ok(())
    }
}

fn text(report: &Report, output: Output) -> Result<(), Failure> {
    let Report { segment, size: bytes, curve, .. } = report;
    output.line(format!("segment {segment}: {}, in memory once, used or not", size(*bytes)))?;
    let mut table = Table::new(&[
        ">guests",
        ">disk: host",
        ">a guest",
        ">its page cache",
        ">in place: host",
        ">a guest",
        ">its page cache",
        ">processes: host",
    ]);
    output.line("in place and for processes, host is what they have of their own + what of the segment they use")?;
    for point in &curve.points {
        table.row(cells(point));
    }
    output.table(&table)?;
    for line in findings(report) {
        output.line(line)?;
    }
    Ok(())
}

/// The row of a table for so many guests and processes.
fn cells(point: &Point) -> [String; 8] {
    // Their own memory, and what they use of the segment.
    let host = |host: &Host| format!("{} + {}", size(host.own), size(host.segment));
    let Point { count, disk, in_place, processes } = point;
    [
        count.to_string(),
        size(disk.host.own),
        size(disk.used),
        size(disk.cached),
        host(&in_place.host),
        size(in_place.used),
        size(in_place.cached),
        host(processes),
    ]
}

/// What follows from the figures, in words.
fn findings(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    let Some(last) = report.curve.points.last() else { return lines };
    let (disk, in_place) = (&last.disk, &last.in_place);
    let saved = i128::from(disk.used) - i128::from(in_place.used);
    let (word, bytes) = if saved < 0 { ("more", -saved) } else { ("less", saved) };
    let bytes = size(u64::try_from(bytes).unwrap_or(u64::MAX));
    let paid = in_place
        .descriptors
        .map_or(String::new(), |bytes| format!(", {} for the segment's page descriptors paid", size(bytes)));
    lines.push(format!("in its own view, a guest uses {bytes} {word} in place{paid}"));
    lines.push(match report.curve.break_even {
        Some(enough) => format!(
            "for this machine, the segment's {} pay off from {} on{}",
            size(report.size),
            count(enough, "guest", "guests"),
            if enough > u64::from(last.count) { " (calculated from the last line)" } else { "" }
        ),
        None => "for this machine, a guest in place is not cheaper: the segment's memory does not pay off".into(),
    });
    lines.push(
        "of a disk, the image's own memory in this machine is counted as nothing; in place, all of the segment".into(),
    );
    if report.emulated {
        lines.push("the guests are emulated: the host's figures have QEMU's translated code in them".into());
    }
    lines
}
