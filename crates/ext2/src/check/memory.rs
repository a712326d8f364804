//! What a check has to remember, in memory that the caller gives: there is no allocator here.

use crate::geometry::Geometry;

/// Bits, one for each of something.
pub(super) struct Bits<'a>(&'a mut [u8]);

impl Bits<'_> {
    pub(super) fn has(&self, n: u32) -> bool {
        self.0.get(n as usize / 8).is_some_and(|byte| byte & 1 << (n % 8) != 0)
    }

    /// Sets a bit; whether it was clear.
    pub(super) fn set(&mut self, n: u32) -> bool {
        let Some(byte) = self.0.get_mut(n as usize / 8) else { return false };
        let was_clear = *byte & 1 << (n % 8) == 0;
        *byte |= 1 << (n % 8);
        was_clear
    }

    /// The byte that holds bits `8 * n` to `8 * n + 7`; those past the end are clear.
    pub(super) fn byte(&self, n: usize) -> u8 {
        self.0.get(n).copied().unwrap_or(0)
    }

    /// Clears the first bits, at least this many.
    pub(super) fn clear(&mut self, count: u32) {
        let len = (count as usize).div_ceil(8).min(self.0.len());
        self.0[..len].fill(0);
    }
}

/// The kind of an inode that is in use without being of any kind.
pub(super) const NO_KIND: u8 = 8;
const KIND: u8 = 0x0f;
const REACHED: u8 = 0x10;

/// All of it.
pub(super) struct Memory<'a> {
    /// Blocks that belong to something, counted from the first block of the first group.
    pub(super) claimed: Bits<'a>,
    /// Blocks of attributes, of which a file may have none to itself. Before there are any: blocks of one directory.
    pub(super) attributes: Bits<'a>,
    /// For each inode its kind, and whether a name leads to it.
    states: &'a mut [u8],
    /// For each inode how many names lead to it.
    names: &'a mut [[u8; 2]],
    /// Directories to walk, with their parents; later blocks of attributes with the number of their owners.
    pairs: &'a mut [[u8; 8]],
}

impl<'a> Memory<'a> {
    const PER_INODE: usize = 1 + 2 + 8;

    /// Bytes for a volume of this shape; `None` when they cannot be counted.
    pub(super) fn wanted(geometry: &Geometry) -> Option<usize> {
        let bits = (geometry.blocks as usize).div_ceil(8);
        (geometry.inodes as usize).checked_mul(Self::PER_INODE)?.checked_add(bits.checked_mul(2)?)
    }

    /// Takes what is wanted from `memory`, cleared; `None` if that is too short.
    pub(super) fn new(memory: &'a mut [u8], geometry: &Geometry) -> Option<Self> {
        let memory = memory.get_mut(..Self::wanted(geometry)?)?;
        memory.fill(0);
        let (bits, inodes) = ((geometry.blocks as usize).div_ceil(8), geometry.inodes as usize);
        let (claimed, memory) = memory.split_at_mut(bits);
        let (attributes, memory) = memory.split_at_mut(bits);
        let (states, memory) = memory.split_at_mut(inodes);
        let (names, memory) = memory.split_at_mut(2 * inodes);
        Some(Self {
            claimed: Bits(claimed),
            attributes: Bits(attributes),
            states,
            names: names.as_chunks_mut().0,
            pairs: memory.as_chunks_mut().0,
        })
    }

    fn state(&self, inode: u32) -> u8 {
        self.states.get((inode as usize).wrapping_sub(1)).copied().unwrap_or(0)
    }

    /// The number of [`Kind::entry_type`](crate::inode::Kind), 0 when it is not in use, [`NO_KIND`].
    pub(super) fn kind(&self, inode: u32) -> u8 {
        self.state(inode) & KIND
    }

    pub(super) fn set_kind(&mut self, inode: u32, kind: u8) {
        if let Some(state) = self.states.get_mut((inode as usize).wrapping_sub(1)) {
            *state = *state & !KIND | kind;
        }
    }

    /// Whether a name leads to it.
    pub(super) fn is_reached(&self, inode: u32) -> bool {
        self.state(inode) & REACHED != 0
    }

    /// A name leads to it; whether that is the first.
    pub(super) fn reach(&mut self, inode: u32) -> bool {
        let first = !self.is_reached(inode);
        if let Some(state) = self.states.get_mut((inode as usize).wrapping_sub(1)) {
            *state |= REACHED;
        }
        first
    }

    /// Names that lead to it; a count that is full stays so, since no inode can have that many links.
    pub(super) fn names(&self, inode: u32) -> u16 {
        self.names.get((inode as usize).wrapping_sub(1)).map_or(0, |count| u16::from_le_bytes(*count))
    }

    pub(super) fn count_name(&mut self, inode: u32) {
        let count = self.names(inode).saturating_add(1);
        if let Some(place) = self.names.get_mut((inode as usize).wrapping_sub(1)) {
            *place = count.to_le_bytes();
        }
    }

    pub(super) fn pair(&self, n: usize) -> (u32, u32) {
        let Some([a, b, c, d, e, f, g, h]) = self.pairs.get(n).copied() else { return (0, 0) };
        (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
    }

    pub(super) fn set_pair(&mut self, n: usize, (first, second): (u32, u32)) {
        if let Some(place) = self.pairs.get_mut(n) {
            place[..4].copy_from_slice(&first.to_le_bytes());
            place[4..].copy_from_slice(&second.to_le_bytes());
        }
    }
}
