//! What is done to a volume and to the reference, in the words of either.

use super::reference::PAGE;

/// Few names, so that operations meet.
pub const PATHS: [&str; 12] = ["a", "b", "c", "d", "d/a", "d/b", "d/d", "d/d/a", "e", "e/a", "e/d", "e/d/b"];
pub const ATTRIBUTES: [&str; 3] = ["user.a", "user.longer", "trusted.b"];
pub const SLOTS: usize = 3;

pub type At = usize;
pub type Len = usize;
pub type Name = usize;
pub type Slot = usize;

#[derive(Clone, Debug)]
pub enum Op {
    Create(Name),
    Mkdir(Name),
    Symlink(Name),
    Link(Name, Name),
    Unlink(Name),
    Rmdir(Name),
    RemoveAll(Name),
    Rename(Name, Name, u8),
    SetAttribute(Name, usize, Len),
    RemoveAttribute(Name, usize),
    /// To append; made if it is not there; cut to nothing: a bit each.
    Open(Slot, Name, u8),
    /// A file without a name, in a directory.
    OpenUnnamed(Slot, Name),
    /// A name for a file that is open.
    LinkOpen(Slot, Name),
    Close(Slot),
    Write(Slot, At, Len, u8),
    Writev(Slot, At, Vec<Len>, u8),
    /// Written and read at the file's own position.
    Stream(Slot, At, Len, u8),
    Aio(Slot, At, Len, u8),
    Read(Slot, At, Len),
    Readv(Slot, At, Vec<Len>),
    Seek(Slot, At),
    Truncate(Slot, At),
    Punch(Slot, At, Len),
    Allocate(Slot, At, Len, bool, bool),
    Sync(Slot),
    Map(Slot, usize, usize, u8),
    Unmap(Slot),
    MapRead(Slot, At, Len),
    MapWrite(Slot, At, Len, u8),
    /// A store behind the end of the file, in its last page.
    MapTail(Slot, u8),
    /// The program is killed, and what it leaves opened by another.
    Kill,
    Reopen,
}

/// What each case begins with, so that most operations find something.
pub const BEGINNING: [Op; 7] = [
    Op::Mkdir(3),
    Op::Mkdir(8),
    Op::Create(0),
    Op::Create(4),
    Op::Open(0, 0, 0),
    Op::Open(1, 4, 0),
    Op::Map(0, 0, 8, 1),
];

/// Bytes that tell where they are from.
pub fn filled(len: Len, byte: u8) -> Vec<u8> {
    (0..len).map(|n| byte.wrapping_add(n as u8).wrapping_add((n / PAGE) as u8)).collect()
}
