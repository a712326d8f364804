//! What a check can find.

use crate::error::Error;
use core::fmt;

/// What can be done about a finding.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Class {
    /// A crash may leave it (contract 7); it is mended without loss.
    Leak,
    /// No crash leaves it; it is named, and a volume that has it is not mended.
    Damage,
}

/// Something that is wrong with a volume.
#[non_exhaustive]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Finding {
    /// The volume was not closed, or Linux has seen an error on it: `s_state`.
    Unclean {
        /// What it says.
        state: u16,
    },
    /// Linux's list of files that were deleted while open is not empty: `s_last_orphan`.
    Orphans {
        /// The first on it.
        inode: u32,
    },
    /// Something that is done in several steps, such as a rename, was under way. It is completed.
    Intent,
    /// Blocks that are taken and belong to nothing.
    LeakedBlocks {
        /// The first.
        first: u32,
        /// How many, one after the other.
        count: u32,
    },
    /// An inode that is taken, or in use, and that no name leads to.
    LeakedInode {
        /// Which.
        inode: u32,
    },
    /// An inode counts more names than lead to it.
    LinksTooHigh {
        /// Which.
        inode: u32,
        /// What it says.
        stored: u16,
        /// What was found.
        found: u16,
    },
    /// An inode does not have the storage that it says: `i_blocks`.
    BlockCount {
        /// Which.
        inode: u32,
        /// What it says, in units of 512 bytes.
        stored: u32,
        /// What was found.
        found: u64,
    },
    /// A file has storage beyond its end.
    BeyondEnd {
        /// Which.
        inode: u32,
    },
    /// A file in use has a time of deletion, or a deleted one has none.
    DeletionTime {
        /// Which.
        inode: u32,
    },
    /// The last block of a directory without an index, which was taken for it and never filled.
    EmptyBlock {
        /// The directory.
        inode: u32,
        /// The block.
        block: u32,
    },
    /// A block of attributes counts more owners than it has.
    OwnersTooHigh {
        /// The block.
        block: u32,
        /// What it says.
        stored: u32,
        /// What was found.
        found: u32,
    },
    /// A counter of a group, or of the volume, is wrong.
    Counter {
        /// The field.
        field: &'static str,
        /// The group; `None`: the volume.
        group: Option<u32>,
        /// What it says.
        stored: u32,
        /// What was found.
        found: u32,
    },
    /// The superblock or a group descriptor cannot be right; nothing else was looked at.
    Volume(Error),
    /// A field of the superblock is out of range, though the rest could be looked at.
    Superblock {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// A copy of the superblock and the descriptors differs from them.
    Copy {
        /// The group that has the copy.
        group: u32,
        /// The field that differs.
        field: &'static str,
    },
    /// An inode, or what belongs to it, contradicts itself.
    Damaged {
        /// What is wrong.
        what: &'static str,
        /// Which inode.
        inode: u32,
        /// Where: a block, a position in a directory, or a value.
        at: u64,
    },
    /// A block belongs to two files, to two places in a file, or to a file and to the format.
    TwoOwners {
        /// The block.
        block: u32,
        /// The inode that was found to have it after another.
        inode: u32,
    },
    /// Something is in use that the bitmap calls free.
    NotMarked {
        /// `block` or `inode`.
        what: &'static str,
        /// Its number.
        number: u32,
    },
    /// Bits past the end of a group's bitmap are not set.
    Padding {
        /// Of which bitmap: `block` or `inode`.
        what: &'static str,
        /// The group.
        group: u32,
    },
}

impl Finding {
    /// Whether it can be mended.
    pub fn class(&self) -> Class {
        match self {
            Self::Unclean { .. }
            | Self::Intent
            | Self::Orphans { .. }
            | Self::LeakedBlocks { .. }
            | Self::LeakedInode { .. }
            | Self::LinksTooHigh { .. }
            | Self::BlockCount { .. }
            | Self::BeyondEnd { .. }
            | Self::DeletionTime { .. }
            | Self::EmptyBlock { .. }
            | Self::OwnersTooHigh { .. }
            | Self::Counter { .. } => Class::Leak,
            Self::Volume(_)
            | Self::Superblock { .. }
            | Self::Copy { .. }
            | Self::Damaged { .. }
            | Self::TwoOwners { .. }
            | Self::NotMarked { .. }
            | Self::Padding { .. } => Class::Damage,
        }
    }

    /// A word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unclean { .. } => "unclean",
            Self::Orphans { .. } => "orphans",
            Self::Intent => "intent",
            Self::LeakedBlocks { .. } => "leaked-blocks",
            Self::LeakedInode { .. } => "leaked-inode",
            Self::LinksTooHigh { .. } => "links-too-high",
            Self::BlockCount { .. } => "block-count",
            Self::BeyondEnd { .. } => "beyond-end",
            Self::DeletionTime { .. } => "deletion-time",
            Self::EmptyBlock { .. } => "empty-block",
            Self::OwnersTooHigh { .. } => "owners-too-high",
            Self::Counter { .. } => "counter",
            Self::Volume(_) => "volume",
            Self::Superblock { .. } => "superblock",
            Self::Copy { .. } => "copy",
            Self::Damaged { .. } => "damaged",
            Self::TwoOwners { .. } => "two-owners",
            Self::NotMarked { .. } => "not-marked",
            Self::Padding { .. } => "padding",
        }
    }

    /// The inode it is about, if it is about one.
    pub fn inode(&self) -> Option<u32> {
        match *self {
            Self::Orphans { inode }
            | Self::LeakedInode { inode }
            | Self::LinksTooHigh { inode, .. }
            | Self::BlockCount { inode, .. }
            | Self::BeyondEnd { inode }
            | Self::DeletionTime { inode }
            | Self::EmptyBlock { inode, .. }
            | Self::Damaged { inode, .. }
            | Self::TwoOwners { inode, .. } => Some(inode),
            Self::NotMarked { what: "inode", number } => Some(number),
            _ => None,
        }
    }

    /// The block it is about, if it is about one.
    pub fn block(&self) -> Option<u32> {
        match *self {
            Self::LeakedBlocks { first: block, .. }
            | Self::EmptyBlock { block, .. }
            | Self::OwnersTooHigh { block, .. }
            | Self::TwoOwners { block, .. }
            | Self::NotMarked { what: "block", number: block } => Some(block),
            _ => None,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Unclean { state } => write!(f, "the volume was not closed, or has seen an error (state {state})"),
            Self::Orphans { inode } => write!(f, "inode {inode} is on the list of files deleted while open"),
            Self::Intent => f.write_str("an operation was under way: it is to be completed"),
            Self::LeakedBlocks { first, count: 1 } => write!(f, "block {first} is taken and belongs to nothing"),
            Self::LeakedBlocks { first, count } => {
                write!(f, "{count} blocks from {first} on are taken and belong to nothing")
            }
            Self::LeakedInode { inode } => write!(f, "inode {inode} is taken and no name leads to it"),
            Self::LinksTooHigh { inode, stored, found } => {
                write!(f, "inode {inode} counts {stored} links, {found} lead to it")
            }
            Self::BlockCount { inode, stored, found } => {
                write!(f, "inode {inode} counts {stored} sectors of storage, it has {found}")
            }
            Self::BeyondEnd { inode } => write!(f, "inode {inode} has storage beyond its end"),
            Self::DeletionTime { inode } => {
                write!(f, "inode {inode} is in use with a time of deletion, or deleted without")
            }
            Self::EmptyBlock { inode, block } => {
                write!(f, "inode {inode}: block {block} of the directory was never filled")
            }
            Self::OwnersTooHigh { block, stored, found } => {
                write!(f, "block {block} of attributes counts {stored} owners, it has {found}")
            }
            Self::Counter { field, group: Some(group), stored, found } => {
                write!(f, "group {group}: {field} is {stored}, must be {found}")
            }
            Self::Counter { field, group: None, stored, found } => write!(f, "{field} is {stored}, must be {found}"),
            Self::Volume(error) => error.fmt(f),
            Self::Superblock { field, value } => write!(f, "the superblock is damaged: {field} is {value}"),
            Self::Copy { group, field } => {
                write!(f, "the copy of the superblock in group {group} is another's: {field} differs")
            }
            Self::Damaged { what, inode, at } => write!(f, "inode {inode}: {what} ({at})"),
            Self::TwoOwners { block, inode } => {
                write!(f, "block {block} of inode {inode} belongs to something else, too")
            }
            Self::NotMarked { what, number } => write!(f, "{what} {number} is in use, and its bitmap calls it free"),
            Self::Padding { what, group } => {
                write!(f, "group {group}: bits past the end of the {what} bitmap are not set")
            }
        }
    }
}
