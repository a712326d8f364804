//! A volume as a mounted file system, by FUSE.
//!
//! The mount carries names and metadata, which the kernel may keep for ever, and bytes for those who `read` them: these
//! pass through its page cache, of which little is kept where [`ServeOptions::page_cache_limit`] says so. A FUSE mount alone is
//! not execute in place: a file *mapped* through it is copied to the page cache. Whoever wants mappings in place replaces them by mappings of
//! the segment, as the runner does.
//!
//! A volume that can be written (`Volume::open_writable`) is served to be written, any other to be read. What a finished
//! call on the mount did is in the image, whatever becomes of the process that serves it; `docs/mount.md` says what holds.
//!
//! Two ways in: [`mount`] for a directory; [`serve`] for a mount that someone made elsewhere, such as inside a
//! user namespace, with [`mount_device`].
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use xip_fuse::MountOptions;
//! let volume = xip::Volume::open_writable("data.xip")?;
//! let how = MountOptions { read_only: false, ..MountOptions::default() };
//! let mut session = xip_fuse::mount("/mnt".as_ref(), &volume, &how, &Default::default())?;
//! std::fs::write("/mnt/greeting", "hello")?;
//! session.unmount()?;
//! volume.close()?;
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod adapter;
mod error;
mod live;
mod mount;
mod ranges;
mod reads;
mod session;
mod synthetic;
mod tree;

pub use error::{Error, device_remedy};
pub use mount::{MountOptions, mount_device, unmount};
pub use session::{SERVER, ServeOptions, Session, mount, serve};
pub use synthetic::MountPoint;
