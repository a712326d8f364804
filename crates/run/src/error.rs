//! What can go wrong before the program runs. What goes wrong later is the program's own affair, or stands in the
//! report.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

/// An error of starting a program in place.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `/dev/fuse` cannot be used: the errno of the call.
    #[error("/dev/fuse: {source}; {remedy}")]
    Fuse {
        /// What the kernel said.
        source: io::Error,
        /// What to do about it.
        remedy: &'static str,
    },
    /// User or mount namespaces cannot be had: the errno of the call.
    #[error("cannot make a user and mount namespace: {source}; {remedy}")]
    Namespaces {
        /// What the kernel said.
        source: io::Error,
        /// The setting that forbids it, and how to change it.
        remedy: String,
    },
    /// Programs cannot be traced here: the errno of the call.
    #[error("cannot trace the program: {source}; {remedy}")]
    Tracing {
        /// What the kernel said.
        source: io::Error,
        /// What to do about it.
        remedy: &'static str,
    },
    /// The processor or kernel is not one this works on: `ENOSYS`.
    #[error("running in place needs {needs}")]
    Unsupported {
        /// What it needs.
        needs: &'static str,
    },
    /// The volume is not one whose files can be mapped: `EINVAL`.
    #[error("files of this volume cannot be mapped in place: {0}")]
    NotInPlace(#[source] xip::Error),
    /// What programs are to execute can change under them: `EINVAL`.
    #[error(
        "the memory that programs are to be run from is not sealed: it could change under them; load the image as a segment that is not exclusive"
    )]
    NotSealed,
    /// The text of a bind is not `HOST:INSIDE` with an absolute path inside: `EINVAL`.
    #[error("{}: a bind is HOST:INSIDE, HOST:INSIDE:ro or HOST:INSIDE:rw, with INSIDE an absolute path", text.display())]
    Bind {
        /// What was given.
        text: OsString,
    },
    /// A step of making the program's surroundings failed: the errno of the call.
    #[error("cannot {step}: {source}")]
    Setup {
        /// The step, with what it was done to.
        step: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The volume cannot be served: its errno.
    #[error(transparent)]
    Serve(#[from] xip_fuse::Error),
    /// No program of that name inside: `ENOENT`.
    #[error("{}: not found in the image", program.display())]
    NotFound {
        /// What was asked for.
        program: PathBuf,
    },
    /// The program is there and cannot be executed: the errno of `execve`.
    #[error("{}: {source}", program.display())]
    NotExecutable {
        /// What was asked for.
        program: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The program is there, and the interpreter that it names is not: `ENOENT`.
    #[error("{}: its interpreter {interpreter:?} is not in the image", program.display())]
    NoInterpreter {
        /// What was asked for.
        program: PathBuf,
        /// What it names, itself or by way of another interpreter.
        interpreter: PathBuf,
    },
    /// An argument, a variable or a path has a zero byte in it: `EINVAL`.
    #[error("{}: has a zero byte in it", text.display())]
    ZeroByte {
        /// What has it.
        text: OsString,
    },
}

impl Error {
    /// The errno that stands for this error.
    pub fn errno(&self) -> i32 {
        let of = |source: &io::Error| source.raw_os_error().unwrap_or(libc::EIO);
        match self {
            Self::Fuse { source, .. }
            | Self::Namespaces { source, .. }
            | Self::Tracing { source, .. }
            | Self::Setup { source, .. }
            | Self::NotExecutable { source, .. } => of(source),
            Self::Unsupported { .. } => libc::ENOSYS,
            Self::NotInPlace(_) | Self::NotSealed | Self::Bind { .. } | Self::ZeroByte { .. } => libc::EINVAL,
            Self::Serve(error) => error.errno(),
            Self::NotFound { .. } | Self::NoInterpreter { .. } => libc::ENOENT,
        }
    }
}
