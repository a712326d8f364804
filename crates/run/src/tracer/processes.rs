//! Descriptors of traced processes, by which the kernel is asked about them.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::collections::BTreeMap;

/// Of how many processes descriptors are kept: what a program starts must not take those from the runner that it needs to
/// look at mappings.
const MOST: usize = 32;

/// What is held of a process; nothing where that cannot be had, or was not asked for.
#[derive(Default)]
struct Held {
    itself: Option<OwnedFd>,
    memory: Option<Memory>,
}

/// A process's memory, until it executes another program.
pub(super) struct Memory {
    maps: OwnedFd,
    pages: OwnedFd,
}

impl Memory {
    /// `/proc/PID/maps`.
    pub(super) fn maps(&self) -> BorrowedFd<'_> {
        self.maps.as_fd()
    }

    /// `/proc/PID/pagemap`.
    pub(super) fn pages(&self) -> BorrowedFd<'_> {
        self.pages.as_fd()
    }
}

#[derive(Default)]
pub(super) struct Processes {
    held: BTreeMap<i32, Held>,
}

impl Processes {
    pub(super) fn itself(&mut self, process: i32) -> Option<BorrowedFd<'_>> {
        let held = self.held(process);
        if held.itself.is_none() {
            held.itself = Pid::from_raw(process).and_then(|process| pidfd_open(process, PidfdFlags::empty()).ok());
        }
        held.itself.as_ref().map(AsFd::as_fd)
    }

    pub(super) fn memory(&mut self, process: i32) -> Option<&Memory> {
        let held = self.held(process);
        if held.memory.is_none() {
            let open = |what: &str| {
                open(format!("/proc/{process}/{what}"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()
            };
            held.memory = open("maps").zip(open("pagemap")).map(|(maps, pages)| Memory { maps, pages });
        }
        held.memory.as_ref()
    }

    fn held(&mut self, process: i32) -> &mut Held {
        if self.held.len() >= MOST && !self.held.contains_key(&process) {
            self.held.clear();
        }
        self.held.entry(process).or_default()
    }

    /// A process has other memory than before.
    pub(super) fn executed(&mut self, process: i32) {
        if let Some(held) = self.held.get_mut(&process) {
            held.memory = None;
        }
    }

    /// A process is gone, and its number may become another's.
    pub(super) fn ended(&mut self, process: i32) {
        self.held.remove(&process);
    }
}
