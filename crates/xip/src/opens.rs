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
//! An inode goes in this order: it is counted, then its state is changed. A walk that held it before the state was changed keeps it;
//! one that held it after sees the count. Nobody takes `calm` who holds a lock of the volume.

use crate::sync::{AtomicBool, AtomicU32, AtomicU64, Ordering, PoisonError, RwLock};
use crate::table::Table;
use xip_ext2::InodeNo;

/// How often a walk is overtaken before it makes others wait.
pub(crate) const PATIENCE: u32 = 8;

/// It has no name, but it is held: its last one is gone, or it was made without one.
const NAMELESS: u32 = 1 << 31;
/// Besides, it never had one, and may get one. Below this bit of a state is how often it is held.
const UNNAMED: u32 = 1 << 30;

pub(crate) struct Opens {
    /// Of each inode; 0 for one that nobody holds.
    states: Table<AtomicU32>,
    /// Inodes that were given back.
    gone: AtomicU64,
    /// Held, shared, while it is decided that an inode goes.
    pub(crate) calm: RwLock<()>,
    /// Something could not be given back, so the volume is not clean.
    leaked: AtomicBool,
}

impl Opens {
    /// For a volume of so many inodes.
    pub(crate) fn new(inodes: u32) -> Self {
        Self {
            states: Table::new(inodes),
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

    #[inline]
    pub(crate) fn hold(&self, ino: InodeNo) {
        if let Some(state) = self.states.get(ino.0) {
            state.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Whether the caller is to give the inode back.
    #[inline]
    pub(crate) fn let_go(&self, ino: InodeNo) -> bool {
        self.change(ino, |state| match state {
            // The last.
            _ if state & !UNNAMED == NAMELESS | 1 => (0, true),
            _ => (state.saturating_sub(1), false),
        })
    }

    /// Whether the caller is to give back an inode that has just lost its last name.
    #[inline]
    pub(crate) fn lost_name(&self, ino: InodeNo) -> bool {
        self.change(ino, |state| if state == 0 { (0, true) } else { (state | NAMELESS, false) })
    }

    /// Changes the state of an inode to what `next` says, and whether the inode goes with that.
    #[inline]
    fn change(&self, ino: InodeNo, next: impl Fn(u32) -> (u32, bool)) -> bool {
        let Some(place) = self.states.get(ino.0) else { return false };
        let mut calm = None;
        let mut state = place.load(Ordering::Acquire);
        loop {
            let (new, goes) = next(state);
            if goes && calm.is_none() {
                calm = Some(self.calm.read().unwrap_or_else(PoisonError::into_inner));
                self.gone.fetch_add(1, Ordering::AcqRel);
            }
            match place.compare_exchange(state, new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return goes,
                Err(now) => state = now,
            }
        }
    }

    /// What the caller has made and holds has no name.
    pub(crate) fn unnamed(&self, ino: InodeNo) {
        if let Some(state) = self.states.get(ino.0) {
            state.fetch_or(NAMELESS | UNNAMED, Ordering::AcqRel);
        }
    }

    /// Whether this inode, which the caller holds, never had a name. If so it counts as named from here on: whoever takes the name
    /// away that it gets is to find it so. Where it gets none, the caller says so by [`Opens::unnamed`].
    pub(crate) fn gets_name(&self, ino: InodeNo) -> bool {
        let named = |state| (state & UNNAMED != 0).then_some(state & !(NAMELESS | UNNAMED));
        let state = self.states.get(ino.0);
        state.is_some_and(|state| state.fetch_update(Ordering::AcqRel, Ordering::Acquire, named).is_ok())
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
