//! The reference: a file system in a few maps, with the rules of contract 3 to 6 in the plainest words.

use std::collections::{BTreeMap, BTreeSet};
use xip::Rename;

pub const PAGE: usize = 4096;

pub type Id = usize;

/// What a name leads to.
#[derive(Clone, Debug)]
pub enum Node {
    File(FileModel),
    Directory(BTreeMap<String, Id>),
    Symlink,
}

/// Links lead to nothing, so whoever follows one finds nothing.
pub const TARGET: &str = "nowhere/at/all";

/// A file: its pages to the end of the last one, as a map shows them.
#[derive(Clone, Debug, Default)]
pub struct FileModel {
    pub pages: Vec<u8>,
    /// Which of them have storage.
    pub stored: Vec<bool>,
    pub size: usize,
    /// Space gave out, and it is not known which pages have storage.
    pub vague: bool,
}

impl FileModel {
    pub fn bytes(&self) -> &[u8] {
        &self.pages[..self.size]
    }

    /// As much of `[at, at + len)` as there is.
    pub fn range(&self, at: usize, len: usize) -> &[u8] {
        let rest = self.bytes().get(at..).unwrap_or_default();
        &rest[..rest.len().min(len)]
    }

    /// The first byte from `at` on that has storage, or has none; the end is a hole.
    pub fn seek(&self, at: usize, data: bool) -> Option<u64> {
        let mut pages = at / PAGE..if at < self.size { self.stored.len() } else { 0 };
        let found = pages.find(|&page| self.stored[page] == data).map(|page| at.max(page * PAGE));
        found.or((!data && at < self.size).then_some(self.size)).map(|at| at as u64)
    }

    fn set_size(&mut self, size: usize) {
        self.size = size;
        self.pages.resize(size.next_multiple_of(PAGE), 0);
        self.stored.resize(size.div_ceil(PAGE), false);
    }

    /// The tail rule, and the new size.
    fn grow(&mut self, zero_to: usize, size: usize) {
        if size > self.size || zero_to > self.size {
            let tail = zero_to.min(self.size.next_multiple_of(PAGE)).max(self.size);
            self.pages[self.size..tail].fill(0);
            self.set_size(self.size.max(size));
        }
    }

    pub fn write(&mut self, at: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.grow(at, at + bytes.len());
        self.pages[at..at + bytes.len()].copy_from_slice(bytes);
        self.store(at, at + bytes.len());
    }

    /// Pages have storage.
    fn store(&mut self, at: usize, end: usize) {
        self.stored[at / PAGE..end.div_ceil(PAGE)].fill(true);
    }

    /// What would have made it longer failed, and the rest of its last page is zeros by now, or as it was.
    pub fn failed(&mut self, zero_tail: bool) {
        if zero_tail {
            self.pages[self.size..].fill(0);
        }
    }

    /// Zeros in what there is of `[at, end)`.
    pub fn zero(&mut self, at: usize, end: usize) {
        let end = end.min(self.size.next_multiple_of(PAGE));
        if at < end {
            self.pages[at..end].fill(0);
        }
    }

    pub fn truncate(&mut self, size: usize) {
        if size > self.size {
            self.grow(size, size);
        } else {
            self.set_size(size);
            self.pages[size..].fill(0);
        }
    }

    pub fn punch(&mut self, at: usize, len: usize) -> bool {
        let end = if at + len >= self.size { self.pages.len() } else { at + len };
        self.zero(at, end);
        for page in at.div_ceil(PAGE)..end / PAGE {
            self.stored[page] = false;
        }
        len > 0
    }

    /// Space for a range, zeros or as it is.
    pub fn allocate(&mut self, at: usize, len: usize, keep_size: bool, zero: bool) -> bool {
        let (end, old) = (at + len, self.size);
        if len == 0 || keep_size && end.div_ceil(PAGE) > old.div_ceil(PAGE) {
            return false;
        }
        if !keep_size {
            self.grow(end, end);
        }
        self.store(at, end);
        if zero && at < old {
            self.zero(at, end.min(old.next_multiple_of(PAGE)));
        }
        true
    }
}

/// All of it.
#[derive(Debug)]
pub struct Model {
    pub nodes: Vec<Node>,
    pub attributes: Vec<BTreeMap<String, Vec<u8>>>,
    /// Files that never had a name, and may get one.
    pub unnamed: BTreeSet<Id>,
}

pub const ROOT: Id = 0;

impl Model {
    pub fn new() -> Self {
        let (nodes, attributes) = (vec![Node::Directory(BTreeMap::new())], vec![BTreeMap::new()]);
        Self { nodes, attributes, unnamed: BTreeSet::new() }
    }

    pub fn file(&mut self, id: Id) -> &mut FileModel {
        match &mut self.nodes[id] {
            Node::File(file) => file,
            other => panic!("{other:?} is no file"),
        }
    }

    fn entries(&self, id: Id) -> Option<&BTreeMap<String, Id>> {
        match &self.nodes[id] {
            Node::Directory(entries) => Some(entries),
            _ => None,
        }
    }

    fn entries_mut(&mut self, id: Id) -> &mut BTreeMap<String, Id> {
        match &mut self.nodes[id] {
            Node::Directory(entries) => entries,
            other => panic!("{other:?} is no directory"),
        }
    }

    /// The directory of a path, and the name in it.
    fn place<'p>(&self, path: &'p str) -> Option<(Id, &'p str)> {
        let mut parts: Vec<_> = path.split('/').collect();
        let name = parts.pop()?;
        let mut at = ROOT;
        for part in parts {
            at = *self.entries(at)?.get(part)?;
        }
        self.entries(at)?;
        Some((at, name))
    }

    pub fn find(&self, path: &str) -> Option<Id> {
        let (parent, name) = self.place(path)?;
        self.entries(parent)?.get(name).copied()
    }

    /// The file that a path leads to, to be opened.
    pub fn open(&self, path: &str) -> Option<Id> {
        self.find(path).filter(|&id| matches!(self.nodes[id], Node::File(_)))
    }

    pub fn make(&mut self, path: &str, node: Node) -> bool {
        let Some((parent, name)) = self.place(path).filter(|_| self.find(path).is_none()) else { return false };
        let id = self.add(node);
        self.entries_mut(parent).insert(name.into(), id);
        true
    }

    fn add(&mut self, node: Node) -> Id {
        self.nodes.push(node);
        self.attributes.push(BTreeMap::new());
        self.nodes.len() - 1
    }

    /// A file without a name, in a directory.
    pub fn make_unnamed(&mut self, directory: &str) -> Option<Id> {
        self.entries(self.find(directory)?)?;
        let id = self.add(Node::File(FileModel::default()));
        self.unnamed.insert(id);
        Some(id)
    }

    /// One more name for a file that is open, unless it has lost all that it had.
    pub fn link_open(&mut self, id: Id, to: &str) -> bool {
        let place = self.place(to).filter(|_| self.find(to).is_none());
        let Some((parent, name)) = place.filter(|_| self.links(id) > 0 || self.unnamed.contains(&id)) else {
            return false;
        };
        self.unnamed.remove(&id);
        self.entries_mut(parent).insert(name.into(), id);
        true
    }

    pub fn link(&mut self, from: &str, to: &str) -> bool {
        let (Some(id), Some((parent, name)), None) = (self.find(from), self.place(to), self.find(to)) else {
            return false;
        };
        if self.entries(id).is_some() {
            return false;
        }
        self.entries_mut(parent).insert(name.into(), id);
        true
    }

    pub fn remove(&mut self, path: &str, directory: bool) -> bool {
        let Some(id) = self.find(path) else { return false };
        let allowed = match self.entries(id) {
            Some(entries) => directory && entries.is_empty(),
            None => !directory,
        };
        if let Some((parent, name)) = self.place(path).filter(|_| allowed) {
            self.entries_mut(parent).remove(name);
        }
        allowed
    }

    /// Whether `below` is `above`, or stands somewhere in it.
    fn is_in(&self, below: Id, above: Id) -> bool {
        below == above || self.entries(above).is_some_and(|all| all.values().any(|&id| self.is_in(below, id)))
    }

    /// A directory with all that is in it.
    pub fn remove_all(&mut self, path: &str) -> bool {
        let directory = self.find(path).filter(|&id| self.entries(id).is_some());
        if let (Some(_), Some((parent, name))) = (directory, self.place(path)) {
            self.entries_mut(parent).remove(name);
        }
        directory.is_some()
    }

    pub fn rename(&mut self, from: &str, to: &str, how: Rename) -> bool {
        let (Some(old), Some((old_parent, old_name)), Some((new_parent, new_name))) =
            (self.find(from), self.place(from), self.place(to))
        else {
            return false;
        };
        let new = self.find(to);
        // Nothing comes to stand below itself.
        if self.is_in(new_parent, old) || how == Rename::Exchange && new.is_some_and(|new| self.is_in(old_parent, new))
        {
            return false;
        }
        match (how, new) {
            (Rename::Exchange, None) | (Rename::NoReplace, Some(_)) => return false,
            (Rename::Replace, Some(new)) if new == old => return true,
            (Rename::Replace, Some(new)) => {
                let fits = match (self.entries(old), self.entries(new)) {
                    (Some(_), Some(entries)) => entries.is_empty(),
                    (None, None) => true,
                    _ => false,
                };
                if !fits {
                    return false;
                }
            }
            _ => {}
        }
        self.entries_mut(old_parent).remove(old_name);
        if let (Rename::Exchange, Some(new)) = (how, new) {
            self.entries_mut(old_parent).insert(old_name.into(), new);
        }
        self.entries_mut(new_parent).insert(new_name.into(), old);
        true
    }

    /// How many names lead to it.
    pub fn links(&self, id: Id) -> u32 {
        let all = self.reachable();
        let names = |id: &Id| self.entries(*id).into_iter().flat_map(|entries| entries.values());
        match self.entries(id) {
            // `.`, and the `..` of each directory in it.
            Some(_) => 2 + names(&id).filter(|&&below| self.entries(below).is_some()).count() as u32,
            None => all.iter().flat_map(names).filter(|&&named| named == id).count() as u32,
        }
    }

    fn reachable(&self) -> BTreeSet<Id> {
        let mut all = BTreeSet::from([ROOT]);
        let mut way = vec![ROOT];
        while let Some(id) = way.pop() {
            for &below in self.entries(id).into_iter().flat_map(|entries| entries.values()) {
                if all.insert(below) {
                    way.push(below);
                }
            }
        }
        all
    }
}

/// A map of a file.
#[derive(Debug)]
pub struct MapModel {
    pub first: usize,
    pub pages: usize,
    pub private: bool,
    /// Pages that a private map has stored to.
    pub own: BTreeMap<usize, Vec<u8>>,
}

impl MapModel {
    /// The map as an access finds it: its pages in the file, `None` beyond its end.
    pub fn range(&mut self, file: &FileModel, at: usize, len: usize) -> Option<Vec<u8>> {
        if len == 0 {
            return (at <= self.pages * PAGE).then(Vec::new);
        }
        let end = file.pages.len() / PAGE;
        // What was cut off is gone from the next access on.
        let first = self.first;
        self.own.retain(|page, _| first + page < end);
        let mut shown = file.pages.get(self.first * PAGE..).unwrap_or_default().to_vec();
        shown.truncate(self.pages * PAGE);
        for (page, bytes) in &self.own {
            shown[page * PAGE..(page + 1) * PAGE].copy_from_slice(bytes);
        }
        shown.get(at..at + len).map(<[u8]>::to_vec)
    }

    pub fn write(&mut self, file: &mut FileModel, at: usize, bytes: &[u8]) -> bool {
        if self.range(file, at, bytes.len()).is_none() {
            return false;
        }
        if !self.private && !bytes.is_empty() {
            let start = self.first * PAGE + at;
            file.store(start, start + bytes.len());
        }
        for (n, byte) in bytes.iter().enumerate() {
            let (page, within) = ((at + n) / PAGE, (at + n) % PAGE);
            if self.private {
                if !self.own.contains_key(&page) {
                    let old = self.range(file, page * PAGE, PAGE).unwrap();
                    self.own.insert(page, old);
                }
                self.own.get_mut(&page).unwrap()[within] = *byte;
            } else {
                file.pages[(self.first + page) * PAGE + within] = *byte;
            }
        }
        true
    }
}
