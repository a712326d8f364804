//! What a crash could leave: the cache of a processor as far as persistence goes.
//!
//! A store is in the cache. Its line, 64 bytes, may be written back at any moment from then on, as it is at that moment;
//! that it is durable is only sure once the line was flushed after the store and a fence has come after the flush. So at any
//! instant storage holds, of each line, some version between the last one that is surely durable and the newest, each line for
//! itself. Aligned words of 8 bytes are stored whole; a larger store is stored word by word, upwards or downwards (as
//! copies in a library do it).
//!
//! All that can be found between two fences can be found just before the second: nothing that was there goes away until it.
//! So images are made there, and at the end.

use crate::recorder::Event;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

pub const LINE: usize = 64;
const WORD: usize = 8;

pub type Line = [u8; LINE];

/// Lines that are not as in what is surely durable, and how they are instead.
pub type Image = Vec<(usize, Line)>;

/// A line that was stored to.
#[derive(Clone)]
struct Pending {
    /// The first is surely durable, the last is the newest.
    versions: Vec<Line>,
    /// The version that was there when the line was flushed last.
    flushed: usize,
}

#[derive(Clone)]
pub struct Cache {
    durable: Vec<u8>,
    /// Exclusive or of the hashes of all lines of it.
    hash: u64,
    pending: BTreeMap<usize, Pending>,
    /// In the order of time: line, and the version that it got.
    order: Vec<(usize, usize)>,
}

impl Cache {
    pub fn new(image: &[u8]) -> Self {
        let hash = image.as_chunks::<LINE>().0.iter().enumerate().fold(0, |hash, (n, line)| hash ^ hash_line(n, line));
        Self { durable: image.to_vec(), hash, pending: BTreeMap::new(), order: Vec::new() }
    }

    /// What is surely durable.
    pub fn durable(&self, line: usize) -> &Line {
        self.durable[line * LINE..].first_chunk().unwrap()
    }

    /// All bytes of an image.
    pub fn whole(&self, image: &Image) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        image.iter().for_each(|(n, line)| bytes[n * LINE..][..LINE].copy_from_slice(line));
        bytes
    }

    pub fn hash(&self, image: &Image) -> u64 {
        image.iter().fold(self.hash, |hash, (n, line)| hash ^ hash_line(*n, self.durable(*n)) ^ hash_line(*n, line))
    }

    /// Goes on by one event; the lines that are surely durable only now.
    pub fn apply(&mut self, event: &Event) -> Vec<usize> {
        match event {
            Event::Store { at, bytes } => self.store(*at, bytes),
            Event::Flush { at, len } => {
                for (_, pending) in self.pending.range_mut(at / LINE..(at + len).div_ceil(LINE)) {
                    pending.flushed = pending.versions.len() - 1;
                }
            }
            Event::Fence => return self.fence(),
        }
        Vec::new()
    }

    fn store(&mut self, at: usize, bytes: &[u8]) {
        let end = at + bytes.len();
        for n in at / LINE..end.div_ceil(LINE) {
            let start = n * LINE;
            let durable = *self.durable(n);
            let pending = self.pending.entry(n).or_insert_with(|| Pending { versions: vec![durable], flushed: 0 });
            let old = *pending.versions.last().unwrap();
            let part = at.max(start)..end.min(start + LINE);
            let words: Vec<_> = (part.start / WORD..part.end.div_ceil(WORD))
                .map(|word| part.start.max(word * WORD)..part.end.min((word + 1) * WORD))
                .collect();
            let mut put = |order: &mut dyn Iterator<Item = &std::ops::Range<usize>>| {
                let mut line = old;
                for word in order {
                    line[word.start - start..word.end - start].copy_from_slice(&bytes[word.start - at..word.end - at]);
                    if line != *pending.versions.last().unwrap() {
                        pending.versions.push(line);
                        self.order.push((n, pending.versions.len() - 1));
                    }
                }
            };
            put(&mut words[1..].iter().rev());
            put(&mut words.iter());
        }
    }

    fn fence(&mut self) -> Vec<usize> {
        let mut now = Vec::new();
        for (&n, pending) in &mut self.pending {
            let flushed = std::mem::take(&mut pending.flushed);
            if flushed > 0 {
                pending.versions.drain(..flushed);
                self.order.retain(|&(line, version)| line != n || version > flushed);
                for (_, version) in self.order.iter_mut().filter(|(line, _)| *line == n) {
                    *version -= flushed;
                }
                let line = &mut self.durable[n * LINE..(n + 1) * LINE];
                self.hash ^= hash_line(n, line.first_chunk().unwrap()) ^ hash_line(n, &pending.versions[0]);
                line.copy_from_slice(&pending.versions[0]);
                now.push(n);
            }
        }
        self.pending.retain(|_, pending| pending.versions.len() > 1);
        now
    }

    /// The images a crash at this instant could leave: all of them when there are no more than `budget`. Otherwise
    /// nothing pending, everything pending, every subset of the lines when there are at most 4, what was there after
    /// each store in the order of time, and a sample.
    pub fn images(&self, random: &mut Random, budget: usize) -> Vec<Image> {
        let lines: Vec<(usize, &[Line])> = self.pending.iter().map(|(&n, p)| (n, p.versions.as_slice())).collect();
        let image = |choice: &mut dyn FnMut(usize, usize) -> usize| -> Image {
            let chosen = lines.iter().map(|&(n, versions)| (n, versions, choice(n, versions.len())));
            chosen.filter(|&(.., version)| version > 0).map(|(n, versions, version)| (n, versions[version])).collect()
        };
        let all = lines.iter().try_fold(1usize, |all, (_, versions)| all.checked_mul(versions.len()));
        if let Some(all) = all.filter(|&all| all <= budget) {
            let nth = |mut nth: usize| {
                image(&mut |_, count| {
                    let version = nth % count;
                    nth /= count;
                    version
                })
            };
            return (0..all).map(nth).collect();
        }
        let mut images = vec![image(&mut |_, _| 0), image(&mut |_, count| count - 1)];
        if lines.len() <= 4 {
            for subset in 1..(1 << lines.len()) - 1 {
                let mut bit = subset << 1;
                images.push(image(&mut |_, count| {
                    bit >>= 1;
                    (bit & 1) * (count - 1)
                }));
            }
        }
        let moments = self.order.len();
        let step = moments.div_ceil(budget / 3).max(1);
        for moment in (random.below(step)..moments).step_by(step) {
            let mut then: BTreeMap<usize, usize> = BTreeMap::new();
            then.extend(self.order[..=moment].iter().copied());
            images.push(image(&mut |n, _| then.get(&n).copied().unwrap_or(0)));
        }
        while images.len() < budget {
            // Page by page, since a page of data has many lines, and those of metadata are few: all old, all new, or
            // each line for itself; or all pages alike and one line that is not.
            let alike = random.below(3);
            let other = lines[random.below(lines.len())].0;
            let mut page = (usize::MAX, 0);
            images.push(image(&mut |n, count| {
                let any = random.below(count);
                if page.0 != n * LINE / 4096 {
                    page = (n * LINE / 4096, random.below(3));
                }
                match (alike, page.1) {
                    (0, _) => {
                        if n == other {
                            any
                        } else {
                            0
                        }
                    }
                    (1, _) => {
                        if n == other {
                            any
                        } else {
                            count - 1
                        }
                    }
                    (_, 0) => 0,
                    (_, 1) => count - 1,
                    _ => any,
                }
            }));
        }
        images
    }
}

fn hash_line(n: usize, line: &Line) -> u64 {
    let mut hasher = DefaultHasher::new();
    (n, line).hash(&mut hasher);
    hasher.finish()
}

/// Chance that is the same in every run.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn below(&mut self, end: usize) -> usize {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end.max(1) as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(events: &[Event]) -> Vec<Vec<u8>> {
        let mut cache = Cache::new(&[0; 4096]);
        events.iter().for_each(|event| drop(cache.apply(event)));
        cache.images(&mut Random::new(1), 1000).iter().map(|image| cache.whole(image)).collect()
    }

    fn store(at: usize, bytes: &[u8]) -> Event {
        Event::Store { at, bytes: bytes.to_vec() }
    }

    #[test]
    fn lines_are_written_back_in_any_order_and_words_of_a_line_in_theirs() {
        let found = images(&[store(0, &[1]), store(8, &[2]), store(64, &[3])]);
        let mut seen: Vec<_> = found.iter().map(|image| (image[0], image[8], image[64])).collect();
        seen.sort_unstable();
        assert_eq!(seen, [(0, 0, 0), (0, 0, 3), (1, 0, 0), (1, 0, 3), (1, 2, 0), (1, 2, 3)]);
    }

    #[test]
    fn only_a_flush_before_a_fence_and_after_the_store_makes_durable() {
        let flush = Event::Flush { at: 0, len: 1 };
        assert_eq!(images(&[store(0, &[1]), flush.clone(), Event::Fence]).len(), 1);
        for unsafe_order in [
            vec![store(0, &[1]), flush.clone()],
            vec![store(0, &[1]), Event::Fence],
            vec![flush.clone(), store(0, &[1]), Event::Fence],
            vec![store(0, &[1]), Event::Fence, flush.clone()],
        ] {
            assert_eq!(images(&unsafe_order).len(), 2);
        }
        let later = images(&[store(0, &[1]), flush, store(0, &[2]), Event::Fence]);
        assert_eq!(later.iter().map(|image| image[0]).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn a_large_store_is_torn_between_words_and_never_in_one() {
        let found = images(&[store(4, &[9; 20])]);
        let mut seen: Vec<_> = found.iter().map(|image| [4, 8, 16].map(|at| image[at] == 9)).collect();
        seen.sort_unstable();
        seen.dedup();
        let (no, yes) = (false, true);
        assert_eq!(seen, [[no, no, no], [no, no, yes], [no, yes, yes], [yes, no, no], [yes, yes, no], [yes, yes, yes]]);
        assert!(found.iter().all(|image| image[8..16] == [9; 8] || image[8..16] == [0; 8]));
    }
}
