//! Operations through the crate `xip`, by path and on files that are open and mapped, on a volume that is so small that space
//! gives out: each answers as the reference of the crate's own test does, and the check finds nothing wrong with what is closed, or
//! with what a killed program leaves once it was opened again.
//!
//! An input is one byte for the volume, and then for each operation a byte and what it needs. An input that ends in the
//! middle of an operation ends before it.

#[path = "../../crates/xip/tests/model/judge.rs"]
mod judge;
#[path = "../../crates/xip/tests/model/op.rs"]
mod op;
#[path = "../../crates/xip/tests/model/reference.rs"]
mod reference;
#[path = "../../crates/xip/tests/model/world.rs"]
mod world;

use crate::NOW;
use crate::base::volumes;
use crate::disk::Disk;
use crate::hostile::checked_as;
use crate::input::Input;
use op::{ATTRIBUTES, BEGINNING, Op, PATHS, SLOTS};
use rustix::fs::{MemfdFlags, memfd_create};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use world::{Place, World};
use xip_core::Alone;
use xip_ext2::Volume;
use xip_ext2::check::{Options, Summary};

/// The most operations of an input.
const MOST: usize = 150;
/// The most times that all of it is opened and compared: it takes longer than all else.
const MOST_OPENED: usize = 4;

/// Memory that a volume is on, opened by a path as an image is.
struct Image {
    file: File,
    path: PathBuf,
}

/// That of the volume, and another for what a killed program leaves.
static IMAGES: LazyLock<[Image; 2]> = LazyLock::new(|| {
    ["image", "spare"].map(|name| {
        let file = File::from(memfd_create(name, MemfdFlags::CLOEXEC).expect("memory for a small image"));
        let path = format!("/proc/self/fd/{}", file.as_raw_fd()).into();
        Image { file, path }
    })
});

pub fn run(input: &[u8]) {
    let mut input = Input(input);
    let Some(shape) = input.byte() else { return };
    let [image, spare] = &*IMAGES;
    let new = &volumes()[usize::from(shape % 16)];
    image.file.set_len(new.len() as u64).and_then(|()| image.file.write_all_at(new, 0)).expect("memory for it");
    let place = Place { image: image.path.clone(), spare: spare.path.clone(), in_place: shape & 16 == 0, judge };
    let mut world = World::new(place).expect("a new volume");
    for op in &BEGINNING {
        step(&mut world, op);
    }
    let mut opened = 0;
    for _ in 0..MOST {
        let Some(op) = next(&mut input) else { break };
        opened += usize::from(matches!(op, Op::Kill | Op::Reopen));
        if opened <= MOST_OPENED || !matches!(op, Op::Kill | Op::Reopen) {
            step(&mut world, &op);
        }
    }
    world.close().expect("nothing but what the reference says");
}

fn step(world: &mut World, op: &Op) {
    if let Err(error) = world.apply(op) {
        panic!("{op:?}: {error}");
    }
}

fn judge(image: &Path) {
    let disk = Disk::of(&std::fs::read(image).expect("an image"), false);
    // Of whatever time: the clock here is that of the machine.
    let options = Options { repair: false, now: None };
    let found = checked_as(&disk, &options).expect("a volume is checked");
    assert_eq!(found, (Summary::default(), Vec::new()));
    assert!(Volume::open(&disk, Alone::at(NOW)).expect("what was just closed").is_clean());
}

fn next(input: &mut Input<'_>) -> Option<Op> {
    let which = input.byte()? % 50;
    // Few operations need more than three of these.
    let mut below = |end: usize| input.byte().map(|byte| usize::from(byte) % end);
    Some(match which {
        0..=2 => Op::Create(below(PATHS.len())?),
        3 | 4 => Op::Mkdir(below(PATHS.len())?),
        5 => Op::Symlink(below(PATHS.len())?),
        6 => Op::Link(below(PATHS.len())?, below(PATHS.len())?),
        7 | 8 => Op::Unlink(below(PATHS.len())?),
        9 => Op::Rmdir(below(PATHS.len())?),
        10 => Op::RemoveAll(below(PATHS.len())?),
        11..=13 => Op::Rename(below(PATHS.len())?, below(PATHS.len())?, below(3)? as u8),
        14 => Op::SetAttribute(below(PATHS.len())?, below(ATTRIBUTES.len())?, below(256)? * 2),
        15 => Op::RemoveAttribute(below(PATHS.len())?, below(ATTRIBUTES.len())?),
        16 => Op::Kill,
        17 => Op::Reopen,
        _ => {
            let slot = below(SLOTS)?;
            match which {
                18..=20 => Op::Open(slot, below(PATHS.len())?, below(8)? as u8),
                21 => Op::Close(slot),
                22 => Op::Sync(slot),
                23 | 24 => Op::Map(slot, below(4)?, 1 + below(16)?, below(3)? as u8),
                25 => Op::Unmap(slot),
                26 => Op::MapTail(slot, below(256)? as u8),
                48 => Op::OpenUnnamed(slot, below(PATHS.len())?),
                49 => Op::LinkOpen(slot, below(PATHS.len())?),
                _ => {
                    let (at, len) = (place(input)?, input.len()?);
                    let mut more = || Some((0..input.byte()? % 4).map_while(|_| input.len()).collect());
                    match which {
                        27..=29 => Op::Write(slot, at, len, len as u8 ^ which),
                        30 => Op::Writev(slot, at, more()?, which),
                        31 => Op::Stream(slot, at, len, which),
                        32 => Op::Aio(slot, at, len, which),
                        33 => Op::Read(slot, at, len),
                        34 => Op::Readv(slot, at, more()?),
                        35 => Op::Seek(slot, at),
                        36 | 37 => Op::Truncate(slot, at),
                        38 | 39 => Op::Punch(slot, at, len),
                        40 | 41 => Op::Allocate(slot, at, len, at % 2 == 0, which == 41),
                        42 | 43 => Op::MapRead(slot, at, len),
                        _ => Op::MapWrite(slot, at, len, which),
                    }
                }
            }
        }
    })
}

/// Places in the first pages, and around the end of the direct pointers.
fn place(input: &mut Input<'_>) -> Option<usize> {
    let byte = usize::from(input.byte()?);
    let page = [0, 0, 1, 2, 3, 11, 12, 13, 30, 32][byte % 10];
    Some(page * 4096 + [0, 1, 10, 2048, 4095][byte / 10 % 5])
}
