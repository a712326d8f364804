//! Fuzz targets: under AddressSanitizer, from the committed corpus, for a time.

use crate::process::{command, find};
use crate::{setup, target, tools, workspace};
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

/// What is fuzzed.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Target {
    /// Any bytes as an image: opened, read, checked, mended, written
    Hostile,
    /// Any operations on a small volume, against a model
    Operations,
}

/// Why fuzzing cannot be done here, if it cannot.
pub(crate) fn impossible() -> Option<&'static str> {
    let has_nightly = || {
        let listed = command("rustup").args(["toolchain", "list"]).output();
        listed.is_ok_and(|listed| listed.stdout.split(|byte| *byte == b'\n').any(|line| line.starts_with(b"nightly")))
    };
    if find("rustup").is_none() || !has_nightly() {
        Some("no nightly compiler: rustup toolchain install nightly --profile minimal")
    } else {
        None
    }
}

/// Runs one target, or each, for so many seconds: from the committed corpus and, unless this is to be `fresh`, from what was
/// found before.
pub(crate) fn run(only: Option<Target>, seconds: u32, fresh: bool) -> Result<()> {
    if let Some(reason) = impossible() {
        bail!("fuzz: {reason}");
    }
    setup::ensure()?;
    let path = tools::path_with(&[tools::FUZZ])?;
    let all = Target::value_variants().iter().copied();
    for target in all.filter(|target| only.is_none_or(|only| *target as u8 == only as u8)) {
        fuzz(target, seconds, fresh, |command| command.env("PATH", &path))?;
    }
    Ok(())
}

fn fuzz(of: Target, seconds: u32, fresh: bool, with_path: impl Fn(&mut Command) -> &mut Command) -> Result<()> {
    let name = of.to_possible_value().context("a target has a name")?.get_name().to_owned();
    let own = target().join("fuzz");
    // What is found in this place stays in it, and is started from next time; the committed corpus does not change.
    let [found, artifacts] = [if fresh { "fresh" } else { "corpus" }, "artifacts"].map(|dir| own.join(dir).join(&name));
    if fresh && found.exists() {
        fs::remove_dir_all(&found)?;
    }
    for dir in [&found, &artifacts] {
        fs::create_dir_all(dir)?;
    }
    // By the name of the compiler, since the one that built this program is in the environment.
    let fuzz = |verb: &str| {
        let mut command = command("rustup");
        command.current_dir(workspace().join("fuzz")).args(["run", "nightly", "cargo", "fuzz", verb, "--target-dir"]);
        command.arg(&own);
        with_path(&mut command);
        command
    };
    let log = own.join(format!("{name}.log"));
    let mut built = fuzz("build");
    if !logged(built.arg(&name), &log)? {
        bail!("fuzz: {name} cannot be built: {}", tail(&log)?);
    }
    let mut fuzz = fuzz("run");
    fuzz.arg(&name).arg(&found).arg(workspace().join("fuzz/corpus").join(&name)).arg("--");
    fuzz.arg(format!("-artifact_prefix={}/", artifacts.display()));
    fuzz.arg(format!("-max_total_time={seconds}"));
    // An input that takes longer than this has found something, too.
    fuzz.args(["-timeout=20", "-rss_limit_mb=2048", "-max_len=4096"]);
    if !logged(&mut fuzz, &log)? {
        bail!("fuzz: {name} has found something: {}\nthe whole is in {}", tail(&log)?, log.display());
    }
    println!("fuzz: {name}: {}", summary(&fs::read_to_string(&log)?).context("the fuzzer said nothing at its end")?);
    Ok(())
}

/// Runs it with all that it prints in `log`: whether it ended well.
fn logged(command: &mut Command, log: &Path) -> Result<bool> {
    let file = File::create(log)?;
    command.stdout(file.try_clone()?).stderr(file);
    Ok(command.status().with_context(|| format!("cannot start {command:?}"))?.success())
}

/// The last lines of a log, in which the fuzzer says what it found and how to do it again.
fn tail(log: &Path) -> Result<String> {
    let text = fs::read(log)?;
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().filter(|line| !line.contains("pulse") && !line.contains("REDUCE")).collect();
    Ok(lines[lines.len().saturating_sub(60)..].join("\n"))
}

/// How much was done, in a line, from what libFuzzer prints.
fn summary(log: &str) -> Option<String> {
    let done = log.lines().rev().find_map(|line| line.strip_prefix("Done "))?;
    let last = log.lines().rev().find(|line| line.contains(" cov: "))?;
    let mut words = last.split_whitespace().skip_while(|word| *word != "cov:");
    let covered = words.nth(1)?;
    Some(format!("{done}, {covered} edges covered, nothing found"))
}
