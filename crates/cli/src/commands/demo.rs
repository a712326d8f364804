//! `xip demo`: the arguments; the show itself is in [`crate::demo`].

use std::process::ExitCode;

use crate::failure::Failure;
use crate::output::Output;

const HELP: &str = "\
Builds an image of this machine's own shell, python3, perl and git, loads it, runs eight of them in place at
the same time, asks the kernel what each of them has in memory, and removes everything again.

Examples:
  xip demo
  xip demo --json
  xip demo --keep      leave the image and the segment, to try `xip run` with them";

/// Show it work, with this machine's own programs
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// Print the figures as JSON
    #[arg(long)]
    pub(crate) json: bool,

    /// Leave the image and the segment there, and say where
    #[arg(long)]
    pub(crate) keep: bool,
}

impl Args {
    pub(crate) fn run(self, output: Output) -> Result<ExitCode, Failure> {
        crate::demo::show(&self, output)
    }
}
