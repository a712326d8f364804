//! Whose the files of an image are: those of the tree, or others, so that nobody needs root to build.

use crate::source::{NodeId, Tree};

/// How owners of the source become owners in the image.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Owner {
    /// As in the source.
    #[default]
    Keep,
    /// All of it belongs to this user and group: `(0, 0)` for what a person unpacked without root.
    All(u32, u32),
    /// By tables; numbers in no range stay as they are.
    Map {
        /// Users.
        users: Vec<IdRange>,
        /// Groups.
        groups: Vec<IdRange>,
    },
}

/// `count` numbers from `from` on become those from `to` on, as in `/proc/PID/uid_map`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IdRange {
    /// The first in the source.
    pub from: u32,
    /// The first in the image.
    pub to: u32,
    /// How many.
    pub count: u32,
}

impl Owner {
    /// Changes the owners of a whole tree; `root`, when given, is that of its root directory whatever else holds.
    pub(crate) fn apply(&self, tree: &mut Tree, root: Option<(u32, u32)>) {
        for node in &mut tree.nodes {
            (node.uid, node.gid) = match self {
                Self::Keep => (node.uid, node.gid),
                Self::All(uid, gid) => (*uid, *gid),
                Self::Map { users, groups } => (map(users, node.uid), map(groups, node.gid)),
            };
        }
        if let (Some((uid, gid)), Some(node)) = (root, tree.nodes.get_mut(NodeId::ROOT.index())) {
            (node.uid, node.gid) = (uid, gid);
        }
    }
}

/// Every number is one that a user or group can have, which the last of 32 bits is not, and no two ranges say
/// different things about one.
pub(crate) fn check(ranges: &[IdRange]) -> Result<(), String> {
    let text = |range: &IdRange| format!("{}:{}:{}", range.from, range.to, range.count);
    for (index, range) in ranges.iter().enumerate() {
        if range.count == 0 {
            return Err(format!("{} is a range of nothing", text(range)));
        }
        if range.from.max(range.to).checked_add(range.count).is_none() {
            return Err(format!("{} goes beyond {}, the last there is", text(range), u32::MAX - 1));
        }
        let overlaps = |other: &&IdRange| {
            // Neither sum overflows for ranges before this one, which were checked, and for this one.
            range.from < other.from + other.count && other.from < range.from + range.count
        };
        if let Some(other) = ranges[..index].iter().find(overlaps) {
            return Err(format!("{} and {} overlap", text(other), text(range)));
        }
    }
    Ok(())
}

fn map(ranges: &[IdRange], id: u32) -> u32 {
    let inside = |range: &&IdRange| id.checked_sub(range.from).is_some_and(|n| n < range.count);
    ranges.iter().find(inside).map_or(id, |range| range.to.saturating_add(id - range.from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_say_two_things_or_name_nobody_are_refused() {
        let range = |from, to, count| IdRange { from, to, count };
        assert_eq!(check(&[range(0, 5, 10), range(10, 5, 10), range(u32::MAX - 1, 0, 1)]), Ok(()));
        for wrong in [
            vec![range(0, u32::MAX, 5)],
            vec![range(0, u32::MAX, 1)],
            vec![range(u32::MAX, 0, 1)],
            vec![range(u32::MAX - 1, 0, 2)],
            vec![range(0, 0, 0)],
            vec![range(0, 5, 10), range(9, 100, 1)],
            vec![range(9, 100, 1), range(20, 0, 1), range(0, 5, 10)],
        ] {
            assert!(check(&wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn numbers_in_a_range_move_and_others_stay() {
        let ranges = [IdRange { from: 1000, to: 0, count: 1 }, IdRange { from: 100_000, to: 1, count: 65_535 }];
        for (from, to) in [(1000, 0), (1001, 1001), (100_000, 1), (165_534, 65_535), (165_535, 165_535), (0, 0)] {
            assert_eq!(map(&ranges, from), to);
        }
    }
}
