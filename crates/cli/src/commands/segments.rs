//! What several commands do with segments: find the store, load an image into it.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Instant;

use xip_core::Frozen;
use xip_ext2::Volume;
use xip_segment::{Error, Listing, Loaded, MappedFile, Outcome, Segment, Store};

use crate::failure::Failure;
use crate::output::{Output, printable};
use crate::progress::Progress;

/// The segments of this user.
pub(crate) fn store() -> Result<Store, Failure> {
    Ok(Store::open_default()?)
}

/// All segments that can be asked; about the others there are warnings.
pub(crate) fn list(output: Output) -> Result<Vec<Segment>, Failure> {
    // Who only looks leaves nothing behind, not even the directory.
    let path = xip_segment::default_directory();
    let listing = if path.exists() { store()?.list()? } else { Listing::default() };
    warn(&listing.problems);
    if listing.segments.is_empty() {
        output.aside(format!("no segments in {}", path.display()));
    }
    Ok(listing.segments)
}

/// A line each on standard error. If that is closed there is nobody to tell.
pub(crate) fn warn(problems: &[Error]) {
    for problem in problems {
        let _ = writeln!(std::io::stderr(), "warning: {problem}");
    }
}

/// As [`named`], for one who does not need a store if it is an image.
pub(crate) fn found(source: &Path) -> Result<Option<Segment>, Failure> {
    if is_path(source) { Ok(None) } else { named(&store()?, source) }
}

fn is_path(source: &Path) -> bool {
    source.as_os_str().as_bytes().contains(&b'/')
}

/// The segment that `source` means: one if there is one of that name. `None`: it is an image, as is anything with a slash.
pub(crate) fn named(store: &Store, source: &Path) -> Result<Option<Segment>, Failure> {
    let Some(name) = source.to_str().filter(|_| !is_path(source)) else { return Ok(None) };
    match store.get(name) {
        Err(Error::NoSegment { .. } | Error::BadName { .. }) if source.exists() => Ok(None),
        Err(Error::NoSegment { directory, .. }) => {
            let what = format!("there is no segment {name} in {}, and no file {name} here", directory.display());
            Err(Failure::new(what).remedy("`xip ls` shows the segments; an image elsewhere is named by its path"))
        }
        Err(error @ Error::BadName { .. }) => {
            Err(Failure::new(format!("there is no file {} here", printable(name))).because(error.to_string()))
        }
        other => Ok(Some(other?)),
    }
}

/// The segment, for one who uses its bytes as what nobody can change.
pub(crate) fn sealed(segment: Segment) -> Result<Segment, Failure> {
    let (name, image) = (segment.name(), printable(&segment.info().image.to_string_lossy()));
    if !segment.info().exclusive {
        return Ok(segment);
    }
    let what = format!("the segment {name} is exclusive: it can change at any time, and what is run must not");
    let remedy = format!("`xip save {name}`, then `xip load {image} --name OTHER`, and use OTHER");
    Err(Failure::new(what).remedy(remedy))
}

/// Loads an image, or finds that it is loaded. It gets a name only if it is a volume whose files can be used in place.
///
/// Ctrl-C may end the process in the middle: memory without a name goes with it.
pub(crate) fn load(store: &Store, image: &Path, name: Option<&str>) -> Result<Loaded, Failure> {
    let progress = Progress::without_interrupt("loading");
    let check = &mut |device: &MappedFile| {
        let volume = Volume::open(device, Frozen).map_err(|error| error.to_string())?;
        volume.in_place().map_err(|error| error.to_string())
    };
    let start = Instant::now();
    let loaded = store.load(image, name, &mut |done, of| progress.at(done, of), check)?;
    let (info, time) = (loaded.segment.info(), start.elapsed());
    let what = if loaded.outcome == Outcome::New { "loaded" } else { "in memory already:" };
    tracing::info!("{what} {} as segment {}: {} bytes in {time:.1?}", image.display(), info.name, info.size);
    if let Some(older) = loaded.replaced.as_ref().and_then(|replaced| replaced.kept_as.as_ref()) {
        tracing::info!("the generation before it is segment {older} until its last user ends");
    }
    tracing::debug!("its content is {}", info.content);
    Ok(loaded)
}
