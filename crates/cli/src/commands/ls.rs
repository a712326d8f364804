//! `xip ls`: the segments there are.

use crate::failure::Failure;
use crate::output::Output;

const HELP: &str = "\
Examples:
  xip ls
  xip ls --json | jq -r '.[].name'";

/// List the segments
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self, output: Output) -> Result<(), Failure> {
        Err(Failure::new("not wired up yet"))
    }
}
