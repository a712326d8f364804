//! A page of code in each program with which a thread maps many pieces without a stop in between.
//!
//! The thread enters it with the segment's descriptor as the result of the magic call. It maps the pieces of a table,
//! closes the descriptor, and stops for the runner. The page is shared memory of the runner that programs can read and
//! execute, not write; the table in it is good for one thread at a time, since the runner waits for that thread. A
//! program that takes the page away is served without it.

use super::sys;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create, open};
use std::io;
use std::os::fd::AsRawFd;
use xip_core::Device;
use xip_segment::{Access, MappedFile};

pub(super) const SIZE: u64 = 4096;
const TABLE: u64 = 128;
const ENTRY: u64 = 40;
/// The most pieces that the table has room for.
pub(super) const MOST: usize = ((SIZE - TABLE) / ENTRY) as usize;

/// Where the thread comes from its magic call: behind a `syscall`, for when the kernel has the call made again.
pub(super) const ENTER: u64 = 2;

/// In: rax: descriptor or error; rbx: table; ebp: entries; r12: cookie, in its upper half.
/// Out: ebp: entries that are left; r13: what the last mapping returned.
#[rustfmt::skip]
const CODE: [u8; 82] = [
    0x0f, 0x05,                               //       syscall
    0x48, 0x85, 0xc0,                         // enter: test rax, rax
    0x78, 0x3d,                               //       js done
    0x49, 0x89, 0xc0,                         //       mov r8, rax
    0x4d, 0x09, 0xe0,                         //       or r8, r12
    0x48, 0x8b, 0x3b,                         // next:  mov rdi, [rbx]
    0x48, 0x8b, 0x73, 0x08,                   //       mov rsi, [rbx + 8]
    0x48, 0x8b, 0x53, 0x10,                   //       mov rdx, [rbx + 16]
    0x4c, 0x8b, 0x53, 0x18,                   //       mov r10, [rbx + 24]
    0x4c, 0x8b, 0x4b, 0x20,                   //       mov r9, [rbx + 32]
    0xb8, 0x09, 0x00, 0x00, 0x00,             //       mov eax, mmap
    0x0f, 0x05,                               //       syscall
    0x49, 0x89, 0xc5,                         //       mov r13, rax
    0x48, 0x3d, 0x00, 0xf0, 0xff, 0xff,       //       cmp rax, -4096
    0x77, 0x08,                               //       ja close
    0x48, 0x83, 0xc3, 0x28,                   //       add rbx, 40
    0xff, 0xcd,                               //       dec ebp
    0x75, 0xd3,                               //       jnz next
    0x44, 0x89, 0xc7,                         // close: mov edi, r8d
    0xb8, 0x03, 0x00, 0x00, 0x00,             //       mov eax, close
    0x0f, 0x05,                               //       syscall
    0x4d, 0x89, 0xe0,                         // done:  mov r8, r12
    0xb8, 0x25, 0x05, 0x08, 0x20,             //       mov eax, MAGIC + 1
    0x0f, 0x05,                               //       syscall
    0x0f, 0x0b, 0x0f, 0x0b,                   //       ud2
];

/// A mapping to make: the arguments of `mmap` but the descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub(super) address: u64,
    pub(super) len: u64,
    pub(super) prot: u64,
    pub(super) flags: u64,
    pub(super) offset: u64,
}

/// The runner's side of the page.
#[derive(Debug)]
pub(super) struct Stub {
    memory: MappedFile,
    for_programs: OwnedFd,
}

impl Stub {
    pub(super) fn new() -> io::Result<Self> {
        let file = memfd_create("xip-calls", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&file, SIZE)?;
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let for_programs = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let memory = MappedFile::open(file, Access::ReadWrite).map_err(io::Error::other)?;
        // From here on nobody can write it but by the mapping just made: a program that sees the descriptor of another
        // could open it anew by `/proc`, to write.
        let seals = SealFlags::FUTURE_WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        fcntl_add_seals(memory.fd(), seals)?;
        memory.write(0, &CODE).map_err(io::Error::other)?;
        Ok(Self { memory, for_programs })
    }

    /// What programs map.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.for_programs.as_fd()
    }

    /// Whether a process has the page at `address`.
    pub(super) fn is_at(&self, process: libc::pid_t, address: u64) -> bool {
        let mut code = [0; CODE.len()];
        sys::read_memory(process, address, &mut code) == Ok(CODE.len()) && code == CODE
    }

    /// Writes the table; its place in the page.
    pub(super) fn fill(&self, entries: &[Entry]) -> io::Result<u64> {
        let mut bytes = Vec::with_capacity(entries.len() * 40);
        for entry in entries {
            for word in [entry.address, entry.len, entry.prot, entry.flags, entry.offset] {
                bytes.extend_from_slice(&word.to_ne_bytes());
            }
        }
        self.memory.write(TABLE, &bytes).map_err(io::Error::other)?;
        Ok(TABLE)
    }
}
