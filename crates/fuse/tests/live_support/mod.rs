//! A volume that is mounted to be read and written, for one test; at its end it is closed, and `e2fsck -fn` calls it clean.
#![allow(dead_code)] // Each test program takes what it needs.

use rustix::fs::{CWD, XattrFlags};
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use xip::Volume;
use xip_fuse::{MountOptions, ServeOptions, Session};

/// Nobody in particular: an ordinary user.
pub const USER: u32 = 12_345;

pub struct World {
    pub session: Session,
    pub volume: Volume,
    pub mount: PathBuf,
    pub image: PathBuf,
    _dir: tempfile::TempDir,
}

/// A new volume of so many MiB, which any user may enter.
pub fn world(mib: u64) -> Option<World> {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: to mount, this test must be run by root");
        return None;
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let volume = Volume::create(&image, mib << 20).unwrap();
    Some(World::mounted(dir, volume, image))
}

impl World {
    /// Of an image that there is.
    pub fn of(image: &Path) -> Self {
        Self::mounted(tempfile::tempdir().unwrap(), Volume::open_writable(image).unwrap(), image.into())
    }

    fn mounted(dir: tempfile::TempDir, volume: Volume, image: PathBuf) -> Self {
        set_mode(dir.path(), 0o755);
        let mount = dir.path().join("mnt");
        fs::create_dir(&mount).unwrap();
        let how = MountOptions { read_only: false, set_id: true, devices: true, ..MountOptions::default() };
        let session = xip_fuse::mount(&mount, &volume, &how, &ServeOptions::default()).unwrap();
        Self { session, volume, mount, image, _dir: dir }
    }

    /// As [`World::ends`], and the image is kept.
    pub fn end_as(self, image: &Path) {
        let now = self.image.clone();
        self.end(|_| _ = fs::copy(now, image).unwrap());
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.mount.join(name)
    }

    /// Unmounted and closed; then what `check` finds in the image.
    pub fn end(mut self, check: impl FnOnce(&Volume)) {
        unmount(&mut self.session);
        self.volume.close().unwrap();
        let fsck = Command::new("e2fsck").arg("-fn").arg(&self.image).output().unwrap();
        assert!(fsck.status.success(), "{}", String::from_utf8_lossy(&fsck.stdout));
        check(&Volume::open(&self.image).unwrap());
    }

    pub fn ends(self) {
        self.end(|_| ());
    }
}

/// Unmounts. A program that was just started may still hold our open files, until it is executed.
fn unmount(session: &mut Session) {
    for _ in 0..500 {
        match session.unmount() {
            Err(xip_fuse::Error::Unmount { .. }) => std::thread::sleep(Duration::from_millis(10)),
            other => return other.unwrap(),
        }
    }
    panic!("the mount is still in use");
}

pub fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// What a shell says, run as an ordinary user: its output, and whether it was content.
pub fn as_user(directory: &Path, script: &str) -> (String, bool) {
    let mut shell = Command::new("sh");
    let output = shell.args(["-c", script]).current_dir(directory).uid(USER).gid(USER).output().unwrap();
    (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.success())
}

#[track_caller]
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The errno of what should have failed.
#[track_caller]
pub fn errno<T, E: Into<io::Error>>(result: Result<T, E>) -> i32 {
    match result {
        Ok(_) => panic!("it succeeded"),
        Err(error) => error.into().raw_os_error().unwrap(),
    }
}

pub fn rename(from: &Path, to: &Path, flags: rustix::fs::RenameFlags) -> rustix::io::Result<()> {
    rustix::fs::renameat_with(CWD, from, CWD, to, flags)
}

pub fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 4096];
    let len = rustix::fs::lgetxattr(path, name, &mut value).ok()?;
    value.truncate(len);
    Some(value)
}

pub fn set_xattr(path: &Path, name: &str, value: &[u8], flags: XattrFlags) -> rustix::io::Result<()> {
    rustix::fs::lsetxattr(path, name, value, flags)
}

/// Waits for what the kernel does when it gets to it.
#[track_caller]
pub fn soon(what: impl Fn() -> bool) {
    for _ in 0..500 {
        if what() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("it does not come");
}
