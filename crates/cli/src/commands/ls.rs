//! `xip ls`: the segments there are.

use super::segments;
use crate::failure::Failure;
use crate::output::{Output, Table, printable, size};

const HELP: &str = "\
The content of a segment that is writable is what was loaded, or last saved.
NAME@1 is a generation of NAME that is in use still, and in whose place a newer one was loaded.\n\n\
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
        let segments = segments::list(output)?;
        let infos: Vec<_> = segments.iter().map(xip_segment::Segment::info).collect();
        if self.json {
            return output.json(&infos);
        }
        if infos.is_empty() {
            return Ok(());
        }
        let mut table = Table::new(&["segment", ">size", "content", "image"]);
        for info in infos {
            let content = info.content.chars().take(12).collect();
            let mut image = printable(&info.image.to_string_lossy());
            if info.exclusive {
                image += ", writable";
            }
            if info.replaced {
                image += " before it changed; goes with its last user";
            }
            table.row([info.name.clone(), size(info.size), content, image]);
        }
        output.table(&table)
    }
}
