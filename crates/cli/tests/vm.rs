//! Guests, by QEMU and a kernel of Debian's: `xip vm`. Every guest here is a real one.

mod common;
#[path = "common/guests.rs"]
mod guests;

use common::{Place, Ran, text};
use guests::{Guests, Waiting, lives};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use xip_core::Device;

/// The volume is mounted with `dax=always`, which the kernel confirms for a file; input, both outputs and the status pass.
#[test]
fn a_program_runs_in_a_guest_in_place() {
    let guests = Guests::new();
    let ran = guests.run(&[], "cat; cat /etc/motd; echo trouble >&2; grep ^/dev/pmem0 /proc/mounts; exit 7", "typed\n");
    assert_eq!(ran.output.status.code(), Some(7), "{}", ran.err);
    let mount = "/dev/pmem0 / ext4 ro,relatime,inode_readahead_blks=0,dax=always 0 0\n";
    assert_eq!(ran.out, format!("typed\none copy\n{mount}"));
    assert!(ran.err.contains("trouble\n") && ran.err.contains("in place: true"), "{}", ran.err);
    // Without a program it is a shell.
    let mut shell = guests.xip(["vm", "run", text(&guests.image)]);
    let mut shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    shell.stdin.take().unwrap().write_all(b"read -r word rest < /etc/motd; echo $word; exit 4\n").unwrap();
    let shell = Ran::from(shell.wait_with_output().unwrap());
    assert_eq!((shell.out.as_str(), shell.output.status.code()), ("one\n", Some(4)), "{}", shell.err);
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

/// Also for who does not go through the command.
#[test]
fn no_guest_gets_memory_that_can_change() {
    let guests = Guests::new();
    let kernel = Ran::from(guests.xip(["vm", "kernel", "--json"]).output().unwrap()).succeeds().json();
    let kernel = std::path::Path::new(kernel["kernel"].as_str().unwrap());
    let options = xip_vm::Options {
        kernel: xip_vm::Kernel::find(Some(kernel)).unwrap(),
        memory: 256 << 20,
        attach: xip_vm::Attach::Memory,
        overlay: false,
        terminal: None,
        workdir: "/".into(),
        environment: Vec::new(),
        program: vec!["/bin/cat".into()],
        talk: xip_vm::Talk::Ports,
        share: None,
        sample: None,
    };
    let image = fs::File::open(&guests.image).unwrap();
    let started =
        xip_vm::Guest::start(&xip_vm::Qemu::find().unwrap(), image.as_fd(), image.metadata().unwrap().len(), &options);
    assert!(matches!(started.map(drop), Err(xip_vm::Error::NotSealed)));
}

/// QEMU's `nvdimm` is read-only by its own word; the header in front of the image is why its pages can be mapped. The host's programs
/// use the same segment.
#[test]
fn an_image_with_an_nvdimm_header_is_a_read_only_nvdimm_and_runs_everywhere() {
    let guests = Guests::new();
    let image = guests.place.path("nvdimm.xip");
    let tree = guests.place.path("guest");
    let built = ["build".as_ref(), "--nvdimm-header".as_ref(), tree.as_os_str(), image.as_os_str()];
    guests.place.run(built).succeeds();
    let long = fs::metadata(&image).unwrap().len();
    assert_eq!(long, fs::metadata(&guests.image).unwrap().len() + (2 << 20), "2 MiB in front of the same volume");
    guests.place.run(["check", text(&image)]).succeeds();

    let check = guests.xip(["vm", "check", "--json", text(&image)]).output().unwrap();
    let checked = Ran::from(check).succeeds().json();
    let sample = &checked["sample"];
    assert!(checked["in_place"] == true && sample["huge"].as_u64().unwrap() >= 2, "{checked:#}");

    let mut hold = guests.xip(["run", text(&image), "--", "sh", "-c", "echo ready; read -r end"]);
    let mut hold = hold.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(hold.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let stat = Ran::from(guests.xip(["stat", "nvdimm", "--json"]).output().unwrap()).succeeds().json();
    let processes = stat["processes"].as_array().unwrap().iter();
    let roles: Vec<_> = processes.map(|process| process["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["uses", "serves"], "{stat:#}");
    drop(hold.stdin.take());
    hold.wait().unwrap();

    let script =
        "cat /sys/block/pmem0/ro; cat /sys/bus/nd/devices/region0/mappings; cat /sys/bus/nd/devices/ndbus0/provider
                  dd if=/dev/zero of=/dev/pmem0 seek=20 bs=4096 count=1 conv=fsync || echo refused; cat /etc/motd";
    let run = |options: &[&str], script| {
        let all = [&["vm", "run"], options, &[text(&image), "--", "sh", "-c", script]].concat();
        Ran::from(guests.xip(all).output().unwrap()).succeeds().out
    };
    assert_eq!(run(&[], script), "1\n1\nACPI.NFIT\nrefused\none copy\n");
    assert_eq!(run(&["--page-cache"], "grep -c ^/dev/vda1 /proc/mounts; cat /etc/motd"), "1\none copy\n");

    let host = guests.xip(["run", "--report", "nvdimm", "--", "cat", "/etc/motd", "/large"]).output().unwrap();
    let host = Ran::from(host);
    assert!(host.out.starts_with("one copy\n"), "{}", host.err);
    assert!(host.err.contains("libc.so.6") && !host.err.contains("in place: 0 B"), "{}", host.err);
}

/// By virtio-fs: what the program writes is on the host; a place for it must be in the image, or an overlay makes one.
#[test]
fn a_shared_directory_is_seen_and_written() {
    let guests = Guests::new();
    let shared = guests.place.path("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("in"), "from the host\n").unwrap();
    let ran = guests.run(
        &["--share", &format!("{}:/tmp/in/here", text(&shared)), "--overlay", "--workdir", "/tmp/in/here"],
        // What the host dates stands between what the guest dates: they have one time.
        "cat in; echo > /tmp/before; sleep 0.1; echo from the guest > out; sleep 0.1; echo > /tmp/after
         test out -nt /tmp/before && test /tmp/after -nt out && echo in order",
        "",
    );
    assert_eq!(ran.out, "from the host\nin order\n", "{}", ran.err);
    assert_eq!(fs::read_to_string(shared.join("out")).unwrap(), "from the guest\n");
    let nowhere = guests.run(&["--share", text(&shared)], "cat /mnt/in", "");
    assert_eq!(nowhere.output.status.code(), Some(125), "{}", nowhere.err);
    nowhere.says("no directory /mnt").says("--overlay");
    guests.run(&["--share", text(&guests.image)], "true", "").says("Not a directory");
    guests.run(&["--share", "/nonexistent"], "true", "").says("No such file");
}

/// A name is one name, whatever is in it; and who serves the directory is missed when it has gone.
#[test]
fn a_shared_directory_may_have_any_name_and_a_guest_does_not_outlive_who_serves_it() {
    let guests = Guests::new();
    let odd = guests.place.path("a b,source=etc");
    fs::create_dir_all(&odd).unwrap();
    fs::write(odd.join("in"), "the right one\n").unwrap();
    let script = "cat /mnt/in; echo ready; read -r end; exec cat /mnt/in";
    let mut xip = guests.xip(["vm", "run", "--overlay", "--share", "a b,source=etc"]);
    xip.args([text(&guests.image), "--", "sh", "-c", script]).current_dir(odd.parent().unwrap());
    let mut xip = Waiting(xip.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(xip.0.stdout.take().unwrap()).lines();
    assert_eq!([lines.next().unwrap().unwrap(), lines.next().unwrap().unwrap()], ["the right one", "ready"]);
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", xip.0.id())).unwrap();
    let named = |pid: &&str| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap().starts_with("virtiofsd");
    let serving: i32 = children.split_whitespace().find(named).unwrap().parse().unwrap();
    kill_process(Pid::from_raw(serving).unwrap(), Signal::KILL).unwrap();
    let mut said = String::new();
    xip.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(xip.0.wait().unwrap().code(), Some(125), "{said}");
    assert!(said.contains("virtiofsd, which serves the shared directory, has ended"), "{said}");
}

/// A program that does not obey is not what keeps a guest: the second SIGTERM ends that. A signal that whoever started `xip` wanted
/// ignored, as `nohup` does, reaches nobody.
#[test]
fn a_second_request_to_end_ends_the_guest_and_an_ignored_one_does_nothing() {
    let guests = Guests::new();
    let script = "trap 'echo hung up' HUP; trap 'echo no' TERM; echo ready; while :; do sleep 1; done";
    let xip = guests.xip(["vm", "run", text(&guests.image), "--", "sh", "-c", script]);
    let mut nohup = Command::new("sh");
    nohup.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]).arg(xip.get_program()).args(xip.get_args());
    nohup.envs(xip.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut xip = Waiting(nohup.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(xip.0.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    let pid = Pid::from_child(&xip.0);
    kill_process(pid, Signal::HUP).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "no");
    kill_process(pid, Signal::TERM).unwrap();
    let status = xip.0.wait().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(Signal::TERM.as_raw()));
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
