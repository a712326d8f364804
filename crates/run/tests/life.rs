//! A run from outside: exit status, signals, terminal, surroundings, and what is left of it afterwards.

mod common;

use common::{image, is_root, run, runner};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn exit_status_and_death_by_signal_are_told() {
    for status in [0, 1, 77, 255] {
        assert_eq!(image().run(&["bash", "-c", &format!("exit {status}")]).status.code(), Some(status));
    }
    // The example ends as a shell would tell it.
    assert_eq!(image().run(&["bash", "-c", "kill -TERM $$"]).status.code(), Some(128 + 15));
    assert_eq!(image().run(&["bash", "-c", "kill -KILL $$"]).status.code(), Some(128 + 9));
}

#[test]
fn what_is_not_there_or_cannot_be_executed_is_named() {
    let complaint = |arguments: &[&str]| {
        let output = image().run(arguments);
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(complaint(&["no-such-program"]).contains("NotFound"));
    assert!(complaint(&["/data/dense"]).contains("NotExecutable"));
    assert!(complaint(&["/bin"]).contains("NotExecutable"));
    assert!(complaint(&["-b/nowhere:/x", "true"]).contains("/nowhere"));
}

#[test]
fn processes_left_by_the_program_are_ended() {
    let mut child = start(&["bash", "-c", "sleep 4711 & echo $!; exit 5"]);
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(5));
    let pid: i32 = line.trim().parse().unwrap();
    assert!(!fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|text| text.contains("4711")));
}

/// The runner itself, with its output to read.
fn start(arguments: &[&str]) -> Child {
    let mut command = Command::new(runner());
    command.arg(image().path()).args(arguments).env("LC_ALL", "C");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}

#[test]
fn signals_to_the_runner_reach_the_program() {
    for (name, signal) in [("TERM", Signal::TERM), ("HUP", Signal::HUP), ("USR1", Signal::USR1), ("INT", Signal::INT)] {
        let script = format!("trap 'echo got; exit 9' {name}; echo ready; while :; do sleep 0.05; done");
        let mut child = start(&["bash", "-c", &script]);
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        kill_process(pid(&child), signal).unwrap();
        line.clear();
        output.read_line(&mut line).unwrap();
        assert_eq!((line.as_str(), child.wait().unwrap().code()), ("got\n", Some(9)), "{name}");
    }
}

/// Also where it was just having the kernel let go of what was read, which waits for requests under way: before only pages were asked
/// for that had been filled, seven of eight never ended.
#[test]
fn a_runner_whose_programs_read_all_the_time_ends_when_it_is_killed() {
    for round in 0..12 {
        let mut command = Command::new(runner());
        command.arg(image().path()).args(["/bin/processes-static", "readers"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(200 + 37 * round));
        assert!(child.try_wait().unwrap().is_none(), "it reads until it is killed");
        child.kill().unwrap();
        let since = Instant::now();
        while child.try_wait().unwrap().is_none() {
            assert!(since.elapsed() < Duration::from_secs(20), "round {round}: process {} cannot end", child.id());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn when_the_runner_is_killed_nothing_is_left() {
    for flag in ["-r", "-o"] {
        let script = "sleep 4712 & (sleep 4712; :) & echo ready; wait";
        let mut child = start(&[flag, "bash", "-c", script]);
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let namespace = fs::read_link(format!("/proc/{}/ns/mnt", children(&child)[0])).unwrap();
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        // Killed, not yet gone: the end is near, and the test would never end if it were not. The mount was in this namespace
        // only, which goes with its last process.
        while processes().any(|pid| fs::read_link(format!("/proc/{pid}/ns/mnt")).is_ok_and(|ns| ns == namespace)) {
            std::thread::yield_now();
        }
    }
}

#[test]
fn through_the_page_cache_too_nothing_is_left_at_the_end() {
    // It waits for what never comes, and needs nothing of the mount for that.
    let script = "ls -l /proc/$$/ns/user; exec 4<&0; { trap '' HUP TERM; read line <&4; } & exit 5";
    // Into a file: what is left would keep a pipe open.
    let mut file = tempfile::tempfile().unwrap();
    let mut command = image().command(&["-c", "bash", "-c", script]);
    command.stdin(Stdio::piped()).stdout(file.try_clone().unwrap()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let never = child.stdin.take();
    let status = child.wait().unwrap();
    file.rewind().unwrap();
    let mut said = String::new();
    file.read_to_string(&mut said).unwrap();
    assert_eq!(status.code(), Some(5), "{said}");
    let name = said[said.find("user:[").unwrap_or_else(|| panic!("{said}"))..].trim();
    for pid in processes() {
        let namespace = fs::read_link(format!("/proc/{pid}/ns/user")).unwrap_or_default();
        // A dead one that nobody has waited for yet has no program any more.
        let program = fs::read_link(format!("/proc/{pid}/exe"));
        assert!(namespace != Path::new(name) || program.is_err(), "{pid} is left: {program:?}");
    }
    drop(never);
}

fn processes() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

fn children(parent: &Child) -> Vec<i32> {
    let of = |pid: i32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().any(|line| line == format!("PPid:\t{}", parent.id()))
    };
    processes().filter(|&pid| of(pid)).collect()
}

/// Waits until a process with these arguments is there. A key that is pressed between a shell's `fork` and the program's
/// `exec` would be the shell's to handle, in place or not.
fn wait_for_program(arguments: &str) {
    let line = arguments.replace(' ', "\0") + "\0";
    let there = |pid: i32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|found| found == line.as_bytes());
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !processes().any(there) {
        assert!(std::time::Instant::now() < end, "{arguments} was never started");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// A host's shell with job control on a terminal of its own.
struct Terminal {
    shell: Child,
    keyboard: fs::File,
    screen: std::sync::mpsc::Receiver<Vec<u8>>,
    seen: String,
}

impl Terminal {
    fn new() -> Self {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let mut command = Command::new("setsid");
        let script = format!("exec <>{name} >&0 2>&0; exec bash --norc --noprofile -i");
        command.args(["-w", "sh", "-c", &script]).env("PS1", "> ").env("LC_ALL", "C").env("TERM", "dumb");
        let shell = command.process_group(0).spawn().unwrap();
        let keyboard = fs::File::from(master);
        let mut reader = keyboard.try_clone().unwrap();
        let (sender, screen) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut bytes) {
                if sender.send(bytes[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self { shell, keyboard, screen, seen: String::new() }
    }

    fn types(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).unwrap();
    }

    /// Waits until `text` is on the screen; what is before it is forgotten.
    fn shows(&mut self, text: &str) {
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return;
            }
            let more = self.screen.recv_timeout(std::time::Duration::from_secs(60));
            let more = more.unwrap_or_else(|_| panic!("waited for {text:?}, saw {:?}", self.seen));
            self.seen += &String::from_utf8_lossy(&more);
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

#[test]
fn ctrl_c_ends_the_program_and_ctrl_z_and_fg_stop_and_continue_it() {
    let mut terminal = Terminal::new();
    let xip = format!("{} {}", runner().display(), image().path().display());
    terminal.types(&format!("{xip} bash -c 'echo be\"gin\"; read line; echo \"got $line\"; exit 3'\n"));
    terminal.shows("begin");
    terminal.types("\x1a");
    terminal.shows("Stopped");
    terminal.types("echo the shell is $((40+2))\n");
    terminal.shows("the shell is 42");
    terminal.types("fg\n");
    terminal.shows("bash -c");
    terminal.types("hello\n");
    terminal.shows("got hello");
    terminal.types("echo status $?\n");
    terminal.shows("status 3");
    terminal.types(&format!("{xip} bash -c 'echo be\"gin\"; exec sleep 4713'\n"));
    terminal.shows("begin");
    wait_for_program("sleep 4713");
    terminal.types("\x03");
    terminal.types("echo status $?\n");
    terminal.shows("status 130");
    // The program decides: this one goes on.
    terminal.types(&format!(
        "{xip} bash -c 'trap \"echo not yet\" INT; (echo be\"gin\"; exec sleep 4714); echo past; exit 4'\n"
    ));
    terminal.shows("begin");
    wait_for_program("sleep 4714");
    terminal.types("\x03");
    terminal.shows("not yet");
    terminal.shows("past");
    terminal.types("echo status $?\n");
    terminal.shows("status 4");
    terminal.types("exit\n");
}

#[test]
fn a_shell_with_job_control_runs_inside() {
    let mut terminal = Terminal::new();
    let xip = format!("{} {}", runner().display(), image().path().display());
    terminal.types(&format!("{xip} bash --norc --noprofile -i\n"));
    terminal.types("echo in$((1+1))side\n");
    terminal.shows("in2side");
    terminal.types("sh -c 'echo be\"gin\"; sleep 4715; :'\n");
    terminal.shows("begin");
    wait_for_program("sleep 4715");
    terminal.types("\x1a");
    terminal.shows("Stopped");
    terminal.types("bg; jobs; kill %1; wait; echo al$((1+1))one\n");
    terminal.shows("Running");
    terminal.shows("al2one");
    terminal.types("exit\n");
    terminal.types("echo status $?\n");
    terminal.shows("status 0");
    terminal.types("exit\n");
}

#[test]
fn the_surroundings_are_there() {
    let script = "for d in /proc/self /dev/null /sys/kernel /tmp; do [ -e $d ] || echo no $d; done; \
        echo x > /tmp/x && cat /tmp/x; pwd; echo $NAME; : 2>/dev/null > /new || echo read-only";
    assert_eq!(image().says(&["env", "NAME=value", "bash", "-c", script]), "x\n/\nvalue\nread-only\n");
}

#[test]
fn binds_show_the_host_where_the_image_has_nothing() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("file"), "from the host\n").unwrap();
    let host = directory.path().to_str().unwrap();
    let says = |bind: &str, script: &str| image().says(&[&format!("-b{host}{bind}"), "bash", "-c", script]);
    assert_eq!(says(":/new/place", "cat /new/place/file"), "from the host\n");
    assert_eq!(says("/file:/etc/one", "cat /etc/one"), "from the host\n");
    assert_eq!(says(":/tmp/a/b", "cat /tmp/a/b/file; echo more >> /tmp/a/b/file"), "from the host\n");
    assert_eq!(fs::read_to_string(directory.path().join("file")).unwrap(), "from the host\nmore\n");
    let script = "{ echo more >> /mnt/file; } 2>/dev/null || echo refused";
    assert_eq!(says(":/mnt:ro", script), "refused\n");
}

#[test]
fn an_overlay_takes_changes_and_forgets_them() {
    let script = "echo changed > /data/dense; cat /data/dense; echo new > /data/new; cat /data/new";
    assert_eq!(image().says(&["-o", "bash", "-c", script]), "changed\nnew\n");
    assert_eq!(image().says(&["-o", "/bin/traps", "content"]), "ok\n");
    // A copy that the overlay made is mapped as it is, and counted.
    let script = "cat /bin/cached > /tmp/c; : >> /bin/cached; echo >> /bin/cached; /bin/cached";
    assert_eq!(image().says(&["-o", "bash", "-c", script]), "0 0\n");
    let report = image().report(&["-o", "bash", "-c", script]);
    let left = &report["files"]["/bin/cached"];
    assert!(left["not_in_place"]["copied_up"].as_u64() > Some(0) && left["bytes_in_place"] == 0, "{left}");
}

#[test]
fn an_ordinary_user_can_do_it() {
    if !is_root() {
        return; // Then all tests here are this one.
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    // In a mount namespace of its own /dev/fuse is made open to all, as distributions have it.
    let script = "set -e; cp \"$1\" \"$2\" .; chmod 755 . run; chmod 644 image; mknod fuse c 10 229; chmod 666 fuse; \
        mount --bind fuse /dev/fuse; dir=$PWD; cd /; \
        exec setpriv --reuid 65534 --regid 65534 --clear-groups \"$dir/run\" \"$dir/image\" -r \
        bash -c 'echo $UID; cat /proc/self/uid_map; traps content'";
    let mut command = Command::new("unshare");
    command.args(["-m", "bash", "-c", script, "bash"]).arg(runner()).arg(image().path()).current_dir(path);
    let output = command.env("LC_ALL", "C").output().unwrap();
    let (said, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{complaint}");
    assert_eq!(said.split_whitespace().collect::<Vec<_>>(), ["0", "0", "65534", "1", "ok"]);
    assert!(complaint.contains("/data/dense"), "{complaint}");
    run(Command::new("true").current_dir(path));
}

#[test]
fn what_is_missing_is_found_before_anything_is_started() {
    assert!(xip_run::prerequisites(false).is_empty() && xip_run::prerequisites(true).is_empty());
    if !is_root() {
        return;
    }
    // The example has no command for it; an ordinary user with a closed /dev/fuse is told what to do.
    let directory = tempfile::tempdir().unwrap();
    let script = "cp \"$1\" \"$2\" .; chmod 755 . run; chmod 644 image; mknod fuse c 10 229; chmod 600 fuse; \
        mount --bind fuse /dev/fuse; setpriv --reuid 65534 --regid 65534 --clear-groups ./run ./image true";
    let mut command = Command::new("unshare");
    // The limit is that of a user namespace of the test's own.
    command.args([
        "-m",
        "-U",
        "-r",
        "bash",
        "-c",
        "echo 0 > /proc/sys/user/max_user_namespaces; \"$1\" \"$2\" true",
        "bash",
    ]);
    let output = command.arg(runner()).arg(image().path()).output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(complaint.contains("sysctl user.max_user_namespaces"), "{complaint}");
    let mut command = Command::new("unshare");
    command.args(["-m", "bash", "-c", script, "bash"]).arg(runner()).arg(image().path()).current_dir(directory.path());
    let complaint = String::from_utf8_lossy(&command.output().unwrap().stderr).into_owned();
    assert!(complaint.contains("chmod 666 /dev/fuse"), "{complaint}");
}

#[test]
fn two_runs_at_once() {
    let mut first = start(&["bash", "-c", "read line; echo $line"]);
    assert_eq!(image().says(&["/bin/traps", "content"]), "ok\n");
    first.stdin.take().unwrap().write_all(b"still here\n").unwrap();
    let mut said = String::new();
    first.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((said.as_str(), first.wait().unwrap().code()), ("still here\n", Some(0)));
}
