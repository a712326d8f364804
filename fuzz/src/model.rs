//! What a volume should hold, and what an operation on it should answer: a tree of names in memory, with nothing clever
//! in it. The inodes have the numbers that the volume gave them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use xip_core::PAGE_SIZE;
use xip_ext2::{Error, InodeNo, Kind, Rename};

const PAGE: u64 = PAGE_SIZE as u64;

pub struct Model {
    pub nodes: BTreeMap<InodeNo, Node>,
    /// Without a name, and still open.
    pub held: BTreeSet<InodeNo>,
}

pub struct Node {
    pub permissions: u16,
    pub attributes: BTreeMap<Vec<u8>, Vec<u8>>,
    pub body: Body,
}

pub enum Body {
    Directory { names: BTreeMap<Vec<u8>, InodeNo>, parent: InodeNo },
    File(Content),
    Symlink(Vec<u8>),
    Other(Kind),
}

/// Bytes of a file, and which of its pages have storage.
#[derive(Default)]
pub struct Content {
    pub size: u64,
    pages: BTreeMap<u64, [u8; PAGE_SIZE]>,
    /// It is not known any more which pages of zeros have storage: space gave out halfway.
    pub vague: bool,
}

impl Content {
    pub fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let end = self.size.min(at.saturating_add(len as u64)).max(at);
        let mut bytes = Vec::with_capacity((end - at) as usize);
        for (page, within) in pages(at, end) {
            match self.pages.get(&page) {
                Some(stored) => bytes.extend(&stored[within]),
                None => bytes.resize(bytes.len() + within.len(), 0),
            }
        }
        bytes
    }

    pub fn write(&mut self, at: u64, bytes: &[u8]) {
        let end = at + bytes.len() as u64;
        let mut rest = bytes;
        for (page, within) in pages(at, end) {
            let (now, after) = rest.split_at(within.len());
            self.pages.entry(page).or_insert([0; PAGE_SIZE])[within].copy_from_slice(now);
            rest = after;
        }
        if !bytes.is_empty() {
            self.size = self.size.max(end);
        }
    }

    pub fn truncate(&mut self, size: u64) {
        if size < self.size {
            self.zero(size, size.next_multiple_of(PAGE));
            self.pages.retain(|page, _| *page < size.div_ceil(PAGE));
        }
        self.size = size;
    }

    pub fn allocate(&mut self, at: u64, end: u64) {
        for page in at / PAGE..end.div_ceil(PAGE) {
            self.pages.entry(page).or_insert([0; PAGE_SIZE]);
        }
    }

    pub fn punch(&mut self, at: u64, end: u64) {
        let end = if end >= self.size { self.size.next_multiple_of(PAGE) } else { end };
        self.zero(at, end);
        self.pages.retain(|page, _| page * PAGE < at || (page + 1) * PAGE > end);
    }

    /// Zeros where there is storage.
    pub fn zero(&mut self, at: u64, end: u64) {
        for (page, within) in pages(at, end) {
            if let Some(stored) = self.pages.get_mut(&page) {
                stored[within].fill(0);
            }
        }
    }

    /// The first byte from `at` on that has storage, or has none; the end is a hole.
    pub fn seek(&self, at: u64, data: bool) -> Option<u64> {
        if at >= self.size {
            return None;
        }
        let mut pages = at / PAGE..self.size.div_ceil(PAGE);
        let found = if data {
            self.pages.range(pages).next().map(|(page, _)| *page)
        } else {
            pages.find(|page| !self.pages.contains_key(page))
        };
        let end = (!data).then_some(self.size);
        found.map(|page| at.max(page * PAGE)).or(end)
    }
}

/// The pages of `[at, end)`, and what of each belongs to it.
fn pages(at: u64, end: u64) -> impl Iterator<Item = (u64, Range<usize>)> {
    let within = move |page: u64, n: u64| n.saturating_sub(page * PAGE).min(PAGE) as usize;
    let all = at / PAGE..if at < end { end.div_ceil(PAGE) } else { at / PAGE };
    all.map(move |page| (page, within(page, at)..within(page, end)))
}

pub fn is_dot(name: &[u8]) -> bool {
    name == b"." || name == b".."
}

/// That a name may be given to something.
fn can_be_new(name: &[u8]) -> Result<(), Error> {
    match name {
        _ if name.len() > 255 => Err(Error::NameTooLong),
        _ if name.is_empty() || name.contains(&b'/') || name.contains(&0) => Err(Error::InvalidName),
        _ if is_dot(name) => Err(Error::Exists),
        _ => Ok(()),
    }
}

impl Model {
    pub fn new() -> Self {
        let root = Node::new(Body::Directory { names: BTreeMap::new(), parent: InodeNo::ROOT }, 0o755);
        Self { nodes: BTreeMap::from([(InodeNo::ROOT, root)]), held: BTreeSet::new() }
    }

    pub fn names(&self, number: InodeNo) -> Result<&BTreeMap<Vec<u8>, InodeNo>, Error> {
        match &self.nodes[&number].body {
            Body::Directory { names, .. } => Ok(names),
            _ => Err(Error::NotDirectory),
        }
    }

    fn names_mut(&mut self, number: InodeNo) -> &mut BTreeMap<Vec<u8>, InodeNo> {
        match self.nodes.get_mut(&number).map(|node| &mut node.body) {
            Some(Body::Directory { names, .. }) => names,
            _ => panic!("what was a directory just now"),
        }
    }

    pub fn is_directory(&self, number: InodeNo) -> bool {
        self.names(number).is_ok()
    }

    pub fn links(&self, number: InodeNo) -> u16 {
        let links = match self.names(number) {
            _ if self.held.contains(&number) => 0,
            Ok(names) => 2 + names.values().filter(|child| self.is_directory(**child)).count(),
            Err(_) => {
                let all = self.nodes.keys().filter_map(|directory| self.names(*directory).ok());
                all.flat_map(BTreeMap::values).filter(|child| **child == number).count()
            }
        };
        u16::try_from(links).expect("a small volume")
    }

    /// That `parent` takes the new name.
    pub fn takes(&self, parent: InodeNo, name: &[u8]) -> Result<(), Error> {
        let names = self.names(parent)?;
        if self.held.contains(&parent) {
            return Err(Error::NotFound);
        }
        can_be_new(name)?;
        if names.contains_key(name) { Err(Error::Exists) } else { Ok(()) }
    }

    pub fn child(&self, parent: InodeNo, name: &[u8]) -> Result<InodeNo, Error> {
        let names = self.names(parent)?;
        if name.len() > 255 {
            return Err(Error::NameTooLong);
        }
        names.get(name).copied().ok_or(Error::NotFound)
    }

    pub fn can_unlink(&self, parent: InodeNo, name: &[u8]) -> Result<(), Error> {
        if is_dot(name) || self.is_directory(self.child(parent, name)?) { Err(Error::IsDirectory) } else { Ok(()) }
    }

    pub fn can_rmdir(&self, parent: InodeNo, name: &[u8]) -> Result<(), Error> {
        match name {
            b"." => Err(Error::InvalidName),
            b".." => Err(Error::NotEmpty),
            _ if self.names(self.child(parent, name)?)?.is_empty() => Ok(()),
            _ => Err(Error::NotEmpty),
        }
    }

    /// Whether `below` is `above` or under it.
    fn within(&self, below: InodeNo, above: InodeNo) -> bool {
        let mut at = below;
        while at != above && at != InodeNo::ROOT {
            let Body::Directory { parent, .. } = &self.nodes[&at].body else { return false };
            at = *parent;
        }
        at == above
    }

    pub fn can_rename(&self, from: (InodeNo, &[u8]), to: (InodeNo, &[u8]), how: Rename) -> Result<(), Error> {
        if is_dot(from.1) || is_dot(to.1) {
            return Err(Error::InvalidName);
        }
        if from.1.len() > 255 {
            return Err(Error::NameTooLong);
        }
        can_be_new(to.1)?;
        let source = self.child(from.0, from.1)?;
        let target = self.names(to.0)?.get(to.1).copied();
        if self.held.contains(&to.0) {
            return Err(Error::NotFound);
        }
        if self.is_directory(source) && self.within(to.0, source) {
            return Err(Error::OwnSubtree);
        }
        match (how, target) {
            (Rename::Exchange, Some(target)) if self.is_directory(target) && self.within(from.0, target) => {
                Err(Error::OwnSubtree)
            }
            (Rename::NoReplace, Some(_)) => Err(Error::Exists),
            (Rename::Exchange, None) => Err(Error::NotFound),
            (Rename::Replace, Some(target)) if target != source => {
                match (self.is_directory(source), self.names(target)) {
                    (true, Err(_)) => Err(Error::NotDirectory),
                    (false, Ok(_)) => Err(Error::IsDirectory),
                    (true, Ok(names)) if !names.is_empty() => Err(Error::NotEmpty),
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    pub fn add(&mut self, parent: InodeNo, name: &[u8], number: InodeNo, node: Node) {
        assert!(!self.nodes.contains_key(&number), "{number:?} was given to a new file, and another has it");
        self.nodes.insert(number, node);
        self.link(parent, name, number);
    }

    pub fn link(&mut self, parent: InodeNo, name: &[u8], number: InodeNo) {
        self.names_mut(parent).insert(name.to_vec(), number);
    }

    /// Takes a name away: what has none any more.
    pub fn unlink(&mut self, parent: InodeNo, name: &[u8]) -> Option<InodeNo> {
        let number = self.names_mut(parent).remove(name).expect("a name that can be taken away");
        let dead = self.is_directory(number) || self.links(number) == 0;
        dead.then(|| {
            self.held.insert(number);
            number
        })
    }

    /// A rename that can be: what has no name any more.
    pub fn rename(&mut self, from: (InodeNo, &[u8]), to: (InodeNo, &[u8]), how: Rename) -> Option<InodeNo> {
        let source = self.names_mut(from.0)[from.1];
        let target = self.names_mut(to.0).get(to.1).copied();
        if target == Some(source) {
            return None;
        }
        let mut left = None;
        if let (Some(target), Rename::Exchange) = (target, how) {
            self.move_to(from, target);
        } else {
            left = target.and_then(|_| self.unlink(to.0, to.1));
            self.names_mut(from.0).remove(from.1);
        }
        self.move_to(to, source);
        left
    }

    fn move_to(&mut self, to: (InodeNo, &[u8]), number: InodeNo) {
        self.link(to.0, to.1, number);
        if let Some(Body::Directory { parent, .. }) = self.nodes.get_mut(&number).map(|node| &mut node.body) {
            *parent = to.0;
        }
    }
}

impl Node {
    pub fn new(body: Body, permissions: u16) -> Self {
        Self { permissions, attributes: BTreeMap::new(), body }
    }

    /// The bits that a change of bytes takes away (contract 3).
    pub fn drop_set_id(&mut self) {
        self.permissions &= !(0o4000 | if self.permissions & 0o010 != 0 { 0o2000 } else { 0 });
    }

    pub fn kind(&self) -> Kind {
        match self.body {
            Body::Directory { .. } => Kind::Directory,
            Body::File(_) => Kind::Regular,
            Body::Symlink(_) => Kind::Symlink,
            Body::Other(kind) => kind,
        }
    }
}
