//! `xip ls`: the segments there are.

use super::segments;
use crate::failure::Failure;
use crate::output::{Output, Table, printable, size};

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
            table.row([info.name.clone(), size(info.size), content, printable(&info.image.to_string_lossy())]);
        }
        output.table(&table)
    }
}
