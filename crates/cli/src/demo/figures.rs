//! The figures that the demo shows, put together from what the kernel says about each process.

use std::collections::BTreeSet;
use std::io;

use serde::Serialize;
use xip_segment::Segment;

use super::measure::{mappings, pages};
use crate::output::{Table, percent, size};

const PAGE: u64 = 4096;
/// The page that `xip run` puts into each program to make its calls there. It is neither the program's text nor a
/// copy of any file, and all programs of a run share it (docs/run.md, "How it works").
const PAGE_OF_XIP: &str = "/memfd:xip-calls (deleted)";

/// One program, while it is alive. All sizes are bytes.
#[derive(Serialize)]
pub(crate) struct Of {
    name: &'static str,
    pid: u32,
    /// In memory for this process, and a page of the segment itself.
    in_place: u64,
    /// Program text in memory for this process: its own, its interpreter's, its libraries'.
    text: u64,
    /// Of that, pages of the segment itself.
    text_in_place: u64,
    /// In memory for this process, and a copy in the page cache of some other file.
    page_cache: u64,
}

/// All of them together.
#[derive(Serialize)]
pub(crate) struct Figures {
    programs: Vec<Of>,
    /// Whether they were executed in place. If not, they read from it.
    executed: bool,
    /// Size of the segment: the one copy.
    segment: u64,
    /// Pages of the segment that at least one program has in memory. A page cache would hold each a second time.
    used: u64,
    /// The sum over the programs: what copies of their own would cost.
    separate_copies: u64,
    /// What the programs have in memory from the page cache all the same, summed up.
    page_cache: u64,
}

impl Figures {
    /// Looks at processes which are all alive and all use `segment`: execute from it, or only read.
    pub(crate) fn of(processes: &[(&'static str, u32)], segment: &Segment, executed: bool) -> io::Result<Self> {
        let (device, inode) = segment.id();
        let file = (format!("{:02x}:{:02x}", rustix::fs::major(device), rustix::fs::minor(device)), inode);
        let (mut programs, mut used) = (Vec::new(), BTreeSet::new());
        for (name, pid) in processes.iter().copied() {
            let mut of = Of { name, pid, in_place: 0, text: 0, text_in_place: 0, page_cache: 0 };
            for mapping in mappings(pid)?.into_iter().filter(|mapping| mapping.name != PAGE_OF_XIP) {
                // What a process wrote to its private mapping is its own, as it would be anywhere.
                let shared = mapping.resident.saturating_sub(mapping.own);
                let in_place = mapping.file == file;
                if mapping.executable {
                    of.text += shared;
                    of.text_in_place += if in_place { shared } else { 0 };
                }
                if in_place {
                    of.in_place += shared;
                    pages(pid, &mapping, &mut used)?;
                } else {
                    of.page_cache += shared;
                }
            }
            programs.push(of);
        }
        Ok(Figures {
            executed,
            segment: segment.info().size,
            used: used.len() as u64 * PAGE,
            separate_copies: programs.iter().map(|of| of.in_place).sum(),
            page_cache: programs.iter().map(|of| of.page_cache).sum(),
            programs,
        })
    }

    pub(crate) fn table(&self) -> Table {
        let sum = |part: fn(&Of) -> u64| self.programs.iter().map(part).sum::<u64>();
        let headings = ["program", ">pid", ">from the one copy", ">text in place", ">page cache"];
        let columns = if self.executed { headings.len() } else { 3 };
        let mut table = Table::new(&headings[..columns]);
        for of in &self.programs {
            let cells = [
                of.name.to_owned(),
                of.pid.to_string(),
                size(of.in_place),
                percent(of.text_in_place, of.text),
                size(of.page_cache),
            ];
            table.row(cells.into_iter().take(columns));
        }
        let cells = [
            "together".to_owned(),
            String::new(),
            size(self.separate_copies),
            percent(sum(|of| of.text_in_place), sum(|of| of.text)),
            size(self.page_cache),
        ];
        table.total(cells.into_iter().take(columns));
        table
    }

    /// What the figures mean.
    pub(crate) fn explanation(&self) -> String {
        let count = self.programs.len();
        let did = if self.executed { "executed" } else { "read" };
        let besides = match (self.executed, self.page_cache) {
            (false, _) => String::new(),
            (true, 0) => "\nIn place, copies cost nothing.".to_owned(),
            (true, cost) => format!("\nIn place, copies cost {}.", size(cost)),
        };
        format!(
            "All {count} were alive at the same time and {did} the pages of one segment: {used} of its {segment}, in memory \
             once.\nA page cache would have held those {used} a second time, beside the image that is in memory \
             already;\nseparate copies (an image or a guest for each) would have cost {separate}.{besides}",
            used = size(self.used),
            segment = size(self.segment),
            separate = size(self.separate_copies),
        )
    }
}
