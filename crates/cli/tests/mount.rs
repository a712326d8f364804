//! `xip mount` and `xip umount`, as a person uses them. Needs root, and runs what ordinary users do as one; says so where it is missing.

mod common;
#[path = "common/mounts.rs"]
mod mounts;

use common::{Ran, text};
use mounts::*;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};

#[test]
fn an_image_is_mounted_written_and_closed_again() {
    let Some(mounts) = Mounts::new() else { return };
    let ran = mounts.place.run(["mount", &mounts.image(), &mounts.mnt()]).succeeds();
    assert!(ran.out.contains("to be read and written"), "{}", ran.out);
    fs::write(mounts.at("f"), b"kept").unwrap();
    // One writes or many read, and who is refused learns who has it, and what to do.
    for arguments in [["mount", &mounts.image(), "/mnt"], ["load", &mounts.image(), "--json"]] {
        mounts.place.run(arguments).fails(1).says("is in use by process ").says("(xip)");
    }
    // By a link to a link to it, and by none.
    let links = [mounts.link("link", &mounts.mnt()), mounts.link("link2", "link")];
    for at in [&links[0], &format!("{}/", links[1])] {
        mounts.place.run(["umount", at]).succeeds();
        assert!(!is_mounted(&mounts.mnt()));
        mounts.mount();
    }
    mounts.umount().succeeds();
    assert!(!is_mounted(&mounts.mnt()));
    // Closed when the command returns.
    fsck(&mounts.image());

    // Only to be read, by as many as like.
    let other = mounts.place.path("other");
    fs::create_dir(&other).unwrap();
    for at in [&mounts.mnt(), text(&other)] {
        let ran = mounts.place.run(["mount", &mounts.image(), at, "-o", "noatime,ro", "--json"]).succeeds();
        assert_eq!(ran.json()["writable"], false);
        assert_eq!(fs::read(Path::new(at).join("f")).unwrap(), b"kept");
        assert_eq!(File::create(Path::new(at).join("g")).unwrap_err().kind(), io::ErrorKind::ReadOnlyFilesystem);
    }
    mounts.place.run(["mount", &mounts.image(), "/mnt"]).fails(1).says("in use by process ").says("xip umount");
    mounts.place.run(["umount", text(&other)]).succeeds();
    mounts.umount().succeeds();
}

/// No lock tells of one reader among many; it is gone all the same when the command returns.
#[test]
fn what_was_mounted_to_be_read_is_free_when_it_is_unmounted() {
    let Some(mounts) = Mounts::new() else { return };
    let place = &mounts.place;
    for _ in 0..15 {
        place.run(["mount", &mounts.image(), &mounts.mnt(), "-o", "ro"]).succeeds();
        mounts.umount().succeeds();
        place.run(["check", &mounts.image(), "--repair"]).succeeds();
    }
    let image = place.image();
    for _ in 0..15 {
        place.run(["load", text(&image), "--name", "seg"]).succeeds();
        place.run(["mount", "seg", &mounts.mnt()]).succeeds();
        mounts.umount().succeeds();
        place.run(["rm", "seg"]).succeeds();
    }
}

#[test]
fn ctrl_c_and_a_request_to_end_unmount_and_close() {
    let Some(mounts) = Mounts::new() else { return };
    for (signal, foreground) in [("-INT", true), ("-TERM", true), ("-TERM", false)] {
        let mut child = None;
        let pid = if foreground {
            let mut command = mounts.place.xip(["mount", &mounts.image(), &mounts.mnt(), "--foreground"]);
            let started = command.stdout(Stdio::null()).spawn().unwrap();
            let pid = started.id();
            child = Some(started);
            soon(|| is_mounted(&mounts.mnt()));
            pid
        } else {
            mounts.mount()
        };
        fs::write(mounts.at("f"), signal).unwrap();
        assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
        match &mut child {
            Some(child) => assert!(child.wait().unwrap().success()),
            None => soon(|| !Path::new(&format!("/proc/{pid}")).exists()),
        }
        assert!(!is_mounted(&mounts.mnt()));
        fsck(&mounts.image());
    }
}

#[test]
fn a_mount_in_use_is_not_taken_away_and_ends_lazily_with_its_last_file() {
    let Some(mounts) = Mounts::new() else { return };
    let pid = mounts.mount();
    let file = File::create(mounts.at("f")).unwrap();
    mounts.umount().fails(1).says("end the programs").says("--lazy");
    mounts.place.run(["umount", "--lazy", &mounts.mnt()]).succeeds();
    assert!(!is_mounted(&mounts.mnt()));
    file.write_all_at(b"still", 0).unwrap();
    drop(file);
    soon(|| !Path::new(&format!("/proc/{pid}")).exists());
    fsck(&mounts.image());
}

#[test]
fn what_makes_no_sense_is_refused_with_the_reason() {
    let Some(mounts) = Mounts::new() else { return };
    let (image, mnt) = (mounts.image(), mounts.mnt());
    let junk = mounts.place.path("junk");
    fs::write(&junk, vec![7; 8192]).unwrap();
    mounts.place.run(["mount", text(&junk), &mnt]).fails(1).says("not an ext2 volume");
    mounts.place.run(["mount", "./nothing", &mnt]).fails(1).says("./nothing");
    mounts.place.run(["mount", "nothing", &mnt]).fails(1).says("nothing");
    mounts.place.run(["mount", &image, &image]).fails(1).says("not a directory");
    mounts.place.run(["mount", &image, "/none/such"]).fails(1).says("/none/such");
    mounts.place.run(["mount", &image, &mnt, "-o", "rw,fast"]).fails(2).says("fast");
    let attached = Command::new("losetup").args(["-f", "--show", &image]).output().unwrap();
    let device = String::from_utf8(attached.stdout).unwrap();
    for arguments in [["mount", &image, &mnt], ["load", &image, "--json"]] {
        mounts.place.run(arguments).fails(1).says("is in use by /dev/loop");
    }
    assert!(Command::new("losetup").args(["-d", device.trim()]).status().unwrap().success());
    mounts.place.run(["umount", &mnt]).fails(1).says("no volume is mounted").says("findmnt");
    mounts.place.run(["umount", "/proc"]).fails(1).says("no volume is mounted");
    mounts.place.run(["save", "nothing"]).fails(1).says("nothing");
    assert!(!is_mounted(&mnt));
}

/// By `fusermount3`, which opens `/dev/fuse` as the user: where that is closed to users, an open one is shown to this test alone.
#[test]
fn an_ordinary_user_mounts_reads_and_writes_and_unmounts() {
    let Some(mounts) = Mounts::new() else { return };
    let place = &mounts.place;
    fs::set_permissions(place.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["users", "device", "closed"] {
        fs::create_dir(place.path(name)).unwrap();
    }
    fs::set_permissions(place.path("users"), fs::Permissions::from_mode(0o700)).unwrap();
    for name in ["data.xip", "mnt", "users"] {
        chown(place.path(name), Some(USER), Some(USER)).unwrap();
    }
    // The directory of the program may be closed to others.
    fs::copy(env!("CARGO_BIN_EXE_xip"), place.path("xip")).unwrap();
    let volume = xip::Volume::open_writable(place.path("data.xip")).unwrap();
    volume.set_permissions("/", 0o777).unwrap();
    volume.close().unwrap();
    let script = "
        mount -t tmpfs none device && mknod -m 666 device/fuse c 10 229 && mount --bind device/fuse /dev/fuse
        as_user() { setpriv --reuid 65534 --regid 65534 --clear-groups \"$@\"; }
        as_user ./xip mount data.xip mnt > /dev/null && echo mounted
        as_user sh -c 'echo mine > mnt/f; cat mnt/f; stat -c %u mnt/f'
        cat mnt/f 2> /dev/null || echo not even root
        as_user ./xip mount data.xip mnt 2>&1 | grep -o 'is in use by process'
        as_user ./xip umount mnt && echo unmounted
        as_user ./xip mount data.xip closed 2>&1 | grep -o 'fusermount3: .*write access'
        as_user ./xip mount data.xip mnt -o allow_other 2>&1 | grep -o \"'user_allow_other'\"
        as_user ./xip mount data.xip mnt -o suid 2>&1 | grep -o 'only root can mount'
        as_user ./xip umount mnt 2>&1 | grep -o 'no volume is mounted'";
    let mut shell = Command::new("unshare");
    shell.args(["--mount", "--propagation", "private", "sh", "-c", script]).current_dir(place.path(""));
    let ran = Ran::from(shell.env("XIP_DIR", place.path("users")).output().unwrap());
    let said: Vec<_> = ran.out.lines().collect();
    let owner = USER.to_string();
    assert_eq!(
        said,
        [
            "mounted",
            "mine",
            &owner,
            "not even root",
            "is in use by process",
            "unmounted",
            "fusermount3: user has no write access",
            "'user_allow_other'",
            "only root can mount",
            "no volume is mounted"
        ],
        "{}",
        ran.err
    );
    fsck(&mounts.image());
}

/// The kernel does that by itself. (Without `-i`, `mount` would look for a helper.)
#[test]
fn root_makes_a_mount_read_only_and_writable_again() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: to remount is for root");
        return;
    }
    let Some(mounts) = Mounts::new() else { return };
    mounts.mount();
    let remount = |how: &str| {
        let status = Command::new("mount").args(["-i", "-o", how, &mounts.mnt()]).status().unwrap();
        assert!(status.success(), "{how}");
    };
    fs::write(mounts.at("f"), "before").unwrap();
    remount("remount,ro");
    assert_eq!(
        fs::write(mounts.at("f"), "x").unwrap_err().raw_os_error(),
        Some(rustix::io::Errno::ROFS.raw_os_error())
    );
    assert_eq!(fs::read(mounts.at("f")).unwrap(), b"before");
    remount("remount,rw");
    fs::write(mounts.at("f"), "after").unwrap();
    assert_eq!(fs::read(mounts.at("f")).unwrap(), b"after");
    mounts.umount().succeeds();
    fsck(&mounts.image());
}
