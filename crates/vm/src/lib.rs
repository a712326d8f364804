//! Guests that execute programs in place: the segment is their persistent memory, and the same pages serve all of them
//! and the processes of the host.
//!
//! | module | what it knows |
//! |---|---|
//! | `kernel` | where a guest's kernel and its modules are, whether they can do this, how to get them |
//! | `job` | what a guest is told |
//! | `said` | what it answers |
//! | `initramfs` | the format of the guest's first file system |
//! | `qemu` | the command line of QEMU |
//! | `guest` | one guest: started, spoken with, waited for |
//!
//! `docs/guests.md` is the page for users. `init/` is the guest's first program.
#![forbid(unsafe_code)]

mod error;
mod guest;
mod initramfs;
mod job;
mod kernel;
mod qemu;
mod said;

pub use error::{Error, Result};
pub use guest::{Guest, Handle, Options, Output, Streams};
pub use kernel::{Kernel, cache, fetch};
pub use qemu::{Accelerator, Attach, Qemu};
pub use said::{End, Ended, Figures, Mounted, Sample};
