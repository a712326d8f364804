//! What a mapping of a file becomes: the program's own, with the segment over it.

use super::Tracer;
use super::files::Found;
use super::inject::Injection;
use super::maps::{self, Mapping};
use super::stub::{self, Entry};
use super::sys::{self, Registers, Result};
use crate::place::{Piece, Plan, Request};
use crate::report::Reason;
use libc::{SYS_close, SYS_mmap, pid_t};
use xip::PAGE_BYTES;

/// A mapping that a thread makes, and what the segment has of it.
struct Target {
    ino: u64,
    address: u64,
    prot: u64,
    flags: u64,
}

const FIXED: u64 = flag(libc::MAP_FIXED);
/// What a replacement keeps of the program's flags.
const KEPT: u64 = flag(libc::MAP_LOCKED | libc::MAP_POPULATE | libc::MAP_NONBLOCK | libc::MAP_NORESERVE);

const fn flag(flags: i32) -> u64 {
    flags.cast_unsigned() as u64
}

impl<'a> Tracer<'a> {
    /// A thread is about to map a file.
    pub(super) fn mmap(&mut self, thread: pid_t) -> Result<()> {
        let registers = sys::registers(thread)?;
        // The kernel looks at the lower half only.
        let fd = registers.r8 as i32;
        let ino = match self.files.of_fd(thread, fd) {
            Found::Other => return sys::resume(thread, 0),
            Found::CopiedUp(ino) => {
                self.files.count_left(ino, Reason::CopiedUp, registers.rsi);
                return sys::resume(thread, 0);
            }
            Found::Ours(ino) => ino,
        };
        let (len, offset) = (registers.rsi, registers.r9);
        if self.sandboxed(thread) {
            self.files.count_left(ino, Reason::Sandboxed, len);
            return sys::resume(thread, 0);
        }
        if len == 0 || !offset.is_multiple_of(PAGE_BYTES) || len > i64::MAX.cast_unsigned() {
            return sys::resume(thread, 0);
        }
        let pages = len.div_ceil(PAGE_BYTES);
        let plan = self.files.plan(ino, Request { first: offset / PAGE_BYTES, pages, last_changed: false });
        if plan.pieces.is_empty() {
            self.count_left(ino, &plan);
            return sys::resume(thread, 0);
        }
        let stub = self.stub_of(thread);
        if !self.files_shared(thread) {
            let injection = Injection::at_call(self, thread, registers)?;
            return map(injection, &registers, ino, &plan, stub);
        }
        match Injection::by_helper(self, thread, registers)? {
            Some(injection) => map(injection, &registers, ino, &plan, stub),
            None => {
                self.files.count_left(ino, Reason::Refused, len);
                Ok(())
            }
        }
    }

    /// Where the thread's process has our page of code.
    fn stub_of(&self, thread: pid_t) -> Option<u64> {
        self.threads.get(&thread)?.stub.filter(|&address| self.stub.is_at(thread, address))
    }

    /// Takes note of a piece that was mapped.
    fn placed(&mut self, ino: u64, piece: Piece) {
        self.files.count_in_place(ino, piece.len);
        let (first, end) = (piece.storage / PAGE_BYTES, (piece.storage + piece.len) / PAGE_BYTES);
        let known = self.placed.entry(first).or_insert((end, ino));
        known.0 = known.0.max(end);
    }

    /// A new program was mapped by the kernel: it and its interpreter.
    pub(super) fn exec(&mut self, thread: pid_t) -> Result<()> {
        let registers = sys::registers(thread)?;
        let Ok(text) = std::fs::read(format!("/proc/{thread}/maps")) else { return sys::resume(thread, 0) };
        let mut work = Vec::new();
        let mut vdso = None;
        for mapping in maps::parse(&text) {
            if mapping.path == b"[vdso]" {
                vdso = Some(mapping);
            }
            match self.files.of_mapping(thread, mapping.device, mapping.ino, mapping.path) {
                Found::Other => {}
                Found::CopiedUp(ino) => self.files.count_left(ino, Reason::CopiedUp, mapping.end - mapping.start),
                Found::Ours(ino) if self.sandboxed(thread) => {
                    self.files.count_left(ino, Reason::Sandboxed, mapping.end - mapping.start);
                }
                Found::Ours(ino) if is_32_bit(&registers) => {
                    self.files.count_left(ino, Reason::Bits32, mapping.end - mapping.start);
                }
                Found::Ours(ino) => work.push((mapping, ino, self.files.plan(ino, request(&mapping)))),
            }
        }
        if work.iter().all(|(_, _, plan)| plan.pieces.is_empty()) {
            work.iter().for_each(|(_, ino, plan)| self.count_left(*ino, plan));
            return sys::resume(thread, 0);
        }
        let Some(instruction) = vdso.and_then(|vdso| self.instruction(thread, &vdso)) else {
            for (mapping, ino, _) in work {
                self.files.count_left(ino, Reason::Refused, mapping.end - mapping.start);
            }
            return sys::resume(thread, 0);
        };
        let mut injection = Injection::at_exec(self, thread, registers, instruction)?;
        let stub = install_stub(&mut injection)?;
        if let Some(known) = injection.tracer.threads.get_mut(&thread) {
            known.stub = stub;
        }
        let target = |mapping: &Mapping<'_>, ino| {
            let prot = u64::from(mapping.prot.unsigned_abs());
            Target { ino, address: mapping.start, prot, flags: flag(libc::MAP_PRIVATE) }
        };
        let targets: Vec<_> = work.iter().map(|(mapping, ino, plan)| (target(mapping, *ino), plan)).collect();
        over(&mut injection, &targets, stub)?;
        injection.finish(None)
    }

    /// The address of a `syscall` instruction: the kernel's own page of code has one, at the same place in all
    /// programs.
    fn instruction(&mut self, thread: pid_t, vdso: &Mapping<'_>) -> Option<u64> {
        const SYSCALL: [u8; 2] = [0x0f, 0x05];
        if let Some(offset) = self.instruction_at {
            let mut bytes = [0; 2];
            let address = vdso.start.checked_add(offset)?;
            if sys::read_memory(thread, address, &mut bytes) == Ok(2) && bytes == SYSCALL {
                return Some(address);
            }
        }
        let mut code = vec![0; usize::try_from(vdso.end - vdso.start).ok()?.min(1 << 20)];
        let count = sys::read_memory(thread, vdso.start, &mut code).ok()?;
        let at = code[..count].windows(2).position(|bytes| bytes == SYSCALL)? as u64;
        self.instruction_at = Some(at);
        vdso.start.checked_add(at)
    }

    fn count_left(&mut self, ino: u64, plan: &Plan) {
        for &(reason, bytes) in &plan.left {
            self.files.count_left(ino, reason, bytes);
        }
    }

    /// A thread is about to move a mapping or to change its size. One of the segment would grow into the next file's pages:
    /// refused. All others are made to their end before anything else is served: else another thread could move a mapping
    /// of the segment to where this one was seen not to be, and it would grow there.
    pub(super) fn mremap(&mut self, thread: pid_t, by_32_bit: bool) -> Result<()> {
        let registers = sys::registers(thread)?;
        let (address, old, new) = if by_32_bit {
            (registers.rbx & 0xffff_ffff, registers.rcx & 0xffff_ffff, registers.rdx & 0xffff_ffff)
        } else {
            (registers.rdi, registers.rsi, registers.rdx)
        };
        let (old, new) = (old.div_ceil(PAGE_BYTES), new.div_ceil(PAGE_BYTES));
        // With an old size of 0 it makes a second mapping: no growth as long as it ends where the first does.
        let in_segment = if new > old { self.segment_mapping(thread, address) } else { None };
        let fits = |end| old == 0 && address.saturating_add(new.saturating_mul(PAGE_BYTES)) <= end;
        let Some((_, offset)) = in_segment.filter(|&(end, _)| !fits(end)) else {
            return self.finish_call(thread).map(|_| ());
        };
        let bytes = (new - old).saturating_mul(PAGE_BYTES);
        if let Some(ino) = self.owner(offset / PAGE_BYTES) {
            self.files.count_left(ino, Reason::GrowthRefused, bytes);
        }
        refuse(thread, registers, libc::ENOMEM)
    }

    /// A thread is about to rearrange the pages of a mapping: not of one of the segment.
    pub(super) fn remap(&mut self, thread: pid_t) -> Result<()> {
        let registers = sys::registers(thread)?;
        let in_segment = |address| self.segment_mapping(thread, address).is_some();
        if in_segment(registers.rdi) || in_segment(registers.rbx & 0xffff_ffff) {
            return refuse(thread, registers, libc::EINVAL);
        }
        sys::resume(thread, 0)
    }

    /// The end of the segment's mapping that `address` is in, and where in the segment `address` is.
    fn segment_mapping(&self, thread: pid_t, address: u64) -> Option<(u64, u64)> {
        let text = std::fs::read(format!("/proc/{thread}/maps")).ok()?;
        let found = maps::parse(&text).find(|mapping| (mapping.start..mapping.end).contains(&address))?;
        let ours = (found.device, found.ino) == self.segment_id;
        ours.then(|| (found.end, found.offset + (address - found.start)))
    }

    /// The file that a page of the segment was mapped for.
    fn owner(&self, page: u64) -> Option<u64> {
        let (_, &(pages_end, ino)) = self.placed.range(..=page).next_back()?;
        (page < pages_end).then_some(ino)
    }
}

fn refuse(thread: pid_t, registers: Registers, errno: i32) -> Result<()> {
    let rax = i64::from(-errno).cast_unsigned();
    sys::set_registers(thread, &Registers { orig_rax: u64::MAX, rax, ..registers })?;
    sys::resume(thread, 0)
}

fn is_32_bit(registers: &Registers) -> bool {
    registers.cs == 0x23
}

fn request(mapping: &Mapping<'_>) -> Request {
    let pages = (mapping.end - mapping.start) / PAGE_BYTES;
    // The kernel has zeroed what follows a program's data in its last page.
    Request { first: mapping.offset / PAGE_BYTES, pages, last_changed: mapping.writable }
}

/// Makes the program's mapping of the segment's storage: at once, where all of it is one piece; otherwise over
/// the program's own.
fn map(mut injection: Injection<'_, '_>, own: &Registers, ino: u64, plan: &Plan, stub: Option<u64>) -> Result<()> {
    let kind =
        if own.r10 & flag(libc::MAP_TYPE) == flag(libc::MAP_PRIVATE) { libc::MAP_PRIVATE } else { libc::MAP_SHARED };
    // What the kernel would refuse it is to refuse: other types of mappings, and those that ask for more of a file.
    let types = [libc::MAP_PRIVATE, libc::MAP_SHARED, libc::MAP_SHARED_VALIDATE].map(flag);
    let plain = types.contains(&(own.r10 & flag(libc::MAP_TYPE))) && own.r10 & flag(libc::MAP_SYNC) == 0;
    let whole = match *plan.pieces {
        [piece] if plain && piece.at == 0 && piece.len == own.rsi.next_multiple_of(PAGE_BYTES) => Some(piece),
        _ => None,
    };
    if let (Some(stub), Some(piece)) = (stub, whole) {
        let flags = own.r10 & !flag(libc::MAP_TYPE) | flag(kind);
        let entry = Entry { address: own.rdi, len: own.rsi, prot: own.rdx, flags, offset: piece.storage };
        if let (1, address) = injection.stitch(stub, &[entry])? {
            injection.tracer.placed(ino, piece);
            return injection.finish(Some(address));
        }
        // The program's own call says what is wrong.
    }
    // Populated through the mount it would fill the page cache.
    let own_flags = own.r10 & !flag(libc::MAP_POPULATE);
    let address = injection.call(SYS_mmap, [own.rdi, own.rsi, own.rdx, own_flags, own.r8, own.r9])?;
    if address < 0 && address > -4096 {
        return injection.finish(Some(address));
    }
    let target = Target { ino, address: address.cast_unsigned(), prot: own.rdx, flags: flag(kind) | own.r10 & KEPT };
    over(&mut injection, &[(target, plan)], stub)?;
    injection.finish(Some(address))
}

/// Maps the pieces of the segment over mappings, and counts.
fn over(injection: &mut Injection<'_, '_>, targets: &[(Target, &Plan)], stub: Option<u64>) -> Result<()> {
    let mut work = Vec::new();
    for (target, plan) in targets {
        for &piece in &plan.pieces {
            let (address, flags) = (target.address + piece.at, target.flags | FIXED);
            let entry = Entry { address, len: piece.len, prot: target.prot, flags, offset: piece.storage };
            work.push((entry, target.ino, piece));
        }
        injection.tracer.count_left(target.ino, plan);
    }
    let done = match stub {
        Some(stub) => by_stub(injection, stub, &work)?,
        None => by_calls(injection, &work)?,
    };
    for (at, &(_, ino, piece)) in work.iter().enumerate() {
        if at < done {
            injection.tracer.placed(ino, piece);
        } else {
            injection.tracer.files.count_left(ino, Reason::Refused, piece.len);
        }
    }
    Ok(())
}

type Work = (Entry, u64, Piece);

/// How many were mapped.
fn by_stub(injection: &mut Injection<'_, '_>, stub: u64, work: &[Work]) -> Result<usize> {
    let mut done = 0;
    for part in work.chunks(stub::MOST) {
        let entries: Vec<_> = part.iter().map(|&(entry, ..)| entry).collect();
        let (count, _) = injection.stitch(stub, &entries)?;
        done += count;
        if count < part.len() {
            break;
        }
    }
    Ok(done)
}

/// As [`by_stub`], one call after the other.
fn by_calls(injection: &mut Injection<'_, '_>, work: &[Work]) -> Result<usize> {
    let fd = injection.give(injection.tracer.segment)?;
    if fd < 0 {
        return Ok(0);
    }
    let fd = fd.cast_unsigned();
    let mut done = 0;
    for (entry, ..) in work {
        let &Entry { address, len, prot, flags, offset } = entry;
        if injection.call(SYS_mmap, [address, len, prot, flags, fd, offset])? != address.cast_signed() {
            break;
        }
        done += 1;
    }
    injection.call(SYS_close, [fd, 0, 0, 0, 0, 0])?;
    Ok(done)
}

/// Gives a new program our page of code; its address.
fn install_stub(injection: &mut Injection<'_, '_>) -> Result<Option<u64>> {
    let stub = injection.tracer.stub.clone();
    let fd = injection.give(stub.fd())?;
    if fd < 0 {
        return Ok(None);
    }
    let (prot, flags) = (flag(libc::PROT_READ | libc::PROT_EXEC), flag(libc::MAP_SHARED));
    let address = injection.call(SYS_mmap, [0, stub::SIZE, prot, flags, fd.cast_unsigned(), 0])?;
    injection.call(SYS_close, [fd.cast_unsigned(), 0, 0, 0, 0, 0])?;
    Ok((address > 0).then_some(address.cast_unsigned()))
}
