//! Locks and clock of a volume in a program with threads, and the names that it remembers.
//!
//! Every inode and every group has a lock of its own, never one shared with another: an operation on two inodes would wait
//! for itself, and the order of locks ([`LockId`]) would not hold. Locks are made by the thousand when the first of them
//! is wanted. A volume that cannot change has none.

use crate::dentry::Dentries;
use crate::pins::Maps;
use crate::table::Table;
use rustix::time::{ClockId, clock_gettime};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use xip_core::{Dentry, Env, Freed, LockId, Run, Timestamp};
use xip_ext2::Geometry;

/// The environment of a volume here: with locks where it can be written.
#[derive(Debug)]
pub(crate) struct Threads {
    locks: Option<Box<Locks>>,
    names: Dentries,
    no_access_times: AtomicBool,
}

#[derive(Debug)]
struct Locks {
    tree: RwLock<()>,
    inodes: Table<RwLock<()>>,
    groups: Table<RwLock<()>>,
    superblock: RwLock<()>,
    maps: Maps,
}

impl Threads {
    /// For a volume that cannot change.
    pub(crate) fn frozen(geometry: &Geometry) -> Self {
        Self { locks: None, names: Dentries::new(geometry.inodes), no_access_times: AtomicBool::default() }
    }

    /// For a volume of this shape, written by any number of threads.
    pub(crate) fn live(geometry: &Geometry) -> Self {
        let locks = Locks {
            tree: RwLock::default(),
            inodes: Table::new(geometry.inodes),
            groups: Table::new(geometry.groups),
            superblock: RwLock::default(),
            maps: Maps::default(),
        };
        Self { locks: Some(Box::new(locks)), ..Self::frozen(geometry) }
    }

    pub(crate) fn set_access_times(&self, kept: bool) {
        self.no_access_times.store(!kept, Ordering::Relaxed);
    }

    /// Pins and mapped files; `None` where nothing changes.
    #[inline]
    pub(crate) fn maps(&self) -> Option<&Maps> {
        self.locks.as_deref().map(|locks| &locks.maps)
    }
}

impl Locks {
    #[inline]
    fn lock(&self, what: LockId) -> Option<&RwLock<()>> {
        match what {
            LockId::Tree => Some(&self.tree),
            LockId::Inode(number) => self.inodes.get(number),
            LockId::Group(group) => self.groups.get(group),
            LockId::Super => Some(&self.superblock),
        }
    }

    // There is nothing behind a lock that a panic could leave half done but storage, which a crash may leave so too.

    #[inline(never)]
    fn shared(&self, what: LockId) -> Guard<'_> {
        match self.lock(what) {
            None => Guard::None,
            Some(lock) => Guard::Shared { _guard: lock.read().unwrap_or_else(PoisonError::into_inner) },
        }
    }

    #[inline(never)]
    fn exclusive(&self, what: LockId) -> Guard<'_> {
        match self.lock(what) {
            None => Guard::None,
            Some(lock) => Guard::Exclusive { _guard: lock.write().unwrap_or_else(PoisonError::into_inner) },
        }
    }
}

/// A lock while it is held.
pub(crate) enum Guard<'a> {
    /// There is nothing to lock.
    None,
    Shared {
        _guard: RwLockReadGuard<'a, ()>,
    },
    Exclusive {
        _guard: RwLockWriteGuard<'a, ()>,
    },
}

/// The time that files get which change now: as fine as the kernel's own times of files, and as cheap.
pub fn now() -> Timestamp {
    let now = clock_gettime(ClockId::RealtimeCoarse);
    Timestamp { seconds: now.tv_sec, nanoseconds: u32::try_from(now.tv_nsec).unwrap_or(0) }
}

impl Env for Threads {
    type Guard<'a> = Guard<'a>;

    fn now(&self) -> Timestamp {
        now()
    }

    fn access_times(&self) -> bool {
        !self.no_access_times.load(Ordering::Relaxed)
    }

    // Readers of what cannot change go past here at no cost.

    #[inline]
    fn shared(&self, what: LockId) -> Guard<'_> {
        self.locks.as_deref().map_or(Guard::None, |locks| locks.shared(what))
    }

    #[inline]
    fn exclusive(&self, what: LockId) -> Guard<'_> {
        self.locks.as_deref().map_or(Guard::None, |locks| locks.exclusive(what))
    }

    fn freed(&self, run: Run) -> Freed {
        self.maps().map_or(Freed::Now(run.count), |maps| maps.freed(run))
    }

    #[inline]
    fn recall(&self, directory: u32, name: &[u8]) -> Option<Option<Dentry>> {
        self.names.get(directory, name)
    }

    fn remember(&self, directory: u32, name: &[u8], what: Option<Dentry>) {
        self.names.put(directory, name, what);
    }

    fn forget(&self, directory: u32, name: &[u8]) {
        self.names.forget(directory, name);
    }

    fn recall_place(&self, directory: u32, block: u32) -> Option<u16> {
        self.names.place(directory, block)
    }

    fn remember_place(&self, directory: u32, block: u32, at: Option<u16>) {
        self.names.put_place(directory, block, at);
    }

    #[inline]
    fn moved(&self, inode: u32) {
        if let Some(maps) = self.maps() {
            maps.moved(inode);
        }
    }
}
