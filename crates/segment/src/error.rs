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
    /// Not a name for a segment: `EINVAL`.
    #[error(
        "{name:?} cannot be the name of a segment: use 1 to 64 of A-Z, a-z, 0-9, `.`, `_` and `-`, not starting with a dot"
    )]
    BadName {
        /// The name.
        name: String,
    },
    /// The directory of segments could be written by others: `EPERM`.
    #[error(
        "{path} is not a directory that belongs to you and that only you can write to: set XIP_DIR to one that is",
        path = path.display()
    )]
    ForeignDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// There is no such segment: `ENOENT`.
    #[error("there is no segment {name} in {directory}: `xip ls` shows those there are, `xip load` makes one", directory = directory.display())]
    NoSegment {
        /// The name.
        name: String,
        /// Where it was looked for.
        directory: PathBuf,
    },
    /// The name is taken by a segment with other content: `EEXIST`.
    #[error(
        "the segment {name} holds another image ({other}): load this one under another name with `--name`, or in its place \
         with `--replace`; `xip rm {name}` removes it",
        other = other.display()
    )]
    NameTaken {
        /// The name.
        name: String,
        /// The image which that segment was loaded from.
        other: PathBuf,
    },
    /// One of the two has its name and memory to itself: `EEXIST`.
    #[error(
        "there is a segment {name}, and an exclusive one shares no name: use {image} under another (`xip load {image} --name OTHER`), or \
         remove that one with `xip rm {name}`",
        image = image.display()
    )]
    Exclusive {
        /// The name.
        name: String,
        /// The image that was to be loaded.
        image: PathBuf,
    },
    /// The segment was removed after it was asked for, and before it was opened: `ENOENT`.
    #[error("the segment {name} was removed just now")]
    Removed {
        /// The name.
        name: String,
    },
    /// The segment is not exclusive, and was to be written: `EPERM`.
    #[error(
        "the segment {name} is sealed: nobody can change it; write to its image ({image}), to a copy of that (`xip save {name} COPY`), \
         or to what `xip load {image} --exclusive --name OTHER` makes of it",
        image = image.display()
    )]
    Sealed {
        /// The name.
        name: String,
        /// The image which it was loaded from.
        image: PathBuf,
    },
    /// What is in an exclusive segment may be nowhere else: `EBUSY`.
    #[error(
        "what is in the segment {name} may be nowhere else: {why}; `xip save` keeps it, and `xip rm --force {name}` does not"
    )]
    Unsaved {
        /// The name.
        name: String,
        /// Why that is so.
        why: String,
    },
    /// Others could put a directory of theirs in the place of the one of segments: `EPERM`.
    #[error(
        "{path} can be renamed by anyone, since all may write to the directory it is in and that is not sticky: \
         `chmod +t` that one, or set XIP_DIR to a place where only you can write",
        path = path.display()
    )]
    OpenParent {
        /// The directory of segments.
        path: PathBuf,
    },
    /// The segment is in use, and would not be gone when it is removed: `EBUSY`.
    #[error(
        "the segment {name} is in use by {}: end them, or take the name away with `xip rm --force {name}`",
        list(users)
    )]
    InUse {
        /// The name.
        name: String,
        /// Who uses it.
        users: Vec<crate::stat::User>,
    },
    /// The image is open to be written, or is to be and is open: `EBUSY`.
    #[error("{} is in use by {holder}; one program writes it, or many read it: end or unmount that first", path.display())]
    Locked {
        /// The image.
        path: PathBuf,
        /// Who has it, in words.
        holder: String,
    },
    /// There is not enough memory: `ENOMEM`.
    #[error(
        "not enough memory for {image}: it needs {} MiB and {} MiB are free; remove segments with `xip rm`, \
         end programs, or build a smaller image",
        needed.div_ceil(MIB), free / MIB, image = image.display()
    )]
    NoMemory {
        /// The image.
        image: PathBuf,
        /// What it needs, in bytes.
        needed: u64,
        /// What is free, in bytes.
        free: u64,
    },
    /// A limit of this process on its address space is in the way: `ENOMEM`.
    #[error(
        "cannot map {path}: it needs {} MiB of address space, and RLIMIT_AS is {} MiB for all of this process: \
         raise it with `ulimit -v`",
        needed.div_ceil(MIB), limit / MIB, path = path.display()
    )]
    AddressSpace {
        /// What was to be mapped.
        path: PathBuf,
        /// What it needs, in bytes.
        needed: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// A part of a window cannot be mapped: the errno of the call.
    #[error(
        "{pages} pages cannot be mapped into the process: {errno}; the limits are its address space (ulimit -v) and its number of \
         mappings (vm.max_map_count), of which a file needs one for each run"
    )]
    Window {
        /// How many.
        pages: u64,
        /// What the system said.
        errno: Errno,
    },
    /// The image changed while it was read: `EAGAIN`.
    #[error("{image} changed while it was loaded: load it again when nothing writes to it", image = image.display())]
    Changed {
        /// The image.
        image: PathBuf,
    },
    /// The image was looked into and refused: `EUCLEAN`.
    #[error("{image} cannot be loaded: {why}", image = image.display())]
    Refused {
        /// The image.
        image: PathBuf,
        /// Why, in words.
        why: String,
    },
    /// The process that keeps the segment could not be started: `ECHILD`.
    #[error("cannot keep the segment {name} with {program}: {why}", program = program.display())]
    Holder {
        /// The segment.
        name: String,
        /// The program that was started for it.
        program: PathBuf,
        /// Why.
        why: String,
    },
    /// The process that keeps the segment answers as that of another version does: `EPROTO`.
    #[error("the segment {name} was loaded by another version of xip: `xip rm {name}` and load it again")]
    OtherVersion {
        /// The segment.
        name: String,
    },
    /// The process that keeps the segment does not answer, or not with a segment: `ETIMEDOUT`.
    #[error(
        "the holder of the segment {name} does not answer ({why}): if it is stopped, let it go on; \
         otherwise take the name away with `xip rm --force {name}`, and with it what was written to it, if it is an exclusive one"
    )]
    Silent {
        /// The segment.
        name: String,
        /// Why.
        why: String,
    },
}

const MIB: u64 = 1 << 20;

/// Users in words: not more than a line's worth.
fn list(users: &[crate::stat::User]) -> String {
    let mut words: Vec<String> = users.iter().take(5).map(ToString::to_string).collect();
    if users.len() > words.len() {
        words.push(format!("{} more", users.len() - words.len()));
    }
    words.join(", ")
}

impl Error {
    /// The errno that stands for this error.
    pub fn errno(&self) -> i32 {
        match self {
            Self::File { errno, .. } | Self::Window { errno, .. } => *errno,
            Self::NotAFile { .. } | Self::Empty { .. } | Self::NotWholePages { .. } => Errno::INVAL,
            Self::BadName { .. } => Errno::INVAL,
            Self::TooLarge { .. } => Errno::FBIG,
            Self::ForeignDirectory { .. } | Self::OpenParent { .. } | Self::Sealed { .. } => Errno::PERM,
            Self::NoSegment { .. } | Self::Removed { .. } => Errno::NOENT,
            Self::NameTaken { .. } | Self::Exclusive { .. } => Errno::EXIST,
            Self::InUse { .. } | Self::Locked { .. } | Self::Unsaved { .. } => Errno::BUSY,
            Self::NoMemory { .. } | Self::AddressSpace { .. } => Errno::NOMEM,
            Self::Changed { .. } => Errno::AGAIN,
            Self::Refused { .. } => Errno::UCLEAN,
            Self::Holder { .. } => Errno::CHILD,
            Self::OtherVersion { .. } => Errno::PROTO,
            Self::Silent { .. } => Errno::TIMEDOUT,
        }
        .raw_os_error()
    }

    /// For `map_err`: `path` could not be mapped.
    pub(crate) fn map(path: &Path, needed: u64) -> impl FnOnce(Errno) -> Self {
        move |errno| match rustix::process::getrlimit(rustix::process::Resource::As).current {
            Some(limit) if errno == Errno::NOMEM => Self::AddressSpace { path: path.into(), needed, limit },
            _ => Self::File { action: "map", path: path.into(), errno },
        }
    }

    /// For `map_err`: `action` on `path` failed.
    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::File { action, path: path.into(), errno }
    }
}
