//! Extended attributes: names and values that a file has beside its data.
//!
//! | module | what it knows |
//! |---|---|
//! | `name` | prefixes and their numbers |
//! | `area` | entries and values in a piece of storage, checked; how such a piece is made |
//! | `hash` | the hashes in a block |
//! | `acl` | POSIX ACLs, on storage and as the kernel hands them out |
//!
//! They stand in what is left of the inode, as long as there is room, and then in one block. Here are only bytes: who
//! calls reads them from storage, and stores what has changed in both places at once (contract 7, rule 3).

pub(crate) mod acl;
mod area;
mod hash;
mod name;
#[cfg(test)]
mod tests;

use crate::error::Error;
use area::{Area, Attribute, Built, Place, build};
use name::Name;

/// The names of POSIX ACLs: a file's own, and what a directory gives to what is made in it.
pub(crate) const ACCESS: &[u8] = b"system.posix_acl_access";
pub(crate) const DEFAULT: &[u8] = b"system.posix_acl_default";

/// The bytes that can hold a file's attributes.
#[derive(Clone, Copy)]
pub(crate) struct Storage<'a> {
    /// What comes after the inode's extra fields; may be empty.
    pub(crate) in_inode: &'a [u8],
    /// The block of attributes, as long as a block is, if there is one.
    pub(crate) block: Option<&'a [u8]>,
    /// Whose they are, for errors.
    pub(crate) inode: u32,
}

impl<'a> Storage<'a> {
    fn areas(&self) -> Result<[Area<'a>; 2], Error> {
        let block = match self.block {
            Some(block) => Area::new(Place::Block, block, self.inode)?,
            None => Area::empty(Place::Block, self.inode),
        };
        Ok([Area::new(Place::Inode, self.in_inode, self.inode)?, block])
    }

    fn damaged_acl(&self) -> Error {
        Error::Corrupt { what: "a POSIX ACL", inode: self.inode, at: 0 }
    }
}

/// Puts the value of the attribute `name` into `to`; its length. With an empty `to` only the length. `None` if there
/// is no such attribute.
///
/// # Errors
/// [`Error::ValueTooLarge`] when `to` is too short; [`Error::NameTooLong`], [`Error::InvalidName`], [`Error::Corrupt`].
pub(crate) fn get(storage: &Storage<'_>, name: &[u8], to: &mut [u8]) -> Result<Option<usize>, Error> {
    let Some(name) = Name::parse(name)? else { return Ok(None) };
    for area in storage.areas()? {
        let Some(found) = area.find(&name)? else { continue };
        let len = value_len(storage, &found)?;
        if to.is_empty() {
            return Ok(Some(len));
        }
        let to = to.get_mut(..len).ok_or(Error::ValueTooLarge)?;
        if name.is_acl() {
            acl::to_handed(found.value, to).ok_or(storage.damaged_acl())?;
        } else {
            to.copy_from_slice(found.value);
        }
        return Ok(Some(len));
    }
    Ok(None)
}

/// Calls `each` with the name of every attribute and the length of its value. Those with a prefix that is not known
/// are passed over, as the kernel does.
///
/// # Errors
/// [`Error::Corrupt`].
pub(crate) fn for_each(storage: &Storage<'_>, each: &mut dyn FnMut(&[u8], usize)) -> Result<(), Error> {
    for area in storage.areas()? {
        for attribute in area.attributes() {
            let attribute = attribute?;
            let mut full = [0; 510];
            if let Some(len) = attribute.name.full(&mut full) {
                each(&full[..len], value_len(storage, &attribute)?);
            }
        }
    }
    Ok(())
}

fn value_len(storage: &Storage<'_>, attribute: &Attribute<'_>) -> Result<usize, Error> {
    if attribute.name.is_acl() {
        acl::handed_len(attribute.value).ok_or(storage.damaged_acl())
    } else {
        Ok(attribute.value.len())
    }
}

/// That a value is a list as the kernel hands them out.
///
/// # Errors
/// [`Error::Unsupported`]; [`Error::ValueTooLarge`] when no block holds it.
pub(crate) fn check_list(value: &[u8]) -> Result<(), Error> {
    acl::to_stored(value, &mut [0; 4096]).map(|_| ())
}

/// What a change of attributes left to store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Changed {
    /// The bytes in the inode.
    pub(crate) in_inode: bool,
    /// The block.
    pub(crate) block: BlockChange,
}

/// What becomes of the block of attributes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum BlockChange {
    /// It stays as it is.
    Same,
    /// It has to be stored; a new one if there was none, or if the old one has more owners.
    Store,
    /// Nothing is in it any more.
    Free,
}

/// Gives an attribute a value, or takes it away (`None`). `in_inode` is what comes after the inode's extra fields and
/// `block` has the length of a block; it holds attributes only if `has_block` says so. Both are changed in place, or,
/// with an error, not at all. The attribute goes into the inode if there is room, else into the block.
///
/// # Errors
/// [`Error::NoAttribute`] when there is none to take away; [`Error::AttributesFull`] when all of them together do not fit,
/// [`Error::ValueTooLarge`] when this one alone does not; [`Error::Unsupported`] for a prefix that the format has no
/// number for, and for a value that is no ACL where one must be; those of [`get`].
pub(crate) fn set(
    in_inode: &mut [u8],
    block: &mut [u8],
    has_block: bool,
    inode: u32,
    name: &[u8],
    value: Option<&[u8]>,
) -> Result<Changed, Error> {
    const PREFIX: Error = Error::Unsupported("attributes must begin with user., trusted., security. or system.");
    let name = Name::parse(name)?.ok_or(PREFIX)?;
    let mut list = [0; 4096];
    let new = match value {
        Some(value) if name.is_acl() => {
            let len = acl::to_stored(value, &mut list)?;
            Some(Attribute { name, value: &list[..len] })
        }
        Some(value) => Some(Attribute { name, value }),
        None => None,
    };
    let storage = Storage { in_inode, block: has_block.then_some(&*block), inode };
    let [old_inode, old_block] = storage.areas()?;
    let [was_in_inode, was_in_block] = [old_inode.find(&name)?.is_some(), old_block.find(&name)?.is_some()];
    if new.is_none() && !was_in_inode && !was_in_block {
        return Err(Error::NoAttribute);
    }
    let (mut inode_bytes, mut block_bytes) = ([0; 4096], [0; 4096]);
    let (inode_bytes, block_bytes) = (&mut inode_bytes[..in_inode.len()], &mut block_bytes[..block.len()]);
    let mut built_block = Built::None;
    let to_inode = new.is_some() && build(inode_bytes, old_inode, &name, new)? != Built::Full;
    let to_block = new.is_some() && !to_inode;
    if to_block {
        built_block = build(block_bytes, old_block, &name, new)?;
    } else if was_in_block {
        built_block = build(block_bytes, old_block, &name, None)?;
    }
    if was_in_inode && !to_inode {
        build(inode_bytes, old_inode, &name, None)?;
    }
    if built_block == Built::Full {
        let alone = new.is_some_and(|new| {
            build(block_bytes, Area::empty(Place::Block, inode), &name, Some(new)) == Ok(Built::Full)
        });
        return Err(if alone { Error::ValueTooLarge } else { Error::AttributesFull });
    }
    let changed = Changed {
        in_inode: to_inode || was_in_inode,
        block: match built_block {
            _ if !to_block && !was_in_block => BlockChange::Same,
            Built::Some => BlockChange::Store,
            _ => BlockChange::Free,
        },
    };
    if changed.in_inode {
        in_inode.copy_from_slice(inode_bytes);
    }
    if changed.block != BlockChange::Same {
        block.copy_from_slice(block_bytes);
    }
    Ok(changed)
}
