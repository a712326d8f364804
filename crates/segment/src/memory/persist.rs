//! Stores that are to survive a loss of power: the one place where cache lines are written back and waited for.
//!
//! A file on persistent memory (a file system with DAX) that is mapped with `MAP_SYNC` has its blocks where the kernel's own
//! metadata durably says they are, so that what a program has flushed and fenced is there after a crash, without a
//! call. Which instruction flushes is asked of the processor, once.

use core::arch::x86_64::{__cpuid, __cpuid_count, _mm_clflush, _mm_sfence};
use std::arch::asm;
use std::sync::OnceLock;

/// Bytes that are written back together.
const LINE: usize = 64;

/// An instruction that writes a line back, the best first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Flush {
    /// Keeps the line in the cache.
    Clwb,
    /// Not ordered with others of its kind, so many are under way at once.
    ClflushOpt,
    /// One after the other; every x86-64 has it.
    Clflush,
}

impl Flush {
    /// What this processor has.
    pub(super) fn of_processor() -> Self {
        static FOUND: OnceLock<Flush> = OnceLock::new();
        *FOUND.get_or_init(|| {
            let highest = __cpuid(0).eax;
            Self::of_features(if highest >= 7 { __cpuid_count(7, 0).ebx } else { 0 })
        })
    }

    /// From the features in leaf 7 of `cpuid`.
    fn of_features(ebx: u32) -> Self {
        match (ebx >> 24 & 1, ebx >> 23 & 1) {
            (1, _) => Self::Clwb,
            (_, 1) => Self::ClflushOpt,
            _ => Self::Clflush,
        }
    }

    /// Starts to write back every line of which `[start, start + len)` has a byte.
    ///
    /// # Safety
    /// The range is mapped, and the processor has the instruction.
    pub(super) unsafe fn range(self, start: *const u8, len: usize) {
        for line in lines(start.addr(), len) {
            let line = start.with_addr(line);
            // SAFETY: the caller has promised the instruction; a line holds a byte of the range, and lies in one page, so all of
            // it is mapped. It changes no byte.
            unsafe {
                match self {
                    Self::Clwb => asm!("clwb [{}]", in(reg) line, options(nostack, preserves_flags)),
                    Self::ClflushOpt => asm!("clflushopt [{}]", in(reg) line, options(nostack, preserves_flags)),
                    Self::Clflush => _mm_clflush(line),
                }
            }
        }
    }
}

/// Returns when everything that this thread has flushed is durable.
pub(super) fn fence() {
    // SAFETY: every x86-64 has it; it changes nothing.
    #[allow(unused_unsafe)]
    unsafe {
        _mm_sfence();
    }
}

/// The addresses of the lines of which `[start, start + len)` has a byte: unaligned edges belong to it, two published file systems
/// lost data in exactly those (contract 7).
fn lines(start: usize, len: usize) -> impl Iterator<Item = usize> {
    let first = start & !(LINE - 1);
    let end = if len == 0 { first } else { start.saturating_add(len) };
    (first..end).step_by(LINE)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Contract 7: unaligned edges are flushed.
    #[test]
    fn every_line_with_a_byte_of_the_range_is_flushed_once() {
        for start in 4096..4096 + 2 * LINE {
            for len in 0..4 * LINE {
                let expected: std::collections::BTreeSet<_> =
                    (start..start + len).map(|byte| byte / LINE * LINE).collect();
                assert!(lines(start, len).eq(expected), "{len} bytes at {start}");
            }
        }
    }

    #[test]
    fn the_best_instruction_that_the_processor_has_is_taken() {
        assert_eq!(Flush::of_features(0), Flush::Clflush);
        assert_eq!(Flush::of_features(1 << 23), Flush::ClflushOpt);
        assert_eq!(Flush::of_features(1 << 24), Flush::Clwb);
        assert_eq!(Flush::of_features(u32::MAX), Flush::Clwb);
        assert_eq!(Flush::of_features(!(3 << 23)), Flush::Clflush);
        // What the kernel says of this machine.
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap();
        let has = |word| flags.split_whitespace().any(|flag| flag == word);
        let expected = match (has("clwb"), has("clflushopt")) {
            (true, _) => Flush::Clwb,
            (_, true) => Flush::ClflushOpt,
            _ => Flush::Clflush,
        };
        assert_eq!(Flush::of_processor(), expected);
    }

    /// The instructions themselves: those that are there run over a whole range, to the last byte of a mapping, and change
    /// nothing.
    #[test]
    fn flushing_runs_over_a_mapping_to_its_edges_and_changes_nothing() {
        let map = super::super::Map::anonymous(3 * 4096).unwrap();
        let bytes: Vec<u8> = (0..3 * 4096).map(|n| (n * 7) as u8).collect();
        map.region_mut(0, bytes.len()).unwrap().write(0, &bytes);
        for how in [Flush::Clwb, Flush::ClflushOpt, Flush::Clflush] {
            if how < Flush::of_processor() {
                println!("this processor has no {how:?}");
                continue;
            }
            for (from, len) in [(0, bytes.len()), (1, 1), (63, 2), (4095, 4098), (bytes.len() - 1, 1), (7, 0)] {
                let region = map.region(from, len);
                // SAFETY: the range is mapped, and a processor that has one has those that are older.
                unsafe { how.range(region.as_ptr(), len) };
                fence();
            }
        }
        let mut back = vec![0; bytes.len()];
        map.region(0, bytes.len()).read(0, &mut back);
        assert!(back == bytes);
    }
}
