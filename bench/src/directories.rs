//! What a directory of 100,000 names costs more than one of 100, through the library.
//!
//! Beside the large directory there are as many names in a thousand small ones: the same work for the processor's caches, which hold
//! little of either. A single small one, all of which they hold, shows what they are worth.

use crate::{in_turns, per_item, say_all, shuffle};
use anyhow::{Context, Result};
use std::hint::black_box;
use std::path::Path;
use xip::{InodeNo, NewInode, NewKind, Volume};

const ROUNDS: usize = 21;
/// Directories, and names in each.
const SIZES: [(usize, usize); 3] = [(1, 100_000), (1000, 100), (1, 100)];
const NAMES: [&str; 3] = ["100,000 names", "100 names", "100 names, always the same directory"];
const GOAL: &str = "2 100 names";
const LOOKUPS: usize = 20_000;
/// So many are made and removed again, so many times: the directories stay as large as they are.
const MADE: usize = 10;
const TIMES: usize = 200;
const VOLUME: u64 = 6 << 30;

/// A directory and a name.
type Name = (InodeNo, String);

struct Directories {
    names: Vec<Name>,
    /// Those that are not there.
    others: Vec<Name>,
}

/// Makes a volume in `scratch`, a new directory on tmpfs.
pub fn measure(scratch: &Path) -> Result<()> {
    let volume = Volume::create(scratch.join("volume"), VOLUME)?;
    let inodes = volume.inodes();
    let new = NewInode { kind: NewKind::Regular, permissions: 0o644, uid: 0, gid: 0 };
    let mut contenders = Vec::new();
    for (count, size) in SIZES {
        let mut numbers = Vec::new();
        for n in 0..count {
            let path = format!("{n}of{size}with{count}");
            volume.create_dir(&path)?;
            numbers.push(inodes.lookup(InodeNo::ROOT, path.as_bytes())?.context("a new directory is there")?);
        }
        // All have another directory than the one before.
        let name = |n: usize| (numbers[n % count], format!("file{:06}", n / count));
        let mut names: Vec<_> = (0..count * size).map(name).collect();
        let mut others: Vec<_> = (count * size..count * size + MADE * TIMES).map(name).collect();
        shuffle(&mut names);
        shuffle(&mut others);
        for (directory, name) in &names {
            inodes.create(*directory, name.as_bytes(), &new)?;
        }
        let mut names: Vec<_> = (0..LOOKUPS).map(|n| names[n % names.len()].clone()).collect();
        shuffle(&mut names);
        contenders.push(Directories { names, others });
    }
    let taken = in_turns(ROUNDS, &mut contenders, |Directories { names, others }| {
        let found = per_item(names, |(directory, name)| {
            black_box(inodes.lookup(*directory, name.as_bytes())?.context("the name is there")?);
            Ok(())
        })?;
        let mut made = 0.0;
        for others in others.chunks(MADE) {
            made += per_item(others, |(directory, name)| {
                inodes.create(*directory, name.as_bytes(), &new).map(drop).map_err(Into::into)
            })?;
            for (directory, name) in others {
                inodes.unlink(*directory, name.as_bytes())?;
            }
        }
        Ok([found, made / TIMES as f64])
    })?;
    for (what, taken) in ["look a name up", "create a file"].into_iter().zip(&taken) {
        say_all(&format!("Library: {what} in a large directory"), GOAL, &NAMES, taken);
    }
    Ok(())
}
