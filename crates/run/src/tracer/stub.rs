//! A page of code in each program, in which its threads make the calls that the runner wants of them.
//!
//! A thread comes here by its own system call: the runner, which has stopped it there, has another call made in its
//! place and sends it on here instead of to where it came from. Here it borrows the segment's descriptor, maps pieces
//! of it, gives it back and returns, by itself: the words that say how are on its *script*, which it has as its stack.
//!
//! The page is shared memory of the runner that programs can read and execute, not write. It is sealed in their memory
//! (`mseal`, Linux 6.10), so that nothing else can take its place; only a fork can go without it (`MADV_DONTFORK`), so
//! each new process is looked at once. Signals wait while a thread is here.

use super::sys::{self, Registers};
use crate::seccomp::MAGIC;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, fstat, ftruncate, memfd_create, open};
use std::io;
use std::os::fd::AsRawFd;
use xip_core::Device;
use xip_segment::{Access, MappedFile};

/// Code, and behind it the scripts.
pub(super) const SIZE: u64 = CODE_BYTES + SCRIPTS * SCRIPT_BYTES;
const CODE_BYTES: u64 = 4096;
const SCRIPT_BYTES: u64 = 1024;
/// The first is for those whom the runner waits for, each of the others for one thread that it does not wait for.
const SCRIPTS: u64 = 1020;
/// What a script needs beside its entries, in words; see [`Script`].
const OTHER_WORDS: usize = 32;
const ENTRY_WORDS: usize = 6;
/// The most mappings that a script has room for.
pub(super) const MOST: usize = (SCRIPT_BYTES as usize / 8 - OTHER_WORDS) / ENTRY_WORDS;

// In all of it r8 has the cookie in its upper half, by which the filter knows the calls. `close` gives a descriptor back
// in any case; what went wrong is in r9, and stops the thread for the runner. Jumps to places on the script go by rcx,
// which a system call changes anyway.
std::arch::global_asm!(
    ".pushsection .rodata.xip_stub, \"a\"",
    ".globl xip_stub, xip_stub_end, xip_stub_said, xip_stub_borrow, xip_stub_next, xip_stub_close, xip_stub_script",
    ".globl xip_stub_call, xip_stub_value, xip_stub_leave, xip_stub_stop, xip_stub_tail, xip_stub_tail_rax, xip_stub_alone, xip_stub_kept",
    "xip_stub:",
    // A call is made again from here, should the kernel want that: it goes back by one instruction.
    "    syscall",
    // The runner's call was made: rax goes to the runner.
    "xip_stub_said:",
    "    mov r9, rax",
    "xip_stub_stop:",
    "    mov eax, {magic} + 1",
    "    syscall",
    "    ud2",
    // For a thread that is alone in its memory: others cannot look at it (`/proc/TID/fd`) while it has the descriptor.
    // rax: whether they could before. That is remembered in the cookie's lowest bit, which the filter leaves to us.
    "xip_stub_alone:",
    "    cmp eax, 1",
    "    jne xip_stub_borrow",
    "    mov edi, {set_dumpable}",
    "    xor esi, esi",
    "    mov eax, {prctl}",
    "    syscall",
    "    bts r8, 32",
    // The filter turns this call into a notification, and the runner's answer to it is the descriptor.
    "xip_stub_borrow:",
    "    mov eax, {magic}",
    "    syscall",
    "    mov r9, rax",
    "    cmp rax, -4096",
    "    ja 2f",
    "    or r8, rax",
    "xip_stub_next:",
    "    pop rdi",
    "    pop rsi",
    "    pop rdx",
    "    pop r10",
    "    pop r9",
    "    mov eax, {mmap}",
    "    syscall",
    "    mov r9, rax",
    "    cmp rax, -4096",
    "    ja xip_stub_close",
    "xip_stub_script:",
    "    pop rcx",
    "    jmp rcx",
    "xip_stub_close:",
    "    mov edi, r8d",
    "    mov eax, {close}",
    "    syscall",
    "2:  btr r8, 32",
    "    jnc 3f",
    "    mov edi, {set_dumpable}",
    "    mov esi, 1",
    "    mov eax, {prctl}",
    "    syscall",
    "3:  cmp r9, -4096",
    "    ja xip_stub_stop",
    "    pop rcx",
    "    jmp rcx",
    // Any other call, with up to three arguments.
    "xip_stub_call:",
    "    pop rax",
    "    pop rdi",
    "    pop rsi",
    "    pop rdx",
    "    syscall",
    "    pop rcx",
    "    jmp rcx",
    // What the program's call is to return, if not what the last mapping did.
    "xip_stub_value:",
    "    pop r9",
    "    pop rcx",
    "    jmp rcx",
    // Everything as it was. From `tail` on signals come in again: then the runner does the rest, see `Stub::rest`.
    "xip_stub_leave:",
    "    mov edi, {set_mask}",
    "    mov rsi, rsp",
    "    xor edx, edx",
    "    mov r10d, 8",
    "    mov eax, {sigprocmask}",
    "    syscall",
    "xip_stub_tail:",
    "    pop rcx",
    "    pop rax",
    // Carries into the overflow flag what `sahf` has no room for.
    "    add al, 127",
    "    sahf",
    "    mov rax, r9",
    "xip_stub_tail_rax:",
    "    pop rdi",
    "    pop rsi",
    "    pop rdx",
    "    pop r10",
    "    pop r8",
    "    pop r9",
    "    pop r11",
    "    pop rcx",
    "    pop rsp",
    "    jmp rcx",
    // The program's `mmap` was made as `mprotect`, see `keep`. What the program sees of it is its address in the place of 0.
    // Flags and stack stay as they are, and rcx is where it goes on.
    "xip_stub_kept:",
    "    xchg rcx, rax",
    "    jrcxz 4f",
    "    jmp xip_stub_stop",
    "4:  xchg rcx, rax",
    "    mov rax, rdi",
    "    mov r8d, r8d",
    "    jmp rcx",
    "xip_stub_end:",
    ".popsection",
    magic = const MAGIC,
    prctl = const libc::SYS_prctl,
    set_dumpable = const libc::PR_SET_DUMPABLE,
    mmap = const libc::SYS_mmap,
    close = const libc::SYS_close,
    set_mask = const libc::SIG_SETMASK,
    sigprocmask = const libc::SYS_rt_sigprocmask,
);

// SAFETY: labels in the code above, each with a byte behind it but the last; only their addresses are taken.
unsafe extern "C" {
    static xip_stub: u8;
    static xip_stub_end: u8;
    static xip_stub_said: u8;
    static xip_stub_stop: u8;
    static xip_stub_alone: u8;
    static xip_stub_borrow: u8;
    static xip_stub_next: u8;
    static xip_stub_script: u8;
    static xip_stub_close: u8;
    static xip_stub_call: u8;
    static xip_stub_value: u8;
    static xip_stub_leave: u8;
    static xip_stub_tail: u8;
    static xip_stub_tail_rax: u8;
    static xip_stub_kept: u8;
}

/// A place in the code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum At {
    /// Behind the runner's call: its result is in r9 at the next stop.
    Said,
    /// Stops for the runner.
    Stop,
    /// Borrows, by a thread that is alone; behind `prctl(PR_GET_DUMPABLE)`.
    Alone,
    /// Borrows, by a thread that nobody may look at.
    Borrow,
    /// Goes by the script.
    Script,
    Next,
    Close,
    Call,
    Value,
    Leave,
    Tail,
    TailRax,
    /// Behind an `mprotect` in the place of the program's `mmap`.
    Kept,
}

impl At {
    /// From the start of the page.
    pub(super) fn offset(self) -> u64 {
        let place = match self {
            Self::Said => &raw const xip_stub_said,
            Self::Stop => &raw const xip_stub_stop,
            Self::Alone => &raw const xip_stub_alone,
            Self::Borrow => &raw const xip_stub_borrow,
            Self::Script => &raw const xip_stub_script,
            Self::Next => &raw const xip_stub_next,
            Self::Close => &raw const xip_stub_close,
            Self::Call => &raw const xip_stub_call,
            Self::Value => &raw const xip_stub_value,
            Self::Leave => &raw const xip_stub_leave,
            Self::Tail => &raw const xip_stub_tail,
            Self::TailRax => &raw const xip_stub_tail_rax,
            Self::Kept => &raw const xip_stub_kept,
        };
        (place.addr() - (&raw const xip_stub).addr()) as u64
    }
}

fn code() -> &'static [u8] {
    let len = (&raw const xip_stub_end).addr() - (&raw const xip_stub).addr();
    // SAFETY: the labels are the two ends of one piece of read-only data of this program, assembled above.
    unsafe { std::slice::from_raw_parts(&raw const xip_stub, len) }
}

/// A mapping to make: the arguments of `mmap` but the descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub(super) address: u64,
    pub(super) len: u64,
    pub(super) prot: u64,
    pub(super) flags: u64,
    pub(super) offset: u64,
}

/// What a thread does in the page, word by word as it takes them from its stack.
#[derive(Clone, Debug)]
pub(super) struct Script {
    /// Address of the page in the thread's memory.
    page: u64,
    words: Vec<u64>,
    /// Words before the first entry.
    before: usize,
}

impl Script {
    pub(super) fn new(page: u64) -> Self {
        Self { page, words: Vec::new(), before: 0 }
    }

    /// A word that says where to go on.
    fn at(mut self, place: At) -> Self {
        self.words.push(self.page + place.offset());
        self
    }

    fn with(mut self, words: &[u64]) -> Self {
        self.words.extend_from_slice(words);
        self
    }

    /// A system call; its result is lost, but for [`Script::borrow_alone`] right behind it.
    pub(super) fn call(self, number: i64, arguments: [u64; 3]) -> Self {
        self.at(At::Call).with(&[number.cast_unsigned()]).with(&arguments)
    }

    /// Borrows, maps all entries, and gives back.
    pub(super) fn borrow_alone(self, entries: &[Entry]) -> Self {
        self.call(libc::SYS_prctl, [PR_GET_DUMPABLE, 0, 0]).at(At::Alone).map(entries)
    }

    /// The same for a thread that was sent to where it borrows.
    pub(super) fn map(mut self, entries: &[Entry]) -> Self {
        self.before = self.words.len();
        for (at, entry) in entries.iter().enumerate() {
            if at > 0 {
                self = self.at(At::Next);
            }
            self = self.with(&[entry.address, entry.len, entry.prot, entry.flags, entry.offset]);
        }
        self.at(At::Close)
    }

    /// The program goes on as in `saved`, with `mask` as the signals it blocks, and `result` as what its call returned,
    /// or what the last mapping did.
    pub(super) fn leave(self, saved: &Registers, mask: u64, result: Option<u64>) -> Self {
        let overflow = saved.eflags >> 11 & 1;
        let flags = (saved.eflags & 0xff) << 8 | overflow;
        let this = match result {
            Some(result) => self.at(At::Value).with(&[result]),
            None => self,
        };
        let Registers { rdi, rsi, rdx, r10, r8, r9, eflags, rip, rsp, .. } = *saved;
        this.at(At::Leave).with(&[mask, flags, rdi, rsi, rdx, r10, r8, r9, eflags, rip, rsp])
    }

    /// Bytes before the first entry.
    pub(super) fn before_entries(&self) -> u64 {
        self.before as u64 * 8
    }

    /// The thread stops for the runner.
    pub(super) fn stop(self) -> Self {
        self.at(At::Stop)
    }
}

pub(super) const PR_GET_DUMPABLE: u64 = libc::PR_GET_DUMPABLE.unsigned_abs() as u64;

/// Space for one script.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Slot(u64);

impl Slot {
    /// For those whom the runner waits for.
    pub(super) const WAITED_FOR: Self = Self(0);
}

/// The runner's side of the page.
#[derive(Debug)]
pub(super) struct Stub {
    memory: MappedFile,
    for_programs: OwnedFd,
    /// Device and inode number, as mappings show them.
    id: (u64, u64),
    free: Vec<Slot>,
    /// Whether programs can seal it in their memory. Where they cannot, it is looked at before each use.
    pub(super) sealable: bool,
}

impl Stub {
    pub(super) fn new() -> io::Result<Self> {
        let file = memfd_create("xip-calls", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&file, SIZE)?;
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let for_programs = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let id = fstat(&file)?;
        let memory = MappedFile::open(file, Access::ReadWrite).map_err(io::Error::other)?;
        // From here on nobody can write it but by the mapping just made: a program that sees the descriptor of another
        // could open it anew by `/proc`, to write.
        let seals = SealFlags::FUTURE_WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        fcntl_add_seals(memory.fd(), seals)?;
        memory.write(0, code()).map_err(io::Error::other)?;
        let free = (1..SCRIPTS).map(Slot).collect();
        Ok(Self { memory, for_programs, id: (id.st_dev, id.st_ino), free, sealable: sys::can_seal_memory() })
    }

    /// What programs map.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.for_programs.as_fd()
    }

    /// Device and inode number, as mappings show them.
    pub(super) fn id(&self) -> (u64, u64) {
        self.id
    }

    /// Space for a script of a thread that is not waited for.
    pub(super) fn take(&mut self) -> Option<Slot> {
        self.free.pop()
    }

    /// The thread is not in the page any more.
    pub(super) fn give_back(&mut self, slot: Slot) {
        self.free.push(slot);
    }

    /// Writes a script; its address in the thread's memory.
    pub(super) fn write(&self, slot: &Slot, script: &Script) -> io::Result<u64> {
        let at = CODE_BYTES + slot.0 * SCRIPT_BYTES;
        let bytes: Vec<u8> = script.words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        if bytes.len() as u64 > SCRIPT_BYTES {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.memory.write(at, &bytes).map_err(io::Error::other)?;
        Ok(script.page + at)
    }

    /// Writes a filter for a thread that is waited for; the address in its memory of what `seccomp` wants.
    pub(super) fn write_filter(&self, page: u64, filter: &[libc::sock_filter]) -> io::Result<u64> {
        let program = page + CODE_BYTES;
        let mut bytes = Vec::from((filter.len() as u64).to_ne_bytes());
        bytes.extend_from_slice(&(program + 16).to_ne_bytes());
        for &libc::sock_filter { code, jt, jf, k } in filter {
            bytes.extend_from_slice(&code.to_ne_bytes());
            bytes.extend_from_slice(&[jt, jf]);
            bytes.extend_from_slice(&k.to_ne_bytes());
        }
        self.memory.write(CODE_BYTES, &bytes).map_err(io::Error::other)?;
        Ok(program)
    }
}

/// Where a thread with these registers stands on its way out of the page at `page`, where signals come in again: what its
/// program's call returned. `None` when it is not there.
pub(super) fn on_the_way_out(page: u64, now: &Registers) -> Option<u64> {
    let at = now.rip.wrapping_sub(page);
    if at < At::Tail.offset() || at >= At::Kept.offset() {
        return None;
    }
    Some(if at < At::TailRax.offset() { now.r9 } else { now.rax })
}

/// Whether a thread with these registers, on its way through the page behind an `mprotect`, has come to its success.
pub(super) fn has_kept(page: u64, now: &Registers) -> bool {
    let offset = now.rip.wrapping_sub(page);
    // Three instructions of two bytes each: the result is in rax, then in rcx, and the third is that of a failure.
    match offset.wrapping_sub(At::Kept.offset()) {
        0 => now.rax == 0,
        2 => now.rcx == 0,
        at => at > 4 && (At::Kept.offset()..code().len() as u64).contains(&offset),
    }
}

/// How many entries a thread has mapped that stopped because of an error, `first` being the address of the first entry.
pub(super) fn mapped(first: u64, now: &Registers) -> usize {
    // It has taken an entry's words before it fails, and none at all without a descriptor.
    let words = now.rsp.wrapping_sub(first) / 8;
    usize::try_from(words / ENTRY_WORDS as u64).map_or(0, |done| done.min(MOST))
}

/// Whether the thread is in the page at all.
pub(super) fn is_in(page: u64, now: &Registers) -> bool {
    (page..page + SIZE).contains(&now.rip)
}
