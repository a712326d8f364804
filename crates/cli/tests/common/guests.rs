//! Guests for tests: an image with a few programs, and a kernel.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use crate::common::{Place, Ran, copy_program, text};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A place with an image that has a few programs, and a kernel for guests, which is downloaded once for all tests.
pub struct Guests {
    pub place: Place,
    pub image: PathBuf,
}

fn cache() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache")
}

impl Guests {
    pub fn new() -> Self {
        let place = Place::new();
        let tree = place.path("guest");
        for name in ["etc", "proc", "dev", "sys", "tmp"] {
            fs::create_dir_all(tree.join(name)).unwrap();
        }
        fs::write(tree.join("etc/motd"), "one copy\n").unwrap();
        fs::write(tree.join("large"), vec![7; 8 << 20]).unwrap();
        for program in ["/bin/sh", "/bin/cat", "/bin/dd", "/bin/mount", "/bin/sleep", "/bin/grep", "/bin/stty"] {
            copy_program(program, &tree);
        }
        let image = place.path("guest.xip");
        place.run(["build".as_ref(), tree.as_os_str(), image.as_os_str()]).succeeds();
        let guests = Self { place, image };
        Ran::from(guests.xip(["vm", "kernel"]).output().unwrap()).succeeds();
        guests
    }

    pub fn xip<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = self.place.xip(arguments);
        command.env("XDG_CACHE_HOME", cache());
        command
    }

    /// Runs a program in a guest.
    pub fn run(&self, options: &[&str], script: &str, input: &str) -> Ran {
        let mut all = vec!["-v", "vm", "run"];
        all.extend(options);
        all.extend([text(&self.image), "--", "sh", "-c", script]);
        let mut child =
            self.xip(all).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        Ran::from(child.wait_with_output().unwrap())
    }

    /// Starts one that says `ready` and then waits.
    pub fn start(&self) -> Waiting {
        let script = "echo ready; exec sleep 600";
        let mut child = self.xip(["vm", "run", text(&self.image), "--", "sh", "-c", script]);
        let mut child = child.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Waiting(child)
    }
}

pub struct Waiting(pub Child);

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Waiting {
    /// The process that is the guest: the child of ours.
    pub fn qemu(&self) -> u32 {
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.0.id())).unwrap();
        children.split_whitespace().next().unwrap().parse().unwrap()
    }
}

pub fn lives(process: u32) -> bool {
    let state = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    state.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}
