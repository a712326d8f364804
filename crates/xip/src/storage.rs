//! What a volume can be on, as one type.

use crate::error::Result;
use rustix::fs::{Timespec, Timestamps, UTIME_NOW, futimens};
use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use xip_core::{Device, Error, PageNo, Properties, Region, RegionMut};
use xip_segment::{Access, MappedFile, Memory, PlainFile};

/// What a volume can be on.
#[derive(Debug)]
pub enum Storage {
    /// A file or shared-memory object, mapped into the process.
    Mapped(MappedFile),
    /// A file that is read and written by calls: not in place.
    Plain(PlainFile),
    /// Memory of this process.
    Memory(Memory),
}

impl Storage {
    /// Maps the file at `image`; what cannot be mapped is read and written by calls.
    pub(crate) fn open(image: &Path, access: Access) -> Result<Self> {
        let write = access == Access::ReadWrite;
        let open = || -> Result<File> {
            // Not to wait for the writer of a fifo: what is no file is refused below.
            let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
            let opened = File::options().read(true).write(write).custom_flags(flags).open(image);
            opened.map_err(|source| crate::Error::Image { path: image.into(), source })
        };
        let open = || xip_segment::open_locked(image, access, open, || rustix::fs::stat(image));
        Ok(match MappedFile::open(open()?, access) {
            Ok(mapped) => Self::Mapped(mapped),
            Err(_) => Self::Plain(PlainFile::open(open()?, access)?),
        })
    }

    /// The file that holds the storage.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Mapped(mapped) => Some(mapped.fd()),
            Self::Plain(_) | Self::Memory(_) => None,
        }
    }
}

impl From<MappedFile> for Storage {
    fn from(device: MappedFile) -> Self {
        Self::Mapped(device)
    }
}

impl From<PlainFile> for Storage {
    fn from(device: PlainFile) -> Self {
        Self::Plain(device)
    }
}

impl From<Memory> for Storage {
    fn from(device: Memory) -> Self {
        Self::Memory(device)
    }
}

/// Storage as a volume has it: one that is only to be read cannot be written, whatever the device would allow.
#[derive(Debug)]
pub(crate) struct Backing {
    storage: Storage,
    writable: bool,
}

impl Backing {
    pub(crate) fn new(storage: Storage, access: Access) -> Result<Self> {
        // Sealed memory has only readers, however many; its descriptor may be one that all of them share.
        if let Some(fd) = storage.fd()
            && !storage.properties().sealed
        {
            let name = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
            xip_segment::lock(fd, &std::fs::read_link(&name).unwrap_or(name), access)?;
        }
        Ok(Self { storage, writable: access == Access::ReadWrite })
    }

    /// Has the file say in its times that it has changed. On tmpfs stores through a mapping do not, and by its times a file that was
    /// loaded is known again.
    pub(crate) fn touch(&self) {
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        if let Some(fd) = self.storage.fd() {
            // Both at once are for everyone who may write.
            let _ = futimens(fd, &Timestamps { last_access: now, last_modification: now });
        }
    }

    /// The file, when it is mapped.
    pub(crate) fn mapped(&self) -> Option<&MappedFile> {
        match &self.storage {
            Storage::Mapped(mapped) => Some(mapped),
            Storage::Plain(_) | Storage::Memory(_) => None,
        }
    }
}

/// The same call on whichever device it is.
macro_rules! on {
    ($storage:expr, $device:ident => $call:expr) => {
        match $storage {
            Storage::Mapped($device) => $call,
            Storage::Plain($device) => $call,
            Storage::Memory($device) => $call,
        }
    };
}

impl Storage {
    fn properties(&self) -> Properties {
        on!(self, device => device.properties())
    }

    #[inline(never)]
    fn read(&self, at: u64, to: &mut [u8]) -> Result<(), Error> {
        on!(self, device => device.read(at, to))
    }

    #[inline(never)]
    fn write(&self, at: u64, from: &[u8]) -> Result<(), Error> {
        on!(self, device => device.write(at, from))
    }
}

impl Device for Backing {
    #[inline]
    fn pages(&self) -> u64 {
        on!(&self.storage, device => device.pages())
    }

    fn properties(&self) -> Properties {
        let properties = self.storage.properties();
        Properties { writable: properties.writable && self.writable, ..properties }
    }

    #[inline]
    fn direct_access(&self, first: PageNo, count: u64) -> Result<Region<'_>, Error> {
        on!(&self.storage, device => device.direct_access(first, count))
    }

    #[inline]
    fn direct_access_mut(&self, first: PageNo, count: u64) -> Result<RegionMut<'_>, Error> {
        if !self.writable {
            return Err(Error::ReadOnly);
        }
        on!(&self.storage, device => device.direct_access_mut(first, count))
    }

    #[inline]
    fn bytes(&self, at: u64, len: usize) -> Result<Region<'_>, Error> {
        on!(&self.storage, device => device.bytes(at, len))
    }

    // What is mapped comes first: there a record of metadata is a few loads and stores.

    #[inline]
    fn read(&self, at: u64, to: &mut [u8]) -> Result<(), Error> {
        match &self.storage {
            Storage::Mapped(device) => device.read(at, to),
            other => other.read(at, to),
        }
    }

    #[inline]
    fn write(&self, at: u64, from: &[u8]) -> Result<(), Error> {
        match &self.storage {
            _ if !self.writable => Err(Error::ReadOnly),
            Storage::Mapped(device) => device.write(at, from),
            other => other.write(at, from),
        }
    }

    #[inline]
    fn store(&self, at: u64, from: &[u8]) -> Result<(), Error> {
        match &self.storage {
            _ if !self.writable => Err(Error::ReadOnly),
            Storage::Mapped(device) => device.store(at, from),
            // Neither of them has a better way for much.
            other => other.write(at, from),
        }
    }

    fn zero(&self, at: u64, len: u64) -> Result<(), Error> {
        if !self.writable {
            return Err(Error::ReadOnly);
        }
        on!(&self.storage, device => device.zero(at, len))
    }

    fn flush(&self, at: u64, len: u64) -> Result<(), Error> {
        on!(&self.storage, device => device.flush(at, len))
    }

    /// A file on a disk does not order single stores, so the volume asks for this only where everything is to be durable:
    /// then the file is.
    fn fence(&self) -> Result<(), Error> {
        on!(&self.storage, device => device.fence())?;
        let synced = match &self.storage {
            _ if !self.writable || self.storage.properties().persistent => Ok(()),
            Storage::Mapped(device) => device.sync(),
            Storage::Plain(device) => device.sync(),
            Storage::Memory(_) => Ok(()),
        };
        synced.map_err(|error| Error::Io { errno: error.errno() })
    }
}
