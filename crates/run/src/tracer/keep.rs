//! A part of a file that is mapped anew over a mapping of the very same.
//!
//! Dynamic loaders map all of a library first, and then each of its segments over that, with other rights. Where the pages
//! are the segment's already, in the right place, `mprotect` in the place of the program's call does all that is to be
//! done: no descriptor, no script, no signals held back.
//!
//! That is only so where what is there is what the call would make: the kernel's list of mappings says which pages of
//! the segment are there, its tables that the program has written to none, and a stop ([`Stop::Special`](crate::seccomp::Stop))
//! has told of each call that gives memory a property which neither shows. Only a process that is one thread can rely on it.

use super::inject::Work;
use super::stub::{self, At};
use super::sys::{self, EVENT_STOP, Registers, Result, Status};
use super::turns::Held;
use super::{Ride, Tracer};
use crate::seccomp::MAGIC;
use libc::pid_t;
use rustix::fd::AsFd;
use xip::PAGE_BYTES;

/// Flags that leave no property behind that the list of mappings does not show.
const SEEN: i32 =
    libc::MAP_TYPE | libc::MAP_FIXED | libc::MAP_FIXED_NOREPLACE | libc::MAP_POPULATE | libc::MAP_NONBLOCK | IGNORED;
/// Flags that the kernel ignores.
const IGNORED: i32 = libc::MAP_DENYWRITE | libc::MAP_EXECUTABLE;
/// The flags that the program's call must have, beside those.
const FITTING: i32 = libc::MAP_PRIVATE | libc::MAP_FIXED;
const RIGHTS: u64 = (libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC).unsigned_abs() as u64;

impl Tracer<'_> {
    /// Has a thread, which is alone and stands before its `mmap` of a file of the volume, keep what is there already, if that
    /// is what its call asks for.
    pub(super) fn keep(&mut self, thread: pid_t, page: u64, saved: Registers, work: &Work) -> Result<bool> {
        let &(entry, _, piece) = work;
        let flags = entry.flags & !u64::from(IGNORED.unsigned_abs());
        let (start, end) = (entry.address, entry.address.saturating_add(piece.len));
        // With execution alone it could be a key of the processor that keeps the memory from being read. Descriptor and flags must
        // have room in one register beside the cookie, so that both come back.
        let room = u16::try_from(saved.r8).ok().zip(u16::try_from(saved.r10).ok());
        let fits = flags == u64::from(FITTING.unsigned_abs())
            && entry.prot & !RIGHTS == 0
            && entry.prot & libc::PROT_READ.unsigned_abs() as u64 != 0
            && start.is_multiple_of(PAGE_BYTES)
            && self.threads.get(&thread).is_some_and(|known| known.plain);
        let Some((descriptor, kind)) = room.filter(|_| fits) else { return Ok(false) };
        let segment = self.segment_id;
        let same = self.files.processes.memory(thread).is_some_and(|memory| {
            let there = sys::area_at(memory.maps(), start).is_some_and(|area| {
                area.id == segment
                    && !area.shared
                    && (area.start..area.end).contains(&start)
                    && end <= area.end
                    && area.offset + (start - area.start) == piece.storage
            });
            there && sys::all_of_file(memory.pages(), start, end)
        });
        if !same {
            return Ok(false);
        }
        if let Some(known) = self.threads.get_mut(&thread) {
            known.ride = Some(Ride { saved, page, work: vec![*work], script: None });
        }
        let held = self.turns.hold(thread, false);
        let (call, place) = match held {
            Some(_) => (i64::from(MAGIC), At::Keep),
            None => (libc::SYS_mprotect, At::Kept),
        };
        // Address, length and rights are the same three arguments.
        let protect = Registers {
            orig_rax: call.cast_unsigned(),
            rip: page + place.offset(),
            r8: u64::from(self.cookie) << 32 | u64::from(kind.swap_bytes()) << 16 | u64::from(descriptor),
            r10: saved.rip,
            ..saved
        };
        sys::set_registers(thread, &protect)?;
        sys::resume(thread, 0)?;
        if let Some(held) = held {
            self.let_go(thread, held)?;
        }
        Ok(true)
    }

    /// A thread that is kept on the runner's processor says that it has gone on: then it may go where it likes.
    fn let_go(&mut self, thread: pid_t, held: Held) -> Result<()> {
        const WAIT: i64 = 20_000_000;
        let (mut held, mut stopped) = (Some(held), false);
        loop {
            let Some(said) = self.notification(thread, WAIT)? else { continue };
            held.take();
            match said {
                Ok(id) if sys::answer(self.listener.as_fd(), id, 0).is_ok() => break,
                // Interrupted meanwhile: it makes its call again.
                Ok(_) => {}
                Err(Status::Event(EVENT_STOP, signal)) => {
                    stopped |= signal != libc::SIGTRAP;
                    sys::resume(thread, 0)?;
                }
                // A signal, or its end.
                Err(status) => {
                    self.queue.push_back((thread, status));
                    break;
                }
            }
        }
        if stopped { sys::interrupt(thread) } else { Ok(()) }
    }

    /// The thread has come to our page and stopped: `mprotect` has failed. Its call is served as any other.
    pub(super) fn not_kept(&mut self, thread: pid_t, ride: Ride, now: &Registers) -> Result<()> {
        if !stub::is_in(ride.page, now) {
            // It has left, and makes our call by itself.
            ride.work.iter().for_each(|&(_, ino, piece)| self.placed(ino, piece));
            return sys::resume(thread, 0);
        }
        self.not_plain(thread);
        sys::set_registers(thread, &ride.saved)?;
        self.mmap(thread, ride.saved)
    }

    /// A signal is about to be delivered to a thread that may be on its way through our page: a handler is not to see that.
    pub(super) fn hasten_keeper(&mut self, thread: pid_t, now: &Registers) -> Result<()> {
        let Some(ride) = self.threads.get(&thread).and_then(|known| known.ride.as_ref()) else { return Ok(()) };
        let saved = ride.saved;
        let done = !stub::is_in(ride.page, now) || stub::has_kept(ride.page, now);
        if done {
            if stub::is_in(ride.page, now) {
                sys::set_registers(thread, &Registers { orig_rax: u64::MAX, rax: saved.rdi, ..saved })?;
            }
            self.landed(thread);
            return Ok(());
        }
        // It makes its call again, from its own code: the instruction for that has two bytes.
        if let Some(known) = self.threads.get_mut(&thread) {
            known.ride = None;
        }
        self.not_plain(thread);
        let again = Registers { rip: saved.rip.wrapping_sub(2), rax: saved.orig_rax, orig_rax: u64::MAX, ..saved };
        sys::set_registers(thread, &again)
    }

    /// A thread gives memory a property that is not seen, or is about to map with one. It may be that of its lender.
    pub(super) fn not_plain(&mut self, thread: pid_t) {
        let mut next = Some(thread);
        while let Some(known) = next.and_then(|thread| self.threads.get_mut(&thread)) {
            known.plain = false;
            next = known.lender;
        }
    }
}

/// Whether a mapping made with these flags has properties that the kernel's list of mappings does not show.
pub(super) fn is_special(flags: u64) -> bool {
    flags & !u64::from(SEEN.unsigned_abs()) != 0
}
