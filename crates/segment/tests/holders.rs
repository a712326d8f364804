//! Who keeps a segment: its holder, the name that keeps the holder, and the directory of names.

mod common;

use common::*;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use xip_core::Device;
use xip_segment::{Error, Outcome, Segment, Store};

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
fn a_temporary_segment_goes_when_its_loader_ends_however_and_nobody_uses_it() {
    let world = World::new();
    let image = world.image("a", 300, 1);
    let gone = || matches!(world.store().get("a"), Err(Error::NoSegment { .. }));
    for kill in [false, true] {
        let mut loader = World::start(world.command(&["hold", image.to_str().unwrap()]));
        let user = world.user("a", PAGE);
        if kill {
            loader.0.kill().unwrap();
        }
        drop(loader.0.stdin.take());
        loader.0.wait().unwrap();
        // Longer than its holder takes to look.
        std::thread::sleep(Duration::from_millis(1500));
        assert!(!gone(), "it is in use");
        drop(user);
        until("it goes with its last user", gone);
        assert_eq!(world.entries(), [""; 0]);
    }
}

#[test]
fn a_temporary_segment_of_an_image_that_is_in_memory_is_the_one_that_is_there() {
    let world = World::new();
    let image = world.image("a", 300, 1);
    let segment = world.load(&image, None).unwrap().segment;
    let again = world.store().temporary().load(&image, None, &mut |_, _| {}, &mut |_| Ok(())).unwrap();
    assert!(again.outcome == Outcome::Same && again.lease.is_none());
    let id = segment.id();
    drop((segment, again));
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(world.store().get("a").unwrap().id(), id, "it was not made for this load");
}

#[test]
fn a_temporary_segment_that_is_loaded_to_stay_stays() {
    let world = World::new();
    let image = world.image("a", 300, 1);
    let temporary = world.store().temporary().load(&image, None, &mut |_, _| {}, &mut |_| Ok(())).unwrap();
    let id = temporary.segment.id();
    let kept = world.load(&image, None).unwrap();
    assert_eq!((kept.outcome, kept.segment.id(), kept.also), (Outcome::Same, id, None));
    drop((kept.segment, temporary.segment));
    temporary.lease.unwrap().end();
    // Longer than its holder takes to look.
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(world.store().get("a").unwrap().id(), id);
    // Another one for a while changes nothing of that.
    let again = world.store().temporary().load(&image, None, &mut |_, _| {}, &mut |_| Ok(())).unwrap();
    assert!(again.lease.is_none());
    assert_eq!(world.store().get("a").unwrap().id(), id);
}

#[test]
fn a_lease_that_is_ended_takes_its_segment_along_at_once_unless_it_is_in_use() {
    let world = World::new();
    let image = world.image("a", 300, 1);
    let load = || world.store().temporary().load(&image, None, &mut |_, _| {}, &mut |_| Ok(())).unwrap().lease.unwrap();
    // Threads of the loader may have it yet.
    let late = world.image("late", 300, 2);
    let loaded = world.store().temporary().load(&late, None, &mut |_, _| {}, &mut |_| Ok(())).unwrap();
    loaded.lease.unwrap().end();
    assert_eq!(world.entries(), [""; 0]);
    drop(loaded.segment);
    load().end();
    assert_eq!(world.entries(), [""; 0]);
    let lease = load();
    let user = world.user("a", PAGE);
    lease.end();
    assert_eq!(world.entries(), ["a"]);
    drop(user);
    until("it goes with its last user", || world.entries().is_empty());
}

/// A descriptor that is on its way from a holder to a loader is in nobody's table, so a holder may end just then. The memory is
/// there all the same.
#[test]
fn a_load_that_finds_a_temporary_segment_that_goes_meanwhile_takes_over_its_memory() {
    for (of, name) in [("a", None), ("copy", None), ("a", Some("b"))] {
        let world = World::new();
        let image = world.image("a", 300, 1);
        world.image("copy", 300, 1);
        let temporary = world.store().temporary().load(&image, None, &mut |_, _| {}, &mut |_| Ok(())).unwrap();
        let id = temporary.segment.id();
        // While it compares the contents it has what the holder answered.
        let mut compare = |done, of| {
            if done == of {
                let holder = temporary.segment.info().holder;
                kill(holder);
                until("the holder ends", || !is_running(holder));
                std::fs::remove_file(world.store_path().join("a")).unwrap();
            }
        };
        let loaded = world.store().load(&world.dir.path().join(of), name, &mut compare, &mut |_| Ok(())).unwrap();
        let wanted = name.unwrap_or(of);
        assert_eq!((loaded.outcome, loaded.segment.id(), loaded.segment.name()), (Outcome::Same, id, wanted));
        assert_eq!(world.store().get(wanted).unwrap().id(), id);
    }
}

#[test]
fn one_more_name_for_a_while_goes_with_whoever_gave_it() {
    let world = World::new();
    let image = world.image("a", 300, 1);
    let id = world.load(&image, None).unwrap().segment.id();
    let mut loader = World::start(world.command(&["hold", image.to_str().unwrap(), "b"]));
    assert_eq!(world.store().get("b").unwrap().id(), id);
    loader.0.kill().unwrap();
    loader.0.wait().unwrap();
    until("the name goes", || world.entries() == ["a"]);
    assert_eq!(world.store().get("a").unwrap().id(), id);
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
    assert_eq!((again.outcome, again.also.as_deref()), (Outcome::Same, Some("a")));
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
    world.store().remove("a", true).unwrap();
    assert!(matches!(world.store().remove("old", false), Err(Error::InUse { .. })));
    drop(user);
    drop(memory);
    for name in ["mute", "noise"] {
        let error = world.store().remove(name, false).unwrap_err();
        assert!(error.to_string().contains(&format!("xip rm --force {name}")), "{error}");
        world.store().remove(name, true).unwrap();
    }
    world.store().remove("old", false).unwrap();
    assert_eq!(world.entries(), [""; 0]);
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
