//! A directory in memory, for tests.

extern crate std;

use super::{DirBlocks, Store};
use crate::error::Error;
use std::vec::Vec;

/// All of a directory's bytes, and what its volume says about directories.
#[derive(Clone)]
pub(crate) struct Memory {
    pub(crate) bytes: Vec<u8>,
    pub(crate) block_size: usize,
    pub(crate) indexed: bool,
    pub(crate) index_allowed: bool,
    pub(crate) seed: [u32; 4],
    pub(crate) hash: u8,
    pub(crate) unsigned: bool,
    /// How many blocks it may have.
    pub(crate) space: u32,
    pub(crate) kinds: bool,
}

impl Memory {
    /// An empty directory.
    pub(crate) fn new(block_size: usize, index_allowed: bool) -> Self {
        let mut bytes = std::vec![0; block_size];
        super::first_block(&mut bytes, 2, 2, true);
        Self {
            bytes,
            block_size,
            indexed: false,
            index_allowed,
            seed: [0x1234_5678, 0x9abc_def0, 7, 8],
            hash: 1,
            unsigned: true,
            space: u32::MAX,
            kinds: true,
        }
    }
}

impl DirBlocks for Memory {
    fn ino(&self) -> u32 {
        2
    }
    fn block_size(&self) -> usize {
        self.block_size
    }
    fn count(&self) -> u32 {
        u32::try_from(self.bytes.len() / self.block_size).unwrap()
    }
    fn read(&self, n: u32, to: &mut [u8; 4096]) -> Result<(), Error> {
        to[..self.block_size].copy_from_slice(&self.bytes[n as usize * self.block_size..][..self.block_size]);
        Ok(())
    }
    fn put(&mut self, n: u32, at: usize, bytes: &[u8]) -> Result<(), Error> {
        assert!(at + bytes.len() <= self.block_size, "a store crosses the end of block {n}");
        self.bytes[n as usize * self.block_size + at..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
    fn publish(&mut self, n: u32, at: usize, bytes: &[u8]) -> Result<(), Error> {
        assert!(at % 8 + bytes.len() <= 8, "more than one store");
        self.put(n, at, bytes)
    }
    fn merge(&mut self, n: u32, store: &Store) -> Result<(), Error> {
        self.publish(n, store.at, store.bytes())
    }
    fn replace(&mut self, blocks: &[(u32, &[u8])], indexed: bool) -> Result<(), Error> {
        if blocks.iter().any(|&(n, _)| n >= self.count() && n >= self.space) {
            return Err(Error::NoSpace);
        }
        for &(n, bytes) in blocks {
            assert!(n <= self.count() && bytes.len() == self.block_size);
            if n == self.count() {
                self.bytes.extend(bytes);
            }
            self.put(n, 0, bytes)?;
        }
        self.indexed = indexed;
        Ok(())
    }
    fn indexed(&self) -> bool {
        self.indexed
    }
    fn drop_index(&mut self) -> Result<(), Error> {
        self.indexed = false;
        Ok(())
    }
    fn index_allowed(&self) -> bool {
        self.index_allowed
    }
    fn hash_seed(&self) -> [u32; 4] {
        self.seed
    }
    fn default_hash(&self) -> u8 {
        self.hash
    }
    fn unsigned_hash(&self) -> bool {
        self.unsigned
    }
    fn max_inode(&self) -> u32 {
        10_000_000
    }
    fn has_kinds(&self) -> bool {
        self.kinds
    }
}
