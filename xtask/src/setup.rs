//! The tools of other projects that tests and benchmarks use: found, or asked of Debian's packages.

use crate::process::{command, find, is_root, run};
use anyhow::{Context, Result, bail};
use std::path::Path;

/// What is needed, and the Debian package that has it. A name with a slash is a file, otherwise a program.
const NEEDED: [(&str, &str); 28] = [
    ("mke2fs", "e2fsprogs"),
    ("e2fsck", "e2fsprogs"),
    ("debugfs", "e2fsprogs"),
    ("mmdebstrap", "mmdebstrap"),
    ("setfattr", "attr"),
    ("setfacl", "acl"),
    ("gcc", "gcc"),
    ("/usr/include/stdio.h", "libc6-dev"),
    ("losetup", "mount"),
    ("unshare", "util-linux"),
    ("fusermount3", "fuse3"),
    ("fuse2fs", "fuse2fs"),
    ("mkfs.erofs", "erofs-utils"),
    ("genext2fs", "genext2fs"),
    // Programs in Go, for `crates/run/tests/go.rs`.
    ("fzf", "fzf"),
    ("shfmt", "shfmt"),
    ("fio", "fio"),
    ("sqlite3", "sqlite3"),
    ("git", "git"),
    ("make", "make"),
    ("tar", "tar"),
    ("timeout", "coreutils"),
    // What `cargo install` needs for pjdfstest, and libFuzzer to be built.
    ("/usr/include/sys/acl.h", "libacl1-dev"),
    ("g++", "g++"),
    // Guests. Their kernel is a package too, which `xip vm kernel` gets.
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("cpio", "cpio"),
    // Shows the page of `xip report`.
    ("chromium", "chromium"),
    ("/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf", "fonts-dejavu-core"),
];

/// Makes sure that everything is there; asks apt only for what is not.
pub(crate) fn ensure() -> Result<()> {
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    let packages = missing.join(" ");
    let by_hand = format!("apt-get install --no-install-recommends {packages}");
    if !is_root() {
        bail!("missing packages: {packages}\nas root: {by_hand}");
    }
    if find("apt-get").is_none() {
        bail!("missing, and no apt-get here to ask for them: {packages}");
    }
    println!("setup: {by_hand}");
    // One of several sources may be out of reach while the one that matters is not: the installation will tell.
    let _ = run(apt().arg("update"));
    run(apt().args(["install", "--yes", "--no-install-recommends"]).args(&missing))
        .with_context(|| format!("cannot install {packages}"))
}

/// apt-get, which asks nothing.
pub(crate) fn apt() -> std::process::Command {
    let mut apt = command("apt-get");
    apt.env("DEBIAN_FRONTEND", "noninteractive").args(["-qq", "-o", "DPkg::Lock::Timeout=300"]);
    apt
}

fn missing() -> Vec<&'static str> {
    let absent = |what: &str| if what.contains('/') { !Path::new(what).exists() } else { find(what).is_none() };
    let mut packages: Vec<_> = NEEDED.iter().filter(|(what, _)| absent(what)).map(|(_, package)| *package).collect();
    packages.dedup();
    packages
}
