//! What POSIX ACLs mean for modes, and modes for them. The kernel checks permissions by both; to keep them in step is left to
//! the file system, and so is what a directory's default list gives to what is made in it (POSIX 1003.1e, draft 17).
//!
//! The lists are in the kernel's form: a version (2), then entries of a tag, permissions and an id.

use rustix::io::Errno;

pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";
pub(super) const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: [u8; 4] = 2u32.to_le_bytes();

const USER_OBJ: u16 = 0x01;
const GROUP_OBJ: u16 = 0x04;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// The bits of a mode that an ACL says, too.
const ALL: u16 = 0o777;

/// A list, as the kernel or the volume gave it.
pub(super) struct Acl(Vec<[u8; 8]>);

impl Acl {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, i32> {
        let entries = bytes.strip_prefix(&VERSION).map(<[u8]>::as_chunks);
        match entries {
            Some((entries, [])) if !entries.is_empty() => Ok(Self(entries.to_vec())),
            _ => Err(Errno::INVAL.raw_os_error()),
        }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = VERSION.to_vec();
        bytes.extend_from_slice(self.0.as_flattened());
        bytes
    }

    fn entry(&mut self, tag: u16) -> Option<&mut [u8; 8]> {
        self.0.iter_mut().find(|entry| entry[..2] == tag.to_le_bytes())
    }

    /// What the group's bits of the mode stand for: the mask where there is one.
    fn group(&mut self) -> Option<&mut [u8; 8]> {
        let tag = if self.entry(MASK).is_some() { MASK } else { GROUP_OBJ };
        self.entry(tag)
    }

    /// Changes the three entries that the mode also has, by what each has and its place in the mode.
    fn each_in_mode(&mut self, mut change: impl FnMut(u8, u16) -> u8) {
        let mut at = |entry: Option<&mut [u8; 8]>, shift| {
            if let Some(entry) = entry {
                entry[2] = change(entry[2], shift);
            }
        };
        at(self.entry(USER_OBJ), 6);
        at(self.group(), 3);
        at(self.entry(OTHER), 0);
    }

    /// The permission bits of a mode that say the same.
    pub(super) fn permissions(&mut self) -> u16 {
        let mut permissions = 0;
        self.each_in_mode(|bits, shift| {
            permissions |= u16::from(bits & 7) << shift;
            bits
        });
        permissions
    }

    /// Whether a mode says all of it.
    pub(super) fn is_only_mode(&self) -> bool {
        self.0.len() == 3
    }

    /// After `chmod`: what the mode has, the list has.
    pub(super) fn set_permissions(&mut self, permissions: u16) {
        self.each_in_mode(|_, shift| (permissions >> shift & 7) as u8);
    }

    /// A default list becomes the access list of something new that is made with `permissions`: those that both allow, in the
    /// list and in the mode that is returned.
    pub(super) fn inherit(&mut self, permissions: u16) -> u16 {
        self.each_in_mode(|bits, shift| bits & (permissions >> shift & 7) as u8);
        permissions & !ALL | self.permissions()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: u16 = 0x02;
    const NO_ID: u32 = u32::MAX;

    fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut bytes = VERSION.to_vec();
        for (tag, bits, id) in entries {
            bytes.extend_from_slice(&tag.to_le_bytes());
            bytes.extend_from_slice(&bits.to_le_bytes());
            bytes.extend_from_slice(&id.to_le_bytes());
        }
        bytes
    }

    const NAMED: [(u16, u16, u32); 5] =
        [(USER_OBJ, 7, NO_ID), (USER, 6, 1000), (GROUP_OBJ, 5, NO_ID), (MASK, 6, NO_ID), (OTHER, 1, NO_ID)];

    #[test]
    fn the_groups_bits_of_a_mode_are_the_mask() {
        let mut acl = Acl::parse(&list(&NAMED)).unwrap();
        assert_eq!((acl.permissions(), acl.is_only_mode()), (0o761, false));
        acl.set_permissions(0o4610);
        let mut after = NAMED;
        (after[0].1, after[3].1, after[4].1) = (6, 1, 0);
        assert_eq!(acl.bytes(), list(&after));
    }

    #[test]
    fn what_is_made_has_what_both_the_mode_and_the_default_list_allow() {
        let mut acl = Acl::parse(&list(&NAMED)).unwrap();
        assert_eq!(acl.inherit(0o2644), 0o2640);
        let mut after = NAMED;
        (after[0].1, after[3].1, after[4].1) = (6, 4, 0);
        assert_eq!(acl.bytes(), list(&after));

        let mut plain = Acl::parse(&list(&[(USER_OBJ, 7, NO_ID), (GROUP_OBJ, 5, NO_ID), (OTHER, 0, NO_ID)])).unwrap();
        assert_eq!((plain.inherit(0o666), plain.is_only_mode()), (0o640, true));
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for bad in [&b""[..], &[2, 0, 0, 0], &[1, 0, 0, 0, 1, 0, 7, 0], &list(&NAMED)[..21]] {
            assert!(Acl::parse(bad).is_err());
        }
    }
}
