//! The holder: a small process that keeps one segment alive, and gives it to whoever may connect to its socket.
//!
//! A segment is a sealed memfd: memory without a name that is gone with the last descriptor or mapping of it. The holder
//! has that descriptor, and the name is its socket. So nothing half-made can stay: a segment has a name only when it is
//! whole, and when its holder dies, by whatever cause, its memory goes when its last user does.
//!
//! The other way round the name keeps the holder: when it is gone (a user logs out and the system clears the directory)
//! the holder ends. So does that of a temporary segment, when whoever loaded it has ended and nobody uses it, unless
//! someone has asked for it to stay. One thread does all that, so what it has said to stay is there.
//!
//! A newer generation takes a name over in one step, in which the two sockets change places: the name always leads to one
//! of them. The older one finds its own under the name it was left, and is a temporary segment from then on.

use crate::directory::{self, Directory};
use crate::error::{Error, Result};
use crate::name;
use crate::segment::{Record, id_of};
use crate::stat;
use crate::wire;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{AtFlags, Mode, RenameFlags};
use rustix::io::{Errno, Result as SysResult};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use serde::{Deserialize, Serialize};
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
/// Asks it to look now whether its name is still its own, and whether it is used; it closes the connection when it has.
pub(crate) const LOOK: &[u8] = b"look";
/// With a [`Saved`] as JSON.
pub(crate) const SAVED: &[u8] = b"saved ";
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

/// What an exclusive segment's image has since a save.
#[derive(Serialize, Deserialize)]
pub(crate) struct Saved {
    /// Of the memory that was saved: another may have the name by now.
    pub(crate) id: (u64, u64),
    pub(crate) content: String,
}

/// What a process is told that is to be a holder.
#[derive(Serialize, Deserialize)]
pub(crate) struct Task {
    pub(crate) record: Record,
    /// The name that whoever has this one now is to have from now on.
    pub(crate) over: Option<String>,
}

/// Starts a holder for `memory` (opened read-only). When this returns, the name is there. The lease is of use for a record
/// that says so.
pub(crate) fn start(
    program: &Path,
    directory: &Directory,
    lock: BorrowedFd<'_>,
    memory: BorrowedFd<'_>,
    task: &Task,
) -> Result<Lease> {
    let failed = |what: &dyn std::fmt::Display| Error::Holder {
        name: task.record.info.name.clone(),
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
    let task = serde_json::to_vec(task).map_err(|e| failed(&e))?;
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
    let Ok(Task { mut record, over }) = serde_json::from_slice(&task) else { return Err(Errno::INVAL) };
    let (Some(lock), Some(directory)) = (fds.pop(), fds.pop()) else { return Err(Errno::INVAL) };
    record.info.holder = std::process::id();

    let listener = match publish(directory.as_fd(), &record.info.name, over.as_deref()) {
        Ok(listener) => listener,
        Err(errno) => return wire::send(&channel, errno.to_string().as_bytes(), &[]),
    };
    let name = Name::new(directory, &record.info.name)?;
    drop(lock);
    // The loader may be gone: the segment is whole, and stays.
    let _ = wire::send(&channel, YES, &[]);
    let owner = record.temporary.then_some(channel);
    serve(&listener, name, &memory, record, owner)
}

/// Makes the socket, and gives it its name when it listens: a name that refuses connections has lost its holder. The socket
/// that has the name gets the name `over`.
fn publish(directory: BorrowedFd<'_>, name: &str, over: Option<&str>) -> SysResult<OwnedFd> {
    let new = format!(".{name}.new");
    let _ = rustix::fs::unlinkat(directory, &new, AtFlags::empty());
    let listener = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    // To connect takes permission to write: for the owner alone.
    rustix::process::umask(Mode::from_bits_truncate(0o177));
    rustix::net::bind(&listener, &SocketAddrUnix::new(Directory::address(directory, &new))?)?;
    rustix::net::listen(&listener, 128)?;
    let Some(over) = over else {
        rustix::fs::renameat(directory, &new, directory, name)?;
        return Ok(listener);
    };
    // Who is killed between the two leaves a name without a holder, which the next one who sees it clears away.
    rustix::fs::renameat_with(directory, &new, directory, over, RenameFlags::NOREPLACE)?;
    match rustix::fs::renameat_with(directory, over, directory, name, RenameFlags::EXCHANGE) {
        // It was a temporary one, and has just gone.
        Err(Errno::NOENT) => rustix::fs::renameat(directory, over, directory, name)?,
        Err(errno) => {
            let _ = rustix::fs::unlinkat(directory, over, AtFlags::empty());
            return Err(errno);
        }
        Ok(()) => {}
    }
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
        it.id = it.found(name)?;
        Ok(it)
    }

    fn found(&self, name: &str) -> SysResult<(u64, u64)> {
        let stat = rustix::fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok((stat.st_dev, stat.st_ino))
    }

    fn is_there(&self) -> bool {
        self.found(&self.name) == Ok(self.id)
    }

    /// Whether it is there, be it under another name since a newer generation has this one.
    fn follow(&mut self) -> bool {
        if self.is_there() {
            return true;
        }
        let names = directory::names(self.directory.as_fd()).unwrap_or_default();
        let mut generations = names.into_iter().filter(|other| name::given(other) == name::given(&self.name));
        let Some(name) = generations.find(|other| self.found(other) == Ok(self.id)) else { return false };
        self.name = name;
        true
    }

    fn take_away(&self) -> SysResult<()> {
        rustix::fs::unlinkat(&self.directory, self.name.as_str(), AtFlags::empty())
    }
}

/// Serves until the name is gone. `owner` is the line to the process that a temporary segment is for: it closes with that.
fn serve(
    listener: &OwnedFd,
    mut name: Name,
    memory: &OwnedFd,
    mut record: Record,
    mut owner: Option<OwnedFd>,
) -> SysResult<()> {
    let mut header = serde_json::to_vec(&record).map_err(|_| Errno::INVAL)?;
    // Those who wait to hear that we have looked: by the end of the line.
    let mut parting = Vec::new();
    loop {
        let mut pause = Duration::from_secs(5);
        if record.temporary && owner.is_none() {
            let start = Instant::now();
            if stat::users(memory, Some(record.loader)).is_empty() && name.is_there() {
                return name.take_away();
            }
            // The programs of a runner that was killed end with it, in the kernel's own time. A generation can be in use for days:
            // where there are many processes, to look at them takes a twentieth of a processor at most.
            pause = (start.elapsed() * 20).clamp(Duration::from_millis(500), pause);
        }
        parting.clear();
        let mut waiting = vec![PollFd::new(listener, PollFlags::IN)];
        waiting.extend(owner.iter().map(|owner| PollFd::new(owner, PollFlags::IN)));
        let pause = Timespec { tv_sec: pause.as_secs().cast_signed(), tv_nsec: pause.subsec_nanos().into() };
        match rustix::event::poll(&mut waiting, Some(&pause)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        let (asked, ended) =
            (!waiting[0].revents().is_empty(), waiting.get(1).is_some_and(|o| !o.revents().is_empty()));
        if ended {
            parting.extend(owner.take());
        }
        let asked = if asked { request(listener) } else { None };
        // After the request has come: what is answered is so at the time of the answer.
        if !name.follow() {
            return Ok(());
        }
        if name.name != record.info.name {
            record.info.name.clone_from(&name.name);
            record.info.replaced = true;
            if !record.temporary {
                // Whoever loaded it may be using it, and is not about to end on that account.
                (record.temporary, record.loader) = (true, 0);
            }
            header = serde_json::to_vec(&record).map_err(|_| Errno::INVAL)?;
        }
        let Some((user, request)) = asked else { continue };
        if request == KEEP {
            (record.temporary, owner) = (false, None);
            header = serde_json::to_vec(&record).map_err(|_| Errno::INVAL)?;
        }
        let saved: Option<Saved> = request.strip_prefix(SAVED).and_then(|saved| serde_json::from_slice(saved).ok());
        let is_saved = saved.is_some();
        if let Some(saved) = saved.filter(|saved| record.info.exclusive && saved.id == id_of(memory)) {
            // Its times are too new to know it again by them.
            (record.stamp, record.info.content) = (None, saved.content);
            header = serde_json::to_vec(&record).map_err(|_| Errno::INVAL)?;
        }
        if request == GET || request == KEEP || is_saved {
            let _ = wire::send(&user, &header, &[memory.as_fd()]);
        } else if request == LOOK {
            parting.push(user);
        } else if request == QUIT {
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

/// Who connects, and what they ask.
fn request(listener: &OwnedFd) -> Option<(OwnedFd, Vec<u8>)> {
    let user = rustix::net::accept_with(listener, SocketFlags::CLOEXEC).ok()?;
    // Whoever connects and says nothing, or takes nothing, does not stop the others for long.
    let _ = sockopt::set_socket_timeout(&user, sockopt::Timeout::Recv, Some(Duration::from_secs(1)));
    let _ = sockopt::set_socket_timeout(&user, sockopt::Timeout::Send, Some(Duration::from_secs(1)));
    let (request, _) = wire::receive(&user).ok()?;
    Some((user, request))
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
