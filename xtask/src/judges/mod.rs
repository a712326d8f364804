//! Judges that are not ours: each is a script of `tests/judges` that runs a program of others in a mounted volume, and
//! fails when that program finds fault. Afterwards the volume is unmounted and `e2fsck -fn` looks at it.

mod place;

use crate::process::{command, is_root};
use crate::tools::{FSX, PJDFSTEST, path_with};
use crate::{setup, target, workspace};
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
pub(crate) use place::By;
use place::Place;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::Path;
use std::time::Instant;

/// Who judges.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub(crate) enum Judge {
    /// Random operations on a file, mapped and not
    Fsx,
    /// What POSIX says of files
    Pjdfstest,
    /// Blocks with checksums
    Fio,
    /// A database with several writers
    Sqlite,
    /// Repositories, cloned, collected and checked
    Git,
    /// A C build
    Build,
    /// An archive with attributes and ACLs, and back
    Tar,
}

/// Runs these judges, or all of them.
pub(crate) fn run(judges: &[Judge], by: By, long: bool) -> Result<()> {
    if let Some(reason) = impossible() {
        bail!("judges: {reason}");
    }
    setup::ensure()?;
    by.prepare()?;
    let path = path_with(&[FSX, PJDFSTEST])?;
    let judges = if judges.is_empty() { Judge::value_variants() } else { judges };
    let mut unhappy = Vec::new();
    for judge in judges {
        let name = judge.to_possible_value().context("a judge has a name")?.get_name().to_owned();
        let start = Instant::now();
        match judge_one(&name, by, long, &path) {
            Ok(()) => println!("judges: {name}: content, {} s", start.elapsed().as_secs()),
            Err(error) => {
                eprintln!("judges: {name}: {error:#}");
                unhappy.push(name);
            }
        }
    }
    if !unhappy.is_empty() {
        bail!("judges that found fault: {}", unhappy.join(", "));
    }
    Ok(())
}

/// Why nobody can be judged here, if so.
pub(crate) fn impossible() -> Option<&'static str> {
    if is_root() { None } else { Some("they take root, for users, devices and ACLs: sudo cargo xtask judges") }
}

fn judge_one(name: &str, by: By, long: bool, path: &OsStr) -> Result<()> {
    let own = target().join("judges");
    let artifacts = own.join(name);
    fs::create_dir_all(&artifacts)?;
    let place = Place::new(by, if long { 4096 } else { 512 })?;
    let log = own.join(format!("{name}.log"));
    let output = File::create(&log)?;
    // What hangs is ended.
    let minutes = if long { "300m" } else { "20m" };
    let mut judge = command("timeout");
    judge.args(["--kill-after=10s", minutes, "sh", "-eu"]);
    judge.arg(workspace().join("tests/judges").join(format!("{name}.sh"))).current_dir(place.path());
    judge.env("PATH", path).env("LONG", if long { "1" } else { "" }).env("ARTIFACTS", &artifacts);
    judge.stdout(output.try_clone()?).stderr(output);
    let status = judge.status().with_context(|| format!("cannot start {judge:?}"))?;
    let after = place.close();
    if !status.success() {
        bail!("{status}\n{}\nthe whole is in {}", tail(&log)?, log.display());
    }
    after
}

/// The last lines of a log.
fn tail(log: &Path) -> Result<String> {
    let text = fs::read(log)?;
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(60)..].join("\n"))
}
