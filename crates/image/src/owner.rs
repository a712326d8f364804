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

fn map(ranges: &[IdRange], id: u32) -> u32 {
    let inside = |range: &&IdRange| id.checked_sub(range.from).is_some_and(|n| n < range.count);
    ranges.iter().find(inside).map_or(id, |range| range.to.saturating_add(id - range.from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_a_range_move_and_others_stay() {
        let ranges = [IdRange { from: 1000, to: 0, count: 1 }, IdRange { from: 100_000, to: 1, count: 65_535 }];
        for (from, to) in [(1000, 0), (1001, 1001), (100_000, 1), (165_534, 65_535), (165_535, 165_535), (0, 0)] {
            assert_eq!(map(&ranges, from), to);
        }
    }
}
