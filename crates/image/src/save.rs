//! A segment written to an image file: beside what is there, and then in its place.

use crate::error::Error;
use crate::output::Output;
use crate::progress::{Phase, Progress};
use rustix::io::Errno;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use xip_segment::{Access, Segment, Store};

/// How much is copied at a time.
const STEP: u64 = 4 << 20;

/// Writes what is in `segment` to the file `image`, or to the one that it was loaded from, if that has not changed since an exclusive
/// segment was loaded from it or saved to it. The file gets its name when it is complete and on storage, in place of what
/// had the name, and the name is on storage when this returns. An interrupted save leaves what was there. Nobody can write an
/// exclusive segment meanwhile.
///
/// # Errors
/// [`Error::InUse`]: somebody uses what would be replaced, or writes the segment; [`Error::Newer`]; [`Error::Image`];
/// [`Error::NoRoom`]; [`Error::Cancelled`].
pub fn save(store: &Store, segment: &Segment, image: Option<&Path>, progress: &dyn Progress) -> Result<(), Error> {
    let own = &segment.info().image;
    let name = image.unwrap_or(own);
    if image.is_none() && own.to_string_lossy().contains(char::REPLACEMENT_CHARACTER) {
        let what = "know all of its name, which is no text: name it";
        return Err(Error::Image { image: own.clone(), what, error: Errno::ILSEQ.into() });
    }
    let output = Output::create(name)?;
    let _old = output.lock_old()?;
    if image.is_none() && segment.info().exclusive && segment.image_has_changed() {
        return Err(Error::Newer { image: own.clone(), segment: segment.name().into() });
    }
    let size = segment.info().size;
    let fail = |what| move |error| Error::Image { image: name.into(), what, error };
    let from = segment.open(Access::ReadOnly)?;
    let (from, mut to) = (std::fs::File::from(from), output.file()?);
    progress.phase(Phase::Data, size);
    let mut bytes = Vec::new();
    let mut at = 0;
    while at < size {
        if progress.cancelled() {
            return Err(Error::Cancelled);
        }
        let step = STEP.min(size - at);
        bytes.resize(usize::try_from(step).unwrap_or(0), 0);
        from.read_exact_at(&mut bytes, at).map_err(fail("read the segment for it"))?;
        to.write_all(&bytes).map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull => output.no_room(size),
            _ => fail("write the image")(error),
        })?;
        at += step;
        progress.advance(step);
    }
    progress.phase(Phase::Sync, 0);
    match output.sync() {
        Err(Error::Image { error, .. }) if error.raw_os_error() == Some(Errno::NOSPC.raw_os_error()) => {
            Err(output.no_room(size))
        }
        synced => synced,
    }?;
    output.publish(true)?;
    if std::path::absolute(name).is_ok_and(|name| name == *own) {
        // Whose holder does not answer has saved it all the same.
        let _ = store.note_saved(segment, &to);
    }
    Ok(())
}
