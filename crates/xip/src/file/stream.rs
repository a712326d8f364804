//! A file as `std::io` has it: read and written at a position, which all who use the file share. It is locked while what moves
//! it is under way, as the kernel does: two readers never get the same bytes. Who has the file alone (`&mut File`) locks nothing.

use super::{File, Opened};
use crate::error::Error;
use std::io::{self, IoSlice, IoSliceMut, Read, Seek, SeekFrom, Write};
use std::sync::{MutexGuard, PoisonError};
use xip_core::ops;

/// At the file's position, which all who use this file share.
impl Read for &File {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.read_on(&mut self.position(), to)
    }

    fn read_vectored(&mut self, to: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.read_vectored_on(&mut self.position(), to)
    }
}

/// At the file's position, which all who use this file share; at the end for one that was opened to append.
impl Write for &File {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.write_on(&mut self.position(), &[from])
    }

    fn write_vectored(&mut self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        self.write_vectored_on(&mut self.position(), from)
    }

    /// Nothing waits: what was written is written. [`File::sync_data`] makes it durable.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for &File {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.seek_on(&mut self.position(), to)
    }
}

impl File {
    fn read_on(&self, position: &mut u64, to: &mut [u8]) -> io::Result<usize> {
        let count = self.read_at(to, *position)?;
        *position += count as u64;
        Ok(count)
    }

    fn read_vectored_on(&self, position: &mut u64, to: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let mut to: Vec<&mut [u8]> = to.iter_mut().take(ops::MAX_SEGMENTS).map(|slice| &mut **slice).collect();
        let count = self.readv_at(&mut to, *position)?;
        *position += count as u64;
        Ok(count)
    }

    #[inline]
    fn write_on(&self, position: &mut u64, from: &[&[u8]]) -> io::Result<usize> {
        self.check_write()?;
        let written = on!(self.opened().map_err(Error::from)?, file => {
            ops::writev_ending(&file, *position, from, &self.how())
        });
        let (count, end) = written.map_err(Error::from)?;
        *position = end;
        Ok(count)
    }

    fn write_vectored_on(&self, position: &mut u64, from: &[IoSlice<'_>]) -> io::Result<usize> {
        let from: Vec<&[u8]> = from.iter().take(ops::MAX_SEGMENTS).map(|slice| &**slice).collect();
        self.write_on(position, &from)
    }

    fn seek_on(&self, position: &mut u64, to: SeekFrom) -> io::Result<u64> {
        let new = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(by) => self.now().map_err(Error::from)?.size.checked_add_signed(by),
            SeekFrom::Current(by) => position.checked_add_signed(by),
        };
        *position = new.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(*position)
    }

    fn position(&self) -> MutexGuard<'_, u64> {
        self.position.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As `what` does it with the position, by the only one who has the file: nobody is kept out.
    #[inline]
    fn alone<T>(&mut self, what: impl FnOnce(&Self, &mut u64) -> io::Result<T>) -> io::Result<T> {
        let mut position = *self.position.get_mut().unwrap_or_else(PoisonError::into_inner);
        let done = what(self, &mut position);
        *self.position.get_mut().unwrap_or_else(PoisonError::into_inner) = position;
        done
    }
}

impl Read for File {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.alone(|file, position| file.read_on(position, to))
    }

    fn read_vectored(&mut self, to: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.alone(|file, position| file.read_vectored_on(position, to))
    }
}

impl Write for File {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.alone(|file, position| file.write_on(position, &[from]))
    }

    fn write_vectored(&mut self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        self.alone(|file, position| file.write_vectored_on(position, from))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for File {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.alone(|file, position| file.seek_on(position, to))
    }
}
