//! Volumes that are mounted by the command. Needs root, and says so where it is missing.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use crate::common::{Place, Ran, text};
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The user `nobody`, whom every system knows, as `fusermount3` wants it.
pub const USER: u32 = 65_534;

/// A place with an empty image and a directory to mount it at.
pub struct Mounts {
    pub place: Place,
}

impl Mounts {
    pub fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: to mount, this test must be run by root");
            return None;
        }
        let place = Place::new();
        fs::create_dir(place.path("mnt")).unwrap();
        xip::Volume::create(place.path("data.xip"), 16 << 20).unwrap().close().unwrap();
        Some(Self { place })
    }

    pub fn image(&self) -> String {
        text(&self.place.path("data.xip")).to_owned()
    }

    pub fn mnt(&self) -> String {
        text(&self.place.path("mnt")).to_owned()
    }

    pub fn at(&self, name: &str) -> std::path::PathBuf {
        self.place.path("mnt").join(name)
    }

    /// Mounts the image: the process that serves it.
    pub fn mount(&self) -> u32 {
        let ran = self.place.run(["mount", &self.image(), &self.mnt(), "--json"]).succeeds();
        u32::try_from(ran.json()["process"].as_u64().unwrap()).unwrap()
    }

    /// Makes a symbolic link at this place.
    pub fn link(&self, name: &str, to: &str) -> String {
        let link = self.place.path(name);
        std::os::unix::fs::symlink(to, &link).unwrap();
        text(&link).to_owned()
    }

    pub fn umount(&self) -> Ran {
        self.place.run(["umount", &self.mnt()])
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l", &self.mnt()]).stderr(Stdio::null()).status();
    }
}

pub fn fsck(image: &str) {
    let fsck = Command::new("e2fsck").args(["-fn", image]).output().unwrap();
    assert!(fsck.status.success(), "{}", String::from_utf8_lossy(&fsck.stdout));
}

pub fn is_mounted(at: &str) -> bool {
    fs::read_to_string("/proc/self/mounts").unwrap().contains(&format!(" {at} "))
}

#[track_caller]
pub fn soon(what: impl Fn() -> bool) {
    let since = Instant::now();
    while !what() {
        assert!(since.elapsed() < Duration::from_secs(10), "it does not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn kill(pid: u32) {
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
}
