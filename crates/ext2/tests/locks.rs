//! What a volume asks of its environment: every change of an inode under that inode's lock, and locks always in the order
//! that [`LockId`] writes down, so that threads can share a volume without waiting for each other in a circle.

mod support;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use support::{Bytes, NOW, fsck, volume};
use xip_core::ops::{self, Writer};
use xip_core::{Device, Env, Frozen, LockId, Properties, Timestamp};
use xip_ext2::{Error, File, InodeNo, NewInode, NewKind, Rename, SetAttributes, Volume};

/// What is held, and whether exclusively.
type Held = Rc<RefCell<Vec<(LockId, bool)>>>;

/// Refuses what could make two threads wait for each other: a lock taken out of order, or twice.
#[derive(Default)]
struct Ordered {
    held: Held,
    taken: RefCell<Vec<(LockId, bool)>>,
}

struct Guard(Held, LockId);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.borrow_mut().retain(|held| held.0 != self.1);
    }
}

impl Ordered {
    fn take(&self, what: LockId, exclusive: bool) -> Guard {
        let mut held = self.held.borrow_mut();
        assert!(held.iter().all(|other| other.0 < what), "{what:?} while {held:?} are held");
        held.push((what, exclusive));
        self.taken.borrow_mut().push((what, exclusive));
        Guard(self.held.clone(), what)
    }
}

impl Env for Ordered {
    type Guard<'a> = Guard;
    fn now(&self) -> Timestamp {
        Timestamp { seconds: NOW.seconds + 200_000, ..NOW }
    }
    fn shared(&self, what: LockId) -> Guard {
        self.take(what, false)
    }
    fn exclusive(&self, what: LockId) -> Guard {
        self.take(what, true)
    }
}

/// Sees every access to the volume, and that the lock for it is held: to an inode its own, to a bitmap its group's, to
/// the counters of the superblock that of all.
struct Watched<'a> {
    bytes: &'a Bytes,
    held: Held,
    /// Byte addresses of the inode table and of the bitmaps of the only group.
    table: std::ops::Range<u64>,
    bitmaps: std::ops::Range<u64>,
    /// Inodes that no one can reach yet, or any more.
    free: RefCell<BTreeMap<u32, ()>>,
}

impl Watched<'_> {
    fn check(&self, at: u64, len: usize, store: bool) {
        let held = self.held.borrow();
        let holds = |what: LockId, exclusive: bool| held.iter().any(|held| held.0 == what && (held.1 || !exclusive));
        if self.table.contains(&at) {
            let number = u32::try_from((at - self.table.start) / 256).unwrap() + 1;
            let fresh = self.free.borrow().contains_key(&number);
            // Of what a name leads to, who has the lock of the directory may see the kind, which does not change.
            let kind = !store && len == 28 && held.iter().any(|held| matches!(held.0, LockId::Inode(_)));
            // When it was last read any mixture of two times will do.
            let within = (at - self.table.start) % 256;
            let read =
                store && [8..12, 140..144].iter().any(|time| time.contains(&within) && within + len as u64 <= time.end);
            assert!(
                fresh || kind || holds(LockId::Inode(number), store && !read),
                "inode {number}, store {store}: {held:?}"
            );
        } else if self.bitmaps.contains(&at) {
            assert!(holds(LockId::Group(0), store), "a bitmap, store {store}: {held:?}");
        } else if store && at < 4096 {
            assert!(holds(LockId::Super, true), "the superblock's block, {at} {len}: {held:?}");
        }
    }
}

impl Device for Watched<'_> {
    fn pages(&self) -> u64 {
        self.bytes.pages()
    }
    fn properties(&self) -> Properties {
        self.bytes.properties()
    }
    fn read(&self, at: u64, to: &mut [u8]) -> Result<(), xip_core::Error> {
        self.check(at, to.len(), false);
        self.bytes.read(at, to)
    }
    fn write(&self, at: u64, from: &[u8]) -> Result<(), xip_core::Error> {
        self.check(at, from.len(), true);
        self.bytes.write(at, from)
    }
}

fn new(kind: NewKind<'_>) -> NewInode<'_> {
    NewInode { kind, permissions: 0o644, uid: 0, gid: 0 }
}

#[test]
fn locks_are_taken_in_order_and_held_for_every_access() {
    let made = volume(2048, 64);
    let env = Ordered::default();
    let group = made.geometry().group_data(0).start;
    let byte = |block: u32| u64::from(block) * 4096;
    let table = byte(group - made.geometry().inodes / 16)..byte(group);
    let device = Watched {
        bytes: made.device(),
        held: Rc::default(),
        bitmaps: table.start - 2 * 4096..table.start,
        table,
        free: RefCell::default(),
    };
    // While it is opened nobody else can be there.
    device.free.borrow_mut().insert(2, ());
    device.free.borrow_mut().extend((3..=64).map(|number| (number, ())));
    let held = env.held.clone();
    let volume = Volume::open(Watched { held, ..device }, env).unwrap();
    volume.device().free.borrow_mut().remove(&2);
    let taken = || std::mem::take(&mut *volume.env().taken.borrow_mut());
    let has = |taken: &[(LockId, bool)], what: InodeNo| taken.contains(&(LockId::Inode(what.0), true));
    // What has a name is locked from then on.
    let create = |parent, name: &[u8], kind| {
        let number = volume.create(parent, name, &new(kind)).unwrap();
        volume.device().free.borrow_mut().remove(&number.0);
        number
    };
    let root = InodeNo::ROOT;

    // The number of the file is below that of the second directory and above that of the first.
    let low = create(root, b"low", NewKind::Directory);
    let file = create(low, b"file", NewKind::Regular);
    let high = create(root, b"high", NewKind::Directory);
    assert!(low < file && file < high);
    create(high, b"slow", NewKind::Symlink(&[b's'; 300]));
    for (parent, name) in [(low, b"one"), (high, b"two")] {
        taken();
        volume.link(parent, name, file).unwrap();
        // Its count of links is changed: a write of another thread must not undo that.
        assert!(has(&taken(), file), "the linked inode is not locked");
    }
    assert_eq!(volume.link(high, b"self", high), Err(Error::IsDirectory));
    let File::Cached(open) = volume.file(file).unwrap() else { unreachable!() };
    ops::write(&open, 5000, &[1; 100_000], &Writer::default()).unwrap();
    let atime = Some(Timestamp::default());
    volume.set_attributes(file, &SetAttributes { atime, ..SetAttributes::default() }).unwrap();
    ops::read(&open, 0, &mut [0; 10]).unwrap();
    assert_ne!(Some(volume.inode(file).unwrap().atime), atime);
    ops::punch_hole(&open, 5000, 9000, &Writer::default()).unwrap();
    ops::fallocate(&open, 0, 200_000, false, &Writer::default()).unwrap();
    ops::seek_data(&open, 0).unwrap();
    ops::truncate(&open, 4).unwrap();
    volume.set_attributes(file, &SetAttributes::default()).unwrap();
    volume.set_xattr(file, b"user.large", Some(&[7; 2000])).unwrap();
    volume.set_xattr(file, b"user.large", None).unwrap();
    volume.xattrs(file, &mut |_, _| ()).unwrap();
    volume.lookup(low, b"one").unwrap();
    let slow = volume.lookup(high, b"slow").unwrap().unwrap();
    volume.read_link(slow, &mut [0; 300]).unwrap();
    volume.free_runs(&mut |_| ()).unwrap();

    // Callbacks of a reader of a directory may use the volume.
    volume
        .read_dir(root, 0, &mut |entry| {
            volume.inode(entry.ino).unwrap();
            true
        })
        .unwrap();

    // Renames: with what is moved below and above its directory, with and without a target, within one and across.
    let inner = create(high, b"inner", NewKind::Directory);
    let other = create(low, b"other", NewKind::Regular);
    for (from, old, to, name, how) in [
        (high, &b"two"[..], high, &b"renamed"[..], Rename::Replace),
        (low, b"one", low, b"renamed", Rename::NoReplace),
        (low, b"other", high, b"other", Rename::Replace),
        (high, b"inner", low, b"inner", Rename::Replace),
        (low, b"inner", high, b"other", Rename::Exchange),
        (root, b"low", high, b"low", Rename::Replace),
        (high, b"low", root, b"low", Rename::Replace),
        (low, b"inner", high, b"renamed", Rename::Replace),
    ] {
        taken();
        volume.rename(from, old, to, name, how).unwrap();
        let taken = taken();
        assert!(has(&taken, from) && has(&taken, to), "{taken:?}");
        assert_eq!(taken.contains(&(LockId::Tree, true)), from != to, "the tree is locked only for two directories");
    }
    assert_eq!(volume.lookup(high, b"other"), Ok(Some(inner)));
    assert_eq!(volume.lookup(high, b"renamed"), Ok(Some(other)));

    // What goes is locked, above its directory or below it.
    let deep = create(high, b"deep", NewKind::Directory);
    volume.rename(root, b"low", high, b"low", Rename::Replace).unwrap();
    taken();
    volume.unlink(low, b"file").unwrap();
    assert!(has(&taken(), file));
    assert_eq!(volume.unlink(low, b"renamed"), Ok(Some(file)));
    assert_eq!(volume.rmdir(high, b"deep"), Ok(deep));
    assert_eq!(volume.rmdir(high, b"low"), Ok(low));
    for gone in [deep, low, file] {
        volume.release(gone).unwrap();
        volume.device().free.borrow_mut().insert(gone.0, ());
    }
    // A directory grows while it is locked.
    for n in 0..30 {
        create(high, format!("{n:0>250}").as_bytes(), NewKind::Fifo);
    }
    assert!(volume.env().held.borrow().is_empty());
    drop(volume);
    fsck(&made);
}

/// Operations on different files do not wait for each other: what they lock exclusively they have not in common, but for
/// the moments of allocation.
#[test]
fn operations_on_different_files_have_no_lock_of_an_inode_in_common() {
    let made = volume(512, 64);
    let volume = Volume::open(made.device(), Ordered::default()).unwrap();
    let numbers = [b"a", b"b"].map(|name| volume.create(InodeNo::ROOT, name, &new(NewKind::Regular)).unwrap());
    let taken = numbers.map(|number| {
        volume.env().taken.borrow_mut().clear();
        let File::Cached(open) = volume.file(number).unwrap() else { unreachable!() };
        ops::write(&open, 0, &[1; 100_000], &Writer::default()).unwrap();
        ops::truncate(&open, 10).unwrap();
        volume.set_attributes(number, &SetAttributes::default()).unwrap();
        let taken = volume.env().taken.borrow();
        taken.iter().filter(|lock| matches!(lock.0, LockId::Inode(_))).copied().collect::<Vec<_>>()
    });
    assert!(taken[0].iter().all(|lock| !taken[1].contains(lock)), "{taken:?}");
}

#[test]
fn readers_take_nothing_exclusively() {
    let made = volume(512, 64);
    let file = made.create(InodeNo::ROOT, b"a", &new(NewKind::Regular)).unwrap();
    let File::Cached(open) = made.file(file).unwrap() else { unreachable!() };
    ops::write(&open, 0, &[1; 10], &Writer::default()).unwrap();
    let volume = Volume::open(made.device(), Ordered::default()).unwrap();
    volume.env().taken.borrow_mut().clear();
    let File::Cached(open) = volume.file(file).unwrap() else { unreachable!() };
    ops::read(&open, 0, &mut [0; 10]).unwrap();
    assert_eq!(volume.inode(file).unwrap().atime, volume.env().now());
    ops::read(&open, 0, &mut [0; 10]).unwrap();
    volume.lookup(InodeNo::ROOT, b"a").unwrap();
    volume.read_dir(InodeNo::ROOT, 0, &mut |_| true).unwrap();
    ops::seek_hole(&open, 0).unwrap();
    let taken = volume.env().taken.borrow();
    // The first change since the volume was opened marks it.
    assert!(taken.iter().all(|lock| !lock.1 || lock.0 == LockId::Super), "{taken:?}");
}

#[test]
fn who_only_reads_cannot_write_whatever_the_device_allows() {
    let made = volume(256, 16);
    let before = made.device().to_vec();
    let volume = Volume::open(made.device(), Frozen).unwrap();
    let error = volume.create(InodeNo::ROOT, b"f", &new(NewKind::Fifo)).unwrap_err();
    assert_eq!(error.errno(), 30);
    assert_eq!(volume.unlink(InodeNo::ROOT, b"f").unwrap_err().errno(), 30);
    assert_eq!(volume.release(InodeNo::ROOT).unwrap_err().errno(), 30);
    let rename = volume.rename(InodeNo::ROOT, b"f", InodeNo::ROOT, b"g", Rename::Replace);
    assert_eq!(rename.unwrap_err().errno(), 30);
    assert_eq!(made.device().to_vec(), before);
    assert!(Volume::format(Bytes::new(256), Frozen, &Default::default()).is_err());
}
