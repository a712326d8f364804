//! The entries of a directory, in the words of `std::fs::ReadDir`.

use crate::error::{Error, Result};
use crate::held::Held;
use crate::metadata::Metadata;
use crate::volume::Volume;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use xip_ext2::{InodeNo, Kind};

/// Entries taken from the volume at a time.
const BATCH: usize = 128;

/// An entry of a directory.
#[derive(Clone, Debug)]
pub struct DirEntry {
    name: OsString,
    ino: InodeNo,
    volume: Volume,
    directory: Held,
}

impl DirEntry {
    /// The name.
    pub fn file_name(&self) -> OsString {
        self.name.clone()
    }

    /// The inode it led to when the directory was read.
    pub fn ino(&self) -> InodeNo {
        self.ino
    }

    /// What is known of the file, of a link itself.
    ///
    /// # Errors
    /// The inode is damaged; the name is gone.
    pub fn metadata(&self) -> Result<Metadata> {
        if !self.volume.is_writable() {
            return Ok(self.volume.inodes().metadata(self.ino)?);
        }
        // The number may be another file's by now; the name says whose.
        let find = || {
            let found = self.volume.inodes().lookup(self.directory.ino(), self.name.as_bytes())?;
            self.volume.inodes().metadata(found.ok_or(xip_ext2::Error::NotFound)?)
        };
        Ok(self.volume.0.steady(find)?)
    }

    /// What kind of file it is, as its inode says.
    ///
    /// # Errors
    /// The inode is damaged; the name is gone.
    pub fn file_type(&self) -> Result<Kind> {
        Ok(self.metadata()?.file_type())
    }
}

/// The entries of a directory, without `.` and `..`. One that is there from the first to the last is seen once; one that comes
/// or goes meanwhile may be seen or not. An error ends the reading; what was read
/// before it still comes.
#[derive(Debug)]
pub struct ReadDir {
    volume: Volume,
    directory: Held,
    /// `None`: all entries were taken.
    cursor: Option<u64>,
    batch: VecDeque<DirEntry>,
}

impl ReadDir {
    pub(crate) fn new(volume: &Volume, directory: InodeNo) -> Self {
        let directory = volume.hold(directory);
        Self { volume: volume.clone(), directory, cursor: Some(0), batch: VecDeque::new() }
    }

    fn fill(&mut self, cursor: u64) -> std::result::Result<(), xip_ext2::Error> {
        let (mut seen, mut next) = (0, None);
        self.volume.inodes().read_dir(self.directory.ino(), cursor, &mut |entry| {
            if !matches!(entry.name, b"." | b"..") {
                let name = OsString::from_vec(entry.name.to_vec());
                let (volume, directory) = (self.volume.clone(), self.directory.clone());
                self.batch.push_back(DirEntry { name, ino: entry.ino, volume, directory });
            }
            seen += 1;
            if seen == BATCH {
                next = Some(entry.next);
            }
            seen < BATCH
        })?;
        self.cursor = next;
        Ok(())
    }
}

impl Iterator for ReadDir {
    type Item = Result<DirEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.batch.is_empty() {
            let cursor = self.cursor.take()?;
            if let Err(error) = self.fill(cursor) {
                return Some(Err(Error::Volume(error)));
            }
        }
        self.batch.pop_front().map(Ok)
    }
}
