//! What is in an image: its shape, and how well it serves execution in place.
//!
//! Everything is read by `xip-ext2`, and every walk has a bound that comes from the geometry: an image from a stranger
//! gives an error, not a hang.

use crate::error::Error;
use serde::Serialize;
use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use xip_core::{Create, Device, Env, Extent, Frozen, Mapping, PageIndex};
use xip_ext2::{Geometry, Goal, InodeNo, Kind, Volume};
use xip_segment::{Access, MappedFile};

const HUGE: u64 = crate::layout::HUGE;

/// An image, looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Info {
    /// The image.
    pub image: PathBuf,
    /// Its bytes.
    pub bytes: u64,
    /// The volume's name.
    pub label: String,
    /// The volume's identity.
    pub uuid: String,
    /// Its shape.
    pub geometry: Shape,
    /// Features, by the names that `dumpe2fs` uses.
    pub features: Vec<String>,
    /// Why files of it cannot be used in place; `None`: they can.
    pub not_in_place: Option<String>,
    /// How many files of each kind.
    pub files: Files,
    /// How the data stands.
    pub runs: Runs,
    /// How much of it is data.
    pub density: Density,
}

/// The shape of a volume.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Shape {
    /// Bytes in a block.
    pub block_size: u32,
    /// Blocks.
    pub blocks: u32,
    /// Block groups.
    pub groups: u32,
    /// Blocks in a group.
    pub blocks_per_group: u32,
    /// Inodes.
    pub inodes: u32,
    /// Inodes that no file has.
    pub free_inodes: u32,
    /// Bytes in an inode.
    pub inode_size: u16,
}

/// How many files of each kind, hard links once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Files {
    /// Regular files.
    pub regular: u64,
    /// Directories, with the root.
    pub directories: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Block and character devices.
    pub devices: u64,
    /// Named pipes.
    pub fifos: u64,
    /// Sockets.
    pub sockets: u64,
    /// Names beyond the first of a file.
    pub hard_links: u64,
}

/// How the data of regular files stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Runs {
    /// Files without data.
    pub empty: u64,
    /// Files whose data is one run.
    pub one_run: u64,
    /// Files whose data is in several.
    pub cut: u64,
    /// Files with holes in them.
    pub sparse: u64,
    /// Files of which at least 2 MiB can be mapped by pages of 2 MiB.
    pub huge_files: u64,
    /// How many pages of 2 MiB that makes.
    pub huge_pages: u64,
    /// Files with 2 MiB of data or more, which could have such pages.
    pub large_files: u64,
}

/// How the blocks of a volume are used.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Density {
    /// Bytes of data in regular files, to the end of each file.
    pub content_bytes: u64,
    /// Blocks that hold them.
    pub data_blocks: u64,
    /// Blocks of directories, pointers, long links and attributes.
    pub metadata_blocks: u64,
    /// Blocks of the format itself: superblocks, bitmaps, inode tables.
    pub format_blocks: u64,
    /// Blocks that no one has.
    pub free_blocks: u64,
    /// Free blocks for each hundred of data: what an image could be smaller by.
    pub free_percent: f64,
    /// Bytes of content for each byte of the image, from 0 to 1.
    pub content_share: f64,
}

/// What is tried first, as errors say it.
pub(crate) const OPEN: &str = "open the image";

/// Looks at an image.
///
/// # Errors
/// [`Error::Image`] when it cannot be opened, [`Error::Volume`] when it is no volume or a damaged one.
pub fn info(image: &Path) -> Result<Info, Error> {
    let fail = |what, error| Error::Image { image: image.into(), what, error };
    // Not to wait for the writer of a fifo: what is no file is refused below.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(image).map_err(|error| fail(OPEN, error))?;
    let bytes = file.metadata().map_err(|error| fail("look at the image", error))?.len();
    let device = MappedFile::open(file, Access::ReadOnly)?;
    let volume = Volume::open(device, Frozen).map_err(|error| Error::Volume { image: image.into(), error })?;
    inspect(&volume, image, bytes)
}

/// Looks at a volume.
pub(crate) fn inspect<D: Device, E: Env>(volume: &Volume<D, E>, image: &Path, bytes: u64) -> Result<Info, Error> {
    let fail = |error| Error::Volume { image: image.into(), error };
    let statfs = volume.statfs().map_err(fail)?;
    let geometry = volume.geometry();
    let not_in_place = volume.in_place().err().map(|error| error.to_string());
    let mut walk = Walk {
        volume,
        in_place: not_in_place.is_none(),
        files: Files::default(),
        runs: Runs::default(),
        density: Density::default(),
        steps: 4 * u64::from(geometry.blocks) + 16 * u64::from(geometry.inodes),
    };
    walk.run().map_err(fail)?;
    let (files, runs, mut density) = (walk.files, walk.runs, walk.density);
    density.format_blocks = geometry.overhead();
    density.free_blocks = statfs.free_blocks.into();
    let used = u64::from(geometry.blocks).saturating_sub(density.free_blocks);
    density.metadata_blocks = used.saturating_sub(density.data_blocks + density.format_blocks);
    density.free_percent = percent(density.free_blocks, density.data_blocks);
    density.content_share = percent(density.content_bytes, bytes) / 100.0;
    let name = statfs.label.split(|&b| b == 0).next().unwrap_or_default();
    Ok(Info {
        image: image.into(),
        bytes,
        label: String::from_utf8_lossy(name).into_owned(),
        uuid: uuid(&statfs.uuid),
        geometry: Shape {
            block_size: geometry.block_size,
            blocks: geometry.blocks,
            groups: geometry.groups,
            blocks_per_group: geometry.blocks_per_group,
            inodes: geometry.inodes,
            free_inodes: statfs.free_inodes,
            inode_size: geometry.inode_size,
        },
        features: features(geometry),
        not_in_place,
        files,
        runs,
        density,
    })
}

struct Walk<'a, D, E> {
    volume: &'a Volume<D, E>,
    in_place: bool,
    files: Files,
    runs: Runs,
    density: Density,
    /// What may still be looked at. A sound volume has fewer entries, runs and holes than this; one that has more
    /// leads in circles.
    steps: u64,
}

impl<D: Device, E: Env> Walk<'_, D, E> {
    fn run(&mut self) -> Result<(), xip_ext2::Error> {
        let mut seen = HashSet::from([InodeNo::ROOT]);
        let mut directories = vec![InodeNo::ROOT];
        self.files.directories = 1;
        let inodes = self.volume.geometry().inodes;
        while let Some(directory) = directories.pop() {
            let mut fresh = Vec::new();
            let mut linked = 0;
            // An entry has at least 12 bytes: a page of names is some 340 of them.
            let limit = self.steps.saturating_mul(340);
            let mut count = 0;
            self.volume.read_dir(directory, 0, &mut |entry| {
                count += 1;
                if matches!(entry.name, b"." | b"..") {
                    return true;
                }
                // A number out of range is met again below, as an error.
                if seen.insert(entry.ino) {
                    fresh.push(entry.ino);
                } else {
                    linked += 1;
                }
                entry.ino.0 <= inodes && count < limit
            })?;
            self.step(count / 340 + 1)?;
            self.files.hard_links += linked;
            for number in fresh {
                let inode = self.volume.inode(number)?;
                match inode.kind {
                    Kind::Directory => {
                        self.files.directories += 1;
                        directories.push(number);
                    }
                    Kind::Regular => {
                        self.files.regular += 1;
                        self.file(number, inode.size)?;
                    }
                    Kind::Symlink => self.files.symlinks += 1,
                    Kind::Block | Kind::Character => self.files.devices += 1,
                    Kind::Fifo => self.files.fifos += 1,
                    Kind::Socket => self.files.sockets += 1,
                }
            }
        }
        Ok(())
    }

    fn step(&mut self, by: u64) -> Result<(), xip_ext2::Error> {
        let left = self.steps.checked_sub(by);
        self.steps =
            left.ok_or(xip_ext2::Error::Corrupt { what: "files share blocks or lead in circles", inode: 0, at: 0 })?;
        Ok(())
    }

    fn file(&mut self, number: InodeNo, size: u64) -> Result<(), xip_ext2::Error> {
        if !self.in_place {
            return Ok(());
        }
        let file = self.volume.file_in_place(number, Goal::default())?;
        let pages = PageIndex::count(size).0;
        let mut at = 0;
        let (mut runs, mut data, mut huge, mut holes) = (0u64, 0u64, 0u64, false);
        // The run that is being followed: its first page in the file and in storage, and its length.
        let mut run: Option<(u64, u64, u64)> = None;
        let close = |run: Option<(u64, u64, u64)>, huge: &mut u64| {
            if let Some((index, page, count)) = run {
                *huge += huge_pages(index, page, count);
            }
        };
        while at < pages {
            match file.mapping().get_xip_pages(PageIndex(at), pages - at, Create::No)? {
                Extent::Hole(count) => {
                    holes = true;
                    self.step(1)?;
                    at += count.max(1);
                }
                Extent::Storage(found) => {
                    let count = found.count.min(pages - at);
                    self.step(count)?;
                    let end = ((at + count) * 4096).min(size);
                    self.density.content_bytes += end - at * 4096;
                    data += count;
                    run = match run {
                        Some((index, page, length)) if page + length == found.first.0 => {
                            // A hole in between does not make it two runs, but moves what a page of 2 MiB can map.
                            if index + length == at {
                                Some((index, page, length + count))
                            } else {
                                close(run, &mut huge);
                                Some((at, found.first.0, count))
                            }
                        }
                        _ => {
                            close(run, &mut huge);
                            runs += 1;
                            Some((at, found.first.0, count))
                        }
                    };
                    at += count;
                }
            }
        }
        close(run, &mut huge);
        self.density.data_blocks += data;
        match runs {
            0 => self.runs.empty += 1,
            1 => self.runs.one_run += 1,
            _ => self.runs.cut += 1,
        }
        self.runs.sparse += u64::from(holes);
        self.runs.large_files += u64::from(data >= HUGE);
        self.runs.huge_files += u64::from(huge > 0);
        self.runs.huge_pages += huge;
        Ok(())
    }
}

/// How many pages of 2 MiB map a run: where file and storage agree modulo 2 MiB (contract 4).
fn huge_pages(index: u64, page: u64, count: u64) -> u64 {
    if index % HUGE != page % HUGE {
        return 0;
    }
    let first = index.next_multiple_of(HUGE);
    (index + count).saturating_sub(first) / HUGE
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

fn uuid(bytes: &[u8; 16]) -> String {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

fn features(geometry: &Geometry) -> Vec<String> {
    const COMPAT: [(u32, &str); 6] = [
        (0x1, "dir_prealloc"),
        (0x2, "imagic_inodes"),
        (0x4, "has_journal"),
        (0x8, "ext_attr"),
        (0x10, "resize_inode"),
        (0x20, "dir_index"),
    ];
    const INCOMPAT: [(u32, &str); 1] = [(0x2, "filetype")];
    const RO_COMPAT: [(u32, &str); 3] = [(0x1, "sparse_super"), (0x2, "large_file"), (0x4, "btree_dir")];
    let mut found = Vec::new();
    for (set, known, kind) in [
        (geometry.compat, &COMPAT[..], "compat"),
        (geometry.incompat, &INCOMPAT[..], "incompat"),
        (geometry.ro_compat, &RO_COMPAT[..], "ro_compat"),
    ] {
        for bit in (0..32).map(|n| 1u32 << n).filter(|bit| set & bit != 0) {
            let name = known.iter().find(|(known, _)| *known == bit).map(|(_, name)| (*name).to_owned());
            found.push(name.unwrap_or_else(|| format!("{kind}:{bit:#x}")));
        }
    }
    found
}
