//! Which file of the volume a descriptor or a mapping of a traced program is, and where its pages are.

use super::processes::Processes;
use super::{maps, sys};
use crate::place::{Layout, Plan, Request, plan};
use crate::report::{FileReport, Reason, Report};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags, ResolveFlags, fcntl_getfl, open, openat2, readlink};
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use xip::{File, InodeNo, PageIndex, Volume};
use xip_fuse::Session;

/// Where the program's files are, as the child told. The runner itself may not look at files of the mount: FUSE answers
/// only to processes of the namespace that it was mounted in. So all is known from `/proc` and from the volume.
#[derive(Debug)]
pub(crate) struct Mounts {
    /// The program's root directory, kept so that its mount's number stays its own.
    pub(crate) _root: OwnedFd,
    /// The layer over the volume, when there is one.
    pub(crate) upper: Option<OwnedFd>,
    /// The device number that mappings of files of the root have.
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
    /// Where in the segment the volume begins, in bytes.
    start: u64,
    mounts: Mounts,
    known: BTreeMap<u64, Known>,
    /// The mount namespace of the run.
    home: Option<PathBuf>,
    session: &'a Session,
    pub(super) processes: Processes,
    closing: Option<Sender<OwnedFd>>,
}

impl<'a> Files<'a> {
    pub(super) fn new(volume: &'a Volume, start: u64, mounts: Mounts, session: &'a Session) -> Self {
        Self {
            volume,
            start,
            mounts,
            known: BTreeMap::new(),
            home: None,
            session,
            processes: Processes::default(),
            closing: None,
        }
    }

    /// What descriptor `fd` of a thread is. `alone`: the thread is all of its process.
    pub(super) fn of_fd(&mut self, thread: i32, alone: bool, fd: i32) -> Found {
        let quick = if alone && self.mounts.upper.is_none() { self.copied(thread, fd) } else { None };
        let Some(info) = quick.or_else(|| FdInfo::of(thread, fd)) else { return Found::Other };
        let elsewhere = info.mount_id != self.mounts.mount_id;
        // The overlay gives numbers of its own: one that a program has mounted elsewhere may be that of another file below.
        if !info.readable || elsewhere && (self.mounts.upper.is_some() || !self.is_root(thread, info.mount_id)) {
            return Found::Other;
        }
        let path = || readlink(format!("/proc/{thread}/fd/{fd}"), Vec::new());
        match (&self.mounts.upper, self.known.contains_key(&info.ino)) {
            (None, true) => Found::Ours(info.ino),
            (None, false) => self.ours(info.ino, path().unwrap_or_default().as_bytes()),
            (Some(_), _) => path().map_or(Found::Other, |path| self.below(path.as_bytes(), info.ino)),
        }
    }

    /// What is known of a descriptor by a copy of it, at a third of the cost of asking `/proc`.
    fn copied(&mut self, process: i32, fd: i32) -> Option<FdInfo> {
        let copy = pidfd_getfd(self.processes.itself(process)?, fd, PidfdGetfdFlags::empty()).ok()?;
        let ours = |&(_, mount): &(u64, u64)| mount == self.mounts.mount_id;
        let Some((ino, mount_id)) = sys::fuse_node(copy.as_fd()).filter(ours) else {
            self.close_apart(copy);
            return None;
        };
        let flags = fcntl_getfl(&copy).ok()?;
        let readable = !flags.contains(OFlags::PATH) && flags & OFlags::ACCMODE != OFlags::WRONLY;
        Some(FdInfo { readable, mount_id, ino })
    }

    /// Closes a descriptor of a file that is none of ours. That asks who serves it, which may be a program of this run that waits for the
    /// tracer at this moment, or a server that does not answer: a thread of its own waits for it.
    fn close_apart(&mut self, file: OwnedFd) {
        let closing = self.closing.get_or_insert_with(|| {
            let (closing, files) = channel::<OwnedFd>();
            std::thread::spawn(move || files.into_iter().for_each(drop));
            closing
        });
        // The thread is there as long as this is.
        let _ = closing.send(file);
    }

    /// What is mapped, by a line of `/proc/PID/maps`.
    pub(super) fn of_mapping(&mut self, thread: i32, device: u64, ino: u64, path: &[u8]) -> Found {
        match (device == self.mounts.device, self.mounts.upper.is_some()) {
            (false, _) => Found::Other,
            (true, false) => self.ours(ino, path),
            (true, true) if !self.is_at_home(thread) => Found::Other,
            (true, true) => self.below(path, ino),
        }
    }

    /// Whether a thread sees the mounts that the run began with: in a namespace of its own, a path may be another file.
    /// The first one that is asked about is the program itself.
    fn is_at_home(&mut self, thread: i32) -> bool {
        let Ok(now) = std::fs::read_link(format!("/proc/{thread}/ns/mnt")) else { return false };
        *self.home.get_or_insert_with(|| now.clone()) == now
    }

    /// Whether a mount that is not the root is of the same file system: a program has made a namespace of its own.
    fn is_root(&self, thread: i32, mount_id: u64) -> bool {
        let Ok(text) = std::fs::read_to_string(format!("/proc/{thread}/mountinfo")) else { return false };
        text.lines().any(|line| {
            let mut fields = line.split(' ');
            let id = fields.next().and_then(|id| id.parse().ok());
            id == Some(mount_id) && fields.nth(1).and_then(maps::device) == Some(self.mounts.device)
        })
    }

    /// What a path of the overlay with this inode number is: of the volume if the volume has that inode there, and the
    /// layer over it has nothing.
    fn below(&mut self, path: &[u8], ino: u64) -> Found {
        let Some(upper) = &self.mounts.upper else { return Found::Other };
        let below = self.volume.symlink_metadata(OsStr::from_bytes(path));
        if !below.is_ok_and(|below| u64::from(below.inode().number.0) == ino) {
            return Found::Other;
        }
        let covered = !matches!(inside(upper, path), Err(rustix::io::Errno::NOENT));
        match self.ours(ino, path) {
            Found::Ours(ino) if covered => Found::CopiedUp(ino),
            found => found,
        }
    }

    /// Also remembers the file. Inode numbers of the mount are the volume's own, but for what only the mount has.
    fn ours(&mut self, ino: u64, path: &[u8]) -> Found {
        self.known.entry(ino).or_insert_with(|| {
            let file = u32::try_from(ino).ok().and_then(|ino| self.volume.inodes().file(InodeNo(ino)).ok());
            let tail_is_zero = file.as_ref().is_some_and(|file| file.tail_is_zero().unwrap_or(false));
            let path = String::from_utf8_lossy(path).into_owned();
            Known { file, tail_is_zero, path, counted: FileReport::default() }
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
            Ok(runs) => {
                let layout = Layout { size: file.len(), tail_is_zero: known.tail_is_zero, runs: &runs };
                let mut plan = plan(request, layout);
                plan.pieces.iter_mut().for_each(|piece| piece.storage += self.start);
                plan
            }
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
            // Whole programs use the page cache now, and would have it cleared under them again and again.
            if matches!(reason, Reason::Sandboxed | Reason::Bits32 | Reason::Refused | Reason::Volume) {
                self.session.lift_page_cache_limit();
            }
        }
    }

    /// Adds what was counted to the report.
    pub(super) fn report(self, report: &mut Report) {
        for known in self.known.into_values() {
            report.add(known.path, known.counted);
        }
    }
}

/// What the kernel tells of a descriptor.
struct FdInfo {
    readable: bool,
    mount_id: u64,
    ino: u64,
}

impl FdInfo {
    fn of(thread: i32, fd: i32) -> Option<Self> {
        // What is looked for stands in the first lines; one short read is the least that this can cost.
        let mut bytes = [0; 256];
        let file = open(format!("/proc/{thread}/fdinfo/{fd}"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let count = rustix::io::read(file, &mut bytes).ok()?;
        let text = str::from_utf8(bytes.get(..count)?).ok()?;
        let (mut flags, mut mount_id, mut ino) = (None, None, None);
        for line in text.lines() {
            let (name, value) = line.split_once(':')?;
            let value = value.trim();
            match name {
                "flags" => flags = i32::from_str_radix(value, 8).ok(),
                "mnt_id" => mount_id = value.parse().ok(),
                "ino" => {
                    ino = value.parse().ok();
                    break;
                }
                _ => {}
            }
        }
        let flags = flags?;
        let readable = flags & libc::O_PATH == 0 && flags & libc::O_ACCMODE != libc::O_WRONLY;
        Some(Self { readable, mount_id: mount_id?, ino: ino? })
    }
}

/// Opens a path below `root`, never out of it, links not followed.
fn inside(root: &OwnedFd, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let path = path.strip_prefix(b"/").unwrap_or(path);
    let path = Path::new(OsStr::from_bytes(if path.is_empty() { b"." } else { path }));
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    openat2(root.as_fd(), path, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
}
