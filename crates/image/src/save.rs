//! A segment written to an image file: beside what is there, and then in its place.

use crate::error::Error;
use crate::output::Output;
use crate::progress::{Phase, Progress};
use rustix::fs::{Stat, fstat, stat};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use xip_core::{Frozen, PAGE_SIZE};
use xip_ext2::Volume;
use xip_segment::{Access, Segment, Store};

/// How much is copied at a time.
const STEP: u64 = 4 << 20;

/// Writes what is in `segment` to the file `image`, or to the one that it was loaded from, if that has no other bytes than were loaded
/// from it or saved to it last, and an exclusive segment was closed. The file gets its name when it is complete and on storage, in place of what
/// had the name, and the name is on storage when this returns. An interrupted save leaves what was there. Nobody can write an
/// exclusive segment meanwhile.
///
/// # Errors
/// [`Error::InUse`]: somebody uses what would be replaced, or writes the segment; [`Error::Newer`]; [`Error::NotClosed`]; [`Error::Image`];
/// [`Error::NoRoom`]; [`Error::Cancelled`].
pub fn save(store: &Store, segment: &Segment, image: Option<&Path>, progress: &dyn Progress) -> Result<(), Error> {
    let own = &segment.info().image;
    let name = image.unwrap_or(own);
    if image.is_none() && own.to_string_lossy().contains(char::REPLACEMENT_CHARACTER) {
        let what = "know all of its name, which is no text: name it";
        return Err(Error::Image { image: own.clone(), what, error: Errno::ILSEQ.into() });
    }
    let output = Output::create(name)?;
    let old = output.lock_old()?;
    let from = segment.open(Access::ReadOnly)?;
    if image.is_none() {
        check_own(store, segment)?;
        if old.is_none() {
            // What the lost one permitted is not known.
            output.keep_to_owner()?;
        }
    }
    let size = segment.info().size;
    let fail = |what| move |error| Error::Image { image: name.into(), what, error };
    let (from, to) = (File::from(from), output.file()?);
    progress.phase(Phase::Data, size);
    to.set_len(size).map_err(fail("write the image"))?;
    let mut bytes = Vec::new();
    let mut at = 0;
    while at < size {
        if progress.cancelled() {
            return Err(Error::Cancelled);
        }
        let step = STEP.min(size - at);
        bytes.resize(usize::try_from(step).unwrap_or(0), 0);
        from.read_exact_at(&mut bytes, at).map_err(fail("read the segment for it"))?;
        write(&to, at, &bytes).map_err(|error| match error.kind() {
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
    // Nobody writes it before that is noted.
    xip_segment::lock(&to, name, Access::ReadWrite)?;
    output.publish(true)?;
    let id = |found: rustix::io::Result<Stat>| found.ok().map(|stat| (stat.st_dev, stat.st_ino));
    if segment.info().exclusive && id(stat(own)) == id(fstat(&to)) {
        // Whose holder does not answer has saved it all the same.
        let _ = store.note_saved(segment);
    }
    Ok(())
}

/// Whether a segment may be saved to its own image, of which nobody is to be without what he has in it. The segment is open.
fn check_own(store: &Store, segment: &Segment) -> Result<(), Error> {
    // What is known of the image now: it may have been saved meanwhile.
    let now = store.get(segment.name())?;
    if now.id() != segment.id() {
        return Err(xip_segment::Error::Removed { name: segment.name().into() }.into());
    }
    if now.image_has_changed()? {
        return Err(Error::Newer { image: now.info().image.clone(), segment: segment.name().into() });
    }
    if segment.info().exclusive && !Volume::open(segment.device()?, Frozen).is_ok_and(|volume| volume.is_clean()) {
        return Err(Error::NotClosed { segment: segment.name().into() });
    }
    Ok(())
}

/// Writes what is not zeros: the file has none there.
fn write(to: &File, at: u64, bytes: &[u8]) -> io::Result<()> {
    let is_zero = |page: &&[u8]| page.iter().all(|&byte| byte == 0);
    let mut start = 0;
    for run in bytes.chunks(PAGE_SIZE).collect::<Vec<_>>().chunk_by(|a, b| is_zero(a) == is_zero(b)) {
        let end = start + run.iter().map(|page| page.len()).sum::<usize>();
        if !is_zero(&run[0]) {
            to.write_all_at(&bytes[start..end], at + start as u64)?;
        }
        start = end;
    }
    Ok(())
}
