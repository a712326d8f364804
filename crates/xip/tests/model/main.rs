//! Random operations on a volume and on a reference in memory, which must agree after each of them, by the rules of contract 3 to
//! 6. What fails is made smaller until nothing can be left out. Some of the volumes are so small that space gives out. Volumes are closed,
//! opened again and compared once more, and `e2fsck -fn` judges them; so is what a killed program leaves. The fuzz target `facade`
//! does the same with other sequences, and with a check of ours as the judge.
//!
//! `XIP_MODEL_CASES=100000 cargo nextest run -p xip --test model` for longer.

#[path = "../common/mod.rs"]
mod common;
mod judge;
mod op;
mod reference;
mod world;

use common::fsck;
use judge::Judged;
use op::{BEGINNING, Op, PATHS, SLOTS};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use world::{Place, World};
use xip::Volume;

/// Offsets and lengths in the first pages, and around the end of the direct pointers; often at the edge of a page.
fn place() -> impl Strategy<Value = usize> {
    let page = prop_oneof![4 => 0usize..4, 1 => 11usize..14, 1 => 30usize..33];
    let within = prop_oneof![2 => Just(0usize), 1 => Just(4095), 2 => 0usize..4096];
    (page, within).prop_map(|(page, within)| page * 4096 + within)
}

fn len() -> impl Strategy<Value = usize> {
    prop_oneof![1 => Just(0usize), 3 => 1usize..100, 3 => 4000usize..4200, 1 => 8192usize..20_000]
}

fn op() -> impl Strategy<Value = Op> {
    let path = || 0..PATHS.len();
    let slot = || 0..SLOTS;
    let names = prop_oneof![
        4 => path().prop_map(Op::Create),
        3 => path().prop_map(Op::Mkdir),
        1 => path().prop_map(Op::Symlink),
        2 => (path(), path()).prop_map(|(from, to)| Op::Link(from, to)),
        2 => path().prop_map(Op::Unlink),
        1 => path().prop_map(Op::Rmdir),
        1 => path().prop_map(Op::RemoveAll),
        4 => (path(), path(), 0..3u8).prop_map(|(from, to, how)| Op::Rename(from, to, how)),
        2 => (path(), 0..3usize, 0..400usize).prop_map(|(path, name, len)| Op::SetAttribute(path, name, len)),
        1 => (path(), 0..3usize).prop_map(|(path, name)| Op::RemoveAttribute(path, name)),
    ];
    let bytes = prop_oneof![
        5 => (slot(), path(), 0..8u8).prop_map(|(slot, path, how)| Op::Open(slot, path, how)),
        1 => (slot(), path()).prop_map(|(slot, path)| Op::OpenUnnamed(slot, path)),
        1 => (slot(), path()).prop_map(|(slot, path)| Op::LinkOpen(slot, path)),
        1 => slot().prop_map(Op::Close),
        4 => (slot(), place(), len(), any::<u8>()).prop_map(|(slot, at, len, byte)| Op::Write(slot, at, len, byte)),
        1 => (slot(), place(), prop::collection::vec(len(), 0..4), any::<u8>())
            .prop_map(|(slot, at, lens, byte)| Op::Writev(slot, at, lens, byte)),
        1 => (slot(), place(), len(), any::<u8>()).prop_map(|(slot, at, len, byte)| Op::Stream(slot, at, len, byte)),
        1 => (slot(), place(), len(), any::<u8>()).prop_map(|(slot, at, len, byte)| Op::Aio(slot, at, len, byte)),
        1 => (slot(), place(), len()).prop_map(|(slot, at, len)| Op::Read(slot, at, len)),
        1 => (slot(), place()).prop_map(|(slot, at)| Op::Seek(slot, at)),
        1 => slot().prop_map(Op::Sync),
        1 => (slot(), place(), prop::collection::vec(len(), 0..4)).prop_map(|(slot, at, lens)| Op::Readv(slot, at, lens)),
        2 => (slot(), place()).prop_map(|(slot, size)| Op::Truncate(slot, size)),
        2 => (slot(), place(), len()).prop_map(|(slot, at, len)| Op::Punch(slot, at, len)),
        2 => (slot(), place(), len(), any::<bool>(), any::<bool>())
            .prop_map(|(slot, at, len, keep, zero)| Op::Allocate(slot, at, len, keep, zero)),
    ];
    let maps = prop_oneof![
        3 => (slot(), 0..4usize, 1..16usize, 0..3u8).prop_map(|(slot, first, pages, how)| Op::Map(slot, first, pages, how)),
        1 => slot().prop_map(Op::Unmap),
        2 => (slot(), place(), len()).prop_map(|(slot, at, len)| Op::MapRead(slot, at, len)),
        4 => (slot(), place(), len(), any::<u8>()).prop_map(|(slot, at, len, byte)| Op::MapWrite(slot, at, len, byte)),
        2 => (slot(), any::<u8>()).prop_map(|(slot, byte)| Op::MapTail(slot, byte)),
    ];
    prop_oneof![8 => names, 12 => bytes, 6 => maps, 1 => prop_oneof![Just(Op::Reopen), Just(Op::Kill)]]
}

#[test]
fn a_volume_does_what_a_reference_in_memory_does() {
    let cases = std::env::var("XIP_MODEL_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(100);
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let directory = tempfile::tempdir().unwrap();
    let (mut count, mut judged) = (0, 0);
    let start = std::time::Instant::now();
    let counters = std::cell::RefCell::new((&mut count, &mut judged));
    // Most in place, where maps are; in memory that is just large enough, or not large enough.
    let case =
        (prop::bool::weighted(0.8), prop_oneof![Just(256 << 10), Just(8 << 20)], prop::collection::vec(op(), 1..120));
    let result = proptest::test_runner::TestRunner::new(config).run(&case, |(in_place, bytes, ops)| {
        let [image, spare] = ["image", "spare"].map(|name| directory.path().join(name));
        let _ = std::fs::remove_file(&image);
        Volume::create(&image, bytes)?.close()?;
        let judged = || -> Judged {
            let mut world = World::new(Place { image, spare, in_place, judge: fsck })?;
            for op in BEGINNING.iter().chain(&ops) {
                world.apply(op)?;
            }
            world.close()
        };
        judged().map_err(|error| TestCaseError::fail(error.to_string()))?;
        let mut counters = counters.borrow_mut();
        *counters.0 += ops.len();
        *counters.1 += 1;
        Ok(())
    });
    println!("{count} operations, {judged} volumes judged by e2fsck, {:.1} s", start.elapsed().as_secs_f64());
    if let Err(error) = result {
        panic!("{error}");
    }
}
