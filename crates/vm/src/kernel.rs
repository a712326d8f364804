//! A guest's kernel: where it is, what it can do, and how to get one.

use crate::error::{Doing, Error, Result};
use crate::guest::Options;
use crate::qemu::Attach;
use std::collections::BTreeSet;
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The modules that a guest needs where they are not part of the kernel, each after those it needs itself.
const MODULES: [&str; 17] = [
    "virtio",
    "virtio_ring",
    // How Firecracker attaches devices.
    "virtio_mmio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_console",
    "libnvdimm",
    // `nd_pmem` needs it, wanted or not.
    "nd_btt",
    "nd_virtio",
    "nd_pmem",
    "virtio_pmem",
    "virtio_blk",
    "overlay",
    // Of a shared directory.
    "fuse",
    "virtiofs",
    // QEMU's `nvdimm` is found by ACPI.
    "nfit",
];

/// What must be part of the kernel.
const BUILT_IN: [&str; 5] =
    ["CONFIG_FS_DAX", "CONFIG_EXT4_FS", "CONFIG_DEVTMPFS", "CONFIG_BLK_DEV_INITRD", "CONFIG_SERIAL_8250_CONSOLE"];
/// What may be a module, too.
const MODULAR: [&str; 5] =
    ["CONFIG_VIRTIO_PCI", "CONFIG_VIRTIO_CONSOLE", "CONFIG_VIRTIO_PMEM", "CONFIG_BLK_DEV_PMEM", "CONFIG_OVERLAY_FS"];

/// What only some guests need.
const SOMETIMES: [&str; 3] = ["CONFIG_ACPI_NFIT", "CONFIG_VIRTIO_BLK", "CONFIG_VIRTIO_FS"];

/// Debian's kernel for guests in clouds, the newest first: what has `virtio_pmem` and is small.
const PACKAGES: [&str; 2] = ["linux-image-6.12-cloud-amd64", "linux-image-cloud-amd64"];

/// A kernel that guests can have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kernel {
    image: PathBuf,
    /// Files of modules, in the order in which they are loaded.
    modules: Vec<PathBuf>,
    /// Those of [`SOMETIMES`] that it has not.
    lacks: Vec<&'static str>,
}

/// Where `xip vm kernel` keeps kernels: `$XDG_CACHE_HOME/xip/kernel`, or `~/.cache/xip/kernel`.
pub fn cache() -> PathBuf {
    let from = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = from("XDG_CACHE_HOME").or_else(|| from("HOME").map(|home| home.join(".cache")));
    base.unwrap_or_else(|| "/var/cache".into()).join("xip/kernel")
}

impl Kernel {
    /// The kernel that was named, or the newest that was got before.
    ///
    /// # Errors
    /// [`Error::NoKernel`], [`Error::NoModules`]; [`Error::Unfit`] names what the kernel's configuration lacks.
    pub fn find(named: Option<&Path>) -> Result<Self> {
        match named {
            Some(image) => Self::at(image),
            None => Self::newest(&cache()),
        }
    }

    /// The kernel's image.
    pub fn image(&self) -> &Path {
        &self.image
    }

    /// Its modules, in the order in which they are loaded.
    pub fn modules(&self) -> &[PathBuf] {
        &self.modules
    }

    /// Whether it can do what this guest needs beside what all need.
    pub(crate) fn check(&self, options: &Options) -> Result<()> {
        let needs = [
            ("CONFIG_ACPI_NFIT", options.attach == Attach::Nvdimm),
            ("CONFIG_VIRTIO_BLK", !options.attach.is_memory()),
            ("CONFIG_VIRTIO_FS", options.share.is_some()),
        ];
        match needs.iter().find(|(option, needed)| *needed && self.lacks.contains(option)) {
            Some((option, _)) => Err(Error::Unfit { kernel: self.image.clone(), missing: (*option).into() }),
            None => Ok(()),
        }
    }

    fn newest(cache: &Path) -> Result<Self> {
        let none = || Error::NoKernel { looked: cache.into() };
        let entries = fs::read_dir(cache).map_err(|_| none())?;
        let images = entries.flatten().flat_map(|entry| images(&entry.path().join("boot")));
        let newest = images.max_by_key(|image| numbers(image)).ok_or_else(none)?;
        Self::at(&newest)
    }

    /// The kernel in this file, with the configuration and modules that belong to it.
    fn at(image: &Path) -> Result<Self> {
        let image = image.canonicalize().doing(|| format!("use the kernel {}", image.display()))?;
        if !is_kernel(&image) {
            return Err(Error::NotAKernel(image));
        }
        let name = image.file_name().and_then(OsStr::to_str).unwrap_or_default();
        let version = name.strip_prefix("vmlinuz-").or_else(|| name.strip_prefix("vmlinux-")).unwrap_or(name);
        let boot = image.parent().unwrap_or(Path::new("/"));
        let top = boot.parent().unwrap_or(Path::new("/"));
        let places =
            [top.join("lib/modules"), top.join("usr/lib/modules"), "/lib/modules".into()].map(|at| at.join(version));
        let unfit = |missing: Vec<&str>| Error::Unfit { kernel: image.clone(), missing: missing.join(", ") };
        let (mut wanted_modules, mut lacks) = (false, Vec::new());
        // A kernel of one's own may have no such file; then the guest finds out.
        if let Ok(config) = fs::read_to_string(boot.join(format!("config-{version}"))) {
            let set = |option: &str, as_module: bool| {
                config.lines().any(|line| {
                    let value = line.strip_prefix(option).and_then(|rest| rest.strip_prefix('='));
                    value == Some("y") || as_module && value == Some("m")
                })
            };
            let missing = BUILT_IN.iter().filter(|option| !set(option, false));
            let missing: Vec<_> = missing.chain(MODULAR.iter().filter(|option| !set(option, true))).copied().collect();
            if !missing.is_empty() {
                return Err(unfit(missing));
            }
            lacks = SOMETIMES.into_iter().filter(|option| !set(option, true)).collect();
            wanted_modules = MODULAR.iter().any(|option| !set(option, false));
        }
        let directory = places.iter().find(|place| place.is_dir());
        if wanted_modules && directory.is_none() {
            return Err(Error::NoModules { kernel: image, wanted: places[2].clone() });
        }
        let modules = directory.map(|directory| modules(directory)).unwrap_or_default();
        Ok(Self { image, modules, lacks })
    }
}

/// Whether a file has the mark of what a boot loader starts (`Documentation/arch/x86/boot.rst`), or is an ELF file.
fn is_kernel(image: &Path) -> bool {
    let mut start = [0; 0x206];
    let read = fs::File::open(image).and_then(|mut file| file.read_exact(&mut start));
    read.is_ok() && (start.ends_with(b"HdrS") || start.starts_with(b"\x7fELF"))
}

/// Kernels in a directory.
fn images(boot: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(boot).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_image = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-"));
    entries.filter(is_image).collect()
}

/// The numbers in a version, by which versions are ordered.
fn numbers(image: &Path) -> Vec<u64> {
    let name = image.file_name().unwrap_or_default().to_string_lossy().into_owned();
    name.split(|letter: char| !letter.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// The modules of a directory that guests need, in their order.
fn modules(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![directory.join("kernel")];
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(&next).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => waiting.push(entry.path()),
                _ => found.push(entry.path()),
            }
        }
    }
    let named = |path: &PathBuf, name: &str| {
        let file = path.file_name().unwrap_or_default().to_string_lossy().replace('-', "_");
        file.strip_prefix(name).is_some_and(|rest| rest == ".ko" || rest.starts_with(".ko."))
    };
    MODULES.iter().filter_map(|name| found.iter().find(|path| named(path, name)).cloned()).collect()
}

/// Gets Debian's kernel for clouds by the system's package tool, and keeps of it what guests need. Nothing is installed.
///
/// `stopped` is asked before each package: whether there is no use in going on.
///
/// # Errors
/// [`Error::Fetch`] with what the tool said.
pub fn fetch(stopped: &dyn Fn() -> bool) -> Result<Kernel> {
    let cache = cache();
    fs::create_dir_all(&cache).doing(|| format!("make {}", cache.display()))?;
    let work = tempfile::Builder::new().prefix(".new-").tempdir_in(&cache);
    let work = work.doing(|| format!("write in {}", cache.display()))?;
    let packages = candidates();
    let none = "no package of such a kernel is known to apt-get: run `apt-get update`, or add Debian's sources";
    let mut last = Error::Fetch(none.into());
    for package in &packages {
        if stopped() {
            break;
        }
        match unpack(package, work.path()) {
            Ok(kernel) => return keep(&kernel, &work.path().join(package), &cache),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Downloads a package and unpacks it to a directory of its name in `work`.
fn unpack(package: &str, work: &Path) -> Result<Kernel> {
    let tree = work.join(package);
    fs::create_dir(&tree).doing(|| format!("write in {}", work.display()))?;
    tool(Command::new("apt-get").args(["download", package]).current_dir(&tree)).map_err(Error::Fetch)?;
    let archive = only(&tree, ".deb").ok_or_else(|| Error::Fetch(format!("apt-get gave no file for {package}")))?;
    tool(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&tree)).map_err(Error::Fetch)?;
    let image = images(&tree.join("boot")).pop().ok_or_else(|| Error::Fetch(format!("{package} has no kernel")))?;
    let kernel = Kernel::at(&image)?;
    prune(&tree, &kernel).doing(|| format!("write in {}", tree.display()))?;
    Ok(kernel)
}

/// Gives what was unpacked its place in the cache, instead of one of the same version that is there.
fn keep(kernel: &Kernel, tree: &Path, cache: &Path) -> Result<Kernel> {
    let name = kernel.image.file_name().unwrap_or_default();
    let place = cache.join(name.to_string_lossy().replace("vmlinuz-", ""));
    // Under the old one's name there is nothing for a moment; whoever looks then gets one, too, and the same.
    let _ = fs::rename(&place, tree.with_extension("old"));
    if let Err(error) = fs::rename(tree, &place)
        && !place.exists()
    {
        return Err(error).doing(|| format!("make {}", place.display()));
    }
    Kernel::at(&place.join("boot").join(name))
}

/// Packages that have a kernel, best first: those that the packages named above stand for.
fn candidates() -> Vec<String> {
    let depends = |package: &&str| {
        let text = tool(Command::new("apt-cache").args(["depends", package])).ok()?;
        let found = text.lines().find_map(|line| line.trim().strip_prefix("Depends: ").map(str::to_owned))?;
        found.starts_with("linux-image-").then_some(found)
    };
    PACKAGES.iter().filter_map(depends).collect()
}

/// Removes what guests do not need.
fn prune(tree: &Path, kernel: &Kernel) -> std::io::Result<()> {
    let keep: BTreeSet<&Path> = kernel.modules.iter().map(PathBuf::as_path).collect();
    let tree = tree.canonicalize()?;
    let mut waiting = vec![tree.clone()];
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(&next)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() && !path.is_symlink() {
                waiting.push(path);
            } else if !keep.contains(path.as_path())
                && path != kernel.image
                && !name.starts_with("config-")
                && name != "copyright"
            {
                fs::remove_file(path)?;
            }
        }
    }
    Ok(())
}

fn only(directory: &Path, end: &str) -> Option<PathBuf> {
    let paths = fs::read_dir(directory).ok()?.flatten().map(|entry| entry.path());
    paths.into_iter().find(|path| path.to_string_lossy().ends_with(end))
}

/// Runs a tool; what it printed, or why it failed.
fn tool(command: &mut Command) -> std::result::Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.env("LC_ALL", "C").output().map_err(|error| format!("cannot start {name}: {error}"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it failed");
        return Err(format!("{name}: {last}"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(config: &str, modules: &[&str]) -> tempfile::TempDir {
        let top = tempfile::tempdir().unwrap();
        let directory = top.path().join("lib/modules/9.9.9-test/kernel/drivers");
        fs::create_dir_all(&directory).unwrap();
        fs::create_dir_all(top.path().join("boot")).unwrap();
        fs::write(top.path().join("boot/vmlinuz-9.9.9-test"), [&[0; 0x202][..], b"HdrS"].concat()).unwrap();
        fs::write(top.path().join("boot/config-9.9.9-test"), config).unwrap();
        modules.iter().for_each(|name| fs::write(directory.join(name), b"module").unwrap());
        top
    }

    fn config(without: &str) -> String {
        BUILT_IN
            .iter()
            .chain(&MODULAR)
            .filter(|option| **option != without)
            .map(|option| format!("{option}=y\n"))
            .collect()
    }

    #[test]
    fn modules_are_loaded_after_those_they_need_whatever_packs_them() {
        let top = tree(&config(""), &["virtio_pmem.ko.xz", "nd-virtio.ko", "libnvdimm.ko.zst", "e1000.ko"]);
        let kernel = Kernel::find(Some(&top.path().join("boot/vmlinuz-9.9.9-test"))).unwrap();
        let names: Vec<_> = kernel.modules().iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["libnvdimm.ko.zst", "nd-virtio.ko", "virtio_pmem.ko.xz"]);
    }

    #[test]
    fn a_kernel_that_lacks_something_is_refused_by_the_name_of_it() {
        for missing in ["CONFIG_FS_DAX", "CONFIG_VIRTIO_PMEM"] {
            let top = tree(&config(missing), &[]);
            let found = Kernel::find(Some(&top.path().join("boot/vmlinuz-9.9.9-test")));
            assert!(matches!(&found, Err(Error::Unfit { missing: named, .. }) if named == missing), "{found:?}");
        }
        let top = tree("", &[]);
        let other = Kernel::find(Some(&top.path().join("boot/config-9.9.9-test")));
        assert!(matches!(other, Err(Error::NotAKernel(_))), "{other:?}");
        let nothing = Kernel::find(Some(Path::new("/nonexistent/vmlinuz")));
        assert!(matches!(nothing, Err(Error::System { .. })), "{nothing:?}");
    }

    #[test]
    fn what_only_some_guests_need_is_missed_by_those() {
        let top = tree(&config(""), &[]);
        let kernel = Kernel::find(Some(&top.path().join("boot/vmlinuz-9.9.9-test"))).unwrap();
        let plain = Options {
            kernel: kernel.clone(),
            memory: 1 << 30,
            attach: Attach::Memory,
            overlay: false,
            terminal: None,
            workdir: "/".into(),
            environment: Vec::new(),
            program: Vec::new(),
            talk: crate::Talk::Ports,
            share: None,
            sample: None,
        };
        assert!(kernel.check(&plain).is_ok());
        let share = Some(crate::Share { host: "/".into(), inside: "/mnt".into() });
        for (options, missing) in [
            (Options { attach: Attach::Nvdimm, ..plain.clone() }, "CONFIG_ACPI_NFIT"),
            (Options { attach: Attach::Disk, ..plain.clone() }, "CONFIG_VIRTIO_BLK"),
            (Options { share, ..plain.clone() }, "CONFIG_VIRTIO_FS"),
        ] {
            let checked = kernel.check(&options);
            assert!(matches!(&checked, Err(Error::Unfit { missing: named, .. }) if named == missing), "{checked:?}");
        }
    }

    #[test]
    fn versions_are_ordered_by_their_numbers() {
        let mut all =
            ["vmlinuz-6.9.1-cloud", "vmlinuz-6.12.117+deb12-cloud", "vmlinuz-6.12.9-cloud"].map(PathBuf::from);
        all.sort_by_key(|image| numbers(image));
        assert_eq!(all.map(|image| image.display().to_string()).last().unwrap(), "vmlinuz-6.12.117+deb12-cloud");
    }
}
