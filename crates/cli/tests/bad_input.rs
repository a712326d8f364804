//! Bad input to each command: the right exit code, a message that names the thing, and nothing left behind.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use common::{Place, Ran, text};

/// What a directory holds, by name.
fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn images_that_are_missing_empty_cut_off_or_something_else_are_refused_by_name() {
    let place = Place::new();
    let image = fs::read(place.image()).unwrap();
    let files: [(&str, Option<&[u8]>); 5] = [
        ("missing.xip", None),
        ("empty.xip", Some(b"")),
        ("cut.xip", Some(&image[..image.len() / 2 / 4096 * 4096])),
        ("odd.xip", Some(&image[..5000])),
        ("text.xip", Some(&[b'x'; 8192])),
    ];
    for (name, content) in files {
        let path = place.path(name);
        if let Some(content) = content {
            fs::write(&path, content).unwrap();
        }
        let path = path.to_str().unwrap();
        if name == "cut.xip" {
            let (have, whole) = (image.len() / 2 / 4096 * 4096, image.len());
            let ran = place.run(["info", path]).fails(1).says("cut off");
            ran.says(&format!("{have} of its {whole} bytes")).says("copy or build it again");
        }
        for arguments in [&["info", path][..], &["load", path]] {
            place.run(arguments).fails(1).says(name);
        }
        place.run(["run", path, "--", "/bin/sh", "-c", "exit 0"]).fails(125).says(name);
    }
    assert_eq!(place.run(["ls", "--json"]).succeeds().json(), serde_json::json!([]), "nothing was loaded");
}

/// A program that only waits ends no test run by itself: `timeout` does, with 124.
#[test]
fn a_fifo_that_nobody_writes_to_is_refused_and_not_waited_for() {
    let place = Place::new();
    let fifo = place.path("fifo.xip");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let path = fifo.to_str().unwrap();
    for (arguments, code) in [(&["info", path][..], 1), (&["load", path], 1), (&["run", path, "--", "true"], 125)] {
        let xip = place.xip(arguments);
        let mut command = Command::new("timeout");
        command.arg("20").arg(xip.get_program()).args(xip.get_args()).env("XIP_DIR", place.path("segments"));
        Ran::from(command.output().unwrap()).fails(code).says(path);
    }
    // The library has a way of its own to open images.
    let (done, opened) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(xip::Volume::open(&fifo).is_err()));
    assert_eq!(opened.recv_timeout(std::time::Duration::from_secs(20)), Ok(true));
}

#[test]
fn directories_that_cannot_be_built_leave_no_file() {
    let place = Place::new();
    let target = place.path("target");
    fs::create_dir(&target).unwrap();
    fs::write(place.path("file"), "no directory").unwrap();
    fs::create_dir(place.path("full")).unwrap();
    fs::write(place.path("full/large"), vec![1; 8 << 20]).unwrap();
    let image = target.join("image.xip");
    let image = image.to_str().unwrap();
    let path = |name: &str| place.path(name).to_str().unwrap().to_owned();
    place.run(["build", &path("missing"), image]).fails(1).says("missing");
    place.run(["build", &path("file"), image]).fails(1).says("file");
    place.run(["build", &path("full"), image, "--size", "4M"]).fails(1);
    place.run(["build", &path("full"), image, "--label", "more than sixteen bytes"]).fails(2).says("label");
    for (ranges, words) in [
        (&["--map-user", "0:4294967295:5"][..], "beyond"),
        (&["--map-user", "0:5:10", "--map-user", "9:50:1"], "overlap"),
        (&["--map-group", "0:4294967290:6"], "beyond"),
    ] {
        let tree = path("full");
        let arguments = [&["build", &tree, image], ranges].concat();
        place.run(arguments).fails(2).says(ranges[0].trim_start_matches('-')).says(words);
    }
    place.run(["build", &path("full"), image, "--size", "16T"]).fails(1).says("16 TiB");
    place.run(["build", &path("full"), &path("absent/image.xip")]).fails(1).says("absent");
    // A limit of the system is an error, not a death by SIGXFSZ.
    let mut limited = Command::new("prlimit");
    let build = place.xip(["build", &path("full"), image]);
    limited.arg("--fsize=4096").arg(build.get_program()).args(build.get_args());
    Ran::from(limited.output().unwrap()).fails(1).says("File too large");
    assert_eq!(names(&target), [""; 0], "a failed build leaves nothing");
}

#[test]
fn segments_that_are_not_there_are_named() {
    let place = Place::new();
    for command in ["stat", "rm"] {
        place.run([command, "nobody"]).fails(1).says("nobody");
    }
    place.run(["run", "nobody", "--", "true"]).fails(125).says("nobody");
}

#[test]
fn names_that_are_paths_or_nothing_are_no_segment_names() {
    let place = Place::new();
    let image = place.image();
    for name in ["", "..", "a/b", "../escape", "a\nb"] {
        place.run(["load", image.to_str().unwrap(), "--name", name]).fails(1);
    }
    place.run(["load", image.to_str().unwrap(), "--name", &"x".repeat(300)]).fails(1);
}

#[test]
fn loading_twice_is_the_same_segment_and_another_image_under_its_name_is_refused() {
    let place = Place::new();
    let image = place.image();
    let load = || place.run(["load", image.to_str().unwrap(), "--name", "one", "--json"]).succeeds().json();
    let (first, second) = (load(), load());
    assert_eq!((&first["loaded"], &second["loaded"]), (&true.into(), &false.into()));
    assert_eq!(first["segment"], second["segment"]);
    assert_eq!(place.run(["ls", "--json"]).succeeds().json().as_array().unwrap().len(), 1);

    fs::create_dir(place.path("other")).unwrap();
    fs::write(place.path("other/file"), "something else").unwrap();
    let other = place.path("other.xip");
    place.run(["build", place.path("other").to_str().unwrap(), other.to_str().unwrap()]).succeeds();
    place.run(["load", other.to_str().unwrap(), "--name", "one"]).fails(1).says("one");
    place.run(["rm", "one"]).succeeds();
    assert_eq!(place.run(["ls", "--json"]).succeeds().json(), serde_json::json!([]));
}

/// Twice the memory of this machine, most of it holes in the file.
#[test]
fn an_image_that_memory_cannot_hold_is_refused_before_any_is_taken() {
    let place = Place::new();
    place.image();
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap();
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"));
    let size = format!("{}K", 2 * total.unwrap().parse::<u64>().unwrap());
    let (tree, image) = (place.path("tree"), place.path("huge.xip"));
    place.run(["build", tree.to_str().unwrap(), image.to_str().unwrap(), "--size", &size]).succeeds();
    place.run(["load", image.to_str().unwrap()]).fails(1).says("not enough memory").says("xip rm");
    assert_eq!(place.run(["ls", "--json"]).succeeds().json(), serde_json::json!([]));
}

#[test]
fn what_may_not_be_read_or_written_is_refused_by_name() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can become another user to show this");
        return;
    }
    let place = Place::new();
    let image = place.image();
    let (home, secret) = (place.path("home"), place.path("home/secret"));
    fs::create_dir_all(&secret).unwrap();
    fs::rename(&image, secret.join("image.xip")).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_xip"), home.join("xip")).unwrap();
    for (path, mode) in [(place.path(""), 0o755), (home.clone(), 0o755), (secret.clone(), 0o700)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let as_nobody = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(home.join("xip"));
        Ran::from(command.args(arguments).env("XIP_DIR", home.join("segments")).output().unwrap())
    };
    let image = secret.join("image.xip");
    let (image, tree) = (image.to_str().unwrap(), secret.to_str().unwrap());
    as_nobody(&["info", image]).fails(1).says(image).says("ermission denied");
    as_nobody(&["load", image]).fails(1).says("ermission denied");
    as_nobody(&["build", tree, "/tmp/never.xip"]).fails(1).says(tree).says("ermission denied");
    as_nobody(&["build", "/etc/default", home.join("image.xip").to_str().unwrap()]).fails(1).says("ermission denied");
}

/// A name without a slash may be a segment's or a file's: who has neither learns both.
#[test]
fn a_name_that_is_neither_a_segment_nor_a_file_says_so() {
    let place = Place::new();
    let run = |arguments: &[&str]| Ran::from(place.xip(arguments).current_dir(place.path("")).output().unwrap());
    for (arguments, code) in
        [(&["run", "none.xip", "true"][..], 125), (&["check", "none.xip"], 1), (&["mount", "none.xip", "/mnt"], 1)]
    {
        run(arguments).fails(code).says("no segment none.xip in ").says("no file none.xip here").says("xip ls");
        let arguments = [&[arguments[0], "no name"], &arguments[2..]].concat();
        run(&arguments).fails(code).says("no file no name here").says("because: ");
    }
    run(&["run", "--root", "overlay", "true"]).fails(125).says("try: --root=overlay");
    // And one that is a segment, where only a file will do.
    place.run(["load", place.image().to_str().unwrap(), "--name", "seg"]).succeeds();
    run(&["info", "seg"]).fails(1).says("seg is a segment").says("xip stat seg").says("small.xip");
    run(&["info", "none"]).fails(1).says("none: cannot open the image");
}

#[test]
fn what_cannot_be_mounted_is_named() {
    let place = Place::new();
    fs::write(place.path("text.xip"), [b'x'; 8192]).unwrap();
    let directory = place.path("segments");
    place
        .run(["mount", place.path("text.xip").to_str().unwrap(), directory.to_str().unwrap()])
        .fails(1)
        .says("text.xip: not an ext2 volume");
    let tree = place.path("tree");
    fs::create_dir(&tree).unwrap();
    let ran = place.run(["mount", tree.to_str().unwrap(), directory.to_str().unwrap()]).fails(1);
    ran.says("tree is a directory; what is mounted is an image or a segment").says("xip build DIRECTORY IMAGE");
}

#[test]
fn an_ext4_volume_is_refused_with_its_features_by_name_and_what_to_make_instead() {
    let place = Place::new();
    let image = place.path("four.img");
    let image = image.to_str().unwrap();
    let make = |kind: &str| {
        let _ = fs::remove_file(image);
        let mut mke2fs = std::process::Command::new("mke2fs");
        let made = mke2fs.args(["-q", "-t", kind, "-b", "4096", image, "16M"]).output().unwrap();
        assert!(made.status.success(), "{made:?}");
    };
    make("ext4");
    for arguments in [&["info", image][..], &["load", image], &["mount", image, "/mnt"]] {
        let ran = place.run(arguments).fails(1).says("four.img").says("extent, 64bit, flex_bg");
        ran.says("xip build").says("mke2fs -t ext2 -b 4096");
    }
    // The remedy is one.
    make("ext2");
    place.run(["load", image]).succeeds();
}

#[test]
fn a_journal_that_is_not_played_back_is_refused_and_the_remedy_is_one() {
    let place = Place::new();
    let (path, new) = (place.path("three.img"), place.path("new"));
    let image = path.to_str().unwrap();
    fs::write(&new, [b'n'; 4096]).unwrap();
    let tree = place.path("three");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("file"), [b'o'; 4096]).unwrap();
    let tool = |name: &str, arguments: &[&str]| {
        let ran = std::process::Command::new(name).args(arguments).arg(image).output().unwrap();
        // 1 of e2fsck: mended.
        assert!(matches!(ran.status.code(), Some(0 | 1)), "{name}: {ran:?}");
        String::from_utf8_lossy(&ran.stdout).into_owned()
    };
    fs::File::create(image).unwrap().set_len(16 << 20).unwrap();
    tool("mke2fs", &["-q", "-F", "-j", "-b", "4096", "-d", tree.to_str().unwrap()]);
    let block = tool("debugfs", &["-R", "bmap file 0"]);
    // A transaction with the block of a file, which a crash has kept from its place.
    let commands = place.path("commands");
    fs::write(&commands, format!("jo\njw -b {} {}\njc\n", block.trim(), new.display())).unwrap();
    tool("debugfs", &["-w", "-f", commands.to_str().unwrap()]);
    for arguments in [&["info", image][..], &["load", image], &["mount", image, text(&tree)], &["check", image]] {
        let ran = place.run(arguments).fails(1).says("three.img").says("journal").says("e2fsck -p");
        assert!(!ran.err.contains("mke2fs"), "{}", ran.err);
    }

    tool("e2fsck", &["-p"]);
    place.run(["info", image]).succeeds();
    let volume = xip::Volume::open(image).unwrap();
    assert!(volume.read("file").unwrap() == [b'n'; 4096], "what was in the journal");
}

/// What `xip run` and `xip mount` need is the same, and so is what they say when it is not there.
#[test]
fn a_mount_without_dev_fuse_says_what_to_do_as_a_run_does() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can take /dev/fuse away from a command");
        return;
    }
    let place = Place::new();
    let image = place.image();
    fs::create_dir(place.path("dev")).unwrap();
    // A device on a file system without devices opens for nobody, root included.
    let script = "mount -t tmpfs -o nodev none \"$3\" && mknod \"$3/fuse\" c 10 229 && mkdir \"$3/at\" && \
        mount --bind \"$3/fuse\" /dev/fuse && \
        for words in \"mount $2 $3/at\" \"run $2 -- /bin/sh\"; do \"$1\" $words 2>&1; done";
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh", env!("CARGO_BIN_EXE_xip")]).arg(&image).arg(place.path("dev"));
    let output = command.env("XIP_DIR", place.path("segments")).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let said: Vec<_> = text.lines().filter(|line| line.contains("/dev/fuse: ")).collect();
    assert!(said.len() == 2 && said[0] == said[1] && said[0].contains("chmod 666 /dev/fuse as root"), "{text}");
}
