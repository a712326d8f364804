//! Threads share a volume that is written: nothing is lost, mixed or given to another, nobody waits for ever; e2fsck
//! judges what is left.

mod common;

use common::{fsck, pattern};
use std::io::{BufRead, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use tempfile::TempDir;
use xip::{Error, OpenOptions, Volume, VolumeError};

const THREADS: u64 = 6;

fn world(bytes: u64) -> (TempDir, PathBuf, Volume) {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let volume = Volume::create(&image, bytes).unwrap();
    (dir, image, volume)
}

#[test]
fn threads_write_files_of_their_own() {
    let (_dir, image, volume) = world(64 << 20);
    thread::scope(|scope| {
        for n in 0..THREADS {
            let volume = &volume;
            scope.spawn(move || {
                volume.create_dir(format!("{n}")).unwrap();
                for round in 0..20 {
                    let bytes = pattern(n * 100 + round, 100_000 + 777 * round as usize);
                    let file = volume.create_file(format!("{n}/{round}")).unwrap();
                    for (at, part) in bytes.chunks(30_000).enumerate() {
                        file.write_all_at(part, 30_000 * at as u64).unwrap();
                    }
                }
            });
        }
    });
    for n in 0..THREADS {
        for round in 0..20 {
            let bytes = pattern(n * 100 + round, 100_000 + 777 * round as usize);
            assert!(volume.read(format!("{n}/{round}")).unwrap() == bytes, "{n}/{round}");
        }
    }
    volume.close().unwrap();
    fsck(&image);
}

/// Contract 3, write: the size is taken under the lock, so no line is lost, and none is torn.
#[test]
fn lines_appended_by_threads_are_all_there_and_whole() {
    let (_dir, image, volume) = world(16 << 20);
    thread::scope(|scope| {
        for n in 0..THREADS {
            let volume = &volume;
            scope.spawn(move || {
                let mut log = OpenOptions::new().append(true).create(true).open(volume, "log").unwrap();
                for line in 0..500 {
                    let text = format!("{n} {line} {}\n", "x".repeat(line % 90));
                    assert_eq!(log.write(text.as_bytes()).unwrap(), text.len());
                }
            });
        }
    });
    let mut next = [0; THREADS as usize];
    for line in volume.read("log").unwrap().lines() {
        let line = line.unwrap();
        let words: Vec<_> = line.split(' ').collect();
        let (thread, number): (usize, usize) = (words[0].parse().unwrap(), words[1].parse().unwrap());
        assert_eq!((number, words[2].len()), (next[thread], number % 90), "{line}");
        next[thread] += 1;
    }
    assert_eq!(next, [500; THREADS as usize]);
    volume.close().unwrap();
    fsck(&image);
}

/// One position for all who use a file, as in the kernel: every byte is read once.
#[test]
fn threads_that_read_one_file_share_its_position() {
    let (_dir, image, volume) = world(16 << 20);
    let bytes: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    volume.write("f", &bytes).unwrap();
    let file = volume.file("f").unwrap();
    let mut seen: Vec<u32> = thread::scope(|scope| {
        let readers: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| {
                    let (mut seen, mut word) = (Vec::new(), [0; 4]);
                    while (&file).read(&mut word).unwrap() == 4 {
                        seen.push(u32::from_le_bytes(word));
                    }
                    seen
                })
            })
            .collect();
        readers.into_iter().flat_map(|reader| reader.join().unwrap()).collect()
    });
    seen.sort_unstable();
    assert!(seen.iter().copied().eq(0..100_000));
    drop(file);
    volume.close().unwrap();
    fsck(&image);
}

/// A write of two pages is seen wholly or not at all (contract 3, one operation under the file's lock).
#[test]
fn a_reader_never_sees_half_of_a_write() {
    let (_dir, image, volume) = world(16 << 20);
    volume.write("f", [0; 8192]).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let file = OpenOptions::new().write(true).open(&volume, "f").unwrap();
            for round in 0..5000_u32 {
                file.write_all_at(&[round as u8; 8192], 0).unwrap();
            }
            done.store(true, Ordering::Relaxed);
        });
        for _ in 0..2 {
            scope.spawn(|| {
                let file = volume.file("f").unwrap();
                let mut bytes = [0; 8192];
                while !done.load(Ordering::Relaxed) {
                    file.read_exact_at(&mut bytes, 0).unwrap();
                    assert!(bytes.iter().all(|&byte| byte == bytes[0]));
                }
            });
        }
    });
    volume.close().unwrap();
    fsck(&image);
}

/// Contract 4: an owner and the loss of set-id bits are one change, of which nobody undoes another's.
#[test]
fn permissions_that_are_set_stay_while_others_set_owners() {
    let (_dir, image, volume) = world(4 << 20);
    volume.write("f", b"").unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for owner in 0.. {
                volume.set_owner("f", Some(owner), None).unwrap();
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        for _ in 0..200_000 {
            for mode in [0o711, 0o600] {
                volume.set_permissions("f", mode).unwrap();
                let found = volume.metadata("f").unwrap().inode().permissions;
                if u32::from(found) != mode {
                    stop.store(true, Ordering::Relaxed);
                    panic!("{found:o}, and {mode:o} was set");
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    volume.close().unwrap();
    fsck(&image);
}

/// Names come and go under the feet of those who open them: whoever has a file has the one that had the name, never one that
/// got its number since.
#[test]
fn a_file_that_was_opened_is_the_one_that_had_the_name() {
    let (_dir, image, volume) = world(16 << 20);
    // Each name has its own kind of contents.
    let names = ["a/one", "a/two", "b/one", "b/two"];
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for directory in ["a", "b"] {
            let (volume, done) = (&volume, &done);
            scope.spawn(move || {
                for round in 0..1500 {
                    volume.create_dir(directory).unwrap();
                    for name in names.iter().filter(|name| name.starts_with(directory)) {
                        let file = OpenOptions::new().write(true).create_new(true).open(volume, name).unwrap();
                        file.write_all_at(name.as_bytes(), 0).unwrap();
                    }
                    if round % 2 == 0 {
                        volume.remove_dir_all(directory).unwrap();
                    } else {
                        volume.rename(directory, format!("{directory}-going")).unwrap();
                        volume.remove_dir_all(format!("{directory}-going")).unwrap();
                    }
                }
                done.store(true, Ordering::Relaxed);
            });
        }
        for n in 0..3 {
            let (volume, done) = (&volume, &done);
            scope.spawn(move || {
                let mut found = 0;
                let mut round = n;
                while !done.load(Ordering::Relaxed) {
                    round += 1;
                    let name = names[round % names.len()];
                    match volume.file(name) {
                        Ok(file) => {
                            let bytes = file.read_all().unwrap();
                            // Empty: its maker has not come further.
                            assert!(bytes.is_empty() || bytes == name.as_bytes(), "{name}: {bytes:?}");
                            found += usize::from(!bytes.is_empty());
                        }
                        Err(Error::Path { source: VolumeError::NotFound, .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                    match volume.set_permissions(name, 0o600) {
                        Ok(()) | Err(Error::Path { source: VolumeError::NotFound, .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                    // Whatever is a directory kept its mode.
                    if let Ok(metadata) = volume.metadata(&name[..1]) {
                        assert_eq!(metadata.mode(), 0o040_755);
                    }
                }
                found
            });
        }
    });
    volume.close().unwrap();
    fsck(&image);
}

/// Threads create, link, rename, exchange, write and remove over the same few names.
#[test]
fn threads_fight_for_names() {
    let (_dir, image, volume) = world(32 << 20);
    for directory in ["x", "y"] {
        volume.create_dir(directory).unwrap();
    }
    let free = volume.statfs().unwrap();
    thread::scope(|scope| {
        for n in 0..THREADS {
            let volume = &volume;
            scope.spawn(move || {
                let mut state = n * 7919 + 1;
                let mut next = |below: u64| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    state % below
                };
                for _ in 0..3000 {
                    let one = format!("{}/{}", ["x", "y"][next(2) as usize], next(4));
                    let other = format!("{}/{}", ["x", "y"][next(2) as usize], next(4));
                    let done = match next(8) {
                        0 => volume.write(&one, pattern(next(9), next(20_000) as usize)),
                        1 => volume.remove_file(&one),
                        2 => volume.rename(&one, &other),
                        3 => volume.exchange(&one, &other),
                        4 => volume.rename_no_replace(&one, &other),
                        5 => volume.hard_link(&one, &other),
                        6 => volume.create_dir(&one),
                        _ => volume.remove_dir(&one),
                    };
                    match done {
                        Ok(()) | Err(Error::Path { .. } | Error::Paths { .. } | Error::Volume(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
    });
    for directory in ["x", "y"] {
        volume.remove_dir_all(directory).unwrap();
        volume.create_dir(directory).unwrap();
    }
    // Nothing is leaked.
    assert_eq!(volume.statfs().unwrap(), free);
    volume.close().unwrap();
    fsck(&image);
}

/// The program that is killed: it writes files, says so, and goes on.
#[test]
#[ignore = "run by another test, which kills it"]
fn victim() {
    let image = std::env::var_os("XIP_TEST_IMAGE").unwrap();
    let volume = Volume::open_writable(Path::new(&image)).unwrap();
    let round: u64 = std::env::var("XIP_TEST_ROUND").unwrap().parse().unwrap();
    println!("ready");
    thread::scope(|scope| {
        for n in 0..2 {
            let volume = &volume;
            scope.spawn(move || {
                let directory = format!("{round}-{n}");
                volume.create_dir(&directory).unwrap();
                for number in 0.. {
                    let name = format!("{directory}/{number}");
                    volume.write(&name, pattern(number, 10_000)).unwrap();
                    volume.rename(&name, format!("{name}-done")).unwrap();
                    println!("done {name}-done {number}");
                    if number >= 10 {
                        let gone = format!("{directory}/{}-done", number - 10);
                        volume.remove_file(&gone).unwrap();
                        println!("gone {gone}");
                    }
                }
            });
        }
    });
}

/// Contract 7 and issue 3: what a finished call did is there after a `kill -9`, and the next opening mends the rest. A dead holder
/// does not block it.
#[test]
fn what_was_acknowledged_survives_two_hundred_kills() {
    const ROUNDS: u64 = 200;
    let (_dir, image, volume) = world(4 << 20);
    volume.close().unwrap();
    let (mut seed, mut checked) = (88_172_645_463_325_252u64, 0);
    for round in 0..ROUNDS {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "victim", "--ignored", "--nocapture", "--test-threads=1"])
            .env("XIP_TEST_IMAGE", &image)
            .env("XIP_TEST_ROUND", round.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut output = std::io::BufReader::new(victim.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains("ready") {
            line.clear();
            assert_ne!(output.read_line(&mut line).unwrap(), 0, "the victim died by itself");
        }
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        thread::sleep(std::time::Duration::from_micros((seed >> 33) % 20_000));
        victim.kill().unwrap();
        victim.wait().unwrap();
        let mut said = String::new();
        output.read_to_string(&mut said).unwrap();

        let volume = Volume::open_writable(&image).unwrap();
        let mut whole: Vec<_> = said.lines().collect();
        if !said.ends_with('\n') {
            whole.pop();
        }
        for (at, line) in whole.iter().enumerate() {
            let Some((name, number)) = line.strip_prefix("done ").and_then(|rest| rest.split_once(' ')) else {
                continue;
            };
            let gone = format!("gone {name}");
            let number: u64 = number.parse().unwrap();
            match volume.read(name) {
                Ok(bytes) => {
                    assert!(bytes == pattern(number, 10_000), "{name}");
                    assert!(!whole.contains(&gone.as_str()), "{name} is back");
                }
                // Removed, whether or not the victim came to say so: its directory's tenth after it is done.
                Err(_) => {
                    let later = name.replace(&format!("/{number}-"), &format!("/{}-", number + 10));
                    assert!(whole[at..].iter().any(|line| line.contains(&later)), "{name} is lost");
                }
            }
            checked += 1;
        }
        volume.remove_dir_all(format!("{round}-0")).ok();
        volume.remove_dir_all(format!("{round}-1")).ok();
        volume.close().unwrap();
        fsck(&image);
    }
    println!("{ROUNDS} kills, {checked} files that were acknowledged, and none lost");
    assert!(checked > ROUNDS);
}
