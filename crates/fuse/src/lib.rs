//! A volume as a mounted file system, by FUSE.
//!
//! The mount carries names and metadata, which the kernel may keep for ever, and bytes for those who `read` them: these
//! pass through its page cache, of which little is kept where [`ServeOptions::page_cache_limit`] says so. A FUSE mount alone is
//! not execute in place: a file *mapped* through it is copied to the page cache. Whoever wants mappings in place replaces them by mappings of
//! the segment, as the runner does.
//!
//! Two ways in: [`mount`] for a directory, as root; [`serve`] for a mount that someone made elsewhere, such as inside a
//! user namespace, with [`mount_device`].
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let volume = xip::Volume::open("tools.xip")?;
//! let mut session = xip_fuse::mount("/mnt".as_ref(), &volume, &Default::default())?;
//! println!("{}", std::fs::read_to_string("/mnt/etc/os-release")?);
//! session.unmount()?;
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod adapter;
mod error;
mod mount;
mod reads;
mod session;
mod synthetic;
mod tree;

pub use error::Error;
pub use mount::mount_device;
pub use session::{ServeOptions, Session, mount, serve};
pub use synthetic::MountPoint;
