//! A changed image is loaded while programs run from what it was before.

mod common;

use common::{Place, text};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Stdio};
use std::time::{Duration, Instant};

/// A shell that runs from the segment, and answers a line with `/etc/motd` as it is mapped and read there.
struct Shell {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Shell {
    fn start(place: &Place, source: &str) -> Self {
        let script = "while read -r line; do read -r motd < /etc/motd; echo \"$motd\"; done";
        let mut command = place.xip(["run", source, "--", "/bin/sh", "-c", script]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let mut shell = Shell { child, lines };
        shell.motd();
        shell
    }

    fn motd(&mut self) -> String {
        self.child.stdin.as_mut().unwrap().write_all(b"?\n").unwrap();
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn end(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }
}

fn names(place: &Place) -> Vec<(String, bool)> {
    let listed = place.run(["ls", "--json"]).succeeds().json();
    let one = |info: &serde_json::Value| (info["name"].as_str().unwrap().into(), info["replaced"].as_bool().unwrap());
    listed.as_array().unwrap().iter().map(one).collect()
}

/// How many shells are among those who use a segment.
fn shells(place: &Place, name: &str) -> usize {
    let stat = place.run(["stat", name, "--json"]).succeeds().json();
    stat["processes"].as_array().unwrap().iter().filter(|process| process["command"] == "sh").count()
}

#[test]
fn a_program_goes_on_from_the_old_generation_while_new_ones_run_from_the_new() {
    if let Err(error) = File::options().read(true).write(true).open("/dev/fuse") {
        println!("skipped: /dev/fuse: {error}");
        return;
    }
    let place = Place::new();
    let image = place.image();
    place.run(["load", text(&image)]).succeeds();
    let mut old = Shell::start(&place, "small");
    let before = fs::read(&image).unwrap();

    // Built anew, with another file in it.
    fs::write(place.path("tree/etc/motd"), "another copy\n").unwrap();
    place.run(["build", text(&place.path("tree")), text(&image)]).succeeds();
    let loaded = place.run(["load", text(&image)]).succeeds();
    assert!(loaded.out.contains("segment small: ") && loaded.out.contains(", loaded\n"), "{}", loaded.out);
    assert!(loaded.out.contains("is segment small@1 until its last user ends"), "{}", loaded.out);
    let mut new = Shell::start(&place, "small");
    let mut by_image = Shell::start(&place, text(&image));
    let mut by_number = Shell::start(&place, "small@1");
    for (shell, motd) in [
        (&mut old, "one copy"),
        (&mut new, "another copy"),
        (&mut by_image, "another copy"),
        (&mut by_number, "one copy"),
    ] {
        assert_eq!(shell.motd(), motd);
    }
    assert_eq!(names(&place), [("small".into(), false), ("small@1".into(), true)]);
    assert!(place.run(["ls"]).succeeds().out.contains("before it changed; goes with its last user"));
    assert!(place.run(["stat", "small@1"]).succeeds().out.contains("replaced    by a newer generation"));
    assert_eq!((shells(&place, "small"), shells(&place, "small@1")), (2, 2));

    // What is left of the old image is the segment; it does not come in the place of the new one unasked.
    place.run(["save", "small@1"]).fails(1).says("newer generation").says("name the file");
    place.run(["save", "small@1", text(&place.path("old.xip"))]).succeeds();
    assert!(fs::read(place.path("old.xip")).unwrap() == before);
    let again = place.run(["load", text(&image), "--json"]).succeeds().json();
    assert_eq!((&again["loaded"], &again["replaced"]), (&false.into(), &serde_json::Value::Null));
    place.run(["rm", "small@1"]).fails(1).says("in use");
    place.run(["load", text(&image), "--name", "small@1"]).fails(1).says("cannot be the name");

    by_number.end();
    assert_eq!(old.motd(), "one copy");
    old.end();
    let start = Instant::now();
    while names(&place).len() > 1 {
        assert!(start.elapsed() < Duration::from_secs(60), "the old generation stays without a user");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!((new.motd(), by_image.motd()), ("another copy".into(), "another copy".into()));
    new.end();
    by_image.end();
    place.run(["rm", "small"]).succeeds();
}

#[test]
fn another_image_gets_a_name_that_is_taken_when_that_is_asked_for() {
    let place = Place::new();
    let image = place.image();
    place.run(["load", text(&image)]).succeeds();
    fs::write(place.path("tree/etc/motd"), "another copy\n").unwrap();
    let other = place.path("other.xip");
    place.run(["build", text(&place.path("tree")), text(&other)]).succeeds();
    let load = ["load", text(&other), "--name", "small"];
    place.run(load).fails(1).says("holds another image").says("--replace");
    let loaded = place.run([&load[..], &["--replace"]].concat()).succeeds();
    assert!(loaded.out.contains("was not in use and is gone"), "{}", loaded.out);
    let listed = place.run(["ls", "--json"]).succeeds().json();
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!(listed[0]["image"], text(&other));
}
