//! Pages that a file loses while they are mapped (contract 6): they belong to nobody until the last map has gone.

mod common;

use common::fsck;
use common::mapped::{PAGE, bytes, errno, world};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use xip::{Sharing, Volume};

const EFAULT: i32 = 14;
const ENOSPC: i32 = 28;

/// Contract 6: what is cut off while it is mapped is nobody's until the last map has let it go.
#[test]
fn pages_cut_off_while_mapped_come_back_with_the_last_map_and_belong_to_nobody_before() {
    let world = world(4);
    let (file, expected) = world.fragmented("f", 30);
    let runs = file.extents().unwrap();
    let [one, other] = [(); 2].map(|()| file.map(0, 30 * PAGE, Sharing::Write).unwrap());
    let free = world.free();
    file.set_len(0).unwrap();
    // The block of pointers only: it is not mapped.
    assert_eq!(world.free(), free + 1);
    // Everything that is free is written by another file: none of it may be a page that is mapped.
    let filler = world.file("filler");
    let _ = filler.write_at(&vec![0xbb; 4 << 20], 0);
    assert_eq!(world.free(), 0);
    let mut in_image = vec![0; PAGE];
    let image = std::fs::File::open(&world.image).unwrap();
    for placed in &runs {
        for page in 0..placed.run.count {
            image.read_exact_at(&mut in_image, (placed.run.first.0 + page) * 4096).unwrap();
            let at = (placed.index.0 + page) as usize * PAGE;
            let len = (expected.len() - at).min(PAGE);
            assert!(in_image[..len] == expected[at..at + len], "page {} is another file's", placed.index.0 + page);
        }
    }
    assert_eq!(errno(one.read(0, &mut [0])), EFAULT);
    assert_eq!(world.free(), 0, "the other map has them still");
    drop(other);
    assert_eq!(world.free(), 30, "one map has looked since, the other is gone");
    drop((one, file, filler));
    world.closed();
}

/// Contract 3 and 6: a punched hole unmaps, and its pages come back.
#[test]
fn a_hole_punched_while_mapped_reads_as_zeros_and_its_pages_come_back() {
    let world = world(4);
    let file = world.file("f");
    file.write_all_at(&[1; 8 * PAGE], 0).unwrap();
    let free = world.free();
    let map = file.map(0, 8 * PAGE, Sharing::Write).unwrap();
    file.punch_hole(2 * PAGE as u64, 3 * PAGE as u64).unwrap();
    assert_eq!(world.free(), free, "pinned");
    let mut expected = [1; 8 * PAGE];
    expected[2 * PAGE..5 * PAGE].fill(0);
    assert!(bytes(&map, 0, 8 * PAGE) == expected);
    assert_eq!(world.free(), free + 3, "nobody shows them any more");
    map.write(3 * PAGE, b"again").unwrap();
    assert_eq!(file.metadata().unwrap().blocks() / 8, 6);
    drop((map, file));
    world.closed();
}

/// Contract 6, and a file lives as long as someone has it: a map is someone.
#[test]
fn a_file_without_names_lives_as_long_as_its_map() {
    let world = world(4);
    let free = world.free();
    let (file, mut expected) = world.fragmented("f", 10);
    let map = file.map(0, 10 * PAGE, Sharing::Write).unwrap();
    drop(file);
    world.volume.remove_file("f").unwrap();
    world.volume.remove_file("beside").unwrap();
    let filler = world.file("filler");
    let _ = filler.write_at(&vec![0xbb; 4 << 20], 0);
    assert!(bytes(&map, 0, expected.len()) == expected);
    map.write(0, b"still").unwrap();
    expected[..5].copy_from_slice(b"still");
    assert!(bytes(&map, 0, expected.len()) == expected);
    drop(filler);
    world.volume.remove_file("filler").unwrap();
    assert!(world.free() < free);
    drop(map);
    assert_eq!(world.free(), free);
    world.closed();
}

/// Contract 6: a crash while pages wait for a pin leaks them, and the next opening gives them back.
#[test]
fn a_crash_while_pages_wait_for_their_pins_leaks_them_and_the_check_finds_them() {
    let world = world(4);
    let (file, _) = world.fragmented("f", 10);
    let map = file.map(0, 10 * PAGE, Sharing::Read).unwrap();
    file.set_len(0).unwrap();
    world.volume.sync().unwrap();
    let crashed = world.image.with_extension("crashed");
    std::fs::copy(&world.image, &crashed).unwrap();
    let device =
        xip_segment::PlainFile::open(std::fs::File::open(&crashed).unwrap(), xip_segment::Access::ReadOnly).unwrap();
    let mut memory = vec![0; xip_ext2::check::memory_wanted(&device).unwrap()];
    let mut found = Vec::new();
    let options = xip_ext2::check::Options { repair: false, now: None };
    xip_ext2::check::check(&device, &mut memory, &options, &mut |finding| {
        found.push((finding.class(), finding.to_string()));
    })
    .unwrap();
    assert!(
        found.iter().any(|(class, words)| *class == xip_ext2::check::Class::Leak && words.contains("block")),
        "{found:?}"
    );
    assert!(found.iter().all(|(class, _)| *class != xip_ext2::check::Class::Damage), "{found:?}");
    drop((map, file));
    let free = world.free();
    let again = Volume::open_writable(&crashed).unwrap();
    assert_eq!(again.statfs().unwrap().free_blocks, free);
    again.close().unwrap();
    fsck(&crashed);
    world.closed();
}

/// Contract 4 and 6, with threads: whatever is cut, punched, filled and removed, a map shows its own file or zeros.
#[test]
fn no_map_ever_shows_another_file_s_bytes_while_files_come_and_go() {
    let world = world(4);
    let file = world.file("a");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let maps: Vec<_> = [Sharing::Read, Sharing::Write, Sharing::Private, Sharing::Write]
            .into_iter()
            .map(|sharing| {
                let (file, stop) = (&file, &stop);
                scope.spawn(move || {
                    let mut map = file.map(0, 64 * PAGE, sharing).unwrap();
                    let (mut seen, mut round) = (0, 0);
                    while !stop.load(Ordering::Relaxed) {
                        round += 1;
                        let at = round * 7919 % (60 * PAGE);
                        let mut to = [0; 3 * PAGE];
                        match map.read(at, &mut to) {
                            Ok(()) => {
                                seen += 1;
                                assert!(to.iter().all(|byte| matches!(byte, 0 | 0xaa)), "another file's");
                            }
                            Err(error) => assert_eq!(error.errno(), EFAULT, "{error}"),
                        }
                        if sharing != Sharing::Read {
                            match map.write(at, &[0xaa; 100]) {
                                Ok(()) => {}
                                Err(error) => assert!([EFAULT, ENOSPC].contains(&error.errno()), "{error}"),
                            }
                        }
                        if round % 100 == 0 {
                            map = file.map(0, 64 * PAGE, sharing).unwrap();
                        }
                    }
                    seen
                })
            })
            .collect();
        for round in 0..1500u64 {
            let other = world.file("b");
            match round % 4 {
                0 => file.set_len(round * 4096 % (64 * 4096)).unwrap(),
                1 => drop(file.write_at(&[0xaa; 20 * PAGE], round * 1000 % (40 * 4096))),
                2 => file.punch_hole(round * 5000 % (30 * 4096), 10 * 4096).unwrap(),
                _ => drop(file.set_len(64 * 4096)),
            }
            // All that is free and not pinned.
            drop(other.write_at(&vec![0xbb; 4 << 20], 0));
            other.set_len(0).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        assert!(maps.into_iter().map(|map| map.join().unwrap()).min() > Some(0));
    });
    drop(file);
    world.closed();
}
