//! The whole path on real input: a Debian tree is built, judged by e2fsck, compared entry by entry with the kernel's
//! mount and with our own reader, and used. `cargo xtask test` makes the tree and names it in `XIP_ROOTFS`.

mod common;
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{Place, Ran};
use support::mount::Mount;
use support::tree;

/// The Debian tree. Without it, or without root, a test has nothing to say, and says that.
fn debian() -> Option<PathBuf> {
    if !is_root() {
        return None;
    }
    let tree = std::env::var_os("XIP_ROOTFS").map(PathBuf::from);
    match &tree {
        Some(tree) => assert!(tree.join("usr/bin/python3").exists(), "XIP_ROOTFS={} is no tree", tree.display()),
        None => println!("skipped: XIP_ROOTFS names no tree; `cargo xtask test` makes one"),
    }
    tree
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: devices, owners, mounts and a chroot are for root");
    }
    root
}

fn build(place: &Place, tree: &Path, name: &str) -> PathBuf {
    let image = place.path(name);
    place.run(["build".as_ref(), tree.as_os_str(), image.as_os_str()]).succeeds();
    image
}

fn e2fsck(image: &Path) {
    let check = Command::new("e2fsck").arg("-fn").arg(image).env("PATH", SEARCH).output().unwrap();
    let said = Ran::from(check).succeeds();
    // With -n, e2fsck also ends with 0 where it would have asked nothing but found something to say.
    assert!(!said.out.contains("? no") && !said.out.contains("WARNING"), "{}", said.out);
}

/// The image, as the kernel mounts it and as our reader reads it, is the tree.
fn all_three_agree(tree: &Path, image: &Path) {
    let source = tree::of_source(tree);
    tree::assert_same(&source, &tree::of_directory(Mount::ext4(image).path()));
    tree::assert_same(&source, &tree::of_volume(&xip::Volume::open(image).unwrap()));
}

#[test]
fn an_image_of_debian_is_clean_and_equal_to_its_tree_for_the_kernel_and_for_our_reader() {
    let Some(tree) = debian() else { return };
    let place = Place::new();
    let image = build(&place, &tree, "debian.xip");
    e2fsck(&image);
    all_three_agree(&tree, &image);
}

#[test]
fn two_builds_of_debian_are_the_same_bytes_and_dense() {
    let Some(tree) = debian() else { return };
    let place = Place::new();
    let [first, second] = ["first.xip", "second.xip"].map(|name| build(&place, &tree, name));
    assert!(fs::read(&first).unwrap() == fs::read(second).unwrap(), "the same tree gave different bytes");

    let size = fs::metadata(&first).unwrap().len();
    assert_eq!(size % (2 << 20), 0, "an image is a multiple of 2 MiB");
    let info = place.run(["info".as_ref(), first.as_os_str(), "--json".as_ref()]).succeeds().json();
    assert_eq!(info["runs"]["cut"], 0, "no file of this tree is larger than a block group: {info:#}");
    // No more than 3 % over content plus what the format needs, as the volume itself says and as the command does.
    let blocks = xip::Volume::open(&first).unwrap().statfs().unwrap();
    let empty = 100.0 * blocks.free_blocks as f64 / blocks.blocks as f64;
    assert!(empty <= 3.0, "{empty:.1} % of the image is empty");
    assert!(info["density"]["free_percent"].as_f64().unwrap() <= 3.0, "{info:#}");
}

/// Everything that a tree can have and Debian's has not.
const CORNERS: &str = r#"
    umask 022
    mkdir sticky deep; chmod 1777 sticky; chmod 2755 deep
    mkdir -p deep/a/b/c/d/e/f/g/h; echo bottom > deep/a/b/c/d/e/f/g/h/file
    : > empty; printf x > byte; head -c 4096 /dev/urandom > page; head -c 4097 /dev/urandom > page+1
    head -c 49152 /dev/urandom > direct; head -c 49153 /dev/urandom > indirect
    head -c 4300000 /dev/urandom > double; head -c 2097152 /dev/urandom > huge-page
    truncate -s 4200M hole; printf end >> hole
    truncate -s 1M sparse; printf middle | dd of=sparse bs=1 seek=500000 conv=notrunc status=none
    ln empty other-name; ln empty deep/third-name; ln -s "$(printf 'x%.0s' $(seq 59))" fast
    ln -s "$(printf 'x%.0s' $(seq 60))" slow; ln -s "$(printf 'x%.0s' $(seq 1000))" slower; ln -s absent broken
    mknod character c 1 3; mknod block b 7 300; mknod large-numbers c 4000 1000000; mkfifo fifo
    python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("socket")'
    touch "$(printf 'n%.0s' $(seq 255))" "$(printf '\377\001 \n*')" ' ' '-f'
    mkdir many; cd many; seq 3000 | xargs touch; cd ..
    printf set > set-id; chown 1000:70000 set-id; chmod 6755 set-id; chown -h 4000000000:1 broken
    for time in 1901-12-14 1969-12-31T23:59:59.999999999 2038-01-20 2400-01-01T00:00:00.123456789
    do : > "at $time"; touch -d "$time UTC" "at $time"; done
    touch -h -d 2020-02-02T02:02:02.2 broken; touch -d 2021-01-01T00:00:00.000000001 sticky .
"#;

/// Attributes, on what already stands: tmpfs takes no user attributes on some kernels, so the tree is on disk.
const ATTRIBUTES: &str = r#"
    setfattr -n user.note -v hello byte; setfattr -n user.empty page; setfattr -n trusted.t -v 1 byte
    setfattr -n user.large -v "$(printf 'v%.0s' $(seq 3000))" page+1; setfattr -n user.on-directory -v 1 deep
    setfattr -h -n trusted.link -v 1 slow; setfattr -h -n trusted.link -v 1 fast
    setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 direct
    setfacl -m u:1234:rw,g:99:r page; setfacl -d -m u:1234:rx deep
    for i in 1 2 3 4 5 6 7 8; do setfattr -n user.same -v "$(printf 's%.0s' $(seq 500))" many/$i; done
    touch -d 2022-02-02 byte page page+1 deep direct
"#;

#[test]
fn every_kind_of_entry_and_attribute_survives_as_the_kernel_and_our_reader_see_it() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let tree = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for script in [CORNERS, ATTRIBUTES] {
        let made = Command::new("bash").args(["-euc", script]).current_dir(tree.path()).output().unwrap();
        Ran::from(made).succeeds();
    }
    let image = build(&place, tree.path(), "corners.xip");
    e2fsck(&image);
    all_three_agree(tree.path(), &image);
    assert!(fs::metadata(&image).unwrap().len() < 64 << 20, "holes take no room");
}

/// Where programs are looked for, in a chroot and in an image alike.
const SEARCH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Real programs, each doing enough to load its libraries and to show a difference; the first word is what is started.
const PROGRAMS: [(&str, &[&str]); 12] = [
    ("bash", &["-c", "shopt -s globstar; x=(/usr/lib/python3.11/**); echo ${#x[@]} ${BASH_VERSION^^}; exit 3"]),
    ("python3", &["-c", PYTHON]),
    ("perl", &["-MPOSIX", "-MList::Util=sum", "-MEncode", "-e", PERL]),
    ("sh", &["-c", GIT]),
    ("sh", &["-c", GCC]),
    ("ls", &["-ARF", "/usr/lib", "/etc"]),
    ("sh", &["-c", "grep -rc the /usr/share/common-licenses /usr/share/perl5 | sort"]),
    ("sed", &["-n", r"s/^\([^:]*\):.*:\(.*\)$/\2 \1/p", "/etc/passwd"]),
    ("sh", &["-c", "tar --sort=name -C / -cf - usr/lib usr/bin etc | sha256sum"]),
    ("awk", &["-F:", r#"{ n[$7]++ } END { for (s in n) print s, n[s] | "sort" }"#, "/etc/passwd"]),
    ("dpkg", &["--verify"]),
    ("sh", &["-c", r"find /usr ! -type d -printf '%p %m %n %U:%G %s %T@ %l\n' | sort"]),
];

const PYTHON: &str = "
import ctypes, decimal, hashlib, json, re, sqlite3, ssl
own = hashlib.sha256(open('/usr/bin/python3', 'rb').read()).hexdigest()
print(json.dumps([own, str(decimal.Decimal(2).sqrt()), sqlite3.connect(':memory:').execute('select 6*7').fetchone()]))
";
const PERL: &str = r#"print floor(2.7), sum(1..100), uc decode("UTF-8", "stra\xc3\x9fe"), $^V, "\n"; exit 7"#;
const GIT: &str = "
cd /tmp && git init -q r && cd r && echo one > f && git add f && git -c user.name=n -c user.email=e commit -qm m &&
git log --format='%H %s' && git show --stat && git fsck
";
const GCC: &str = r#"
cd /tmp && cat > a.c << end && gcc -O2 -Wall -o a a.c -lm && sha256sum a && ./a
#include <stdio.h>
#include <math.h>
int main(int count, char **names) { printf("%.9f\n", sqrt(count + 1)); return 5; }
end
"#;

/// The program in the tree itself, which it can neither change nor see changed.
fn in_chroot(tree: &Path, program: &str, arguments: &[&str]) -> Output {
    let script = r#"mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && mount -t tmpfs none "$1/tmp" &&
        mount -t proc none "$1/proc" && mount --bind /dev "$1/dev" && exec chroot "$@""#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(tree).arg(program).args(arguments);
    with_environment(command.env_clear()).output().unwrap()
}

fn with_environment(command: &mut Command) -> &mut Command {
    let dates = ["GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"].map(|name| (name, "2020-01-01T00:00:00Z"));
    command.env("PATH", SEARCH).env("HOME", "/tmp").env("LC_ALL", "C.UTF-8").envs(dates)
}

#[test]
fn programs_in_place_do_what_they_do_in_a_chroot() {
    let Some(tree) = debian() else { return };
    let place = Place::new();
    let image = build(&place, &tree, "debian.xip");
    place.run(["load".as_ref(), image.as_os_str(), "--name".as_ref(), "debian".as_ref()]).succeeds();
    fs::remove_file(image).unwrap(); // Its bytes are in the segment.
    for (program, arguments) in PROGRAMS {
        let expected = Ran::from(in_chroot(&tree, program, arguments));
        let report = place.path("report");
        let mut run = place.xip(["run", &format!("--report={}", report.display()), "--json", "debian", "--", program]);
        let found = Ran::from(with_environment(run.args(arguments)).output().unwrap());
        assert_eq!(found.output.status, expected.output.status, "{program} {arguments:?}\n{}", found.err);
        assert_eq!(found.err, expected.err, "{program} {arguments:?}");
        assert!(found.out == expected.out, "{program} {arguments:?}\n{}", first_difference(&found.out, &expected.out));
        let share = share_in_place(&serde_json::from_slice(&fs::read(&report).unwrap()).unwrap());
        assert!(share >= 0.95, "{program} {arguments:?}: only {:.1} % of what it mapped is in place", share * 100.0);
        assert!(expected.out.len() > 1 || program == "dpkg", "{program} printed nothing to compare: {}", expected.err);
    }
    place.run(["rm", "debian"]).succeeds();
}

/// Of all bytes of files that were mapped.
fn share_in_place(report: &serde_json::Value) -> f64 {
    let files = report["report"]["files"].as_object().unwrap().values();
    let (mut in_place, mut elsewhere) = (0, 0);
    for file in files {
        in_place += file["bytes_in_place"].as_u64().unwrap();
        elsewhere += file["not_in_place"].as_object().unwrap().values().filter_map(|bytes| bytes.as_u64()).sum::<u64>();
    }
    in_place as f64 / (in_place + elsewhere) as f64
}

fn first_difference(found: &str, expected: &str) -> String {
    let differs = found.lines().zip(expected.lines()).find(|(found, expected)| found != expected);
    let lengths = format!("{} and {} bytes", found.len(), expected.len());
    differs.map_or(lengths, |(found, expected)| format!("found    {found}\nexpected {expected}"))
}

/// Run inside: starts each program so that it waits for its input, and asks the kernel about all of them. Of `smaps` the
/// resident text, by whether it is the segment's; of `cachestat` the pages that the mount has of any file.
const ASK_THE_KERNEL: &str = r#"
import ctypes, glob, json, os, stat, subprocess, time
compiler = glob.glob('/usr/lib/gcc/*/*/cc1')[0]
waiting = {
    'python3': ['python3', '-c', 'import json, re, ssl, sys; sys.stdout.write("."); sys.stdout.flush(); input()'],
    'bash': ['bash', '-c', 'printf .; read line'],
    'perl': ['perl', '-MPOSIX', '-e', '$| = 1; print "."; <STDIN>'],
    'git': ['sh', '-c', 'git init -q /tmp/r; printf .; cd /tmp/r; exec git hash-object --stdin'],
    'gcc': ['sh', '-c', 'printf .; exec "$0" -quiet - -o /dev/null', compiler],
}
found = {}
for name, command in waiting.items():
    program = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    program.stdout.read(1)
    while 'S' not in open(f'/proc/{program.pid}/stat').read().rsplit(')', 1)[1].split()[0] or \
            open(f'/proc/{program.pid}/comm').read().strip() == 'sh':
        time.sleep(0.01)
    time.sleep(0.3)
    text = [0, 0]
    mapped = 0
    for line in open(f'/proc/{program.pid}/smaps'):
        field = line.split()
        if '-' in field[0] and not field[0].endswith(':'):
            ours = '/memfd:xip:' in line
            executable = 'x' in field[1] and field[4] != '0' and '/memfd:xip-calls' not in line
        elif field[0] == 'Rss:':
            resident = int(field[1]) << 10
            mapped += resident if ours else 0
            if executable:
                text[not ours] += resident
    found[name] = {'segment': text[0], 'elsewhere': text[1], 'mapped': mapped}
    program.stdin.close()
    program.wait()
libc = ctypes.CDLL(None, use_errno=True)
cached = files = 0
device = os.stat('/usr').st_dev
for root, _, names in os.walk('/usr'):
    for name in names:
        path = os.path.join(root, name)
        if stat.S_ISREG(os.lstat(path).st_mode) and os.lstat(path).st_dev == device:
            fd = os.open(path, os.O_RDONLY)
            pages = (ctypes.c_uint64 * 5)()
            assert libc.syscall(451, fd, (ctypes.c_uint64 * 2)(), pages, 0) == 0, os.strerror(ctypes.get_errno())
            cached += pages[0] << 12
            files += 1
            os.close(fd)
print(json.dumps({'programs': found, 'cached': cached, 'files': files}))
"#;

/// The figures that count are the kernel's: at least 95 % of the resident text of program, interpreter and libraries is the
/// segment, and the mount's page cache is at most 5 % of what is mapped in place.
#[test]
fn the_kernel_says_that_text_is_the_segment_and_the_page_cache_is_almost_empty() {
    let Some(tree) = debian() else { return };
    let place = Place::new();
    let image = build(&place, &tree, "debian.xip");
    let mut run = place.xip(["run", "--rm"]);
    run.arg(&image).args(["--", "python3", "-c", ASK_THE_KERNEL]);
    let said = Ran::from(with_environment(&mut run).output().unwrap()).succeeds();
    let found: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    let number = |value: &serde_json::Value| value.as_u64().unwrap();
    let mut mapped = 0;
    for (program, figures) in found["programs"].as_object().unwrap() {
        let (segment, elsewhere) = (number(&figures["segment"]), number(&figures["elsewhere"]));
        assert!(segment > 512 << 10, "{program}: {found}");
        assert!(segment * 100 >= (segment + elsewhere) * 95, "{program}: {found}");
        mapped += number(&figures["mapped"]);
    }
    assert_eq!(found["programs"].as_object().unwrap().len(), 5);
    assert!(number(&found["files"]) > 5000 && number(&found["cached"]) * 20 <= mapped, "{found}");
    println!("{found}");
}
