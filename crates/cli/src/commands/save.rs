//! `xip save`: a segment becomes an image file again, with what was changed in it.

use std::path::PathBuf;

use serde_json::json;

use super::segments;
use crate::failure::Failure;
use crate::output::{Output, printable, size};
use crate::progress::Progress;
use crate::signals::Interrupt;

const HELP: &str = "\
What was written in an exclusive segment (`xip load --exclusive`) is kept in a file by this; unmount first what writes it. Any other never changes: what is saved is the image that was loaded, after the file was lost or changed, or to write to a copy of \
it. The file is written beside what is there and then takes its place; it is on storage when the command ends. An image \
that somebody uses is not replaced, nor, unless it is named, one that has other bytes by now than were loaded or saved. A generation that was replaced (NAME@1) needs a file to be named.\n\n\
Examples:
  xip save debian                   to the image it was loaded from
  xip save debian copy.xip && xip mount copy.xip /mnt
  xip umount /mnt && xip save data  after `xip load data.xip --exclusive` and `xip mount data /mnt`";

/// Write a segment to an image file
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// The segment
    segment: String,

    /// The image. Without it, the one that the segment was loaded from
    image: Option<PathBuf>,

    /// Print what was written as JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self, output: Output) -> Result<(), Failure> {
        let store = segments::store()?;
        let segment = store.get(&self.segment)?;
        let info = segment.info();
        if info.replaced && self.image.is_none() {
            let what = format!(
                "a newer generation than segment {} was loaded from {}",
                info.name,
                printable(&info.image.to_string_lossy())
            );
            return Err(Failure::new(what).remedy("name the file to save it to, if it is to be that one"));
        }
        let progress = Progress::new(&Interrupt::catch()?);
        let saved = xip_image::save(&store, &segment, self.image.as_deref(), &progress);
        saved.map_err(|error| progress.failure(error))?;
        drop(progress);
        let name = self.image.as_ref().unwrap_or(&info.image).to_string_lossy();
        if self.json {
            return output.json(&json!({ "segment": info.name, "image": name, "bytes": info.size }));
        }
        output.line(format!("segment {} saved to {}: {}", info.name, printable(&name), size(info.size)))
    }
}
