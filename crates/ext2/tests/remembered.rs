//! What an environment is told of names (`Env::remember`): it is what the volume has, after every operation.

#[path = "support/remembering.rs"]
mod remembering;
mod support;

use remembering::Remembering;
use support::{Bytes, NOW, fsck_file};
use xip_core::Frozen;
use xip_ext2::{Error, Format, InodeNo, NewInode, NewKind, Rename, Volume};

/// That all that is remembered is so, as one sees who remembers nothing.
fn compare(volume: &Volume<Bytes, Remembering>) {
    let image = volume.device().to_vec();
    let plain = Volume::open(Bytes::of(&image), Frozen).unwrap();
    for ((directory, name), known) in &*volume.env().names.borrow() {
        let found = match plain.lookup_kind(InodeNo(*directory), name) {
            Ok(found) => found.map(|(number, kind)| (number.0, kind.mode())),
            // One that was removed has no names.
            Err(Error::NotFound | Error::NotDirectory) => None,
            Err(error) => panic!("{error}"),
        };
        assert_eq!(known.map(|known| (known.inode, known.kind)), found, "{} in {directory}", name.escape_ascii());
    }
    for (&(directory, block), &at) in &*volume.env().places.borrow() {
        let begins = entries(&image, directory, block).is_none_or(|entries| entries.contains(&at.into()));
        assert!(begins, "no entry begins at {at} in block {block} of {directory}");
    }
}

/// Where the entries of a block of a directory begin, as the bytes of the image say; `None` where it is no directory any more, or has no
/// such block.
fn entries(image: &[u8], directory: u32, block: u32) -> Option<Vec<usize>> {
    let word = |at: usize| u32::from_le_bytes(image[at..at + 4].try_into().unwrap()) as usize;
    let half = |at: usize| usize::from(u16::from_le_bytes(image[at..at + 2].try_into().unwrap()));
    // One group, inodes of 256 bytes, and none but direct blocks.
    let inode = word(4096 + 8) * 4096 + (directory as usize - 1) * 256;
    if half(inode) >> 12 != 0o04 || half(inode + 26) == 0 || block as usize >= word(inode + 4) / 4096 {
        return None;
    }
    let start = word(inode + 40 + 4 * block as usize) * 4096;
    let next = |&at: &usize| Some(at + half(start + at + 4)).filter(|&next| next < 4096);
    Some(std::iter::successors(Some(0), next).collect())
}

fn release(volume: &Volume<Bytes, Remembering>, left: Result<Option<InodeNo>, Error>) {
    if let Ok(Some(number)) = left {
        volume.release(number).unwrap();
    }
}

/// Random operations on few names in two directories, so that names come back; and on so many that the directories grow past
/// one block and get an index.
#[test]
fn what_is_remembered_of_names_is_what_the_volume_has() {
    let format = Format { blocks: 2048, inodes: 512, uuid: [1; 16], hash_seed: [2; 16], ..Format::default() };
    let volume = Volume::format(Bytes::new(2048), Remembering::default(), &format).unwrap();
    let new = |kind| NewInode { kind, permissions: 0o755, uid: 0, gid: 0 };
    let one = volume.create(InodeNo::ROOT, b"one", &new(NewKind::Directory)).unwrap();
    let other = volume.create(InodeNo::ROOT, b"other", &new(NewKind::Directory)).unwrap();
    let mut state = 1u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for step in 0..6000u32 {
        // Later many long names.
        let names = if step < 4000 { 12 } else { 150 };
        let mut any = || {
            let directory = if random(2) == 0 { one } else { other };
            let number = random(names);
            (directory, format!("{number:0width$}", width = if number % 3 == 0 { 200 } else { 3 }).into_bytes())
        };
        let ((here, name), (there, other_name)) = (any(), any());
        // What is refused changes nothing, which is seen below.
        match random(8) {
            0 | 1 => drop(volume.create(here, &name, &new(NewKind::Regular))),
            2 => drop(volume.create(here, &name, &new(NewKind::Directory))),
            3 if names == 12 => release(&volume, volume.unlink(here, &name)),
            3 | 4 => release(&volume, volume.rmdir(here, &name).map(Some)),
            5 => {
                let how = [Rename::Replace, Rename::NoReplace, Rename::Exchange][random(3) as usize];
                release(&volume, volume.rename(here, &name, there, &other_name, how));
            }
            6 => release(&volume, volume.rename(here, &name, here, &other_name, Rename::Replace)),
            _ => {
                if let Ok(Some((number, _))) = volume.lookup_kind(here, &name) {
                    let _ = volume.link(there, &other_name, number);
                }
            }
        }
        if step % 10 == 0 {
            compare(&volume);
        }
    }
    compare(&volume);
    for answered in &volume.env().answered {
        assert!(answered.get() > 1000, "nobody asked");
    }
    assert!(volume.inode(one).unwrap().size > 4096, "the directory has not grown");
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut image = volume.device().to_vec();
    image.truncate(usize::try_from(volume.geometry().bytes()).unwrap());
    std::fs::write(file.path(), image).unwrap();
    fsck_file(file.path());
}

#[test]
fn what_a_directory_was_like_is_forgotten_when_another_has_its_number() {
    let format = Format { blocks: 256, inodes: 32, uuid: [1; 16], hash_seed: [2; 16], ..Format::default() };
    let volume = Volume::format(Bytes::new(256), Remembering::default(), &format).unwrap();
    let new = |kind| NewInode { kind, permissions: 0o755, uid: 0, gid: 0 };
    let first = volume.create(InodeNo::ROOT, b"first", &new(NewKind::Directory)).unwrap();
    volume.create(first, b"file", &new(NewKind::Regular)).unwrap();
    release(&volume, volume.unlink(first, b"file"));
    assert!(volume.env().places.borrow().contains_key(&(first.0, 0)));
    release(&volume, volume.rmdir(InodeNo::ROOT, b"first").map(Some));
    let second = volume.create(InodeNo::ROOT, b"second", &new(NewKind::Directory)).unwrap();
    assert_eq!(second, first);
    compare(&volume);
    volume.create(second, b"a name that is longer", &new(NewKind::Regular)).unwrap();
    compare(&volume);
}

/// No file has a name with a slash in it, whoever asks.
#[test]
fn a_name_that_cannot_be_leads_nowhere() {
    let format = Format { blocks: 256, inodes: 32, uuid: [1; 16], hash_seed: [2; 16], ..Format::default() };
    let volume = Volume::format(Bytes::new(256), Remembering::default(), &format).unwrap();
    let new = NewInode { kind: NewKind::Regular, permissions: 0o644, uid: 0, gid: 0 };
    volume.create(InodeNo::ROOT, b"file", &new).unwrap();
    for name in [&b"/"[..], b"/\0\0\0\0", b"file/"] {
        assert_eq!(volume.lookup(InodeNo::ROOT, name), Ok(None));
        assert_eq!(volume.lookup_kind(InodeNo::ROOT, name), Ok(None));
        let moved = volume.rename(InodeNo::ROOT, name, InodeNo::ROOT, b"x", Rename::Replace);
        assert_eq!(moved, Err(Error::NotFound));
    }
}
