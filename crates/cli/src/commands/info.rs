//! `xip info`: what an image is like, before anybody loads it.

use std::path::PathBuf;

use crate::failure::Failure;
use crate::output::Output;

const HELP: &str = "\
Examples:
  xip info debian.xip
  xip info debian.xip --json | jq .files";

/// Describe an image: geometry, features, and how well it can be mapped in place
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// The image
    image: PathBuf,

    /// Print as JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self, output: Output) -> Result<(), Failure> {
        Err(Failure::new("not wired up yet"))
    }
}
