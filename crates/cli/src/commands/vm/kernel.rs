//! `xip vm kernel`: a kernel for guests.

use std::path::PathBuf;

use serde::Serialize;

use crate::failure::Failure;
use crate::output::Output;
use crate::signals::Interrupt;

const HELP: &str = "\
It is Debian's kernel for clouds, which has what guests need. The package is downloaded by apt-get and unpacked into \
$XDG_CACHE_HOME/xip/kernel (~/.cache/xip/kernel); nothing is installed, and no root is needed. What is there already is not \
downloaded again, unless --refresh is given: that also replaces one that is damaged.

Examples:
  xip vm kernel
  xip vm kernel --json";

/// Get a kernel for guests, or say which one there is
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// Ask for a newer one, though there is one
    #[arg(long)]
    refresh: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Found {
    kernel: PathBuf,
    modules: Vec<PathBuf>,
}

impl Args {
    pub(crate) fn run(self, output: Output) -> Result<(), Failure> {
        let kernel = match xip_vm::Kernel::find(None) {
            Ok(kernel) if !self.refresh => kernel,
            Err(error) if !self.refresh && !matches!(error, xip_vm::Error::NoKernel { .. }) => return Err(error.into()),
            _ => get()?,
        };
        if self.json {
            return output.json(&Found { kernel: kernel.image().into(), modules: kernel.modules().into() });
        }
        output.line(kernel.image().display().to_string())
    }
}

/// A signal ends the tool that is at work, or is done with when it has ended: what was unpacked is removed first.
fn get() -> Result<xip_vm::Kernel, Failure> {
    let interrupt = Interrupt::catch()?;
    let kernel = xip_vm::fetch(&|| interrupt.asked().is_some());
    match interrupt.asked() {
        Some(signal) => Err(Failure::silent().by_signal(signal)),
        None => Ok(kernel?),
    }
}
