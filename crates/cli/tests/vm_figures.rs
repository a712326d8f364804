//! What guests cost and whether they are in place: `xip vm check`, `xip vm args`, `xip report`, and one copy for all.

mod common;
#[path = "common/guests.rs"]
mod guests;

use common::{Ran, text};
use guests::{Guests, lives};
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What the guest's kernel says of each file, and of 2 MiB at once; and what is not in place is an error that names it.
#[test]
fn a_check_tells_what_the_guest_sees_and_fails_when_it_is_not_in_place() {
    let guests = Guests::new();
    let check = |options: &[&str]| {
        let all = [&["vm", "check", "--json", text(&guests.image)], options].concat();
        Ran::from(guests.xip(all).output().unwrap())
    };
    let work = ["--", "sh", "-c", "cat; cat /etc/motd /large; cat /etc/motd >&2"];
    let checked = check(&work);
    assert_eq!(checked.output.status.code(), Some(0), "{}", checked.err);
    assert!(checked.err.matches("one copy\n").count() == 2, "{}", checked.err);
    let checked = checked.json();
    assert_eq!(checked["in_place"], true);
    assert!(checked["options"].as_str().unwrap().contains("dax=always"), "{checked:#}");
    let sample = &checked["sample"];
    let looked_at = sample["looked_at"].as_array().unwrap();
    assert!(looked_at.len() >= 8 && sample["files"] == looked_at.len(), "all are looked at: {checked:#}");
    assert!(looked_at.iter().all(|file| file["in_place"] == true), "{checked:#}");
    assert!(looked_at.iter().any(|file| file["path"] == "/large"), "{checked:#}");
    // Every second one: the kernel takes what one indirect block maps as an end, and the first of them begins at page 12.
    assert!(sample["parts"].as_u64().unwrap() >= 4 && sample["huge"].as_u64().unwrap() >= 2, "{checked:#}");
    let size = fs::metadata(&guests.image).unwrap().len();
    assert_eq!(checked["after"]["descriptors"].as_u64().unwrap(), size / 64, "{checked:#}");
    let cached = checked["after"]["cached"].as_u64().unwrap();
    assert!(cached < 1 << 20, "8 MiB were read, and {cached} bytes are in the page cache");

    let disk = check(&[&["--page-cache"], &work[..]].concat());
    assert_eq!(disk.output.status.code(), Some(4), "{}", disk.err);
    let disk = disk.says("are not in place, such as /").says("--page-cache");
    let disk = disk.json();
    assert_eq!(disk["in_place"], false);
    assert!(disk["sample"]["looked_at"].as_array().unwrap().iter().all(|file| file["in_place"] == false), "{disk:#}");
    assert!(disk["after"]["cached"].as_u64().unwrap() > 8 << 20, "{disk:#}");
    let list = Ran::from(guests.xip(["vm", "check", text(&guests.image), "--files", "3", "--list"]).output().unwrap());
    let listed = list.succeeds().out.lines().filter(|line| line.starts_with("in place     /")).count();
    assert!((1..=3).contains(&listed), "{listed}");
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
    check(text(&made("blocks.xip", "1024", "4M")), &[]).fails(1).says("blocksize 1024");
    let kernel = guests.place.path("boot/vmlinuz-9.9-test");
    fs::create_dir(kernel.parent().unwrap()).unwrap();
    fs::write(&kernel, [&[0; 0x202][..], b"HdrS"].concat()).unwrap();
    fs::write(kernel.with_file_name("config-9.9-test"), "CONFIG_EXT4_FS=y\n# CONFIG_FS_DAX is not set\n").unwrap();
    check(text(&guests.image), &["--kernel", text(&kernel)]).fails(1).says("CONFIG_FS_DAX");
}

/// What is printed for QEMU starts a guest; for the others it has only what they document: the keys are those of Cloud Hypervisor's
/// `PmemConfig` (its OpenAPI description), crosvm's `PmemOption`, and Firecracker's docs/pmem.md and OpenAPI description.
#[test]
fn the_command_line_for_qemu_boots_and_those_for_others_have_documented_options_only() {
    let guests = Guests::new();
    let initramfs = guests.place.path("guest, 1.img");
    // A link that is named stays one: what it leads to is the file.
    let target = guests.place.path("elsewhere.img");
    fs::write(&target, "old").unwrap();
    std::os::unix::fs::symlink(&target, &initramfs).unwrap();
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
    assert_eq!(keys(&pmem), ["file", "size", "discard_writes"]);
    assert!(value_of(&cloud, "--kernel").contains("vmlinuz-") && value_of(&cloud, "--memory") == "size=512M");
    assert_eq!(value_of(&cloud, "--initramfs"), text(&initramfs));
    assert!(fs::symlink_metadata(&initramfs).unwrap().is_symlink() && fs::metadata(&target).unwrap().len() > 1 << 20);

    let crosvm = words("crosvm");
    assert_eq!(crosvm[..2], ["crosvm", "run"]);
    assert_eq!(keys(&value_of(&crosvm, "--pmem"))[1..], ["ro"]);

    let firecracker = args("firecracker");
    let pmem = &firecracker["pmem"][0];
    conforms_to_firecracker(&firecracker);
    let disk =
        ["vm", "args", text(&guests.image), "--vmm", "firecracker", "--page-cache", "--initramfs", text(&initramfs)];
    conforms_to_firecracker(&Ran::from(guests.xip(disk).output().unwrap()).succeeds().json());
    let segment = pmem["path_on_host"].as_str().unwrap();
    assert_eq!(fs::metadata(segment).unwrap().len(), fs::metadata(&guests.image).unwrap().len());
    assert!(fs::read(segment).unwrap() == fs::read(&guests.image).unwrap(), "another file than the segment");
}

/// A configuration file of Firecracker has what its OpenAPI description (`FullVmConfiguration` and what that names, 2026) knows, of the types
/// it says, and all that is required; `drives` besides, which the file must have.
fn conforms_to_firecracker(config: &serde_json::Value) {
    let known = serde_json::json!({
        "boot-source": { "kernel_image_path": "required string", "initrd_path": "string", "boot_args": "string" },
        "machine-config": { "vcpu_count": "required integer", "mem_size_mib": "required integer", "smt": "boolean" },
        "drives": { "drive_id": "required string", "is_root_device": "required boolean", "path_on_host": "string", "is_read_only": "boolean" },
        "pmem": { "id": "required string", "path_on_host": "required string", "root_device": "boolean", "read_only": "boolean" },
    });
    assert!(
        config["drives"].is_array() && config["boot-source"].is_object() && config["machine-config"].is_object(),
        "{config:#}"
    );
    for (section, value) in config.as_object().unwrap() {
        let fields = known[section].as_object().unwrap_or_else(|| panic!("{section} is not known"));
        let one = [value.clone()];
        for item in value.as_array().map_or(&one[..], Vec::as_slice) {
            let item = item.as_object().unwrap();
            for (key, value) in item {
                let kind =
                    fields.get(key).and_then(serde_json::Value::as_str).unwrap_or_else(|| panic!("{section}.{key}"));
                let right = match kind.trim_start_matches("required ") {
                    "string" => value.is_string(),
                    "integer" => value.is_u64(),
                    _ => value.is_boolean(),
                };
                assert!(right, "{section}.{key} is {value}, and should be of type {kind}");
            }
            let required = fields.iter().filter(|(_, kind)| kind.as_str().unwrap().starts_with("required"));
            required.for_each(|(key, _)| assert!(item.contains_key(key), "{section} lacks {key}"));
        }
    }
}

/// Guests and processes of the host, all at once, on one segment: the kernel has one copy of it. Whoever is killed is gone from the
/// counts, and when the tool is, nothing is left.
#[test]
fn four_guests_and_eight_processes_have_one_copy_and_the_counts_follow_whoever_is_killed() {
    let guests = Guests::new();
    let image = text(&guests.image);
    let hold = "echo ready; read -r end; exec sleep 600";
    let mut xip = guests.xip(["vm", "run", image, "--count", "4", "--", "sh", "-c", hold]);
    let mut xip =
        guests::Waiting(xip.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(xip.0.stdout.take().unwrap()).lines();
    let mut ready: Vec<String> = (0..4).map(|_| lines.next().unwrap().unwrap()).collect();
    ready.sort();
    assert_eq!(ready, ["1: ready", "2: ready", "3: ready", "4: ready"]);
    let mut processes: Vec<Child> = (0..8)
        .map(|_| {
            let mut run = guests.xip(["run", "guest", "--", "sh", "-c", "echo ready; read -r end"]);
            let mut child = run.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            let mut line = String::new();
            BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
            assert_eq!(line, "ready\n");
            child
        })
        .collect();

    let stat = || Ran::from(guests.xip(["stat", "guest", "--json"]).output().unwrap()).succeeds().json();
    let with_role = |stat: &serde_json::Value, role: &str| {
        let all = stat["processes"].as_array().unwrap().iter().filter(|process| process["role"] == role);
        all.map(|process| process["pid"].as_u64().unwrap() as u32).collect::<Vec<_>>()
    };
    let all = stat();
    let (guest, uses) = (with_role(&all, "guest"), with_role(&all, "uses"));
    assert_eq!((guest.len(), uses.len()), (4, 8), "{all:#}");
    // That the memory is there once is the kernel's word for the twelve together: what each has of it, divided by how many have it,
    // comes to what any of them has.
    let sum: u64 = all["processes"].as_array().unwrap().iter().map(|one| one["proportional"].as_u64().unwrap()).sum();
    assert!(sum <= all["size"].as_u64().unwrap() + (1 << 20), "{all:#}");
    // Pages of it are in the page tables of all twelve.
    let shared_by = |count: u64| {
        let found = all["shared"].as_array().unwrap().iter().find(|shared| shared["processes"] == count);
        found.map_or(0, |shared| shared["bytes"].as_u64().unwrap())
    };
    assert!(shared_by(12) >= 64 << 10, "the text of the shell is not shared by all: {all:#}");
    for process in all["processes"].as_array().unwrap() {
        assert!(process["in_place"].as_u64().unwrap() > 0, "{process:#}");
    }

    let kill = |pid: u32| {
        let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    };
    let until = |what: &str, done: &dyn Fn() -> bool| {
        let start = Instant::now();
        while !done() {
            assert!(start.elapsed() < Duration::from_secs(60), "{what}");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    let counts = || {
        let stat = stat();
        (with_role(&stat, "guest").len(), with_role(&stat, "uses").len())
    };
    kill(guest[0]);
    until("a killed guest is counted", &|| counts() == (3, 8));
    kill(uses[0]);
    until("a killed process is counted", &|| counts() == (3, 7));
    xip.0.kill().unwrap();
    xip.0.wait().unwrap();
    until("guests of a killed tool are left", &|| counts() == (0, 7));
    for child in &mut processes {
        drop(child.stdin.take());
        child.wait().unwrap();
    }
    assert_eq!(counts(), (0, 0));
    assert!(guest.iter().all(|pid| !lives(*pid)));
    Ran::from(guests.xip(["rm", "guest"]).output().unwrap()).succeeds();
}

/// What the issue of guests asks for on a Debian tree: below 1 MB of page cache for the volume; a guest at least 35 MB cheaper than with
/// a disk, less the price of page descriptors, which is below 11 MB.
#[test]
fn on_debian_a_guest_in_place_has_no_page_cache_to_speak_of_and_is_cheaper() {
    let Some(tree) = std::env::var_os("XIP_ROOTFS") else {
        println!("skipped: XIP_ROOTFS names no tree; `cargo xtask test` makes one");
        return;
    };
    const MB: u64 = 1_000_000;
    let guests = Guests::new();
    let image = guests.place.path("debian.xip");
    guests.place.run(["build".as_ref(), tree.as_os_str(), image.as_os_str()]).succeeds();
    let script = "python3 -c 'import json, re, ssl, decimal' && perl -MPOSIX -e 'print 1' && git --version && \
                  echo '#include <stdio.h>\nint main(void) { return 0; }' > /tmp/a.c && gcc -O2 -o /tmp/a /tmp/a.c && /tmp/a";
    let check = |options: &[&str]| {
        let all = [&["vm", "check", "--json", text(&image)], options, &["--", "sh", "-c", script]].concat();
        let ran = Ran::from(guests.xip(all).output().unwrap());
        assert!(!ran.err.contains("the work ended"), "{}", ran.err);
        ran.json()
    };
    let (in_place, disk) = (check(&[]), check(&["--page-cache"]));
    let figure = |of: &serde_json::Value, key: &str| of["after"][key].as_u64().unwrap();
    assert_eq!((&in_place["in_place"], &disk["in_place"]), (&true.into(), &false.into()));
    assert!(figure(&in_place, "cached") < MB, "{}", in_place["after"]);
    let descriptors = figure(&in_place, "descriptors");
    assert!(descriptors < 11 * MB, "{}", in_place["after"]);
    let cheaper = figure(&in_place, "free").saturating_sub(figure(&disk, "free"));
    assert!(
        cheaper + descriptors >= 35 * MB,
        "{cheaper} B cheaper with {descriptors} B of descriptors: {} and {}",
        in_place["after"],
        disk["after"]
    );
}

/// The figures are those of the guests and processes that were started for it, and a browser shows the page as it is meant: charts
/// of some size with a line each, nothing that does not fit, no name over another.
#[test]
fn a_report_has_the_figures_of_each_number_of_guests_and_a_page_that_a_browser_shows() {
    let guests = Guests::new();
    let page = guests.place.path("report.html");
    let all = ["report", text(&guests.image), "--guests", "1,2", "--memory", "256M", "--html", text(&page), "--json"];
    // Input ends; much is said and seen by nobody.
    let noise = "i=0; while [ $i -lt 99 ]; do echo much to say, 60 bytes of it for each line: more than is kept >&2; i=$((i + 1)); done";
    let work = format!("cat; cat /large > /dev/null; {noise}");
    let work = ["--", "sh", "-c", &work];
    let report = Ran::from(guests.xip([&all[..], &work].concat()).output().unwrap()).succeeds().json();
    let points = report["points"].as_array().unwrap();
    assert_eq!(points.len(), 2);
    let size = fs::metadata(&guests.image).unwrap().len();
    for (point, count) in points.iter().zip(1..) {
        let figure = |path: &str| point.pointer(path).and_then(serde_json::Value::as_u64).unwrap();
        assert_eq!(point["count"], count);
        // The work reads 8 MiB: from a copy with a disk, without one in place.
        assert!(figure("/disk/cached") > 8 << 20 && figure("/in_place/cached") < 1 << 20, "{point:#}");
        assert_eq!(figure("/in_place/descriptors"), size / 64);
        assert!(figure("/disk/used") < 256 << 20 && figure("/in_place/used") > 16 << 20, "{point:#}");
        assert!(figure("/in_place/host/segment") > 8 << 20 && figure("/in_place/host/segment") <= size, "{point:#}");
        assert_eq!(figure("/disk/host/segment"), 0, "a disk is not mapped");
        assert!(figure("/disk/host/own") > count * (16 << 20) && figure("/processes/own") > 0, "{point:#}");
        // A shell that waits has its own text and its libraries, not what serves it.
        assert!((64 << 10..4 << 20).contains(&figure("/processes/segment")), "{point:#}");
    }

    let failing = |work: &str, option: &str| {
        let all = ["report", text(&guests.image), "--guests", "1", option, text(&page), "--", "sh", "-c", work];
        Ran::from(guests.xip(all).output().unwrap()).fails(1)
    };
    failing("echo sorry >&2; exit 3", "--html").says("the work failed in a guest, with status 3: sorry");
    let nowhere = guests.place.path("nowhere/report.html");
    let all = ["report", text(&guests.image), "--html", text(&nowhere)];
    Ran::from(guests.xip(all).output().unwrap()).fails(1).says("nowhere/report.html");

    // A copy with a script that says what the browser made of it.
    let script = "<script>addEventListener('load',()=>{const box=e=>e.getBoundingClientRect(),all=s=>[...document.querySelectorAll(s)];
        const meet=(a,b)=>a.left<b.right&&b.left<a.right&&a.top<b.bottom&&b.top<a.bottom;
        const texts=all('svg').map(svg=>[...svg.querySelectorAll('text')].map(box));
        const inside=all('svg').every(svg=>[...svg.querySelectorAll('polyline,circle,text')].every(e=>{const a=box(e),b=box(svg);
          return a.left>=b.left-1&&a.right<=b.right+1&&a.top>=b.top-1&&a.bottom<=b.bottom+1}));
        document.body.dataset.seen=JSON.stringify({charts:all('svg').filter(e=>box(e).width>500&&box(e).height>200).length,
          lines:all('polyline').filter(e=>box(e).width>100).length,rows:all('tr').length,fits:document.documentElement.scrollWidth<=innerWidth,inside,
          over:texts.flatMap(t=>t.filter((a,i)=>t.some((b,j)=>j>i&&meet(a,b)))).length,title:document.title})})</script>";
    let seen = guests.place.path("seen.html");
    fs::write(&seen, fs::read_to_string(&page).unwrap() + script).unwrap();
    let home = format!("--user-data-dir={}", guests.place.path("browser").display());
    let options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1000,1400", &home, "--dump-dom"];
    let browser = Command::new("chromium").args(options).arg(format!("file://{}", seen.display())).output().unwrap();
    let dom = String::from_utf8_lossy(&browser.stdout).into_owned();
    let said = dom
        .split_once("data-seen=\"")
        .and_then(|(_, rest)| rest.split_once('"'))
        .map(|(said, _)| said.replace("&quot;", "\""));
    let said = said.unwrap_or_else(|| {
        panic!("the page has not said anything: {dom}\n{}", String::from_utf8_lossy(&browser.stderr))
    });
    let seen: serde_json::Value = serde_json::from_str(&said).unwrap();
    let expected = serde_json::json!({
        "charts": 2, "lines": 5, "rows": 3, "fits": true, "inside": true, "over": 0, "title": "Execute in place: guest",
    });
    assert_eq!(seen, expected);
}
