//! What a volume really holds, and how that differs from what it should.

use crate::ops::Disk;
use crate::tree::{Body, Node, ROOT, Tree};
use std::collections::{BTreeMap, HashMap};
use xip_core::Timestamp;
use xip_ext2::{Error, File, InodeNo, Kind};

pub struct Seen {
    nodes: HashMap<InodeNo, SeenNode>,
}

struct SeenNode {
    kind: Kind,
    permissions: u16,
    links: u16,
    size: u64,
    times: (Timestamp, Timestamp),
    attributes: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Of a file or of a symbolic link.
    bytes: Vec<u8>,
    names: BTreeMap<Vec<u8>, InodeNo>,
}

/// Walks the whole volume, and asks it for each thing in every way there is.
pub fn walk(volume: &Disk<'_>) -> Result<Seen, String> {
    let mut nodes = HashMap::new();
    let mut todo = vec![(InodeNo::ROOT, InodeNo::ROOT)];
    while let Some((number, parent)) = todo.pop() {
        let said = |error: Error| format!("inode {}: {error}", number.0);
        let node = node(volume, number).map_err(said)?;
        if node.kind == Kind::Directory {
            // Of thousands some: that each stands where its hash says is looked at by the check, too.
            for (name, &child) in node.names.iter().step_by(node.names.len().div_ceil(500).max(1)) {
                let found = volume.lookup(number, name).map_err(said)?;
                if found != Some(child) {
                    let name = String::from_utf8_lossy(name);
                    return Err(format!(
                        "inode {}: {name} is inode {child:?} in the list and {found:?} by name",
                        number.0
                    ));
                }
            }
            let dots = [b".".as_slice(), b".."].map(|dot| node.names.get(dot).copied());
            if dots != [Some(number), Some(parent)] {
                return Err(format!("inode {}: . and .. are {dots:?}, the parent is {parent:?}", number.0));
            }
            if nodes.contains_key(&number) {
                return Err(format!("inode {}: a directory with two names", number.0));
            }
        }
        todo.extend(
            node.names
                .iter()
                .filter(|(name, child)| *name != b"." && *name != b".." && !nodes.contains_key(*child))
                .map(|(_, &child)| (child, number)),
        );
        nodes.insert(number, node);
    }
    Ok(Seen { nodes })
}

fn node(volume: &Disk<'_>, number: InodeNo) -> Result<SeenNode, Error> {
    let inode = volume.inode(number)?;
    let mut names = BTreeMap::new();
    let mut bytes = Vec::new();
    let mut twice = None;
    match inode.kind {
        Kind::Directory => {
            let mut kinds = Vec::new();
            volume.read_dir(number, 0, &mut |entry| {
                if names.insert(entry.name.to_vec(), entry.ino).is_some() {
                    twice = Some(entry.ino);
                }
                kinds.push((entry.ino, entry.kind));
                true
            })?;
            for (child, kind) in kinds {
                if kind != Some(volume.inode(child)?.kind) {
                    return Err(Error::Corrupt { what: "an entry says another kind", inode: child.0, at: 0 });
                }
            }
        }
        Kind::Regular => {
            let File::InPlace(file) = volume.file(number)? else { unreachable!("the device has direct access") };
            bytes.resize(inode.size as usize, 0xaa);
            // Not `ops::read`, which would change the time of the last access.
            let mut done = 0;
            while done < bytes.len() {
                done += xip_core::Pages::copy_out(&file, done as u64, &mut bytes[done..])?;
            }
        }
        Kind::Symlink => {
            bytes.resize(4096, 0);
            let len = volume.read_link(number, &mut bytes)?;
            bytes.truncate(len);
        }
        _ => {}
    }
    if let Some(child) = twice {
        return Err(Error::Corrupt { what: "a name is there twice", inode: child.0, at: 0 });
    }
    let mut attributes = BTreeMap::new();
    volume.xattrs(number, &mut |name, len| drop(attributes.insert(name.to_vec(), vec![0; len])))?;
    for (name, value) in &mut attributes {
        let len = value.len();
        if len > 0 && volume.xattr(number, name, value)? != Some(len) {
            return Err(Error::Corrupt { what: "an attribute is listed and not found", inode: number.0, at: 0 });
        }
    }
    let (kind, permissions, links, size) = (inode.kind, inode.permissions, inode.links, inode.size);
    let times = (inode.atime, inode.mtime);
    Ok(SeenNode { kind, permissions, links, size, times, attributes, bytes, names })
}

impl Seen {
    /// The first difference from what should be there.
    pub fn differs(&self, tree: &Tree) -> Option<String> {
        let mut same = HashMap::new();
        let mut todo = vec![(String::new(), ROOT, InodeNo::ROOT)];
        while let Some((path, expected, number)) = todo.pop() {
            match same.insert(expected, number) {
                None => {}
                Some(other) if other == number => continue,
                Some(other) => return Some(format!("{path}: inode {} and not {}", number.0, other.0)),
            }
            let (node, seen) = (&tree.nodes[&expected], &self.nodes[&number]);
            let what = match &node.body {
                Body::Directory(names) if seen.kind == Kind::Directory => {
                    let mut there = seen.names.clone();
                    there.retain(|name, _| name != b"." && name != b"..");
                    let missing = names.keys().find(|name| !there.contains_key(name.as_bytes()));
                    let extra = there.keys().find(|name| !names.contains_key(&*String::from_utf8_lossy(name)));
                    todo.extend(names.iter().filter_map(|(name, &child)| {
                        Some((format!("{path}/{name}"), child, *there.get(name.as_bytes())?))
                    }));
                    missing
                        .map(|name| format!("{name} is missing"))
                        .or(extra.map(|name| format!("{} is there", String::from_utf8_lossy(name))))
                }
                Body::File(data) if seen.kind == Kind::Regular => {
                    if seen.size != data.size as u64 {
                        Some(format!("size {} and not {}", seen.size, data.size))
                    } else {
                        data.first_strange(&seen.bytes).map(|at| {
                            let now = seen.bytes[at];
                            let right: Vec<_> = data.versions.iter().map(|v| v.get(at).copied().unwrap_or(0)).collect();
                            format!("byte {at} is {now:#04x} and not one of {right:02x?}")
                        })
                    }
                }
                Body::Symlink(target) if seen.kind == Kind::Symlink => {
                    (target.as_bytes() != seen.bytes).then(|| format!("{}", String::from_utf8_lossy(&seen.bytes)))
                }
                _ => Some(format!("a {:?}", seen.kind)),
            };
            let what = what.or_else(|| {
                let right = tree.links(expected);
                let now = usize::from(seen.links);
                if seen.permissions != node.permissions {
                    Some(format!("permissions {:o} and not {:o}", seen.permissions, node.permissions))
                } else if now != right {
                    Some(format!("{now} links and not {right}"))
                } else if node.times.is_some_and(|times| times != seen.times) {
                    Some(format!("times {:?} and not {:?}", seen.times, node.times))
                } else {
                    attributes_differ(&node.attributes, &seen.attributes)
                }
            });
            if let Some(what) = what {
                return Some(format!("{path}: {what}"));
            }
        }
        None
    }

    /// The first name that all of these trees have and that is not there with what one of them has. Files may be longer.
    pub fn loses(&self, trees: &[&Tree]) -> Option<String> {
        let (first, others) = trees.split_first()?;
        let mut todo = vec![(String::new(), ROOT, InodeNo::ROOT)];
        while let Some((path, expected, number)) = todo.pop() {
            let seen = &self.nodes[&number];
            let all: Vec<_> = others.iter().filter_map(|tree| Some(&tree.nodes[&tree.find(&path).ok()?])).collect();
            if all.len() < others.len() {
                continue;
            }
            let node = &first.nodes[&expected];
            let as_in = |node: &Node| match &node.body {
                Body::Directory(_) => seen.kind == Kind::Directory,
                Body::Symlink(target) => target.as_bytes() == seen.bytes,
                Body::File(data) => {
                    let bytes = seen.bytes.get(..data.size);
                    bytes.is_some_and(|bytes| data.first_strange(bytes).is_none())
                }
            };
            if !as_in(node) && !all.into_iter().any(as_in) {
                return Some(format!("{path} is another"));
            }
            if let Body::Directory(names) = &node.body {
                for (name, &child) in names {
                    let below = format!("{path}/{name}");
                    match seen.names.get(name.as_bytes()) {
                        Some(&number) => todo.push((below, child, number)),
                        None if others.iter().all(|tree| tree.find(&below).is_ok()) => {
                            return Some(format!("{below} is missing"));
                        }
                        None => {}
                    }
                }
            }
        }
        None
    }
}

fn attributes_differ(right: &BTreeMap<String, Vec<u8>>, now: &BTreeMap<Vec<u8>, Vec<u8>>) -> Option<String> {
    let wrong = right.iter().find(|(name, value)| now.get(name.as_bytes()) != Some(value));
    let extra = now.keys().find(|name| !right.contains_key(&*String::from_utf8_lossy(name)));
    wrong
        .map(|(name, _)| format!("attribute {name} is missing or other"))
        .or(extra.map(|name| format!("attribute {} is there", String::from_utf8_lossy(name))))
}
