//! Which inodes are in use, so that a file without a name is given back at its last close and not before, and no number
//! that a path has just led to becomes another file's.
//!
//! Who has an inode open holds it ([`Held`]). An inode that has lost its last name is given back at once when nobody holds
//! it, else by the last who lets it go.
//!
//! A walk along a path sees numbers that it does not hold. So every inode that goes is counted, and a walk during which one
//! went is done again ([`Inner::steady`]). Once a walk has been overtaken a few times, it makes those who would give back
//! wait.
//!
//! Lock order: `calm`, then one shard. The locks of the volume are not taken under either.

use crate::volume::Inner;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use xip_ext2::InodeNo;

const SHARDS: usize = 64;
/// How often a walk is overtaken before it makes others wait.
const PATIENCE: u32 = 8;

#[derive(Default)]
struct Open {
    holders: u64,
    /// Its last name is gone.
    nameless: bool,
}

pub(crate) struct Opens {
    shards: [Mutex<HashMap<u32, Open>>; SHARDS],
    /// Inodes that were given back.
    gone: AtomicU64,
    /// Held, shared, while it is decided that an inode goes.
    calm: RwLock<()>,
    /// Something could not be given back, so the volume is not clean.
    leaked: AtomicBool,
}

impl Opens {
    pub(crate) fn new() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            gone: AtomicU64::new(0),
            calm: RwLock::default(),
            leaked: AtomicBool::new(false),
        }
    }

    pub(crate) fn leaked(&self) -> bool {
        self.leaked.load(Ordering::Relaxed)
    }

    fn shard(&self, ino: InodeNo) -> MutexGuard<'_, HashMap<u32, Open>> {
        self.shards[ino.0 as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hold(&self, ino: InodeNo) {
        self.shard(ino).entry(ino.0).or_default().holders += 1;
    }

    /// Whether the caller is to give the inode back.
    fn let_go(&self, ino: InodeNo) -> bool {
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
    fn lost_name(&self, ino: InodeNo) -> bool {
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
}

/// An inode that is in use: as long as this exists its number stays that of the same file, whatever happens to its
/// names. On a volume that cannot change, that is so anyway.
pub struct Held {
    inner: Arc<Inner>,
    ino: InodeNo,
}

impl Held {
    #[inline(never)]
    pub(crate) fn new(inner: &Arc<Inner>, ino: InodeNo) -> Self {
        if let Some(opens) = &inner.opens {
            opens.hold(ino);
        }
        Self { inner: inner.clone(), ino }
    }

    /// Its number.
    pub fn ino(&self) -> InodeNo {
        self.ino
    }
}

impl Clone for Held {
    fn clone(&self) -> Self {
        Self::new(&self.inner, self.ino)
    }
}

impl Drop for Held {
    #[inline(never)]
    fn drop(&mut self) {
        if let Some(opens) = &self.inner.opens
            && opens.let_go(self.ino)
        {
            self.inner.give_back(opens, self.ino);
        }
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Held").field(&self.ino.0).finish()
    }
}

impl Inner {
    /// An inode has lost its last name.
    pub(crate) fn lost_name(&self, ino: InodeNo) {
        if let Some(opens) = &self.opens
            && opens.lost_name(ino)
        {
            self.give_back(opens, ino);
        }
    }

    /// The call that ended the file has succeeded: if this fails, the file is gone and its storage is leaked, which the next
    /// opening mends.
    fn give_back(&self, opens: &Opens, ino: InodeNo) {
        if self.fs.release(ino).is_err() {
            opens.leaked.store(true, Ordering::Relaxed);
        }
    }

    /// The count to give to [`Inner::none_gone_since`].
    pub(crate) fn gone(&self) -> u64 {
        self.opens.as_ref().map_or(0, |opens| opens.gone.load(Ordering::Acquire))
    }

    /// Whether no inode was given back since.
    pub(crate) fn none_gone_since(&self, gone: u64) -> bool {
        self.gone() == gone
    }

    /// Does `walk`, again and again, until no inode was given back meanwhile: its result is that of one moment. It must
    /// hold what it found as its last step; what it holds it keeps from going.
    #[inline]
    pub(crate) fn steady<T>(&self, mut walk: impl FnMut() -> T) -> T {
        let Some(opens) = &self.opens else { return walk() };
        for _ in 0..PATIENCE {
            let gone = self.gone();
            let found = walk();
            if self.none_gone_since(gone) {
                return found;
            }
        }
        let _calm = opens.calm.write().unwrap_or_else(PoisonError::into_inner);
        walk()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Volume;

    /// A volume with files named by numbers, and what removes the next of them.
    fn with_files(test: impl FnOnce(&Volume, &mut dyn FnMut())) {
        let directory = tempfile::tempdir().unwrap();
        let volume = Volume::create(directory.path().join("image"), 4 << 20).unwrap();
        for n in 0..20 {
            volume.write(n.to_string(), b"x").unwrap();
        }
        let mut next = 0;
        test(&volume, &mut || {
            volume.remove_file(next.to_string()).unwrap();
            next += 1;
        });
    }

    #[test]
    fn a_walk_during_which_an_inode_went_is_done_again() {
        with_files(|volume, remove| {
            let mut walks = 0;
            volume.0.steady(|| {
                walks += 1;
                if walks == 1 {
                    remove();
                }
            });
            assert_eq!(walks, 2);
        });
    }

    #[test]
    fn a_walk_that_was_overtaken_often_makes_others_wait() {
        with_files(|volume, remove| {
            let mut walks = 0;
            volume.0.steady(|| {
                walks += 1;
                if walks <= PATIENCE {
                    remove();
                } else {
                    let opens = volume.0.opens.as_ref().unwrap();
                    assert!(opens.calm.try_read().is_err());
                }
            });
            assert_eq!(walks, PATIENCE + 1);
        });
    }

    #[test]
    fn an_inode_goes_when_its_last_holder_lets_it_go() {
        with_files(|volume, remove| {
            let held = volume.hold(volume.resolve("0").unwrap());
            let other = held.clone();
            let gone = volume.0.gone();
            remove();
            drop(held);
            assert!(volume.0.none_gone_since(gone));
            drop(other);
            assert!(!volume.0.none_gone_since(gone));
        });
    }
}
