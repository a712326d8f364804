//! Whether an image is one that a crash may leave.
//!
//! It opens to be written, and then it is repaired, as it is for its users without their asking unless it calls itself
//! clean: the check must find nothing but leaks, and after that nothing. Then it holds exactly what it should. Some are used
//! again then, and `e2fsck -fn` must have nothing to say. Of some images it is also tried what `e2fsck -fy` makes of
//! them as they are: it finds nothing that loses data.

use crate::images::{Cache, Image, LINE, Random};
use crate::ops::{Disk, Op};
use crate::recorder::{Event, Recorder};
use crate::tree::Tree;
use crate::walk::{Seen, walk};
use std::collections::BTreeSet;
use std::process::Command;
use xip_core::{Alone, ops::Durable};
use xip_ext2::{Error, Volume, check};

/// One image in so many, chosen by its hash, is shown to `e2fsck`: a process takes as long as a hundred images without
/// it.
const E2FSCK_EVERY: u64 = 200;
/// As that, of volumes of which few are tried.
const LARGE_E2FSCK_EVERY: u64 = 20;
/// A volume of more bytes is large.
const LARGE: usize = 4 << 20;
/// One in so many is mended by `e2fsck -fy` as it is, too.
const FOREIGN_EVERY: u64 = 500;
/// One in so many is checked again after its repair.
const CHECK_AGAIN_EVERY: u64 = 5;
/// In one repair of so many that change something, crashes are tried.
const REPAIR_EVERY: u64 = 50;
/// Images for each moment of a repair.
const REPAIR_BUDGET: usize = 10;

/// A place to put images, with what is surely durable between them.
pub struct Judge {
    scratch: Recorder,
    /// For the check.
    memory: Vec<u8>,
    file: tempfile::NamedTempFile,
    e2fsck_every: u64,
    pub shown_to_e2fsck: usize,
    /// Images of crashes in a repair.
    pub in_repairs: usize,
    /// This one judges those.
    in_repair: bool,
}

impl Judge {
    pub fn new(image: &[u8]) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        let scratch = Recorder::new(image);
        let memory = vec![0; check::memory_wanted(&scratch).unwrap()];
        let e2fsck_every = if image.len() > LARGE { LARGE_E2FSCK_EVERY } else { E2FSCK_EVERY };
        Self { scratch, memory, file, e2fsck_every, shown_to_e2fsck: 0, in_repairs: 0, in_repair: false }
    }

    /// Begins again with this image.
    pub fn reset(&self, image: &[u8]) {
        self.scratch.put(0, image);
    }

    /// These lines are durable now.
    pub fn advance(&self, cache: &Cache, lines: &[usize]) {
        lines.iter().for_each(|&line| self.scratch.put(line * LINE, cache.durable(line)));
    }

    /// Judges one image; the scratch is then as it was before. What is wrong with it, if anything.
    pub fn judge(&mut self, cache: &Cache, image: &Image, allowed: &[&Tree]) -> Result<(), String> {
        image.iter().for_each(|(line, bytes)| self.scratch.put(line * LINE, bytes));
        let hash = cache.hash(image);
        let foreign = if hash % FOREIGN_EVERY == 2 { self.mend_by_e2fsck(allowed) } else { Ok(()) };
        let mut verdict = foreign.and_then(|()| self.look(allowed, hash));
        let mut lines: BTreeSet<usize> = image.iter().map(|(line, _)| *line).collect();
        let events = self.scratch.take_quickly();
        for event in &events {
            if let Event::Store { at, bytes } = event {
                lines.extend(at / LINE..(at + bytes.len()).div_ceil(LINE));
            }
        }
        lines.iter().for_each(|&line| self.scratch.put(line * LINE, cache.durable(line)));
        // Not of those that were used again.
        let chosen = hash % REPAIR_EVERY == 1 && !hash.is_multiple_of(self.e2fsck_every);
        if verdict.is_ok() && lines.len() > image.len() && !self.in_repair && chosen {
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

    fn look(&mut self, allowed: &[&Tree], hash: u64) -> Result<(), String> {
        let clean = open(&self.scratch)?.is_clean();
        if self.check(true)?.mended {
            if clean {
                return Err("it needs repair and calls itself clean".into());
            }
            if hash.is_multiple_of(CHECK_AGAIN_EVERY) && self.check(false)? != check::Summary::default() {
                return Err("the check does not like what it has repaired".into());
            }
        }
        compare(&walk(&open(&self.scratch)?)?, allowed)?;
        if hash.is_multiple_of(self.e2fsck_every) {
            self.use_again(allowed)?;
            self.show_to_e2fsck()?;
        }
        Ok(())
    }

    /// The repaired volume is as good as any.
    fn use_again(&self, allowed: &[&Tree]) -> Result<(), String> {
        let mut volume = open(&self.scratch)?;
        volume.repaired();
        for op in [Op::Create("/again"), Op::Write("/again", 0, 4096, Durable::No), Op::Unlink("/again"), Op::Close] {
            match op.run(&mut volume) {
                Ok(()) | Err(Error::NoSpace) => {}
                Err(error) => return Err(format!("used again: {op:?}: {error}")),
            }
        }
        compare(&walk(&volume)?, allowed).map_err(|what| format!("used again: {what}"))
    }

    fn check(&mut self, repair: bool) -> Result<check::Summary, String> {
        let mut found = Vec::new();
        let options = check::Options { repair, now: None };
        let summary = check::check(&self.scratch, &mut self.memory, &options, &mut |finding| found.push(*finding));
        let summary = summary.map_err(|error| format!("check: {error}"))?;
        let damages = found.iter().filter(|finding| finding.class() == check::Class::Damage);
        match damages.map(ToString::to_string).reduce(|all, one| all + "; " + &one) {
            Some(damages) => Err(format!("check: {damages}")),
            None => Ok(summary),
        }
    }

    /// Who lets `e2fsck` mend it before anything else loses nothing either that the operation under way did not touch, and
    /// has a sound volume. In the middle of several stores that belong together, of which only their record knows, a
    /// feature that `e2fsck` does not know keeps it away.
    fn mend_by_e2fsck(&mut self, allowed: &[&Tree]) -> Result<(), String> {
        self.shown_to_e2fsck += 1;
        std::fs::write(self.file.path(), self.scratch.bytes()).unwrap();
        let run = || Command::new("e2fsck").arg("-fy").arg(self.file.path()).output().unwrap();
        // What it finds can make it begin again.
        let mut last = run();
        for _ in 0..2 {
            if last.status.code() != Some(0) {
                last = run();
            }
        }
        let said = String::from_utf8_lossy(&last.stdout) + String::from_utf8_lossy(&last.stderr);
        if said.contains("unsupported feature") {
            return Ok(());
        }
        if said.contains("Insufficient space to recover") {
            return Ok(()); // For its lost+found, on a full volume.
        }
        if !last.status.success() {
            return Err(format!("e2fsck -fy comes to no end: {said}"));
        }
        let mended = Recorder::new(&std::fs::read(self.file.path()).unwrap());
        let seen = walk(&open(&mended)?).map_err(|what| format!("mended by e2fsck: {what}"))?;
        seen.loses(allowed).map_or(Ok(()), |what| Err(format!("mended by e2fsck: {what}")))
    }

    fn show_to_e2fsck(&mut self) -> Result<(), String> {
        self.shown_to_e2fsck += 1;
        std::fs::write(self.file.path(), self.scratch.bytes()).unwrap();
        let out = Command::new("e2fsck").arg("-fn").arg(self.file.path()).output();
        let out = out.expect("e2fsck: run cargo xtask setup");
        let text = String::from_utf8_lossy(&out.stdout);
        // It answers its own questions with "no" and may still end well.
        if out.status.success() && !text.contains("? no") { Ok(()) } else { Err(format!("e2fsck: {text}")) }
    }
}

fn open(device: &Recorder) -> Result<Disk<'_>, String> {
    let volume =
        Volume::open(device, Alone::at(crate::base::NOW)).map_err(|error| format!("does not open: {error}"))?;
    volume.read_only().map_or(Ok(volume), |reason| Err(format!("opens only for reading: {reason}")))
}

fn compare(seen: &Seen, allowed: &[&Tree]) -> Result<(), String> {
    let mut differences = Vec::new();
    for tree in allowed {
        match seen.differs(tree) {
            None => return Ok(()),
            Some(difference) => differences.push(difference),
        }
    }
    Err(differences.join("; nor: "))
}
