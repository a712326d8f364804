//! The NVDIMM header: 2 MiB in front of a volume, for hypervisors that show an image as an NVDIMM (QEMU's `nvdimm`, Kata).
//!
//! A guest's kernel needs a descriptor for each page that is mapped from persistent memory, and makes them for an NVDIMM without labels
//! only when the memory itself asks for them. It does so by an information block at 4 KiB, `struct nd_pfn_sb` of the kernel's
//! `drivers/nvdimm/pfn.h`, which also says where the data begins: that is `/dev/pmem0` then. In the first sector stands a partition
//! table for those who see the image as a disk: partition 1 is the volume.
//!
//! All devices of this crate begin behind the header, so what is above sees the volume either way.

use std::os::fd::AsFd;

/// Bytes in front of the volume: 2 MiB, so that what is aligned in the volume is so in memory.
pub const HEADER_BYTES: u64 = 2 << 20;

const BLOCK: usize = 4096;
const SIGNATURE: &[u8; 16] = b"NVDIMM_PFN_INFO\0";
/// `PFN_MODE_RAM`: the guest's own memory holds the descriptors, for the image cannot be written.
const IN_GUEST_MEMORY: u32 = 1;
const SECTOR: u64 = 512;

/// Where in a file or block device the volume begins: [`HEADER_BYTES`] behind a header, else 0. A header that is damaged, or of another
/// layout, is none.
pub fn data_offset(file: impl AsFd) -> u64 {
    crate::file::file_len(&file).map_or(0, |bytes| offset_in(&file, bytes))
}

/// As [`data_offset`], for a file of so many bytes; fewer than these.
pub(crate) fn offset_in(file: impl AsFd, bytes: u64) -> u64 {
    let mut block = [0; BLOCK];
    let read = rustix::io::pread(&file, &mut block, BLOCK as u64);
    let is_one = read == Ok(BLOCK) && block.starts_with(SIGNATURE) && field(&block, 56, 8) == HEADER_BYTES;
    if is_one && bytes > HEADER_BYTES && field(&block, 4088, 8) == checksum(&block) { HEADER_BYTES } else { 0 }
}

fn field(block: &[u8; BLOCK], at: usize, len: usize) -> u64 {
    block[at..at + len].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// The header of a volume of `bytes` bytes, a multiple of 2 MiB; what follows up to [`HEADER_BYTES`] is zeros.
pub(crate) fn header(bytes: u64) -> Vec<u8> {
    let mut header = partition_table(bytes);
    let mut block = [0; BLOCK];
    let mut put = |at: usize, value: &[u8]| block[at..at + value.len()].copy_from_slice(value);
    put(0, SIGNATURE);
    // Which is which need not be told: one image, one namespace. It must not be zero.
    put(16, b"xip image header");
    // Version 1.4.
    put(52, &1u16.to_le_bytes());
    put(54, &4u16.to_le_bytes());
    put(56, &HEADER_BYTES.to_le_bytes());
    put(64, &(bytes / BLOCK as u64).to_le_bytes());
    put(72, &IN_GUEST_MEMORY.to_le_bytes());
    put(84, &(2u32 << 20).to_le_bytes());
    put(88, &4096u32.to_le_bytes());
    // Bytes of a descriptor.
    put(92, &64u16.to_le_bytes());
    let sum = checksum(&block);
    block[4088..].copy_from_slice(&sum.to_le_bytes());
    header.resize(BLOCK, 0);
    header.extend_from_slice(&block);
    header
}

/// `nd_fletcher64` of the kernel: two sums over words of 32 bits, the checksum itself as zero.
fn checksum(block: &[u8; BLOCK]) -> u64 {
    let (mut low, mut high) = (0u32, 0u64);
    for (at, word) in block.chunks_exact(4).enumerate() {
        let word = if at * 4 >= 4088 { 0 } else { u32::from_le_bytes(word.try_into().unwrap_or_default()) };
        low = low.wrapping_add(word);
        high = high.wrapping_add(u64::from(low));
    }
    high << 32 | u64::from(low)
}

/// A master boot record with the volume as partition 1, of type Linux. One that is too long for it is cut in the table only.
fn partition_table(bytes: u64) -> Vec<u8> {
    let clip = |sectors: u64| u32::try_from(sectors).unwrap_or(u32::MAX).to_le_bytes();
    let mut sector = vec![0; 512];
    // No cylinders, heads and sectors, and nothing to start from.
    sector[446..454].copy_from_slice(&[0, 0xfe, 0xff, 0xff, 0x83, 0xfe, 0xff, 0xff]);
    sector[454..458].copy_from_slice(&clip(HEADER_BYTES / SECTOR));
    sector[458..462].copy_from_slice(&clip(bytes / SECTOR));
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_header_is_known_again_and_a_damaged_one_is_none() {
        let header = header(4 << 20);
        let offset = |bytes: &[u8], len: u64| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(bytes).unwrap();
            file.set_len(len).unwrap();
            data_offset(file)
        };
        assert_eq!(offset(&header, 6 << 20), HEADER_BYTES);
        assert_eq!(offset(&header, 2 << 20), 0, "nothing behind it");
        assert_eq!(offset(&[], 6 << 20), 0);
        for at in [4096, 4096 + 57, 4096 + 200, 4096 + 4090] {
            let mut damaged = header.clone();
            damaged[at] ^= 1;
            assert_eq!(offset(&damaged, 6 << 20), 0, "{at}");
        }
    }
}
