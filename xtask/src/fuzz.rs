//! Fuzz targets: under AddressSanitizer, from the committed corpus, for a time.

use crate::process::{command, find};
use crate::{setup, target, tools, workspace};
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

/// What is fuzzed.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Target {
    /// Any bytes as an image: opened, read, checked, mended, written
    Hostile,
    /// Any operations on a small volume, against a model
    Operations,
    /// Operations through the library, on files that are open and mapped, against the reference of its test
    Facade,
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

/// Runs one target, or each, for so many seconds, as many at a time as there are processors: from the committed corpus and, unless
/// this is to be `fresh`, from what was found before.
pub(crate) fn run(only: Option<Target>, seconds: u32, fresh: bool) -> Result<()> {
    if let Some(reason) = impossible() {
        bail!("fuzz: {reason}");
    }
    setup::ensure()?;
    let path = tools::path_with(&[tools::FUZZ])?;
    let all = Target::value_variants().iter().filter(|target| only.is_none_or(|only| **target as u8 == only as u8));
    let fuzzers = all.map(|target| Fuzzer::new(*target, &path)).collect::<Result<Vec<_>>>()?;
    for fuzzer in &fuzzers {
        fuzzer.build()?;
    }
    let (next, failed) = (Mutex::new(fuzzers.iter()), Mutex::new(Vec::new()));
    let work = || {
        while let Some(fuzzer) = unpoisoned(&next).next() {
            if let Err(error) = fuzzer.run(seconds, fresh) {
                unpoisoned(&failed).push(format!("{error:#}"));
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let failed = std::mem::take(&mut *unpoisoned(&failed));
    if failed.is_empty() { Ok(()) } else { bail!("{}", failed.join("\n\n")) }
}

fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A target, and where it is done.
struct Fuzzer<'p> {
    name: String,
    /// What is built and found.
    own: PathBuf,
    path: &'p OsStr,
}

impl<'p> Fuzzer<'p> {
    fn new(of: Target, path: &'p OsStr) -> Result<Self> {
        let name = of.to_possible_value().context("a target has a name")?.get_name().to_owned();
        let own = target().join("fuzz");
        fs::create_dir_all(&own)?;
        Ok(Self { name, own, path })
    }

    /// By the name of the compiler, since the one that built this program is in the environment.
    fn command(&self, verb: &str) -> Command {
        let mut command = command("rustup");
        command.current_dir(workspace().join("fuzz")).args(["run", "nightly", "cargo", "fuzz", verb, "--target-dir"]);
        command.arg(&self.own).arg(&self.name).env("PATH", self.path);
        command
    }

    fn log(&self) -> PathBuf {
        self.own.join(format!("{}.log", self.name))
    }

    fn build(&self) -> Result<()> {
        let log = self.log();
        if !logged(&mut self.command("build"), &log)? {
            bail!("fuzz: {} cannot be built: {}", self.name, tail(&log)?);
        }
        Ok(())
    }

    fn run(&self, seconds: u32, fresh: bool) -> Result<()> {
        let (name, log) = (&self.name, self.log());
        // What is found in this place stays in it, and is started from next time; the committed corpus does not change.
        let dirs = [if fresh { "fresh" } else { "corpus" }, "artifacts"];
        let [found, artifacts] = dirs.map(|dir| self.own.join(dir).join(name));
        if fresh && found.exists() {
            fs::remove_dir_all(&found)?;
        }
        for dir in [&found, &artifacts] {
            fs::create_dir_all(dir)?;
        }
        let mut fuzz = self.command("run");
        fuzz.arg(&found).arg(workspace().join("fuzz/corpus").join(name)).arg("--");
        fuzz.arg(format!("-artifact_prefix={}/", artifacts.display()));
        fuzz.arg(format!("-max_total_time={seconds}"));
        // An input that takes longer than this has found something, too.
        fuzz.args(["-timeout=20", "-rss_limit_mb=2048", "-max_len=4096"]);
        if !logged(&mut fuzz, &log)? {
            bail!("fuzz: {name} has found something: {}\nthe whole is in {}", tail(&log)?, log.display());
        }
        println!(
            "fuzz: {name}: {}",
            summary(&fs::read_to_string(&log)?).context("the fuzzer said nothing at its end")?
        );
        Ok(())
    }
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
