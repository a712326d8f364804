//! A place with attributes: entries from the front, values from the back.
//!
//! There are two: what is left of the inode, and one block. They differ in what comes before the entries, and in what
//! a value's offset counts from. An entry is: length of the name, number of the prefix, offset of the value (2 bytes),
//! inode of the value (4, always 0 here), size (4), hash (4), the name. Four bytes of zeros end the entries.

use super::hash;
use super::name::Name;
use crate::error::Error;
use crate::raw::bytes_at;

const MAGIC: u32 = 0xea02_0000;
/// Bytes of an entry before the name.
const HEAD: usize = 16;
/// Bytes of what ends the entries.
const END: usize = 4;

/// Which place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    Inode,
    Block,
}

impl Place {
    /// Where the entries begin.
    const fn first(self) -> usize {
        match self {
            Self::Inode => 4,
            Self::Block => 32,
        }
    }

    /// What the offsets of values count from.
    const fn base(self) -> usize {
        match self {
            Self::Inode => 4,
            Self::Block => 0,
        }
    }
}

/// An attribute, checked: name and value lie inside the area.
#[derive(Clone, Copy)]
pub(super) struct Attribute<'a> {
    pub(super) name: Name<'a>,
    pub(super) value: &'a [u8],
}

impl Attribute<'_> {
    fn entry_len(&self) -> usize {
        (HEAD + self.name.rest.len()).next_multiple_of(4)
    }

    fn value_len(&self) -> usize {
        self.value.len().next_multiple_of(4)
    }
}

/// The attributes in one place.
#[derive(Clone, Copy)]
pub(super) struct Area<'a> {
    bytes: &'a [u8],
    place: Place,
    inode: u32,
}

impl<'a> Area<'a> {
    /// The area in these bytes. An inode without the magic number has no attributes; a block must have it.
    pub(super) fn new(place: Place, bytes: &'a [u8], inode: u32) -> Result<Self, Error> {
        let room = bytes.len() >= place.first() + END;
        let bytes = match place {
            _ if room && u32::from_le_bytes(bytes_at(bytes, 0)) == MAGIC => bytes,
            Place::Inode => &[],
            Place::Block => return Err(Error::Corrupt { what: "the block of attributes is none", inode, at: 0 }),
        };
        if place == Place::Block && u32::from_le_bytes(bytes_at(bytes, 8)) != 1 {
            return Err(Error::Corrupt { what: "the attributes have more than one block", inode, at: 8 });
        }
        Ok(Self { bytes, place, inode })
    }

    /// A place without attributes.
    pub(super) fn empty(place: Place, inode: u32) -> Self {
        Self { bytes: &[], place, inode }
    }

    pub(super) fn attributes(self) -> Attributes<'a> {
        Attributes { area: self, at: self.place.first() }
    }

    /// The attribute of this name.
    pub(super) fn find(self, name: &Name<'_>) -> Result<Option<Attribute<'a>>, Error> {
        for attribute in self.attributes() {
            let attribute = attribute?;
            if attribute.name == *name {
                return Ok(Some(attribute));
            }
        }
        Ok(None)
    }

    fn corrupt(&self, what: &'static str, at: usize) -> Error {
        Error::Corrupt { what, inode: self.inode, at: at as u64 }
    }

    /// The attribute whose entry is at `at`, and where the next is; `None` at the end.
    fn attribute(&self, at: usize) -> Result<Option<(Attribute<'a>, usize)>, Error> {
        let Some(rest) = self.bytes.get(at..).filter(|rest| rest.len() >= END) else {
            return Err(self.corrupt("the attributes have no end", at));
        };
        if bytes_at(rest, 0) == [0; END] {
            return Ok(None);
        }
        let name_len = usize::from(rest[0]);
        let next = (HEAD + name_len).next_multiple_of(4);
        if next + END > rest.len() {
            return Err(self.corrupt("an attribute's entry crosses the end", at));
        }
        let name = Name { index: rest[1], rest: &rest[HEAD..HEAD + name_len] };
        if name.rest.contains(&0) {
            return Err(self.corrupt("an attribute's name has a zero byte", at));
        }
        if bytes_at(rest, 4) != [0; 4] {
            return Err(self.corrupt("an attribute's value is in another inode", at));
        }
        let size = u32::from_le_bytes(bytes_at(rest, 8)) as usize;
        let start = self.place.base() + usize::from(u16::from_le_bytes(bytes_at(rest, 2)));
        let value = if size == 0 { Some(&[][..]) } else { self.bytes.get(start..start.saturating_add(size)) };
        let value = value.ok_or_else(|| self.corrupt("an attribute's value is outside", at))?;
        Ok(Some((Attribute { name, value }, at + next)))
    }
}

/// The attributes of an area. Every step goes on by at least an entry; an error is the last item.
pub(super) struct Attributes<'a> {
    area: Area<'a>,
    at: usize,
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<Attribute<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.area.bytes.len() {
            return None;
        }
        match self.area.attribute(self.at).transpose()? {
            Ok((attribute, next)) => {
                self.at = next;
                Some(Ok(attribute))
            }
            Err(error) => {
                self.at = self.area.bytes.len();
                Some(Err(error))
            }
        }
    }
}

/// What became of an area.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Built {
    /// It has attributes.
    Some,
    /// It has none, and is all zeros.
    None,
    /// They do not fit.
    Full,
}

/// Fills `to` with the attributes of `old`, all but the one named, and with `new`, in their order.
pub(super) fn build(
    to: &mut [u8],
    old: Area<'_>,
    without: &Name<'_>,
    new: Option<Attribute<'_>>,
) -> Result<Built, Error> {
    let place = old.place;
    to.fill(0);
    if to.len() < place.first() + END {
        return Ok(if new.is_some() { Built::Full } else { Built::None });
    }
    let mut new = new;
    let mut built = Writer { at: place.first(), values: to.len() / 4 * 4, to, place, hash: 0 };
    for attribute in old.attributes() {
        let attribute = attribute?;
        if attribute.name == *without {
            continue;
        }
        if let Some(first) = new.take_if(|new| new.name.is_before(&attribute.name))
            && !built.push(&first)
        {
            return Ok(Built::Full);
        }
        if !built.push(&attribute) {
            return Ok(Built::Full);
        }
    }
    if new.is_some_and(|last| !built.push(&last)) {
        return Ok(Built::Full);
    }
    Ok(built.finish())
}

struct Writer<'a> {
    to: &'a mut [u8],
    place: Place,
    /// Where the next entry goes; where the values begin.
    at: usize,
    values: usize,
    hash: u32,
}

impl Writer<'_> {
    /// Adds an attribute; whether there was room.
    fn push(&mut self, attribute: &Attribute<'_>) -> bool {
        let (entry_len, value_len) = (attribute.entry_len(), attribute.value_len());
        if self.values - self.at < END || entry_len + value_len > self.values - self.at - END {
            return false;
        }
        self.values -= value_len;
        let offset = if value_len == 0 { 0 } else { self.values - self.place.base() };
        let (head, values) = self.to.split_at_mut(self.values);
        values[..attribute.value.len()].copy_from_slice(attribute.value);
        let entry = &mut head[self.at..self.at + entry_len];
        let rest = attribute.name.rest;
        // Names have at most 255 bytes, and everything lies in an area of at most 4096.
        entry[0] = u8::try_from(rest.len()).unwrap_or(u8::MAX);
        entry[1] = attribute.name.index;
        entry[2..4].copy_from_slice(&u16::try_from(offset).unwrap_or(u16::MAX).to_le_bytes());
        entry[8..12].copy_from_slice(&u32::try_from(attribute.value.len()).unwrap_or(u32::MAX).to_le_bytes());
        entry[HEAD..HEAD + rest.len()].copy_from_slice(rest);
        if self.place == Place::Block {
            let hash = hash::entry(rest, &values[..value_len]);
            entry[12..16].copy_from_slice(&hash.to_le_bytes());
            self.hash = hash::mix(self.hash, hash);
        }
        self.at += entry_len;
        true
    }

    fn finish(self) -> Built {
        if self.at == self.place.first() {
            return Built::None;
        }
        self.to[..4].copy_from_slice(&MAGIC.to_le_bytes());
        if self.place == Place::Block {
            // One owner, one block.
            self.to[4..8].copy_from_slice(&1_u32.to_le_bytes());
            self.to[8..12].copy_from_slice(&1_u32.to_le_bytes());
            self.to[12..16].copy_from_slice(&self.hash.to_le_bytes());
        }
        Built::Some
    }
}
