//! What is written to a mount, and where it is then: in an image that is known to be another, or in a segment until it is saved.

mod common;
#[path = "common/mounts.rs"]
mod mounts;

use common::{Ran, text};
use mounts::*;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::time::Duration;

#[test]
fn a_segment_is_mounted_to_be_read_and_saved_to_be_written() {
    let Some(mounts) = Mounts::new() else { return };
    let place = &mounts.place;
    let image = place.image();
    place.run(["load", text(&image), "--name", "seg"]).succeeds();
    place.run(["mount", "seg", &mounts.mnt()]).succeeds();
    assert_eq!(fs::read(mounts.at("etc/motd")).unwrap(), b"one copy\n");
    assert!(File::create(mounts.at("g")).is_err());
    mounts.umount().succeeds();
    // What is named by its path is an image, wherever segments are.
    let without = |arguments: &[&str]| Ran::from(place.xip(arguments).env("XIP_DIR", "/etc/passwd").output().unwrap());
    without(&["check", text(&image)]).succeeds();
    without(&["check", "seg"]).fails(1).says("/etc/passwd");
    place.run(["mount", "seg", &mounts.mnt(), "-o", "rw"]).fails(1).says("sealed").says("--exclusive");

    let copy = place.path("copy.xip");
    let ran = place.run(["save", "seg", text(&copy), "--json"]).succeeds();
    assert_eq!(ran.json()["bytes"].as_u64().unwrap(), fs::metadata(&image).unwrap().len());
    assert!(fs::read(&copy).unwrap() == fs::read(&image).unwrap());
    // The image it came from, which was lost; and not one that is newer.
    fs::remove_file(&image).unwrap();
    place.run(["save", "seg"]).succeeds();
    assert!(fs::read(&copy).unwrap() == fs::read(&image).unwrap());
    assert_eq!(fs::metadata(&image).unwrap().mode() & 0o777, 0o600);
    let newer = fs::read(&image).unwrap().len() as u64 + 4096;
    File::options().write(true).open(&image).unwrap().set_len(newer).unwrap();
    place.run(["save", "seg"]).fails(1).says("has other bytes than when").says("xip save seg FILE");
    place.run(["save", "seg", text(&image)]).succeeds();

    place.run(["mount", text(&copy), &mounts.mnt()]).succeeds();
    fs::write(mounts.at("etc/motd"), b"another\n").unwrap();
    place.run(["save", "seg", text(&copy)]).fails(1).says("in use by process ");
    // Nor is it built anew: what is written to the mount from then on would be in no file.
    let tree = place.path("empty");
    fs::create_dir(&tree).unwrap();
    place.run(["build", text(&tree), text(&copy)]).fails(1).says("in use by process ");
    mounts.umount().succeeds();
    fsck(text(&copy));
    place.run(["save", "seg", text(&copy)]).succeeds();
    assert!(fs::read(&copy).unwrap() == fs::read(&image).unwrap());
}

/// Also on tmpfs, where stores through a mapping change no times of the file: by these an image is known again without being read.
#[test]
fn an_image_that_was_written_by_a_mount_is_no_longer_the_one_that_was_loaded() {
    let Some(mounts) = Mounts::new() else { return };
    let (place, image) = (&mounts.place, mounts.image());
    // Long enough that a later change has other times for sure.
    std::thread::sleep(Duration::from_secs(4));
    let loaded = |new: bool| {
        let ran = place.run(["load", &image, "--name", "seg", "--json"]).succeeds().json();
        assert_eq!(ran["loaded"], new, "{ran}");
    };
    loaded(true);
    loaded(false);
    let server = mounts.mount();
    fs::write(mounts.at("f"), b"new").unwrap();
    mounts.umount().succeeds();
    loaded(true);
    // Nor when nobody closed it.
    std::thread::sleep(Duration::from_secs(4));
    place.run(["rm", "seg"]).succeeds();
    loaded(true);
    loaded(false);
    let again = mounts.mount();
    assert!(again != server);
    fs::write(mounts.at("f"), b"newer").unwrap();
    kill(again);
    mounts.umount().succeeds();
    loaded(true);
}

/// Issue 3, sections 1 and 2: a segment that one writes or many read, and what was written of it in an image.
#[test]
fn an_exclusive_segment_is_written_in_memory_and_saved() {
    let Some(mounts) = Mounts::new() else { return };
    let place = &mounts.place;
    let (image, mnt) = (mounts.image(), mounts.mnt());
    let loaded = fs::read(&image).unwrap();
    let ran = place.run(["load", &image, "--exclusive", "--name", "rw"]).succeeds();
    assert!(ran.out.contains("writable"), "{}", ran.out);
    assert_eq!(place.run(["ls", "--json"]).succeeds().json()[0]["exclusive"], true);
    // What can be shared is another memory, and is not what can change.
    assert_eq!(place.run(["load", &image, "--name", "shared", "--json"]).succeeds().json()["loaded"], true);
    assert!(place.run(["stat", "rw"]).succeeds().out.contains("it can be written"));
    for arguments in [&["load", &image, "--name", "rw"][..], &["load", &image, "--exclusive", "--name", "shared"]] {
        place.run(arguments).fails(1).says("an exclusive one shares no name");
    }
    for arguments in [&["run", "rw", "--", "/bin/true"][..], &["vm", "run", "rw"]] {
        place.run(arguments).fails(125).says("exclusive").says("xip save rw");
    }

    let mount = || {
        let ran = place.run(["mount", "rw", &mnt, "--json"]).succeeds().json();
        assert_eq!(ran["writable"], true);
        u32::try_from(ran["process"].as_u64().unwrap()).unwrap()
    };
    let server = mount();
    fs::write(mounts.at("f"), b"kept").unwrap();
    fs::write(mounts.at("g"), vec![7; 1 << 20]).unwrap();
    fs::remove_file(mounts.at("g")).unwrap();
    assert!(fs::read(&image).unwrap() == loaded, "the image has nothing of it");
    let other = place.path("other");
    fs::create_dir(&other).unwrap();
    let busy = format!("the segment rw is in use by process {server} (xip)");
    for arguments in [
        &["mount", "rw", text(&other)][..],
        &["mount", "rw", text(&other), "-o", "ro"],
        &["save", "rw"],
        &["check", "rw"],
        &["check", "rw", "--repair"],
    ] {
        place.run(arguments).fails(1).says(&busy);
    }
    // Who serves it is told to `xip umount`, by nothing that the volume has.
    let mut server_says = [0; 64];
    let length = rustix::fs::getxattr(mounts.at(""), xip_fuse::SERVER, &mut server_says[..]).unwrap();
    assert!(server_says[..length].starts_with(format!("{server} ").as_bytes()));
    let set = rustix::fs::setxattr(mounts.at(""), xip_fuse::SERVER, b"1 x", rustix::fs::XattrFlags::empty());
    assert_eq!(set, Err(rustix::io::Errno::OPNOTSUPP));
    let stat = place.run(["stat", "rw", "--json"]).succeeds().json();
    assert_eq!(
        (&stat["processes"][0]["pid"], &stat["processes"][0]["role"]),
        (&server.into(), &"serves".into()),
        "{stat}"
    );
    place.run(["rm", "rw"]).fails(1).says("may be nowhere else").says(&format!("xip ({server}, serves its files)"));

    // Who serves it dies: all of it is there for the next.
    kill(server);
    mounts.umount().succeeds();
    place.run(["save", "rw"]).fails(1).says("was not closed").says("xip check --repair rw");
    let server = mount();
    assert_eq!(fs::read(mounts.at("f")).unwrap(), b"kept");
    mounts.umount().succeeds();
    assert!(!fs::exists(format!("/proc/{server}/exe")).unwrap(), "it has ended");
    place.run(["check", "rw", "--repair"]).succeeds();
    place.run(["rm", "rw"]).fails(1).says("xip save").says(&image);
    // As secret as it was.
    fs::set_permissions(&image, fs::Permissions::from_mode(0o640)).unwrap();
    chown(&image, Some(USER), Some(USER)).unwrap();
    place.run(["save", "rw"]).succeeds();
    let kept = fs::metadata(&image).unwrap();
    assert_eq!((kept.mode() & 0o7777, kept.uid(), kept.gid()), (0o640, USER, USER));
    assert!(kept.blocks() * 512 < kept.len(), "zeros take no storage");
    // By whatever name.
    place.run(["save", "rw", &mounts.link("link.xip", &image)]).succeeds();
    place.run(["save", "rw"]).succeeds();
    fsck(&image);
    // Somebody else's work is not lost by a save, and one at that file is.
    place.run(["mount", &image, &mnt]).succeeds();
    fs::write(mounts.at("theirs"), b"").unwrap();
    mounts.umount().succeeds();
    place.run(["save", "rw"]).fails(1).says("has other bytes than when").says("xip save rw FILE");
    place.run(["save", "rw", &image]).succeeds();
    place.run(["save", "rw"]).succeeds();
    for at in [&mnt, text(&other)] {
        place.run(["mount", "rw", at, "-o", "ro"]).succeeds();
        assert_eq!(fs::read(Path::new(at).join("f")).unwrap(), b"kept");
    }
    place.run(["mount", "rw", "/mnt"]).fails(1).says("in use by process ");
    place.run(["umount", text(&other)]).succeeds();
    mounts.umount().succeeds();
    place.run(["rm", "rw", "shared"]).succeeds();
    place.run(["mount", &image, &mnt, "-o", "ro"]).succeeds();
    assert_eq!(fs::read(mounts.at("f")).unwrap(), b"kept");
    mounts.umount().succeeds();
}
