//! A cache of names: directory and name to inode, read by any number of threads without a lock.
//!
//! A slot is one cache line guarded by a sequence number: odd while it is written. A reader copies the words, then
//! looks at the number again; when it changed, the reader saw nothing. The whole name is compared, so a hit is never
//! a guess. Names that do not fit a slot are looked up on the volume each time; so are those whose slot went to
//! another name.
//!
//! What is known of a name is written under the lock of its directory (`xip_ext2`, `names`), so it is what holds; a writer
//! that finds a slot busy waits for it, since what stands there may be a name that is no more.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use xip_core::Dentry;

/// Half a mebibyte, when full: the bound of the cache.
const SLOTS: usize = 8192;
/// Words of a slot that hold the name.
const NAME_WORDS: usize = 5;
const NAME_BYTES: usize = 8 * NAME_WORDS;

#[derive(Debug, Default)]
#[repr(align(64))]
struct Slot {
    sequence: AtomicU64,
    /// Inode number, its kind above it, and the place of the entry above that; 0: the directory has no such name.
    value: AtomicU64,
    /// Directory, and the name's length above it; 0 (no directory has that number): empty.
    key: AtomicU64,
    name: [AtomicU64; NAME_WORDS],
}

/// The cache; its memory is taken when the first name is kept.
#[derive(Debug, Default)]
pub(crate) struct Dentries(OnceLock<Box<[Slot]>>);

struct Key {
    key: u64,
    name: [u64; NAME_WORDS],
    words: usize,
}

impl Key {
    #[inline]
    fn new(directory: u32, name: &[u8]) -> Option<Self> {
        if name.len() > NAME_BYTES {
            return None;
        }
        let mut bytes = [0u8; NAME_BYTES];
        bytes[..name.len()].copy_from_slice(name);
        let mut words = [0u64; NAME_WORDS];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        let key = u64::from(directory) | (name.len() as u64) << 32;
        Some(Self { key, name: words, words: name.len().div_ceil(8) })
    }

    #[inline]
    fn slot(&self) -> usize {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        let hash = self.name[..self.words]
            .iter()
            .fold(self.key.wrapping_mul(ODD), |hash, word| (hash.rotate_left(23) ^ word).wrapping_mul(ODD));
        // The top bits of a product depend on all bits below.
        (hash >> (u64::BITS - SLOTS.ilog2())) as usize
    }
}

impl Dentries {
    /// `None`: not known. `Some(None)`: known not to exist.
    #[inline]
    pub(crate) fn get(&self, directory: u32, name: &[u8]) -> Option<Option<Dentry>> {
        let slots = self.0.get()?;
        let key = Key::new(directory, name)?;
        let slot = &slots[key.slot()];
        let before = slot.sequence.load(Ordering::Acquire);
        if before & 1 != 0 || slot.key.load(Ordering::Relaxed) != key.key {
            return None;
        }
        for at in 0..key.words {
            if slot.name[at].load(Ordering::Relaxed) != key.name[at] {
                return None;
            }
        }
        let value = slot.value.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        (slot.sequence.load(Ordering::Relaxed) == before).then(|| decode(value))
    }

    pub(crate) fn put(&self, directory: u32, name: &[u8], entry: Option<Dentry>) {
        let Some(key) = Key::new(directory, name) else { return };
        let slots = self.0.get_or_init(|| (0..SLOTS).map(|_| Slot::default()).collect());
        let slot = &slots[key.slot()];
        slot.change(|| {
            slot.key.store(key.key, Ordering::Relaxed);
            for (to, word) in slot.name.iter().zip(key.name).take(key.words) {
                to.store(word, Ordering::Relaxed);
            }
            slot.value.store(encode(entry), Ordering::Relaxed);
        });
    }

    /// Nothing is known of it any more.
    pub(crate) fn forget(&self, directory: u32, name: &[u8]) {
        let (Some(slots), Some(key)) = (self.0.get(), Key::new(directory, name)) else { return };
        let slot = &slots[key.slot()];
        slot.change(|| {
            // Whatever other name may have it: that is looked up once more.
            slot.key.store(0, Ordering::Relaxed);
        });
    }
}

impl Slot {
    fn change(&self, change: impl FnOnce()) {
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
        change();
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
        let cache = Dentries::default();
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
    fn a_name_too_long_for_a_slot_is_not_kept() {
        let cache = Dentries::default();
        let name = [b'n'; NAME_BYTES + 1];
        cache.put(2, &name, None);
        assert_eq!(cache.get(2, &name), None);
        cache.put(2, &name[1..], None);
        assert_eq!(cache.get(2, &name[1..]), Some(None));
    }

    #[test]
    fn what_is_forgotten_is_not_known_and_what_is_said_last_holds() {
        let cache = Dentries::default();
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
        let cache = Dentries::default();
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
