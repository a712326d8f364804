//! What can go wrong before a guest's program runs, and with the guest itself.

use std::io;
use std::path::PathBuf;

/// The result of what can go wrong with guests.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of making or running a guest.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No QEMU for this processor is installed: `ENOENT`.
    #[error(
        "{program} is not installed; a guest needs it (Debian: apt-get install --no-install-recommends qemu-system-x86)"
    )]
    NoQemu {
        /// What was looked for on `PATH`.
        program: &'static str,
    },
    /// There is nothing that serves a directory to guests: `ENOENT`.
    #[error(
        "virtiofsd is not installed; a shared directory needs it (Debian: virtiofsd, or qemu-system-common before version 13)"
    )]
    NoVirtiofsd,
    /// Guests are made for x86-64 hosts only, so far: `ENOSYS`.
    #[error("guests are x86-64 machines, and this one is {0}")]
    Architecture(&'static str),
    /// This program was built without the guest's first program: `ENOSYS`.
    #[error(
        "this xip was built without what guests start with: build it again where a static C library is installed \
         (Debian: libc6-dev; Fedora: glibc-static)"
    )]
    NoInit,
    /// There is no kernel for guests: `ENOENT`.
    #[error("no kernel for guests in {}; `xip vm kernel` gets one, or name one by --kernel", looked.display())]
    NoKernel {
        /// Where one was looked for.
        looked: PathBuf,
    },
    /// A kernel cannot do what guests need: `EINVAL`.
    #[error("the kernel {} cannot be used for this: it has no {missing}", kernel.display())]
    Unfit {
        /// The kernel.
        kernel: PathBuf,
        /// The options of its configuration, or the modules, that it lacks.
        missing: String,
    },
    /// The kernel was named, and its modules were not found: `ENOENT`.
    #[error(
        "no modules of the kernel {} beside it: wanted is a directory lib/modules/VERSION next to boot/, or {}",
        kernel.display(), wanted.display()
    )]
    NoModules {
        /// The kernel.
        kernel: PathBuf,
        /// The other place where they were looked for.
        wanted: PathBuf,
    },
    /// The kernel's package could not be got.
    #[error("cannot get a kernel: {0}")]
    Fetch(String),
    /// The segment can change under the guest: `EINVAL`.
    #[error(
        "the memory that a guest is to have is not sealed: it could change under it; load the image as a segment that is not exclusive"
    )]
    NotSealed,
    /// The segment is no multiple of 2 MiB, as persistent memory must be: `EINVAL`.
    #[error(
        "the segment has {bytes} bytes, and a guest's memory device is a multiple of 2 MiB: build the image again with xip build"
    )]
    Size {
        /// Its size.
        bytes: u64,
    },
    /// The guest could not mount the volume, or start the program's process.
    #[error("the guest says: {0}")]
    Guest(String),
    /// The guest ended without a word.
    #[error("the guest ended before its program did{}", tail(.console))]
    Lost {
        /// The end of what its kernel, and QEMU, said.
        console: String,
    },
    /// Who served the shared directory has ended.
    #[error("virtiofsd, which serves the shared directory, has ended, and the guest with it")]
    ShareLost,
    /// A file name that a hypervisor's options cannot carry: `EINVAL`.
    #[error("{} is not UTF-8: give it another name", .0.display())]
    NotText(PathBuf),
    /// A guest cannot do with so little memory: `ENOMEM`.
    #[error("a guest with {} MiB of memory: with this segment it needs {} MiB at least", memory >> 20, least.div_ceil(1 << 20))]
    LittleMemory {
        /// What was asked for, in bytes.
        memory: u64,
        /// The least for this segment, in bytes.
        least: u64,
    },
    /// This machine has not so much memory: `ENOMEM`.
    #[error("{} with {} MiB of memory: this machine has {} MiB available", guests(*count), memory >> 20, most >> 20)]
    Memory {
        /// What was asked for each, in bytes.
        memory: u64,
        /// How many guests.
        count: u64,
        /// What the machine has, in bytes.
        most: u64,
    },
    /// A file that was named as a kernel is none: `EINVAL`.
    #[error("{} is no kernel for x86-64: wanted is a vmlinuz-VERSION, or a vmlinux", .0.display())]
    NotAKernel(PathBuf),
    /// An operation of this system failed.
    #[error("cannot {doing}: {source}")]
    System {
        /// What was tried.
        doing: String,
        /// What the kernel said.
        source: io::Error,
    },
}

fn guests(count: u64) -> String {
    if count == 1 { "a guest".into() } else { format!("{count} guests, each") }
}

fn tail(console: &str) -> String {
    if console.is_empty() { String::new() } else { format!("; its last words:\n{console}") }
}

/// Adds to an error of the system what was tried.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for std::result::Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::System { doing: what(), source: error.into() })
    }
}
