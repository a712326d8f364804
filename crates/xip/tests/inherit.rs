//! What a directory gives to what is made in it, and how ACLs and permission bits stay one thing: as in the kernel, which is
//! asked to do the same on the same volume.

mod common;

use common::{fsck, with_kernel_mount};
use rustix::fs::{Mode, OFlags};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use xip::{NewInode, NewKind, OpenOptions, Volume};

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

/// A list in the kernel's form, of (tag, permissions, id).
fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

const NONE: u32 = u32::MAX;

/// Lists that differ in what matters: with a mask, without, with so many entries that they need a block.
fn lists() -> Vec<(&'static str, Vec<u8>)> {
    let named = [(1, 7, NONE), (2, 6, 1000), (4, 5, NONE), (8, 7, 100), (16, 6, NONE), (32, 1, NONE)];
    let mut many = vec![(1, 7, NONE)];
    many.extend((0..60).map(|n| (2, 7, 2000 + n)));
    many.extend([(4, 4, NONE), (16, 7, NONE), (32, 4, NONE)]);
    vec![
        ("plain", list(&[(1, 6, NONE), (4, 6, NONE), (32, 4, NONE)])),
        ("masked", list(&[(1, 7, NONE), (4, 7, NONE), (16, 5, NONE), (32, 0, NONE)])),
        ("named", list(&named)),
        ("many", list(&many)),
    ]
}

const MODES: [u32; 4] = [0o777, 0o666, 0o4751, 0o600];

type Seen = (u32, u32, Option<Vec<u8>>, Option<Vec<u8>>);

/// What the kernel says of a file.
fn seen(path: &Path) -> Seen {
    let get = |name| {
        let mut value = vec![0; 4096];
        let len = rustix::fs::getxattr(path, name, &mut value[..]).ok()?;
        value.truncate(len);
        Some(value)
    };
    let metadata = std::fs::metadata(path).unwrap();
    (metadata.mode(), metadata.gid(), get(ACCESS), get(DEFAULT))
}

#[test]
fn a_new_file_gets_its_group_and_its_acl_from_its_directory_as_in_the_kernel() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let volume = Volume::create(&image, 32 << 20).unwrap();
    volume.create_dir("none").unwrap();
    for (name, list) in lists() {
        volume.create_dir(name).unwrap();
        volume.set_xattr(name, DEFAULT, list).unwrap();
    }
    volume.create_dir("group").unwrap();
    volume.set_owner("group", None, Some(77)).unwrap();
    volume.set_permissions("group", 0o2755).unwrap();
    let umask = 0o027;
    let directories: Vec<_> = lists().into_iter().map(|(name, _)| name).chain(["none", "group"]).collect();
    for directory in &directories {
        let parent = volume.resolve(directory).unwrap();
        for mode in MODES {
            let make = |name: &str, kind| {
                let new = NewInode { kind, permissions: mode as u16, uid: 0, gid: 0 };
                volume.inodes().create_masked(parent, name.as_bytes(), &new, umask).unwrap();
            };
            make(&format!("dir{mode:o}"), NewKind::Directory);
            make(&format!("device{mode:o}"), NewKind::Character(1, 3));
            make(&format!("link{mode:o}"), NewKind::Symlink(b"file"));
            let path = format!("{directory}/file{mode:o}");
            OpenOptions::new().write(true).create(true).mode(mode).umask(umask).open(&volume, path).unwrap();
        }
    }
    // The same rules without a kernel beside it, in figures.
    let mode = |path: &str| volume.metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode("none/file666"), 0o640);
    assert_eq!(mode("plain/file777"), 0o664, "the default ACL decides, not the umask");
    assert_eq!(volume.xattr("plain/file777", ACCESS).unwrap(), None, "the mode says it all");
    assert_eq!(mode("named/file4751"), 0o4741);
    assert_eq!(volume.metadata("group/dir777").unwrap().mode() & 0o7777, 0o2750);
    assert_eq!(volume.xattr("many/dir600", DEFAULT).unwrap(), volume.xattr("many", DEFAULT).unwrap());
    assert_eq!(volume.xattr("named/link777", ACCESS).unwrap(), None);
    volume.close().unwrap();
    fsck(&image);

    with_kernel_mount(&image, |mount| {
        let old = rustix::process::umask(Mode::from_raw_mode(umask));
        for directory in &directories {
            for mode in MODES {
                let (raw, at) = (Mode::from_raw_mode(mode), mount.join(directory));
                let theirs = at.join("theirs");
                rustix::fs::open(&theirs, OFlags::CREATE | OFlags::WRONLY | OFlags::EXCL, raw).unwrap();
                assert_eq!(seen(&at.join(format!("file{mode:o}"))), seen(&theirs), "{directory} file {mode:o}");
                std::fs::remove_file(&theirs).unwrap();
                let null = rustix::fs::makedev(1, 3);
                rustix::fs::mknodat(rustix::fs::CWD, &theirs, rustix::fs::FileType::CharacterDevice, raw, null)
                    .unwrap();
                assert_eq!(seen(&at.join(format!("device{mode:o}"))), seen(&theirs), "{directory} device {mode:o}");
                std::fs::remove_file(&theirs).unwrap();
                rustix::fs::mkdir(&theirs, raw & !Mode::from_raw_mode(0o7000)).unwrap();
                let (mut ours, theirs_seen) = (seen(&at.join(format!("dir{mode:o}"))), seen(&theirs));
                // mkdir takes no set-id bits.
                ours.0 &= !0o4000;
                assert_eq!(ours, theirs_seen, "{directory} dir {mode:o}");
                std::fs::remove_dir(&theirs).unwrap();
            }
        }
        rustix::process::umask(old);
    });
    fsck(&image);
}

#[test]
fn permission_bits_and_the_acl_of_a_file_are_one_thing_as_in_the_kernel() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let volume = Volume::create(&image, 32 << 20).unwrap();
    for (name, list) in lists() {
        volume.write(format!("ours-{name}"), b"").unwrap();
        volume.write(format!("theirs-{name}"), b"").unwrap();
        volume.set_permissions(format!("theirs-{name}"), 0o4644).unwrap();
        volume.set_permissions(format!("ours-{name}"), 0o4644).unwrap();
        volume.set_xattr(format!("ours-{name}"), ACCESS, list).unwrap();
    }
    assert_eq!(volume.metadata("ours-masked").unwrap().mode() & 0o7777, 0o4750);
    assert_eq!(volume.xattr("ours-plain", ACCESS).unwrap(), None, "the mode says it all");
    let changed = ["masked", "named", "many"];
    for name in changed {
        volume.set_permissions(format!("ours-{name}"), 0o2612).unwrap();
        assert_eq!(volume.metadata(format!("ours-{name}")).unwrap().mode() & 0o7777, 0o2612);
    }
    volume.close().unwrap();
    fsck(&image);
    with_kernel_mount(&image, |mount| {
        for (name, list) in lists() {
            let theirs = mount.join(format!("theirs-{name}"));
            rustix::fs::setxattr(&theirs, ACCESS, &list, rustix::fs::XattrFlags::empty()).unwrap();
            if changed.contains(&name) {
                std::fs::set_permissions(&theirs, std::fs::Permissions::from_mode(0o2612)).unwrap();
            }
            assert_eq!(seen(&mount.join(format!("ours-{name}"))), seen(&theirs), "{name}");
        }
    });
    fsck(&image);
}

/// Contract 3, write: short up to the limit, then `EFBIG`.
#[test]
fn a_limit_makes_a_write_short_and_then_refuses_it() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let volume = Volume::create(&image, 4 << 20).unwrap();
    let file = OpenOptions::new().write(true).create(true).limit(5000).open(&volume, "f").unwrap();
    assert_eq!(file.write_at(&[1; 4096], 2000).unwrap(), 3000);
    assert_eq!(file.write_at(&[1], 5000).unwrap_err().errno(), 27);
    assert_eq!(file.set_len(5001).unwrap_err().errno(), 27);
    assert_eq!(file.allocate(0, 5001, false).unwrap_err().errno(), 27);
    assert_eq!(file.len(), 5000);
    drop(file);
    volume.close().unwrap();
    fsck(&image);
}
