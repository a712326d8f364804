//! Who uses a segment, in the figures of the kernel, and the huge pages it stands in.

mod common;

use common::*;
use xip_segment::{Error, Outcome};

#[test]
fn a_segment_in_use_is_not_removed_unless_forced_and_the_users_are_named() {
    let world = World::new();
    let image = world.image("a", 300, 1);
    let holder = world.load(&image, None).unwrap().segment.info().holder;
    let mut user = world.user("a", 300 * PAGE);
    let error = world.store().remove("a", false).unwrap_err();
    let Error::InUse { users, .. } = &error else { panic!("{error}") };
    assert_eq!(users.iter().map(|user| user.pid).collect::<Vec<_>>(), [user.0.id()]);
    assert!(error.to_string().contains(&format!("segment ({})", user.0.id())), "{error}");
    assert_eq!(error.errno(), 16);
    assert!(world.store().get("a").is_ok());

    world.store().remove("a", true).unwrap();
    assert!(matches!(world.store().get("a"), Err(Error::NoSegment { .. })));
    until("the holder ends", || !is_running(holder));
    // The user has it still, and a new one can have the name.
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", user.0.id())).unwrap();
    assert!(maps.contains("/memfd:xip:a"));
    assert_eq!(world.load(&image, None).unwrap().outcome, Outcome::New);
    drop(user.0.stdin.take());
    assert!(user.0.wait().unwrap().success());
    world.remove("a");
}

#[test]
fn the_figures_of_stat_are_those_of_the_processes() {
    let world = World::new();
    let pages = 777;
    let size = (pages * PAGE) as u64;
    let segment = world.load(&world.image("a", pages, 1), None).unwrap().segment;
    let stat = segment.stat().unwrap();
    assert_eq!((stat.resident, stat.swapped, stat.saved), (size, 0, 0));
    assert!(stat.processes.is_empty() && stat.shared.is_empty(), "{stat:?}");

    let users = [world.user("a", pages * PAGE), world.user("a", pages * PAGE), world.user("a", pages * PAGE)];
    let stat = segment.stat().unwrap();
    let mut pids: Vec<u32> = stat.processes.iter().map(|mapper| mapper.user.pid).collect();
    pids.sort_unstable();
    let mut expected: Vec<u32> = users.iter().map(|user| user.0.id()).collect();
    expected.sort_unstable();
    assert_eq!(pids, expected);
    for mapper in &stat.processes {
        assert_eq!((mapper.mapped, mapper.in_place, mapper.copied), (size, size, 0), "{mapper:?}");
        assert_eq!(mapper.user.command, "segment");
        assert!(mapper.arguments.contains(" use a "), "{mapper:?}");
    }
    let shared: Vec<_> = stat.shared.iter().map(|shared| (shared.processes, shared.bytes)).collect();
    assert_eq!(shared, [(3, size)]);
    assert_eq!(stat.saved, 2 * size);

    // One who has read a page has that, and what the kernel maps around it: never more than is there.
    drop(users);
    let _one = world.user("a", 1);
    let stat = segment.stat().unwrap();
    let [mapper] = &stat.processes[..] else { panic!("{stat:?}") };
    assert!((PAGE as u64..=size).contains(&mapper.in_place), "{mapper:?}");
    assert_eq!(stat.shared.iter().map(|shared| shared.bytes).sum::<u64>(), mapper.in_place);
    assert_eq!(stat.saved, 0);
    let json = serde_json::to_value(&stat).unwrap();
    assert_eq!(json["name"], "a");
    assert_eq!(json["processes"][0]["pid"], mapper.user.pid);
}

#[test]
fn the_process_that_serves_the_files_is_shown_and_counts_in_no_sum() {
    use xip_segment::stat::Role;
    let world = World::new();
    let pages = 500;
    let size = (pages * PAGE) as u64;
    let segment = world.load(&world.image("a", pages, 1), None).unwrap().segment;
    // First, so that it has the lower number.
    let server = world.server("a", pages * PAGE);
    let stat = segment.stat().unwrap();
    assert_eq!((stat.saved, stat.shared.len(), stat.programs().count()), (0, 0, 0), "{stat:?}");
    let [mapper] = &stat.processes[..] else { panic!("{stat:?}") };
    assert_eq!((mapper.user.pid, mapper.user.role, mapper.in_place), (server.0.id(), Role::Serves, size));

    let users = [world.user("a", pages * PAGE), world.user("a", pages * PAGE)];
    let stat = segment.stat().unwrap();
    let shared: Vec<_> = stat.shared.iter().map(|shared| (shared.processes, shared.bytes)).collect();
    assert_eq!((shared, stat.saved), (vec![(2, size)], size));
    assert_eq!((stat.programs().count(), stat.processes.len()), (2, 3));
    let json = serde_json::to_value(&stat).unwrap();
    assert_eq!((&json["processes"][0]["role"], &json["processes"][2]["role"]), (&"uses".into(), &"serves".into()));

    let words = world.store().remove("a", false).unwrap_err().to_string();
    let at = |pid: u32| words.find(&format!("({pid}")).unwrap_or_else(|| panic!("{pid} is not in: {words}"));
    assert!(users.iter().all(|user| at(user.0.id()) < at(server.0.id())), "{words}");
    assert!(words.contains(&format!("xip ({}, serves its files)", server.0.id())), "{words}");
}

/// A virtual machine maps the whole, as the example does; its process can have any name.
#[test]
fn guests_are_told_from_programs_and_count_in_the_sums() {
    use xip_segment::stat::Role;
    let world = World::new();
    let pages = 500;
    let size = (pages * PAGE) as u64;
    let segment = world.load(&world.image("a", pages, 1), None).unwrap().segment;
    let guests = ["qemu-system-x86_64", "cloud-hypervisor"].map(|file| world.guest(file, "a", pages * PAGE));
    let program = world.user("a", pages * PAGE);
    let stat = segment.stat().unwrap();
    let of = |mapper: &xip_segment::stat::Mapper| (mapper.user.pid, mapper.user.role, mapper.in_place);
    let expected = [
        (program.0.id(), Role::Uses, size),
        (guests[0].0.id(), Role::Guest, size),
        (guests[1].0.id(), Role::Guest, size),
    ];
    assert_eq!(stat.processes.iter().map(of).collect::<Vec<_>>(), expected);
    assert_eq!((stat.programs().count(), stat.guests().count(), stat.sharers().count()), (1, 2, 3));
    let shared: Vec<_> = stat.shared.iter().map(|shared| (shared.processes, shared.bytes)).collect();
    assert_eq!((shared, stat.saved), (vec![(3, size)], 2 * size));
    assert_eq!(serde_json::to_value(&stat).unwrap()["processes"][1]["role"], "guest");
    let words = world.store().remove("a", false).unwrap_err().to_string();
    assert!(words.contains(&format!("({}, a guest)", guests[0].0.id())), "{words}");
}

/// Sets how the kernel makes huge pages for shared memory, and sets it back.
struct HugeSetting(String);

impl HugeSetting {
    const FILE: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

    fn set(value: &str) -> Option<Self> {
        let old = std::fs::read_to_string(Self::FILE).ok()?;
        let old = old.split(['[', ']']).nth(1)?.to_owned();
        std::fs::write(Self::FILE, value).ok().map(|()| Self(old))
    }
}

impl Drop for HugeSetting {
    fn drop(&mut self) {
        let _ = std::fs::write(Self::FILE, &self.0);
    }
}

#[test]
fn huge_pages_are_used_where_the_kernel_allows_them_and_said_where_not() {
    let world = World::new();
    let image = world.image("a", 1024 + 3, 1);
    let Some(setting) = HugeSetting::set("deny") else {
        println!("skipped: to change {} needs root and a kernel with huge pages", HugeSetting::FILE);
        return;
    };
    let segment = world.load(&image, None).unwrap().segment;
    let huge = segment.huge().unwrap();
    assert_eq!(huge.bytes, 0);
    assert!(huge.why_not.unwrap().contains("deny"));
    drop(segment);
    world.remove("a");

    for value in ["advise", "always"] {
        std::fs::write(HugeSetting::FILE, value).unwrap();
        let segment = world.load(&image, None).unwrap().segment;
        let huge = segment.huge().unwrap();
        assert_eq!((huge.bytes, huge.why_not), (4 << 20, None), "{value}");
        drop(segment);
        world.remove("a");
    }
    drop(setting);
}
