//! Mappings that are moved, resized or rearranged: those of the segment never show more of it than was mapped.

use super::Tracer;
use super::maps;
use super::sys::{self, Registers, Result};
use crate::report::Reason;
use libc::pid_t;
use xip::PAGE_BYTES;

impl Tracer<'_> {
    /// A thread is about to move a mapping or to change its size. One of the segment would grow into the next file's pages:
    /// refused. Where others use the memory, all others are made to their end before anything else is served: else a thread could move a mapping
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
        let in_segment = match new > old {
            true => match self.segment_mapping(thread, address) {
                Ok(found) => found,
                // Not known is not allowed.
                Err(_) => return refuse(thread, registers, libc::ENOMEM),
            },
            false => None,
        };
        let fits = |end| old == 0 && address.saturating_add(new.saturating_mul(PAGE_BYTES)) <= end;
        let Some((_, offset)) = in_segment.filter(|&(end, _)| !fits(end)) else {
            let alone = self.threads.get(&thread).is_some_and(|known| known.alone);
            return if alone { sys::resume(thread, 0) } else { self.finish_call(thread).map(|_| ()) };
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
        let in_segment = |address| !matches!(self.segment_mapping(thread, address), Ok(None));
        if in_segment(registers.rdi) || in_segment(registers.rbx & 0xffff_ffff) {
            return refuse(thread, registers, libc::EINVAL);
        }
        sys::resume(thread, 0)
    }

    /// The end of the segment's mapping that `address` is in, and where in the segment `address` is.
    fn segment_mapping(&self, thread: pid_t, address: u64) -> rustix::io::Result<Option<(u64, u64)>> {
        let text = maps::read(thread, "maps")?;
        let found = maps::parse(&text).find(|mapping| (mapping.start..mapping.end).contains(&address));
        let ours = found.filter(|found| (found.device, found.ino) == self.segment_id);
        Ok(ours.map(|found| (found.end, found.offset + (address - found.start))))
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
