//! What is left when the process that serves a mount is killed: all that it said was done, and nobody who hangs.

mod common;
#[path = "common/mounts.rs"]
mod mounts;

use mounts::*;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

/// Whoever waits for a mount whose process is killed gets an error, and the mount can be taken away.
#[test]
fn nothing_hangs_when_the_process_that_serves_is_killed() {
    let Some(mounts) = Mounts::new() else { return };
    let pid = mounts.mount();
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(mounts.at("f")).unwrap();
    file.write_all_at(&[1; 4096], 0).unwrap();
    kill(pid);
    soon(|| fs::metadata(mounts.at("other")).is_err_and(|error| error.kind() == io::ErrorKind::NotConnected));
    assert!(file.write_all_at(b"x", 0).is_err() && file.sync_all().is_err());
    mounts.place.run(["mount", &mounts.image(), &mounts.mnt()]).fails(1).says("lost its server").says("xip umount");
    drop(file);
    mounts.umount().succeeds();
    mounts.mount();
    assert_eq!(fs::read(mounts.at("f")).unwrap(), [1; 4096]);
    mounts.umount().succeeds();
    fsck(&mounts.image());
}

/// Rounds of a process that serves under load and is killed at some moment.
const ROUNDS: u64 = 200;
const WRITERS: u64 = 2;

/// What a writer was told is done: the last file that it wrote, moved and waited for, and the last that it removed.
#[derive(Clone, Copy, Default)]
struct Told {
    kept: Option<u64>,
    removed: Option<u64>,
    appended: u64,
}

fn content(writer: u64, n: u64) -> Vec<u8> {
    let len = (n * 2_654_435_761 + writer * 97) % 20_000;
    (0..len).map(|at| (at * 7 + n + writer) as u8).collect()
}

/// Stores through a shared mapping, and waits for `fsync`. The pages are there before anything is stored: a fault that nobody answers
/// any more would be a signal.
fn store_mapped(file: &File, bytes: &[u8]) -> io::Result<()> {
    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};
    file.set_len(bytes.len() as u64)?;
    if bytes.is_empty() {
        return Ok(());
    }
    let both = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping at a place of the kernel's choice, as long as what is copied to it, and unmapped here.
    unsafe {
        let at = mmap(std::ptr::null_mut(), bytes.len(), both, MapFlags::SHARED, file, 0)?;
        let there = madvise(at, bytes.len(), Advice::LinuxPopulateWrite);
        if there.is_ok() {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), at.cast(), bytes.len());
        }
        munmap(at, bytes.len())?;
        there?;
    }
    file.sync_all()
}

/// Makes, moves, removes and appends until it gets an error, and says what is done.
fn write_until_killed(at: &Path, writer: u64, round: u64, told: &Mutex<Told>) -> io::Result<()> {
    let directory = at.join(format!("r{round}w{writer}"));
    fs::create_dir(&directory)?;
    let mut log = OpenOptions::new().append(true).create(true).open(directory.join("log"))?;
    for n in 0.. {
        let (new, kept) = (directory.join("new"), directory.join(format!("kept{n}")));
        let mut file = File::options().read(true).write(true).create(true).truncate(true).open(&new)?;
        if n % 5 == 3 {
            store_mapped(&file, &content(writer, n))?;
        } else {
            file.write_all(&content(writer, n))?;
        }
        if n % 4 == 0 {
            file.sync_all()?;
        }
        drop(file);
        fs::rename(&new, &kept)?;
        told.lock().unwrap().kept = Some(n);
        log.write_all(&[n as u8])?;
        told.lock().unwrap().appended = n + 1;
        if n % 3 == 2 {
            fs::remove_file(directory.join(format!("kept{}", n - 1)))?;
            told.lock().unwrap().removed = Some(n - 1);
        }
    }
    Ok(())
}

/// All that a writer was told is so.
fn check(at: &Path, writer: u64, round: u64, told: Told) {
    let directory = at.join(format!("r{round}w{writer}"));
    for n in 0..=told.kept.map_or(0, |last| last) {
        if told.kept.is_none() {
            return;
        }
        let found = fs::read(directory.join(format!("kept{n}")));
        // Every third is removed: for sure up to the one that was told, and maybe the next one.
        let removed = n % 3 == 1 && told.removed.is_some_and(|last| n <= last);
        let maybe = n % 3 == 1 && n + 1 >= told.kept.unwrap_or(0);
        match found {
            Ok(bytes) => assert!(!removed && bytes == content(writer, n), "round {round}, writer {writer}, file {n}"),
            Err(error) => assert!(removed || maybe, "round {round}, writer {writer}, file {n}: {error}"),
        }
    }
    let log = fs::read(directory.join("log")).unwrap();
    assert!(log.len() as u64 >= told.appended, "round {round}, writer {writer}: the log");
    assert!(log.iter().enumerate().all(|(n, &byte)| byte == n as u8));
}

/// Contract 7 and issue 3: nothing that a finished call did is lost by a kill, with or without `fsync`, nor what was stored
/// through a mapping before one.
#[test]
fn what_finished_calls_did_survives_two_hundred_kills() {
    let Some(mounts) = Mounts::new() else { return };
    let mut seed = 88_172_645_463_325_252u64;
    let mut files = 0;
    for round in 0..ROUNDS {
        let pid = mounts.mount();
        let told: Vec<_> = (0..WRITERS).map(|_| Mutex::new(Told::default())).collect();
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let after = Duration::from_micros(500 + (seed >> 33) % 15_000);
        std::thread::scope(|scope| {
            for (writer, told) in (0..).zip(&told) {
                let at = mounts.at("");
                scope.spawn(move || write_until_killed(&at, writer, round, told).unwrap_err());
            }
            std::thread::sleep(after);
            kill(pid);
        });
        mounts.umount().succeeds();
        // Opening it repairs what was under way.
        mounts.mount();
        for (writer, told) in (0..).zip(told) {
            let told = told.into_inner().unwrap();
            files += told.kept.map_or(0, |last| last + 1);
            check(&mounts.at(""), writer, round, told);
            let _ = fs::remove_dir_all(mounts.at(&format!("r{round}w{writer}")));
        }
        mounts.umount().succeeds();
        fsck(&mounts.image());
    }
    println!("{ROUNDS} kills, {files} files written and none lost");
    assert!(files > ROUNDS);
}
