//! What can go wrong, with the path it went wrong at.

use rustix::io::Errno;
use std::io;
use std::path::PathBuf;

/// The result of most calls here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a volume, a file or a path on it. Each has an errno, and becomes a [`std::io::Error`] by `?`.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A path on the volume: the errno is that of the reason.
    #[error("{}: {source}", path.display())]
    Path {
        /// The path as it was given.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: xip_ext2::Error,
    },
    /// More than 40 symbolic links on the way: `ELOOP`.
    #[error("{}: more than 40 symbolic links on the way; one of them leads back to itself", path.display())]
    Loop {
        /// The path as it was given.
        path: PathBuf,
    },
    /// The volume.
    #[error(transparent)]
    Volume(#[from] xip_ext2::Error),
    /// The image cannot be opened: the errno of the call.
    #[error("{}: {source}", path.display())]
    Image {
        /// The file that should be an image.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A name that was to move, or a file that was to get one more: the errno is that of the reason.
    #[error("{} -> {}: {source}", from.display(), to.display())]
    Paths {
        /// Where it is.
        from: PathBuf,
        /// Where it was to be.
        to: PathBuf,
        /// What is wrong.
        #[source]
        source: xip_ext2::Error,
    },
    /// The image is open to be written, or is to be and is open: `EBUSY`. One writes, or many read.
    #[error("{} is in use by {holder}; one program writes an image, or many read it", path.display())]
    InUse {
        /// The image.
        path: PathBuf,
        /// Who has it.
        holder: String,
    },
    /// The volume is to be written and has damage that no crash leaves: `EUCLEAN`.
    #[error("the volume is damaged in {count} places ({first}) and is not written as it is; run e2fsck on it")]
    Damaged {
        /// How many findings.
        count: u64,
        /// The first of them.
        first: String,
    },
    /// The file was not opened for this: `EBADF`.
    #[error("the file was not opened to be {0}; see OpenOptions")]
    NotOpenedTo(&'static str),
    /// A page of the file that a map does not show: `EFAULT`, as a `SIGBUS` becomes for system calls.
    #[error("page {page} of the file is {}", if *.in_map { "at or beyond its end" } else { "not in the map" })]
    NotMapped {
        /// The page of the file.
        page: u64,
        /// Whether it is in the map at all.
        in_map: bool,
    },
    /// The arguments make no sense: `EINVAL`.
    #[error("{0}")]
    Invalid(&'static str),
    /// Clones of the volume or files of it are still in use, and the last of them closes it: `EBUSY`.
    #[error("the volume cannot be closed while clones or files of it are in use; the last of them will close it")]
    StillInUse,
    /// The image or segment the volume is on.
    #[error(transparent)]
    Segment(xip_segment::Error),
    /// A call of the system below, such as the other end of a `sendfile`: its errno.
    #[error(transparent)]
    Io(io::Error),
}

impl Error {
    /// The errno that stands for this error.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Path { source, .. } | Self::Paths { source, .. } | Self::Volume(source) => source.errno(),
            Self::InUse { .. } | Self::StillInUse => Errno::BUSY.raw_os_error(),
            Self::Damaged { .. } => Errno::UCLEAN.raw_os_error(),
            Self::NotOpenedTo(_) => Errno::BADF.raw_os_error(),
            Self::NotMapped { .. } => Errno::FAULT.raw_os_error(),
            Self::Invalid(_) => Errno::INVAL.raw_os_error(),
            Self::Loop { .. } => xip_core::error::errno::ELOOP,
            Self::Segment(error) => error.errno(),
            Self::Io(error) | Self::Image { source: error, .. } => {
                error.raw_os_error().unwrap_or(xip_core::error::errno::EIO)
            }
        }
    }
}

impl From<xip_segment::Error> for Error {
    fn from(error: xip_segment::Error) -> Self {
        match error {
            xip_segment::Error::Locked { path, holder } => Self::InUse { path, holder },
            other => Self::Segment(other),
        }
    }
}

impl From<xip_core::Error> for Error {
    fn from(error: xip_core::Error) -> Self {
        Self::Volume(error.into())
    }
}

impl From<io::Error> for Error {
    /// One of ours that has been a [`std::io::Error`] meanwhile, as after `writeln!`, is what it was.
    fn from(error: io::Error) -> Self {
        error.downcast().unwrap_or_else(Self::Io)
    }
}

impl From<Error> for io::Error {
    /// The kind is the errno's; the text stays ours, because it names the thing and the remedy.
    fn from(error: Error) -> Self {
        match error {
            Error::Io(error) => error,
            error => Self::new(Self::from_raw_os_error(error.errno()).kind(), error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_went_through_std_keeps_its_errno() {
        let no_space = || Error::from(xip_ext2::Error::NoSpace);
        let back = Error::from(io::Error::from(no_space()));
        assert_eq!((back.errno(), back.to_string()), (xip_core::error::errno::ENOSPC, no_space().to_string()));
        let foreign = Error::from(io::Error::from_raw_os_error(13));
        assert!(matches!(&foreign, Error::Io(error) if error.raw_os_error() == Some(13)));
    }
}
