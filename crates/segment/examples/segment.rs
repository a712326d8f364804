//! Segments from a program of one's own: load, list, look, use, remove.
//!
//! `cargo run -p xip-segment --example segment -- load IMAGE`

use std::io::{Read, Write};
use std::path::Path;
use xip_core::Device;
use xip_segment::{Store, holder};

fn main() {
    // First thing: the process that keeps a segment is this program, started again.
    holder::main_if_asked();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let Err(error) = run(&words) {
        eprintln!("{error}");
        std::process::exit(1);
    }
}

fn run(words: &[&str]) -> Result<(), Box<dyn std::error::Error>> {
    let store = Store::open_default()?;
    match *words {
        ["load", image, ref name @ ..] => {
            // A real program looks into the image here: a segment should be a volume.
            let loaded = store.load(Path::new(image), name.first().copied(), &mut |_, _| {}, &mut |_| Ok(()))?;
            println!("{} {:?} {:?}", loaded.segment.name(), loaded.outcome, loaded.segment.id());
        }
        // Loads it for as long as this runs, which is until its input ends.
        ["hold", image, ref name @ ..] => {
            let name = name.first().copied();
            let _loaded = store.temporary().load(Path::new(image), name, &mut |_, _| {}, &mut |_| Ok(()))?;
            wait()?;
        }
        ["list"] => {
            let listing = store.list()?;
            for segment in listing.segments {
                println!("{} {} bytes from {}", segment.name(), segment.info().size, segment.info().image.display());
            }
            for problem in listing.problems {
                eprintln!("warning: {problem}");
            }
        }
        ["stat", name] => println!("{:#?}", store.get(name)?.stat()?),
        ["remove", name] => store.remove(name, false)?,
        // Reads the first bytes of it in place, says so, and has them until its input ends: the same ones then.
        ["use", name, bytes] => {
            let device = store.get(name)?.device()?;
            let mut first = vec![0; bytes.parse()?];
            device.read(0, &mut first)?;
            wait()?;
            let mut last = vec![0; first.len()];
            device.read(0, &mut last)?;
            assert!(first == last, "bytes of a segment have changed");
        }
        _ => {
            let usage = "load IMAGE [NAME] | hold IMAGE [NAME] | list | stat NAME | remove NAME | use NAME BYTES";
            return Err(format!("usage: segment {usage}").into());
        }
    }
    Ok(())
}

/// Says that it is ready, and waits for the end of its input.
fn wait() -> std::io::Result<()> {
    println!("ready");
    std::io::stdout().flush()?;
    std::io::stdin().read_to_end(&mut Vec::new()).map(drop)
}
