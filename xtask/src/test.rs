//! All tests, as CI runs them. The closing lines are the test runner's own.

use crate::process::{cargo, find, is_root, run};
use crate::{fuzz, judges, rootfs, setup, target, workspace};
use anyhow::{Context, Result, bail};
use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;

/// Seconds for each fuzz target; `cargo xtask fuzz` has more.
const FUZZED: u32 = 60;

/// What all of it takes on a disk, in bytes: to build it in a clean checkout (3.2 GiB by `.ci/run`), and to run what is built.
const TO_BUILD: u64 = 4 << 30;
const TO_RUN: u64 = 1 << 30;
/// To build what has changed; what is there may be of other builds.
const LEAST: u64 = 1 << 30;

/// Set-up, format, lint, documentation tests, and then everything else, the real tree included.
pub(crate) fn run_all() -> Result<ExitCode> {
    room()?;
    setup::ensure()?;
    let mut tests = cargo();
    if is_root() || rootfs::path().exists() {
        tests.env("XIP_ROOTFS", rootfs::ensure()?);
    } else {
        println!("test: without the Debian tree, which root makes: sudo cargo xtask rootfs");
    }

    let mut steps = Steps::default();
    let strict = ["--", "-D", "warnings"];
    steps.run("format", || run(cargo().args(["fmt", "--all", "--check"])));
    steps.run("clippy", || run(cargo().args(["clippy", "--workspace", "--all-targets"]).args(strict)));
    let mut pages = cargo();
    pages.args(["doc", "--quiet", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings");
    steps.run("documentation's links", || run(&mut pages));
    // What stands outside the workspace must not rot there.
    for outside in ["bench/Cargo.toml", "fuzz/Cargo.toml", "tests/no-alloc/Cargo.toml", "crates/vm/init/Cargo.toml"] {
        steps.run("format outside", || run(cargo().args(["fmt", "--check", "--manifest-path", outside])));
    }
    for outside in ["bench/Cargo.toml", "crates/vm/init/Cargo.toml"] {
        let mut clippy = cargo();
        clippy.args(["clippy", "--manifest-path", outside, "--target-dir"]).arg(target());
        steps.run("clippy outside", || run(clippy.args(strict)));
    }
    match judges::impossible() {
        None => steps.run("judges", || judges::run(&[], judges::By::Xip, false)),
        Some(reason) => println!("test: without judges: {reason}"),
    }
    match fuzz::impossible() {
        None => steps.run("fuzz targets", || fuzz::run(None, FUZZED, true)),
        Some(reason) => println!("test: without fuzz targets: {reason}"),
    }
    if find("cargo-nextest").is_some() {
        steps.run("documentation", || run(cargo().args(["test", "--workspace", "--doc", "--no-fail-fast"])));
        tests.args(["nextest", "run", "--workspace"]);
    } else {
        tests.args(["test", "--workspace", "--no-fail-fast", "--", "--test-threads=2"]);
    }
    println!("test: tests");
    if !tests.status()?.success() {
        return Ok(ExitCode::FAILURE); // The runner has said why.
    }
    if !steps.failed.is_empty() {
        bail!("the tests passed, but not: {}", steps.failed.join(", "));
    }
    Ok(ExitCode::SUCCESS)
}

/// A disk that fills up makes tests fail one after the other, each in words of its own: that is said before.
fn room() -> Result<()> {
    let (built, temporary) = (target(), std::env::temp_dir());
    // What is built already need not be built again, and is there whole or in part.
    let to_build = TO_BUILD.saturating_sub(size_of(&built, &mut HashSet::new())).max(LEAST);
    let place = built.ancestors().find(|place| place.exists()).unwrap_or(workspace());
    let disk = |place: &Path| place.metadata().map(|known| known.dev()).ok();
    let needs = match disk(place) == disk(&temporary) {
        true => vec![(place, to_build + TO_RUN)],
        false => vec![(place, to_build), (&*temporary, TO_RUN)],
    };
    for (place, needed) in needs {
        let disk = rustix::fs::statvfs(place).with_context(|| format!("cannot inspect {}", place.display()))?;
        let free = disk.f_bavail * disk.f_frsize;
        if free < needed {
            let [free, needed] = [free, needed].map(|bytes| bytes >> 20);
            bail!("the disk of {} has {free} MiB free, and the tests need {needed}: free some", place.display());
        }
    }
    Ok(())
}

/// What a directory takes on its disk, in bytes. `seen` are the files that were counted, which may have more names.
fn size_of(directory: &Path, seen: &mut HashSet<u64>) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let each = entries.map(|entry| match entry.metadata() {
        Ok(known) if known.is_dir() => size_of(&entry.path(), seen),
        Ok(known) if seen.insert(known.ino()) => known.blocks() * 512,
        _ => 0,
    });
    each.sum()
}

/// What comes before the tests: one that fails does not keep the others from being run.
#[derive(Default)]
struct Steps {
    failed: Vec<&'static str>,
}

impl Steps {
    fn run(&mut self, name: &'static str, step: impl FnOnce() -> Result<()>) {
        println!("test: {name}");
        if let Err(error) = step() {
            eprintln!("test: {name} failed: {error:#}");
            self.failed.push(name);
        }
    }
}
