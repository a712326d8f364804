//! Ways round the runner that are closed, and programs that guard themselves.

mod common;

use common::image;

fn case(name: &str) {
    for suffix in ["", "-static"] {
        let said = image().says(&[&format!("/bin/guards{suffix}"), name]);
        assert_eq!(said, "ok\n", "guards{suffix} {name}");
    }
}

#[test]
fn io_uring_is_as_in_a_kernel_without_it() {
    case("uring");
}

#[test]
fn nothing_starts_untraced_and_threads_and_programs_start() {
    case("unseen");
}

#[test]
fn a_program_under_its_own_filter_loads_libraries_and_starts_programs() {
    case("locked");
    case("locked-all");
    assert_eq!(image().says(&["-c", "/bin/guards", "locked"]), "ok\n", "it does so natively");
}

#[test]
fn what_a_filtered_program_maps_is_counted() {
    let report = image().report(&["/bin/guards", "locked"]);
    let dense = &report["files"]["/data/dense"];
    // Its own mapping, and that of the program it executes.
    assert_eq!(dense["not_in_place"]["sandboxed"], 2 * 40 * 4096, "{dense}");
    assert_eq!(dense["bytes_in_place"], 0);
    assert!(report["files"]["/bin/guards"]["bytes_in_place"].as_u64() > Some(0), "what it had before stays");
    let report = image().report(&["/bin/guards", "probed"]);
    assert_eq!(report["files"]["/data/dense"]["bytes_in_place"], 40 * 4096);
}

#[test]
fn nobody_sees_the_descriptor_of_a_process_that_is_alone() {
    case("spied");
    case("spied-nested");
}

#[test]
fn nobody_sees_the_descriptor_of_a_helper_of_threads() {
    case("spied-threads");
    case("spied-programs");
}

/// Also for who does not go through the command.
#[test]
fn nothing_is_run_from_memory_that_can_change() {
    let image = std::fs::File::open(image().path()).unwrap();
    let device = xip_segment::MappedFile::open(image.try_clone().unwrap(), xip_segment::Access::ReadOnly).unwrap();
    let volume = xip::Volume::from_device(device).unwrap();
    let options = xip_run::Options::new("/bin/true");
    assert!(matches!(xip_run::run(&volume, &image, &options), Err(xip_run::Error::NotSealed)));
}

#[test]
fn nothing_takes_the_place_of_the_page_of_code() {
    case("page");
}

#[test]
fn in_a_user_namespace_of_its_own_a_program_is_left_to_the_page_cache() {
    case("nested");
    let report = image().report(&["/bin/guards", "nested"]);
    let dense = &report["files"]["/data/dense"];
    assert_eq!(dense["not_in_place"]["sandboxed"], 2 * 40 * 4096, "{dense}");
}

#[test]
fn in_such_a_namespace_nothing_is_in_place_while_processes_begin_and_end() {
    case("nested-busy");
}

#[test]
fn a_program_cannot_use_up_what_the_runner_needs_to_refuse_growth() {
    let few = image().with_descriptors(100, &["/bin/guards", "many"]);
    assert_eq!(String::from_utf8_lossy(&few.stdout), "ok\n", "{}", String::from_utf8_lossy(&few.stderr));
}

#[test]
fn who_may_look_at_a_process_is_as_it_was() {
    case("dumpable");
}

#[test]
fn where_memory_cannot_be_sealed_the_page_of_code_is_looked_at_before_each_use() {
    let without = |arguments: &[&str]| image().without_mseal(arguments);
    let report = without(&["/bin/guards", "page-taken"]);
    let dense = &report["files"]["/data/dense"];
    // Before the page was taken, after it, and by a thread.
    assert_eq!(
        (&dense["bytes_in_place"], &dense["not_in_place"]["refused"]),
        (&(40 * 4096).into(), &(2 * 40 * 4096).into()),
        "{dense}"
    );
    let report = without(&["/bin/guards", "map"]);
    assert_eq!(report["files"]["/data/dense"]["bytes_in_place"], 40 * 4096);
}

#[test]
fn a_forked_process_without_the_page_of_code_is_left_to_the_page_cache() {
    case("page-unforked");
    let report = image().report(&["/bin/guards", "page-unforked"]);
    assert_eq!(report["files"]["/data/dense"]["not_in_place"]["refused"], 40 * 4096);
}

#[test]
fn a_programs_own_filter_hides_no_call_from_the_runner() {
    case("other-word");
}

#[test]
fn children_forked_while_a_thread_maps_are_as_dumpable_as_their_parent() {
    case("forked-dumpable");
}

#[test]
fn files_of_the_overlay_have_numbers_that_no_file_of_the_volume_has() {
    let said = image().says(&["-o", "bash", "-c", "echo > /new && ls -i /new"]);
    let number: u64 = said.split_whitespace().next().unwrap().parse().unwrap();
    let inodes = xip::Volume::open(image().path()).unwrap().geometry().inodes;
    assert!(number > inodes.into(), "{number} of {inodes}");
}
