//! `xip run`: a program from an image, executed in place.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;

use crate::failure::Failure;
use crate::output::Output;

const HELP: &str = "\
The program sees the image as its root directory, read-only, with /proc, /dev, /sys and /tmp. Its text, that
of its libraries, and every other file it maps, is the segment itself. It needs no root: user namespaces and
/dev/fuse are enough.

What stands before PROGRAM is a segment if there is one of that name, otherwise an image. An image is loaded
first, under its own name, and stays loaded (see `xip ls`) unless --rm is given.

Exit status: the program's own. If a signal ended it, xip ends by the same signal (a shell shows 128 + its
number). 125: xip itself failed; 126: the program cannot be executed; 127: it is not in the image.

Examples:
  xip run debian -- python3 -c 'print(6 * 7)'
  xip run debian.xip --bind $PWD:/work --workdir /work -- gcc -O2 -c main.c
  xip run debian --root -- sh -c 'echo gone afterwards > /etc/motd'
  xip run debian --report -- perl -e 1";

/// Run a program from an image or a segment, in place
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// A segment, or an image
    #[arg(value_name = "IMAGE|SEGMENT")]
    source: PathBuf,

    /// The program and its arguments. Without a slash it is looked for on PATH, in the image
    #[arg(value_name = "PROGRAM", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    program: Vec<OsString>,

    /// Show a directory or file of this machine inside (may be given many times)
    #[arg(long, value_name = "HOST:INSIDE[:ro]")]
    bind: Vec<OsString>,

    /// Set an environment variable; without `=VALUE`, remove it (may be given many times)
    #[arg(long, value_name = "NAME[=VALUE]")]
    env: Vec<OsString>,

    /// Directory inside in which the program starts
    #[arg(long, value_name = "DIRECTORY", default_value = "/")]
    workdir: PathBuf,

    /// What the root directory is: `overlay` takes changes, in memory, and forgets them at the end
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "read-only",
          default_missing_value = "overlay")]
    root: RootMode,

    /// At the end, tell what was mapped in place and what was not, and why (to standard error, or to FILE)
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "-")]
    report: Option<PathBuf>,

    /// Make the report JSON
    #[arg(long, requires = "report")]
    json: bool,

    /// Do not trace the program: its files come from the page cache (for debuggers, and to compare)
    #[arg(long)]
    page_cache: bool,

    /// Remove the segment at the end if this command loaded it
    #[arg(long)]
    rm: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RootMode {
    ReadOnly,
    Overlay,
}

impl Args {
    pub(crate) fn run(self, output: Output) -> Result<ExitCode, Failure> {
        Err(Failure::new("not wired up yet"))
    }
}
