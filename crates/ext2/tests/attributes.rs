//! Extended attributes: in the inode, in a block, moved between them; judged by e2fsck.

mod support;

use std::collections::BTreeMap;
use support::{Bytes, fsck, volume};
use xip_core::Alone;
use xip_ext2::{Error, InodeNo, NewInode, NewKind, Volume};

fn file(volume: &Volume<Bytes, Alone>, name: &[u8], kind: NewKind<'_>) -> InodeNo {
    volume.create(InodeNo::ROOT, name, &NewInode { kind, permissions: 0o644, uid: 0, gid: 0 }).unwrap()
}

fn all(volume: &Volume<Bytes, Alone>, number: InodeNo) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = Vec::new();
    volume.xattrs(number, &mut |name, len| names.push((name.to_vec(), len))).unwrap();
    let value = |name: &[u8], len| {
        let mut to = vec![0; len];
        assert_eq!(volume.xattr(number, name, &mut []).unwrap(), Some(len));
        assert_eq!(volume.xattr(number, name, &mut to).unwrap(), Some(len));
        to
    };
    names.into_iter().map(|(name, len)| (name.clone(), value(&name, len))).collect()
}

#[test]
fn attributes_of_every_name_and_size_are_kept() {
    let volume = volume(512, 64);
    let number = file(&volume, b"f", NewKind::Regular);
    let mut model = BTreeMap::new();
    for (name, len) in [
        ("user.a", 0),
        ("user.b", 10),
        ("security.selinux", 40),
        ("trusted.x", 300),
        ("user.big", 1500),
        ("user.b", 900),
    ] {
        let value = vec![name.len() as u8; len];
        volume.set_xattr(number, name.as_bytes(), Some(&value)).unwrap();
        model.insert(name.as_bytes().to_vec(), value);
        assert_eq!(all(&volume, number), model);
        fsck(&volume);
    }
    let blocks = volume.inode(number).unwrap().blocks512;
    assert_eq!(blocks, 8, "one block, however often it was changed");
    let too_large = volume.set_xattr(number, b"user.huge", Some(&[1; 5000]));
    assert_eq!(too_large, Err(Error::ValueTooLarge));
    assert_eq!(volume.set_xattr(number, b"user.more", Some(&[1; 3000])), Err(Error::AttributesFull));
    assert!(matches!(volume.set_xattr(number, b"other.x", Some(b"")), Err(Error::Unsupported(_))));
    assert_eq!(all(&volume, number), model);
    for name in model.keys() {
        volume.set_xattr(number, name, None).unwrap();
        fsck(&volume);
    }
    assert_eq!(volume.set_xattr(number, b"user.a", None), Err(Error::NoAttribute));
    assert_eq!(volume.inode(number).unwrap().blocks512, 0);
    assert!(all(&volume, number).is_empty());
}

/// A fast symbolic link has no block of its own; one of attributes does not make it a slow one.
#[test]
fn a_fast_symbolic_link_with_a_block_of_attributes_stays_fast() {
    let volume = volume(512, 64);
    let number = file(&volume, b"l", NewKind::Symlink(b"target"));
    volume.set_xattr(number, b"trusted.large", Some(&[7; 1000])).unwrap();
    let mut to = [0; 10];
    assert_eq!(volume.read_link(number, &mut to).unwrap(), 6);
    fsck(&volume);
}

#[test]
fn an_acl_is_kept_in_the_format_s_form_and_handed_out_in_the_kernel_s() {
    let volume = volume(512, 64);
    let number = file(&volume, b"f", NewKind::Regular);
    let entry = |tag: u16, permissions: u16, id: u32| {
        [tag.to_le_bytes().as_slice(), &permissions.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    let none = u32::MAX;
    let acl = [
        2u32.to_le_bytes().to_vec(),
        entry(1, 6, none),
        entry(2, 4, 1000),
        entry(4, 4, none),
        entry(0x10, 4, none),
        entry(0x20, 0, none),
    ]
    .concat();
    volume.set_xattr(number, b"system.posix_acl_access", Some(&acl)).unwrap();
    assert_eq!(all(&volume, number)[b"system.posix_acl_access".as_slice()], acl);
    assert!(volume.set_xattr(number, b"system.posix_acl_access", Some(b"no ACL")).is_err());
    fsck(&volume);
}

/// Contract 2: the reservation is undone when there is no space.
#[test]
fn no_space_for_a_block_of_attributes_leaves_the_file_as_it_was() {
    let volume = volume(64, 16);
    let number = file(&volume, b"f", NewKind::Regular);
    let filler = file(&volume, b"filler", NewKind::Regular);
    let xip_ext2::File::Cached(open) = volume.file(filler).unwrap() else { unreachable!() };
    xip_core::ops::write(&open, 0, &vec![1; 100 * 4096], &xip_core::ops::Writer::default()).unwrap();
    assert_eq!(volume.statfs().unwrap().free_blocks, 0);
    volume.set_xattr(number, b"user.small", Some(b"fits the inode")).unwrap();
    assert_eq!(volume.set_xattr(number, b"user.large", Some(&[1; 500])), Err(Error::NoSpace));
    assert_eq!(all(&volume, number).len(), 1);
    fsck(&volume);
}
