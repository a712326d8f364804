//! The volume: opened from an image, a segment or a device, and used by path.

use crate::dentry::Dentries;
use crate::dir::ReadDir;
use crate::error::{Error, Result};
use crate::file::File;
use crate::inodes::Inodes;
use crate::metadata::Metadata;
use crate::path;
use crate::storage::Storage;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use xip_core::Frozen;
use xip_ext2::{Geometry, InodeNo, Statfs};
use xip_segment::Segment;

pub(crate) type Fs = xip_ext2::Volume<Storage, Frozen>;

/// A volume, opened to be read. Cheap to clone, and shared by threads: nothing on the way to the bytes takes a lock.
///
/// Paths are those inside the volume: `/bin/sh` and `bin/sh` are the same, `..` does not lead out of it, and symbolic
/// links are followed inside it. Permissions are not checked: whoever can read the image can read all of it.
///
/// An image that another program changes while it is open gives wrong answers or errors, never a crash; a segment
/// cannot change.
#[derive(Clone)]
pub struct Volume(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) fs: Fs,
    pub(crate) names: Dentries,
    /// Decided once: a file of this volume is in place or cached, and stays so (contract 2).
    pub(crate) in_place: bool,
}

impl Volume {
    /// Opens an image file. Its files are in place when it can be mapped into the process; otherwise they are read
    /// through the cached path, and [`Volume::in_place`] says why.
    ///
    /// # Errors
    /// The file cannot be opened; it holds no ext2 volume, or a damaged one.
    pub fn open(image: impl AsRef<Path>) -> Result<Self> {
        Self::from_device(Storage::open(image.as_ref())?)
    }

    /// The volume in a segment. The segment stays in memory as long as the volume is used.
    ///
    /// # Errors
    /// The segment holds no ext2 volume, or a damaged one.
    pub fn from_segment(segment: &Segment) -> Result<Self> {
        Self::from_device(segment.device()?)
    }

    /// The volume on a device.
    ///
    /// # Errors
    /// The device holds no ext2 volume, or a damaged one.
    pub fn from_device(device: impl Into<Storage>) -> Result<Self> {
        let fs = Fs::open(device.into(), Frozen)?;
        let in_place = fs.in_place().is_ok();
        Ok(Self(Arc::new(Inner { fs, names: Dentries::default(), in_place })))
    }

    /// Whether files are used in place: read, mapped and sent from where they are stored.
    ///
    /// # Errors
    /// Why not: the device has no direct access, or the block size is not a page.
    pub fn in_place(&self) -> Result<()> {
        Ok(self.0.fs.in_place()?)
    }

    /// Whether no one can change it, so that its bytes may be borrowed: [`File::as_slice`].
    pub fn is_sealed(&self) -> bool {
        xip_core::Device::properties(self.0.fs.device()).sealed
    }

    /// Where things are on it.
    pub fn geometry(&self) -> &Geometry {
        self.0.fs.geometry()
    }

    /// Its figures: blocks and inodes, used and free; label and UUID.
    ///
    /// # Errors
    /// The device's.
    pub fn statfs(&self) -> Result<Statfs> {
        Ok(self.0.fs.statfs()?)
    }

    /// Opens a regular file.
    ///
    /// # Errors
    /// The path leads nowhere, or to something else than a regular file.
    #[inline]
    pub fn file(&self, path: impl AsRef<Path>) -> Result<File> {
        self.at(path.as_ref(), true, |ino| File::open(self, ino))
    }

    /// What is known of the file that `path` leads to.
    ///
    /// # Errors
    /// The path leads nowhere.
    #[inline]
    pub fn metadata(&self, path: impl AsRef<Path>) -> Result<Metadata> {
        self.at(path.as_ref(), true, |ino| self.0.fs.inode(ino).map(Metadata))
    }

    /// As [`Volume::metadata`]; of a symbolic link itself, when `path` names one.
    ///
    /// # Errors
    /// The path leads nowhere.
    pub fn symlink_metadata(&self, path: impl AsRef<Path>) -> Result<Metadata> {
        self.at(path.as_ref(), false, |ino| self.0.fs.inode(ino).map(Metadata))
    }

    /// Whether `path` leads to something.
    pub fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.metadata(path).is_ok()
    }

    /// All bytes of a regular file.
    ///
    /// # Errors
    /// As [`Volume::file`] and [`File::read_at`].
    pub fn read(&self, path: impl AsRef<Path>) -> Result<Vec<u8>> {
        self.at(path.as_ref(), true, |ino| File::open(self, ino)?.read_all())
    }

    /// The entries of a directory, without `.` and `..`.
    ///
    /// # Errors
    /// The path leads nowhere, or not to a directory.
    pub fn read_dir(&self, path: impl AsRef<Path>) -> Result<ReadDir> {
        self.at(path.as_ref(), true, |ino| match self.0.fs.inode(ino)?.kind {
            xip_ext2::Kind::Directory => Ok(ReadDir::new(self.clone(), ino)),
            _ => Err(xip_ext2::Error::NotDirectory),
        })
    }

    /// Where a symbolic link points.
    ///
    /// # Errors
    /// The path leads nowhere, or not to a symbolic link.
    pub fn read_link(&self, path: impl AsRef<Path>) -> Result<PathBuf> {
        self.at(path.as_ref(), false, |ino| self.inodes().read_link(ino)).map(PathBuf::from)
    }

    /// The extended attribute `name` (such as `user.origin`) of the file that `path` names, links not followed;
    /// `None` when it has no such attribute.
    ///
    /// # Errors
    /// The path leads nowhere; the attributes are damaged.
    pub fn xattr(&self, path: impl AsRef<Path>, name: impl AsRef<OsStr>) -> Result<Option<Vec<u8>>> {
        self.at(path.as_ref(), false, |ino| self.inodes().xattr(ino, name.as_ref().as_bytes()))
    }

    /// The names of the extended attributes of the file that `path` names, links not followed.
    ///
    /// # Errors
    /// The path leads nowhere; the attributes are damaged.
    pub fn xattrs(&self, path: impl AsRef<Path>) -> Result<Vec<OsString>> {
        self.at(path.as_ref(), false, |ino| self.inodes().xattrs(ino))
    }

    /// The inode that `path` leads to.
    ///
    /// # Errors
    /// The path leads nowhere.
    pub fn resolve(&self, path: impl AsRef<Path>) -> Result<InodeNo> {
        self.at(path.as_ref(), true, Ok)
    }

    /// The same volume by inode numbers, for those who have them: a mount, a runner, a guest.
    pub fn inodes(&self) -> Inodes<'_> {
        Inodes(self)
    }

    /// Does something with the inode at `path`; the error names the path.
    #[inline]
    fn at<T>(
        &self,
        path: &Path,
        follow: bool,
        what: impl FnOnce(InodeNo) -> std::result::Result<T, xip_ext2::Error>,
    ) -> Result<T> {
        match path::resolve(&self.0, path.as_os_str().as_bytes(), follow) {
            Ok((ino, _)) => what(ino).map_err(|source| Error::Path { path: path.into(), source }),
            Err(path::Stop::Error(source)) => Err(Error::Path { path: path.into(), source }),
            Err(path::Stop::Loop) => Err(Error::Loop { path: path.into() }),
        }
    }
}

impl fmt::Debug for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Volume").field("geometry", self.geometry()).finish_non_exhaustive()
    }
}
