//! Segments, on real memory with real processes. The example `segment` keeps them, as a program of a user would.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use xip_core::Device;
use xip_segment::{Error, Loaded, Result, Segment, Store};

pub const PAGE: usize = 4096;

/// The program that keeps segments: built together with the tests.
pub fn program() -> PathBuf {
    let deps = std::env::current_exe().unwrap();
    let path = deps.ancestors().nth(2).unwrap().join("examples/segment");
    assert!(path.exists(), "{} is missing: cargo build -p xip-segment --examples", path.display());
    path
}

/// A directory of segments and images, in which nothing is left when a test ends.
pub struct World {
    pub dir: TempDir,
}

impl World {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub fn store_path(&self) -> PathBuf {
        self.dir.path().join("segments")
    }

    pub fn store(&self) -> Store {
        Store::open(self.store_path()).unwrap().with_holder(program())
    }

    /// An image of that many pages, with other bytes for another seed.
    pub fn image(&self, name: &str, pages: usize, seed: u8) -> PathBuf {
        let path = self.dir.path().join(name);
        let bytes: Vec<u8> = (0..pages * PAGE).map(|at| (at / 7 % 255) as u8 ^ seed).collect();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    pub fn load(&self, image: &Path, name: Option<&str>) -> Result<Loaded> {
        self.store().load(image, name, &mut |_, _| {}, &mut |_| Ok(()))
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(words).env("XIP_DIR", self.store_path()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Removes a segment that nobody uses. Where tests are threads of one process, a program that another test starts has
    /// all our descriptors for a moment, between fork and exec.
    pub fn remove(&self, name: &str) {
        until("nobody uses it", || match self.store().remove(name, false) {
            Err(Error::InUse { .. }) => false,
            other => other.map(|()| true).unwrap(),
        });
    }

    /// A process that has read the first `bytes` of a segment in place, and keeps it mapped.
    pub fn user(&self, name: &str, bytes: usize) -> User {
        Self::start(self.command(&["use", name, &bytes.to_string()]))
    }

    /// As `user`, by the name of the command `xip`.
    pub fn server(&self, name: &str, bytes: usize) -> User {
        let xip = self.dir.path().join("xip");
        if !xip.exists() {
            std::os::unix::fs::symlink(program(), &xip).unwrap();
        }
        let mut command = Command::new(xip);
        command.args(["use", name, &bytes.to_string()]).env("XIP_DIR", self.store_path()).stdout(Stdio::piped());
        Self::start(command)
    }

    /// As `user`, by a program file of another name: a hypervisor's.
    pub fn guest(&self, file: &str, name: &str, bytes: usize) -> User {
        let copy = self.dir.path().join(file);
        if !copy.exists() {
            std::fs::copy(program(), &copy).unwrap();
        }
        let mut command = Command::new(copy);
        command.args(["use", name, &bytes.to_string()]).env("XIP_DIR", self.store_path()).stdout(Stdio::piped());
        Self::start(command)
    }

    pub fn start(mut command: Command) -> User {
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        User(child)
    }

    pub fn entries(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.store_path()).unwrap();
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let Ok(store) = Store::open(self.store_path()) else { return };
        for name in self.entries() {
            let _ = store.remove(&name, true);
        }
    }
}

pub struct User(pub Child);

impl Drop for User {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// Waits until `done`, for as long as it may take on a busy machine.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..600 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("never: {what}");
}

pub fn is_running(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

pub fn bytes_of(segment: &Segment) -> Vec<u8> {
    let device = segment.device().unwrap();
    let mut bytes = vec![0; usize::try_from(segment.info().size).unwrap()];
    device.read(0, &mut bytes).unwrap();
    bytes
}
