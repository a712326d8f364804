//! All tests, as CI runs them. The closing lines are the test runner's own.

use crate::process::{cargo, find, run};
use crate::{rootfs, setup};
use anyhow::{Result, bail};
use std::process::Command;

/// Set-up, format, lint, documentation tests, and then everything else, the real tree included.
pub(crate) fn run_tests() -> Result<()> {
    setup::ensure()?;
    let tree = rootfs::ensure()?;
    let mut failed = Vec::new();
    let mut step = |name: &'static str, command: &mut Command| {
        println!("test: {name}");
        if let Err(error) = run(command) {
            eprintln!("test: {name} failed: {error:#}");
            failed.push(name);
        }
    };
    step("format", cargo().args(["fmt", "--all", "--check"]));
    step("clippy", cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]));
    if find("cargo-nextest").is_some() {
        step("documentation", cargo().args(["test", "--workspace", "--doc", "--no-fail-fast"]));
        step("tests", cargo().args(["nextest", "run", "--workspace"]).env("XIP_ROOTFS", tree));
    } else {
        let threads = ["--", "--test-threads=2"];
        step("tests", cargo().args(["test", "--workspace", "--no-fail-fast"]).args(threads).env("XIP_ROOTFS", tree));
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}
