//! A segment, as its users have it: a descriptor of sealed memory, and what is known about it.

use crate::error::{Error, Result};
use crate::file::{Access, MappedFile};
use crate::memory::is_sealed;
use rustix::fs::{Mode, OFlags, SealFlags, Stat};
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

/// What the memory of a segment is sealed with, for ever. Of an exclusive one the length stays, so that no mapping of it ends in
/// a `SIGBUS`; of any other every byte does: nobody changes it, root included.
pub(crate) fn seals(exclusive: bool) -> SealFlags {
    let length = SealFlags::SHRINK | SealFlags::GROW;
    if exclusive { length } else { length | SealFlags::WRITE | SealFlags::SEAL }
}

/// What is known about a segment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Info {
    /// Its name.
    pub name: String,
    /// The image it was loaded from, where that was then.
    #[serde(default)]
    pub image: PathBuf,
    /// Length in bytes.
    pub size: u64,
    /// What is in it: the BLAKE3 hash of all bytes, in hexadecimal. Same hash, same image. Of an exclusive one, what was in it when it was
    /// loaded, or last saved to its image.
    pub content: String,
    /// When it was loaded, in seconds since 1970.
    #[serde(default)]
    pub created: u64,
    /// The process that keeps it.
    #[serde(default)]
    pub holder: u32,
    /// Whether a newer generation has the name that this one was given. It goes with its last user.
    #[serde(default)]
    pub replaced: bool,
    /// Whether it can be written: by one, or read by many.
    #[serde(default)]
    pub exclusive: bool,
}

/// The version of [`Record`] that this crate writes and reads. A field can come or, where it has a default, go without
/// a new version; one that changes its meaning needs one.
pub(crate) const VERSION: u32 = 1;

/// Of a record of any version.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// What a holder is told, and tells with the descriptor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) version: u32,
    pub(crate) info: Info,
    /// The state of the image file when it was read, if that can be told from any later one.
    pub(crate) stamp: Option<Stamp>,
    /// Whether it is to go with the process that loaded it.
    #[serde(default)]
    pub(crate) temporary: bool,
    /// The process that loaded it.
    #[serde(default)]
    pub(crate) loader: u32,
}

/// The state of a file: as long as this is the same, so are its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Stamp {
    id: (u64, u64),
    size: i64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(crate) fn of(stat: &Stat) -> Self {
        // The types of these fields differ between machines; the numbers fit in all of them.
        #[allow(clippy::unnecessary_cast, clippy::cast_possible_wrap)]
        Self {
            id: (stat.st_dev as u64, stat.st_ino as u64),
            size: stat.st_size as i64,
            modified: (stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            changed: (stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        }
    }

    /// Whether a change of the file at `now` (in seconds) or later would show in a stamp: a file changed twice within one
    /// tick of its file system's clock has one stamp for two contents. The coarsest clock in use ticks every 2 seconds.
    pub(crate) fn is_settled(&self, now: u64) -> bool {
        i64::try_from(now).is_ok_and(|now| self.changed.0.max(self.modified.0) + 2 < now)
    }
}

/// A segment: an image in memory that many processes share and nobody can change; or an [exclusive](Info::exclusive) one, which one
/// can write or many read. It stays in memory at least as long as this exists, also when its name is taken away.
#[derive(Debug)]
pub struct Segment {
    info: Info,
    stamp: Option<Stamp>,
    temporary: bool,
    fd: OwnedFd,
}

impl Segment {
    /// From what the holder of `name` handed out. It is not believed: the seals and the size are the kernel's.
    pub(crate) fn new(name: &str, header: &[u8], fd: Option<OwnedFd>) -> Result<Self> {
        let silent = |why: &str| Error::Silent { name: name.into(), why: why.into() };
        match serde_json::from_slice(header) {
            Ok(Versioned { version: VERSION }) => {}
            Ok(_) => return Err(Error::OtherVersion { name: name.into() }),
            Err(error) => return Err(silent(&error.to_string())),
        }
        let Record { info, stamp, temporary, .. } =
            serde_json::from_slice(header).map_err(|error| silent(&error.to_string()))?;
        let fd = fd.ok_or_else(|| silent("it sent no descriptor"))?;
        if !rustix::fs::fcntl_get_seals(&fd).is_ok_and(|found| found.contains(seals(info.exclusive))) {
            return Err(silent("what it keeps is not sealed"));
        }
        if !rustix::fs::fstat(&fd).is_ok_and(|stat| u64::try_from(stat.st_size) == Ok(info.size)) {
            return Err(silent("what it keeps has another size than it says"));
        }
        Ok(Self { info, stamp, temporary, fd })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.info.name
    }

    /// What is known about it.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// The state of the image file when it was read.
    pub(crate) fn stamp(&self) -> Option<Stamp> {
        self.stamp
    }

    /// Whether it goes with whoever loaded it.
    pub(crate) fn is_temporary(&self) -> bool {
        self.temporary
    }

    /// Its memory: a descriptor that can be read, mapped and executed from, and never written through. That of an exclusive segment is
    /// not locked: others may be writing it ([`is_sealed`] tells).
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// A name by which programs of this user can open its memory, as long as its holder is there: until it is removed. `None` when
    /// the holder has ended, or may not be looked at.
    pub fn path(&self) -> Option<PathBuf> {
        let id = self.id();
        let open =
            std::fs::read_dir(format!("/proc/{}/fd", self.info.holder)).ok()?.flatten().map(|entry| entry.path());
        open.into_iter().find(|path| rustix::fs::stat(path).is_ok_and(|stat| (stat.st_dev, stat.st_ino) == id))
    }

    /// Where in it the volume begins, in bytes: behind an [NVDIMM header](crate::nvdimm), if the image has one.
    pub fn data_offset(&self) -> u64 {
        crate::nvdimm::data_offset(&self.fd)
    }

    /// A descriptor of its memory. That of an exclusive segment is locked until it is closed: to write it alone, or to read it with
    /// others.
    ///
    /// # Errors
    /// [`Error::Sealed`]: one that is to be written is not exclusive; [`Error::Locked`], with whoever has it; [`Error::Removed`]; the
    /// system's.
    pub fn open(&self, access: Access) -> Result<OwnedFd> {
        let Info { name, image, exclusive, .. } = &self.info;
        let flags = match access {
            Access::ReadOnly if !exclusive => return self.duplicate(),
            Access::ReadWrite if !exclusive => return Err(Error::Sealed { name: name.clone(), image: image.clone() }),
            Access::ReadOnly => OFlags::RDONLY,
            Access::ReadWrite => OFlags::RDWR,
        };
        let named = PathBuf::from(format!("the segment {name}"));
        // A lock is of an opening, and the holder gives the same one to everybody.
        let path = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        let fd = rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).map_err(Error::file("open", &named))?;
        crate::lock(&fd, &named, access)?;
        // Whoever removed it had the lock until then.
        if is_sealed(&fd) { Err(Error::Removed { name: name.clone() }) } else { Ok(fd) }
    }

    /// Its memory, or what is behind the header, mapped into this process. Nobody writes it as long as this is there.
    ///
    /// # Errors
    /// Someone has an exclusive segment to write it ([`Error::Locked`] says who); the system's: no address space.
    pub fn device(&self) -> Result<MappedFile> {
        MappedFile::open(self.open(Access::ReadOnly)?, Access::ReadOnly)
    }

    /// The memory of an exclusive segment, mapped into this process to be written by it alone.
    ///
    /// # Errors
    /// As [`Segment::open`]; no address space.
    pub fn device_writable(&self) -> Result<MappedFile> {
        MappedFile::open(self.open(Access::ReadWrite)?, Access::ReadWrite)
    }

    /// For one who does not look at the bytes: mapped to be read, whoever else has it.
    pub(crate) fn mapped(&self) -> Result<MappedFile> {
        MappedFile::open(self.duplicate()?, Access::ReadOnly)
    }

    fn duplicate(&self) -> Result<OwnedFd> {
        let cannot = |error: std::io::Error| Error::Silent { name: self.info.name.clone(), why: error.to_string() };
        self.fd.try_clone().map_err(cannot)
    }

    /// Device and inode of its memory, by which the kernel names it in `/proc/PID/maps`. Two names can share one memory.
    pub fn id(&self) -> (u64, u64) {
        id_of(&self.fd)
    }
}

/// Device and inode of a memory.
pub(crate) fn id_of(fd: &OwnedFd) -> (u64, u64) {
    rustix::fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino)).unwrap_or_default()
}
