//! The second extended file system, revision 1, in place: `no_std`, no allocator, no dependency, no unsafe code.
//!
//! What is read from storage is a `raw` record first, becomes a checked type in one place, and only checked types
//! travel. The rooms, from the bottom:
//!
//! | module | what it knows |
//! |---|---|
//! | `raw` | the bytes of a superblock, a group descriptor, an inode |
//! | `geometry` | where things are: sizes, groups, features; what a new volume would look like |
//! | `volume` | the volume: opened, its descriptors checked; access to records |
//! | `format` | a new volume |
//! | `alloc` | bitmaps and counters |
//! | `inode` | what a file is: kind, owners, times |
//! | `order`, `intent`, `state` | what is stored when: flush and fence; several stores at once; closed or not |
//! | `blockmap`, `free` | which block is which page of a file: read, allocate; free |
//! | `file` | a file for the operations of `xip-core`, in place or cached |
//! | `dir`, `xattr` | names, extended attributes: what the bytes mean |
//! | `attributes`, `directory`, `symlink` | what files have beside their data, on a volume |
//! | `namei`, `unlink`, `rename` | names that come, go and move |
//! | `inherit` | what a directory gives to what is made in it |
//! | `check` | what is wrong with a volume, and how it is mended |
//!
//! Lock order: that of [`xip_core::LockId`]. Order of stores: contract 7, argued in `docs/order.md`.
//!
//! Callbacks: [`Volume::read_dir`] holds no lock while its callback runs. Those of [`Volume::xattrs`], [`Volume::free_runs`]
//! and [`xip_core::ops::sendfile`] run under a lock and must not use the volume.
#![no_std]
// A number from storage is never narrowed in silence, and nothing from outside makes a panic.
#![cfg_attr(not(test), warn(clippy::cast_possible_truncation, clippy::unwrap_used))]
#![forbid(unsafe_code)]

mod alloc;
mod attributes;
mod blockmap;
pub mod check;
mod dir;
mod directory;
mod error;
mod file;
mod format;
mod free;
mod geometry;
mod inherit;
mod inode;
mod intent;
mod namei;
mod names;
mod order;
mod raw;
mod record;
mod rename;
mod state;
mod symlink;
mod unlink;
mod volume;
mod xattr;

pub use blockmap::Goal;
pub use dir::DirEntry;
pub use error::Error;
pub use file::{Blocks, File, Handle};
pub use format::Format;
pub use geometry::Geometry;
pub use inode::{Inode, InodeNo, Kind, SetAttributes};
pub use namei::{NewInode, NewKind};
pub use rename::Rename;
pub use volume::{Statfs, Volume};
