//! What a directory of 100,000 names costs more than one of 100, through the library.

use crate::{in_turns, per_item, say_all, shuffle};
use anyhow::{Context, Result};
use std::hint::black_box;
use std::path::Path;
use xip::{InodeNo, NewInode, NewKind, Volume};

const ROUNDS: usize = 21;
/// Names in the two, the large one first.
const SIZES: [usize; 2] = [100_000, 100];
const NAMES: [&str; 2] = ["100,000 names", "100 names"];
const GOAL: &str = "2 100 names";
const LOOKUPS: usize = 20_000;
/// So many are made and removed again, so many times: the directories stay as large as they are.
const MADE: usize = 10;
const TIMES: usize = 200;
const VOLUME: u64 = 4 << 30;

struct Directory {
    number: InodeNo,
    names: Vec<String>,
    /// Those that are not there.
    others: Vec<String>,
}

/// Makes a volume in `scratch`, a new directory on tmpfs.
pub fn measure(scratch: &Path) -> Result<()> {
    let volume = Volume::create(scratch.join("volume"), VOLUME)?;
    let inodes = volume.inodes();
    let new = NewInode { kind: NewKind::Regular, permissions: 0o644, uid: 0, gid: 0 };
    let mut directories = Vec::new();
    for size in SIZES {
        let name = format!("of{size}");
        volume.create_dir(&name)?;
        let number = inodes.lookup(InodeNo::ROOT, name.as_bytes())?.context("a new directory is there")?;
        let mut all: Vec<_> = (0..size + MADE * TIMES).map(|file| format!("file{file:06}")).collect();
        shuffle(&mut all);
        let others = all.split_off(size);
        for name in &all {
            inodes.create(number, name.as_bytes(), &new)?;
        }
        let mut names: Vec<_> = (0..LOOKUPS).map(|n| all[n % size].clone()).collect();
        shuffle(&mut names);
        directories.push(Directory { number, names, others });
    }
    let taken = in_turns(ROUNDS, &mut directories, |Directory { number, names, others }| {
        let found = per_item(names, |name| {
            black_box(inodes.lookup(*number, name.as_bytes())?.context("the name is there")?);
            Ok(())
        })?;
        let mut made = 0.0;
        for others in others.chunks(MADE) {
            made +=
                per_item(others, |name| inodes.create(*number, name.as_bytes(), &new).map(drop).map_err(Into::into))?;
            for name in others {
                inodes.unlink(*number, name.as_bytes())?;
            }
        }
        Ok([found, made / TIMES as f64])
    })?;
    for (what, taken) in ["look a name up", "create a file"].into_iter().zip(&taken) {
        say_all(&format!("Library: {what} in a large directory"), GOAL, &NAMES, taken);
    }
    Ok(())
}
