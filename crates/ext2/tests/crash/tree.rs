//! What a volume should hold: a tree of names in memory, and what the operations make of it.

use std::collections::BTreeMap;
use std::rc::Rc;
use xip_core::Timestamp;

/// Bytes of a file. While it is written, a byte is as in one of the versions.
#[derive(Clone, Debug, Hash)]
pub struct Data {
    pub size: usize,
    /// The last is the newest; bytes beyond the end of one are zeros in it.
    pub versions: Vec<Rc<Vec<u8>>>,
}

impl Data {
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { size: bytes.len(), versions: vec![Rc::new(bytes)] }
    }

    pub fn newest(&self) -> Vec<u8> {
        let mut bytes = self.versions.last().unwrap().to_vec();
        bytes.resize(self.size, 0);
        bytes
    }

    /// The first byte that is as in no version.
    pub fn first_strange(&self, bytes: &[u8]) -> Option<usize> {
        let strange = |n: usize| !self.versions.iter().any(|version| version.get(n).copied().unwrap_or(0) == bytes[n]);
        // Most pages are as a whole in one of them.
        let pages = (0..bytes.len()).step_by(4096).map(|at| at..bytes.len().min(at + 4096));
        pages
            .filter(|page| !self.versions.iter().any(|version| version.get(page.clone()) == Some(&bytes[page.clone()])))
            .flatten()
            .find(|&n| strange(n))
    }
}

#[derive(Clone, Debug, Hash)]
pub enum Body {
    Directory(BTreeMap<String, usize>),
    File(Data),
    Symlink(String),
}

#[derive(Clone, Debug, Hash)]
pub struct Node {
    pub body: Body,
    pub permissions: u16,
    pub attributes: BTreeMap<String, Vec<u8>>,
    /// Of the last read and the last change, where they were set and nothing has changed since.
    pub times: Option<(Timestamp, Timestamp)>,
    /// By the operation under way.
    pub changed: bool,
}

impl Node {
    pub fn new(body: Body, permissions: u16) -> Self {
        Self { body, permissions, attributes: BTreeMap::new(), times: None, changed: false }
    }

    pub fn directory() -> Self {
        Self::new(Body::Directory(BTreeMap::new()), 0o755)
    }
}

#[derive(Clone, Debug, Hash)]
pub struct Tree {
    pub nodes: BTreeMap<usize, Node>,
}

pub const ROOT: usize = 0;

/// The operation cannot be done, and must change nothing.
#[derive(Debug)]
pub struct Refused;

/// Parent and last name.
pub fn split(path: &str) -> (&str, &str) {
    let (parent, name) = path.rsplit_once('/').unwrap();
    (parent, name)
}

impl Tree {
    pub fn new() -> Self {
        Self { nodes: BTreeMap::from([(ROOT, Node::directory())]) }
    }

    pub fn find(&self, path: &str) -> Result<usize, Refused> {
        path.split('/').filter(|name| !name.is_empty()).try_fold(ROOT, |node, name| match &self.nodes[&node].body {
            Body::Directory(names) => names.get(name).copied().ok_or(Refused),
            _ => Err(Refused),
        })
    }

    pub fn node(&mut self, path: &str) -> Result<&mut Node, Refused> {
        let found = self.find(path)?;
        Ok(self.nodes.get_mut(&found).unwrap())
    }

    pub fn data(&mut self, path: &str) -> Result<&mut Data, Refused> {
        let node = self.node(path)?;
        match &mut node.body {
            Body::File(data) => {
                node.changed = true;
                Ok(data)
            }
            _ => Err(Refused),
        }
    }

    pub fn names(&self, node: usize) -> Option<&BTreeMap<String, usize>> {
        match &self.nodes[&node].body {
            Body::Directory(names) => Some(names),
            _ => None,
        }
    }

    fn names_mut(&mut self, path: &str) -> Result<&mut BTreeMap<String, usize>, Refused> {
        let node = self.node(path)?;
        match &mut node.body {
            Body::Directory(names) => {
                node.changed = true;
                Ok(names)
            }
            _ => Err(Refused),
        }
    }

    /// Gives a node a name that is not there yet.
    fn name(&mut self, path: &str, node: usize) -> Result<(), Refused> {
        let (parent, name) = split(path);
        let names = self.names_mut(parent)?;
        if names.contains_key(name) {
            return Err(Refused);
        }
        names.insert(name.into(), node);
        Ok(())
    }

    pub fn add(&mut self, path: &str, node: Node) -> Result<(), Refused> {
        let number = self.nodes.last_key_value().map_or(0, |(last, _)| last + 1);
        self.name(path, number)?;
        self.nodes.insert(number, node);
        Ok(())
    }

    pub fn link(&mut self, from: &str, to: &str) -> Result<(), Refused> {
        let node = self.find(from)?;
        if self.names(node).is_some() {
            return Err(Refused);
        }
        self.name(to, node)
    }

    /// As the file system counts.
    pub fn links(&self, node: usize) -> usize {
        match self.names(node) {
            Some(names) => 2 + names.values().filter(|&&child| self.names(child).is_some()).count(),
            None => {
                let all = self.nodes.keys().filter_map(|&directory| self.names(directory));
                all.flat_map(BTreeMap::values).filter(|&&child| child == node).count()
            }
        }
    }

    pub fn remove(&mut self, path: &str, directory: bool) -> Result<(), Refused> {
        let node = self.find(path)?;
        match self.names(node) {
            Some(names) if !directory || !names.is_empty() => return Err(Refused),
            None if directory => return Err(Refused),
            _ => {}
        }
        let (parent, name) = split(path);
        self.names_mut(parent)?.remove(name);
        self.drop_unnamed(node);
        Ok(())
    }

    fn drop_unnamed(&mut self, node: usize) {
        let named = |tree: &Self| {
            tree.nodes.keys().filter_map(|&directory| tree.names(directory)).any(|n| n.values().any(|&c| c == node))
        };
        if !named(self) {
            self.nodes.remove(&node);
        }
    }

    /// Whether the second path is the first or below it.
    fn within(above: &str, path: &str) -> bool {
        path == above || path.strip_prefix(above).is_some_and(|rest| rest.starts_with('/'))
    }

    pub fn rename(&mut self, from: &str, to: &str, no_replace: bool) -> Result<(), Refused> {
        let node = self.find(from)?;
        let is_directory = self.names(node).is_some();
        let ((old_parent, old_name), (new_parent, new_name)) = (split(from), split(to));
        self.names_mut(new_parent)?;
        if is_directory && Self::within(from, to) && from != to {
            return Err(Refused);
        }
        if let Ok(target) = self.find(to) {
            if no_replace {
                return Err(Refused);
            }
            if target == node {
                return Ok(());
            }
            match (is_directory, self.names(target)) {
                (true, Some(names)) if names.is_empty() => {}
                (false, None) => {}
                _ => return Err(Refused),
            }
            self.names_mut(new_parent)?.remove(new_name);
            self.drop_unnamed(target);
        }
        self.names_mut(old_parent)?.remove(old_name);
        self.name(to, node)
    }

    pub fn exchange(&mut self, one: &str, other: &str) -> Result<(), Refused> {
        let (first, second) = (self.find(one)?, self.find(other)?);
        let into = |above: usize, below: &str, path: &str| self.names(above).is_some() && Self::within(path, below);
        if first != second && (into(first, other, one) || into(second, one, other)) {
            return Err(Refused);
        }
        let ((parent, name), (other_parent, other_name)) = (split(one), split(other));
        self.names_mut(parent)?.insert(name.into(), second);
        self.names_mut(other_parent)?.insert(other_name.into(), first);
        Ok(())
    }
}
