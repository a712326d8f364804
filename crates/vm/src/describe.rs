//! Guests that others start: the command line or configuration of a hypervisor, with its quirks (`docs/guests.md`).

use crate::error::{Error, Result};
use crate::guest::{Options, Talk, check_memory};
use crate::job;
use crate::qemu::{ALIGNMENT, Accelerator, Attach, Machine, Qemu};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// A hypervisor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vmm {
    /// QEMU.
    Qemu,
    /// Cloud Hypervisor.
    CloudHypervisor,
    /// Firecracker.
    Firecracker,
    /// crosvm.
    Crosvm,
}

/// How a guest is started.
#[derive(Clone, PartialEq, Debug)]
pub enum Description {
    /// A program and its arguments.
    Command(Vec<OsString>),
    /// What stands in its configuration file.
    Config(Value),
}

/// The guest's first file system, to be written to a file. Its program has the console.
///
/// # Errors
/// [`Error::NoInit`]; [`Error::System`] when a module cannot be read.
pub fn initramfs(vmm: Vmm, options: &Options) -> Result<Vec<u8>> {
    let talk = Talk::Console { restart: vmm == Vmm::Firecracker };
    job::archive(&Options { talk, terminal: None, ..options.clone() })
}

/// How `vmm` starts the guest that has the segment of `size` bytes that can be opened as `segment`, and the [`initramfs`].
/// Also what is to be said of it.
///
/// # Errors
/// [`Error::Size`], [`Error::Memory`], [`Error::Unfit`], [`Error::NotText`].
pub fn describe<'a>(
    vmm: Vmm,
    segment: &'a Path,
    size: u64,
    initramfs: &'a Path,
    options: &'a Options,
) -> Result<(Description, Vec<String>)> {
    if options.attach.is_memory() && !size.is_multiple_of(ALIGNMENT) {
        return Err(Error::Size { bytes: size });
    }
    check_memory(options.memory, size, 1)?;
    options.kernel.check(options)?;
    let mut notes = Vec::new();
    let kernel = options.kernel.image();
    if matches!(vmm, Vmm::CloudHypervisor | Vmm::Firecracker) && !is_elf(kernel) {
        notes.push(format!(
            "{} is a compressed kernel, which this hypervisor may not start: name a vmlinux by --kernel",
            kernel.display()
        ));
    }
    let memory = options.memory.div_ceil(1 << 20);
    let disk = !options.attach.is_memory();
    // Only QEMU has NVDIMMs; to the others the image is memory all the same, and its header says where the volume begins.
    let line = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
    let text = |path: &'a Path| path.to_str().ok_or_else(|| Error::NotText(path.into()));
    let (segment_text, kernel_text, initramfs_text) = (text(segment)?, text(kernel)?, text(initramfs)?);
    let description = match vmm {
        Vmm::Qemu => {
            // Where it is not installed, what it could do is not known.
            let qemu = Qemu::find().unwrap_or_else(|_| Qemu::somewhere(Accelerator::Kvm));
            let machine = Machine {
                kernel: kernel.into(),
                memory: options.memory,
                initramfs: initramfs.into(),
                console: None,
                segment: segment.into(),
                size,
                attach: options.attach,
                ports: Vec::new(),
                share: None,
            };
            let mut command = vec![qemu.program().into()];
            command.extend(qemu.arguments(&machine));
            Description::Command(command)
        }
        Vmm::CloudHypervisor => {
            // It has no read-only pmem: with this it maps the file privately, so that what a guest writes is its own.
            let device = if disk {
                ["--disk".into(), format!("path={segment_text},readonly=on")]
            } else {
                // Its older versions must be told the size.
                ["--pmem".into(), format!("file={segment_text},size={size},discard_writes=on")]
            };
            let memory = format!("size={memory}M");
            let mut command = line(&["cloud-hypervisor", "--kernel", kernel_text, "--initramfs", initramfs_text]);
            command.extend(line(&["--cmdline", CONSOLE, "--cpus", "boot=1", "--memory", &memory]));
            command.extend(line(&device.each_ref().map(String::as_str)));
            command.extend(line(&["--serial", "tty", "--console", "off"]));
            Description::Command(command)
        }
        Vmm::Crosvm => {
            let device = if disk {
                ["--block".into(), format!("{segment_text},ro=true")]
            } else {
                ["--pmem".into(), format!("{segment_text},ro=true")]
            };
            let memory = memory.to_string();
            let mut command = line(&["crosvm", "run", "--mem", &memory, "--initrd", initramfs_text]);
            command.extend(line(&device.each_ref().map(String::as_str)));
            let serial = "type=stdout,hardware=serial,num=1,console=true,stdin=true";
            command.extend(line(&["--serial", serial, "-p", CONSOLE, kernel_text]));
            Description::Command(command)
        }
        Vmm::Firecracker => {
            let mut config = json!({
                "boot-source": {
                    "kernel_image_path": kernel_text,
                    "initrd_path": initramfs_text,
                    "boot_args": format!("{CONSOLE} reboot=k pci=off"),
                },
                "machine-config": { "vcpu_count": 1, "mem_size_mib": memory },
                // There is no default for it: a configuration file must say that there are none.
                "drives": [],
            });
            if disk {
                config["drives"] = json!([{
                    "drive_id": "segment", "path_on_host": segment_text, "is_root_device": false, "is_read_only": true,
                }]);
            } else {
                // What a guest writes is dropped on x86; the guest's first program marks the memory read-only besides.
                config["pmem"] = json!([{
                    "id": "segment", "path_on_host": segment_text, "root_device": false, "read_only": true,
                }]);
            }
            Description::Config(config)
        }
    };
    if options.attach == Attach::Nvdimm && vmm != Vmm::Qemu {
        notes.push("only QEMU has NVDIMMs: here the image is virtio-pmem, and its header is used all the same".into());
    }
    Ok((description, notes))
}

const CONSOLE: &str = "console=ttyS0 quiet panic=-1";

fn is_elf(kernel: &Path) -> bool {
    let mut first = [0; 4];
    File::open(kernel).and_then(|mut file| file.read_exact(&mut first)).is_ok() && first == *b"\x7fELF"
}
