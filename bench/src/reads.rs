//! Reading: the library beside `memcpy` and system calls, on the largest file of the tree and on paths five deep.

use crate::{PAGE, say, shuffle};
use anyhow::{Context, Result};
use rustix::fs::{Advice, fadvise};
use std::fs::{self, File};
use std::hint::black_box;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

const ROUNDS: usize = 21;
/// Passes over a file in a round.
const PASSES: usize = 5;
const PATHS: usize = 500;

/// Reads from the segment, and by system calls from the same tree on tmpfs and from its image, mounted.
pub fn measure(segments: &Path, segment: &Path, tree: &Path, on_loop: &Path, on_fuse2fs: &Path) -> Result<()> {
    let name = segment.to_str().context("the name of a segment is text")?;
    let volume = xip::Volume::from_segment(&xip_segment::Store::open(segments)?.get(name)?)?;
    let tree = Tree::walk(tree)?;
    reads(&volume, &tree, on_loop, on_fuse2fs)?;
    opens(&volume, &tree)
}

/// The tree on tmpfs, and what of it is used.
struct Tree {
    root: PathBuf,
    /// The largest file; a path inside, as all are.
    largest: PathBuf,
    /// Files whose path is five deep.
    deep: Vec<PathBuf>,
}

impl Tree {
    fn walk(root: &Path) -> Result<Self> {
        let (mut largest, mut deep) = ((0, PathBuf::new()), Vec::new());
        let mut waiting = vec![PathBuf::new()];
        while let Some(inside) = waiting.pop() {
            for entry in fs::read_dir(root.join(&inside))? {
                let entry = entry?;
                let path = inside.join(entry.file_name());
                let meta = entry.metadata()?;
                if meta.is_dir() {
                    waiting.push(path);
                } else if meta.is_file() {
                    if path.components().count() == 5 {
                        deep.push(path.clone());
                    }
                    largest = largest.max((meta.size(), path));
                }
            }
        }
        deep.sort();
        shuffle(&mut deep);
        deep.truncate(PATHS);
        Ok(Self { root: root.into(), largest: largest.1, deep })
    }
}

fn reads(volume: &xip::Volume, tree: &Tree, on_loop: &Path, on_fuse2fs: &Path) -> Result<()> {
    let ours = volume.file(&tree.largest)?;
    let len = usize::try_from(ours.len())?;
    let same = ours.as_slice(0, len).context("the largest file is not one stretch of the segment")?;
    let [tmpfs, kernel, fuse] = [&tree.root, on_loop, on_fuse2fs].map(|root| File::open(root.join(&tree.largest)));
    let (tmpfs, kernel, fuse) = (tmpfs?, kernel?, fuse?);
    let forget = |file: &File| fadvise(file, 0, None, Advice::DontNeed);

    for (title, size, random) in [
        ("Read 4 KiB at random", 4 << 10, true),
        ("Read 4 KiB after the other", 4 << 10, false),
        ("Read 128 KiB after the other", 128 << 10, false),
    ] {
        let mut offsets: Vec<usize> = (0..len / size).map(|block| block * size).collect();
        if random {
            shuffle(&mut offsets);
        }
        let goal = if random { "1.1 memcpy" } else { "" };
        // At the start of a page. An allocation may lie anywhere in one, and a copy to 16 bytes into one takes half as
        // long again: the figures would be of chance.
        let mut space = vec![0; size + PAGE];
        let start = space.as_ptr().align_offset(PAGE);
        let buffer = &mut space[start..][..size];
        // A pass over the whole file: seconds for one read.
        let mut pass = |read: &mut dyn FnMut(&mut [u8], usize) -> Result<()>| {
            let start = Instant::now();
            for offset in &offsets {
                read(buffer, *offset)?;
                black_box(&mut *buffer);
            }
            anyhow::Ok(start.elapsed().as_secs_f64() / offsets.len() as f64)
        };
        // Whatever the processor's caches can hold of a contender's memory they hold: the first pass does not count. Of
        // the others the best does: a pass takes so little time that one interruption would be all of the figure.
        let mut warm = |read: &mut dyn FnMut(&mut [u8], usize) -> Result<()>| {
            pass(read)?;
            (0..PASSES).try_fold(f64::INFINITY, |best, _| anyhow::Ok(pass(read)?.min(best)))
        };

        let mut rounds: [Vec<f64>; 5] = Default::default();
        for round in 0..ROUNDS {
            let mut library = |to: &mut [u8], at: usize| Ok(ours.read_exact_at(to, at as u64)?);
            let mut copy = |to: &mut [u8], at: usize| {
                to.copy_from_slice(&same[at..at + to.len()]);
                Ok(())
            };
            // These two read the same memory: who comes second finds more of it in the processor's caches.
            if round % 2 == 0 {
                rounds[0].push(warm(&mut library)?);
                rounds[1].push(warm(&mut copy)?);
            } else {
                rounds[1].push(warm(&mut copy)?);
                rounds[0].push(warm(&mut library)?);
            }
            for (file, rounds) in [&tmpfs, &kernel, &fuse].into_iter().zip(&mut rounds[2..]) {
                rounds.push(warm(&mut |to, at| Ok(file.read_exact_at(to, at as u64)?))?);
            }
        }
        let mut cold: [Vec<f64>; 2] = Default::default();
        for _ in 0..ROUNDS {
            for (file, rounds) in [&kernel, &fuse].into_iter().zip(&mut cold) {
                forget(file)?;
                rounds.push(pass(&mut |to, at| Ok(file.read_exact_at(to, at as u64)?))?);
            }
        }
        let names = ["the library", "memcpy", "pread, tmpfs", "pread, loop mount", "pread, fuse2fs"];
        for (name, rounds) in names.into_iter().zip(&rounds) {
            say(title, goal, name, rounds);
        }
        for (name, rounds) in ["pread, loop mount, cold", "pread, fuse2fs, cold"].into_iter().zip(&cold) {
            say(title, goal, name, rounds);
        }
    }
    Ok(())
}

/// Paths are looked up from the root of the volume, and from a current directory: the same walk for both.
fn opens(volume: &xip::Volume, tree: &Tree) -> Result<()> {
    std::env::set_current_dir(&tree.root)?;
    let each = |open: &dyn Fn(&Path) -> Result<u64>| {
        let start = Instant::now();
        for path in &tree.deep {
            black_box(open(path)?);
        }
        anyhow::Ok(start.elapsed().as_secs_f64() / tree.deep.len() as f64)
    };
    let ours = |path: &Path| Ok(volume.file(path)?.metadata()?.len());
    let theirs = |path: &Path| Ok(File::open(path)?.metadata()?.len());
    let mut rounds = [Vec::new(), Vec::new()];
    for _ in 0..=ROUNDS {
        rounds[0].push(each(&ours)?);
        rounds[1].push(each(&theirs)?);
    }
    for (name, rounds) in ["the library", "system calls, tmpfs"].into_iter().zip(&rounds) {
        say("open + stat of a path five deep", "0.2 system calls, tmpfs", name, &rounds[1..]);
    }
    Ok(())
}
