//! Segments, on real memory with real processes. The example `segment` keeps them, as a program of a user would.

use rustix::fs::{Mode, OFlags};
use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use xip_core::{Device, PageNo};
use xip_segment::{Error, Loaded, Outcome, Result, Segment, Store};

const PAGE: usize = 4096;

/// The program that keeps segments: built together with the tests.
fn program() -> PathBuf {
    let deps = std::env::current_exe().unwrap();
    let path = deps.ancestors().nth(2).unwrap().join("examples/segment");
    assert!(path.exists(), "{} is missing: cargo build -p xip-segment --examples", path.display());
    path
}

/// A directory of segments and images, in which nothing is left when a test ends.
struct World {
    dir: TempDir,
}

impl World {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn store_path(&self) -> PathBuf {
        self.dir.path().join("segments")
    }

    fn store(&self) -> Store {
        Store::open(self.store_path()).unwrap().with_holder(program())
    }

    /// An image of that many pages, with other bytes for another seed.
    fn image(&self, name: &str, pages: usize, seed: u8) -> PathBuf {
        let path = self.dir.path().join(name);
        let bytes: Vec<u8> = (0..pages * PAGE).map(|at| (at / 7 % 255) as u8 ^ seed).collect();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn load(&self, image: &Path, name: Option<&str>) -> Result<Loaded> {
        self.store().load(image, name, &mut |_, _| {}, &mut |_| Ok(()))
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(words).env("XIP_DIR", self.store_path()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Removes a segment that nobody uses. Where tests are threads of one process, a program that another test starts has
    /// all our descriptors for a moment, between fork and exec.
    fn remove(&self, name: &str) {
        until("nobody uses it", || match self.store().remove(name, false) {
            Err(Error::InUse { .. }) => false,
            other => other.map(|()| true).unwrap(),
        });
    }

    /// A process that has read the first `bytes` of a segment in place, and keeps it mapped.
    fn user(&self, name: &str, bytes: usize) -> User {
        Self::start(self.command(&["use", name, &bytes.to_string()]))
    }

    /// As `user`, by the name of the command `xip`.
    fn server(&self, name: &str, bytes: usize) -> User {
        let xip = self.dir.path().join("xip");
        if !xip.exists() {
            std::os::unix::fs::symlink(program(), &xip).unwrap();
        }
        let mut command = Command::new(xip);
        command.args(["use", name, &bytes.to_string()]).env("XIP_DIR", self.store_path()).stdout(Stdio::piped());
        Self::start(command)
    }

    fn start(mut command: Command) -> User {
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        User(child)
    }

    fn entries(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.store_path()).unwrap();
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let Ok(store) = Store::open(self.store_path()) else { return };
        for name in self.entries() {
            let _ = store.remove(&name, true);
        }
    }
}

struct User(Child);

impl Drop for User {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// Waits until `done`, for as long as it may take on a busy machine.
fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..600 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("never: {what}");
}

fn is_running(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn bytes_of(segment: &Segment) -> Vec<u8> {
    let device = segment.device().unwrap();
    let mut bytes = vec![0; usize::try_from(segment.info().size).unwrap()];
    device.read(0, &mut bytes).unwrap();
    bytes
}

#[test]
fn a_segment_holds_the_image_and_is_sealed() {
    let world = World::new();
    let image = world.image("deb.img", 1234, 1);
    let Loaded { segment, outcome, .. } = world.load(&image, None).unwrap();
    assert_eq!((segment.name(), outcome), ("deb", Outcome::New));
    assert!(bytes_of(&segment) == std::fs::read(&image).unwrap());
    let device = segment.device().unwrap();
    assert!(device.properties().sealed && !device.properties().writable);
    assert!(device.direct_access(PageNo(3), 2).unwrap().as_sealed_slice().is_some());
    // The image can go: the segment is its own.
    std::fs::remove_file(&image).unwrap();
    assert_eq!(world.store().get("deb").unwrap().id(), segment.id());
    assert_eq!(world.entries(), ["deb"]);
}

#[test]
fn nobody_can_write_to_it_or_shrink_it_not_even_root() {
    use rustix::fs::FallocateFlags;
    let world = World::new();
    let segment = world.load(&world.image("a", 16, 1), None).unwrap().segment;
    let before = bytes_of(&segment);
    // The descriptor that users get, and the best that can be had from it and from the holder's.
    let mut ways = vec![segment.fd().try_clone_to_owned().unwrap()];
    rustix::fs::fchmod(segment.fd(), Mode::RUSR | Mode::WUSR).unwrap();
    let holder = format!("/proc/{}/fd", segment.info().holder);
    let mut paths: Vec<_> = std::fs::read_dir(holder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.push(format!("/proc/self/fd/{}", segment.fd().as_raw_fd()).into());
    for path in paths {
        if std::fs::read_link(&path).unwrap().to_string_lossy().starts_with("/memfd:xip:") {
            ways.push(rustix::fs::open(&path, OFlags::RDWR, Mode::empty()).unwrap());
            let cut = rustix::fs::open(&path, OFlags::RDWR | OFlags::TRUNC, Mode::empty());
            assert!(cut.is_err(), "opened with O_TRUNC: {}", path.display());
        }
    }
    assert!(ways.len() >= 3, "the holder's descriptor was not found");
    for fd in &ways {
        assert!(rustix::io::write(fd, b"x").is_err());
        assert!(rustix::io::pwrite(fd, b"x", 0).is_err());
        assert!(rustix::fs::ftruncate(fd, 0).is_err());
        assert!(rustix::fs::ftruncate(fd, 1 << 20).is_err());
        for flags in [
            FallocateFlags::empty(),
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            FallocateFlags::ZERO_RANGE,
            FallocateFlags::COLLAPSE_RANGE,
        ] {
            assert!(rustix::fs::fallocate(fd, flags, 0, 1 << 20).is_err(), "{flags:?}");
        }
        let mapped = xip_segment::MappedFile::open(fd.try_clone().unwrap(), xip_segment::Access::ReadWrite);
        assert!(mapped.is_err(), "mapped shared and writable");
        assert!(rustix::fs::fcntl_add_seals(fd, rustix::fs::SealFlags::EXEC).is_err(), "seals can change");
    }
    assert!(bytes_of(&segment) == before);
}

#[test]
fn a_mapping_of_it_can_never_become_writable() {
    // `VmFlags: mw` in smaps is the kernel's word for "mprotect may make it writable" (VM_MAYWRITE).
    let world = World::new();
    let segment = world.load(&world.image("a", 16, 1), None).unwrap().segment;
    let _device = segment.device().unwrap();
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let inode = format!(" {} ", segment.id().1);
    let ours = smaps.split_inclusive("VmFlags").collect::<Vec<_>>();
    let at = ours.iter().position(|area| area.contains("/memfd:xip:a") && area.contains(&inode)).unwrap();
    let flags = ours[at + 1].lines().next().unwrap();
    assert!(flags.contains(" mr ") && flags.contains(" me "), "{flags}");
    assert!(!flags.contains(" mw ") && !flags.contains(" wr "), "{flags}");
}

#[test]
fn the_same_image_twice_is_the_same_segment() {
    let world = World::new();
    let image = world.image("a.img", 300, 1);
    let first = world.load(&image, None).unwrap().segment;
    let copy = world.image("copy.img", 300, 1);
    for (image, name) in [(&image, None), (&image, Some("a")), (&copy, None), (&copy, Some("a"))] {
        let again = world.load(image, name).unwrap();
        assert_eq!((again.outcome, again.segment.id()), (Outcome::Same, first.id()), "{image:?} {name:?}");
        assert_eq!(again.segment.name(), "a");
    }
    // One more name for the same memory; one can go without the other.
    let other = world.load(&copy, Some("b")).unwrap();
    assert_eq!((other.outcome, other.segment.id(), other.segment.name()), (Outcome::Same, first.id(), "b"));
    let id = first.id();
    drop((first, other));
    world.remove("a");
    assert_eq!(world.store().get("b").unwrap().id(), id);
}

#[test]
fn an_image_that_did_not_change_is_not_read_again_and_a_changed_one_is() {
    let world = World::new();
    let image = world.image("a", 30, 1);
    let read = || {
        let mut bytes = 0;
        let loaded = world.store().load(&image, None, &mut |done, _| bytes = done, &mut |_| Ok(()));
        (loaded.map(|loaded| loaded.outcome).ok(), bytes)
    };
    let size = 30 * PAGE as u64;
    // Just written: a second change could carry the same time, so nothing is concluded from it.
    assert_eq!(read(), (Some(Outcome::New), size));
    assert_eq!(read(), (Some(Outcome::Same), size));
    world.remove("a");
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(read(), (Some(Outcome::New), size));
    assert_eq!(read(), (Some(Outcome::Same), 0));
    // Same bytes at another time; then other bytes of the same length.
    world.image("a", 30, 1);
    assert_eq!(read(), (Some(Outcome::Same), size));
    world.image("a", 30, 2);
    assert_eq!(read(), (None, size));
}

#[test]
fn a_changed_image_is_another_image_even_with_the_same_size() {
    let world = World::new();
    let image = world.image("a", 300, 1);
    world.load(&image, None).unwrap();
    world.image("a", 300, 2);
    let error = world.load(&image, None).unwrap_err();
    assert!(matches!(&error, Error::NameTaken { name, .. } if name == "a"), "{error}");
    assert_eq!(error.errno(), 17);
    assert!(error.to_string().contains("xip rm a"), "{error}");
    // Another size too; and under another name it can be had.
    world.image("a", 301, 2);
    assert!(matches!(world.load(&image, None), Err(Error::NameTaken { .. })));
    assert_eq!(world.load(&image, Some("a2")).unwrap().outcome, Outcome::New);
    assert_eq!(world.store().list().unwrap().segments.len(), 2);
}

#[test]
fn two_who_load_at_once_get_one_segment() {
    let world = World::new();
    let image = world.image("a", 5000, 1);
    let loaders: Vec<Child> =
        (0..6).map(|_| world.command(&["load", image.to_str().unwrap()]).spawn().unwrap()).collect();
    let mut answers: Vec<String> = Vec::new();
    for loader in loaders {
        let output = loader.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        answers.push(String::from_utf8(output.stdout).unwrap());
    }
    answers.sort();
    assert!(answers[0].starts_with("a New "), "{answers:?}");
    assert!(answers[1..].iter().all(|answer| *answer == answers[0].replace("New", "Same")), "{answers:?}");
    assert_eq!(world.entries(), ["a"]);
}

#[test]
fn a_loader_that_is_killed_leaves_a_whole_segment_or_none() {
    let world = World::new();
    let image = world.image("a", 8000, 1);
    let content = std::fs::read(&image).unwrap();
    let (mut whole, mut none) = (0, 0);
    for round in 0..40u64 {
        let mut loader = world.command(&["load", image.to_str().unwrap()]).spawn().unwrap();
        // From before it began to after it ended, as evenly as a busy machine allows.
        std::thread::sleep(Duration::from_millis(round * 4));
        let _ = loader.kill();
        loader.wait().unwrap();
        let store = world.store();
        match store.list().unwrap().segments.as_slice() {
            [] => none += 1,
            [segment] => {
                assert!(bytes_of(segment) == content, "round {round}: half a segment");
                whole += 1;
            }
            other => panic!("round {round}: {other:?}"),
        }
        // Whatever was left, it can be loaded.
        assert!(bytes_of(&world.load(&image, None).unwrap().segment) == content);
        store.remove("a", false).unwrap();
    }
    println!("killed 40 times: {whole} times the segment was there, {none} times not");
    until("only the lock file may stay", || world.entries().iter().all(|name| name.starts_with('.')));
}

#[test]
fn when_the_holder_is_killed_the_segment_is_gone_and_users_keep_their_bytes() {
    let world = World::new();
    let image = world.image("a", 300, 1);
    let segment = world.load(&image, None).unwrap().segment;
    let device = segment.device().unwrap();
    kill(segment.info().holder);
    until("the holder ends", || !is_running(segment.info().holder));
    assert_eq!(world.entries(), ["a"]);
    let error = world.store().get("a").unwrap_err();
    assert!(matches!(&error, Error::NoSegment { .. }), "{error}");
    // The name that was left is cleared away, and free again.
    assert!(world.entries().is_empty());
    let mut bytes = vec![0; 300 * PAGE];
    device.read(0, &mut bytes).unwrap();
    assert!(bytes == std::fs::read(&image).unwrap());
    assert_eq!(world.load(&image, None).unwrap().outcome, Outcome::New);
}

#[test]
fn a_holder_ends_when_its_name_is_taken_away() {
    let world = World::new();
    let segment = world.load(&world.image("a", 10, 1), None).unwrap().segment;
    std::fs::remove_file(world.store_path().join("a")).unwrap();
    until("the holder ends", || !is_running(segment.info().holder));
}

#[test]
fn a_holder_that_is_stopped_is_named_and_can_be_forced_away() {
    let world = World::new();
    let segment = world.load(&world.image("a", 10, 1), None).unwrap().segment;
    let holder = rustix::process::Pid::from_raw(i32::try_from(segment.info().holder).unwrap()).unwrap();
    rustix::process::kill_process(holder, rustix::process::Signal::STOP).unwrap();
    let error = world.store().remove("a", false).unwrap_err();
    assert!(matches!(error, Error::Silent { .. }), "{error}");
    assert!(error.to_string().contains("xip rm --force a"), "{error}");
    world.store().remove("a", true).unwrap();
    assert!(world.entries().is_empty());
    rustix::process::kill_process(holder, rustix::process::Signal::CONT).unwrap();
    until("the holder ends", || !is_running(segment.info().holder));
}

#[test]
fn one_holder_that_cannot_be_asked_does_not_keep_the_others() {
    let world = World::new();
    for (seed, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
        world.load(&world.image(name, 10, u8::try_from(seed).unwrap()), None).unwrap();
    }
    let holders = ["b", "c"].map(|name| {
        let holder = world.store().get(name).unwrap().info().holder;
        rustix::process::Pid::from_raw(i32::try_from(holder).unwrap()).unwrap()
    });
    let all = |signal| holders.iter().for_each(|&holder| rustix::process::kill_process(holder, signal).unwrap());
    all(rustix::process::Signal::STOP);
    let listing = world.store().list().unwrap();
    assert_eq!(listing.segments.iter().map(Segment::name).collect::<Vec<_>>(), ["a", "d"]);
    let [b, c] = &listing.problems[..] else { panic!("{:?}", listing.problems) };
    assert!(matches!((b, c), (Error::Silent { .. }, Error::Silent { .. })), "{b}, {c}");
    assert!(b.to_string().contains("segment b ") && c.to_string().contains("xip rm --force c"), "{b}, {c}");
    // The other segments are as they were: found by content, had by name, removed; and new ones come.
    let again = world.load(&world.image("again", 10, 0), None).unwrap();
    assert_eq!((again.outcome, again.segment.name()), (Outcome::Same, "a"));
    assert_eq!(world.load(&world.image("new", 10, 9), None).unwrap().outcome, Outcome::New);
    drop(again);
    world.remove("a");
    // To load what is perhaps the same takes no part in the trouble either, unless it wants that very name.
    assert_eq!(world.load(&world.image("b2", 10, 1), None).unwrap().outcome, Outcome::New);
    assert!(matches!(world.load(&world.image("b", 10, 1), None), Err(Error::Silent { .. })));
    all(rustix::process::Signal::CONT);
    assert!(world.store().list().unwrap().problems.is_empty());
}

/// A holder of another version of xip under `name`, which answers `header` and the memory. As the protocol has been since
/// the first version: a message asks, one answers; it ends when its name is gone.
fn foreign_holder(world: &World, name: &str, header: &'static str, memory: Option<&Segment>) {
    use rustix::net::{
        AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketType,
    };
    let path = world.store_path().join(name);
    let listener = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    rustix::net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::listen(&listener, 8).unwrap();
    let memory = memory.map(|segment| segment.fd().try_clone_to_owned().unwrap());
    std::thread::spawn(move || {
        while path.exists() {
            let user = rustix::net::accept(&listener).unwrap();
            let mut request = [0; 64];
            let (len, _) = rustix::net::recv(&user, &mut request, RecvFlags::empty()).unwrap();
            let answer = if request[..len] == *b"get" { header } else { "what?" };
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let fds: Vec<_> = memory.iter().map(std::os::fd::AsFd::as_fd).collect();
            if !fds.is_empty() {
                assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
            }
            let answer = [std::io::IoSlice::new(answer.as_bytes())];
            let _ = rustix::net::sendmsg(&user, &answer, &mut control, SendFlags::NOSIGNAL);
        }
    });
}

#[test]
fn a_holder_of_another_version_is_told_from_one_that_does_not_answer_and_can_be_removed() {
    let world = World::new();
    let memory = world.load(&world.image("a", 10, 1), None).unwrap().segment;
    foreign_holder(&world, "old", r#"{"version":0,"name":"old"}"#, Some(&memory));
    foreign_holder(&world, "mute", r#"{"version":7}"#, None);
    foreign_holder(&world, "noise", "noise", None);
    let listing = world.store().list().unwrap();
    assert_eq!(listing.segments.iter().map(Segment::name).collect::<Vec<_>>(), ["a"]);
    let words: Vec<String> = listing.problems.iter().map(ToString::to_string).collect();
    assert!(matches!(&listing.problems[0], Error::OtherVersion { name } if name == "mute"), "{words:?}");
    assert!(matches!(&listing.problems[1], Error::Silent { name, .. } if name == "noise"), "{words:?}");
    assert!(words[2].contains("segment old was loaded by another version of xip: `xip rm old`"), "{words:?}");
    assert_eq!(listing.problems[2].errno(), 71);
    assert!(matches!(world.store().get("old"), Err(Error::OtherVersion { .. })));
    assert!(matches!(world.load(&world.image("old", 10, 1), None), Err(Error::OtherVersion { .. })));

    // Who uses it can be told from its memory; where none was sent, it takes force.
    let user = world.user("a", 1);
    assert!(matches!(world.store().remove("old", false), Err(Error::InUse { .. })));
    drop(user);
    drop(memory);
    for name in ["mute", "noise"] {
        let error = world.store().remove(name, false).unwrap_err();
        assert!(error.to_string().contains(&format!("xip rm --force {name}")), "{error}");
        world.store().remove(name, true).unwrap();
    }
    world.store().remove("old", false).unwrap();
    assert_eq!(world.entries(), ["a"]);
}

#[test]
fn fields_that_came_or_went_do_not_make_another_version() {
    let world = World::new();
    let memory = world.load(&world.image("a", 1, 1), None).unwrap().segment;
    let header = r#"{"version":1,"new":[1],"info":{"name":"b","size":4096,"content":"xyz","new":{}}}"#;
    foreign_holder(&world, "b", header, Some(&memory));
    let other = world.store().get("b").unwrap();
    assert_eq!((other.id(), other.info().size, other.info().created), (memory.id(), 4096, 0));
}

#[test]
fn a_segment_in_use_is_not_removed_unless_forced_and_the_users_are_named() {
    let world = World::new();
    let image = world.image("a", 300, 1);
    let holder = world.load(&image, None).unwrap().segment.info().holder;
    let mut user = world.user("a", 300 * PAGE);
    let error = world.store().remove("a", false).unwrap_err();
    let Error::InUse { users, .. } = &error else { panic!("{error}") };
    assert_eq!(users.iter().map(|user| user.pid).collect::<Vec<_>>(), [user.0.id()]);
    assert!(error.to_string().contains(&format!("segment ({})", user.0.id())), "{error}");
    assert_eq!(error.errno(), 16);
    assert!(world.store().get("a").is_ok());

    world.store().remove("a", true).unwrap();
    assert!(matches!(world.store().get("a"), Err(Error::NoSegment { .. })));
    until("the holder ends", || !is_running(holder));
    // The user has it still, and a new one can have the name.
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", user.0.id())).unwrap();
    assert!(maps.contains("/memfd:xip:a"));
    assert_eq!(world.load(&image, None).unwrap().outcome, Outcome::New);
    drop(user.0.stdin.take());
    assert!(user.0.wait().unwrap().success());
    world.remove("a");
}

#[test]
fn memory_that_is_short_is_found_out_before_it_is_taken() {
    let world = World::new();
    let image = world.image("a", 300, 1);
    let limited = world.store().with_memory_limit(299 * PAGE as u64);
    let error = limited.load(&image, None, &mut |_, _| {}, &mut |_| Ok(())).unwrap_err();
    let Error::NoMemory { needed, free, .. } = error else { panic!("{error}") };
    assert_eq!((needed, free), (300 * PAGE as u64, 299 * PAGE as u64));
    // More than the machine has, without any limit of ours.
    let huge = std::fs::File::create(world.dir.path().join("huge")).unwrap();
    huge.set_len(1 << 43).unwrap();
    let error = world.load(&world.dir.path().join("huge"), None).unwrap_err();
    assert_eq!(error.errno(), 12, "{error}");
    assert!(world.entries().is_empty());
}

#[test]
fn a_limit_on_file_sizes_is_an_error_and_not_a_signal() {
    let world = World::new();
    let image = world.image("a", 300, 1);
    let script = format!("ulimit -f 8; exec {} load {}", program().display(), image.display());
    let output = Command::new("sh").args(["-c", &script]).env("XIP_DIR", world.store_path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("ulimit -f"), "{output:?}");
}

#[test]
fn a_limit_on_address_space_is_named_and_sizes_are_in_mebibytes() {
    let world = World::new();
    let image = world.dir.path().join("a.xip");
    std::fs::File::create(&image).unwrap().set_len(480 << 20).unwrap();
    let limited = |words: &str| {
        let script = format!("ulimit -v 100000; exec {} {words}", program().display());
        let output = Command::new("sh").args(["-c", &script]).env("XIP_DIR", world.store_path()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let words = limited(&format!("load {}", image.display()));
    assert!(words.contains("a.xip: it needs 480 MiB") && words.contains("RLIMIT_AS is 97 MiB"), "{words}");
    // Not only a loader maps it: who looks at it does too.
    std::fs::File::create(&image).unwrap().set_len(100 << 20).unwrap();
    world.load(&image, None).unwrap();
    let words = limited("use a 1");
    assert!(words.contains("100 MiB") && words.contains("ulimit -v"), "{words}");

    let small = world.store().with_memory_limit((3 << 20) - 1);
    let image = world.image("small", 3 * 256, 1);
    let error = small.load(&image, None, &mut |_, _| {}, &mut |_| Ok(())).unwrap_err();
    assert!(error.to_string().contains("it needs 3 MiB and 2 MiB are free"), "{error}");
}

#[test]
fn a_name_that_was_made_of_the_images_and_another_one_found_are_told() {
    let world = World::new();
    let image = world.image("bad näme.xip", 10, 1);
    let loaded = world.load(&image, None).unwrap();
    assert_eq!((loaded.segment.name(), &*loaded.wanted, loaded.outcome), ("bad-n-me", "bad-n-me", Outcome::New));
    let again = world.load(&world.image("copy.xip", 10, 1), None).unwrap();
    assert_eq!((again.segment.name(), &*again.wanted, again.outcome), ("bad-n-me", "copy", Outcome::Same));
    let named = world.load(&image, Some("mine")).unwrap();
    assert_eq!((named.segment.name(), &*named.wanted, named.outcome), ("mine", "mine", Outcome::Same));
}

#[test]
fn bad_names_are_refused() {
    let world = World::new();
    let image = world.image("a", 1, 1);
    let long = "x".repeat(65);
    for name in ["", ".", "..", ".a", "a/b", "../a", "a b", "a\n", "é", long.as_str()] {
        assert!(matches!(world.load(&image, Some(name)), Err(Error::BadName { .. })), "{name:?}");
        assert!(matches!(world.store().get(name), Err(Error::BadName { .. })), "{name:?}");
        assert!(matches!(world.store().remove(name, true), Err(Error::BadName { .. })), "{name:?}");
    }
}

#[test]
fn bad_images_are_refused_and_take_no_name() {
    let world = World::new();
    let file = |name: &str, bytes: usize| {
        let path = world.dir.path().join(name);
        std::fs::write(&path, vec![1; bytes]).unwrap();
        path
    };
    let load = |path: &Path| world.load(path, None).unwrap_err();
    assert_eq!(load(Path::new("/nowhere/at/all")).errno(), 2);
    assert!(matches!(load(&file("empty", 0)), Error::Empty { .. }));
    assert!(matches!(load(&file("cut", 4095)), Error::NotWholePages { bytes: 4095, .. }));
    assert!(matches!(load(world.dir.path()), Error::NotAFile { .. }));
    assert!(matches!(load(Path::new("/dev/null")), Error::NotAFile { .. }));
    let fifo = world.dir.path().join("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, Mode::RUSR).unwrap();
    assert!(matches!(load(&fifo), Error::NotAFile { .. }));

    let image = file("refused", PAGE);
    let error = world
        .store()
        .load(&image, None, &mut |_, _| {}, &mut |device| Err(format!("{} pages of nothing", device.pages())));
    let error = error.unwrap_err();
    assert!(error.to_string().contains("1 pages of nothing"), "{error}");
    assert_eq!(error.errno(), 117);
    assert!(world.entries().is_empty());
}

#[test]
fn an_image_that_changes_while_it_is_read_is_refused() {
    let world = World::new();
    let image = world.image("a", 2000, 1);
    let writer = std::fs::OpenOptions::new().write(true).open(&image).unwrap();
    for step in ["write", "cut"] {
        let mut change = |_, _| match step {
            "write" => drop(rustix::io::pwrite(&writer, b"later", 0)),
            _ => writer.set_len(PAGE as u64).unwrap(),
        };
        let error = world.store().load(&image, None, &mut change, &mut |_| Ok(())).unwrap_err();
        assert!(matches!(error, Error::Changed { .. }), "{step}: {error}");
    }
    assert!(world.entries().is_empty());
}

#[test]
fn a_directory_that_others_could_write_to_is_refused() {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};
    let dir = tempfile::tempdir().unwrap();
    let refused = |path: &Path| match Store::open(path) {
        Err(error @ Error::ForeignDirectory { .. }) => assert!(error.to_string().contains("XIP_DIR"), "{error}"),
        other => panic!("{other:?}"),
    };
    let open = dir.path().join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, PermissionsExt::from_mode(0o777)).unwrap();
    refused(&open);
    // Ours, but in a place where anyone can rename it.
    let error = Store::open(open.join("ours")).unwrap_err();
    assert!(matches!(error, Error::OpenParent { .. }), "{error}");
    assert!(error.to_string().contains("XIP_DIR") && error.errno() == 1, "{error}");
    std::fs::set_permissions(&open, PermissionsExt::from_mode(0o1777)).unwrap();
    Store::open(open.join("ours")).unwrap();
    // The same by way of the environment.
    std::fs::set_permissions(&open, PermissionsExt::from_mode(0o777)).unwrap();
    let mut list = Command::new(program());
    let output = list.arg("list").env_remove("XIP_DIR").env("XDG_RUNTIME_DIR", &open).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("can be renamed by anyone"), "{output:?}");
    // A link is not followed, wherever it leads.
    let good = dir.path().join("good");
    Store::open(&good).unwrap();
    assert_eq!(std::fs::metadata(&good).unwrap().permissions().mode() & 0o777, 0o700);
    let link = dir.path().join("link");
    symlink(&good, &link).unwrap();
    assert!(matches!(Store::open(&link), Err(Error::File { .. })));
    assert!(matches!(Store::open("/dev/null/x"), Err(Error::File { .. })));
    // Squatted: made by someone else before us.
    let squatted = dir.path().join("squatted");
    std::fs::create_dir(&squatted).unwrap();
    if rustix::process::geteuid().is_root() {
        chown(&squatted, Some(65534), None).unwrap();
        refused(&squatted);
    } else {
        println!("skipped: a directory of another owner needs root");
    }
}

#[test]
fn the_figures_of_stat_are_those_of_the_processes() {
    let world = World::new();
    let pages = 777;
    let size = (pages * PAGE) as u64;
    let segment = world.load(&world.image("a", pages, 1), None).unwrap().segment;
    let stat = segment.stat().unwrap();
    assert_eq!((stat.resident, stat.swapped, stat.saved), (size, 0, 0));
    assert!(stat.processes.is_empty() && stat.shared.is_empty(), "{stat:?}");

    let users = [world.user("a", pages * PAGE), world.user("a", pages * PAGE), world.user("a", pages * PAGE)];
    let stat = segment.stat().unwrap();
    let mut pids: Vec<u32> = stat.processes.iter().map(|mapper| mapper.user.pid).collect();
    pids.sort_unstable();
    let mut expected: Vec<u32> = users.iter().map(|user| user.0.id()).collect();
    expected.sort_unstable();
    assert_eq!(pids, expected);
    for mapper in &stat.processes {
        assert_eq!((mapper.mapped, mapper.in_place, mapper.copied), (size, size, 0), "{mapper:?}");
        assert_eq!(mapper.user.command, "segment");
        assert!(mapper.arguments.contains(" use a "), "{mapper:?}");
    }
    let shared: Vec<_> = stat.shared.iter().map(|shared| (shared.processes, shared.bytes)).collect();
    assert_eq!(shared, [(3, size)]);
    assert_eq!(stat.saved, 2 * size);

    // One who has read a page has that, and what the kernel maps around it: never more than is there.
    drop(users);
    let _one = world.user("a", 1);
    let stat = segment.stat().unwrap();
    let [mapper] = &stat.processes[..] else { panic!("{stat:?}") };
    assert!((PAGE as u64..=size).contains(&mapper.in_place), "{mapper:?}");
    assert_eq!(stat.shared.iter().map(|shared| shared.bytes).sum::<u64>(), mapper.in_place);
    assert_eq!(stat.saved, 0);
    let json = serde_json::to_value(&stat).unwrap();
    assert_eq!(json["name"], "a");
    assert_eq!(json["processes"][0]["pid"], mapper.user.pid);
}

#[test]
fn the_process_that_serves_the_files_is_shown_and_counts_in_no_sum() {
    use xip_segment::stat::Role;
    let world = World::new();
    let pages = 500;
    let size = (pages * PAGE) as u64;
    let segment = world.load(&world.image("a", pages, 1), None).unwrap().segment;
    // First, so that it has the lower number.
    let server = world.server("a", pages * PAGE);
    let stat = segment.stat().unwrap();
    assert_eq!((stat.saved, stat.shared.len(), stat.programs().count()), (0, 0, 0), "{stat:?}");
    let [mapper] = &stat.processes[..] else { panic!("{stat:?}") };
    assert_eq!((mapper.user.pid, mapper.user.role, mapper.in_place), (server.0.id(), Role::Serves, size));

    let users = [world.user("a", pages * PAGE), world.user("a", pages * PAGE)];
    let stat = segment.stat().unwrap();
    let shared: Vec<_> = stat.shared.iter().map(|shared| (shared.processes, shared.bytes)).collect();
    assert_eq!((shared, stat.saved), (vec![(2, size)], size));
    assert_eq!((stat.programs().count(), stat.processes.len()), (2, 3));
    let json = serde_json::to_value(&stat).unwrap();
    assert_eq!((&json["processes"][0]["role"], &json["processes"][2]["role"]), (&"uses".into(), &"serves".into()));

    let words = world.store().remove("a", false).unwrap_err().to_string();
    let at = |pid: u32| words.find(&format!("({pid}")).unwrap_or_else(|| panic!("{pid} is not in: {words}"));
    assert!(users.iter().all(|user| at(user.0.id()) < at(server.0.id())), "{words}");
    assert!(words.contains(&format!("xip ({}, serves its files)", server.0.id())), "{words}");
}

/// Sets how the kernel makes huge pages for shared memory, and sets it back.
struct HugeSetting(String);

impl HugeSetting {
    const FILE: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

    fn set(value: &str) -> Option<Self> {
        let old = std::fs::read_to_string(Self::FILE).ok()?;
        let old = old.split(['[', ']']).nth(1)?.to_owned();
        std::fs::write(Self::FILE, value).ok().map(|()| Self(old))
    }
}

impl Drop for HugeSetting {
    fn drop(&mut self) {
        let _ = std::fs::write(Self::FILE, &self.0);
    }
}

#[test]
fn huge_pages_are_used_where_the_kernel_allows_them_and_said_where_not() {
    let world = World::new();
    let image = world.image("a", 1024 + 3, 1);
    let Some(setting) = HugeSetting::set("deny") else {
        println!("skipped: to change {} needs root and a kernel with huge pages", HugeSetting::FILE);
        return;
    };
    let segment = world.load(&image, None).unwrap().segment;
    let huge = segment.huge().unwrap();
    assert_eq!(huge.bytes, 0);
    assert!(huge.why_not.unwrap().contains("deny"));
    drop(segment);
    world.remove("a");

    for value in ["advise", "always"] {
        std::fs::write(HugeSetting::FILE, value).unwrap();
        let segment = world.load(&image, None).unwrap().segment;
        let huge = segment.huge().unwrap();
        assert_eq!((huge.bytes, huge.why_not), (4 << 20, None), "{value}");
        drop(segment);
        world.remove("a");
    }
    drop(setting);
}

#[test]
fn a_program_that_cannot_be_a_holder_is_refused_and_not_started_without_end() {
    let world = World::new();
    let image = world.image("a", 1, 1);
    let store = Store::open(world.store_path()).unwrap();
    for (program, word) in [("/bin/true", "main_if_asked"), ("/bin/false", "exit status"), ("/nowhere", "No such file")]
    {
        let store = Store::open(world.store_path()).unwrap().with_holder(program);
        let error = store.load(&image, None, &mut |_, _| {}, &mut |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains(word), "{program}: {error}");
    }
    assert!(store.list().unwrap().segments.is_empty());
    let output = world.command(&["load", image.to_str().unwrap()]).output().unwrap();
    assert!(output.status.success());
}

#[test]
fn a_holder_keeps_nothing_of_the_one_who_started_it() {
    let world = World::new();
    let image = world.image("a", 1, 1);
    // A shell that waits for the end of its pipe would wait for a holder that kept it.
    let script = format!("exec 7>&1; {} load {}", program().display(), image.display());
    let output = Command::new("sh").args(["-c", &script]).env("XIP_DIR", world.store_path()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let holder = world.store().get("a").unwrap().info().holder;
    assert_eq!(std::fs::read_link(format!("/proc/{holder}/cwd")).unwrap(), Path::new("/"));
    let maps = std::fs::read_to_string(format!("/proc/{holder}/maps")).unwrap();
    assert!(!maps.contains("memfd"), "a holder maps no segment");
    let status = std::fs::read_to_string(format!("/proc/{holder}/stat")).unwrap();
    let words: Vec<&str> = status.rsplit(") ").next().unwrap().split(' ').collect();
    assert_eq!(words[4], "0", "no terminal: {status}");
}

#[test]
fn a_directory_however_deep_can_hold_segments() {
    // The address of a socket has room for 107 bytes.
    let world = World::new();
    let deep = world.dir.path().join("d".repeat(200)).join("e".repeat(200));
    let store = Store::open(&deep).unwrap().with_holder(program());
    let name = "n".repeat(64);
    let image = world.image("a", 3, 1);
    store.load(&image, Some(&name), &mut |_, _| {}, &mut |_| Ok(())).unwrap();
    assert!(bytes_of(&store.get(&name).unwrap()) == std::fs::read(&image).unwrap());
    store.remove(&name, false).unwrap();
}

#[test]
fn users_get_a_descriptor_that_is_open_to_read_only() {
    let world = World::new();
    let segment = world.load(&world.image("a", 16, 1), None).unwrap().segment;
    let flags = rustix::fs::fcntl_getfl(segment.fd()).unwrap();
    assert_eq!(flags & OFlags::RWMODE, OFlags::RDONLY);
}
