//! The lines to the host: ports of a virtio console, found by their names.

use crate::{Result, Tried};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// All lines to the host.
pub(crate) struct Ports {
    pub(crate) control: Control,
    pub(crate) streams: Streams,
}

/// What the program reads and writes. With a terminal only `output` is used, both ways.
pub(crate) struct Streams {
    pub(crate) input: File,
    pub(crate) output: File,
    pub(crate) errors: File,
}

/// Where this program talks to the host, in lines.
pub(crate) struct Control(File);

impl Control {
    pub(crate) fn say(&mut self, line: &str) {
        // A host that does not listen any more has ended the guest.
        let _ = writeln!(self.0, "{}", line.replace('\n', " "));
    }

    /// What the host says.
    pub(crate) fn lines(&self) -> Result<impl Iterator<Item = String> + use<>> {
        let file = self.0.try_clone().tried("cannot listen to the host")?;
        Ok(BufReader::new(file).lines().map_while(std::result::Result::ok))
    }
}

impl Ports {
    /// Waits for them, since the kernel finds devices in its own time.
    pub(crate) fn find() -> Result<Self> {
        Ok(Self {
            control: Control(open("xip.control")?),
            streams: Streams { input: open("xip.input")?, output: open("xip.output")?, errors: open("xip.errors")? },
        })
    }
}

fn open(name: &str) -> Result<File> {
    const PATIENCE: Duration = Duration::from_secs(30);
    let start = Instant::now();
    loop {
        if let Some(device) = look_for(name) {
            let file = OpenOptions::new().read(true).write(true).open(Path::new("/dev").join(device));
            return file.tried(format_args!("cannot open the port {name}"));
        }
        if start.elapsed() > PATIENCE {
            return Err(format!("no port {name}: the kernel has no virtio console, or not as a part of it"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn look_for(name: &str) -> Option<std::ffi::OsString> {
    fs::read_dir("/sys/class/virtio-ports").ok()?.flatten().find_map(|port| {
        let found = fs::read_to_string(port.path().join("name")).ok()?;
        (found.trim() == name).then(|| port.file_name())
    })
}
