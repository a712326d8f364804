//! The data of a tree onto a volume: one thread reads the source, this one writes.

use crate::error::Error;
use crate::layout::Layout;
use crate::progress::Progress;
use crate::size::Need;
use crate::source::{NodeId, NodeKind, Sink, Source, Tree};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use xip_core::ops::{self, Writer};
use xip_core::{Device, Env, InPlace, Run};
use xip_ext2::{Blocks, Goal, InodeNo, Volume};

const PAGE: u64 = 4096;
/// Bytes that go from one thread to the other at once: few enough to stay in a processor's cache.
const BATCH: usize = 512 * 1024;
/// How many are under way.
const BATCHES: usize = 4;

/// Pieces of files, and the bytes of them all.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    used: usize,
    pieces: Vec<Piece>,
}

struct Piece {
    node: NodeId,
    offset: u64,
    start: usize,
    len: usize,
}

/// The reader's end.
struct Batches {
    current: Batch,
    full: SyncSender<Batch>,
    empty: Receiver<Batch>,
}

impl Batches {
    fn send(&mut self) -> Result<(), Error> {
        if self.current.pieces.is_empty() {
            return Ok(());
        }
        // Whoever took them has given up, and says why itself.
        let fresh = self.empty.recv().map_err(|_| Error::Cancelled)?;
        let full = std::mem::replace(&mut self.current, fresh);
        self.full.send(full).map_err(|_| Error::Cancelled)
    }
}

impl Sink for Batches {
    fn room(&mut self, want: usize) -> Result<&mut [u8], Error> {
        let left = BATCH - self.current.used;
        // A file that does not fit as a whole is cut between pages.
        if left < want && left < 64 * 1024 {
            self.send()?;
        }
        let left = BATCH - self.current.used;
        let len = if want <= left { want } else { left / 4096 * 4096 };
        let start = self.current.used;
        if self.current.bytes.is_empty() {
            self.current.bytes = vec![0; BATCH];
        }
        Ok(&mut self.current.bytes[start..start + len])
    }

    fn filled(&mut self, node: NodeId, offset: u64, len: usize) {
        self.current.pieces.push(Piece { node, offset, start: self.current.used, len });
        self.current.used += len;
    }
}

/// Copies the data of all files to where the layout says.
pub(crate) fn copy<D: Device, E: Env>(
    source: &dyn Source,
    tree: &Tree,
    volume: &Volume<D, E>,
    inodes: &[InodeNo],
    need: &Need,
    layout: &Layout,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let (full, batches) = sync_channel(BATCHES);
    let (recycle, empty) = channel();
    for _ in 0..BATCHES {
        // The other end is alive: it is in the next line.
        let _ = recycle.send(Batch::default());
    }
    std::thread::scope(|scope| {
        let mut sink = Batches { current: Batch::default(), full, empty };
        let reader = scope.spawn(move || source.read(tree, &mut sink).and_then(|()| sink.send()));
        let writer = Writing { tree, volume, inodes, need, layout, pointers: 0, current: None };
        let written = writer.run(&batches, &recycle, progress);
        // An error of the writer lets the reader's next send fail.
        drop((batches, recycle));
        let read = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        written.and(read)
    })
}

/// The writer's end.
struct Writing<'a, D, E> {
    tree: &'a Tree,
    volume: &'a Volume<D, E>,
    inodes: &'a [InodeNo],
    need: &'a Need,
    layout: &'a Layout,
    /// Blocks of pointers that the files before the current one have.
    pointers: u64,
    current: Option<Current<'a, D, E>>,
}

/// The file that is being written.
struct Current<'a, D, E> {
    node: NodeId,
    /// Opened for the run that is being filled.
    file: InPlace<Blocks<'a, D, E>>,
    runs: std::slice::Iter<'a, Run>,
    /// Pages left of that run.
    left: u64,
    /// The page of the file after the last one that has storage.
    next: u64,
}

impl<'a, D: Device, E: Env> Writing<'a, D, E> {
    fn run(mut self, batches: &Receiver<Batch>, recycle: &Sender<Batch>, progress: &dyn Progress) -> Result<(), Error> {
        for mut batch in batches {
            for piece in &batch.pieces {
                self.piece(piece.node, piece.offset, &batch.bytes[piece.start..piece.start + piece.len])?;
            }
            if progress.cancelled() {
                return Err(Error::Cancelled);
            }
            progress.advance(batch.used as u64);
            batch.used = 0;
            batch.pieces.clear();
            // The reader has ended when it does not want it back.
            let _ = recycle.send(batch);
        }
        // Sizes that no data reaches: holes at the end, and files that are nothing else.
        for (n, node) in self.tree.nodes.iter().enumerate() {
            if let NodeKind::Regular { size, .. } = node.kind
                && size > 0
            {
                let id = NodeId(u32::try_from(n).unwrap_or(u32::MAX));
                let inode = self.volume.inode(self.inodes[n]).map_err(|error| self.fail(id, error))?;
                if inode.size != size {
                    let file = self.open(id, Goal::default())?;
                    ops::truncate(&file, size).map_err(|error| self.fail(id, error))?;
                }
            }
        }
        Ok(())
    }

    fn piece(&mut self, node: NodeId, offset: u64, mut bytes: &[u8]) -> Result<(), Error> {
        let mut current = match self.current.take() {
            Some(current) if current.node == node => current,
            before => {
                if let Some(before) = before {
                    self.pointers += self.need.pointers[before.node.index()];
                }
                let mut runs = self.layout.runs[node.index()].iter();
                let (file, left) = self.next_run(node, &mut runs)?;
                Current { node, file, runs, left, next: 0 }
            }
        };
        let mut at = offset;
        while !bytes.is_empty() {
            let first = current.next.max(at / PAGE);
            let until = (first + current.left) * PAGE;
            if at >= until {
                (current.file, current.left) = self.next_run(node, &mut current.runs)?;
                continue;
            }
            let len = bytes.len().min(usize::try_from(until - at).unwrap_or(usize::MAX));
            let how = Writer { keep_set_id: true, ..Writer::default() };
            let done = ops::write(&current.file, at, &bytes[..len], &how).map_err(|error| self.fail(node, error))?;
            if done < len {
                return Err(self.fail(node, xip_ext2::Error::NoSpace));
            }
            at += len as u64;
            bytes = &bytes[len..];
            current.left -= at.div_ceil(PAGE).saturating_sub(first);
            current.next = at.div_ceil(PAGE).max(current.next);
        }
        self.current = Some(current);
        Ok(())
    }

    fn next_run(
        &self,
        node: NodeId,
        runs: &mut std::slice::Iter<'a, Run>,
    ) -> Result<(InPlace<Blocks<'a, D, E>>, u64), Error> {
        let run = runs.next().ok_or_else(|| Error::Changed { path: self.tree.path(node), what: "grew" })?;
        let goal = Goal { data: u32::try_from(run.first.0).ok(), pointers: self.pointer_goal() };
        Ok((self.open(node, goal)?, run.count))
    }

    /// Where the next block of pointers is to stand.
    fn pointer_goal(&self) -> Option<u32> {
        let mut n = self.pointers;
        for range in &self.layout.pointers {
            let len = range.end - range.start;
            if n < len {
                return u32::try_from(range.start + n).ok();
            }
            n -= len;
        }
        None
    }

    fn open(&self, node: NodeId, goal: Goal) -> Result<InPlace<Blocks<'a, D, E>>, Error> {
        self.volume.file_in_place(self.inodes[node.index()], goal).map_err(|error| self.fail(node, error))
    }

    fn fail(&self, node: NodeId, error: xip_ext2::Error) -> Error {
        Error::File { path: self.tree.path(node), error }
    }
}
