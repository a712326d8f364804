//! Locks and clock, which come from outside: a kernel has its own, a program has the standard library's, and a
//! builder that is alone needs none. So do pins: who holds pages from outside is known there.

use crate::page::Run;

/// Seconds and nanoseconds since 1970, before it negative.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Timestamp {
    /// Seconds since 1970-01-01 00:00 UTC.
    pub seconds: i64,
    /// Nanoseconds, less than 1,000,000,000.
    pub nanoseconds: u32,
}

/// What a lock protects. Lock order: the tree before everything, an inode before a group, a lower number before a higher one, `Super` last.
/// Nobody takes a lock of an earlier kind while holding a later one, so no two threads can wait for each other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum LockId {
    /// The shape of the tree: taken by renames from one directory to another, so that no loop can arise.
    Tree,
    /// One inode: its size, its block map, its data against writers.
    Inode(u32),
    /// Allocation within one group.
    Group(u32),
    /// Counters of the whole volume, and its intent record.
    Super,
}

/// What the environment says of pages that their file has lost (contract 6): how many of the first of them share an
/// answer, at least 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Freed {
    /// Nobody has pinned them: they may be reused.
    Now(u64),
    /// Somebody has. The environment has taken note of them, and gives them back to the volume (`free_run`) when the
    /// last pin on them goes; if it never does, they are leaked, which a check finds.
    Later(u64),
}

/// What a name leads to, as an environment remembers it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dentry {
    /// The inode.
    pub inode: u32,
    /// The bits of its mode that say what it is (`S_IFMT`).
    pub kind: u16,
    /// Where its entry stands, if its directory has one block of entries and nothing else; 0: not known.
    pub at: u16,
}

/// The outside world of a volume.
pub trait Env {
    /// Held while the lock is; released by dropping it.
    type Guard<'a>
    where
        Self: 'a;

    /// Whether a volume in it refuses every change, whatever its device allows.
    const READ_ONLY: bool = false;

    /// The time now, for atime, mtime and ctime.
    fn now(&self) -> Timestamp;

    /// Waits until no one holds `what` exclusively. Holders of shared locks never wait for each other.
    fn shared(&self, what: LockId) -> Self::Guard<'_>;

    /// Waits until no one else holds `what`.
    fn exclusive(&self, what: LockId) -> Self::Guard<'_>;

    /// Whether reading a file changes its time of last access, as `noatime` says it does not.
    fn access_times(&self) -> bool {
        true
    }

    /// Asked for each run of pages that a regular file has just lost, before they are reused (contract 6). The file's
    /// lock is held exclusively: who pins a page of a file does so under that file's lock, so no pin can come between
    /// the question and the answer. By default there are no pins.
    fn freed(&self, run: Run) -> Freed {
        Freed::Now(run.count)
    }

    /// What is remembered of a name, so that its directory need not be searched: nothing (`None`), or that it leads nowhere (`Some(None)`),
    /// or where. By default nothing is. An answer must be right: it is what [`Env::remember`] said last, and not forgotten since.
    /// `.` and `..` are never asked for.
    fn recall(&self, directory: u32, name: &[u8]) -> Option<Option<Dentry>> {
        let _ = (directory, name);
        None
    }

    /// Told what a name leads to, by one who holds the lock of the directory, so that no change can come between.
    fn remember(&self, directory: u32, name: &[u8], what: Option<Dentry>) {
        let _ = (directory, name, what);
    }

    /// Told that it is no longer known what a name leads to: before it changes at once with another, and when a change has failed. The
    /// directory is locked exclusively.
    fn forget(&self, directory: u32, name: &[u8]) {
        let _ = (directory, name);
    }

    /// Where in a block of a directory an entry begins beside which there may be room, so that it need not be looked for from the start:
    /// what [`Env::remember_place`] said last. As with [`Env::recall`] an answer must be right: entries are read from there. By default
    /// nothing is remembered.
    fn recall_place(&self, directory: u32, block: u32) -> Option<u16> {
        let _ = (directory, block);
        None
    }

    /// Told where a name has come or gone, and by `None` that entries of the block are no longer where they were. The directory is locked
    /// exclusively, or is new.
    fn remember_place(&self, directory: u32, block: u32, at: Option<u16>) {
        let _ = (directory, block, at);
    }

    /// Told before the storage of a file becomes other than it was, or its size: who has mapped the file looks at it again. The
    /// file's lock is held exclusively, so that look waits for the change. By default nobody has.
    fn moved(&self, inode: u32) {
        let _ = inode;
    }
}

/// The environment of one who is alone with a volume, or who only reads one that no one can write (a sealed
/// segment): no locks, and a clock that stands still. `Cell` makes a volume in it unshareable between threads;
/// [`Frozen`] is for sealed storage, which threads may share since nothing can change.
#[derive(Debug, Default)]
pub struct Alone {
    time: core::cell::Cell<Timestamp>,
}

impl Alone {
    /// All changes will carry this time: what a reproducible image needs.
    pub fn at(time: Timestamp) -> Self {
        Self { time: core::cell::Cell::new(time) }
    }
}

impl Env for Alone {
    type Guard<'a> = ();
    fn now(&self) -> Timestamp {
        self.time.get()
    }
    #[inline]
    fn shared(&self, _: LockId) {}
    #[inline]
    fn exclusive(&self, _: LockId) {}
}

/// The environment of readers of a device that no one can write. A volume opened with it refuses every change.
#[derive(Clone, Copy, Debug, Default)]
pub struct Frozen;

impl Env for Frozen {
    type Guard<'a> = ();
    const READ_ONLY: bool = true;
    fn now(&self) -> Timestamp {
        Timestamp::default()
    }
    #[inline]
    fn shared(&self, _: LockId) {}
    #[inline]
    fn exclusive(&self, _: LockId) {}
}
