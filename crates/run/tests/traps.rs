//! The traps of mapping files in place (contract 4), each tried by a program that runs in place, dynamic and static.

mod common;

use common::image;

fn case(program: &str, name: &str) {
    for suffix in ["", "-static"] {
        let said = image().says(&[&format!("/bin/{program}{suffix}"), name]);
        assert_eq!(said, "ok\n", "{program}{suffix} {name}");
    }
}

#[test]
fn every_page_is_the_files_and_in_the_segment() {
    case("traps", "content");
}

#[test]
fn a_hole_reads_as_zeros_and_takes_private_stores() {
    case("traps", "hole");
}

#[test]
fn behind_the_end_of_the_file_are_zeros_then_sigbus() {
    case("traps", "tail");
}

#[test]
fn map_populate_populates_from_the_segment() {
    case("traps", "populate");
}

#[test]
fn a_shared_mapping_cannot_be_made_writable_or_moved_over_the_segment() {
    case("traps", "shared");
}

#[test]
fn stores_to_a_private_mapping_are_seen_by_nobody_else() {
    case("traps", "private");
}

#[test]
fn fixed_addresses_and_errors_are_the_kernels() {
    case("traps", "fixed");
}

#[test]
fn a_mapping_that_grows_never_shows_the_next_file() {
    case("traps", "grow");
}

#[test]
fn what_the_kernel_zeroed_behind_program_data_stays_zero() {
    case("traps", "bss");
}

#[test]
fn registers_signal_mask_and_descriptors_are_as_they_were() {
    case("traps", "untouched");
}

#[test]
fn processors_are_those_that_it_had() {
    case("traps", "processors");
}

#[test]
fn a_part_mapped_anew_over_the_same_is_kept_and_is_as_asked_for() {
    case("traps", "again");
    case("traps", "again-untouched");
}

#[test]
fn what_was_written_before_a_part_is_mapped_anew_is_gone() {
    case("traps", "again-written");
}

#[test]
fn a_part_mapped_anew_has_none_of_the_properties_that_were_given_before() {
    case("traps", "again-special");
    case("traps", "again-locked");
}

#[test]
fn a_part_is_mapped_anew_where_rights_cannot_be_changed() {
    case("traps", "again-refused");
}

#[test]
fn signals_while_parts_are_mapped_anew_find_the_program_in_its_own_code() {
    case("traps", "again-signals");
}

#[test]
fn no_thread_ever_sees_the_segments_descriptor() {
    case("processes", "leak");
}

#[test]
fn no_process_that_shares_descriptors_ever_sees_the_segments() {
    case("processes", "leak-process");
}

#[test]
fn the_magic_call_is_of_no_use_to_a_program() {
    case("processes", "magic");
}

#[test]
fn threads_map_at_the_same_time_and_helpers_are_gone_afterwards() {
    case("processes", "threads");
}

#[test]
fn exec_from_a_thread_that_is_not_the_leader() {
    case("processes", "exec-thread");
}

#[test]
fn exec_that_fails_while_other_threads_map_files() {
    case("processes", "exec-fails");
}

#[test]
fn programs_start_and_end_at_once_after_one_that_had_threads() {
    case("processes", "after-threads");
}

#[test]
fn vfork_posix_spawn_and_fork() {
    case("processes", "vforks");
}

#[test]
fn signals_arrive_while_files_are_mapped() {
    case("processes", "signals");
}

#[test]
fn stops_and_continues_while_files_are_mapped() {
    case("processes", "stops");
}

#[test]
fn a_program_that_traces_is_refused_and_told() {
    let output = image().run(&["-r", "/bin/traps", "traced"]);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(complaint.contains("cannot be traced twice"), "{complaint}");
    assert!(complaint.contains("\"refused_ptrace\": 1"), "{complaint}");
    assert_eq!(output.stdout, b"ok\n");
}

#[test]
fn through_the_page_cache_a_program_may_trace() {
    let said = image().run(&["-c", "/bin/traps", "traced"]);
    assert_eq!(said.status.code(), Some(1), "it is not refused: {}", String::from_utf8_lossy(&said.stdout));
}

#[test]
fn a_32_bit_program_runs_from_the_page_cache_and_is_counted() {
    let output = image().run(&["-r", "/bin/thirty-two"]);
    if !std::fs::read_to_string("/proc/cpuinfo").unwrap().contains("lm") || output.status.code() == Some(1) {
        println!("skipped: this kernel has no 32-bit programs");
        return;
    }
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(7), &b"32\n"[..]));
    let report = image().report(&["/bin/thirty-two"]);
    assert_eq!(report["files"]["/bin/thirty-two"]["not_in_place"]["bits32"], 4096);
    assert_eq!(report["bytes_in_place"], 0);
}

#[test]
fn what_is_left_is_counted_with_the_reason() {
    let report = image().report(&["/bin/traps", "hole"]);
    let sparse = &report["files"]["/data/sparse"];
    assert_eq!((&sparse["bytes_in_place"], &sparse["not_in_place"]["hole"]), (&(4 * 4096).into(), &(8 * 4096).into()));
    let report = image().report(&["/bin/traps", "grow"]);
    assert_eq!(report["files"]["/data/dense"]["not_in_place"]["growth_refused"], 10 * 4096);
}
