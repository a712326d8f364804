//! One file for each command: its arguments, and what it does with them.

mod build;
mod check;
mod completion;
mod demo;
mod info;
mod load;
mod ls;
mod man;
mod mount;
mod report;
mod rm;
mod run;
mod save;
pub(crate) mod segments;
mod server;
mod stat;
mod top;
mod umount;
mod vm;

pub(crate) use demo::Args as DemoArgs;
pub(crate) use run::OUR_OWN as RUN_FAILED;

use std::process::ExitCode;

use clap::Subcommand;

use crate::failure::Failure;
use crate::output::Output;

#[derive(Subcommand)]
pub(crate) enum Command {
    Build(build::Args),
    Check(check::Args),
    Info(info::Args),
    Load(load::Args),
    Ls(ls::Args),
    Stat(stat::Args),
    Top(top::Args),
    Rm(rm::Args),
    Save(save::Args),
    Run(run::Args),
    Mount(mount::Args),
    Umount(umount::Args),
    Vm(vm::Args),
    Report(report::Args),
    Demo(demo::Args),
    Completion(completion::Args),
    Man(man::Args),
}

impl Command {
    pub(crate) fn run(self, output: Output) -> Result<ExitCode, Failure> {
        let done = |()| ExitCode::SUCCESS;
        match self {
            Command::Build(args) => args.run(output).map(done),
            Command::Check(args) => args.run(output),
            Command::Info(args) => args.run(output).map(done),
            Command::Load(args) => args.run(output).map(done),
            Command::Ls(args) => args.run(output).map(done),
            Command::Stat(args) => args.run(output).map(done),
            Command::Top(args) => args.run(output).map(done),
            Command::Rm(args) => args.run(output).map(done),
            Command::Save(args) => args.run(output).map(done),
            Command::Run(args) => args.run(output),
            Command::Mount(args) => args.run(output),
            Command::Vm(args) => args.run(output),
            Command::Report(args) => args.run(output).map(done),
            Command::Umount(args) => args.run().map(done),
            Command::Demo(args) => args.run(output),
            Command::Completion(args) => args.run(output).map(done),
            Command::Man(args) => args.run(output).map(done),
        }
    }
}
