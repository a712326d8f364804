//! From a path to an inode, inside the volume.

use crate::volume::Inner;
use std::borrow::Cow;
use xip_core::{Dentry, Env};
use xip_ext2::{Error, InodeNo, Kind};

/// The most symbolic links on the way, as in Linux.
const MOST_LINKS: u32 = 40;

/// The longest name the format can hold.
const MOST_NAME: usize = 255;

/// Why a path leads nowhere.
pub(crate) enum Stop {
    Error(Error),
    Loop,
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// An inode, and its kind.
type Entry = (InodeNo, Kind);

const ROOT: Entry = (InodeNo::ROOT, Kind::Directory);

/// The directory that paths are remembered in: none has that number.
const PATHS: u32 = 0;

/// The inode at `path`, seen from the root. A symbolic link at its end is followed when `follow` says so, or when a
/// slash stands behind it.
#[inline]
pub(crate) fn resolve(volume: &Inner, path: &[u8], follow: bool) -> Result<Entry, Stop> {
    let mut links = MOST_LINKS;
    match path.iter().rposition(|&byte| byte == b'/') {
        // Where nothing changes, a directory that a path has led to is there the next time.
        Some(slash) if slash > 0 && slash + 1 < path.len() && !volume.is_live() => {
            let parent = directory_at(volume, &path[..slash], &mut links)?;
            walk(volume, parent, &path[slash + 1..], follow, &mut links)
        }
        _ if path.is_empty() => Err(Error::NotFound.into()),
        _ => walk(volume, ROOT, path, follow, &mut links),
    }
}

/// The directory at `path`, remembered with how many links there are on the way.
#[inline]
fn directory_at(volume: &Inner, path: &[u8], links: &mut u32) -> Result<Entry, Stop> {
    match volume.fs.env().recall(PATHS, path) {
        Some(Some(Dentry { inode, kind, at })) if kind == Kind::Directory.mode() => {
            *links = links.checked_sub(at.into()).ok_or(Stop::Loop)?;
            Ok((InodeNo(inode), Kind::Directory))
        }
        _ => find_directory(volume, path, links),
    }
}

#[cold]
fn find_directory(volume: &Inner, path: &[u8], links: &mut u32) -> Result<Entry, Stop> {
    let found = walk(volume, ROOT, path, true, links)?;
    if found.1 == Kind::Directory {
        // Never more than `MOST_LINKS`.
        let at = (MOST_LINKS - *links) as u16;
        let directory = Dentry { inode: found.0.0, kind: Kind::Directory.mode(), at };
        volume.fs.env().remember(PATHS, path, Some(directory));
    }
    Ok(found)
}

fn walk(volume: &Inner, from: Entry, path: &[u8], follow: bool, links: &mut u32) -> Result<Entry, Stop> {
    let mut here = if path.first() == Some(&b'/') { ROOT } else { from };
    let mut rest = path;
    loop {
        let Some(start) = rest.iter().position(|&byte| byte != b'/') else {
            // Nothing but slashes is left: they ask for a directory.
            return if rest.is_empty() || here.1 == Kind::Directory {
                Ok(here)
            } else {
                Err(Error::NotDirectory.into())
            };
        };
        rest = &rest[start..];
        let end = rest.iter().position(|&byte| byte == b'/').unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        rest = after;
        let next = lookup(volume, here, name)?.ok_or(Error::NotFound)?;
        here = if next.1 == Kind::Symlink && (follow || !rest.is_empty()) {
            *links = links.checked_sub(1).ok_or(Stop::Loop)?;
            let mut target = vec![0; volume.fs.geometry().block_size as usize];
            let len = volume.fs.read_link(next.0, &mut target)?;
            walk(volume, here, &target[..len], true, links)?
        } else {
            next
        };
    }
}

/// A name in a directory, whether or not something is there: what names are made, moved and taken away by.
pub(crate) struct Place<'p> {
    pub(crate) directory: InodeNo,
    pub(crate) name: Cow<'p, [u8]>,
    /// What is there; not looked up, and `None`, where that is not asked for and no slash stands behind the name.
    pub(crate) found: Option<Entry>,
    /// A slash stood behind it, so it is to be a directory.
    pub(crate) slash: bool,
}

/// The name at the end of `other`, where that is the path of a name in the directory that `path` says, in the same words.
pub(crate) fn beside<'p>(path: &[u8], other: &'p [u8]) -> Option<&'p [u8]> {
    let start = |path: &[u8]| path.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
    let (from, to) = (start(path), start(other));
    (from < path.len() && to < other.len() && path[..from] == other[..to]).then(|| &other[to..])
}

/// What is done with the end of a path.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It is left to who makes, moves or removes the name to see what is there, at once with doing it.
    Name,
    /// It is looked up.
    Found,
    /// It is looked up, and a symbolic link followed, also to where nothing is yet.
    Follow,
}

/// Where `path` ends.
pub(crate) fn locate<'p>(volume: &Inner, path: &'p [u8], end: End) -> Result<Place<'p>, Stop> {
    if path.is_empty() {
        return Err(Error::NotFound.into());
    }
    let (mut from, mut path, mut slash) = (ROOT, Cow::Borrowed(path), false);
    let mut links = MOST_LINKS;
    loop {
        let Some(last) = path.iter().rposition(|&byte| byte != b'/') else {
            // The root, which is in itself.
            return Ok(Place { directory: InodeNo::ROOT, name: Cow::Borrowed(b"."), found: Some(ROOT), slash: true });
        };
        slash |= last + 1 < path.len();
        let start = path[..last].iter().rposition(|&byte| byte == b'/').map_or(0, |at| at + 1);
        let name = match &path {
            Cow::Borrowed(path) => Cow::Borrowed(&path[start..=last]),
            Cow::Owned(path) => Cow::Owned(path[start..=last].to_vec()),
        };
        let parent = if start == 0 { from } else { walk(volume, from, &path[..start], true, &mut links)? };
        if parent.1 != Kind::Directory {
            return Err(Error::NotDirectory.into());
        }
        let found = if end != End::Name || slash { lookup(volume, parent, &name)? } else { None };
        match found {
            Some((ino, Kind::Symlink)) if end == End::Follow => {
                links = links.checked_sub(1).ok_or(Stop::Loop)?;
                let mut target = vec![0; volume.fs.geometry().block_size as usize];
                let len = volume.fs.read_link(ino, &mut target)?;
                target.truncate(len);
                path = Cow::Owned(target);
                from = parent;
            }
            _ => return Ok(Place { directory: parent.0, name, found, slash }),
        }
    }
}

/// The entry `name` of a directory; `None` when there is none.
#[inline]
pub(crate) fn lookup(volume: &Inner, directory: Entry, name: &[u8]) -> Result<Option<Entry>, Error> {
    let (ino, kind) = directory;
    if kind != Kind::Directory {
        return Err(Error::NotDirectory);
    }
    if name.len() > MOST_NAME {
        return Err(Error::NameTooLong);
    }
    match name {
        b"." => return Ok(Some(directory)),
        b".." if ino == InodeNo::ROOT => return Ok(Some(ROOT)),
        _ => {}
    }
    match volume.fs.env().recall(ino.0, name) {
        // That is remembered of nobody: it is looked up.
        _ if name == b".." => look_up_on_volume(volume, ino, name),
        Some(None) => Ok(None),
        Some(Some(Dentry { inode, kind, .. })) if let Some(kind) = Kind::from_mode(kind) => {
            Ok(Some((InodeNo(inode), kind)))
        }
        _ => look_up_on_volume(volume, ino, name),
    }
}

/// Which remembers it.
#[cold]
fn look_up_on_volume(volume: &Inner, directory: InodeNo, name: &[u8]) -> Result<Option<Entry>, Error> {
    volume.fs.lookup_kind(directory, name)
}
