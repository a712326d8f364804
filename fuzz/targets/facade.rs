#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| xip_fuzz::facade::run(input));
