//! Who shares a segment, and what that saves: the kernel's figures, added up.
//!
//! How each is counted is on the page `docs/segments.md`.

use crate::error::Result;
use crate::load;
use crate::memory::{HUGE, cachestat};
use crate::proc::{self, Process};
use crate::segment::{Info, Segment};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use xip_core::page::PAGE_BYTES;

/// A process that uses a segment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct User {
    /// Its number.
    pub pid: u32,
    /// Its name, as `ps` shows it.
    pub command: String,
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.command, self.pid)
    }
}

/// A segment and those who map it. All sizes are in bytes.
#[derive(Clone, Debug, Serialize)]
pub struct Stat {
    /// The segment.
    #[serde(flatten)]
    pub info: Info,
    /// What of it is in memory now.
    pub resident: u64,
    /// What of it was moved out to swap.
    pub swapped: u64,
    /// How much of it is in huge pages.
    pub huge: Huge,
    /// The processes that map it, those that have most of it first.
    pub processes: Vec<Mapper>,
    /// How many processes could not be looked into; each may or may not map it.
    pub not_visible: u64,
    /// How much of it is mapped by how many processes; what nobody maps is left out.
    pub shared: Vec<Shared>,
    /// What the same processes would need more if each had a copy of the pages it maps, as with a page cache of its own:
    /// every page once for each process that maps it, beyond the first.
    pub saved: u64,
}

/// A process that maps a segment.
#[derive(Clone, Debug, Serialize)]
pub struct Mapper {
    /// The process.
    #[serde(flatten)]
    pub user: User,
    /// Its arguments.
    pub arguments: String,
    /// Address space it has for the segment.
    pub mapped: u64,
    /// Of that, what is in its page tables and is the segment itself.
    pub in_place: u64,
    /// `in_place`, each page divided by how many map it.
    pub proportional: u64,
    /// Its own copies of pages it has stored to, in private mappings.
    pub copied: u64,
    /// Of `in_place`, what is mapped by huge pages.
    pub huge: u64,
}

/// How much of a segment is mapped by exactly so many processes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Shared {
    /// How many.
    pub processes: u32,
    /// How much.
    pub bytes: u64,
}

/// Huge pages of a segment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Huge {
    /// What of the segment is in huge pages, as a mapping of the whole shows it.
    pub bytes: u64,
    /// Why not all of it is.
    pub why_not: Option<String>,
}

impl Segment {
    /// Who shares it. Walks all processes that this one may look into.
    ///
    /// # Errors
    /// The system's: no address space.
    pub fn stat(&self) -> Result<Stat> {
        let id = self.id();
        let mut not_visible = 0;
        let mut processes = Vec::new();
        let pages = usize::try_from(self.info().size / PAGE_BYTES).unwrap_or(0);
        let mut mappers_of = vec![0u32; pages];
        let mut last_seen = vec![0u32; pages];
        for process in proc::processes() {
            match process.maps(id) {
                None => not_visible += 1,
                Some(false) => {}
                Some(true) => {
                    processes.extend(mapper(&process, id, |page| {
                        // Once for each process, however often it maps the page.
                        if last_seen.get(page).is_some_and(|&seen| seen != process.pid) {
                            last_seen[page] = process.pid;
                            mappers_of[page] += 1;
                        }
                    }));
                }
            }
        }
        processes.sort_by_key(|mapper| (std::cmp::Reverse(mapper.in_place), mapper.user.pid));
        let mut shared = BTreeMap::new();
        for &count in mappers_of.iter().filter(|&&count| count != 0) {
            *shared.entry(count).or_insert(0) += PAGE_BYTES;
        }
        let shared: Vec<Shared> = shared.into_iter().map(|(processes, bytes)| Shared { processes, bytes }).collect();
        let saved = shared.iter().map(|s| u64::from(s.processes - 1) * s.bytes).sum();
        let (resident, swapped) = self.resident();
        // Last, since it maps the segment itself.
        let huge = self.huge()?;
        Ok(Stat { info: self.info().clone(), resident, swapped, huge, processes, not_visible, shared, saved })
    }

    /// What is in memory, and what was swapped out.
    fn resident(&self) -> (u64, u64) {
        match cachestat(self.fd()) {
            Ok(stat) => (stat.cached * PAGE_BYTES, stat.evicted * PAGE_BYTES),
            // A kernel before 6.5: what is allocated, in memory or swapped.
            Err(_) => (rustix::fs::fstat(self.fd()).map_or(0, |stat| stat.st_blocks.unsigned_abs() * 512), 0),
        }
    }

    /// How much of it is in huge pages: what the kernel uses them for when the whole is mapped.
    ///
    /// # Errors
    /// The system's: no address space.
    pub fn huge(&self) -> Result<Huge> {
        let device = self.device()?;
        load::make_present(&device);
        let address = device.memory().address() as u64;
        let areas = Process::new(std::process::id()).areas(self.id());
        let bytes = areas.iter().filter(|area| area.start == address).map(|area| area.huge).sum();
        let possible = self.info().size / HUGE as u64 * HUGE as u64;
        let why_not = if bytes >= possible { None } else { Some(why_not_huge()) };
        Ok(Huge { bytes, why_not })
    }
}

/// Who has a segment mapped or open, beside its holders and this process.
pub(crate) fn users(id: proc::Id) -> Vec<User> {
    let me = std::process::id();
    proc::processes()
        .into_iter()
        .filter(|process| process.pid != me)
        .filter(|process| process.maps(id) == Some(true) || process.has_open(id))
        .map(|process| User { pid: process.pid, command: process.command() })
        // There is one for each name of the memory.
        .filter(|user| user.command != crate::holder::COMMAND)
        .collect()
}

fn mapper(process: &Process, id: proc::Id, mut each: impl FnMut(usize)) -> Option<Mapper> {
    let areas = process.areas(id);
    if areas.is_empty() {
        return None;
    }
    for area in &areas {
        process.pages(area, |page| each(usize::try_from(page).unwrap_or(usize::MAX)));
    }
    let sum = |of: fn(&proc::Area) -> u64| areas.iter().map(of).sum::<u64>();
    let copied = sum(|area| area.copied);
    Some(Mapper {
        user: User { pid: process.pid, command: process.command() },
        arguments: process.arguments(),
        mapped: sum(|area| area.end - area.start),
        in_place: sum(|area| area.resident.saturating_sub(area.copied)),
        proportional: sum(|area| area.proportional.saturating_sub(area.copied)),
        copied,
        huge: sum(|area| area.huge),
    })
}

/// In words, from the kernel's settings.
fn why_not_huge() -> String {
    let file = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
    let Ok(text) = std::fs::read_to_string(file) else {
        return "this kernel has no huge pages for shared memory".into();
    };
    let set = text.split(['[', ']']).nth(1).unwrap_or("unknown");
    match set {
        "deny" => format!("{file} is `deny`: `advise` would allow them"),
        "never" => format!(
            "{file} is `never`, and the kernel made none on request (Linux before 6.1, or memory is in pieces); \
             `advise` would allow them"
        ),
        _ => format!("{file} is `{set}`; memory was in pieces when the segment was loaded, or is not all written"),
    }
}
