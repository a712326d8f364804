//! Which programs of this machine the demo runs, what each needs in the image, and how it shows that it works.
//!
//! Each program answers a line on its standard input with a line on its standard output, and lives until its
//! input ends. So all of them can be kept alive together, and looked at, without timing.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::tree::Tree;

/// A program in the image.
pub(crate) struct Program {
    /// What people call it.
    pub(crate) name: &'static str,
    /// Path and arguments in the image.
    pub(crate) command: Vec<String>,
    /// The line it is given.
    pub(crate) question: String,
    /// Whether an answer is right.
    pub(crate) right: fn(&str) -> bool,
}

/// Puts what this machine has of shell, python3, perl and git into `tree`. Second: what is not there, and why.
pub(crate) fn collect(tree: &mut Tree) -> (Vec<Program>, Vec<String>) {
    let (mut programs, mut missing) = (Vec::new(), Vec::new());
    type Find = fn(&mut Tree) -> io::Result<Option<Program>>;
    let finders: [(&str, Find); 4] = [("sh", shell), ("python3", python), ("perl", perl), ("git", git)];
    for (name, find) in finders {
        match find(tree) {
            Ok(Some(program)) => programs.push(program),
            Ok(None) => missing.push(format!("{name}: not on this machine")),
            Err(error) => missing.push(format!("{name}: cannot be copied: {error}")),
        }
    }
    (programs, missing)
}

fn shell(tree: &mut Tree) -> io::Result<Option<Program>> {
    // Scripts name it by this path, wherever else it may stand.
    let path = PathBuf::from("/bin/sh");
    if !path.is_file() {
        return Ok(None);
    }
    let script = "while read -r n; do s=0; while [ $n -gt 0 ]; do s=$((s + n)); n=$((n - 1)); done; echo $s; done";
    program(tree, "sh", &path, &["-c", script], "1000", |answer| answer == "500500").map(Some)
}

fn python(tree: &mut Tree) -> io::Result<Option<Program>> {
    // The name on the path may be a script that chooses a version: python itself knows where it stands.
    let asked = on_path("python3").find_map(|path| {
        answers(
            &path,
            &[
                "-I",
                "-c",
                "import os,sys,sysconfig as s;\nfor p in [os.path.realpath(sys.executable),\
            s.get_path('stdlib'),s.get_path('platstdlib'),*sys.path]: print(p)",
            ],
        )
    });
    let Some(lines) = asked else { return Ok(None) };
    let [executable, parts @ ..] = lines.as_slice() else { return Ok(None) };
    let unwanted = |name: &OsStr| {
        let name = name.to_string_lossy();
        name.starts_with("config-")
            || name.contains(".opt-")
            || matches!(
                &*name,
                "site-packages"
                    | "dist-packages"
                    | "test"
                    | "tests"
                    | "idlelib"
                    | "tkinter"
                    | "turtledemo"
                    | "lib2to3"
                    | "ensurepip"
                    | "pydoc_data"
            )
    };
    for part in parts {
        let part = Path::new(part);
        let nested = part.ancestors().any(|above| above.file_name().is_some_and(unwanted));
        if part.is_dir() && !nested {
            tree.add_all(part, &unwanted)?;
            tree.add_libraries_below(&part.canonicalize()?, Path::new(executable))?;
        }
    }
    let script = "import sys, json, hashlib, decimal, re\n\
        for line in sys.stdin: print(hashlib.sha256(json.dumps(line.split()).encode()).hexdigest(), flush=True)";
    // The digest of `["in", "place"]`.
    program(tree, "python3", Path::new(executable), &["-I", "-S", "-B", "-c", script], "in place", |answer| {
        answer == "3812898578d323d3cdf05234a63f99b57bf085a6356c2022a7caeaf7c16e5fbe"
    })
    .map(Some)
}

fn perl(tree: &mut Tree) -> io::Result<Option<Program>> {
    let script = "use Config; my %local = map { $Config{$_} => 1 } \
        qw(sitelibexp sitearchexp sitelib_stem vendorlibexp vendorarchexp); \
        print join qq(\\n), $^X, grep { m(^/) && -d && !m(^/etc) && !m(/(site|vendor)) && !$local{$_} } @INC";
    let Some(lines) = on_path("perl").find_map(|path| answers(&path, &["-e", script])) else { return Ok(None) };
    let [executable, parts @ ..] = lines.as_slice() else { return Ok(None) };
    // Documentation, headers and tables of scripts: large, and no part of what a demo shows.
    let unwanted = |name: &OsStr| {
        matches!(name.to_str(), Some("CORE" | "CN" | "JP" | "KR" | "TW" | "Collate" | "pod"))
            || matches!(Path::new(name).extension().and_then(OsStr::to_str), Some("pod" | "a" | "h"))
    };
    for part in parts.iter().map(Path::new) {
        tree.add_all(part, &unwanted)?;
        tree.add_libraries_below(&part.canonicalize()?, Path::new(executable))?;
    }
    let script = "use POSIX; use Digest::SHA; use List::Util; $| = 1; \
        while (<STDIN>) { chomp; print List::Util::sum(map { POSIX::floor($_ / 2) } 0 .. $_), qq(\\n) }";
    program(tree, "perl", Path::new(executable), &["-e", script], "100", |answer| answer == "2500").map(Some)
}

fn git(tree: &mut Tree) -> io::Result<Option<Program>> {
    let Some(path) = on_path("git").find(|path| answers(path, &["--version"]).is_some()) else { return Ok(None) };
    let path = tree.add(&path)?;
    // It reads itself through the mount and names itself by content.
    let question = path.to_string_lossy().into_owned();
    program(tree, "git", &path, &["hash-object", "--no-filters", "--stdin-paths"], &question, |answer| {
        answer.len() >= 40 && answer.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
    .map(Some)
}

/// Adds an executable with its libraries; gives it with its path in the image.
fn program(
    tree: &mut Tree,
    name: &'static str,
    path: &Path,
    arguments: &[&str],
    question: &str,
    right: fn(&str) -> bool,
) -> io::Result<Program> {
    tree.add(path)?;
    tree.add_libraries(path)?;
    tree.name(name, path)?;
    let path = path.to_str().ok_or(io::ErrorKind::InvalidFilename)?;
    let command = [path].iter().chain(arguments).map(ToString::to_string).collect();
    Ok(Program { name, command, question: question.to_owned(), right })
}

/// Every program of that name on the search path.
fn on_path(name: &'static str) -> impl Iterator<Item = PathBuf> {
    let path = env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    let candidates: Vec<PathBuf> = env::split_paths(&path).map(|directory| directory.join(name)).collect();
    candidates.into_iter().filter(|path| path.is_absolute() && path.is_file())
}

/// The lines a program prints, if it can be run and succeeds.
fn answers(path: &Path, arguments: &[&str]) -> Option<Vec<String>> {
    let output = Command::new(path).args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
    Some(text.lines().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn what_this_machine_has_answers_right_and_its_libraries_are_in_the_tree() {
        let root = tempfile::tempdir().unwrap();
        let mut tree = Tree::new(root.path().to_owned()).unwrap();
        let (programs, missing) = collect(&mut tree);
        assert!(programs.iter().any(|program| program.name == "sh"), "{missing:?}");
        for program in programs {
            let [path, arguments @ ..] = program.command.as_slice() else { panic!("no command") };
            let inside = root.path().join(path.strip_prefix('/').unwrap());
            assert!(inside.exists(), "{} is not in the tree", inside.display());
            let mut child =
                Command::new(path).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            writeln!(child.stdin.take().unwrap(), "{}", program.question).unwrap();
            let answer = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
            assert!((program.right)(answer.trim_end()), "{} answered {answer:?}", program.name);
        }
        assert!(tree.bytes < 150 << 20, "{} bytes is too much for a demo", tree.bytes);
    }
}
