//! The guest's file systems: from the kernel's first one to the segment's volume as the root.

use crate::job::Job;
use crate::sample;
use crate::{Result, Tried};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_move};
use rustix::process::{chdir, chroot};
use rustix::system::finit_module;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// `MODULE_INIT_COMPRESSED_FILE`: the kernel unpacks it.
const COMPRESSED: i32 = 4;
/// Where the volume is mounted first, and the layer over it.
const VOLUME: &str = "/volume";
const LAYER: &str = "/layer";
const ROOT: &str = "/root";

fn mount_at(source: &str, target: impl AsRef<Path>, kind: &str, flags: MountFlags, options: &str) -> Result<()> {
    let target = target.as_ref();
    let options = std::ffi::CString::new(options).tried("options of a mount")?;
    mount(source, target, kind, flags, Some(options.as_c_str()))
        .tried(format_args!("cannot mount {kind} at {}", target.display()))
}

/// What every program wants: `/dev`, `/proc`, `/sys`.
pub(crate) fn prepare() -> Result<()> {
    for (kind, target) in [("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys")] {
        fs::create_dir_all(target).tried(format_args!("cannot make {target}"))?;
        mount_at(kind, target, kind, MountFlags::NOSUID, "")?;
    }
    // What `udev` would make, and programs expect.
    for (name, to) in [("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")] {
        let _ = std::os::unix::fs::symlink(format!("/proc/self/fd{to}"), format!("/dev/{name}"));
    }
    Ok(())
}

/// Loads modules, in their order.
pub(crate) fn load_modules(modules: &[PathBuf]) -> Result<()> {
    for path in modules {
        let file = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .tried(format_args!("cannot open {}", path.display()))?;
        let compressed = path.extension().is_some_and(|extension| extension != "ko");
        match finit_module(&file, c"", if compressed { COMPRESSED } else { 0 }) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(format!("cannot load the module {}: {error}", path.display())),
        }
    }
    Ok(())
}

/// Mounts the volume, in place; whether it is, and the options as they came out.
pub(crate) fn mount_volume(job: &Job) -> Result<(bool, String)> {
    wait_for(&job.device)?;
    protect();
    if let Some(name) = job.device.file_name().filter(|name| name.to_string_lossy().starts_with("pmem")) {
        // As above all for directories: what is memory already is not read ahead.
        let _ = fs::write(Path::new("/sys/block").join(name).join("queue/read_ahead_kb"), "0");
    }
    for place in [VOLUME, LAYER, ROOT] {
        fs::create_dir_all(place).tried(format_args!("cannot make {place}"))?;
    }
    let device = job.device.to_string_lossy();
    let volume = if job.overlay { VOLUME } else { ROOT };
    let mounted = mount_at(&device, volume, "ext4", MountFlags::RDONLY, &job.options);
    mounted.map_err(|error| format!("{error}: {}", last_words()))?;
    let options = mount_options(volume)?;
    let in_place = is_in_place(Path::new(volume));
    if job.overlay {
        mount_at("tmpfs", LAYER, "tmpfs", MountFlags::empty(), "mode=755")?;
        for part in ["upper", "work"] {
            fs::create_dir(Path::new(LAYER).join(part)).tried("cannot make the layer in memory")?;
        }
        let options = format!("lowerdir={VOLUME},upperdir={LAYER}/upper,workdir={LAYER}/work");
        mount_at("overlay", ROOT, "overlay", MountFlags::empty(), &options)?;
    }
    Ok((in_place, options))
}

/// Where the volume can be seen, for one that stands where this program does: before and after [`enter`].
pub(crate) fn volume(job: &Job) -> &'static Path {
    let (inside, before) = ("/", if job.overlay { VOLUME } else { ROOT });
    // With an overlay, what is seen from inside is that: its files are those of the volume.
    Path::new(if job.program.is_empty() { before } else { inside })
}

/// Whether the kernel says so of a file. One is enough: the mount's option is for all, and fails where it cannot be had.
fn is_in_place(volume: &Path) -> bool {
    sample::files(volume).next().is_some_and(|file| sample::is_in_place(&file))
}

/// Nobody in the guest writes to the segment, root neither: the host does not let it, but a virtio device has no way to say so,
/// and what is written to it is lost without a word. So the kernel is told.
fn protect() {
    for region in fs::read_dir("/sys/bus/nd/devices").into_iter().flatten().flatten() {
        if region.file_name().to_string_lossy().starts_with("region") {
            let _ = fs::write(region.path().join("read_only"), "1");
        }
    }
}

/// `nd_pmem` and others find their devices in their own time.
fn wait_for(device: &Path) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(30);
    let start = Instant::now();
    while !device.exists() {
        if start.elapsed() > PATIENCE {
            return Err(format!("no {} after {} s: {}", device.display(), PATIENCE.as_secs(), last_words()));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// The kernel's last word, which says why a mount was refused.
fn last_words() -> String {
    let Ok(file) = open("/dev/kmsg", OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()) else {
        return String::from("the kernel says nothing");
    };
    let mut last = String::from("the kernel says nothing");
    let mut record = [0; 8192];
    while let Ok(count @ 1..) = rustix::io::read(&file, &mut record) {
        let text = String::from_utf8_lossy(&record[..count]);
        if let Some((_, message)) = text.split_once(';') {
            let message = message.lines().next().unwrap_or_default();
            if ["EXT4", "pmem", "DAX", "dax", "nvdimm", "nd_"].iter().any(|word| message.contains(word)) {
                last = message.into();
            }
        }
    }
    last
}

/// The options that the kernel shows for a mount: its own and those of the file system.
fn mount_options(target: &str) -> Result<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").tried("cannot read mountinfo")?;
    let options = text.lines().find_map(|line| {
        let (mount, system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(4);
        (fields.next()? == target).then(|| {
            let own = fields.next().unwrap_or_default();
            let system = system.split(' ').nth(2).unwrap_or_default().split(',');
            // Both have `ro`.
            system.filter(|option| *option != "ro").fold(own.to_owned(), |all, option| format!("{all},{option}"))
        })
    });
    options.ok_or_else(|| format!("{target} is not in mountinfo"))
}

/// The volume becomes the root.
pub(crate) fn enter(job: &Job) -> Result<()> {
    let root = Path::new(ROOT);
    for name in ["dev", "proc", "sys"] {
        let target = root.join(name);
        if job.overlay {
            fs::create_dir_all(&target).tried(format_args!("cannot make /{name}"))?;
        }
        // A link in the image would lead out of it: there is no other root yet.
        if !fs::symlink_metadata(&target).is_ok_and(|known| known.is_dir()) {
            return Err(format!("the image needs a directory /{name}, which it does not have, or not as a directory"));
        }
        mount_move(Path::new("/").join(name), &target).tried(format_args!("cannot mount /{name}"))?;
    }
    for (name, mode) in [("tmp", "mode=1777"), ("run", "mode=755")] {
        // What the volume does not have it does not get: it cannot be written.
        if fs::symlink_metadata(root.join(name)).is_ok_and(|known| known.is_dir()) {
            mount_at("tmpfs", root.join(name), "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, mode)?;
        }
    }
    let shared = root.join("dev/shm");
    if fs::create_dir_all(&shared).is_ok() {
        mount_at("tmpfs", &shared, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, "mode=1777")?;
    }
    let terminals = root.join("dev/pts");
    if fs::create_dir_all(&terminals).is_ok() {
        mount_at("devpts", &terminals, "devpts", MountFlags::NOSUID | MountFlags::NOEXEC, "ptmxmode=666,mode=620")?;
    }
    chdir(root).tried("cannot enter the volume")?;
    mount_move(".", "/").tried("cannot make the volume the root")?;
    chroot(".").tried("cannot make the volume the root")?;
    chdir("/").tried("cannot enter the volume")?;
    let Some(inside) = &job.share else { return Ok(()) };
    if job.overlay {
        fs::create_dir_all(inside).tried(format_args!("cannot make {}", inside.display()))?;
    }
    if !inside.is_dir() {
        return Err(format!(
            "the image has no directory {} to show the shared one at: name another, or use --overlay",
            inside.display()
        ));
    }
    mount_at("share", inside, "virtiofs", MountFlags::NOSUID | MountFlags::NODEV, "")
}
