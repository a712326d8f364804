//! The same calls on one volume that is mounted in three ways.

use crate::calls::{Bytes, Calls, System};
use crate::{PAGE, in_turns, pages, per_item, say_all, shuffle};
use anyhow::{Context, Result};
use rustix::fs::{Advice, OFlags, fadvise};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

const ROUNDS: usize = 11;
const FILES: usize = 500;
/// A file that is written to and read from at random, and how often in a round.
const SMALL: usize = 16 << 20;
const ACCESSES: usize = 500;
const APPENDED: usize = 1 << 10;
/// A file that is written and read from one end to the other.
const LARGE: usize = 128 << 20;
const MIB: usize = 1 << 20;
/// For longer `fuse2fs` lets the kernel remember nothing.
const REMEMBERED: Duration = Duration::from_millis(1100);

const NAMES: [&str; 3] = ["xip mount", "fuse2fs", "loop mount"];
const GOAL: &str = "0.333 fuse2fs";
const GOAL_OF_STREAMS: &str = "1 loop mount";

/// Three directories: where `xip mount`, `fuse2fs` and the kernel by a loop device have mounted copies of one volume.
pub fn measure(xip: &Path, on_fuse2fs: &Path, on_loop: &Path) -> Result<()> {
    let mut mounts = [System::at(xip)?, System::at(on_fuse2fs)?, System::at(on_loop)?];
    for mount in &mounts {
        mount.create_dir("files")?;
    }
    names(&mut mounts)?;
    stats(&mut mounts)?;
    small(&mounts)?;
    streams(&mounts)
}

fn path(name: &str, file: usize) -> String {
    format!("files/{name}{file:03}")
}

fn names(mounts: &mut [System]) -> Result<()> {
    let mut files: Vec<_> = (0..FILES).map(|file| (path("old", file), path("new", file))).collect();
    let taken = in_turns(ROUNDS, mounts, |mount| {
        let created = per_item(&files, |(old, _)| mount.create(old))?;
        shuffle(&mut files);
        let renamed = per_item(&files, |(old, new)| mount.rename(old, new))?;
        shuffle(&mut files);
        Ok([created, renamed, per_item(&files, |(_, new)| mount.unlink(new))?])
    })?;
    for (what, taken) in ["create", "rename", "unlink"].into_iter().zip(&taken) {
        say_all(&format!("Mount: {what} a file, of {FILES} in a directory"), GOAL, &NAMES, taken);
    }
    Ok(())
}

fn stats(mounts: &mut [System]) -> Result<()> {
    let mut files: Vec<_> = (0..FILES).map(|file| path("file", file)).collect();
    for mount in &*mounts {
        per_item(&files, |file| mount.create(file))?;
    }
    shuffle(&mut files);
    let all = |mount: &mut System| per_item(&files, |file| mount.stat(file));
    let [known] = in_turns(ROUNDS, mounts, |mount| {
        all(mount)?;
        sleep(REMEMBERED);
        Ok([all(mount)?])
    })?;
    say_all("Mount: stat a file that was last used 1.1 s ago", GOAL, &NAMES, &known);
    let [unknown] = in_turns(ROUNDS, mounts, |mount| {
        // The kernel's names and inodes, of all file systems, that nobody has open.
        fs::write("/proc/sys/vm/drop_caches", "2").context("the kernel does not forget what it knows of files")?;
        Ok([all(mount)?])
    })?;
    say_all("Mount: stat a file of which the kernel knows nothing", GOAL, &NAMES, &unknown);
    Ok(())
}

fn small(mounts: &[System]) -> Result<()> {
    let block = [7; PAGE];
    let open = |path, append| mounts.iter().map(move |mount| mount.open_new(path, append));
    let mut files = open("appended", true).collect::<Result<Vec<_>>>()?;
    let [taken] = in_turns(ROUNDS, &mut files, |file: &mut Box<dyn Bytes>| {
        file.set_len(0)?;
        Ok([per_item(&[(); ACCESSES], |()| file.write(&block[..APPENDED]))?])
    })?;
    say_all("Mount: append 1 KiB", GOAL, &NAMES, &taken);

    let (all, mut part) = (pages(SMALL), 0);
    let mut next = || {
        part = (part + 1) % (all.len() / ACCESSES);
        &all[part * ACCESSES..][..ACCESSES]
    };
    let mut files = open("random", false).collect::<Result<Vec<_>>>()?;
    for file in &files {
        per_item(&all, |&offset| file.write_at(&block, offset))?;
    }
    let [taken] = in_turns(ROUNDS, &mut files, |file: &mut Box<dyn Bytes>| {
        Ok([per_item(next(), |&offset| file.write_at(&block, offset))?])
    })?;
    say_all("Mount: write 4 KiB at random", GOAL, &NAMES, &taken);

    let mut files = mounts.iter().map(|mount| mount.open("random", OFlags::RDWR)).collect::<Result<Vec<_>>>()?;
    let mut space = [0; PAGE];
    let [taken] = in_turns(ROUNDS, &mut files, |file| {
        forget(file)?;
        // So that nothing is read but what is asked for.
        fadvise(&*file, 0, None, Advice::Random)?;
        Ok([per_item(next(), |&offset| Ok(file.read_exact_at(&mut space, offset)?))?])
    })?;
    say_all("Mount: read 4 KiB at random, cold", GOAL, &NAMES, &taken);
    Ok(())
}

fn streams(mounts: &[System]) -> Result<()> {
    let mut block = vec![7; MIB];
    let offsets: Vec<_> = (0..LARGE).step_by(MIB).map(|at| at as u64).collect();
    let open = |mount: &System| mount.open("stream", OFlags::RDWR | OFlags::CREATE);
    let mut files = mounts.iter().map(open).collect::<Result<Vec<_>>>()?;
    let [new, old] = in_turns(ROUNDS, &mut files, |file| {
        let write = || {
            per_item(&offsets, |&offset| {
                file.write_all_at(&block, offset)?;
                if Some(&offset) == offsets.last() {
                    file.sync_all()?;
                }
                Ok(())
            })
        };
        file.set_len(0)?;
        Ok([write()?, write()?])
    })?;
    say_all("Mount: write 1 MiB after the other to a new file, fsync at the end", GOAL_OF_STREAMS, &NAMES, &new);
    say_all("Mount: write 1 MiB after the other over it, fsync at the end", GOAL_OF_STREAMS, &NAMES, &old);
    let [taken] = in_turns(ROUNDS, &mut files, |file| {
        forget(file)?;
        Ok([per_item(&offsets, |&offset| Ok(file.read_exact_at(&mut block, offset)?))?])
    })?;
    say_all("Mount: read 1 MiB after the other, cold", GOAL_OF_STREAMS, &NAMES, &taken);
    Ok(())
}

/// Drops what the kernel keeps of a file's bytes.
fn forget(file: &File) -> Result<()> {
    file.sync_all()?;
    Ok(fadvise(file, 0, None, Advice::DontNeed)?)
}
