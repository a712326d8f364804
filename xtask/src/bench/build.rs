//! Making an image of the Debian tree, ours and others'.

use super::bed::Bed;
use super::series::{Comparison, Contender, Goal, in_turns};
use crate::process::{command, run};
use anyhow::Result;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

const ROUNDS: usize = 11;

pub(crate) fn compare(bed: &Bed) -> Result<Comparison> {
    let (source, target) = (&bed.source, &bed.path("built"));
    // The others do not find out themselves what the tree needs: a quarter more than ours, and inodes enough.
    let blocks = &(fs::metadata(&bed.image)?.len() / 4096 * 5 / 4).to_string();
    let contenders = vec![
        maker("xip build", target, || {
            let mut xip = bed.xip();
            xip.arg("build").args([source, target]);
            xip
        }),
        maker("mke2fs -d", target, || {
            let mut mke2fs = command("mke2fs");
            mke2fs.args(["-q", "-t", "ext2", "-b", "4096", "-I", "256", "-d"]).args([source, target]).arg(blocks);
            mke2fs
        }),
        maker("mkfs.erofs, uncompressed", target, || {
            let mut erofs = command("mkfs.erofs");
            erofs.arg("--quiet").args([target, source]);
            erofs
        }),
        maker("genext2fs", target, || {
            let mut genext2fs = command("genext2fs");
            genext2fs.args(["-B", "4096", "-N", "20000", "-b", blocks, "-d"]).args([source, target]);
            genext2fs
        }),
        maker("cp -a", target, || {
            let mut cp = command("cp");
            cp.arg("-a").args([source, target]);
            cp
        }),
    ];
    Ok(Comparison {
        title: "Build: the Debian tree becomes an image".into(),
        series: in_turns(ROUNDS, contenders)?,
        goal: Some(Goal { against: "mke2fs -d".into(), at_most: 1.0 }),
    })
}

/// One that makes `target`; it is removed again, which is not timed.
fn maker<'a>(name: &'static str, target: &'a Path, command: impl Fn() -> Command + 'a) -> Contender<'a> {
    let round = move || {
        let mut command = command();
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let start = Instant::now();
        run(&mut command)?;
        let seconds = start.elapsed().as_secs_f64();
        if target.is_dir() {
            fs::remove_dir_all(target)?
        } else {
            fs::remove_file(target)?
        }
        Ok(seconds)
    };
    (name, Box::new(round))
}
