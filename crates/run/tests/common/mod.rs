//! Images of real programs, and runs of them: each in a process of its own, the `run` example.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

pub const PAGE: u64 = 4096;

/// The programs of this machine that the image has.
const PROGRAMS: [&str; 11] = [
    "/bin/bash",
    "/bin/sh",
    "/bin/cat",
    "/bin/ls",
    "/bin/sleep",
    "/bin/true",
    "/bin/stty",
    "/usr/bin/env",
    "/usr/bin/perl",
    "/usr/bin/id",
    "/usr/bin/strace",
];

/// The test programs in C. They are named here so that this binary is newer than they are.
const SOURCES: [(&str, &str); 4] = [
    ("traps", include_str!("../c/traps.c")),
    ("processes", include_str!("../c/processes.c")),
    ("cached", include_str!("../c/cached.c")),
    ("guards", include_str!("../c/guards.c")),
];

/// An image with real programs, the test programs in C, and files of all shapes.
pub struct Image {
    directory: PathBuf,
}

/// The one image of this test binary. Tests run in processes of their own: the first makes it, and the others read it, until
/// the binary or a program in it is a newer one.
pub fn image() -> &'static Image {
    image_with(&[], |_| {})
}

/// The same, to which the test binary adds programs, and what else it likes to the tree that it is made of.
pub fn image_with(programs: &[&str], add: impl FnOnce(&Path)) -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(|| Image::new(programs, add))
}

impl Image {
    fn new(programs: &[&str], add: impl FnOnce(&Path)) -> Self {
        let binary = std::env::current_exe().unwrap();
        let name = binary.file_stem().unwrap().to_str().unwrap().split('-').next().unwrap();
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("run-{name}"));
        fs::create_dir_all(&directory).unwrap();
        let turn = File::create(directory.join("lock")).unwrap();
        turn.lock().unwrap();
        let image = directory.join("image");
        // Not by the time of its bytes, which a package has from elsewhere.
        let came = |path: &Path| fs::metadata(path).map(|known| (known.ctime(), known.ctime_nsec())).ok();
        let programs: Vec<&Path> = PROGRAMS.iter().chain(programs).map(Path::new).collect();
        let newest = programs.iter().filter_map(|program| came(program)).chain(came(&binary)).max();
        if came(&image) <= newest {
            Self::make(&directory, &image, &programs, add);
        }
        Self { directory }
    }

    fn make(directory: &Path, image: &Path, programs: &[&Path], add: impl FnOnce(&Path)) {
        let tree = directory.join("tree");
        let _ = fs::remove_dir_all(&tree);
        // For a program that loads a library by its name.
        add_program(&tree, Path::new("/lib/x86_64-linux-gnu/libm.so.6"));
        for program in programs.iter().filter(|program| program.exists()) {
            add_program(&tree, program);
        }
        fs::create_dir_all(tree.join("data")).unwrap();
        for (name, text) in SOURCES {
            let source = directory.join(name).with_extension("c");
            fs::write(&source, text).unwrap();
            for (suffix, flag) in [("", "-pie"), ("-static", "-static")] {
                let to = tree.join("bin").join(format!("{name}{suffix}"));
                let mut cc = Command::new("cc");
                let kind = if suffix.is_empty() { "-DDYNAMIC" } else { "-DSTATIC" };
                cc.args(["-O1", "-w", "-pthread", kind, flag, "-o"]).arg(&to).arg(&source);
                assert!(cc.status().unwrap().success(), "cc {name}");
            }
        }
        fs::write(tree.join("bin/thirty-two"), thirty_two_bits()).unwrap();
        run(Command::new("chmod").arg("755").arg(tree.join("bin/thirty-two")));
        let pages = |name: &str, pages: &[u64], size: u64| {
            let file = File::create(tree.join("data").join(name)).unwrap();
            file.set_len(size).unwrap();
            for &page in pages {
                let bytes: Vec<u8> = (0..PAGE).map(|byte| (page * 7 + byte) as u8).collect();
                let len = (size - page * PAGE).min(PAGE) as usize;
                file.write_all_at(&bytes[..len], page * PAGE).unwrap();
            }
        };
        pages("dense", &(0..40).collect::<Vec<_>>(), 40 * PAGE);
        pages("large", &(0..2048).collect::<Vec<_>>(), 2048 * PAGE);
        pages("tail", &[0, 1, 2], 2 * PAGE + 100);
        pages("sparse", &[2, 3, 4, 9], 12 * PAGE);
        add(&tree);
        let beside = directory.join("image.new");
        let _ = fs::remove_file(&beside);
        // The kernel's own tool: it puts blocks of pointers between the data, so that files have several runs.
        run(Command::new("mke2fs")
            .args(["-q", "-F", "-b", "4096", "-I", "256", "-t", "ext2", "-O", "^resize_inode,^dir_index", "-d"])
            .args([tree.as_os_str(), beside.as_os_str(), "48M".as_ref()]));
        fs::rename(beside, image).unwrap();
    }

    pub fn path(&self) -> PathBuf {
        self.directory.join("image")
    }

    /// The command that runs a program of the image.
    pub fn command(&self, arguments: &[&str]) -> Command {
        // Whatever hangs ends: the kernel ends what is traced with its tracer.
        let mut command = Command::new("timeout");
        command
            .args(["--foreground", "-s", "KILL", "60"])
            .arg(runner())
            .arg(self.path())
            .args(arguments)
            .env("LC_ALL", "C");
        command
    }

    /// The report of a program that runs where the kernel cannot seal memory.
    pub fn without_mseal(&self, arguments: &[&str]) -> serde_json::Value {
        let mut command = Command::new(self.directory.join("tree/bin/guards-static"));
        command.arg("without-mseal").arg(runner()).arg(self.path()).arg("-r").args(arguments);
        report_of(&command.output().unwrap())
    }

    /// Runs a program to its end, by a runner that may have so many descriptors.
    pub fn with_descriptors(&self, most: u32, arguments: &[&str]) -> Output {
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("ulimit -n {most}; exec \"$0\" \"$@\"")).arg(runner()).arg(self.path());
        command.args(arguments).output().unwrap()
    }

    /// Runs a program to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a program that must succeed; what it said.
    pub fn says(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {:?}\n{said}{complaint}", output.status);
        said
    }

    /// Runs a program; the report as JSON.
    pub fn report(&self, arguments: &[&str]) -> serde_json::Value {
        report_of(&self.command(&[&["-r"], arguments].concat()).output().unwrap())
    }
}

fn report_of(output: &Output) -> serde_json::Value {
    let text = String::from_utf8_lossy(&output.stderr);
    let json = &text[text.find("{\n").unwrap_or_else(|| panic!("no report: {text}"))..];
    serde_json::from_str::<serde_json::Value>(json).unwrap()["report"].take()
}

/// The `run` example, which `cargo test` builds.
pub fn runner() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let runner = tests.parent().unwrap().parent().unwrap().join("examples/run");
    assert!(runner.exists(), "build it: cargo build -p xip-run --example run");
    runner
}

pub fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Resident bytes of executable mappings of files: of the segment, and of anything else but the kernel's own and the runner's.
pub fn text(smaps: &str) -> (u64, u64) {
    let (mut segment, mut other) = (0, 0);
    let mut mapping = "";
    for line in smaps.lines() {
        let first = line.split(' ').next().unwrap_or_default();
        if first.contains('-') {
            mapping = line;
        } else if let Some(size) = line.strip_prefix("Rss:") {
            let mut fields = mapping.split_whitespace();
            let executable = fields.nth(1).is_some_and(|permissions| permissions.contains('x'));
            let name = fields.nth(3).unwrap_or_default();
            if executable && name.starts_with('/') && name != "/memfd:xip-calls" {
                let kib: u64 = size.trim().trim_end_matches(" kB").parse().unwrap();
                *(if name.starts_with("/memfd:xip:") { &mut segment } else { &mut other }) += kib * 1024;
            }
        }
    }
    (segment, other)
}

/// Copies a program and the libraries it names.
fn add_program(tree: &Path, program: &Path) {
    let mut files = vec![program.to_owned()];
    let output = Command::new("ldd").arg(program).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    files.extend(text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from));
    for file in files {
        let to = tree.join(file.strip_prefix("/").unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        if !to.exists() {
            fs::copy(&file, &to).unwrap();
        }
    }
}

/// A program for 32-bit x86, written by hand: says "32" and exits with 7.
fn thirty_two_bits() -> Vec<u8> {
    const BASE: u32 = 0x0804_8000;
    let code: &[u8] = &[
        0xb8, 4, 0, 0, 0, // mov eax, write
        0xbb, 1, 0, 0, 0, // mov ebx, 1
        0xb9, 0, 0, 0, 0, // mov ecx, text
        0xba, 3, 0, 0, 0, // mov edx, 3
        0xcd, 0x80, // int 0x80
        0xb8, 1, 0, 0, 0, // mov eax, exit
        0xbb, 7, 0, 0, 0, // mov ebx, 7
        0xcd, 0x80, // int 0x80
    ];
    let (start, mut code) = (52 + 32, code.to_vec());
    let text = BASE + start + code.len() as u32;
    code[11..15].copy_from_slice(&text.to_le_bytes());
    code.extend_from_slice(b"32\n");
    let size = start + code.len() as u32;
    let mut elf = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let put16 = |elf: &mut Vec<u8>, values: &[u16]| values.iter().for_each(|v| elf.extend(v.to_le_bytes()));
    let put32 = |elf: &mut Vec<u8>, values: &[u32]| values.iter().for_each(|v| elf.extend(v.to_le_bytes()));
    put16(&mut elf, &[2, 3]); // executable, 386
    put32(&mut elf, &[1, BASE + start, 52, 0, 0]);
    put16(&mut elf, &[52, 32, 1, 40, 0, 0]);
    put32(&mut elf, &[1, 0, BASE, BASE, size, size, 5, 0x1000]);
    elf.write_all(&code).unwrap();
    elf
}

/// Whether this process is root: some tests make device nodes or mounts of their own.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
