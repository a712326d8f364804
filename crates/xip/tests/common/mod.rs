//! A tree of files, and the kernel's own tools to make an image of it.
#![allow(dead_code)] // Each test takes what it needs.

pub mod mapped;

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Bytes that differ from page to page and from file to file.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

/// A tree with files around the sizes where something changes: pages, direct and indirect blocks.
pub fn tree(at: &Path) {
    fs::create_dir_all(at.join("usr/share/doc/package/examples")).unwrap();
    fs::create_dir(at.join("bin")).unwrap();
    for (seed, len) in [0usize, 1, 4095, 4096, 4097, 12 * 4096, 12 * 4096 + 1, 3 << 20].into_iter().enumerate() {
        fs::write(at.join(format!("bin/f{len}")), pattern(seed as u64, len)).unwrap();
    }
    fs::write(at.join("usr/share/doc/package/examples/deep"), b"five deep\n").unwrap();
    fs::write(at.join("usr").join("n".repeat(255)), b"long name").unwrap();
    let odd = std::ffi::OsStr::from_bytes(b"\xff\xfe odd\nname\x01");
    fs::write(at.join("usr").join(odd), b"any bytes but two").unwrap();
    for n in 0..300 {
        fs::write(at.join(format!("usr/share/doc/entry-{n:04}")), format!("{n}")).unwrap();
    }
    let sparse = fs::File::create(at.join("sparse")).unwrap();
    sparse.write_all_at(b"middle", 5_000_000).unwrap();
    sparse.set_len(9_000_001).unwrap();
    fs::hard_link(at.join("bin/f4097"), at.join("usr/hard")).unwrap();
    symlink("usr/share", at.join("fast")).unwrap();
    symlink("/bin/f1", at.join("usr/absolute")).unwrap();
    symlink("../".repeat(40) + "bin/f4097", at.join("slow")).unwrap();
    symlink("loop2", at.join("loop1")).unwrap();
    symlink("loop1", at.join("loop2")).unwrap();
    symlink("nowhere", at.join("dangling")).unwrap();
    fs::set_permissions(at.join("bin/f4096"), fs::Permissions::from_mode(0o4751)).unwrap();
}

/// An image of `tree`, made by `mke2fs`; `None`, with a line that says so, where there is no such tool.
pub fn image(of: &Path, image: &Path, block_size: u32) -> Option<PathBuf> {
    let made = Command::new("mke2fs")
        .args(["-q", "-t", "ext2", "-I", "256", "-b", &block_size.to_string(), "-d"])
        .arg(of)
        .arg(image)
        .arg("24m")
        .env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()))
        .output();
    match made {
        Ok(made) => {
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
            Some(image.to_path_buf())
        }
        Err(error) => {
            println!("SKIPPED: mke2fs cannot be run ({error}); install e2fsprogs");
            None
        }
    }
}

/// e2fsck must find nothing on the image: not even that it was not closed.
pub fn fsck(image: &Path) {
    let bytes = fs::read(image).unwrap();
    // `s_state`: closed.
    assert_eq!(bytes[1024 + 58] & 3, 1, "the volume is not marked as closed");
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let out = Command::new("e2fsck").arg("-fn").arg(image).env("PATH", path).output();
    let out = out.expect("e2fsck: run cargo xtask setup");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
}

/// Runs `what` with the image mounted by the kernel, where there may be loop mounts; else says that it was skipped.
pub fn with_kernel_mount(image: &Path, what: impl FnOnce(&Path)) {
    let at = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount").args(["-o", "loop"]).arg(image).arg(at.path()).output();
    match mounted {
        Ok(out) if out.status.success() => {}
        other => {
            println!("SKIPPED: the kernel cannot mount an image here: {other:?}");
            return;
        }
    }
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| what(at.path())));
    let unmounted = Command::new("umount").arg(at.path()).status();
    if let Err(panic) = done {
        std::panic::resume_unwind(panic);
    }
    assert!(unmounted.unwrap().success());
}
