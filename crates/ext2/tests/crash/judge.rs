//! Whether an image is one that a crash may leave: it mounts, holds what it should, and `e2fsck` loses nothing.

use crate::images::{Cache, Image, LINE, Random};
use crate::ops::Disk;
use crate::recorder::{Event, Recorder};
use crate::tree::Tree;
use crate::walk::{Links, Seen, walk};
use std::collections::BTreeSet;
use std::process::Command;
use xip_core::Alone;
use xip_ext2::Volume;

/// One image in so many, chosen by its hash, is shown to `e2fsck`: a process takes as long as a hundred images without
/// it.
const E2FSCK_EVERY: u64 = 100;
/// In one repair of so many that change something, crashes are tried.
const REPAIR_EVERY: u64 = 20;
/// Images for each moment of a repair.
const REPAIR_BUDGET: usize = 20;

/// A place to put images, with what is surely durable between them.
pub struct Judge {
    scratch: Recorder,
    file: tempfile::NamedTempFile,
    pub shown_to_e2fsck: usize,
    /// Images of crashes in a repair.
    pub in_repairs: usize,
    /// This one judges those.
    in_repair: bool,
}

impl Judge {
    pub fn new(image: &[u8]) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        Self { scratch: Recorder::new(image), file, shown_to_e2fsck: 0, in_repairs: 0, in_repair: false }
    }

    /// These lines are durable now.
    pub fn advance(&self, cache: &Cache, lines: &[usize]) {
        lines.iter().for_each(|&line| self.scratch.put(line * LINE, cache.durable(line)));
    }

    /// Judges one image; the scratch is then as it was before. What is wrong with it, if anything.
    pub fn judge(&mut self, cache: &Cache, image: &Image, allowed: &[&Tree]) -> Result<(), String> {
        image.iter().for_each(|(line, bytes)| self.scratch.put(line * LINE, bytes));
        let hash = cache.hash(image);
        let mut verdict = self.look(allowed, hash.is_multiple_of(E2FSCK_EVERY));
        let mut lines: BTreeSet<usize> = image.iter().map(|(line, _)| *line).collect();
        let events = self.scratch.take_quickly();
        for event in &events {
            if let Event::Store { at, bytes } = event {
                lines.extend(at / LINE..(at + bytes.len()).div_ceil(LINE));
            }
        }
        lines.iter().for_each(|&line| self.scratch.put(line * LINE, cache.durable(line)));
        if verdict.is_ok() && lines.len() > image.len() && !self.in_repair && hash.is_multiple_of(REPAIR_EVERY) {
            verdict = self.crash_in_repair(cache, image, &events, allowed);
        }
        verdict
    }

    /// The repair of an image is cut off by a crash too.
    fn crash_in_repair(
        &mut self,
        cache: &Cache,
        image: &Image,
        events: &[Event],
        allowed: &[&Tree],
    ) -> Result<(), String> {
        let bytes = cache.whole(image);
        let mut judge = Self { in_repair: true, ..Self::new(&bytes) };
        let mut cache = Cache::new(&bytes);
        let mut random = Random::new(cache.hash(&Image::new()));
        for (n, event) in events.iter().enumerate() {
            if matches!(event, Event::Fence) || n + 1 == events.len() {
                for image in cache.images(&mut random, REPAIR_BUDGET) {
                    self.in_repairs += 1;
                    judge.judge(&cache, &image, allowed).map_err(|what| format!("a crash in the repair: {what}"))?;
                }
            }
            let lines = cache.apply(event);
            judge.advance(&cache, &lines);
        }
        self.shown_to_e2fsck += judge.shown_to_e2fsck;
        Ok(())
    }

    fn look(&mut self, allowed: &[&Tree], show: bool) -> Result<(), String> {
        let volume = open(&self.scratch)?;
        let seen = walk(&volume)?;
        compare(&seen, allowed, Links::MayBeHigh)?;
        if show {
            self.show_to_e2fsck(&seen, allowed)?;
        }
        Ok(())
    }

    /// `e2fsck` may mend what the contract lets a crash leave, and after that everything is still there, exactly.
    fn show_to_e2fsck(&mut self, seen: &Seen, allowed: &[&Tree]) -> Result<(), String> {
        self.shown_to_e2fsck += 1;
        std::fs::write(self.file.path(), self.scratch.bytes()).unwrap();
        let out = Command::new("e2fsck").arg("-fy").arg(self.file.path()).output();
        let out = out.expect("e2fsck: run cargo xtask setup");
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        if !matches!(out.status.code(), Some(0 | 1)) {
            return Err(format!("e2fsck: {text}{}", String::from_utf8_lossy(&out.stderr)));
        }
        if let Some(line) = text.lines().find(|line| !harmless(line, seen)) {
            return Err(format!("e2fsck: {line}"));
        }
        let mended = Recorder::new(&std::fs::read(self.file.path()).unwrap());
        let seen = open(&mended).and_then(|volume| walk(&volume));
        seen.and_then(|seen| compare(&seen, allowed, Links::Exact)).map_err(|what| format!("after e2fsck: {what}"))
    }
}

fn open(device: &Recorder) -> Result<Disk<'_>, String> {
    let volume = Volume::open(device, Alone::default()).map_err(|error| format!("does not open: {error}"))?;
    volume.read_only().map_or(Ok(volume), |reason| Err(format!("opens only for reading: {reason}")))
}

fn compare(seen: &Seen, allowed: &[&Tree], links: Links) -> Result<(), String> {
    let mut differences = Vec::new();
    for tree in allowed {
        match seen.differs(tree, links) {
            None => return Ok(()),
            Some(difference) => differences.push(difference),
        }
    }
    Err(differences.join("; nor: "))
}

/// Whether a line of `e2fsck` tells of what a crash may leave (contract 7: leaked blocks and inodes, link counts that are
/// too high; and counters, which are made new from what they count), or of nothing. That nothing is lost by it is seen
/// after.
fn harmless(line: &str, seen: &Seen) -> bool {
    const NOTHING: [&str; 6] =
        ["Pass ", "Fix? yes", "Clear? yes", "Connect to /lost+found? yes", "e2fsck ", "Setting "];
    const MENDED: [&str; 5] = [
        "Free blocks count wrong",
        "Free inodes count wrong",
        "Directories count wrong",
        "Unattached inode ",
        "Unattached zero-length inode ",
    ];
    let words: Vec<&str> = line.split(' ').collect();
    let number =
        |n: usize| words.get(n).and_then(|word| word.trim_matches(['.', ',', '(', ')', '#']).parse::<u32>().ok());
    // "Inode 12 ref count is 3, should be 2.  Fix? yes"
    if words.get(2) == Some(&"ref") {
        return number(5) > number(8);
    }
    // What is in use and called free, +, is not harmless.
    if let Some(differences) = line.strip_prefix("Block bitmap differences: ") {
        return !differences.contains('+');
    }
    // Unless it has no name, and never had.
    if let Some(differences) = line.strip_prefix("Inode bitmap differences: ") {
        let used = differences.split(' ').filter_map(|part| part.strip_prefix('+'));
        return used.flat_map(|part| part.split(['(', ')', '-'])).all(|n| n.parse().is_ok_and(|n| !seen.has_name(n)));
    }
    // A counter too.
    if words.first() == Some(&"Inode") && words.get(2) == Some(&"i_blocks") {
        return true;
    }
    // An inode without a name, which is not whole: "Inode 24 is a zero-length directory.", "Symlink ... (inode #24) is
    // invalid."
    let torn = match words[..] {
        ["Inode", ..] => number(1),
        ["Deleted" | "Directory", "inode", ..] => number(2),
        ["Symlink", "...", ..] => number(3),
        _ => None,
    };
    torn.is_some_and(|number| !seen.has_name(number))
        || line.trim().is_empty()
        || line.contains("FILE SYSTEM WAS MODIFIED")
        || line.contains(" files (")
        || NOTHING.iter().any(|start| line.starts_with(start))
        || MENDED.iter().any(|start| line.starts_with(start))
}
