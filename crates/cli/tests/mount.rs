//! `xip mount`, `xip umount` and `xip save`, as a person uses them; and what is left when the process that serves a mount is
//! killed. Needs root, and runs what ordinary users do as one; says so where it is missing.

mod common;

use common::{Place, Ran, text};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The user `nobody`, whom every system knows, as `fusermount3` wants it.
const USER: u32 = 65_534;

/// A place with an empty image and a directory to mount it at.
struct Mounts {
    place: Place,
}

impl Mounts {
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: to mount, this test must be run by root");
            return None;
        }
        let place = Place::new();
        fs::create_dir(place.path("mnt")).unwrap();
        xip::Volume::create(place.path("data.xip"), 16 << 20).unwrap().close().unwrap();
        Some(Self { place })
    }

    fn image(&self) -> String {
        text(&self.place.path("data.xip")).to_owned()
    }

    fn mnt(&self) -> String {
        text(&self.place.path("mnt")).to_owned()
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        self.place.path("mnt").join(name)
    }

    /// Mounts the image: the process that serves it.
    fn mount(&self) -> u32 {
        let ran = self.place.run(["mount", &self.image(), &self.mnt(), "--json"]).succeeds();
        u32::try_from(ran.json()["process"].as_u64().unwrap()).unwrap()
    }

    fn umount(&self) -> Ran {
        self.place.run(["umount", &self.mnt()])
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l", &self.mnt()]).stderr(Stdio::null()).status();
    }
}

fn fsck(image: &str) {
    let fsck = Command::new("e2fsck").args(["-fn", image]).output().unwrap();
    assert!(fsck.status.success(), "{}", String::from_utf8_lossy(&fsck.stdout));
}

fn is_mounted(at: &str) -> bool {
    fs::read_to_string("/proc/self/mounts").unwrap().contains(&format!(" {at} "))
}

fn place_link(mounts: &Mounts, name: &str, to: &str) -> String {
    let link = mounts.place.path(name);
    std::os::unix::fs::symlink(to, &link).unwrap();
    text(&link).to_owned()
}

#[track_caller]
fn soon(what: impl Fn() -> bool) {
    let since = Instant::now();
    while !what() {
        assert!(since.elapsed() < Duration::from_secs(10), "it does not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

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
    let links = [place_link(&mounts, "link", &mounts.mnt()), place_link(&mounts, "link2", "link")];
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
fn a_segment_is_mounted_to_be_read_and_saved_to_be_written() {
    let Some(mounts) = Mounts::new() else { return };
    let place = &mounts.place;
    let image = place.image();
    place.run(["load", text(&image), "--name", "seg"]).succeeds();
    place.run(["mount", "seg", &mounts.mnt()]).succeeds();
    assert_eq!(fs::read(mounts.at("etc/motd")).unwrap(), b"one copy\n");
    assert!(File::create(mounts.at("g")).is_err());
    mounts.umount().succeeds();
    place.run(["mount", "seg", &mounts.mnt(), "-o", "rw"]).fails(1).says("sealed").says("--exclusive");

    let copy = place.path("copy.xip");
    let ran = place.run(["save", "seg", text(&copy), "--json"]).succeeds();
    assert_eq!(ran.json()["bytes"].as_u64().unwrap(), fs::metadata(&image).unwrap().len());
    assert!(fs::read(&copy).unwrap() == fs::read(&image).unwrap());
    // The image it came from, which was lost; and not one that is newer.
    fs::remove_file(&image).unwrap();
    place.run(["save", "seg"]).succeeds();
    assert!(fs::read(&copy).unwrap() == fs::read(&image).unwrap());
    assert_eq!(fs::metadata(&image).unwrap().mode() & 0o777, 0o600);
    let newer = fs::read(&image).unwrap().len() as u64 + 4096;
    File::options().write(true).open(&image).unwrap().set_len(newer).unwrap();
    place.run(["save", "seg"]).fails(1).says("has other bytes than when").says("xip save seg FILE");
    place.run(["save", "seg", text(&image)]).succeeds();

    place.run(["mount", text(&copy), &mounts.mnt()]).succeeds();
    fs::write(mounts.at("etc/motd"), b"another\n").unwrap();
    place.run(["save", "seg", text(&copy)]).fails(1).says("in use by process ");
    // Nor is it built anew: what is written to the mount from then on would be in no file.
    let tree = place.path("empty");
    fs::create_dir(&tree).unwrap();
    place.run(["build", text(&tree), text(&copy)]).fails(1).says("in use by process ");
    mounts.umount().succeeds();
    fsck(text(&copy));
    place.run(["save", "seg", text(&copy)]).succeeds();
    assert!(fs::read(&copy).unwrap() == fs::read(&image).unwrap());
}

/// Also on tmpfs, where stores through a mapping change no times of the file: by these an image is known again without being read.
#[test]
fn an_image_that_was_written_by_a_mount_is_no_longer_the_one_that_was_loaded() {
    let Some(mounts) = Mounts::new() else { return };
    let (place, image) = (&mounts.place, mounts.image());
    // Long enough that a later change has other times for sure.
    std::thread::sleep(Duration::from_secs(4));
    let loaded = |new: bool| {
        let ran = place.run(["load", &image, "--name", "seg", "--json"]).succeeds().json();
        assert_eq!(ran["loaded"], new, "{ran}");
    };
    loaded(true);
    loaded(false);
    let server = mounts.mount();
    fs::write(mounts.at("f"), b"new").unwrap();
    mounts.umount().succeeds();
    loaded(true);
    // Nor when nobody closed it.
    std::thread::sleep(Duration::from_secs(4));
    place.run(["rm", "seg"]).succeeds();
    loaded(true);
    loaded(false);
    let again = mounts.mount();
    assert!(again != server);
    fs::write(mounts.at("f"), b"newer").unwrap();
    kill(again);
    mounts.umount().succeeds();
    loaded(true);
}

/// Issue 3, sections 1 and 2: a segment that one writes or many read, and what was written of it in an image.
#[test]
fn an_exclusive_segment_is_written_in_memory_and_saved() {
    let Some(mounts) = Mounts::new() else { return };
    let place = &mounts.place;
    let (image, mnt) = (mounts.image(), mounts.mnt());
    let loaded = fs::read(&image).unwrap();
    let ran = place.run(["load", &image, "--exclusive", "--name", "rw"]).succeeds();
    assert!(ran.out.contains("writable"), "{}", ran.out);
    assert_eq!(place.run(["ls", "--json"]).succeeds().json()[0]["exclusive"], true);
    // What can be shared is another memory, and is not what can change.
    assert_eq!(place.run(["load", &image, "--name", "shared", "--json"]).succeeds().json()["loaded"], true);
    assert!(place.run(["stat", "rw"]).succeeds().out.contains("it can be written"));
    for arguments in [&["load", &image, "--name", "rw"][..], &["load", &image, "--exclusive", "--name", "shared"]] {
        place.run(arguments).fails(1).says("an exclusive one shares no name");
    }
    for arguments in [&["run", "rw", "--", "/bin/true"][..], &["vm", "run", "rw"]] {
        place.run(arguments).fails(125).says("exclusive").says("xip save rw");
    }

    let mount = || {
        let ran = place.run(["mount", "rw", &mnt, "--json"]).succeeds().json();
        assert_eq!(ran["writable"], true);
        u32::try_from(ran["process"].as_u64().unwrap()).unwrap()
    };
    let server = mount();
    fs::write(mounts.at("f"), b"kept").unwrap();
    fs::write(mounts.at("g"), vec![7; 1 << 20]).unwrap();
    fs::remove_file(mounts.at("g")).unwrap();
    assert!(fs::read(&image).unwrap() == loaded, "the image has nothing of it");
    let other = place.path("other");
    fs::create_dir(&other).unwrap();
    let busy = format!("the segment rw is in use by process {server} (xip)");
    for arguments in [
        &["mount", "rw", text(&other)][..],
        &["mount", "rw", text(&other), "-o", "ro"],
        &["save", "rw"],
        &["check", "rw"],
        &["check", "rw", "--repair"],
    ] {
        place.run(arguments).fails(1).says(&busy);
    }
    // Who serves it is told to `xip umount`, by nothing that the volume has.
    let mut server_says = [0; 64];
    let length = rustix::fs::getxattr(mounts.at(""), xip_fuse::SERVER, &mut server_says[..]).unwrap();
    assert!(server_says[..length].starts_with(format!("{server} ").as_bytes()));
    let set = rustix::fs::setxattr(mounts.at(""), xip_fuse::SERVER, b"1 x", rustix::fs::XattrFlags::empty());
    assert_eq!(set, Err(rustix::io::Errno::OPNOTSUPP));
    let stat = place.run(["stat", "rw", "--json"]).succeeds().json();
    assert_eq!(
        (&stat["processes"][0]["pid"], &stat["processes"][0]["role"]),
        (&server.into(), &"serves".into()),
        "{stat}"
    );
    place.run(["rm", "rw"]).fails(1).says("may be nowhere else").says(&format!("xip ({server}, serves its files)"));

    // Who serves it dies: all of it is there for the next.
    kill(server);
    mounts.umount().succeeds();
    place.run(["save", "rw"]).fails(1).says("was not closed").says("xip check --repair rw");
    let server = mount();
    assert_eq!(fs::read(mounts.at("f")).unwrap(), b"kept");
    mounts.umount().succeeds();
    assert!(!fs::exists(format!("/proc/{server}/exe")).unwrap(), "it has ended");
    place.run(["check", "rw", "--repair"]).succeeds();
    place.run(["rm", "rw"]).fails(1).says("xip save").says(&image);
    // As secret as it was.
    fs::set_permissions(&image, fs::Permissions::from_mode(0o640)).unwrap();
    chown(&image, Some(USER), Some(USER)).unwrap();
    place.run(["save", "rw"]).succeeds();
    let kept = fs::metadata(&image).unwrap();
    assert_eq!((kept.mode() & 0o7777, kept.uid(), kept.gid()), (0o640, USER, USER));
    assert!(kept.blocks() * 512 < kept.len(), "zeros take no storage");
    // By whatever name.
    place.run(["save", "rw", &place_link(&mounts, "link.xip", &image)]).succeeds();
    place.run(["save", "rw"]).succeeds();
    fsck(&image);
    // Somebody else's work is not lost by a save, and one at that file is.
    place.run(["mount", &image, &mnt]).succeeds();
    fs::write(mounts.at("theirs"), b"").unwrap();
    mounts.umount().succeeds();
    place.run(["save", "rw"]).fails(1).says("has other bytes than when").says("xip save rw FILE");
    place.run(["save", "rw", &image]).succeeds();
    place.run(["save", "rw"]).succeeds();
    for at in [&mnt, text(&other)] {
        place.run(["mount", "rw", at, "-o", "ro"]).succeeds();
        assert_eq!(fs::read(Path::new(at).join("f")).unwrap(), b"kept");
    }
    place.run(["mount", "rw", "/mnt"]).fails(1).says("in use by process ");
    place.run(["umount", text(&other)]).succeeds();
    mounts.umount().succeeds();
    place.run(["rm", "rw", "shared"]).succeeds();
    place.run(["mount", &image, &mnt, "-o", "ro"]).succeeds();
    assert_eq!(fs::read(mounts.at("f")).unwrap(), b"kept");
    mounts.umount().succeeds();
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

/// Whoever waits for a mount whose process is killed gets an error, and the mount can be taken away.
#[test]
fn nothing_hangs_when_the_process_that_serves_is_killed() {
    let Some(mounts) = Mounts::new() else { return };
    let pid = mounts.mount();
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(mounts.at("f")).unwrap();
    file.write_all_at(&[1; 4096], 0).unwrap();
    kill(pid);
    soon(|| fs::metadata(mounts.at("other")).is_err_and(|error| error.kind() == io::ErrorKind::NotConnected));
    assert!(file.write_all_at(b"x", 0).is_err() && file.sync_all().is_err());
    mounts.place.run(["mount", &mounts.image(), &mounts.mnt()]).fails(1).says("lost its server").says("xip umount");
    drop(file);
    mounts.umount().succeeds();
    mounts.mount();
    assert_eq!(fs::read(mounts.at("f")).unwrap(), [1; 4096]);
    mounts.umount().succeeds();
    fsck(&mounts.image());
}

fn kill(pid: u32) {
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
}

/// Rounds of a process that serves under load and is killed at some moment.
const ROUNDS: u64 = 200;
const WRITERS: u64 = 2;

/// What a writer was told is done: the last file that it wrote, moved and waited for, and the last that it removed.
#[derive(Clone, Copy, Default)]
struct Told {
    kept: Option<u64>,
    removed: Option<u64>,
    appended: u64,
}

fn content(writer: u64, n: u64) -> Vec<u8> {
    let len = (n * 2_654_435_761 + writer * 97) % 20_000;
    (0..len).map(|at| (at * 7 + n + writer) as u8).collect()
}

/// Stores through a shared mapping, and waits for `fsync`. The pages are there before anything is stored: a fault that nobody answers
/// any more would be a signal.
fn store_mapped(file: &File, bytes: &[u8]) -> io::Result<()> {
    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};
    file.set_len(bytes.len() as u64)?;
    if bytes.is_empty() {
        return Ok(());
    }
    let both = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping at a place of the kernel's choice, as long as what is copied to it, and unmapped here.
    unsafe {
        let at = mmap(std::ptr::null_mut(), bytes.len(), both, MapFlags::SHARED, file, 0)?;
        let there = madvise(at, bytes.len(), Advice::LinuxPopulateWrite);
        if there.is_ok() {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), at.cast(), bytes.len());
        }
        munmap(at, bytes.len())?;
        there?;
    }
    file.sync_all()
}

/// Makes, moves, removes and appends until it gets an error, and says what is done.
fn write_until_killed(at: &Path, writer: u64, round: u64, told: &Mutex<Told>) -> io::Result<()> {
    let directory = at.join(format!("r{round}w{writer}"));
    fs::create_dir(&directory)?;
    let mut log = OpenOptions::new().append(true).create(true).open(directory.join("log"))?;
    for n in 0.. {
        let (new, kept) = (directory.join("new"), directory.join(format!("kept{n}")));
        let mut file = File::options().read(true).write(true).create(true).truncate(true).open(&new)?;
        if n % 5 == 3 {
            store_mapped(&file, &content(writer, n))?;
        } else {
            file.write_all(&content(writer, n))?;
        }
        if n % 4 == 0 {
            file.sync_all()?;
        }
        drop(file);
        fs::rename(&new, &kept)?;
        told.lock().unwrap().kept = Some(n);
        log.write_all(&[n as u8])?;
        told.lock().unwrap().appended = n + 1;
        if n % 3 == 2 {
            fs::remove_file(directory.join(format!("kept{}", n - 1)))?;
            told.lock().unwrap().removed = Some(n - 1);
        }
    }
    Ok(())
}

/// All that a writer was told is so.
fn check(at: &Path, writer: u64, round: u64, told: Told) {
    let directory = at.join(format!("r{round}w{writer}"));
    for n in 0..=told.kept.map_or(0, |last| last) {
        if told.kept.is_none() {
            return;
        }
        let found = fs::read(directory.join(format!("kept{n}")));
        // Every third is removed: for sure up to the one that was told, and maybe the next one.
        let removed = n % 3 == 1 && told.removed.is_some_and(|last| n <= last);
        let maybe = n % 3 == 1 && n + 1 >= told.kept.unwrap_or(0);
        match found {
            Ok(bytes) => assert!(!removed && bytes == content(writer, n), "round {round}, writer {writer}, file {n}"),
            Err(error) => assert!(removed || maybe, "round {round}, writer {writer}, file {n}: {error}"),
        }
    }
    let log = fs::read(directory.join("log")).unwrap();
    assert!(log.len() as u64 >= told.appended, "round {round}, writer {writer}: the log");
    assert!(log.iter().enumerate().all(|(n, &byte)| byte == n as u8));
}

/// Contract 7 and issue 3: nothing that a finished call did is lost by a kill, with or without `fsync`, nor what was stored
/// through a mapping before one.
#[test]
fn what_finished_calls_did_survives_two_hundred_kills() {
    let Some(mounts) = Mounts::new() else { return };
    let mut seed = 88_172_645_463_325_252u64;
    let mut files = 0;
    for round in 0..ROUNDS {
        let pid = mounts.mount();
        let told: Vec<_> = (0..WRITERS).map(|_| Mutex::new(Told::default())).collect();
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let after = Duration::from_micros(500 + (seed >> 33) % 15_000);
        std::thread::scope(|scope| {
            for (writer, told) in (0..).zip(&told) {
                let at = mounts.at("");
                scope.spawn(move || write_until_killed(&at, writer, round, told).unwrap_err());
            }
            std::thread::sleep(after);
            kill(pid);
        });
        mounts.umount().succeeds();
        // Opening it repairs what was under way.
        mounts.mount();
        for (writer, told) in (0..).zip(told) {
            let told = told.into_inner().unwrap();
            files += told.kept.map_or(0, |last| last + 1);
            check(&mounts.at(""), writer, round, told);
            let _ = fs::remove_dir_all(mounts.at(&format!("r{round}w{writer}")));
        }
        mounts.umount().succeeds();
        fsck(&mounts.image());
    }
    println!("{ROUNDS} kills, {files} files written and none lost");
    assert!(files > ROUNDS);
}
