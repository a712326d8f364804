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
    let mount = "/dev/pmem0 / ext4 ro,relatime,inode_readahead_blks=0,dax=always 0 0\n";
    assert_eq!(ran.out, format!("typed\none copy\n{mount}"));
    assert!(ran.err.contains("trouble\n") && ran.err.contains("in place: true"), "{}", ran.err);
}

/// What the guest's kernel says of each file, and of 2 MiB at once; and what is not in place is an error that names it.
#[test]
fn a_check_tells_what_the_guest_sees_and_fails_when_it_is_not_in_place() {
    let guests = Guests::new();
    let check = |options: &[&str]| {
        let all = [&["vm", "check", "--json", text(&guests.image)], options].concat();
        Ran::from(guests.xip(all).output().unwrap())
    };
    let work = ["--", "sh", "-c", "cat /etc/motd /large; cat /etc/motd >&2"];
    let checked = check(&work);
    assert_eq!(checked.output.status.code(), Some(0), "{}", checked.err);
    assert!(checked.err.matches("one copy\n").count() == 2, "{}", checked.err);
    let checked = checked.json();
    assert_eq!(checked["in_place"], true);
    assert!(checked["options"].as_str().unwrap().contains("dax=always"), "{checked:#}");
    let sample = &checked["sample"];
    assert!(sample["files"].as_u64().unwrap() >= 8 && sample["looked_at"] == sample["in_place"], "{checked:#}");
    // Every second one: the kernel takes what one indirect block maps as an end, and the first of them begins at page 12.
    assert!(sample["parts"].as_u64().unwrap() >= 4 && sample["huge"].as_u64().unwrap() >= 2, "{checked:#}");
    let size = fs::metadata(&guests.image).unwrap().len();
    assert_eq!(checked["after"]["descriptors"].as_u64().unwrap(), size / 64, "{checked:#}");
    let cached = checked["after"]["cached"].as_u64().unwrap();
    assert!(cached < 1 << 20, "8 MiB were read, and {cached} bytes are in the page cache");

    let disk = check(&[&["--page-cache"], &work[..]].concat());
    assert_eq!(disk.output.status.code(), Some(1), "{}", disk.err);
    let disk = disk.says("are not in place, such as /").says("--page-cache");
    let disk = disk.json();
    assert_eq!((&disk["in_place"], &disk["sample"]["in_place"]), (&false.into(), &0.into()));
    assert!(disk["after"]["cached"].as_u64().unwrap() > 8 << 20, "{disk:#}");
    let failed = check(&["--", "sh", "-c", "exit 3"]);
    assert_eq!(failed.output.status.code(), Some(1), "{}", failed.err);
    failed.says("the work ended with status 3");
}

/// Alignment, block size, and the kernel's options: each is named before a guest is started.
#[test]
fn what_cannot_be_in_place_is_refused_with_the_reason() {
    let guests = Guests::new();
    let check = |image: &str, options: &[&str]| {
        let all = [&["vm", "check", image], options].concat();
        Ran::from(guests.xip(all).output().unwrap())
    };
    let made = |name: &str, block: &str, size: &str| {
        let image = guests.place.path(name);
        let made = Command::new("mkfs.ext2").args(["-q", "-b", block]).arg(&image).arg(size).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        image
    };
    check(text(&made("odd.xip", "4096", "5M")), &[]).fails(1).says("multiple of 2 MiB").says("xip build");
    check(text(&made("blocks.xip", "1024", "4M")), &[]).fails(1).says("1024");
    let kernel = guests.place.path("boot/vmlinuz-9.9-test");
    fs::create_dir(kernel.parent().unwrap()).unwrap();
    fs::write(&kernel, "").unwrap();
    fs::write(kernel.with_file_name("config-9.9-test"), "CONFIG_EXT4_FS=y\n# CONFIG_FS_DAX is not set\n").unwrap();
    check(text(&guests.image), &["--kernel", text(&kernel)]).fails(1).says("CONFIG_FS_DAX");
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
    assert!(sample["looked_at"] == sample["in_place"] && sample["huge"].as_u64().unwrap() >= 2, "{checked:#}");

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
        "cat in; echo from the guest > out",
        "",
    );
    assert_eq!(ran.out, "from the host\n", "{}", ran.err);
    assert_eq!(fs::read_to_string(shared.join("out")).unwrap(), "from the guest\n");
    let nowhere = guests.run(&["--share", text(&shared)], "cat /mnt/in", "");
    assert_eq!(nowhere.output.status.code(), Some(125), "{}", nowhere.err);
    nowhere.says("no directory /mnt").says("--overlay");
    guests.run(&["--share", text(&guests.image)], "true", "").says("Not a directory");
}

/// What is printed for QEMU starts a guest; for the others it has only what they document: the keys are those of Cloud Hypervisor's
/// `PmemConfig` (its OpenAPI description), crosvm's `PmemOption`, and Firecracker's docs/pmem.md and OpenAPI description.
#[test]
fn the_command_line_for_qemu_boots_and_those_for_others_have_documented_options_only() {
    let guests = Guests::new();
    let initramfs = guests.place.path("guest, 1.img");
    let args = |vmm: &str| {
        let all = ["vm", "args", text(&guests.image), "--vmm", vmm, "--json", "--initramfs", text(&initramfs)];
        let script = ["--", "sh", "-c", "cat /etc/motd; stty size < /dev/ttyS0 > /dev/null && echo a terminal"];
        Ran::from(guests.xip([&all[..], &script].concat()).output().unwrap()).succeeds().json()
    };
    let words = |vmm: &str| {
        let words = args(vmm);
        words.as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let qemu = words("qemu");
    let ran = Command::new(&qemu[0]).args(&qemu[1..]).stdin(Stdio::null()).output().unwrap();
    let console = String::from_utf8_lossy(&ran.stdout);
    assert!(console.contains("one copy") && console.contains("a terminal"), "{console}");

    let value_of = |words: &[String], option: &str| {
        let at = words.iter().position(|word| word == option).unwrap_or_else(|| panic!("{option} in {words:?}"));
        words[at + 1].clone()
    };
    let keys = |value: &str| -> Vec<String> {
        value.split(',').map(|pair| pair.split_once('=').map_or(pair, |(key, _)| key).to_owned()).collect()
    };
    let cloud = words("cloud-hypervisor");
    let pmem = value_of(&cloud, "--pmem");
    assert_eq!(keys(&pmem), ["file", "discard_writes"]);
    assert!(value_of(&cloud, "--kernel").contains("vmlinuz-") && value_of(&cloud, "--memory") == "size=512M");
    assert_eq!(value_of(&cloud, "--initramfs"), text(&initramfs));
    assert_eq!(fs::metadata(&initramfs).unwrap().len() % 4, 0, "an archive is padded");

    let crosvm = words("crosvm");
    assert_eq!(crosvm[..2], ["crosvm", "run"]);
    assert_eq!(keys(&value_of(&crosvm, "--pmem"))[1..], ["ro"]);

    let firecracker = args("firecracker");
    let keys: Vec<_> = firecracker.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["boot-source", "drives", "machine-config", "pmem"]);
    let pmem = &firecracker["pmem"][0];
    let keys: Vec<_> = pmem.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["id", "path_on_host", "read_only", "root_device"]);
    let segment = pmem["path_on_host"].as_str().unwrap();
    assert_eq!(fs::metadata(segment).unwrap().len(), fs::metadata(&guests.image).unwrap().len());
    assert!(fs::read(segment).unwrap() == fs::read(&guests.image).unwrap(), "another file than the segment");
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
