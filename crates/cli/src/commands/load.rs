//! `xip load`: an image becomes a segment.

use std::path::PathBuf;

use crate::failure::Failure;
use crate::output::Output;

const HELP: &str = "\
A segment is one copy of an image in memory, shared and read-only: nobody can write or shrink it while it
is there. Loading the same image again gives the same segment. It stays until `xip rm`.

Examples:
  xip load debian.xip
  xip load debian.xip --name base";

/// Load an image into shared memory, once for everybody
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// The image
    image: PathBuf,

    /// Name of the segment. Without it, the name of the image without its extension
    #[arg(long)]
    name: Option<String>,

    /// Print the segment as JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self, output: Output) -> Result<(), Failure> {
        Err(Failure::new("not wired up yet"))
    }
}
