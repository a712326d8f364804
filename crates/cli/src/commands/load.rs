//! `xip load`: an image becomes a segment.

use std::path::PathBuf;

use serde_json::json;
use xip_segment::Outcome;

use super::segments;
use crate::failure::Failure;
use crate::output::{Output, printable, size};

const HELP: &str = "\
A segment is one copy of an image in memory, shared and read-only: nobody can write or shrink it while it \
is there. Loading the same image again gives the same segment. It stays until `xip rm`.\n\n\
Examples:
  xip load debian.xip
  xip load debian.xip --name base";

/// Load an image into shared memory, once for everybody
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// The image
    image: PathBuf,

    /// Name of the segment. Without it, the name of the image without its extension, with `-` for every character
    /// but A-Z a-z 0-9 . _ -
    #[arg(long)]
    name: Option<String>,

    /// Print the segment as JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self, output: Output) -> Result<(), Failure> {
        let loaded = segments::load(&segments::store()?, &self.image, self.name.as_deref())?;
        let info = loaded.segment.info();
        let new = loaded.outcome == Outcome::New;
        if self.json {
            return output.json(&json!({ "loaded": new, "segment": info }));
        }
        let what = if new { "loaded" } else { "in memory already" };
        output.line(format!("segment {}: {}, {what}", info.name, size(info.size)))?;
        if info.name != loaded.wanted {
            let image = printable(&self.image.to_string_lossy());
            output.line(format!("  {image} has the same content: run it as {}", info.name))?;
        }
        Ok(())
    }
}
