//! A program with no allocator and no standard library that makes a volume in a piece of static memory, writes to it
//! and reads it back, in place: what a kernel module could do. Were there an allocation anywhere in `xip-core` or
//! `xip-ext2`, it would not link.
#![no_std]
#![no_main]

use core::cell::UnsafeCell;
use core::ffi::{c_int, c_void};
use core::panic::PanicInfo;
use core::ptr::NonNull;
use xip_core::device::check_range;
use xip_core::ops::{self, Writer};
use xip_core::{Alone, Device, PAGE_SIZE, PageNo, Properties, Region, RegionMut, Timestamp};
use xip_ext2::{Error, File, Format, InodeNo, NewInode, NewKind, Volume};

const PAGES: usize = 64;

/// The storage.
#[repr(C, align(4096))]
struct Memory(UnsafeCell<[u8; PAGES * PAGE_SIZE]>);

// SAFETY: the program has one thread, and all access is by the copies of `Region`.
unsafe impl Sync for Memory {}

static MEMORY: Memory = Memory(UnsafeCell::new([0; PAGES * PAGE_SIZE]));

impl Device for &'static Memory {
    fn pages(&self) -> u64 {
        PAGES as u64
    }

    fn properties(&self) -> Properties {
        Properties { writable: true, ..Properties::default() }
    }

    fn direct_access(&self, first: PageNo, count: u64) -> Result<Region<'_>, xip_core::Error> {
        Ok(self.direct_access_mut(first, count)?.as_region())
    }

    fn direct_access_mut(&self, first: PageNo, count: u64) -> Result<RegionMut<'_>, xip_core::Error> {
        let count = check_range(first, count, self.pages())? as usize;
        let start = NonNull::new(self.0.get()).ok_or(xip_core::Error::Gone)?.cast::<u8>();
        // SAFETY: `check_range` has kept `first + count` within the static memory, which lives for ever, is readable
        // and writable, and to which no reference exists: it is only reached through here.
        Ok(unsafe { RegionMut::new(start.add(first.0 as usize * PAGE_SIZE), count * PAGE_SIZE) })
    }
}

const TEXT: &[u8] = b"in place, without an allocator";

fn run() -> Result<bool, Error> {
    let env = || Alone::at(Timestamp { seconds: 1_208_262_000, nanoseconds: 0 });
    let format = Format { blocks: PAGES as u64, inodes: 32, ..Format::default() };
    drop(Volume::format(&MEMORY, env(), &format)?);

    let volume = Volume::open(&MEMORY, env())?;
    let new = |kind| NewInode { kind, permissions: 0o755, uid: 0, gid: 0 };
    let directory = volume.create(InodeNo::ROOT, b"bin", &new(NewKind::Directory))?;
    let number = volume.create(directory, b"hello", &new(NewKind::Regular))?;
    volume.create(InodeNo::ROOT, b"link", &new(NewKind::Symlink(b"bin/hello")))?;
    let File::InPlace(file) = volume.file(number)? else { return Ok(false) };
    // Across a hole, so that a block of pointers is made too.
    ops::write(&file, 20 * PAGE_SIZE as u64, TEXT, &Writer::default())?;

    let found = volume.lookup(InodeNo::ROOT, b"bin")?.ok_or(Error::NotFound)?;
    let found = volume.lookup(found, b"hello")?.ok_or(Error::NotFound)?;
    let File::InPlace(file) = volume.file(found)? else { return Ok(false) };
    let mut bytes = [1; 64];
    let count = ops::read(&file, 20 * PAGE_SIZE as u64 - 2, &mut bytes)?;
    Ok(count == TEXT.len() + 2 && bytes[..2] == [0, 0] && bytes[2..count] == *TEXT)
}

// SAFETY: the declarations are those of the C library.
#[link(name = "c")]
unsafe extern "C" {
    fn write(to: c_int, bytes: *const c_void, len: usize) -> isize;
    fn abort() -> !;
}

fn say(text: &str) {
    // SAFETY: the pointer and the length are those of a live string.
    unsafe { write(1, text.as_ptr().cast(), text.len()) };
}

/// What the C start-up code calls.
#[unsafe(no_mangle)]
extern "C" fn main(_: c_int, _: *const *const u8) -> c_int {
    match run() {
        Ok(true) => {
            say("a volume was made, written and read in place, without an allocator\n");
            0
        }
        Ok(false) => {
            say("what was read is not what was written\n");
            1
        }
        Err(error) => error.errno(),
    }
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    // SAFETY: takes no argument and does not come back.
    unsafe { abort() }
}
