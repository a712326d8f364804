//! The other end of `sendfile`: bytes of storage to a descriptor.

use crate::error::{Error, Result};
use crate::file::{File, Piece};
use crate::storage::Backing;
use rustix::fs::{FileType, fstat};
use rustix::io::Errno;
use std::io;
use std::os::fd::BorrowedFd;
use xip_core::{Device, PAGE_SIZE, PageNo, Region};

/// What holes are sent from.
static ZEROS: [u8; 16 * PAGE_SIZE] = [0; 16 * PAGE_SIZE];

/// Sends one piece of a file; how many bytes the other end took.
pub(crate) fn piece(device: &Backing, to: BorrowedFd<'_>, piece: Piece<'_>) -> io::Result<usize> {
    match piece {
        Piece::Hole(len) => {
            let mut sent = 0;
            while sent < len {
                let zeros = &ZEROS[..ZEROS.len().min(len - sent)];
                match write(to, zeros) {
                    Ok(count) => {
                        sent += count;
                        if count < zeros.len() {
                            break;
                        }
                    }
                    Err(error) if sent == 0 => return Err(error),
                    Err(_) => break,
                }
            }
            Ok(sent)
        }
        Piece::Storage(region) => stored(device, to, region),
    }
}

/// The kernel takes storage from the file that it is in: a pipe or socket gets the pages themselves, and no copy. Where that is not
/// possible, it goes through a page.
fn stored(device: &Backing, to: BorrowedFd<'_>, region: Region<'_>) -> io::Result<usize> {
    if let (Some(file), Ok(start)) = (device.mapped(), device.direct_access(PageNo(0), 1)) {
        let mut at = file.start() + (region.as_ptr().addr() - start.as_ptr().addr()) as u64;
        let mut send = || rustix::fs::sendfile(to, file.fd(), Some(&mut at), region.len());
        match rustix::io::retry_on_intr(&mut send) {
            // Not to a file that is open to append, and from no file system that cannot splice.
            Err(Errno::INVAL | Errno::NOSYS) => {}
            other => return Ok(other?),
        }
    }
    let mut page = [0; PAGE_SIZE];
    let mut sent = 0;
    while sent < region.len() {
        let count = region.read(sent, &mut page);
        match write(to, &page[..count]) {
            Ok(taken) => {
                sent += taken;
                if taken < count {
                    break;
                }
            }
            Err(error) if sent == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(sent)
}

/// Whether what is sent there is copied at once.
pub(crate) fn is_file(to: BorrowedFd<'_>) -> bool {
    fstat(to).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
}

/// A file whose storage the other end cannot have, through a buffer.
pub(crate) fn copied(file: &File, to: BorrowedFd<'_>, offset: u64, count: usize) -> Result<usize> {
    let mut buffer = vec![0; count.min(64 * 1024)];
    let mut sent = 0;
    while sent < count {
        let want = buffer.len().min(count - sent);
        let step = match file.read_at(&mut buffer[..want], offset.saturating_add(sent as u64)) {
            Ok(0) => break,
            Ok(read) => write(to, &buffer[..read]).map(|taken| (read, taken)).map_err(Error::Io),
            Err(error) => Err(error),
        };
        match step {
            Ok((read, taken)) => {
                sent += taken;
                if taken < read {
                    break;
                }
            }
            Err(error) if sent == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(sent)
}

fn write(to: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::io::retry_on_intr(|| rustix::io::write(to, bytes))?)
}
