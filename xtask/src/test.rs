//! All tests, as CI runs them. The closing lines are the test runner's own.

use crate::process::{cargo, find, is_root, run};
use crate::{rootfs, setup, target};
use anyhow::{Result, bail};
use std::process::{Command, ExitCode};

/// Set-up, format, lint, documentation tests, and then everything else, the real tree included.
pub(crate) fn run_all() -> Result<ExitCode> {
    setup::ensure()?;
    let mut tests = cargo();
    if is_root() || rootfs::path().exists() {
        tests.env("XIP_ROOTFS", rootfs::ensure()?);
    } else {
        println!("test: without the Debian tree, which root makes: sudo cargo xtask rootfs");
    }

    let mut failed = Vec::new();
    let mut step = |name: &'static str, command: &mut Command| {
        println!("test: {name}");
        if let Err(error) = run(command) {
            eprintln!("test: {name} failed: {error:#}");
            failed.push(name);
        }
    };
    let strict = ["--", "-D", "warnings"];
    step("format", cargo().args(["fmt", "--all", "--check"]));
    step("clippy", cargo().args(["clippy", "--workspace", "--all-targets"]).args(strict));
    // What stands outside the workspace must not rot there.
    for outside in ["bench/Cargo.toml", "tests/no-alloc/Cargo.toml"] {
        step("format outside", cargo().args(["fmt", "--check", "--manifest-path", outside]));
    }
    let mut bench = cargo();
    bench.args(["clippy", "--manifest-path", "bench/Cargo.toml", "--target-dir"]).arg(target());
    step("clippy of bench", bench.args(strict));
    if find("cargo-nextest").is_some() {
        step("documentation", cargo().args(["test", "--workspace", "--doc", "--no-fail-fast"]));
        tests.args(["nextest", "run", "--workspace"]);
    } else {
        tests.args(["test", "--workspace", "--no-fail-fast", "--", "--test-threads=2"]);
    }
    println!("test: tests");
    if !tests.status()?.success() {
        return Ok(ExitCode::FAILURE); // The runner has said why.
    }
    if !failed.is_empty() {
        bail!("the tests passed, but not: {}", failed.join(", "));
    }
    Ok(ExitCode::SUCCESS)
}
