//! Names and attributes on a mount that is written, seen by programs; the image afterwards, by `e2fsck` and the library. Needs
//! root, for mount(2); says so where it is missing.

mod live_support;

use live_support::{USER, as_user, errno, rename, run, set_mode, set_xattr, soon, world, xattr};
use rustix::fs::{AtFlags, CWD, FileType, Mode, RenameFlags, Timespec, Timestamps, XattrFlags, utimensat};
use rustix::fs::{UTIME_NOW, UTIME_OMIT, makedev, mknodat};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::Path;
use xip::Kind;

/// Asked for alone, so that the kernel answers by what it starts programs by, and not anew for the sake of a time or size.
fn mode(path: &Path) -> u32 {
    let found = rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, rustix::fs::StatxFlags::MODE).unwrap();
    u32::from(found.stx_mode) & 0o7777
}

#[test]
fn everything_that_can_be_made_is_there_and_stays() {
    let Some(world) = world(16) else { return };
    let at = |name| world.at(name);
    fs::create_dir(at("d")).unwrap();
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(at("d/f")).unwrap().write_all(b"file").unwrap();
    let permissions = Mode::from_raw_mode(0o640);
    mknodat(CWD, at("fifo"), FileType::Fifo, permissions, 0).unwrap();
    mknodat(CWD, at("socket"), FileType::Socket, permissions, 0).unwrap();
    mknodat(CWD, at("null"), FileType::CharacterDevice, permissions, makedev(1, 3)).unwrap();
    mknodat(CWD, at("block"), FileType::BlockDevice, permissions, makedev(259, 70_000)).unwrap();
    let long = "long/".repeat(100);
    symlink("d/f", at("fast")).unwrap();
    symlink(&long, at("slow")).unwrap();
    fs::hard_link(at("d/f"), at("hard")).unwrap();

    assert_eq!(fs::read(at("fast")).unwrap(), b"file");
    assert_eq!(fs::read_link(at("slow")).unwrap().to_str(), Some(&*long));
    assert_eq!(fs::metadata(at("hard")).unwrap().nlink(), 2);
    assert_eq!((mode(&at("d/f")), mode(&at("fifo"))), (0o600, 0o640));
    assert_eq!(fs::metadata(at("block")).unwrap().rdev(), makedev(259, 70_000));
    // A device is one, on a mount that allows it.
    assert_eq!(File::open(at("null")).unwrap().read(&mut [0]).unwrap(), 0);
    // The directory and the one above it count each other.
    assert_eq!((fs::metadata(at("d")).unwrap().nlink(), fs::metadata(&world.mount).unwrap().nlink()), (2, 3));
    assert_eq!(fs::metadata(&world.mount).unwrap().ino(), 2);
    assert_eq!(errno(File::create_new(at("d/f"))), Errno::EXIST.raw_os_error());
    assert_eq!(errno(fs::create_dir(at(&"n".repeat(256)))), Errno::NAMETOOLONG.raw_os_error());
    world.end(|volume| {
        assert_eq!(volume.read("/hard").unwrap(), b"file");
        assert_eq!(volume.symlink_metadata("/slow").unwrap().len(), 500);
        let kinds = ["fifo", "socket", "null", "block"].map(|name| volume.metadata(name).unwrap().file_type());
        assert_eq!(kinds, [Kind::Fifo, Kind::Socket, Kind::Character, Kind::Block]);
    });
}

#[test]
fn a_name_that_was_not_there_is_seen_when_it_comes_and_not_when_it_has_gone() {
    let Some(world) = world(16) else { return };
    fs::write(world.at("f"), b"f").unwrap();
    let make: [&dyn Fn(&Path); 5] = [
        &|at| fs::write(at, b"x").unwrap(),
        &|at| fs::create_dir(at).unwrap(),
        &|at| symlink("f", at).unwrap(),
        &|at| fs::hard_link(world.at("f"), at).unwrap(),
        &|at| {
            fs::write(world.at("g"), b"x").unwrap();
            fs::rename(world.at("g"), at).unwrap();
        },
    ];
    for (n, make) in make.into_iter().enumerate() {
        let at = world.at("new");
        // The kernel remembers that there is nothing.
        assert!(fs::symlink_metadata(&at).is_err());
        make(&at);
        fs::symlink_metadata(&at).unwrap();
        if n == 1 { fs::remove_dir(&at) } else { fs::remove_file(&at) }.unwrap();
        assert!(fs::symlink_metadata(&at).is_err());
    }
    world.ends();
}

#[test]
fn rename_replaces_refuses_and_exchanges() {
    let Some(world) = world(16) else { return };
    let at = |name| world.at(name);
    fs::create_dir(at("d")).unwrap();
    fs::create_dir(at("e")).unwrap();
    fs::write(at("d/inside"), b"inside").unwrap();
    for name in ["one", "two", "three"] {
        fs::write(at(name), name).unwrap();
    }
    let open = File::open(at("two")).unwrap();
    fs::rename(at("one"), at("two")).unwrap();
    assert_eq!((fs::read(at("two")).unwrap(), at("one").exists()), (b"one".to_vec(), false));
    // What was replaced is there for those who have it open.
    assert_eq!(std::io::read_to_string(open).unwrap(), "two");

    let refused = rename(&at("three"), &at("two"), RenameFlags::NOREPLACE);
    assert_eq!(refused, Err(Errno::EXIST));
    rename(&at("three"), &at("e/three"), RenameFlags::NOREPLACE).unwrap();

    // A directory and a file change places, from one directory to another: counts of links follow.
    let ino = fs::metadata(at("d")).unwrap().ino();
    rename(&at("d"), &at("e/three"), RenameFlags::EXCHANGE).unwrap();
    assert_eq!(fs::read(at("d")).unwrap(), b"three");
    assert_eq!(fs::metadata(at("e/three")).unwrap().ino(), ino);
    assert_eq!(fs::read(at("e/three/inside")).unwrap(), b"inside");
    assert_eq!((fs::metadata(at("e")).unwrap().nlink(), fs::metadata(&world.mount).unwrap().nlink()), (3, 3));
    assert_eq!(rename(&at("d"), &at("none"), RenameFlags::EXCHANGE), Err(Errno::NOENT));
    assert_eq!(errno(fs::rename(at("e"), at("e/three/below"))), Errno::INVAL.raw_os_error());
    assert_eq!(errno(fs::rename(at("d"), at("e"))), Errno::ISDIR.raw_os_error());
    world.ends();
}

/// Contract 3 and 6: no number becomes another file's while somebody has it open, and its storage comes back then.
#[test]
fn a_removed_file_lives_until_its_last_close() {
    let Some(world) = world(16) else { return };
    let free = || rustix::fs::statvfs(&world.mount).unwrap().f_bfree;
    let before = free();
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(world.at("f")).unwrap();
    file.write_all_at(&[1; 100_000], 0).unwrap();
    fs::remove_file(world.at("f")).unwrap();
    // Others are made meanwhile, and none of them is this one.
    for n in 0..50 {
        fs::write(world.at(&format!("other{n}")), [2; 5000]).unwrap();
    }
    file.write_all_at(&[3; 10], 100_000).unwrap();
    file.sync_all().unwrap();
    let metadata = file.metadata().unwrap();
    assert_eq!((metadata.nlink(), metadata.len()), (0, 100_010));
    let mut bytes = [0; 11];
    file.read_exact_at(&mut bytes, 99_999).unwrap();
    assert_eq!(bytes, [1, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3]);
    for n in 0..50 {
        fs::remove_file(world.at(&format!("other{n}"))).unwrap();
    }
    assert!(free() < before);
    drop(file);
    soon(|| free() == before);
    world.ends();
}

#[test]
fn a_removed_directory_that_is_open_is_empty_and_takes_no_names() {
    let Some(world) = world(16) else { return };
    fs::create_dir(world.at("d")).unwrap();
    let open = File::open(world.at("d")).unwrap();
    assert_eq!(errno(fs::remove_file(world.at("d"))), Errno::ISDIR.raw_os_error());
    fs::write(world.at("d/f"), b"").unwrap();
    assert_eq!(errno(fs::remove_dir(world.at("d"))), Errno::NOTEMPTY.raw_os_error());
    fs::remove_file(world.at("d/f")).unwrap();
    fs::remove_dir(world.at("d")).unwrap();
    let made = rustix::fs::mkdirat(&open, "below", Mode::RWXU);
    assert_eq!(made, Err(Errno::NOENT));
    assert_eq!(rustix::fs::fstat(&open).unwrap().st_nlink, 0);
    drop(open);
    world.ends();
}

#[test]
fn a_directory_is_listed_once_each_while_others_come_and_go() {
    let Some(world) = world(64) else { return };
    let directory = world.at("many");
    fs::create_dir(&directory).unwrap();
    for n in 0..3000 {
        File::create(directory.join(format!("stays{n}"))).unwrap();
    }
    let mut seen = BTreeSet::new();
    for (n, entry) in fs::read_dir(&directory).unwrap().enumerate() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        // With attributes, as `ls -l` has it, in part from the listing itself.
        if n % 7 == 0 && name.starts_with("stays") {
            assert!(entry.metadata().unwrap().is_file());
        }
        assert!(!name.starts_with("stays") || seen.insert(name), "twice");
        if n % 3 == 0 {
            File::create(directory.join(format!("comes{n}"))).unwrap();
            let _ = fs::remove_file(directory.join(format!("comes{}", n / 2)));
        }
    }
    assert_eq!(seen.len(), 3000);
    let count = fs::read_dir(&directory).unwrap().count();
    fs::remove_file(directory.join("stays7")).unwrap();
    assert_eq!(fs::read_dir(&directory).unwrap().count(), count - 1);
    world.ends();
}

#[test]
fn times_are_set_kept_and_moved() {
    let Some(world) = world(16) else { return };
    let path = world.at("f");
    fs::write(&path, b"x").unwrap();
    let time = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let set = |atime, mtime| {
        let times = Timestamps { last_access: atime, last_modification: mtime };
        utimensat(CWD, &path, &times, AtFlags::empty()).unwrap();
        let now = fs::metadata(&path).unwrap();
        ((now.atime(), now.atime_nsec()), (now.mtime(), now.mtime_nsec()))
    };
    assert_eq!(set(time(1000, 999_999_999), time(-2, 800_000_000)), ((1000, 999_999_999), (-2, 800_000_000)));
    assert_eq!(set(time(0, UTIME_OMIT), time(7_000_000_000, 1)), ((1000, 999_999_999), (7_000_000_000, 1)));
    let (_, (now, _)) = set(time(0, UTIME_OMIT), time(0, UTIME_NOW));
    assert!(now > 1_700_000_000);
    // One clock for all times: what is made later is not older.
    for n in 0..50 {
        set(time(0, UTIME_NOW), time(0, UTIME_NOW));
        let later = world.at(&format!("later{n}"));
        File::create(&later).unwrap();
        let time = |path| fs::metadata(path).map(|found| (found.mtime(), found.mtime_nsec())).unwrap();
        assert!(time(&path) <= time(&later));
    }

    // `relatime` and `noatime`, of a read that reaches the volume.
    let read = || {
        let flags = rustix::fs::OFlags::DIRECT.bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(&path).unwrap();
        file.read_at(&mut [0; 4096], 0).unwrap();
        fs::metadata(&path).unwrap().atime()
    };
    set(time(1000, 0), time(2000, 0));
    assert!(read() > 1_700_000_000);
    world.volume.set_access_times(false);
    set(time(1000, 0), time(2000, 0));
    assert_eq!(read(), 1000);

    // The format ends in 1901 and 2446: clipped, and nobody falls over it.
    let ((oldest, _), (newest, _)) = set(time(i64::MIN, 5), time(i64::MAX, 5));
    assert_eq!((oldest, newest), (i64::from(i32::MIN), i64::from(i32::MIN) + (1 << 34) - 1));

    let ctime = || fs::metadata(&path).map(|now| (now.ctime(), now.ctime_nsec())).unwrap();
    let changes: [&dyn Fn(); 5] = [
        &|| set_mode(&path, 0o600),
        &|| chown(&path, Some(5), None).unwrap(),
        &|| fs::hard_link(&path, world.at("g")).unwrap(),
        &|| fs::remove_file(world.at("g")).unwrap(),
        &|| fs::rename(&path, world.at("h")).and_then(|()| fs::rename(world.at("h"), &path)).unwrap(),
    ];
    for change in changes {
        let before = ctime();
        std::thread::sleep(std::time::Duration::from_millis(12));
        change();
        assert!(ctime() > before);
    }
    world.end(|volume| assert_eq!(volume.metadata("f").unwrap().uid(), 5));
}

#[test]
fn the_umask_counts_and_a_set_group_id_directory_gives_its_group() {
    let Some(world) = world(16) else { return };
    let shared = world.at("shared");
    fs::create_dir(&shared).unwrap();
    chown(&shared, None, Some(77)).unwrap();
    set_mode(&shared, 0o2777);
    let made = as_user(&shared, "umask 027; : > f; mkdir d; ln -s f l");
    assert!(made.1);
    let of = |name: &str| {
        let found = fs::symlink_metadata(shared.join(name)).unwrap();
        (found.permissions().mode() & 0o7777, found.uid(), found.gid())
    };
    assert_eq!((of("f"), of("d"), of("l")), ((0o640, USER, 77), (0o2750, USER, 77), (0o777, USER, 77)));
    world.ends();
}

#[test]
fn permissions_are_checked() {
    let Some(world) = world(16) else { return };
    fs::write(world.at("secret"), b"secret").unwrap();
    set_mode(&world.at("secret"), 0o600);
    let (out, _) = as_user(&world.mount, "cat secret; touch new; rm -f secret; chmod 666 secret; echo done");
    assert_eq!(out, "done\n");
    assert!(!world.at("new").exists() && mode(&world.at("secret")) == 0o600);
    // A user that the list names.
    run("setfacl", &["-m", &format!("u:{USER}:r"), world.at("secret").to_str().unwrap()]);
    assert_eq!(as_user(&world.mount, "cat secret; echo more >> secret").0, "secret");
    world.ends();
}

/// POSIX 1003.1e: what is made in a directory with a default list has it, whatever the umask; the mode follows.
#[test]
fn default_lists_are_inherited_and_modes_and_lists_keep_in_step() {
    let Some(world) = world(16) else { return };
    let directory = world.at("d");
    fs::create_dir(&directory).unwrap();
    let d = directory.to_str().unwrap();
    run("setfacl", &["-d", "-m", &format!("u::rwx,u:{USER}:rwx,g::r-x,m::rwx,o::---"), d]);
    run("sh", &["-c", &format!("umask 077; mkdir {d}/sub; : > {d}/f; ln -s f {d}/l")]);
    let acl = |name: &str| run("getfacl", &["-pcnE", directory.join(name).to_str().unwrap()]);
    let lines = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let named = format!("user:{USER}:rwx");
    assert_eq!(lines(&acl("f")), ["user::rw-", &named, "group::r-x", "mask::rw-", "other::---"]);
    assert_eq!(mode(&directory.join("f")), 0o660);
    let default = ["default:user::rwx", &format!("default:{named}"), "default:group::r-x", "default:mask::rwx"];
    assert_eq!(lines(&acl("sub"))[5..9], default);
    assert_eq!(mode(&directory.join("sub")), 0o770);

    // The group's bits are the mask.
    set_mode(&directory.join("f"), 0o604);
    assert_eq!(lines(&acl("f")), ["user::rw-", &named, "group::r-x", "mask::---", "other::r--"]);
    let file = directory.join("f");
    run("setfacl", &["-m", "m::r", file.to_str().unwrap()]);
    assert_eq!(mode(&file), 0o644);
    // A list that says no more than a mode is one.
    run("setfacl", &["-b", file.to_str().unwrap()]);
    assert_eq!(xattr(&file, "system.posix_acl_access"), None);
    run("setfacl", &["-k", directory.join("sub").to_str().unwrap()]);
    File::create(directory.join("sub/plain")).unwrap();
    assert_eq!(mode(&directory.join("sub/plain")), 0o644);
    world.ends();
}

/// Contract 3, write: set-id bits go, unless the writer may keep them.
#[test]
fn set_id_bits_go_with_the_write_of_another_and_with_a_new_owner() {
    let Some(world) = world(16) else { return };
    let path = world.at("program");
    fs::write(&path, b"#!").unwrap();
    set_mode(&path, 0o6777);
    fs::write(&path, b"by root, cut to nothing first").unwrap();
    assert_eq!(mode(&path), 0o6777);
    assert!(as_user(&world.mount, ": > program").1);
    assert_eq!(mode(&path), 0o777);
    set_mode(&path, 0o6777);
    File::options().append(true).open(&path).unwrap().write_all(b"by root").unwrap();
    assert_eq!(mode(&path), 0o6777);
    assert!(as_user(&world.mount, "echo more >> program").1);
    assert_eq!(mode(&path), 0o777);
    for (owner, group) in [(Some(9), None), (None, Some(9)), (None, None)] {
        set_mode(&path, 0o6777);
        chown(&path, owner, group).unwrap();
        assert_eq!(mode(&path), 0o777, "{owner:?} {group:?}");
    }
    fs::write(world.at("source"), [1; 100]).unwrap();
    // `copy_file_range` by its number: no program calls it without cutting the file first.
    let copy = "perl -e 'open(F, \"<source\"); open(T, \"+<program\"); exit(syscall(326, fileno(F), 0, fileno(T), 0, 50, 0) != 50)'";
    for change in ["fallocate -l 9000 program", "fallocate -p -l 4096 program", "fallocate -z -l 10 program", copy] {
        set_mode(&path, 0o6777);
        assert!(as_user(&world.mount, change).1, "{change}");
        assert_eq!(mode(&path), 0o777, "{change}");
    }
    set_mode(&path, 0o6777);
    run("fallocate", &["-l", "20000", path.to_str().unwrap()]);
    assert_eq!(mode(&path), 0o6777, "root may keep them");
    set_mode(&path, 0o2767);
    assert!(as_user(&world.mount, "echo more >> program").1);
    // Without execution by the group it is no set-id bit.
    assert_eq!(mode(&path), 0o2767);
    // Capabilities of the program go likewise.
    let capability = [&[1, 0, 0, 2, 0, 0x20][..], &[0; 14]].concat();
    set_xattr(&path, "security.capability", &capability, XattrFlags::empty()).unwrap();
    assert!(as_user(&world.mount, "echo more >> program").1);
    assert_eq!(xattr(&path, "security.capability"), None);
    world.ends();
}

#[test]
fn extended_attributes_come_are_replaced_and_go() {
    let Some(world) = world(16) else { return };
    let path = world.at("f");
    fs::write(&path, b"").unwrap();
    let any = XattrFlags::empty();
    assert_eq!(set_xattr(&path, "user.a", b"1", XattrFlags::REPLACE), Err(Errno::NODATA));
    set_xattr(&path, "user.a", b"1", XattrFlags::CREATE).unwrap();
    assert_eq!(set_xattr(&path, "user.a", b"2", XattrFlags::CREATE), Err(Errno::EXIST));
    set_xattr(&path, "user.a", b"22", XattrFlags::REPLACE).unwrap();
    set_xattr(&path, "trusted.long", &[7; 2000], any).unwrap();
    set_xattr(&path, "user.empty", b"", any).unwrap();
    assert_eq!(xattr(&path, "user.a").unwrap(), b"22");
    assert_eq!(rustix::fs::lgetxattr(&path, "trusted.long", &mut [0u8; 10]), Err(Errno::RANGE));
    let mut list = [0u8; 100];
    let len = rustix::fs::llistxattr(&path, &mut list).unwrap();
    assert_eq!(list[..len].iter().filter(|&&byte| byte == 0).count(), 3);
    assert!(set_xattr(&path, "user.large", &[7; 5000], any).is_err());
    assert_eq!(set_xattr(&path, "unknown.a", b"", any), Err(Errno::OPNOTSUPP));
    rustix::fs::lremovexattr(&path, "user.a").unwrap();
    assert_eq!(rustix::fs::lremovexattr(&path, "user.a"), Err(Errno::NODATA));
    world.end(|volume| {
        assert_eq!(volume.xattr("f", "trusted.long").unwrap().unwrap(), [7; 2000]);
        assert_eq!(volume.xattr("f", "user.a").unwrap(), None);
    });
}
