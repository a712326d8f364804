//! The facade against the tree that the image was made of, and against the rules of paths.

mod common;

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use xip::{Error, PageIndex, Piece, Volume};

struct World {
    _dir: TempDir,
    tree: PathBuf,
    volume: Volume,
}

fn world(block_size: u32) -> Option<World> {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    common::tree(&tree);
    let image = common::image(&tree, &dir.path().join("image"), block_size)?;
    let volume = Volume::open(image).unwrap();
    Some(World { _dir: dir, tree, volume })
}

/// Compares everything below `at`; returns how many entries there were.
fn compare(world: &World, at: &Path) -> usize {
    let mut names: Vec<_> =
        fs::read_dir(world.tree.join(at)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let mut ours: Vec<_> =
        world.volume.read_dir(Path::new("/").join(at)).unwrap().map(|e| e.unwrap().file_name()).collect();
    ours.retain(|name| name != "lost+found");
    names.sort();
    ours.sort();
    assert_eq!(ours, names, "{}", at.display());
    let mut count = names.len();
    for name in names {
        let path = at.join(name);
        let theirs = fs::symlink_metadata(world.tree.join(&path)).unwrap();
        let ours = world.volume.symlink_metadata(&path).unwrap();
        let place = path.display();
        assert_eq!(ours.mode(), theirs.mode(), "{place}");
        assert_eq!(
            (ours.uid(), ours.gid(), ours.nlink()),
            (theirs.uid(), theirs.gid(), theirs.nlink() as u32),
            "{place}"
        );
        if ours.is_dir() {
            count += compare(world, &path);
        } else if ours.is_symlink() {
            assert_eq!(
                world.volume.read_link(&path).unwrap(),
                fs::read_link(world.tree.join(&path)).unwrap(),
                "{place}"
            );
        } else {
            assert_eq!(ours.len(), theirs.len(), "{place}");
            assert!(world.volume.read(&path).unwrap() == fs::read(world.tree.join(&path)).unwrap(), "{place}");
        }
    }
    count
}

#[test]
fn a_volume_is_equal_to_its_tree_in_place_and_cached() {
    for block_size in [4096, 1024] {
        let Some(world) = world(block_size) else { return };
        assert_eq!(world.volume.in_place().is_ok(), block_size == 4096);
        assert!(compare(&world, Path::new("")) > 300);
    }
}

#[test]
fn a_volume_of_other_blocks_says_why_it_is_not_in_place() {
    let Some(world) = world(1024) else { return };
    let why = world.volume.in_place().unwrap_err();
    assert!(why.to_string().contains("XIP: Unsupported blocksize 1024"), "{why}");
    let file = world.volume.file("bin/f4097").unwrap();
    assert!(!file.in_place());
    assert!(file.layout(PageIndex(0), 1).unwrap_err().to_string().contains("1024"));
    assert!(file.as_slice(0, 10).is_none());
}

#[test]
fn paths_stay_inside_and_follow_links_as_the_kernel_does() {
    let Some(World { _dir, volume, .. }) = world(4096) else { return };
    let one = volume.metadata("/bin/f1").unwrap().ino();
    for path in ["bin/f1", "//bin///f1", "/usr/../bin/./f1", "/../../bin/f1", "usr/absolute"] {
        assert_eq!(volume.metadata(path).unwrap().ino(), one, "{path}");
    }
    assert_eq!(volume.metadata("slow").unwrap().ino(), volume.metadata("usr/hard").unwrap().ino());
    assert!(volume.metadata("fast/").unwrap().is_dir());
    assert!(volume.symlink_metadata("fast").unwrap().is_symlink());
    assert!(volume.symlink_metadata("fast/").unwrap().is_dir());
    assert!(volume.metadata("fast/doc/package/examples/deep").unwrap().is_file());
    assert!(volume.metadata("/").unwrap().is_dir());

    let errno = |path: &str| volume.metadata(path).unwrap_err().errno();
    const ENOENT: i32 = 2;
    const ENOTDIR: i32 = 20;
    const ENAMETOOLONG: i32 = 36;
    const ELOOP: i32 = 40;
    // Twice: the second answer comes from the cache of names.
    for _ in 0..2 {
        assert_eq!(errno("loop1"), ELOOP);
        assert_eq!(errno("loop1/x"), ELOOP);
        assert_eq!(errno("dangling"), ENOENT);
        assert_eq!(errno("missing"), ENOENT);
        assert_eq!(errno(""), ENOENT);
        assert_eq!(errno("bin/f1/x"), ENOTDIR);
        assert_eq!(errno("bin/f1/"), ENOTDIR);
        assert_eq!(errno("bin/f1/.."), ENOTDIR);
        assert_eq!(errno(&"n".repeat(256)), ENAMETOOLONG);
    }
    assert!(matches!(volume.metadata("loop1"), Err(Error::Loop { .. })));
    assert!(volume.symlink_metadata("loop1").unwrap().is_symlink());
    let error = volume.file("missing/file").unwrap_err();
    assert!(error.to_string().starts_with("missing/file: "), "{error}");
    assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::NotFound);
    assert!(volume.file("bin").is_err_and(|error| error.errno() == 21));
}

#[test]
fn links_on_the_way_count_when_the_way_is_remembered_too() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let volume = Volume::create(&image, 4 << 20).unwrap();
    volume.symlink(".", "l").unwrap();
    volume.write("x", b"x").unwrap();
    volume.close().unwrap();
    let volume = Volume::open(&image).unwrap();
    // As in Linux: 40 links, not one more.
    let way = "l/".repeat(40);
    for _ in 0..2 {
        assert!(volume.file(format!("{way}x")).is_ok());
        assert!(matches!(volume.metadata(format!("{way}l")), Err(Error::Loop { .. })));
        assert!(volume.symlink_metadata(format!("{way}l")).unwrap().is_symlink());
        assert!(matches!(volume.file(format!("{way}l/x")), Err(Error::Loop { .. })));
    }
}

#[test]
fn reads_at_any_offset_give_the_file_and_not_a_byte_more() {
    for block_size in [4096, 1024] {
        let Some(World { _dir, tree, volume }) = world(block_size) else { return };
        for name in ["bin/f0", "bin/f4097", "bin/f3145728", "sparse"] {
            let theirs = fs::File::open(tree.join(name)).unwrap();
            let ours = volume.file(name).unwrap();
            let len = ours.len();
            for offset in [0, 1, 4000, 4095, 4096, 49_151, 49_152, 4_999_999, len.saturating_sub(7), len, len + 1] {
                for want in [0, 1, 6, 7, 8, 4096, 9000] {
                    // Contract 3, read: 0 at or past the end, and never a byte of the buffer beyond it.
                    let (mut a, mut b) = ([7u8; 9000], [7u8; 9000]);
                    let mut got = 0;
                    while let Ok(count @ 1..) = theirs.read_at(&mut a[got..want], offset + got as u64) {
                        got += count;
                    }
                    assert_eq!(ours.read_at(&mut b[..want], offset).unwrap(), got, "{name}, {want} at {offset}");
                    assert!(a == b, "{name}, {want} at {offset}");
                    b.fill(7);
                    assert_eq!(ours.read_exact_at(&mut b[..want], offset).is_ok(), got == want, "{name}");
                    assert!(a == b, "{name}, exactly {want} at {offset}");
                }
            }
        }
    }
}

#[test]
fn a_file_is_read_and_sought_like_one_of_std() {
    let Some(World { _dir, tree, volume }) = world(4096) else { return };
    let mut ours = volume.file("bin/f4097").unwrap();
    let mut bytes = Vec::new();
    ours.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, fs::read(tree.join("bin/f4097")).unwrap());
    assert_eq!(ours.seek(SeekFrom::End(-2)).unwrap(), 4095);
    let mut two = [0; 2];
    ours.read_exact(&mut two).unwrap();
    assert_eq!(two, bytes[4095..]);
    assert!(ours.seek(SeekFrom::Current(-5000)).is_err());
    assert_eq!(ours.seek(SeekFrom::Start(1)).unwrap(), 1);
    let (mut a, mut b) = ([0; 10], [0; 5000]);
    assert_eq!(ours.readv_at(&mut [&mut a, &mut b], 1).unwrap(), 4096);
    assert_eq!((&a[..], &b[..4086]), (&bytes[1..11], &bytes[11..]));
    let mut none: Vec<Vec<u8>> = vec![Vec::new(); 1025];
    let mut many: Vec<&mut [u8]> = none.iter_mut().map(Vec::as_mut_slice).collect();
    assert_eq!(ours.readv_at(&mut many, 0).unwrap_err().errno(), 22);
}

/// Contract 3, sendfile: holes send zeros, a count of 0 sends nothing, never beyond the end.
#[test]
fn sendfile_gives_a_file_and_a_pipe_what_read_gives() {
    for block_size in [4096, 1024] {
        let Some(World { _dir, tree, volume }) = world(block_size) else { return };
        for name in ["bin/f3145728", "sparse", "bin/f1"] {
            let ours = volume.file(name).unwrap();
            let to = tempfile::tempfile().unwrap();
            let mut sent = 0;
            while let count @ 1.. = ours.sendfile(&to, sent, 1_000_003).unwrap() {
                sent += count as u64;
            }
            let mut copy = vec![0; usize::try_from(sent).unwrap()];
            to.read_exact_at(&mut copy, 0).unwrap();
            assert!(copy == fs::read(tree.join(name)).unwrap(), "{name}");
            assert_eq!(ours.sendfile(&to, 0, 0).unwrap(), 0);
        }
        let (mut from, to) = std::io::pipe().unwrap();
        let file = volume.file("bin/f4097").unwrap();
        assert_eq!(file.sendfile(&to, 4000, 4096).unwrap(), 97);
        drop(to);
        let mut copy = Vec::new();
        from.read_to_end(&mut copy).unwrap();
        assert_eq!(copy, fs::read(tree.join("bin/f4097")).unwrap()[4000..]);
    }
}

#[test]
fn the_layout_is_where_the_bytes_are() {
    let Some(World { volume, tree, _dir }) = world(4096) else { return };
    let image = fs::File::open(_dir.path().join("image")).unwrap();
    for name in ["bin/f3145728", "sparse", "bin/f4097", "bin/f0"] {
        let file = volume.file(name).unwrap();
        let mut bytes = vec![0; usize::try_from(file.len().next_multiple_of(4096)).unwrap()];
        for placed in file.layout(PageIndex(0), u64::MAX).unwrap() {
            let at = usize::try_from(placed.index.0 * 4096).unwrap();
            let len = usize::try_from(placed.run.count * 4096).unwrap();
            image.read_exact_at(&mut bytes[at..at + len], placed.run.first.0 * 4096).unwrap();
        }
        let theirs = fs::read(tree.join(name)).unwrap();
        assert!(bytes[..theirs.len()] == theirs, "{name}");
        assert!(bytes[theirs.len()..].iter().all(|&byte| byte == 0), "{name}");
        assert!(file.tail_is_zero().unwrap());
    }
    let sparse = volume.file("sparse").unwrap();
    let page = sparse.layout(PageIndex(0), u64::MAX).unwrap();
    assert_eq!((page.len(), page[0].index.0, page[0].run.count), (1, 5_000_000 / 4096, 1));
    assert_eq!(sparse.layout(PageIndex(0), 5).unwrap(), []);
    assert_eq!(sparse.seek_extent(0, true).unwrap(), Some(5_000_000 / 4096 * 4096));
    assert_eq!(sparse.seek_extent(5_000_000, false).unwrap(), Some((5_000_000 / 4096 + 1) * 4096));
    assert_eq!(sparse.seek_extent(6_000_000, true).unwrap(), None);
    assert_eq!(sparse.seek_extent(sparse.len() - 1, false).unwrap(), Some(sparse.len() - 1));
    assert_eq!(sparse.seek_extent(sparse.len(), false).unwrap(), None);
    let one = volume.file("bin/f1").unwrap();
    assert_eq!(one.seek_extent(0, false).unwrap(), Some(1));
    assert!(matches!(sparse.piece(0, 100).unwrap(), Some(Piece::Hole(100))));
    assert!(sparse.piece(sparse.len(), 100).unwrap().is_none());
    // Contract 1: only what cannot change may become a slice, and a file in a directory can.
    assert!(one.as_slice(0, 1).is_none());
}

/// Contract 1: storage that nobody can change may be borrowed, and only as far as it is one stretch inside the file.
#[test]
fn sealed_storage_is_borrowed_without_a_copy() {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
    let Some(World { _dir, tree, .. }) = world(4096) else { return };
    let memory = fs::File::from(memfd_create("image", MemfdFlags::ALLOW_SEALING).unwrap());
    memory.write_all_at(&fs::read(_dir.path().join("image")).unwrap(), 0).unwrap();
    fcntl_add_seals(&memory, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW).unwrap();
    let device = xip_segment::MappedFile::open(memory, xip_segment::Access::ReadOnly).unwrap();
    let volume = Volume::from_device(device).unwrap();
    assert!(volume.is_sealed());
    let (file, bytes) = (volume.file("bin/f4097").unwrap(), fs::read(tree.join("bin/f4097")).unwrap());
    assert_eq!(file.as_slice(0, 4097).unwrap(), bytes);
    assert_eq!(file.as_slice(4090, 7).unwrap(), &bytes[4090..]);
    assert!(file.as_slice(4090, 8).is_none(), "a byte beyond the end of the file was shown");
    assert!(volume.file("sparse").unwrap().as_slice(0, 10).is_none());
    let to = tempfile::tempfile().unwrap();
    assert_eq!(file.sendfile(&to, 0, 10_000).unwrap(), 4097);
    let mut copy = vec![0; 4097];
    to.read_exact_at(&mut copy, 0).unwrap();
    assert_eq!(copy, bytes);

    // A pipe and a socket get it from the segment itself, by the kernel, who counts that as read; what is copied from a mapping is
    // only written.
    let (file, bytes) = (volume.file("bin/f3145728").unwrap(), fs::read(tree.join("bin/f3145728")).unwrap());
    let kernel_has_read = || {
        let counts = fs::read_to_string("/proc/thread-self/io").unwrap();
        counts.lines().find_map(|line| line.strip_prefix("rchar: ")?.parse::<u64>().ok()).unwrap()
    };
    let sends = |to: std::os::fd::BorrowedFd<'_>, from: &mut dyn Read| {
        let before = kernel_has_read();
        assert_eq!(file.sendfile(to, 1000, 40_000).unwrap(), 40_000);
        assert!(kernel_has_read() - before >= 40_000);
        let mut got = vec![0; 40_000];
        from.read_exact(&mut got).unwrap();
        assert!(got == bytes[1000..41_000]);
    };
    let (mut from, to) = std::io::pipe().unwrap();
    sends(to.as_fd(), &mut from);
    let (mut from, to) = std::os::unix::net::UnixStream::pair().unwrap();
    sends(to.as_fd(), &mut from);
    // As much as it takes without waiting, and then nothing.
    to.set_nonblocking(true).unwrap();
    let taken = file.sendfile(&to, 0, usize::MAX).unwrap();
    assert!(taken > 0 && taken < bytes.len());
    assert_eq!(file.sendfile(&to, taken as u64, 1).unwrap_err().errno(), rustix::io::Errno::AGAIN.raw_os_error());
    let mut got = vec![0; taken];
    from.read_exact(&mut got).unwrap();
    assert!(got == bytes[..taken]);
}

#[test]
fn bytes_after_the_end_in_the_last_page_are_seen() {
    let Some(World { _dir, .. }) = world(4096) else { return };
    let image = _dir.path().join("image");
    let page = {
        let volume = Volume::open(&image).unwrap();
        volume.file("bin/f4097").unwrap().layout(PageIndex(1), 1).unwrap()[0].run.first.0
    };
    fs::OpenOptions::new().write(true).open(&image).unwrap().write_all_at(b"x", page * 4096 + 4095).unwrap();
    let file = Volume::open(&image).unwrap().file("bin/f4097").unwrap();
    assert!(!file.tail_is_zero().unwrap());
    // Contract 3: never a byte of the buffer beyond the end of the file.
    let mut bytes = [9; 20];
    assert_eq!(file.read_at(&mut bytes, 4096).unwrap(), 1);
    assert_eq!(bytes[1..], [9; 19]);
}

#[test]
fn threads_share_a_volume_and_its_cache_of_names() {
    let Some(World { _dir, volume, .. }) = world(4096) else { return };
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let volume = &volume;
            scope.spawn(move || {
                for round in 0..3000 {
                    let n = (round * 7 + thread * 31) % 300;
                    let bytes = volume.read(format!("/usr/share/doc/entry-{n:04}")).unwrap();
                    assert_eq!(bytes, n.to_string().into_bytes());
                    assert!(!volume.exists(format!("/usr/share/doc/entry-{n:04}x")));
                }
            });
        }
    });
}

/// Bad input: whatever bytes are wrong, there is an answer or an error, never a panic or a hang.
#[test]
fn a_damaged_image_gives_errors_and_nothing_worse() {
    let Some(World { _dir, .. }) = world(4096) else { return };
    let image = _dir.path().join("image");
    let good = fs::read(&image).unwrap();
    for len in [0, 1, 1023, 1024, 2047, 4096, 8192, good.len() / 2] {
        fs::write(&image, &good[..len]).unwrap();
        assert!(Volume::open(&image).is_err(), "{len} bytes of an image were taken for one");
    }
    for seed in 1..60u64 {
        let mut bad = good.clone();
        let noise = common::pattern(seed, 900);
        for chunk in noise.chunks_exact(9) {
            // Mostly where the metadata is: the first 2 MiB.
            let place = u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]) as usize;
            let reach = if chunk[4] < 200 { 2 << 20 } else { bad.len() };
            bad[place % reach] = chunk[5];
        }
        // The superblock stays, so that something opens.
        bad[..4096].copy_from_slice(&good[..4096]);
        fs::write(&image, &bad).unwrap();
        if let Ok(volume) = Volume::open(&image) {
            let mut left = 5000;
            visit(&volume, Path::new("/"), 0, &mut left);
        }
    }
}

fn visit(volume: &Volume, at: &Path, depth: usize, left: &mut usize) {
    let Ok(entries) = volume.read_dir(at) else { return };
    for entry in entries.take(2000).flatten() {
        if *left == 0 || depth > 20 {
            return;
        }
        *left -= 1;
        let path = at.join(entry.file_name());
        let _ = volume.read_link(&path);
        for name in volume.xattrs(&path).unwrap_or_default() {
            let _ = volume.xattr(&path, name);
        }
        if let Ok(file) = volume.file(&path) {
            let mut bytes = vec![0; 1 << 16];
            for offset in [0, 50_000, file.len() / 2, file.len().saturating_sub(10)] {
                let _ = file.read_at(&mut bytes, offset);
            }
            let _ = (file.tail_is_zero(), file.layout(PageIndex(0), 4096));
        }
        visit(volume, &path, depth + 1, left);
    }
}

/// A block map that leads to one block again and again: 1 TiB in a few kilobytes. What walks a file ends all the same.
#[test]
fn a_block_map_that_repeats_itself_is_no_endless_walk() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let huge = fs::File::create(tree.join("huge")).unwrap();
    if let Err(error) = huge.write_all_at(&[7; 4096], 1 << 40) {
        return println!("SKIPPED: no file of 1 TiB here ({error})");
    }
    let Some(image) = common::image(&tree, &dir.path().join("image"), 4096) else { return };
    let page = |volume: &Volume| volume.file("huge").unwrap().layout(PageIndex(0), u64::MAX).unwrap()[0].run.first.0;
    let mut block = u32::try_from(page(&Volume::open(&image).unwrap())).unwrap();
    let mut bytes = fs::read(&image).unwrap();
    for _ in 0..3 {
        // The block of pointers that has this one pointer, and no other: now it has nothing else.
        let above = bytes.chunks_exact(4096).skip(4).position(|bytes| {
            let mut pointers =
                bytes.as_chunks().0.iter().map(|pointer| u32::from_le_bytes(*pointer)).filter(|&p| p != 0);
            pointers.next() == Some(block) && pointers.next().is_none()
        });
        let above = above.unwrap() + 4;
        bytes[above * 4096..(above + 1) * 4096].copy_from_slice(&block.to_le_bytes().repeat(1024));
        block = u32::try_from(above).unwrap();
    }
    fs::write(&image, &bytes).unwrap();

    let volume = Volume::open(&image).unwrap();
    let file = volume.file("huge").unwrap();
    const EUCLEAN: i32 = 117;
    assert_eq!(file.layout(PageIndex(0), u64::MAX).unwrap_err().errno(), EUCLEAN);
    assert_eq!(file.seek_extent(file.len() - (1 << 39), false).unwrap_err().errno(), EUCLEAN);
    let mut seven = [0; 100];
    assert_eq!(file.read_at(&mut seven, 1 << 39).unwrap(), 100);
    assert_eq!(seven, [7; 100]);
}
