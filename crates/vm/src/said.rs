//! What a guest says: lines of `word key=value ...`. A guest is not believed beyond that: whatever it says is a number or a text.

use crate::error::Error;
use serde::Serialize;

/// How the guest's program ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// With an exit status.
    Exited(u8),
    /// By a signal.
    Signalled(i32),
}

/// What the guest found when it mounted the volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mounted {
    /// The kernel says of a file that it is in place (`STATX_ATTR_DAX`).
    pub in_place: bool,
    /// The options of the mount as they came out.
    pub options: String,
    /// The guest's memory then.
    pub figures: Figures,
}

/// A guest's memory, as its kernel counts it, in bytes.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize)]
pub struct Figures {
    /// `MemTotal`: without the kernel itself and the descriptors of its memory.
    pub total: u64,
    /// `MemFree`.
    pub free: u64,
    /// Pages of files and devices in the page cache (`nr_file_pages` without `nr_shmem`), beyond what was there before the mount.
    pub cached: u64,
    /// What the descriptors of the segment's pages take (`nr_memmap_pages`); kernels before 6.11 do not tell.
    pub descriptors: Option<u64>,
}

/// A file that a guest has looked at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct File {
    /// Its path in the volume.
    pub path: String,
    /// Whether the kernel says that it is in place (`STATX_ATTR_DAX`).
    pub in_place: bool,
}

/// What a guest has found of a sample of files.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize)]
pub struct Sample {
    /// Regular files there are.
    pub files: u64,
    /// Those that were looked at.
    pub looked_at: Vec<File>,
    /// Parts of 2 MiB of files that were mapped and made present.
    pub parts: u64,
    /// Of these, those that one page fault made present: the kernel has mapped them as one.
    pub huge: u64,
}

impl Sample {
    /// The files that were looked at and are not in place.
    pub fn not_in_place(&self) -> impl Iterator<Item = &File> {
        self.looked_at.iter().filter(|file| !file.in_place)
    }
}

/// How it ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ended {
    /// The program.
    pub end: End,
    /// The guest's memory then.
    pub figures: Figures,
    /// The sample, if one was asked for.
    pub sample: Option<Sample>,
}

/// A line.
pub(crate) enum Said {
    Mounted(Mounted),
    Started,
    /// One of a sample, which comes before the end.
    File(File),
    /// Also how many bytes of each output were written.
    Ended(Ended, [u64; 2]),
    Failed(String),
}

impl Said {
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        if word == "failed" {
            return Some(Self::Failed(rest.into()));
        }
        // A text comes last: it may have spaces.
        let (pairs, text) = rest.split_once(" text=").unwrap_or((rest, ""));
        let of = |key: &str| pairs.split(' ').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
        let number = |key: &str| of(key)?.parse::<u64>().ok();
        let kilobytes = |key: &str| number(key).map(|kilobytes| kilobytes.saturating_mul(1024));
        let figures = || {
            let (total, free, cached) = (kilobytes("total")?, kilobytes("free")?, kilobytes("cached")?);
            Some(Figures { total, free, cached, descriptors: kilobytes("descriptors") })
        };
        match word {
            "mounted" => {
                let (in_place, figures) = (of("dax")? == "1", figures()?);
                Some(Self::Mounted(Mounted { in_place, options: text.into(), figures }))
            }
            "started" => Some(Self::Started),
            "file" => Some(Self::File(File { path: text.into(), in_place: of("dax")? == "1" })),
            "ended" => {
                let end = match (of("status"), of("signal")) {
                    (Some(status), _) => End::Exited(status.parse().ok()?),
                    (None, signal) => End::Signalled(signal?.parse().ok().filter(|signal| ends_a_process(*signal))?),
                };
                let sample = || {
                    let (files, parts, huge) = (number("files")?, number("parts")?, number("huge")?);
                    Some(Sample { files, looked_at: Vec::new(), parts, huge }).filter(|_| huge <= parts)
                };
                let sample = if of("files").is_some() { Some(sample()?) } else { None };
                let written = [number("output")?, number("errors")?];
                Some(Self::Ended(Ended { end, figures: figures()?, sample }, written))
            }
            _ => None,
        }
    }
}

/// Whether a process can have ended by a signal: those that stop one, or that do nothing by themselves, cannot be it.
fn ends_a_process(signal: i32) -> bool {
    // SIGCHLD, SIGCONT, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG, SIGWINCH.
    (1..=64).contains(&signal) && !(17..=23).contains(&signal) && signal != 28
}

/// What was said is not what was waited for.
pub(crate) fn refused(said: &Said) -> Error {
    match said {
        Said::Failed(why) => Error::Guest(why.clone()),
        _ => Error::Guest("something at the wrong time".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_says_is_numbers_and_a_text() {
        let line = "ended status=7 output=3 errors=0 total=100 free=50 cached=2 files=9 parts=2 huge=1";
        let Some(Said::Ended(ended, written)) = Said::parse(line) else { panic!("{line}") };
        assert_eq!((ended.end, written), (End::Exited(7), [3, 0]));
        assert_eq!(ended.figures, Figures { total: 102_400, free: 51_200, cached: 2048, descriptors: None });
        assert_eq!(ended.sample, Some(Sample { files: 9, looked_at: Vec::new(), parts: 2, huge: 1 }));
        let Some(Said::File(file)) = Said::parse("file dax=1 text=/a b") else { panic!("no file") };
        assert_eq!(file, File { path: "/a b".into(), in_place: true });
        let ended = |how: &str, more: &str| {
            let line = format!("ended {how} output=0 errors=0 total=1 free=1 cached=1{more}");
            Said::parse(&line).is_some()
        };
        assert!(ended("signal=9", "") && ended("status=0", " files=9 parts=1 huge=1"));
        for signal in ["0", "-9", "19", "65", "2147483647", "x"] {
            assert!(!ended(&format!("signal={signal}"), ""), "{signal}");
        }
        assert!(!ended("status=0", " files=9 parts=1 huge=2") && !ended("status=0", " files=9 parts=1"));
        for nonsense in
            ["", "ended", "ended status=700 output=0 errors=0 total=1 free=1 cached=1", "mounted dax=1", "x"]
        {
            assert!(Said::parse(nonsense).is_none(), "{nonsense}");
        }
    }
}
