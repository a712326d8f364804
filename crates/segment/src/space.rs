//! How much memory there is for a segment, before it is taken: shared memory that runs out while it is filled ends
//! programs, not calls.

use std::path::{Path, PathBuf};

/// Bytes that can be taken now: of the machine, of this process's control group and of those above it.
pub(crate) fn free() -> u64 {
    let machine = key(Path::new("/proc/meminfo"), &["MemAvailable:"]).map_or(u64::MAX, |kilobytes| kilobytes * 1024);
    groups().iter().filter_map(|group| group_free(group)).fold(machine, u64::min)
}

/// The directories of the control groups that limit the memory of this process, of either version.
fn groups() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for line in read(Path::new("/proc/self/cgroup")).lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(kinds), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let root = match kinds {
            "" => Path::new("/sys/fs/cgroup"),
            _ if kinds.split(',').any(|kind| kind == "memory") => Path::new("/sys/fs/cgroup/memory"),
            _ => continue,
        };
        let path = root.join(path.trim_start_matches('/'));
        found.extend(path.ancestors().take_while(|above| above.starts_with(root)).map(Path::to_path_buf));
    }
    found
}

fn group_free(group: &Path) -> Option<u64> {
    let number = |name: &str| read(&group.join(name)).trim().parse::<u64>().ok();
    let limit = number("memory.max").or_else(|| number("memory.limit_in_bytes"))?;
    let used = number("memory.current").or_else(|| number("memory.usage_in_bytes"))?;
    // The page cache of files gives way; shared memory is counted with it and does not.
    let stat = group.join("memory.stat");
    let cache = key(&stat, &["total_cache ", "file "]).unwrap_or(0);
    let shared = key(&stat, &["total_shmem ", "shmem "]).unwrap_or(0);
    Some(limit.saturating_sub(used).saturating_add(cache.saturating_sub(shared)).min(limit))
}

/// The number after the first of `names` that starts a line.
fn key(file: &Path, names: &[&str]) -> Option<u64> {
    let text = read(file);
    names.iter().find_map(|name| {
        let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
        rest.split_whitespace().next()?.parse().ok()
    })
}

/// A file of the kernel's; empty when it is not there.
fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_group_gives_what_is_below_its_limit_and_what_its_page_cache_can_give_up() {
        let group = tempfile::tempdir().unwrap();
        let set = |name: &str, text: &str| std::fs::write(group.path().join(name), text).unwrap();
        set("memory.limit_in_bytes", "1000\n");
        set("memory.usage_in_bytes", "600\n");
        set("memory.stat", "cache 1\ntotal_cache 300\ntotal_shmem 100\n");
        assert_eq!(group_free(group.path()), Some(600));
        set("memory.max", "2000\n");
        set("memory.current", "1900\n");
        set("memory.stat", "anon 5\nfile 300\nshmem 300\n");
        assert_eq!(group_free(group.path()), Some(100));
        // No limit: the rest of version 1 is not asked for then, it is never there too.
        std::fs::remove_file(group.path().join("memory.limit_in_bytes")).unwrap();
        set("memory.max", "max\n");
        assert_eq!(group_free(group.path()), None);
        assert!(free() > 0 && free() < u64::MAX);
    }
}
