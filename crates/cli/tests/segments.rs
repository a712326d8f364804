//! Images and segments through the command: what it prints, in which shapes, and who may have them.

mod common;

use std::process::Stdio;

use common::{Place, Ran};

#[test]
fn the_summary_and_the_image_itself_say_the_same() {
    let place = Place::new();
    let image = place.image();
    let image = image.to_str().unwrap();
    let again = place.path("again.xip");
    let again = again.to_str().unwrap();
    let built =
        place.run(["build", place.path("tree").to_str().unwrap(), again, "--json", "--no-sync"]).succeeds().json();
    let info = place.run(["info", image, "--json"]).succeeds().json();
    for part in ["geometry", "files", "runs", "density", "uuid", "features"] {
        assert_eq!(built[part], info[part], "{part}");
    }
    assert_eq!(std::fs::read(image).unwrap(), std::fs::read(again).unwrap(), "same tree, same bytes");
    assert!(info["not_in_place"].is_null());
    let text = place.run(["info", image]).succeeds().out;
    assert!(text.contains("can be used in place") && text.contains("one run"), "{text}");
    assert!(text.contains(" in 1 group;") && text.contains(" 0 links,"), "{text}");
    // Free blocks are a share of the image, however small that is.
    let share = text.split('(').next_back().and_then(|rest| rest.strip_suffix(" % of the image)\n"));
    assert!((0.0..=100.0).contains(&share.unwrap().parse::<f64>().unwrap()), "{text}");
}

#[test]
fn what_is_done_is_said_when_asked_for() {
    let place = Place::new();
    let image = place.image();
    let (tree, image) = (place.path("tree"), image.to_str().unwrap());
    let build = ["build", tree.to_str().unwrap(), image];
    assert_eq!(place.run(build).succeeds().err, "");
    let ran = place.run([&build[..], &["-v"]].concat()).succeeds();
    let ran = ran.says("found ").says("bytes of data in").says("for the storage");
    // Every name of the tree, though progress goes by the thousand.
    let mut names = 0;
    let mut directories = vec![tree.clone()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            names += 1;
            directories.extend(Some(entry.unwrap().path()).filter(|path| path.is_dir()));
        }
    }
    ran.says(&format!("made {names} names in"));
    let load = place.run(["-v", "load", image]).succeeds();
    assert!(!load.err.contains("its content is"), "{}", load.err);
    load.says("segment small").says("bytes in");
    place.run(["-vv", "load", image]).succeeds().says("its content is");
    let with_filter = |filter: &str| {
        let output = place.xip(["load", image]).env("XIP_LOG", filter).output().unwrap();
        Ran::from(output).succeeds()
    };
    with_filter("debug").says("its content is");
    assert_eq!(with_filter("").err, "");
    with_filter("xip=nonsense").says("XIP_LOG").says("not used");
}

#[test]
fn nothing_in_a_store_is_said_by_its_name() {
    let place = Place::new();
    let store = place.path("segments");
    std::fs::remove_dir(&store).unwrap();
    for command in ["ls", "stat"] {
        let ran = place.run([command]).succeeds();
        assert_eq!(ran.out, "");
        assert_eq!(ran.err, format!("xip: no segments in {}\n", store.display()));
        assert_eq!(place.run([command, "--json"]).succeeds().json(), serde_json::json!([]));
    }
    assert!(!store.exists(), "who only looks makes no directory");
    std::fs::create_dir(&store).unwrap();
    assert_eq!(place.run(["ls"]).succeeds().err, format!("xip: no segments in {}\n", store.display()));
}

#[test]
fn options_of_build_are_found_in_the_image() {
    let place = Place::new();
    place.image();
    let (tree, image) = (place.path("tree"), place.path("other.xip"));
    let (tree, image) = (tree.to_str().unwrap(), image.to_str().unwrap());
    let uuid = "11111111-2222-3333-4444-555555555555";
    let options = ["--label", "tools", "--uuid", uuid, "--size", "64M", "--exclude", "motd", "--owner", "7:8"];
    let built = place.run([&["build", tree, image, "--json"][..], &options].concat()).succeeds().json();
    assert_eq!((&built["label"], &built["uuid"]), (&"tools".into(), &uuid.into()));
    assert_eq!(built["bytes"], 64 << 20);
    let volume = xip::Volume::open(image).unwrap();
    assert!(!volume.exists("/etc/motd"));
    let owner = volume.metadata("/bin/sh").unwrap();
    assert_eq!((owner.uid(), owner.gid()), (7, 8));
}

#[test]
fn names_of_any_bytes_and_of_full_length_go_through() {
    use std::os::unix::ffi::OsStrExt;
    let place = Place::new();
    let names: [&[u8]; 4] = [&[b'n'; 255], b"\xff\xfe not utf-8", b"a\nline \x1b[31m", b" -x"];
    std::fs::create_dir(place.path("tree")).unwrap();
    for name in names {
        std::fs::write(place.path("tree").join(std::ffi::OsStr::from_bytes(name)), name).unwrap();
    }
    let (tree, image) = (place.path("tree"), place.path("names.xip"));
    let built = place.run(["build", tree.to_str().unwrap(), image.to_str().unwrap(), "--json"]).succeeds().json();
    assert_eq!(built["files"]["regular"], names.len());
    let volume = xip::Volume::open(&image).unwrap();
    for name in names {
        assert_eq!(volume.read(std::ffi::OsStr::from_bytes(name)).unwrap(), name);
    }
}

#[test]
fn a_segment_is_listed_described_and_removed() {
    let place = Place::new();
    let image = place.image();
    let loaded = place.run(["load", image.to_str().unwrap(), "--json"]).succeeds().json();
    assert_eq!(loaded["segment"]["name"], "small");
    let listed = place.run(["ls", "--json"]).succeeds().json();
    assert_eq!(listed, serde_json::json!([loaded["segment"]]));
    assert!(place.run(["ls"]).succeeds().out.contains("small"));

    let stat = place.run(["stat", "small", "--json"]).succeeds().json();
    assert_eq!(stat["size"], loaded["segment"]["size"]);
    assert_eq!(stat["resident"], stat["size"], "all of a loaded image is in memory");
    assert_eq!(stat["processes"], serde_json::json!([]));
    let all = place.run(["stat", "--json"]).succeeds().json();
    assert_eq!(all[0]["name"], "small");
    assert!(place.run(["stat", "small"]).succeeds().out.contains("nobody maps it now"));

    place.run(["rm", "small"]).succeeds();
    assert_eq!(place.run(["ls", "--json"]).succeeds().json(), serde_json::json!([]));
    place.run(["rm", "small"]).fails(1).says("small");
}

/// The sequence of the README works whatever else has the same content in memory.
#[test]
fn one_content_under_several_names_can_be_used_and_removed_by_each() {
    let place = Place::new();
    let image = place.image();
    let image = image.to_str().unwrap();
    assert!(place.run(["load", image, "--name", "a"]).succeeds().out.contains("segment a: "));
    let out = place.run(["load", image, "--name", "b"]).succeeds().out;
    assert!(
        out.contains("segment b: ") && out.contains("in memory already, as segment a: this is one more name"),
        "{out}"
    );
    let out = place.run(["load", image]).succeeds().out;
    assert!(out.contains("segment small: ") && out.contains("one more name"), "{out}");
    let infos = place.run(["ls", "--json"]).succeeds().json();
    let names: Vec<_> = infos.as_array().unwrap().iter().map(|info| info["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["a", "b", "small"]);
    assert!(infos.as_array().unwrap().iter().all(|info| info["content"] == infos[0]["content"]));

    let mut reader =
        place.xip(["demo", "--reader", "small"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut answers = std::io::BufReader::new(reader.stdout.take().unwrap());
    let mut ask = || {
        let mut line = String::new();
        std::io::Write::write_all(reader.stdin.as_mut().unwrap(), b"/etc\n").unwrap();
        std::io::BufRead::read_line(&mut answers, &mut line).unwrap();
        line
    };
    assert_eq!(ask(), "9\n", "the bytes of /etc/motd");
    let ran = place.run(["rm", "a"]).succeeds();
    assert_eq!(ran.err, "xip: the memory of a stays: it is segment b and small too\n");
    place.run(["rm", "small"]).succeeds().says("it is segment b too");
    place.run(["rm", "b"]).fails(1).says("in use");
    assert_eq!(ask(), "9\n", "it has lost nothing");
    drop(answers);
    reader.kill().unwrap();
    reader.wait().unwrap();
    assert_eq!(place.run(["rm", "b"]).succeeds().err, "");
}

#[test]
fn a_segment_in_use_is_shown_with_its_user_and_not_removed() {
    let place = Place::new();
    let image = place.image();
    place.run(["load", image.to_str().unwrap()]).succeeds();
    // A user that needs neither FUSE nor namespaces: a reader of the demo, which answers when it has the segment.
    let mut reader =
        place.xip(["demo", "--reader", "small"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::Write::write_all(reader.stdin.as_mut().unwrap(), b"/etc\n").unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(reader.stdout.as_mut().unwrap()), &mut line).unwrap();
    assert_eq!(line, "9\n", "the bytes of /etc/motd");

    let stat = place.run(["stat", "small", "--json"]).succeeds().json();
    assert_eq!(stat["processes"][0]["pid"], reader.id());
    assert!(stat["processes"][0]["in_place"].as_u64().unwrap() > 0);
    place.run(["rm", "small"]).fails(1).says(&reader.id().to_string());
    assert_eq!(place.run(["ls", "--json"]).succeeds().json().as_array().unwrap().len(), 1);

    place.run(["rm", "--force", "small"]).succeeds();
    assert_eq!(place.run(["ls", "--json"]).succeeds().json(), serde_json::json!([]));
    // Its user keeps every byte.
    std::io::Write::write_all(reader.stdin.as_mut().unwrap(), b"/etc\n").unwrap();
    drop(reader.stdin.take());
    assert!(reader.wait().unwrap().success());
}

#[test]
fn a_directory_of_segments_that_others_can_write_to_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let image = place.image();
    let open = place.path("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();
    let ran = place.xip(["load", image.to_str().unwrap()]).env("XIP_DIR", &open).output().unwrap();
    common::Ran::from(ran).fails(1).says("XIP_DIR");
}

#[test]
fn an_interrupted_build_leaves_nothing_and_ends_by_the_signal() {
    use std::os::unix::process::ExitStatusExt;
    let place = Place::new();
    let (tree, target) = (place.path("large"), place.path("target"));
    std::fs::create_dir(&tree).unwrap();
    std::fs::create_dir(&target).unwrap();
    // Enough files that the build cannot be over before the signal is there: it is sent when the image is begun.
    for number in 0..20_000 {
        std::fs::write(tree.join(number.to_string()), "x").unwrap();
    }
    let image = target.join("image.xip");
    let mut build = place.xip(["build", tree.to_str().unwrap(), image.to_str().unwrap()]);
    let mut child = build.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It has caught signals when it has begun to look at the tree.
    let catches = |status: &str| {
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).map(str::trim);
        mask.and_then(|mask| u64::from_str_radix(mask, 16).ok()).is_some_and(|mask| mask & 1 << 1 != 0)
    };
    let status = format!("/proc/{}/status", child.id());
    while !std::fs::read_to_string(&status).is_ok_and(|status| catches(&status)) {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it could be interrupted");
        std::thread::yield_now();
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.signal(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(std::fs::read_dir(&target).unwrap().count(), 0);
}
