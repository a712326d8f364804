//! What changes bytes and storage of a file: on a volume, and in the model.

use crate::model::{Body, Node};
use std::fmt;
use xip_core::ops::{self, Writer};
use xip_core::{PAGE_SIZE, Pages};
use xip_ext2::Error;

const PAGE: u64 = PAGE_SIZE as u64;

#[derive(Clone, Copy)]
pub enum Change<'a> {
    Write { at: u64, bytes: &'a [u8], append: bool },
    Truncate { size: u64 },
    Allocate { at: u64, len: u64, keep_size: bool },
    Punch { at: u64, len: u64 },
    Zero { at: u64, len: u64, keep_size: bool },
}

impl fmt::Debug for Change<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Write { at, bytes, append } => write!(f, "write of {} at {at}, append: {append},", bytes.len()),
            Self::Truncate { size } => write!(f, "truncate to {size}"),
            Self::Allocate { at, len, keep_size } => write!(f, "fallocate of {len} at {at}, keep size: {keep_size},"),
            Self::Punch { at, len } => write!(f, "punch of {len} at {at}"),
            Self::Zero { at, len, keep_size } => write!(f, "zero of {len} at {at}, keep size: {keep_size},"),
        }
    }
}

impl Change<'_> {
    /// Does it to a file: how many bytes were written.
    pub fn run<F: Pages<Error = Error>>(&self, file: &F) -> Result<u64, Error> {
        let how = Writer::default();
        match *self {
            Self::Write { at, bytes, append } => {
                return ops::write(file, at, bytes, &Writer { append, ..how }).map(|done| done as u64);
            }
            Self::Truncate { size } => ops::truncate(file, size),
            Self::Allocate { at, len, keep_size } => ops::fallocate(file, at, len, keep_size, &how),
            Self::Punch { at, len } => ops::punch_hole(file, at, len, &how),
            Self::Zero { at, len, keep_size } => ops::zero_range(file, at, len, keep_size, &how),
        }
        .map(|()| u64::MAX)
    }

    /// What a file of this size should answer.
    pub fn expected(&self, size: u64) -> Result<(), Error> {
        match *self {
            Self::Allocate { len: 0, .. } | Self::Punch { len: 0, .. } | Self::Zero { len: 0, .. } => {
                Err(xip_core::Error::Invalid("a range of no bytes").into())
            }
            Self::Allocate { at, len, keep_size: true } | Self::Zero { at, len, keep_size: true }
                if (at + len).div_ceil(PAGE) > size.div_ceil(PAGE) =>
            {
                Err(Error::Unsupported("storage beyond the end"))
            }
            _ => Ok(()),
        }
    }

    /// With so many blocks free, space does not give out before anything is done: those that it needs and those of pointers.
    pub fn wanted(&self) -> u64 {
        match *self {
            Self::Write { .. } => 4,
            Self::Allocate { len, .. } | Self::Zero { len, .. } => len / PAGE + 2 + 6,
            Self::Truncate { .. } | Self::Punch { .. } => 0,
        }
    }

    /// Does it to the model, as far as it was done: so many bytes written, or all of it or nothing. Whether it is done in part.
    pub fn apply(&self, node: &mut Node, done: u64) -> bool {
        if !matches!(self, Self::Write { bytes: [], .. }) {
            node.drop_set_id();
        }
        let Body::File(content) = &mut node.body else { return false };
        match *self {
            Self::Write { at, bytes, append } => {
                let at = if append { content.size } else { at };
                content.write(at, &bytes[..bytes.len().min(done as usize)]);
                return 0 < done && done < bytes.len() as u64;
            }
            Self::Truncate { size } => content.truncate(size),
            Self::Punch { at, len } => content.punch(at, at + len),
            Self::Allocate { at, len, keep_size } | Self::Zero { at, len, keep_size } => {
                if matches!(self, Self::Zero { .. }) {
                    content.zero(at, content.size.min(at + len));
                }
                if done == 0 {
                    content.vague = true;
                    return false;
                }
                content.allocate(at, at + len);
                content.size = if keep_size { content.size } else { content.size.max(at + len) };
            }
        }
        false
    }
}
