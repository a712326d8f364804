//! Something for each number of an inode or a group, made by the thousand when the first of them is wanted.

use std::sync::OnceLock;

/// How many are made at once.
const CHUNK: u32 = 1024;

/// A `T` for each of the numbers up to a last one.
#[derive(Debug)]
pub(crate) struct Table<T>(Box<[OnceLock<Box<[T]>>]>);

impl<T: Default> Table<T> {
    pub(crate) fn new(last: u32) -> Self {
        Self((0..=last / CHUNK).map(|_| OnceLock::new()).collect())
    }

    /// `None` for a number that does not exist.
    #[inline]
    pub(crate) fn get(&self, number: u32) -> Option<&T> {
        let chunk = self.0.get((number / CHUNK) as usize)?;
        let chunk = chunk.get_or_init(|| (0..CHUNK).map(|_| T::default()).collect());
        // An odd factor only changes the order: neighbours, which are often used together, stand in cache lines apart.
        chunk.get((number.wrapping_mul(633) % CHUNK) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_number_has_one_of_its_own_and_what_does_not_exist_has_none() {
        let table = Table::<u64>::new(5000);
        let all: HashSet<_> = (0..=5000).map(|n| std::ptr::from_ref(table.get(n).unwrap())).collect();
        assert_eq!(all.len(), 5001);
        assert!(table.get(u32::MAX).is_none());
    }
}
