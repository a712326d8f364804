//! Names: every directory that the root reaches, each once, by a queue in the caller's memory.

use super::Pass;
use super::memory::NO_KIND;
use crate::error::Error;
use crate::geometry::{ROOT, feature};
use crate::inode::Kind;
use crate::raw::RawInode;
use xip_core::Device;

pub(super) const DIRECTORY: u8 = 2;

/// The queue of directories.
pub(super) struct Queue {
    next: usize,
    end: usize,
}

impl<D: Device> Pass<'_, D> {
    /// Learns what each inode is: names are compared with that.
    pub(super) fn find_kinds(&mut self) -> Result<(), Error> {
        self.each_inode(&mut |pass, number, raw, _| {
            if raw.links() != 0 || number == ROOT {
                pass.memory.set_kind(number, Kind::from_mode(raw.mode()).map_or(NO_KIND, Kind::entry_type));
            }
            Ok(())
        })
    }

    /// Calls `each` with the number, the record and all bytes of every inode.
    #[allow(clippy::type_complexity)]
    pub(super) fn each_inode(
        &mut self,
        each: &mut dyn FnMut(&mut Self, u32, &RawInode, &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let size = usize::from(self.geometry.inode_size);
        let mut bytes = [0; 4096];
        for group in 0..self.geometry.groups {
            let table = self.group(group)?.inode_table;
            let first = group * self.geometry.inodes_per_group + 1;
            let mut numbers = first..first + self.geometry.inodes_per_group;
            for block in table..table + self.geometry.inode_table_blocks() {
                let bytes = self.read(block, &mut bytes)?;
                for (record, number) in bytes.chunks_exact(size).zip(&mut numbers) {
                    let mut raw = RawInode::default();
                    let len = RawInode::LEN.min(size);
                    raw.0[..len].copy_from_slice(&record[..len]);
                    each(self, number, &raw, record)?;
                }
            }
        }
        Ok(())
    }

    /// Walks all directories from the root on.
    pub(super) fn walk_names(&mut self) -> Result<(), Error> {
        if self.memory.kind(ROOT) != DIRECTORY {
            self.damage("the root is not a directory", ROOT, 0);
            return Ok(());
        }
        let mut queue = Queue { next: 0, end: 0 };
        // Its `..` leads to itself.
        self.memory.count_name(ROOT);
        self.memory.reach(ROOT);
        self.push(&mut queue, ROOT, ROOT);
        while queue.next < queue.end {
            let (number, parent) = self.memory.pair(queue.next);
            queue.next += 1;
            let raw = self.raw_inode(number)?;
            self.check_directory(number, parent, &raw, &mut queue)?;
        }
        Ok(())
    }

    fn push(&mut self, queue: &mut Queue, number: u32, parent: u32) {
        self.memory.set_pair(queue.end, (number, parent));
        queue.end += 1;
        // Its own `.`, or the root's.
        self.memory.count_name(number);
    }

    /// A name in `directory` leads to `number`. What is wrong with that.
    pub(super) fn name(&mut self, directory: u32, number: u32, kind: u8, queue: &mut Queue) -> Option<&'static str> {
        let known = self.memory.kind(number);
        if number == ROOT {
            return Some("a name leads to the root");
        }
        if number < self.geometry.first_inode {
            return Some("a name leads to a reserved inode");
        }
        if known == 0 {
            return Some("a name leads to an inode that is not in use");
        }
        self.memory.count_name(number);
        let first = self.memory.reach(number);
        if known == DIRECTORY {
            if !first {
                return Some("a second name leads to a directory");
            }
            // Its `..`.
            self.memory.count_name(directory);
            self.push(queue, number, directory);
        }
        if known == NO_KIND {
            return None; // Said of the inode.
        }
        (!self.is_kind(kind, known)).then_some("the kind in the directory is not that of the inode")
    }

    /// Whether an entry's kind is right for that of an inode. It may be left out, and is where the volume has none.
    pub(super) fn is_kind(&self, stored: u8, known: u8) -> bool {
        let has_kinds = self.geometry.incompat & feature::INCOMPAT_FILETYPE != 0;
        stored == 0 || has_kinds && stored == known
    }
}
