//! Many operations at once: submitted without waiting, and each one's end learnt when it comes, by reaping completions or by
//! a future for each. Its use is storage that may have to be brought in first: who waits is a thread of the
//! pool here, not the caller.

use crate::error::{Error, Result};
use crate::file::File;
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;

/// A pool of threads that does operations on files, at most a given number at a time.
///
/// Each operation is what the call of the same name is, with its rules and its errors. Between operations no order is promised, not even
/// for the same file: what is to come after another is submitted when that has ended.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let volume = xip::Volume::create(directory.path().join("image"), 1 << 20)?;
/// use std::sync::Arc;
/// use xip::aio::{Aio, Operation};
/// # volume.write("f", vec![7; 100_000])?;
/// let file = Arc::new(volume.file("f")?);
/// let aio = Aio::new(2, 64)?;
/// for n in 0..20 {
///     aio.submit(n, &file, Operation::read(n * 4096, vec![0; 4096]))?;
/// }
/// let mut bytes = 0;
/// for done in aio.reap(20) {
///     bytes += done.result?;
/// }
/// assert_eq!(bytes, 20 * 4096);
/// # Ok(())
/// # }
/// ```
///
/// In an `async fn` of any runtime, `aio.start(&file, operation)?.await`.
///
/// Dropping it ends it: what was submitted is done first, and the threads end then.
#[derive(Debug)]
pub struct Aio {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// An operation, with the buffers that it needs: they come back with its end.
#[derive(Debug)]
pub struct Operation {
    what: What,
    offset: u64,
    buffers: Vec<Vec<u8>>,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Read,
    Write,
    SyncAll,
    SyncData,
}

impl Operation {
    /// [`File::read_at`], to fill `into`.
    pub fn read(offset: u64, into: Vec<u8>) -> Self {
        Self::readv(offset, vec![into])
    }

    /// [`File::readv_at`].
    pub fn readv(offset: u64, into: Vec<Vec<u8>>) -> Self {
        Self { what: What::Read, offset, buffers: into }
    }

    /// [`File::write_at`].
    pub fn write(offset: u64, from: Vec<u8>) -> Self {
        Self::writev(offset, vec![from])
    }

    /// [`File::writev_at`].
    pub fn writev(offset: u64, from: Vec<Vec<u8>>) -> Self {
        Self { what: What::Write, offset, buffers: from }
    }

    /// [`File::sync_all`].
    pub fn sync_all() -> Self {
        Self { what: What::SyncAll, offset: 0, buffers: Vec::new() }
    }

    /// [`File::sync_data`].
    pub fn sync_data() -> Self {
        Self { what: What::SyncData, ..Self::sync_all() }
    }

    fn on(mut self, file: &File) -> Done {
        let buffers = &mut self.buffers;
        let run = || match self.what {
            What::Read => {
                file.readv_at(&mut buffers.iter_mut().map(|buffer| &mut buffer[..]).collect::<Vec<_>>(), self.offset)
            }
            What::Write => file.writev_at(&buffers.iter().map(|buffer| &buffer[..]).collect::<Vec<_>>(), self.offset),
            What::SyncAll => file.sync_all().map(|()| 0),
            What::SyncData => file.sync_data().map(|()| 0),
        };
        // Nobody is to wait for ever for an operation that a defect of ours ended.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        let result = result.unwrap_or_else(|_| Err(Error::Io(io::Error::other("the operation panicked"))));
        Done { tag: 0, result, buffers: self.buffers }
    }
}

/// The end of an operation.
#[derive(Debug)]
pub struct Done {
    /// As it was submitted with; 0 for one that was started as a future.
    pub tag: u64,
    /// How many bytes were read or written.
    pub result: Result<usize>,
    /// The operation's buffers.
    pub buffers: Vec<Vec<u8>>,
}

/// As many operations are under way as may be; this one comes back. `EAGAIN` as a [`std::io::Error`].
#[derive(Debug, thiserror::Error)]
#[error("as many operations are under way as the pool was made for: reap some, or wait for Aio::room")]
pub struct Full(pub Operation);

impl From<Full> for io::Error {
    fn from(full: Full) -> Self {
        Self::new(io::ErrorKind::WouldBlock, full.to_string())
    }
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// There is something to do, or the end has come.
    work: Condvar,
    /// Something was done that can be reaped.
    done: Condvar,
    depth: usize,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Job>,
    /// Operations that count against the depth: queued, being done, or done and not reaped.
    taken: usize,
    /// Of those that are reaped: queued or being done.
    unfinished: usize,
    reapable: VecDeque<Done>,
    /// Who waits for room.
    wakers: Vec<Waker>,
    ending: bool,
}

#[derive(Debug)]
struct Job {
    file: Arc<File>,
    operation: Operation,
    to: To,
}

/// Who learns of an operation's end.
#[derive(Debug)]
enum To {
    Reaper(u64),
    Future(Arc<Slot>),
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a thread of the pool does.
    fn work(&self) {
        loop {
            let mut state = self.state();
            let job = loop {
                match state.queue.pop_front() {
                    Some(job) => break job,
                    None if state.ending => return,
                    None => state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner),
                }
            };
            drop(state);
            match job.to {
                To::Reaper(tag) => {
                    let done = Done { tag, ..job.operation.on(&job.file) };
                    drop(job.file);
                    let mut state = self.state();
                    state.unfinished -= 1;
                    state.reapable.push_back(done);
                    self.done.notify_all();
                }
                To::Future(slot) => {
                    let wanted = slot.begin();
                    let done = wanted.then(|| job.operation.on(&job.file));
                    // A file is closed before anyone hears of the end of what was done with it.
                    drop(job.file);
                    self.give_room(1);
                    done.into_iter().for_each(|done| slot.end(done));
                }
            }
        }
    }

    fn give_room(&self, count: usize) {
        let mut state = self.state();
        state.taken -= count;
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Aio {
    /// `threads` threads do operations, of which `depth` may be under way at a time: submitted and not yet reaped, or started and
    /// not yet done.
    ///
    /// # Errors
    /// One of the numbers is 0; the system has no more threads.
    pub fn new(threads: usize, depth: usize) -> Result<Self> {
        if threads == 0 || depth == 0 {
            return Err(Error::Invalid("a pool has threads, and room for operations"));
        }
        let (work, done) = (Condvar::new(), Condvar::new());
        let shared = Arc::new(Shared { state: Mutex::default(), work, done, depth });
        // Dropped halfway, it ends the threads that there are.
        let mut aio = Self { shared, threads: Vec::new() };
        for n in 0..threads {
            let shared = aio.shared.clone();
            let builder = std::thread::Builder::new().name(format!("xip-aio-{n}"));
            aio.threads.push(builder.spawn(move || shared.work())?);
        }
        Ok(aio)
    }

    /// Submits an operation, whose end [`Aio::reap`] tells, with `tag`. Does not wait.
    ///
    /// # Errors
    /// As many are under way as may be.
    pub fn submit(&self, tag: u64, file: &Arc<File>, operation: Operation) -> Result<(), Full> {
        self.push(file, operation, To::Reaper(tag))
    }

    /// Starts an operation, and gives the future of its end. Does not wait; it is under way whether the future is polled or not.
    ///
    /// # Errors
    /// As many are under way as may be; [`Aio::room`] waits until there are fewer.
    pub fn start(&self, file: &Arc<File>, operation: Operation) -> Result<Pending, Full> {
        let slot = Arc::new(Slot::default());
        self.push(file, operation, To::Future(slot.clone()))?;
        Ok(Pending(slot))
    }

    fn push(&self, file: &Arc<File>, operation: Operation, to: To) -> Result<(), Full> {
        let mut state = self.shared.state();
        if state.taken >= self.shared.depth {
            return Err(Full(operation));
        }
        state.taken += 1;
        state.unfinished += usize::from(matches!(to, To::Reaper(_)));
        state.queue.push_back(Job { file: file.clone(), operation, to });
        self.shared.work.notify_one();
        Ok(())
    }

    /// The ends of operations that were submitted, in the order in which they came: waits until there are `at_least` of them, or
    /// none is under way any more. 0 does not wait.
    pub fn reap(&self, at_least: usize) -> Vec<Done> {
        let mut state = self.shared.state();
        while state.reapable.len() < at_least && state.unfinished > 0 {
            state = self.shared.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let done: Vec<_> = state.reapable.drain(..).collect();
        drop(state);
        self.shared.give_room(done.len());
        done
    }

    /// Ready when one more operation may be submitted or started; somebody else may be faster.
    pub fn room(&self) -> impl Future<Output = ()> + '_ {
        std::future::poll_fn(|context| {
            let mut state = self.shared.state();
            if state.taken < self.shared.depth {
                return Poll::Ready(());
            }
            if !state.wakers.iter().any(|waker| waker.will_wake(context.waker())) {
                state.wakers.push(context.waker().clone());
            }
            Poll::Pending
        })
    }
}

impl Drop for Aio {
    fn drop(&mut self) {
        self.shared.state().ending = true;
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // What it does cannot panic out of it; and there is nobody to tell.
            let _ = thread.join();
        }
    }
}

/// Where the end of one operation arrives.
#[derive(Debug, Default)]
struct Slot {
    state: Mutex<Progress>,
    ended: Condvar,
}

#[derive(Debug, Default)]
enum Progress {
    #[default]
    Queued,
    /// Who is to be woken.
    Waited(Waker),
    Done(Done),
    /// Nobody wants to know.
    Dropped,
    /// Told.
    Taken,
}

impl Slot {
    fn state(&self) -> MutexGuard<'_, Progress> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is to be done.
    fn begin(&self) -> bool {
        !matches!(*self.state(), Progress::Dropped)
    }

    fn end(&self, done: Done) {
        let mut state = self.state();
        if matches!(*state, Progress::Dropped) {
            return;
        }
        let old = std::mem::replace(&mut *state, Progress::Done(done));
        drop(state);
        self.ended.notify_all();
        if let Progress::Waited(waker) = old {
            waker.wake();
        }
    }
}

/// An operation that was started: the future of its end. Dropped before it is ready, it takes back an operation that no thread
/// has begun; one that is begun is done to its end.
#[derive(Debug)]
#[must_use = "dropped, it takes the operation back if it can"]
pub struct Pending(Arc<Slot>);

impl Pending {
    /// Waits for the end, in a program without an executor.
    pub fn wait(self) -> Done {
        let mut state = self.0.state();
        loop {
            match std::mem::replace(&mut *state, Progress::Taken) {
                Progress::Done(done) => return done,
                other => *state = other,
            }
            state = self.0.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Future for Pending {
    type Output = Done;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Done> {
        let mut state = self.0.state();
        match std::mem::replace(&mut *state, Progress::Taken) {
            Progress::Done(done) => Poll::Ready(done),
            // Polled again after it was ready: never, as a channel that is empty.
            Progress::Taken => Poll::Pending,
            _ => {
                *state = Progress::Waited(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let old = std::mem::replace(&mut *self.0.state(), Progress::Dropped);
        // Outside the lock: it may have buffers, and an error.
        drop(old);
    }
}

#[cfg(test)]
mod tests;
