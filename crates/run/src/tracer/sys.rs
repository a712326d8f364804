//! The kernel's interface for tracing, made safe: each call checks what it can and gives an error, never a surprise. A
//! traced thread can die at any moment; then every call on it says [`Gone`].

use libc::{c_int, c_long, c_void, pid_t};
use rustix::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::io;
use std::mem::{self, MaybeUninit};
use std::ptr;

pub(super) use libc::user_regs_struct as Registers;

/// The thread is not there any more, or is not in a stop: whoever waits for it next learns why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Gone;

pub(super) type Result<T> = std::result::Result<T, Gone>;

/// What `wait` says of a thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Status {
    Exited(i32),
    Killed(i32),
    /// A signal is about to be delivered.
    Signal(i32),
    /// The end of a system call.
    Syscall,
    /// One of `PTRACE_EVENT_*`; the signal that goes with it.
    Event(i32, i32),
}

pub(super) const EVENT_STOP: i32 = 128;

fn status(raw: c_int) -> Status {
    if libc::WIFEXITED(raw) {
        Status::Exited(libc::WEXITSTATUS(raw))
    } else if libc::WIFSIGNALED(raw) {
        Status::Killed(libc::WTERMSIG(raw))
    } else {
        match (raw >> 16, libc::WSTOPSIG(raw)) {
            (0, signal) if signal == libc::SIGTRAP | 0x80 => Status::Syscall,
            (0, signal) => Status::Signal(signal),
            (event, signal) => Status::Event(event, signal),
        }
    }
}

/// Waits for `thread`, or with -1 for any thread that this one traces or started. `None` when it would have to wait
/// and shall not (`hang` is false).
pub(super) fn wait(thread: pid_t, hang: bool) -> Result<Option<(pid_t, Status)>> {
    let mut raw = 0;
    let flags = libc::__WALL | libc::__WNOTHREAD | if hang { 0 } else { libc::WNOHANG };
    loop {
        // SAFETY: `raw` lives through the call, which writes one int.
        match unsafe { libc::waitpid(thread, &raw mut raw, flags) } {
            0 => return Ok(None),
            -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            -1 => return Err(Gone),
            who => return Ok(Some((who, status(raw)))),
        }
    }
}

/// A request without an answer in memory. `data` is a number, never an address.
fn request(request: i32, thread: pid_t, data: usize) -> Result<()> {
    // SAFETY: the requests that come here (see below) take a number as their data and access no memory of ours.
    match unsafe { libc::ptrace(request as _, thread, 0usize, data) } {
        -1 => Err(Gone),
        _ => Ok(()),
    }
}

/// Starts to trace a thread, and with it all that it starts.
pub(super) fn seize(thread: pid_t) -> io::Result<()> {
    let options = libc::PTRACE_O_TRACEFORK
        | libc::PTRACE_O_TRACEVFORK
        | libc::PTRACE_O_TRACECLONE
        | libc::PTRACE_O_TRACEEXEC
        | libc::PTRACE_O_TRACESECCOMP
        | libc::PTRACE_O_TRACESYSGOOD
        | libc::PTRACE_O_EXITKILL;
    // SAFETY: the data is a number, no memory of ours is accessed.
    match unsafe { libc::ptrace(libc::PTRACE_SEIZE as _, thread, 0usize, options as usize) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Lets a stopped thread go on, with a signal (0: none).
pub(super) fn resume(thread: pid_t, signal: i32) -> Result<()> {
    request(libc::PTRACE_CONT as i32, thread, signal.cast_unsigned() as usize)
}

/// Lets it go on to the end of the system call it is in.
pub(super) fn resume_to_syscall(thread: pid_t) -> Result<()> {
    request(libc::PTRACE_SYSCALL as i32, thread, 0)
}

/// Leaves a thread in its group-stop and listens for the end of it.
pub(super) fn listen(thread: pid_t) -> Result<()> {
    request(libc::PTRACE_LISTEN as i32, thread, 0)
}

/// Has it stop as soon as it goes on; a group-stop that is in effect is reported again.
pub(super) fn interrupt(thread: pid_t) -> Result<()> {
    request(libc::PTRACE_INTERRUPT as i32, thread, 0)
}

/// What the kernel has to say to an event.
pub(super) fn event_message(thread: pid_t) -> Result<u64> {
    let mut message: libc::c_ulong = 0;
    // SAFETY: the request writes one unsigned long to `data`, which lives through the call.
    match unsafe { libc::ptrace(libc::PTRACE_GETEVENTMSG as _, thread, 0usize, &raw mut message) } {
        -1 => Err(Gone),
        _ => Ok(message),
    }
}

/// The registers of a stopped thread.
pub(super) fn registers(thread: pid_t) -> Result<Registers> {
    let mut registers = MaybeUninit::<Registers>::uninit();
    // SAFETY: the request writes one `user_regs_struct` to `data`; when it says so, it is written whole.
    unsafe {
        match libc::ptrace(libc::PTRACE_GETREGS as _, thread, 0usize, registers.as_mut_ptr()) {
            -1 => Err(Gone),
            _ => Ok(registers.assume_init()),
        }
    }
}

/// Sets the registers of a stopped thread.
pub(super) fn set_registers(thread: pid_t, registers: &Registers) -> Result<()> {
    // SAFETY: the request reads one `user_regs_struct` from `data`, which is one.
    match unsafe { libc::ptrace(libc::PTRACE_SETREGS as _, thread, 0usize, ptr::from_ref(registers)) } {
        -1 => Err(Gone),
        _ => Ok(()),
    }
}

/// Whether the call that a thread stands before is by the 32-bit interface, which a 64-bit program can use too.
pub(super) fn calls_as_32_bit(thread: pid_t) -> Result<bool> {
    const PTRACE_GET_SYSCALL_INFO: i32 = 0x420e;
    const ARCH_I386: u32 = 0x4000_0003;
    // The kind of stop, then the interface, and no more.
    let mut known = [0u32; 2];
    let size = mem::size_of_val(&known);
    // SAFETY: the request writes at most `size` bytes to `data`.
    match unsafe { libc::ptrace(PTRACE_GET_SYSCALL_INFO as _, thread, size, known.as_mut_ptr()) } {
        -1 => Err(Gone),
        _ => Ok(known[1] == ARCH_I386),
    }
}

/// The signals that a stopped thread blocks.
pub(super) fn blocked_signals(thread: pid_t) -> Result<u64> {
    let mut mask = 0u64;
    // SAFETY: with 8 as the size the request writes 8 bytes to `data`.
    match unsafe { libc::ptrace(libc::PTRACE_GETSIGMASK as _, thread, mem::size_of::<u64>(), &raw mut mask) } {
        -1 => Err(Gone),
        _ => Ok(mask),
    }
}

/// Sets the signals that a stopped thread blocks.
pub(super) fn block_signals(thread: pid_t, mask: u64) -> Result<()> {
    // SAFETY: with 8 as the size the request reads 8 bytes from `data`.
    match unsafe { libc::ptrace(libc::PTRACE_SETSIGMASK as _, thread, mem::size_of::<u64>(), &raw const mask) } {
        -1 => Err(Gone),
        _ => Ok(()),
    }
}

/// Reads memory of a traced process; how many bytes.
pub(super) fn read_memory(process: pid_t, address: u64, to: &mut [u8]) -> Result<usize> {
    let Ok(remote) = usize::try_from(address) else { return Err(Gone) };
    let local = libc::iovec { iov_base: to.as_mut_ptr().cast(), iov_len: to.len() };
    let remote = libc::iovec { iov_base: ptr::without_provenance_mut::<c_void>(remote), iov_len: to.len() };
    // SAFETY: the call writes at most `to.len()` bytes to `to`; the other address is in the other process.
    let count = unsafe { libc::process_vm_readv(process, &raw const local, 1, &raw const remote, 1, 0) };
    usize::try_from(count).map_err(|_| Gone)
}

/// A mapping as the kernel describes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Area {
    pub(super) start: u64,
    pub(super) end: u64,
    /// Of `PROT_*`.
    pub(super) prot: u64,
    pub(super) shared: bool,
    pub(super) offset: u64,
    /// Device and inode number.
    pub(super) id: (u64, u64),
}

/// The mapping that `address` is in, by a process's `/proc/PID/maps`. `None`: there is none, or the kernel cannot say
/// (before 6.11).
pub(super) fn area_at(maps: BorrowedFd<'_>, address: u64) -> Option<Area> {
    const PROCMAP_QUERY: libc::Ioctl = 0xc068_6611;
    const SHARED: u64 = 8;
    #[repr(C)]
    #[derive(Default)]
    struct Query {
        size: u64,
        query_flags: u64,
        query_addr: u64,
        vma_start: u64,
        vma_end: u64,
        vma_flags: u64,
        vma_page_size: u64,
        vma_offset: u64,
        inode: u64,
        dev_major: u32,
        dev_minor: u32,
        vma_name_size: u32,
        build_id_size: u32,
        vma_name_addr: u64,
        build_id_addr: u64,
    }
    let mut query = Query { size: mem::size_of::<Query>() as u64, query_addr: address, ..Query::default() };
    ioctl(maps, PROCMAP_QUERY, &mut query).ok()?;
    Some(Area {
        start: query.vma_start,
        end: query.vma_end,
        // The kernel's bits for reading, writing and executing are those of `PROT_*`.
        prot: query.vma_flags & 7,
        shared: query.vma_flags & SHARED != 0,
        offset: query.vma_offset,
        id: (rustix::fs::makedev(query.dev_major, query.dev_minor), query.inode),
    })
}

/// Whether all pages from `start` to `end` that a process has are of the file that is mapped there, by its
/// `/proc/PID/pagemap`: none is its own copy, and no mark of any kind is in the place of one. Not known is no (before Linux
/// 6.7).
pub(super) fn all_of_file(pages: BorrowedFd<'_>, start: u64, end: u64) -> bool {
    const PAGEMAP_SCAN: libc::Ioctl = 0xc060_6610;
    const FILE: u64 = 4;
    const PRESENT_OR_SWAPPED: u64 = 8 | 16;
    #[repr(C)]
    #[derive(Default)]
    struct Scan {
        size: u64,
        flags: u64,
        start: u64,
        end: u64,
        walk_end: u64,
        vec: u64,
        vec_len: u64,
        max_pages: u64,
        category_inverted: u64,
        category_mask: u64,
        category_anyof_mask: u64,
        return_mask: u64,
    }
    let mut region = [0u64; 3];
    let mut scan = Scan {
        size: mem::size_of::<Scan>() as u64,
        start,
        end,
        vec: ptr::from_mut(&mut region).expose_provenance() as u64,
        vec_len: 1,
        max_pages: 1,
        category_inverted: FILE,
        category_mask: FILE,
        category_anyof_mask: PRESENT_OR_SWAPPED,
        return_mask: PRESENT_OR_SWAPPED,
        ..Scan::default()
    };
    // The number of regions that are otherwise, at most the one that there is room for.
    matches!(ioctl(pages, PAGEMAP_SCAN, &mut scan), Ok(0))
}

/// The inode of a file of a FUSE mount, by the number that the server gave it, and the number of the mount. Nobody is asked for
/// it. `None`: no such file.
pub(super) fn fuse_node(file: BorrowedFd<'_>) -> Option<(u64, u64)> {
    /// The kernel's `FILEID_INO64_GEN`: an inode number as two words, the upper one first, and a generation.
    const KIND: c_int = 0x81;
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: c_int,
        words: [u32; 3],
    }
    let mut handle = Handle { bytes: 12, kind: 0, words: [0; 3] };
    let mut mount: c_int = 0;
    let (number, fd) = (libc::SYS_name_to_handle_at, file.as_raw_fd());
    // SAFETY: the path is a C string; the kernel reads and writes two words, and behind them writes at most `bytes` bytes, as many as
    // `words` has; it writes one int to `mount`. All of them live through the call.
    let done = unsafe { libc::syscall(number, fd, c"".as_ptr(), &raw mut handle, &raw mut mount, libc::AT_EMPTY_PATH) };
    let Handle { bytes, kind, words: [high, low, _] } = handle;
    (done == 0 && kind == KIND && bytes == 12)
        .then(|| (u64::from(high) << 32 | u64::from(low), mount.cast_unsigned().into()))
}

/// Sends a signal to a process, or to that of a thread.
pub(super) fn kill(process: pid_t, signal: c_int) {
    if process > 0 {
        // SAFETY: the call takes numbers only.
        unsafe { libc::kill(process, signal) };
    }
}

/// The next system call that waits at the filter's listener: its identity and thread.
pub(super) fn receive_notification(listener: BorrowedFd<'_>) -> io::Result<(u64, pid_t)> {
    // SAFETY: all zeros is a value of this plain C structure, and what the kernel asks for.
    let mut notification: libc::seccomp_notif = unsafe { mem::zeroed() };
    ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_RECV, &mut notification)?;
    Ok((notification.id, notification.pid.cast_signed()))
}

/// Whether this thread shares its processor by time, as nearly all do.
pub(super) fn is_time_shared() -> bool {
    // SAFETY: a call that takes a number and returns one.
    let policy = unsafe { libc::sched_getscheduler(0) };
    matches!(policy, libc::SCHED_OTHER | libc::SCHED_BATCH)
}

/// Has the thread that waits and the one that answers take turns on one processor, where the kernel knows how (6.6).
pub(super) fn take_turns(listener: BorrowedFd<'_>) {
    const SYNC_WAKE_UP: libc::c_ulong = 1;
    // SAFETY: the data of this number is a number. That an older kernel does not know it does no harm.
    unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, SYNC_WAKE_UP) };
}

/// Gives the waiting thread a copy of `fd`, closed at exec; the number there. With `answer` it ends its wait: its call returns
/// that number.
pub(super) fn give_fd(listener: BorrowedFd<'_>, id: u64, fd: BorrowedFd<'_>, answer: bool) -> io::Result<i32> {
    let mut give = libc::seccomp_notif_addfd {
        id,
        // The constant has the type of another call's flags.
        flags: if answer { libc::SECCOMP_ADDFD_FLAG_SEND as u32 } else { 0 },
        srcfd: fd.as_raw_fd().cast_unsigned(),
        newfd: 0,
        newfd_flags: libc::O_CLOEXEC.cast_unsigned(),
    };
    ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_ADDFD, &mut give)
}

/// Ends the wait of a thread: its call returns `value`.
pub(super) fn answer(listener: BorrowedFd<'_>, id: u64, value: i64) -> io::Result<()> {
    let mut response = libc::seccomp_notif_resp { id, val: value, error: 0, flags: 0 };
    ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_SEND, &mut response)?;
    Ok(())
}

/// Ends the wait of a thread: its call fails with `error`, a positive number here.
pub(super) fn deny(listener: BorrowedFd<'_>, id: u64, error: i32) -> io::Result<()> {
    let mut response = libc::seccomp_notif_resp { id, val: 0, error: -error, flags: 0 };
    ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_SEND, &mut response)?;
    Ok(())
}

/// `number` is one whose data is a `T`.
fn ioctl<T>(fd: BorrowedFd<'_>, number: libc::Ioctl, data: &mut T) -> io::Result<i32> {
    // SAFETY: the callers above give each number the structure it is made for, which lives through the call, as does what
    // it has an address of.
    match unsafe { libc::ioctl(fd.as_raw_fd(), number, ptr::from_mut(data)) } {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(value),
    }
}

/// Puts `filter` before all further system calls of this thread; the listener of its notifications.
pub(super) fn install_filter(filter: &[libc::sock_filter]) -> io::Result<OwnedFd> {
    let len = u16::try_from(filter.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len, filter: filter.as_ptr().cast_mut() };
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    // SAFETY: the kernel reads `len` instructions from `filter`, which has as many. The descriptor that comes back is
    // new and ours alone.
    unsafe {
        match libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(c_int::try_from(fd).map_err(|_| io::ErrorKind::InvalidData)?)),
        }
    }
}

/// Whether the kernel can seal memory, so that no other comes in its place. Asked for none.
pub(super) fn can_seal_memory() -> bool {
    // SAFETY: numbers only; no memory is sealed.
    unsafe { libc::syscall(libc::SYS_mseal, 0usize, 0usize, 0usize) == 0 }
}

/// Makes the mounts of a detached tree read-only.
pub(super) fn set_read_only(tree: BorrowedFd<'_>) -> io::Result<()> {
    let attributes = libc::mount_attr { attr_set: libc::MOUNT_ATTR_RDONLY, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    let size = mem::size_of::<libc::mount_attr>();
    // SAFETY: the path is a C string, and the kernel reads `size` bytes of `attributes`.
    let done = unsafe {
        libc::syscall(libc::SYS_mount_setattr, tree.as_raw_fd(), c"".as_ptr(), flags, &raw const attributes, size)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The signals that this thread blocks, after it was told to block `mask` instead.
pub(super) fn swap_blocked(mask: u64) -> u64 {
    let mut old = 0u64;
    let size = mem::size_of::<u64>();
    // SAFETY: with 8 as the size the kernel reads and writes 8 bytes.
    let _: c_long =
        unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const mask, &raw mut old, size) };
    old
}

/// Waits for the end or a stop of a child that is not traced.
pub(super) fn wait_stops(child: pid_t) -> Result<Option<Status>> {
    let mut raw = 0;
    loop {
        // SAFETY: `raw` lives through the call, which writes one int.
        match unsafe { libc::waitpid(child, &raw mut raw, libc::WUNTRACED | libc::__WALL) } {
            -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            -1 => return Err(Gone),
            _ => return Ok(Some(status(raw))),
        }
    }
}
