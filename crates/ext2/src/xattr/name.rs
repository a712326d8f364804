//! Names of attributes: the part before the first point is a number on storage.

use crate::error::Error;

/// The longest name, with its prefix.
const NAME_MAX: usize = 255;

/// Prefixes and their numbers. The two of POSIX ACLs are whole names: nothing comes after them.
const PREFIXES: [(u8, &[u8]); 6] = [
    (1, b"user."),
    (ACL_ACCESS, b"system.posix_acl_access"),
    (ACL_DEFAULT, b"system.posix_acl_default"),
    (4, b"trusted."),
    (6, b"security."),
    (7, b"system."),
];
const ACL_ACCESS: u8 = 2;
const ACL_DEFAULT: u8 = 3;

/// A name as it is stored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Debug)]
pub(super) struct Name<'a> {
    pub(super) index: u8,
    pub(super) rest: &'a [u8],
}

impl<'a> Name<'a> {
    /// From a full name such as `user.comment`. `None` for a prefix that this format has no number for.
    ///
    /// # Errors
    /// [`Error::InvalidName`] with a zero byte in it, or without anything after the prefix; [`Error::NameTooLong`].
    pub(super) fn parse(full: &'a [u8]) -> Result<Option<Self>, Error> {
        if full.len() > NAME_MAX {
            return Err(Error::NameTooLong);
        }
        if full.is_empty() || full.contains(&0) {
            return Err(Error::InvalidName);
        }
        for (index, prefix) in PREFIXES {
            if let Some(rest) = full.strip_prefix(prefix) {
                let name = Self { index, rest };
                if name.is_acl() && !rest.is_empty() {
                    continue;
                }
                if rest.is_empty() && !name.is_acl() {
                    return Err(Error::InvalidName);
                }
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    pub(super) fn is_acl(&self) -> bool {
        matches!(self.index, ACL_ACCESS | ACL_DEFAULT)
    }

    /// Puts the full name into `to`; its length. `None` for a number without a prefix, and for a name that no one
    /// could ask for.
    pub(super) fn full(&self, to: &mut [u8; 2 * NAME_MAX]) -> Option<usize> {
        let (_, prefix) = PREFIXES.iter().find(|(index, _)| *index == self.index)?;
        let len = prefix.len() + self.rest.len();
        if self.is_acl() != self.rest.is_empty() {
            return None;
        }
        to[..prefix.len()].copy_from_slice(prefix);
        to[prefix.len()..len].copy_from_slice(self.rest);
        Some(len)
    }

    /// The order of attributes in a block.
    pub(super) fn is_before(&self, other: &Self) -> bool {
        (self.index, self.rest.len(), self.rest) < (other.index, other.rest.len(), other.rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_numbers_for_prefixes() {
        let cases: [(&[u8], u8, &[u8]); 7] = [
            (b"user.a", 1, b"a"),
            (b"user.a.b", 1, b"a.b"),
            (b"system.posix_acl_access", 2, b""),
            (b"system.posix_acl_default", 3, b""),
            (b"trusted.overlay.opaque", 4, b"overlay.opaque"),
            (b"security.capability", 6, b"capability"),
            (b"system.posix_acl_accessory", 7, b"posix_acl_accessory"),
        ];
        for (full, index, rest) in cases {
            let name = Name { index, rest };
            assert_eq!(Name::parse(full), Ok(Some(name)));
            let mut back = [0; 510];
            let len = name.full(&mut back).unwrap();
            assert_eq!(&back[..len], full);
        }
        assert_eq!(Name::parse(b"lustre.lov"), Ok(None));
        assert_eq!(Name::parse(b"user."), Err(Error::InvalidName));
        assert_eq!(Name::parse(b""), Err(Error::InvalidName));
        assert_eq!(Name::parse(b"user.a\0b"), Err(Error::InvalidName));
        assert_eq!(Name::parse(&[b'u'; 256]), Err(Error::NameTooLong));
        assert_eq!(Name { index: 5, rest: b"lov" }.full(&mut [0; 510]), None);
    }
}
