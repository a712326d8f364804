//! `xip check`: its verdict is that of `e2fsck -fn`, it mends what a crash may leave (contract 7) and nothing else, and
//! only where nobody else has the image.

mod common;
#[path = "support/mount.rs"]
mod mount;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use common::{Place, Ran, text};
use rustix::process::{Pid, Signal, kill_process};

/// The exit code for what is wrong and not mended, and that of e2fsck for the same.
const NOT_CLEAN: i32 = 4;

/// An image with a file to keep and some to lose.
fn image(place: &Place, lose: usize) -> PathBuf {
    let tree = place.path("files");
    fs::create_dir_all(tree.join("lose")).unwrap();
    fs::write(tree.join("keep"), "kept\n".repeat(5000)).unwrap();
    for n in 0..lose {
        fs::write(tree.join(format!("lose/{n}")), format!("{n}").repeat(3000)).unwrap();
    }
    let image = place.path("files.xip");
    place.run(["build", text(&tree), text(&image), "--free", "1M"]).succeeds();
    image
}

/// Changes an image behind the back of everybody.
fn debugfs(image: &Path, commands: &str) -> String {
    let script = image.with_extension("commands");
    fs::write(&script, commands).unwrap();
    let out = Command::new("debugfs").arg("-w").arg("-f").args([&script, image]).output();
    String::from_utf8_lossy(&out.expect("debugfs: run cargo xtask setup").stdout).into_owned()
}

/// Takes the names away, as a crash in the middle of an unlink does.
fn leak(image: &Path, lose: usize) {
    debugfs(image, &(0..lose).map(|n| format!("unlink /lose/{n}\n")).collect::<String>());
}

#[track_caller]
fn assert_e2fsck(image: &Path, clean: bool) {
    let out = Command::new("e2fsck").arg("-fn").arg(image).output().expect("e2fsck: run cargo xtask setup");
    // Where it would give up it is told to go on, and then forgets what it asked.
    let text = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
    assert_eq!(out.status.success() && !text.contains("? no"), clean, "{text}");
}

/// Ends as something wrong, with findings as results and no error.
#[track_caller]
fn finds(ran: Ran, words: &[&str]) -> Ran {
    assert_eq!(ran.output.status.code(), Some(NOT_CLEAN), "{}{}", ran.out, ran.err);
    assert_eq!(ran.err, "");
    for word in words {
        assert!(ran.out.contains(word), "`{word}` is not in: {}", ran.out);
    }
    ran
}

#[test]
fn an_image_that_is_whole_is_clean_and_stays_as_it_is() {
    let place = Place::new();
    let image = image(&place, 3);
    let bytes = fs::read(&image).unwrap();
    for arguments in [&["check"][..], &["check", "--repair"]] {
        let ran = place.run([arguments, &[text(&image)]].concat()).succeeds();
        assert_eq!((ran.out, ran.err), (format!("{}: clean\n", image.display()), String::new()));
    }
    let ran = place.run(["check", "--quiet", text(&image)]).succeeds();
    assert_eq!((ran.out, ran.err), (String::new(), String::new()));
    assert_eq!(place.run(["check", "--json", text(&image)]).succeeds().json()["clean"], true);
    assert!(bytes == fs::read(&image).unwrap());
    assert_e2fsck(&image, true);
}

#[test]
fn what_a_crash_may_leave_is_named_then_mended_and_e2fsck_agrees() {
    let place = Place::new();
    let image = image(&place, 3);
    leak(&image, 3);
    let bytes = fs::read(&image).unwrap();
    assert_e2fsck(&image, false);
    finds(place.run(["check", text(&image)]), &["leak    inode ", "no name leads to it", "--repair"]);
    let quiet = finds(place.run(["check", "-q", text(&image)]), &[]);
    assert_eq!(quiet.out, "");
    let json = finds(place.run(["check", "--json", text(&image)]), &[]).json();
    assert_eq!((&json["clean"], &json["mended"], &json["damages"]), (&false.into(), &false.into(), &0.into()));
    let findings = json["findings"].as_array().unwrap();
    assert_eq!(json["leaks"], findings.len());
    let leaked = findings.iter().find(|finding| finding["code"] == "leaked-inode").unwrap();
    assert!(leaked["class"] == "leak" && leaked["inode"].is_u64() && leaked["block"].is_null(), "{leaked}");
    assert!(bytes == fs::read(&image).unwrap(), "a check without --repair changed the image");

    let ran = place.run(["check", "--repair", text(&image)]).succeeds();
    assert!(ran.out.contains("mended  inode ") && ran.out.contains("all mended"), "{}", ran.out);
    place.run(["check", text(&image)]).succeeds();
    assert_e2fsck(&image, true);
    assert_eq!(debugfs(&image, "cat /keep").matches("kept\n").count(), 5000);
}

#[test]
fn an_image_with_damage_is_not_mended_and_the_damage_is_named() {
    let place = Place::new();
    let image = image(&place, 200);
    leak(&image, 150);
    // A block in use that is called free; found after more leaks than are printed.
    let block = debugfs(&image, "bmap /keep 0").lines().find_map(|line| line.trim().parse::<u32>().ok()).unwrap();
    debugfs(&image, &format!("freeb {block}"));
    let bytes = fs::read(&image).unwrap();
    for arguments in [&["check"][..], &["check", "--repair"]] {
        let ran = place.run([arguments, &[text(&image)]].concat());
        let damage = format!("damage  block {block} is in use, and its bitmap calls it free\n");
        let ran = finds(ran, &[&damage, "1 damage and ", "nothing mended", "e2fsck -f"]);
        assert!(ran.out.lines().count() < 110 && ran.out.contains(" more; --json"), "{}", ran.out);
    }
    let json = finds(place.run(["check", "--repair", "--json", text(&image)]), &[]).json();
    assert_eq!(json["findings"].as_array().unwrap().len() as u64, json["leaks"].as_u64().unwrap() + 1);
    assert_eq!((&json["mended"], &json["findings_left_out"]), (&false.into(), &0.into()));
    assert!(bytes == fs::read(&image).unwrap());
    assert_e2fsck(&image, false);
}

#[test]
fn volumes_of_small_blocks_end_within_a_page_and_cut_off_ones_are_damage() {
    let place = Place::new();
    let small = place.path("small.img");
    let options = ["-q", "-t", "ext2", "-O", "none,filetype,sparse_super", "-b", "1024"];
    assert!(Command::new("mke2fs").args(options).arg(&small).arg("1027").status().unwrap().success());
    assert_eq!(fs::metadata(&small).unwrap().len() % 4096, 3072);
    place.run(["check", text(&small)]).succeeds();
    assert_e2fsck(&small, true);
    let large = image(&place, 1);
    for (image, by) in [(&small, 1024), (&large, 1), (&large, 4096), (&large, 1 << 20), (&large, (1 << 20) + 1)] {
        let whole = fs::metadata(image).unwrap().len();
        let cut = place.path("cut.img");
        fs::copy(image, &cut).unwrap();
        fs::File::options().write(true).open(&cut).unwrap().set_len(whole - by).unwrap();
        let words = format!("cut off: {} of its {whole} bytes", whole - by);
        finds(place.run(["check", "--repair", text(&cut)]), &["damage  ", &words]);
        assert_eq!(fs::metadata(&cut).unwrap().len(), whole - by);
        assert_e2fsck(&cut, false);
    }
}

#[test]
fn what_is_no_image_is_refused_by_name() {
    let place = Place::new();
    let image = image(&place, 1);
    fs::write(place.path("empty"), "").unwrap();
    fs::write(place.path("short"), "short").unwrap();
    fs::write(place.path("words"), "x".repeat(8192)).unwrap();
    fs::create_dir(place.path("directory")).unwrap();
    assert!(Command::new("mkfifo").arg(place.path("fifo")).status().unwrap().success());
    fs::copy(&image, place.path("feature")).unwrap();
    debugfs(&place.path("feature"), "feature +needs_recovery");
    for (name, words) in [
        ("missing", "No such file"),
        ("empty", "is empty"),
        ("short", "not an ext2 volume"),
        ("words", "not an ext2 volume"),
        ("directory", "irectory"),
        ("fifo", "not a regular file"),
        ("feature", "features"),
    ] {
        for repair in [&[][..], &["--repair"]] {
            let xip = place.xip([&["check", text(&place.path(name))], repair].concat());
            // Who waits for ever ends no test run by itself: `timeout` does, with 124.
            let mut command = Command::new("timeout");
            let ran = command.arg("20").arg(xip.get_program()).args(xip.get_args()).output().unwrap();
            Ran::from(ran).fails(1).says(name).says(words);
        }
    }
    // No segment, and no file, has this name.
    place.run(["check", "nobody"]).fails(1).says("nobody");
}

#[test]
fn who_may_not_write_an_image_may_check_it_and_is_told_how_to_repair_it() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can become another user to show this");
        return;
    }
    let place = Place::new();
    let image = image(&place, 1);
    leak(&image, 1);
    fs::copy(env!("CARGO_BIN_EXE_xip"), place.path("xip")).unwrap();
    fs::set_permissions(place.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let as_nobody = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(place.path("xip"));
        Ran::from(command.args(arguments).output().unwrap())
    };
    fs::set_permissions(&image, fs::Permissions::from_mode(0o644)).unwrap();
    finds(as_nobody(&["check", text(&image)]), &["leak"]);
    let ran = as_nobody(&["check", "--repair", text(&image)]).fails(1);
    ran.says("files.xip").says("ermission denied").says("as its owner");
    fs::set_permissions(&image, fs::Permissions::from_mode(0o600)).unwrap();
    as_nobody(&["check", text(&image)]).fails(1).says("ermission denied");
}

/// A process that has the lock of an image. It goes when dropped.
struct Locker(Child);

impl Locker {
    fn new(image: &Path, how: &str) -> Self {
        let mut command = Command::new("flock");
        command.args([how, "--no-fork", text(image), "sh", "-c", "echo; exec sleep 1000"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        // It has the lock when it says something.
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        Locker(child)
    }
}

impl Drop for Locker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One writer has an image, or many readers do; a second is refused with the holder named, and a dead holder blocks nobody.
#[test]
fn an_image_that_somebody_has_is_not_repaired_and_one_that_is_written_not_checked() {
    let place = Place::new();
    let image = image(&place, 1);
    leak(&image, 1);
    let bytes = fs::read(&image).unwrap();
    let reader = Locker::new(&image, "--shared");
    let name = format!("process {} (", reader.0.id());
    finds(place.run(["check", text(&image)]), &["leak"]);
    place.run(["check", "--repair", text(&image)]).fails(1).says("files.xip is in use by").says(&name);
    drop(reader);
    let writer = Locker::new(&image, "--exclusive");
    let name = format!("process {} (", writer.0.id());
    place.run(["check", text(&image)]).fails(1).says(&name);
    place.run(["check", "--repair", text(&image)]).fails(1).says(&name);
    assert!(bytes == fs::read(&image).unwrap());
    drop(writer);
    place.run(["check", "--repair", text(&image)]).succeeds();
    assert_e2fsck(&image, true);
}

/// The library takes the same lock; and a volume that was not closed is a leak.
#[test]
fn an_image_that_a_program_writes_is_not_checked_and_is_mended_when_the_program_is_gone() {
    let place = Place::new();
    let image = image(&place, 1);
    let reader = xip::Volume::open(&image).unwrap();
    place.run(["check", text(&image)]).succeeds();
    let name = format!("process {} (", std::process::id());
    place.run(["check", "--repair", text(&image)]).fails(1).says(&name);
    drop(reader);
    let writer = xip::Volume::open_writable(&image).unwrap();
    writer.create_dir("/new").unwrap();
    place.run(["check", text(&image)]).fails(1).says(&name);
    let killed = place.path("killed.xip");
    fs::copy(&image, &killed).unwrap();
    finds(place.run(["check", text(&killed)]), &["leak    the volume was not closed"]);
    place.run(["check", "--repair", text(&killed)]).succeeds();
    assert_e2fsck(&killed, true);
    drop(writer);
    place.run(["check", text(&image)]).succeeds();
}

#[test]
fn an_image_that_the_kernel_has_mounted_is_not_repaired() {
    let place = Place::new();
    let image = image(&place, 1);
    let mounted = mount::Mount::ext4(&image);
    assert!(mounted.path().join("keep").exists());
    place.run(["check", text(&image)]).succeeds();
    place.run(["check", "--repair", text(&image)]).fails(1).says("in use by /dev/loop");
}

#[test]
fn a_segment_is_checked_and_its_image_is_what_can_be_repaired() {
    let place = Place::new();
    let image = image(&place, 1);
    leak(&image, 1);
    place.run(["load", text(&image), "--name", "one"]).succeeds();
    let way = format!("`xip check --repair {}`, then `xip rm one`", image.display());
    finds(place.run(["check", "one"]), &["leak    ", "one: ", &way]);
    place.run(["check", "--repair", "one"]).fails(1).says("the segment one is sealed").says(&way);
    place.run(["check", "--repair", text(&image)]).succeeds();
    place.run(["rm", "one"]).succeeds();
    place.run(["load", text(&image), "--name", "one"]).succeeds();
    assert_eq!(place.run(["check", "one"]).succeeds().out, "one: clean\n");
}

/// Contract 7: a repair that is stopped leaves leaks again, and another mends them.
#[test]
fn a_repair_that_is_interrupted_anywhere_does_no_harm() {
    let place = Place::new();
    let whole = image(&place, 2000);
    leak(&whole, 2000);
    let image = place.path("interrupted.xip");
    let (mut stopped, old) = (0, SystemTime::UNIX_EPOCH + Duration::from_secs(1));
    for n in 0..20 {
        fs::copy(&whole, &image).unwrap();
        fs::File::options().write(true).open(&image).unwrap().set_modified(old).unwrap();
        let mut child = place.xip(["check", "--repair", "--quiet", text(&image)]).spawn().unwrap();
        // It has begun to mend when the file is no longer as old.
        while fs::metadata(&image).unwrap().modified().unwrap() == old && child.try_wait().unwrap().is_none() {
            std::hint::spin_loop();
        }
        std::thread::sleep(Duration::from_micros(n * 300));
        if child.try_wait().unwrap().is_none() {
            kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        }
        let status = child.wait().unwrap();
        assert!(status.success() || status.signal() == Some(2), "{status}");
        let ran = place.run(["check", "--json", text(&image)]);
        assert_eq!(ran.json()["damages"], 0, "after {n}: {}", ran.out);
        stopped += u32::from(!status.success() && !ran.output.status.success());
        place.run(["check", "--repair", text(&image)]).succeeds();
        assert_e2fsck(&image, true);
    }
    println!("{stopped} of 20 were stopped in the middle");
    assert_eq!(debugfs(&image, "cat /keep").matches("kept\n").count(), 5000);
}
