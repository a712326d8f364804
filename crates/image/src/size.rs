//! How large an image must be: a pure function of the tree.

use crate::error::Error;
use crate::layout::{HUGE, Layout, Short, place};
use crate::source::{NodeKind, Tree};
use std::ops::Range;
use xip_ext2::Geometry;

/// Inodes of a volume that no file of the tree has: the ten reserved ones but for the root directory.
const OTHER_INODES: u64 = 9;
/// A spare inode for this much room that is asked for.
const BYTES_PER_SPARE_INODE: u64 = 16 * 1024;
/// Pointers in a block of them, and in the inode.
const POINTERS: u64 = 1024;
const DIRECT: u64 = 12;

/// What a tree needs on a volume.
#[derive(Clone, Debug)]
pub(crate) struct Need {
    /// Pages of data of each node.
    pub(crate) files: Vec<u64>,
    /// Blocks of pointers of each node.
    pub(crate) pointers: Vec<u64>,
    /// Blocks of directories, long links and attributes: a guess until the names are on a volume.
    pub(crate) names: u64,
    /// Inodes.
    pub(crate) inodes: u32,
    /// Pages that are to stay free.
    pub(crate) spare: u64,
    /// Files of at least this many pages start on a 2 MiB boundary.
    pub(crate) large: u64,
}

impl Need {
    pub(crate) fn of(tree: &Tree, spare_bytes: u64, align_from: u64) -> Result<Self, Error> {
        let inodes = tree.nodes.len() as u64 + OTHER_INODES + spare_bytes / BYTES_PER_SPARE_INODE;
        Ok(Self {
            files: tree.nodes.iter().map(crate::source::Node::pages).collect(),
            pointers: tree
                .nodes
                .iter()
                .map(|node| match &node.kind {
                    NodeKind::Regular { data, .. } => pointer_blocks(data),
                    _ => 0,
                })
                .collect(),
            names: names(tree),
            inodes: u32::try_from(inodes).map_err(|_| Error::TooLarge { what: "it has too many files" })?,
            spare: spare_bytes.div_ceil(4096),
            large: align_from.div_ceil(4096).max(1),
        })
    }

    /// The data placed in these free ranges of a volume.
    pub(crate) fn place(&self, geometry: &Geometry, free: &[Range<u64>]) -> Result<Layout, Short> {
        // What a group that has nothing but the format's own blocks holds from its first 2 MiB boundary on.
        let start = u64::from(geometry.group_data(0).start).next_multiple_of(HUGE);
        let most = u64::from(geometry.blocks_per_group).saturating_sub(start);
        let layout = place(free, self.pointers.iter().sum(), &self.files, self.large, most)?;
        if layout.free < self.spare { Err(Short(self.spare - layout.free)) } else { Ok(layout) }
    }

    /// The least number of blocks, at least `from`, that will probably do: the names may take other places than at the
    /// front, where they are thought to be here.
    pub(crate) fn smallest(&self, from: u64) -> Result<u64, Error> {
        let content: u64 = self.files.iter().chain(&self.pointers).sum();
        let mut short = 0;
        let mut enough = (self.names + content + self.spare).max(from).max(1).next_multiple_of(HUGE);
        loop {
            match self.fits(enough)? {
                Ok(()) => break,
                Err(Short(by)) => {
                    short = enough;
                    enough += by.max(1).next_multiple_of(HUGE);
                }
            }
        }
        // The last step may have been too long.
        short /= HUGE;
        enough /= HUGE;
        while enough - short > 1 && short * HUGE >= from {
            let middle = short.midpoint(enough);
            if self.fits(middle * HUGE)?.is_ok() {
                enough = middle;
            } else {
                short = middle;
            }
        }
        Ok(enough * HUGE)
    }

    fn fits(&self, blocks: u64) -> Result<Result<(), Short>, Error> {
        if u32::try_from(blocks).is_err() {
            return Err(Error::TooLarge { what: "it needs more than 16 TiB" });
        }
        // Too few blocks for the inodes, or for the metadata of the last group: some more will do.
        let Ok(geometry) = Geometry::plan(blocks, self.inodes) else { return Ok(Err(Short(1))) };
        let mut names = self.names;
        let mut free = Vec::new();
        for group in 0..geometry.groups {
            let data = geometry.group_data(group);
            let (start, end) = (u64::from(data.start), u64::from(data.end));
            let taken = names.min(end - start);
            names -= taken;
            free.push(start + taken..end);
        }
        if names > 0 {
            return Ok(Err(Short(names)));
        }
        Ok(self.place(&geometry, &free).map(|_| ()))
    }
}

/// How many blocks of pointers pages in these ranges need: one, two and three levels, after the 12 pointers that the
/// inode has.
fn pointer_blocks(data: &[Range<u64>]) -> u64 {
    let (one, two) = (DIRECT + POINTERS, DIRECT + POINTERS + POINTERS * POINTERS);
    // Blocks of pointers are counted by what they stand for: `size` pages each, from page `first` on.
    let touched = |first: u64, end: u64, size: u64| {
        let mut count = 0;
        let mut next = 0;
        for range in data {
            let (start, end) = (range.start.max(first), range.end.min(end));
            if start < end {
                let from = ((start - first) / size).max(next);
                let to = (end - 1 - first) / size + 1;
                count += to.saturating_sub(from);
                next = to;
            }
        }
        count
    };
    touched(DIRECT, one, POINTERS)
        + touched(one, two, POINTERS)
        + touched(one, two, POINTERS * POINTERS)
        + touched(two, u64::MAX, POINTERS)
        + touched(two, u64::MAX, POINTERS * POINTERS)
        + touched(two, u64::MAX, POINTERS * POINTERS * POINTERS)
}

/// A guess at the blocks that names need. If it is too low the volume is made once more, with what the names really
/// took; if it is too high that much stays free.
fn names(tree: &Tree) -> u64 {
    let mut bytes = vec![0u64; tree.nodes.len()];
    for name in &tree.names {
        bytes[name.parent.index()] += (8 + name.name.len() as u64).next_multiple_of(4);
    }
    tree.nodes
        .iter()
        .zip(bytes)
        .map(|(node, bytes)| {
            let own = match &node.kind {
                NodeKind::Directory if bytes + 24 <= 4096 => 1,
                // Leaves of an index are split in halves, and are three quarters full on average.
                NodeKind::Directory => 1 + (bytes * 4 / 3).div_ceil(4096),
                NodeKind::Symlink(target) if target.len() > 59 => 1,
                _ => 0,
            };
            // Few and short attributes stand in the inode itself.
            let room = 92u64;
            let attributes: u64 = node
                .xattrs
                .iter()
                .map(|(name, value)| {
                    16 + (name.len() as u64).next_multiple_of(4) + (value.len() as u64).next_multiple_of(4)
                })
                .sum();
            own + u64::from(attributes > room)
        })
        .sum::<u64>()
        + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_pointers_are_counted_as_the_format_needs_them() {
        let mega = POINTERS * POINTERS;
        let cases: [(&[(u64, u64)], u64); 10] = [
            (&[], 0),
            (&[(0, 12)], 0),
            (&[(0, 13)], 1),
            (&[(0, 12 + 1024)], 1),
            (&[(0, 12 + 1024 + 1)], 3),
            (&[(0, 12 + 1024 + 1025)], 4),
            (&[(12, 13), (1035, 1036)], 1),
            (&[(1036 + 5, 1036 + 6), (1036 + 1030, 1036 + 1031)], 3),
            (&[(1036 + mega, 1036 + mega + 1)], 3),
            (&[(0, 1036 + mega + 1)], 1 + 1 + 1024 + 3),
        ];
        for (data, expected) in cases {
            let data: Vec<Range<u64>> = data.iter().map(|&(start, end)| start..end).collect();
            assert_eq!(pointer_blocks(&data), expected, "{data:?}");
        }
    }
}
