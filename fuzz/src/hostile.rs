//! Contract 5: "A hostile volume gives an error: never a panic, a hang, an unbounded loop or a read outside the device."
//! And what the check says of it is true: what it calls clean can be read and written, what it has mended is clean and
//! lost nothing.

use crate::NOW;
use crate::disk::Disk;
use crate::remembering::Remembering;
use crate::walk::{Said, walk};
use std::collections::BTreeMap;
use xip_core::ops::{self, Writer};
use xip_core::{Alone, Env, Frozen, Pages};
use xip_ext2::check::{Finding, Options, Summary, check, memory_wanted};
use xip_ext2::{Error, File, InodeNo, NewInode, NewKind, Rename, Volume};

/// Inodes whose files are written to.
const WRITTEN: u32 = 24;

/// Opens, reads, checks, mends and writes the image.
pub fn run(image: &[u8]) {
    let disk = Disk::of(image, true);
    let before = disk.bytes();
    let first = checked(&disk, false);
    let said = Volume::open(&disk, Frozen).map(|volume| walk(&volume));
    assert!(disk.bytes() == before, "it was changed by one who only reads");
    let clean = matches!(&first, Ok((summary, _)) if summary.is_clean());
    match &said {
        Ok(said) => {
            let volume = Disk::of(image, false);
            let copied = Volume::open(&volume, Frozen).map(|volume| walk(&volume));
            assert_eq!(copied.as_ref(), Ok(said), "read in place and through copies");
            let errors: Vec<_> = said.iter().filter(|(_, said)| !said.errors.is_empty()).collect();
            assert!(!clean || errors.is_empty(), "the check calls clean what cannot be read: {errors:?}");
        }
        Err(error) => assert!(!clean, "the check calls clean what cannot be opened: {error}"),
    }
    if let Ok((summary, findings)) = first
        && summary.leaks > 0
    {
        let repaired = Disk::of(image, true);
        match checked(&repaired, true) {
            Ok((Summary { mended: true, .. }, _)) => {
                let again = checked(&repaired, false).expect("what could be checked before");
                assert_eq!(again, (Summary::default(), Vec::new()), "after a repair of {findings:?}");
                let after = Volume::open(&repaired, Frozen).map(|volume| walk(&volume));
                assert!(
                    findings.contains(&Finding::Intent) || contents(&after) == contents(&said),
                    "lost by a repair of {findings:?}: {said:?} became {after:?}"
                );
                write(&repaired, true);
            }
            _ => assert!(summary.damages == 0 || repaired.bytes() == before, "changed in spite of {findings:?}"),
        }
    }
    write(&disk, clean);
}

/// What the check says.
pub(crate) fn checked(disk: &Disk, repair: bool) -> Result<(Summary, Vec<Finding>), Error> {
    checked_as(disk, &Options { repair, now: Some(NOW.seconds.unsigned_abs()) })
}

pub(crate) fn checked_as(disk: &Disk, options: &Options) -> Result<(Summary, Vec<Finding>), Error> {
    let mut memory = vec![0xaa; memory_wanted(disk)?];
    let mut found = Vec::new();
    let summary = check(disk, &mut memory, options, &mut |finding| found.push(*finding))?;
    Ok((summary, found))
}

/// What a repair must leave as it is.
fn contents(walked: &Result<BTreeMap<InodeNo, Said>, Error>) -> Vec<impl PartialEq> {
    let all = walked.iter().flatten();
    all.map(|(number, said)| (number, &said.names, &said.pieces, &said.target, &said.attributes)).collect()
}

/// Changes everything that can be changed, or gets an error for it. Where all is in order before it is after, and no error
/// says otherwise. By one who remembers names for half of all images, which half is of no matter.
fn write(disk: &Disk, clean: bool) {
    match disk.bytes().iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte)) % 2 {
        0 => write_in(disk, Alone::at(NOW), clean),
        _ => write_in(disk, Remembering::default(), clean),
    }
}

fn write_in<E: Env>(disk: &Disk, env: E, clean: bool) {
    let Ok(mut volume) = Volume::open(disk, env) else {
        assert!(!clean, "it was clean, and cannot be opened to be written");
        return;
    };
    let mut errors = Vec::new();
    let mut done = |result: Result<(), Error>| errors.extend(result.err());
    names(&volume, &mut done);
    for number in 1..=volume.geometry().inodes.min(WRITTEN) {
        // No name leads to a reserved inode: nobody changes one of a volume that is in order.
        if clean && number != InodeNo::ROOT.0 && number < volume.geometry().first_inode {
            continue;
        }
        let number = InodeNo(number);
        done(volume.set_xattr(number, b"user.new", Some(&[b'n'; 90])));
        done(volume.set_xattr(number, b"user.large", Some(&[b'l'; 3000])));
        done(volume.set_xattr(number, b"user.small", None));
        match volume.file(number) {
            Ok(File::InPlace(file)) => change(&file, &mut done),
            Ok(File::Cached(file)) => change(&file, &mut done),
            Err(error) => done(Err(error)),
        }
    }
    done(volume.close());
    if clean {
        let of_damage =
            |error: &&Error| matches!(error, Error::Corrupt { .. } | Error::Device(xip_core::Error::OutOfRange { .. }));
        assert_eq!(errors.iter().find(of_damage), None, "the check calls it clean");
        let after = checked(disk, false).expect("what could be checked before");
        assert_eq!(after, (Summary::default(), Vec::new()), "it was clean before it was written");
    }
}

/// Names come, move and go, in the first directories that there are.
fn names<E: Env>(volume: &Volume<&Disk, E>, done: &mut impl FnMut(Result<(), Error>)) {
    let new = |kind| NewInode { kind, permissions: 0o755, uid: 0, gid: 0 };
    let mut directories = vec![InodeNo::ROOT];
    let mut others = Vec::new();
    let listed = volume.read_dir(InodeNo::ROOT, 0, &mut |entry| {
        if entry.kind == Some(xip_ext2::Kind::Directory) && directories.len() < 4 && !entry.name.starts_with(b".") {
            directories.push(entry.ino);
        }
        others.push(entry.name.to_vec());
        others.len() < 16
    });
    done(listed);
    // Who remembers knows them from now on.
    others.iter().for_each(|name| done(volume.lookup(InodeNo::ROOT, name).map(drop)));
    let released = |left: Option<InodeNo>| left.map_or(Ok(()), |left| volume.release(left));
    for parent in directories {
        done(volume.create(parent, b"new", &new(NewKind::Directory)).map(drop));
        done(volume.create(parent, b"link", &new(NewKind::Symlink(&[b'l'; 100]))).map(drop));
        done(volume.create(parent, &[b'x'; 255], &new(NewKind::Regular)).map(drop));
        done(volume.rename(parent, b"new", InodeNo::ROOT, b"moved", Rename::Replace).and_then(released));
        done(volume.rename(parent, &[b'x'; 255], parent, b"short", Rename::NoReplace).and_then(released));
        if let Ok(Some(inside)) = volume.lookup(parent, b"file") {
            done(volume.link(parent, b"second", inside));
            done(volume.unlink(parent, b"file").and_then(released));
        }
    }
    for pair in others.windows(2) {
        done(volume.rename(InodeNo::ROOT, &pair[0], InodeNo::ROOT, &pair[1], Rename::Exchange).and_then(released));
    }
    if let Some(name) = others.last() {
        done(volume.unlink(InodeNo::ROOT, name).and_then(released));
        done(volume.rmdir(InodeNo::ROOT, name).and_then(|left| volume.release(left)));
    }
}

fn change<F: Pages<Error = Error>>(file: &F, done: &mut impl FnMut(Result<(), Error>)) {
    let how = Writer::default();
    done(ops::write(file, 5000, &[b'w'; 5000], &how).map(drop));
    done(ops::write(file, 0, b"end", &Writer { append: true, ..how }).map(drop));
    done(ops::fallocate(file, 12 * 4096, 8192, false, &how));
    done(ops::punch_hole(file, 4000, 9000, &how));
    done(ops::zero_range(file, 100, 5000, true, &how));
    done(ops::truncate(file, 11 * 4096 + 5));
}
