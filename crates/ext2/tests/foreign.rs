//! Volumes that mke2fs made, of every block size and inode size, read through the cached path.

mod support;

use std::process::Command;
use support::Bytes;
use support::walk::{Found, walk};
use xip_core::Alone;
use xip_ext2::{Error, Volume};

#[test]
fn volumes_of_mke2fs_read_the_same_at_every_block_size() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    std::fs::create_dir_all(tree.join("a/b")).unwrap();
    // Over 12, 12 + 256 and 12 + 256 + 65536 blocks of 1024 bytes.
    let big: Vec<u8> = (0..70_000_000u32).map(|n| (n / 1000 + n % 251) as u8).collect();
    std::fs::write(tree.join("big"), &big).unwrap();
    std::fs::write(tree.join("a/b/small"), b"small").unwrap();
    std::os::unix::fs::symlink("b/small", tree.join("a/fast")).unwrap();
    std::os::unix::fs::symlink("x".repeat(500), tree.join("a/slow")).unwrap();
    for n in 0..2000 {
        std::fs::write(tree.join(format!("a/b/{n}")), []).unwrap();
    }
    for (block, inode) in [("1024", "128"), ("2048", "256"), ("4096", "256"), ("1024", "1024")] {
        let image = dir.path().join("image");
        let _ = std::fs::remove_file(&image);
        let made = Command::new("mke2fs")
            .args(["-q", "-t", "ext2", "-b", block, "-I", inode, "-N", "4000", "-d"])
            .args([tree.as_os_str(), image.as_os_str()])
            .arg("120M")
            .status()
            .expect("mke2fs: run cargo xtask setup");
        assert!(made.success());
        let volume = Volume::open(Bytes::of(&std::fs::read(&image).unwrap()), Alone::default()).unwrap();
        let found = walk(&volume, 100 << 20);
        assert_eq!(found[b"/big".as_slice()], Found::File(big.clone().into()), "block size {block}");
        assert_eq!(found[b"/a/b/small".as_slice()], Found::File(b"small".to_vec().into()));
        assert_eq!(found[b"/a/fast".as_slice()], Found::Link(b"b/small".to_vec()));
        assert_eq!(found[b"/a/slow".as_slice()], Found::Link(vec![b'x'; 500]));
        // And `lost+found`.
        assert_eq!(found.len(), 1 + 2 + 2 + 2 + 2000 + 1);
        assert!(found.values().all(|found| !matches!(found, Found::Failed(_))));
        if block != "4096" {
            assert!(volume.read_only().is_some(), "{block}");
        }
    }
}

/// Contract 5: "asking for XIP there is refused: `XIP: Unsupported blocksize`, as the kernel said it, with the size".
#[test]
fn in_place_with_another_block_size_is_refused_as_the_kernel_did() {
    let error = Error::UnsupportedBlocksize { size: 1024 };
    assert!(error.to_string().starts_with("XIP: Unsupported blocksize 1024"), "{error}");
    assert_eq!(error.errno(), 22);
}
