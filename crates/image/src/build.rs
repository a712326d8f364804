//! A build from end to end: scan, size, names, layout, data, attributes, name.

use crate::data;
use crate::directory::Directory;
use crate::error::Error;
use crate::info::{self, Info};
use crate::layout::{HUGE, Layout};
use crate::names;
use crate::output::Output;
use crate::owner::{self, Owner};
use crate::pattern::Pattern;
use crate::progress::{Phase, Progress};
use crate::size::Need;
use crate::source::{NodeKind, Note, Source, Tree};
use std::path::Path;
use xip_core::{Alone, Timestamp};
use xip_ext2::{Format, InodeNo, Volume};
use xip_segment::MappedFile;

/// How an image is to be made. The default is what most want: as small as can be, owners as they are.
#[derive(Clone, Debug)]
pub struct Build {
    /// Bytes of the image, at least what the tree needs; rounded up to a multiple of 2 MiB. `None`: what the tree needs.
    pub size: Option<u64>,
    /// Bytes of room to leave for data.
    pub free: Option<u64>,
    /// The volume's name, at most 16 bytes.
    pub label: String,
    /// The volume's identity; `None`: made from names and attributes of the tree.
    pub uuid: Option<[u8; 16]>,
    /// Whose the files are.
    pub owner: Owner,
    /// Whose the root directory is, whatever `owner` says.
    pub root_owner: Option<(u32, u32)>,
    /// What to leave out.
    pub exclude: Vec<Pattern>,
    /// `SOURCE_DATE_EPOCH`: later times become this one.
    pub source_date_epoch: Option<i64>,
    /// Files of this many bytes of data and more start on a 2 MiB boundary. More than 2 MiB makes images denser that
    /// have many files just above it.
    pub align_from: u64,
    /// Wait until the image is on storage before it gets its name: a loss of power leaves the old one or the new one.
    pub sync: bool,
    /// Put an NVDIMM header in front of the volume, for hypervisors that want one: `xip_segment::nvdimm`.
    pub nvdimm_header: bool,
}

impl Default for Build {
    fn default() -> Self {
        Self {
            size: None,
            free: None,
            label: String::new(),
            uuid: None,
            owner: Owner::Keep,
            root_owner: None,
            exclude: Vec::new(),
            source_date_epoch: None,
            align_from: HUGE * 4096,
            sync: true,
            nvdimm_header: false,
        }
    }
}

/// Bytes of the largest image, a multiple of 2 MiB: the format counts blocks by 32 bits.
const LARGEST: u64 = ((1 << 32) - HUGE) * 4096;

/// What was built.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Summary {
    /// The image, as its reader sees it.
    #[serde(flatten)]
    pub info: Info,
    /// What was left out, and why.
    pub notes: Vec<Note>,
}

impl Build {
    /// Makes an image of the directory `source` at `image`, in place of what was there. Until it is complete nothing
    /// has that name, and a build that ends before leaves nothing.
    ///
    /// # Errors
    /// See [`Error`]; each names the file.
    pub fn run(&self, source: &Path, image: &Path, progress: &dyn Progress) -> Result<Summary, Error> {
        self.check()?;
        let mut directory = Directory::open(source, self.exclude.clone())?;
        let output = Output::create(image)?;
        let _old = output.lock_old_from_writers()?;
        for (device, inode) in output.identities() {
            directory.leave_out(device, inode);
        }
        self.run_from(&mut directory, image, output, progress)
    }

    fn check(&self) -> Result<(), Error> {
        if self.label.len() > 16 {
            let what = format!("{:?} has {} bytes, more than the 16 of the format", self.label, self.label.len());
            return Err(Error::Option { option: "label", what });
        }
        if self.size.is_some() && self.free.is_some() {
            return Err(Error::Option { option: "free", what: "a size is given too; leave out one of them".into() });
        }
        if self.size.max(self.free).is_some_and(|bytes| bytes > LARGEST) {
            return Err(Error::TooLarge { what: "it needs more than 16 TiB" });
        }
        if let Owner::Map { users, groups } = &self.owner {
            for (option, ranges) in [("map-user", users), ("map-group", groups)] {
                owner::check(ranges).map_err(|what| Error::Option { option, what })?;
            }
        }
        Ok(())
    }

    fn run_from(
        &self,
        source: &mut dyn Source,
        image: &Path,
        output: Output,
        progress: &dyn Progress,
    ) -> Result<Summary, Error> {
        let mut tree = source.tree(progress)?;
        self.owner.apply(&mut tree, self.root_owner);

        let fail = |error| Error::Volume { image: image.into(), error };
        let Named { volume, inodes, need, layout } = self.name(&tree, image, &output, progress)?;
        progress.phase(Phase::Data, tree.data_bytes());
        data::copy(source, &tree, &volume, &inodes, &need, &layout, progress)
            .map_err(|error| storage_full(error, &volume, &output))?;
        names::finish(&volume, &tree, &inodes, self.source_date_epoch)?;
        volume.sync().map_err(fail)?;
        // By the reader, not from the plan: the writer and the reader check each other.
        let info = info::inspect(&volume, image, volume.geometry().bytes())?;
        drop(volume);
        if self.sync {
            progress.phase(Phase::Sync, info.bytes);
            output.sync()?;
        }
        output.publish(self.sync)?;
        Ok(Summary { info, notes: tree.notes })
    }

    /// A volume of the right size with everything on it but data, and where the data is to stand.
    fn name(&self, tree: &Tree, image: &Path, output: &Output, progress: &dyn Progress) -> Result<Named, Error> {
        let fail = |error| Error::Volume { image: image.into(), error };
        let mut need = Need::of(tree, self.free.unwrap_or(0), self.align_from)?;
        let mut blocks = need.smallest(0)?;
        for attempt in 0u32.. {
            if let Some(size) = self.size {
                if blocks * 4096 > size {
                    return Err(Error::TooSmall { size, needed: blocks * 4096 });
                }
                blocks = size.div_ceil(4096).next_multiple_of(HUGE);
            }
            progress.phase(Phase::Names, tree.names.len() as u64);
            let volume = self.format(tree, blocks, need.inodes, image, output)?;
            let free_blocks = || volume.statfs().map(|statfs| u64::from(statfs.free_blocks)).map_err(fail);
            let before = free_blocks()?;
            match names::create(&volume, tree, progress).map_err(|error| storage_full(error, &volume, output)) {
                Err(Error::File { error: xip_ext2::Error::NoSpace, .. }) => {}
                Err(error) => return Err(error),
                Ok(inodes) => {
                    let mut free = Vec::new();
                    let mut each = |run: std::ops::Range<u32>| free.push(u64::from(run.start)..u64::from(run.end));
                    volume.free_runs(&mut each).map_err(fail)?;
                    if let Ok(layout) = need.place(volume.geometry(), &free) {
                        return Ok(Named { volume, inodes, need, layout });
                    }
                }
            }
            // Once more, with what the names really took; and if that was known, with more room each time.
            let known = need.names;
            need.names = known.max(before - free_blocks()?);
            let more = if need.names > known { 0 } else { HUGE << attempt.min(16) };
            blocks = need.smallest(blocks + more)?;
        }
        Err(Error::TooLarge { what: "no size that was tried would do" })
    }

    fn format(
        &self,
        tree: &Tree,
        blocks: u64,
        inodes: u32,
        image: &Path,
        output: &Output,
    ) -> Result<Volume<MappedFile, Alone>, Error> {
        let uuid = self.uuid.unwrap_or_else(|| identity(tree, &self.label));
        let mut label = [0; 16];
        label[..self.label.len()].copy_from_slice(self.label.as_bytes());
        let root = &tree.nodes[0];
        let format = Format {
            blocks,
            inodes,
            uuid,
            label,
            hash_seed: uuid,
            root_permissions: root.permissions,
            root_owner: (root.uid, root.gid),
        };
        // Nothing from the clock. Nor from the tree: its newest time may lie ahead, which e2fsck calls a fault of the volume.
        let time = Timestamp { seconds: self.source_date_epoch.unwrap_or(0), nanoseconds: 0 };
        let create = if self.nvdimm_header { MappedFile::create_behind_header } else { MappedFile::create };
        let device = create(output.file()?, blocks).map_err(|error| Error::Image {
            image: image.into(),
            what: "map the image",
            error: std::io::Error::from_raw_os_error(error.errno()),
        })?;
        Volume::format(device, Alone::at(time), &format).map_err(|error| match error {
            xip_ext2::Error::NoSpace => output.no_room(blocks * 4096),
            error => Error::Volume { image: image.into(), error },
        })
    }
}

/// A volume that has free blocks and yet no space: it is the storage under it that is full.
fn storage_full(error: Error, volume: &Volume<MappedFile, Alone>, output: &Output) -> Error {
    match error {
        Error::File { error: xip_ext2::Error::NoSpace, .. }
            if volume.statfs().is_ok_and(|statfs| statfs.free_blocks > 0) =>
        {
            output.no_room(volume.geometry().bytes())
        }
        error => error,
    }
}

struct Named {
    volume: Volume<MappedFile, Alone>,
    inodes: Vec<InodeNo>,
    need: Need,
    layout: Layout,
}

/// An identity that is the same for the same tree: 128 bits of FNV-1a over everything but data, marked as a UUID of the
/// kind whose making is one's own affair (version 8).
fn identity(tree: &Tree, label: &str) -> [u8; 16] {
    let mut hash = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128;
    let mut add = |bytes: &[u8]| {
        // The length too, so that what stands side by side cannot be cut elsewhere.
        for &byte in (bytes.len() as u64).to_le_bytes().iter().chain(bytes) {
            hash = (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
    };
    add(label.as_bytes());
    for name in &tree.names {
        add(&name.name);
        add(&name.parent.0.to_le_bytes());
        add(&name.node.0.to_le_bytes());
    }
    for node in &tree.nodes {
        add(&node.permissions.to_le_bytes());
        add(&node.uid.to_le_bytes());
        add(&node.gid.to_le_bytes());
        add(&node.mtime.seconds.to_le_bytes());
        add(&node.mtime.nanoseconds.to_le_bytes());
        match &node.kind {
            NodeKind::Regular { size, .. } => add(&size.to_le_bytes()),
            NodeKind::Symlink(target) => add(target),
            _ => add(&[]),
        }
        for (name, value) in &node.xattrs {
            add(name);
            add(value);
        }
    }
    let mut uuid = hash.to_be_bytes();
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}
