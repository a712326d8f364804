//! What was mapped in place and what was not, and why. Nothing is silent.

use serde::Serialize;
use std::collections::BTreeMap;

/// How a program ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// It exited with this status.
    Exited(i32),
    /// This signal ended it.
    Signalled(i32),
}

/// How a run ended, and what was in place.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// How the program ended.
    pub end: End,
    /// What was mapped in place.
    pub report: Report,
}

/// The mappings of a run. Each is counted when it is made; one that is inherited by a forked process is not counted
/// again.
#[derive(Clone, Default, Debug, Serialize)]
pub struct Report {
    /// By path inside, in order.
    pub files: BTreeMap<String, FileReport>,
    /// All bytes mapped in place.
    pub bytes_in_place: u64,
    /// All mappings in place.
    pub mappings_in_place: u64,
    /// All bytes of files of the volume that were mapped through the page cache.
    pub bytes_not_in_place: u64,
    /// Programs started, with `execve`.
    pub programs: u64,
    /// Calls of `ptrace` by traced programs: they fail, since a program cannot be traced twice.
    pub refused_ptrace: u64,
    /// Whether the program was traced. If not, nothing was mapped in place.
    pub traced: bool,
}

/// The mappings of a file.
#[derive(Clone, Default, Debug, Serialize)]
pub struct FileReport {
    /// Bytes mapped in place.
    pub bytes_in_place: u64,
    /// Mappings made in place.
    pub mappings_in_place: u64,
    /// What was not mapped in place, by reason: bytes.
    pub not_in_place: BTreeMap<Reason, u64>,
}

/// Why something of a file was not mapped in place.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// There is no storage: zeros.
    Hole,
    /// The last page of the file, when what follows the end of the file in storage is not zeros (contract 3, tail
    /// rule).
    Tail,
    /// The last page of a program's data, of which the kernel has zeroed the rest.
    ProgramData,
    /// A 32-bit program: left to the page cache.
    Bits32,
    /// The process has a seccomp filter of its own, which could end it for calls of the runner's, or a user or process
    /// namespace of its own, where others could look at it while it has the segment's descriptor.
    Sandboxed,
    /// The file was changed: the overlay has a copy of it.
    CopiedUp,
    /// `mremap` would have grown the mapping beyond what is known of the file: refused with `ENOMEM`. Bytes asked for
    /// are counted.
    GrowthRefused,
    /// The thread could not be made to map: no process slot, or the kernel refused the call.
    Refused,
    /// The volume gave an error.
    Volume,
}

impl Reason {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hole => "hole",
            Self::Tail => "bytes after the end of the file",
            Self::ProgramData => "last page of program data",
            Self::Bits32 => "32-bit program",
            Self::Sandboxed => "program with a filter or namespace of its own",
            Self::CopiedUp => "changed in the overlay",
            Self::GrowthRefused => "growth refused",
            Self::Refused => "the kernel refused",
            Self::Volume => "error of the volume",
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Report {
    /// Adds a file. Files with the same path, such as one and its replacement, are added up.
    pub(crate) fn add(&mut self, path: String, counted: FileReport) {
        self.bytes_in_place += counted.bytes_in_place;
        self.mappings_in_place += counted.mappings_in_place;
        self.bytes_not_in_place += counted.not_in_place.values().sum::<u64>();
        let file = self.files.entry(path).or_default();
        file.bytes_in_place += counted.bytes_in_place;
        file.mappings_in_place += counted.mappings_in_place;
        for (reason, bytes) in counted.not_in_place {
            *file.not_in_place.entry(reason).or_default() += bytes;
        }
    }
}
