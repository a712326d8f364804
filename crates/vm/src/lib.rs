//! Guests that execute programs in place: the segment is their persistent memory, and the same pages serve all of them
//! and the processes of the host.
//!
//! | module | what it knows |
//! |---|---|
//! | `kernel` | where a guest's kernel and its modules are, whether they can do this, how to get them |
//! | `initramfs` | the guest's first file system: our init, modules, and what it is to do |
//! | `qemu` | the command line of QEMU |
//! | `guest` | one guest: started, spoken with, waited for |
//!
//! `docs/guests.md` is the page for users. `init/` is the guest's first program.
#![forbid(unsafe_code)]

mod error;
mod guest;
mod initramfs;
mod kernel;
mod qemu;

pub use error::{Error, Result};
pub use guest::{End, Guest, Handle, Mounted, Options, Output, Streams};
pub use kernel::{Kernel, cache, fetch};
pub use qemu::{Accelerator, Attach, Qemu};
