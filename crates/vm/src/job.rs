//! What a guest is told, in its first file system: `/job`, records of `key value`, each ended by a zero byte.

use crate::error::{Doing, Error, Result};
use crate::guest::{Options, Talk};
use crate::initramfs::Archive;
use crate::qemu::Attach;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The guest's first program, linked statically; empty where it could not be built.
const INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/init"));

/// The guest's first file system: the first program, modules, and what it is to do.
pub(crate) fn archive(options: &Options) -> Result<Vec<u8>> {
    if INIT.is_empty() {
        return Err(Error::NoInit);
    }
    let mut archive = Archive::default();
    let mut job = Vec::new();
    let mut record = |key: &str, value: &OsStr| {
        job.extend_from_slice(key.as_bytes());
        job.push(b' ');
        // A zero byte is in no argument, path or variable: the kernel would not take it.
        job.extend_from_slice(value.as_bytes());
        job.push(0);
    };
    archive.program("init", INIT);
    archive.directory("modules");
    for module in options.kernel.modules() {
        let name = module.file_name().unwrap_or_default();
        let content = fs::read(module).doing(|| format!("read the module {}", module.display()))?;
        let place = Path::new("modules").join(name);
        archive.file(&place.to_string_lossy(), &content);
        record("module", Path::new("/").join(place).as_os_str());
    }
    let (device, mount) = match options.attach {
        // Metadata is copied to the page cache, and nothing of it ahead: it is memory already.
        Attach::Memory | Attach::Nvdimm => ("/dev/pmem0", "dax=always,inode_readahead_blks=0"),
        Attach::Disk => ("/dev/vda", ""),
        Attach::Partition => ("/dev/vda1", ""),
    };
    record("device", device.as_ref());
    record("options", mount.as_ref());
    record("workdir", options.workdir.as_os_str());
    if options.overlay {
        record("overlay", OsStr::new(""));
    }
    if let Some((rows, columns)) = options.terminal {
        record("terminal", format!("{rows} {columns}").as_ref());
    }
    if let Some(share) = &options.share {
        record("share", share.inside.as_os_str());
    }
    match options.talk {
        Talk::Ports => {}
        Talk::Console { restart: false } => record("console", OsStr::new("")),
        Talk::Console { restart: true } => record("console", "restart".as_ref()),
    }
    if let Some(files) = options.sample {
        record("sample", files.to_string().as_ref());
    }
    for (name, value) in &options.environment {
        let mut variable = name.clone();
        variable.push("=");
        variable.push(value);
        record("environment", &variable);
    }
    options.program.iter().for_each(|argument| record("argument", argument));
    archive.file("job", &job);
    Ok(archive.finish())
}
