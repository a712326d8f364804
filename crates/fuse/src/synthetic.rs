//! Mount points that the image does not have: empty directories and files which exist only in the mount, so that
//! `/proc`, `/dev` or a bound directory can be mounted over them on a volume that cannot be written.

use crate::error::Error;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use xip::{Inode, InodeNo, Kind, Volume};

/// What a mount point is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MountPoint {
    /// A directory, mode 0755.
    Directory,
    /// An empty file, mode 0644.
    File,
}

/// A node of the mount: of the volume, or one that only the mount has.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Node {
    Volume(InodeNo),
    /// Index of the synthetic node.
    Synthetic(usize),
}

struct Synthetic {
    parent: Node,
    name: Vec<u8>,
    kind: MountPoint,
}

/// All synthetic nodes.
#[derive(Default)]
pub(crate) struct MountPoints {
    nodes: Vec<Synthetic>,
    children: HashMap<Node, Vec<usize>>,
    /// What their owner and times are taken from: the volume's root.
    like: Option<Inode>,
}

const MOST_LINKS: u32 = 40;
const ENOTDIR: i32 = 20;
const ELOOP: i32 = 40;

impl MountPoints {
    /// Adds what is missing on `volume` of each path.
    pub(crate) fn new(volume: &Volume, wanted: &[(PathBuf, MountPoint)]) -> Result<Self, Error> {
        let mut points = Self::default();
        let failed = |path: &Path, why: String, errno| Error::MountPoint { path: path.into(), why, errno };
        for (path, kind) in wanted {
            points.add(volume, path.as_os_str().as_bytes(), *kind).map_err(|(why, errno)| failed(path, why, errno))?;
        }
        if !points.nodes.is_empty() {
            let root = volume.inodes().metadata(InodeNo::ROOT);
            let root = root.map_err(|error| failed(Path::new("/"), error.to_string(), error.errno()))?;
            points.like = Some(*root.inode());
        }
        Ok(points)
    }

    /// Walks `path` as the kernel would, links followed, and creates the rest where it ends.
    fn add(&mut self, volume: &Volume, path: &[u8], kind: MountPoint) -> Result<(), (String, i32)> {
        let inodes = volume.inodes();
        let on_volume = |error: xip::VolumeError| (error.to_string(), error.errno());
        let root = Node::Volume(InodeNo::ROOT);
        // The names still to walk, the next one last. `above` is the way back for `..`.
        let mut names = split(path);
        let (mut here, mut above) = (root, Vec::new());
        let mut links = MOST_LINKS;
        while let Some(name) = names.pop() {
            match &*name {
                b"." => continue,
                b".." => {
                    here = above.pop().unwrap_or(root);
                    continue;
                }
                _ => {}
            }
            let found = match (self.child(here, &name), here) {
                (Some(child), _) => Some(Node::Synthetic(child)),
                (None, Node::Volume(directory)) => {
                    inodes.lookup(directory, &name).map_err(on_volume)?.map(Node::Volume)
                }
                (None, Node::Synthetic(_)) => None,
            };
            let last = names.is_empty();
            let next = match found {
                Some(Node::Volume(ino)) => match inodes.kind(ino).map_err(on_volume)? {
                    Kind::Symlink => {
                        links = links.checked_sub(1).ok_or(("more than 40 symbolic links".to_owned(), ELOOP))?;
                        let target = inodes.read_link(ino).map_err(on_volume)?;
                        if target.as_bytes().first() == Some(&b'/') {
                            (here, above) = (root, Vec::new());
                        }
                        names.extend(split(target.as_bytes()));
                        continue;
                    }
                    Kind::Directory => Node::Volume(ino),
                    _ if last => return Ok(()),
                    _ => return Err(not_a_directory(&name)),
                },
                Some(Node::Synthetic(child)) => match self.nodes[child].kind {
                    MountPoint::Directory => Node::Synthetic(child),
                    MountPoint::File if last => return Ok(()),
                    MountPoint::File => return Err(not_a_directory(&name)),
                },
                None => self.create(here, name, if last { kind } else { MountPoint::Directory }),
            };
            above.push(here);
            here = next;
        }
        Ok(())
    }

    fn create(&mut self, parent: Node, name: Vec<u8>, kind: MountPoint) -> Node {
        let index = self.nodes.len();
        self.nodes.push(Synthetic { parent, name, kind });
        self.children.entry(parent).or_default().push(index);
        Node::Synthetic(index)
    }

    pub(crate) fn child(&self, parent: Node, name: &[u8]) -> Option<usize> {
        self.of(parent).iter().copied().find(|&child| self.nodes[child].name == name)
    }

    /// The synthetic entries of a directory, in the order they were made.
    pub(crate) fn of(&self, parent: Node) -> &[usize] {
        self.children.get(&parent).map_or(&[], |children| children)
    }

    /// How many of them are directories: each is a link to its parent.
    pub(crate) fn links_to(&self, parent: Node) -> u16 {
        let directories = self.of(parent).iter().filter(|&&child| self.nodes[child].kind == MountPoint::Directory);
        u16::try_from(directories.count()).unwrap_or(u16::MAX)
    }

    pub(crate) fn name(&self, index: usize) -> &OsStr {
        OsStr::from_bytes(&self.nodes[index].name)
    }

    pub(crate) fn parent(&self, index: usize) -> Option<Node> {
        self.nodes.get(index).map(|node| node.parent)
    }

    /// What is known of a synthetic node, in the form of an inode; `None` when there is no such node.
    pub(crate) fn inode(&self, index: usize) -> Option<Inode> {
        let (node, like) = (self.nodes.get(index)?, self.like?);
        let (kind, permissions, links) = match node.kind {
            MountPoint::Directory => (Kind::Directory, 0o755, 2),
            MountPoint::File => (Kind::Regular, 0o644, 1),
        };
        Some(Inode { kind, permissions, links, size: 0, blocks512: 0, flags: 0, generation: 0, device: (0, 0), ..like })
    }
}

/// The names of a path, the first one last.
fn split(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|&byte| byte == b'/').rev().filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect()
}

fn not_a_directory(name: &[u8]) -> (String, i32) {
    (format!("{} is not a directory", String::from_utf8_lossy(name)), ENOTDIR)
}
