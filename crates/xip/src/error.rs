//! What can go wrong, with the path it went wrong at.

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
    /// The image or segment the volume is on.
    #[error(transparent)]
    Segment(#[from] xip_segment::Error),
    /// A call of the system below, such as the other end of a `sendfile`: its errno.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Error {
    /// The errno that stands for this error.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Path { source, .. } | Self::Volume(source) => source.errno(),
            Self::Loop { .. } => xip_core::error::errno::ELOOP,
            Self::Segment(error) => error.errno(),
            Self::Io(error) | Self::Image { source: error, .. } => {
                error.raw_os_error().unwrap_or(xip_core::error::errno::EIO)
            }
        }
    }
}

impl From<xip_core::Error> for Error {
    fn from(error: xip_core::Error) -> Self {
        Self::Volume(error.into())
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
