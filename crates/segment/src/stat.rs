//! Who shares a segment, and what that saves: the kernel's figures, added up.
//!
//! How each is counted is on the page `docs/segments.md`.

use crate::error::Result;
use crate::load;
use crate::memory::{HUGE, cachestat};
use crate::proc::{self, Process};
use crate::segment::{Info, Segment, id_of};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::OwnedFd;
use xip_core::page::PAGE_BYTES;

/// A process that uses a segment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct User {
    /// Its number.
    pub pid: u32,
    /// Its name, as `ps` shows it.
    pub command: String,
    /// What it does with the segment.
    pub role: Role,
}

/// What a process does with a segment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It is a program whose text, libraries or data the segment is.
    Uses,
    /// It is a virtual machine that has the whole as memory. What it has of it is what its programs and kernel have touched, as
    /// the host sees it.
    Guest,
    /// It is `xip` itself, which maps the whole to serve its files to the programs of a run or a mount. It would not
    /// need a copy if there was no segment, so it counts in none of the sums.
    Serves,
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = match self.role {
            Role::Uses => "",
            Role::Guest => ", a guest",
            Role::Serves => ", serves its files",
        };
        write!(f, "{} ({}{role})", self.command, self.pid)
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
    /// The processes that map it: programs before guests before those that serve, then those that have most of it first.
    pub processes: Vec<Mapper>,
    /// How many processes could not be looked into; each may or may not map it.
    pub not_visible: u64,
    /// How much of it is mapped by how many programs and guests, by one (so not shared) too; what nobody maps is left out.
    pub shared: Vec<Shared>,
    /// What the same programs and guests would need more if each had a copy of the pages it maps, as with a page cache of its
    /// own: every page once for each of them that maps it, beyond the first.
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

/// How much of a segment is mapped by exactly so many programs and guests.
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

impl Stat {
    /// The programs and guests that share it; without those that serve it.
    pub fn sharers(&self) -> impl Iterator<Item = &Mapper> {
        self.processes.iter().filter(|mapper| mapper.user.role != Role::Serves)
    }

    /// The programs on this machine that share it.
    pub fn programs(&self) -> impl Iterator<Item = &Mapper> {
        self.processes.iter().filter(|mapper| mapper.user.role == Role::Uses)
    }

    /// The guests that share it.
    pub fn guests(&self) -> impl Iterator<Item = &Mapper> {
        self.processes.iter().filter(|mapper| mapper.user.role == Role::Guest)
    }
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
        let volume = self.info().size - self.data_offset();
        let pages = usize::try_from(self.info().size / PAGE_BYTES).unwrap_or(0);
        let mut mappers_of = vec![0u32; pages];
        let mut last_seen = vec![0u32; pages];
        for process in proc::processes() {
            match process.maps(id) {
                None => not_visible += 1,
                Some(areas) if areas.is_empty() => {}
                Some(_) => {
                    processes.extend(mapper(&process, id, volume, |page| {
                        // Once for each process, however often it maps the page.
                        if last_seen.get(page).is_some_and(|&seen| seen != process.pid) {
                            last_seen[page] = process.pid;
                            mappers_of[page] += 1;
                        }
                    }));
                }
            }
        }
        processes.sort_by_key(|mapper| (mapper.user.role, std::cmp::Reverse(mapper.in_place), mapper.user.pid));
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
        let device = self.mapped()?;
        load::make_present(&device);
        let address = device.memory().address() as u64;
        let areas = Process::new(std::process::id()).areas(self.id());
        let bytes = areas.iter().filter(|area| area.start == address).map(|area| area.huge).sum();
        let possible = (self.info().size - self.data_offset()) / HUGE as u64 * HUGE as u64;
        let why_not = if bytes >= possible { None } else { Some(why_not_huge()) };
        Ok(Huge { bytes, why_not })
    }
}

/// Who has the memory of a segment mapped or open, beside its holders, this process and `other`; programs first.
pub(crate) fn users(memory: &OwnedFd, other: Option<u32>) -> Vec<User> {
    let id = id_of(memory);
    let size = rustix::fs::fstat(memory).map_or(0, |stat| stat.st_size.unsigned_abs());
    let volume = size.saturating_sub(crate::nvdimm::data_offset(memory));
    let me = std::process::id();
    let mut users: Vec<User> = proc::processes()
        .into_iter()
        .filter(|process| process.pid != me && Some(process.pid) != other)
        .map(|process| (process.maps(id).unwrap_or_default(), process))
        .filter(|(areas, process)| !areas.is_empty() || process.has_open(id))
        .map(|(areas, process)| user(&process, &areas, volume))
        // There is one for each name of the memory.
        .filter(|user| user.command != crate::holder::COMMAND)
        .collect();
    users.sort_by_key(|user| (user.role, user.pid));
    users
}

fn user(process: &Process, areas: &[proc::Area], volume: u64) -> User {
    let command = process.command();
    let program = process.program();
    // By a link it has the link's name; started as `/proc/self/exe`, only its file has it.
    let role = if [&command, &program].into_iter().any(|name| serves(name, areas, volume)) {
        Role::Serves
    } else if is_whole(areas, volume) && is_hypervisor(&program) {
        Role::Guest
    } else {
        Role::Uses
    };
    User { pid: process.pid, command, role }
}

/// Whether a process of that name, its own or its program file's, with these mappings of a segment serves it. A program that is run from
/// it maps files, never the whole; a library user's has another name.
fn serves(name: &str, areas: &[proc::Area], volume: u64) -> bool {
    name == "xip" && areas.iter().all(|area| area.as_storage) && is_whole(areas, volume)
}

/// Whether these are as long as the volume in the segment. A hypervisor that itself is run from a segment maps its program file.
fn is_whole(areas: &[proc::Area], volume: u64) -> bool {
    !areas.is_empty() && areas.iter().map(|area| area.end - area.start).sum::<u64>() >= volume
}

/// Whether a program file of that name runs virtual machines, of which one process is one. By the file and not by the name of
/// the process: QEMU takes any for its guest (`-name NAME,process=...`).
fn is_hypervisor(program: &str) -> bool {
    // Releases carry versions and machines after the name; a wrapped program has a dot before it.
    let known = ["qemu-system-", "qemu-kvm", "cloud-hypervisor", "firecracker", "crosvm"];
    known.iter().any(|name| program.trim_start_matches('.').starts_with(name))
}

/// Calls `each` for the pages that count.
fn mapper(process: &Process, id: proc::Id, volume: u64, mut each: impl FnMut(usize)) -> Option<Mapper> {
    let areas = process.areas(id);
    if areas.is_empty() {
        return None;
    }
    let user = user(process, &areas, volume);
    for area in areas.iter().filter(|_| user.role != Role::Serves) {
        process.pages(area, |page| each(usize::try_from(page).unwrap_or(usize::MAX)));
    }
    let sum = |of: fn(&proc::Area) -> u64| areas.iter().map(of).sum::<u64>();
    let copied = sum(|area| area.copied);
    Some(Mapper {
        user,
        arguments: process.arguments(),
        mapped: sum(|area| area.end - area.start),
        in_place: sum(|area| area.resident.saturating_sub(area.copied)),
        proportional: sum(|area| area.proportional.saturating_sub(area.copied)),
        copied,
        huge: sum(|area| area.huge),
    })
}

/// All memory of a process, each page divided by how many map it (`Pss`), in bytes. `None`: it is gone, or we may not know.
pub fn proportional(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let kilobytes = text.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB"))?;
    Some(kilobytes.parse::<u64>().ok()? * 1024)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_xip_with_the_whole_mapped_as_storage_serves() {
        let area = |start, end, as_storage| proc::Area { start, end, as_storage, ..proc::Area::default() };
        let whole = [area(0, 6 << 12, true), area(8 << 12, 10 << 12, true)];
        assert!(serves("xip", &whole, 8 << 12));
        assert!(!serves("sh", &whole, 8 << 12), "another program");
        assert!(!serves("xip", &whole[..1], 8 << 12), "a part");
        assert!(!serves("xip", &[area(0, 8 << 12, false)], 8 << 12), "executes, or stores to copies");
        // It has the descriptor only, as one who is about to map it.
        assert!(!serves("xip", &[], 8 << 12));
        assert!(is_whole(&whole, 8 << 12) && !is_whole(&whole[..1], 8 << 12) && !is_whole(&[], 8 << 12));
    }

    #[test]
    fn hypervisors_are_known_by_the_names_of_their_files() {
        for name in [
            "qemu-system-x86_64",
            "qemu-system-aarch64",
            "qemu-kvm",
            ".qemu-system-x86_64-wrapped",
            "cloud-hypervisor-static",
            "firecracker-v1.13.1-x86_64",
            "crosvm",
        ] {
            assert!(is_hypervisor(name), "{name}");
        }
        for name in ["qemu-x86_64", "qemu-img", "sh", "xip", ""] {
            assert!(!is_hypervisor(name), "{name}");
        }
    }
}
