//! The hashes in a block of attributes, by which the kernel finds blocks that are equal.

use crate::raw::bytes_at;

/// The hash of an attribute: its name, characters as unsigned, and its value, filled up to whole words.
pub(super) fn entry(name: &[u8], value: &[u8]) -> u32 {
    let name = name.iter().fold(0_u32, |hash, &byte| hash.rotate_left(5) ^ u32::from(byte));
    value.chunks_exact(4).fold(name, |hash, word| mix(hash, u32::from_le_bytes(bytes_at(word, 0))))
}

/// A hash and one more word.
pub(super) fn mix(hash: u32, word: u32) -> u32 {
    hash.rotate_left(16) ^ word
}
