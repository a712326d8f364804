//! What changes a file: its bytes, its size, its space, its attributes.

use super::{File, Opened};
use crate::change;
use crate::error::{Error, Result};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::time::SystemTime;
use xip_core::{Host, ops};
use xip_ext2::SetAttributes;

impl File {
    /// Writes at `offset`, or at the end for a file that was opened to append; how many bytes: fewer than all when space ends.
    ///
    /// # Errors
    /// The file was not opened to be written; no space for the first byte; past the largest size of a file; the device's.
    pub fn write_at(&self, from: &[u8], offset: u64) -> Result<usize> {
        self.writev_at(&[from], offset)
    }

    /// Writes all of `from` from `offset` on.
    ///
    /// # Errors
    /// As [`File::write_at`]; then some of it may be written.
    pub fn write_all_at(&self, from: &[u8], offset: u64) -> Result<()> {
        let mut done = 0;
        while done < from.len() {
            match self.write_at(&from[done..], offset.saturating_add(done as u64))? {
                0 => return Err(Error::Io(io::ErrorKind::WriteZero.into())),
                count => done += count,
            }
        }
        Ok(())
    }

    /// Writes one buffer after the other at `offset`, as one operation: nobody sees, or writes between, a part of it.
    ///
    /// # Errors
    /// As [`File::write_at`]; `EINVAL` for more than 1024 buffers.
    pub fn writev_at(&self, from: &[&[u8]], offset: u64) -> Result<usize> {
        self.check_write()?;
        Ok(on!(self.opened()?, file => ops::writev(&file, offset, from, &self.how()))?)
    }

    /// Sets the size: what is cut off is gone, what is added reads as zeros and has no storage.
    ///
    /// # Errors
    /// The file was not opened to be written; past the largest size of a file; the device's.
    pub fn set_len(&self, size: u64) -> Result<()> {
        self.check_write()?;
        Ok(self.truncate(size)?)
    }

    pub(crate) fn truncate(&self, size: u64) -> std::result::Result<(), xip_ext2::Error> {
        on!(self.opened()?, file => ops::truncate_as(&file, size, &self.how()))
    }

    /// Gives storage to `[offset, offset + len)`, so that writes there cannot fail for lack of space: `fallocate`. What had none
    /// reads as zeros. The file grows to the end of it, unless `keep_size`.
    ///
    /// # Errors
    /// `EINVAL` for no bytes; no space; `EOPNOTSUPP` for storage beyond the end of a file that keeps its size, for which ext2 has
    /// no way; as [`File::set_len`].
    pub fn allocate(&self, offset: u64, len: u64, keep_size: bool) -> Result<()> {
        self.check_write()?;
        Ok(on!(self.opened()?, file => ops::fallocate(&file, offset, len, keep_size, &self.how()))?)
    }

    /// Makes `[offset, offset + len)` zeros, with storage. The file grows to the end of it, unless `keep_size`.
    ///
    /// # Errors
    /// As [`File::allocate`].
    pub fn zero_range(&self, offset: u64, len: u64, keep_size: bool) -> Result<()> {
        self.check_write()?;
        Ok(on!(self.opened()?, file => ops::zero_range(&file, offset, len, keep_size, &self.how()))?)
    }

    /// Makes `[offset, offset + len)` a hole, as far as the file goes: whole pages give their storage back, parts of pages
    /// become zeros.
    ///
    /// # Errors
    /// `EINVAL` for no bytes; as [`File::set_len`].
    pub fn punch_hole(&self, offset: u64, len: u64) -> Result<()> {
        self.check_write()?;
        Ok(on!(self.opened()?, file => ops::punch_hole(&file, offset, len, &self.how()))?)
    }

    /// Returns when everything about the file is durable, as far as the storage can: `fsync`.
    ///
    /// # Errors
    /// The storage's.
    pub fn sync_all(&self) -> Result<()> {
        Ok(on!(self.opened()?, file => file.sync(false))?)
    }

    /// Returns when the bytes of the file are durable, and what is needed to find them: `fdatasync`.
    ///
    /// # Errors
    /// The storage's.
    pub fn sync_data(&self) -> Result<()> {
        Ok(on!(self.opened()?, file => file.sync(true))?)
    }

    /// Sets permission bits, with set-id and sticky.
    ///
    /// # Errors
    /// The volume is only read; the device's.
    pub fn set_permissions(&self, mode: u32) -> Result<()> {
        self.set_attributes(&change::permissions(mode))
    }

    /// Sets owner and group; `None` stays. Set-id bits go with that.
    ///
    /// # Errors
    /// As [`File::set_permissions`].
    pub fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        Ok(self.volume().inodes().set_owner(self.ino(), uid, gid)?)
    }

    /// Sets when it was last read and last changed; `None` stays.
    ///
    /// # Errors
    /// As [`File::set_permissions`].
    pub fn set_times(&self, accessed: Option<SystemTime>, modified: Option<SystemTime>) -> Result<()> {
        self.set_attributes(&change::times(accessed, modified))
    }

    /// Sets any attributes, all at once.
    ///
    /// # Errors
    /// As [`File::set_permissions`].
    pub fn set_attributes(&self, change: &SetAttributes) -> Result<()> {
        Ok(self.volume().inodes().set_attributes(self.ino(), change)?)
    }

    /// The extended attribute `name`, such as `user.origin`; `None` when the file has no such attribute.
    ///
    /// # Errors
    /// The attributes are damaged.
    pub fn xattr(&self, name: impl AsRef<OsStr>) -> Result<Option<Vec<u8>>> {
        Ok(self.volume().inodes().xattr(self.ino(), name.as_ref().as_bytes())?)
    }

    /// The names of the extended attributes.
    ///
    /// # Errors
    /// The attributes are damaged.
    pub fn xattrs(&self) -> Result<Vec<OsString>> {
        Ok(self.volume().inodes().xattrs(self.ino())?)
    }

    /// Sets the extended attribute `name`.
    ///
    /// # Errors
    /// As [`Volume::set_xattr`](crate::Volume::set_xattr).
    pub fn set_xattr(&self, name: impl AsRef<OsStr>, value: impl AsRef<[u8]>) -> Result<()> {
        Ok(self.volume().inodes().set_xattr(self.ino(), name.as_ref().as_bytes(), Some(value.as_ref()))?)
    }

    /// Takes the extended attribute `name` away.
    ///
    /// # Errors
    /// As [`Volume::remove_xattr`](crate::Volume::remove_xattr).
    pub fn remove_xattr(&self, name: impl AsRef<OsStr>) -> Result<()> {
        Ok(self.volume().inodes().set_xattr(self.ino(), name.as_ref().as_bytes(), None)?)
    }
}
