//! `xip load`: an image becomes a segment.

use std::path::PathBuf;

use serde_json::json;
use xip_segment::Outcome;

use super::segments;
use crate::failure::Failure;
use crate::output::{Output, printable, size};

const HELP: &str = "\
A segment is one copy of an image in memory, shared and read-only: nobody can write or shrink it while it \
is there. Loading the same image again gives the same segment, under another name one more name for it. It stays \
until `xip rm` has taken its last name.\n\n\
With --exclusive it can be written instead: by one `xip mount`, in memory, or it is read by many. What was written is in the segment at \
once, and in the image after `xip save`; until then it goes with the machine, and with the logout of its user where that ends all his processes. `xip run` and \
guests do not use it. It is as large as the image: `xip build --free` leaves room to write.\n\n\
Loading an image that has changed gives its name to the new content; programs that run from the old go on with that, as \
segment NAME@1 (@2, ...) until the last of them ends.\n\n\
Examples:
  xip load debian.xip
  xip load debian.xip --name base
  xip load debian-13.xip --name base --replace
  xip load data.xip --exclusive && xip mount data /mnt";

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

    /// Take the name over from another image, too
    #[arg(long)]
    replace: bool,

    /// To be written, by one at a time; programs are not run from it
    #[arg(long, conflicts_with = "replace")]
    exclusive: bool,

    /// Print the segment as JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self, output: Output) -> Result<(), Failure> {
        let store = segments::store()?;
        let store = if self.replace { store.replacing() } else { store };
        let store = if self.exclusive { store.exclusive() } else { store };
        let loaded = segments::load(&store, &self.image, self.name.as_deref())?;
        let info = loaded.segment.info();
        let new = loaded.outcome == Outcome::New;
        if self.json {
            return output.json(&json!({ "loaded": new, "segment": info, "replaced": loaded.replaced }));
        }
        let what = match &loaded.also {
            Some(also) => format!("in memory already, as segment {also}: this is one more name for it"),
            None if info.exclusive => format!("loaded, writable: `xip mount {} DIRECTORY`", info.name),
            None if new => "loaded".to_owned(),
            None => "in memory already".to_owned(),
        };
        output.line(format!("segment {}: {}, {what}", info.name, size(info.size)))?;
        if let Some(replaced) = &loaded.replaced {
            output.line(match &replaced.kept_as {
                Some(name) => format!("  the generation before it is segment {name} until its last user ends"),
                None => "  the generation before it was not in use and is gone".to_owned(),
            })?;
        }
        if info.name != loaded.wanted {
            let (image, wanted) = (printable(&self.image.to_string_lossy()), &loaded.wanted);
            output.line(format!(
                "  {image} has the same content: run it as {}, since the segment {wanted} is another; --name gives it a name",
                info.name
            ))?;
        }
        Ok(())
    }
}
