//! `xip stat`: who shares a segment, and what that saves, from the kernel's own figures.

use crate::failure::Failure;
use crate::output::Output;

const HELP: &str = "\
Every figure is the kernel's (/proc/PID/smaps and the like). Processes of other users are counted only as far
as the kernel lets you look at them.

Examples:
  xip stat
  xip stat debian
  xip stat debian --json | jq .processes";

/// Show who shares a segment and what that saves
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// The segment; without one, all of them
    name: Option<String>,

    /// Print as JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self, output: Output) -> Result<(), Failure> {
        Err(Failure::new("not wired up yet"))
    }
}
