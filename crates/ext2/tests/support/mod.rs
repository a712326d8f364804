//! A volume in memory, and the kernel's and e2fsprogs' judgement of it.
#![allow(dead_code)]

pub mod walk;

use std::cell::Cell;
use std::path::Path;
use std::process::Command;
use xip_core::{Alone, Device, Error, PAGE_SIZE, Properties, Timestamp};
use xip_ext2::{Format, Volume};

/// Bytes without direct access: the cached path. What the tests of this crate, which may not have unsafe code, can
/// make; the in-place path is tested above, where devices are.
#[derive(Debug)]
pub struct Bytes {
    bytes: Vec<Cell<u8>>,
    pub writable: bool,
}

impl Bytes {
    pub fn new(pages: usize) -> Self {
        // Not zero: what the format does not write itself shows.
        Self { bytes: vec![Cell::new(0xee); pages * PAGE_SIZE], writable: true }
    }

    pub fn of(image: &[u8]) -> Self {
        Self { bytes: image.iter().copied().map(Cell::new).collect(), writable: true }
    }

    pub fn to_vec(&self) -> Vec<u8> {
        self.bytes.iter().map(Cell::get).collect()
    }

    fn range(&self, at: u64, len: usize) -> Result<&[Cell<u8>], Error> {
        let beyond = Error::OutOfRange { first: xip_core::PageNo(at / 4096), count: 1, pages: self.pages() };
        let at = usize::try_from(at).map_err(|_| beyond)?;
        self.bytes.get(at..at.checked_add(len).ok_or(beyond)?).ok_or(beyond)
    }
}

impl Device for Bytes {
    fn pages(&self) -> u64 {
        (self.bytes.len() / PAGE_SIZE) as u64
    }
    fn properties(&self) -> Properties {
        let not_in_place = Some("the bytes of a test are not addressed");
        Properties { not_in_place, writable: self.writable, ..Properties::default() }
    }
    fn read(&self, at: u64, to: &mut [u8]) -> Result<(), Error> {
        let range = self.range(at, to.len())?;
        for (to, from) in to.iter_mut().zip(range) {
            *to = from.get();
        }
        Ok(())
    }
    fn write(&self, at: u64, from: &[u8]) -> Result<(), Error> {
        if !self.writable {
            return Err(Error::ReadOnly);
        }
        for (from, to) in from.iter().zip(self.range(at, from.len())?) {
            to.set(*from);
        }
        Ok(())
    }
}

pub const NOW: Timestamp = Timestamp { seconds: 1_700_000_000, nanoseconds: 123_456_789 };

/// A new volume of `blocks` blocks.
pub fn volume(blocks: u64, inodes: u32) -> Volume<Bytes, Alone> {
    let format = Format {
        blocks,
        inodes,
        uuid: *b"0123456789abcdef",
        label: *b"test\0\0\0\0\0\0\0\0\0\0\0\0",
        hash_seed: *b"seedseedseedseed",
        root_permissions: 0o755,
        root_owner: (0, 0),
    };
    Volume::format(Bytes::new(blocks as usize), Alone::at(NOW), &format).unwrap()
}

/// `e2fsck -fn` must call it clean.
pub fn fsck(volume: &Volume<Bytes, Alone>) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut image = volume.device().to_vec();
    image.truncate(volume.geometry().bytes() as usize);
    std::fs::write(file.path(), image).unwrap();
    fsck_file(file.path());
}

pub fn fsck_file(path: &Path) {
    let out = Command::new("e2fsck").arg("-fn").arg(path).output().expect("e2fsck: run cargo xtask setup");
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{text}{}", String::from_utf8_lossy(&out.stderr));
    // e2fsck answers its own questions with "no" and may still end well.
    assert!(!text.contains("? no"), "{text}");
}
