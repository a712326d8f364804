//! What a volume asks of its environment: every change of an inode under that inode's lock, and locks always in the order
//! that [`LockId`] writes down, so that threads can share a volume without waiting for each other in a circle.

mod support;

use std::cell::RefCell;
use std::rc::Rc;
use support::{Bytes, NOW, volume};
use xip_core::ops::{self, Writer};
use xip_core::{Env, Frozen, LockId, Timestamp};
use xip_ext2::{Error, File, InodeNo, NewInode, NewKind, SetAttributes, Volume};

type Held = Rc<RefCell<Vec<LockId>>>;

/// Refuses what could make two threads wait for each other: a lock taken out of order, or twice.
#[derive(Default)]
struct Ordered {
    held: Held,
    taken: RefCell<Vec<LockId>>,
}

struct Guard(Held, LockId);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.borrow_mut().retain(|&held| held != self.1);
    }
}

impl Env for Ordered {
    type Guard<'a> = Guard;
    fn now(&self) -> Timestamp {
        Timestamp { seconds: NOW.seconds + 200_000, ..NOW }
    }
    fn shared(&self, what: LockId) -> Guard {
        self.exclusive(what)
    }
    fn exclusive(&self, what: LockId) -> Guard {
        let mut held = self.held.borrow_mut();
        assert!(held.iter().all(|&other| other < what), "{what:?} while {held:?} are held");
        held.push(what);
        self.taken.borrow_mut().push(what);
        Guard(self.held.clone(), what)
    }
}

#[test]
fn locks_are_taken_in_order_and_an_inode_is_locked_while_it_changes() {
    let made = volume(512, 64);
    let volume = Volume::open(made.device(), Ordered::default()).unwrap();
    let new = |kind| NewInode { kind, permissions: 0o644, uid: 0, gid: 0 };
    let taken = || std::mem::take(&mut *volume.env().taken.borrow_mut());

    // The number of the file is below that of the second directory and above that of the first.
    let low = volume.create(InodeNo::ROOT, b"low", &new(NewKind::Directory)).unwrap();
    let file = volume.create(low, b"file", &new(NewKind::Regular)).unwrap();
    let high = volume.create(InodeNo::ROOT, b"high", &new(NewKind::Directory)).unwrap();
    assert!(low < file && file < high);
    volume.create(high, b"slow", &new(NewKind::Symlink(&[b's'; 300]))).unwrap();
    for (parent, name) in [(low, b"one"), (high, b"two")] {
        taken();
        volume.link(parent, name, file).unwrap();
        // Its count of links is changed: a write of another thread must not undo that.
        assert!(taken().contains(&LockId::Inode(file.0)), "the linked inode is not locked");
    }
    assert_eq!(volume.link(high, b"self", high), Err(Error::IsDirectory));
    let File::Cached(open) = volume.file(file).unwrap() else { unreachable!() };
    ops::write(&open, 5000, &[1; 100_000], &Writer::default()).unwrap();
    ops::read(&open, 0, &mut [0; 10]).unwrap();
    ops::truncate(&open, 4).unwrap();
    volume.set_attributes(file, &SetAttributes::default()).unwrap();
    volume.set_xattr(file, b"user.large", Some(&[7; 2000])).unwrap();
    volume.set_xattr(file, b"user.large", None).unwrap();
    volume.lookup(low, b"one").unwrap();
    volume.free_runs(&mut |_| ()).unwrap();
    assert!(volume.env().held.borrow().is_empty());
}

#[test]
fn who_only_reads_cannot_write_whatever_the_device_allows() {
    let made = volume(256, 16);
    let before = made.device().to_vec();
    let volume = Volume::open(made.device(), Frozen).unwrap();
    let new = NewInode { kind: NewKind::Fifo, permissions: 0o644, uid: 0, gid: 0 };
    assert_eq!(volume.create(InodeNo::ROOT, b"f", &new).unwrap_err().errno(), 30);
    assert_eq!(made.device().to_vec(), before);
    assert!(Volume::format(Bytes::new(256), Frozen, &Default::default()).is_err());
}
