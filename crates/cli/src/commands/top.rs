//! `xip top`: who shares which segment, again and again: on a terminal as a screen of its own, otherwise as text.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use signal_hook::consts::{SIGINT, SIGWINCH};
use xip_segment::stat::Role;
use xip_segment::{Stat, Store};

use super::{segments, stat};
use crate::failure::Failure;
use crate::output::{Output, Paint, count, size};
use crate::signals::Waiting;

const HELP: &str = "\
On a terminal it is a screen of its own, which `q` or Ctrl-C leaves. With --count, --once or --json, and where the output is no \
terminal, each look is printed as it is made. The figures are those of `xip stat`; what has most in place is on top.\n\n\
Examples:
  xip top
  xip top --interval 0.5
  xip top --once
  xip top --count 10 --json | jq '.[].saved'";

/// Show who shares which segment, and what that saves, as it changes
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// Look again after so many seconds
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = parse_interval)]
    interval: Duration,

    /// Print so many looks and end
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    /// Print one look and end: as `--count 1`
    #[arg(long, conflicts_with = "count")]
    once: bool,

    /// Print each look as JSON, on a line
    #[arg(long)]
    json: bool,
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds such as 2 or 0.5".to_owned())?;
    if !(0.1..=86400.0).contains(&seconds) {
        return Err("from 0.1 to 86400 seconds".into());
    }
    Ok(Duration::from_secs_f64(seconds))
}

impl Args {
    pub(crate) fn run(self, output: Output) -> Result<(), Failure> {
        let store = segments::store()?;
        let looks = if self.once { Some(1) } else { self.count };
        // A terminal that takes no colours may not take the other sequences either.
        let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        if looks.is_none() && !self.json && !dumb && io::stdout().is_terminal() {
            return self.watch(&store, output);
        }
        let mut done = 0;
        loop {
            let start = Instant::now();
            let look = Look::take(&store)?;
            if self.json {
                look.warn();
                output.line(serde_json::to_string(&look.memories)?)?;
            } else {
                let between = if done > 0 { "\n" } else { "" };
                output.bytes(format!("{between}{}", text(&look.lines(), output.paint)).as_bytes())?;
            }
            done += 1;
            if looks == Some(done) {
                return Ok(());
            }
            std::thread::sleep(self.interval.saturating_sub(start.elapsed()));
        }
    }

    /// The screen, until someone has enough of it.
    fn watch(&self, store: &Store, output: Output) -> Result<(), Failure> {
        let signals = Waiting::begin()?;
        signals.also(SIGWINCH)?;
        let screen = Screen::enter(output)?;
        loop {
            let next = Instant::now() + self.interval;
            let lines = Look::take(store)?.lines();
            loop {
                screen.draw(&lines, output)?;
                match screen.wait(&signals, next)? {
                    Event::Resized => {}
                    Event::Time => break,
                    Event::Enough => return Ok(()),
                    // Ended by it when the terminal is what it was.
                    Event::Signal(signal) => return Err(Failure::silent().by_signal(signal)),
                }
            }
        }
    }
}

/// A segment, by all the names that its memory has.
#[derive(serde::Serialize)]
struct Memory {
    names: Vec<String>,
    #[serde(flatten)]
    stat: Stat,
}

impl Memory {
    fn in_place(&self) -> u64 {
        self.stat.sharers().map(|mapper| mapper.in_place).sum()
    }
}

/// All there is to see at one time.
struct Look {
    memories: Vec<Memory>,
    /// What could not be looked at, and that there is nothing.
    words: Vec<String>,
}

/// A line of what is shown, without colours, so that it can be cut.
struct Line {
    text: String,
    bold: bool,
}

impl Look {
    fn take(store: &Store) -> Result<Self, Failure> {
        let listing = store.list()?;
        let mut words: Vec<String> = listing.problems.iter().map(|problem| format!("warning: {problem}")).collect();
        let mut memories: Vec<((u64, u64), Memory)> = Vec::new();
        for segment in &listing.segments {
            match memories.iter_mut().find(|(id, _)| *id == segment.id()) {
                Some((_, memory)) => memory.names.push(segment.name().to_owned()),
                None => match segment.stat() {
                    Ok(stat) => memories.push((segment.id(), Memory { names: vec![segment.name().to_owned()], stat })),
                    Err(error) => words.push(format!("warning: {error}")),
                },
            }
        }
        if memories.is_empty() {
            words.push(format!("no segments in {}", store.path().display()));
        }
        let mut memories: Vec<Memory> = memories.into_iter().map(|(_, memory)| memory).collect();
        memories.sort_by_key(|memory| std::cmp::Reverse(memory.in_place()));
        for Memory { stat, .. } in &mut memories {
            stat.processes.sort_by_key(|mapper| (mapper.user.role == Role::Serves, std::cmp::Reverse(mapper.in_place)));
        }
        Ok(Look { memories, words })
    }

    /// Where the result has no place for words.
    fn warn(&self) {
        for words in &self.words {
            let _ = writeln!(io::stderr(), "{words}");
        }
    }

    fn lines(&self) -> Vec<Line> {
        let plain = |text| Line { text, bold: false };
        let sum = |of: fn(&Memory) -> u64| self.memories.iter().map(of).sum::<u64>();
        let pids = |role: Role| {
            let mappers = self.memories.iter().flat_map(|memory| &memory.stat.processes);
            let pids: BTreeSet<u32> = mappers.filter(|m| m.user.role == role).map(|m| m.user.pid).collect();
            pids.len() as u64
        };
        let not_seen = self.memories.iter().map(|memory| memory.stat.not_visible).max().unwrap_or(0);
        let mut first = format!(
            "{}: {} resident, {} and {}, {} in place, {} saved",
            count(self.memories.len() as u64, "segment", "segments"),
            size(sum(|memory| memory.stat.resident)),
            count(pids(Role::Uses), "program", "programs"),
            count(pids(Role::Guest), "guest", "guests"),
            size(sum(Memory::in_place)),
            size(sum(|memory| memory.stat.saved)),
        );
        if not_seen > 0 {
            first += &format!("; {} of others not seen", count(not_seen, "process", "processes"));
        }
        let mut lines = vec![Line { text: first, bold: true }];
        lines.extend(self.words.iter().cloned().map(plain));
        for memory in &self.memories {
            lines.push(plain(String::new()));
            lines.extend(memory.lines());
        }
        lines
    }
}

impl Memory {
    fn lines(&self) -> Vec<Line> {
        let plain = |text| Line { text, bold: false };
        let stat = &self.stat;
        let copied = stat.sharers().map(|mapper| mapper.copied).sum();
        let replaced = if stat.info.replaced { ", replaced by a newer generation" } else { "" };
        let mut lines = vec![Line {
            text: format!(
                "{}: {} of {} resident, {} in place, {} saved, {} in private copies{replaced}",
                self.names.join(", "),
                size(stat.resident),
                size(stat.info.size),
                size(self.in_place()),
                size(stat.saved),
                size(copied),
            ),
            bold: true,
        }];
        if stat.processes.is_empty() {
            lines.push(plain("  nobody maps it now".into()));
            return lines;
        }
        // By most first: where a line is cut, what is least shared goes.
        let shared = stat.shared.iter().rev();
        let shared: Vec<String> =
            shared.map(|shared| format!("{} by {}", size(shared.bytes), shared.processes)).collect();
        if !shared.is_empty() {
            lines.push(plain(format!("  mapped: {}", shared.join(", "))));
        }
        lines.extend(stat::processes(stat).text(Paint::none()).lines().map(|line| plain(format!("  {line}"))));
        lines
    }
}

fn text(lines: &[Line], paint: Paint) -> String {
    lines.iter().map(|line| if line.bold { paint.bold(&line.text) } else { line.text.clone() } + "\n").collect()
}

/// What fits on a screen: cut at the right and at the end, where it says so.
fn fit(lines: &[Line], rows: usize, columns: usize) -> Vec<Line> {
    let cut = |line: &Line| Line { text: line.text.chars().take(columns).collect(), bold: line.bold };
    if lines.len() <= rows {
        return lines.iter().map(cut).collect();
    }
    let shown = rows.saturating_sub(1);
    let rest = Line { text: format!("... {} lines more", lines.len() - shown), bold: false };
    lines[..shown].iter().chain([&rest]).take(rows).map(cut).collect()
}

/// What happens while the screen is shown.
enum Event {
    Time,
    Resized,
    Enough,
    Signal(i32),
}

/// The terminal, taken: another screen than that of the shell, and keys that are read at once. It is given back when dropped.
struct Screen {
    output: Output,
    /// As it was before, if the keys come from a terminal.
    keys: Option<Termios>,
}

impl Screen {
    fn enter(output: Output) -> Result<Self, Failure> {
        let keys = io::stdin().is_terminal().then(|| tcgetattr(io::stdin())).transpose()?;
        if let Some(before) = &keys {
            let mut now = before.clone();
            now.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
            // A read does not wait: Ctrl-C throws away what was typed and not read, after it was seen to be there.
            now.special_codes[SpecialCodeIndex::VMIN] = 0;
            now.special_codes[SpecialCodeIndex::VTIME] = 0;
            // Stopped, it would leave the terminal to the shell like this.
            now.special_codes[SpecialCodeIndex::VSUSP] = 0;
            tcsetattr(io::stdin(), OptionalActions::Now, &now)?;
        }
        let screen = Screen { output, keys };
        // The other screen, no cursor, no second line for what is too long.
        output.bytes(b"\x1b[?1049h\x1b[?25l\x1b[?7l")?;
        Ok(screen)
    }

    fn draw(&self, lines: &[Line], output: Output) -> Result<(), Failure> {
        let window = tcgetwinsize(io::stdout()).map(|window| (window.ws_row.into(), window.ws_col.into()));
        let (rows, columns) = window.ok().filter(|&(rows, columns)| rows > 0 && columns > 0).unwrap_or((24, 80));
        let mut frame = "\x1b[H".to_owned();
        let shown = fit(lines, rows, columns);
        for (at, line) in text(&shown, output.paint).lines().enumerate() {
            // No end of a line after the last one: the screen would roll.
            frame += &format!("{}{line}\x1b[K", if at > 0 { "\r\n" } else { "" });
        }
        output.bytes((frame + "\x1b[J").as_bytes())
    }

    fn wait(&self, signals: &Waiting, until: Instant) -> Result<Event, Failure> {
        let stdin = io::stdin();
        let keys: Option<BorrowedFd<'_>> = self.keys.is_some().then(|| stdin.as_fd());
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Event::Time);
            }
            let mut waiting = vec![PollFd::from_borrowed_fd(signals.fd(), PollFlags::IN)];
            waiting.extend(keys.map(|keys| PollFd::from_borrowed_fd(keys, PollFlags::IN)));
            match poll(&mut waiting, Some(&Timespec::try_from(left)?)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            let came: Vec<PollFlags> = waiting.iter().map(PollFd::revents).collect();
            if !came[0].is_empty() {
                return Ok(match signals.now() {
                    None => Event::Resized,
                    Some(SIGINT) => Event::Enough,
                    Some(signal) => Event::Signal(signal),
                });
            }
            if let (Some(keys), Some(came)) = (keys, came.get(1).filter(|came| !came.is_empty())) {
                let mut typed = [0; 64];
                match rustix::io::read(keys, &mut typed) {
                    Ok(0) if came.contains(PollFlags::HUP) => return Ok(Event::Enough),
                    Ok(len) if typed[..len].iter().any(|key| matches!(key, b'q' | b'Q')) => return Ok(Event::Enough),
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // If the terminal is gone, there is nothing to give back.
        let _ = self.output.bytes(b"\x1b[?7h\x1b[?25h\x1b[?1049l");
        let _ = io::stdout().flush();
        if let Some(before) = &self.keys {
            let _ = tcsetattr(io::stdin(), OptionalActions::Flush, before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_on_the_screen_is_cut_and_counted() {
        let lines: Vec<Line> = (0..5).map(|n| Line { text: format!("{n}äöü"), bold: n == 0 }).collect();
        let shown = |rows, columns| fit(&lines, rows, columns).into_iter().map(|line| line.text).collect::<Vec<_>>();
        assert_eq!(shown(9, 9), ["0äöü", "1äöü", "2äöü", "3äöü", "4äöü"]);
        assert_eq!(shown(5, 2), ["0ä", "1ä", "2ä", "3ä", "4ä"]);
        assert_eq!(shown(3, 80), ["0äöü", "1äöü", "... 3 lines more"]);
        assert_eq!(shown(1, 5), ["... 5"]);
    }

    #[test]
    fn an_interval_is_seconds_and_no_busy_loop() {
        assert_eq!(parse_interval("0.5"), Ok(Duration::from_millis(500)));
        for bad in ["0", "-1", "0.01", "nan", "inf", "1e9", "2s", ""] {
            assert!(parse_interval(bad).is_err(), "{bad}");
        }
    }
}
