//! Many operations at once (contract 3, aio): each with its own rules and its own error, and no order promised.

use super::{Aio, Full, Operation};
use crate::{File, OpenOptions, Volume};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
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

/// The smallest executor: parks the thread until it is woken.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(done) => return done,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[test]
fn operations_submitted_together_all_end_each_with_its_own_result() {
    let world = world();
    let file = world.file("f");
    let aio = Aio::new(3, 200).unwrap();
    let bytes = (0..100 * 5000_u32).map(|n| (n / 7 + n / 5000) as u8).collect::<Vec<_>>();
    for (n, part) in bytes.chunks(5000).enumerate() {
        let (first, second) = part.split_at(n * 50);
        let operation = match n % 2 {
            0 => Operation::write(5000 * n as u64, part.to_vec()),
            _ => Operation::writev(5000 * n as u64, vec![first.to_vec(), second.to_vec()]),
        };
        aio.submit(n as u64, &file, operation).unwrap();
    }
    // Errors stay with their operations.
    let read_only = Arc::new(world.volume.file("f").unwrap());
    aio.submit(1000, &read_only, Operation::write(0, vec![0; 10])).unwrap();
    aio.submit(1001, &file, Operation::readv(0, vec![vec![0]; 1025])).unwrap();
    let mut done = aio.reap(102);
    done.sort_by_key(|done| done.tag);
    assert_eq!(done.len(), 102);
    for (n, done) in done[..100].iter().enumerate() {
        assert_eq!((done.tag, done.result.as_ref().unwrap()), (n as u64, &5000));
    }
    let errno = |n: usize| done[n].result.as_ref().unwrap_err().errno();
    assert_eq!((errno(100), errno(101)), (9, 22));
    assert!(world.volume.read("f").unwrap() == bytes);

    aio.submit(7, &file, Operation::sync_all()).unwrap();
    aio.submit(8, &file, Operation::readv(4990, vec![vec![0xee; 10], vec![0xee; 20]])).unwrap();
    aio.submit(9, &file, Operation::read(bytes.len() as u64 - 5, vec![0xee; 10])).unwrap();
    let mut done = aio.reap(3);
    done.sort_by_key(|done| done.tag);
    assert_eq!(done[0].result.as_ref().unwrap(), &0);
    assert_eq!(done[1].buffers, [&bytes[4990..5000], &bytes[5000..5020]]);
    assert_eq!(done[2].result.as_ref().unwrap(), &5);
    assert_eq!(done[2].buffers[0][..5], bytes[bytes.len() - 5..]);
    assert_eq!(done[2].buffers[0][5..], [0xee; 5]);
    assert!(aio.reap(1).is_empty(), "nothing is under way: nothing to wait for");
    drop((aio, file, read_only, done));
    world.closed();
}

#[test]
fn a_future_ends_in_any_executor_and_by_waiting() {
    let world = world();
    let file = world.file("f");
    let aio = Aio::new(2, 4).unwrap();
    let total = block_on(async {
        let mut total = 0;
        for n in 0..50u64 {
            let write = loop {
                match aio.start(&file, Operation::write(n * 100, vec![n as u8; 100])) {
                    Ok(pending) => break pending,
                    Err(Full(_)) => aio.room().await,
                }
            };
            let read = aio.start(&file, Operation::read(0, vec![0; 1]));
            total += write.await.result.unwrap();
            if let Ok(read) = read {
                read.await.result.unwrap();
            }
        }
        total
    });
    assert_eq!(total, 5000);
    assert_eq!(aio.start(&file, Operation::read(4900, vec![0; 200])).unwrap().wait().buffers[0][..100], [49; 100]);
    drop((aio, file));
    world.closed();
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
