//! A volume by inode numbers: for a mount, a runner, a guest, which have a number and no path.

use crate::file::File;
use crate::held::Held;
use crate::metadata::Metadata;
use crate::options::OpenOptions;
use crate::path;
use crate::volume::Volume;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use xip_ext2::{DirEntry, Error, InodeNo, Kind, NewInode, Rename, SetAttributes};

/// A volume by inode numbers. On one that is written a number is a file's only as long as a name leads to it or someone holds
/// it ([`Held`]); that is for the caller to see to. The errors are those of the volume, each with an errno.
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
        if self.0.0.is_live() {
            // What is there need not be looked at.
            return self.0.0.fs.lookup(directory, name);
        }
        let kind = self.0.0.fs.kind(directory)?;
        Ok(path::lookup(&self.0.0, (directory, kind), name)?.map(|(ino, _)| ino))
    }

    /// As [`Inodes::lookup`], and what was found stays what it is while it is held.
    ///
    /// # Errors
    /// As [`Inodes::lookup`].
    pub fn lookup_held(self, directory: InodeNo, name: &[u8]) -> Result<Option<Held>, Error> {
        self.0.0.steady(|| Ok(self.lookup(directory, name)?.map(|ino| self.hold(ino))))
    }

    /// Keeps an inode that someone is sure of, because a name leads to it or it is held already, in use.
    pub fn hold(self, ino: InodeNo) -> Held {
        self.0.hold(ino)
    }

    /// Opens a regular file to be read.
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

    /// Opens a regular file as `options` say; they do not make one here.
    ///
    /// # Errors
    /// As [`Inodes::file`]; `EINVAL` for options that contradict each other; the volume is only read.
    pub fn open(self, ino: InodeNo, options: &OpenOptions) -> crate::Result<File> {
        options.open_inode(self.0, ino)
    }

    /// Makes something new with a name, and holds it. As everywhere, its directory gives it its group (set-group-id) and its
    /// default ACL.
    ///
    /// # Errors
    /// As [`xip_ext2::Volume::create`].
    pub fn create(self, directory: InodeNo, name: &[u8], new: &NewInode<'_>) -> Result<Held, Error> {
        self.create_masked(directory, name, new, 0)
    }

    /// As [`Inodes::create`], and `umask` is taken from the permissions where the directory has no default ACL: what a program's
    /// call asks for, which a mount passes on.
    ///
    /// # Errors
    /// As [`xip_ext2::Volume::create`].
    pub fn create_masked(self, directory: InodeNo, name: &[u8], new: &NewInode<'_>, umask: u32) -> Result<Held, Error> {
        self.live()?;
        // The lower nine bits are meant.
        let umask = (umask & 0o777) as u16;
        for _ in 0..1000 {
            let gone = self.0.0.gone();
            let ino = self.0.0.fs.create_inheriting(directory, name, new, umask)?;
            let held = self.hold(ino);
            if self.0.0.none_gone_since(gone) || self.0.0.fs.lookup(directory, name)? == Some(ino) {
                return Ok(held);
            }
            // Someone removed it before it was held: it is made again.
        }
        Err(Error::Busy)
    }

    /// Makes an empty regular file that has no name, and holds it: it goes when nobody does, unless [`Inodes::link`] gives it a name.
    /// What it gets from `directory`, and `umask`, are as in [`Inodes::create_masked`].
    ///
    /// # Errors
    /// As [`xip_ext2::Volume::create_unnamed`].
    pub fn create_unnamed(self, directory: InodeNo, new: &NewInode<'_>, umask: u32) -> Result<Held, Error> {
        self.live()?;
        let held = self.hold(self.0.0.fs.create_unnamed(directory, new, (umask & 0o777) as u16)?);
        self.0.0.opens.iter().for_each(|opens| opens.unnamed(held.ino()));
        Ok(held)
    }

    /// Gives a file that is no directory one more name, or its first to one that was made without.
    ///
    /// # Errors
    /// As [`xip_ext2::Volume::link`].
    pub fn link(self, ino: InodeNo, directory: InodeNo, name: &[u8]) -> Result<(), Error> {
        self.live()?;
        let (fs, opens) = (&self.0.0.fs, self.0.0.opens.as_ref());
        match opens.filter(|opens| opens.gets_name(ino)) {
            None => fs.link(directory, name, ino),
            Some(opens) => fs.link_unnamed(directory, name, ino).inspect_err(|_| opens.unnamed(ino)),
        }
    }

    /// Takes a name away from a file that is no directory. With the last one the file goes, as soon as nobody holds it.
    ///
    /// # Errors
    /// As [`xip_ext2::Volume::unlink`].
    pub fn unlink(self, directory: InodeNo, name: &[u8]) -> Result<(), Error> {
        self.live()?;
        if let Some(nameless) = self.0.0.fs.unlink(directory, name)? {
            self.0.0.lost_name(nameless);
        }
        Ok(())
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// As [`xip_ext2::Volume::rmdir`].
    pub fn rmdir(self, directory: InodeNo, name: &[u8]) -> Result<(), Error> {
        self.live()?;
        self.0.0.lost_name(self.0.0.fs.rmdir(directory, name)?);
        Ok(())
    }

    /// Moves a name, in all its forms.
    ///
    /// # Errors
    /// As [`xip_ext2::Volume::rename`].
    pub fn rename(self, from: (InodeNo, &[u8]), to: (InodeNo, &[u8]), how: Rename) -> Result<(), Error> {
        self.live()?;
        if let Some(nameless) = self.0.0.fs.rename(from.0, from.1, to.0, to.1, how)? {
            self.0.0.lost_name(nameless);
        }
        Ok(())
    }

    /// Changes permissions, owners or times, all at once.
    ///
    /// # Errors
    /// The volume is only read; the inode is not in use, or damaged.
    pub fn set_attributes(self, ino: InodeNo, change: &SetAttributes) -> Result<(), Error> {
        self.live()?;
        self.0.0.fs.set_attributes(ino, change)
    }

    /// Sets the owners; `None` stays. As everywhere, set-id bits of all but a directory go with that, even if both stay.
    ///
    /// # Errors
    /// As [`Inodes::set_attributes`].
    pub fn set_owner(self, ino: InodeNo, uid: Option<u32>, gid: Option<u32>) -> Result<(), Error> {
        self.set_attributes(ino, &SetAttributes { uid, gid, drop_set_id: true, ..SetAttributes::default() })
    }

    /// Sets the extended attribute `name`, or takes it away (`None`).
    ///
    /// # Errors
    /// As [`xip_ext2::Volume::set_xattr`].
    pub fn set_xattr(self, ino: InodeNo, name: &[u8], value: Option<&[u8]>) -> Result<(), Error> {
        self.live()?;
        self.0.0.fs.set_xattr(ino, name, value)
    }

    fn live(self) -> Result<(), Error> {
        self.0.0.check_live()
    }

    /// The kind of an inode.
    ///
    /// # Errors
    /// It is not in use, or damaged.
    pub fn kind(self, ino: InodeNo) -> Result<Kind, Error> {
        self.0.0.fs.kind(ino)
    }
}
