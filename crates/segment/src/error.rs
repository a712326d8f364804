//! What can go wrong with segments and devices. Each error names the segment or file, and what to do about it.

use rustix::io::Errno;
use std::path::{Path, PathBuf};

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of a segment, or of a device made of a file.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused an operation on a file: its errno.
    #[error("cannot {action} {path}: {errno}", path = path.display())]
    File {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// As the system gave it.
        errno: Errno,
    },
    /// Not something that can be an image: `EINVAL`.
    #[error("{path} is not a regular file or block device: name an image file", path = path.display())]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// There is nothing in the file: `EINVAL`.
    #[error("{path} is empty: it is no image; make one with `xip build`", path = path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The length is no whole number of pages, so the file cannot be used in place: `EINVAL`.
    #[error(
        "{path} has {bytes} bytes, not a multiple of 4096: it was cut off, or is not an image with 4096-byte blocks; \
         copy or build it again",
        path = path.display()
    )]
    NotWholePages {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
    },
    /// Longer than an address space: `EFBIG`.
    #[error("{path} has {bytes} bytes, more than this machine can address", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
    },
}

impl Error {
    /// The errno that stands for this error.
    pub fn errno(&self) -> i32 {
        match self {
            Self::File { errno, .. } => *errno,
            Self::NotAFile { .. } | Self::Empty { .. } | Self::NotWholePages { .. } => Errno::INVAL,
            Self::TooLarge { .. } => Errno::FBIG,
        }
        .raw_os_error()
    }

    /// For `map_err`: `action` on `path` failed.
    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::File { action, path: path.into(), errno }
    }
}
