//! Directories against a model, and against damage.

extern crate std;

use super::listing::{Order, iterate};
use super::testing::Memory;
use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::string::String;
use std::vec::Vec;
use std::{format, vec};

type Model = BTreeMap<Vec<u8>, u32>;

fn listing(directory: &Memory) -> Result<Model, Error> {
    let [by_place, by_hash] = [Order::Place, Order::Hash].map(|order| {
        let mut found = Model::new();
        let mut last = 0;
        iterate(directory, 0, order, &mut |entry| {
            assert!(entry.next > last, "the cursors go down: {entry:?}");
            last = entry.next;
            if !is_dot(entry.name) {
                assert_eq!(found.insert(entry.name.to_vec(), entry.ino.0), None, "seen twice: {entry:?}");
            }
            true
        })
        .map(|()| found)
    });
    let by_place = by_place?;
    assert_eq!(by_place, by_hash?);
    Ok(by_place)
}

fn take_away(directory: &mut Memory, name: &[u8]) -> Result<u32, Error> {
    let found = find(directory, name)?.ok_or(Error::NotFound)?;
    remove(directory, &found)?;
    Ok(found.inode)
}

/// As a rename does it: the kind, then the inode.
fn set_target(directory: &mut Memory, name: &[u8], inode: u32, kind: u8) -> Result<(), Error> {
    let found = find(directory, name)?.ok_or(Error::NotFound)?;
    let (at, kind) = kind_of(directory, &found, kind);
    directory.put(found.block, at, &[kind])?;
    let store = Store::of_inode(found.at, inode);
    directory.publish(found.block, store.at, store.bytes())
}

/// The directory has these names, by either way of asking, and no others.
fn check(directory: &Memory, model: &Model) {
    assert_eq!(&listing(directory).unwrap(), model);
    for (name, &inode) in model {
        assert_eq!(
            lookup(directory, name).unwrap().map(|found| found.0),
            Some(inode),
            "{:?}",
            String::from_utf8_lossy(name)
        );
    }
    for dot in [&b"."[..], b".."] {
        assert_eq!(lookup(directory, dot).unwrap(), Some((2, 2)));
    }
    assert_eq!(lookup(directory, b"not there").unwrap(), None);
    assert_eq!(is_empty(directory).unwrap(), model.is_empty());
}

fn filled(block_size: usize, index_allowed: bool, count: u32) -> (Memory, Model) {
    let mut directory = Memory::new(block_size, index_allowed);
    let mut model = Model::new();
    for n in 0..count {
        let name = format!("file number {n}").into_bytes();
        insert(&mut directory, &name, n + 11, 1).unwrap();
        model.insert(name, n + 11);
    }
    (directory, model)
}

#[test]
fn a_new_directory_is_empty_and_leads_to_itself_and_its_parent() {
    let mut directory = Memory::new(4096, true);
    first_block(&mut directory.bytes, 12, 2, true);
    assert_eq!(lookup(&directory, b".").unwrap(), Some((12, 2)));
    assert_eq!(lookup(&directory, b"..").unwrap(), Some((2, 2)));
    assert!(is_empty(&directory).unwrap());
}

#[test]
fn every_name_is_found_in_directories_of_all_sizes() {
    for block_size in [1024, 2048, 4096] {
        for (index_allowed, counts) in [(false, [10, 700]), (true, [300, 12_000])] {
            for count in counts {
                let (directory, model) = filled(block_size, index_allowed, count);
                assert_eq!(directory.indexed, index_allowed && directory.count() > 1);
                check(&directory, &model);
            }
        }
    }
}

#[test]
fn a_hundred_thousand_names_make_an_index_of_two_levels() {
    let (directory, model) = filled(4096, true, 100_000);
    assert_eq!(directory.bytes[30], 1, "levels below the root");
    check(&directory, &model);
}

#[test]
fn every_hash_function_and_sign_keeps_names_findable() {
    for hash in 0..=3 {
        for unsigned in [false, true] {
            let mut directory = Memory { hash, unsigned, ..Memory::new(1024, true) };
            let mut model = Model::new();
            for n in 0..500 {
                let name = format!("ünï {n}").into_bytes();
                insert(&mut directory, &name, n + 11, 1).unwrap();
                model.insert(name, n + 11);
            }
            check(&directory, &model);
        }
    }
}

#[test]
fn an_index_that_is_full_says_so_and_loses_nothing() {
    // Long names, small blocks: three names in a leaf.
    let mut directory = Memory::new(1024, true);
    let mut model = Model::new();
    let error = loop {
        let n = u32::try_from(model.len()).unwrap();
        let name = format!("{n:0>255}").into_bytes();
        match insert(&mut directory, &name, n + 11, 1) {
            Ok(()) => model.insert(name, n + 11),
            Err(error) => break error,
        };
    };
    assert_eq!(error, Error::DirectoryFull);
    assert!(model.len() > 10_000, "{}", model.len());
    check(&directory, &model);
}

#[test]
fn no_space_at_any_growth_loses_nothing() {
    for space in 1..60 {
        let mut directory = Memory { space, ..Memory::new(1024, true) };
        let mut model = Model::new();
        for n in 0..2000 {
            let name = format!("{n:0>120}").into_bytes();
            match insert(&mut directory, &name, n + 11, 1) {
                Ok(()) => model.insert(name, n + 11),
                Err(error) => {
                    assert_eq!(error, Error::NoSpace);
                    break;
                }
            };
        }
        check(&directory, &model);
    }
}

#[test]
fn names_of_one_hash_are_found_across_leaves() {
    // Three of these names fill a leaf, so that names of one hash are soon parted. Birthdays give the names.
    let hasher = hash::Hasher::new(0, true, [0; 4]).unwrap();
    let name = |n: u32| format!("{n:0>250}").into_bytes();
    let mut by_hash: BTreeMap<u32, u32> = BTreeMap::new();
    let pairs: Vec<_> =
        (0..200_000).filter_map(|n| by_hash.insert(hasher.hash(&name(n)), n).map(|same| [same, n])).collect();
    assert!(pairs.len() > 4, "{pairs:?}");
    let mut parted = 0;
    for pair in pairs {
        let mut directory = Memory { hash: 0, ..Memory::new(1024, true) };
        let mut model = Model::new();
        for n in pair.into_iter().chain(300_000..300_150) {
            insert(&mut directory, &name(n), n, 1).unwrap();
            model.insert(name(n), n);
        }
        check(&directory, &model);
        assert_eq!(directory.bytes[30], 0, "levels below the root");
        // The hashes in the root's table, after limit and count: odd where a hash goes on from the leaf before.
        let count = usize::from(directory.bytes[34]);
        parted += (1..count).filter(|n| directory.bytes[32 + 8 * n] & 1 == 1).count();
    }
    assert!(parted > 0, "no two names of one hash came to stand in different leaves");
}

#[test]
fn an_iteration_goes_on_from_any_cursor() {
    let (mut directory, model) = filled(1024, true, 300);
    // One by one, with the cursor of the last.
    let (mut cursor, mut seen) = (0, Model::new());
    loop {
        let mut next = None;
        iterate(&directory, cursor, Order::Place, &mut |entry| {
            if !is_dot(entry.name) {
                assert_eq!(seen.insert(entry.name.to_vec(), entry.ino.0), None);
            }
            next = Some(entry.next);
            false
        })
        .unwrap();
        match next {
            Some(next) => cursor = next,
            None => break,
        }
    }
    assert_eq!(seen, model);
    // In the middle of an entry, and beyond the end.
    for cursor in (0..3 * 1024).chain([u64::MAX, directory.bytes.len() as u64]) {
        iterate(&directory, cursor, Order::Place, &mut |entry| {
            assert!(model.contains_key(entry.name) || is_dot(entry.name));
            assert!(entry.next > cursor);
            true
        })
        .unwrap();
    }
    // The entry it stopped at goes away.
    let mut at = None;
    iterate(&directory, 3000, Order::Place, &mut |entry| {
        at = Some((entry.name.to_vec(), entry.next));
        false
    })
    .unwrap();
    let (name, next) = at.unwrap();
    take_away(&mut directory, &name).unwrap();
    iterate(&directory, next, Order::Place, &mut |entry| model.contains_key(entry.name)).unwrap();
}

#[test]
fn names_that_cannot_be_are_refused() {
    let mut directory = Memory::new(1024, true);
    let cases: [(&[u8], Error); 6] = [
        (b"", Error::InvalidName),
        (b"a/b", Error::InvalidName),
        (b"a\0", Error::InvalidName),
        (&[b'x'; 256], Error::NameTooLong),
        (b".", Error::Exists),
        (b"..", Error::Exists),
    ];
    for (name, error) in cases {
        assert_eq!(insert(&mut directory, name, 11, 1), Err(error));
    }
    insert(&mut directory, &[b'x'; 255], 11, 1).unwrap();
    assert_eq!(insert(&mut directory, &[b'x'; 255], 11, 1), Err(Error::Exists));
    assert_eq!(lookup(&directory, &[b'x'; 256]), Err(Error::NameTooLong));
    assert_eq!(take_away(&mut directory, b"y"), Err(Error::NotFound));
}

#[test]
fn a_damaged_index_is_done_without() {
    let (whole, model) = filled(1024, true, 9000);
    assert_eq!(whole.bytes[30], 1, "levels below the root");
    let node = 1024 * usize::from(u16::from_le_bytes([whole.bytes[36], whole.bytes[37]]));
    // Hash function, info length, levels, flags, limit, count 0, count beyond, a way out of the directory, back to
    // the root; of the level below: count 0, count beyond, a way out.
    let damage: [(usize, &[u8]); 12] = [
        (28, &[6]),
        (29, &[16]),
        (30, &[2]),
        (31, &[1]),
        (32, &[200, 0]),
        (34, &[0, 0]),
        (34, &[0xff, 0xff]),
        (36, &[0xff, 0xff, 0xff, 0]),
        (36, &[0, 0, 0, 0]),
        (node + 8, &[0, 0]),
        (node + 10, &[0xff, 0xff]),
        (node + 12, &[0, 0, 0, 0xff]),
    ];
    for (at, bytes) in damage {
        let mut directory = whole.clone();
        directory.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        check(&directory, &model);
        // As in the kernel, it goes on without its index, once that matters.
        let mut model = model.clone();
        for n in 0..3000 {
            let name = format!("new {n:0>200}").into_bytes();
            insert(&mut directory, &name, 11, 1).unwrap();
            model.insert(name, 11);
        }
        assert!(!directory.indexed, "{at} {bytes:?}");
        check(&directory, &model);
    }
}

#[test]
fn a_volume_without_kinds_has_none_in_its_entries() {
    let mut directory = Memory { kinds: false, ..Memory::new(1024, false) };
    first_block(&mut directory.bytes, 12, 2, false);
    insert(&mut directory, b"file", 13, 1).unwrap();
    assert_eq!(lookup(&directory, b"file").unwrap(), Some((13, 0)));
    assert_eq!(lookup(&directory, b".").unwrap(), Some((12, 0)));
}

#[test]
fn removing_all_leaves_room_for_all() {
    for index_allowed in [false, true] {
        let (mut directory, model) = filled(1024, index_allowed, 400);
        let size = directory.bytes.len();
        for (name, &inode) in &model {
            assert_eq!(take_away(&mut directory, name), Ok(inode));
            assert_eq!(lookup(&directory, name), Ok(None));
        }
        assert!(is_empty(&directory).unwrap());
        for (name, &inode) in &model {
            insert(&mut directory, name, inode, 1).unwrap();
        }
        check(&directory, &model);
        assert!(directory.bytes.len() <= 2 * size);
    }
}

#[test]
fn neighbours_that_went_leave_room_for_one_of_their_sizes_together() {
    let names: Vec<_> = (0..20).map(|n| format!("{n:036}")).collect();
    let (mut directory, mut model) = filled(1024, false, 0);
    for name in &names {
        insert(&mut directory, name.as_bytes(), 13, 1).unwrap();
        model.insert(name.clone().into_bytes(), 13);
    }
    // Entries of 44 bytes. First the later one goes, and then the one before it; and the other way round.
    for (one, other) in [(5, 4), (9, 10)] {
        for name in [&names[one], &names[other]] {
            take_away(&mut directory, name.as_bytes()).unwrap();
            model.remove(name.as_bytes());
        }
        let long = vec![b'a' + one as u8; 80];
        insert(&mut directory, &long, 14, 1).unwrap();
        model.insert(long, 14);
        check(&directory, &model);
    }
    assert_eq!(directory.count(), 1);
}

#[derive(Clone, Debug)]
enum Step {
    Insert(Vec<u8>),
    Remove(Vec<u8>),
    Retarget(Vec<u8>, u32),
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    // Few enough that they meet, of all lengths.
    (0..400_u32, 1..255_usize).prop_map(|(n, len)| {
        let mut name = format!("{n}-").into_bytes();
        let wanted = if n.is_multiple_of(3) { len.max(name.len()) } else { name.len() };
        name.resize(wanted, (n % 200) as u8 + 48);
        name
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => name().prop_map(Step::Insert),
        2 => name().prop_map(Step::Remove),
        1 => (name(), 11..1000_u32).prop_map(|(name, inode)| Step::Retarget(name, inode)),
    ];
    proptest::collection::vec(step, 0..600)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_directory_is_a_map_of_names(steps in steps(), size in 0..3_usize, index_allowed: bool, hash in 0..3_u8) {
        let mut directory = Memory { hash, ..Memory::new(1024 << size, index_allowed) };
        let mut model = Model::new();
        for (n, step) in steps.into_iter().enumerate() {
            let inode = u32::try_from(n).unwrap() + 11;
            match step {
                Step::Insert(name) => {
                    // As every caller does: look first.
                    prop_assert_eq!(lookup(&directory, &name).unwrap().map(|found| found.0), model.get(&name).copied());
                    if let Entry::Vacant(place) = model.entry(name) {
                        insert(&mut directory, place.key(), inode, 1).unwrap();
                        place.insert(inode);
                    }
                }
                Step::Remove(name) => {
                    prop_assert_eq!(take_away(&mut directory, &name).ok(), model.remove(&name));
                }
                Step::Retarget(name, inode) => {
                    let done = set_target(&mut directory, &name, inode, 7);
                    prop_assert_eq!(done.is_ok(), model.contains_key(&name));
                    if done.is_ok() {
                        prop_assert_eq!(lookup(&directory, &name).unwrap(), Some((inode, 7)));
                        model.insert(name, inode);
                    }
                }
            }
        }
        check(&directory, &model);
    }

    /// Contract 5: a hostile volume gives an error, never a panic, a hang, or a name that is none.
    #[test]
    fn damage_anywhere_gives_an_error_or_names(
        damage in proptest::collection::vec((0..8192_usize, any::<u8>()), 1..20),
        heads in proptest::collection::vec((0..1024_usize, 0..10_usize, any::<u8>()), 0..4),
        index_allowed: bool,
    ) {
        let (mut directory, model) = filled(1024, index_allowed, 300);
        let len = directory.bytes.len();
        for (at, byte) in damage {
            directory.bytes[at % len] = byte;
        }
        for (block, at, byte) in heads {
            let block = block % (len / 1024);
            directory.bytes[block * 1024 + at] = byte;
        }
        let _ = iterate(&directory, 0, Order::Hash, &mut |entry| {
            assert!(!entry.name.is_empty() && entry::is_plain(entry.name) && entry.ino.0 <= directory.max_inode());
            true
        });
        for name in model.keys().take(50) {
            let _ = lookup(&directory, name);
        }
        for n in 0..100 {
            let _ = insert(&mut directory, format!("another {n}").as_bytes(), 11, 1);
        }
        for name in model.keys().take(50) {
            let _ = take_away(&mut directory, name);
        }
        let mut names = vec![];
        let _ = iterate(&directory, 0, Order::Hash, &mut |entry| { names.push(entry.name.len()); true });
        prop_assert!(names.len() <= directory.bytes.len() / entry::ENTRY_MIN);
    }
}
