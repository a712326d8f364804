//! A changed image is loaded under the name of the one before, which is in use: each user has one of the two, whole.

mod common;

use common::*;
use std::collections::HashSet;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use xip_segment::{Error, Outcome, Replaced, Segment};

fn names(world: &World) -> Vec<String> {
    let listing = world.store().list().unwrap();
    assert!(listing.problems.is_empty(), "{:?}", listing.problems);
    listing.segments.iter().map(|segment| segment.name().to_owned()).collect()
}

/// The user ends by itself, and has found the bytes it had at first.
fn ends_with_its_bytes(mut user: User) {
    drop(user.0.stdin.take());
    assert!(user.0.wait().unwrap().success(), "its bytes have changed");
}

fn users(segment: &Segment) -> (Vec<u32>, u64) {
    let stat = segment.stat().unwrap();
    (stat.processes.iter().map(|mapper| mapper.user.pid).collect(), stat.resident)
}

#[test]
fn who_uses_the_old_generation_keeps_it_and_it_goes_with_the_last_of_them() {
    let world = World::new();
    let image = world.image("a", 300, 1);
    let old = world.load(&image, None).unwrap().segment.info().clone();
    let first = [world.user("a", 300 * PAGE), world.user("a", PAGE)];
    world.image("a", 301, 2);
    let loaded = world.load(&image, None).unwrap();
    assert_eq!((loaded.outcome, loaded.segment.name(), loaded.also), (Outcome::New, "a", None));
    assert_eq!(loaded.replaced, Some(Replaced { kept_as: Some("a@1".into()) }));
    assert!(bytes_of(&loaded.segment) == std::fs::read(&image).unwrap());
    drop(loaded.segment);

    let second = world.user("a", 301 * PAGE);
    let listed = world.store().list().unwrap().segments;
    let [new, kept] = &listed[..] else { panic!("{listed:?}") };
    assert_eq!((new.name(), new.info().size, new.info().replaced), ("a", 301 * PAGE as u64, false));
    assert_eq!((kept.name(), kept.info().replaced, &kept.info().content), ("a@1", true, &old.content));
    assert_eq!((kept.info().holder, kept.info().size), (old.holder, 300 * PAGE as u64));
    assert_eq!(users(new), (vec![second.0.id()], 301 * PAGE as u64));
    assert_eq!(users(kept), (first.iter().map(|user| user.0.id()).collect(), 300 * PAGE as u64));
    drop(listed);
    let error = world.store().remove("a@1", false).unwrap_err();
    assert!(matches!(&error, Error::InUse { users, .. } if users.len() == 2), "{error}");

    let [one, other] = first;
    ends_with_its_bytes(one);
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(names(&world), ["a", "a@1"], "it is in use");
    ends_with_its_bytes(other);
    until("its holder goes with its last user, and with it the memory", || !is_running(old.holder));
    assert_eq!(world.entries(), ["a"]);
    ends_with_its_bytes(second);
    assert_eq!(names(&world), ["a"], "the new one stays without a user");
}

#[test]
fn a_generation_that_nobody_uses_is_gone_when_the_next_one_is_loaded() {
    let world = World::new();
    let image = world.image("a", 300, 1);
    let old = world.load(&image, Some("b")).unwrap().segment.info().holder;
    for seed in 2..5 {
        world.image("a", 300, seed);
        let loaded = world.load(&image, Some("b")).unwrap();
        assert_eq!((loaded.replaced, loaded.segment.name()), (Some(Replaced { kept_as: None }), "b"));
        assert_eq!(world.entries(), ["b"]);
    }
    until("its holder ends", || !is_running(old));
}

#[test]
fn each_generation_in_use_has_a_name_of_its_own_and_can_be_used_and_removed_by_it() {
    let world = World::new();
    let image = world.image("a", 30, 1);
    let mut users = Vec::new();
    for seed in 1..4 {
        world.image("a", 30, seed);
        world.load(&image, None).unwrap();
        users.push(world.user("a", 30 * PAGE));
    }
    assert_eq!(names(&world), ["a", "a@1", "a@2"]);
    // A lower number that is free is not given again: it was another generation's.
    ends_with_its_bytes(users.remove(0));
    until("the first goes", || names(&world) == ["a", "a@2"]);
    world.image("a", 30, 9);
    assert_eq!(world.load(&image, None).unwrap().replaced, Some(Replaced { kept_as: Some("a@3".into()) }));
    users.push(world.user("a@2", PAGE));
    ends_with_its_bytes(users.remove(0));
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(names(&world), ["a", "a@2", "a@3"]);
    // A name alone goes by force; the bytes stay.
    world.store().remove("a@2", true).unwrap();
    assert_eq!(names(&world), ["a", "a@3"]);
    users.into_iter().for_each(ends_with_its_bytes);
    until("all go", || world.entries() == ["a"]);
    for refused in [world.load(&image, Some("a@3")).map(drop), world.store().get("a@x").map(drop)] {
        assert!(matches!(refused, Err(Error::BadName { .. })), "{refused:?}");
    }
    assert!(matches!(world.store().get("a@3"), Err(Error::NoSegment { .. })));
}

#[test]
fn an_image_that_is_changed_back_has_its_old_generation_again() {
    let world = World::new();
    let image = world.image("a", 300, 1);
    let old = world.load(&image, None).unwrap().segment.id();
    let user = world.user("a", 300 * PAGE);
    world.image("a", 300, 2);
    let new = world.load(&image, None).unwrap().segment.info().holder;
    world.image("a", 300, 1);
    let back = world.load(&image, None).unwrap();
    assert_eq!((back.outcome, back.segment.id(), back.also), (Outcome::Same, old, None));
    assert!(!back.segment.info().replaced);
    assert_eq!(back.replaced, Some(Replaced { kept_as: None }));
    assert_eq!(world.entries(), ["a"]);
    until("the one between ends", || !is_running(new));
    drop(back.segment);
    ends_with_its_bytes(user);
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(world.store().get("a").unwrap().id(), old, "it stays, as the first was to");
}

#[test]
fn a_newer_generation_stays_as_long_as_the_older_one_was_to() {
    let world = World::new();
    let image = world.image("a", 300, 1);
    let load = |temporary: bool| {
        let store = if temporary { world.store().temporary() } else { world.store() };
        store.load(&image, None, &mut |_, _| {}, &mut |_| Ok(())).unwrap()
    };
    load(false);
    world.image("a", 300, 2);
    assert!(load(true).lease.is_none(), "the name was loaded to stay");
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(names(&world), ["a"]);
    world.remove("a");

    // The old one has a loader that is there, and one who has loaded it for a while goes on with that.
    let old = load(true);
    let lease = old.lease.unwrap();
    world.image("a", 300, 3);
    let new = load(true);
    assert_eq!(new.replaced, Some(Replaced { kept_as: Some("a@1".into()) }));
    drop(old.segment);
    lease.end();
    assert_eq!(names(&world), ["a"], "it went with its loader");
    drop(new.segment);
    new.lease.unwrap().end();
    assert_eq!(world.entries(), [""; 0]);
}

/// What used a segment because it loaded it uses it when it is replaced.
#[test]
fn the_loader_of_the_old_generation_is_one_of_its_users() {
    let world = World::new();
    let image = world.image("a", 300, 1);
    let loaded = world.load(&image, None).unwrap().segment;
    world.image("a", 300, 2);
    let path = image.to_str().unwrap();
    let output = world.command(&["load", path]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(names(&world), ["a", "a@1"]);
    drop(loaded);
    until("it goes", || names(&world) == ["a"]);
}

#[test]
fn both_generations_need_memory_and_without_it_the_old_one_stays() {
    let world = World::new();
    let image = world.image("a", 300, 1);
    let old = world.load(&image, None).unwrap().segment.id();
    world.image("a", 300, 2);
    let limited = world.store().with_memory_limit(299 * PAGE as u64);
    let error = limited.load(&image, None, &mut |_, _| {}, &mut |_| Ok(())).unwrap_err();
    assert!(matches!(error, Error::NoMemory { .. }), "{error}");
    let refused = world.store().load(&image, None, &mut |_, _| {}, &mut |_| Err("it is no volume".into()));
    assert!(matches!(refused, Err(Error::Refused { .. })));
    assert_eq!((world.store().get("a").unwrap().id(), world.entries()), (old, vec!["a".into()]));
}

/// Loads one content after the other until `end`, each in a process of its own that is killed after a while; meanwhile the name
/// is asked for all the time.
fn replace_and_kill(world: &World, image: &Path, rounds: u64, contents: &[Vec<u8>]) -> (u64, u64) {
    let end = AtomicBool::new(false);
    let (mut done, mut not) = (0, 0);
    let hashes: HashSet<Vec<u8>> = contents.iter().cloned().collect();
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut asked = 0;
            while !end.load(Ordering::Relaxed) {
                let segment = world.store().get("a").unwrap_or_else(|error| panic!("the name is lost: {error}"));
                assert!(asked % 16 != 0 || hashes.contains(&bytes_of(&segment)), "half a segment");
                let listed = names(world);
                let different: HashSet<&String> = listed.iter().collect();
                assert!(listed[0] == "a" && different.len() == listed.len(), "{listed:?}");
                asked += 1;
            }
            asked
        });
        for round in 0..rounds {
            let content = &contents[usize::try_from(round).unwrap() % contents.len()];
            std::fs::write(image, content).unwrap();
            let mut loader = world.command(&["load", image.to_str().unwrap()]).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(round * 7 % 120));
            let _ = loader.kill();
            loader.wait().unwrap();
            if bytes_of(&world.store().get("a").unwrap()) == *content {
                done += 1
            } else {
                not += 1
            }
            if asking.is_finished() {
                break;
            }
        }
        end.store(true, Ordering::Relaxed);
        assert!(asking.join().unwrap() > 0);
    });
    (done, not)
}

#[test]
fn a_loader_that_is_killed_never_loses_the_name_and_leaves_one_generation_or_the_other() {
    let world = World::new();
    let image = world.image("a", 4000, 1);
    let contents: Vec<Vec<u8>> =
        (1..4).map(|seed| std::fs::read(world.image("content", 4000, seed)).unwrap()).collect();
    world.load(&image, None).unwrap();
    let user = world.user("a", 4000 * PAGE);
    let (done, not) = replace_and_kill(&world, &image, 60, &contents);
    println!("killed 60 times: {done} times the new one had the name, {not} times the old one");
    ends_with_its_bytes(user);
    until("only the last one stays", || names(&world) == ["a"]);
    // Whatever was left, the next one is loaded.
    std::fs::write(&image, &contents[1]).unwrap();
    assert!(bytes_of(&world.load(&image, None).unwrap().segment) == contents[1]);
    until("nothing else is left", || world.entries() == ["a"]);
}

#[test]
fn a_holder_that_is_killed_takes_its_own_generation_only() {
    let world = World::new();
    let image = world.image("a", 300, 1);
    let replace = |seed| {
        world.image("a", 300, seed);
        let loaded = world.load(&image, None).unwrap();
        (loaded.segment.info().holder, loaded.replaced)
    };
    let end = |holder| {
        kill(holder);
        until("the holder ends", || !is_running(holder));
    };
    let (old, _) = replace(1);
    let first = world.user("a", 300 * PAGE);
    // The old one, after it was replaced.
    let (new, _) = replace(2);
    end(old);
    assert_eq!(names(&world), ["a"]);
    ends_with_its_bytes(first);
    // The new one: it was the name's, and the old one is what it was.
    let second = world.user("a", 300 * PAGE);
    let (newest, replaced) = replace(3);
    assert_eq!(replaced, Some(Replaced { kept_as: Some("a@1".into()) }));
    end(newest);
    assert_eq!(names(&world), ["a@1"]);
    // The same content is loaded anew, beside it.
    let loaded = world.load(&image, None).unwrap();
    assert_eq!((loaded.outcome, loaded.replaced), (Outcome::New, None));
    assert_eq!(names(&world), ["a", "a@1"]);
    ends_with_its_bytes(second);
    until("it goes with its user", || !is_running(new));
    // The old one, before it is replaced: the name is free, as always then.
    end(loaded.segment.info().holder);
    drop(loaded.segment);
    assert_eq!(replace(4).1, None);
    assert_eq!(world.entries(), ["a"]);
}

/// One step: there is no time at which the name leads to nothing, however short.
#[test]
fn the_name_is_there_at_every_moment() {
    let world = World::new();
    let image = world.image("a", 1, 0);
    world.load(&image, None).unwrap();
    let (name, end) = (world.store_path().join("a"), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let (mut looks, mut missing) = (0_u64, 0);
            while !end.load(Ordering::Relaxed) {
                looks += 1;
                missing += u64::from(name.symlink_metadata().is_err());
            }
            (looks, missing)
        });
        for seed in 1..=200 {
            world.image("a", 1, seed);
            assert!(world.load(&image, None).unwrap().replaced.is_some());
        }
        end.store(true, Ordering::Relaxed);
        let (looks, missing) = looking.join().unwrap();
        assert!(looks > 100_000 && missing == 0, "missing {missing} times of {looks}");
    });
}

/// What stays when a new holder is killed when its socket has the name of the old one to be, and has not yet changed places with it.
#[test]
fn a_holder_that_is_killed_half_way_to_the_name_leaves_nothing() {
    let world = World::new();
    let image = world.image("a", 10, 1);
    let old = world.load(&image, None).unwrap().segment.id();
    let half_way = || drop(std::os::unix::net::UnixListener::bind(world.store_path().join("a@1")).unwrap());
    half_way();
    assert_eq!((names(&world), world.entries()), (vec!["a".into()], vec!["a".into()]));
    assert_eq!(world.store().get("a").unwrap().id(), old);
    half_way();
    let user = world.user("a", PAGE);
    world.image("a", 10, 2);
    assert_eq!(world.load(&image, None).unwrap().replaced, Some(Replaced { kept_as: Some("a@2".into()) }));
    assert_eq!(names(&world), ["a", "a@2"]);
    ends_with_its_bytes(user);
    until("nothing is left", || world.entries() == ["a"]);
}

/// It cannot be asked whether it is in use: the new one is not loaded, and the name is as it was.
#[test]
fn a_holder_that_is_stopped_is_not_replaced() {
    let world = World::new();
    let image = world.image("a", 10, 1);
    let holder = world.load(&image, None).unwrap().segment.info().holder;
    let pid = rustix::process::Pid::from_raw(i32::try_from(holder).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    world.image("a", 10, 2);
    let start = Instant::now();
    assert!(matches!(world.load(&image, None), Err(Error::Silent { .. })));
    assert!(start.elapsed() < Duration::from_secs(30));
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    assert_eq!(world.load(&image, None).unwrap().replaced, Some(Replaced { kept_as: None }));
}
