//! The demo.

pub(crate) mod measure;
pub(crate) mod programs;
pub(crate) mod running;
pub(crate) mod tree;

use std::process::ExitCode;

use crate::commands::DemoArgs;
use crate::failure::Failure;
use crate::output::Output;

pub(crate) fn show(args: &DemoArgs, output: Output) -> Result<ExitCode, Failure> {
    Err(Failure::new("not wired up yet"))
}
