//! A page of code in each program, in which its threads make the calls that the runner wants of them.
//!
//! A thread comes here by its own system call: the runner, which has stopped it there, has another call made in its
//! place and sends it on here instead of to where it came from. Here it borrows the segment's descriptor, maps pieces
//! of it, gives it back and returns, by itself: the words that say how are on its *script*, which it has as its stack.
//!
//! The page is shared memory of the runner that programs can read and execute, not write. It is sealed in their memory
//! (`mseal`, Linux 6.10), so that nothing else can take its place; only a fork can go without it (`MADV_DONTFORK`), so
//! each new process is looked at once. Signals wait while a thread is here.

mod code;

pub(super) use code::{At, has_kept, on_the_way_out};

use super::sys::{self, Registers};
use code::code;
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

/// A mapping to make: the arguments of `mmap` but the descriptor. The address counts from the program's own mapping where that is
/// made first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub(super) address: u64,
    pub(super) len: u64,
    pub(super) prot: u64,
    pub(super) flags: u64,
    pub(super) offset: u64,
}

/// What the program's call returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Returns {
    /// What the last mapping did, which is in the place of that call.
    Last,
    Value(u64),
    /// What it did by itself, before the script.
    Own,
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

    /// The program goes on as in `saved`, with `mask` as the signals it blocks.
    pub(super) fn leave(self, saved: &Registers, mask: u64, result: Returns) -> Self {
        let overflow = saved.eflags >> 11 & 1;
        let flags = (saved.eflags & 0xff) << 8 | overflow;
        let this = match result {
            Returns::Last => self,
            Returns::Value(value) => self.at(At::Value).with(&[value]),
            Returns::Own => self.at(At::Base),
        };
        let Registers { rdi, rsi, rdx, r10, r8, r9, rbx, eflags, rip, rsp, .. } = *saved;
        this.at(At::Leave).with(&[mask, flags, rdi, rsi, rdx, r10, r8, r9, rbx, eflags, rip, rsp])
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
