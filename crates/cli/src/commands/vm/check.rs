//! `xip vm check`: whether a guest has the volume in place, by the word of its own kernel.

use std::ffi::OsString;
use std::io;
use std::net::Shutdown;
use std::path::PathBuf;
use std::thread;

use serde::Serialize;
use xip_vm::{End, Ended, Figures, Guest, Options, Sample};

use super::machine::{Attachment, Machine, how, say_if_slow, segment};
use super::run::carry;
use crate::failure::{Failure, NOT_AS_IT_SHOULD_BE};
use crate::output::{Output, count, printable, size};

const HELP: &str = "\
Starts one guest, as `xip vm run` does, and says what its kernel says: how the volume is mounted; of a sample of files, \
whether they are in place (STATX_ATTR_DAX); how many parts of 2 MiB of large files are mapped as one; what the guest's page cache \
has of the volume, before and after the work; what the guest pays for the segment's page descriptors.\n\n\
The work is PROGRAM; its output goes to standard error. Without one, nothing is run.\n\n\
Exit codes:
  0  everything looked at is in place
  1  it could not be looked at: the guest or the work failed, or the volume could not be mounted
  2  the command line makes no sense
  4  something is not in place\n\n\
Examples:
  xip vm check debian
  xip vm check debian -- python3 -c 'import json'
  xip vm check debian --files 100000 --list | grep 'not in place'
  xip vm check debian --json | jq .after";

/// Check that a guest executes a segment in place
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// A segment, or an image
    #[arg(value_name = "IMAGE|SEGMENT")]
    source: PathBuf,

    /// The work: a program and its arguments
    #[arg(value_name = "PROGRAM", trailing_var_arg = true)]
    program: Vec<OsString>,

    /// How many files to look at, at most, evenly chosen
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    files: u32,

    /// Print each file that was looked at (`--json` always has them)
    #[arg(long)]
    list: bool,

    #[command(flatten)]
    machine: Machine,

    #[command(flatten)]
    attachment: Attachment,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Checked {
    segment: String,
    in_place: bool,
    /// Of the mount, as they came out.
    options: String,
    sample: Sample,
    before: Figures,
    after: Figures,
}

impl Args {
    pub(crate) fn run(self, output: Output) -> Result<(), Failure> {
        let (qemu, kernel) = self.machine.prerequisites()?;
        let (segment, _) = segment(&self.source, false)?;
        say_if_slow(&qemu, output);
        let options = Options {
            program: self.program.clone(),
            sample: Some(self.files),
            ..self.machine.options(kernel, &segment, self.attachment)
        };
        let (mut guest, streams) = Guest::start(&qemu, segment.fd(), segment.info().size, &options)?;
        let carried = [streams.output, streams.errors].map(|stream| thread::spawn(|| carry(stream, io::stderr())));
        let mounted = guest.mounted()?;
        guest.started()?;
        let _ = streams.input.shutdown(Shutdown::Write);
        let Ended { end, figures, sample } = guest.wait()?;
        drop(guest);
        carried.map(thread::JoinHandle::join).into_iter().for_each(drop);
        let sample = sample.unwrap_or_default();
        let in_place = mounted.in_place && sample.not_in_place().next().is_none();
        let checked = Checked {
            segment: segment.name().into(),
            in_place,
            options: mounted.options,
            sample,
            before: mounted.figures,
            after: figures,
        };
        if self.json {
            output.json(&checked)?;
        } else {
            text(&checked, output)?;
            for file in checked.sample.looked_at.iter().filter(|_| self.list) {
                let word = if file.in_place { "in place" } else { "not in place" };
                output.line(format!("{word:<13}{}", printable(&file.path)))?;
            }
        }
        if end != End::Exited(0) {
            return Err(Failure::new(format!(
                "the work ended {}: what is said of it is of a part of it only",
                how(end)
            )));
        }
        if in_place {
            return Ok(());
        }
        let remedy = if self.attachment.page_cache {
            "without --page-cache the segment is no disk but memory"
        } else {
            "files that ext4 encrypts, verifies or keeps in their inodes cannot be; images that xip build makes have none"
        };
        let sample = &checked.sample;
        let error = match sample.not_in_place().next() {
            None => "the volume has no file that is in place".into(),
            Some(file) => format!(
                "{} of {} files are not in place, such as {}",
                sample.not_in_place().count(),
                sample.looked_at.len(),
                printable(&file.path)
            ),
        };
        Err(Failure::new(error).remedy(remedy).with_code(NOT_AS_IT_SHOULD_BE))
    }
}

fn text(checked: &Checked, output: Output) -> Result<(), Failure> {
    let Checked { segment, sample, before, after, .. } = checked;
    output.line(format!("segment      {segment}, mounted with {}", checked.options))?;
    let (files, looked_at) = (count(sample.files, "file", "files"), sample.looked_at.len());
    let in_place = looked_at - sample.not_in_place().count();
    output.line(format!("files        {files}, {looked_at} looked at: {in_place} in place"))?;
    output.line(format!("large pages  {} of {} parts of 2 MiB are mapped as one", sample.huge, sample.parts))?;
    output.line(format!(
        "page cache   {} of the volume after the mount, {} after the work",
        size(before.cached),
        size(after.cached)
    ))?;
    output.line(match after.descriptors {
        Some(bytes) => format!("descriptors  {} of the guest's memory, used or not", size(bytes)),
        None => "descriptors  not told by this kernel (Linux 6.11 and later do)".into(),
    })?;
    output.line(format!("memory       {} free of {} after the work", size(after.free), size(after.total)))
}
