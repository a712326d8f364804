//! POSIX access control lists: short entries on storage, and the form in which the kernel hands them to programs.
//!
//! Both begin with a version. On storage (version 1) an entry is tag and permissions, and an id only for a named user
//! or group. The kernel's (version 2) has an id in every entry.

use crate::error::Error;
use crate::raw::bytes_at;

const STORED: u32 = 1;
const HANDED: u32 = 2;
/// Bytes of a version; of an entry without id, and with.
const VERSION: usize = 4;
const SHORT: usize = 4;
const LONG: usize = 8;
/// The id of an entry that has none.
const NO_ID: u32 = u32::MAX;

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// Whether entries with this tag have an id; `None` for no tag at all.
fn has_id(tag: u16) -> Option<bool> {
    match tag {
        USER | GROUP => Some(true),
        USER_OBJ | GROUP_OBJ | MASK | OTHER => Some(false),
        _ => None,
    }
}

/// Bytes of the kernel's form of a stored list, `None` if it is not one.
pub(super) fn handed_len(stored: &[u8]) -> Option<usize> {
    let mut len = VERSION;
    each_stored(stored, |_, _, _| len += LONG)?;
    Some(len)
}

/// Puts the kernel's form of a stored list into `to`, which has room for [`handed_len`]. `None` if it is not one.
pub(super) fn to_handed(stored: &[u8], to: &mut [u8]) -> Option<()> {
    to[..VERSION].copy_from_slice(&HANDED.to_le_bytes());
    let mut at = VERSION;
    each_stored(stored, |tag, permissions, id| {
        to[at..at + 2].copy_from_slice(&tag.to_le_bytes());
        to[at + 2..at + 4].copy_from_slice(&permissions.to_le_bytes());
        to[at + 4..at + 8].copy_from_slice(&id.to_le_bytes());
        at += LONG;
    })
}

fn each_stored(stored: &[u8], mut each: impl FnMut(u16, u16, u32)) -> Option<()> {
    if stored.len() < VERSION || u32::from_le_bytes(bytes_at(stored, 0)) != STORED {
        return None;
    }
    let mut rest = &stored[VERSION..];
    while !rest.is_empty() {
        if rest.len() < SHORT {
            return None;
        }
        let tag = u16::from_le_bytes(bytes_at(rest, 0));
        let len = if has_id(tag)? { LONG } else { SHORT };
        if rest.len() < len {
            return None;
        }
        let id = if len == LONG { u32::from_le_bytes(bytes_at(rest, SHORT)) } else { NO_ID };
        each(tag, u16::from_le_bytes(bytes_at(rest, 2)), id);
        rest = &rest[len..];
    }
    Some(())
}

/// Puts the stored form of the kernel's form of a list into `to`; its length.
///
/// # Errors
/// [`Error::Unsupported`] when it is not one that the kernel would take: the entries of the owner, the group and all
/// others once each, in order, a mask if anyone is named. [`Error::ValueTooLarge`] if it does not fit.
pub(super) fn to_stored(handed: &[u8], to: &mut [u8]) -> Result<usize, Error> {
    const BAD: Error = Error::Unsupported("the value is not a POSIX ACL as the kernel hands them out");
    if handed.len() < VERSION || u32::from_le_bytes(bytes_at(handed, 0)) != HANDED {
        return Err(BAD);
    }
    let (entries, rest) = handed[VERSION..].as_chunks::<LONG>();
    if !rest.is_empty() || to.len() < VERSION {
        return Err(BAD);
    }
    to[..VERSION].copy_from_slice(&STORED.to_le_bytes());
    let (mut at, mut last, mut named) = (VERSION, 0, false);
    for entry in entries {
        let tag = u16::from_le_bytes(bytes_at(entry, 0));
        let with_id = has_id(tag).ok_or(BAD)?;
        // Tags go up, and only those of named ones repeat. Owner, group and others are never left out.
        let in_order = match tag {
            USER_OBJ => last == 0,
            USER => matches!(last, USER_OBJ | USER),
            GROUP_OBJ => matches!(last, USER_OBJ | USER),
            GROUP => matches!(last, GROUP_OBJ | GROUP),
            MASK => matches!(last, GROUP_OBJ | GROUP),
            _ => last == MASK || last == GROUP_OBJ && !named,
        };
        let permissions = u16::from_le_bytes(bytes_at(entry, 2));
        if !in_order || permissions > 7 || with_id && u32::from_le_bytes(bytes_at(entry, 4)) == NO_ID {
            return Err(BAD);
        }
        named |= with_id;
        last = tag;
        let len = if with_id { LONG } else { SHORT };
        to.get_mut(at..at + len).ok_or(Error::ValueTooLarge)?.copy_from_slice(&entry[..len]);
        at += len;
    }
    if last == OTHER { Ok(at) } else { Err(BAD) }
}

/// Which of the nine permission bits an entry stands for: how far up they are. Named ones stand for none.
fn shift(tag: u16) -> Option<u32> {
    match tag {
        USER_OBJ => Some(6),
        GROUP_OBJ | MASK => Some(3),
        OTHER => Some(0),
        _ => None,
    }
}

/// The permission bits that a list, as the kernel hands them out, stands for: the mask is what a mode calls the group. And
/// whether it says more than a mode can.
pub(crate) fn mode(list: &[u8]) -> (u16, bool) {
    let (mut mode, mut more) = (0, false);
    for entry in list.get(VERSION..).unwrap_or_default().as_chunks::<LONG>().0 {
        let (tag, permissions) = (u16::from_le_bytes(bytes_at(entry, 0)), u16::from_le_bytes(bytes_at(entry, 2)) & 7);
        more |= matches!(tag, USER | GROUP | MASK);
        if let Some(shift) = shift(tag) {
            // Tags go up, so a mask comes after the group.
            mode = mode & !(7 << shift) | permissions << shift;
        }
    }
    (mode, more)
}

/// Makes a list, as the kernel hands them out, that of a file of these permissions: those of the owner and of all others, and
/// those of the mask, or of the group where there is no mask. With `limit`, none are added to what the list allows.
pub(crate) fn set_mode(list: &mut [u8], permissions: u16, limit: bool) {
    let entries = list.get_mut(VERSION..).unwrap_or_default().as_chunks_mut::<LONG>().0;
    let has_mask = entries.iter().any(|entry| u16::from_le_bytes(bytes_at(entry, 0)) == MASK);
    for entry in entries {
        let (tag, old) = (u16::from_le_bytes(bytes_at(entry, 0)), u16::from_le_bytes(bytes_at(entry, 2)));
        if tag == GROUP_OBJ && has_mask {
            continue;
        }
        if let Some(shift) = shift(tag) {
            let new = permissions >> shift & 7 & if limit { old } else { 7 };
            entry[2..4].copy_from_slice(&new.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    fn handed(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut bytes = HANDED.to_le_bytes().to_vec();
        for (tag, permissions, id) in entries {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(permissions.to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        bytes
    }

    const FULL: [(u16, u16, u32); 7] = [
        (USER_OBJ, 7, NO_ID),
        (USER, 5, 1000),
        (USER, 4, 70_000),
        (GROUP_OBJ, 5, NO_ID),
        (GROUP, 6, 100),
        (MASK, 7, NO_ID),
        (OTHER, 0, NO_ID),
    ];

    #[test]
    fn a_list_survives_being_stored() {
        for entries in [&FULL[..], &[FULL[0], FULL[3], FULL[6]], &[FULL[0], FULL[3], FULL[5], FULL[6]]] {
            let list = handed(entries);
            let mut stored = [0; 256];
            let len = to_stored(&list, &mut stored).unwrap();
            let mut back = std::vec![0; handed_len(&stored[..len]).unwrap()];
            to_handed(&stored[..len], &mut back).unwrap();
            assert_eq!(back, list);
        }
        let mut stored = [0; 256];
        assert_eq!(to_stored(&handed(&FULL), &mut stored).unwrap(), 4 + 4 * 4 + 3 * 8);
        assert_eq!(&stored[..8], &[1, 0, 0, 0, 1, 0, 7, 0]);
    }

    #[test]
    fn lists_that_the_kernel_refuses_are_refused() {
        let mut to = [0; 256];
        for leave_out in [0, 3, 5, 6] {
            let mut entries = FULL.to_vec();
            entries.remove(leave_out);
            assert!(to_stored(&handed(&entries), &mut to).is_err(), "without {leave_out}");
        }
        for n in 0..6 {
            let mut entries = FULL.to_vec();
            entries.swap(n, n + 1);
            if n != 1 {
                assert!(to_stored(&handed(&entries), &mut to).is_err(), "{n} swapped");
            }
        }
        for bad in [(3, 7, 1), (USER, 8, 1000), (USER, 7, NO_ID)] {
            let mut entries = FULL.to_vec();
            entries[1] = bad;
            assert!(to_stored(&handed(&entries), &mut to).is_err());
        }
        assert!(to_stored(&handed(&[]), &mut to).is_err());
        assert!(to_stored(&handed(&FULL)[..20], &mut to).is_err());
        assert!(to_stored(&[], &mut to).is_err());
        assert_eq!(to_stored(&handed(&FULL), &mut to[..40]), Err(Error::ValueTooLarge));
    }

    #[test]
    fn a_mode_and_a_list_agree_by_way_of_the_mask() {
        assert_eq!(mode(&handed(&FULL)), (0o770, true));
        assert_eq!(mode(&handed(&[FULL[0], FULL[3], FULL[6]])), (0o750, false));
        let mut list = handed(&FULL);
        set_mode(&mut list, 0o641, false);
        assert_eq!(mode(&list), (0o641, true));
        // The group itself keeps what it has, and nobody's permissions but those change.
        let [user, group] =
            [5, 10].map(|entry| u16::from_le_bytes(bytes_at(&list[VERSION + LONG..], entry - entry % 8 + 2)));
        assert_eq!((user, group), (5, 4));
        let mut list = handed(&[(USER_OBJ, 6, NO_ID), (GROUP_OBJ, 5, NO_ID), (OTHER, 1, NO_ID)]);
        set_mode(&mut list, 0o774, true);
        assert_eq!(mode(&list), (0o650, false));
        for bad in [&[][..], &[2, 0], &[2, 0, 0, 0, 1]] {
            assert_eq!(mode(bad), (0, false));
        }
    }

    #[test]
    fn damaged_stored_lists_are_none() {
        for bad in [
            &[][..],
            &[1, 0, 0],
            &[2, 0, 0, 0],
            &[1, 0, 0, 0, 1, 0],
            &[1, 0, 0, 0, 2, 0, 7, 0],
            &[1, 0, 0, 0, 3, 0, 7, 0],
        ] {
            assert_eq!(handed_len(bad), None);
        }
    }
}
