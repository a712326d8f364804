//! What an image is made of: a tree of names and attributes, and where the data comes from.
//!
//! A [`Source`] gives the [`Tree`] first, whole, since the layout needs every size before the first byte is placed; then
//! the data, in the order that suits it best. A directory is one; archives can be others.

use crate::error::Error;
use std::ops::Range;
use std::path::PathBuf;
use xip_core::Timestamp;

/// A node of a tree, by its place in [`Tree::nodes`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(pub u32);

impl NodeId {
    /// The root directory.
    pub const ROOT: Self = Self(0);

    /// As an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Everything of a source but the data.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    /// What stands behind the names, hard links once. The first is the root directory.
    pub nodes: Vec<Node>,
    /// All names but the root's: those of one directory together and in order of their bytes, a directory's own name
    /// before those in it.
    pub names: Vec<Name>,
    /// What was left out, and why.
    pub notes: Vec<Note>,
}

/// A name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Name {
    /// The directory it stands in.
    pub parent: NodeId,
    /// At most 255 bytes, any but zero and slash.
    pub name: Box<[u8]>,
    /// What it leads to.
    pub node: NodeId,
}

/// The name and the value of an extended attribute.
pub type Attribute = (Box<[u8]>, Box<[u8]>);

/// A file of any kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// What it is.
    pub kind: NodeKind,
    /// Permission bits, with set-id and sticky.
    pub permissions: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of the data: the only time that is the same wherever the tree is copied to.
    pub mtime: Timestamp,
    /// Extended attributes in order of their names. POSIX ACLs have the kernel's names and form.
    pub xattrs: Vec<Attribute>,
    /// The place in [`Tree::names`] of its first name; 0 and without meaning for the root.
    pub first_name: u32,
}

/// What a node is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NodeKind {
    /// A regular file.
    Regular {
        /// Bytes.
        size: u64,
        /// The pages that have data; the others are holes. In order, not empty, not touching.
        data: Vec<Range<u64>>,
    },
    /// A directory.
    Directory,
    /// A symbolic link and its target.
    Symlink(Box<[u8]>),
    /// A block device, major and minor.
    Block(u32, u32),
    /// A character device, major and minor.
    Character(u32, u32),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// Something that was left out of the image.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Note {
    /// The file, below the root of the tree.
    pub path: String,
    /// What and why.
    pub what: String,
}

impl Tree {
    /// The path of a node by its first name, below the root, without a slash in front.
    pub fn path(&self, node: NodeId) -> PathBuf {
        use std::os::unix::ffi::OsStringExt;
        let mut names = Vec::new();
        let mut at = node;
        while at != NodeId::ROOT {
            let name = &self.names[self.nodes[at.index()].first_name as usize];
            names.push(&*name.name);
            at = name.parent;
        }
        names.reverse();
        std::ffi::OsString::from_vec(names.join(&b'/')).into()
    }

    /// Bytes of data in all files, holes left out.
    pub fn data_bytes(&self) -> u64 {
        self.nodes.iter().map(Node::data_bytes).sum()
    }
}

impl Node {
    /// Pages that have data.
    pub fn pages(&self) -> u64 {
        match &self.kind {
            NodeKind::Regular { data, .. } => data.iter().map(|r| r.end - r.start).sum(),
            _ => 0,
        }
    }

    /// Bytes of data, holes left out.
    pub fn data_bytes(&self) -> u64 {
        match &self.kind {
            NodeKind::Regular { size, data } => {
                data.iter().map(|r| (r.end * 4096).min(*size).saturating_sub(r.start * 4096)).sum()
            }
            _ => 0,
        }
    }
}

/// Takes the data of files, piece by piece. Lends the room, so that a source reads straight into it.
pub trait Sink {
    /// Room for some bytes, at least one and at most `want`.
    ///
    /// # Errors
    /// The taker has given up; the source returns this as it is.
    fn room(&mut self, want: usize) -> Result<&mut [u8], Error>;

    /// The first `len` bytes of the room are those of `node` at `offset`. Within a node offsets ascend; pieces that
    /// touch a page follow each other.
    fn filled(&mut self, node: NodeId, offset: u64, len: usize);
}

/// Where a tree comes from.
pub trait Source: Sync {
    /// All of it but the data.
    ///
    /// # Errors
    /// [`Error::Source`], naming the file that cannot be read.
    fn tree(&mut self, progress: &dyn crate::Progress) -> Result<Tree, Error>;

    /// The data of every regular file of the tree, one node after the other.
    ///
    /// # Errors
    /// [`Error::Source`], and [`Error::Changed`] when it is not that of the tree any more.
    fn read(&self, tree: &Tree, sink: &mut dyn Sink) -> Result<(), Error>;
}
