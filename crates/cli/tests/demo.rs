//! The demo from end to end, as root and as an ordinary user, and what is left of it.

mod common;

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Place, Ran};
use rustix::process::{Pid, Signal, kill_process};

/// What `xip demo --json` has to show where programs can run in place.
#[track_caller]
fn check(shown: &serde_json::Value) {
    assert_eq!(shown["obstacle"], serde_json::Value::Null);
    let figures = &shown["figures"];
    assert_eq!(figures["executed"], true);
    let programs = figures["programs"].as_array().unwrap();
    assert_eq!(programs.len(), 8);
    let number = |value: &serde_json::Value| value.as_u64().unwrap();
    for program in programs {
        assert!(
            number(&program["text_in_place"]) * 100 >= number(&program["text"]) * 95,
            "at least 95 % of the text is the segment itself: {program}"
        );
        assert_eq!(number(&program["page_cache"]), 0, "nothing beside it: {program}");
    }
    let (used, separate) = (number(&figures["used"]), number(&figures["separate_copies"]));
    assert!(used > 0 && used <= number(&figures["segment"]));
    assert!(separate > used, "eight programs share: {figures}");
}

fn can_run() -> bool {
    let fuse = File::options().read(true).write(true).open("/dev/fuse");
    if let Err(error) = &fuse {
        println!("skipped: /dev/fuse: {error}");
    }
    fuse.is_ok()
}

#[test]
fn eight_programs_run_from_one_copy_and_nothing_is_left() {
    if !can_run() {
        return;
    }
    let place = Place::new();
    let temporary = place.path("temporary");
    fs::create_dir(&temporary).unwrap();
    let ran = Ran::from(place.xip(["demo", "--json"]).env("TMPDIR", &temporary).output().unwrap()).succeeds();
    check(&ran.json());
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0, "files are left");
    assert_eq!(place.run(["ls", "--json"]).succeeds().json(), serde_json::json!([]), "a segment is left");
}

#[test]
fn an_ordinary_user_sees_the_same() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can become another user; as one, the other test shows it");
        return;
    }
    if !can_run() {
        return;
    }
    // A /dev/fuse that everybody may open, as on most systems, and a home for the user, seen by this command alone.
    let place = Place::new();
    let home = place.path("home");
    fs::create_dir(&home).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_xip"), home.join("xip")).unwrap();
    for path in [place.path(""), home.clone()] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    std::os::unix::fs::chown(&home, Some(65534), Some(65534)).unwrap();
    let script = "mount -t tmpfs none \"$1/dev\" && mknod -m 666 \"$1/dev/fuse\" c 10 229 && \
        mount --bind \"$1/dev/fuse\" /dev/fuse && \
        cd \"$1\" && exec setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all \
        env HOME=\"$1\" TMPDIR=\"$1\" XIP_DIR=\"$1/segments\" \"$1/xip\" demo --json";
    fs::create_dir(home.join("dev")).unwrap();
    let mut command = Command::new("unshare");
    let output = command.args(["--mount", "sh", "-c", script, "sh"]).arg(&home).output().unwrap();
    check(&Ran::from(output).succeeds().json());
    let left: Vec<_> = fs::read_dir(&home).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "more than xip, dev and segments: {left:?}");
    assert_eq!(fs::read_dir(home.join("segments")).unwrap().count(), 0);
}

#[test]
fn ctrl_c_removes_everything() {
    let place = Place::new();
    let temporary = place.path("temporary");
    fs::create_dir(&temporary).unwrap();
    let mut command = place.xip(["demo"]);
    let mut child = command.env("TMPDIR", &temporary).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // As late as can be seen from outside: when there is a segment.
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let loaded = lines.find(|line| line.as_ref().unwrap().starts_with("loaded"));
    assert!(loaded.is_some(), "it ended before");
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    for line in lines {
        line.unwrap();
    }
    let output = child.wait_with_output().unwrap();
    // Whether it was over by then or not, nothing is left.
    let ended = output.status.success() || output.status.signal() == Some(2);
    assert!(ended, "{:?}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0, "files are left");
    assert_eq!(place.run(["ls", "--json"]).succeeds().json(), serde_json::json!([]), "a segment is left");
}

/// Also the way in containers that allow no namespaces: the demo asks by trying.
#[test]
fn without_fuse_it_says_so_and_shows_what_it_can() {
    if !rustix::process::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        println!("skipped: only root can take /dev/fuse away from a command");
        return;
    }
    let place = Place::new();
    // A device on a file system without devices opens for nobody, root included.
    let script = "mount -t tmpfs -o nodev none \"$1\" && mknod \"$1/fuse\" c 10 229 && \
        mount --bind \"$1/fuse\" /dev/fuse && exec \"$2\" demo --json";
    fs::create_dir(place.path("dev")).unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(place.path("dev")).arg(env!("CARGO_BIN_EXE_xip"));
    let output = command.env("XIP_DIR", place.path("segments")).output().unwrap();
    let shown = Ran::from(output).succeeds().json();
    assert!(shown["obstacle"].as_str().unwrap().contains("/dev/fuse"), "{shown}");
    assert_eq!(shown["figures"]["executed"], false);
    assert!(shown["figures"]["separate_copies"].as_u64() > shown["figures"]["used"].as_u64());
}
