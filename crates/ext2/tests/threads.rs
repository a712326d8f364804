//! Threads share a volume: no one waits for ever, nothing is lost, and e2fsck finds nothing. The order of locks itself is
//! checked in `locks`.

mod support;

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use support::{NOW, fsck_file};
use xip_core::ops::{self, Writer};
use xip_core::{Device, Env, Error, LockId, PAGE_SIZE, PageNo, Properties, Timestamp};
use xip_ext2::{File, Format, InodeNo, NewInode, NewKind, Rename, Volume};

/// Bytes that threads share.
struct Shared(Vec<AtomicU8>);

impl Shared {
    fn range(&self, at: u64, len: usize) -> Result<&[AtomicU8], Error> {
        let beyond = Error::OutOfRange { first: PageNo(at / 4096), count: 1, pages: self.pages() };
        self.0.get(at as usize..at as usize + len).ok_or(beyond)
    }
}

impl Device for Shared {
    fn pages(&self) -> u64 {
        (self.0.len() / PAGE_SIZE) as u64
    }
    fn properties(&self) -> Properties {
        let not_in_place = Some("the bytes of a test are not addressed");
        Properties { not_in_place, writable: true, ..Properties::default() }
    }
    fn read(&self, at: u64, to: &mut [u8]) -> Result<(), Error> {
        let range = self.range(at, to.len())?;
        to.iter_mut().zip(range).for_each(|(to, from)| *to = from.load(Ordering::Relaxed));
        Ok(())
    }
    fn write(&self, at: u64, from: &[u8]) -> Result<(), Error> {
        let range = self.range(at, from.len())?;
        from.iter().zip(range).for_each(|(from, to)| to.store(*from, Ordering::Relaxed));
        Ok(())
    }
}

/// A lock for everything that has one.
struct Locks {
    tree: RwLock<()>,
    superblock: RwLock<()>,
    groups: Vec<RwLock<()>>,
    inodes: Vec<RwLock<()>>,
    clock: AtomicU64,
}

enum Guard<'a> {
    Shared { _guard: RwLockReadGuard<'a, ()> },
    Exclusive { _guard: RwLockWriteGuard<'a, ()> },
}

impl Locks {
    fn lock(&self, what: LockId) -> &RwLock<()> {
        match what {
            LockId::Tree => &self.tree,
            LockId::Super => &self.superblock,
            LockId::Group(group) => &self.groups[group as usize],
            LockId::Inode(number) => &self.inodes[number as usize],
        }
    }
}

impl Env for Locks {
    type Guard<'a> = Guard<'a>;
    fn now(&self) -> Timestamp {
        Timestamp { seconds: NOW.seconds + self.clock.fetch_add(1, Ordering::Relaxed) as i64, ..NOW }
    }
    fn shared(&self, what: LockId) -> Guard<'_> {
        Guard::Shared { _guard: self.lock(what).read().unwrap() }
    }
    fn exclusive(&self, what: LockId) -> Guard<'_> {
        Guard::Exclusive { _guard: self.lock(what).write().unwrap() }
    }
}

#[test]
fn threads_make_move_write_and_remove_in_the_same_directories() {
    const NAMES: usize = 40;
    let format = Format { blocks: 3000, inodes: 1000, root_permissions: 0o755, ..Format::default() };
    let bytes = Shared((0..3000 * PAGE_SIZE).map(|_| AtomicU8::new(0xee)).collect());
    let made = Volume::format(bytes, xip_core::Alone::at(NOW), &format).unwrap();
    let locks = |count| (0..count).map(|_| RwLock::new(())).collect();
    let env = Locks {
        tree: RwLock::default(),
        superblock: RwLock::default(),
        groups: locks(1),
        inodes: locks(made.geometry().inodes as usize + 1),
        clock: AtomicU64::new(0),
    };
    let volume = Volume::open(made.device(), env).unwrap();
    let new = |kind| NewInode { kind, permissions: 0o755, uid: 0, gid: 0 };
    let dirs =
        ["a", "b", "c"].map(|name| volume.create(InodeNo::ROOT, name.as_bytes(), &new(NewKind::Directory)).unwrap());
    let done = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (volume, done) = (&volume, &done);
            scope.spawn(move || {
                let mut seed = thread;
                let mut random = |below: usize| {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (seed >> 33) as usize % below
                };
                let name = |n: usize| format!("{n}-{}", "n".repeat(n * 5)).into_bytes();
                // Nobody opens what another removes: what is left without a name is released at once.
                let release = |number: Option<InodeNo>| number.into_iter().for_each(|n| volume.release(n).unwrap());
                for _ in 0..4000 {
                    let (from, to) = (dirs[random(3)], dirs[random(3)]);
                    let (old, fresh) = (name(random(NAMES)), name(random(NAMES)));
                    // Names come and go under everyone's hands, so any of these may fail; never by damage.
                    let result = match random(9) {
                        0..2 => volume.create(from, &old, &new(NewKind::Regular)).map(|_| ()),
                        2 => volume.create(from, &old, &new(NewKind::Directory)).map(|_| ()),
                        3 => volume.unlink(from, &old).map(release),
                        4 => volume.rmdir(from, &old).map(|gone| release(Some(gone))),
                        5 => volume.rename(from, &old, to, &fresh, Rename::Replace).map(release),
                        6 => volume.rename(from, &old, to, &fresh, Rename::Exchange).map(release),
                        7 => volume.read_dir(from, 0, &mut |entry| entry.ino.0 != 0),
                        _ => {
                            // A file of its own, which the others only see the blocks of.
                            let own = format!("own-{thread}").into_bytes();
                            let number = match volume.lookup(InodeNo::ROOT, &own).unwrap() {
                                Some(number) => number,
                                None => volume.create(InodeNo::ROOT, &own, &new(NewKind::Regular)).unwrap(),
                            };
                            let File::Cached(open) = volume.file(number).unwrap() else { unreachable!() };
                            let at = random(300_000) as u64;
                            let wrote =
                                ops::write(&open, at, &[thread as u8 | 0x40; 5000], &Writer::default()).map(drop);
                            let mut read = [0; 5000];
                            assert_eq!(ops::read(&open, at, &mut read), Ok(5000));
                            assert!(read.iter().all(|&byte| byte == thread as u8 | 0x40));
                            if random(20) == 0 {
                                ops::truncate(&open, random(100_000) as u64).unwrap();
                            }
                            wrote
                        }
                    };
                    match result {
                        Ok(()) => _ = done.fetch_add(1, Ordering::Relaxed),
                        Err(error) => assert!([2, 17, 20, 21, 22, 39].contains(&error.errno()), "{error}"),
                    }
                }
            });
        }
    });
    assert!(done.load(Ordering::Relaxed) > 4000, "{done:?}");
    let image = tempfile::NamedTempFile::new().unwrap();
    let bytes: Vec<u8> = made.device().0.iter().map(|byte| byte.load(Ordering::Relaxed)).collect();
    std::fs::write(image.path(), bytes).unwrap();
    fsck_file(image.path());
}
