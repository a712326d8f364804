//! The kernel's own view of an image: mounted read-only for as long as the value lives.

use std::path::Path;
use std::process::Command;

/// A loop mount, undone when dropped.
pub struct Mount(tempfile::TempDir);

impl Mount {
    /// Mounts `image`, an ext2 volume, with the kernel's ext4 driver. Needs root.
    pub fn ext4(image: &Path) -> Self {
        let point = tempfile::tempdir().unwrap();
        let mount = Command::new("mount").args(["-t", "ext4", "-o", "loop,ro"]).args([image, point.path()]).output();
        let mount = mount.unwrap();
        assert!(mount.status.success(), "{}", String::from_utf8_lossy(&mount.stderr));
        Self(point)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: a test that panics may still have files open.
        let _ = Command::new("umount").args(["--lazy".as_ref(), self.path()]).status();
    }
}
