//! A volume of its own for each judge, mounted: the only place that knows how.

use crate::process::{cargo, command, run};
use crate::target;
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// Who mounts it.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub(crate) enum By {
    /// `xip mount`
    Xip,
    /// The kernel itself, by a loop device: says what a judge is worth
    Kernel,
}

impl By {
    /// Builds what mounts.
    pub(crate) fn prepare(self) -> Result<()> {
        match self {
            Self::Xip => run(cargo().args(["build", "--quiet", "--package", "xip-cli"])),
            Self::Kernel => Ok(()),
        }
    }

    fn mount(self, image: &Path, at: &Path) -> Result<()> {
        let mut mount = match self {
            Self::Xip => xip("mount"),
            Self::Kernel => command("mount"),
        };
        match self {
            Self::Xip => mount.arg(image).arg(at).args(["-o", "rw,allow_other,suid,dev"]),
            Self::Kernel => mount.args(["-o", "loop"]).arg(image).arg(at),
        };
        // Where it is mounted is known here.
        run(mount.stdout(Stdio::null()))
    }

    fn unmount(self, at: &Path) -> Result<()> {
        let mut unmount = match self {
            Self::Xip => xip("umount"),
            Self::Kernel => command("umount"),
        };
        run(unmount.arg(at))
    }
}

fn xip(verb: &str) -> Command {
    let mut xip = Command::new(target().join("debug/xip"));
    xip.arg(verb);
    xip
}

/// A mounted volume.
pub(crate) struct Place {
    by: By,
    dir: TempDir,
    mounted: bool,
}

impl Place {
    /// A new volume of so many MiB.
    pub(crate) fn new(by: By, size: u64) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("judge-").tempdir_in(target())?;
        let mut place = Self { by, dir, mounted: false };
        File::create(place.image())?.set_len(size << 20)?;
        run(command("mke2fs").args(["-q", "-F", "-t", "ext2", "-b", "4096", "-I", "256"]).arg(place.image()))?;
        fs::create_dir(place.path())?;
        by.mount(&place.image(), &place.path())?;
        place.mounted = true;
        Ok(place)
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    /// Unmounts it, and lets `e2fsck` judge.
    pub(crate) fn close(mut self) -> Result<()> {
        self.by.unmount(&self.path())?;
        self.mounted = false;
        let mut e2fsck = command("e2fsck");
        let judged = e2fsck.arg("-fn").arg(self.image()).output().context("cannot start e2fsck")?;
        let text = String::from_utf8_lossy(&judged.stdout);
        // It answers its own questions with "no" and may still end well.
        if !judged.status.success() || text.contains("? no") {
            bail!("e2fsck -fn: {}\n{text}", judged.status);
        }
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.mounted {
            // Whatever became of who serves it, the directory below can be removed then.
            let _ = command("umount").arg("--lazy").arg(self.path()).status();
        }
    }
}
