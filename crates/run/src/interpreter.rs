//! Which interpreter a program lacks: the kernel says of the program itself that it is not there.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A script's first line is no longer for the kernel, nor is a path.
const LONGEST: u64 = 4096;

/// The interpreter that starting `program` asks for and that is not there: a script's, an ELF program's, or that of the
/// interpreter which a script names.
pub(crate) fn missing(program: &Path) -> Option<PathBuf> {
    let mut program = program.to_owned();
    // The kernel follows five.
    for _ in 0..=5 {
        let interpreter = named_in(&File::open(program).ok()?)?;
        if !interpreter.exists() {
            return Some(interpreter);
        }
        program = interpreter;
    }
    None
}

fn named_in(program: &File) -> Option<PathBuf> {
    let mut start = vec![0; LONGEST as usize];
    let len = program.read_at(&mut start, 0).ok()?;
    start.truncate(len);
    let name = match start.strip_prefix(b"#!") {
        Some(line) => {
            let line = line.split(|&byte| byte == b'\n').next()?;
            line.split(|byte| matches!(byte, b' ' | b'\t')).find(|word| !word.is_empty())?.to_vec()
        }
        None => elf(program, &start)?,
    };
    Some(OsString::from_vec(name).into())
}

/// The path in a segment `PT_INTERP`.
fn elf(program: &File, header: &[u8]) -> Option<Vec<u8>> {
    const PT_INTERP: u64 = 3;
    let number = |bytes: &[u8], (at, len): (usize, usize)| -> Option<u64> {
        let mut number = [0; 8];
        number[..len].copy_from_slice(bytes.get(at..at + len)?);
        Some(u64::from_le_bytes(number))
    };
    // Where which field is: of the header the place, size and count of segments; of a segment its place and size.
    let [place, size, count, offset, length] = match header.strip_prefix(b"\x7fELF")?.first()? {
        1 => [(28, 4), (42, 2), (44, 2), (4, 4), (16, 4)],
        2 => [(32, 8), (54, 2), (56, 2), (8, 8), (32, 8)],
        _ => return None,
    };
    let (place, size, count) = (number(header, place)?, number(header, size)?, number(header, count)?);
    for index in 0..count {
        let mut segment = [0; 56];
        let len = segment.len().min(usize::try_from(size).ok()?);
        program.read_exact_at(&mut segment[..len], place.checked_add(index * size)?).ok()?;
        if number(&segment, (0, 4))? == PT_INTERP {
            let mut name = vec![0; usize::try_from(number(&segment, length)?.min(LONGEST)).ok()?];
            program.read_exact_at(&mut name, number(&segment, offset)?).ok()?;
            name.truncate(name.iter().position(|&byte| byte == 0).unwrap_or(name.len()));
            return Some(name);
        }
    }
    None
}
