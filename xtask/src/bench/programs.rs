//! Programs: in place by `xip run`, and from the same tree on tmpfs in a chroot.

use super::bed::{Bed, SEGMENT};
use super::series::{Comparison, Contender, Goal, in_turns};
use crate::process::{command, output, run};
use anyhow::{Context, Result};
use std::fmt::Write;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Instant;

const OURS: &str = "xip run";
const THEIRS: &str = "tmpfs in a chroot";

/// Programs that do next to nothing, so that starting is what takes the time.
const STARTS: [(&str, &str); 4] =
    [("python3", "python3 -c pass"), ("bash", "bash -c :"), ("perl", "perl -e 1"), ("git", "git --version")];
/// How often each is started from a shell that is there already.
const TIMES: usize = 100;

/// Where both find the directory for the compiler's files.
const WORK: &str = "/mnt";
const STEADY: [(&str, &str); 2] = [
    ("gcc -O1, 5,000 lines of C", "gcc -O1 -c -o /mnt/bench.o /mnt/bench.c"),
    ("a Python loop", "python3 -c 'n = 0\nfor i in range(12_000_000): n += i * i % 7'"),
];

/// From outside: a shell starts `xip run`, or `chroot`; the set-up of the runner is part of the time.
pub(crate) fn whole_runs(bed: &Bed) -> Result<Vec<Comparison>> {
    let compare = |(name, line): (&str, &str)| {
        let words: Vec<_> = line.split(' ').collect();
        let whole = |contender, place: fn(&Bed) -> Command| -> Contender<'_> {
            let words = words.clone();
            let round = move || {
                let mut command = place(bed);
                command.args(&words).stdout(Stdio::null());
                let start = Instant::now();
                run(&mut command)?;
                Ok(start.elapsed().as_secs_f64())
            };
            (contender, Box::new(round))
        };
        let series = in_turns(31, vec![whole(OURS, in_place), whole(THEIRS, in_chroot)])?;
        Ok(Comparison { title: format!("One run, set-up of the runner included: {name}"), series, goal: None })
    };
    STARTS.into_iter().map(compare).collect()
}

/// Start-up: one of many starts by a shell that already runs there.
pub(crate) fn starts(bed: &Bed) -> Result<Vec<Comparison>> {
    let compare = |(name, line): (&str, &str)| {
        let script = format!("for ((i = 0; i < {TIMES}; i++)); do {line} > /dev/null; done");
        let title = format!("Start-up, from a running shell: {name}");
        in_shell(bed, title, &script, TIMES, 1.5, 11)
    };
    STARTS.into_iter().map(compare).collect()
}

/// Steady work, timed by a shell that already runs there.
pub(crate) fn steady(bed: &Bed) -> Result<Vec<Comparison>> {
    fs::write(bed.tree.join("mnt/bench.c"), c_source())?;
    STEADY.into_iter().map(|(name, line)| in_shell(bed, format!("Steady work: {name}"), line, 1, 1.03, 11)).collect()
}

fn in_shell(bed: &Bed, title: String, script: &str, times: usize, at_most: f64, rounds: usize) -> Result<Comparison> {
    let script = format!("start=$EPOCHREALTIME; {script} || exit; echo $start $EPOCHREALTIME");
    let inside = |contender, place: fn(&Bed) -> Command| -> Contender<'_> {
        let script = &script;
        let round = move || {
            let said = output(place(bed).args(["bash", "-c", script]))?;
            let clock = said.trim().split_once(' ').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
            let (start, end): (f64, f64) = clock.with_context(|| format!("the shell said `{said}`"))?;
            Ok((end - start) / times as f64)
        };
        (contender, Box::new(round))
    };
    let series = in_turns(rounds, vec![inside(OURS, in_place), inside(THEIRS, in_chroot)])?;
    Ok(Comparison { title, series, goal: Some(Goal { against: THEIRS.into(), at_most }) })
}

fn in_place(bed: &Bed) -> Command {
    let mut bind = bed.tree.join("mnt").into_os_string();
    bind.push(":");
    bind.push(WORK);
    let mut xip = bed.xip();
    xip.args(["run", "--bind"]).arg(bind).args([SEGMENT, "--"]);
    environment(xip)
}

fn in_chroot(bed: &Bed) -> Command {
    let mut chroot = command("chroot");
    chroot.arg(&bed.tree);
    environment(chroot)
}

fn environment(mut command: Command) -> Command {
    command.env("PATH", "/usr/bin:/bin").env("LC_ALL", "C").env("HOME", "/tmp");
    command
}

/// 5,000 lines of C, which is 1,000 functions that call each other.
fn c_source() -> String {
    let mut source = String::new();
    for i in 0..1000 {
        let called = if i == 0 { "(unsigned)" } else { &format!("f{}", i - 1) };
        let _ = write!(
            source,
            "unsigned f{i}(unsigned x)\n{{\n    for (unsigned i = 0; i < x % {}; i++) x = x * {} + (x >> 3) + {called}(i);\n    \
             return x ^ {i};\n}}\n",
            i % 17 + 2,
            i * 2 + 1,
        );
    }
    source
}
