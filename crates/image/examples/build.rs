//! Builds an image of a directory and prints what is in it: `cargo run --example build -- DIRECTORY IMAGE`.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [source, image] = &arguments[..] else { return Err("give a directory and the image to make".into()) };
    let summary = xip_image::Build::default().run(Path::new(source), Path::new(image), &())?;
    println!("{}", serde_json::to_string_pretty(&summary)?);
    Ok(())
}
