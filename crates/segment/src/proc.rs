//! Who has an object of memory: what `/proc` says about every process that this one may look into.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const PAGE: u64 = xip_core::page::PAGE_BYTES;

/// Device and inode.
pub(crate) type Id = (u64, u64);

/// One process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    root: PathBuf,
}

/// One mapping of an object by a process, with the kernel's figures in bytes.
#[derive(Clone, Default, Debug)]
pub(crate) struct Area {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// Where in the object it begins.
    pub(crate) offset: u64,
    /// It can be read, or written where that is seen by all: neither executed, nor copied when it is stored to.
    pub(crate) as_storage: bool,
    pub(crate) resident: u64,
    pub(crate) proportional: u64,
    /// Pages of a private mapping that were stored to: copies, no longer the object.
    pub(crate) copied: u64,
    /// What is mapped by huge pages.
    pub(crate) huge: u64,
}

/// All processes there are.
pub(crate) fn processes() -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.map(Process::new).collect()
}

impl Process {
    pub(crate) fn new(pid: u32) -> Self {
        Self { pid, root: PathBuf::from(format!("/proc/{pid}")) }
    }

    /// Its name, as `ps` shows it.
    pub(crate) fn command(&self) -> String {
        let bytes = std::fs::read(self.root.join("comm")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).trim_end().to_owned()
    }

    /// The name of the file that it executes; nothing where we may not know.
    pub(crate) fn program(&self) -> String {
        let path = std::fs::read_link(self.root.join("exe")).unwrap_or_default();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.trim_end_matches(" (deleted)").to_owned()
    }

    /// Its arguments, with spaces between them.
    pub(crate) fn arguments(&self) -> String {
        let bytes = std::fs::read(self.root.join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).trim_end_matches('\0').replace('\0', " ")
    }

    /// Its mappings of the object, without figures. `None`: we may not know. A process that is gone maps nothing.
    pub(crate) fn maps(&self, id: Id) -> Option<Vec<Area>> {
        let lines = match lines(&self.root.join("maps")) {
            Ok(lines) => lines,
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => return None,
            Err(_) => return Some(Vec::new()),
        };
        let areas = lines.map_while(Result::ok).filter_map(|line| parse_area(&line));
        Some(areas.filter(|(_, found)| *found == id).map(|(area, _)| area).collect())
    }

    /// Its mappings of the object, with figures. To be asked where [`Process::maps`] found some: it makes the kernel walk
    /// all page tables of the process.
    pub(crate) fn areas(&self, id: Id) -> Vec<Area> {
        let mut areas: Vec<Area> = Vec::new();
        let mut ours = false;
        for line in lines(&self.root.join("smaps")).into_iter().flatten().map_while(Result::ok) {
            if let Some((area, found)) = parse_area(&line) {
                ours = found == id;
                if ours {
                    areas.push(area);
                }
            } else if let (true, Some(area), Some((key, value))) = (ours, areas.last_mut(), line.split_once(':')) {
                let Some(kilobytes) = value.trim().strip_suffix(" kB") else { continue };
                let bytes = kilobytes.parse::<u64>().unwrap_or(0) * 1024;
                match key {
                    "Rss" => area.resident = bytes,
                    "Pss" => area.proportional = bytes,
                    "Anonymous" => area.copied = bytes,
                    "ShmemPmdMapped" | "FilePmdMapped" => area.huge += bytes,
                    _ => {}
                }
            }
        }
        areas
    }

    /// Calls `each` with the index of every page of the object that `area` has in this process's page table: the object's
    /// own pages, not copies. `false` when we may not look.
    pub(crate) fn pages(&self, area: &Area, mut each: impl FnMut(u64)) -> bool {
        const PRESENT: u64 = 1 << 63;
        const FILE_OR_SHARED: u64 = 1 << 61;
        let Ok(pagemap) = File::open(self.root.join("pagemap")) else { return false };
        let mut entries = [0u8; 32 << 10];
        let mut at = area.start;
        while at < area.end {
            let want = usize::try_from((area.end - at) / PAGE * 8).unwrap_or(usize::MAX).min(entries.len());
            let have = match pagemap.read_at(&mut entries[..want], at / PAGE * 8) {
                Ok(have) if have >= 8 => have / 8 * 8,
                // It ended meanwhile.
                _ => return true,
            };
            for entry in entries[..have].chunks_exact(8) {
                let entry = u64::from_le_bytes(entry.try_into().unwrap_or_default());
                if entry & PRESENT != 0 && entry & FILE_OR_SHARED != 0 {
                    each((area.offset + (at - area.start)) / PAGE);
                }
                at += PAGE;
            }
        }
        true
    }

    /// Whether it has a descriptor of the object, which can be seen without opening it.
    pub(crate) fn has_open(&self, id: Id) -> bool {
        std::fs::read_dir(self.root.join("fd")).into_iter().flatten().flatten().any(|entry| {
            // The name first: to look at the object behind a descriptor can wait for a dead network.
            std::fs::read_link(entry.path()).is_ok_and(|to| to.to_string_lossy().starts_with("/memfd:xip:"))
                && rustix::fs::stat(entry.path()).is_ok_and(|stat| (stat.st_dev, stat.st_ino) == id)
        })
    }
}

/// The first line of an entry of `maps` or `smaps`: `START-END PERMISSIONS OFFSET MAJOR:MINOR INODE NAME`.
fn parse_area(line: &str) -> Option<(Area, Id)> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let hex = |word: &str| u64::from_str_radix(word, 16).ok();
    let (start, end) = (hex(start)?, hex(end)?);
    let permissions = words.next()?;
    let as_storage = permissions.starts_with("r--") || permissions == "rw-s";
    let offset = hex(words.next()?)?;
    let (major, minor) = words.next()?.split_once(':')?;
    let device = rustix::fs::makedev(u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?);
    let inode = words.next()?.parse().ok()?;
    Some((Area { start, end, offset, as_storage, ..Area::default() }, (device, inode)))
}

fn lines(path: &Path) -> std::io::Result<std::io::Lines<BufReader<File>>> {
    // A process that is not ours shows its error when it is read, not when it is opened.
    let mut reader = BufReader::with_capacity(64 << 10, File::open(path)?);
    reader.fill_buf()?;
    Ok(reader.lines())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_maps_is_read_as_the_kernel_writes_it() {
        let line = "7f0000200000-7f0000400000 r-xs 00001000 00:01 1234    /memfd:xip:a b (deleted)";
        let (area, id) = parse_area(line).unwrap();
        assert_eq!((area.start, area.end, area.offset), (0x7f00_0020_0000, 0x7f00_0040_0000, 0x1000));
        assert!(!area.as_storage);
        for (permissions, as_storage) in
            [("r--s", true), ("r--p", true), ("rw-s", true), ("rw-p", false), ("rwxs", false)]
        {
            let (area, _) = parse_area(&line.replace("r-xs", permissions)).unwrap();
            assert_eq!(area.as_storage, as_storage, "{permissions}");
        }
        assert_eq!(id, (rustix::fs::makedev(0, 1), 1234));
        for other in ["Rss:                 4 kB", "VmFlags: rd mr", "", "a-b", "Name-x: 1 2 3 4 5"] {
            assert!(parse_area(other).is_none(), "{other}");
        }
    }
}
