//! Runs a program of an image in place: `run IMAGE [-o] [-c] [-r] [-b HOST:INSIDE]... PROGRAM [ARG...]`.
//! `-o` puts an overlay over the image, `-c` goes through the page cache, `-r` prints the report. For the tests, which
//! want a process of its own for each run.

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use std::error::Error;
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsRawFd;
use xip_run::{Bind, End, Options, Root};
use xip_segment::{Access, MappedFile};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let image = arguments.next().ok_or("no image")?;
    let memory = rustix::fs::memfd_create("xip:test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut memory = File::from(memory);
    std::io::copy(&mut File::open(image)?, &mut memory)?;
    rustix::fs::fcntl_add_seals(&memory, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
    let segment = File::from(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?);
    drop(memory);
    let volume = xip::Volume::from_device(MappedFile::open(segment.try_clone()?, Access::ReadOnly)?)?;

    let mut options = Options::new(OsString::new());
    let mut print = false;
    for argument in arguments.by_ref() {
        match argument.to_str() {
            Some("-o") => options.root = Root::Overlay,
            Some("-c") => options.page_cache = true,
            Some("-r") => print = true,
            Some(bind) if bind.starts_with("-b") => options.binds.push(Bind::parse(bind[2..].as_ref())?),
            _ => {
                options.program = argument;
                break;
            }
        }
    }
    options.arguments = arguments.collect();
    let outcome = xip_run::run(&volume, &segment, &options)?;
    if print {
        eprintln!("{}", serde_json::to_string_pretty(&outcome)?);
    }
    match outcome.end {
        End::Exited(status) => std::process::exit(status),
        End::Signalled(signal) => std::process::exit(128 + signal),
    }
}
