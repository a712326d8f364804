//! Attributes against a model, and against damage.

extern crate std;

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::vec::Vec;
use std::{format, vec};

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// A file with nothing but attributes.
#[derive(Clone)]
struct Holder {
    in_inode: Vec<u8>,
    block: Vec<u8>,
    has_block: bool,
}

impl Holder {
    fn new(in_inode: usize, block: usize) -> Self {
        Self { in_inode: vec![0; in_inode], block: vec![0; block], has_block: false }
    }

    fn storage(&self) -> Storage<'_> {
        Storage { in_inode: &self.in_inode, block: self.has_block.then_some(&self.block), inode: 12 }
    }

    fn set(&mut self, name: &[u8], value: Option<&[u8]>) -> Result<Changed, Error> {
        let before = self.clone();
        let result = set(&mut self.in_inode, &mut self.block, self.has_block, 12, name, value);
        match result {
            Ok(Changed { block: BlockChange::Store, .. }) => self.has_block = true,
            Ok(Changed { block: BlockChange::Free, .. }) => self.has_block = false,
            Ok(_) => {}
            Err(_) => assert!(before.in_inode == self.in_inode && before.block == self.block, "changed with an error"),
        }
        result
    }

    fn get(&self, name: &[u8]) -> Option<Vec<u8>> {
        let len = get(&self.storage(), name, &mut []).unwrap()?;
        let mut value = vec![0; len];
        assert_eq!(get(&self.storage(), name, &mut value).unwrap(), Some(len));
        if len > 1 {
            assert_eq!(get(&self.storage(), name, &mut value.clone()[1..]), Err(Error::ValueTooLarge));
        }
        Some(value)
    }

    fn all(&self) -> Model {
        let mut all = Model::new();
        for_each(&self.storage(), &mut |name, len| {
            let value = self.get(name).unwrap();
            assert_eq!(value.len(), len);
            assert_eq!(all.insert(name.to_vec(), value), None, "seen twice");
        })
        .unwrap();
        all
    }

    /// What the kernel and e2fsck ask of a block: sorted.
    fn check_order(&self) {
        let areas = self.storage().areas().unwrap();
        let names: Vec<_> = areas[1].attributes().map(|attribute| attribute.unwrap().name).collect();
        assert!(names.windows(2).all(|pair| pair[0].is_before(&pair[1])), "{names:?}");
    }
}

#[test]
fn small_attributes_stay_in_the_inode_and_others_get_a_block() {
    let mut holder = Holder::new(96, 4096);
    let small = holder.set(b"user.small", Some(b"value")).unwrap();
    assert_eq!((small.in_inode, small.block), (true, BlockChange::Same));
    let large = holder.set(b"user.large", Some(&[7; 1000])).unwrap();
    assert_eq!(large, Changed { in_inode: false, block: BlockChange::Store });
    assert_eq!(holder.block[4..8], 1u32.to_le_bytes());
    // Grows out of the inode, shrinks back into it.
    let moved = holder.set(b"user.small", Some(&[1; 100])).unwrap();
    assert_eq!(moved, Changed { in_inode: true, block: BlockChange::Store });
    let back = holder.set(b"user.small", Some(b"")).unwrap();
    assert_eq!(back, Changed { in_inode: true, block: BlockChange::Store });
    assert_eq!(holder.set(b"user.large", None).unwrap().block, BlockChange::Free);
    assert_eq!(holder.get(b"user.small"), Some(vec![]));
    holder.set(b"user.small", None).unwrap();
    assert!(holder.in_inode.iter().all(|&byte| byte == 0));
    assert_eq!(holder.set(b"user.small", None), Err(Error::NoAttribute));
}

#[test]
fn an_inode_without_room_for_attributes_uses_the_block() {
    for in_inode in [0, 4, 8] {
        let mut holder = Holder::new(in_inode, 1024);
        let changed = holder.set(b"security.capability", Some(&[1; 20])).unwrap();
        assert_eq!((changed.in_inode, changed.block), (false, BlockChange::Store));
        assert_eq!(holder.get(b"security.capability"), Some(vec![1; 20]));
    }
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let mut holder = Holder::new(96, 4096);
    assert_eq!(holder.set(b"user.a", Some(&[0; 4097])), Err(Error::ValueTooLarge));
    // A block has 4096 bytes; header, end and an entry need 32 + 4 + 20.
    assert_eq!(holder.set(b"user.a", Some(&[0; 4041])), Err(Error::ValueTooLarge));
    holder.set(b"user.a", Some(&[0; 4040])).unwrap();
    assert_eq!(holder.set(b"user.b", Some(&[0; 100])), Err(Error::AttributesFull));
    assert_eq!(holder.all().len(), 1);
    assert!(matches!(holder.set(b"lustre.lov", Some(b"x")), Err(Error::Unsupported(_))));
    assert_eq!(holder.set(b"user.", Some(b"x")), Err(Error::InvalidName));
}

#[test]
fn acls_are_handed_out_as_they_were_handed_in() {
    let entry = |tag: u16, permissions: u16, id: u32| {
        [tag.to_le_bytes().to_vec(), permissions.to_le_bytes().to_vec(), id.to_le_bytes().to_vec()].concat()
    };
    let none = u32::MAX;
    let list = [
        2_u32.to_le_bytes().to_vec(),
        entry(1, 7, none),
        entry(2, 5, 1000),
        entry(4, 5, none),
        entry(0x10, 5, none),
        entry(0x20, 0, none),
    ]
    .concat();
    let mut holder = Holder::new(96, 4096);
    for name in [&b"system.posix_acl_access"[..], b"system.posix_acl_default"] {
        holder.set(name, Some(&list)).unwrap();
        assert_eq!(holder.get(name), Some(list.clone()));
    }
    assert_eq!(holder.all().len(), 2);
    assert!(matches!(holder.set(b"system.posix_acl_access", Some(b"no list")), Err(Error::Unsupported(_))));
}

#[test]
fn attributes_of_unknown_prefixes_are_passed_over_but_kept() {
    let mut holder = Holder::new(96, 4096);
    holder.set(b"user.lov", Some(b"old")).unwrap();
    holder.in_inode[5] = 5;
    assert_eq!(holder.all(), Model::new());
    holder.set(b"user.new", Some(b"new")).unwrap();
    assert_eq!(holder.all().len(), 1);
    assert_eq!(holder.in_inode.windows(3).filter(|bytes| bytes == b"old").count(), 1);
}

#[test]
fn a_block_that_is_none_is_refused() {
    let mut holder = Holder::new(96, 4096);
    holder.has_block = true;
    assert!(matches!(get(&holder.storage(), b"user.a", &mut []), Err(Error::Corrupt { inode: 12, .. })));
    assert!(matches!(holder.set(b"user.a", Some(b"x")), Err(Error::Corrupt { .. })));
}

#[test]
fn hostile_entries_are_refused() {
    let mut whole = Holder::new(96, 4096);
    whole.set(b"user.a", Some(b"value of a")).unwrap();
    // Length of the name; offset; inode; size of the value; a zero in the name; no end.
    let damage: [(usize, &[u8]); 6] =
        [(4, &[255]), (6, &[90, 0]), (8, &[1]), (12, &[0xff, 0xff, 0xff, 0x7f]), (20, &[0]), (24, &[1; 72])];
    for (at, bytes) in damage {
        let mut holder = whole.clone();
        holder.in_inode[at..at + bytes.len()].copy_from_slice(bytes);
        let mut value = [0; 16];
        let read = get(&holder.storage(), b"user.b", &mut value);
        assert!(matches!(read, Err(Error::Corrupt { inode: 12, .. })), "{at}: {read:?}");
        assert!(for_each(&holder.storage(), &mut |_, _| {}).is_err());
        assert!(holder.set(b"user.b", Some(b"x")).is_err());
    }
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let prefix = prop_oneof![Just("user."), Just("trusted."), Just("security."), Just("system.")];
    (prefix, 0..6_u32, prop_oneof![3 => Just(1_usize), 1 => 1..240_usize])
        .prop_map(|(prefix, n, len)| format!("{prefix}{n:ü<len$}").into_bytes())
        .prop_filter("at most 255 bytes", |name| name.len() <= 255)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn attributes_are_a_map_of_names_to_values(
        steps in proptest::collection::vec((name(), proptest::option::weighted(0.8, 0..1200_usize)), 0..60),
        in_inode in prop_oneof![Just(0_usize), Just(96), Just(92), Just(352)],
        block in prop_oneof![Just(1024_usize), Just(2048), Just(4096)],
    ) {
        let mut holder = Holder::new(in_inode, block);
        let mut model = Model::new();
        for (n, (name, len)) in steps.into_iter().enumerate() {
            let value = len.map(|len| vec![(n % 251) as u8; len]);
            match holder.set(&name, value.as_deref()) {
                Ok(_) => match value {
                    Some(value) => { model.insert(name, value); }
                    None => prop_assert!(model.remove(&name).is_some()),
                },
                Err(Error::NoAttribute) => prop_assert!(value.is_none() && !model.contains_key(&name)),
                Err(error) => prop_assert!(matches!(error, Error::AttributesFull | Error::ValueTooLarge), "{error:?}"),
            }
            holder.check_order();
        }
        prop_assert_eq!(holder.all(), model);
    }

    /// Contract 5: a hostile volume gives an error, never a panic or a hang.
    #[test]
    fn damage_anywhere_gives_an_error_or_values(
        damage in proptest::collection::vec((any::<bool>(), 0..512_usize, any::<u8>()), 1..12),
    ) {
        let mut holder = Holder::new(352, 1024);
        for n in 0..4 {
            holder.set(format!("user.{n}").as_bytes(), Some(&[n; 50])).unwrap();
            holder.set(format!("trusted.{n}").as_bytes(), Some(&[n; 150])).unwrap();
        }
        for (in_inode, at, byte) in damage {
            let bytes = if in_inode { &mut holder.in_inode } else { &mut holder.block };
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        let mut count = 0;
        let _ = for_each(&holder.storage(), &mut |_, _| count += 1);
        prop_assert!(count <= (352 + 1024) / 16);
        for name in ["user.1", "trusted.3", "system.posix_acl_access"] {
            let _ = get(&holder.storage(), name.as_bytes(), &mut [0; 2000]);
            let _ = holder.set(name.as_bytes(), None);
            let _ = holder.set(name.as_bytes(), Some(&[1; 300]));
        }
    }
}
