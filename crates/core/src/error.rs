//! What can go wrong below a file system. Every error has an errno, the one the contract gives it.

use crate::page::{PageIndex, PageNo};
use core::fmt;

/// An error of a device or of a file operation.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// An address or length is not a multiple of what it must be: `EINVAL`.
    Misaligned {
        /// The address or length.
        value: u64,
        /// What it must be a multiple of.
        multiple_of: u64,
    },
    /// Past the end of the device: `ERANGE`.
    OutOfRange {
        /// The first page asked for.
        first: PageNo,
        /// How many were asked for.
        count: u64,
        /// How many the device has.
        pages: u64,
    },
    /// The device is gone: `ENODEV`.
    Gone,
    /// The medium is known to be bad here: `EIO`.
    BadMedium {
        /// The page.
        page: PageNo,
    },
    /// The underlying store answered with this errno.
    Io {
        /// As the system gave it.
        errno: i32,
    },
    /// The device has no `direct_access`, or not now: `EOPNOTSUPP`.
    NoDirectAccess {
        /// Why, in words a person can act on.
        reason: &'static str,
    },
    /// The device is read-only, and enforces it: `EROFS`.
    ReadOnly,
    /// No page is free: `ENOSPC`.
    NoSpace,
    /// Past the largest size a file can have, or is allowed to have: `EFBIG`.
    TooLarge,
    /// An argument that no state of the file could make right: `EINVAL`.
    Invalid(&'static str),
    /// No data, or no hole, from there on: `ENXIO`.
    NothingThere,
    /// The file system cannot do this: `EOPNOTSUPP`.
    Unsupported(&'static str),
    /// A page is missing right after it was allocated (contract 2): an internal error, `EIO`.
    Lost {
        /// The page of the file.
        index: PageIndex,
    },
}

/// Errno values of Linux, as far as this crate and `xip-ext2` give them: both have no dependency to take them from.
#[allow(missing_docs)]
pub mod errno {
    pub const EPERM: i32 = 1;
    pub const ENOENT: i32 = 2;
    pub const EIO: i32 = 5;
    pub const ENXIO: i32 = 6;
    pub const EBUSY: i32 = 16;
    pub const EEXIST: i32 = 17;
    pub const ENODEV: i32 = 19;
    pub const ENOTDIR: i32 = 20;
    pub const EISDIR: i32 = 21;
    pub const EINVAL: i32 = 22;
    pub const EFBIG: i32 = 27;
    pub const ENOSPC: i32 = 28;
    pub const EROFS: i32 = 30;
    pub const EMLINK: i32 = 31;
    pub const ERANGE: i32 = 34;
    pub const ENAMETOOLONG: i32 = 36;
    pub const ENOTEMPTY: i32 = 39;
    pub const ELOOP: i32 = 40;
    pub const ENODATA: i32 = 61;
    pub const EOPNOTSUPP: i32 = 95;
    pub const EUCLEAN: i32 = 117;
}

impl Error {
    /// The errno that stands for this error.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Misaligned { .. } | Self::Invalid(_) => errno::EINVAL,
            Self::OutOfRange { .. } => errno::ERANGE,
            Self::Gone => errno::ENODEV,
            Self::BadMedium { .. } | Self::Lost { .. } => errno::EIO,
            Self::Io { errno } => *errno,
            Self::NoDirectAccess { .. } | Self::Unsupported(_) => errno::EOPNOTSUPP,
            Self::NothingThere => errno::ENXIO,
            Self::ReadOnly => errno::EROFS,
            Self::NoSpace => errno::ENOSPC,
            Self::TooLarge => errno::EFBIG,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Misaligned { value, multiple_of } => write!(f, "{value} is not a multiple of {multiple_of}"),
            Self::OutOfRange { first, count, pages } => {
                write!(f, "page {first} and {count} from there are beyond the device, which has {pages} pages")
            }
            Self::Gone => f.write_str("the device is gone"),
            Self::BadMedium { page } => write!(f, "the medium is bad at page {page}"),
            Self::Io { errno } => write!(f, "the store below answered with error {errno}"),
            Self::NoDirectAccess { reason } => write!(f, "no direct access: {reason}"),
            Self::ReadOnly => f.write_str("the device is read-only"),
            Self::NoSpace => f.write_str("no page is free"),
            Self::TooLarge => f.write_str("beyond the largest size of a file"),
            Self::Invalid(what) | Self::Unsupported(what) => f.write_str(what),
            Self::NothingThere => f.write_str("at or past the end of the file"),
            Self::Lost { index } => write!(f, "file page {index} is missing right after it was allocated"),
        }
    }
}

impl core::error::Error for Error {}
