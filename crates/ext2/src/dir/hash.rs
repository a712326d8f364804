//! Hashes of names: what orders the index of a directory.
//!
//! Three functions, each with characters taken as signed or as unsigned, because the machines that first wrote such
//! volumes differed. The superblock says which; an index says which function.

/// How the names of one directory are hashed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Hasher {
    function: Function,
    unsigned: bool,
    seed: [u32; 4],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Function {
    Legacy,
    HalfMd4,
    Tea,
}

/// The seed of a volume that has none, which is MD4's own.
const SEED: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
/// The kernel's mark for the end of a directory; no name may have it.
const END: u32 = 0xffff_fffe;

impl Hasher {
    /// The number of the function that new indexes get where the superblock names none that is known.
    pub(crate) const DEFAULT: u8 = 1;

    /// `None` for a function that this format does not have.
    pub(crate) fn new(version: u8, unsigned: bool, seed: [u32; 4]) -> Option<Self> {
        let function = match version {
            0 => Function::Legacy,
            1 => Function::HalfMd4,
            2 => Function::Tea,
            _ => return None,
        };
        Some(Self { function, unsigned, seed: if seed == [0; 4] { SEED } else { seed } })
    }

    /// The hash of a name. Its lowest bit is 0: an index uses that bit to say "the leaf before has this hash too".
    pub(crate) fn hash(&self, name: &[u8]) -> u32 {
        let hash = match self.function {
            Function::Legacy => self.legacy(name),
            Function::HalfMd4 => {
                let mut state = self.seed;
                for at in (0..name.len()).step_by(32) {
                    half_md4(&mut state, &self.words(&name[at..]));
                }
                state[1]
            }
            Function::Tea => {
                let mut state = [self.seed[0], self.seed[1]];
                for at in (0..name.len()).step_by(16) {
                    tea(&mut state, &self.words(&name[at..]));
                }
                state[0]
            }
        } & !1;
        if hash == END { END - 2 } else { hash }
    }

    fn character(&self, byte: u8) -> u32 {
        if self.unsigned { byte.into() } else { i32::from(byte.cast_signed()).cast_unsigned() }
    }

    /// The next `N` words of a name, first character highest, filled up with its length in every byte.
    fn words<const N: usize>(&self, name: &[u8]) -> [u32; N] {
        // No name has more than 255.
        let fill = u32::from(u8::try_from(name.len()).unwrap_or(u8::MAX)) * 0x0101_0101;
        let mut words = [fill; N];
        for (word, characters) in words.iter_mut().zip(name.chunks(4)) {
            for &byte in characters {
                *word = (*word << 8).wrapping_add(self.character(byte));
            }
        }
        words
    }

    fn legacy(&self, name: &[u8]) -> u32 {
        let (mut last, mut before) = (0x12a3_fe2d_u32, 0x37ab_e8f9_u32);
        for &byte in name {
            let mut next = before.wrapping_add(last ^ self.character(byte).wrapping_mul(7_152_373));
            if next & 0x8000_0000 != 0 {
                next = next.wrapping_sub(0x7fff_ffff);
            }
            (before, last) = (last, next);
        }
        last << 1
    }
}

/// MD4's compression with half of its input: three rounds of eight steps. Each round takes the words in an order of
/// its own.
fn half_md4(state: &mut [u32; 4], words: &[u32; 8]) {
    let mut new = *state;
    round(&mut new, *words, [3, 7, 11, 19], |x, y, z| z ^ (x & (y ^ z)));
    let words_of = |order: [usize; 8], constant: u32| order.map(|n| words[n].wrapping_add(constant));
    let second = words_of([1, 3, 5, 7, 0, 2, 4, 6], 0x5a82_7999);
    round(&mut new, second, [3, 5, 9, 13], |x, y, z| (x & y).wrapping_add((x ^ y) & z));
    let third = words_of([3, 7, 2, 6, 1, 5, 0, 4], 0x6ed9_eba1);
    round(&mut new, third, [3, 9, 11, 15], |x, y, z| x ^ y ^ z);
    for (old, new) in state.iter_mut().zip(new) {
        *old = old.wrapping_add(new);
    }
}

/// A round, for each function on its own: it is asked at every step through an index.
#[inline(always)]
fn round(state: &mut [u32; 4], words: [u32; 8], turns: [u32; 4], mix: impl Fn(u32, u32, u32) -> u32) {
    let [mut a, mut b, mut c, mut d] = *state;
    for (step, word) in words.into_iter().enumerate() {
        let sum = a.wrapping_add(mix(b, c, d)).wrapping_add(word);
        (a, b, c, d) = (d, sum.rotate_left(turns[step % 4]), b, c);
    }
    *state = [a, b, c, d];
}

/// The Tiny Encryption Algorithm, 16 rounds; the name is the key.
fn tea(state: &mut [u32; 2], key: &[u32; 4]) {
    let [mut x, mut y] = *state;
    let mut sum = 0_u32;
    let half =
        |v: u32, sum: u32, k: &[u32]| (v << 4).wrapping_add(k[0]) ^ v.wrapping_add(sum) ^ (v >> 5).wrapping_add(k[1]);
    for _ in 0..16 {
        sum = sum.wrapping_add(0x9e37_79b9);
        x = x.wrapping_add(half(y, sum, &key[..2]));
        y = y.wrapping_add(half(x, sum, &key[2..]));
    }
    *state = [state[0].wrapping_add(x), state[1].wrapping_add(y)];
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Told by `debugfs -R "dx_hash -h FUNCTION -s SEED NAME"` of e2fsprogs, which takes characters as signed:
    /// legacy, half MD4, TEA without a seed, half MD4 and TEA with one.
    #[test]
    fn hashes_are_those_of_e2fsprogs() {
        let long = {
            let mut long = [b'0'; 255];
            long[254] = b'7';
            long
        };
        let known: [(&[u8], [u32; 5]); 5] = [
            (b"a", [0xe74b_53e2, 0xd5fa_7d7a, 0x6d0e_a4c0, 0x3c55_b3dc, 0x0bd7_c194]),
            (b"hello", [0x3225_2546, 0x1746_da32, 0x6f5b_b1a8, 0x43d4_71c8, 0xd11c_92ea]),
            (
                b"abcdefghijklmnopqrstuvwxyz0123456789ABCDEF",
                [0x7097_6438, 0x9ffc_fcde, 0xfdf7_0586, 0x73e1_b6da, 0x1e3f_e182],
            ),
            ("été".as_bytes(), [0x70d7_b7fc, 0xa69a_4d3a, 0x04d3_37a6, 0x5e9e_9970, 0x00bf_6462]),
            (&long, [0xa665_770c, 0x5673_6122, 0x400f_9402, 0x9c5c_47a4, 0xe0a6_dea2]),
        ];
        let seed = [0x1234_5678, 0x9abc_def0, 7, 8];
        for (name, hashes) in known {
            for (version, seed, expected) in [
                (0, [0; 4], hashes[0]),
                (1, [0; 4], hashes[1]),
                (2, [0; 4], hashes[2]),
                (1, seed, hashes[3]),
                (2, seed, hashes[4]),
            ] {
                let hasher = Hasher::new(version, false, seed).unwrap();
                assert_eq!(hasher.hash(name), expected, "{version} {seed:?} {name:?}");
            }
        }
    }

    #[test]
    fn signs_matter_only_beyond_ascii() {
        for version in 0..3 {
            let [signed, unsigned] = [false, true].map(|sign| Hasher::new(version, sign, [0; 4]).unwrap());
            assert_eq!(signed.hash(b"plain"), unsigned.hash(b"plain"));
            assert_ne!(signed.hash("été".as_bytes()), unsigned.hash("été".as_bytes()));
        }
        assert_eq!(Hasher::new(3, false, [0; 4]), None);
    }
}
