//! What the tests of maps share: a volume in a file, and files of it to be mapped.
#![allow(dead_code, reason = "each test program uses its part")]

use super::{fsck, pattern};
use std::path::PathBuf;
use tempfile::TempDir;
use xip::{File, Map, OpenOptions, Volume};

pub const PAGE: usize = 4096;

pub struct World {
    _dir: TempDir,
    pub image: PathBuf,
    pub volume: Volume,
}

pub fn world(mib: u64) -> World {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let volume = Volume::create(&image, mib << 20).unwrap();
    World { _dir: dir, image, volume }
}

impl World {
    pub fn file(&self, name: &str) -> File {
        OpenOptions::new().read(true).write(true).create(true).open(&self.volume, name).unwrap()
    }

    /// A file in many runs: another one grows beside it.
    pub fn fragmented(&self, name: &str, pages: usize) -> (File, Vec<u8>) {
        let (file, other) = (self.file(name), self.file("beside"));
        let bytes = pattern(7, pages * PAGE - 100);
        for (n, page) in bytes.chunks(PAGE).enumerate() {
            file.write_all_at(page, (n * PAGE) as u64).unwrap();
            if n % 3 == 0 {
                other.write_all_at(&[n as u8; PAGE], (n * PAGE) as u64).unwrap();
            }
        }
        (file, bytes)
    }

    pub fn free(&self) -> u32 {
        self.volume.statfs().unwrap().free_blocks
    }

    pub fn closed(self) {
        self.volume.close().unwrap();
        fsck(&self.image);
    }
}

pub fn bytes(map: &Map, at: usize, len: usize) -> Vec<u8> {
    let mut to = vec![0xee; len];
    map.read(at, &mut to).unwrap();
    to
}

pub fn errno<T>(result: xip::Result<T>) -> i32 {
    result.map(drop).unwrap_err().errno()
}
