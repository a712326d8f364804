//! `xip demo`: this machine's own programs, built into an image, loaded once, executed in place eight at a time, and
//! measured by the kernel's own figures. Whatever happens, Ctrl-C too, everything is removed at the end.

mod figures;
mod measure;
mod programs;
mod reader;
mod running;
mod tree;

use std::env;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use serde_json::json;
use xip_image::Build;
use xip_segment::{Loaded, Segment, Store};

use crate::commands::{self, DemoArgs, segments};
use crate::failure::{Doing, Failure};
use crate::output::{Output, size};
use crate::progress::Progress;
use crate::signals::Interrupt;
use figures::Figures;
use programs::Program;
use running::Running;
use tree::Tree;

/// How many programs run at the same time.
const AT_ONCE: usize = 8;

pub(crate) fn show(args: &DemoArgs, output: Output) -> Result<ExitCode, Failure> {
    if let Some(segment) = &args.reader {
        return reader::answer(segment).map(|()| ExitCode::SUCCESS);
    }
    let interrupt = Interrupt::catch()?;
    // What is made on the way is removed when `play` returns, and only then do we end, by the signal if there was one.
    play(args, output, &interrupt).map(|()| ExitCode::SUCCESS).map_err(|failure| match interrupt.asked() {
        Some(signal) => Failure::new("interrupted; everything was removed").by_signal(signal),
        None => failure,
    })
}

fn play(args: &DemoArgs, output: Output, interrupt: &Interrupt) -> Result<(), Failure> {
    let say = |text: String| if args.json { Ok(()) } else { output.line(text) };
    let place = tempfile::tempdir().doing(|| "cannot make a temporary directory".into())?;

    let tree_path = place.path().join("tree");
    std::fs::create_dir(&tree_path)?;
    let mut tree = Tree::new(tree_path.clone()).doing(|| format!("cannot make {}", tree_path.display()))?;
    let (mut programs, missing) = programs::collect(&mut tree);
    let names: Vec<&str> = programs.iter().map(|program| program.name).collect();
    say(format!("copied    {} with all they need: {}", names.join(", "), size(tree.bytes)))?;
    for what in &missing {
        say(format!("left out  {what}"))?;
    }
    if programs.is_empty() {
        return Err(Failure::new("none of sh, python3, perl and git can be used").remedy("make room in TMPDIR"));
    }

    let image = place.path().join("demo.xip");
    build(&tree_path, &image, interrupt)?;
    say(format!("built     an image of {}", size(image.metadata()?.len())))?;

    let store = segments::store()?;
    // Removed at the end; the lease is for an end in which nothing can be removed.
    let store = if args.keep { store } else { store.temporary() };
    let name = format!("demo-{}", std::process::id());
    let Loaded { segment, lease: _lease, .. } = segments::load(&store, &image, Some(&name))?;
    let _removal = Removal { store: &store, name: &name, keep: args.keep };
    say(format!("loaded    it as segment {name}: from here on the image is in memory, once"))?;

    let obstacle = obstacle(&segment, &programs[0])?;
    if let Some(obstacle) = &obstacle {
        say(format!("missing   {obstacle}"))?;
        say("          so programs cannot run in place here; eight readers share the segment instead".into())?;
        programs = vec![reader::program(&name)?];
    }
    let figures = run(&segment, &programs, obstacle.is_none(), interrupt)?;

    if args.json {
        output.json(&json!({ "figures": figures, "left_out": missing, "obstacle": obstacle, "segment": name }))?;
    } else {
        output.line("")?;
        output.table(&figures.table())?;
        output.line("")?;
        output.line(figures.explanation())?;
        if args.keep {
            output.line(format!(
                "kept: try `xip run {name} -- {}`, and `xip rm {name}` at the end",
                programs[0].command[0]
            ))?;
        }
    }
    Ok(())
}

fn build(tree: &Path, image: &Path, interrupt: &Interrupt) -> Result<(), Failure> {
    let progress = Progress::new(interrupt);
    // It is loaded at once and then removed: no need to wait for the disk.
    let build = Build { label: "demo".into(), sync: false, ..Build::default() };
    build.run(tree, image, &progress).map(drop).map_err(|error| progress.failure(error))
}

/// Why programs cannot run in place here: what `xip run` says to the first one.
fn obstacle(segment: &Segment, program: &Program) -> Result<Option<String>, Failure> {
    let tried = xip()?.args(["run", segment.name(), "--"]).args(&program.command).stdin(Stdio::null()).output()?;
    let words = String::from_utf8_lossy(&tried.stderr);
    let failed = tried.status.code() == Some(commands::RUN_FAILED.into());
    Ok(failed.then(|| words.trim().trim_start_matches("error: ").to_owned()))
}

fn xip() -> Result<Command, Failure> {
    Ok(Command::new(env::current_exe().doing(|| "cannot find the program xip itself".into())?))
}

/// Runs eight, asks each, and looks at all of them while they are alive.
fn run(segment: &Segment, programs: &[Program], in_place: bool, interrupt: &Interrupt) -> Result<Figures, Failure> {
    let cast: Vec<&Program> = programs.iter().cycle().take(AT_ONCE).collect();
    let mut running = Vec::new();
    for program in &cast {
        let mut command = xip()?;
        if in_place {
            command.args(["run", segment.name(), "--env", "LC_ALL=C", "--"]);
        }
        command.args(&program.command);
        running.push(Running::start(command, program)?);
    }
    for (running, program) in running.iter_mut().zip(&cast) {
        running.ask(program, interrupt)?;
    }
    // All have answered and wait for more: this is the moment to look.
    let mut processes = Vec::new();
    for running in &running {
        let pid = if in_place { running.program_pid() } else { Ok(running.pid()) };
        processes.push((running.name, pid.doing(|| format!("cannot find the process of {}", running.name))?));
    }
    let figures = Figures::of(&processes, segment, in_place).doing(|| "cannot look at the processes".into())?;
    running.iter_mut().for_each(Running::end_input);
    for running in running {
        running.finish()?;
    }
    Ok(figures)
}

/// Takes the segment away at the end.
struct Removal<'a> {
    store: &'a Store,
    name: &'a str,
    keep: bool,
}

impl Drop for Removal<'_> {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = self.store.remove(self.name, true)
        {
            tracing::warn!("the segment {} stays: {error}", self.name);
        }
    }
}
