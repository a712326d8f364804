//! What the commands about guests have in common: the machine, and the segment it gets.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use xip_segment::{Lease, Segment};
use xip_vm::{Accelerator, Attach, End, Kernel, Options, Qemu, Talk};

use crate::commands::segments;
use crate::failure::Failure;
use crate::output::{Output, parse_size};

/// Of which kind each guest is.
#[derive(clap::Args)]
pub(crate) struct Machine {
    /// Memory of each guest, beside the segment (K, M, G)
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = parse_size)]
    memory: u64,

    /// Kernel of the guest: a file vmlinuz-VERSION, with its modules in ../lib/modules/VERSION or /lib/modules/VERSION
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
}

/// How a guest sees the segment.
#[derive(Clone, Copy, Default, clap::Args)]
pub(crate) struct Attachment {
    /// Give the guest the segment as a disk, not in place: its files come from the guest's page cache (to compare)
    #[arg(long)]
    pub(crate) page_cache: bool,
}

impl Machine {
    /// What a guest needs, to be asked for before an image is loaded for it.
    pub(crate) fn prerequisites(&self) -> Result<(Qemu, Kernel), Failure> {
        Ok((Qemu::find()?, self.kernel()?))
    }

    /// The guest's kernel.
    pub(crate) fn kernel(&self) -> Result<Kernel, Failure> {
        Ok(Kernel::find(self.kernel.as_deref())?)
    }

    /// A guest that has the segment, and runs nothing yet.
    pub(crate) fn options(&self, kernel: Kernel, segment: &Segment, attachment: Attachment) -> Options {
        Options {
            kernel,
            memory: self.memory,
            attach: match (segment.data_offset() > 0, attachment.page_cache) {
                (false, false) => Attach::Memory,
                (true, false) => Attach::Nvdimm,
                (false, true) => Attach::Disk,
                (true, true) => Attach::Partition,
            },
            overlay: false,
            terminal: None,
            workdir: "/".into(),
            environment: vec![
                ("PATH".into(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()),
                ("HOME".into(), "/root".into()),
            ],
            program: Vec::new(),
            talk: Talk::Ports,
            share: None,
            sample: None,
        }
    }
}

/// The segment of that name, or of the image of that name, which is loaded; then the lease is there if it is `temporary`.
pub(crate) fn segment(source: &Path, temporary: bool) -> Result<(Segment, Option<Lease>), Failure> {
    let store = segments::store()?;
    let store = if temporary { store.temporary() } else { store };
    if let Some(segment) = segments::named(&store, source)? {
        return Ok((segments::sealed(segment)?, None));
    }
    let loaded = segments::load(&store, source, None)?;
    Ok((loaded.segment, loaded.lease))
}

/// Says on a terminal that guests will be slow, if so.
pub(crate) fn say_if_slow(qemu: &Qemu, output: Output) {
    if qemu.accelerator() == Accelerator::Emulation && io::stderr().is_terminal() {
        output.aside("no KVM here: the guest is emulated, and slow");
    }
}

/// How work ended.
pub(crate) fn how(end: End) -> String {
    match end {
        End::Exited(status) => format!("with status {status}"),
        End::Signalled(signal) => format!("by signal {signal}"),
    }
}
