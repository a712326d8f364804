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
//! | `share` | a directory of the host, shown in a guest |
//! | `describe` | command lines and configurations for those who start guests themselves |
//! | `guest` | one guest: started, spoken with, waited for |
//!
//! `docs/guests.md` is the page for users. `init/` is the guest's first program.
#![forbid(unsafe_code)]

mod describe;
mod error;
mod guest;
mod initramfs;
mod job;
mod kernel;
mod qemu;
mod said;
mod share;

pub use describe::{Description, Vmm, describe, initramfs};
pub use error::{Error, Result};
pub use guest::{Guest, Handle, Options, Output, Streams, Talk, check_memory};
pub use kernel::{Kernel, cache, fetch};
pub use qemu::{Accelerator, Attach, Qemu};
pub use said::{End, Ended, Figures, File, Mounted, Sample};
pub use share::Share;
