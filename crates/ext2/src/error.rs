//! What can go wrong with a volume.

use core::fmt;
use xip_core::error::errno;

/// An error of a volume. Each has an errno, and its text names the thing.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// The device below.
    Device(xip_core::Error),
    /// No ext2 superblock is there: `EINVAL`.
    NotExt2 {
        /// What was found wrong.
        what: &'static str,
    },
    /// A field of the superblock or of a group descriptor is out of range: `EUCLEAN`.
    BadGeometry {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// The device ends before the volume does: `EUCLEAN`.
    CutOff {
        /// Bytes that are there.
        have: u64,
        /// Bytes of the volume.
        needs: u64,
    },
    /// No volume can be made like this: `EINVAL`.
    CannotMake {
        /// What is out of range.
        what: &'static str,
        /// Its value.
        value: u64,
    },
    /// A feature this implementation does not know and that forbids reading: `EOPNOTSUPP`.
    UnknownFeature {
        /// The bits of `s_feature_incompat` that are not known.
        incompat: u32,
    },
    /// A journal that has not been played back, as after a crash of an ext3 volume: what is in place may be older than what is in
    /// the journal, or half of it. `EUCLEAN`.
    NeedsRecovery,
    /// `XIP: Unsupported blocksize`, as the kernel said it: `EINVAL`.
    UnsupportedBlocksize {
        /// Bytes in a block.
        size: u32,
    },
    /// Something on the volume contradicts itself: `EUCLEAN`.
    Corrupt {
        /// What is wrong.
        what: &'static str,
        /// The inode it belongs to, 0 for none.
        inode: u32,
        /// Where: a block number, a position in a directory, or a value.
        at: u64,
    },
    /// Does not exist: `ENOENT`.
    NotFound,
    /// Exists already: `EEXIST`.
    Exists,
    /// Not a directory: `ENOTDIR`.
    NotDirectory,
    /// A directory: `EISDIR`.
    IsDirectory,
    /// Not of the kind the operation needs: `EINVAL`.
    WrongKind,
    /// The directory is not empty: `ENOTEMPTY`.
    NotEmpty,
    /// A name longer than 255 bytes, or a target of a symbolic link that a block does not hold: `ENAMETOOLONG`.
    NameTooLong,
    /// Empty, or with a slash or a zero byte in it, or `.` or `..` where none may be: `EINVAL`.
    InvalidName,
    /// A directory cannot come to stand below itself: `EINVAL`.
    OwnSubtree,
    /// It has names, so it cannot be released; or others change it all the time: `EBUSY`.
    Busy,
    /// A file cannot have more links: `EMLINK`.
    TooManyLinks,
    /// A directory cannot have more entries: `ENOSPC`.
    DirectoryFull,
    /// No block or no inode is free: `ENOSPC`.
    NoSpace,
    /// The file has no such attribute: `ENODATA`.
    NoAttribute,
    /// All attributes of a file together do not fit its inode and one block: `ENOSPC`, as in Linux.
    AttributesFull,
    /// Larger than what the format can hold, or than the buffer given: `ERANGE`.
    ValueTooLarge,
    /// The volume is read-only: `EROFS`.
    ReadOnly {
        /// Why.
        reason: &'static str,
    },
    /// Not offered: `EOPNOTSUPP`.
    Unsupported(&'static str),
}

impl Error {
    /// The errno that stands for this error.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Device(error) => error.errno(),
            Self::NotExt2 { .. }
            | Self::CannotMake { .. }
            | Self::UnsupportedBlocksize { .. }
            | Self::InvalidName
            | Self::OwnSubtree
            | Self::WrongKind => errno::EINVAL,
            Self::Busy => errno::EBUSY,
            Self::BadGeometry { .. } | Self::CutOff { .. } | Self::NeedsRecovery | Self::Corrupt { .. } => {
                errno::EUCLEAN
            }
            Self::UnknownFeature { .. } | Self::Unsupported(_) => errno::EOPNOTSUPP,
            Self::NotFound => errno::ENOENT,
            Self::Exists => errno::EEXIST,
            Self::NotDirectory => errno::ENOTDIR,
            Self::IsDirectory => errno::EISDIR,
            Self::NotEmpty => errno::ENOTEMPTY,
            Self::NameTooLong => errno::ENAMETOOLONG,
            Self::TooManyLinks => errno::EMLINK,
            Self::DirectoryFull | Self::AttributesFull | Self::NoSpace => errno::ENOSPC,
            Self::NoAttribute => errno::ENODATA,
            Self::ValueTooLarge => errno::ERANGE,
            Self::ReadOnly { .. } => errno::EROFS,
        }
    }
}

impl From<xip_core::Error> for Error {
    fn from(error: xip_core::Error) -> Self {
        match error {
            xip_core::Error::NoSpace => Self::NoSpace,
            other => Self::Device(other),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(error) => error.fmt(f),
            Self::NotExt2 { what } => write!(f, "not an ext2 volume: {what}"),
            Self::BadGeometry { field, value } => {
                write!(f, "the volume is damaged: {field} is {value}; run e2fsck on it")
            }
            Self::CutOff { have, needs } => {
                write!(f, "the image is cut off: {have} of its {needs} bytes are there; copy or build it again")
            }
            Self::CannotMake { what, value } => write!(f, "no volume can be made: {what} is {value}"),
            Self::UnknownFeature { incompat } => {
                f.write_str("the volume has features that are not ext2's: ")?;
                write_features(f, *incompat)?;
                f.write_str("; make an image by `xip build`, or a volume by `mke2fs -t ext2 -b 4096`")
            }
            Self::NeedsRecovery => f.write_str(
                "the volume has a journal (ext3) that is to be played back first; run `e2fsck -p` on it, or mount it once by the kernel",
            ),
            Self::UnsupportedBlocksize { size } => {
                write!(f, "XIP: Unsupported blocksize {size}; in place needs blocks of 4096 bytes (mke2fs -b 4096)")
            }
            Self::Corrupt { what, inode: 0, at } => write!(f, "the volume is damaged: {what} ({at}); run e2fsck on it"),
            Self::Corrupt { what, inode, at } => {
                write!(f, "the volume is damaged: inode {inode}: {what} ({at}); run e2fsck on it")
            }
            Self::NotFound => f.write_str("no such file or directory"),
            Self::Exists => f.write_str("the name exists already"),
            Self::NotDirectory => f.write_str("not a directory"),
            Self::IsDirectory => f.write_str("is a directory"),
            Self::WrongKind => f.write_str("not the kind of file this needs"),
            Self::NotEmpty => f.write_str("the directory is not empty"),
            Self::NameTooLong => {
                f.write_str("the name is longer than 255 bytes, or the target of the link than a block")
            }
            Self::InvalidName => f.write_str("a name cannot be empty, . or .. here, or hold a slash or a zero byte"),
            Self::OwnSubtree => f.write_str("a directory cannot be moved below itself"),
            Self::Busy => f.write_str("in use; try again"),
            Self::TooManyLinks => f.write_str("the file has as many links as the format can count"),
            Self::DirectoryFull => f.write_str("the directory's index is full"),
            Self::NoSpace => f.write_str("no space left on the volume"),
            Self::NoAttribute => f.write_str("no such attribute"),
            Self::AttributesFull => f.write_str("the attributes of the file do not fit its inode and one block"),
            Self::ValueTooLarge => f.write_str("the value is too large"),
            Self::ReadOnly { reason } => write!(f, "the volume is read-only: {reason}"),
            Self::Unsupported(what) => f.write_str(what),
        }
    }
}

impl core::error::Error for Error {}

/// The names that `mke2fs` and `dumpe2fs` have for features that forbid reading to those who do not know them.
const INCOMPAT_NAMES: [(u32, &str); 15] = [
    (0x1, "compression"),
    (0x4, "needs_recovery"),
    (0x8, "journal_dev"),
    (0x10, "meta_bg"),
    (0x40, "extent"),
    (0x80, "64bit"),
    (0x100, "mmp"),
    (0x200, "flex_bg"),
    (0x400, "ea_inode"),
    (0x1000, "dirdata"),
    (0x2000, "metadata_csum_seed"),
    (0x4000, "large_dir"),
    (0x8000, "inline_data"),
    (0x1_0000, "encrypt"),
    (0x2_0000, "casefold"),
];

fn write_features(f: &mut fmt::Formatter<'_>, incompat: u32) -> fmt::Result {
    let mut rest = incompat;
    let mut between = "";
    for (bit, name) in INCOMPAT_NAMES {
        if incompat & bit != 0 {
            write!(f, "{between}{name}")?;
            rest &= !bit;
            between = ", ";
        }
    }
    if rest == 0 { Ok(()) } else { write!(f, "{between}unknown features {rest:#x}") }
}
