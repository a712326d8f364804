//! The first output of a program in a guest: from the start of `xip vm run` to the first byte, with the segment in place and as a disk.

use super::bed::{Bed, SEGMENT};
use super::series::{Comparison, Contender, Goal, in_turns};
use crate::process::output;
use anyhow::{Result, ensure};
use std::io::Read;
use std::process::Stdio;
use std::time::Instant;

const OURS: &str = "in place";
const THEIRS: &str = "virtio-blk";
const PROGRAMS: [(&str, &[&str]); 2] =
    [("bash", &["bash", "-c", "echo 1"]), ("python3", &["python3", "-c", "import json, re; print(1)"])];

pub(crate) fn first_output(bed: &Bed) -> Result<Vec<Comparison>> {
    output(bed.xip().args(["vm", "kernel"]))?;
    let compare = |(name, program): (&str, &'static [&'static str])| {
        let guest = |contender, options: &'static [&'static str]| -> Contender<'_> {
            (contender, Box::new(move || first_byte(bed, options, program)))
        };
        let series = in_turns(5, vec![guest(OURS, &[]), guest(THEIRS, &["--page-cache"])])?;
        let title = format!("A guest's first output, from the start: {name}");
        Ok(Comparison { title, series, goal: Some(Goal { against: THEIRS.into(), at_most: 1.1 }) })
    };
    PROGRAMS.into_iter().map(compare).collect()
}

fn first_byte(bed: &Bed, options: &[&str], program: &[&str]) -> Result<f64> {
    let mut command = bed.xip();
    command.args(["vm", "run"]).args(options).args([SEGMENT, "--"]).args(program);
    let start = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut first = [0];
    let read = child.stdout.as_mut().map(|out| out.read_exact(&mut first));
    let seconds = start.elapsed().as_secs_f64();
    let status = child.wait()?;
    ensure!(status.success() && matches!(read, Some(Ok(()))), "a guest ended with {status}");
    Ok(seconds)
}
