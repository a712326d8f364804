//! The rules of a build: same input, same bytes; all or nothing; errors that name the file.

mod support;

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use support::*;
use xip_image::{Build, Error, IdRange, Owner, Pattern, Phase, Progress};

fn tree() -> (tempfile::TempDir, std::path::PathBuf, std::path::PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let (source, out) = (directory.path().join("tree"), directory.path().join("out"));
    plain_tree(&source);
    fs::create_dir(&out).unwrap();
    let image = out.join("image");
    (directory, source, image)
}

fn run(source: &Path, image: &Path) -> xip_image::Summary {
    Build::default().run(source, image, &()).unwrap()
}

/// Does something when a phase begins, or after some bytes of it.
struct At<F: Fn() + Sync>(Phase, F);

impl<F: Fn() + Sync> Progress for At<F> {
    fn phase(&self, phase: Phase, _total: u64) {
        if phase == self.0 {
            (self.1)();
        }
    }
}

#[test]
fn two_builds_of_one_tree_are_the_same_bytes() {
    let (_keep, source, image) = tree();
    let again = image.with_file_name("again");
    run(&source, &image);
    run(&source, &again);
    assert!(fs::read(&image).unwrap() == fs::read(&again).unwrap());
}

#[test]
fn a_copy_of_a_tree_whose_names_were_made_in_another_order_gives_the_same_bytes() {
    let (keep, source, image) = tree();
    let copy = keep.path().join("copy");
    // Directories, then files from the last to the first, then links: names are listed in another order.
    let mut found: Vec<_> = entries(&source).into_iter().collect();
    let is_directory = |mode: u32| mode & 0o170_000 == 0o040_000;
    for (path, _) in found.iter().filter(|(_, entry)| is_directory(entry.mode)) {
        fs::create_dir_all(copy.join(path)).unwrap();
    }
    for (path, entry) in found.iter().rev().filter(|(_, entry)| !is_directory(entry.mode)) {
        let to = copy.join(path);
        match &entry.target {
            Some(target) => symlink(target, to).unwrap(),
            None if entry.same_as != *path => {}
            None => drop(fs::copy(source.join(path), to).unwrap()),
        }
    }
    for (path, entry) in found.iter().filter(|(path, entry)| entry.same_as != *path) {
        fs::hard_link(copy.join(&entry.same_as), copy.join(path)).unwrap();
    }
    found.reverse();
    for (path, entry) in &found {
        if entry.target.is_none() {
            fs::set_permissions(copy.join(path), fs::Permissions::from_mode(entry.mode & 0o7777)).unwrap();
        }
        set_mtime(&copy.join(path), entry.mtime.0, entry.mtime.1);
    }
    let other = image.with_file_name("other");
    run(&source, &image);
    run(&copy, &other);
    assert!(fs::read(&image).unwrap() == fs::read(&other).unwrap());
}

#[test]
fn source_date_epoch_is_the_latest_time_in_the_image() {
    if !root("mounting") {
        return;
    }
    let (_keep, source, image) = tree();
    set_mtime(&source.join("bin/file-1"), 500, 7);
    set_mtime(&source.join("bin/file-2"), 2000, 7);
    Build { source_date_epoch: Some(1000), ..Build::default() }.run(&source, &image, &()).unwrap();
    let mounted = Mounted::new(&image);
    for (path, entry) in entries(mounted.path()) {
        let expected = if path == Path::new("bin/file-1") { (500, 7) } else { (1000, 0) };
        assert_eq!(entry.mtime, expected, "{}", path.display());
        let meta = fs::symlink_metadata(mounted.path().join(&path)).unwrap();
        assert_eq!((meta.ctime(), meta.ctime_nsec()), expected, "{}", path.display());
    }
}

#[test]
fn times_of_access_and_change_are_those_of_the_data() {
    if !root("mounting") {
        return;
    }
    let (_keep, source, image) = tree();
    run(&source, &image);
    let mounted = Mounted::new(&image);
    let meta = fs::metadata(mounted.path().join("bin/file-3")).unwrap();
    assert_eq!((meta.atime(), meta.ctime()), (meta.mtime(), meta.mtime()));
}

#[test]
fn owners_are_kept_or_mapped() {
    if !root("mounting, and giving files away") {
        return;
    }
    let (_keep, source, image) = tree();
    std::os::unix::fs::chown(source.join("bin"), Some(1005), Some(100)).unwrap();
    let owner = |build: Build, path: &str| {
        build.run(&source, &image, &()).unwrap();
        let meta = fs::symlink_metadata(Mounted::new(&image).path().join(path)).unwrap();
        (meta.uid(), meta.gid())
    };
    assert_eq!(owner(Build::default(), "bin"), (1005, 100));
    assert_eq!(owner(Build { owner: Owner::All(7, 8), ..Build::default() }, "bin"), (7, 8));
    let map = |from, to| vec![IdRange { from, to, count: 10 }];
    let owners = Owner::Map { users: map(1000, 0), groups: map(100, 70_000) };
    assert_eq!(owner(Build { owner: owners, ..Build::default() }, "bin"), (5, 70_000));
    assert_eq!(owner(Build { root_owner: Some((42, 43)), ..Build::default() }, ""), (42, 43));
    assert_eq!(owner(Build { root_owner: Some((42, 43)), ..Build::default() }, "bin"), (1005, 100));
}

#[test]
fn what_a_pattern_names_is_left_out() {
    if !root("mounting") {
        return;
    }
    let (_keep, source, image) = tree();
    let exclude = ["*-7", "/usr/lib/deep/", "link"].map(|text| Pattern::new(text.as_bytes()).unwrap()).to_vec();
    Build { exclude, ..Build::default() }.run(&source, &image, &()).unwrap();
    let mounted = Mounted::new(&image);
    assert!(mounted.path().join("bin/file-17").exists(), "only what is named");
    for gone in ["bin/file-7", "file-7", "usr/lib/deep", "link"] {
        assert!(mounted.path().join(gone).symlink_metadata().is_err(), "{gone}");
    }
}

#[test]
fn label_uuid_size_and_room_are_as_asked_for() {
    let (_keep, source, image) = tree();
    let build = Build { label: "sixteen bytes 16".into(), uuid: Some([7; 16]), ..Build::default() };
    let summary = build.run(&source, &image, &()).unwrap();
    assert_eq!(summary.info.label, "sixteen bytes 16");
    assert_eq!(summary.info.uuid, "07070707-0707-0707-0707-070707070707");
    let least = summary.info.bytes;

    let summary = Build { size: Some(300_000_001), ..Build::default() }.run(&source, &image, &()).unwrap();
    assert_eq!(summary.info.bytes, 300_000_001u64.next_multiple_of(2 << 20));
    assert_clean(&image);
    let summary = Build { free: Some(200 << 20), ..Build::default() }.run(&source, &image, &()).unwrap();
    assert!(u64::from(summary.info.geometry.free_inodes) >= 200 * 64);
    assert!(summary.info.density.free_blocks * 4096 >= 200 << 20);
    assert!(summary.info.bytes <= least + (206 << 20), "{}", summary.info.bytes);
    assert_clean(&image);

    let error = Build { size: Some(1 << 20), ..Build::default() }.run(&source, &image, &()).unwrap_err();
    let Error::TooSmall { needed, .. } = error else { panic!("{error}") };
    let summary = Build { size: Some(needed), ..Build::default() }.run(&source, &image, &()).unwrap();
    assert_eq!(summary.info.bytes, needed);
    let build = Build { size: Some(needed - 1), ..Build::default() };
    let error = build.run(&source, &image, &()).unwrap_err();
    assert!(matches!(error, Error::TooSmall { size, needed: same } if size == needed - 1 && same == needed), "{error}");
    // The limit of the format, by whichever option it is met.
    for (size, free) in [(Some(16 << 40), None), (None, Some(16 << 40)), (Some(u64::MAX), None), (None, Some(u64::MAX))]
    {
        let error = Build { size, free, ..Build::default() }.run(&source, &image, &()).unwrap_err();
        assert!(error.to_string().contains("more than 16 TiB"), "{error}");
    }
    let error = Build { label: "seventeen bytes !".into(), ..Build::default() }.run(&source, &image, &()).unwrap_err();
    assert!(error.to_string().contains("17 bytes"), "{error}");
}

#[test]
fn nothing_of_an_image_is_there_before_it_is_complete() {
    let (_keep, source, image) = tree();
    let out = image.parent().unwrap();
    for phase in [Phase::Scan, Phase::Names, Phase::Data, Phase::Sync] {
        let seen = AtomicU64::new(0);
        let look = At(phase, || {
            assert_eq!(list(out), Vec::<String>::new(), "{phase:?}");
            seen.fetch_add(1, Ordering::Relaxed);
        });
        Build::default().run(&source, &image, &look).unwrap();
        assert!(seen.into_inner() > 0, "{phase:?}");
        fs::remove_file(&image).unwrap();
    }
}

#[test]
fn an_image_that_is_there_is_replaced_only_by_a_whole_one() {
    let (_keep, source, image) = tree();
    fs::write(&image, "old").unwrap();
    let remove = At(Phase::Data, || fs::remove_file(source.join("usr/lib/large")).unwrap());
    Build::default().run(&source, &image, &remove).unwrap_err();
    assert_eq!(fs::read(&image).unwrap(), b"old");
    run(&source, &image);
    assert_clean(&image);
    assert_eq!(list(image.parent().unwrap()), ["image"]);
}

struct Cancel(Phase, AtomicU64);

impl Progress for Cancel {
    fn phase(&self, phase: Phase, _: u64) {
        if phase == self.0 {
            self.1.store(1, Ordering::Relaxed);
        }
    }
    fn cancelled(&self) -> bool {
        self.1.load(Ordering::Relaxed) == 1
    }
}

#[test]
fn a_cancelled_build_leaves_nothing() {
    let (_keep, source, image) = tree();
    for phase in [Phase::Scan, Phase::Data] {
        let error = Build::default().run(&source, &image, &Cancel(phase, AtomicU64::new(0))).unwrap_err();
        assert!(matches!(error, Error::Cancelled), "{phase:?}: {error}");
        assert_eq!(list(image.parent().unwrap()), Vec::<String>::new());
    }
}

/// Not a test of its own: what `a_killed_build_leaves_nothing` starts and kills.
#[test]
#[ignore = "started by another test"]
fn child_that_is_killed() {
    let arguments: Vec<_> = std::env::var("XIP_TEST_CHILD").unwrap().split(':').map(String::from).collect();
    let stop = At(Phase::Data, || {
        fs::write(&arguments[2], "").unwrap();
        std::thread::sleep(std::time::Duration::from_secs(600));
    });
    Build::default().run(arguments[0].as_ref(), arguments[1].as_ref(), &stop).unwrap();
}

#[test]
fn a_killed_build_leaves_nothing() {
    let (keep, source, image) = tree();
    let ready = keep.path().join("ready");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_is_killed", "--ignored"])
        .env("XIP_TEST_CHILD", format!("{}:{}:{}", source.display(), image.display(), ready.display()))
        .spawn()
        .unwrap();
    while !ready.exists() {
        assert!(child.try_wait().unwrap().is_none(), "the child has ended");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(list(image.parent().unwrap()), Vec::<String>::new());
}

#[test]
fn a_full_file_system_is_an_error_and_keeps_nothing() {
    if !root("mounting a small tmpfs") {
        return;
    }
    let (_keep, source, image) = tree();
    let out = image.parent().unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "none"]).arg(out).status().unwrap();
    assert!(mounted.success());
    let error = Build::default().run(&source, &image, &()).unwrap_err();
    let (left, free) = (list(out), rustix::fs::statvfs(out).unwrap().f_bfree * 4096);
    assert!(Command::new("umount").arg(out).status().unwrap().success());
    assert_eq!(error.errno(), rustix::io::Errno::NOSPC.raw_os_error(), "{error}");
    let Error::NoRoom { needs, free: said, .. } = error else { panic!("{error}") };
    assert!(said <= 4 << 20 && needs > said, "{error}");
    assert_eq!(left, Vec::<String>::new());
    assert!(free >= 4 << 20, "{free} bytes free");
}

#[test]
fn a_tree_that_changes_while_it_is_read_is_an_error_that_names_the_file() {
    type Change = (&'static str, fn(&Path));
    let changes: [Change; 7] = [
        ("bin/file-3", |file| fs::remove_file(file).unwrap()),
        ("bin/file-3", |file| fs::write(file, "other").unwrap()),
        ("bin/file-3", |file| File::options().append(true).open(file).unwrap().set_len(100_000).unwrap()),
        ("bin/file-3", |file| File::options().write(true).open(file).unwrap().set_len(10).unwrap()),
        ("bin/file-3", |file| {
            fs::remove_file(file).unwrap();
            make_node(file, rustix::fs::FileType::Fifo, (0, 0));
        }),
        ("usr", |directory| fs::write(directory.join("new"), "").unwrap()),
        ("usr/lib/deep", |directory| fs::rename(directory, directory.with_file_name("moved")).unwrap()),
    ];
    for (n, (path, change)) in changes.into_iter().enumerate() {
        let (_keep, source, image) = tree();
        let error = Build::default().run(&source, &image, &At(Phase::Data, || change(&source.join(path)))).unwrap_err();
        assert!(matches!(error, Error::Changed { .. }), "{n}: {error}");
        let path = path.trim_end_matches("/deep");
        assert!(error.to_string().contains(path), "{n}: {error}");
        assert_eq!(list(image.parent().unwrap()), Vec::<String>::new(), "{n}");
    }
}

#[test]
fn a_source_that_is_missing_or_no_directory_is_an_error() {
    let (_keep, source, image) = tree();
    for wrong in [source.join("missing"), source.join("bin/file-1")] {
        let error = Build::default().run(&wrong, &image, &()).unwrap_err();
        assert!(matches!(&error, Error::Source { path, .. } if *path == wrong), "{error}");
    }
}

#[test]
fn an_image_that_cannot_be_written_is_an_error() {
    let (_keep, source, image) = tree();
    for wrong in [image.join("no/such"), source.clone(), "/dev/null".into(), "/".into()] {
        let error = Build::default().run(&source, &wrong, &()).unwrap_err();
        assert!(matches!(error, Error::Image { .. }), "{}: {error}", wrong.display());
    }
}

#[test]
fn an_image_inside_its_own_source_is_not_part_of_itself() {
    let (_keep, source, _) = tree();
    let image = source.join("image");
    let first = run(&source, &image);
    let second = run(&source, &image);
    assert_eq!(first.info.files, second.info.files);
    assert_clean(&image);
}

#[test]
#[ignore = "started by another test"]
fn child_without_root() {
    let arguments: Vec<_> = std::env::var("XIP_TEST_CHILD").unwrap().split(':').map(String::from).collect();
    let result = Build::default().run(arguments[0].as_ref(), arguments[1].as_ref(), &());
    println!("result: {}", result.map_or_else(|error| error.to_string(), |_| "built".into()));
}

#[test]
fn without_root_a_tree_builds_and_an_unreadable_file_is_named() {
    if !root("becoming another user") {
        return;
    }
    let (keep, source, image) = tree();
    for directory in [keep.path(), image.parent().unwrap()] {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o777)).unwrap();
    }
    // The directory of the test's binary may not be open to others.
    let exe = keep.path().join("exe");
    fs::copy(std::env::current_exe().unwrap(), &exe).unwrap();
    let child = || {
        let output = Command::new(&exe)
            .args(["--exact", "child_without_root", "--ignored", "--nocapture"])
            .env("XIP_TEST_CHILD", format!("{}:{}", source.display(), image.display()))
            .uid(65_534)
            .gid(65_534)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(child().contains("result: built"));
    assert_clean(&image);
    assert_same(&source, Mounted::new(&image).path());
    fs::remove_file(&image).unwrap();

    let secret = source.join("usr/lib/file-9");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let told = child();
    assert!(told.contains(&format!("{}: cannot open", secret.display())), "{told}");
    assert_eq!(list(image.parent().unwrap()), Vec::<String>::new());
}
