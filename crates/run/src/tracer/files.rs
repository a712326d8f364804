//! Which file of the volume a descriptor or a mapping of a traced program is, and where its pages are.

use crate::place::{Layout, Plan, Request, plan};
use crate::report::{FileReport, Reason, Report};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, StatxFlags, openat2, readlink, stat, statx};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use xip::{File, InodeNo, PageIndex, Volume};

/// Where the program's files are, as the child told.
#[derive(Debug)]
pub(crate) struct Mounts {
    /// The program's root directory.
    pub(crate) root: OwnedFd,
    /// The volume's own mount under an overlay, and the layer over it.
    pub(crate) overlay: Option<(OwnedFd, OwnedFd)>,
    /// The device number of the volume's mount.
    pub(crate) device: u64,
    /// The number of the root mount.
    pub(crate) mount_id: u64,
}

/// A file as a program has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// None of ours.
    Other,
    /// A file of the volume.
    Ours(u64),
    /// The overlay's copy of a file of the volume.
    CopiedUp(u64),
}

/// A file of the volume that was mapped.
struct Known {
    /// Nothing when the volume gave an error.
    file: Option<File>,
    tail_is_zero: bool,
    path: String,
    counted: FileReport,
}

/// All files of the volume that were mapped.
pub(super) struct Files<'a> {
    volume: &'a Volume,
    mounts: Mounts,
    /// The device number that the overlay's mappings have.
    overlay_device: Option<u64>,
    known: HashMap<u64, Known>,
}

impl<'a> Files<'a> {
    pub(super) fn new(volume: &'a Volume, mounts: Mounts) -> Self {
        let overlay_device = mounts.overlay.as_ref().and_then(|_| {
            rustix::fs::fstat(&mounts.root).ok().map(|root| root.st_dev)
        });
        Self { volume, mounts, overlay_device, known: HashMap::new() }
    }

    /// What descriptor `fd` of a thread is.
    pub(super) fn of_fd(&mut self, thread: i32, fd: i32) -> Found {
        let link = format!("/proc/{thread}/fd/{fd}");
        if self.mounts.overlay.is_none() {
            return match stat(&link) {
                Ok(found) if found.st_dev == self.mounts.device => self.ours(found.st_ino, || path_of(&link)),
                _ => Found::Other,
            };
        }
        let Ok(path) = readlink(&link, Vec::new()) else { return Found::Other };
        match statx(rustix::fs::CWD, &link, AtFlags::empty(), StatxFlags::INO | StatxFlags::MNT_ID) {
            Ok(found) if found.stx_mnt_id == self.mounts.mount_id => self.below(path.as_bytes(), found.stx_ino),
            _ => Found::Other,
        }
    }

    /// What is mapped, by a line of `/proc/PID/maps`.
    pub(super) fn of_mapping(&mut self, device: u64, ino: u64, path: &[u8]) -> Found {
        if device == self.mounts.device {
            return self.ours(ino, || String::from_utf8_lossy(path).into_owned());
        }
        if Some(device) != self.overlay_device {
            return Found::Other;
        }
        match inside(&self.mounts.root, path).and_then(|fd| {
            statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::INO | StatxFlags::MNT_ID)
        }) {
            Ok(found) if found.stx_mnt_id == self.mounts.mount_id => self.below(path, found.stx_ino),
            _ => Found::Other,
        }
    }

    /// What a path of the overlay with this inode number is: of the volume if the volume has that inode there, and the
    /// layer over it has nothing.
    fn below(&mut self, path: &[u8], ino: u64) -> Found {
        let Some((lower, upper)) = &self.mounts.overlay else { return Found::Other };
        let below = inside(lower, path).and_then(rustix::fs::fstat);
        if !below.is_ok_and(|below| below.st_ino == ino && below.st_dev == self.mounts.device) {
            return Found::Other;
        }
        let covered = !matches!(inside(upper, path), Err(rustix::io::Errno::NOENT));
        match self.ours(ino, || String::from_utf8_lossy(path).into_owned()) {
            Found::Ours(ino) if covered => Found::CopiedUp(ino),
            found => found,
        }
    }

    /// Also remembers the file. Inode numbers of the mount are the volume's own, but for what only the mount has.
    fn ours(&mut self, ino: u64, path: impl FnOnce() -> String) -> Found {
        self.known.entry(ino).or_insert_with(|| {
            let file = u32::try_from(ino).ok().and_then(|ino| self.volume.inodes().file(InodeNo(ino)).ok());
            let tail_is_zero = file.as_ref().is_some_and(|file| file.tail_is_zero().unwrap_or(false));
            Known { file, tail_is_zero, path: path(), counted: FileReport::default() }
        });
        Found::Ours(ino)
    }

    /// What to do for a mapping of a file of the volume.
    pub(super) fn plan(&self, ino: u64, request: Request) -> Plan {
        let Some(file) = self.known.get(&ino).and_then(|known| known.file.as_ref().map(|file| (known, file))) else {
            return Plan::default();
        };
        let (known, file) = file;
        match file.layout(PageIndex(request.first), request.pages) {
            Ok(runs) => plan(request, Layout { size: file.len(), tail_is_zero: known.tail_is_zero, runs: &runs }),
            Err(_) => {
                let pages = file.len().div_ceil(xip::PAGE_BYTES).saturating_sub(request.first).min(request.pages);
                Plan { pieces: Vec::new(), left: vec![(Reason::Volume, pages * xip::PAGE_BYTES)] }
            }
        }
    }

    pub(super) fn count_in_place(&mut self, ino: u64, bytes: u64) {
        if let Some(known) = self.known.get_mut(&ino) {
            known.counted.bytes_in_place += bytes;
            known.counted.mappings_in_place += 1;
        }
    }

    pub(super) fn count_left(&mut self, ino: u64, reason: Reason, bytes: u64) {
        if let Some(known) = self.known.get_mut(&ino)
            && bytes > 0
        {
            *known.counted.not_in_place.entry(reason).or_default() += bytes;
        }
    }

    /// Adds what was counted to the report.
    pub(super) fn report(self, report: &mut Report) {
        for known in self.known.into_values() {
            report.add(known.path, known.counted);
        }
    }
}

fn path_of(link: &str) -> String {
    readlink(link, Vec::new()).map_or_else(|_| link.to_owned(), |path| path.to_string_lossy().into_owned())
}

/// Opens a path below `root`, never out of it, links not followed.
fn inside(root: &OwnedFd, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let path = path.strip_prefix(b"/").unwrap_or(path);
    let path = Path::new(OsStr::from_bytes(if path.is_empty() { b"." } else { path }));
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    openat2(root.as_fd(), path, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
}
