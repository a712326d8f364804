//! `xip top`: on a terminal, which is what it was afterwards however it ends, and where there is none.

mod common;

use common::{Place, Ran, text};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// One who has the segment and answers, without FUSE.
struct Reader(Child);

impl Reader {
    fn start(place: &Place) -> Self {
        let mut reader = place.xip(["demo", "--reader", "small"]);
        let mut reader = reader.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        reader.stdin.as_mut().unwrap().write_all(b"/etc\n").unwrap();
        let mut line = String::new();
        BufReader::new(reader.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "9\n", "the bytes of /etc/motd");
        Self(reader)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn loaded() -> Place {
    let place = Place::new();
    place.run(["load", text(&place.image())]).succeeds();
    place
}

/// A terminal with `xip top` on it.
struct Terminal {
    master: File,
    slave: File,
    top: Child,
    seen: String,
}

impl Terminal {
    fn start(place: &Place) -> Self {
        let master: OwnedFd = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let slave = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let slave = File::options().read(true).write(true).open(slave).unwrap();
        let xip = place.xip(["top", "--interval", "0.2"]);
        // Its own session, with this as its terminal, so that Ctrl-C and a change of size arrive.
        let mut setsid = Command::new("setsid");
        setsid.arg("--ctty").arg(xip.get_program()).args(xip.get_args()).env("XIP_DIR", place.path("segments"));
        setsid.env("TERM", "xterm").env_remove("NO_COLOR");
        let terminal = || slave.try_clone().unwrap();
        setsid.stdin(terminal()).stdout(terminal()).stderr(terminal());
        let it = |top, slave| Self { master: master.into(), slave, top, seen: String::new() };
        let terminal = it(setsid.spawn().unwrap(), terminal());
        terminal.size(40, 200);
        terminal
    }

    fn size(&self, rows: u16, columns: u16) {
        tcsetwinsize(&self.master, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    }

    /// Reads what is shown until `done` with the last whole picture, which is returned.
    fn picture(&mut self, what: &str, done: impl Fn(&str) -> bool) -> String {
        let start = Instant::now();
        loop {
            let pictures = self.seen.rsplit("\x1b[H").filter_map(|rest| rest.split_once("\x1b[J"));
            if let Some((picture, _)) = { pictures }.next().filter(|(picture, _)| done(picture)) {
                return picture.replace('\r', "").replace("\x1b[1m", "").replace("\x1b[0m", "").replace("\x1b[K", "");
            }
            assert!(start.elapsed() < Duration::from_secs(60), "{what} is not shown: {}", self.seen);
            self.read();
        }
    }

    fn read(&mut self) {
        let mut ready = [PollFd::new(&self.master, PollFlags::IN)];
        poll(&mut ready, Some(&Timespec { tv_sec: 0, tv_nsec: 100_000_000 })).unwrap();
        if !ready[0].revents().is_empty() {
            let mut bytes = [0; 64 << 10];
            let len = self.master.read(&mut bytes).unwrap();
            self.seen += &String::from_utf8_lossy(&bytes[..len]);
        }
    }

    fn local_modes(&self) -> LocalModes {
        tcgetattr(&self.slave).unwrap().local_modes
    }

    /// Waits for its end, which leaves the terminal as it was.
    fn ended(&mut self, before: LocalModes) -> std::process::ExitStatus {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.top.try_wait().unwrap() {
                break status;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "it goes on");
            self.read();
        };
        for _ in 0..5 {
            self.read();
        }
        assert!(self.seen.ends_with("\x1b[?7h\x1b[?25h\x1b[?1049l"), "{:?}", self.seen);
        assert_eq!(self.local_modes(), before);
        status
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.top.kill();
        let _ = self.top.wait();
    }
}

#[test]
fn on_a_terminal_it_shows_what_changes_and_fits_the_window() {
    let place = loaded();
    let first = Reader::start(&place);
    let mut terminal = Terminal::start(&place);
    let row = |reader: &Reader| format!(" {} ", reader.0.id());
    let picture = terminal.picture("the reader", |picture| picture.contains(&row(&first)));
    assert!(terminal.seen.starts_with("\x1b[?1049h"), "{:?}", terminal.seen);
    assert!(picture.starts_with("1 segment: ") && picture.contains("\nsmall: "), "{picture}");
    assert!(!terminal.local_modes().contains(LocalModes::ECHO));

    let second = Reader::start(&place);
    terminal.picture("another one", |picture| picture.contains(&row(&second)));
    drop(first);
    terminal.picture("that one is gone", |picture| {
        !picture.contains(" serves ") || picture.matches(" serves ").count() == 1
    });

    terminal.size(4, 30);
    let picture = terminal.picture("less of it", |picture| picture.contains("lines more"));
    let lines: Vec<&str> = picture.lines().collect();
    assert!(lines.len() == 4 && lines.iter().all(|line| line.chars().count() <= 30), "{picture}");
    assert_eq!(lines[0].chars().count(), 30, "the width is used");
    terminal.size(40, 200);
    terminal.picture("all of it", |picture| picture.contains(&row(&second)) && !picture.contains("lines more"));
}

#[test]
fn however_it_is_left_the_terminal_is_what_it_was() {
    let place = loaded();
    for end in ["q", "\x03", "TERM", "HUP"] {
        let mut terminal = Terminal::start(&place);
        let slave = &terminal.slave;
        // Of a terminal nobody has touched.
        let before = tcgetattr(slave).unwrap().local_modes | LocalModes::ICANON | LocalModes::ECHO;
        terminal.picture("the segment", |picture| picture.contains("nobody maps it now"));
        // Another key changes nothing.
        terminal.master.write_all(b"x\x1a").unwrap();
        let top = Pid::from_child(&terminal.top);
        match end {
            "TERM" => kill_process(top, Signal::TERM).unwrap(),
            "HUP" => kill_process(top, Signal::HUP).unwrap(),
            key => terminal.master.write_all(key.as_bytes()).unwrap(),
        }
        let status = terminal.ended(before);
        let expected = match end {
            "TERM" => (None, Some(15)),
            "HUP" => (None, Some(1)),
            _ => (Some(0), None),
        };
        assert_eq!((status.code(), status.signal()), expected, "{end:?}");
    }
}

#[test]
fn without_a_terminal_each_look_is_printed() {
    let place = Place::new();
    let ran = place.run(["top", "--once"]).succeeds();
    assert!(ran.out.starts_with("0 segments: 0 B resident") && ran.out.contains("no segments in "), "{}", ran.out);

    let image = place.image();
    place.run(["load", text(&image)]).succeeds();
    place.run(["load", text(&image), "--name", "base"]).succeeds();
    let reader = Reader::start(&place);
    let start = Instant::now();
    let ran = place.run(["top", "--count", "2", "--interval", "0.5"]).succeeds();
    assert!(start.elapsed() >= Duration::from_millis(500));
    assert_eq!((ran.err.as_str(), ran.out.contains('\x1b')), ("", false));
    // One memory is shown once, by both of its names.
    let looks: Vec<&str> = ran.out.split("1 segment: ").skip(1).collect();
    assert_eq!(looks.len(), 2, "{}", ran.out);
    for look in looks {
        assert!(look.contains("\nbase, small: ") && look.contains(&format!(" {} ", reader.0.id())), "{look}");
    }

    let ran = place.run(["top", "--json", "--count", "2", "--interval", "0.1"]).succeeds();
    let looks: Vec<serde_json::Value> = ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(looks.len(), 2);
    for look in looks {
        assert_eq!((&look[0]["names"], look.as_array().unwrap().len()), (&serde_json::json!(["base", "small"]), 1));
        assert_eq!(look[0]["processes"][0]["pid"], reader.0.id());
        let stat = place.run(["stat", "small", "--json"]).succeeds().json();
        assert_eq!((&look[0]["saved"], &look[0]["resident"]), (&stat["saved"], &stat["resident"]));
    }
}

#[test]
fn it_ends_when_nobody_reads_it() {
    let place = loaded();
    let mut top =
        place.xip(["top", "--interval", "0.1"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(top.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("1 segment: "), "{line}");
    let ran = Ran::from(top.wait_with_output().unwrap());
    assert_eq!((ran.output.status.code(), ran.err.as_str()), (Some(1), ""));
}
