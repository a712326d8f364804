//! Where programs cannot run in place (no FUSE, no user namespaces), readers of the segment show the sharing: each is
//! a process of its own that reads files through the library, from the segment's own pages.

use std::io::{self, BufRead, Write};
use std::path::PathBuf;

use xip::Volume;

use super::programs::Program;
use crate::commands::segments;
use crate::failure::Failure;

/// A directory deeper than this is not part of a demo.
const DEPTH: usize = 32;

/// A reader, in the place of a program: this very command, with a hidden option.
pub(crate) fn program(segment: &str) -> Result<Program, Failure> {
    Ok(Program {
        name: "reader",
        command: vec!["demo".into(), "--reader".into(), segment.into()],
        question: "/usr".into(),
        right: |answer| answer.parse::<u64>().is_ok_and(|bytes| bytes > 0),
    })
}

/// For every line, a path in the image: reads all files below it, and says how many bytes they have.
pub(crate) fn answer(segment: &str) -> Result<(), Failure> {
    let segment = segments::store()?.get(segment)?;
    let volume = Volume::from_segment(&segment)?;
    for line in io::stdin().lock().lines() {
        let bytes = read_below(&volume, line?.into(), DEPTH)?;
        writeln!(io::stdout(), "{bytes}")?;
    }
    Ok(())
}

fn read_below(volume: &Volume, path: PathBuf, depth: usize) -> Result<u64, Failure> {
    let mut bytes = 0;
    for entry in volume.read_dir(&path)? {
        let entry = entry?;
        let path = path.join(entry.file_name());
        let metadata = volume.symlink_metadata(&path)?;
        if metadata.is_dir() && depth > 0 {
            bytes += read_below(volume, path, depth - 1)?;
        } else if metadata.is_file() {
            bytes += volume.read(&path)?.len() as u64;
        }
    }
    Ok(bytes)
}
