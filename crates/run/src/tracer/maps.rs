//! A process's mappings, as the kernel lists them.

use rustix::buffer::spare_capacity;
use rustix::fd::AsFd;
use rustix::fs::{Mode, OFlags, makedev, open};

/// A line of `/proc/PID/maps`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Mapping<'a> {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) prot: i32,
    pub(super) writable: bool,
    pub(super) offset: u64,
    pub(super) device: u64,
    pub(super) ino: u64,
    pub(super) path: &'a [u8],
}

/// The text of a process's mappings; empty when it is gone.
pub(super) fn of(process: i32) -> Vec<u8> {
    read(process, "maps").unwrap_or_default()
}

/// What the kernel says of a process, with as few calls as can be: programs wait for it to start.
pub(super) fn read(process: i32, what: &str) -> rustix::io::Result<Vec<u8>> {
    all(open(format!("/proc/{process}/{what}"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// What is left to read of a file of the kernel's.
pub(super) fn all(file: impl AsFd) -> rustix::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        bytes.reserve(4096);
        if rustix::io::read(&file, spare_capacity(&mut bytes))? == 0 {
            return Ok(bytes);
        }
    }
}

/// The process of a thread, and the parent of that.
pub(super) fn family(thread: i32) -> Option<(i32, i32)> {
    let text = read(thread, "status").ok()?;
    let number = |name: &[u8]| {
        let value = text.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(name))?;
        str::from_utf8(value).ok()?.trim().parse().ok()
    };
    Some((number(b"Tgid:")?, number(b"PPid:")?))
}

/// All mappings that can be read from the text.
pub(super) fn parse(text: &[u8]) -> impl Iterator<Item = Mapping<'_>> {
    text.split(|&byte| byte == b'\n').filter_map(line)
}

fn line(line: &[u8]) -> Option<Mapping<'_>> {
    let mut fields = line.splitn(6, |&byte| byte == b' ');
    let mut field = || str::from_utf8(fields.next()?).ok();
    let (range, permissions, offset, device, ino) = (field()?, field()?, field()?, field()?, field()?);
    let path = fields.next().unwrap_or_default().trim_ascii_start();
    let hex = |text| u64::from_str_radix(text, 16).ok();
    let (start, end) = range.split_once('-')?;
    let (major, minor) = device.split_once(':')?;
    let number = |text| u32::from_str_radix(text, 16).ok();
    let flag = |letter, flag| if permissions.contains(letter) { flag } else { 0 };
    Some(Mapping {
        start: hex(start)?,
        end: hex(end)?,
        prot: flag('r', libc::PROT_READ) | flag('w', libc::PROT_WRITE) | flag('x', libc::PROT_EXEC),
        writable: permissions.contains('w'),
        offset: hex(offset)?,
        device: makedev(number(major)?, number(minor)?),
        ino: ino.parse().ok()?,
        path,
    })
}

/// A device number as `/proc/PID/mountinfo` has it.
pub(super) fn device(text: &str) -> Option<u64> {
    let (major, minor) = text.split_once(':')?;
    Some(makedev(major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel_are_read() {
        let text = b"55d0c0a00000-55d0c0a2f000 r-xp 0002f000 00:2a 1234       /usr/bin/a b\n\
            7ffd1000-7ffd2000 rw-p 00000000 00:00 0 [stack]\nnonsense\n7f00-7f01 ---p 0 fe:01 0\n";
        let maps: Vec<_> = parse(text).collect();
        assert_eq!(maps.len(), 3);
        assert_eq!((maps[0].start, maps[0].end, maps[0].offset), (0x55d0_c0a0_0000, 0x55d0_c0a2_f000, 0x2f000));
        assert_eq!((maps[0].prot, maps[0].device, maps[0].ino), (5, makedev(0, 0x2a), 1234));
        assert_eq!((maps[0].path, maps[1].path, maps[1].writable), (&b"/usr/bin/a b"[..], &b"[stack]"[..], true));
    }
}
