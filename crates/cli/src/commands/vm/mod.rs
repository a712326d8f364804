//! `xip vm`: guests that execute programs in place.

mod args;
mod check;
mod kernel;
pub(crate) mod machine;
mod run;

use std::process::ExitCode;

use clap::Subcommand;

use crate::failure::Failure;
use crate::output::Output;

const HELP: &str = "\
Examples:
  xip vm kernel                         get a kernel for guests, once
  xip vm run debian -- python3 -V       run a program in a guest, in place
  xip vm run debian --count 4 -- uname  four guests, one copy
  xip vm check debian                   is it really in place?
  xip vm args debian --vmm firecracker --initramfs guest.img";

/// Run programs in guests, from the segment that processes of the host use
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(run::Args),
    Check(check::Args),
    Args(args::Args),
    Kernel(kernel::Args),
}

impl Args {
    pub(crate) fn run(self, output: Output) -> Result<ExitCode, Failure> {
        match self.command {
            Command::Run(args) => args.run(output),
            Command::Check(args) => args.run(output).map(|()| ExitCode::SUCCESS),
            Command::Args(args) => args.run(output).map(|()| ExitCode::SUCCESS),
            Command::Kernel(args) => args.run(output).map(|()| ExitCode::SUCCESS),
        }
    }
}
