//! The lower floors own no memory: a `no_std` program links `xip-core` and `xip-ext2` with no allocator, works, and has
//! no symbol of an allocator in it, neither its own nor one that it asks of another library.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds the program in `tests/no-alloc`, which is a workspace of its own.
fn build() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/no-alloc");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("no-alloc");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--release", "--offline", "--quiet", "--manifest-path"])
        .arg(root.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        // What the outer build was told, such as to instrument, is not for this one.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    target.join("release/no-alloc")
}

/// The output of one of binutils' tools, which are there wherever Rust links.
fn binutils(tool: &str, arguments: &[&str], program: &Path) -> String {
    let output = Command::new(tool).args(arguments).arg(program).output().unwrap();
    assert!(output.status.success(), "{tool}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_program_without_an_allocator_makes_writes_and_reads_a_volume() {
    let program = build();
    let ran = Command::new(&program).output().unwrap();
    assert!(ran.status.success(), "{:?}: {}", ran.status, String::from_utf8_lossy(&ran.stdout));

    let symbols = binutils("nm", &[], &program) + &binutils("nm", &["--dynamic"], &program);
    let names: Vec<&str> = symbols.lines().filter_map(|line| line.split_whitespace().last()).collect();
    // The list is not empty because it was stripped: what the program must have is there.
    assert!(names.contains(&"main"), "no symbols in the program");
    assert!(names.iter().any(|name| name.contains("xip_ext2")), "xip-ext2 is not in the program");
    let allocators: Vec<_> = names.iter().filter(|name| is_allocator(name)).collect();
    assert!(allocators.is_empty(), "the lower floors allocate: {allocators:?}");

    println!("{}", binutils("size", &[], &program));
}

fn is_allocator(symbol: &str) -> bool {
    let name = symbol.split('@').next().unwrap_or(symbol);
    // The crate `alloc` in both manglings; `xip_ext2::alloc`, which hands out blocks, is not meant.
    ["malloc", "calloc", "realloc", "free", "posix_memalign", "aligned_alloc", "mmap", "brk", "sbrk"].contains(&name)
        || name.starts_with("_ZN5alloc")
        || ["__rust_alloc", "__rust_realloc", "__rust_dealloc", "__rg_", "__rdl_", "$LT$alloc..", "_5alloc"]
            .iter()
            .any(|part| name.contains(part))
}

#[test]
fn symbols_of_allocators_are_recognised() {
    for name in
        ["malloc", "malloc@GLIBC_2.2.5", "__rust_alloc", "_RNvCs1_7___rustc12___rust_alloc", "_ZN5alloc3vec17h0E"]
    {
        assert!(is_allocator(name), "{name}");
    }
    for name in ["main", "write", "_ZN8xip_ext25alloc11Reservation17h0E", "_RNvNtCs1_8xip_ext25alloc4take"] {
        assert!(!is_allocator(name), "{name}");
    }
}
