//! Execute in place, the core: storage that is memory is used where it is.
//!
//! Five short files say what XIP is:
//!
//! 1. [`region`]: memory that is storage. The only home of raw pointers.
//! 2. [`device`]: something that has such memory, and says so by [`Device::direct_access`].
//! 3. [`mapping`]: a file's pages as pages of the device, by [`Mapping::get_xip_page`].
//! 4. [`ops`]: read, write, readv, writev and sendfile over any mapping, and in [`space`] truncate, fallocate, punch hole
//!    and seek. No page is copied to a cache first.
//! 5. [`mod@env`]: locks and clock, which come from outside.
//!
//! `no_std`, no allocator, no dependency: the core could live in a kernel. The words are those of the kernel's
//! `Documentation/filesystems/xip.txt` of 2008.
#![no_std]
// A number from storage is never narrowed in silence, and nothing from outside makes a panic.
#![cfg_attr(not(test), warn(clippy::cast_possible_truncation, clippy::unwrap_used))]
#![deny(unsafe_code)]

pub mod cached;
pub mod device;
pub mod env;
pub mod error;
pub mod mapping;
pub mod ops;
pub mod page;
pub mod region;
pub mod space;

pub use cached::{Cached, PageIo};
pub use device::{Device, Properties};
pub use env::{Alone, Dentry, Env, Freed, Frozen, LockId, Timestamp};
pub use error::Error;
pub use mapping::{Create, Extent, Host, InPlace, Mapping, Pages};
pub use page::{PAGE_SIZE, PageIndex, PageNo, Run};
pub use region::{Region, RegionMut};
