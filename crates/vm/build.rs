//! Builds the guest's first program, `init/`, which is linked statically, and so is no part of the workspace.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCES: [&str; 3] = ["Cargo.toml", "Cargo.lock", "src"];

fn main() {
    for source in SOURCES {
        println!("cargo::rerun-if-changed=init/{source}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let init = out.join("init");
    // Without a static C library there are no guests, and everything else works: `xip vm` says so.
    let bytes = build(&out.join("target")).unwrap_or_else(|why| {
        println!("cargo::warning=no guests in this build: {why}");
        Vec::new()
    });
    fs::write(init, bytes).expect("OUT_DIR can be written");
}

fn build(target_dir: &Path) -> Result<Vec<u8>, String> {
    let root = Path::new(&env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("init");
    let target = env::var("TARGET").expect("cargo sets it");
    let output = Command::new(env::var_os("CARGO").expect("cargo sets it"))
        .args(["build", "--release", "--quiet", "--locked", "--target", &target, "--target-dir"])
        .arg(target_dir)
        .arg("--manifest-path")
        .arg(root.join("Cargo.toml"))
        // What the outer build was told, such as to instrument, is not for this one.
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env("RUSTFLAGS", "-C target-feature=+crt-static -C relocation-model=static")
        .output()
        .map_err(|error| format!("cannot start cargo: {error}"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let why = text.lines().find(|line| line.starts_with("error")).unwrap_or("cargo failed");
        return Err(format!("{why} (a static C library is needed: libc6-dev, glibc-static)"));
    }
    fs::read(target_dir.join(&target).join("release/xip-init")).map_err(|error| format!("no xip-init: {error}"))
}
