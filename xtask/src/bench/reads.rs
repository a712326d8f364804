//! The library inside one process. The crate `bench` does the work, since it must be in that process: here it is given
//! the places, and its rounds are taken.

use super::bed::{Bed, SEGMENT};
use super::series::{Comparison, Goal, Series};
use crate::process::{cargo, command, output};
use anyhow::{Context, Result};

pub(crate) fn compare(bed: &mut Bed) -> Result<Vec<Comparison>> {
    let image = bed.image.clone();
    let on_loop = bed.mount("loop", |point| {
        let mut mount = command("mount");
        mount.args(["-t", "ext4", "-o", "loop,ro"]).args([image.as_path(), point]);
        mount
    })?;
    let on_fuse2fs = bed.mount("fuse2fs", |point| {
        let mut fuse2fs = command("fuse2fs");
        fuse2fs.args(["-o", "ro"]).args([image.as_path(), point]);
        fuse2fs
    })?;
    let mut bench = cargo();
    bench.args(["run", "--release", "--manifest-path", "bench/Cargo.toml", "--"]);
    bench.env("CARGO_TARGET_DIR", crate::target().join("bench"));
    bench.arg(bed.segments()).arg(SEGMENT).args([&bed.tree, &on_loop, &on_fuse2fs]);
    parse(&output(&mut bench)?)
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
