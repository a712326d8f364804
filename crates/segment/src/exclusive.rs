//! What is in an exclusive segment, and what is in its image: nothing of the one or the other is to be lost.

use crate::error::{Error, Result};
use crate::file::Access;
use crate::holder;
use crate::load;
use crate::segment::{Segment, Stamp, seals};
use crate::stat;
use crate::store::Store;
use rustix::fs::{Mode, OFlags, Stat};
use rustix::io::Errno;
use std::os::fd::OwnedFd;

impl Segment {
    /// Whether its image has other bytes than it was loaded with or, of an exclusive one, than were last saved. One that is gone has not.
    ///
    /// # Errors
    /// The image cannot be read.
    pub fn image_has_changed(&self) -> Result<bool> {
        let known = |stat: &Stat| self.stamp() == Some(Stamp::of(stat));
        Ok(self.image_has(known, || Ok(self.info().content.clone()))? == Some(false))
    }

    /// Whether its image has the bytes that are in memory now.
    pub(crate) fn is_in_its_image(&self) -> Result<bool> {
        Ok(self.image_has(|_| false, || self.content_now())? == Some(true))
    }

    /// Whether its image has bytes with a hash, if it is not known to have them. `None`: there is no image.
    fn image_has(&self, known: impl Fn(&Stat) -> bool, content: impl Fn() -> Result<String>) -> Result<Option<bool>> {
        let path = &self.info().image;
        // Not to wait for the writer of a fifo.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = match rustix::fs::open(path, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            opened => opened.map_err(Error::file("open", path))?,
        };
        if known(&rustix::fs::fstat(&file).map_err(Error::file("inspect", path))?) {
            return Ok(Some(true));
        }
        let size = crate::file::file_len(&file)?;
        Ok(Some(size == self.info().size && load::hash(&file, path, size)? == content()?))
    }

    /// The hash of what is in memory now.
    pub(crate) fn content_now(&self) -> Result<String> {
        load::hash(self.fd(), &self.info().image, self.info().size)
    }

    /// Sees to it that nobody writes what has no name any more. `alone` is the descriptor of one who has it to write it.
    pub(crate) fn retire(alone: &OwnedFd) {
        // It fails where someone maps it past the lock.
        let _ = rustix::fs::fcntl_add_seals(alone, seals(false));
    }
}

impl Store {
    /// Has it remembered that an exclusive segment was saved to its image. Nobody writes the segment meanwhile.
    ///
    /// # Errors
    /// The segment's holder does not answer: then the image seems to have been changed by somebody else.
    pub fn note_saved(&self, segment: &Segment) -> Result<()> {
        let silent = |why: String| Error::Silent { name: segment.name().into(), why };
        let saved = holder::Saved { id: segment.id(), content: segment.content_now()? };
        let saved = serde_json::to_vec(&saved).map_err(|error| silent(error.to_string()))?;
        let answer = holder::ask(&self.directory, segment.name(), &[holder::SAVED, &saved].concat());
        answer.map(drop).map_err(|errno| silent(errno.to_string()))
    }
}

/// The memory of an exclusive segment that is to be removed, locked to write it, if nobody uses it and its image has what is in it; with
/// `force` if it can be had at all.
pub(crate) fn last_look(name: &str, header: &[u8], memory: OwnedFd, force: bool) -> Result<Option<OwnedFd>> {
    let unsaved = |why: String| Error::Unsaved { name: name.into(), why };
    let users: Vec<_> = stat::users(&memory, None).iter().map(ToString::to_string).collect();
    let segment = Segment::new(name, header, Some(memory)).map_err(|error| unsaved(error.to_string()));
    if force {
        return Ok(segment.and_then(|segment| segment.open(Access::ReadWrite)).ok());
    }
    if !users.is_empty() {
        return Err(unsaved(format!("{} may be writing it (end or unmount that first)", users.join(", "))));
    }
    let segment = segment?;
    let alone = segment.open(Access::ReadWrite)?;
    match segment.is_in_its_image() {
        Ok(true) => Ok(Some(alone)),
        Ok(false) => Err(unsaved(format!("{} does not have it", segment.info().image.display()))),
        Err(error) => Err(unsaved(error.to_string())),
    }
}
