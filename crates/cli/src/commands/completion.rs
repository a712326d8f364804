//! `xip completion`: what a shell needs to finish our command lines.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::Cli;
use crate::failure::Failure;
use crate::output::Output;

const HELP: &str = "\
Examples:
  xip completion bash > ~/.local/share/bash-completion/completions/xip
  xip completion zsh  > ~/.zfunc/_xip
  xip completion fish > ~/.config/fish/completions/xip.fish";

/// Print the completion script for a shell
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// The shell to print it for
    shell: Shell,
}

impl Args {
    pub(crate) fn run(self, output: Output) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "xip", &mut script);
        output.bytes(&script)
    }
}
