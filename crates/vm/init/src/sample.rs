//! Whether files are in place, and in pages of which size: the kernel's word for a sample of them.

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const HUGE: usize = 2 << 20;
/// So many parts of 2 MiB say enough about all.
const PARTS: usize = 256;
/// One fault, and a few of the kernel's own making; by small pages it would be 512.
const FEW_FAULTS: u64 = 64;

/// The regular files of one file system that have content, each by one name of it.
pub(crate) fn files(top: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let device = fs::symlink_metadata(top).map_or(0, |top| top.dev());
    let mut waiting = vec![top.to_path_buf()];
    let mut found: Vec<PathBuf> = Vec::new();
    std::iter::from_fn(move || {
        loop {
            if let Some(file) = found.pop() {
                return Some(file);
            }
            for entry in fs::read_dir(waiting.pop()?).into_iter().flatten().flatten() {
                let Ok(kind) = entry.file_type() else { continue };
                // A directory of another file system, or a file that something is mounted over, is nothing of the volume.
                if !(kind.is_dir() || kind.is_file()) || !entry.metadata().is_ok_and(|known| known.dev() == device) {
                    continue;
                }
                if kind.is_dir() {
                    waiting.push(entry.path());
                } else if entry.metadata().is_ok_and(|known| known.len() > 0) {
                    found.push(entry.path());
                }
            }
        }
    })
}

/// Whether the kernel says that a file is in place: `STATX_ATTR_DAX` of `statx(2)`.
pub(crate) fn is_in_place(file: &Path) -> bool {
    const DAX: u64 = 0x0020_0000;
    let known = statx(CWD, file, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS);
    known.is_ok_and(|known| known.stx_attributes.bits() & DAX != 0)
}

/// Looks at `count` files, evenly chosen, and tells of each; what was found in sum, as the host reads it.
pub(crate) fn look(volume: &Path, count: usize, tell: &mut dyn FnMut(String)) -> String {
    let all: Vec<PathBuf> = files(volume).collect();
    let step = all.len().div_ceil(count.max(1)).max(1);
    for file in all.iter().step_by(step) {
        let path = file.strip_prefix(volume).unwrap_or(file).display();
        tell(format!("file dax={} text=/{path}", u8::from(is_in_place(file))));
    }
    let (mut parts, mut huge) = (0, 0);
    // What is in the page cache instead is made present by the run, so that faults say nothing.
    for file in all.iter().filter(|file| is_in_place(file)) {
        let Ok(len) = fs::metadata(file).map(|known| known.len()) else { continue };
        for at in (0..len / HUGE as u64).take(PARTS.saturating_sub(parts)) {
            if let Some(mapped) = is_huge(file, at * HUGE as u64) {
                parts += 1;
                huge += usize::from(mapped);
            }
        }
    }
    format!(" files={} parts={parts} huge={huge}", all.len())
}

/// Whether the kernel maps 2 MiB of a file as one. Mappings of persistent memory are in none of the sums of `smaps`; but what is
/// mapped as one takes one page fault, and else each page takes its own.
#[allow(unsafe_code)]
fn is_huge(file: &Path, at: u64) -> Option<bool> {
    let file = File::open(file).ok()?;
    // SAFETY: a new mapping, at an address that the kernel chooses: it takes the place of nothing.
    let memory = unsafe { mmap(std::ptr::null_mut(), HUGE, ProtFlags::READ, MapFlags::SHARED, &file, at) }.ok()?;
    let before = faults();
    // SAFETY: `memory` is the start of a mapping of this length, made above. This changes no content.
    let present = unsafe { madvise(memory, HUGE, Advice::LinuxPopulateRead) };
    let after = faults();
    // SAFETY: as above; nobody has a reference into it: it was never read.
    let _ = unsafe { munmap(memory, HUGE) };
    present.ok()?;
    Some(after?.saturating_sub(before?) < FEW_FAULTS)
}

/// Page faults of this process that needed no reading from a device.
fn faults() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/stat").ok()?;
    text.rsplit_once(')')?.1.split_ascii_whitespace().nth(7)?.parse().ok()
}
