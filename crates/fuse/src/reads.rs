//! What was read of files: kept open for the next read, and, where a limit is set, taken out of the kernel's page cache
//! again when it becomes too much.
//!
//! Bytes that are read pass through the page cache: a second copy of them. Reading past it would cost three requests for each
//! header that a program's start looks at (open, read, release), each of them a switch to us and back; from the page cache
//! they cost nothing from the second start on. So the second copy is allowed, but kept small.

use crate::ranges::{MOST, Ranges};
use fuser::{INodeNo, Notifier};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use xip::{File, PAGE_BYTES};

/// Files that are kept open where nothing else limits them.
const MOST_FILES: usize = 4096;

#[derive(Debug)]
pub(crate) struct Reads {
    /// By the kernel's number: a file, and what of it the kernel got since the page cache was last cleared.
    files: Mutex<HashMap<u64, (Arc<File>, Ranges)>>,
    /// Since the page cache was last cleared.
    bytes: AtomicU64,
    limit: AtomicU64,
}

impl Reads {
    pub(crate) fn new(limit: Option<u64>) -> Self {
        let limit = AtomicU64::new(limit.unwrap_or(u64::MAX));
        Self { files: Mutex::default(), bytes: AtomicU64::new(0), limit }
    }

    fn files(&self) -> MutexGuard<'_, HashMap<u64, (Arc<File>, Ranges)>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file with number `id`, opened by `open` when it is not open yet.
    pub(crate) fn file<E>(&self, id: u64, open: impl FnOnce() -> Result<File, E>) -> Result<Arc<File>, E> {
        if let Some((file, _)) = self.files().get(&id) {
            return Ok(file.clone());
        }
        open().map(Arc::new)
    }

    /// Takes note of bytes that the kernel has got by now; whether they are too many.
    pub(crate) fn note(&self, id: u64, file: Arc<File>, offset: u64, bytes: usize) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        let mut files = self.files();
        if files.len() >= MOST_FILES && limit == u64::MAX {
            files.clear();
        }
        let (_, ranges) = files.entry(id).or_insert_with(|| (file, Ranges::default()));
        // What is too much to remember stays where it is: all between would be asked for, too.
        if limit != u64::MAX && ranges.count() < MOST {
            ranges.add(offset, bytes as u64);
        }
        // Memory goes by pages.
        let bytes = (bytes as u64).next_multiple_of(PAGE_BYTES);
        self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > limit
    }

    /// From now on the page cache is the kernel's affair.
    pub(crate) fn lift_limit(&self) {
        self.limit.store(u64::MAX, Ordering::Relaxed);
    }

    /// Has the kernel let go of all that was read, whenever it is too much: in a thread of its own, since the kernel waits
    /// for pages that other requests are about to fill. Killed while it does, this process cannot end before somebody aborts the
    /// connection: the thread is in a write to the device, which is not closed before that returns. So it asks for what was filled and
    /// no more: such a page is being filled again only where the kernel has let go of it by itself, for want of memory, or a program has had it do so.
    pub(crate) fn clear_when_told(&self, kernel: &Notifier, told: &Receiver<()>) {
        while told.recv().is_ok() {
            self.bytes.store(0, Ordering::Relaxed);
            let files = std::mem::take(&mut *self.files());
            for (id, (_, ranges)) in files {
                for range in ranges.into_inner() {
                    let place = |at: u64| i64::try_from(at).unwrap_or(i64::MAX);
                    // That the kernel has forgotten the file is as good.
                    let _ = kernel.inval_inode(INodeNo(id), place(range.start), place(range.end - range.start));
                }
            }
        }
    }
}

/// Tells the thread that clears, unless it has been told.
pub(crate) fn tell(clearing: &SyncSender<()>) {
    let _ = clearing.try_send(());
}
