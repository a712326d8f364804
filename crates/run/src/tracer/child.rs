//! The process that becomes the program: forked here, made ready step by step with the runner's consent, and executed.

use super::sys;
use crate::channel::Channel;
use crate::error::Error;
use crate::interpreter;
use crate::namespace::{Building, Failed, Tree};
use crate::options::Options;
use rustix::fd::{AsFd, OwnedFd};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use rustix::thread::{
    CapabilitySet, UnshareFlags, capabilities, remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};
use std::ffi::{CString, OsStr};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::ptr;
use xip_fuse::MountOptions;

/// What a message says; its first byte.
pub(super) mod says {
    /// The namespaces are there.
    pub(crate) const UNSHARED: u8 = b'u';
    /// The volume is mounted; with the descriptor to serve it.
    pub(crate) const MOUNTED: u8 = b'm';
    /// The tree is there; with descriptors of its parts, and the numbers of mounts.
    pub(crate) const READY: u8 = b'r';
    /// The filter is there; with its listener.
    pub(crate) const FILTERED: u8 = b'f';
    /// The runner: go on.
    pub(crate) const GO: u8 = b'g';
    /// It failed; how, errno, and step or interpreter follow.
    pub(crate) const FAILED: u8 = b'!';
}

/// Everything that the child needs, made before the fork.
pub(super) struct Plan<'a> {
    options: &'a Options,
    paths: Vec<CString>,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    filter: Option<Vec<libc::sock_filter>>,
    /// The largest inode number of the mount.
    inodes: u64,
}

const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn c_string(bytes: Vec<u8>) -> Result<CString, Error> {
    CString::new(bytes).map_err(|error| Error::ZeroByte { text: std::ffi::OsString::from_vec(error.into_vec()) })
}

impl<'a> Plan<'a> {
    pub(super) fn new(
        options: &'a Options,
        filter: Option<Vec<libc::sock_filter>>,
        inodes: u64,
    ) -> Result<Self, Error> {
        let program = options.program.as_bytes();
        let mut paths = Vec::new();
        if program.contains(&b'/') {
            paths.push(c_string(program.to_vec())?);
        } else if !program.is_empty() {
            let path = options.env.iter().find(|(name, _)| name == "PATH");
            let path = path.map_or(DEFAULT_PATH, |(_, value)| value.as_bytes());
            for directory in path.split(|&byte| byte == b':') {
                let directory = if directory.is_empty() { b"." } else { directory };
                paths.push(c_string([directory, b"/", program].concat())?);
            }
        }
        let mut arguments = vec![c_string(program.to_vec())?];
        for argument in &options.arguments {
            arguments.push(c_string(argument.as_bytes().to_vec())?);
        }
        let mut environment = Vec::new();
        for (name, value) in &options.env {
            environment.push(c_string([name.as_bytes(), b"=", value.as_bytes()].concat())?);
        }
        Ok(Self { options, paths, arguments, environment, filter, inodes })
    }
}

/// Where the child failed.
enum Failure {
    Namespaces(io::Error),
    Fuse(io::Error),
    Tracing(io::Error),
    NotFound,
    NotExecutable(io::Error),
    NoInterpreter(PathBuf),
    Step(Failed),
}

impl From<Failed> for Failure {
    fn from(failed: Failed) -> Self {
        Self::Step(failed)
    }
}

fn line_broken(error: io::Error) -> Failure {
    Failure::Step(("talk to the runner".into(), error))
}

/// Forks the child that becomes the program; its process id here. It sends, and waits for [`says::GO`], at each step.
pub(super) fn fork(plan: &Plan<'_>, theirs: Channel) -> io::Result<libc::pid_t> {
    let runner = rustix::process::getpid();
    fork_into(theirs, |channel, blocked| match prepare(plan, channel, runner) {
        Ok(()) => execute(plan, blocked),
        Err(failure) => failure,
    })
}

/// Forks a child that only tries whether it may do what a program's child must do, and waits to be ended.
pub(super) fn fork_trial(filter: Option<&[libc::sock_filter]>, theirs: Channel) -> io::Result<libc::pid_t> {
    fork_into(theirs, |channel, _| {
        let tried = unshare().and_then(|()| tell(channel, &[says::UNSHARED], &[])).and_then(|()| {
            filter.map_or(Ok(()), |filter| {
                let listener = sys::install_filter(filter).map_err(Failure::Tracing)?;
                tell(channel, &[says::FILTERED], &[&listener])
            })
        });
        tried.err().unwrap_or(Failure::NotFound)
    })
}

/// Forks a child that does `what`, with the signals that the runner had blocked, and tells why it failed.
fn fork_into(theirs: Channel, what: impl FnOnce(&Channel, u64) -> Failure) -> io::Result<libc::pid_t> {
    // The child keeps all signals waiting until it is the program: a stop of it before the runner listens would wait
    // for ever.
    let blocked = sys::swap_blocked(!0);
    // SAFETY: the child runs in a copy of this thread's memory. Of what other threads of this process may have held
    // at this moment it uses only the C library's allocator, which the library keeps usable over a fork; it ends in
    // `execve` or `_exit`, and nothing of this process's is dropped or flushed by it.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        report(&theirs, &what(&theirs, blocked));
        // SAFETY: ends the process without running anything of ours.
        unsafe { libc::_exit(127) }
    }
    let error = io::Error::last_os_error();
    sys::swap_blocked(blocked);
    if pid < 0 { Err(error) } else { Ok(pid) }
}

fn unshare() -> Result<(), Failure> {
    // SAFETY: the tables of descriptors are not touched, and this process has one thread.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNS) }
        .map_err(|errno| Failure::Namespaces(errno.into()))
}

fn prepare(plan: &Plan<'_>, channel: &Channel, runner: rustix::process::Pid) -> Result<(), Failure> {
    let step = |error: rustix::io::Errno| Failure::Step(("follow the runner's end".into(), error.into()));
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(step)?;
    if getppid() != Some(runner) {
        return Err(step(rustix::io::Errno::SRCH));
    }
    unshare()?;
    tell(channel, &[says::UNSHARED], &[])?;

    let building = Building::start(&plan.options.binds, |tree| sys::set_read_only(tree.as_fd()))?;
    let device = xip_fuse::mount_device(&building.volume(), &MountOptions::default()).map_err(|error| match error {
        xip_fuse::Error::Device { source } => Failure::Fuse(source),
        xip_fuse::Error::Mount { source, .. } => Failure::Step(("mount the volume".into(), source)),
        other => Failure::Step((other.to_string(), io::ErrorKind::Other.into())),
    })?;
    tell(channel, &[says::MOUNTED], &[&device])?;
    drop(device);

    let tree = building.finish(plan.options.root, &plan.options.workdir, plan.inodes)?;
    let Tree { root, upper, device, mount_id } = &tree;
    let mut message = vec![says::READY];
    message.extend_from_slice(&device.to_ne_bytes());
    message.extend_from_slice(&mount_id.to_ne_bytes());
    let fds: Vec<_> = [root].into_iter().chain(upper).collect();
    tell(channel, &message, &fds)?;
    drop(tree);

    if let Some(filter) = &plan.filter {
        cannot_look_at_others().map_err(|error| ("give up a capability".into(), error))?;
        let listener = sys::install_filter(filter).map_err(Failure::Tracing)?;
        tell(channel, &[says::FILTERED], &[&listener])?;
    }
    Ok(())
}

/// The program, and what it starts, shall not be able to open descriptors of a process that is undumpable, as those are
/// which have the segment's for a moment: for ever without the capability for that, also as root of the user namespace.
fn cannot_look_at_others() -> io::Result<()> {
    const PTRACE: CapabilitySet = CapabilitySet::SYS_PTRACE;
    set_no_new_privs(true)?;
    remove_capability_from_bounding_set(PTRACE)?;
    let mut held = capabilities(None)?;
    for set in [&mut held.effective, &mut held.permitted, &mut held.inheritable] {
        set.remove(PTRACE);
    }
    Ok(set_capabilities(None, held)?)
}

/// Sends, and waits until the runner says to go on.
fn tell(channel: &Channel, message: &[u8], fds: &[&OwnedFd]) -> Result<(), Failure> {
    let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
    channel.send(message, &fds).map_err(line_broken)?;
    match channel.receive().map_err(line_broken)? {
        (said, _) if said == [says::GO] => Ok(()),
        _ => Err(line_broken(io::ErrorKind::InvalidData.into())),
    }
}

fn execute(plan: &Plan<'_>, blocked: u64) -> Failure {
    let pointers = |strings: &[CString]| {
        let mut pointers: Vec<_> = strings.iter().map(|string| string.as_ptr()).collect();
        pointers.push(ptr::null());
        pointers
    };
    let (arguments, environment) = (pointers(&plan.arguments), pointers(&plan.environment));
    // SAFETY: sets a disposition to the default: the runtime's own choice for this process is not the program's.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    sys::swap_blocked(blocked);
    let mut refused = None;
    for path in &plan.paths {
        // SAFETY: path and all strings are C strings, both lists end with a null pointer, and all live here.
        unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::ENOENT) if Path::new(OsStr::from_bytes(path.as_bytes())).exists() => {
                // It is there: what is missing is its interpreter.
                match interpreter::missing(Path::new(OsStr::from_bytes(path.as_bytes()))) {
                    Some(interpreter) => return Failure::NoInterpreter(interpreter),
                    None => refused = Some(error),
                }
                break;
            }
            Some(libc::ENOENT | libc::ENOTDIR) => {}
            Some(libc::EACCES) => refused = Some(error),
            _ => {
                refused = Some(error);
                break;
            }
        }
    }
    refused.map_or(Failure::NotFound, Failure::NotExecutable)
}

fn report(channel: &Channel, failure: &Failure) {
    let (kind, error, text) = match failure {
        Failure::Namespaces(error) => (b'n', Some(error), OsStr::new("")),
        Failure::Fuse(error) => (b'd', Some(error), OsStr::new("")),
        Failure::Tracing(error) => (b't', Some(error), OsStr::new("")),
        Failure::NotFound => (b'f', None, OsStr::new("")),
        Failure::NotExecutable(error) => (b'x', Some(error), OsStr::new("")),
        Failure::NoInterpreter(path) => (b'i', None, path.as_os_str()),
        Failure::Step((step, error)) => (b's', Some(error), OsStr::new(step)),
    };
    let errno = error.and_then(io::Error::raw_os_error).unwrap_or(libc::EIO);
    let mut message = vec![says::FAILED, kind];
    message.extend_from_slice(&errno.to_ne_bytes());
    message.extend_from_slice(text.as_bytes());
    // Without a line there is nobody to tell.
    let _ = channel.send(&message, &[]);
}

/// The error that a child's message of failure stands for.
pub(super) fn error_of(message: &[u8], program: &OsStr) -> Error {
    let errno = message.get(2..6).and_then(|bytes| bytes.try_into().ok()).map_or(libc::EIO, i32::from_ne_bytes);
    let (source, text) = (io::Error::from_raw_os_error(errno), message.get(6..).unwrap_or_default());
    let program = program.into();
    match message.get(1) {
        Some(b'n') => crate::prerequisites::namespaces(source),
        Some(b'd') => crate::prerequisites::fuse(source),
        Some(b't') => crate::prerequisites::tracing(source),
        Some(b'f') => Error::NotFound { program },
        Some(b'x') => Error::NotExecutable { program, source },
        Some(b'i') => Error::NoInterpreter { program, interpreter: OsStr::from_bytes(text).into() },
        _ => Error::Setup { step: String::from_utf8_lossy(text).into_owned(), source },
    }
}
