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
    for (len, what) in [(HOT, "64 KiB"), (LEN, "16 MiB")] {
        // As often as it takes for a measure of the same length.
        let times = LEN / len;
        let [ours, theirs] = NAMES;
        let measure = |title: &str, append: bool, turn: &mut dyn FnMut(&mut dyn Bytes) -> Result<f64>| {
            let path = format!("{append}{len}");
            let mut files = contenders.iter().map(|one| one.open_new(&path, append)).collect::<Result<Vec<_>>>()?;
            files.push(Box::new(Copied::new(&scratch.join(path), len)?));
            for file in &mut files {
                turn(&mut **file)?;
            }
            let [taken] = in_turns(ROUNDS, &mut files, |file| Ok([turn(&mut **file)?]))?;
            say_all(&format!("Library: {title} {what}"), GOAL, &[ours, theirs, "memcpy"], &taken);
            anyhow::Ok(())
        };
        let records = vec![(); len / APPENDED];
        measure("append 1 KiB to a file, up to", true, &mut |file| {
            let mut sum = 0.0;
            for _ in 0..times {
                file.set_len(0)?;
                sum += per_item(&records, |()| file.write(&block[..APPENDED]))?;
            }
            Ok(sum / times as f64)
        })?;
        let mut offsets = pages(len).repeat(times);
        // One order again and again would be the worst for a cache that holds most of them.
        shuffle(&mut offsets);
        measure("overwrite 4 KiB at random in", false, &mut |file| {
            per_item(&offsets, |&offset| file.write_at(block, offset))
        })?;
    }
    Ok(())
}
