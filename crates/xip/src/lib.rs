//! Execute in place: a volume in memory, with the feel of `std::fs`.
//!
//! An image built by `xip build`, or any ext2 file system, is opened from its file or from a segment, and its files are
//! used where they are stored: a read copies straight from storage, and where storage cannot change, its bytes are
//! borrowed without a copy.
//!
//! ```
//! use std::io::Read;
//!
//! # fn main() -> Result<(), xip::Error> {
//! # let image = tempfile::NamedTempFile::new()?;
//! # {
//! #     use xip_ext2::{File, Format, InodeNo, NewInode, NewKind, Volume};
//! #     let device = xip_segment::MappedFile::create(image.reopen()?, 64)?;
//! #     let format = Format { blocks: 64, inodes: 32, ..Format::default() };
//! #     let volume = Volume::format(device, xip_core::Alone::default(), &format)?;
//! #     let new = |kind| NewInode { kind, permissions: 0o755, uid: 0, gid: 0 };
//! #     let bin = volume.create(InodeNo::ROOT, b"bin", &new(NewKind::Directory))?;
//! #     let shell = volume.create(bin, b"sh", &new(NewKind::Regular))?;
//! #     let File::InPlace(file) = volume.file(shell)? else { panic!() };
//! #     xip_core::ops::write(&file, 0, b"\x7fELF and more", &Default::default())?;
//! # }
//! # let image = image.path();
//! let volume = xip::Volume::open(image)?;
//! let mut shell = volume.file("/bin/sh")?;
//! assert!(shell.in_place());
//! let mut magic = [0; 4];
//! shell.read_exact(&mut magic)?;
//! assert_eq!(&magic, b"\x7fELF");
//!
//! for entry in volume.read_dir("/bin")? {
//!     let entry = entry?;
//!     println!("{:?} {}", entry.file_name(), entry.metadata()?.len());
//! }
//! // Where in the image the file is: its first page, and how many follow.
//! println!("{:?}", shell.layout(xip::PageIndex(0), u64::MAX)?);
//! # Ok(())
//! # }
//! ```
//!
//! | to | take |
//! |---|---|
//! | open an image or a segment | [`Volume`] |
//! | read a file, see its storage | [`File`] |
//! | go by inode numbers: a mount, a runner | [`Inodes`] |
#![forbid(unsafe_code)]

mod change;
mod dentry;
mod dir;
mod env;
mod error;
mod extents;
mod file;
mod inodes;
mod metadata;
mod opens;
mod options;
mod path;
mod send;
mod storage;
mod volume;

pub use dir::{DirEntry, ReadDir};
pub use error::{Error, Result};
pub use extents::Placed;
pub use file::{File, Piece};
pub use inodes::Inodes;
pub use metadata::Metadata;
pub use opens::Held;
pub use options::OpenOptions;
pub use storage::Storage;
pub use volume::Volume;
pub use xip_core::ops::Durable;
pub use xip_core::page::PAGE_BYTES;
pub use xip_core::{PAGE_SIZE, PageIndex, PageNo, Region, Run, Timestamp};
pub use xip_ext2::{
    Error as VolumeError, Geometry, Inode, InodeNo, Kind, NewInode, NewKind, Rename, SetAttributes, Statfs,
};
