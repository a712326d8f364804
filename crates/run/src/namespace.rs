//! The program's surroundings, as made from inside its own user and mount namespace: the volume as the root directory,
//! `/proc`, `/dev`, `/sys`, `/tmp`, and what is bound in from the host.

use crate::options::{Bind, Root};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, chmod, fstat, makedev, open, stat, statx};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_change, move_mount,
    open_tree, unmount,
};
use rustix::process::{chdir, pivot_root};
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A step that failed.
pub(crate) type Failed = (String, io::Error);

/// The host's trees that every program sees.
pub(crate) const FROM_HOST: [&str; 3] = ["/proc", "/dev", "/sys"];

/// Directories of the host of which one is there: the tree is built over it, out of the host's sight.
const BASES: [&str; 4] = ["/tmp", "/mnt", "/run", "/proc"];

/// What the runner needs of the finished tree.
#[derive(Debug)]
pub(crate) struct Tree {
    /// The program's root directory.
    pub(crate) root: OwnedFd,
    /// The layer that takes changes.
    pub(crate) upper: Option<OwnedFd>,
    /// The device number that files of the root are known by in mappings.
    pub(crate) device: u64,
    /// The number of the root mount.
    pub(crate) mount_id: u64,
}

/// A host's tree, taken before the host is out of sight.
struct Taken {
    tree: OwnedFd,
    inside: PathBuf,
    directory: bool,
}

/// Between the mount of the volume and the start: what was taken from the host, and where the volume is mounted.
pub(crate) struct Building {
    taken: Vec<Taken>,
    base: PathBuf,
}

fn failed<E: Into<io::Error>>(step: impl Into<String>) -> impl FnOnce(E) -> Failed {
    move |error| (step.into(), error.into())
}

impl Building {
    /// Takes what is shown of the host, and makes the place where the volume can be mounted: [`Building::volume`].
    pub(crate) fn start(binds: &[Bind], read_only: fn(&OwnedFd) -> io::Result<()>) -> Result<Self, Failed> {
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).map_err(failed("separate the mounts from the host's"))?;
        let mut taken = Vec::new();
        for host in FROM_HOST {
            taken.push(take(Path::new(host), Path::new(host))?);
        }
        for bind in binds {
            let one = take(&bind.host, &bind.inside)?;
            if bind.read_only {
                read_only(&one.tree).map_err(failed(format!("make {} read-only", bind.host.display())))?;
            }
            taken.push(one);
        }
        let base = BASES.iter().map(Path::new).find(|base| base.is_dir()).unwrap_or(Path::new("/"));
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount("xip", base, "tmpfs", flags, Some(c"mode=0755,inode64")).map_err(failed("mount a tmpfs"))?;
        let building = Self { taken, base: base.into() };
        for directory in ["volume", "upper", "work", "merged"] {
            std::fs::create_dir(building.base.join(directory)).map_err(failed("make a directory"))?;
        }
        Ok(building)
    }

    /// Where the volume is to be mounted.
    pub(crate) fn volume(&self) -> PathBuf {
        self.base.join("volume")
    }

    /// When the volume is mounted and served: makes it the root directory, and puts everything in its place.
    pub(crate) fn finish(self, root: Root, workdir: &Path, inodes: u64) -> Result<Tree, Failed> {
        let volume = self.volume();
        let (new_root, upper) = match root {
            Root::ReadOnly => (volume, None),
            Root::Overlay => self.overlay(&volume, inodes).map(|(root, upper)| (root, Some(upper)))?,
        };
        chdir(&new_root).map_err(failed("enter the volume"))?;
        pivot_root(".", ".").map_err(failed("make the volume the root directory"))?;
        unmount(".", UnmountFlags::DETACH).map_err(failed("leave the host's tree"))?;
        chdir("/").map_err(failed("enter the root directory"))?;
        for taken in self.taken.iter().take(FROM_HOST.len()) {
            taken.put()?;
        }
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount("tmpfs", "/tmp", "tmpfs", flags, Some(c"mode=1777")).map_err(failed("mount a tmpfs at /tmp"))?;
        for taken in self.taken.iter().skip(FROM_HOST.len()) {
            taken.make_place();
            taken.put()?;
        }
        chdir(workdir).map_err(failed(format!("enter {}", workdir.display())))?;
        let root =
            open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(failed("open the root directory"))?;
        let known = statx(&root, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).map_err(failed("look at the root"))?;
        let device = makedev(known.stx_dev_major, known.stx_dev_minor);
        Ok(Tree { root, upper, device, mount_id: known.stx_mnt_id })
    }

    /// The volume under a layer in memory. Inode numbers of that begin beyond the volume's: a number says of which a file is.
    fn overlay(&self, volume: &Path, inodes: u64) -> Result<(PathBuf, OwnedFd), Failed> {
        let (upper, merged) = (self.base.join("upper"), self.base.join("merged"));
        loop {
            // The next number, used up.
            let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
            let file = open(&upper, flags, Mode::RUSR).map_err(failed("prepare the overlay"))?;
            if fstat(&file).map_err(failed("prepare the overlay"))?.st_ino > inodes {
                break;
            }
        }
        let mode = stat(volume).map_err(failed("look at the volume"))?.st_mode;
        chmod(&upper, Mode::from_raw_mode(mode & 0o7777)).map_err(failed("prepare the overlay"))?;
        let mut options = Vec::new();
        let parts = [("lowerdir=", volume), (",upperdir=", &upper), (",workdir=", &self.base.join("work"))];
        for (name, path) in parts {
            options.extend_from_slice(name.as_bytes());
            options.extend_from_slice(path.as_os_str().as_bytes());
        }
        options.extend_from_slice(b",userxattr,xino=off");
        let options = CString::new(options).map_err(failed("mount the overlay"))?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount("xip", &merged, "overlay", flags, Some(&*options)).map_err(failed("mount an overlay on the volume"))?;
        let path = OFlags::PATH | OFlags::CLOEXEC;
        let upper = open(&upper, path, Mode::empty()).map_err(failed("open the overlay"))?;
        Ok((merged, upper))
    }
}

fn take(host: &Path, inside: &Path) -> Result<Taken, Failed> {
    let step = || format!("show {}", host.display());
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(CWD, host, flags).map_err(failed(step()))?;
    let directory = host.metadata().map_err(failed(step()))?.is_dir();
    Ok(Taken { tree, inside: inside.into(), directory })
}

impl Taken {
    /// A place to put it where the tree can be written: in `/tmp`, on the overlay. Elsewhere the mount shows one.
    fn make_place(&self) {
        if self.inside.exists() {
            return;
        }
        // What cannot be made is told by `put`.
        if self.directory {
            let _ = std::fs::create_dir_all(&self.inside);
        } else {
            if let Some(parent) = self.inside.parent() {
                let _ = std::fs::create_dir_all(parent);
            }
            let _ = std::fs::File::create(&self.inside);
        }
    }

    fn put(&self) -> Result<(), Failed> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
        move_mount(self.tree.as_fd(), "", CWD, &self.inside, flags).map_err(|errno| {
            let kind = |directory| if directory { "a directory" } else { "a file" };
            let (what, inside) = (kind(self.directory), self.inside.display());
            // The kernel says only that something is invalid.
            let other = self.inside.metadata().ok().filter(|there| there.is_dir() != self.directory);
            let there = other.map_or(String::new(), |there| format!(", which is {}", kind(there.is_dir())));
            failed(format!("put {what} at {inside}{there}"))(errno)
        })
    }
}
