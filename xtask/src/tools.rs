//! Tools that cargo installs: each in a directory of its own under the target directory, named by its version, so that
//! what is there is what was asked for, and nothing of the user's is touched.

use crate::process::{cargo, run};
use crate::{setup, target};
use anyhow::{Context, Result};
use std::ffi::OsString;
use std::path::PathBuf;

/// A program of another project.
#[derive(Clone, Copy)]
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
}

/// Random operations on a file.
pub(crate) const FSX: Tool = Tool { name: "fsx", version: "0.3.2" };
/// What POSIX says of files.
pub(crate) const PJDFSTEST: Tool = Tool { name: "pjdfstest", version: "0.2.2" };
/// Builds and runs fuzz targets.
pub(crate) const FUZZ: Tool = Tool { name: "cargo-fuzz", version: "0.13.2" };

impl Tool {
    /// The directory of the program, which is installed there first if it is not.
    pub(crate) fn ensure(self) -> Result<PathBuf> {
        let Self { name, version } = self;
        let root = target().join("tools").join(format!("{name}-{version}"));
        let bin = root.join("bin");
        if !bin.join(name).exists() {
            setup::ensure()?;
            println!("setup: cargo install --locked {name}@{version}; takes a minute or two");
            run(cargo().args(["install", "--quiet", "--locked", "--root"]).arg(root).arg(format!("{name}@{version}")))
                .with_context(|| format!("cannot install {name} {version}"))?;
        }
        Ok(bin)
    }
}

/// PATH with the directories of these tools before all others.
pub(crate) fn path_with(tools: &[Tool]) -> Result<OsString> {
    let mut path = tools.iter().map(|tool| tool.ensure()).collect::<Result<Vec<_>>>()?;
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    Ok(std::env::join_paths(path)?)
}
