//! Which inodes the kernel knows: each is held ([`Held`]) from the first reply that names it until the kernel has forgotten it
//! as often as it was told of it. So the number stays that of one file as long as the kernel may use it, also
//! without a name: that is how a file that was removed lives until its last close.
//!
//! Lock order: one shard, and nothing is locked under it. To let an inode go may free its storage, so that happens outside.

use crate::ranges::Ranges;
use crate::tree::{FUSE_ROOT, id_of};
use rustix::io::Errno;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use xip::{File, Held, InodeNo, OpenOptions, Volume};

const SHARDS: usize = 64;

/// An inode that the kernel knows.
#[derive(Debug)]
pub(super) struct Node {
    held: Held,
    /// Opened when first used: to write as one whose writes leave set-id bits alone, and as one whose do not. Apart, as the
    /// kernel knows many more inodes than are read and written.
    keeping: OnceLock<Box<File>>,
    dropping: OnceLock<Box<File>>,
    /// Where it has holes that the kernel was given to read. What programs store there through shared mappings it may keep to
    /// itself for a while, and it does not write that back before it asks where there is data: so these are data, too, in the answer.
    ///
    /// To have it write back first there is a message (`FUSE_NOTIFY_INVAL_INODE`), but who sends it waits for requests that must be
    /// answered meanwhile: were this process killed then, it could not end, and the mount would hang with it.
    shown: Ranges,
}

impl Node {
    pub(super) fn ino(&self) -> InodeNo {
        self.held.ino()
    }

    pub(super) fn shown(&self) -> &Ranges {
        &self.shown
    }

    /// The file, to be read and written; its writes drop set-id bits unless `keep_set_id`.
    pub(super) fn file(&self, volume: &Volume, keep_set_id: bool) -> Result<&File, xip::Error> {
        let place = if keep_set_id { &self.keeping } else { &self.dropping };
        if let Some(file) = place.get() {
            return Ok(file);
        }
        let options = OpenOptions::new().read(true).write(true).keep_set_id(keep_set_id).clone();
        let opened = volume.inodes().open(self.ino(), &options)?;
        // Another thread may have been faster: then that one is used.
        Ok(place.get_or_init(|| Box::new(opened)))
    }
}

struct Known {
    /// How often the kernel was told of it.
    lookups: u64,
    node: Arc<Node>,
}

/// All inodes that the kernel knows, by its numbers for them.
pub(super) struct Nodes([Mutex<HashMap<u64, Known>>; SHARDS]);

impl Nodes {
    /// The kernel knows the root without having been told.
    pub(super) fn new(volume: &Volume) -> Self {
        let nodes = Self(std::array::from_fn(|_| Mutex::default()));
        nodes.told(volume.inodes().hold(InodeNo::ROOT));
        nodes
    }

    fn shard(&self, id: u64) -> MutexGuard<'_, HashMap<u64, Known>> {
        // The remainder is below 64.
        self.0[(id % SHARDS as u64) as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The inode that the kernel calls `id`.
    pub(super) fn get(&self, id: u64) -> Result<Arc<Node>, i32> {
        let known = self.shard(id).get(&id).map(|known| known.node.clone());
        known.ok_or(Errno::STALE.raw_os_error())
    }

    /// Takes note, before the kernel is told of an inode, that it will be.
    pub(super) fn told(&self, held: Held) -> Arc<Node> {
        let id = id_of(held.ino());
        let node =
            Arc::new(Node { held, keeping: OnceLock::new(), dropping: OnceLock::new(), shown: Ranges::default() });
        let mut shard = self.shard(id);
        let known = shard.entry(id).or_insert_with(|| Known { lookups: 0, node: node.clone() });
        known.lookups += 1;
        let known = known.node.clone();
        drop(shard);
        // `node` goes here, if there was another.
        known
    }

    /// The kernel has forgotten what it was told of `id`, so many times.
    pub(super) fn forget(&self, id: u64, times: u64) {
        if id == FUSE_ROOT {
            return;
        }
        let mut shard = self.shard(id);
        let Some(known) = shard.get_mut(&id) else { return };
        known.lookups = known.lookups.saturating_sub(times);
        let gone = if known.lookups == 0 { shard.remove(&id) } else { None };
        drop(shard);
        drop(gone);
    }
}
