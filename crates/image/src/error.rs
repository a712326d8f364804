//! What can go wrong when an image is made or looked at.

use std::io;
use std::path::PathBuf;

/// An error of this crate. Each has an errno, and its text names the file and, where there is one, the remedy.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something of the source cannot be read: the errno of the system.
    #[error("{}: cannot {what}: {error}", path.display())]
    Source {
        /// What could not be read.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// A file of the source is not what it was when the build began: `EBUSY`.
    #[error("{}: {what} while the image was built; build again when nobody changes the tree", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// What happened to it.
        what: &'static str,
    },
    /// The volume cannot take a file.
    #[error("{}: {error}", path.display())]
    File {
        /// The file, in the source or in the image.
        path: PathBuf,
        /// Why.
        error: xip_ext2::Error,
    },
    /// The volume as a whole.
    #[error("{}: {error}", image.display())]
    Volume {
        /// The image.
        image: PathBuf,
        /// What is wrong.
        error: xip_ext2::Error,
    },
    /// The image file cannot be made or opened: the errno of the system.
    #[error("{}: cannot {what}: {error}{}", image.display(), remedy(what, error))]
    Image {
        /// The image.
        image: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// An image that a segment is to be saved to is not what it was when that was loaded: `EBUSY`.
    #[error(
        "{image} has other bytes than when the segment {segment} was loaded from it or saved to it, and these would be lost: name another \
         file (`xip save {segment} FILE`), or this one if they may go",
        image = image.display()
    )]
    Newer {
        /// The image.
        image: PathBuf,
        /// The segment.
        segment: String,
    },
    /// A segment was left by a program that was killed, or is no volume any more: `EUCLEAN`.
    #[error(
        "the segment {segment} was not closed by who wrote it: `xip check --repair {segment}` first; or name a file to save it to as it is"
    )]
    NotClosed {
        /// The segment.
        segment: String,
    },
    /// The storage under the image is full: `ENOSPC`.
    #[error(
        "{}: no room for the image: it takes up to {needs} bytes, and {free} are free there; \
         make room or name another place",
        image.display()
    )]
    NoRoom {
        /// The image.
        image: PathBuf,
        /// Its bytes.
        needs: u64,
        /// What is free there without it.
        free: u64,
    },
    /// The file is no image that could be mapped.
    #[error(transparent)]
    Device(xip_segment::Error),
    /// The tree does not fit into the size that was asked for: `ENOSPC`.
    #[error(
        "the tree needs {needed} bytes, more than the {size} that were asked for; give a --size of {needed} or more"
    )]
    TooSmall {
        /// What was asked for.
        size: u64,
        /// The least that will do.
        needed: u64,
    },
    /// The tree is larger than the format can hold: `EFBIG`.
    #[error("the tree does not fit into one ext2 volume: {what}")]
    TooLarge {
        /// Which limit it meets.
        what: &'static str,
    },
    /// An option that makes no sense: `EINVAL`.
    #[error("{option}: {what}")]
    Option {
        /// The option.
        option: &'static str,
        /// What is wrong with it.
        what: String,
    },
    /// Somebody else has the image: `EBUSY`.
    #[error("{} is in use by {by}: end or unmount that first", image.display())]
    InUse {
        /// The image.
        image: PathBuf,
        /// Who, in words.
        by: String,
    },
    /// There is not enough memory to check the volume: `ENOMEM`.
    #[error("{}: a check of it needs {bytes} bytes of memory: end other programs, or use a larger machine", image.display())]
    NoMemory {
        /// The image.
        image: PathBuf,
        /// What is needed.
        bytes: usize,
    },
    /// [`Progress::cancelled`](crate::Progress::cancelled) said so: `EINTR`.
    #[error("interrupted; nothing is left of it")]
    Cancelled,
}

impl From<xip_segment::Error> for Error {
    fn from(error: xip_segment::Error) -> Self {
        match error {
            xip_segment::Error::Locked { path, holder } => Self::InUse { image: path, by: holder },
            other => Self::Device(other),
        }
    }
}

impl Error {
    /// The errno that stands for this error.
    pub fn errno(&self) -> i32 {
        use rustix::io::Errno;
        let of = |error: &io::Error| error.raw_os_error().unwrap_or(Errno::IO.raw_os_error());
        match self {
            Self::Source { error, .. } | Self::Image { error, .. } => of(error),
            Self::Device(error) => error.errno(),
            Self::Changed { .. } | Self::InUse { .. } | Self::Newer { .. } => Errno::BUSY.raw_os_error(),
            Self::File { error, .. } | Self::Volume { error, .. } => error.errno(),
            Self::TooSmall { .. } | Self::NoRoom { .. } => Errno::NOSPC.raw_os_error(),
            Self::TooLarge { .. } => Errno::FBIG.raw_os_error(),
            Self::Option { .. } => Errno::INVAL.raw_os_error(),
            Self::NotClosed { .. } => Errno::UCLEAN.raw_os_error(),
            Self::NoMemory { .. } => Errno::NOMEM.raw_os_error(),
            Self::Cancelled => Errno::INTR.raw_os_error(),
        }
    }
}

fn remedy(what: &str, error: &io::Error) -> &'static str {
    match error.kind() {
        // To be read, not written.
        _ if what == crate::info::OPEN => "",
        io::ErrorKind::StorageFull => "; make room there or name another place",
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => "; name a place that can be written",
        _ => "",
    }
}
