//! Sequences of operations on a small volume, and every image that a crash in the last of them could leave.

use crate::base::{Base, World};
use crate::images::{Cache, Random};
use crate::judge::Judge;
use crate::ops::Op;
use crate::recorder::{Event, Recorder};
use crate::tree::{Refused, Tree};
use std::collections::HashSet;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use xip_core::Alone;
use xip_ext2::{Error, Volume};

/// What was tried.
#[derive(Default)]
pub struct Count {
    pub sequences: usize,
    /// Images that differ, or of which something else is expected.
    pub images: usize,
    pub shown_to_e2fsck: usize,
    /// Images of crashes in the repair of other images.
    pub in_repairs: usize,
    /// Fences of the last operations.
    pub fences: usize,
}

/// An image that no crash may leave.
#[derive(Clone)]
pub struct Finding {
    pub sequence: Vec<Op>,
    /// Events of the last operation that had happened, and the last of them.
    pub moment: String,
    /// Lines that were not yet durable and are there, as byte addresses.
    pub lines: Vec<usize>,
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (few, all) = (&self.lines[..self.lines.len().min(8)], self.lines.len());
        write!(f, "{:?}, {}, with {all} lines {few:x?}: {}", self.sequence, self.moment, self.what)
    }
}

/// What an operation leaves out, to see that it is found.
#[derive(Clone, Copy, Debug)]
pub enum Lost {
    Nothing,
    Flushes,
    Fences,
    /// Only the one of this number.
    Fence(usize),
}

impl Lost {
    fn apply(self, events: &mut Vec<Event>) {
        let mut fences = 0..;
        events.retain(|event| match (event, self) {
            (Event::Flush { .. }, Self::Flushes) | (Event::Fence, Self::Fences) => false,
            (Event::Fence, Self::Fence(lost)) => fences.next() != Some(lost),
            _ => true,
        });
    }
}

pub struct Explorer {
    base: Base,
    /// All of the base is durable.
    cache: Cache,
    judge: Judge,
    seen: HashSet<u64>,
    pub count: Count,
    pub findings: Vec<Finding>,
    pub lost: Lost,
}

impl Explorer {
    pub fn new(world: World) -> Self {
        let base = Base::new(world);
        let (cache, judge) = (Cache::new(&base.image), Judge::new(&base.image));
        Self {
            base,
            cache,
            judge,
            seen: HashSet::new(),
            count: Count::default(),
            findings: Vec::new(),
            lost: Lost::Nothing,
        }
    }

    /// Whether an operation changes anything.
    pub fn changes(&self, op: &Op) -> bool {
        op.expect(&self.base.tree).is_ok_and(|outcome| hash(&outcome.after) != hash(&self.base.tree))
    }

    /// Tries a crash at every moment of the last operation. At most `budget` images for each moment between two fences.
    pub fn explore(&mut self, sequence: &[Op], budget: usize) {
        self.count.sequences += 1;
        let mut found = Findings { sequence, list: Vec::new() };
        if let Err(what) = self.try_all(sequence, budget, &mut found) {
            found.add("at once".into(), Vec::new(), what);
        }
        self.findings.extend(found.list);
    }

    /// An error is an operation that did not do what it should, without a crash.
    fn try_all(&mut self, sequence: &[Op], budget: usize, found: &mut Findings<'_>) -> Result<(), String> {
        let device = Recorder::new(&self.base.image);
        let mut volume = Volume::open(&device, Alone::at(crate::base::NOW)).unwrap();
        let mut cache = self.cache.clone();
        self.judge.reset(&self.base.image);
        let mut tree = self.base.tree.clone();
        let mut random = Random::new(hash(&format!("{sequence:?}")));
        for (n, op) in sequence.iter().enumerate() {
            let (during, after) = match (op.expect(&tree), op.run(&mut volume)) {
                (Ok(outcome), Ok(())) => (outcome.during, outcome.after),
                (Err(Refused), Err(_)) => (vec![tree.clone()], tree),
                (Ok(_), Err(Error::NoSpace)) if self.base.full => (vec![tree.clone()], tree),
                (Ok(_), Err(error)) => return Err(format!("{op:?} is refused: {error}")),
                (Err(Refused), Ok(())) => return Err(format!("{op:?} is not refused")),
            };
            let mut events = device.take();
            let last = n + 1 == sequence.len();
            if last {
                self.count.fences += events.iter().filter(|event| matches!(event, Event::Fence)).count();
                self.lost.apply(&mut events);
            }
            let judge = &mut self.judge;
            let mut moment =
                |cache: &Cache, judge: &mut Judge, allowed: &[&Tree], expected, when: &dyn Fn() -> String| {
                    for image in cache.images(&mut random, budget) {
                        if !self.seen.insert(hash(&(cache.hash(&image), expected))) {
                            continue;
                        }
                        self.count.images += 1;
                        if let Err(what) = judge.judge(cache, &image, allowed) {
                            found.add(when(), image.iter().map(|(line, _)| line * crate::images::LINE).collect(), what);
                        }
                    }
                };
            let allowed: Vec<&Tree> = during.iter().collect();
            let expected: u64 = hash(&allowed);
            for (k, event) in events.iter().enumerate() {
                if last && matches!(event, Event::Fence) {
                    moment(&cache, judge, &allowed, expected, &|| {
                        format!("before event {k} of {}, a fence", events.len())
                    });
                }
                let lines = cache.apply(event);
                judge.advance(&cache, &lines);
            }
            if last {
                moment(&cache, judge, &[&after], hash(&after), &|| "after it has returned".into());
            }
            tree = after;
        }
        self.count.shown_to_e2fsck = self.judge.shown_to_e2fsck;
        self.count.in_repairs = self.judge.in_repairs;
        Ok(())
    }
}

/// What was found in one sequence, each kind of it once.
struct Findings<'a> {
    sequence: &'a [Op],
    list: Vec<Finding>,
}

impl Findings<'_> {
    fn add(&mut self, moment: String, lines: Vec<usize>, what: String) {
        let kind = |what: &str| what.replace(|c: char| c.is_ascii_digit(), "");
        if self.list.len() < 8 && !self.list.iter().any(|finding| kind(&finding.what) == kind(&what)) {
            self.list.push(Finding { sequence: self.sequence.to_vec(), moment, lines, what });
        }
    }
}

fn hash(what: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}
