//! What the guest is to do: `/job`, records of `key value`, each ended by a zero byte.

use crate::{Result, Tried};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// What the guest is to do.
#[derive(Default)]
pub(crate) struct Job {
    /// Files of modules, in the order in which they are to be loaded.
    pub(crate) modules: Vec<PathBuf>,
    /// The volume's device, such as `/dev/pmem0`.
    pub(crate) device: PathBuf,
    /// Options of the mount, such as `dax=always`.
    pub(crate) options: String,
    /// A layer in memory takes what is written.
    pub(crate) overlay: bool,
    /// The program has a terminal, of so many rows and columns.
    pub(crate) terminal: Option<(u16, u16)>,
    pub(crate) workdir: PathBuf,
    pub(crate) environment: Vec<(OsString, OsString)>,
    /// Where the host's directory is to be shown.
    pub(crate) share: Option<PathBuf>,
    /// There are no ports: the program has the kernel's console.
    pub(crate) console: bool,
    /// The guest ends by restarting.
    pub(crate) restart: bool,
    /// At the end, so many files are looked at.
    pub(crate) sample: Option<usize>,
    /// The program, and its arguments; none is run if there is none.
    pub(crate) program: Vec<OsString>,
}

impl Job {
    pub(crate) fn read() -> Result<Self> {
        let bytes = std::fs::read("/job").tried("cannot read /job")?;
        let mut job = Self { workdir: "/".into(), ..Self::default() };
        for record in bytes.split(|byte| *byte == 0).filter(|record| !record.is_empty()) {
            let at = record.iter().position(|byte| *byte == b' ').unwrap_or(record.len());
            let (key, value) = (&record[..at], record.get(at + 1..).unwrap_or_default());
            let value = OsString::from_vec(value.to_vec());
            match key {
                b"module" => job.modules.push(value.into()),
                b"device" => job.device = value.into(),
                b"options" => job.options = value.to_string_lossy().into_owned(),
                b"overlay" => job.overlay = true,
                b"terminal" => {
                    let text = value.to_string_lossy();
                    let size = text
                        .split_once(' ')
                        .and_then(|(rows, columns)| Some((rows.parse().ok()?, columns.parse().ok()?)));
                    job.terminal = Some(size.unwrap_or((24, 80)));
                }
                b"share" => job.share = Some(value.into()),
                b"console" => (job.console, job.restart) = (true, value == "restart"),
                b"sample" => job.sample = value.to_string_lossy().parse().ok(),
                b"workdir" => job.workdir = value.into(),
                b"argument" => job.program.push(value),
                b"environment" => {
                    let bytes = value.as_bytes();
                    let at = bytes.iter().position(|byte| *byte == b'=').unwrap_or(bytes.len());
                    let part = |part: &[u8]| OsString::from_vec(part.to_vec());
                    job.environment.push((part(&bytes[..at]), part(bytes.get(at + 1..).unwrap_or_default())));
                }
                _ => return Err(format!("/job has {:?}, which is not known", String::from_utf8_lossy(key))),
            }
        }
        Ok(job)
    }
}
