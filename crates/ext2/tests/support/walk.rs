//! Everything a volume says, and the errors it says it with.

use super::Bytes;
use std::collections::BTreeMap;
use std::rc::Rc;
use xip_core::ops;
use xip_core::{Alone, Pages};
use xip_ext2::{Error, File, InodeNo, Kind, Volume};

/// What was found under a path.
#[derive(Debug, Clone, PartialEq)]
pub enum Found {
    Directory,
    /// Shared by all names of the file.
    File(Rc<Vec<u8>>),
    Link(Vec<u8>),
    Other(Kind),
    Failed(Error),
}

/// Walks the whole volume, each inode once, whatever its names. Reads at most `most` bytes of a file.
pub fn walk(volume: &Volume<Bytes, Alone>, most: usize) -> BTreeMap<Vec<u8>, Found> {
    let mut found = BTreeMap::new();
    let mut seen = std::collections::BTreeSet::new();
    let mut files = BTreeMap::new();
    let mut todo = vec![(Vec::new(), InodeNo::ROOT)];
    while let Some((path, number)) = todo.pop() {
        let inode = match volume.inode(number) {
            Ok(inode) => inode,
            Err(error) => {
                found.insert(path, Found::Failed(error));
                continue;
            }
        };
        let what = match inode.kind {
            Kind::Directory if seen.insert(number) => {
                let mut names = Vec::new();
                let result = volume.read_dir(number, 0, &mut |entry| {
                    names.push((entry.name.to_vec(), entry.ino));
                    true
                });
                for (name, child) in names {
                    if name != b"." && name != b".." {
                        // By its index too, if it has one.
                        let _ = volume.lookup(number, &name);
                        todo.push(([path.as_slice(), b"/", &name].concat(), child));
                    }
                }
                result.map_or_else(Found::Failed, |()| Found::Directory)
            }
            Kind::Directory => Found::Directory,
            Kind::Regular => files
                .entry(number)
                .or_insert_with(|| {
                    contents(volume, number, most).map_or_else(Found::Failed, |bytes| Found::File(bytes.into()))
                })
                .clone(),
            Kind::Symlink => {
                let mut to = vec![0; 4096];
                volume.read_link(number, &mut to).map_or_else(Found::Failed, |len| Found::Link(to[..len].to_vec()))
            }
            other => Found::Other(other),
        };
        found.insert(path, what);
    }
    found
}

fn contents(volume: &Volume<Bytes, Alone>, number: InodeNo, most: usize) -> Result<Vec<u8>, Error> {
    fn all(file: &impl Pages<Error = Error>, most: usize) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0xaa; usize::try_from(file.size()?).unwrap_or(most).min(most)];
        let count = ops::read(file, 0, &mut bytes)?;
        bytes.truncate(count);
        Ok(bytes)
    }
    match volume.file(number)? {
        File::InPlace(file) => all(&file, most),
        File::Cached(file) => all(&file, most),
    }
}
