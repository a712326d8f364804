//! The intent record: several small stores of which a crash leaves all or none.
//!
//! What one store cannot publish (a rename takes a name away here and adds one there) is first written down in the
//! bytes 2048 to 3071 of the volume, which no one else uses: the superblock ends before them, and with blocks of 4096
//! bytes nothing begins there. Written, flushed, fenced; then the stores themselves, flushed and fenced; then the record
//! is cleared. A volume that is opened read-write completes a record that it finds whole.
//!
//! The kernel and e2fsck know nothing of the record, and would take what is half done for the whole. So while it stands, a
//! feature bit that they do not know stands in the superblock, and they refuse the volume. Should one of them have had it
//! in between all the same, the record must not be completed: it holds a stamp of the superblock's times, counts and
//! state, which they change, and every byte that it would change must still be the old or the new one. Else it is
//! dropped.
//!
//! | bytes | what |
//! |---|---|
//! | 4 | magic |
//! | 4 | checksum of all that follows |
//! | 4 | length of all stores |
//! | 24 | stamp: bytes 44 to 67 of the superblock |
//! | ... | stores: address (8), length (2), old bytes, new bytes |

use crate::error::Error;
use crate::geometry::SUPER_AT;
use crate::geometry::feature::INCOMPAT_INTENT;
use crate::order::{Durable, is_one_store};
use crate::raw::{INODE_LINKS, RawInode, bytes_at};
use crate::volume::Volume;
use xip_core::{Device, Env, LockId};

/// Where it stands.
const AT: u64 = 2048;
const CAPACITY: usize = 1024;
const MAGIC: u32 = 0x6f64_6572;
const LEN: usize = 8;
const STAMP: usize = 12;
const STAMP_LEN: usize = 24;
/// Where the superblock has what the stamp is made of.
const STAMP_AT: u64 = SUPER_AT + 44;
const HEAD: usize = STAMP + STAMP_LEN;
/// Where the superblock has `s_feature_incompat`.
const FEATURES_AT: u64 = SUPER_AT + 96;
/// Where stores may be: after the superblock's block.
const FIRST: u64 = 4096;
/// Bytes of a store before its old and new ones.
const STORE: usize = 10;

/// Stores to be made together.
pub(crate) struct Intent {
    bytes: [u8; CAPACITY],
    len: usize,
    count: usize,
}

impl Intent {
    pub(crate) fn new() -> Self {
        Self { bytes: [0; CAPACITY], len: HEAD, count: 0 }
    }

    /// Adds the store of `new` at `at`, where `old` stands now; both are of one length. What is equal is left out.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the record is full.
    pub(crate) fn change(&mut self, at: u64, old: &[u8], new: &[u8]) -> Result<(), Error> {
        const FULL: Error = Error::Unsupported("a change too large to be made at once");
        debug_assert_eq!(old.len(), new.len());
        let Some(first) = old.iter().zip(new).position(|(old, new)| old != new) else { return Ok(()) };
        let last = old.iter().zip(new).rposition(|(old, new)| old != new).unwrap_or(first);
        let (old, new) = (&old[first..=last], &new[first..=last]);
        let end = self.len + STORE + 2 * new.len();
        let to = self.bytes.get_mut(self.len..end).ok_or(FULL)?;
        let len = u16::try_from(new.len()).map_err(|_| FULL)?;
        to[..8].copy_from_slice(&(at + first as u64).to_le_bytes());
        to[8..STORE].copy_from_slice(&len.to_le_bytes());
        to[STORE..STORE + old.len()].copy_from_slice(old);
        to[STORE + old.len()..].copy_from_slice(new);
        (self.len, self.count) = (end, self.count + 1);
        Ok(())
    }

    /// Adds what differs between two states of the inode that stands at `at`.
    ///
    /// # Errors
    /// As [`Intent::change`].
    pub(crate) fn inode(&mut self, at: u64, old: &RawInode, new: &RawInode) -> Result<(), Error> {
        each_change(old, new, |from, to| self.change(at + from as u64, &old.0[from..to], &new.0[from..to]))
    }

    /// Adds a new count of links for the inode that stands at `at`.
    ///
    /// # Errors
    /// As [`Intent::change`].
    pub(crate) fn links(&mut self, at: u64, old: u16, new: u16) -> Result<(), Error> {
        self.change(at + INODE_LINKS, &old.to_le_bytes(), &new.to_le_bytes())
    }

    pub(crate) fn stores(&self) -> Stores<'_> {
        Stores(&self.bytes[HEAD..self.len])
    }
}

/// Calls `each` for the stretches of whole words in which two states of an inode differ.
pub(crate) fn each_change(
    old: &RawInode,
    new: &RawInode,
    mut each: impl FnMut(usize, usize) -> Result<(), Error>,
) -> Result<(), Error> {
    let differs = |word: usize| old.0[8 * word..8 * word + 8] != new.0[8 * word..8 * word + 8];
    let mut word = 0;
    while word < RawInode::LEN / 8 {
        let first = word;
        while word < RawInode::LEN / 8 && differs(word) {
            word += 1;
        }
        if word > first {
            each(8 * first, 8 * word)?;
        }
        word += 1;
    }
    Ok(())
}

/// A store: where, what stands there, what shall.
type Store<'a> = (u64, &'a [u8], &'a [u8]);

/// The stores of a record. An item is `None` if the bytes are none, and then it is the last.
pub(crate) struct Stores<'a>(&'a [u8]);

impl<'a> Iterator for Stores<'a> {
    type Item = Option<Store<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let bytes = core::mem::take(&mut self.0);
        if bytes.len() < STORE {
            return Some(None);
        }
        let len = usize::from(u16::from_le_bytes(bytes_at(bytes, 8)));
        if len == 0 || bytes.len() - STORE < 2 * len {
            return Some(None);
        }
        self.0 = &bytes[STORE + 2 * len..];
        let at = u64::from_le_bytes(bytes_at(bytes, 0));
        Some(Some((at, &bytes[STORE..STORE + len], &bytes[STORE + len..STORE + 2 * len])))
    }
}

/// Tells a record that was written wholly from one that was not; not meant against malice, which could as well have
/// written the volume itself.
fn checksum(bytes: &[u8]) -> u32 {
    let mut hash = 0x9e37_79b9_7f4a_7c15_u64 ^ bytes.len() as u64;
    let mut words = bytes.chunks_exact(8);
    for word in &mut words {
        hash = (hash ^ u64::from_le_bytes(bytes_at(word, 0))).wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(29);
    }
    for &byte in words.remainder() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(29);
    }
    let [a, b, c, d, e, f, g, h] = hash.to_le_bytes();
    u32::from_le_bytes([a, b, c, d]) ^ u32::from_le_bytes([e, f, g, h])
}

impl<D: Device, E: Env> Volume<D, E> {
    /// Makes all stores of an intent, of which a crash leaves all or none. What they lead to is durable. When it returns
    /// they are put; they are durable after the next fence.
    ///
    /// # Errors
    /// The device's; then some of the stores may be made.
    pub(crate) fn apply(&self, after: Durable, intent: &mut Intent) -> Result<(), Error> {
        if intent.count <= 1 {
            for (at, _, new) in intent.stores().flatten() {
                if is_one_store(at, new.len()) {
                    return self.publish(&after, at, new);
                }
            }
        }
        if intent.count == 0 {
            return Ok(());
        }
        // There is one record. Whoever needs it takes no lock while holding this one, which is the last in order.
        let _guard = self.env.exclusive(LockId::Super);
        let len = u32::try_from(intent.len - HEAD).unwrap_or(u32::MAX);
        intent.bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
        intent.bytes[LEN..STAMP].copy_from_slice(&len.to_le_bytes());
        self.device.read(STAMP_AT, &mut intent.bytes[STAMP..HEAD])?;
        let sum = checksum(&intent.bytes[LEN..intent.len]);
        intent.bytes[4..LEN].copy_from_slice(&sum.to_le_bytes());
        self.put(AT, &intent.bytes[..intent.len])?;
        self.mark_intent(true)?;
        self.fence()?;
        for (at, _, new) in intent.stores().flatten() {
            self.put(at, new)?;
        }
        self.fence()?;
        self.put_zeros(AT, intent.len as u64)?;
        self.mark_intent(false)?;
        // Before anything else is stored: a record that comes back would undo it.
        self.fence()?;
        Ok(())
    }

    /// Completes the record of a crash, or drops it.
    ///
    /// # Errors
    /// The device's.
    pub(crate) fn complete_intent(&self) -> Result<(), Error> {
        let Some(found) = self.pending_intent()? else {
            // One that was not written wholly, or had been cleared.
            self.mark_intent(false)?;
            self.fence()?;
            return Ok(());
        };
        if found.len > HEAD {
            for (at, _, new) in found.stores().flatten() {
                self.put(at, new)?;
            }
            self.fence()?;
        }
        self.put_zeros(AT, CAPACITY as u64)?;
        self.mark_intent(false)?;
        self.fence()?;
        Ok(())
    }

    /// Sets or clears the bit of the superblock that keeps the kernel and e2fsck away: they would take a half for the whole.
    fn mark_intent(&self, pending: bool) -> Result<(), Error> {
        let old = u32::from_le_bytes(self.load(FEATURES_AT)?);
        let new = if pending { old | INCOMPAT_INTENT } else { old & !INCOMPAT_INTENT };
        if new != old { self.put(FEATURES_AT, &new.to_le_bytes()) } else { Ok(()) }
    }

    /// The record of a crash, without stores if it has to be dropped.
    ///
    /// # Errors
    /// The device's.
    pub(crate) fn pending_intent(&self) -> Result<Option<Intent>, Error> {
        let mut found = Intent::new();
        self.device.read(AT, &mut found.bytes)?;
        if u32::from_le_bytes(bytes_at(&found.bytes, 0)) != MAGIC {
            return Ok(None);
        }
        let len = u32::from_le_bytes(bytes_at(&found.bytes, LEN)) as usize;
        if len <= CAPACITY - HEAD {
            found.len = HEAD + len;
            if self.is_as_it_was(&found)? {
                return Ok(Some(found));
            }
        }
        Ok(Some(Intent::new()))
    }

    /// Whether a record is whole, and the volume still the one that it was written for.
    fn is_as_it_was(&self, found: &Intent) -> Result<bool, Error> {
        let mut stamp = [0; STAMP_LEN];
        self.device.read(STAMP_AT, &mut stamp)?;
        if checksum(&found.bytes[LEN..found.len]) != u32::from_le_bytes(bytes_at(&found.bytes, 4))
            || found.bytes[STAMP..HEAD] != stamp
        {
            return Ok(false);
        }
        let mut now = [0; CAPACITY];
        for store in found.stores() {
            let Some((at, old, new)) = store else { return Ok(false) };
            // After the superblock's block, and inside the volume.
            let end = at.checked_add(new.len() as u64);
            if at < FIRST || end.is_none_or(|end| end > self.geometry.bytes()) {
                return Ok(false);
            }
            let now = &mut now[..new.len()];
            self.device.read(at, now)?;
            if now.iter().zip(old.iter().zip(new)).any(|(now, (old, new))| now != old && now != new) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
