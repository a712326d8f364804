//! The guest's memory, as its kernel counts it.

use crate::{Result, Tried};
use std::fs;

/// What was in the page cache before there was a volume: the first file system.
pub(crate) struct Figures {
    before: u64,
}

impl Figures {
    pub(crate) fn begin() -> Result<Self> {
        Ok(Self { before: cached(&vmstat()?) })
    }

    /// As the host reads them, in KiB.
    pub(crate) fn now(&self) -> Result<String> {
        // In this order: what is free is a count as well.
        let (pages, memory) = (vmstat()?, fs::read_to_string("/proc/meminfo").tried("cannot read meminfo")?);
        let (total, free) = (number(&memory, "MemTotal:"), number(&memory, "MemFree:"));
        let cached = cached(&pages).saturating_sub(self.before) * 4;
        let line = format!("total={} free={} cached={cached}", total.unwrap_or(0), free.unwrap_or(0));
        Ok(match number(&pages, "nr_memmap_pages") {
            Some(descriptors) => format!("{line} descriptors={}", descriptors * 4),
            None => line,
        })
    }
}

/// A processor keeps what it counts to itself for up to a second, some pages of each count: the kernel is asked to add that first, so
/// that the same work gives the same figure. It refuses when a count is below zero, which is not our affair.
fn vmstat() -> Result<String> {
    let _ = fs::write("/proc/sys/vm/stat_refresh", "1");
    fs::read_to_string("/proc/vmstat").tried("cannot read vmstat")
}

/// Pages of files and of devices. What a tmpfs has is memory of its own, not a copy of anything.
fn cached(pages: &str) -> u64 {
    number(pages, "nr_file_pages").unwrap_or(0).saturating_sub(number(pages, "nr_shmem").unwrap_or(0))
}

fn number(text: &str, key: &str) -> Option<u64> {
    let mut lines = text.lines().map(str::split_ascii_whitespace);
    lines.find_map(|mut words| (words.next() == Some(key)).then(|| words.next())?)?.parse().ok()
}
