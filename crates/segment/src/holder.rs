//! The holder: a small process that keeps one segment alive, and gives it to whoever may connect to its socket.
//!
//! A segment is a sealed memfd: memory without a name that is gone with the last descriptor or mapping of it. The holder
//! has that descriptor, and the name is its socket. So nothing half-made can stay: a segment has a name only when it is
//! whole, and when its holder dies, by whatever cause, its memory goes when its last user does.
//!
//! The other way round the name keeps the holder: when it is gone (a user logs out and the system clears the directory)
//! the holder ends. So does that of a temporary segment, when whoever loaded it has ended and nobody uses it, unless
//! someone has asked for it to stay. One thread does all that, so what it has said to stay is there.

use crate::directory::Directory;
use crate::error::{Error, Result};
use crate::segment::Record;
use crate::stat;
use crate::wire;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{AtFlags, Mode};
use rustix::io::{Errno, Result as SysResult};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Set in the environment of a process that is to be a holder.
const MARK: &str = "XIP_SEGMENT_HOLDER";

/// What a holder is called in `/proc/PID/comm`.
pub(crate) const COMMAND: &str = "xip-holder";

/// How long a user waits for the answer: more than a holder gives to one who connects and says nothing.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is asked of a holder, the whole message.
pub(crate) const GET: &[u8] = b"get";
/// As [`GET`].
pub(crate) const QUIT: &[u8] = b"quit";
/// As [`GET`], and the segment is no temporary one from now on.
pub(crate) const KEEP: &[u8] = b"keep";
/// A holder's yes.
const YES: &[u8] = b"yes";

/// Becomes a holder if this process was started to be one, and then does not return.
///
/// A program that loads segments calls it first thing in `main`: a holder is the program itself, started again, so that
/// nothing has to be installed beside it.
pub fn main_if_asked() {
    let Some(stage) = std::env::var_os(MARK) else { return };
    let done = if stage == "first" { detach().is_ok() } else { hold().is_ok() };
    std::process::exit(i32::from(!done));
}

/// Whether this process should have become a holder: then it must not start one, or there would be no end to it.
pub(crate) fn is_asked() -> bool {
    std::env::var_os(MARK).is_some()
}

/// Keeps a temporary segment while it lives. It closes with the process that has it, however that ends.
#[derive(Debug)]
#[must_use = "the segment goes when this does"]
pub struct Lease {
    line: OwnedFd,
}

impl Lease {
    /// Lets it go, and returns when the holder has looked whether anybody but this process uses the segment: if not, it is gone. (This
    /// one may be about to close it, in threads that serve a mount which has just ended.)
    pub fn end(self) {
        // The holder closes its side then; if it does not answer, the segment goes when it does.
        let _ = sockopt::set_socket_timeout(&self.line, sockopt::Timeout::Recv, Some(PATIENCE));
        if rustix::net::shutdown(&self.line, rustix::net::Shutdown::Write).is_ok() {
            let _ = wire::receive(&self.line);
        }
    }
}

/// Starts a holder for `memory` (opened read-only). When this returns, the name is there. The lease is of use for a record
/// that says so.
pub(crate) fn start(
    program: &Path,
    directory: &Directory,
    lock: BorrowedFd<'_>,
    memory: BorrowedFd<'_>,
    record: &Record,
) -> Result<Lease> {
    let failed = |what: &dyn std::fmt::Display| Error::Holder {
        name: record.info.name.clone(),
        program: program.into(),
        why: what.to_string(),
    };
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|e| failed(&e))?;
    let memory = memory.try_clone_to_owned().map_err(|e| failed(&e))?;
    let status = Command::new(program)
        .arg0(COMMAND)
        .env(MARK, "first")
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::from(memory))
        .stderr(Stdio::null())
        .status()
        .map_err(|e| failed(&e))?;
    if !status.success() {
        return Err(failed(&status));
    }
    let task = serde_json::to_vec(record).map_err(|e| failed(&e))?;
    // The lock goes along, so that nobody comes in between when this process is killed now.
    match wire::send(&ours, &task, &[directory.fd(), lock]).and_then(|()| wire::receive(&ours)) {
        Ok((answer, _)) if answer == YES => Ok(Lease { line: ours }),
        Ok((answer, _)) if !answer.is_empty() => Err(failed(&String::from_utf8_lossy(&answer))),
        Ok(_) | Err(Errno::PIPE | Errno::CONNRESET) => {
            Err(failed(&"it ended at once; is it a program that calls holder::main_if_asked?"))
        }
        Err(errno) => Err(failed(&errno)),
    }
}

/// The first of two processes: leaves the terminal and the one that started it.
fn detach() -> std::io::Result<()> {
    let _ = rustix::process::setsid();
    Command::new("/proc/self/exe").arg0(COMMAND).env(MARK, "second").spawn().map(drop)
}

/// The second: takes what came as standard input and output, and serves until the segment is removed.
fn hold() -> SysResult<()> {
    crate::memory::close_from(3);
    let channel = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let memory = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?;
    let null = rustix::fs::open("/dev/null", rustix::fs::OFlags::RDWR, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    drop(null);
    rustix::process::chdir("/")?;
    // Shown by `ps` and in reports; no harm if it fails.
    let _ = rustix::thread::set_name(c"xip-holder");

    let (task, mut fds) = wire::receive(&channel)?;
    let Ok(mut record) = serde_json::from_slice::<Record>(&task) else { return Err(Errno::INVAL) };
    let (Some(lock), Some(directory)) = (fds.pop(), fds.pop()) else { return Err(Errno::INVAL) };
    record.info.holder = std::process::id();

    let listener = match publish(directory.as_fd(), &record.info.name) {
        Ok(listener) => listener,
        Err(errno) => return wire::send(&channel, errno.to_string().as_bytes(), &[]),
    };
    let name = Name::new(directory, &record.info.name)?;
    drop(lock);
    // The loader may be gone: the segment is whole, and stays.
    let _ = wire::send(&channel, YES, &[]);
    let owner = record.temporary.then_some(channel);
    serve(&listener, &name, &memory, record, owner)
}

/// Makes the socket, and gives it its name when it listens: a name that refuses connections has lost its holder.
fn publish(directory: BorrowedFd<'_>, name: &str) -> SysResult<OwnedFd> {
    let new = format!(".{name}.new");
    let _ = rustix::fs::unlinkat(directory, &new, AtFlags::empty());
    let listener = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    // To connect takes permission to write: for the owner alone.
    rustix::process::umask(Mode::from_bits_truncate(0o177));
    rustix::net::bind(&listener, &SocketAddrUnix::new(Directory::address(directory, &new))?)?;
    rustix::net::listen(&listener, 128)?;
    rustix::fs::renameat(directory, &new, directory, name)?;
    Ok(listener)
}

/// The name of the segment in its directory.
struct Name {
    directory: OwnedFd,
    name: String,
    id: (u64, u64),
}

impl Name {
    fn new(directory: OwnedFd, name: &str) -> SysResult<Self> {
        let mut it = Self { directory, name: name.into(), id: (0, 0) };
        it.id = it.found()?;
        Ok(it)
    }

    fn found(&self) -> SysResult<(u64, u64)> {
        let stat = rustix::fs::statat(&self.directory, self.name.as_str(), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok((stat.st_dev, stat.st_ino))
    }

    fn is_there(&self) -> bool {
        self.found() == Ok(self.id)
    }

    fn take_away(&self) -> SysResult<()> {
        rustix::fs::unlinkat(&self.directory, self.name.as_str(), AtFlags::empty())
    }
}

/// Serves until the name is gone. `owner` is the line to the process that a temporary segment is for: it closes with that.
fn serve(
    listener: &OwnedFd,
    name: &Name,
    memory: &OwnedFd,
    mut record: Record,
    mut owner: Option<OwnedFd>,
) -> SysResult<()> {
    let mut header = serde_json::to_vec(&record).map_err(|_| Errno::INVAL)?;
    // An owner who waits to hear that we have looked: by the end of the line.
    let mut parting = None;
    loop {
        let mut pause = Timespec { tv_sec: 5, tv_nsec: 0 };
        if record.temporary && owner.is_none() {
            if stat::users(memory, Some(record.loader)).is_empty() && name.is_there() {
                return name.take_away();
            }
            // The programs of a runner that was killed end with it, in the kernel's own time.
            pause = Timespec { tv_sec: 0, tv_nsec: 500_000_000 };
        }
        drop(parting.take());
        let mut waiting = vec![PollFd::new(listener, PollFlags::IN)];
        waiting.extend(owner.iter().map(|owner| PollFd::new(owner, PollFlags::IN)));
        match rustix::event::poll(&mut waiting, Some(&pause)) {
            Ok(0) if !name.is_there() => return Ok(()),
            Ok(0) | Err(Errno::INTR) => continue,
            Ok(_) => {}
            Err(errno) => return Err(errno),
        }
        let (asked, ended) =
            (!waiting[0].revents().is_empty(), waiting.get(1).is_some_and(|o| !o.revents().is_empty()));
        if ended {
            parting = owner.take();
        }
        if !asked {
            continue;
        }
        let Ok(user) = rustix::net::accept_with(listener, SocketFlags::CLOEXEC) else { continue };
        // Whoever connects and says nothing, or takes nothing, does not stop the others for long.
        let _ = sockopt::set_socket_timeout(&user, sockopt::Timeout::Recv, Some(Duration::from_secs(1)));
        let _ = sockopt::set_socket_timeout(&user, sockopt::Timeout::Send, Some(Duration::from_secs(1)));
        let Ok((request, _)) = wire::receive(&user) else { continue };
        if request == KEEP {
            (record.temporary, owner) = (false, None);
            header = serde_json::to_vec(&record).map_err(|_| Errno::INVAL)?;
        }
        if request == GET || request == KEEP {
            let _ = wire::send(&user, &header, &[memory.as_fd()]);
        } else if request == QUIT && name.is_there() {
            let gone = name.take_away();
            let _ = match gone {
                Ok(()) => wire::send(&user, YES, &[]),
                Err(errno) => wire::send(&user, errno.to_string().as_bytes(), &[]),
            };
            if gone.is_ok() {
                return Ok(());
            }
        }
    }
}

/// What a holder answers: bytes and descriptors.
pub(crate) type Answer = (Vec<u8>, Vec<OwnedFd>);

/// A request to a holder whose answer is awaited later, so that all can be asked at once.
pub(crate) struct Asked {
    socket: OwnedFd,
    deadline: Instant,
}

impl Asked {
    /// Sends the request. `NOENT`: there is no such name. `CONNREFUSED`: it has lost its holder.
    fn send(directory: &Directory, name: &str, request: &[u8], deadline: Instant) -> SysResult<Self> {
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(left(deadline)))?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(Directory::address(directory.fd(), name))?)?;
        wire::send(&socket, request, &[])?;
        Ok(Self { socket, deadline })
    }

    fn answer(self) -> SysResult<Answer> {
        sockopt::set_socket_timeout(&self.socket, sockopt::Timeout::Recv, Some(left(self.deadline)))?;
        match wire::receive(&self.socket)? {
            // It ended before it answered.
            (bytes, _) if bytes.is_empty() => Err(Errno::CONNRESET),
            answer => Ok(answer),
        }
    }
}

/// The time until `deadline`; never zero, which would be no limit.
fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}

/// Asks the holder of `name`. Errors: as [`Asked::send`]; `AGAIN`: it does not answer.
pub(crate) fn ask(directory: &Directory, name: &str, request: &[u8]) -> SysResult<Answer> {
    Asked::send(directory, name, request, Instant::now() + PATIENCE)?.answer()
}

/// As [`ask`], for all of `names`, which together take no longer than one.
pub(crate) fn ask_all(directory: &Directory, names: &[String], request: &[u8]) -> Vec<SysResult<Answer>> {
    let deadline = Instant::now() + PATIENCE;
    let asked: Vec<_> = names.iter().map(|name| Asked::send(directory, name, request, deadline)).collect();
    asked.into_iter().map(|asked| asked?.answer()).collect()
}

/// Asks the holder of `name` to end.
pub(crate) fn quit(directory: &Directory, name: &str) -> SysResult<()> {
    let (answer, _) = ask(directory, name, QUIT)?;
    if answer == YES { Ok(()) } else { Err(Errno::CONNRESET) }
}
