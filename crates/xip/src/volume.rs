//! The volume: opened from an image, a segment or a device, and read by path. How it is changed is in `change`.

use crate::dir::ReadDir;
use crate::env::Threads;
use crate::error::{Error, Result};
use crate::file::File;
use crate::held::{Held, Hold};
use crate::inodes::Inodes;
use crate::metadata::Metadata;
use crate::opens::Opens;
use crate::path;
use crate::storage::{Backing, Storage};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use xip_core::{Alone, Timestamp};
use xip_ext2::{Format, Geometry, InodeNo, Statfs, check};
use xip_segment::{Access, MappedFile, Segment};

pub(crate) type Fs = xip_ext2::Volume<Backing, Threads>;

/// A volume. Cheap to clone, and shared by threads.
///
/// There are two ways to have one, and one type for both:
///
/// * opened to be read ([`Volume::open`], [`Volume::from_segment`], [`Volume::from_device`]): nothing on it changes,
///   places are kept once found, and nothing on the way to the bytes takes a lock. What would change it fails with
///   `EROFS`.
/// * opened to be written ([`Volume::open_writable`], [`Volume::create`], [`Volume::writable`]): every answer is that of the
///   moment. Each inode has a lock of its own; readers do not wait for each other, nor do operations on different
///   files. Nobody else has the image meanwhile.
///
/// What names lead to is remembered in both: 128 bytes for each four inodes, 8 MiB at most.
///
/// Paths are those inside the volume: `/bin/sh` and `bin/sh` are the same, `..` does not lead out of it, and symbolic
/// links are followed inside it. Permissions are not checked: whoever can read the image can read all of it.
///
/// An image that another program changes while it is open gives wrong answers or errors, never a crash; a segment
/// cannot change. Cutting the image file shorter, or a file system below it that has no space left for the holes of a sparse
/// image, ends the program with `SIGBUS`.
#[derive(Clone)]
pub struct Volume(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) fs: Fs,
    /// Decided once: a file of this volume is in place or cached, and stays so (contract 2).
    pub(crate) in_place: bool,
    /// Only of a volume that can be written.
    pub(crate) opens: Option<Box<Opens>>,
    /// Whose new files are: the program's, as it was when it opened the volume.
    pub(crate) owner: (u32, u32),
}

impl Inner {
    /// Whether it can be written.
    #[inline]
    pub(crate) fn is_live(&self) -> bool {
        self.opens.is_some()
    }

    pub(crate) fn check_live(&self) -> std::result::Result<(), xip_ext2::Error> {
        let reason = "it was opened only to be read; Volume::open_writable opens it to be written";
        if self.is_live() { Ok(()) } else { Err(xip_ext2::Error::ReadOnly { reason }) }
    }

    fn close(&mut self) -> Result<()> {
        match &self.opens {
            None => return Ok(()),
            // Not called clean, so that the next opening looks for what is leaked.
            Some(opens) if opens.leaked() => self.fs.sync()?,
            Some(_) => self.fs.close()?,
        }
        self.fs.device().touch();
        Ok(())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Who wants to know calls `Volume::close`.
        let _ = self.close();
    }
}

impl Volume {
    /// Opens an image file to be read. Its files are in place when it can be mapped into the process; otherwise they are
    /// read through the cached path, and [`Volume::in_place`] says why.
    ///
    /// # Errors
    /// The file cannot be opened; someone has it open to be written; it holds no ext2 volume, or a damaged one.
    pub fn open(image: impl AsRef<Path>) -> Result<Self> {
        Self::from_device(Storage::open(image.as_ref(), Access::ReadOnly)?)
    }

    /// Opens an image file to be read and written.
    ///
    /// One that was not closed, because a program was killed or the machine stopped, is checked and repaired first:
    /// what a finished call did is there, and what the interruption leaked is given back (`docs/order.md`). One that was closed is
    /// not checked: a call that meets damage gets an error.
    ///
    /// # Errors
    /// The file cannot be opened; someone else has it open ([`Error::InUse`] says who); it holds no ext2 volume; one that
    /// cannot be written, with the reason; one that was not closed, with damage that no crash leaves ([`Error::Damaged`]).
    pub fn open_writable(image: impl AsRef<Path>) -> Result<Self> {
        Self::writable(Storage::open(image.as_ref(), Access::ReadWrite)?)
    }

    /// Makes a new image file of `bytes` (rounded down to 4096), with an empty volume in it, and opens it to be written.
    /// There is an inode for each 16 KiB. The file is sparse.
    ///
    /// # Errors
    /// The file exists or cannot be made; the size is none that a volume can have. Then there is no file.
    pub fn create(image: impl AsRef<Path>, bytes: u64) -> Result<Self> {
        let image = image.as_ref();
        let blocks = bytes / xip_core::page::PAGE_BYTES;
        let inodes = u32::try_from(blocks / 4).unwrap_or(u32::MAX).max(16);
        // What cannot be is said of the volume, before there is a file.
        Geometry::plan(blocks, inodes)?;
        let failed = |source| Error::Image { path: image.into(), source };
        let file = std::fs::File::options().read(true).write(true).create_new(true).open(image).map_err(failed)?;
        let made = Self::format(file, blocks, inodes).and_then(|()| Self::open_writable(image));
        if made.is_err() {
            let _ = std::fs::remove_file(image);
        }
        made
    }

    fn format(file: std::fs::File, blocks: u64, inodes: u32) -> Result<()> {
        let mut random = [0; 32];
        std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut random)?;
        let (first, second) = random.as_chunks().0.split_at(1);
        let format = Format {
            blocks,
            inodes,
            uuid: first[0],
            hash_seed: second[0],
            root_permissions: 0o755,
            root_owner: owner(),
            ..Format::default()
        };
        let now = Alone::at(Timestamp { seconds: seconds_now().cast_signed(), nanoseconds: 0 });
        xip_ext2::Volume::format(MappedFile::create(file, blocks)?, now, &format)?;
        Ok(())
    }

    /// The volume in a segment. The segment stays in memory as long as the volume is used.
    ///
    /// # Errors
    /// The segment holds no ext2 volume, or a damaged one; it is an exclusive one, and someone writes it.
    pub fn from_segment(segment: &Segment) -> Result<Self> {
        Self::from_device(segment.device()?)
    }

    /// The volume in an exclusive segment, to be read and written; as [`Volume::open_writable`]. What was done is in the segment at
    /// once, whatever becomes of this program, and in an image when the segment is saved.
    ///
    /// # Errors
    /// As [`Volume::open_writable`]; the segment is sealed.
    pub fn from_segment_writable(segment: &Segment) -> Result<Self> {
        Self::writable(segment.device_writable()?)
    }

    /// The volume on a device, to be read, whatever the device would allow.
    ///
    /// # Errors
    /// The device holds no ext2 volume, or a damaged one.
    pub fn from_device(device: impl Into<Storage>) -> Result<Self> {
        let device = Backing::new(device.into(), Access::ReadOnly)?;
        let geometry = *xip_ext2::Volume::open(&device, xip_core::Frozen)?.geometry();
        let fs = Fs::open(device, Threads::frozen(&geometry))?;
        Ok(Self::new(fs, None))
    }

    /// The volume on a device, to be read and written; as [`Volume::open_writable`].
    ///
    /// # Errors
    /// As [`Volume::open_writable`].
    pub fn writable(device: impl Into<Storage>) -> Result<Self> {
        let device = Backing::new(device.into(), Access::ReadWrite)?;
        // Read first, with nothing completed or changed: what it is, and whether it was closed.
        let seen = xip_ext2::Volume::open(&device, xip_core::Frozen)?;
        let (geometry, clean) = (*seen.geometry(), seen.is_clean());
        device.touch();
        if !clean && xip_core::Device::properties(&device).writable {
            repair(&device)?;
        }
        let fs = Fs::open(device, Threads::live(&geometry))?;
        if let Some(reason) = fs.read_only() {
            return Err(xip_ext2::Error::ReadOnly { reason }.into());
        }
        Ok(Self::new(fs, Some(Box::new(Opens::new(geometry.inodes)))))
    }

    fn new(fs: Fs, opens: Option<Box<Opens>>) -> Self {
        let in_place = fs.in_place().is_ok();
        Self(Arc::new(Inner { fs, in_place, opens, owner: owner() }))
    }

    /// Whether it was opened to be written.
    #[inline]
    pub fn is_writable(&self) -> bool {
        self.0.is_live()
    }

    /// Whether reading a file changes its time of last access. Unless said otherwise it does, as by `relatime`.
    pub fn set_access_times(&self, kept: bool) {
        self.0.fs.env().set_access_times(kept);
    }

    /// Makes everything durable that was done, as far as the storage can: an image on a disk is then on the disk.
    ///
    /// # Errors
    /// The storage's.
    pub fn sync(&self) -> Result<()> {
        if self.0.is_live() { Ok(self.0.fs.sync()?) } else { Ok(()) }
    }

    /// Makes everything durable and marks the volume as closed, so that the next opening need not check it. When the last
    /// clone of a volume and the last of its files are dropped, that is done too, but nobody learns of an error.
    ///
    /// # Errors
    /// [`Error::StillInUse`]; the storage's.
    pub fn close(self) -> Result<()> {
        Arc::try_unwrap(self.0).map_err(|_| Error::StillInUse)?.close()
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

    /// Opens a regular file to be read; [`OpenOptions`](crate::OpenOptions) opens it otherwise.
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
            xip_ext2::Kind::Directory => Ok(ReadDir::new(self, ino)),
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
    pub(crate) fn at<T>(
        &self,
        path: &Path,
        follow: bool,
        what: impl FnOnce(InodeNo) -> std::result::Result<T, xip_ext2::Error>,
    ) -> Result<T> {
        if self.0.is_live() {
            return self.at_live(path, follow, what);
        }
        match path::resolve(&self.0, path.as_os_str().as_bytes(), follow) {
            Ok((ino, _)) => what(ino).map_err(|source| Error::Path { path: path.into(), source }),
            Err(stop) => Err(stopped(path, stop)),
        }
    }

    /// As [`Volume::at`] where numbers come and go: what was found is held while something is done with it.
    #[inline(never)]
    fn at_live<T>(
        &self,
        path: &Path,
        follow: bool,
        what: impl FnOnce(InodeNo) -> std::result::Result<T, xip_ext2::Error>,
    ) -> Result<T> {
        let find = || path::resolve(&self.0, path.as_os_str().as_bytes(), follow).map(|(ino, _)| Hold::new(self, ino));
        let held = self.0.steady(find).map_err(|stop| stopped(path, stop))?;
        what(held.ino()).map_err(|source| Error::Path { path: path.into(), source })
    }

    pub(crate) fn hold(&self, ino: InodeNo) -> Held {
        Held::new(self, ino)
    }
}

/// The error of a path that leads nowhere.
pub(crate) fn stopped(path: &Path, stop: path::Stop) -> Error {
    match stop {
        path::Stop::Error(source) => Error::Path { path: path.into(), source },
        path::Stop::Loop => Error::Loop { path: path.into() },
    }
}

/// Whose the program is.
fn owner() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

fn seconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Mends what a crash left on a volume that was not closed.
fn repair(device: &Backing) -> Result<()> {
    let mut memory = vec![0; check::memory_wanted(device)?];
    let options = check::Options { repair: true, now: None };
    let mut first = None;
    let summary = check::check(device, &mut memory, &options, &mut |finding| {
        if finding.class() == check::Class::Damage {
            first.get_or_insert_with(|| finding.to_string());
        }
    })?;
    match first {
        Some(first) => Err(Error::Damaged { count: summary.damages, first }),
        None => Ok(()),
    }
}

impl fmt::Debug for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Volume").field("geometry", self.geometry()).finish_non_exhaustive()
    }
}
