//! What changes a volume by path: names that come, go and move, and attributes, in the words of `std::fs`.

use crate::error::{Error, Result};
use crate::file::File;
use crate::held::{Held, Hold};
use crate::metadata::timestamp;
use crate::options::OpenOptions;
use crate::path::{self, End, Place};
use crate::volume::{Volume, stopped};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::SystemTime;
use xip_ext2::{Error as VolumeError, InodeNo, NewInode, NewKind, Rename, SetAttributes};

impl Volume {
    /// Opens a file to be written: made where there is none, else cut to nothing.
    ///
    /// # Errors
    /// As [`OpenOptions::open`].
    pub fn create_file(&self, path: impl AsRef<Path>) -> Result<File> {
        OpenOptions::new().write(true).create(true).truncate(true).open(self, path)
    }

    /// Makes a file of these bytes, or replaces what is in it.
    ///
    /// # Errors
    /// As [`OpenOptions::open`] and [`File::write_at`].
    pub fn write(&self, path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> Result<()> {
        self.create_file(path)?.write_all_at(bytes.as_ref(), 0)
    }

    /// Makes a directory (mode `0o755`).
    ///
    /// # Errors
    /// The name exists; its directory does not; no space; the volume is only read.
    pub fn create_dir(&self, path: impl AsRef<Path>) -> Result<()> {
        self.make(path.as_ref(), NewKind::Directory, 0o755)
    }

    /// Makes a directory and those it stands in, as far as they do not exist.
    ///
    /// # Errors
    /// As [`Volume::create_dir`]; one of the names is no directory.
    pub fn create_dir_all(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let mut missing = Vec::new();
        for part in path.ancestors().take_while(|part| !part.as_os_str().is_empty()) {
            match self.metadata(part) {
                Ok(metadata) if metadata.is_dir() => break,
                Ok(_) => return Err(Error::Path { path: part.into(), source: VolumeError::NotDirectory }),
                Err(Error::Path { source: VolumeError::NotFound, .. }) => missing.push(part),
                Err(error) => return Err(error),
            }
        }
        for part in missing.into_iter().rev() {
            match self.create_dir(part) {
                // Someone else makes it too.
                Err(Error::Path { source: VolumeError::Exists, .. }) if self.metadata(part)?.is_dir() => {}
                made => made?,
            }
        }
        Ok(())
    }

    /// Makes a symbolic link at `link` that points to `original`, which need not exist.
    ///
    /// # Errors
    /// As [`Volume::create_dir`]; `original` is empty, or longer than a block.
    pub fn symlink(&self, original: impl AsRef<Path>, link: impl AsRef<Path>) -> Result<()> {
        self.make(link.as_ref(), NewKind::Symlink(original.as_ref().as_os_str().as_bytes()), 0o777)
    }

    /// Makes anything, as `mknod` does: a pipe, a socket, a device, an empty file. `mode` has its permission bits.
    ///
    /// # Errors
    /// As [`Volume::create_dir`]; device numbers that the format does not hold.
    pub fn make_node(&self, path: impl AsRef<Path>, kind: NewKind<'_>, mode: u32) -> Result<()> {
        self.make(path.as_ref(), kind, mode)
    }

    /// Gives the file at `original` one more name. Of a symbolic link it is the link that gets it.
    ///
    /// # Errors
    /// `original` leads nowhere or to a directory; `link` exists; the file has as many names as it can.
    pub fn hard_link(&self, original: impl AsRef<Path>, link: impl AsRef<Path>) -> Result<()> {
        let (original, link) = (original.as_ref(), link.as_ref());
        let (place, directory) = self.place(link, End::Name)?;
        let linked = self.at(original, false, |ino| match place.slash {
            true => Ok(Err(VolumeError::NotFound)),
            false => Ok(self.inodes().link(ino, directory.ino(), &place.name)),
        })?;
        linked.map_err(|source| Error::Paths { from: original.into(), to: link.into(), source })
    }

    /// Takes away the name of a file that is no directory. When it was the last, the file goes with its last close.
    ///
    /// # Errors
    /// The path leads nowhere, or to a directory; the volume is only read.
    pub fn remove_file(&self, path: impl AsRef<Path>) -> Result<()> {
        self.named(path.as_ref(), |place, directory| match (place.slash, place.found) {
            (true, Some((_, kind))) if kind != xip_ext2::Kind::Directory => Err(VolumeError::NotDirectory),
            _ => self.inodes().unlink(directory, &place.name),
        })
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// The path leads nowhere, or not to a directory, or to one with entries; the volume is only read.
    pub fn remove_dir(&self, path: impl AsRef<Path>) -> Result<()> {
        self.named(path.as_ref(), |place, directory| self.inodes().rmdir(directory, &place.name))
    }

    /// Removes a directory with everything in it. Symbolic links are removed, not followed, also when they come meanwhile.
    ///
    /// # Errors
    /// As [`Volume::remove_dir`]; someone else makes names in it meanwhile. What was removed until then is gone.
    pub fn remove_dir_all(&self, path: impl AsRef<Path>) -> Result<()> {
        self.named(path.as_ref(), |place, directory| {
            // The directories on the way down, each with the names in it that are left: as deep as any volume may be.
            let mut way = vec![self.enter(self.hold(directory), place.name.to_vec())?];
            while let Some(level) = way.last_mut() {
                match level.names.pop() {
                    Some(name) => match self.inodes().unlink(level.here.ino(), &name) {
                        Err(VolumeError::IsDirectory) => {
                            let below = self.enter(level.here.clone(), name);
                            match below {
                                Ok(below) => way.push(below),
                                Err(VolumeError::NotFound) => {}
                                Err(error) => return Err(error),
                            }
                        }
                        // Someone else removes it too.
                        Ok(()) | Err(VolumeError::NotFound) => {}
                        Err(error) => return Err(error),
                    },
                    None => {
                        let level = way.pop().ok_or(VolumeError::Busy)?;
                        self.inodes().rmdir(level.parent.ino(), &level.name)?;
                    }
                }
            }
            Ok(())
        })
    }

    /// Moves a file or directory. What has the new name, a file or an empty directory, loses it: at no time is there nothing
    /// at that name.
    ///
    /// # Errors
    /// `from` leads nowhere; a directory would come to stand below itself, or to replace something else than an empty directory;
    /// a file would replace a directory.
    pub fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
        self.moved(from.as_ref(), to.as_ref(), Rename::Replace)
    }

    /// As [`Volume::rename`], and fails (`EEXIST`) when the new name exists.
    ///
    /// # Errors
    /// As [`Volume::rename`].
    pub fn rename_no_replace(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
        self.moved(from.as_ref(), to.as_ref(), Rename::NoReplace)
    }

    /// Exchanges what two names lead to, files or directories, at once.
    ///
    /// # Errors
    /// One of them leads nowhere; a directory would come to stand below itself.
    pub fn exchange(&self, one: impl AsRef<Path>, other: impl AsRef<Path>) -> Result<()> {
        self.moved(one.as_ref(), other.as_ref(), Rename::Exchange)
    }

    /// Sets permission bits, with set-id and sticky; links are followed.
    ///
    /// # Errors
    /// The path leads nowhere; the volume is only read.
    pub fn set_permissions(&self, path: impl AsRef<Path>, mode: u32) -> Result<()> {
        self.set_attributes(path, &permissions(mode))
    }

    /// Sets owner and group, of a symbolic link itself; `None` stays. Set-id bits of a regular file go with that.
    ///
    /// # Errors
    /// As [`Volume::set_permissions`].
    pub fn set_owner(&self, path: impl AsRef<Path>, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        self.at(path.as_ref(), false, |ino| self.inodes().set_owner(ino, uid, gid))
    }

    /// Sets when it was last read and last changed; `None` stays; links are followed.
    ///
    /// # Errors
    /// As [`Volume::set_permissions`].
    pub fn set_times(
        &self,
        path: impl AsRef<Path>,
        accessed: Option<SystemTime>,
        modified: Option<SystemTime>,
    ) -> Result<()> {
        self.set_attributes(path, &times(accessed, modified))
    }

    /// Sets any attributes, all at once; links are followed.
    ///
    /// # Errors
    /// As [`Volume::set_permissions`].
    pub fn set_attributes(&self, path: impl AsRef<Path>, change: &SetAttributes) -> Result<()> {
        self.at(path.as_ref(), true, |ino| self.inodes().set_attributes(ino, change))
    }

    /// Sets the extended attribute `name` (such as `user.origin`) of the file that `path` names, links not followed. POSIX
    /// ACLs are `system.posix_acl_access` and `system.posix_acl_default`, as the kernel has them.
    ///
    /// # Errors
    /// The path leads nowhere; the value does not fit; the prefix is none of the format; the volume is only read.
    pub fn set_xattr(&self, path: impl AsRef<Path>, name: impl AsRef<OsStr>, value: impl AsRef<[u8]>) -> Result<()> {
        self.at(path.as_ref(), false, |ino| {
            self.inodes().set_xattr(ino, name.as_ref().as_bytes(), Some(value.as_ref()))
        })
    }

    /// Takes the extended attribute `name` away, links not followed.
    ///
    /// # Errors
    /// There is no such attribute (`ENODATA`); as [`Volume::set_xattr`].
    pub fn remove_xattr(&self, path: impl AsRef<Path>, name: impl AsRef<OsStr>) -> Result<()> {
        self.at(path.as_ref(), false, |ino| self.inodes().set_xattr(ino, name.as_ref().as_bytes(), None))
    }

    /// Where a path ends, and its directory held.
    fn place<'p>(&self, path: &'p Path, end: End) -> Result<(Place<'p>, Hold<&Self>)> {
        self.0.check_live().map_err(|source| Error::Path { path: path.into(), source })?;
        let find = || {
            let place = path::locate(&self.0, path.as_os_str().as_bytes(), end)?;
            let directory = Hold::new(self, place.directory);
            Ok((place, directory))
        };
        self.0.steady(find).map_err(|stop| stopped(path, stop))
    }

    fn make(&self, path: &Path, kind: NewKind<'_>, mode: u32) -> Result<()> {
        self.named(path, |place, directory| {
            if place.slash && place.found.is_none() && !matches!(kind, NewKind::Directory) {
                return Err(VolumeError::NotFound);
            }
            let (uid, gid) = self.0.owner;
            let new = NewInode { kind, permissions: (mode & 0o7777) as u16, uid, gid };
            self.inodes().create(directory, &place.name, &new).map(drop)
        })
    }

    /// Does something with a name; the error names the path.
    fn named(&self, path: &Path, what: impl FnOnce(&Place<'_>, InodeNo) -> Result<(), VolumeError>) -> Result<()> {
        let (place, directory) = self.place(path, End::Name)?;
        what(&place, directory.ino()).map_err(|source| Error::Path { path: path.into(), source })
    }

    fn moved(&self, from: &Path, to: &Path, how: Rename) -> Result<()> {
        // A slash behind one says that both are directories.
        let slash = [from, to].iter().any(|path| path.as_os_str().as_bytes().ends_with(b"/"));
        let (old, old_directory) = self.place(from, if slash { End::Found } else { End::Name })?;
        // Names beside each other have one directory, which need not be looked for twice.
        let (new, held) = match path::beside(from.as_os_str().as_bytes(), to.as_os_str().as_bytes()) {
            Some(name) => (Place { directory: old.directory, name: name.into(), found: None, slash: false }, None),
            None => self.place(to, End::Name).map(|(place, held)| (place, Some(held)))?,
        };
        let new_directory = held.as_ref().unwrap_or(&old_directory);
        let is_directory = |place: &Place<'_>| place.found.is_some_and(|(_, kind)| kind == xip_ext2::Kind::Directory);
        let done = if (old.slash || new.slash) && old.found.is_some() && !is_directory(&old) {
            Err(VolumeError::NotDirectory)
        } else {
            self.inodes().rename((old_directory.ino(), &old.name), (new_directory.ino(), &new.name), how)
        };
        done.map_err(|source| Error::Paths { from: from.into(), to: to.into(), source })
    }

    fn enter(&self, parent: Held, name: Vec<u8>) -> Result<Level, VolumeError> {
        let here = self.inodes().lookup_held(parent.ino(), &name)?.ok_or(VolumeError::NotFound)?;
        let mut names = Vec::new();
        self.inodes().read_dir(here.ino(), 0, &mut |entry| {
            if !matches!(entry.name, b"." | b"..") {
                names.push(entry.name.to_vec());
            }
            true
        })?;
        Ok(Level { parent, name, here, names })
    }
}

impl File {
    /// Gives it one more name; its first, if [`OpenOptions::open_unnamed`] made it.
    ///
    /// # Errors
    /// `link` exists; the file has lost all of its names (`ENOENT`), or has as many as it can; no space; the volume is only read.
    pub fn link(&self, link: impl AsRef<Path>) -> Result<()> {
        self.volume().named(link.as_ref(), |place, directory| match place.slash {
            true => Err(VolumeError::NotFound),
            false => self.volume().inodes().link(self.ino(), directory, &place.name),
        })
    }
}

/// A directory that is being emptied.
struct Level {
    parent: Held,
    name: Vec<u8>,
    here: Held,
    names: Vec<Vec<u8>>,
}

/// The lower 12 bits of a mode.
pub(crate) fn permissions(mode: u32) -> SetAttributes {
    SetAttributes { permissions: Some((mode & 0o7777) as u16), ..SetAttributes::default() }
}

pub(crate) fn times(accessed: Option<SystemTime>, modified: Option<SystemTime>) -> SetAttributes {
    let (atime, mtime) = (accessed.map(timestamp), modified.map(timestamp));
    SetAttributes { atime, mtime, ..SetAttributes::default() }
}
