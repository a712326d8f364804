//! Everything that a volume says, and the errors that it says it with.

use std::collections::{BTreeMap, BTreeSet};
use xip_core::ops::{self, seek_data, seek_hole};
use xip_core::{Device, Env, Pages};
use xip_ext2::{Error, File, Inode, InodeNo, Kind, Volume};

/// So many bytes of a file are read from each stretch that has storage, and at its start; and of so many stretches.
const BYTES: usize = 8192;
const STRETCHES: usize = 64;

/// What an inode says.
#[derive(Debug, PartialEq, Default)]
pub struct Said {
    pub inode: Option<Inode>,
    pub names: Vec<(Vec<u8>, InodeNo)>,
    pub pieces: Vec<(u64, u64, Vec<u8>)>,
    pub target: Vec<u8>,
    pub attributes: BTreeMap<Vec<u8>, Vec<u8>>,
    pub errors: Vec<Error>,
}

/// What every inode says that the root leads to.
pub fn walk<D: Device, E: Env>(volume: &Volume<D, E>) -> BTreeMap<InodeNo, Said> {
    let mut found = BTreeMap::new();
    let mut todo = BTreeSet::from([InodeNo::ROOT]);
    while let Some(number) = todo.pop_first() {
        let mut said = Said::default();
        if let Err(error) = listen(volume, number, &mut said) {
            said.errors.push(error);
        }
        found.insert(number, said);
        todo.extend(found[&number].names.iter().map(|(_, child)| *child).filter(|child| !found.contains_key(child)));
    }
    found
}

fn listen<D: Device, E: Env>(volume: &Volume<D, E>, number: InodeNo, said: &mut Said) -> Result<(), Error> {
    let inode = volume.inode(number)?;
    said.inode = Some(inode);
    if let Err(error) = attributes(volume, number, said) {
        said.errors.push(error);
    }
    match inode.kind {
        Kind::Directory => names(volume, number, said),
        Kind::Symlink => {
            let mut to = vec![0; 4096];
            let len = volume.read_link(number, &mut to)?;
            said.target = to[..len].to_vec();
            Ok(())
        }
        Kind::Regular => match volume.file(number)? {
            File::InPlace(file) => pieces(&file, said),
            File::Cached(file) => pieces(&file, said),
        },
        _ => Ok(()),
    }
}

fn attributes<D: Device, E: Env>(volume: &Volume<D, E>, number: InodeNo, said: &mut Said) -> Result<(), Error> {
    let mut names = Vec::new();
    volume.xattrs(number, &mut |name, len| names.push((name.to_vec(), len)))?;
    for (name, len) in names {
        let mut value = vec![0; len];
        if volume.xattr(number, &name, &mut value)? == Some(len) {
            said.attributes.insert(name, value);
        }
    }
    Ok(())
}

fn names<D: Device, E: Env>(volume: &Volume<D, E>, number: InodeNo, said: &mut Said) -> Result<(), Error> {
    let listed = volume.read_dir(number, 0, &mut |entry| {
        said.names.push((entry.name.to_vec(), entry.ino));
        true
    });
    // The order is that of places or of hashes.
    said.names.sort();
    for (name, _) in &said.names {
        // By its index too, if it has one.
        if let Err(error) = volume.lookup(number, name) {
            said.errors.push(error);
        }
    }
    listed
}

fn pieces<F: Pages<Error = Error>>(file: &F, said: &mut Said) -> Result<(), Error> {
    let mut read = |at, end| -> Result<(), Error> {
        let mut bytes = vec![0xaa; BYTES];
        let count = ops::read(file, at, &mut bytes)?;
        bytes.truncate(count);
        said.pieces.push((at, end, bytes));
        Ok(())
    };
    read(0, 0)?;
    let mut at = 0;
    for _ in 0..STRETCHES {
        let start = match seek_data(file, at) {
            Err(Error::Device(xip_core::Error::NothingThere)) => break,
            other => other?,
        };
        at = seek_hole(file, start)?;
        read(start, at)?;
    }
    Ok(())
}
