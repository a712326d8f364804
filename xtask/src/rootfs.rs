//! The Debian tree that tests and benchmarks use: made once, kept under the target directory.

use crate::process::{command, is_root, output, run};
use crate::setup::{self, apt};
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const SUITE: &str = "bookworm";
const PACKAGES: &str = "python3,perl,git,gcc,libc6-dev";
/// Trees in the making are called this and something; one that is left was given up.
const UNFINISHED: &str = "rootfs.new-";

/// Where the tree is, or will be. `XIP_ROOTFS` names another.
pub(crate) fn path() -> PathBuf {
    std::env::var_os("XIP_ROOTFS").map_or_else(|| crate::target().join("rootfs"), PathBuf::from)
}

/// Makes the tree if it is not there, says what it has, and where it is.
pub(crate) fn ensure() -> Result<PathBuf> {
    let tree = path();
    if !tree.exists() {
        make(&tree)?;
    }
    let (mut entries, mut bytes) = (0, 0);
    count(&tree, &mut entries, &mut bytes)?;
    println!("rootfs: {}: {entries} entries, {} MB", tree.display(), bytes / 1_000_000);
    Ok(tree)
}

/// Makes it beside and renames it: what stands at `tree` is whole.
fn make(tree: &Path) -> Result<()> {
    setup::ensure()?;
    if !is_root() {
        bail!("a tree with its true owners and devices is made by root: sudo cargo xtask rootfs");
    }
    let parent = tree.parent().context("a tree has a directory to be in")?;
    fs::create_dir_all(parent)?;
    let lock = File::create(parent.join("rootfs.lock"))?;
    lock.lock()?;
    if tree.exists() {
        return Ok(()); // Another made it while we waited.
    }
    remove_unfinished(parent)?;
    let mirror = mirror()?;
    let beside = tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(parent)?;
    let new = beside.path().join("tree");
    println!("rootfs: Debian {SUITE} from {mirror}; takes a minute or two");
    interruptible(
        command("mmdebstrap")
            .args(["--quiet", "--mode=root", "--variant=minbase"])
            .arg(format!("--include={PACKAGES}"))
            .args([SUITE.as_ref(), new.as_os_str(), mirror.as_ref()]),
    )?;
    Ok(fs::rename(&new, tree)?)
}

fn remove_unfinished(parent: &Path) -> Result<()> {
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// The Debian mirror of this machine's own apt sources.
fn mirror() -> Result<String> {
    let known = || {
        let mut targets = apt();
        targets.args(["indextargets", "--format", "$(REPO_URI)|$(LABEL)|$(COMPONENT)", "Created-By: Packages"]);
        let targets = output(&mut targets)?;
        let debian = targets.lines().find_map(|line| line.strip_suffix("|Debian|main"));
        anyhow::Ok(debian.map(str::to_owned))
    };
    if let Some(mirror) = known()? {
        return Ok(mirror);
    }
    // What a source is, apt knows only once it has its lists.
    let _ = run(apt().arg("update"));
    known()?.with_context(|| format!("no source of Debian {SUITE} in this machine's apt sources"))
}

/// Runs it in a process group of its own; when we are asked to end, all of the group ends first, so that nothing
/// writes to what is then removed.
fn interruptible(command: &mut Command) -> Result<()> {
    let asked = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&asked))?;
    }
    let mut child = command.process_group(0).spawn().with_context(|| format!("cannot start {command:?}"))?;
    let group = Pid::from_child(&child);
    let mut told = false;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if asked.load(Ordering::Relaxed) && !told {
            kill_process_group(group, Signal::TERM)?;
            told = true;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    if told {
        bail!("interrupted");
    }
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}

fn count(dir: &Path, entries: &mut u64, bytes: &mut u64) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        *entries += 1;
        if meta.is_dir() {
            count(&entry.path(), entries, bytes)?;
        } else {
            *bytes += meta.size();
        }
    }
    Ok(())
}
