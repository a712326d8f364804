//! How a caller follows a build, and stops it.

/// What a build is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Looking at the source; counted in entries, of which the total is not known.
    Scan,
    /// Making names, directories and attributes; counted in entries.
    Names,
    /// Copying data; counted in bytes.
    Data,
    /// Waiting until the image is on storage; counted in bytes.
    Sync,
}

/// Told how far a build is. All methods do nothing by default; `()` is a progress that nobody looks at.
pub trait Progress: Sync {
    /// A phase begins. `total` is 0 where it is not known.
    fn phase(&self, phase: Phase, total: u64) {
        let _ = (phase, total);
    }

    /// This much more of the phase is done.
    fn advance(&self, by: u64) {
        let _ = by;
    }

    /// Asked between files: `true` ends the build with [`Error::Cancelled`](crate::Error::Cancelled), and nothing is
    /// left of it.
    fn cancelled(&self) -> bool {
        false
    }
}

impl Progress for () {}
