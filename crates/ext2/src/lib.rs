//! The second extended file system, revision 1, in place: `no_std`, no allocator, no dependency, no unsafe code.
//!
//! What is read from storage is a [`raw`] record first, becomes a checked type in one place, and only checked types
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
//! | `blockmap` | which block is which page of a file: read, allocate, free |
//! | `file` | a file for the operations of `xip-core`, in place or cached |
//! | `dir`, `xattr` | names, extended attributes: what the bytes mean |
//! | `attributes` | extended attributes of a file |
//! | `namei` | look up, create, link |
//!
//! Lock order: that of [`xip_core::LockId`]. Order of stores: contract 7; every function that writes says which
//! store publishes.
#![no_std]
// A number from storage is never narrowed in silence, and nothing from outside makes a panic.
#![cfg_attr(not(test), warn(clippy::cast_possible_truncation, clippy::unwrap_used))]
#![forbid(unsafe_code)]

mod alloc;
mod attributes;
mod blockmap;
pub mod check;
mod dir;
mod error;
mod file;
mod format;
mod geometry;
mod inode;
mod namei;
mod raw;
mod symlink;
mod volume;
mod xattr;

pub use blockmap::Goal;
pub use dir::DirEntry;
pub use error::Error;
pub use file::{Blocks, File};
pub use format::Format;
pub use geometry::Geometry;
pub use inode::{Inode, InodeNo, Kind, SetAttributes};
pub use namei::{NewInode, NewKind};
pub use volume::{Statfs, Volume};
