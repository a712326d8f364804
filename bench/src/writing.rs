//! Writing: the library on a new volume beside the same calls on tmpfs, where the volume's image is, too.

use crate::calls::{Bytes, Calls, Copied, Library, System};
use crate::{PAGE, in_turns, pages, per_item, say_all, shuffle};
use anyhow::Result;
use std::fs;
use std::path::Path;

const ROUNDS: usize = 21;
/// Files in the directory, and how often in a round each is made, renamed and removed.
const FILES: usize = 100;
const TIMES: usize = 20;
/// A file that is written to, and one that the nearest caches of a processor hold.
const LEN: usize = 16 << 20;
const HOT: usize = 64 << 10;
const APPENDED: usize = 1 << 10;
const VOLUME: u64 = 256 << 20;

const NAMES: [&str; 2] = ["the library", "system calls, tmpfs"];
const GOAL: &str = "0.333 system calls, tmpfs";

/// Works in `scratch`, a new directory on tmpfs.
pub fn measure(scratch: &Path) -> Result<()> {
    let on_tmpfs = scratch.join("tmpfs");
    fs::create_dir(&on_tmpfs)?;
    let volume = xip::Volume::create(scratch.join("volume"), VOLUME)?;
    let mut contenders: [Box<dyn Calls>; 2] = [Box::new(Library(volume)), Box::new(System::at(&on_tmpfs)?)];
    for contender in &contenders {
        contender.create_dir("files")?;
    }
    names(&mut contenders)?;
    bytes(&contenders, scratch)
}

fn names(contenders: &mut [Box<dyn Calls>]) -> Result<()> {
    let path = |name: &str, file: usize| format!("files/{name}{file:02}");
    let mut files: Vec<_> = (0..FILES).map(|file| (path("old", file), path("new", file))).collect();
    let taken = in_turns(ROUNDS, contenders, |contender| {
        let mut sum = [0.0; 3];
        for _ in 0..TIMES {
            sum[0] += per_item(&files, |(old, _)| contender.create(old))?;
            shuffle(&mut files);
            sum[1] += per_item(&files, |(old, new)| contender.rename(old, new))?;
            shuffle(&mut files);
            sum[2] += per_item(&files, |(_, new)| contender.unlink(new))?;
        }
        Ok(sum.map(|sum| sum / TIMES as f64))
    })?;
    for (what, taken) in ["create", "rename", "unlink"].into_iter().zip(&taken) {
        say_all(&format!("Library: {what} a file, of {FILES} in a directory"), GOAL, &NAMES, taken);
    }
    Ok(())
}

fn bytes(contenders: &[Box<dyn Calls>], scratch: &Path) -> Result<()> {
    // Where it begins in a page matters to the processor: the figures would be of chance.
    let space = vec![7; 2 * PAGE];
    let start = space.as_ptr().align_offset(PAGE);
    let block = &space[start..][..PAGE];
    let open = |path, append| contenders.iter().map(move |contender| contender.open_new(path, append));
    let mut files = open("appended", true).collect::<Result<Vec<_>>>()?;
    let [taken] = in_turns(ROUNDS, &mut files, |file: &mut Box<dyn Bytes>| {
        file.set_len(0)?;
        Ok([per_item(&[(); LEN / 4 / APPENDED], |()| file.write(&block[..APPENDED]))?])
    })?;
    say_all("Library: append 1 KiB", GOAL, &NAMES, &taken);

    for (len, what) in [(HOT, "64 KiB"), (LEN, "16 MiB")] {
        let offsets = pages(len).repeat(LEN / len);
        let mut files = open(what, false).collect::<Result<Vec<_>>>()?;
        files.push(Box::new(Copied::new(&scratch.join(what), len)?));
        for file in &files {
            per_item(&offsets, |&offset| file.write_at(block, offset))?;
        }
        let [taken] = in_turns(ROUNDS, &mut files, |file: &mut Box<dyn Bytes>| {
            Ok([per_item(&offsets, |&offset| file.write_at(block, offset))?])
        })?;
        let [ours, theirs] = NAMES;
        say_all(&format!("Library: overwrite 4 KiB at random in {what}"), GOAL, &[ours, theirs, "memcpy"], &taken);
    }
    Ok(())
}
