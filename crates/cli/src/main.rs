//! The command `xip`: arguments in, libraries called, results and exit codes out.

#![forbid(unsafe_code)]

mod commands;
mod demo;
mod failure;
mod output;
mod progress;
mod signals;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::commands::Command;
use crate::output::{Output, Paint};

/// Build images, hold one copy of each in memory, and run programs from it in place.
///
/// An image is a directory tree in one file. A segment is an image held in memory that every process shares.
/// Programs that run from it execute the segment's own pages: nothing is copied to a page cache first.
#[derive(Parser)]
#[command(name = "xip", version, after_help = TOP_HELP, disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// Say on standard error what is done, with counts and times (-vv: in detail, -vvv: every request to the mount). `XIP_LOG`
    /// takes a filter instead
    #[arg(short, long, global = true, display_order = 900, action = clap::ArgAction::Count)]
    verbose: u8,

    #[command(subcommand)]
    command: Command,
}

const TOP_HELP: &str = "\
Examples:
  xip demo                          see it work with the programs of this machine
  xip build rootfs/ debian.xip      make an image of a directory
  xip load debian.xip               hold it in memory, once for everybody
  xip run debian -- python3 -V      run a program from it, in place
  xip stat debian                   see who shares it, and what that saves

Exit codes:
  0  done      1  failed      2  the command line makes no sense
  4  `xip check`: something is wrong and not mended; `xip vm check`: something is not in place
  `xip run` ends as its program ends; 126: it cannot be run, 127: it is not in the image.";

fn main() -> ExitCode {
    // The keeper of a segment is this program, started again: nothing needs to be installed beside it.
    xip_segment::holder::main_if_asked();
    let cli = Cli::parse();
    log(cli.verbose);
    signals::survive_file_size_limit();
    match cli.command.run(Output::new()) {
        Ok(code) => code,
        Err(failure) => {
            // If standard error is closed there is nobody to tell.
            let _ = io::stderr().write_all(failure.text(Paint::new(io::stderr().is_terminal())).as_bytes());
            failure.end()
        }
    }
}

fn log(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let wanted = std::env::var("XIP_LOG").ok().filter(|filter| !filter.is_empty());
    let (filter, refused) = match wanted.map(EnvFilter::try_new) {
        Some(Ok(filter)) => (filter, None),
        Some(Err(error)) => (EnvFilter::new(level), Some(error)),
        None => (EnvFilter::new(level), None),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .without_time()
        .with_target(false)
        .init();
    if let Some(error) = refused {
        tracing::warn!("XIP_LOG is not a filter such as `debug` or `xip=info`, and is not used: {error}");
    }
}
