//! QEMU: where it is, what it can do here, and the command line of a guest.

use crate::error::{Error, Result};
use std::env;
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = "qemu-system-x86_64";

/// What executes the guest's instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Accelerator {
    /// The processor, by the kernel's KVM.
    Kvm,
    /// QEMU, in software: some 20 times slower.
    Emulation,
}

/// A QEMU that is installed.
#[derive(Clone, Debug)]
pub struct Qemu {
    program: PathBuf,
    accelerator: Accelerator,
}

/// How a guest sees the segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Attach {
    /// As memory, `virtio-pmem`: in place.
    #[default]
    Memory,
    /// As memory that is an NVDIMM, read-only by its own word. The segment begins with an NVDIMM header.
    Nvdimm,
    /// As a disk, `virtio-blk`: to compare.
    Disk,
    /// As a disk whose first partition is the volume: that of a segment that begins with an NVDIMM header.
    Partition,
}

impl Attach {
    /// Whether it is in place.
    pub fn is_memory(self) -> bool {
        matches!(self, Self::Memory | Self::Nvdimm)
    }
}

/// A machine, as far as QEMU wants to know.
pub(crate) struct Machine {
    pub(crate) kernel: PathBuf,
    pub(crate) memory: u64,
    pub(crate) initramfs: PathBuf,
    /// The kernel's console: a socket that QEMU inherits, or its own input and output.
    pub(crate) console: Option<i32>,
    pub(crate) segment: PathBuf,
    pub(crate) size: u64,
    pub(crate) attach: Attach,
    /// The ports' names, and the sockets at their other ends, which QEMU inherits.
    pub(crate) ports: Vec<(&'static str, i32)>,
    /// The socket of a `virtiofsd`, which QEMU inherits.
    pub(crate) share: Option<i32>,
}

/// What QEMU opens as the descriptor that it inherits.
pub(crate) fn inherited(fd: i32) -> PathBuf {
    format!("/proc/self/fd/{fd}").into()
}

const MIB: u64 = 1 << 20;
/// Memory devices are multiples of this.
pub(crate) const ALIGNMENT: u64 = 2 << 20;

impl Qemu {
    /// QEMU on `PATH`, with KVM where it works.
    ///
    /// # Errors
    /// [`Error::NoQemu`], [`Error::Architecture`].
    pub fn find() -> Result<Self> {
        if env::consts::ARCH != "x86_64" {
            return Err(Error::Architecture(env::consts::ARCH));
        }
        let path = env::var_os("PATH").unwrap_or_default();
        let program = env::split_paths(&path).map(|directory| directory.join(PROGRAM)).find(|file| file.is_file());
        let program = program.ok_or(Error::NoQemu { program: PROGRAM })?;
        let accelerator = if has_kvm(&program) { Accelerator::Kvm } else { Accelerator::Emulation };
        Ok(Self { program, accelerator })
    }

    /// One that is not installed here.
    pub(crate) fn somewhere(accelerator: Accelerator) -> Self {
        Self { program: PROGRAM.into(), accelerator }
    }

    /// What executes guests here.
    pub fn accelerator(&self) -> Accelerator {
        self.accelerator
    }

    pub(crate) fn command(&self, machine: &Machine) -> Command {
        let mut command = Command::new(&self.program);
        command.args(self.arguments(machine)).stdin(Stdio::null()).stdout(Stdio::null());
        // Signals of the terminal are for the program, and reach it through us.
        command.process_group(0);
        command
    }

    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    pub(crate) fn arguments(&self, machine: &Machine) -> Vec<OsString> {
        let Machine { memory, console, size, .. } = machine;
        let (accel, cpu) = match self.accelerator {
            Accelerator::Kvm => ("kvm", "host"),
            Accelerator::Emulation => ("tcg", "max"),
        };
        let mut all: Vec<OsString> =
            ["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"].map(OsString::from).into();
        all.extend(["-kernel".into(), machine.kernel.clone().into_os_string()]);
        let mut add = |option: &str, value: String| all.extend([option.into(), value.into()]);
        let nvdimm = if machine.attach == Attach::Nvdimm { ",nvdimm=on" } else { "" };
        let shared = if machine.share.is_some() { ",memory-backend=memory" } else { "" };
        add("-machine", format!("q35,accel={accel}{nvdimm}{shared}"));
        add("-cpu", cpu.into());
        // The segment stands in addresses behind the guest's own memory, which must be reserved.
        let reserved = memory.saturating_add(*size).div_ceil(1024 * MIB) * 1024 + 1024;
        let memory = memory.div_ceil(MIB);
        add("-m", format!("{memory}M,slots=1,maxmem={reserved}M"));
        add("-append", "console=ttyS0 quiet panic=-1".into());
        match console {
            Some(fd) => {
                add("-chardev", format!("socket,id=console,fd={fd}"));
                add("-serial", "chardev:console".into());
            }
            None => add("-serial", "stdio".into()),
        }
        let segment = option_value(&machine.segment);
        match machine.attach {
            Attach::Memory | Attach::Nvdimm => {
                let object = format!("id=segment,share=on,readonly=on,mem-path={segment},size={size}");
                add("-object", format!("memory-backend-file,{object}"));
                let device = match machine.attach {
                    Attach::Nvdimm => "nvdimm,memdev=segment,unarmed=on",
                    _ => "virtio-pmem-pci,memdev=segment",
                };
                add("-device", device.into());
            }
            Attach::Disk | Attach::Partition => {
                add("-drive", format!("file={segment},format=raw,if=none,id=segment,readonly=on"));
                add("-device", "virtio-blk-pci,drive=segment".into());
            }
        }
        if !machine.ports.is_empty() {
            add("-device", "virtio-serial-pci".into());
        }
        for (name, fd) in &machine.ports {
            add("-chardev", format!("socket,id={name},fd={fd}"));
            add("-device", format!("virtserialport,chardev={name},name={name}"));
        }
        if let Some(fd) = machine.share {
            // Whoever serves the directory writes into the guest's memory.
            add("-object", format!("memory-backend-memfd,id=memory,size={memory}M,share=on"));
            add("-chardev", format!("socket,id=share,fd={fd}"));
            add("-device", "vhost-user-fs-pci,chardev=share,tag=share".into());
        }
        all.extend(["-initrd".into(), machine.initramfs.clone().into_os_string()]);
        all
    }
}

/// A file name in an option of QEMU, where a comma is written twice.
fn option_value(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

/// Whether the processor says that it can run guests. KVM without that, as `kvm_pvm` in a virtual machine, runs none but kernels made for
/// it: with another one QEMU stops for ever ("KVM internal error").
fn runs_guests(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"));
    flags.is_some_and(|flags| flags.split_whitespace().any(|flag| matches!(flag, "vmx" | "svm")))
}

/// Asks QEMU itself, by a machine that is about to run: `/dev/kvm` may be there, and even open, and yet no processor can be had
/// of it.
fn has_kvm(program: &PathBuf) -> bool {
    const PATIENCE: Duration = Duration::from_secs(5);
    if std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| !runs_guests(&text)) {
        return false;
    }
    if std::fs::File::options().read(true).write(true).open("/dev/kvm").is_err() {
        return false;
    }
    let mut command = Command::new(program);
    command.args(["-accel", "kvm", "-machine", "q35", "-cpu", "host", "-m", "64M", "-S"]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-monitor", "stdio"]);
    command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(mut child) = command.spawn() else { return false };
    let told = child.stdin.take().is_some_and(|mut monitor| monitor.write_all(b"quit\n").is_ok());
    let start = Instant::now();
    while told && start.elapsed() < PATIENCE {
        match child.try_wait() {
            Ok(None) => std::thread::sleep(Duration::from_millis(5)),
            ended => return ended.is_ok_and(|status| status.is_some_and(|status| status.success())),
        }
    }
    let _ = child.kill();
    let _ = child.wait();
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_that_runs_guests_says_so() {
        let of = |flags| format!("processor\t: 0\nmodel name\t: svm vmx\nflags\t\t: fpu {flags} lm\n");
        assert!(runs_guests(&of("vmx")) && runs_guests(&of("svm")));
        assert!(!runs_guests(&of("bmi2")) && !runs_guests(""));
    }
}
