//! The proof, in the kernel's own figures: what programs map is the segment, and the mount's page cache stays empty.

mod common;

use common::{image, text};

fn assert_text_in_place(smaps: &str) {
    let (segment, other) = text(smaps);
    assert!(segment > 100 << 10, "{segment} bytes of text in the segment\n{smaps}");
    assert!(segment * 100 >= (segment + other) * 95, "{segment} in the segment, {other} elsewhere\n{smaps}");
}

#[test]
fn text_of_program_interpreter_and_libraries_is_the_segment() {
    assert_text_in_place(&image().says(&["cat", "/proc/self/smaps"]));
    assert_text_in_place(&image().says(&["bash", "-c", "cat /proc/$$/smaps"]));
    assert_text_in_place(&image().says(&["bash", "-c", "echo \"$(</proc/self/smaps)\""]));
    assert_text_in_place(&image().says(&["perl", "-e", "open F, '/proc/self/smaps'; print <F>"]));
}

#[test]
fn text_is_in_place_under_an_overlay_too() {
    assert_text_in_place(&image().says(&["-o", "perl", "-e", "open F, '/proc/self/smaps'; print <F>"]));
}

#[test]
fn through_the_page_cache_nothing_is_in_place() {
    let (segment, other) = text(&image().says(&["-c", "cat", "/proc/self/smaps"]));
    assert!(segment == 0 && other > 0);
}

#[test]
fn the_page_cache_of_the_mount_is_at_most_a_twentieth_of_what_is_mapped_in_place() {
    let files = "/bin/bash /bin/cat /bin/ls /usr/bin/perl /bin/cached /lib64/* /lib/*/* /data/*";
    let work = format!("ls / >/dev/null; perl -e 1; cat {files} >/dev/null; cached {files}");
    let said = image().says(&["bash", "-c", &work]);
    let mut figures = said.split_whitespace().map(|figure| figure.parse::<u64>().unwrap());
    let (pages, files) = (figures.next().unwrap(), figures.next().unwrap());
    assert!(files > 8, "{said}");
    let report = image().report(&["bash", "-c", &work]);
    let in_place: u64 = report["bytes_in_place"].as_u64().unwrap();
    assert!(pages * 4096 * 20 <= in_place, "{pages} pages cached, {in_place} bytes in place");
    // And the measure can fail: without tracing they are there.
    let cached = image().says(&["-c", "bash", "-c", &work]);
    let through_cache: u64 = cached.split(' ').next().unwrap().parse().unwrap();
    assert!(through_cache > pages * 3, "{through_cache} pages through the cache, {pages} in place");
}

#[test]
fn the_report_adds_up() {
    let report = image().report(&["bash", "-c", "cat /data/dense > /dev/null; ls / > /dev/null"]);
    let files = report["files"].as_object().unwrap();
    let sum = |what: &str| files.values().map(|file| file[what].as_u64().unwrap()).sum::<u64>();
    assert_eq!(report["bytes_in_place"], sum("bytes_in_place"));
    assert_eq!(report["mappings_in_place"], sum("mappings_in_place"));
    assert_eq!(report["programs"], 3);
    assert!(files.contains_key("/bin/bash") && files.keys().any(|path| path.contains("libc.so")), "{files:?}");
}
