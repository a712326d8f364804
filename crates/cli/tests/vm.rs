//! Guests, by QEMU and a kernel of Debian's: `xip vm`. Every guest here is a real one.

mod common;

use common::{Place, Ran, copy_program, text};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use xip_core::Device;

/// A place with an image that has a few programs, and a kernel for guests, which is downloaded once for all tests.
struct Guests {
    place: Place,
    image: PathBuf,
}

fn cache() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache")
}

impl Guests {
    fn new() -> Self {
        let place = Place::new();
        let tree = place.path("guest");
        for name in ["etc", "proc", "dev", "sys", "tmp"] {
            fs::create_dir_all(tree.join(name)).unwrap();
        }
        fs::write(tree.join("etc/motd"), "one copy\n").unwrap();
        for program in ["/bin/sh", "/bin/cat", "/bin/dd", "/bin/mount", "/bin/sleep", "/bin/grep", "/bin/stty"] {
            copy_program(program, &tree);
        }
        let image = place.path("guest.xip");
        place.run(["build".as_ref(), tree.as_os_str(), image.as_os_str()]).succeeds();
        let guests = Self { place, image };
        Ran::from(guests.xip(["vm", "kernel"]).output().unwrap()).succeeds();
        guests
    }

    fn xip<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = self.place.xip(arguments);
        command.env("XDG_CACHE_HOME", cache());
        command
    }

    /// Runs a program in a guest.
    fn run(&self, options: &[&str], script: &str, input: &str) -> Ran {
        let mut all = vec!["-v", "vm", "run"];
        all.extend(options);
        all.extend([text(&self.image), "--", "sh", "-c", script]);
        let mut child =
            self.xip(all).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        Ran::from(child.wait_with_output().unwrap())
    }

    /// Starts one that says `ready` and then waits.
    fn start(&self) -> Waiting {
        let script = "echo ready; exec sleep 600";
        let mut child = self.xip(["vm", "run", text(&self.image), "--", "sh", "-c", script]);
        let mut child = child.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Waiting(child)
    }
}

struct Waiting(Child);

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Waiting {
    /// The process that is the guest: the child of ours.
    fn qemu(&self) -> u32 {
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.0.id())).unwrap();
        children.split_whitespace().next().unwrap().parse().unwrap()
    }
}

fn lives(process: u32) -> bool {
    let state = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    state.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// The volume is mounted with `dax=always`, which the kernel confirms for a file; input, both outputs and the status pass.
#[test]
fn a_program_runs_in_a_guest_in_place() {
    let guests = Guests::new();
    let ran = guests.run(&[], "cat; cat /etc/motd; echo trouble >&2; grep ^/dev/pmem0 /proc/mounts; exit 7", "typed\n");
    assert_eq!(ran.output.status.code(), Some(7), "{}", ran.err);
    let mount = "/dev/pmem0 / ext4 ro,relatime,dax=always 0 0\n";
    assert_eq!(ran.out, format!("typed\none copy\n{mount}"));
    assert!(ran.err.contains("trouble\n") && ran.err.contains("in place: true"), "{}", ran.err);
}

/// Root of the guest writes to the device, and mounts it writable: it is told that it cannot, and the bytes stay.
#[test]
fn a_guest_cannot_write_the_segment_and_is_told() {
    let guests = Guests::new();
    let script = "dd if=/dev/zero of=/dev/pmem0 seek=20 bs=4096 count=1 conv=fsync || echo refused
                  mount -o remount,rw / || echo refused; echo changed > /etc/motd || echo refused";
    let ran = guests.run(&[], script, "");
    assert_eq!(ran.out, "refused\nrefused\nrefused\n", "{}", ran.err);
    let store = xip_segment::Store::open(guests.place.path("segments")).unwrap();
    let device = store.get("guest").unwrap().device().unwrap();
    let mut bytes = vec![0; fs::metadata(&guests.image).unwrap().len() as usize];
    device.read(0, &mut bytes).unwrap();
    assert!(bytes == fs::read(&guests.image).unwrap(), "the segment is not the image any more");
}

#[test]
fn an_overlay_takes_what_is_written_and_a_signal_ends_the_program() {
    let guests = Guests::new();
    let little = guests.run(&["--memory", "32M"], "true", "");
    assert!(little.err.contains("with 32 MiB of memory"), "{}", little.err);
    let ran = guests.run(&["--overlay"], "echo gone > /etc/motd; cat /etc/motd; kill -9 $$", "");
    assert_eq!(ran.out, "gone\n", "{}", ran.err);
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ran.output.status), Some(9), "{}", ran.err);
}

#[test]
fn several_guests_and_the_host_have_one_copy_and_nothing_is_left_of_a_killed_one() {
    let guests = Guests::new();
    let (first, mut second) = (guests.start(), guests.start());
    let (one, two) = (first.qemu(), second.qemu());
    let stat = Ran::from(guests.xip(["stat", "guest", "--json"]).output().unwrap()).succeeds();
    let stat = stat.json();
    for guest in [one, two] {
        let mut all = stat["processes"].as_array().unwrap().iter();
        let found = all.find(|process| process["pid"] == guest).unwrap_or_else(|| panic!("{guest} is not in {stat:#}"));
        assert_eq!(found["role"], "guest", "{stat:#}");
        assert!(found["in_place"].as_u64().unwrap() > 0 && found["mapped"] == stat["size"], "{stat:#}");
    }
    // Both have mounted it, and run the same program from it.
    let shared = stat["shared"].as_array().unwrap().iter().find(|shared| shared["processes"] == 2);
    assert!(shared.unwrap()["bytes"].as_u64() >= Some(1 << 20), "{stat:#}");
    assert!(stat["saved"].as_u64() >= Some(1 << 20), "{stat:#}");
    let all = Ran::from(guests.xip(["stat"]).output().unwrap()).succeeds().out;
    let row: Vec<&str> =
        all.lines().nth(1).unwrap().split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
    assert_eq!((row[0], row[3], row[4]), ("guest", "0", "2"), "{all}");
    // Killed like this xip can do nothing more: the guest sees that nobody is there, and ends.
    second.0.kill().unwrap();
    second.0.wait().unwrap();
    let start = Instant::now();
    while lives(two) {
        assert!(start.elapsed() < Duration::from_secs(60), "the guest of a killed xip goes on");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(lives(one));
}

/// Nothing that a program wrote is lost, though the machine it wrote it in has ended long before it is read; nor what it was
/// given to read.
#[test]
fn whoever_reads_late_reads_everything() {
    let guests = Guests::new();
    let script = "cat; dd if=/dev/zero bs=16k count=64";
    let mut xip = guests.xip(["vm", "run", text(&guests.image), "--", "sh", "-c", script]);
    let mut xip = xip.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let given: Vec<u8> = (0..2_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (mut input, sent) = (xip.stdin.take().unwrap(), given.clone());
    let writing = std::thread::spawn(move || input.write_all(&sent).unwrap());
    let mut out = xip.stdout.take().unwrap();
    let mut back = vec![0; given.len() + 1];
    out.read_exact(&mut back).unwrap();
    writing.join().unwrap();
    assert!(back[..given.len()] == given);
    // Meanwhile the program has written the rest into what lies between, and has ended.
    std::thread::sleep(Duration::from_secs(6));
    let mut rest = Vec::new();
    out.read_to_end(&mut rest).unwrap();
    assert!(xip.wait().unwrap().success());
    assert_eq!(rest.len() + 1, 64 << 14);
}

/// A reader that goes away ends the program, as in a pipe; what is opened by the name of an output is the output.
#[test]
fn a_program_without_a_reader_ends() {
    let guests = Guests::new();
    let script = "echo named > /dev/stderr; while echo again; do :; done";
    let mut xip = guests.xip(["vm", "run", text(&guests.image), "--", "sh", "-c", script]);
    let mut xip = xip.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(xip.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let ran = Ran::from(xip.wait_with_output().unwrap());
    assert_eq!(line, "again\n");
    assert!(ran.err.contains("named\n"), "{}", ran.err);
}

/// A guest that has no host any more ends, also before its program has begun.
#[test]
fn nothing_is_left_of_a_guest_whose_host_was_killed_while_it_started() {
    let guests = Guests::new();
    let xip =
        guests.xip(["vm", "run", text(&guests.image), "--", "sleep", "600"]).stdin(Stdio::null()).spawn().unwrap();
    let mut xip = Waiting(xip);
    let start = Instant::now();
    let children = |xip: &Waiting| fs::read_to_string(format!("/proc/{0}/task/{0}/children", xip.0.id())).unwrap();
    let is_guest = |process: &&str| {
        let command = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&command).contains("xip.control")
    };
    let qemu = loop {
        assert!(start.elapsed() < Duration::from_secs(60), "no guest was started");
        if let Some(found) = children(&xip).split_whitespace().find(is_guest) {
            break found.parse().unwrap();
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    xip.0.kill().unwrap();
    xip.0.wait().unwrap();
    assert!(lives(qemu), "killed with its host, the guest shows nothing");
    while lives(qemu) {
        assert!(start.elapsed() < Duration::from_secs(120), "the guest goes on");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn what_a_guest_needs_is_named_before_anything_is_loaded() {
    let place = Place::new();
    let image = place.image();
    let run = |change: &dyn Fn(&mut Command)| {
        let mut command = place.xip(["vm", "run", text(&image), "--", "sh"]);
        command.env("XDG_CACHE_HOME", place.path("nothing"));
        change(&mut command);
        Ran::from(command.output().unwrap())
    };
    let no_kernel = run(&|_| {});
    assert_eq!(no_kernel.output.status.code(), Some(125), "{}", no_kernel.err);
    assert!(no_kernel.err.contains("xip vm kernel"), "{}", no_kernel.err);
    let no_qemu = run(&|command| {
        command.env("PATH", place.path("nothing"));
    });
    assert!(no_qemu.err.contains("qemu-system-x86_64 is not installed"), "{}", no_qemu.err);
    assert_eq!(place.run(["ls", "--json"]).succeeds().out.trim(), "[]");
}
