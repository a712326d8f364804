//! What a pool does while its threads wait: for a lock that is held here.

use super::{Aio, Full, Operation};
use crate::{File, OpenOptions, Volume};
use std::sync::Arc;
use xip_core::{Env, LockId};

struct World {
    dir: tempfile::TempDir,
    volume: Volume,
}

fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let volume = Volume::create(dir.path().join("image"), 16 << 20).unwrap();
    World { dir, volume }
}

impl World {
    fn file(&self, name: &str) -> Arc<File> {
        Arc::new(OpenOptions::new().read(true).write(true).create(true).open(&self.volume, name).unwrap())
    }

    fn closed(self) {
        self.volume.close().unwrap();
        let mut e2fsck = std::process::Command::new("e2fsck");
        let judged = e2fsck.arg("-fn").arg(self.dir.path().join("image")).output().expect("e2fsck: cargo xtask setup");
        assert!(judged.status.success(), "{}", String::from_utf8_lossy(&judged.stdout));
    }
}

/// With the lock of a file held, so that who would write to it waits.
fn held<T>(file: &File, meanwhile: impl FnOnce() -> T) -> T {
    let _guard = file.volume().0.fs.env().exclusive(LockId::Inode(file.ino().0));
    meanwhile()
}

#[test]
fn what_waits_is_bounded_and_comes_back() {
    let world = world();
    let file = world.file("f");
    file.write_all_at(&vec![1; 2 << 20], 0).unwrap();
    let aio = Aio::new(1, 3).unwrap();
    held(&file, || {
        for n in 0..3 {
            aio.submit(n, &file, Operation::write(0, vec![2])).unwrap();
        }
        let Err(Full(operation)) = aio.submit(3, &file, Operation::write(0, vec![3])) else { panic!("no bound") };
        drop(operation);
        assert!(aio.start(&file, Operation::sync_data()).is_err());
        assert!(aio.reap(0).is_empty());
    });
    let done = aio.reap(3);
    assert_eq!(done.iter().map(|done| done.tag).collect::<Vec<_>>(), [0, 1, 2], "one thread");
    aio.submit(4, &file, Operation::sync_data()).unwrap();
    drop((aio, file));
    world.closed();
}

#[test]
fn a_future_that_is_dropped_takes_back_what_is_not_begun_and_no_more() {
    let world = world();
    let file = world.file("f");
    file.write_all_at(&vec![1; 2 << 20], 0).unwrap();
    let aio = Aio::new(1, 10).unwrap();
    let mut bytes = [0; 2];
    // That the only thread has begun the first, and that the file's lock is held until the second is dropped, shows from
    // outside by time alone: on a busy machine it takes another try.
    for _ in 0..10 {
        file.write_all_at(&[1; 2], 0).unwrap();
        held(&file, || {
            let begun = aio.start(&file, Operation::write(0, vec![2])).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(300));
            let queued = aio.start(&file, Operation::write(1, vec![2])).unwrap();
            drop((begun, queued));
        });
        aio.start(&file, Operation::sync_data()).unwrap().wait();
        file.read_at(&mut bytes, 0).unwrap();
        if bytes == [2, 1] {
            break;
        }
    }
    assert_eq!(bytes, [2, 1]);
    // None of them takes up room.
    let all: Vec<_> = (0..10).map(|_| aio.start(&file, Operation::sync_data()).unwrap()).collect();
    drop(all);
    drop((aio, file));
    world.closed();
}

#[test]
fn what_was_submitted_is_done_before_the_pool_ends() {
    let world = world();
    let file = world.file("f");
    file.write_all_at(&vec![1; 2 << 20], 0).unwrap();
    let aio = Aio::new(2, 100).unwrap();
    let last = held(&file, || {
        for n in 0..50 {
            aio.submit(n, &file, Operation::write(n, vec![9])).unwrap();
        }
        aio.start(&file, Operation::write(50, vec![9])).unwrap()
    });
    drop(aio);
    assert_eq!(last.wait().result.unwrap(), 1);
    assert_eq!(world.volume.read("f").unwrap()[..51], [9; 51]);
    drop(file);
    world.closed();
    assert!(Aio::new(0, 1).is_err() && Aio::new(1, 0).is_err());
}
