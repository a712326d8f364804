//! The allocator, the pins and the books of open inodes under a scheduler that tries the orders in which threads can run: at every lock
//! and every shared number another one may go on. What is tried is the code itself: `xip-ext2` with locks of the
//! scheduler, `opens` and `pins` compiled once more with them. The last tests show that mistakes are found.

#[allow(dead_code)]
#[path = "../src/opens.rs"]
mod opens;
#[allow(dead_code)]
#[path = "../src/pins.rs"]
mod pins;
#[allow(dead_code)]
#[path = "../src/table.rs"]
mod table;

/// What `opens` and `pins` take their locks from.
mod sync {
    pub(crate) use shuttle::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
    pub(crate) use shuttle::sync::{Arc, Mutex, MutexGuard, RwLock};
    pub(crate) use std::sync::PoisonError;
}

use opens::Opens;
use pins::Maps;
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::sync::{Arc, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use shuttle::{Config, Runner, thread};
use sync::{AtomicU32, Ordering};
use xip_core::ops::{self, Writer};
use xip_core::{
    Alone, Create, Device, Env, Extent, Freed, Host, LockId, Mapping, PAGE_SIZE, PageIndex, Run, Timestamp,
};
use xip_ext2::{Error, Format, Goal, InodeNo, NewInode, NewKind, Rename, check};
use xip_segment::Memory;

const PAGE: u64 = PAGE_SIZE as u64;
const BLOCKS: u64 = 64;
const INODES: u32 = 32;
const NOW: Timestamp = Timestamp { seconds: 1_700_000_000, nanoseconds: 0 };

/// Orders that are tried of each scenario, by each of two ways to choose them.
const ORDERS: usize = 800;

fn try_orders(scenario: impl Fn() + Send + Sync + Clone + 'static) {
    let config = || {
        let mut config = Config::new();
        // The lower floors have no allocator, and their buffers on the stack.
        config.stack_size = 1 << 20;
        config
    };
    Runner::new(RandomScheduler::new(ORDERS), config()).run(scenario.clone());
    Runner::new(PctScheduler::new(3, ORDERS), config()).run(scenario);
}

/// The environment of a volume, of locks of the scheduler.
struct Scheduled {
    tree: RwLock<()>,
    superblock: RwLock<()>,
    group: RwLock<()>,
    inodes: Vec<RwLock<()>>,
    maps: Maps,
    /// Pins are asked for: not so in the test that shows what comes of it.
    pins: bool,
}

impl Scheduled {
    fn new(pins: bool) -> Self {
        Self {
            tree: RwLock::new(()),
            superblock: RwLock::new(()),
            group: RwLock::new(()),
            inodes: (0..=INODES).map(|_| RwLock::new(())).collect(),
            maps: Maps::default(),
            pins,
        }
    }

    fn lock(&self, what: LockId) -> &RwLock<()> {
        match what {
            LockId::Tree => &self.tree,
            LockId::Super => &self.superblock,
            LockId::Group(_) => &self.group,
            LockId::Inode(number) => &self.inodes[number as usize],
        }
    }
}

enum Guard<'a> {
    Shared { _guard: RwLockReadGuard<'a, ()> },
    Exclusive { _guard: RwLockWriteGuard<'a, ()> },
}

impl Env for Scheduled {
    type Guard<'a> = Guard<'a>;
    fn now(&self) -> Timestamp {
        NOW
    }
    fn shared(&self, what: LockId) -> Guard<'_> {
        Guard::Shared { _guard: self.lock(what).read().unwrap_or_else(std::sync::PoisonError::into_inner) }
    }
    fn exclusive(&self, what: LockId) -> Guard<'_> {
        Guard::Exclusive { _guard: self.lock(what).write().unwrap_or_else(std::sync::PoisonError::into_inner) }
    }
    fn freed(&self, run: Run) -> Freed {
        if self.pins { self.maps.freed(run) } else { Freed::Now(run.count) }
    }
    fn moved(&self, inode: u32) {
        self.maps.moved(inode);
    }
}

type Volume = xip_ext2::Volume<Memory, Scheduled>;

fn volume(pins: bool) -> Arc<Volume> {
    let memory = Memory::new(BLOCKS).unwrap();
    let format = Format { blocks: BLOCKS, inodes: INODES, root_permissions: 0o755, ..Format::default() };
    xip_ext2::Volume::format(&memory, Alone::at(NOW), &format).unwrap().close().unwrap();
    Arc::new(Volume::open(memory, Scheduled::new(pins)).unwrap())
}

fn make(volume: &Volume, parent: InodeNo, name: &str, kind: NewKind<'_>) -> Result<InodeNo, Error> {
    volume.create(parent, name.as_bytes(), &NewInode { kind, permissions: 0o755, uid: 0, gid: 0 })
}

fn write(volume: &Volume, number: InodeNo, byte: u8, pages: u64) -> Result<usize, Error> {
    let file = volume.file_in_place(number, Goal::default())?;
    ops::write(&file, 0, &vec![byte; (pages * PAGE) as usize], &Writer::default())
}

fn truncate(volume: &Volume, number: InodeNo, pages: u64) {
    ops::truncate(&volume.file_in_place(number, Goal::default()).unwrap(), pages * PAGE).unwrap();
}

/// Nothing is wrong with the volume, and nothing is leaked.
fn assert_clean(volume: Arc<Volume>) {
    let mut volume = Arc::into_inner(volume).unwrap();
    volume.close().unwrap();
    let device = volume.device();
    let mut memory = vec![0; check::memory_wanted(device).unwrap()];
    let mut found = Vec::new();
    let options = check::Options { repair: false, now: None };
    check::check(device, &mut memory, &options, &mut |finding| found.push(finding.to_string())).unwrap();
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn blocks_inodes_and_names_are_nobody_s_or_one_s_in_every_order() {
    try_orders(|| {
        let volume = volume(true);
        let [a, b] = ["a", "b"].map(|name| make(&volume, InodeNo::ROOT, name, NewKind::Directory).unwrap());
        let threads: Vec<_> = (0..3u8)
            .map(|n| {
                let volume = volume.clone();
                thread::spawn(move || {
                    let (name, other) = ([b'x', b'0' + n], [b'y', b'0' + n]);
                    let name_text = std::str::from_utf8(&name).unwrap();
                    let (from, to) = if n % 2 == 0 { (a, b) } else { (b, a) };
                    let number = make(&volume, from, name_text, NewKind::Regular).unwrap();
                    assert_eq!(write(&volume, number, n + 1, 14).unwrap() as u64, 14 * PAGE);
                    volume.link(to, &other, number).unwrap();
                    volume.rename(from, &name, to, &name, Rename::Replace).unwrap();
                    truncate(&volume, number, 3);
                    let mut bytes = vec![0; 4 * PAGE_SIZE];
                    let file = volume.file_in_place(number, Goal::default()).unwrap();
                    assert_eq!(ops::read(&file, 0, &mut bytes).unwrap() as u64, 3 * PAGE);
                    assert!(bytes[..3 * PAGE_SIZE].iter().all(|&byte| byte == n + 1), "another file's");
                    assert_eq!(volume.unlink(to, &name).unwrap(), None);
                    if n == 0 {
                        assert_eq!(volume.unlink(to, &other).unwrap(), Some(number));
                        volume.release(number).unwrap();
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_clean(volume);
    });
}

/// What a map does with a volume, as `xip::Map` does it: pins what it finds, under the file's lock; looks at it; lets it go.
fn map_and_look(volume: &Volume, number: InodeNo) {
    let maps = &volume.env().maps;
    let layout = maps.enter(number.0);
    let file = volume.file_in_place(number, Goal::default()).unwrap();
    let mut runs = Vec::new();
    let seen = {
        let _lock = file.shared();
        let end = PageIndex::count(file.size().unwrap()).0;
        let mut index = 0;
        while index < end {
            match file.mapping().get_xip_pages(PageIndex(index), end - index, Create::No).unwrap() {
                Extent::Storage(run) => {
                    runs.push(run);
                    index += run.count;
                }
                Extent::Hole(count) => index += count,
            }
        }
        maps.pin(runs.iter().copied());
        layout.load(sync::Ordering::SeqCst)
    };
    for run in &runs {
        thread::yield_now();
        let region = volume.device().direct_access(run.first, run.count).unwrap();
        let mut bytes = vec![0; region.len()];
        region.read(0, &mut bytes);
        assert!(bytes.iter().all(|byte| matches!(byte, 0 | 0xaa)), "another file's");
    }
    // Who sees no change has what the file has now, or had when it was asked.
    if layout.load(sync::Ordering::SeqCst) == seen {
        let _lock = file.shared();
        if layout.load(sync::Ordering::SeqCst) == seen {
            let end = PageIndex::count(file.size().unwrap()).0;
            let found = file.mapping().get_xip_pages(PageIndex(0), end.max(1), Create::No).unwrap();
            match (found, runs.first()) {
                (Extent::Storage(run), Some(first)) => assert_eq!(run, *first, "moved, and not told"),
                (Extent::Hole(_), None) => {}
                (found, first) => panic!("moved, and not told: {found:?}, {first:?}"),
            }
        }
    }
    for run in maps.unpin(runs.into_iter()) {
        volume.free_run(run).unwrap();
    }
    maps.leave(number.0);
}

fn pinned(pins: bool) {
    let volume = volume(pins);
    let [file, other] = ["f", "g"].map(|name| make(&volume, InodeNo::ROOT, name, NewKind::Regular).unwrap());
    write(&volume, file, 0xaa, 4).unwrap();
    let mut threads = Vec::new();
    for _ in 0..2 {
        let volume = volume.clone();
        threads.push(thread::spawn(move || (0..2).for_each(|_| map_and_look(&volume, file))));
    }
    let shared = volume.clone();
    threads.push(thread::spawn(move || {
        for pages in [1, 0, 2] {
            truncate(&shared, file, pages);
            // There may be no space for it.
            let _ = write(&shared, file, 0xaa, 3);
        }
        let open = shared.file_in_place(file, Goal::default()).unwrap();
        ops::punch_hole(&open, PAGE, PAGE, &Writer::default()).unwrap();
    }));
    let shared = volume.clone();
    threads.push(thread::spawn(move || {
        for _ in 0..3 {
            // All there is.
            let _ = write(&shared, other, 0xbb, BLOCKS);
            truncate(&shared, other, 0);
        }
    }));
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_clean(volume);
}

/// Contract 6.
#[test]
fn a_pinned_page_is_not_another_file_s_and_none_is_leaked_in_every_order() {
    try_orders(|| pinned(true));
}

/// An inode table and one name, by the books of `opens`: whoever holds a number keeps its file.
fn books(careful: bool) {
    struct World {
        opens: Opens,
        /// Which file has which number; and what the name leads to.
        table: Mutex<[Option<u32>; 3]>,
        name: Mutex<Option<u32>>,
        careful: bool,
    }
    impl World {
        fn give_back(&self, number: u32) {
            let file = self.table.lock().unwrap_or_else(std::sync::PoisonError::into_inner)[number as usize].take();
            // A thread that has found a mistake lets go, too.
            assert!(file.is_some() || std::thread::panicking(), "given back twice");
        }
    }
    let world = Arc::new(World {
        opens: Opens::new(3),
        table: Mutex::new([Some(100), None, None]),
        name: Mutex::new(Some(0)),
        careful,
    });
    let mut threads = Vec::new();
    for _ in 0..2 {
        let world = world.clone();
        threads.push(thread::spawn(move || {
            let walk = || {
                let number = (*world.name.lock().unwrap_or_else(std::sync::PoisonError::into_inner))?;
                world.opens.hold(InodeNo(number));
                // What is let go when the walk is done again.
                Some(Holder(&world, number))
            };
            let found = if world.careful { world.opens.steady(walk) } else { walk() };
            if let Some(held) = found {
                let file = world.table.lock().unwrap_or_else(std::sync::PoisonError::into_inner)[held.1 as usize];
                assert!(file.is_some(), "held, and gone");
                thread::yield_now();
                // Outside the lock: a panic that poisons it would hide itself behind others.
                let now = world.table.lock().unwrap_or_else(std::sync::PoisonError::into_inner)[held.1 as usize];
                assert_eq!(now, file, "held, and another file's");
            }
        }));
    }
    struct Holder<'a>(&'a World, u32);
    impl Drop for Holder<'_> {
        fn drop(&mut self) {
            if self.0.opens.let_go(InodeNo(self.1)) {
                self.0.give_back(self.1);
            }
        }
    }
    let shared = world.clone();
    threads.push(thread::spawn(move || {
        for file in 101..104 {
            // The name's file goes, and the next one has the first number that is free.
            let old = shared.name.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take().unwrap();
            if shared.opens.lost_name(InodeNo(old)) {
                shared.give_back(old);
            }
            let number = {
                let mut table = shared.table.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                let free = table.iter().position(Option::is_none).unwrap_or_else(|| panic!("no number is free"));
                table[free] = Some(file);
                free as u32
            };
            *shared.name.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(number);
        }
    }));
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let left = world.table.lock().unwrap_or_else(std::sync::PoisonError::into_inner).iter().flatten().count();
    assert_eq!(left, 1, "one has a name, the others are given back");
}

/// A file lives as long as someone has it, and a number that a walk has found is that of the file it found.
#[test]
fn an_inode_that_is_held_is_not_given_back_and_each_is_once_in_every_order() {
    try_orders(|| books(true));
}

/// A file without a name gets one, which goes at once. It counts as named before anyone can see the name.
fn first_name(careful: bool) {
    let number = InodeNo(1);
    let world = Arc::new((Opens::new(3), AtomicU32::new(0), AtomicU32::new(0)));
    let (shared, (opens, names, given_back)) = (world.clone(), &*world);
    opens.hold(number);
    opens.unnamed(number);
    let other = thread::spawn(move || {
        let goes = shared.1.swap(0, Ordering::SeqCst) == 1 && shared.0.lost_name(number);
        shared.2.fetch_add(u32::from(goes), Ordering::SeqCst);
    });
    assert!(!careful || opens.gets_name(number));
    names.store(1, Ordering::SeqCst);
    assert!(careful || opens.gets_name(number));
    given_back.fetch_add(u32::from(opens.let_go(number)), Ordering::SeqCst);
    other.join().unwrap();
    let [names, given_back] = [names, given_back].map(|count| count.load(Ordering::SeqCst));
    assert_eq!(names + given_back, 1, "how often it was given back");
}

#[test]
fn a_file_whose_first_name_goes_at_once_is_given_back_once_in_every_order() {
    try_orders(|| first_name(true));
}

// That mistakes are found: each of these does something wrong.

#[test]
#[should_panic(expected = "how often it was given back")]
fn a_name_that_is_seen_before_it_counts_is_found_out() {
    try_orders(|| first_name(false));
}

#[test]
#[should_panic(expected = "another file's")]
fn pins_that_nobody_asks_for_are_found_out() {
    try_orders(|| pinned(false));
}

#[test]
#[should_panic(expected = "held, and")]
fn a_walk_that_is_not_done_again_is_found_out() {
    try_orders(|| books(false));
}

#[test]
#[should_panic(expected = "deadlock")]
fn locks_taken_in_another_order_are_found_out() {
    try_orders(|| {
        let volume = volume(true);
        let number = make(&volume, InodeNo::ROOT, "f", NewKind::Regular).unwrap();
        let shared = volume.clone();
        let other = thread::spawn(move || {
            // A group before an inode.
            let _group = shared.env().exclusive(LockId::Group(0));
            let _inode = shared.env().exclusive(LockId::Inode(number.0));
        });
        write(&volume, number, 1, 2).unwrap();
        other.join().unwrap();
    });
}
