//! What a mapping of a file becomes: the program's own, with the segment over it.

use super::files::Found;
use super::inject::{Injection, Work};
use super::maps::{self, Mapping};
use super::stub::{self, At, Entry, Returns, Slot};
use super::sys::{self, Registers, Result};
use super::{Scripted, Tracer, keep};
use crate::place::{Piece, Plan, Request};
use crate::report::Reason;
use libc::{SYS_mmap, pid_t};
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
    pub(super) fn mmap(&mut self, thread: pid_t, registers: Registers) -> Result<()> {
        // The kernel looks at the lower half only.
        let fd = registers.r8 as i32;
        let alone = self.threads.get(&thread).is_some_and(|known| known.alone && known.process == thread);
        let ino = match self.files.of_fd(thread, alone, fd) {
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
        if keep::is_special(registers.r10) {
            self.not_plain(thread);
        }
        let pages = len.div_ceil(PAGE_BYTES);
        let plan = self.files.plan(ino, Request { first: offset / PAGE_BYTES, pages, last_changed: false });
        if plan.pieces.is_empty() {
            self.count_left(ino, &plan);
            return sys::resume(thread, 0);
        }
        // A thread that is traced by itself, step by step, is not led anywhere.
        const STEPS: u64 = 0x100;
        let usable = |&(page, _): &(u64, bool)| registers.eflags & STEPS == 0 && !covers(&registers, page);
        let Some((page, alone)) = self.page_of(thread).filter(usable) else {
            self.files.count_left(ino, Reason::Refused, len);
            return sys::resume(thread, 0);
        };
        let work = whole(&registers, ino, &plan);
        if let Some([work]) = work.as_deref()
            && alone
            && self.keep(thread, page, registers, work)?
        {
            return Ok(());
        }
        let mut injection = Injection::at_call(self, thread, page, registers)?;
        if let Some(work) = work {
            if alone && let Some(slot) = injection.tracer.take_slot() {
                return injection.send_off(work, slot);
            }
            let done = match alone {
                true => Some(injection.map(&work, At::Alone)?),
                false => injection.by_helper(|helper| helper.map(&work, At::Borrow))?,
            };
            if let Some((1, address)) = done {
                injection.tracer.placed(ino, work[0].2);
                return injection.finish(Some(address));
            }
            // The program's own call says what is wrong.
            injection.tracer.files.count_left(ino, Reason::Refused, len);
            return injection.make_own_call();
        }
        // Populated through the mount it would fill the page cache.
        let own = [
            registers.rdi,
            registers.rsi,
            registers.rdx,
            registers.r10 & !flag(libc::MAP_POPULATE),
            registers.r8,
            offset,
        ];
        let work = |address| {
            let flags = kind(&registers) | registers.r10 & KEPT;
            Target { ino, address, prot: registers.rdx, flags }.work(&plan)
        };
        // Whether that succeeds is not known before the thread has gone on: what is left is not to be counted then.
        if alone
            && plan.left.is_empty()
            && plan.pieces.len() <= stub::MOST
            && let Some(slot) = injection.tracer.take_slot()
        {
            return injection.send_off_behind(own, work(0), slot);
        }
        let address = injection.call(SYS_mmap, own)?;
        if address < 0 && address > -4096 {
            return injection.finish(Some(address));
        }
        injection.tracer.count_left(ino, &plan);
        over(injection, work(address.cast_unsigned()), alone, address)
    }

    /// Takes note of a piece that was mapped.
    pub(super) fn placed(&mut self, ino: u64, piece: Piece) {
        self.files.count_in_place(ino, piece.len);
        let (first, end) = (piece.storage / PAGE_BYTES, (piece.storage + piece.len) / PAGE_BYTES);
        let known = self.placed.entry(first).or_insert((end, ino));
        known.0 = known.0.max(end);
    }

    /// A new program was mapped by the kernel: it and its interpreter.
    pub(super) fn exec(&mut self, thread: pid_t) -> Result<()> {
        let registers = sys::registers(thread)?;
        let wanted = !self.sandboxed(thread) && !is_32_bit(&registers);
        // Before our page is there.
        let text = match self.files.processes.memory(thread) {
            Some(memory) => maps::all(memory.maps()).unwrap_or_default(),
            None => maps::of(thread),
        };
        let instruction = if wanted { self.instruction(thread, &text) } else { None };
        let given = match instruction {
            Some(instruction) => Injection::at_exec(self, thread, registers, instruction)?,
            None => None,
        };
        let (files, sandboxed) = (&mut self.files, self.threads.get(&thread).is_some_and(|known| known.sandboxed));
        let mut work = Vec::new();
        for mapping in maps::parse(&text) {
            let len = mapping.end - mapping.start;
            match files.of_mapping(thread, mapping.device, mapping.ino, mapping.path) {
                Found::Other => {}
                Found::CopiedUp(ino) => files.count_left(ino, Reason::CopiedUp, len),
                Found::Ours(ino) if sandboxed => files.count_left(ino, Reason::Sandboxed, len),
                Found::Ours(ino) if is_32_bit(&registers) => files.count_left(ino, Reason::Bits32, len),
                Found::Ours(ino) => work.push((mapping, ino, files.plan(ino, request(&mapping)))),
            }
        }
        // Others could write to the memory that the thread made its calls in, and so have it say what they like: what counts
        // is what the kernel says of its page.
        let trusted = given.as_ref().is_some_and(|given| self.page_is_at(thread, given.page));
        let given = match given {
            Some(given) if trusted => given,
            given => {
                for (mapping, ino, _) in work {
                    self.files.count_left(ino, Reason::Refused, mapping.end - mapping.start);
                }
                return match given {
                    Some(given) => Injection::entered(self, thread, given).finish(None),
                    None if instruction.is_none() => sys::resume(thread, 0),
                    None => Ok(()),
                };
            }
        };
        let mut pieces = Vec::new();
        for (mapping, ino, plan) in &work {
            self.count_left(*ino, plan);
            let prot = u64::from(mapping.prot.unsigned_abs());
            let target = Target { ino: *ino, address: mapping.start, prot, flags: flag(libc::MAP_PRIVATE) };
            pieces.extend(target.work(plan));
        }
        if let Some(known) = self.threads.get_mut(&thread) {
            known.page = Some(given.page);
            known.seen = true;
        }
        let fd = given.fd;
        Injection::entered(self, thread, given).enter_program(fd, pieces)
    }

    /// The address of a `syscall` instruction: the kernel's own page of code has one, at the same place in all
    /// programs.
    fn instruction(&mut self, thread: pid_t, maps: &[u8]) -> Option<u64> {
        const SYSCALL: [u8; 2] = [0x0f, 0x05];
        let vdso = maps::parse(maps).find(|mapping| mapping.path == b"[vdso]")?.start;
        if let Some(offset) = self.instruction_at {
            let mut bytes = [0; 2];
            let address = vdso.checked_add(offset)?;
            if sys::read_memory(thread, address, &mut bytes) == Ok(2) && bytes == SYSCALL {
                return Some(address);
            }
        }
        // Two pages, or one: no more than there are is read.
        let mut code = [0; 2 * PAGE_BYTES as usize];
        let count = sys::read_memory(thread, vdso, &mut code).ok()?;
        let at = code[..count].windows(2).position(|bytes| bytes == SYSCALL)? as u64;
        self.instruction_at = Some(at);
        vdso.checked_add(at)
    }

    fn count_left(&mut self, ino: u64, plan: &Plan) {
        for &(reason, bytes) in &plan.left {
            self.files.count_left(ino, reason, bytes);
        }
    }

    /// A thread was sent off and could not do all of it: it stands in our page, with its descriptor given back.
    pub(super) fn stranded(&mut self, thread: pid_t) -> Result<()> {
        let Some(ride) = self.threads.get_mut(&thread).and_then(|known| known.ride.take()) else {
            // A program that makes our call by itself.
            return sys::resume(thread, 0);
        };
        let now = sys::registers(thread)?;
        let Some(Scripted { blocked, slot, first, result }) = ride.script else {
            return self.not_kept(thread, ride, &now);
        };
        if !stub::is_in(ride.page, &now) {
            // It has left, and makes our call by itself.
            self.count(&ride.work, ride.work.len());
            self.stub.borrow_mut().give_back(slot);
            return sys::resume(thread, 0);
        }
        // The program's own call has failed: nothing is mapped, and nothing left.
        let failed = result == Returns::Own && now.rbx == 0;
        if !failed {
            let done = stub::mapped(first, &now).min(ride.work.len());
            self.count(&ride.work, done);
        }
        self.stub.borrow_mut().give_back(slot);
        let (orig_rax, rax) = match result {
            // The program's own call says what is wrong, if that was it.
            Returns::Last => (ride.saved.orig_rax, ride.saved.rax),
            Returns::Value(value) => (u64::MAX, value),
            Returns::Own => (u64::MAX, if failed { now.r9 } else { now.rbx }),
        };
        sys::set_registers(thread, &Registers { orig_rax, rax, ..ride.saved })?;
        sys::block_signals(thread, blocked)?;
        sys::resume(thread, 0)
    }

    /// Whether our page is where a thread was given it. What is sealed stays; but a forked process may not have got it, and
    /// something else in its place.
    pub(super) fn has_page(&mut self, thread: pid_t, page: u64) -> bool {
        let Some(known) = self.threads.get(&thread) else { return false };
        if known.seen && self.stub.borrow().sealable {
            return true;
        }
        let seen = self.page_is_at(thread, page);
        if let Some(known) = self.threads.get_mut(&thread) {
            known.seen = seen;
        }
        seen
    }

    /// Whether a process has our page, all of it and nothing else, at `page`: asked for, or where the kernel does not answer
    /// that, looked for in its list.
    fn page_is_at(&mut self, thread: pid_t, page: u64) -> bool {
        let id = self.stub.borrow().id();
        let memory = self.threads.get(&thread).filter(|known| known.process == thread);
        let memory = memory.and_then(|_| self.files.processes.memory(thread));
        if let Some(area) = memory.and_then(|memory| sys::area_at(memory.maps(), page)) {
            let whole = area.start == page && area.end == page + stub::SIZE && area.offset == 0;
            return whole && area.shared && area.id == id;
        }
        maps::parse(&maps::of(thread)).any(|mapping| {
            let whole = mapping.start == page && mapping.end == page + stub::SIZE && mapping.offset == 0;
            whole && (mapping.device, mapping.ino) == id
        })
    }

    /// Takes note of the first pieces as mapped, and of the others as left.
    fn count(&mut self, work: &[Work], done: usize) {
        for (at, &(_, ino, piece)) in work.iter().enumerate() {
            match at < done {
                true => self.placed(ino, piece),
                false => self.files.count_left(ino, Reason::Refused, piece.len),
            }
        }
    }

    fn take_slot(&self) -> Option<Slot> {
        self.stub.borrow_mut().take()
    }
}

/// Whether the program's mapping would come in the place of our page.
fn covers(own: &Registers, page: u64) -> bool {
    let end = own.rdi.saturating_add(own.rsi.saturating_add(PAGE_BYTES));
    own.r10 & FIXED != 0 && own.rdi < page + stub::SIZE && end > page
}

fn is_32_bit(registers: &Registers) -> bool {
    registers.cs == 0x23
}

fn request(mapping: &Mapping<'_>) -> Request {
    let pages = (mapping.end - mapping.start) / PAGE_BYTES;
    // The kernel has zeroed what follows a program's data in its last page.
    Request { first: mapping.offset / PAGE_BYTES, pages, last_changed: mapping.writable }
}

/// The kind of the program's mapping.
fn kind(own: &Registers) -> u64 {
    let private = own.r10 & flag(libc::MAP_TYPE) == flag(libc::MAP_PRIVATE);
    flag(if private { libc::MAP_PRIVATE } else { libc::MAP_SHARED })
}

/// The mapping to make in the place of the program's own, where all of it is one piece.
fn whole(own: &Registers, ino: u64, plan: &Plan) -> Option<Vec<Work>> {
    // What the kernel would refuse it is to refuse: other types of mappings, and those that ask for more of a file.
    let types = [libc::MAP_PRIVATE, libc::MAP_SHARED, libc::MAP_SHARED_VALIDATE].map(flag);
    let plain = types.contains(&(own.r10 & flag(libc::MAP_TYPE))) && own.r10 & flag(libc::MAP_SYNC) == 0;
    let [piece] = *plan.pieces else { return None };
    if !plain || piece.at != 0 || piece.len != own.rsi.next_multiple_of(PAGE_BYTES) {
        return None;
    }
    let flags = own.r10 & !flag(libc::MAP_TYPE) | kind(own);
    let entry = Entry { address: own.rdi, len: own.rsi, prot: own.rdx, flags, offset: piece.storage };
    Some(vec![(entry, ino, piece)])
}

impl Target {
    /// The pieces of the segment to map over it.
    fn work(&self, plan: &Plan) -> Vec<Work> {
        let piece = |&piece: &Piece| {
            let (address, flags) = (self.address + piece.at, self.flags | FIXED);
            let entry = Entry { address, len: piece.len, prot: self.prot, flags, offset: piece.storage };
            (entry, self.ino, piece)
        };
        plan.pieces.iter().map(piece).collect()
    }
}

/// Maps pieces over the mapping that the program's call has made at `address`; the program goes on.
fn over(mut injection: Injection<'_, '_>, work: Vec<Work>, alone: bool, address: i64) -> Result<()> {
    if !alone {
        let done = injection.by_helper(|helper| all(helper, &work, At::Borrow))?;
        injection.tracer.count(&work, done.unwrap_or(0));
        return injection.finish(Some(address));
    }
    let done = all(&mut injection, &work, At::Alone)?;
    injection.tracer.count(&work, done);
    injection.finish(Some(address))
}

/// How many were mapped.
fn all(injection: &mut Injection<'_, '_>, work: &[Work], first: At) -> Result<usize> {
    let mut done = 0;
    for part in work.chunks(stub::MOST) {
        let (count, _) = injection.map(part, first)?;
        done += count;
        if count < part.len() {
            break;
        }
    }
    Ok(done)
}

impl Injection<'_, '_> {
    /// A thread that was given our page goes on into its new program, with pieces mapped over it.
    fn enter_program(mut self, fd: u32, work: Vec<Work>) -> Result<()> {
        let page = self.page();
        if work.len() <= stub::MOST
            && let Some(slot) = self.tracer.take_slot()
        {
            return self.send_off_to_program(fd, work, slot);
        }
        self.call(libc::SYS_close, [fd.into(), 0, 0, 0, 0, 0])?;
        if self.tracer.stub.borrow().sealable {
            self.call(libc::SYS_mseal, [page, stub::SIZE, 0, 0, 0, 0])?;
        }
        let done = all(&mut self, &work, At::Alone)?;
        self.tracer.count(&work, done);
        self.finish(None)
    }
}
