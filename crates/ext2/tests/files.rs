//! The file operations about space on a volume, by the rules of contract 3 and 6, judged by e2fsck.

mod support;

use std::cell::{Cell, RefCell};
use support::{Bytes, NOW, fsck_file, volume};
use xip_core::ops::{self, Writer};
use xip_core::{Cached, Device, Env, Freed, Host, LockId, PAGE_SIZE, PageNo, Pages, Run, Timestamp};
use xip_ext2::{Blocks, Error, File, InodeNo, NewInode, NewKind, SetAttributes, Volume};

const PAGE: u64 = PAGE_SIZE as u64;

/// Says of some pages that someone has pinned them.
#[derive(Default)]
struct Pins {
    pinned: Cell<Option<Run>>,
    later: RefCell<Vec<Run>>,
}

impl Env for Pins {
    type Guard<'a> = ();
    fn now(&self) -> Timestamp {
        NOW
    }
    fn shared(&self, _: LockId) {}
    fn exclusive(&self, _: LockId) {}
    fn freed(&self, run: Run) -> Freed {
        let Some(pinned) = self.pinned.get() else { return Freed::Now(run.count) };
        let end = pinned.first.0 + pinned.count;
        if run.first < pinned.first {
            return Freed::Now(run.count.min(pinned.first.0 - run.first.0));
        }
        if run.first.0 >= end {
            return Freed::Now(run.count);
        }
        let count = run.count.min(end - run.first.0);
        self.later.borrow_mut().push(Run { count, ..run });
        Freed::Later(count)
    }
}

type Test<'d> = Volume<&'d Bytes, Pins>;

fn open<'d>(made: &'d Volume<Bytes, xip_core::Alone>) -> Test<'d> {
    Volume::open(made.device(), Pins::default()).unwrap()
}

fn create(volume: &Test<'_>, name: &str) -> InodeNo {
    let new = NewInode { kind: NewKind::Regular, permissions: 0o644, uid: 0, gid: 0 };
    volume.create(InodeNo::ROOT, name.as_bytes(), &new).unwrap()
}

fn file<'v, 'd>(volume: &'v Test<'d>, number: InodeNo) -> Cached<Blocks<'v, &'d Bytes, Pins>> {
    match volume.file(number).unwrap() {
        File::Cached(file) => file,
        File::InPlace(_) => unreachable!("the device has no direct access"),
    }
}

fn contents(file: &impl Pages<Error = Error>) -> Vec<u8> {
    let mut bytes = vec![0xaa; usize::try_from(file.size().unwrap()).unwrap()];
    let count = ops::read(file, 0, &mut bytes).unwrap();
    assert_eq!(count, bytes.len());
    bytes
}

fn fsck(volume: &Test<'_>) {
    let image = tempfile::NamedTempFile::new().unwrap();
    let mut bytes = volume.device().to_vec();
    bytes.truncate(usize::try_from(volume.geometry().bytes()).unwrap());
    std::fs::write(image.path(), bytes).unwrap();
    fsck_file(image.path());
}

fn how() -> Writer {
    Writer::default()
}

/// Contract 3, fallocate, punch hole: "allocated space reads as zeros; a punched hole unmaps". Against a model, over all
/// levels of the block map.
#[test]
fn space_is_given_and_taken_and_the_bytes_are_those_of_a_model() {
    let made = volume(6000, 64);
    let volume = open(&made);
    let number = create(&volume, "f");
    let open = file(&volume, number);
    let mut model: Vec<u8> = Vec::new();
    let mut seed = 99u64;
    let mut random = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    };
    // Direct, one level, two levels.
    let most = (12 + 1024 + 700) * PAGE_SIZE;
    for step in 0..500 {
        let near = [0, 11 * PAGE_SIZE, (12 + 1023) * PAGE_SIZE][random(3)];
        let offset = (near + random(5 * PAGE_SIZE)).min(most - 1);
        let len = 1 + if random(8) == 0 { random(most - offset) } else { random(3 * PAGE_SIZE) };
        let end = offset + len;
        let kind = random(6);
        if kind != 1 && kind != 4 && model.len() < end {
            model.resize(end, 0);
        }
        match kind {
            0 => {
                let bytes: Vec<u8> = (0..len).map(|n| (n + step) as u8 | 1).collect();
                assert_eq!(ops::write(&open, offset as u64, &bytes, &how()), Ok(len));
                model[offset..end].copy_from_slice(&bytes);
            }
            1 => {
                ops::punch_hole(&open, offset as u64, len as u64, &how()).unwrap();
                let size = model.len();
                model[offset.min(size)..end.min(size)].fill(0);
            }
            2 => ops::fallocate(&open, offset as u64, len as u64, false, &how()).unwrap(),
            3 => {
                ops::zero_range(&open, offset as u64, len as u64, false, &how()).unwrap();
                model[offset..end].fill(0);
            }
            4 => {
                ops::truncate(&open, offset as u64).unwrap();
                model.resize(offset, 0);
            }
            _ => {
                ops::truncate(&open, end as u64).unwrap();
                model.truncate(end);
            }
        }
        assert_eq!(open.size().unwrap(), model.len() as u64);
        if step % 20 == 0 {
            assert!(contents(&open) == model, "step {step}");
        }
        if step % 100 == 99 {
            fsck(&volume);
        }
    }
    ops::truncate(&open, 0).unwrap();
    assert_eq!(volume.inode(number).unwrap().blocks512, 0);
    fsck(&volume);
}

#[test]
fn holes_and_data_are_told_apart() {
    let made = volume(512, 64);
    let volume = open(&made);
    let open = file(&volume, create(&volume, "f"));
    ops::write(&open, 3 * PAGE + 5, b"data", &how()).unwrap();
    ops::truncate(&open, 20 * PAGE + 1).unwrap();
    assert_eq!(ops::seek_data(&open, 0), Ok(3 * PAGE));
    assert_eq!(ops::seek_data(&open, 3 * PAGE + 7), Ok(3 * PAGE + 7));
    assert_eq!(ops::seek_hole(&open, 3 * PAGE), Ok(4 * PAGE));
    assert_eq!(ops::seek_hole(&open, 100), Ok(100));
    assert_eq!(ops::seek_data(&open, 4 * PAGE).unwrap_err().errno(), 6);
    ops::fallocate(&open, 15 * PAGE, 5 * PAGE + 1, false, &how()).unwrap();
    assert_eq!(ops::seek_data(&open, 4 * PAGE), Ok(15 * PAGE));
    // The end of the file counts as a hole, and is nothing.
    assert_eq!(ops::seek_hole(&open, 15 * PAGE), Ok(20 * PAGE + 1));
    assert_eq!(ops::seek_hole(&open, 20 * PAGE + 1).unwrap_err().errno(), 6);
    assert_eq!(contents(&open)[15 * PAGE_SIZE..], [0; 5 * PAGE_SIZE + 1]);
    fsck(&volume);
}

/// The format has no storage beyond the end of a file; what fails leaves none behind.
#[test]
fn fallocate_leaves_nothing_beyond_the_end() {
    let made = volume(256, 64);
    let volume = open(&made);
    let number = create(&volume, "f");
    let open = file(&volume, number);
    ops::write(&open, 0, &[1; 5000], &how()).unwrap();
    assert_eq!(ops::fallocate(&open, 0, 3 * PAGE, true, &how()).unwrap_err().errno(), 95);
    ops::fallocate(&open, 0, 2 * PAGE, true, &how()).unwrap();
    assert_eq!(open.size().unwrap(), 5000);
    assert_eq!(ops::fallocate(&open, 0, 0, false, &how()).unwrap_err().errno(), 22);
    assert_eq!(ops::fallocate(&open, 1, u64::MAX, false, &how()).unwrap_err().errno(), 27);
    let limit = Writer { limit: 9000, ..how() };
    assert_eq!(ops::fallocate(&open, 0, 9001, false, &limit).unwrap_err().errno(), 27);
    let free = volume.statfs().unwrap().free_blocks;
    assert_eq!(ops::fallocate(&open, 0, 400 * PAGE, false, &how()), Err(Error::NoSpace));
    assert_eq!((open.size().unwrap(), volume.statfs().unwrap().free_blocks), (5000, free));
    assert_eq!(contents(&open), [1; 5000]);
    fsck(&volume);
}

/// Contract 3: `ENOSPC` after progress is a short write, and without progress only when there is no room for a byte.
#[test]
fn a_write_leaves_itself_room_for_the_blocks_of_pointers_it_needs() {
    let made = volume(256, 64);
    let volume = open(&made);
    let filler = file(&volume, create(&volume, "filler"));
    let number = create(&volume, "file");
    let open = file(&volume, number);
    let free = || volume.statfs().unwrap().free_blocks;
    let left = 9;
    // Direct pointers alone, as far as they go; the rest in files of a page.
    for n in 0..12 {
        ops::write(&filler, n * PAGE, b"x", &how()).unwrap();
    }
    for n in 0.. {
        if free() <= left {
            break;
        }
        let small = file(&volume, create(&volume, &format!("{n}")));
        ops::write(&small, 0, &vec![1; ((free() - left) as usize).min(12) * PAGE_SIZE], &how()).unwrap();
    }
    assert_eq!(free(), left, "as many as the write below finds");
    // Two levels of pointers, and what is left for data.
    let at = (12 + 1024) * PAGE;
    assert_eq!(ops::write(&open, at, &vec![7; 20 * PAGE_SIZE], &how()), Ok((left as usize - 2) * PAGE_SIZE));
    assert_eq!((free(), open.size()), (0, Ok(at + u64::from(left - 2) * PAGE)));
    assert_eq!(ops::write(&open, at + 10 * PAGE, b"x", &how()), Err(Error::NoSpace));
    fsck(&volume);
}

/// Contract 3: "set-id bits dropped (setuid always, setgid if group-execute) unless the caller may keep them".
#[test]
fn set_id_bits_go_with_every_change_of_bytes_unless_they_may_stay() {
    let made = volume(256, 64);
    let volume = open(&made);
    let number = create(&volume, "f");
    let open = file(&volume, number);
    let keep = Writer { keep_set_id: true, ..how() };
    type Change<'a> = &'a dyn Fn(&Writer);
    let changes: [Change<'_>; 5] = [
        &|how| _ = ops::write(&open, 0, b"x", how).unwrap(),
        &|how| ops::truncate_as(&open, 3, how).unwrap(),
        &|how| ops::fallocate(&open, 0, 10, false, how).unwrap(),
        &|how| ops::punch_hole(&open, 0, 10, how).unwrap(),
        &|how| ops::zero_range(&open, 0, 10, true, how).unwrap(),
    ];
    for change in changes {
        for (before, after) in [(0o6755, 0o755), (0o6745, 0o2745), (0o1777, 0o1777)] {
            let set = SetAttributes { permissions: Some(before), ..SetAttributes::default() };
            volume.set_attributes(number, &set).unwrap();
            change(&keep);
            assert_eq!(volume.inode(number).unwrap().permissions, before);
            change(&how());
            assert_eq!(volume.inode(number).unwrap().permissions, after);
        }
    }
    fsck(&volume);
}

/// Contract 6: "freeing a pinned page takes it from its file at once, and gives it back for reuse when the last pin goes".
#[test]
fn pinned_pages_leave_their_file_and_are_not_reused_before_the_last_pin_goes() {
    let made = volume(512, 64);
    let volume = open(&made);
    let number = create(&volume, "f");
    let open = file(&volume, number);
    ops::write(&open, 0, &[7; 20 * PAGE_SIZE], &how()).unwrap();
    let free = volume.statfs().unwrap().free_blocks;
    // Four of the last pages of the run, and one after them that is not pinned.
    let mut first = None;
    volume.free_runs(&mut |run| _ = first.get_or_insert(run.start)).unwrap();
    let first = u64::from(first.unwrap()) - 6;
    volume.env().pinned.set(Some(Run { first: PageNo(first), count: 4 }));
    ops::truncate(&open, 0).unwrap();
    assert_eq!(volume.inode(number).unwrap().blocks512, 0);
    let later = volume.env().later.take();
    assert_eq!(later.iter().map(|run| run.count).sum::<u64>(), 4, "{later:?}");
    assert_eq!(volume.statfs().unwrap().free_blocks, free + 20 + 1 - 4);
    // All that is free is written over; the pinned pages keep their bytes.
    let other = file(&volume, create(&volume, "other"));
    let written = ops::write(&other, 0, &[9; 600 * PAGE_SIZE], &how()).unwrap();
    let mut page = vec![0; 4 * PAGE_SIZE];
    volume.device().read(first * PAGE, &mut page).unwrap();
    assert_eq!(page, vec![7; 4 * PAGE_SIZE]);
    // The last pin goes.
    for run in later {
        volume.free_run(run).unwrap();
        assert!(volume.free_run(run).is_err(), "given back twice");
    }
    assert_eq!(ops::write(&other, written as u64, &[9; 8 * PAGE_SIZE], &how()), Ok(4 * PAGE_SIZE));
    for bad in [Run { first: PageNo(0), count: 1 }, Run { first: PageNo(u64::MAX), count: 2 }] {
        assert!(volume.free_run(bad).is_err());
    }
    fsck(&volume);
}

/// Contract 5: a hostile volume whose file claims the volume's own metadata cannot have it overwritten by that file.
#[test]
fn a_file_that_claims_metadata_cannot_write_there() {
    let made = volume(256, 64);
    let number = {
        let volume = open(&made);
        let number = create(&volume, "f");
        ops::write(&file(&volume, number), 0, &[1; 10], &how()).unwrap();
        number
    };
    let geometry = *made.geometry();
    // The inode's first pointer; the inode table of the only group comes last before its data.
    let inode = u64::from(geometry.group_data(0).start) * PAGE - u64::from(geometry.inodes - number.0 + 1) * 256;
    for block in 1..geometry.group_data(0).start {
        made.device().write(inode + 40, &block.to_le_bytes()).unwrap();
        let volume = open(&made);
        let before = made.device().to_vec();
        let result = ops::write(&file(&volume, number), 0, &[0xee; 100], &how());
        assert!(matches!(result, Err(Error::Corrupt { .. })), "block {block}: {result:?}");
        let at = block as usize * PAGE_SIZE;
        let after = made.device().to_vec();
        let same = (at..at + PAGE_SIZE).all(|n| before[n] == after[n] || n as u64 / 256 == inode / 256);
        assert!(same || block == 1, "block {block} was changed");
    }
}

/// Contract 3, write: short when space ends, and not before: the blocks of pointers are left room, whatever one write asks for.
#[test]
fn one_large_write_uses_all_space_there_is() {
    let volume = volume(1500, 16);
    let new = NewInode { kind: NewKind::Regular, permissions: 0o644, uid: 0, gid: 0 };
    let number = volume.create(InodeNo::ROOT, b"f", &new).unwrap();
    let File::Cached(open) = volume.file(number).unwrap() else { unreachable!() };
    let free = volume.statfs().unwrap().free_blocks as usize;
    let written = ops::write(&open, 0, &vec![1; 8 << 20], &Writer::default()).unwrap();
    assert_eq!(volume.statfs().unwrap().free_blocks, 0);
    // One block of pointers to data, one to such, and those that it leads to.
    assert_eq!(written, (free - 3) * 4096);
    support::fsck(&volume);
}
