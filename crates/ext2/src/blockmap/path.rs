//! Where the pointer to a page stands.

/// Pointers in the inode that lead to data.
pub(super) const DIRECT: u64 = 12;

/// The way from the inode to a page: at each level the index of the pointer, and how many pages it stands for.
pub(super) struct Path {
    /// `slots[0]` is in the inode, the others in blocks of pointers.
    pub(super) slots: [u32; 4],
    /// How many of them.
    pub(super) depth: usize,
}

impl Path {
    /// The way to page `index`, where a block has `1 << bits` pointers.
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation)] // A slot is below `1 << bits`, which is far below 2^32.
    pub(super) fn to(index: u64, bits: u32) -> Option<Self> {
        let slot = |n: u64| (n & ((1 << bits) - 1)) as u32;
        if index < DIRECT {
            return Some(Self { slots: [index as u32, 0, 0, 0], depth: 1 });
        }
        let rest = index - DIRECT;
        if rest >> bits == 0 {
            return Some(Self { slots: [12, slot(rest), 0, 0], depth: 2 });
        }
        let rest = rest - (1 << bits);
        if rest >> (2 * bits) == 0 {
            return Some(Self { slots: [13, slot(rest >> bits), slot(rest), 0], depth: 3 });
        }
        let rest = rest - (1 << (2 * bits));
        if rest >> (3 * bits) == 0 {
            return Some(Self { slots: [14, slot(rest >> (2 * bits)), slot(rest >> bits), slot(rest)], depth: 4 });
        }
        None
    }

    /// Pages from the one this path leads to, to the end of what the pointer at `level` stands for.
    pub(super) fn pages_left(&self, level: usize, pointers: u64) -> u64 {
        let mut within = 0;
        let mut whole = 1;
        for &slot in &self.slots[level + 1..self.depth] {
            within = within * pointers + u64::from(slot);
            whole *= pointers;
        }
        whole - within
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The slots are the digits of a page's number, less the pages that stand before its tree.
    #[test]
    fn a_path_leads_to_its_page() {
        for bits in 8..=12 {
            let pointers = 1u64 << bits;
            let starts = [0, DIRECT, DIRECT + pointers, DIRECT + pointers + pointers.pow(2)];
            let end = starts[3] + pointers.pow(3);
            let near = |edge: u64| edge.saturating_sub(3)..edge + 4;
            for page in starts.into_iter().chain([starts[3] + pointers.pow(2), end / 3, end - 4]).flat_map(near) {
                let path = Path::to(page, bits).unwrap();
                let tree = starts.iter().rposition(|&start| start <= page).unwrap();
                let digits = &path.slots[usize::from(tree > 0)..=tree];
                let found = digits.iter().fold(0, |found, &digit| found * pointers + u64::from(digit));
                assert_eq!((path.depth, starts[tree] + found), (tree + 1, page), "{bits} bits");
                assert!(
                    tree == 0 || path.slots[0] as usize == 11 + tree,
                    "the inode's pointer to the tree of page {page}"
                );
            }
            assert!([end, end + 1, 1 << 63, u64::MAX].iter().all(|&page| Path::to(page, bits).is_none()));
        }
    }
}
