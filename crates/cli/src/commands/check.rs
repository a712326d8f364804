//! `xip check`: what is wrong with an image, and its repair.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;
use xip_ext2::check::{Class, Finding, Summary};
use xip_segment::Segment;

use super::segments;
use crate::failure::{Failure, NOT_AS_IT_SHOULD_BE};
use crate::output::{Output, count, printable};

const HELP: &str = "\
What is found is a leak, which a crash may leave and which `--repair` mends, or damage, which no crash leaves. \
To mend a leak is to free what no name leads to, and to correct counts. An image with damage is not mended at all.\n\n\
Exit codes:
  0  nothing is wrong, or all of it was mended
  1  it could not be checked
  2  the command line makes no sense
  4  something is wrong and not mended (as of e2fsck)\n\n\
Examples:
  xip check debian.xip
  xip check debian.xip --repair
  xip check debian.xip --json | jq -r '.findings[].code' | sort | uniq -c
  xip check debian.xip --quiet && xip load debian.xip";

/// Findings of a class that are printed for people, and for programs. Volumes from strangers can have billions.
const LINES: usize = 100;
const RECORDS: usize = 100_000;

const WITH_DAMAGE: &str = "Build or copy the image again, or let `e2fsck -f` repair it, which can lose files";

/// Find what is wrong with an image, and repair it
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// The image, or a segment if there is one of that name
    #[arg(value_name = "IMAGE|SEGMENT")]
    source: PathBuf,

    /// Mend what a crash may leave, if nothing else is wrong. Nobody else may use the image meanwhile
    #[arg(long)]
    repair: bool,

    /// Print as JSON
    #[arg(long)]
    json: bool,

    /// Print no result: the exit code says it
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,
}

/// What was found, as much of it as is printed.
struct Found {
    findings: Vec<Finding>,
    left_out: u64,
    summary: Summary,
}

impl Args {
    pub(crate) fn run(self, output: Output) -> Result<ExitCode, Failure> {
        let segment = segments::found(&self.source)?;
        let found = match &segment {
            Some(segment) if self.repair && !segment.info().exclusive => return Err(sealed(segment)),
            Some(segment) => {
                let device = if self.repair { segment.device_writable()? } else { segment.device()? };
                self.gather(|report| xip_image::check_device(&device, Path::new(segment.name()), self.repair, report))
            }
            None => self.gather(|report| xip_image::check(&self.source, self.repair, report)),
        };
        let found = found.map_err(|error| self.failure(error))?;
        if self.json {
            output.json(&self.document(&found))?;
        } else if !self.quiet {
            self.print(&found, segment.as_ref(), output)?;
        }
        Ok(if found.summary.is_clean() { ExitCode::SUCCESS } else { ExitCode::from(NOT_AS_IT_SHOULD_BE) })
    }

    fn gather<E>(&self, check: impl FnOnce(&mut dyn FnMut(&Finding)) -> Result<Summary, E>) -> Result<Found, E> {
        let most = if self.json { RECORDS } else { LINES };
        let (mut findings, mut left_out, mut room) = (Vec::new(), 0, [most; 2]);
        // Each class has room of its own: many leaks are not to hide the damage for which they are not mended.
        let summary = check(&mut |finding| match &mut room[usize::from(finding.class() == Class::Damage)] {
            0 => left_out += 1,
            room => {
                *room -= 1;
                findings.push(*finding);
            }
        })?;
        Ok(Found { findings, left_out, summary })
    }

    fn failure(&self, error: xip_image::Error) -> Failure {
        use rustix::io::Errno;
        let errno = Errno::from_raw_os_error(error.errno());
        let failure = Failure::from(error);
        match errno {
            Errno::ACCESS | Errno::PERM if self.repair => {
                failure.remedy("check it without --repair, or repair it as its owner")
            }
            Errno::ROFS if self.repair => failure.remedy("repair a copy of it at a place that can be written"),
            _ => failure,
        }
    }

    fn document(&self, found: &Found) -> serde_json::Value {
        let Found { findings, left_out, summary } = found;
        let findings = findings.iter().map(|finding| {
            json!({
                "class": word(finding.class()),
                "code": finding.code(),
                "inode": finding.inode(),
                "block": finding.block(),
                "what": finding.to_string(),
            })
        });
        json!({
            "source": self.source.to_string_lossy(),
            "clean": summary.is_clean(),
            "mended": summary.mended,
            "leaks": summary.leaks,
            "damages": summary.damages,
            "findings": findings.collect::<Vec<_>>(),
            "findings_left_out": left_out,
        })
    }

    fn print(&self, found: &Found, segment: Option<&Segment>, output: Output) -> Result<(), Failure> {
        let Found { findings, left_out, summary } = found;
        let paint = output.paint;
        for finding in findings {
            let class = match finding.class() {
                Class::Damage => paint.red("damage"),
                Class::Leak if summary.mended => paint.green("mended"),
                Class::Leak => paint.bold("leak  "),
            };
            output.line(format!("{class}  {finding}"))?;
        }
        if *left_out > 0 {
            output.line(format!("... and {left_out} more; --json has up to {RECORDS} of each class"))?;
        }
        let (leaks, damages) = (count(summary.leaks, "leak", "leaks"), count(summary.damages, "damage", "damages"));
        let sum = match (summary.damages, summary.leaks) {
            (0, 0) => paint.green("clean"),
            (0, _) if summary.mended => format!("{leaks}, {}", paint.green("all mended")),
            (0, _) => match segment {
                Some(segment) if !segment.info().exclusive => format!("{leaks}, not mended: {}", from_image(segment)),
                _ => format!("{leaks}, not mended: --repair mends all of it"),
            },
            (_, 0) => format!("{damages}, not mended. {WITH_DAMAGE}"),
            (_, _) => format!(
                "{damages} and {leaks}, nothing mended: what seems leaked may be what the damage has cut off. {WITH_DAMAGE}"
            ),
        };
        output.line(format!("{}: {sum}", printable(&self.source.to_string_lossy())))
    }
}

fn word(class: Class) -> &'static str {
    match class {
        Class::Leak => "leak",
        Class::Damage => "damage",
    }
}

/// Nobody can write to a segment; its image is a file.
fn sealed(segment: &Segment) -> Failure {
    Failure::new(format!(
        "the segment {} is sealed: nobody can change it, and so it cannot be repaired",
        segment.name()
    ))
    .remedy(from_image(segment))
}

fn from_image(segment: &Segment) -> String {
    let (name, image) = (segment.name(), printable(&segment.info().image.to_string_lossy()));
    format!("`xip check --repair {image}`, then `xip rm {name}` and `xip load {image} --name {name}`")
}
