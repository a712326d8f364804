//! The checker: finds what is wrong with a volume, and mends what a crash may leave (contract 7).
//!
//! | module | what it looks at |
//! |---|---|
//! | `finding` | what can be found, and whether it can be mended |
//! | `memory` | what it has to remember: a few bytes for each inode, two bits for each block |
//! | `shape` | superblock, descriptors and their copies |
//! | `tree` | names: every directory that the root reaches |
//! | `directory`, `index` | one directory: its entries, its index |
//! | `inode`, `blocks` | one inode: its fields, its blocks |
//! | `attributes` | extended attributes, in the inode and in blocks that inodes share |
//! | `table` | all inodes: which nobody names, and their link counts |
//! | `completed` | the volume as it will be when a rename that was under way is completed |
//! | `bitmap` | bitmaps and counters against what was found |
//!
//! A check is one pass: names first, since an inode that nobody names is leaked whatever it holds; then all inodes,
//! which claim their blocks; then bitmaps and counters. A repair is a second pass over a volume on which the first found
//! nothing but leaks: it mends what it finds as it goes. That order is itself safe against a crash: pointers go, durable,
//! before the bits of what they pointed at; the volume is called clean last. What is left in between are leaks again.
//!
//! A volume with any damage is not mended at all: what seems leaked may be what the damaged thing has lost.
//!
//! `e2fsck -fn` says the same of a volume, clean or not, with few exceptions:
//!
//! * It says nothing of a volume that was not closed, of a list of files deleted while open, of an operation that was under
//!   way, of copies of the superblock and descriptors that differ from the first, and of a size of a file that `i_blocks` could
//!   not count.
//! * Where the descriptors cannot be right it takes a copy of them, and says nothing if that is whole. The kernel does not.
//! * It says nothing of a zero byte in the name of an attribute in an inode. The kernel then reads no attribute of that inode.
//! * In an index of two levels it does not compare a leaf with the root, by which a name may not be found.
//! * Nothing is said here of a name that stands twice in a directory, but in different blocks, nor of times of files.
//! * Bad blocks are damage here, and so is whatever is odd in the reserved inodes. Volumes with features beside `ext_attr`, `dir_index`, `resize_inode`, `filetype`,
//!   `sparse_super` and `large_file` are refused.
//!
//! Every loop is bounded by the geometry: a block is read as part of a file, or followed, only by the first who claims
//! it, and a directory is walked once.

mod attributes;
mod bitmap;
mod blocks;
mod completed;
mod directory;
mod finding;
mod index;
mod inode;
mod memory;
mod shape;
mod table;
mod tree;

pub use finding::{Class, Finding};

use crate::error::Error;
use crate::geometry::{Geometry, Group};
use crate::raw::{RawGroup, RawInode};
use crate::volume::Volume;
use completed::Completed;
use memory::Memory;
use xip_core::{Alone, Device};

/// How to check.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Mend what can be mended without loss.
    pub repair: bool,
    /// The time now, in seconds since 1970, to tell times of the volume that lie ahead; `None`: do not look.
    pub now: Option<u64>,
}

/// What came out of a check.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// Findings of [`Class::Leak`].
    pub leaks: u64,
    /// Findings of [`Class::Damage`].
    pub damages: u64,
    /// The leaks are mended.
    pub mended: bool,
}

impl Summary {
    /// Whether nothing is wrong with the volume, now: it was not, or it was mended.
    pub fn is_clean(&self) -> bool {
        self.damages == 0 && (self.leaks == 0 || self.mended)
    }
}

/// Bytes of memory that [`check`] wants for the volume on this device.
///
/// # Errors
/// As [`check`].
pub fn memory_wanted<D: Device>(device: &D) -> Result<usize, Error> {
    match shape::read(device)? {
        Ok(geometry) => Memory::wanted(&geometry).ok_or(TOO_LARGE),
        // Nothing is needed to say so.
        Err(_) => Ok(0),
    }
}

const TOO_LARGE: Error = Error::Unsupported("the volume is too large to be checked by this machine");

/// Checks the volume on `device`, which nobody else may use meanwhile, and mends it if `options` say so and nothing but
/// leaks was found. `memory` has at least [`memory_wanted`] bytes; what is in it does not matter. `report` is called for
/// each finding.
///
/// # Errors
/// [`Error::NotExt2`]; [`Error::UnknownFeature`], [`Error::NeedsRecovery`] and [`Error::Unsupported`] for a volume with features that
/// only `e2fsck` can check; [`Error::ReadOnly`] for a repair on a device that cannot be written; what the device says. Damage is not an
/// error but a finding.
pub fn check<D: Device>(
    device: &D,
    memory: &mut [u8],
    options: &Options,
    report: &mut dyn FnMut(&Finding),
) -> Result<Summary, Error> {
    let geometry = match shape::read(device)? {
        Ok(geometry) => geometry,
        Err(error) => {
            report(&Finding::Volume(error));
            return Ok(Summary { damages: 1, ..Summary::default() });
        }
    };
    if options.repair && !device.properties().writable {
        return Err(Error::ReadOnly { reason: "its device is" });
    }
    let completed = Completed::new(device)?;
    let mut pass = Pass::new(&completed, geometry, memory, options, false, report)?;
    if completed.has_intent() {
        pass.found(Finding::Intent);
    }
    pass.run()?;
    let mut summary = pass.summary;
    if options.repair && summary.leaks > 0 && summary.damages == 0 {
        // What was under way is completed when a volume is opened to be written.
        let _ = Volume::open(device, Alone::default())?;
        Pass::new(&Completed::new(device)?, geometry, memory, options, true, &mut |_| {})?.run()?;
        summary.mended = true;
    }
    Ok(summary)
}

/// One pass over a volume.
struct Pass<'a, D> {
    device: &'a D,
    geometry: Geometry,
    memory: Memory<'a>,
    now: Option<u64>,
    /// What is found is mended. Only on a volume that has leaks and nothing else.
    mend: bool,
    report: &'a mut dyn FnMut(&Finding),
    summary: Summary,
}

impl<'a, D: Device> Pass<'a, D> {
    fn new(
        device: &'a D,
        geometry: Geometry,
        memory: &'a mut [u8],
        options: &Options,
        mend: bool,
        report: &'a mut dyn FnMut(&Finding),
    ) -> Result<Self, Error> {
        let memory = Memory::new(memory, &geometry)
            .ok_or(xip_core::Error::Invalid("the memory for a check is smaller than memory_wanted says"))?;
        Ok(Self { device, geometry, memory, now: options.now, mend, report, summary: Summary::default() })
    }

    fn run(&mut self) -> Result<(), Error> {
        self.check_super()?;
        for group in 0..self.geometry.groups {
            if let Err(error) = self.group(group) {
                // Where the inodes are is not known: nothing else can be looked at.
                self.found(Finding::Volume(error));
            }
        }
        if self.summary.damages > 0 {
            return Ok(());
        }
        self.check_copies()?;
        self.claim_format()?;
        self.find_kinds()?;
        self.walk_names()?;
        self.check_table()?;
        self.check_owners()?;
        // Rule 2 of contract 7: what is given back below is not pointed at any more, durably.
        self.settle()?;
        self.check_bitmaps()?;
        self.settle()?;
        self.check_state()
    }

    fn found(&mut self, finding: Finding) {
        match finding.class() {
            Class::Leak => self.summary.leaks += 1,
            Class::Damage => self.summary.damages += 1,
        }
        (self.report)(&finding);
    }

    fn damage(&mut self, what: &'static str, inode: u32, at: u64) {
        self.found(Finding::Damaged { what, inode, at });
    }

    /// Stores what mends a finding, if this is the pass that mends.
    fn mend(&self, at: u64, bytes: &[u8]) -> Result<(), Error> {
        if self.mend {
            self.device.write(at, bytes)?;
            self.device.flush(at, bytes.len() as u64)?;
        }
        Ok(())
    }

    fn settle(&self) -> Result<(), Error> {
        if self.mend { Ok(self.device.fence()?) } else { Ok(()) }
    }

    fn group(&self, group: u32) -> Result<Group, Error> {
        let raw = self.raw_group(group)?;
        Group::check(&raw, &self.geometry, group)
    }

    fn raw_group(&self, group: u32) -> Result<RawGroup, Error> {
        let mut raw = RawGroup::default();
        self.device.read(self.geometry.descriptor_at(group), &mut raw.0)?;
        Ok(raw)
    }

    fn block_size(&self) -> usize {
        self.geometry.block_size as usize
    }

    /// Reads a block into the front of `to`: its bytes.
    fn read<'b>(&self, block: u32, to: &'b mut [u8; 4096]) -> Result<&'b mut [u8], Error> {
        let bytes = &mut to[..self.block_size()];
        self.device.read(self.geometry.byte(block), bytes)?;
        Ok(bytes)
    }

    /// Byte address of an inode, whose number is in range.
    fn inode_at(&self, number: u32) -> Result<u64, Error> {
        let (group, index) =
            ((number - 1) / self.geometry.inodes_per_group, (number - 1) % self.geometry.inodes_per_group);
        let table = self.group(group)?.inode_table;
        Ok(self.geometry.byte(table) + u64::from(index) * u64::from(self.geometry.inode_size))
    }

    fn raw_inode(&self, number: u32) -> Result<RawInode, Error> {
        let mut raw = RawInode::default();
        let len = RawInode::LEN.min(self.geometry.inode_size.into());
        self.device.read(self.inode_at(number)?, &mut raw.0[..len])?;
        Ok(raw)
    }
}
