//! A cache of names: directory and name to inode, read by any number of threads without a lock.
//!
//! A name has two places that it may stand in, neighbours, guarded by one sequence number: odd while they are written. A
//! reader compares the words, then looks at the number again; when it changed, the reader saw nothing. The whole name is
//! compared, so a hit is never a guess. Names that do not fit are looked up on the volume each time; so are those whose
//! place went to another name.
//!
//! What is known of a name is written under the lock of its directory (`xip_ext2`, `names`), so it is what holds; a writer
//! that finds its places busy waits for them, since what stands there may be a name that is no more.
//!
//! Where nothing changes, paths to directories are kept too, as names in a directory that there is not (`path`). So is, where
//! something does, the place in a block of a directory where the last change was.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use xip_core::Dentry;

/// Most pairs that there are, of 256 bytes and two names each; fewer for a volume with few inodes.
const MOST: u32 = 1 << 15;
const LEAST: u32 = 1 << 10;
/// Pairs that are made at once, when the first of them is wanted.
const CHUNK: u32 = 64;
/// Words that hold a name.
const NAME_WORDS: usize = 13;

/// Two places. A short name is in the first cache line of its place, and the sequence number in the first of all.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Pair {
    sequence: AtomicU64,
    places: [Place; 2],
}

#[derive(Debug, Default)]
struct Place {
    /// Directory, and above it the name's length, or the block; 0 (no name is empty): a free place.
    key: AtomicU64,
    /// Of a name the inode number, its kind above it, and the place of the entry above that; 0: the directory has no such name. Of a block
    /// the place.
    value: AtomicU64,
    name: [AtomicU64; NAME_WORDS],
}

/// The cache.
#[derive(Debug)]
pub(crate) struct Dentries(Box<[OnceLock<Box<[Pair]>>]>);

/// What something is kept under: a name in a directory, or a block of one.
#[derive(Clone, Copy)]
struct Key<'n> {
    key: u64,
    whole: &'n [[u8; 8]],
    /// What is behind the whole words, filled up with zeros.
    rest: u64,
}

impl<'n> Key<'n> {
    #[inline(always)]
    fn new(directory: u32, name: &'n [u8]) -> Option<Self> {
        if name.len() > 8 * NAME_WORDS {
            return None;
        }
        let (whole, rest) = name.as_chunks();
        let key = u64::from(directory) | (name.len() as u64) << 32;
        Some(Self { key, whole, rest: last_word(name, rest.len()) })
    }

    /// As of a name that is longer than any that is kept.
    #[inline(always)]
    fn of_block(directory: u32, block: u32) -> Self {
        Self { key: u64::from(directory) | u64::from(block | 1 << 31) << 32, whole: &[], rest: 0 }
    }

    /// The words of the name, the last one whether or not there is anything in it.
    #[inline(always)]
    fn words(&self) -> impl Iterator<Item = u64> {
        self.whole.iter().map(|&word| u64::from_le_bytes(word)).chain([self.rest])
    }

    #[inline(always)]
    fn hash(&self) -> u64 {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        self.words().fold(self.key.wrapping_mul(ODD), |hash, word| (hash.rotate_left(23) ^ word).wrapping_mul(ODD))
    }

    #[inline(always)]
    fn is_at(&self, place: &Place) -> bool {
        place.key.load(Ordering::Relaxed) == self.key
            && place.name.iter().zip(self.words()).all(|(there, word)| there.load(Ordering::Relaxed) == word)
    }
}

/// The last `rest` (0 to 7) bytes of a name as a number, without a loop over them.
#[inline(always)]
fn last_word(name: &[u8], rest: usize) -> u64 {
    // More than a name's length is kept of it, so it does not matter whether bytes of a short name are taken twice.
    match (name.last_chunk::<8>(), name.first_chunk::<4>(), name.last_chunk::<4>()) {
        (Some(last), ..) => u64::from_le_bytes(*last).checked_shr(64 - 8 * rest as u32).unwrap_or(0),
        (None, Some(first), Some(last)) => {
            u64::from(u32::from_le_bytes(*first)) | u64::from(u32::from_le_bytes(*last)) << (8 * (rest - 4))
        }
        _ => name.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte)),
    }
}

impl Dentries {
    /// For a volume of so many inodes: a place for one in four, within bounds.
    pub(crate) fn new(inodes: u32) -> Self {
        let pairs = (inodes / 8).next_power_of_two().clamp(LEAST, MOST);
        Self((0..pairs / CHUNK).map(|_| OnceLock::new()).collect())
    }

    /// The pair of a name's two places, made if that is asked for.
    #[inline(always)]
    fn pair(&self, hash: u64, make: bool) -> Option<&Pair> {
        // The top bits of a product depend on all bits below.
        let number = (hash >> 32) as usize;
        let chunk = self.0.get(number >> CHUNK.ilog2() & (self.0.len() - 1))?;
        let chunk = match chunk.get() {
            None if make => chunk.get_or_init(|| (0..CHUNK).map(|_| Pair::default()).collect()),
            chunk => chunk?,
        };
        chunk.get(number % CHUNK as usize)
    }

    /// `None`: not known. `Some(None)`: known not to exist.
    #[inline]
    pub(crate) fn get(&self, directory: u32, name: &[u8]) -> Option<Option<Dentry>> {
        self.value(Key::new(directory, name)?).map(decode)
    }

    /// Where in a block of a directory the last change was, if that is known.
    #[inline]
    pub(crate) fn place(&self, directory: u32, block: u32) -> Option<u16> {
        self.value(Key::of_block(directory, block)).and_then(|value| u16::try_from(value).ok())
    }

    #[inline(always)]
    fn value(&self, key: Key<'_>) -> Option<u64> {
        let pair = self.pair(key.hash(), false)?;
        let before = pair.sequence.load(Ordering::Acquire);
        let place = pair.places.iter().find(|place| key.is_at(place))?;
        let value = place.value.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        (before & 1 == 0 && pair.sequence.load(Ordering::Relaxed) == before).then_some(value)
    }

    pub(crate) fn put(&self, directory: u32, name: &[u8], entry: Option<Dentry>) {
        if let Some(key) = Key::new(directory, name) {
            self.keep(key, encode(entry));
        }
    }

    pub(crate) fn put_place(&self, directory: u32, block: u32, at: Option<u16>) {
        let key = Key::of_block(directory, block);
        match at {
            Some(at) => self.keep(key, at.into()),
            None => self.lose(key),
        }
    }

    fn keep(&self, key: Key<'_>, value: u64) {
        let Some(pair) = self.pair(key.hash(), true) else { return };
        pair.change(|places, turn| {
            let empty = || places.iter().find(|place| place.key.load(Ordering::Relaxed) == 0);
            let place = places.iter().find(|place| key.is_at(place)).or_else(empty).unwrap_or(&places[turn]);
            place.key.store(key.key, Ordering::Relaxed);
            for (to, word) in place.name.iter().zip(key.words()) {
                to.store(word, Ordering::Relaxed);
            }
            place.value.store(value, Ordering::Relaxed);
        });
    }

    /// Nothing is known of it any more.
    pub(crate) fn forget(&self, directory: u32, name: &[u8]) {
        if let Some(key) = Key::new(directory, name) {
            self.lose(key);
        }
    }

    fn lose(&self, key: Key<'_>) {
        let Some(pair) = self.pair(key.hash(), false) else { return };
        pair.change(|places, _| {
            if let Some(place) = places.iter().find(|place| key.is_at(place)) {
                place.key.store(0, Ordering::Relaxed);
            }
        });
    }
}

impl Pair {
    /// Lets `change` have both places, and says which of them it is the turn of to be taken.
    fn change(&self, change: impl FnOnce(&[Place; 2], usize)) {
        let mut tries = 0u32;
        let before = loop {
            let before = self.sequence.load(Ordering::Relaxed);
            if before & 1 == 0
                && self.sequence.compare_exchange_weak(before, before + 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
            {
                break before;
            }
            // It takes a few stores, unless who does it is not running.
            tries += 1;
            if tries.is_multiple_of(64) { std::thread::yield_now() } else { std::hint::spin_loop() }
        };
        fence(Ordering::Release);
        change(&self.places, (before >> 1 & 1) as usize);
        self.sequence.store(before + 2, Ordering::Release);
    }
}

fn encode(entry: Option<Dentry>) -> u64 {
    entry.map_or(0, |Dentry { inode, kind, at }| u64::from(inode) | u64::from(kind) << 32 | u64::from(at) << 48)
}

#[inline]
fn decode(value: u64) -> Option<Dentry> {
    // Truncation takes the fields apart again.
    #[allow(clippy::cast_possible_truncation)]
    let (inode, kind, at) = (value as u32, (value >> 32) as u16, (value >> 48) as u16);
    (inode != 0).then_some(Dentry { inode, kind, at })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(inode: u32) -> Option<Dentry> {
        Some(Dentry { inode, kind: 0o100_000, at: 24 })
    }

    #[test]
    fn names_are_kept_apart_by_directory_length_and_every_byte() {
        let cache = Dentries::new(1000);
        let (a, b) = (2, 12);
        assert_eq!(cache.get(a, b"x"), None);
        cache.put(a, b"x", file(20));
        cache.put(a, b"gone", None);
        assert_eq!(cache.get(a, b"x"), Some(file(20)));
        assert_eq!(cache.get(a, b"gone"), Some(None));
        for other in [&b"x\0"[..], b"y", b""] {
            assert_eq!(cache.get(a, other), None);
        }
        assert_eq!(cache.get(b, b"x"), None);
    }

    #[test]
    fn a_name_too_long_is_not_kept() {
        let cache = Dentries::new(1000);
        let name = [b'n'; 8 * NAME_WORDS + 1];
        cache.put(2, &name, None);
        assert_eq!(cache.get(2, &name), None);
        cache.put(2, &name[1..], None);
        assert_eq!(cache.get(2, &name[1..]), Some(None));
    }

    #[test]
    fn two_names_have_the_same_places_and_a_third_takes_one_of_them() {
        let cache = Dentries::new(1000);
        let pair = |number: u32| {
            let hash = Key::new(2, number.to_string().as_bytes()).unwrap().hash();
            std::ptr::from_ref(cache.pair(hash, true).unwrap())
        };
        let same: Vec<_> = (0..).filter(|&number| pair(number) == pair(0)).take(4).collect();
        let get = |number: u32| cache.get(2, number.to_string().as_bytes());
        let put = |number: u32| cache.put(2, number.to_string().as_bytes(), file(number + 20));
        put(same[0]);
        put(same[1]);
        put(same[0]);
        assert_eq!([get(same[0]), get(same[1])], [Some(file(20)), Some(file(same[1] + 20))]);
        put(same[2]);
        assert_eq!(get(same[2]), Some(file(same[2] + 20)));
        assert_eq!(same.iter().filter(|&&number| get(number).is_some()).count(), 2);
        // The next one takes the other's: who came last stays.
        put(same[3]);
        assert_eq!([get(same[2]), get(same[3])], [same[2], same[3]].map(|number| Some(file(number + 20))));
    }

    #[test]
    fn places_are_kept_by_directory_and_block_and_are_no_names() {
        let cache = Dentries::new(1000);
        cache.put_place(2, 0, Some(24));
        cache.put_place(2, 7, Some(4092));
        assert_eq!([cache.place(2, 0), cache.place(2, 7)], [Some(24), Some(4092)]);
        assert_eq!([cache.place(3, 0), cache.place(2, 1)], [None; 2]);
        for name in [&b""[..], b"\0", b"/\0\0\0\0"] {
            assert_eq!(cache.get(2, name), None);
        }
        cache.put_place(2, 7, None);
        assert_eq!([cache.place(2, 0), cache.place(2, 7)], [Some(24), None]);
    }

    #[test]
    fn every_byte_of_a_name_of_any_length_counts() {
        for len in 1..=8 * NAME_WORDS {
            let name: Vec<u8> = (0..len).map(|at| at as u8 | 0x80).collect();
            let cache = Dentries::new(1000);
            cache.put(2, &name, file(20));
            for at in 0..len {
                let mut other = name.clone();
                other[at] ^= 1;
                assert_eq!(cache.get(2, &other), None, "{at} of {len}");
            }
            assert_eq!(cache.get(2, &name), Some(file(20)), "{len}");
        }
    }

    #[test]
    fn what_is_forgotten_is_not_known_and_what_is_said_last_holds() {
        let cache = Dentries::new(1000);
        cache.forget(2, b"x");
        cache.put(2, b"x", file(20));
        cache.put(2, b"x", None);
        assert_eq!(cache.get(2, b"x"), Some(None));
        cache.put(2, b"x", file(21));
        assert_eq!(cache.get(2, b"x"), Some(file(21)));
        cache.forget(2, b"x");
        assert_eq!(cache.get(2, b"x"), None);
    }

    /// Threads fight for the slots with values that follow from the name: a torn read would show another's value.
    #[test]
    fn readers_never_see_half_of_an_entry() {
        let cache = Dentries::new(1000);
        std::thread::scope(|scope| {
            for thread in 0..4u32 {
                let cache = &cache;
                scope.spawn(move || {
                    for round in 0..200_000u32 {
                        let number = round.wrapping_mul(2_654_435_761).wrapping_add(thread) % 50_000 + 11;
                        let name = number.to_string();
                        match cache.get(2, name.as_bytes()) {
                            Some(found) => assert_eq!(found, file(number)),
                            None => cache.put(2, name.as_bytes(), file(number)),
                        }
                    }
                });
            }
        });
    }
}
