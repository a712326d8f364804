//! `xip run` as a person or a script meets it: exit codes, signals, options, reports, and what is left afterwards.

mod common;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Place, Ran};
use rustix::process::{Pid, Signal, kill_process};

/// A place with the small image loaded; nothing where programs cannot run at all.
fn loaded() -> Option<Place> {
    if let Err(error) = File::options().read(true).write(true).open("/dev/fuse") {
        println!("skipped: /dev/fuse: {error}");
        return None;
    }
    let place = Place::new();
    let image = place.image();
    place.run(["load", image.to_str().unwrap()]).succeeds();
    Some(place)
}

/// Runs a shell script in place.
fn script(place: &Place, options: &[&str], script: &str) -> Ran {
    place.run([&["run", "small"], options, &["--", "/bin/sh", "-c", script]].concat())
}

/// A shell that runs in place, and has said a line, so that it is known to be there.
struct Shell {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Shell {
    fn start(place: &Place, script: &str) -> Self {
        Self::of(place.xip(["run", "small", "--", "/bin/sh", "-c", script]))
    }

    fn of(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Shell { child, lines }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

#[test]
fn exit_codes_and_signals_are_the_programs() {
    let Some(place) = loaded() else { return };
    for code in [0, 1, 42, 255] {
        let ran = script(&place, &[], &format!("exit {code}"));
        assert_eq!(ran.output.status.code(), Some(code), "{}", ran.err);
        assert_eq!(ran.err, "");
    }
    for signal in ["TERM", "KILL", "SEGV", "PIPE", "USR1", "HUP", "INT"] {
        let ran = script(&place, &[], &format!("kill -{signal} $$; sleep 1"));
        let by = ran.output.status.signal().unwrap_or_else(|| panic!("{signal}: {:?} {}", ran.output.status, ran.err));
        assert_eq!(Signal::from_named_raw(by), Signal::from_named_raw(number(signal)), "{}", ran.err);
    }
}

fn number(signal: &str) -> i32 {
    match signal {
        "HUP" => 1,
        "INT" => 2,
        "KILL" => 9,
        "USR1" => 10,
        "SEGV" => 11,
        "PIPE" => 13,
        _ => 15,
    }
}

#[test]
fn what_is_not_there_and_what_cannot_be_executed_have_codes_of_their_own() {
    let Some(place) = loaded() else { return };
    place.run(["run", "small", "--", "/bin/absent"]).fails(127).says("/bin/absent");
    place.run(["run", "small", "--", "absent"]).fails(127).says("absent");
    place.run(["run", "small", "--", "/etc/motd"]).fails(126).says("/etc/motd");
    place.run(["run", "small", "--", "--absent"]).fails(127).says("--absent");
    let host = place.path("nothing").display().to_string();
    let bind = format!("{host}:/work");
    let ran = place.run(["run", "small", "--bind", &bind, "--", "/bin/sh"]).fails(125);
    ran.says("--bind").says(&host).says("on this machine").says("No such file");
    let (directory, file) = (format!("{}:/etc/motd", place.path("tree").display()), "/proc/version:/bin");
    for (bind, says) in
        [(&*directory, "a directory at /etc/motd, which is a file"), (file, "a file at /bin, which is a directory")]
    {
        place.run(["run", "small", "--bind", bind, "--", "/bin/sh"]).fails(125).says(says);
    }
    let ran = place.run(["run", "small", "--workdir", "/absent", "--", "/bin/sh"]).fails(125);
    ran.says("/absent").says("in the image").says("--bind");
    let report = format!("--report={}", place.path("absent/report").display());
    place.run(["run", "small", &report, "--", "/bin/sh", "-c", "exit 0"]).fails(125).says("absent/report");
}

#[test]
fn a_program_without_its_interpreter_is_told_which_that_is() {
    if loaded().is_none() {
        return;
    }
    let place = Place::new();
    let bin = place.path("lone/bin");
    fs::create_dir_all(&bin).unwrap();
    let add = |name: &str, bytes: &[u8]| {
        fs::write(bin.join(name), bytes).unwrap();
        fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    };
    add("sh", &fs::read("/bin/sh").unwrap());
    add("script", b"#! /bin/absent -x\n");
    add("of-script", b"#!/bin/script\n");
    add("of-sh", b"#!/bin/sh\n");
    add("from-elsewhere", b"#!/bin/sh\r\n");
    let (tree, image) = (place.path("lone"), place.path("lone.xip"));
    place.run(["build".as_ref(), tree.as_os_str(), image.as_os_str()]).succeeds();
    let run = |name: &str| place.run(["run", "--rm", image.to_str().unwrap(), "--", name]).fails(126).says(name);
    run("/bin/script").says("interpreter \"/bin/absent\"");
    run("of-script").says("interpreter \"/bin/absent\"");
    run("sh").says("interpreter \"/lib64/ld-linux");
    run("of-sh").says("interpreter \"/lib64/ld-linux");
    run("from-elsewhere").says("interpreter \"/bin/sh\\r\"");
}

#[test]
fn a_report_that_cannot_be_written_at_the_end_does_not_hide_the_programs_status() {
    let Some(place) = loaded() else { return };
    for report in [&["--report=/dev/full"][..], &["--report=/dev/full", "--json"]] {
        let ran = script(&place, report, "exit 3");
        assert_eq!(ran.output.status.code(), Some(3), "{}", ran.err);
        ran.says("cannot write the report").says("No space");
    }
}

#[test]
fn what_is_missing_on_the_machine_is_told_before_an_image_is_loaded() {
    let Some(place) = loaded() else { return };
    place.run(["rm", "small"]).succeeds();
    let image = place.image();
    // The limit is that of a user namespace of the test's own.
    let mut command = Command::new("unshare");
    let script = "echo 0 > /proc/sys/user/max_user_namespaces; exec \"$@\"";
    command.args(["-m", "-U", "-r", "sh", "-c", script, "sh", env!("CARGO_BIN_EXE_xip"), "-v", "run"]).arg(image);
    let ran = Ran::from(command.arg("true").env("XIP_DIR", place.path("segments")).output().unwrap());
    ran.fails(125).says("sysctl user.max_user_namespaces");
    assert_eq!(place.run(["ls", "--json"]).succeeds().json(), serde_json::json!([]));
}

#[test]
fn root_with_its_mode_as_the_next_word_gets_the_right_spelling() {
    let Some(place) = loaded() else { return };
    place.run(["run", "small", "--root", "overlay", "--", "true"]).fails(127).says("try: --root=overlay");
    place.run(["run", "--root", "read-only", "small", "--", "true"]).fails(125).says("try: --root=read-only");
    assert!(!place.run(["run", "small", "overlay"]).fails(127).err.contains("--root"));
}

#[test]
fn input_environment_and_directory_are_as_asked_for() {
    let Some(place) = loaded() else { return };
    let mut command = place.xip(["run", "small", "--env", "A=b=c", "--env", "GONE", "--workdir", "/etc"]);
    command.args(["--", "sh", "-c", "read -r line; echo \"$line $A ${GONE-none} $(pwd)\""]);
    command.env("GONE", "here").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"said\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "said b=c none /etc\n");
}

#[test]
fn a_run_says_what_it_does_when_asked_for() {
    let Some(place) = loaded() else { return };
    let ran = script(&place, &["-v"], "exit 0").succeeds().says("running [").says("small");
    let ran = ran.says("the program ended with status 0").says("1 program started");
    assert!(!ran.err.contains("FUSE"), "{}", ran.err);
    script(&place, &["-vv", "--root"], "exit 0")
        .succeeds()
        .says("FUSE")
        .says("an overlay")
        .says("missing here for this: nothing");
}

#[test]
fn the_root_takes_no_changes_and_an_overlay_forgets_them() {
    let Some(place) = loaded() else { return };
    let change = "echo more >> /etc/motd && while read -r line; do echo $line; done < /etc/motd";
    let ran = script(&place, &[], change);
    assert_ne!(ran.output.status.code(), Some(0));
    assert!(ran.err.contains("Read-only"), "{}", ran.err);
    for root in ["--root", "--root=overlay"] {
        assert_eq!(script(&place, &[root], change).succeeds().out, "one copy\nmore\n", "{root}");
    }
    let read = "while read -r line; do echo $line; done < /etc/motd";
    assert_eq!(script(&place, &[], read).succeeds().out, "one copy\n");
}

#[test]
fn a_bind_shows_a_directory_of_the_host_and_ro_protects_it() {
    let Some(place) = loaded() else { return };
    fs::create_dir(place.path("host")).unwrap();
    fs::write(place.path("host/file"), "from the host\n").unwrap();
    let bind = format!("{}:/tmp/inside", place.path("host").display());
    let read = "read -r line < /tmp/inside/file; echo $line; echo new > /tmp/inside/new";
    assert_eq!(script(&place, &["--bind", &bind], read).succeeds().out, "from the host\n");
    assert_eq!(fs::read_to_string(place.path("host/new")).unwrap(), "new\n");
    let protected = script(&place, &["--bind", &format!("{bind}:ro")], "echo newer > /tmp/inside/new");
    assert_ne!(protected.output.status.code(), Some(0));
    assert_eq!(fs::read_to_string(place.path("host/new")).unwrap(), "new\n");
}

#[test]
fn the_report_names_what_was_mapped_in_place() {
    let Some(place) = loaded() else { return };
    let ran = script(&place, &["--report", "--json"], "exit 3");
    assert_eq!(ran.output.status.code(), Some(3));
    let report: serde_json::Value = serde_json::from_str(&ran.err).unwrap();
    assert_eq!(report["end"]["exited"], 3);
    assert_eq!(report["report"]["traced"], true);
    assert!(report["report"]["bytes_in_place"].as_u64().unwrap() > 0);
    let files = report["report"]["files"].as_object().unwrap();
    assert!(files.keys().any(|path| path.contains("libc")), "{files:?}");

    let file = place.path("report");
    let ran = script(&place, &[&format!("--report={}", file.display())], "exit 0").succeeds();
    assert_eq!(ran.err, "");
    let text = fs::read_to_string(file).unwrap();
    assert!(text.starts_with("in place: ") && text.contains("libc"), "{text}");
}

#[test]
fn untraced_programs_run_from_the_page_cache_and_the_report_says_so() {
    let Some(place) = loaded() else { return };
    let ran = script(&place, &["--page-cache", "--json"], "exit 0").succeeds();
    let report: serde_json::Value = serde_json::from_str(&ran.err).unwrap();
    assert_eq!(report["report"]["traced"], false);
    assert_eq!(report["report"]["bytes_in_place"], 0);
}

#[test]
fn an_image_is_loaded_for_a_run_and_stays_or_goes_as_asked_for() {
    let Some(place) = loaded() else { return };
    place.run(["rm", "small"]).succeeds();
    let image = place.image();
    let names = || {
        let listed = place.run(["ls", "--json"]).succeeds().json();
        let segments = listed.as_array().unwrap().iter();
        segments.map(|segment| segment["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let run = |options: &[&str]| {
        let arguments = [&["run"], options, &[image.to_str().unwrap(), "--", "/bin/sh", "-c", "echo ran"]].concat();
        assert_eq!(place.run(arguments).succeeds().out, "ran\n");
    };
    run(&["--rm"]);
    assert_eq!(names(), [""; 0]);
    run(&[]);
    assert_eq!(names(), ["small"]);
    run(&["--rm"]);
    assert_eq!(names(), ["small"], "it was there before: not ours to remove");
}

#[test]
fn a_run_with_rm_that_is_killed_leaves_no_segment() {
    let Some(place) = loaded() else { return };
    place.run(["rm", "small"]).succeeds();
    let image = place.image();
    let mut shell =
        Shell::of(place.xip(["run", "--rm", image.to_str().unwrap(), "--", "sh", "-c", "echo here; read x"]));
    assert_eq!(shell.line(), "here");
    let there = || !place.run(["ls", "--json"]).succeeds().json().as_array().unwrap().is_empty();
    assert!(there());
    kill_process(Pid::from_child(&shell.child), Signal::KILL).unwrap();
    shell.child.wait().unwrap();
    let patience = Instant::now();
    while there() {
        assert!(patience.elapsed() < Duration::from_secs(60), "the segment is still there");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn two_runs_at_once_share_the_segment_and_each_has_its_own_end() {
    let Some(place) = loaded() else { return };
    let hold = "echo here; read -r code; exit $code";
    let mut shells = [Shell::start(&place, hold), Shell::start(&place, hold)];
    for shell in &mut shells {
        assert_eq!(shell.line(), "here");
    }
    let stat = place.run(["stat", "small", "--json"]).succeeds().json();
    let shells_there = stat["processes"].as_array().unwrap().iter().filter(|process| process["command"] == "sh");
    assert_eq!(shells_there.count(), 2, "{stat:#}");
    assert!(stat["saved"].as_u64().unwrap() > 0);
    place.run(["rm", "small"]).fails(1).says("in use");
    for (code, shell) in (7..).zip(&mut shells) {
        writeln!(shell.child.stdin.take().unwrap(), "{code}").unwrap();
        assert_eq!(shell.child.wait().unwrap().code(), Some(code));
    }
    place.run(["rm", "small"]).succeeds();
}

#[test]
fn a_signal_to_xip_reaches_the_program() {
    let Some(place) = loaded() else { return };
    let mut shell = Shell::start(&place, "trap 'echo caught; exit 9' TERM; echo here; read -r line; read -r line");
    assert_eq!(shell.line(), "here");
    kill_process(Pid::from_child(&shell.child), Signal::TERM).unwrap();
    assert_eq!(shell.line(), "caught");
    assert_eq!(shell.child.wait().unwrap().code(), Some(9));
}

/// Contract of a run: nothing mounted, nothing left. Also when nobody could clean up.
#[test]
fn a_killed_runner_takes_its_program_and_its_mount_with_it() {
    let Some(place) = loaded() else { return };
    let mut shell = Shell::start(&place, "echo here; read -r line");
    assert_eq!(shell.line(), "here");
    let of_shell = place.run(["stat", "small", "--json"]).succeeds().json()["processes"].clone();
    let pids: Vec<u64> = of_shell.as_array().unwrap().iter().map(|process| process["pid"].as_u64().unwrap()).collect();
    assert!(pids.len() > 1, "the runner and its program: {of_shell}");
    kill_process(Pid::from_child(&shell.child), Signal::KILL).unwrap();
    assert_eq!(shell.child.wait().unwrap().signal(), Some(9));
    let gone = |pid: &u64| {
        let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        state.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
    };
    // The kernel ends them in its own time; a minute is no measure of speed.
    let patience = Instant::now();
    while !pids.iter().all(gone) {
        assert!(patience.elapsed() < Duration::from_secs(60), "{pids:?} are still there");
        std::thread::yield_now();
    }
    // The mount was in a namespace that only they had. If anything had stayed, the segment would be in use.
    place.run(["rm", "small"]).succeeds();
}

#[test]
fn arguments_after_the_program_are_its_own() {
    let Some(place) = loaded() else { return };
    // Without `--`, and with arguments that xip has too.
    let arguments: [&OsStr; 8] =
        ["run", "small", "/bin/sh", "-c", "echo \"$0 $1\"", "--json", "--help", "-v"].map(OsStr::new);
    assert_eq!(place.run(arguments).succeeds().out, "--json --help\n");
}
