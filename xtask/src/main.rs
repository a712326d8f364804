//! Set-up, test, lint, bench: what a person would otherwise do by hand. `cargo xtask --help` lists it.

#![forbid(unsafe_code)]

mod bench;
mod fuzz;
mod judges;
mod process;
mod rootfs;
mod setup;
mod test;
mod tools;

use clap::Parser;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The project's own scripts.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Command {
    /// Ask Debian's packages for the tools that tests and benchmarks need
    Setup,
    /// Make the Debian tree that tests and benchmarks use, once
    Rootfs,
    /// Measure everything, and write `docs/benchmarks.md` and its chart
    Bench {
        /// Only these, and only print it
        sections: Vec<bench::Section>,
    },
    /// Format, lint, and all tests, as CI runs them
    Test,
    /// Run fuzz targets under AddressSanitizer, from the committed corpus and what was found before
    Fuzz {
        /// Only this one
        target: Option<fuzz::Target>,
        /// For how long each
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
    /// Let programs that are not ours judge a volume that can be written
    Judges {
        /// Only these
        judges: Vec<judges::Judge>,
        /// Who mounts the volume
        #[arg(long, value_enum, default_value_t = judges::By::Xip)]
        by: judges::By,
        /// As much as takes hours
        #[arg(long)]
        long: bool,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    match Command::parse() {
        Command::Setup => setup::ensure()?,
        Command::Rootfs => drop(rootfs::ensure()?),
        Command::Bench { sections } => bench::run(&sections)?,
        Command::Test => return test::run_all(),
        Command::Fuzz { target, seconds } => fuzz::run(target, seconds, false)?,
        Command::Judges { judges, by, long } => judges::run(&judges, by, long)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The top of the repository.
fn workspace() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// Where cargo builds, and where large things that are made once are kept.
fn target() -> PathBuf {
    let inside = |dir| workspace().join(dir);
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| inside("target".into()), |dir| inside(PathBuf::from(dir)))
}
