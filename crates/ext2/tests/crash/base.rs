//! The small volumes that sequences begin with, and the operations that are tried on them.

use crate::ops::{Disk, Op, find};
use crate::recorder::Recorder;
use crate::tree::{Body, Tree, split};
use Op::*;
use std::process::Command;
use std::rc::Rc;
use xip_core::ops::Durable::{All, Data, No};
use xip_core::{Alone, PAGE_SIZE, Timestamp};
use xip_ext2::{Format, Volume};

pub const NOW: Timestamp = Timestamp { seconds: 1_700_000_000, nanoseconds: 123_456_789 };
/// Times that need all of their bits: seconds before 1970 and after 2038.
const LONG_AGO: Timestamp = Timestamp { seconds: -1_000_000_007, nanoseconds: 999_999_999 };
const LATER: Timestamp = Timestamp { seconds: 5_000_000_000, nanoseconds: 1 };
/// Names of this length fill a block of a directory with 16 of them.
const NAME: usize = 240;

/// Which volume.
#[derive(Clone, Copy, Debug)]
pub enum World {
    /// One of each kind of file.
    Files,
    /// Directories in which one more name needs an index, or a new block in it.
    Names,
    /// As `Files`, and two blocks are free: what one file loses the next one gets, or the operation fails.
    Full,
    /// A file that has pointers to pointers to pointers.
    Deep,
    /// Four groups of blocks and inodes, files and directories in more than one of them.
    Groups,
    /// A directory whose index is full: with one more block of names it has two levels.
    Index,
    /// A directory whose index has two levels, and a block of it that is full.
    Levels,
}

pub struct Base {
    pub image: Vec<u8>,
    pub tree: Tree,
    /// Operations may find no space.
    pub full: bool,
}

impl Base {
    pub fn new(world: World) -> Self {
        let device = Recorder::new(&world.empty());
        let mut volume: Disk<'_> = Volume::open(&device, Alone::at(NOW)).unwrap();
        let mut tree = Tree::new();
        for op in world.content() {
            op.run(&mut volume).unwrap_or_else(|error| panic!("{op:?}: {error}"));
            tree = op.expect(&tree).unwrap().after;
        }
        let names = match world {
            World::Index => GROWS,
            World::Levels => SPLITS,
            _ => 0,
        };
        for n in 0..names {
            let (directory, file) = (find(&volume, "/index").unwrap(), find(&volume, "/b").unwrap());
            volume.link(directory, split(long("/index", n)).1.as_bytes(), file).unwrap();
            tree.link("/b", long("/index", n)).unwrap();
        }
        volume.sync().unwrap();
        // All of it is durable.
        for node in tree.nodes.values_mut() {
            if let Body::File(data) = &mut node.body {
                data.versions = vec![Rc::new(data.newest())];
            }
        }
        if let World::Full = world {
            assert_eq!(volume.statfs().unwrap().free_blocks, 2);
        }
        if let World::Names = world {
            // One block without an index; one of the index and two of names.
            assert_eq!(
                ["/full", "/index"].map(|path| volume.inode(find(&volume, path).unwrap()).unwrap().size),
                [4096, 12288]
            );
        }
        if let World::Groups = world {
            // 16 inodes and 256 blocks each.
            let group = |path| (find(&volume, path).unwrap().0 - 1) / 16;
            let all = ["/d1", "/d1/x", "/d2", "/d2/y", "/d3"].map(group);
            assert!(all.iter().collect::<std::collections::BTreeSet<_>>().len() > 1, "{all:?}");
        }
        let image = device.bytes();
        if names > 0 {
            // One more name takes a block for itself, and one for the index.
            let device = Recorder::new(&image);
            let volume: Disk<'_> = Volume::open(&device, Alone::at(NOW)).unwrap();
            let size = || volume.inode(find(&volume, "/index").unwrap()).unwrap().size;
            let before = size();
            volume
                .link(
                    find(&volume, "/index").unwrap(),
                    split(long("/index", names)).1.as_bytes(),
                    find(&volume, "/b").unwrap(),
                )
                .unwrap();
            assert_eq!(size() - before, 2 * PAGE_SIZE as u64);
        }
        Self { image, tree, full: matches!(world, World::Full) }
    }
}

/// A long name in a directory.
fn long(directory: &str, n: usize) -> &'static str {
    format!("{directory}/{n:n>NAME$}").leak()
}

/// The longest name, in a directory whose two free neighbours have room for it together.
const GAP: &str = concat!(
    "/gap/",
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde"
);

/// The page of `/deep` whose way is three pointers long, and one with the last block of pointers in common.
const FAR: usize = (12 + 1024 + 3) * PAGE_SIZE;

/// Names in `/index`: one more goes into a block that is full.
const INDEXED: usize = 30;

/// Names in `/index` with which its index is full: with one more it gets a second level.
const GROWS: usize = 5700;
/// Names in `/index` with which a block of the lower level is full: one more splits it.
const SPLITS: usize = 5742;

impl World {
    pub const ALL: [Self; 4] = [Self::Names, Self::Full, Self::Deep, Self::Files];
    /// Those of which an image takes longer, and how many are tried for each moment.
    pub const LARGE: [(Self, usize); 3] = [(Self::Groups, 200), (Self::Index, 6), (Self::Levels, 6)];

    /// A volume with nothing in it. What is free is not zeros: what an operation does not write itself shows, as another file's bytes
    /// would.
    fn empty(self) -> Vec<u8> {
        let blocks = match self {
            Self::Files | Self::Names | Self::Deep => 64,
            Self::Full => 24,
            Self::Groups => 1024,
            Self::Index | Self::Levels => 1200,
        };
        let bytes = vec![0xee; blocks * PAGE_SIZE];
        if let Self::Groups = self {
            return foreign(&bytes);
        }
        let device = Recorder::new(&bytes);
        let format = Format {
            blocks: blocks as u64,
            inodes: 48,
            uuid: *b"0123456789abcdef",
            label: *b"test\0\0\0\0\0\0\0\0\0\0\0\0",
            hash_seed: *b"seedseedseedseed",
            root_permissions: 0o755,
            root_owner: (0, 0),
        };
        let mut volume: Disk<'_> = Volume::format(&device, Alone::at(NOW), &format).unwrap();
        volume.close().unwrap();
        device.bytes()
    }

    fn content(self) -> Vec<Op> {
        match self {
            Self::Files | Self::Full => vec![
                Create("/a"),
                Write("/a", 0, 4096 + 100, No),
                Create("/b"),
                Write("/b", 0, 300, No),
                Link("/b", "/b2"),
                Create("/sparse"),
                Write("/sparse", 0, 4096, No),
                Write("/sparse", 12 * 4096, 2 * 4096, No),
                Mkdir("/d"),
                Create("/d/x"),
                Write("/d/x", 0, 50, No),
                Mkdir("/d/sub"),
                Create("/d/sub/y"),
                Write("/d/sub/y", 0, 60, No),
                Mkdir("/e"),
                Symlink("/s", 20),
                Symlink("/long", 100),
                Create("/attr"),
                SetAttribute("/attr", "user.small", 20),
                SetAttribute("/attr", "user.big", 300),
            ],
            Self::Deep => vec![
                Create("/deep"),
                Write("/deep", 0, 100, No),
                Write("/deep", 13 * 4096, 5000, No),
                Write("/deep", FAR, 4096, No),
                Create("/b"),
                Write("/b", 0, 300, No),
            ],
            Self::Groups => vec![
                Create("/big"),
                Write("/big", 0, 270 * 4096, No),
                Mkdir("/d1"),
                Create("/d1/x"),
                Write("/d1/x", 0, 5000, No),
                SetAttribute("/d1/x", "user.big", 300),
                // The rest of the inodes of the first group.
                Symlink("/s1", 20),
                Symlink("/s2", 20),
                Symlink("/s3", 100),
                Mkdir("/d2"),
                Create("/d2/y"),
                Write("/d2/y", 0, 100, No),
                Link("/d2/y", "/d1/y"),
                Mkdir("/d3"),
                Mkdir("/d3/sub"),
            ],
            Self::Index | Self::Levels => vec![Create("/a"), Create("/b"), Mkdir("/index")],
            Self::Names => {
                let mut ops = vec![Create("/a"), Create("/b"), Mkdir("/full"), Mkdir("/index")];
                ops.extend((0..16).map(|n| Link("/a", long("/full", n))));
                ops.extend((0..INDEXED).map(|n| Link("/b", long("/index", n))));
                // Full but for two neighbours, neither of which has room for a longer name.
                ops.push(Mkdir("/gap"));
                ops.extend((0..16).map(|n| Link("/a", long("/gap", n))));
                ops.extend([Unlink(long("/gap", 5)), Unlink(long("/gap", 6))]);
                ops
            }
        }
    }

    /// The operations that are tried.
    pub fn operations(self) -> Vec<Op> {
        match self {
            Self::Files => vec![
                Create("/new"),
                Create("/d/new"),
                CreateUnnamed("/d/whole", 5000),
                Mkdir("/made"),
                Mkdir("/d/made"),
                Link("/a", "/link"),
                Link("/b", "/d/link"),
                Symlink("/fast", 30),
                Symlink("/slow", 100),
                Unlink("/a"),
                Unlink("/b"),
                Unlink("/sparse"),
                Unlink("/long"),
                Unlink("/attr"),
                Unlink("/d/x"),
                Rmdir("/e"),
                Rmdir("/d"),
                Rename("/b", "/renamed"),
                Rename("/a", "/d/moved"),
                Rename("/a", "/b"),
                Rename("/d/x", "/a"),
                Rename("/b", "/b2"),
                Rename("/d/sub", "/moved"),
                Rename("/d/sub", "/e"),
                Rename("/e", "/d/sub"),
                Rename("/d", "/d/sub/in"),
                RenameNoReplace("/a", "/fresh"),
                RenameNoReplace("/a", "/b"),
                Exchange("/a", "/b"),
                Exchange("/a", "/d/x"),
                Exchange("/a", "/e"),
                Exchange("/d/sub", "/e"),
                Exchange("/d", "/d/sub"),
                Write("/a", 0, 4096, No),
                Write("/a", 4000, 150, No),
                Write("/a", 4000, 150, Data),
                Write("/b", 10, 100, All),
                Write("/b", 5000, 100, No),
                Write("/sparse", 4096, 8192, No),
                Write("/sparse", 11 * 4096 + 100, 4096, Data),
                Append("/a", 200),
                Append("/b", 5000),
                Truncate("/a", 50),
                Truncate("/a", 4096),
                Truncate("/sparse", 0),
                Truncate("/sparse", 12 * 4096 + 10),
                Truncate("/b", 4096),
                Truncate("/b", 9000),
                Allocate("/b", 100, 6000),
                Allocate("/sparse", 4096, 8192),
                Punch("/a", 0, 4096),
                Punch("/sparse", 100, 13 * 4096),
                Punch("/sparse", 12 * 4096, 4096),
                Zero("/a", 4000, 400),
                SetAttribute("/a", "user.new", 10),
                SetAttribute("/a", "user.new", 500),
                SetAttribute("/attr", "user.small", 30),
                SetAttribute("/attr", "user.big", 20),
                SetAttribute("/attr", "user.other", 300),
                RemoveAttribute("/attr", "user.small"),
                RemoveAttribute("/attr", "user.big"),
                Chmod("/a", 0o600),
                Chmod("/b", 0o6755),
                Chmod("/sparse", 0o6755),
                SetTimes("/a", LONG_AGO, LATER),
                SetTimes("/d", LATER, LONG_AGO),
                Stray("/a"),
                Stray("/b"),
                Close,
            ],
            Self::Full => vec![
                Unlink("/a"),
                Unlink("/sparse"),
                Unlink("/attr"),
                Rmdir("/e"),
                Rename("/d/x", "/a"),
                Rename("/d/sub", "/e"),
                Truncate("/a", 50),
                Truncate("/sparse", 0),
                Punch("/sparse", 12 * 4096, 4096),
                RemoveAttribute("/attr", "user.big"),
                Create("/new"),
                Mkdir("/made"),
                Mkdir("/d/made"),
                Symlink("/slow", 100),
                Write("/b", 2 * 4096, 100, No),
                Write("/b", 20 * 4096, 4096, No),
                Write("/sparse", 4096, 4096, No),
                Allocate("/a", 8192, 4096),
                SetAttribute("/a", "user.new", 500),
                SetAttribute("/attr", "user.other", 300),
            ],
            Self::Deep => vec![
                Write("/deep", FAR - 4096, 3000, No),
                Truncate("/deep", FAR + 10),
                Truncate("/deep", FAR - 2 * 4096),
                Truncate("/deep", 13 * 4096 + 5),
                Truncate("/deep", 0),
                Punch("/deep", 14 * 4096 + 5, FAR),
                Unlink("/deep"),
                Write("/b", FAR, 100, No),
                // Over the first page that has a way of three pointers.
                Write("/deep", (12 + 1024) * PAGE_SIZE - 100, 200, No),
                Punch("/deep", (12 + 1024) * PAGE_SIZE, 4 * PAGE_SIZE),
            ],
            Self::Groups => vec![
                Create("/d2/new"),
                Mkdir("/made"),
                Mkdir("/d1/made"),
                Symlink("/d2/slow", 100),
                Link("/d1/x", "/d2/link"),
                Unlink("/big"),
                Unlink("/d1/x"),
                Rmdir("/d3/sub"),
                Rename("/d1/x", "/d2/x"),
                Rename("/d1/x", "/d2/y"),
                Rename("/d3/sub", "/d1/sub"),
                Exchange("/d1/x", "/d2/y"),
                Exchange("/d1/x", "/d3/sub"),
                Append("/big", 2 * 4096),
                Write("/d2/y", 300 * 4096, 100, No),
                Truncate("/big", 100),
                Punch("/big", 100 * 4096, 165 * 4096),
                SetAttribute("/d2/y", "user.new", 500),
            ],
            Self::Index => vec![
                Create(long("/index", GROWS)),
                Link("/a", long("/index", GROWS)),
                Rename("/a", long("/index", GROWS)),
                Unlink(long("/index", 7)),
            ],
            Self::Levels => vec![
                Create(long("/index", SPLITS)),
                Rename(long("/index", 7), long("/index", SPLITS)),
                Unlink(long("/index", 7)),
                Exchange("/a", long("/index", 8)),
            ],
            Self::Names => vec![
                Create(long("/full", 16)),
                Mkdir(long("/full", 17)),
                Create(long("/index", INDEXED)),
                Link("/a", long("/index", INDEXED + 1)),
                Create("/index/short"),
                Unlink(long("/full", 0)),
                Unlink(long("/index", 0)),
                Rename(long("/index", 1), long("/index", INDEXED + 2)),
                Rename(long("/full", 1), long("/index", INDEXED + 3)),
                Rename("/a", long("/full", 18)),
                Exchange(long("/full", 2), long("/index", 2)),
                Create(GAP),
                Rename(long("/gap", 4), GAP),
                Rename("/a", GAP),
                Unlink(long("/gap", 4)),
            ],
        }
    }
}

/// As small groups as `mke2fs` makes, which [`Format`] does not.
fn foreign(bytes: &[u8]) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let features = "none,filetype,sparse_super,large_file,ext_attr,dir_index";
    let options = "hash_seed=73656564-7365-6564-7365-656473656564";
    let made = Command::new("mke2fs")
        .args(["-q", "-F", "-t", "ext2", "-b", "4096", "-g", "256", "-N", "64", "-I", "256", "-m", "0", "-O", features])
        .args(["-U", "30313233-3435-3637-3839-616263646566", "-E", options])
        .arg(file.path())
        .env("E2FSPROGS_FAKE_TIME", NOW.seconds.to_string())
        .output()
        .expect("mke2fs: run cargo xtask setup");
    assert!(made.status.success(), "{made:?}");
    let device = Recorder::new(&std::fs::read(file.path()).unwrap());
    let mut volume: Disk<'_> = Volume::open(&device, Alone::at(NOW)).unwrap();
    Rmdir("/lost+found").run(&mut volume).unwrap();
    volume.close().unwrap();
    device.bytes()
}

/// Operations that do not yet keep the contract, and why: they are not tried until they do.
pub fn not_yet(op: &Op) -> Option<&'static str> {
    let list: [(Op, &str); 0] = [];
    list.iter().find(|(listed, _)| listed == op).map(|(_, reason)| *reason)
}
