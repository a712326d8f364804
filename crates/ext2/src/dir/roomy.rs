//! Room for a new entry in a block: behind the name of another, or where one or several free entries stand.

use super::Room;
use super::entry::{Head, needed};

/// An entry with the free ones behind it.
#[derive(Clone, Copy)]
struct Run {
    at: usize,
    head: Head,
    /// Bytes of all.
    len: usize,
}

impl Run {
    fn used(&self) -> usize {
        if self.head.inode == 0 { 0 } else { needed(self.head.name_len) }
    }

    fn free(&self) -> usize {
        // What has less than its name is not good, which shows when it is taken.
        self.len.wrapping_sub(self.used())
    }
}

/// The first entry that leaves room for a new one.
pub(super) struct Roomy {
    /// Bytes that the new one needs.
    need: usize,
    run: Option<Run>,
}

impl Roomy {
    pub(super) fn new(name: &[u8]) -> Self {
        Self { need: needed(name.len()), run: None }
    }

    pub(super) fn is_found(&self) -> bool {
        self.run.is_some_and(|run| run.free() >= self.need)
    }

    #[inline(always)]
    pub(super) fn see(&mut self, at: usize, head: Head) {
        match &mut self.run {
            Some(run) if run.free() >= self.need => {}
            // If that is too small by itself.
            Some(run) if head.inode == 0 && head.len < self.need => run.len = run.len.wrapping_add(head.len),
            run => *run = Some(Run { at, head, len: head.len }),
        }
    }

    /// The room, in block `block` of `len` bytes: nothing where its entry is not good.
    pub(super) fn room(&self, block: u32, len: usize, max_inode: u32) -> Option<Option<Room>> {
        let Some(run) = self.run.filter(|_| self.is_found()) else { return Some(None) };
        let (Run { at, head, len: all }, used) = (run, run.used());
        let before = (head.inode != 0).then_some((at, used));
        let merged = (all != head.len).then_some((at, all));
        let room = Room { block, at: at + used, len: run.free(), before, merged };
        (head.is_good(len - at, max_inode) && all <= len - at).then_some(Some(room))
    }
}
