//! How long reads and path look-ups take on this machine, next to what they are measured against.
//!
//! `cargo run --release -p xip --example speed -- IMAGE DIRECTORY`: `DIRECTORY`, best on tmpfs, holds what the image was
//! built from. The largest file and the deepest path are found and used.

use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;
use xip::Volume;

const ROUNDS: usize = 200_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(image), Some(directory)) = (arguments.next(), arguments.next()) else {
        return Err("usage: speed IMAGE DIRECTORY".into());
    };
    let volume = Volume::open(image)?;
    volume.in_place()?;

    let mut largest = (0, PathBuf::new());
    let mut deep = PathBuf::new();
    find(&directory, Path::new(""), 0, &mut largest, &mut deep)?;
    println!("largest file {} ({} bytes), path {}", largest.1.display(), largest.0, deep.display());

    let ours = volume.file(&largest.1)?;
    let theirs = std::fs::File::open(directory.join(&largest.1))?;
    let bytes = ours.volume().read(&largest.1)?;
    let pages = bytes.len() / 4096;
    let mut random = 88_172_645_463_325_252_u64;
    let mut places = Vec::new();
    for _ in 0..ROUNDS {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        places.push(usize::try_from(random % pages as u64)? * 4096);
    }
    let mut page = [0; 4096];
    let memcpy = time("memcpy of 4 KiB, random", || {
        for &at in &places {
            page.copy_from_slice(black_box(&bytes[at..at + 4096]));
            black_box(&mut page);
        }
    });
    let read = time("read_at of 4 KiB, random", || {
        for &at in &places {
            black_box(ours.read_at(&mut page, at as u64).is_ok());
            black_box(&mut page);
        }
    });
    let pread = time("pread of 4 KiB, random", || {
        for &at in &places {
            black_box(theirs.read_at(&mut page, at as u64).is_ok());
            black_box(&mut page);
        }
    });
    println!("read / memcpy {:.2}, pread / read {:.2}", read / memcpy, pread / read);

    let opened = time("open and stat", || {
        for _ in 0..ROUNDS {
            black_box(volume.file(black_box(&deep)).map(|file| file.metadata().map(|m| m.len())).is_ok());
        }
    });
    let system = directory.join(&deep);
    let called = time("openat, fstat, close", || {
        for _ in 0..ROUNDS {
            black_box(std::fs::File::open(black_box(&system)).and_then(|file| file.metadata()).is_ok());
        }
    });
    println!("system calls / ours {:.1}", called / opened);
    Ok(())
}

/// Nanoseconds a round takes: the median of seven runs.
fn time(what: &str, mut run: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..7)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64() * 1e9 / ROUNDS as f64
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!("{what:30} {:8.1} ns", times[3]);
    times[3]
}

fn find(root: &Path, at: &Path, depth: usize, largest: &mut (u64, PathBuf), deep: &mut PathBuf) -> std::io::Result<()> {
    for entry in std::fs::read_dir(root.join(at))? {
        let entry = entry?;
        let (kind, path) = (entry.file_type()?, at.join(entry.file_name()));
        if kind.is_dir() {
            find(root, &path, depth + 1, largest, deep)?;
        } else if kind.is_file() {
            let len = entry.metadata()?.len();
            if len > largest.0 {
                *largest = (len, path.clone());
            }
            if depth == 4 {
                *deep = path;
            }
        }
    }
    Ok(())
}
