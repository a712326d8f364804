//! `xip vm args`: how a hypervisor starts a guest that has a segment.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::ValueEnum;
use xip_vm::{Description, Kernel, Options, Vmm};

use super::machine::{Attachment, Machine, segment};
use crate::failure::Failure;
use crate::output::{NewFile, Output, quoted};

const HELP: &str = "\
Prints the command line of QEMU, Cloud Hypervisor or crosvm, or the configuration file of Firecracker, for a guest that mounts the \
segment in place and runs PROGRAM on its console; and writes the guest's initramfs, which does that. Nothing is started.\n\n\
The segment is named by the descriptor that its holder has open: any program of the same user can open that, as long as the segment \
is loaded.\n\n\
Examples:
  xip vm args debian --vmm qemu --initramfs guest.img -- bash
  xip vm args debian --vmm cloud-hypervisor --initramfs guest.img --kernel vmlinux-6.12
  xip vm args debian --vmm firecracker --initramfs guest.img --kernel vmlinux-6.12 > guest.json
  sh -c \"$(xip vm args debian --vmm qemu --initramfs guest.img -- bash)\"";

/// Print how a hypervisor starts a guest that has a segment
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// A segment, or an image
    #[arg(value_name = "IMAGE|SEGMENT")]
    source: PathBuf,

    /// The program and its arguments
    #[arg(value_name = "PROGRAM", default_value = "/bin/sh", trailing_var_arg = true)]
    program: Vec<OsString>,

    /// The hypervisor
    #[arg(long)]
    vmm: Name,

    /// Where to write the guest's initramfs
    #[arg(long, value_name = "FILE")]
    initramfs: PathBuf,

    #[command(flatten)]
    machine: Machine,

    #[command(flatten)]
    attachment: Attachment,

    /// Take changes to files in the guest's memory, and forget them at the end
    #[arg(long)]
    overlay: bool,

    /// Print JSON: the arguments as an array, or the configuration file
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Name {
    Qemu,
    CloudHypervisor,
    Firecracker,
    Crosvm,
}

impl From<Name> for Vmm {
    fn from(name: Name) -> Self {
        match name {
            Name::Qemu => Self::Qemu,
            Name::CloudHypervisor => Self::CloudHypervisor,
            Name::Firecracker => Self::Firecracker,
            Name::Crosvm => Self::Crosvm,
        }
    }
}

impl Args {
    pub(crate) fn run(self, output: Output) -> Result<(), Failure> {
        let kernel: Kernel = self.machine.kernel()?;
        let (segment, _) = segment(&self.source, false)?;
        let options = self.machine.options(kernel, &segment, self.attachment);
        let options = Options { overlay: self.overlay, program: self.program, ..options };
        let name = segment.name();
        let path = segment.path().ok_or_else(|| {
            Failure::new(format!("segment {name} has no holder that this user may look at"))
                .remedy(format!("xip save {name} FILE, and name that FILE in what is printed for an image"))
        })?;
        let vmm = Vmm::from(self.vmm);
        let file = NewFile::create(&self.initramfs)?;
        let initramfs = std::path::absolute(&self.initramfs)?;
        let (description, notes) = xip_vm::describe(vmm, &path, segment.info().size, &initramfs, &options)?;
        file.write(&xip_vm::initramfs(vmm, &options)?)?;
        notes.into_iter().for_each(|note| output.aside(note));
        match description {
            Description::Config(config) => output.json(&config),
            Description::Command(words) => {
                let words: Vec<_> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
                if self.json {
                    return output.json(&words);
                }
                output.line(words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "))
            }
        }
    }
}
