//! Who holds an inode, and walks that see only inodes that are there; the books are kept in `opens`.

use crate::opens::Opens;
use crate::volume::{Inner, Volume};
use std::borrow::Borrow;
use std::fmt;
use xip_ext2::InodeNo;

/// An inode that is in use: as long as this exists its number stays that of the same file, whatever happens to its
/// names. On a volume that cannot change, that is so anyway.
#[derive(Clone)]
pub struct Held(Hold<Volume>);

impl Held {
    #[inline]
    pub(crate) fn new(volume: &Volume, ino: InodeNo) -> Self {
        Self(Hold::new(volume.clone(), ino))
    }

    /// Its number.
    pub fn ino(&self) -> InodeNo {
        self.0.ino
    }

    #[inline]
    pub(crate) fn volume(&self) -> &Volume {
        &self.0.volume
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Held").field(&self.0.ino.0).finish()
    }
}

/// As [`Held`], by one who has the volume, or a reference to it: for as long as a call lasts.
pub(crate) struct Hold<V: Borrow<Volume>> {
    volume: V,
    ino: InodeNo,
}

impl<V: Borrow<Volume>> Hold<V> {
    #[inline]
    pub(crate) fn new(volume: V, ino: InodeNo) -> Self {
        if let Some(opens) = &volume.borrow().0.opens {
            opens.hold(ino);
        }
        Self { volume, ino }
    }

    #[inline]
    pub(crate) fn ino(&self) -> InodeNo {
        self.ino
    }
}

impl<V: Borrow<Volume> + Clone> Clone for Hold<V> {
    fn clone(&self) -> Self {
        Self::new(self.volume.clone(), self.ino)
    }
}

impl<V: Borrow<Volume>> Drop for Hold<V> {
    #[inline]
    fn drop(&mut self) {
        let inner = &self.volume.borrow().0;
        if let Some(opens) = &inner.opens
            && opens.let_go(self.ino)
        {
            inner.give_back(opens, self.ino);
        }
    }
}

impl Inner {
    /// An inode has lost its last name.
    pub(crate) fn lost_name(&self, ino: InodeNo) {
        if let Some(opens) = &self.opens
            && opens.lost_name(ino)
        {
            self.give_back(opens, ino);
        }
    }

    /// The call that ended the file has succeeded: if this fails, the file is gone and its storage is leaked, which the next
    /// opening mends.
    #[inline(never)]
    fn give_back(&self, opens: &Opens, ino: InodeNo) {
        if self.fs.release(ino).is_err() {
            opens.leak();
        }
    }

    /// The count to give to [`Inner::none_gone_since`].
    pub(crate) fn gone(&self) -> u64 {
        self.opens.as_ref().map_or(0, |opens| opens.gone())
    }

    /// Whether no inode was given back since.
    pub(crate) fn none_gone_since(&self, gone: u64) -> bool {
        self.gone() == gone
    }

    /// As [`Opens::steady`]; where nothing changes, once.
    #[inline]
    pub(crate) fn steady<T>(&self, mut walk: impl FnMut() -> T) -> T {
        match &self.opens {
            Some(opens) => opens.steady(walk),
            None => walk(),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::Volume;
    use crate::opens::PATIENCE;

    /// A volume with files named by numbers, and what removes the next of them.
    fn with_files(test: impl FnOnce(&Volume, &mut dyn FnMut())) {
        let directory = tempfile::tempdir().unwrap();
        let volume = Volume::create(directory.path().join("image"), 4 << 20).unwrap();
        for n in 0..20 {
            volume.write(n.to_string(), b"x").unwrap();
        }
        let mut next = 0;
        test(&volume, &mut || {
            volume.remove_file(next.to_string()).unwrap();
            next += 1;
        });
    }

    #[test]
    fn a_walk_during_which_an_inode_went_is_done_again() {
        with_files(|volume, remove| {
            let mut walks = 0;
            volume.0.steady(|| {
                walks += 1;
                if walks == 1 {
                    remove();
                }
            });
            assert_eq!(walks, 2);
        });
    }

    #[test]
    fn a_walk_that_was_overtaken_often_makes_others_wait() {
        with_files(|volume, remove| {
            let mut walks = 0;
            volume.0.steady(|| {
                walks += 1;
                if walks <= PATIENCE {
                    remove();
                } else {
                    let opens = volume.0.opens.as_ref().unwrap();
                    assert!(opens.calm.try_read().is_err());
                }
            });
            assert_eq!(walks, PATIENCE + 1);
        });
    }

    #[test]
    fn an_inode_goes_when_its_last_holder_lets_it_go() {
        with_files(|volume, remove| {
            let held = volume.hold(volume.resolve("0").unwrap());
            let other = held.clone();
            let gone = volume.0.gone();
            remove();
            drop(held);
            assert!(volume.0.none_gone_since(gone));
            drop(other);
            assert!(!volume.0.none_gone_since(gone));
        });
    }
}
