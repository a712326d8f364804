//! `xip rm`: segments go, and their memory with them.

use super::segments;
use crate::failure::Failure;

const HELP: &str = "\
Examples:
  xip rm debian
  xip rm base tools";

/// Remove segments and give their memory back
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// The segments
    #[arg(required = true)]
    names: Vec<String>,

    /// Take the name away even if the segment is in use; its memory goes with its last user
    #[arg(long)]
    force: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let store = segments::store()?;
        // One that cannot go does not keep the others.
        let mut errors: Vec<_> = self.names.iter().filter_map(|name| store.remove(name, self.force).err()).collect();
        let Some(last) = errors.pop() else { return Ok(()) };
        segments::warn(&errors);
        Err(last.into())
    }
}
