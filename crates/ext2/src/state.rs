//! Whether a volume was closed properly: the state in its superblock, as the kernel's ext2 keeps it.
//!
//! The first change marks the volume as not clean, before anything else is stored; [`Volume::close`] marks it clean
//! again. A new volume ([`Volume::format`]) is clean from the start and stays so: until whoever makes it is ready it is no
//! one's volume, and what is made twice has the same bytes.

use crate::error::Error;
use crate::geometry::SUPER_AT;
use crate::raw::RawSuper;
use crate::volume::Volume;
use core::sync::atomic::{AtomicBool, Ordering};
use xip_core::{Device, Env, LockId};

/// Bits of `s_state`: closed properly, and errors were found.
const VALID: u16 = 1;
const ERRORS: u16 = 2;
/// What is stored of the superblock: from `s_mtime` to `s_state`.
const FIRST: usize = 44;
const END: usize = 60;

#[derive(Debug)]
pub(crate) struct State {
    /// Nothing is wrong but what was changed since.
    clean: AtomicBool,
    /// The superblock says that the volume is open.
    marked: AtomicBool,
}

impl State {
    pub(crate) fn of(raw: &RawSuper) -> Self {
        let clean = raw.state() & VALID != 0 && raw.state() & ERRORS == 0;
        Self { clean: AtomicBool::new(clean), marked: AtomicBool::new(false) }
    }

    pub(crate) fn new_volume() -> Self {
        Self { clean: AtomicBool::new(true), marked: AtomicBool::new(true) }
    }
}

impl<D: Device, E: Env> Volume<D, E> {
    /// Whether the volume was closed properly when it was last open read-write, or has been repaired since
    /// ([`Volume::repaired`]).
    pub fn is_clean(&self) -> bool {
        self.state.clean.load(Ordering::Acquire)
    }

    /// Says that a check found nothing wrong, or repaired what was: [`Volume::close`] may mark the volume clean.
    pub fn repaired(&self) {
        self.state.clean.store(true, Ordering::Release);
    }

    /// Makes everything durable and marks the volume as closed properly, if it was clean when it was opened or has
    /// been repaired. If it is changed after that, it is marked as open again.
    ///
    /// # Errors
    /// The device's; then it counts as open.
    pub fn close(&mut self) -> Result<(), Error> {
        if self.read_only.is_some() || !*self.state.marked.get_mut() {
            return Ok(());
        }
        self.sync()?;
        if self.is_clean() {
            self.store_state(|raw| raw.set_state(raw.state() & !ERRORS | VALID))?;
            self.device.flush(SUPER_AT, RawSuper::LEN as u64)?;
            self.device.fence()?;
            *self.state.marked.get_mut() = false;
        }
        Ok(())
    }

    /// Before every change: that the volume can be written, and that it says that it is open.
    #[inline]
    pub(crate) fn check_writable(&self) -> Result<(), Error> {
        if let Some(reason) = self.read_only {
            return Err(Error::ReadOnly { reason });
        }
        if self.state.marked.load(Ordering::Acquire) { Ok(()) } else { self.mark() }
    }

    #[cold]
    fn mark(&self) -> Result<(), Error> {
        let _guard = self.env.exclusive(LockId::Super);
        if !self.state.marked.load(Ordering::Acquire) {
            self.store_state(|raw| {
                raw.set_state(raw.state() & !VALID);
                raw.set_mount_count(raw.mount_count().saturating_add(1));
                raw.set_mount_time(raw.write_time());
            })?;
            self.state.marked.store(true, Ordering::Release);
        }
        Ok(())
    }

    fn store_state(&self, change: impl FnOnce(&mut RawSuper)) -> Result<(), Error> {
        let mut raw = RawSuper::default();
        self.device.read(SUPER_AT, &mut raw.0)?;
        raw.set_write_time(u32::try_from(self.env.now().seconds.max(0)).unwrap_or(u32::MAX));
        change(&mut raw);
        self.put(SUPER_AT + FIRST as u64, &raw.0[FIRST..END])?;
        self.fence()?;
        Ok(())
    }
}
