//! Programs in Go in place: their runtime makes threads, signals and system calls of its own, past the C library. `fzf` is
//! linked with the C library and `shfmt` is static.

mod common;

use common::{Image, image_with, text};
use rustix::fs::{Mode, OFlags};
use std::fmt::Write;
use std::fs;
use std::os::fd::OwnedFd;
use std::process::Command;

/// Enough for the search to be cut into slices, one for each processor, and for more output than a pipe holds.
const LINES: u32 = 100_000;

fn image() -> &'static Image {
    const PROGRAMS: [&str; 2] = ["/usr/bin/fzf", "/usr/bin/shfmt"];
    image_with(&PROGRAMS, |tree| {
        for program in PROGRAMS {
            assert!(
                fs::read(program).unwrap().windows(10).any(|bytes| bytes == b"Go buildin"),
                "{program} is not in Go"
            );
        }
        let lines: String = (0..LINES).map(|n| format!("{:08x} line\n", n.wrapping_mul(0x9e37_79b1))).collect();
        fs::write(tree.join("data/lines"), lines).unwrap();
        let mut script = String::new();
        for n in 0..8000 {
            writeln!(script, "if  test $x   -gt {n}\nthen   echo   \"$x\" |cat\nelse\nx=$(( x+{n} ))\nfi").unwrap();
        }
        fs::write(tree.join("data/script"), script).unwrap();
    })
}

/// Has bash run `program` while its output waits in a pipe, in which not all of it has room: by then it has worked, and
/// is still there. What it says is this, and its threads and mappings then. Its status is read at once: line by line it
/// would change under the reader.
fn at_work(program: &str) -> (String, usize, String) {
    let script = format!(
        "exec 3< <(exec {program}); program=$!; IFS= read -r first <&3; \
         status=$(< /proc/$program/status); read -r count <<< \"${{status#*Threads:}}\"; echo $count >&2; cat /proc/$program/smaps >&2; \
         printf '%s\\n' \"$first\"; cat <&3; wait $program"
    );
    let output = image().command(&["bash", "-c", &script]).env("GOGC", "5").output().unwrap();
    let [said, seen] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(output.status.success(), "{program}: {:?}\n{seen}", output.status);
    let (threads, smaps) = seen.split_once('\n').unwrap();
    (said, threads.parse().unwrap_or_else(|_| panic!("{program}: {seen}")), smaps.into())
}

fn works_in_place(program: &str) {
    let tree = image().path().with_file_name("tree");
    let outside = Command::new("sh").args(["-c", program]).current_dir(tree.join("data")).output().unwrap();
    let outside = String::from_utf8(outside.stdout).unwrap();
    assert!(outside.len() > 1 << 17, "{program}: {outside}");
    let inside = program.replace("./", "/data/");
    for round in 0..5 {
        let (said, threads, smaps) = at_work(&inside);
        assert!(said == outside, "{program}, round {round}: the output is another one");
        assert!(threads > 2, "{program}: {threads} threads");
        let (segment, other) = text(&smaps);
        assert!(segment > 200 << 10 && other == 0, "{program}: {segment} in the segment, {other} elsewhere\n{smaps}");
    }
}

#[test]
fn a_dynamic_go_program_searches_with_all_processors_in_place() {
    works_in_place("fzf --filter=a < ./lines");
}

#[test]
fn a_static_go_program_collects_its_garbage_in_place() {
    works_in_place("shfmt ./script");
}

#[test]
fn a_go_program_starts_others_from_whatever_thread_it_is_on() {
    let lines: String = (10..20).map(|n| format!("{n}\n")).collect();
    let script = "for ((n = 10; n < 20; n++)); do echo $n; done";
    for _ in 0..5 {
        // On a terminal it asks a shell for lines, by a fork that shares its memory.
        let (_master, terminal) = terminal();
        let mut command = image().command(&["fzf", "--no-sort", "--filter=1"]);
        let output =
            command.env("FZF_DEFAULT_COMMAND", script).env("SHELL", "/bin/bash").stdin(terminal).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said, lines, "{}", String::from_utf8_lossy(&output.stderr));
    }
}

fn terminal() -> (OwnedFd, OwnedFd) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let terminal = rustix::fs::open(name, flags, Mode::empty()).unwrap();
    (master, terminal)
}
