//! What must hold: what the volume answers, and what is on it.

use super::op::At;
use super::reference::{FileModel, Model, Node, PAGE, ROOT, TARGET};
use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use xip::{File, Volume};

/// More blocks than any operation here takes: with fewer, space may give out.
const ENOUGH: u32 = 24;

/// A check passed, or says why not; an error of the volume where there should be none.
pub type Judged<T = ()> = Result<T, Box<dyn Error>>;

/// Whether space gave out, which the reference knows nothing of. It may only where little is left.
pub fn is_full<T>(volume: &Volume, said: &xip::Result<T>) -> Judged<bool> {
    let full = said.as_ref().is_err_and(|error| error.errno() == xip_core::error::errno::ENOSPC);
    if full {
        let left = volume.statfs()?;
        assert!(left.free_blocks < ENOUGH || left.free_inodes == 0, "no space, and there is: {left:?}");
    }
    Ok(full)
}

/// What the volume said, and the reference: both or none.
pub fn agree<T>(said: xip::Result<T>, expected: bool) -> Judged {
    match said {
        Ok(_) if expected => Ok(()),
        Err(_) if !expected => Ok(()),
        Ok(_) => Err("it worked, and should not have".into()),
        Err(error) => Err(format!("it should have worked: {error}").into()),
    }
}

/// As [`agree`], where space may give out: then nothing is done.
pub fn both<T>(volume: &Volume, said: xip::Result<T>, expected: impl FnOnce() -> bool) -> Judged {
    if is_full(volume, &said)? { Ok(()) } else { agree(said, expected()) }
}

/// As much as was written is in the reference too, and nothing else where nothing was: how much.
pub fn wrote(
    file: &File,
    model: &mut FileModel,
    at: At,
    bytes: &[u8],
    said: xip::Result<usize>,
) -> Judged<Option<usize>> {
    if is_full(file.volume(), &said)? {
        model.failed(file.tail_is_zero().unwrap_or(true));
        return Ok(None);
    }
    let done = said?;
    let left = file.volume().statfs()?.free_blocks;
    assert!(
        done == bytes.len() || left < ENOUGH,
        "{done} of {} bytes written, and {left} blocks are free",
        bytes.len()
    );
    model.write(at, &bytes[..done]);
    Ok(Some(done))
}

/// Bytes of a file, and where it has storage.
pub fn same(file: &File, model: &FileModel) -> Judged {
    assert!(file.read_all()? == model.bytes(), "bytes of {:?}", file.ino());
    if model.vague {
        return Ok(());
    }
    let (mut stored, mut at) = (vec![false; model.stored.len()], 0);
    while let Some(start) = file.seek_data(at)? {
        at = file.seek_hole(start)?.ok_or("the end of a file is a hole")?;
        stored[start as usize / PAGE..(at as usize).div_ceil(PAGE)].fill(true);
    }
    assert_eq!(stored, model.stored, "storage of {:?}", file.ino());
    if file.in_place() {
        let runs = file.extents()?;
        let mut placed = runs.iter().flat_map(|placed| placed.index.0..placed.index.0 + placed.run.count);
        assert!((0..).zip(&stored).filter(|(_, stored)| **stored).all(|(page, _)| placed.next() == Some(page)));
        assert_eq!(placed.next(), None, "extents of {:?}", file.ino());
    }
    Ok(())
}

/// Everything that has a name.
pub fn compare(volume: &Volume, model: &Model) -> Judged {
    let mut way = vec![(ROOT, String::from("/"))];
    while let Some((id, path)) = way.pop() {
        let metadata = volume.symlink_metadata(&path)?;
        assert_eq!(metadata.nlink(), model.links(id), "links of {path}");
        let attribute = |name: std::ffi::OsString| {
            let value = volume.xattr(&path, &name)?.ok_or("a name without a value")?;
            Ok((name.into_string().map_err(|_| "an odd name")?, value))
        };
        let found: BTreeMap<_, _> = volume.xattrs(&path)?.into_iter().map(attribute).collect::<Judged<_>>()?;
        assert_eq!(found, model.attributes[id], "attributes of {path}");
        match &model.nodes[id] {
            Node::File(model) => same(&volume.file(&path)?, model)?,
            Node::Symlink => assert_eq!(volume.read_link(&path)?, Path::new(TARGET)),
            Node::Directory(entries) => {
                let names =
                    volume.read_dir(&path)?.map(|entry| Ok(entry?.file_name().into_string().unwrap_or_default()));
                let mut names = names.collect::<xip::Result<Vec<_>>>()?;
                names.sort();
                assert!(names.iter().eq(entries.keys()), "{names:?} in {path}");
                way.extend(entries.iter().map(|(name, &id)| (id, format!("{path}/{name}"))));
            }
        }
    }
    Ok(())
}
