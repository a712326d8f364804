//! A run from the runner's side: start the child, serve it a volume, trace it, and wait.

use super::child::{self, Plan, says};
use super::files::{Files, Mounts};
use super::signals::Passing;
use super::stub::Stub;
use super::turns::Turns;
use super::{Thread, Tracer, sys};
use crate::channel::Channel;
use crate::error::Error;
use crate::namespace::FROM_HOST;
use crate::options::Options;
use crate::report::{End, Outcome, Report};
use crate::{prerequisites, seccomp};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use sys::Status;
use xip::Volume;
use xip_fuse::{MountPoint, ServeOptions};

/// What the page cache may have of files that are read, in bytes: room for the headers of many programs and libraries, which
/// each start looks at, and small beside what is in place.
const PAGE_CACHE: u64 = 512 << 10;
const READ_AHEAD: u32 = 32 << 10;

fn setup(step: &str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Setup { step: step.into(), source }
}

/// The child, killed and reaped when something goes wrong before it is the program.
struct Child {
    pid: libc::pid_t,
    channel: Channel,
}

impl Drop for Child {
    fn drop(&mut self) {
        sys::kill(self.pid, libc::SIGKILL);
        while let Ok(Some((_, status))) = sys::wait(self.pid, true) {
            if matches!(status, Status::Exited(_) | Status::Killed(_)) {
                break;
            }
            let _ = sys::resume(self.pid, 0);
        }
    }
}

impl Child {
    /// The child's next message, which must be `expected`.
    fn expect(&self, expected: u8, program: &OsStr) -> Result<(Vec<u8>, Vec<OwnedFd>), Error> {
        let (message, fds) = self.channel.receive().map_err(setup("talk to the program's process"))?;
        match message.first() {
            Some(&said) if said == expected => Ok((message, fds)),
            Some(&says::FAILED) => Err(child::error_of(&message, program)),
            _ => Err(setup("talk to the program's process")(io::ErrorKind::InvalidData.into())),
        }
    }

    fn go(&self) -> Result<(), Error> {
        self.channel.send(&[says::GO], &[]).map_err(setup("talk to the program's process"))
    }
}

/// One run. The thread that calls this traces: it must not have other children.
pub(crate) fn run(volume: &Volume, segment: BorrowedFd<'_>, options: &Options) -> Result<Outcome, Error> {
    let traced = !options.page_cache;
    if traced {
        volume.in_place().map_err(Error::NotInPlace)?;
    }
    let cookie = cookie();
    let points = mount_points(options)?;
    // The mount's own files come after the volume's: mount points and the directories above them.
    let own: usize = points.iter().map(|(path, _)| path.components().count()).sum();
    let inodes = u64::from(volume.geometry().inodes) + own as u64;
    let plan = Plan::new(options, traced.then(|| seccomp::filter(cookie)), inodes)?;

    let (ours, theirs) = Channel::pair().map_err(setup("make a socket"))?;
    let pid = child::fork(&plan, theirs).map_err(setup("start a process"))?;
    let child = Child { pid, channel: ours };
    child.expect(says::UNSHARED, &options.program)?;
    map_ids(pid)?;
    child.go()?;

    let (_, mut fds) = child.expect(says::MOUNTED, &options.program)?;
    let device = fds.pop().ok_or(io::ErrorKind::InvalidData).map_err(|e| setup("take the mount")(e.into()))?;
    let serve = ServeOptions { mount_points: points, ..ServeOptions::default() };
    let serve = match traced {
        true => ServeOptions { read_ahead: READ_AHEAD, page_cache_limit: Some(PAGE_CACHE), ..serve },
        false => serve,
    };
    // Ends with the mount, which ends with the last process in its namespace.
    let session = xip_fuse::serve(device, volume, &serve)?;
    child.go()?;

    let (message, fds) = child.expect(says::READY, &options.program)?;
    let mounts = mounts(&message, fds)?;
    let _passing = Passing::start(pid);
    let (end, report) = if traced {
        sys::seize(pid).map_err(prerequisites::tracing)?;
        child.go()?;
        let (_, mut fds) = child.expect(says::FILTERED, &options.program)?;
        let listener = fds.pop().ok_or(io::ErrorKind::InvalidData).map_err(|e| setup("take the listener")(e.into()))?;
        sys::take_turns(listener.as_fd());
        child.go()?;
        let known = rustix::fs::fstat(segment).map_err(|errno| setup("look at the segment")(errno.into()))?;
        let tracer = Tracer {
            main: pid,
            threads: BTreeMap::from([(pid, Thread { known: true, process: pid, alone: true, ..Thread::NEW })]),
            queue: VecDeque::new(),
            executing: BTreeMap::new(),
            listener,
            segment,
            segment_id: (known.st_dev, known.st_ino),
            placed: BTreeMap::new(),
            cookie,
            stub: Rc::new(RefCell::new(Stub::new().map_err(setup("make shared memory"))?)),
            turns: Turns::new(),
            files: Files::new(volume, xip_segment::nvdimm::data_offset(segment), mounts, &session),
            instruction_at: None,
            report: Report { traced: true, ..Report::default() },
            notice: options.notice,
            end: None,
        };
        tracer.run()
    } else {
        let namespace = UserNamespace::of(pid).map_err(setup("look at the program's namespace"))?;
        child.go()?;
        drop(mounts);
        let end = wait_untraced(pid);
        namespace.end();
        (end, Report { programs: 1, ..Report::default() })
    };
    // A message that is left is of a child that could not become the program.
    match child.channel.receive() {
        Ok((message, _)) => Err(child::error_of(&message, &options.program)),
        Err(_) => Ok(Outcome { end, report }),
    }
}

/// Tries, with a child that does nothing, whether namespaces can be made and, if `traced`, programs traced.
pub(crate) fn trial(traced: bool) -> Result<(), Error> {
    let filter = traced.then(|| seccomp::filter(cookie()));
    let (ours, theirs) = Channel::pair().map_err(setup("make a socket"))?;
    let pid = child::fork_trial(filter.as_deref(), theirs).map_err(setup("start a process"))?;
    let child = Child { pid, channel: ours };
    child.expect(says::UNSHARED, OsStr::new(""))?;
    map_ids(pid)?;
    if traced {
        sys::seize(pid).map_err(prerequisites::tracing)?;
        child.go()?;
        child.expect(says::FILTERED, OsStr::new(""))?;
    }
    Ok(())
}

/// The user namespace of a run, which each of its processes is in that has made none of its own. It cannot be left.
struct UserNamespace {
    name: PathBuf,
    /// It is this one as long as it is held.
    _held: File,
}

impl UserNamespace {
    fn of(pid: libc::pid_t) -> io::Result<Self> {
        let path = format!("/proc/{pid}/ns/user");
        Ok(Self { _held: File::open(&path)?, name: std::fs::read_link(path)? })
    }

    /// Kills what is left in it. What is started meanwhile is found by the next look; what is dead has no memory and
    /// waits for its parent only.
    fn end(&self) {
        while self.kill_all() {
            std::thread::yield_now();
        }
    }

    /// Whether there was anything.
    fn kill_all(&self) -> bool {
        let mut any = false;
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
            // Held before it is looked at, it is no other process when it is killed.
            let Some(held) = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else { continue };
            if std::fs::read_link(entry.path().join("ns/user")).is_ok_and(|name| name == self.name) {
                // A dead one has no program any more.
                let alive = std::fs::read_link(entry.path().join("exe")).is_ok();
                any |= pidfd_send_signal(held, Signal::KILL).is_ok() && alive;
            }
        }
        any
    }
}

fn wait_untraced(pid: libc::pid_t) -> End {
    loop {
        match sys::wait_stops(pid) {
            Ok(Some(Status::Exited(code))) => return End::Exited(code),
            Ok(Some(Status::Killed(signal))) => return End::Signalled(signal),
            Ok(_) => {
                super::signals::stop_self();
                sys::kill(pid, libc::SIGCONT);
            }
            Err(_) => return End::Signalled(libc::SIGKILL),
        }
    }
}

/// Where the mount must show something for the host's trees to be put at.
fn mount_points(options: &Options) -> Result<Vec<(PathBuf, MountPoint)>, Error> {
    let mut points: Vec<_> = FROM_HOST.iter().map(|path| (PathBuf::from(path), MountPoint::Directory)).collect();
    points.push(("/tmp".into(), MountPoint::Directory));
    for bind in &options.binds {
        let step = format!("show {}", bind.host.display());
        let directory = bind.host.metadata().map_err(|source| Error::Setup { step, source })?.is_dir();
        points.push((bind.inside.clone(), if directory { MountPoint::Directory } else { MountPoint::File }));
    }
    Ok(points)
}

/// Says who is who in the child's user namespace. For root everybody stays who they are; anybody else becomes root
/// there, the only user there is.
fn map_ids(pid: libc::pid_t) -> Result<(), Error> {
    let write = |what: &str, text: &str| std::fs::write(format!("/proc/{pid}/{what}"), text);
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let everybody = |what: &str| -> io::Result<()> {
        let text = std::fs::read_to_string(format!("/proc/self/{what}"))?;
        let mut map = String::new();
        for line in text.lines() {
            let mut fields = line.split_whitespace();
            if let (Some(first), _, Some(count)) = (fields.next(), fields.next(), fields.next()) {
                map += &format!("{first} {first} {count}\n");
            }
        }
        write(what, &map)
    };
    if uid == 0 && everybody("uid_map").is_ok() {
        return everybody("gid_map").map_err(prerequisites::namespaces);
    }
    let alone = || {
        write("setgroups", "deny")?;
        write("uid_map", &format!("0 {uid} 1\n"))?;
        write("gid_map", &format!("0 {gid} 1\n"))
    };
    alone().map_err(prerequisites::namespaces)
}

/// The child's account of its mounts.
fn mounts(message: &[u8], fds: Vec<OwnedFd>) -> Result<Mounts, Error> {
    let wrong = || setup("take the mounts")(io::ErrorKind::InvalidData.into());
    let number = |at: usize| message.get(at..at + 8)?.try_into().ok().map(u64::from_ne_bytes);
    let (device, mount_id) = (number(1).ok_or_else(wrong)?, number(9).ok_or_else(wrong)?);
    let mut fds = fds.into_iter();
    let root = fds.next().ok_or_else(wrong)?;
    Ok(Mounts { _root: root, upper: fds.next(), device, mount_id })
}

/// A number that no program has in the upper half of an argument by accident.
fn cookie() -> u32 {
    use std::hash::{BuildHasher, RandomState};
    // Some bits in the middle are set, so that it is no sign extension and no address; the lowest one is not.
    (RandomState::new().hash_one(0) as u32 & 0x7fff_fffe) | 0x5a00_0000
}
