//! The names of a tree onto a volume, and the attributes of what they lead to.

use crate::error::Error;
use crate::progress::Progress;
use crate::source::{NodeId, NodeKind, Tree};
use std::path::PathBuf;
use xip_core::{Device, Env, Timestamp};
use xip_ext2::{InodeNo, NewInode, NewKind, SetAttributes, Volume};

/// Makes everything but data. Returns the inode of each node.
pub(crate) fn create<D: Device, E: Env>(
    volume: &Volume<D, E>,
    tree: &Tree,
    progress: &dyn Progress,
) -> Result<Vec<InodeNo>, Error> {
    let mut inodes = vec![None; tree.nodes.len()];
    inodes[NodeId::ROOT.index()] = Some(InodeNo::ROOT);
    // Directories first, so that they have the first inodes and with them the first blocks: a look-up touches little.
    let is_directory = |node: NodeId| matches!(tree.nodes[node.index()].kind, NodeKind::Directory);
    let (directories, others): (Vec<_>, Vec<_>) = tree.names.iter().partition(|name| is_directory(name.node));
    for (n, name) in directories.into_iter().chain(others).enumerate() {
        if n % 1024 == 1023 {
            progress.advance(1024);
            if progress.cancelled() {
                return Err(Error::Cancelled);
            }
        }
        let fail = |error| Error::File { path: path(tree, name.parent, &name.name), error };
        let parent = inodes[name.parent.index()].ok_or_else(|| fail(xip_ext2::Error::NotFound))?;
        let node = &tree.nodes[name.node.index()];
        match inodes[name.node.index()] {
            Some(inode) => volume.link(parent, &name.name, inode).map_err(fail)?,
            None => {
                let kind = match &node.kind {
                    NodeKind::Regular { .. } => NewKind::Regular,
                    NodeKind::Directory => NewKind::Directory,
                    NodeKind::Symlink(target) => NewKind::Symlink(target),
                    &NodeKind::Block(major, minor) => NewKind::Block(major, minor),
                    &NodeKind::Character(major, minor) => NewKind::Character(major, minor),
                    NodeKind::Fifo => NewKind::Fifo,
                    NodeKind::Socket => NewKind::Socket,
                };
                let new = NewInode { kind, permissions: node.permissions, uid: node.uid, gid: node.gid };
                inodes[name.node.index()] = Some(volume.create(parent, &name.name, &new).map_err(fail)?);
            }
        }
    }
    progress.advance(tree.names.len() as u64 % 1024);
    let made: Option<Vec<InodeNo>> = inodes.into_iter().collect();
    let made = made.ok_or(Error::TooLarge { what: "the source gave a file without a name" })?;
    for (node, &inode) in tree.nodes.iter().zip(&made) {
        for (name, value) in &node.xattrs {
            volume
                .set_xattr(inode, name, Some(value))
                .map_err(|error| Error::File { path: path_of(tree, node.first_name, inode), error })?;
        }
    }
    Ok(made)
}

/// The last step: making and filling files has changed times, and some permissions.
pub(crate) fn finish<D: Device, E: Env>(
    volume: &Volume<D, E>,
    tree: &Tree,
    inodes: &[InodeNo],
    newest: Option<i64>,
) -> Result<(), Error> {
    for (node, &inode) in tree.nodes.iter().zip(inodes) {
        let time = Some(clamp(node.mtime, newest));
        let attributes = SetAttributes {
            permissions: Some(node.permissions),
            uid: Some(node.uid),
            gid: Some(node.gid),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            drop_set_id: false,
        };
        volume
            .set_attributes(inode, &attributes)
            .map_err(|error| Error::File { path: path_of(tree, node.first_name, inode), error })?;
    }
    Ok(())
}

/// No time of an image is later than `newest`.
pub(crate) fn clamp(time: Timestamp, newest: Option<i64>) -> Timestamp {
    match newest {
        Some(newest) => time.min(Timestamp { seconds: newest, nanoseconds: 0 }),
        None => time,
    }
}

fn path_of(tree: &Tree, first_name: u32, inode: InodeNo) -> PathBuf {
    match tree.names.get(first_name as usize) {
        Some(name) if inode != InodeNo::ROOT => path(tree, name.parent, &name.name),
        _ => "/".into(),
    }
}

fn path(tree: &Tree, parent: NodeId, name: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    tree.path(parent).join(std::ffi::OsStr::from_bytes(name))
}
