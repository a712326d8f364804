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
