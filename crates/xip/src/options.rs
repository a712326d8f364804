//! How a file is opened, in the words of `std::fs::OpenOptions`.

use crate::error::{Error, Result};
use crate::file::{Access, File};
use crate::held::Hold;
use crate::path::{self, End};
use crate::volume::{Volume, stopped};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use xip_core::ops::{Durable, Writer};
use xip_ext2::{InodeNo, Kind, NewInode, NewKind};

/// How a file is opened.
///
/// ```
/// # fn main() -> Result<(), xip::Error> {
/// # let directory = tempfile::tempdir()?;
/// # let volume = xip::Volume::create(directory.path().join("image"), 1 << 20)?;
/// use std::io::Write;
/// let mut log = xip::OpenOptions::new().append(true).create(true).mode(0o600).open(&volume, "/log")?;
/// writeln!(log, "started")?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct OpenOptions {
    read: bool,
    write: bool,
    append: bool,
    truncate: bool,
    create: bool,
    create_new: bool,
    mode: u32,
    umask: u32,
    limit: u64,
    owner: Option<(u32, u32)>,
    durable: Durable,
    keep_set_id: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl OpenOptions {
    /// Nothing is asked for yet; a new file would have the mode `0o644` and the owners of the program.
    pub fn new() -> Self {
        Self {
            read: false,
            write: false,
            append: false,
            truncate: false,
            create: false,
            create_new: false,
            mode: 0o644,
            umask: 0,
            limit: u64::MAX,
            owner: None,
            durable: Durable::No,
            keep_set_id: false,
        }
    }

    /// To be read.
    pub fn read(&mut self, read: bool) -> &mut Self {
        self.read = read;
        self
    }

    /// To be written.
    pub fn write(&mut self, write: bool) -> &mut Self {
        self.write = write;
        self
    }

    /// To be written at its end, wherever that is then: no two writers ever write to the same place.
    pub fn append(&mut self, append: bool) -> &mut Self {
        self.append = append;
        self
    }

    /// Cut to nothing. Asks for [`OpenOptions::write`].
    pub fn truncate(&mut self, truncate: bool) -> &mut Self {
        self.truncate = truncate;
        self
    }

    /// Made where there is none; also where a symbolic link leads to nothing. Asks for write or append.
    pub fn create(&mut self, create: bool) -> &mut Self {
        self.create = create;
        self
    }

    /// Made, and an error (`EEXIST`) where there is something, be it a symbolic link. Asks for write or append.
    pub fn create_new(&mut self, create_new: bool) -> &mut Self {
        self.create_new = create_new;
        self
    }

    /// Permission bits of a new file. The process's umask is not taken from it, since only a change of it would tell what it is;
    /// see [`OpenOptions::umask`].
    pub fn mode(&mut self, mode: u32) -> &mut Self {
        self.mode = mode;
        self
    }

    /// Permission bits that a new file does not get, unless its directory has a default ACL, which decides then: as everywhere.
    pub fn umask(&mut self, umask: u32) -> &mut Self {
        self.umask = umask;
        self
    }

    /// No byte is written at or beyond this offset, and no size set beyond it, as by `RLIMIT_FSIZE`: a write that would is
    /// short, and `EFBIG` when nothing is left of it. The process's own limit is not looked at: no file of the process
    /// grows but the image, which does not either.
    pub fn limit(&mut self, bytes: u64) -> &mut Self {
        self.limit = bytes;
        self
    }

    /// Owner and group of a new file; else those that the program had when it opened the volume. A directory with set-group-id gives its group all the same.
    pub fn owner(&mut self, uid: u32, gid: u32) -> &mut Self {
        self.owner = Some((uid, gid));
        self
    }

    /// What is durable when a write returns: as by [`File::sync_data`] or [`File::sync_all`] after each.
    pub fn durable(&mut self, durable: Durable) -> &mut Self {
        self.durable = durable;
        self
    }

    /// Writes keep set-id bits, as those of one who has `CAP_FSETID`.
    pub fn keep_set_id(&mut self, keep: bool) -> &mut Self {
        self.keep_set_id = keep;
        self
    }

    /// Opens the file at `path`.
    ///
    /// # Errors
    /// As the options say; the path leads nowhere, or to something else than a regular file; `EINVAL` for options that
    /// contradict each other; `EROFS` for a volume that is only read.
    pub fn open(&self, volume: &Volume, path: impl AsRef<Path>) -> Result<File> {
        let path = path.as_ref();
        self.check()?;
        if !self.create && !self.create_new {
            return volume.at(path, true, |ino| self.opened(volume, ino));
        }
        let named = |source| Error::Path { path: path.into(), source };
        volume.0.check_live().map_err(named)?;
        let end = if self.create_new { End::Name } else { End::Follow };
        for _ in 0..1000 {
            let find = || {
                let place = path::locate(&volume.0, path.as_os_str().as_bytes(), end)?;
                let directory = Hold::new(volume, place.directory);
                let found = place.found.map(|(ino, _)| Hold::new(volume, ino));
                Ok((place, directory, found))
            };
            let (place, directory, found) = volume.0.steady(find).map_err(|stop| stopped(path, stop))?;
            match found {
                Some(_) if self.create_new => return Err(named(xip_ext2::Error::Exists)),
                Some(held) => return self.opened(volume, held.ino()).map_err(named),
                None if place.slash => return Err(named(xip_ext2::Error::IsDirectory)),
                None => {}
            }
            match self.make(volume, directory.ino(), &place.name) {
                // Someone was faster, and it is theirs that is opened.
                Err(xip_ext2::Error::Exists) if !self.create_new => {}
                made => return made.map_err(named),
            }
        }
        Err(named(xip_ext2::Error::Busy))
    }

    /// Makes a file that has no name, and opens it: it goes with its last close. What it would get from `directory` if it were in it, it
    /// gets. When it is whole, [`File::link`] can give it a name: nobody sees it before, and a crash leaves all of it there or
    /// nothing, if it was synced. Asks for write or append; what is said of making and cutting does not matter.
    ///
    /// ```
    /// # fn main() -> Result<(), xip::Error> {
    /// # let directory = tempfile::tempdir()?;
    /// # let volume = xip::Volume::create(directory.path().join("image"), 1 << 20)?;
    /// let file = xip::OpenOptions::new().write(true).open_unnamed(&volume, "/")?;
    /// file.write_all_at(b"all of it", 0)?;
    /// file.sync_all()?;
    /// file.link("/settings")?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `directory` leads nowhere, or not to a directory; no space; `EINVAL` and `EROFS` as for [`OpenOptions::open`].
    pub fn open_unnamed(&self, volume: &Volume, directory: impl AsRef<Path>) -> Result<File> {
        self.check()?;
        if !self.writes() {
            return Err(Error::Invalid("a file without a name is opened to be written or appended to"));
        }
        volume.at(directory.as_ref(), true, |directory| {
            let held = volume.inodes().create_unnamed(directory, &self.new_inode(volume), self.umask)?;
            File::open_held(held, self.access(), self.writer())
        })
    }

    /// Opens what has this number.
    pub(crate) fn open_inode(&self, volume: &Volume, ino: InodeNo) -> Result<File> {
        self.check()?;
        Ok(self.opened(volume, ino)?)
    }

    fn make(&self, volume: &Volume, directory: InodeNo, name: &[u8]) -> Result<File, xip_ext2::Error> {
        let held = volume.inodes().create_masked(directory, name, &self.new_inode(volume), self.umask)?;
        File::open_held(held, self.access(), self.writer())
    }

    fn new_inode(&self, volume: &Volume) -> NewInode<'static> {
        let (uid, gid) = self.owner.unwrap_or(volume.0.owner);
        // The lower 12 bits fit.
        let permissions = (self.mode & 0o7777) as u16;
        NewInode { kind: NewKind::Regular, permissions, uid, gid }
    }

    /// Of one who holds it.
    fn opened(&self, volume: &Volume, ino: InodeNo) -> Result<File, xip_ext2::Error> {
        if self.writes() {
            // What it is comes first, as everywhere.
            if volume.inodes().kind(ino)? == Kind::Directory {
                return Err(xip_ext2::Error::IsDirectory);
            }
            volume.0.check_live()?;
        }
        let file = File::open_as(volume, ino, self.access(), self.writer())?;
        if self.truncate {
            file.truncate(0)?;
        }
        Ok(file)
    }

    fn writes(&self) -> bool {
        self.write || self.append
    }

    fn access(&self) -> Access {
        Access { read: self.read, write: self.writes() }
    }

    fn writer(&self) -> Writer {
        Writer { append: self.append, keep_set_id: self.keep_set_id, limit: self.limit, durable: self.durable }
    }

    /// The combinations that `std::fs` refuses.
    fn check(&self) -> Result<()> {
        if !self.read && !self.writes() {
            return Err(Error::Invalid("a file is opened to be read, written or appended to"));
        }
        if self.truncate && (self.append || !self.write) {
            return Err(Error::Invalid("only a file that is opened to be written, not appended to, is cut to nothing"));
        }
        if (self.create || self.create_new) && !self.writes() {
            return Err(Error::Invalid("only a file that is opened to be written or appended to is made"));
        }
        Ok(())
    }
}
