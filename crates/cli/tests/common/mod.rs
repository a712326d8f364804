//! What the tests of the command share: the command itself, with segments of its own, and small trees.
#![allow(dead_code, reason = "each test program uses its part")]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A place of its own for one test: a directory for files, and one for segments. Both go at the end.
pub struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Self {
        // In shared memory where there is some: that is where segments live.
        let shared = Path::new("/dev/shm");
        let directory = if shared.is_dir() { tempfile::tempdir_in(shared) } else { tempfile::tempdir() }.unwrap();
        fs::create_dir(directory.path().join("segments")).unwrap();
        fs::set_permissions(directory.path().join("segments"), fs::Permissions::from_mode(0o700)).unwrap();
        Place { directory }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The command, with this place's segments.
    pub fn xip<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xip"));
        command.args(arguments).env("XIP_DIR", self.path("segments")).env_remove("XIP_LOG");
        command
    }

    /// Runs the command to its end.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Ran {
        Ran::from(self.xip(arguments).output().unwrap())
    }

    /// An image of a small tree: a shell with its libraries, and a file.
    pub fn image(&self) -> PathBuf {
        let tree = self.path("tree");
        if !tree.exists() {
            for name in ["bin", "etc", "proc", "dev", "sys", "tmp"] {
                fs::create_dir_all(tree.join(name)).unwrap();
            }
            fs::write(tree.join("etc/motd"), "one copy\n").unwrap();
            copy_program("/bin/sh", &tree);
        }
        let image = self.path("small.xip");
        if !image.exists() {
            self.run([OsStr::new("build"), tree.as_ref(), image.as_ref()]).succeeds();
        }
        image
    }
}

/// Copies a program and its libraries to the paths they have on this machine.
pub fn copy_program(program: &str, tree: &Path) {
    let listing = Command::new("ldd").arg(program).output().unwrap();
    let listing = String::from_utf8(listing.stdout).unwrap();
    for path in listing.split_ascii_whitespace().filter(|word| word.starts_with('/')).chain([program]) {
        let inside = tree.join(path.strip_prefix('/').unwrap());
        fs::create_dir_all(inside.parent().unwrap()).unwrap();
        fs::copy(path, inside).unwrap();
    }
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// How a command ended and what it said.
pub struct Ran {
    pub output: Output,
    pub out: String,
    pub err: String,
}

impl Drop for Place {
    /// Segments outlive the command that loads them: they are not to outlive the test.
    fn drop(&mut self) {
        let listed = self.xip(["ls", "--json"]).output().unwrap();
        let segments: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap_or_default();
        for segment in segments.as_array().into_iter().flatten() {
            let _ = self.xip(["rm", "--force", segment["name"].as_str().unwrap_or_default()]).output();
        }
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        Ran { output, out, err }
    }
}

impl Ran {
    #[track_caller]
    pub fn succeeds(self) -> Self {
        assert!(self.output.status.success(), "{:?}\n{}{}", self.output.status, self.out, self.err);
        self
    }

    /// Ends with `code`, says `error: ...` in one place and nothing as a result.
    #[track_caller]
    pub fn fails(self, code: i32) -> Self {
        assert_eq!(self.output.status.code(), Some(code), "{:?}\n{}{}", self.output.status, self.out, self.err);
        assert_eq!(self.err.matches("error:").count(), 1, "{}", self.err);
        assert_eq!(self.out, "", "a failure prints no result");
        self
    }

    #[track_caller]
    pub fn says(self, words: &str) -> Self {
        assert!(self.err.contains(words), "`{words}` is not in: {}", self.err);
        self
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.out))
    }
}
