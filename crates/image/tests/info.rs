//! `info` on images of any sort: an error or an answer, never a panic or a walk without end.

mod support;

use proptest::prelude::*;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use support::*;
use xip_image::{Build, Error, info};

#[test]
fn an_image_says_what_is_in_it() {
    let directory = tempfile::tempdir().unwrap();
    let (source, image) = (directory.path().join("tree"), directory.path().join("image"));
    plain_tree(&source);
    let built = Build { label: "name".into(), ..Build::default() }.run(&source, &image, &()).unwrap().info;
    let seen = info(&image).unwrap();
    // The writer's own look and the reader's are the same.
    assert_eq!(serde_json::to_value(&built).unwrap(), serde_json::to_value(&seen).unwrap());
    assert_eq!(seen.features, ["ext_attr", "dir_index", "filetype", "sparse_super", "large_file"]);
    assert_eq!((seen.files.regular, seen.files.directories, seen.files.symlinks), (101, 6, 5));
    assert_eq!(seen.files.hard_links, 1);
    // In each of five directories three of twenty files are empty: numbers 0, 8 and 16.
    assert_eq!((seen.runs.empty, seen.runs.one_run, seen.runs.cut), (15, 86, 0));
    assert_eq!((seen.runs.large_files, seen.runs.huge_files, seen.runs.huge_pages), (1, 1, 1));
    let content: u64 = entries(&source).values().filter(|e| e.mode & 0o170_000 == 0o100_000).map(|e| e.size).sum();
    // One file has two names.
    assert_eq!(seen.density.content_bytes, content - 49_152);
}

#[test]
fn images_of_other_tools_are_looked_at_too() {
    let directory = tempfile::tempdir().unwrap();
    let (source, image) = (directory.path().join("tree"), directory.path().join("image"));
    plain_tree(&source);
    for (block_size, in_place) in [("4096", true), ("1024", false)] {
        let made = std::process::Command::new("mke2fs")
            .args(["-q", "-F", "-t", "ext2", "-b", block_size, "-d"])
            .args([source.as_os_str(), image.as_os_str(), "64M".as_ref()])
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let seen = info(&image).unwrap();
        assert_eq!((seen.files.regular, seen.files.symlinks), (101, 5));
        assert_eq!(seen.not_in_place.is_none(), in_place, "{:?}", seen.not_in_place);
        if in_place {
            assert_eq!(seen.runs.one_run + seen.runs.cut + seen.runs.empty, 101);
        }
    }
}

#[test]
fn what_is_no_image_is_an_error_that_names_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    let check = |what: &str| {
        let error = info(&file).unwrap_err();
        assert!(error.to_string().contains(&file.display().to_string()), "{what}: {error}");
        error
    };
    assert!(matches!(check("missing"), Error::Image { .. }));
    assert_eq!(check("missing").errno(), rustix::io::Errno::NOENT.raw_os_error());
    for (what, content) in [("empty", 0), ("shorter than a superblock", 1000), ("zeros", 1 << 20)] {
        fs::write(&file, vec![0; content]).unwrap();
        check(what);
    }
    fs::write(&file, bytes(1 << 20, 3)).unwrap();
    check("noise");
    fs::remove_file(&file).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &file, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    check("a fifo that nobody writes to");
    fs::remove_file(&file).unwrap();
    let source = directory.path().join("tree");
    plain_tree(&source);
    Build::default().run(&source, &file, &()).unwrap();
    fs::File::options().write(true).open(&file).unwrap().set_len(2 << 20).unwrap();
    check("cut off");
}

fn small_image(at: &Path) -> Vec<u8> {
    let source = at.join("tree");
    plain_tree(&source);
    Build::default().run(&source, &at.join("image"), &()).unwrap();
    fs::read(at.join("image")).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_image_gives_an_error_or_an_answer(
        damage in prop::collection::vec((0u32..600_000, any::<u32>()), 1..40),
    ) {
        static WHOLE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
        let directory = tempfile::tempdir().unwrap();
        let whole = WHOLE.get_or_init(|| small_image(directory.path()));
        let image = directory.path().join("damaged");
        fs::write(&image, whole).unwrap();
        let file = fs::File::options().write(true).open(&image).unwrap();
        for (at, value) in damage {
            // Words, as most fields are; the superblock one time in eight.
            let at = if at % 8 == 0 { 1024 + at / 8 % 256 * 4 } else { at / 4 * 4 };
            file.write_all_at(&value.to_le_bytes(), at.into()).unwrap();
        }
        let _ = info(&image);
    }

    /// Pointers that lead to each other's blocks, directories among them.
    #[test]
    fn files_that_share_blocks_do_not_make_the_walk_endless(
        damage in prop::collection::vec((11u32..130, 0u32..15, 8u32..140), 1..60),
    ) {
        static WHOLE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
        let directory = tempfile::tempdir().unwrap();
        let whole = WHOLE.get_or_init(|| small_image(directory.path()));
        let image = directory.path().join("damaged");
        fs::write(&image, whole).unwrap();
        let file = fs::File::options().write(true).open(&image).unwrap();
        for (inode, pointer, block) in damage {
            // One group: superblock, descriptors, two bitmaps, and then the inode table.
            let at = 4 * 4096 + u64::from(inode - 1) * 256;
            file.write_all_at(&block.to_le_bytes(), at + 40 + 4 * u64::from(pointer)).unwrap();
            file.write_all_at(&[0xff, 0xff, 0xff, 0x7f], at + 4).unwrap();
        }
        let _ = info(&image);
    }
}
