//! Execute in place: a volume in memory, with the feel of `std::fs`.
//!
//! An ext2 file system in an image file, a segment or any other device, inside a program: no mount, no privileges, no copies. Its
//! files are used where they are stored: a read or write copies straight from or to storage, and where storage cannot change,
//! its bytes are borrowed without a copy. The kernel mounts what was written here, and `e2fsck` calls it clean.
//!
//! # To read and write
//!
//! ```
//! use std::io::{BufRead, BufReader, Read, Seek, Write};
//!
//! # fn main() -> Result<(), xip::Error> {
//! # let directory = tempfile::tempdir()?;
//! # let image = directory.path().join("data.xip");
//! let volume = xip::Volume::create(&image, 16 << 20)?; // or Volume::open_writable(&image)
//! volume.create_dir_all("/var/log")?;
//! volume.write("/etc-issue", "welcome\n")?;
//!
//! let mut log = xip::OpenOptions::new().read(true).append(true).create(true).open(&volume, "/var/log/messages")?;
//! writeln!(log, "started")?;
//! log.writev_at(&[b"all of this ", b"or nothing\n"], 0)?;
//! log.sync_data()?;
//! log.rewind()?;
//! assert_eq!(BufReader::new(&log).lines().count(), 2);
//!
//! volume.rename("/etc-issue", "/issue")?;
//! volume.set_permissions("/issue", 0o600)?;
//! volume.set_xattr("/issue", "user.origin", "an example")?;
//!
//! // A file lives as long as someone has it open.
//! volume.remove_file("/var/log/messages")?;
//! assert_eq!(log.len(), 31);
//!
//! drop(log);
//! volume.close()?;
//! # Ok(())
//! # }
//! ```
//!
//! # Only to read
//!
//! ```
//! # fn main() -> Result<(), xip::Error> {
//! # let directory = tempfile::tempdir()?;
//! # let image = directory.path().join("tools.xip");
//! # let made = xip::Volume::create(&image, 1 << 20)?;
//! # made.create_dir("bin")?;
//! # made.write("bin/sh", b"\x7fELF and more")?;
//! # made.close()?;
//! use std::io::Read;
//!
//! let volume = xip::Volume::open(&image)?;
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
//! // Where in the image the file is: the first page of each run, and how many follow.
//! println!("{:?}", shell.extents()?);
//! # Ok(())
//! # }
//! ```
//!
//! # Where to look
//!
//! | to | take |
//! |---|---|
//! | open an image or a segment; read, make, move and remove by path | [`Volume`] |
//! | open a file to be written, appended to, made | [`OpenOptions`] |
//! | read and write a file, at a position or anywhere; its size, its space, its storage | [`File`] |
//! | map its storage itself into the process | [`File::map`], [`Map`] |
//! | do many operations at once | [`aio`] |
//! | go by inode numbers: a mount, a runner | [`Inodes`] |
//!
//! # What holds
//!
//! * **Threads** share a [`Volume`] and a [`File`]. Each call is one operation: it is seen wholly or not at all, a vectored one too.
//!   Readers never wait for readers, nor operations on different files for each other.
//! * **Errors** name the path and have the errno that the kernel would give ([`Error::errno`]); `?` makes a `std::io::Error` of them.
//! * **A program that is killed** loses nothing that a finished call did, as long as the machine runs. The next
//!   [`Volume::open_writable`] repairs what was under way, and says what it cannot repair.
//! * **A machine that stops** keeps of an image on a disk what was there at the last sync ([`Volume::sync`], [`File::sync_all`]), when nothing was
//!   changed after it. What came after, the kernel writes back in any order, as it does for every mapped file: only
//!   persistent memory keeps the order that makes it repairable (`docs/order.md`).
//! * **One program writes** an image, or many read it: the lock is one on the image file (`flock`), which ends with the program. Who
//!   is refused learns who has it.
//!
//! # What does not
//!
//! * Permissions are stored, not checked: who has the image has all of it. New files belong to who was the effective user
//!   when the volume was opened. The
//!   process's umask and `RLIMIT_FSIZE` are not asked: [`OpenOptions::umask`] and [`OpenOptions::limit`] are.
//! * ext2 has no storage beyond the end of a file, so [`File::allocate`] that keeps the size stays inside it.
//! * [`File::piece`], [`File::as_slice`] and [`Map::as_slice`] lend storage only where it cannot change.
//! * A volume in memory of this process ([`xip_segment::Memory`]) cannot be mapped a second time.
//! * A store into an image that is sparse, on a file system that is full, or into one that was cut shorter meanwhile, is a `SIGBUS`.
#![forbid(unsafe_code)]

pub mod aio;
mod change;
mod dentry;
mod dir;
mod env;
mod error;
mod extents;
mod file;
mod held;
mod inodes;
mod map;
mod metadata;
mod opens;
mod options;
mod path;
mod pins;
mod send;
mod storage;
mod sync;
mod table;
mod volume;

pub use dir::{DirEntry, ReadDir};
pub use env::now;
pub use error::{Error, Result};
pub use extents::Placed;
pub use file::{File, Piece};
pub use held::Held;
pub use inodes::Inodes;
pub use map::Map;
pub use metadata::Metadata;
pub use options::OpenOptions;
pub use storage::Storage;
pub use volume::Volume;
pub use xip_core::ops::Durable;
pub use xip_core::page::PAGE_BYTES;
pub use xip_core::{PAGE_SIZE, PageIndex, PageNo, Region, Run, Timestamp};
pub use xip_ext2::{
    Error as VolumeError, Geometry, Inode, InodeNo, Kind, NewInode, NewKind, Rename, SetAttributes, Statfs,
};
pub use xip_segment::Sharing;
