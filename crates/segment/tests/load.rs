//! From an image to a segment: which one it is, who waits for whom, and what is refused.

mod common;

use common::*;
use rustix::fs::Mode;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;
use xip_core::Device;
use xip_segment::{Error, Outcome};

#[test]
fn the_same_image_twice_is_the_same_segment() {
    let world = World::new();
    let image = world.image("a.img", 300, 1);
    let first = world.load(&image, None).unwrap().segment;
    let copy = world.image("copy.img", 300, 1);
    for (image, name) in [(&image, None), (&image, Some("a")), (&copy, Some("a"))] {
        let again = world.load(image, name).unwrap();
        assert_eq!((again.outcome, again.segment.id()), (Outcome::Same, first.id()), "{image:?} {name:?}");
        assert_eq!((again.segment.name(), again.also), ("a", None));
    }
    // Under other names, one more name each for the same memory, whether it was asked for or is the file's.
    for (name, wanted) in [(Some("b"), "b"), (None, "copy")] {
        let other = world.load(&copy, name).unwrap();
        assert_eq!((other.outcome, other.segment.id(), other.segment.name()), (Outcome::Same, first.id(), wanted));
        assert!(other.also.is_some());
    }
    let id = first.id();
    drop(first);
    assert_eq!(world.store().names_of(id).unwrap(), ["a", "b", "copy"]);
    // One can go without the other, in use or not: it is there for its users all the same.
    world.remove("a");
    let user = world.user("b", PAGE);
    world.store().remove("copy", false).unwrap();
    assert_eq!(world.store().get("b").unwrap().id(), id);
    assert!(matches!(world.store().remove("b", false), Err(Error::InUse { .. })), "this was the last one");
    drop(user);
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
    assert_eq!(read(), (Some(Outcome::New), size));
}

#[test]
fn another_file_with_other_bytes_does_not_get_the_name_unless_it_is_to_replace() {
    let world = World::new();
    let image = world.image("a", 300, 1);
    world.load(&image, None).unwrap();
    let other = world.image("a.img", 300, 2);
    let error = world.load(&other, None).unwrap_err();
    assert!(matches!(&error, Error::NameTaken { name, .. } if name == "a"), "{error}");
    assert_eq!(error.errno(), 17);
    assert!(error.to_string().contains("xip rm a") && error.to_string().contains("--replace"), "{error}");
    // Another size too; and under another name it can be had.
    world.image("a.img", 301, 2);
    assert!(matches!(world.load(&other, None), Err(Error::NameTaken { .. })));
    assert_eq!(world.load(&other, Some("a2")).unwrap().outcome, Outcome::New);
    assert_eq!(world.store().list().unwrap().segments.len(), 2);
    let loaded = world.store().replacing().load(&other, None, &mut |_, _| {}, &mut |_| Ok(())).unwrap();
    assert_eq!((loaded.outcome, loaded.also.as_deref(), loaded.segment.name()), (Outcome::Same, Some("a2"), "a"));
    assert!(loaded.replaced.is_some());
    assert_eq!(world.store().get("a").unwrap().info().image, other);
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
    // The name that follows from the file's is another image's: it is told which one this image has.
    world.load(&world.image("copy", 10, 2), None).unwrap();
    let again = world.load(&world.image("copy.xip", 10, 1), None).unwrap();
    assert_eq!((again.segment.name(), &*again.wanted, again.outcome), ("bad-n-me", "copy", Outcome::Same));
    assert!(matches!(world.load(&world.image("copy.xip", 10, 1), Some("copy")), Err(Error::NameTaken { .. })));
    let named = world.load(&image, Some("mine")).unwrap();
    assert_eq!((named.segment.name(), &*named.wanted, named.outcome), ("mine", "mine", Outcome::Same));
    assert_eq!(named.also.as_deref(), Some("bad-n-me"));
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
