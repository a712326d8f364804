//! `xip man`: the manual pages, made from the same words as `--help`.

use clap::CommandFactory;

use crate::Cli;
use crate::failure::{Failure, USAGE};
use crate::output::Output;

const HELP: &str = "\
Examples:
  xip man | man -l -            read the manual of xip
  xip man run | man -l -        read the manual of one command
  xip man vm run | man -l -     and of one that has a command above it
  xip man build > xip-build.1   keep a page";

/// Print a manual page (roff)
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// The command to describe; without one, `xip` itself
    command: Vec<String>,
}

impl Args {
    pub(crate) fn run(self, output: Output) -> Result<(), Failure> {
        let mut xip = Cli::command();
        xip.build();
        let described =
            self.command.iter().try_fold(&xip, |above, name| above.find_subcommand(name)).ok_or_else(|| {
                let failure = Failure::new(format!("there is no command `{}`", self.command.join(" ")));
                failure.remedy("`xip --help` lists the commands").with_code(USAGE)
            })?;
        let mut page = Vec::new();
        clap_mangen::Man::new(described.clone()).render(&mut page)?;
        output.bytes(sections(&String::from_utf8_lossy(&page)).as_bytes())
    }
}

/// What stands under `--help` is one section to the generator, which calls it EXTRA. A reader of manuals looks for
/// EXAMPLES, line by line.
fn sections(page: &str) -> String {
    page.replace("\nExamples:\n", "\n.SH EXAMPLES\n.nf\n")
        .replace("\nExit codes:\n", "\n.SH \"EXIT STATUS\"\n.nf\n")
        .replace("\n.SH EXTRA\n.SH", "\n.SH")
        .replace("\n.SH EXTRA\n", "\n.SH NOTES\n")
}
