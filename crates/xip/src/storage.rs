//! What a volume can be on, as one type.

use crate::error::Result;
use std::fs::File;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use xip_core::{Device, Error, PageNo, Properties, Region};
use xip_segment::{Access, MappedFile, Memory, PlainFile};

/// What a volume can be on.
#[derive(Debug)]
pub enum Storage {
    /// A file or shared-memory object, mapped into the process.
    Mapped(MappedFile),
    /// A file that is read by calls: not in place.
    Plain(PlainFile),
    /// Memory of this process.
    Memory(Memory),
}

impl Storage {
    /// Maps the file at `image`; what cannot be mapped is read by calls.
    pub(crate) fn open(image: &Path) -> Result<Self> {
        // Not to wait for the writer of a fifo: what is no file is refused below.
        let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let open = || {
            let opened = File::options().read(true).custom_flags(flags).open(image);
            opened.map_err(|source| crate::Error::Image { path: image.into(), source })
        };
        Ok(match MappedFile::open(open()?, Access::ReadOnly) {
            Ok(mapped) => Self::Mapped(mapped),
            Err(_) => Self::Plain(PlainFile::open(open()?, Access::ReadOnly)?),
        })
    }

    /// The file that holds the storage at the same offsets, for calls that take a descriptor.
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

impl Device for Storage {
    #[inline]
    fn pages(&self) -> u64 {
        match self {
            Self::Mapped(device) => device.pages(),
            Self::Plain(device) => device.pages(),
            Self::Memory(device) => device.pages(),
        }
    }

    /// A volume opened here is only read, whatever the device would allow.
    fn properties(&self) -> Properties {
        let properties = match self {
            Self::Mapped(device) => device.properties(),
            Self::Plain(device) => device.properties(),
            Self::Memory(device) => device.properties(),
        };
        Properties { writable: false, ..properties }
    }

    #[inline]
    fn direct_access(&self, first: PageNo, count: u64) -> std::result::Result<Region<'_>, Error> {
        match self {
            Self::Mapped(device) => device.direct_access(first, count),
            Self::Plain(device) => device.direct_access(first, count),
            Self::Memory(device) => device.direct_access(first, count),
        }
    }

    #[inline]
    fn read(&self, at: u64, to: &mut [u8]) -> std::result::Result<(), Error> {
        match self {
            Self::Mapped(device) => device.read(at, to),
            Self::Plain(device) => device.read(at, to),
            Self::Memory(device) => device.read(at, to),
        }
    }
}
