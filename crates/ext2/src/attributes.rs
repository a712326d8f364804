//! Extended attributes of a file: from storage and to it. What the bytes mean is known to `xattr`.
//!
//! Order of stores (contract 7): a changed block of attributes is a new block, whole and durable before the inode names
//! it; the old one is given back after. The block's number, the attributes in the inode and the time change at once.

use crate::error::Error;
use crate::inode::{InodeNo, Node, SetAttributes};
use crate::intent::Intent;
use crate::volume::Volume;
use crate::xattr::{self, BlockChange, Storage, acl};
use xip_core::{Device, Env, LockId};

/// Where the number of files that share a block of attributes stands in it.
const OWNERS: u64 = 4;

impl<D: Device, E: Env> Volume<D, E> {
    /// Copies the value of the attribute `name` (such as `user.origin`) into `to`; its length. With an empty `to` only
    /// the length. `None` if the file has no such attribute. POSIX ACLs are `system.posix_acl_access` and
    /// `system.posix_acl_default`, as the kernel hands them out.
    ///
    /// # Errors
    /// [`Error::ValueTooLarge`] when `to` is too short; [`Error::Corrupt`].
    pub fn xattr(&self, number: InodeNo, name: &[u8], to: &mut [u8]) -> Result<Option<usize>, Error> {
        self.with_attributes(number, |storage| xattr::get(storage, name, to))
    }

    /// Calls `each` with the name of every attribute of a file, and the length of its value.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub fn xattrs(&self, number: InodeNo, each: &mut dyn FnMut(&[u8], usize)) -> Result<(), Error> {
        self.with_attributes(number, |storage| xattr::for_each(storage, each))
    }

    /// Gives an attribute a value, or takes it away (`None`). A file's own ACL (`system.posix_acl_access`) sets its permission
    /// bits too; one that says no more than these is not kept beside them.
    ///
    /// # Errors
    /// [`Error::NoAttribute`] when there is none to take away; [`Error::AttributesFull`] when all of them together do not
    /// fit the inode and one block, [`Error::ValueTooLarge`] when this one alone does not; [`Error::Unsupported`] for a
    /// prefix that the format has no number for; [`Error::ReadOnly`].
    pub fn set_xattr(&self, number: InodeNo, name: &[u8], value: Option<&[u8]>) -> Result<(), Error> {
        self.check_writable()?;
        let _guard = self.env.exclusive(LockId::Inode(number.0));
        let node = self.node(number)?;
        let Some(list) = value.filter(|_| name == xattr::ACCESS) else {
            return self.change_attribute(number, name, value, &SetAttributes::default());
        };
        xattr::check_list(list)?;
        let (mode, more) = acl::mode(list);
        let permissions = Some(node.permissions() & !0o777 | mode);
        let change = SetAttributes { permissions, ..SetAttributes::default() };
        let done = self.change_attribute(number, name, more.then_some(list), &change);
        if more || done != Err(Error::NoAttribute) { done } else { self.store_attributes(&node, &change) }
    }

    /// As [`Volume::set_xattr`], by one who has the file's lock, and with a change of the inode at once.
    pub(crate) fn change_attribute(
        &self,
        number: InodeNo,
        name: &[u8],
        value: Option<&[u8]>,
        change: &SetAttributes,
    ) -> Result<(), Error> {
        let node = self.node(number)?;
        let old_raw = self.raw_inode_at(node.at)?;
        let mut raw = old_raw;
        let (mut area, mut block) = ([0; 4096], [0; 4096]);
        let (area_at, area_len) = self.read_area(&node, &mut area)?;
        let old = self.read_block(&node, &mut block)?;
        let old_area = area;
        let (area, block) = (&mut area[..area_len], &mut block[..self.geometry.block_size as usize]);
        let changed = xattr::set(area, block, old.is_some(), number.0, name, value)?;

        let mut new = None;
        if changed.block == BlockChange::Store {
            let goal = self.geometry.group_data((number.0 - 1) / self.geometry.inodes_per_group).start;
            let reserved = self.reserve(goal, 1)?;
            self.put(self.geometry.byte(reserved.first), block)?;
            new = Some(reserved);
        }
        if changed.block != BlockChange::Same {
            let unit = self.geometry.block_size / 512;
            let others = raw.blocks512().saturating_sub(if old.is_some() { unit } else { 0 });
            raw.set_blocks512(others.saturating_add(if new.is_some() { unit } else { 0 }));
            raw.set_attribute_block(new.as_ref().map_or(0, |new| new.first));
        }
        change.apply(&mut raw, self.env.now());
        let mut intent = Intent::new();
        intent.inode(node.at, &old_raw, &raw)?;
        intent.change(area_at, &old_area[..area_len], area)?;
        let applied = self.apply(self.fence()?, &mut intent);
        if let Some(new) = new {
            // What failed may have been stored partly: the block is leaked then, not reused.
            new.commit();
        }
        applied?;
        self.fence()?;
        match old {
            Some(old) if changed.block != BlockChange::Same => self.leave_block(old),
            _ => Ok(()),
        }
    }

    fn with_attributes<T>(
        &self,
        number: InodeNo,
        what: impl FnOnce(&Storage<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let _guard = self.env.shared(LockId::Inode(number.0));
        self.with_attributes_locked(number, what)
    }

    /// As [`Volume::with_attributes`], by one who has the file's lock.
    pub(crate) fn with_attributes_locked<T>(
        &self,
        number: InodeNo,
        what: impl FnOnce(&Storage<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let node = self.node(number)?;
        let (mut area, mut block) = ([0; 4096], [0; 4096]);
        let (_, area_len) = self.read_area(&node, &mut area)?;
        let has_block = self.read_block(&node, &mut block)?.is_some();
        let block = has_block.then_some(&block[..self.geometry.block_size as usize]);
        what(&Storage { in_inode: &area[..area_len], block, inode: number.0 })
    }

    /// Reads what the inode holds of attributes: where it stands, and how long it is.
    fn read_area(&self, node: &Node, to: &mut [u8; 4096]) -> Result<(u64, usize), Error> {
        let (at, len) = self.attribute_area(node)?;
        self.device.read(at, &mut to[..len])?;
        Ok((at, len))
    }

    /// Reads the block of attributes, if there is one: its number.
    fn read_block(&self, node: &Node, to: &mut [u8; 4096]) -> Result<Option<u32>, Error> {
        let block = self.attribute_block(node)?;
        if block == 0 {
            return Ok(None);
        }
        if !self.is_file_block(block)? {
            let what = "a block of attributes that cannot be one";
            return Err(Error::Corrupt { what, inode: node.number.0, at: block.into() });
        }
        self.device.read(self.geometry.byte(block), &mut to[..self.geometry.block_size as usize])?;
        Ok(Some(block))
    }

    /// One file fewer shares this block of attributes; the last one gives it back. No inode leads there any more, and that
    /// is durable.
    pub(crate) fn leave_block(&self, block: u32) -> Result<(), Error> {
        {
            // The files that share it have a lock each; this one they have in common.
            let _guard = self.env.exclusive(LockId::Group(self.geometry.group_of_block(block)));
            let at = self.geometry.byte(block) + OWNERS;
            let mut owners = [0; 4];
            self.device.read(at, &mut owners)?;
            let owners = u32::from_le_bytes(owners);
            if owners > 1 {
                return self.put(at, &(owners - 1).to_le_bytes());
            }
        }
        self.free_blocks(block, 1)
    }
}
