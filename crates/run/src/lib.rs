//! Unmodified programs executed in place on this host.
//!
//! A program sees the volume as its root directory, by FUSE, in a user and mount namespace of its own: that carries
//! names and metadata. Its file mappings are replaced, as it makes them, by mappings of the segment itself, so that text
//! of program, interpreter and libraries is the one copy that everybody shares. No root, and nothing is loaded into
//! the kernel.
//!
//! ```no_run
//! fn answer(volume: &xip::Volume, segment: &std::fs::File) -> Result<(), xip_run::Error> {
//!     let mut options = xip_run::Options::new("python3");
//!     options.arguments = vec!["-c".into(), "print(6 * 7)".into()];
//!     let outcome = xip_run::run(volume, segment, &options)?;
//!     println!("{:?}, {} bytes in place", outcome.end, outcome.report.bytes_in_place);
//!     Ok(())
//! }
//! ```

mod channel;
mod error;
mod interpreter;
mod namespace;
mod options;
mod place;
mod prerequisites;
mod report;
mod seccomp;
mod tracer;

pub use error::Error;
pub use options::{Bind, Options, Root};
pub use report::{End, FileReport, Outcome, Reason, Report};

use std::os::fd::AsFd;
use xip::Volume;

/// What is missing on this machine for running in place, or with `page_cache` for running at all: nothing, if all is
/// well. Each error names the setting and the remedy.
pub fn prerequisites(page_cache: bool) -> Vec<Error> {
    let mut missing = Vec::new();
    missing.extend(prerequisites::device().err());
    missing.extend(alone(|| tracer::trial(!page_cache)).err());
    missing
}

/// Runs a program of `volume` and waits for its end. `segment` is the storage of the volume: a sealed memory object,
/// opened for reading only, so that no mapping of it can be made writable.
///
/// While it runs, signals that are sent to this process are passed on to the program, and those of the terminal are
/// left to it; when the program is stopped from the terminal, so is this process. At the end of the program, whatever
/// processes it left are killed. One run at a time per process.
///
/// # Errors
/// The program was not started: see [`Error`].
pub fn run(volume: &Volume, segment: impl AsFd, options: &Options) -> Result<Outcome, Error> {
    let segment = segment.as_fd();
    if !xip_segment::is_sealed(segment) {
        return Err(Error::NotSealed);
    }
    alone(|| tracer::run(volume, segment, options))
}

/// In a thread of its own: one that waits for all its children may have no others.
fn alone<T: Send>(what: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    if cfg!(not(all(target_os = "linux", target_arch = "x86_64"))) {
        return Err(Error::Unsupported { needs: "Linux on x86-64" });
    }
    std::thread::scope(|scope| match scope.spawn(what).join() {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
