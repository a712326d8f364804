//! `serve IMAGE DIRECTORY`, as root: mounts an image until someone unmounts it.

use std::path::Path;
use xip_fuse::{MountOptions, ServeOptions, mount};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(image), Some(directory)) = (arguments.next(), arguments.next()) else {
        return Err("usage: serve IMAGE DIRECTORY".into());
    };
    let volume = xip::Volume::open(image)?;
    mount(Path::new(&directory), &volume, &MountOptions::default(), &ServeOptions::default())?.wait()?;
    Ok(())
}
