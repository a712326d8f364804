//! Volumes on devices of one's own: behind a header, and on a new file of which the device keeps books.

mod common;

use common::fsck;
use std::fs;
use std::path::Path;
use xip::{File, OpenOptions, Sharing, Volume};
use xip_core::{Alone, Timestamp};
use xip_ext2::Format;
use xip_segment::MappedFile;

const PAGE: usize = 4096;

/// An empty volume on a device.
fn format(device: &MappedFile, blocks: u64) {
    let format = Format { blocks, inodes: 32, uuid: [1; 16], hash_seed: [2; 16], ..Format::default() };
    let env = Alone::at(Timestamp { seconds: 1, nanoseconds: 0 });
    xip_ext2::Volume::format(device, env, &format).unwrap().close().unwrap();
}

fn new_file(path: &Path) -> fs::File {
    fs::File::options().read(true).write(true).create_new(true).open(path).unwrap()
}

fn open_new(volume: &Volume, name: &str) -> File {
    OpenOptions::new().read(true).write(true).create_new(true).open(volume, name).unwrap()
}

/// A map and `sendfile` hand the file to the kernel, by offsets in it and not in the device.
#[test]
fn a_volume_behind_a_header_is_mapped_and_sent_from_where_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image");
    format(&MappedFile::create_behind_header(new_file(&image), 2048).unwrap(), 2048);
    let before = fs::read(&image).unwrap();
    let volume = Volume::open_writable(&image).unwrap();
    let file = open_new(&volume, "a");
    file.write_all_at(&[7; 2 * PAGE], 0).unwrap();
    let mut bytes = [0; 2 * PAGE];
    file.map(0, 2 * PAGE, Sharing::Read).unwrap().read(0, &mut bytes).unwrap();
    assert!(bytes == [7; 2 * PAGE]);
    let sent = directory.path().join("sent");
    assert_eq!(file.sendfile(new_file(&sent), 0, 2 * PAGE).unwrap(), 2 * PAGE);
    assert!(fs::read(&sent).unwrap() == [7; 2 * PAGE]);
    file.map(0, 2 * PAGE, Sharing::Write).unwrap().write(0, &[9; 2 * PAGE]).unwrap();
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), 2 * PAGE);
    assert!(bytes == [9; 2 * PAGE]);
    drop(file);
    volume.close().unwrap();
    let header = before.len() - 2048 * PAGE;
    let after = fs::read(&image).unwrap();
    assert!(after[..header] == before[..header], "the header is as it was");
    let behind = directory.path().join("behind");
    fs::write(&behind, &after[header..]).unwrap();
    fsck(&behind);
}

/// Contract 2, zero before publish. The device of a new file does not zero what was never written, and does not see what is stored
/// through a map.
#[test]
fn what_a_map_stored_on_a_new_file_does_not_show_in_the_next_one() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image");
    let device = MappedFile::create(new_file(&image), 256).unwrap();
    format(&device, 256);
    let volume = Volume::writable(device).unwrap();
    let file = open_new(&volume, "first");
    file.allocate(0, 8 * PAGE as u64, false).unwrap();
    file.map(0, 8 * PAGE, Sharing::Write).unwrap().write(0, &[0x5a; 8 * PAGE]).unwrap();
    drop(file);
    volume.remove_file("first").unwrap();
    let file = open_new(&volume, "second");
    file.allocate(0, 8 * PAGE as u64, false).unwrap();
    let mut bytes = [1; 8 * PAGE];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), bytes.len());
    assert!(bytes.iter().all(|&byte| byte == 0), "bytes of a file that was removed");
    drop(file);
    volume.close().unwrap();
    fsck(&image);
}

#[test]
fn a_size_that_no_volume_has_is_refused_before_there_is_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image");
    for bytes in [0, 1000, 8192, u64::MAX] {
        let error = Volume::create(&image, bytes).unwrap_err().to_string();
        assert!(error.starts_with("no volume can be made: the number of blocks"), "{error}");
        assert!(!image.exists());
    }
}
