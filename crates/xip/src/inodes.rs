//! A volume by inode numbers: for a mount, a runner, a guest, which have a number and no path.

use crate::file::File;
use crate::metadata::Metadata;
use crate::path;
use crate::volume::Volume;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use xip_ext2::{DirEntry, Error, InodeNo, Kind};

/// A volume by inode numbers. The errors are those of the volume, each with an errno.
#[derive(Clone, Copy, Debug)]
pub struct Inodes<'v>(pub(crate) &'v Volume);

impl<'v> Inodes<'v> {
    /// What is known of an inode.
    ///
    /// # Errors
    /// It is not in use, or damaged.
    pub fn metadata(self, ino: InodeNo) -> Result<Metadata, Error> {
        self.0.0.fs.inode(ino).map(Metadata)
    }

    /// The inode that `name` leads to, `None` when the directory has no such name. `..` of the root is the root.
    ///
    /// # Errors
    /// `directory` is none, or damaged; the name is longer than 255 bytes.
    pub fn lookup(self, directory: InodeNo, name: &[u8]) -> Result<Option<InodeNo>, Error> {
        let kind = self.0.0.fs.inode(directory)?.kind;
        Ok(path::lookup(&self.0.0, (directory, kind), name)?.map(|(ino, _)| ino))
    }

    /// Opens a regular file.
    ///
    /// # Errors
    /// It is something else, not in use, or damaged.
    pub fn file(self, ino: InodeNo) -> Result<File, Error> {
        File::open(self.0, ino)
    }

    /// Calls `each` with the entries of a directory from `cursor` on (0, or [`DirEntry::next`] of an earlier one),
    /// `.` and `..` among them, until it returns false.
    ///
    /// # Errors
    /// `directory` is none, or damaged.
    pub fn read_dir(
        self,
        directory: InodeNo,
        cursor: u64,
        each: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Result<(), Error> {
        self.0.0.fs.read_dir(directory, cursor, each)
    }

    /// Where a symbolic link points.
    ///
    /// # Errors
    /// It is something else, not in use, or damaged.
    pub fn read_link(self, ino: InodeNo) -> Result<OsString, Error> {
        let mut target = vec![0; self.0.geometry().block_size as usize];
        let len = self.0.0.fs.read_link(ino, &mut target)?;
        target.truncate(len);
        Ok(OsString::from_vec(target))
    }

    /// The extended attribute `name`, `None` when the inode has no such attribute.
    ///
    /// # Errors
    /// The inode or its attributes are damaged.
    pub fn xattr(self, ino: InodeNo, name: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        // No value is longer than a block.
        let mut value = vec![0; self.0.geometry().block_size as usize];
        Ok(self.0.0.fs.xattr(ino, name, &mut value)?.map(|len| {
            value.truncate(len);
            value
        }))
    }

    /// The names of the extended attributes.
    ///
    /// # Errors
    /// The inode or its attributes are damaged.
    pub fn xattrs(self, ino: InodeNo) -> Result<Vec<OsString>, Error> {
        let mut names = Vec::new();
        self.0.0.fs.xattrs(ino, &mut |name, _| names.push(OsString::from_vec(name.to_vec())))?;
        Ok(names)
    }

    /// The kind of an inode.
    ///
    /// # Errors
    /// It is not in use, or damaged.
    pub fn kind(self, ino: InodeNo) -> Result<Kind, Error> {
        Ok(self.0.0.fs.inode(ino)?.kind)
    }
}
