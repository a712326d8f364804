//! What a file is: its inode, checked.

use crate::error::Error;
use crate::raw::{INODE_BASE, INODE_HEAD, RawInode};
use xip_core::Timestamp;

/// The number of an inode.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct InodeNo(pub u32);

impl InodeNo {
    /// The root directory.
    pub const ROOT: Self = Self(crate::geometry::ROOT);
}

/// The kind of a file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A block device.
    Block,
    /// A character device.
    Character,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl Kind {
    /// The type bits of a mode.
    pub fn mode(self) -> u16 {
        match self {
            Self::Fifo => 0o010_000,
            Self::Character => 0o020_000,
            Self::Directory => 0o040_000,
            Self::Block => 0o060_000,
            Self::Regular => 0o100_000,
            Self::Symlink => 0o120_000,
            Self::Socket => 0o140_000,
        }
    }

    /// The kind that the type bits of `mode` name.
    pub fn from_mode(mode: u16) -> Option<Self> {
        match mode >> 12 {
            0o01 => Some(Self::Fifo),
            0o02 => Some(Self::Character),
            0o04 => Some(Self::Directory),
            0o06 => Some(Self::Block),
            0o10 => Some(Self::Regular),
            0o12 => Some(Self::Symlink),
            0o14 => Some(Self::Socket),
            _ => None,
        }
    }

    /// The number in a directory entry (`filetype`).
    pub(crate) fn entry_type(self) -> u8 {
        match self {
            Self::Regular => 1,
            Self::Directory => 2,
            Self::Character => 3,
            Self::Block => 4,
            Self::Fifo => 5,
            Self::Socket => 6,
            Self::Symlink => 7,
        }
    }

    /// The kind that a directory entry names, `None` when it names none.
    pub(crate) fn from_entry_type(number: u8) -> Option<Self> {
        [Self::Regular, Self::Directory, Self::Character, Self::Block, Self::Fifo, Self::Socket, Self::Symlink]
            .into_iter()
            .find(|kind| kind.entry_type() == number)
    }
}

/// An inode as it was when it was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Inode {
    /// Its number.
    pub number: InodeNo,
    /// What it is.
    pub kind: Kind,
    /// Permission bits, with set-id and sticky: the lower 12 bits of the mode.
    pub permissions: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size in bytes.
    pub size: u64,
    /// Names that lead to it; 0 for one that is in use without.
    pub links: u16,
    /// Storage it has, in units of 512 bytes, with the blocks of pointers and attributes.
    pub blocks512: u32,
    /// Last read.
    pub atime: Timestamp,
    /// Last change of the data.
    pub mtime: Timestamp,
    /// Last change of the inode.
    pub ctime: Timestamp,
    /// Made; the epoch where the inode has no room for it.
    pub crtime: Timestamp,
    /// `i_flags`.
    pub flags: u32,
    /// `i_generation`.
    pub generation: u32,
    /// Major and minor number of a device, else zeros.
    pub device: (u32, u32),
}

/// Set on a directory that has a hash index.
pub(crate) const FLAG_INDEX: u32 = 0x1000;
/// The format of block pointers is not ours to read: extents, inline data, encryption. Their features are incompat, so
/// only a damaged volume has them here.
const FLAGS_FOREIGN: u32 = 0x0008_0000 | 0x1000_0000 | 0x800;

impl Inode {
    /// The kind of an inode that is in use, by its first 28 bytes.
    #[inline]
    pub(crate) fn kind_of(raw: &RawInode, number: InodeNo) -> Result<Kind, Error> {
        // Without names it is in use until it is released, which sets the time of its deletion.
        if raw.links() == 0 && (raw.mode() == 0 || raw.dtime() != 0) {
            return Err(Error::NotFound);
        }
        let unknown = Error::Corrupt { what: "unknown kind of file", inode: number.0, at: raw.mode().into() };
        Kind::from_mode(raw.mode()).ok_or(unknown)
    }

    pub(crate) fn check(raw: &RawInode, number: InodeNo, largest: u64) -> Result<Self, Error> {
        let (kind, size) = kind_and_size(raw, number, largest)?;
        Ok(Self::decoded(raw, number, kind, size))
    }

    fn decoded(raw: &RawInode, number: InodeNo, kind: Kind, size: u64) -> Self {
        let device = match kind {
            Kind::Block | Kind::Character => decode_device(raw.block(0), raw.block(1)),
            _ => (0, 0),
        };
        let extra = usize::from(raw.extra_size());
        // A time's extra part counts only when the inode says it has room for it.
        let time = |seconds: u32, more: u32, end: usize| {
            decode_time(seconds, if INODE_BASE + extra >= end { more } else { 0 })
        };
        Self {
            number,
            kind,
            permissions: raw.mode() & 0o7777,
            uid: u32::from(raw.uid_high()) << 16 | u32::from(raw.uid_low()),
            gid: gid(raw),
            size,
            links: raw.links(),
            blocks512: raw.blocks512(),
            atime: time(raw.atime(), raw.atime_extra(), 144),
            mtime: time(raw.mtime(), raw.mtime_extra(), 140),
            ctime: time(raw.ctime(), raw.ctime_extra(), 136),
            crtime: if INODE_BASE + extra >= 152 {
                decode_time(raw.crtime(), raw.crtime_extra())
            } else {
                Timestamp::default()
            },
            flags: raw.flags(),
            generation: raw.generation(),
            device,
        }
    }
}

pub(crate) fn gid(raw: &RawInode) -> u32 {
    u32::from(raw.gid_high()) << 16 | u32::from(raw.gid_low())
}

/// All checks of an inode: what is not looked at here can be anything.
#[inline(always)]
fn kind_and_size(raw: &RawInode, number: InodeNo, largest: u64) -> Result<(Kind, u64), Error> {
    let corrupt = |what, at| Error::Corrupt { what, inode: number.0, at };
    let kind = Inode::kind_of(raw, number)?;
    if raw.flags() & FLAGS_FOREIGN != 0 {
        return Err(corrupt("a layout that is not ext2's", raw.flags().into()));
    }
    let high = if matches!(kind, Kind::Regular | Kind::Directory) { raw.size_high() } else { 0 };
    let size = u64::from(high) << 32 | u64::from(raw.size_low());
    if size > largest {
        return Err(corrupt("the size is beyond what the format can hold", size));
    }
    Ok((kind, size))
}

/// An inode for those who change it: checked as [`Inode`], with the few of its fields that most operations want. It is read once,
/// by one who has its lock, and then handed on.
#[derive(Clone, Copy)]
pub(crate) struct Node {
    pub(crate) number: InodeNo,
    /// Byte address.
    pub(crate) at: u64,
    pub(crate) kind: Kind,
    pub(crate) size: u64,
    pub(crate) mode: u16,
    pub(crate) links: u16,
    pub(crate) flags: u32,
}

impl Node {
    #[inline(always)]
    pub(crate) fn check(
        head: [u8; INODE_HEAD],
        size_high: [u8; 4],
        number: InodeNo,
        at: u64,
        largest: u64,
    ) -> Result<Self, Error> {
        let mut raw = RawInode::default();
        raw.0[..INODE_HEAD].copy_from_slice(&head);
        raw.set_size_high(u32::from_le_bytes(size_high));
        let (kind, size) = kind_and_size(&raw, number, largest)?;
        Ok(Self { number, at, kind, size, mode: raw.mode(), links: raw.links(), flags: raw.flags() })
    }

    /// Permission bits, with set-id and sticky.
    pub(crate) fn permissions(&self) -> u16 {
        self.mode & 0o7777
    }
}

/// What to change of an inode; `None` stays as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SetAttributes {
    /// Permission bits, with set-id and sticky.
    pub permissions: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Last read.
    pub atime: Option<Timestamp>,
    /// Last change of the data.
    pub mtime: Option<Timestamp>,
    /// Last change of the inode; `None`: now.
    pub ctime: Option<Timestamp>,
    /// Made.
    pub crtime: Option<Timestamp>,
    /// The set-id bits of all but a directory go, as with a new owner: set-user-id always, set-group-id where the group may execute it
    /// (elsewhere the bit means mandatory locking).
    pub drop_set_id: bool,
}

/// A mode without set-id bits: as [`SetAttributes::drop_set_id`].
pub(crate) fn without_set_id(mode: u16) -> u16 {
    const SET_UID: u16 = 0o4000;
    const SET_GID: u16 = 0o2000;
    const GROUP_EXECUTE: u16 = 0o010;
    mode & !(SET_UID | if mode & GROUP_EXECUTE != 0 { SET_GID } else { 0 })
}

impl SetAttributes {
    pub(crate) fn apply(&self, raw: &mut RawInode, now: Timestamp) {
        if let Some(permissions) = self.permissions {
            raw.set_mode(raw.mode() & 0o170_000 | permissions & 0o7777);
        }
        if self.drop_set_id && Kind::from_mode(raw.mode()) != Some(Kind::Directory) {
            raw.set_mode(without_set_id(raw.mode()));
        }
        if let Some(uid) = self.uid {
            raw.set_uid_low((uid & 0xffff) as u16);
            raw.set_uid_high((uid >> 16) as u16);
        }
        if let Some(gid) = self.gid {
            raw.set_gid_low((gid & 0xffff) as u16);
            raw.set_gid_high((gid >> 16) as u16);
        }
        let time = |set: &mut dyn FnMut(u32, u32), time: Option<Timestamp>| {
            if let Some(time) = time {
                let (seconds, extra) = encode_time(time);
                set(seconds, extra);
            }
        };
        let wide = INODE_BASE + usize::from(raw.extra_size());
        time(
            &mut |s, x| {
                raw.set_atime(s);
                if wide >= 144 {
                    raw.set_atime_extra(x)
                }
            },
            self.atime,
        );
        time(
            &mut |s, x| {
                raw.set_mtime(s);
                if wide >= 140 {
                    raw.set_mtime_extra(x)
                }
            },
            self.mtime,
        );
        time(
            &mut |s, x| {
                raw.set_ctime(s);
                if wide >= 136 {
                    raw.set_ctime_extra(x)
                }
            },
            self.ctime.or(Some(now)),
        );
        time(
            &mut |s, x| {
                if wide >= 152 {
                    raw.set_crtime(s);
                    raw.set_crtime_extra(x)
                }
            },
            self.crtime,
        );
    }
}

/// Seconds are 32 bits signed, and 2 more in the extra part that count up from there; then 30 bits of nanoseconds.
/// Reaches from 1901 to 2446.
fn decode_time(seconds: u32, extra: u32) -> Timestamp {
    Timestamp {
        seconds: i64::from(seconds.cast_signed()) + (i64::from(extra & 3) << 32),
        nanoseconds: (extra >> 2).min(999_999_999),
    }
}

pub(crate) fn encode_time(time: Timestamp) -> (u32, u32) {
    const FIRST: i64 = i32::MIN as i64;
    const LAST: i64 = i32::MAX as i64 + (3 << 32);
    let seconds = time.seconds.clamp(FIRST, LAST);
    let epoch = ((seconds - FIRST) >> 32) as u32;
    let low = (seconds & 0xffff_ffff) as u32;
    (low, epoch & 3 | time.nanoseconds.min(999_999_999) << 2)
}

/// Linux's two encodings: 8 and 8 bits in the first word, or 12 and 20 bits in the second.
fn decode_device(old: u32, new: u32) -> (u32, u32) {
    if old != 0 { (old >> 8 & 0xff, old & 0xff) } else { (new >> 8 & 0xfff, new & 0xff | new >> 12 & 0xf_ff00) }
}

/// The two words for a device, `None` when it is beyond 12 and 20 bits.
pub(crate) fn encode_device(major: u32, minor: u32) -> Option<(u32, u32)> {
    if major < 256 && minor < 256 {
        // The word 0 would be read as "see the next one", which is 0 too: the same device.
        Some((major << 8 | minor, 0))
    } else if major < 1 << 12 && minor < 1 << 20 {
        Some((0, minor & 0xff | major << 8 | (minor & 0xf_ff00) << 12))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_from_1901_to_2446_to_the_nanosecond() {
        for seconds in [i64::from(i32::MIN), -1, 0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 1 << 32, 0x3_7fff_ffff] {
            for nanoseconds in [0, 1, 999_999_999] {
                let time = Timestamp { seconds, nanoseconds };
                let (low, extra) = encode_time(time);
                assert_eq!(decode_time(low, extra), time);
            }
        }
    }

    #[test]
    fn device_numbers_survive_both_encodings() {
        for device in [(0, 0), (8, 1), (255, 255), (256, 0), (4095, 1_048_575), (1, 256)] {
            let (old, new) = encode_device(device.0, device.1).unwrap();
            assert_eq!(decode_device(old, new), device);
        }
        assert_eq!(encode_device(4096, 0), None);
    }
}
