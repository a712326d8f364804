//! `SEEK_DATA` and `SEEK_HOLE` where the image has a hole. What programs stored there through shared mappings may be in the kernel's
//! page cache alone, and the kernel does not write it back before it asks: so it is told to let go of those pages, and what was
//! written to them comes as requests first.
//!
//! In a thread of its own: the kernel waits for the threads that answer these requests meanwhile.

use super::reply_seek;
use crate::live::Live;
use fuser::{INodeNo, Notifier, ReplyLseek};
use std::sync::mpsc::Receiver;

/// A question whose answer depends on a hole.
pub(super) struct Seek {
    pub(super) ino: INodeNo,
    pub(super) from: u64,
    pub(super) data: bool,
    pub(super) reply: ReplyLseek,
}

/// Answers all that comes.
pub(super) fn answer(live: &Live, kernel: &Notifier, seeks: &Receiver<Seek>) {
    for Seek { ino, from, data, reply } in seeks {
        let mut settled = from;
        while let Ok(Some(hole)) = live.hole(ino.0, from, data)
            && hole.end > settled
        {
            // A hole begins and ends below 2^63. That the kernel has forgotten the file is as good.
            let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
            let _ = kernel.inval_inode(ino, signed(hole.start), signed(hole.end - hole.start));
            settled = hole.end;
        }
        reply_seek(reply, live.seek(ino.0, from, data));
    }
}
