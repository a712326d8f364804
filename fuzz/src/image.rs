//! An image as an input, written down short, so that an input of a few hundred bytes is a volume.
//!
//! The first byte says which base it starts from, the second how long it is if that is zeros. Then come patches:
//! where (4 bytes), how many bytes (2), and these bytes; or, if the highest bit of the count is set, one byte that is
//! repeated. Numbers are little-endian; places are taken modulo the length of the image.

use crate::base;
use xip_core::PAGE_SIZE;

/// The shortest image that is not a base has so many pages.
const FEWEST: usize = 4;
const REPEATED: u16 = 0x8000;

/// The image that an input stands for; `None` for one that is too short to be any.
pub fn decode(input: &[u8]) -> Option<Vec<u8>> {
    let ([base, pages], mut rest) = input.split_first_chunk()?;
    let mut image = base::image(*base, FEWEST + usize::from(*pages));
    while let Some(([a, b, c, d, low, high], after)) = rest.split_first_chunk() {
        let at = u32::from_le_bytes([*a, *b, *c, *d]) as usize % image.len();
        let count = u16::from_le_bytes([*low, *high]);
        let len = usize::from(count & !REPEATED).min(image.len() - at);
        if count & REPEATED != 0 {
            let Some((byte, after)) = after.split_first() else { break };
            image[at..at + len].fill(*byte);
            rest = after;
        } else {
            let (bytes, after) = after.split_at(len.min(after.len()));
            image[at..at + bytes.len()].copy_from_slice(bytes);
            rest = after;
        }
    }
    Some(image)
}

/// The input that stands for an image of up to 1 MiB.
///
/// # Panics
/// For a longer one.
pub fn encode(image: &[u8]) -> Vec<u8> {
    let pages = image.len().div_ceil(PAGE_SIZE).max(FEWEST) - FEWEST;
    let mut input = vec![0, u8::try_from(pages).expect("an image of at most 259 pages")];
    let mut at = 0;
    while at < image.len() {
        let equal = image[at..].iter().take(0x7fff).take_while(|byte| **byte == image[at]).count();
        // A patch costs 6 bytes: what ends the bytes of one is a stretch that costs more than that.
        let len = if equal > 8 { equal } else { different(&image[at..]) };
        let place = u32::try_from(at).expect("at most 1 MiB").to_le_bytes();
        let count = u16::try_from(len).expect("at most 0x7fff");
        match (equal > 8, image[at]) {
            (true, 0) => {}
            (true, byte) => {
                input.extend(place);
                input.extend((count | REPEATED).to_le_bytes());
                input.push(byte);
            }
            (false, _) => {
                input.extend(place);
                input.extend(count.to_le_bytes());
                input.extend(&image[at..at + len]);
            }
        }
        at += len;
    }
    input
}

/// How many bytes there are before 9 that are equal.
fn different(bytes: &[u8]) -> usize {
    let equal = |window: &[u8]| window.iter().all(|byte| *byte == window[0]);
    bytes.windows(9).take(0x7fff).position(equal).unwrap_or(bytes.len().min(0x7fff))
}
