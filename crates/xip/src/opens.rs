//! Which inodes are in use, so that a file without a name is given back at its last close and not before, and no number
//! that a path has just led to becomes another file's.
//!
//! Who has an inode open holds it (`Held`). An inode that has lost its last name is given back at once when nobody holds
//! it, else by the last who lets it go.
//!
//! A walk along a path sees numbers that it does not hold. So every inode that goes is counted, and a walk during which one
//! went is done again ([`Opens::steady`]). Once a walk has been overtaken a few times, it makes those who would give back
//! wait.
//!
//! Lock order: `calm`, then one shard. The locks of the volume are not taken under either.

use crate::sync::{AtomicBool, AtomicU64, Mutex, MutexGuard, Ordering, PoisonError, RwLock};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use xip_ext2::InodeNo;

const SHARDS: usize = 64;
/// How often a walk is overtaken before it makes others wait.
pub(crate) const PATIENCE: u32 = 8;

/// Hashes a number of an inode. Only the volume gives them out, and no more than it has: nobody can choose them to meet.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u32(byte.into());
        }
    }

    fn write_u32(&mut self, number: u32) {
        // 2^64 by the golden ratio: the table takes the upper bits and the lower ones.
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 ^= self.0 >> 32;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

type Shard = HashMap<u32, Open, BuildHasherDefault<Spread>>;

#[derive(Default)]
struct Open {
    holders: u64,
    /// Its last name is gone.
    nameless: bool,
}

pub(crate) struct Opens {
    shards: [Mutex<Shard>; SHARDS],
    /// Inodes that were given back.
    gone: AtomicU64,
    /// Held, shared, while it is decided that an inode goes.
    pub(crate) calm: RwLock<()>,
    /// Something could not be given back, so the volume is not clean.
    leaked: AtomicBool,
}

impl Opens {
    pub(crate) fn new() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::new(Shard::default())),
            gone: AtomicU64::new(0),
            calm: RwLock::new(()),
            leaked: AtomicBool::new(false),
        }
    }

    /// Something could not be given back.
    pub(crate) fn leak(&self) {
        self.leaked.store(true, Ordering::Relaxed);
    }

    pub(crate) fn leaked(&self) -> bool {
        self.leaked.load(Ordering::Relaxed)
    }

    fn shard(&self, ino: InodeNo) -> MutexGuard<'_, Shard> {
        self.shards[ino.0 as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn hold(&self, ino: InodeNo) {
        self.shard(ino).entry(ino.0).or_default().holders += 1;
    }

    /// Whether the caller is to give the inode back.
    pub(crate) fn let_go(&self, ino: InodeNo) -> bool {
        let _calm = self.calm.read().unwrap_or_else(PoisonError::into_inner);
        let mut shard = self.shard(ino);
        let Some(open) = shard.get_mut(&ino.0) else { return false };
        open.holders -= 1;
        if open.holders > 0 {
            return false;
        }
        let nameless = open.nameless;
        shard.remove(&ino.0);
        if nameless {
            self.gone.fetch_add(1, Ordering::AcqRel);
        }
        nameless
    }

    /// Whether the caller is to give back an inode that has just lost its last name.
    pub(crate) fn lost_name(&self, ino: InodeNo) -> bool {
        let _calm = self.calm.read().unwrap_or_else(PoisonError::into_inner);
        match self.shard(ino).get_mut(&ino.0) {
            Some(open) => {
                open.nameless = true;
                false
            }
            None => {
                self.gone.fetch_add(1, Ordering::AcqRel);
                true
            }
        }
    }

    /// How many inodes were given back.
    pub(crate) fn gone(&self) -> u64 {
        self.gone.load(Ordering::Acquire)
    }

    /// Does `walk`, again and again, until no inode was given back meanwhile: its result is that of one moment. It must
    /// hold what it found as its last step; what it holds it keeps from going.
    #[inline]
    pub(crate) fn steady<T>(&self, mut walk: impl FnMut() -> T) -> T {
        for _ in 0..PATIENCE {
            let gone = self.gone();
            let found = walk();
            if self.gone() == gone {
                return found;
            }
        }
        let _calm = self.calm.write().unwrap_or_else(PoisonError::into_inner);
        walk()
    }
}
