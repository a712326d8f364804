//! `xip rm`: segments go, and their memory with them.

use super::segments;
use crate::failure::Failure;
use crate::output::Output;

const HELP: &str = "\
Examples:
  xip rm debian
  xip rm base tools";

/// Remove segments and give their memory back, with the last name of it
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// The segments
    #[arg(required = true)]
    names: Vec<String>,

    /// Take the name away even if the segment is in use, or has changed and was not saved; its memory goes with its last user
    #[arg(long)]
    force: bool,
}

impl Args {
    pub(crate) fn run(self, output: Output) -> Result<(), Failure> {
        let store = segments::store()?;
        // One that cannot go does not keep the others.
        let mut errors = Vec::new();
        for name in &self.names {
            let id = store.get(name).ok().map(|segment| segment.id());
            match (store.remove(name, self.force), id) {
                (Err(error), _) => errors.push(error),
                (Ok(()), Some(id)) => {
                    let others = store.names_of(id).unwrap_or_default();
                    if !others.is_empty() {
                        output.aside(format!("the memory of {name} stays: it is segment {} too", others.join(" and ")));
                    }
                }
                (Ok(()), None) => {}
            }
        }
        let Some(last) = errors.pop() else { return Ok(()) };
        segments::warn(&errors);
        Err(last.into())
    }
}
