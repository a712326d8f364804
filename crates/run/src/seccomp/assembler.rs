//! A program for the kernel's filter, put together with names for the places that jumps lead to.

use super::{Stop, high};
use libc::{BPF_ABS, BPF_ALU, BPF_AND, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter};

/// A place in the filter that jumps lead to; always forward.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum To {
    /// The next instruction.
    Next,
    Native,
    Ours,
    OtherNumber,
    Mmap,
    Mmap32,
    Mmap32Old,
    Mremap,
    Mremap32,
    Remap,
    Ptrace,
    Seccomp,
    Prctl,
    Unshare,
    SetNs,
    Sandbox,
    Advice,
    Special,
    Clone,
    Clone32,
    Share,
    Execute,
    Untraced,
    NoCall,
    Injected,
    Magic,
    Allow,
}

#[derive(Default)]
pub(super) struct Filter {
    code: Vec<(sock_filter, To, To)>,
    labels: Vec<(To, usize)>,
}

impl Filter {
    pub(super) fn put(&mut self, code: u32, k: u32, yes: To, no: To) {
        // Operation codes have 16 bits.
        let code = u16::try_from(code).unwrap_or(0);
        self.code.push((sock_filter { code, jt: 0, jf: 0, k }, yes, no));
    }

    pub(super) fn label(&mut self, to: To) {
        self.labels.push((to, self.code.len()));
    }

    /// Loads a word of the kernel's `seccomp_data`.
    pub(super) fn load(&mut self, offset: u32) {
        self.put(BPF_LD | BPF_W | BPF_ABS, offset, To::Next, To::Next);
    }

    /// Loads what is the cookie in calls of ours.
    pub(super) fn cookie(&mut self) {
        self.load(high(4));
        self.put(BPF_ALU | BPF_AND | BPF_K, !1, To::Next, To::Next);
    }

    pub(super) fn when(&mut self, compare: u32, value: u32, yes: To, no: To) {
        self.put(BPF_JMP | compare | BPF_K, value, yes, no);
    }

    pub(super) fn ret(&mut self, action: u32) {
        self.put(BPF_RET | BPF_K, action, To::Next, To::Next);
    }

    pub(super) fn trace(&mut self, label: To, stop: Stop) {
        self.label(label);
        self.ret(libc::SECCOMP_RET_TRACE | stop as u32);
    }

    pub(super) fn finish(self) -> Vec<sock_filter> {
        let place = |from: usize, to: To| {
            let at = self.labels.iter().find(|(label, _)| *label == to).map_or(from + 1, |&(_, at)| at);
            // Some 160 instructions, and all jumps forward.
            u8::try_from(at - from - 1).unwrap_or(0)
        };
        let jump = |(from, (insn, yes, no)): (usize, &(sock_filter, To, To))| sock_filter {
            jt: place(from, *yes),
            jf: place(from, *no),
            ..*insn
        };
        self.code.iter().enumerate().map(jump).collect()
    }
}
