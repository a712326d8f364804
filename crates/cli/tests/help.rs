//! What the command says about itself: help, manual pages, completion, and what it answers to nonsense.

mod common;

use std::io::Write;
use std::process::{Command, Stdio};

use common::Place;

const COMMANDS: [&str; 12] =
    ["build", "check", "info", "load", "ls", "stat", "top", "rm", "run", "demo", "completion", "man"];

#[test]
fn help_lists_every_command_and_every_command_has_examples() {
    let place = Place::new();
    let top = place.run(["--help"]).succeeds().out;
    for command in COMMANDS {
        assert!(top.contains(&format!("\n  {command} ")), "{command} is not in: {top}");
        let help = place.run([command, "--help"]).succeeds().out;
        assert!(help.contains("Examples:\n  xip "), "{help}");
    }
    assert!(top.contains("Exit codes:"));
}

#[test]
fn nonsense_ends_with_the_usage_code_and_touches_nothing() {
    let place = Place::new();
    let nonsense: [&[&str]; 30] = [
        &[],
        &["frobnicate"],
        &["build"],
        &["build", "a"],
        &["build", "a", "b", "--size", "5X"],
        &["build", "a", "b", "--size", "1G", "--free", "1G"],
        &["build", "a", "b", "--root-owner=me"],
        &["build", "a", "b", "--owner", "1"],
        &["build", "a", "b", "--owner", "4294967295:0"],
        &["build", "a", "b", "--map-user", "1:2"],
        &["build", "a", "b", "--uuid", "+f951b4ff32a818c9218d578a6adee31"],
        &["build", "a", "b", "--exclude", "[a"],
        &["run", "debian"],
        &["run", "debian", "-x", "--", "true"],
        &["run", "debian", "--bnd", "w:/work", "--", "ls"],
        &["run", "debian", "--bind", "nonsense", "--", "true"],
        &["run", "debian", "--bind", "/tmp:/", "--", "true"],
        &["run", "debian", "--bind", "/tmp://./..:ro", "--", "true"],
        &["run", "debian", "--env", "", "--", "true"],
        &["run", "debian", "--env", "=x", "--", "true"],
        &["run", "debian", "--", ""],
        &["run", "debian", "--root=both", "--", "true"],
        &["run", "debian", "--"],
        &["run", "", "--", "true"],
        &["rm"],
        &["top", "--interval", "0"],
        &["top", "--count", "0"],
        &["top", "--once", "--count", "2"],
        &["check"],
        &["check", "a", "--quiet", "--json"],
    ];
    for arguments in nonsense {
        let ran = place.run(arguments);
        assert_eq!(ran.output.status.code(), Some(2), "{arguments:?}: {}", ran.err);
        assert_eq!(ran.out, "", "{arguments:?}");
        assert!(!ran.err.is_empty(), "{arguments:?}");
    }
    place.run(["man", "frobnicate"]).fails(2).says("xip --help");
    // The tip is the option that was meant.
    place.run(["run", "debian", "--bnd", "w:/work", "--", "ls"]).fails(2).says("'--bind'");
}

#[test]
fn completion_scripts_are_scripts_of_their_shell() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = place.run(["completion", shell]).succeeds().out;
        assert!(script.contains("xip"), "{shell}");
        if Command::new(shell).arg("-c").arg("exit 0").output().is_err() {
            println!("skipped: {shell} is not on this machine, its script is not parsed");
            continue;
        }
        let mut parser = Command::new(shell).args(["-n"]).stdin(Stdio::piped()).spawn().unwrap();
        parser.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(parser.wait().unwrap().success(), "{shell} does not parse it");
    }
}

#[test]
fn manual_pages_are_roff_with_the_examples() {
    let place = Place::new();
    assert!(place.run(["man"]).succeeds().out.contains(".TH xip 1"));
    for command in COMMANDS {
        let page = place.run(["man", command]).succeeds().out;
        assert!(page.contains(&format!(".TH xip-{command} 1")), "{page}");
        assert!(page.contains("\n.SH EXAMPLES\n") && !page.contains("EXTRA"), "{page}");
    }
    assert!(place.run(["man", "vm", "run"]).succeeds().out.contains(".TH xip-vm-run 1"));
}

#[test]
fn a_reader_that_goes_away_is_no_error_message() {
    let place = Place::new();
    let mut child = place.xip(["completion", "bash"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn a_full_disk_is_an_error() {
    let place = Place::new();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = place.xip(["completion", "bash"]).stdout(full).stderr(Stdio::piped()).output().unwrap();
    common::Ran::from(output).fails(1).says("standard output");
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    let place = Place::new();
    place.run(["load", place.image().to_str().unwrap()]).succeeds();
    assert!(!place.run(["ls"]).succeeds().out.contains('\u{1b}'), "not a terminal");
    assert!(!place.run(["info", "/nonexistent.xip"]).fails(1).err.contains('\u{1b}'), "not a terminal");
    if Command::new("script").arg("--version").output().is_err() {
        println!("skipped: `script` is not on this machine, so there is no terminal to print to");
        return;
    }
    let on_terminal = |variable: &str| {
        let xip = place.xip(["ls"]);
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--command"]).arg(format!("{} ls", xip.get_program().display()));
        script.arg("/dev/null").env("TERM", "xterm").env_remove("NO_COLOR").envs(variable.split_once('='));
        script.env("XIP_DIR", place.path("segments")).stdin(Stdio::null());
        String::from_utf8(script.output().unwrap().stdout).unwrap()
    };
    assert!(on_terminal("").contains('\u{1b}'));
    for unwanted in ["NO_COLOR=1", "TERM=dumb"] {
        assert!(!on_terminal(unwanted).contains('\u{1b}'), "{unwanted}");
    }
}
