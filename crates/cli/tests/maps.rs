//! A file of a segment, mapped by the library.

mod common;

use common::Place;
use xip::{Sharing, Volume};
use xip_segment::Store;

/// Kilobytes that the kernel maps by 2 MiB at a time in the mapping that holds `address`.
fn huge_kilobytes(address: usize) -> u64 {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut inside = false;
    let mut found = 0;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        if let Some((start, end)) = first.split_once('-') {
            let number = |text| usize::from_str_radix(text, 16).unwrap();
            inside = (number(start)..number(end)).contains(&address);
        } else if inside && matches!(first, "ShmemPmdMapped:" | "FilePmdMapped:") {
            found += words.next().unwrap().parse::<u64>().unwrap();
        }
    }
    found
}

/// Contract 4: 2 MiB at a time, where file offset, address and storage agree.
#[test]
fn a_large_file_of_a_segment_is_mapped_by_huge_pages_and_is_one_slice() {
    let place = Place::new();
    let tree = place.path("tree");
    std::fs::create_dir(&tree).unwrap();
    let bytes: Vec<u8> = (0..6 << 20).map(|n: u32| (n / 4096 * 31 + n) as u8).collect();
    std::fs::write(tree.join("large"), &bytes).unwrap();
    let image = place.path("large.xip");
    place.run(["build".as_ref(), tree.as_os_str(), image.as_os_str()]).succeeds();
    place.run(["load".as_ref(), image.as_os_str()]).succeeds();
    let segment = Store::open(place.path("segments")).unwrap().get("large").unwrap();
    let volume = Volume::from_segment(&segment).unwrap();
    let file = volume.file("large").unwrap();
    let map = file.map(0, bytes.len(), Sharing::Read).unwrap();
    assert!(map.as_slice().unwrap() == bytes);
    match segment.huge().unwrap() {
        huge if huge.why_not.is_none() => assert_eq!(huge_kilobytes(map.as_ptr().addr()), 6 << 10),
        huge => println!("SKIPPED: the segment has no huge pages here: {:?}", huge.why_not),
    }
}
