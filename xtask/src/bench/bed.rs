//! What the benchmarks work on, all of it in memory: the Debian tree on tmpfs, its image, its segment, and the image
//! mounted in other ways. It goes at the end.

use crate::process::{cargo, command, is_root, run};
use crate::{rootfs, setup, target};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// Where every Linux has a tmpfs.
const MEMORY: &str = "/dev/shm";
/// The segment's name.
pub(crate) const SEGMENT: &str = "debian";

pub(crate) struct Bed {
    directory: TempDir,
    mounts: Vec<PathBuf>,
    command: PathBuf,
    loaded: bool,
    /// The Debian tree, on disk and in the page cache.
    pub(crate) source: PathBuf,
    /// The same on tmpfs.
    pub(crate) tree: PathBuf,
    pub(crate) image: PathBuf,
}

impl Bed {
    pub(crate) fn make() -> Result<Self> {
        if !is_root() {
            bail!("the benchmarks mount and chroot, which is for root: sudo cargo xtask bench");
        }
        setup::ensure()?;
        run(cargo().args(["build", "--release", "--package", "xip-cli"]))?;
        let directory = tempfile::Builder::new().prefix("xip-bench-").tempdir_in(MEMORY)?;
        let (tree, image) = (directory.path().join("tree"), directory.path().join("debian.xip"));
        let command = target().join("release/xip");
        let bed = Self { directory, mounts: Vec::new(), command, loaded: false, source: rootfs::path(), tree, image };
        fs::create_dir(bed.segments())?;
        Ok(bed)
    }

    /// Makes the Debian tree, its image and its segment.
    pub(crate) fn add_debian(&mut self) -> Result<()> {
        rootfs::ensure()?;
        println!("bench: the tree, its image and its segment, in memory");
        run(command("cp").arg("-a").args([&self.source, &self.tree]))?;
        run(self.xip().arg("build").args([&self.source, &self.image]).stdout(Stdio::null()))?;
        run(self.xip().arg("load").arg(&self.image).args(["--name", SEGMENT]).stdout(Stdio::null()))?;
        self.loaded = true;
        Ok(())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Where the command keeps segments here.
    pub(crate) fn segments(&self) -> PathBuf {
        self.path("segments")
    }

    /// The command, with segments of its own.
    pub(crate) fn xip(&self) -> Command {
        let mut xip = Command::new(&self.command);
        xip.env("XIP_DIR", self.segments()).stdin(Stdio::null());
        xip
    }

    /// A new directory `name`, at which `mount` mounts.
    pub(crate) fn mount(&mut self, name: &str, mount: impl Fn(&Self, &Path) -> Command) -> Result<PathBuf> {
        let point = self.path(name);
        fs::create_dir(&point)?;
        run(mount(self, &point).stdout(Stdio::null())).with_context(|| format!("cannot mount at {name}"))?;
        self.mounts.push(point.clone());
        Ok(point)
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        for mount in self.mounts.iter().rev() {
            let _ = run(command("umount").arg(mount));
        }
        if self.loaded {
            let _ = run(self.xip().args(["rm", "--force", SEGMENT]).stdout(Stdio::null()));
        }
    }
}
