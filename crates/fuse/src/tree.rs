//! The tree of the mount in terms of the volume: node numbers, attributes, names. Knows nothing of FUSE's messages.

use crate::synthetic::{MountPoints, Node};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use xip::{Inode, InodeNo, Kind, Volume};

/// Errno.
pub(crate) type Errno = i32;
pub(crate) const ENOENT: Errno = 2;

/// FUSE's root.
pub(crate) const FUSE_ROOT: u64 = 1;

/// Where in a directory the synthetic entries begin: beyond what ext2's own cursors, positions in bytes, reach in any
/// directory that is not absurd, and still a position that a 32-bit program can hold.
const SYNTHETIC_CURSOR: u64 = 0x4000_0000;

/// A node as the kernel gets to know it.
#[derive(Clone, Copy)]
pub(crate) struct Attributes {
    /// What the kernel calls it.
    pub(crate) id: u64,
    /// What programs are shown as `st_ino`.
    pub(crate) ino: u64,
    pub(crate) inode: Inode,
}

/// An entry of a directory.
pub(crate) struct Entry<'a> {
    /// What the kernel calls it.
    pub(crate) id: u64,
    /// What programs are shown as `d_ino`.
    pub(crate) ino: u64,
    pub(crate) name: &'a OsStr,
    /// `None`: the directory does not say.
    pub(crate) kind: Option<Kind>,
    /// Where the next entry is.
    pub(crate) next: u64,
}

/// The number that the kernel knows an inode by: its own. Only 1 and 2 change places, since FUSE calls the root 1 and
/// ext2 calls it 2 (ext2's 1 is the list of bad blocks, which no name leads to).
pub(crate) fn id_of(ino: InodeNo) -> u64 {
    match ino {
        InodeNo::ROOT => FUSE_ROOT,
        InodeNo(1) => u64::from(InodeNo::ROOT.0),
        InodeNo(number) => number.into(),
    }
}

/// The inode that the kernel knows by `id`; `None` for what no inode's number can be.
pub(crate) fn inode_of(id: u64) -> Option<InodeNo> {
    match id {
        FUSE_ROOT => Some(InodeNo::ROOT),
        2 => Some(InodeNo(1)),
        _ => u32::try_from(id).ok().map(InodeNo),
    }
}

pub(crate) struct Tree {
    pub(crate) volume: Volume,
    points: MountPoints,
}

impl Tree {
    pub(crate) fn new(volume: Volume, points: MountPoints) -> Self {
        Self { volume, points }
    }

    /// The number that the kernel knows a node by. Synthetic nodes come after the volume's last inode.
    fn id(&self, node: Node) -> u64 {
        match node {
            Node::Volume(ino) => id_of(ino),
            Node::Synthetic(index) => u64::from(self.volume.geometry().inodes) + 1 + index as u64,
        }
    }

    /// The number that programs are shown: the inode's own, also of the root.
    fn ino(&self, node: Node) -> u64 {
        match node {
            Node::Volume(InodeNo(number)) => number.into(),
            Node::Synthetic(_) => self.id(node),
        }
    }

    pub(crate) fn node(&self, id: u64) -> Result<Node, Errno> {
        let inodes = u64::from(self.volume.geometry().inodes);
        match inode_of(id) {
            Some(ino) if id <= inodes => Ok(Node::Volume(ino)),
            _ => usize::try_from(id.wrapping_sub(inodes + 1)).map(Node::Synthetic).map_err(|_| ENOENT),
        }
    }

    /// The inode behind `id`, `None` for a synthetic node.
    pub(crate) fn inode_no(&self, id: u64) -> Result<Option<InodeNo>, Errno> {
        Ok(match self.node(id)? {
            Node::Volume(ino) => Some(ino),
            Node::Synthetic(_) => None,
        })
    }

    pub(crate) fn attributes(&self, id: u64) -> Result<Attributes, Errno> {
        self.attributes_of(self.node(id)?)
    }

    fn attributes_of(&self, node: Node) -> Result<Attributes, Errno> {
        let mut inode = match node {
            Node::Volume(ino) => *self.volume.inodes().metadata(ino).map_err(|error| error.errno())?.inode(),
            Node::Synthetic(index) => self.points.inode(index).ok_or(ENOENT)?,
        };
        inode.links = inode.links.saturating_add(self.points.links_to(node));
        Ok(Attributes { id: self.id(node), ino: self.ino(node), inode })
    }

    /// The node that `name` leads to, `None` when there is none.
    pub(crate) fn lookup(&self, parent: u64, name: &OsStr) -> Result<Option<Attributes>, Errno> {
        let parent = self.node(parent)?;
        let child = match (self.points.child(parent, name.as_bytes()), parent) {
            (Some(child), _) => Some(Node::Synthetic(child)),
            (None, Node::Synthetic(_)) => None,
            (None, Node::Volume(directory)) => {
                let found = self.volume.inodes().lookup(directory, name.as_bytes());
                found.map_err(|error| error.errno())?.map(Node::Volume)
            }
        };
        child.map(|child| self.attributes_of(child)).transpose()
    }

    /// Calls `each` with the entries of a directory from `cursor` on until it returns false. An error counts only
    /// when no entry came before it: the entries that are there are shown, then the error.
    pub(crate) fn read_dir(&self, id: u64, cursor: u64, each: Each<'_>) -> Result<(), Errno> {
        let directory = self.node(id)?;
        let synthetic = self.points.of(directory);
        let mut out = Out { each, given: false, end: None };
        if synthetic.is_empty() || cursor < SYNTHETIC_CURSOR {
            let read = match directory {
                Node::Volume(ino) => self.volume_entries(ino, cursor, &mut out),
                Node::Synthetic(index) => self.dots(index, cursor, &mut out),
            };
            if let Err(error) = read {
                out.end.get_or_insert(Err(error));
            }
        }
        let first = usize::try_from(cursor.saturating_sub(SYNTHETIC_CURSOR)).unwrap_or(usize::MAX);
        for (place, &child) in synthetic.iter().enumerate().skip(first) {
            let kind = self.points.inode(child).map(|inode| inode.kind);
            let next = SYNTHETIC_CURSOR + place as u64 + 1;
            if !out.give(self.entry(Node::Synthetic(child), self.points.name(child), kind, next)) {
                break;
            }
        }
        match out.end {
            Some(Err(error)) if !out.given => Err(error),
            _ => Ok(()),
        }
    }

    fn entry<'a>(&self, node: Node, name: &'a OsStr, kind: Option<Kind>, next: u64) -> Entry<'a> {
        Entry { id: self.id(node), ino: self.ino(node), name, kind, next }
    }

    fn volume_entries(&self, directory: InodeNo, cursor: u64, out: &mut Out<'_, '_>) -> Result<(), Errno> {
        let read = self.volume.inodes().read_dir(directory, cursor, &mut |entry| {
            out.give(self.entry(Node::Volume(entry.ino), OsStr::from_bytes(entry.name), entry.kind, entry.next))
        });
        read.map_err(|error| error.errno())
    }

    fn dots(&self, index: usize, cursor: u64, out: &mut Out<'_, '_>) -> Result<(), Errno> {
        let parent = self.points.parent(index).ok_or(ENOENT)?;
        for (next, name, node) in [(1, ".", Node::Synthetic(index)), (2, "..", parent)] {
            if next > cursor && !out.give(self.entry(node, name.as_ref(), Some(Kind::Directory), next)) {
                break;
            }
        }
        Ok(())
    }
}

/// Takes entries: whether it wants more, or what is wrong with this one.
pub(crate) type Each<'a> = &'a mut dyn FnMut(Entry<'_>) -> Result<bool, Errno>;

/// Entries on their way out of a directory.
struct Out<'a, 'b> {
    each: &'a mut (dyn FnMut(Entry<'_>) -> Result<bool, Errno> + 'b),
    /// Whether one was taken.
    given: bool,
    /// Why no more are wanted.
    end: Option<Result<(), Errno>>,
}

impl Out<'_, '_> {
    fn give(&mut self, entry: Entry<'_>) -> bool {
        if self.end.is_some() {
            return false;
        }
        match (self.each)(entry) {
            Ok(true) => self.given = true,
            Ok(false) => self.end = Some(Ok(())),
            Err(error) => self.end = Some(Err(error)),
        }
        self.end.is_none()
    }
}
