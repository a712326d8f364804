//! Flush and fence, in one place (contract 7, synchronous soft updates). The argument for each operation is in
//! `docs/order.md`.
//!
//! Three kinds of store:
//!
//! * [`Volume::put`]: where nothing durable leads yet, or where any mixture of old and new is right. Flushed at once, in
//!   no order with others.
//! * [`Volume::publish`]: the one store that makes something reachable, or unreachable. It wants a [`Durable`], which
//!   only [`Volume::fence`] gives: a missing fence does not compile. It lies in one aligned word, so that a crash
//!   leaves it wholly or not at all.
//! * [`Volume::apply`](crate::intent): several such stores, of which a crash leaves all or none.

use crate::error::Error;
use crate::volume::Volume;
use core::sync::atomic::{Ordering, compiler_fence};
use xip_core::{Device, Env};

/// Proof that all that was put before is durable.
#[derive(Debug)]
pub(crate) struct Durable(());

impl<D: Device, E: Env> Volume<D, E> {
    /// Stores bytes that will be durable after the next fence.
    #[inline]
    pub(crate) fn put(&self, at: u64, bytes: &[u8]) -> Result<(), Error> {
        self.device.write(at, bytes)?;
        self.flush(at, bytes.len() as u64)
    }

    /// As [`Volume::put`], for data of files.
    #[inline]
    pub(crate) fn put_data(&self, at: u64, bytes: &[u8]) -> Result<(), Error> {
        self.device.store(at, bytes)?;
        self.flush(at, bytes.len() as u64)
    }

    /// Puts zeros.
    pub(crate) fn put_zeros(&self, at: u64, len: u64) -> Result<(), Error> {
        if len == 0 {
            return Ok(());
        }
        self.device.zero(at, len)?;
        self.flush(at, len)
    }

    #[inline]
    pub(crate) fn flush(&self, at: u64, len: u64) -> Result<(), Error> {
        if self.persistent { Ok(self.device.flush(at, len)?) } else { Ok(()) }
    }

    /// Returns when all that was put is durable. Where storage is not persistent it only keeps the compiler from moving
    /// stores over it: memory that is shared outlives a program that is killed between two of them.
    #[inline]
    pub(crate) fn fence(&self) -> Result<Durable, Error> {
        if self.persistent {
            self.device.fence()?;
        } else {
            compiler_fence(Ordering::SeqCst);
        }
        Ok(Durable(()))
    }

    /// The store that publishes, or takes back, what was made durable before.
    #[inline]
    pub(crate) fn publish(&self, _after: &Durable, at: u64, bytes: &[u8]) -> Result<(), Error> {
        debug_assert!(is_one_store(at, bytes.len()), "{} bytes at {at} are not one store", bytes.len());
        self.put(at, bytes)
    }
}

/// Whether a store lies in one aligned word of 8 bytes, which a crash leaves wholly or not at all.
#[inline]
pub(crate) fn is_one_store(at: u64, len: usize) -> bool {
    at % 8 + len as u64 <= 8
}
