//! `xip demo`: the arguments; the show itself is in [`crate::demo`].

use std::process::ExitCode;

use crate::failure::Failure;
use crate::output::Output;

const HELP: &str = "\
Builds an image of this machine's own shell, python3, perl and git, loads it, runs eight of them in place at \
the same time, asks the kernel what each of them has in memory, and removes everything again.\n\n\
Examples:
  xip demo
  xip demo --json
  xip demo --keep      leave the segment, to try `xip run` with it";

/// Show it work, with this machine's own programs
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// Print the figures as JSON
    #[arg(long)]
    pub(crate) json: bool,

    /// Leave the segment there, and say its name
    #[arg(long)]
    pub(crate) keep: bool,

    /// Be one of the readers that share the segment where programs cannot run in place
    #[arg(long, hide = true, value_name = "SEGMENT")]
    pub(crate) reader: Option<String>,
}

impl Args {
    pub(crate) fn run(self, output: Output) -> Result<ExitCode, Failure> {
        crate::demo::show(&self, output)
    }
}
