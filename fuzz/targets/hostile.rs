#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    if let Some(image) = xip_fuzz::image::decode(input) {
        xip_fuzz::hostile::run(&image);
    }
});
