//! What is measured inside one process: the library, and calls on mounts. The crate `bench` does the work, since it must be in
//! that process: here it is given the places, and its rounds are taken.

use super::bed::{Bed, SEGMENT};
use super::interrupt;
use super::series::{Comparison, Goal, Series};
use crate::process::{cargo, command, output, run};
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// Blocks of 4 KiB of the volume that is mounted to be written.
const BLOCKS: &str = "131072";

/// The library, from the segment, beside the tree on tmpfs and the image, mounted to be read.
pub(crate) fn reads(bed: &mut Bed) -> Result<Vec<Comparison>> {
    let image = bed.image.clone();
    let on_loop = bed.mount("loop", |_, point| by_loop(&image, point, "loop,ro"))?;
    let on_fuse2fs = bed.mount("fuse2fs", |_, point| by_fuse2fs(&image, point, "ro"))?;
    compare(bench().arg("reads").arg(bed.segments()).arg(SEGMENT).args([&bed.tree, &on_loop, &on_fuse2fs]))
}

/// The library by itself, in a new directory in memory: `what` is measured.
pub(crate) fn scratch(bed: &Bed, what: &str) -> Result<Vec<Comparison>> {
    let scratch = bed.path(what);
    fs::create_dir(&scratch)?;
    let compared = compare(bench().arg(what).arg(&scratch));
    fs::remove_dir_all(&scratch)?;
    compared
}

/// Copies of one image, mounted to be written by `xip mount`, by `fuse2fs` and by the kernel.
pub(crate) fn mounts(bed: &mut Bed) -> Result<Vec<Comparison>> {
    let [ours, of_fuse2fs, of_loop] = ["xip", "fuse2fs", "loop"].map(|name| bed.path(&format!("{name}.image")));
    run(command("mke2fs")
        .args(["-q", "-t", "ext2", "-b", "4096", "-I", "256"])
        .arg(&ours)
        .arg(BLOCKS)
        .stderr(Stdio::null()))?;
    for copy in [&of_fuse2fs, &of_loop] {
        run(command("cp").arg("--sparse=always").args([&ours, copy]))?;
    }
    let by_xip = |bed: &Bed, point: &Path| {
        let mut mount = bed.xip();
        mount.arg("mount").args([&ours, point]);
        mount
    };
    let points = [
        bed.mount("rw-xip", by_xip)?,
        bed.mount("rw-fuse2fs", |_, point| by_fuse2fs(&of_fuse2fs, point, "rw"))?,
        bed.mount("rw-loop", |_, point| by_loop(&of_loop, point, "loop,rw"))?,
    ];
    compare(bench().arg("mounts").args(&points))
}

fn by_loop(image: &Path, point: &Path, options: &str) -> Command {
    let mut mount = command("mount");
    mount.args(["-t", "ext4", "-o", options]).args([image, point]);
    mount
}

fn by_fuse2fs(image: &Path, point: &Path, options: &str) -> Command {
    let mut fuse2fs = command("fuse2fs");
    fuse2fs.args(["-o", options]).args([image, point]);
    fuse2fs
}

fn bench() -> Command {
    let mut bench = cargo();
    bench.args(["run", "--release", "--manifest-path", "bench/Cargo.toml", "--"]);
    bench.env("CARGO_TARGET_DIR", crate::target().join("bench"));
    bench
}

fn compare(bench: &mut Command) -> Result<Vec<Comparison>> {
    let said = output(bench);
    interrupt::check()?;
    parse(&said?)
}

/// Lines of `title <tab> goal <tab> contender <tab> seconds seconds ...`, ours first; a goal is `most against`, or empty.
fn parse(lines: &str) -> Result<Vec<Comparison>> {
    let mut comparisons: Vec<Comparison> = Vec::new();
    for line in lines.lines() {
        let mut fields = line.split('\t');
        let mut field = || fields.next().with_context(|| format!("bench said `{line}`"));
        let (title, goal, name, rounds) = (field()?, field()?, field()?, field()?);
        let rounds = rounds.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        let series = Series { name: name.into(), rounds };
        match comparisons.last_mut() {
            Some(last) if last.title == title => last.series.push(series),
            _ => {
                let goal = goal
                    .split_once(' ')
                    .map(|(at_most, against)| anyhow::Ok(Goal { against: against.into(), at_most: at_most.parse()? }));
                comparisons.push(Comparison { title: title.into(), series: vec![series], goal: goal.transpose()? });
            }
        }
    }
    Ok(comparisons)
}
