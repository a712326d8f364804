//! What the kernel says about a process: which pages it holds, and whose they are (`/proc/PID/smaps`, `pagemap`).

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

const PAGE: u64 = 4096;
/// Bits of a `pagemap` entry: the page is in memory, and it is the file's (not a private copy).
const PRESENT_OF_FILE: u64 = 1 << 63 | 1 << 61;

/// One mapping of a file, as `/proc/PID/smaps` lists it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) executable: bool,
    /// Where in the file it begins.
    pub(crate) offset: u64,
    /// Device (`major:minor`) and inode of the file.
    pub(crate) file: (String, u64),
    /// Path of the file, as the kernel knows it.
    pub(crate) name: String,
    /// Bytes of it in memory for this process, and those of them that are its own (written to).
    pub(crate) resident: u64,
    pub(crate) own: u64,
}

/// The mappings of files that a process has.
pub(crate) fn mappings(pid: u32) -> io::Result<Vec<Mapping>> {
    Ok(parse(&fs::read_to_string(format!("/proc/{pid}/smaps"))?))
}

fn parse(smaps: &str) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    // Whether the figures that follow belong to the last mapping of a file.
    let mut of_file = false;
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let Some(first) = words.next() else { continue };
        if let Some(field) = first.strip_suffix(':') {
            let Some(mapping) = mappings.last_mut().filter(|_| of_file) else { continue };
            let bytes = words.next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0) * 1024;
            match field {
                "Rss" => mapping.resident = bytes,
                "Anonymous" => mapping.own = bytes,
                _ => {}
            }
        } else {
            let mapping = header(first, words);
            of_file = mapping.is_some();
            mappings.extend(mapping);
        }
    }
    mappings
}

/// `start-end perms offset device inode path`; nothing for memory that is no file.
fn header<'a>(range: &str, mut words: impl Iterator<Item = &'a str>) -> Option<Mapping> {
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let (start, end) = range.split_once('-')?;
    let permissions = words.next()?;
    let offset = hex(words.next()?)?;
    let device = words.next()?.to_owned();
    let inode = words.next()?.parse().ok().filter(|inode| *inode != 0)?;
    let name = words.collect::<Vec<_>>().join(" ");
    Some(Mapping {
        start: hex(start)?,
        end: hex(end)?,
        executable: permissions.contains('x'),
        offset,
        file: (device, inode),
        name,
        resident: 0,
        own: 0,
    })
}

/// Which pages of its file a mapping has in memory, by their number in the file.
pub(crate) fn pages(pid: u32, mapping: &Mapping, into: &mut BTreeSet<u64>) -> io::Result<()> {
    let pagemap = File::open(format!("/proc/{pid}/pagemap"))?;
    let mut entries = vec![0; usize::try_from((mapping.end - mapping.start) / PAGE * 8).unwrap_or(0)];
    let got = pagemap.read_at(&mut entries, mapping.start / PAGE * 8)?;
    for (index, entry) in (0..).zip(entries[..got].chunks_exact(8)) {
        let entry = entry.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
        if entry & PRESENT_OF_FILE == PRESENT_OF_FILE {
            into.insert(mapping.offset / PAGE + index);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_go_to_the_file_they_stand_under() {
        let text = "7f0000001000-7f0000003000 r-xp 00002000 00:1c 42    /dev/shm/a name\n\
                    Size:                  8 kB\nRss:                   4 kB\nAnonymous:             0 kB\n\
                    7f0000005000-7f0000006000 rw-p 00000000 00:00 0 \n\
                    Rss:                   4 kB\n\
                    VmFlags: rd mr mw me\n";
        let found = parse(text);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].file, ("00:1c".to_owned(), 42));
        assert_eq!(found[0].name, "/dev/shm/a name");
        assert_eq!((found[0].start, found[0].end, found[0].offset), (0x7f00_0000_1000, 0x7f00_0000_3000, 0x2000));
        assert_eq!((found[0].executable, found[0].resident, found[0].own), (true, 4096, 0));
    }

    #[test]
    fn this_test_has_pages_of_its_own_program_in_memory() {
        let me = std::process::id();
        let text = mappings(me).unwrap().into_iter().find(|mapping| mapping.executable).unwrap();
        let mut found = BTreeSet::new();
        pages(me, &text, &mut found).unwrap();
        assert!(!found.is_empty());
        assert!(text.resident > 0);
    }
}
