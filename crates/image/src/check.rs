//! An image checked and repaired: its file opened and locked, memory for the check, and what is mended made durable.
//!
//! The file is read and written by calls, not mapped: what its storage cannot read, or has no room for, is an error then and
//! not a `SIGBUS`. All rules of the format are in [`xip_ext2::check`].

use crate::error::Error;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};
use xip_core::page::PAGE_BYTES;
use xip_core::{Device, Frozen, PAGE_SIZE, Properties};
use xip_ext2::Volume;
use xip_ext2::check::{Finding, Options, Summary, memory_wanted};
use xip_segment::{Access, PlainFile};

/// Checks an image, and with `repair` mends what a crash may have left of it (contract 7), unless it has other damage. `report`
/// is called for each finding. What was mended is durable when this returns; a repair that is interrupted leaves nothing
/// that another does not mend.
///
/// Meanwhile the image is locked with `flock`: many may check it, one alone may repair it. [`Summary::is_clean`] says
/// whether anything is wrong with it now.
///
/// # Errors
/// [`Error::InUse`]: somebody else writes it, or for a repair has it at all; [`Error::Device`]: it cannot be opened;
/// [`Error::Volume`]: it is no ext2 volume, or one that only `e2fsck` can check; [`Error::NoMemory`]. Damage is not an error
/// but a finding.
pub fn check(image: &Path, repair: bool, report: &mut dyn FnMut(&Finding)) -> Result<Summary, Error> {
    let access = if repair { Access::ReadWrite } else { Access::ReadOnly };
    let file = xip_segment::open_locked(image, access, || open(image, repair), || rustix::fs::stat(image))?;
    let bytes =
        file.metadata().map_err(|error| Error::Image { image: image.into(), what: "look at the image", error })?;
    let device = Synced::new(PlainFile::open(file, access)?);
    if let Some(finding) = cut_off(&device, bytes.len()) {
        report(&finding);
        return Ok(Summary { damages: 1, ..Summary::default() });
    }
    let summary = check_device(&device, image, repair, report)?;
    if summary.mended {
        device.file.sync()?;
    }
    Ok(summary)
}

/// As [`check`], for a volume on any device, such as a segment, which is called `name` in errors. Nobody else may
/// change it meanwhile, or use it while it is repaired.
///
/// # Errors
/// As [`check`]; a device that cannot be written is not repaired.
pub fn check_device<D: Device>(
    device: &D,
    name: &Path,
    repair: bool,
    report: &mut dyn FnMut(&Finding),
) -> Result<Summary, Error> {
    let fail = |error| Error::Volume { image: name.into(), error };
    let wanted = memory_wanted(device).map_err(fail)?;
    let mut memory = Vec::new();
    memory.try_reserve_exact(wanted).map_err(|_| Error::NoMemory { image: name.into(), bytes: wanted })?;
    memory.resize(wanted, 0);
    // A clock from before 1970 tells nothing.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs());
    xip_ext2::check::check(device, &mut memory, &Options { repair, now }, report).map_err(fail)
}

fn open(image: &Path, repair: bool) -> Result<File, Error> {
    // Not to wait for the writer of a fifo: what is no file is refused below.
    let mut flags = OFlags::NONBLOCK | OFlags::CLOEXEC;
    flags |= if repair { OFlags::RDWR } else { OFlags::RDONLY };
    // The kernel refuses a block device that is mounted if it is asked for alone. For a file that means nothing.
    let is_block_device = image.metadata().is_ok_and(|found| found.file_type().is_block_device());
    if repair && is_block_device {
        flags |= OFlags::EXCL;
    }
    match rustix::fs::open(image, flags, Mode::empty()) {
        Ok(file) => Ok(file.into()),
        Err(Errno::BUSY) => Err(Error::InUse { image: image.into(), by: "a mount".into() }),
        Err(errno) => Err(xip_segment::Error::File { action: "open", path: image.into(), errno }.into()),
    }
}

/// The last page of a file may be only in part there, and the rest of it is read as zeros: right for blocks that are smaller
/// than pages, if the volume ends where the file does.
fn cut_off(device: &Synced, have: u64) -> Option<Finding> {
    if have.is_multiple_of(PAGE_BYTES) {
        return None;
    }
    let needs = match Volume::open(device, Frozen) {
        Ok(volume) => volume.geometry().bytes(),
        Err(xip_ext2::Error::CutOff { needs, .. }) => needs,
        // It has damage of its own, which the check names.
        Err(_) => return None,
    };
    (needs > have).then_some(Finding::Volume(xip_ext2::Error::CutOff { have, needs }))
}

/// A file of which every fence makes all that was written before durable. That is slow for a volume in use, and right
/// for a repair, which has few fences: it is then as safe against a loss of power as against a kill.
///
/// A check reads small records that stand together: the pages read last are kept, which spares most of the calls.
struct Synced {
    file: PlainFile,
    kept: RefCell<Kept>,
}

const KEPT: usize = 64;

/// Pages of the file, each in the place its number says.
struct Kept {
    numbers: [Option<u64>; KEPT],
    bytes: Vec<u8>,
}

impl Synced {
    fn new(file: PlainFile) -> Self {
        Self { file, kept: RefCell::new(Kept { numbers: [None; KEPT], bytes: vec![0; KEPT * PAGE_SIZE] }) }
    }
}

impl Device for Synced {
    fn pages(&self) -> u64 {
        self.file.pages()
    }

    fn properties(&self) -> Properties {
        Properties { persistent: true, ..self.file.properties() }
    }

    fn read(&self, at: u64, to: &mut [u8]) -> Result<(), xip_core::Error> {
        let (page, within) = (at / PAGE_BYTES, (at % PAGE_BYTES) as usize);
        if within + to.len() > PAGE_SIZE {
            return self.file.read(at, to);
        }
        let place = (page % KEPT as u64) as usize;
        let Kept { numbers, bytes } = &mut *self.kept.borrow_mut();
        let bytes = &mut bytes[place * PAGE_SIZE..][..PAGE_SIZE];
        if numbers[place] != Some(page) {
            numbers[place] = None;
            self.file.read(page * PAGE_BYTES, bytes)?;
            numbers[place] = Some(page);
        }
        to.copy_from_slice(&bytes[within..][..to.len()]);
        Ok(())
    }

    fn write(&self, at: u64, from: &[u8]) -> Result<(), xip_core::Error> {
        self.kept.borrow_mut().numbers = [None; KEPT];
        self.file.write(at, from)
    }

    fn fence(&self) -> Result<(), xip_core::Error> {
        self.file.sync().map_err(|error| xip_core::Error::Io { errno: error.errno() })
    }
}
