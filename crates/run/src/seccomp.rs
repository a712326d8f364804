//! The filter that decides, in the kernel, which few system calls of a traced program stop for the runner. All others
//! run at full speed, and the kernel remembers that: for numbers that are judged without a look at their arguments it
//! does not even run the filter.

mod assembler;

use assembler::{Filter, To};
use libc::{BPF_ALU, BPF_AND, BPF_JEQ, BPF_JGE, BPF_JGT, BPF_JSET, BPF_K, sock_filter};

const ARCH_X86_64: u32 = 0xc000_003e;
const ARCH_I386: u32 = 0x4000_0003;
/// The bit that tells system calls of x32 from those of x86-64.
const X32: u32 = 0x4000_0000;

/// A system call number that does not exist: with the cookie it asks the runner for the segment's descriptor.
pub(crate) const MAGIC: u32 = 0x2008_0524;

/// Why a call stopped: what the kernel hands to the tracer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub(crate) enum Stop {
    /// A call that the runner had the thread make.
    Injected = 1,
    /// `mmap` of a file.
    Mmap,
    /// `mmap` of a file by the 32-bit interface.
    Mmap32,
    /// `mremap` to a larger size.
    Mremap,
    /// The same by the 32-bit interface.
    Mremap32,
    /// `remap_file_pages`, which could show other pages of what is mapped.
    Remap,
    /// `ptrace`.
    Ptrace,
    /// A program puts itself under a filter of its own, which calls of ours would have to pass, or into a user namespace of
    /// its own, where it could look at others of its kind.
    Sandbox,
    /// A thread is about to start another that uses its memory.
    Share,
    /// A thread changes who may look at its process: only under [`shield`].
    Dumpable,
    /// A thread is about to execute a program: only under [`shield`].
    Execute,
    /// A thread gives memory a property that neither the kernel's list of mappings shows nor its tables of pages.
    Special,
}

impl Stop {
    pub(crate) fn from_data(data: u64) -> Option<Self> {
        use Stop::*;
        let all = [Injected, Mmap, Mmap32, Mremap, Mremap32, Remap, Ptrace, Sandbox, Share, Dumpable, Execute, Special];
        all.into_iter().find(|&stop| stop as u64 == data)
    }
}

/// Has system calls of the program end in signals, also ours.
const PR_SET_SYSCALL_USER_DISPATCH: u32 = 59;

/// Namespaces in which a program makes no calls of ours: a user namespace of its own, where it could look at others, and one
/// of processes, whose first one our helper would be.
const OWN: u32 = (libc::CLONE_NEWUSER | libc::CLONE_NEWPID).cast_unsigned();

const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const fn low(argument: u32) -> u32 {
    16 + 8 * argument
}
const fn high(argument: u32) -> u32 {
    low(argument) + 4
}

/// The second filter, for threads that share their memory: none of them changes who may look at the process (`prctl`
/// with `PR_SET_DUMPABLE`) while a helper of the runner's has the segment's descriptor, or copies the memory meanwhile, or executes
/// another program unseen. Filters outlive the program: in one that is alone our page of code makes the process undumpable,
/// which is no harm in any, and with a stop dumpable again.
pub(crate) fn shield(cookie: u32) -> Vec<sock_filter> {
    let mut f = Filter::default();
    f.load(ARCH);
    f.when(BPF_JEQ, ARCH_I386, To::Next, To::Native);
    f.load(NUMBER);
    for number in [2, 120, 190] {
        f.when(BPF_JEQ, number, To::Clone, To::Next);
    }
    for number in [11, 358] {
        f.when(BPF_JEQ, number, To::Execute, To::Next);
    }
    f.when(BPF_JEQ, 172, To::Prctl, To::Allow);
    f.label(To::Native);
    f.load(NUMBER);
    f.put(BPF_ALU | BPF_AND | BPF_K, !X32, To::Next, To::Next);
    for number in [56, 57, 58] {
        f.when(BPF_JEQ, number, To::Clone, To::Next);
    }
    // The last two are x32's own.
    for number in [59, 322, 520, 545] {
        f.when(BPF_JEQ, number, To::Execute, To::Next);
    }
    f.when(BPF_JEQ, 157, To::Prctl, To::Allow);
    f.trace(To::Clone, Stop::Share);
    f.trace(To::Execute, Stop::Execute);
    f.label(To::Prctl);
    f.load(low(0));
    f.when(BPF_JEQ, libc::PR_SET_DUMPABLE.cast_unsigned(), To::Next, To::Allow);
    f.load(low(1));
    f.when(BPF_JEQ, 0, To::Next, To::Share);
    f.cookie();
    f.when(BPF_JEQ, cookie, To::Allow, To::Next);
    f.label(To::Share);
    f.ret(libc::SECCOMP_RET_TRACE | Stop::Dumpable as u32);
    f.label(To::Allow);
    f.ret(libc::SECCOMP_RET_ALLOW);
    f.finish()
}

/// The filter. Calls that the runner has a thread make carry `cookie` in the upper half of their fifth argument, where
/// no call that is used so looks at it. It is no secret: who uses it gains nothing. Its lowest bit is 0, and in a call 0 or 1.
pub(crate) fn filter(cookie: u32) -> Vec<sock_filter> {
    let mut f = Filter::default();
    // io_uring could read from a descriptor of ours while its thread is stopped; clone3 hides its flags in memory. Both
    // are as in a kernel that does not have them, and programs go on without. The numbers are those of all interfaces.
    // So is rseq, by which a thread that comes back from a call of ours would go on in the program's code and not in ours.
    let absent = |f: &mut Filter| [425, 426, 427, 435].map(|number| f.when(BPF_JEQ, number, To::NoCall, To::Next));
    f.load(ARCH);
    f.when(BPF_JEQ, ARCH_X86_64, To::Native, To::Next);
    f.when(BPF_JEQ, ARCH_I386, To::Next, To::Allow);
    f.load(NUMBER);
    f.when(BPF_JEQ, 192, To::Mmap32, To::Next);
    f.when(BPF_JEQ, 90, To::Mmap32Old, To::Next);
    f.when(BPF_JEQ, 163, To::Mremap32, To::Next);
    f.when(BPF_JEQ, 257, To::Remap, To::Next);
    f.when(BPF_JEQ, 26, To::Ptrace, To::Next);
    f.when(BPF_JEQ, 354, To::Seccomp, To::Next);
    f.when(BPF_JEQ, 172, To::Prctl, To::Next);
    f.when(BPF_JEQ, 310, To::Unshare, To::Next);
    f.when(BPF_JEQ, 346, To::SetNs, To::Next);
    f.when(BPF_JEQ, 120, To::Clone32, To::Next);
    f.when(BPF_JEQ, 386, To::NoCall, To::Next);
    // As below.
    f.when(BPF_JEQ, 219, To::Advice, To::Next);
    for number in [150, 152, 274, 374, 376, 380, 440] {
        f.when(BPF_JEQ, number, To::Special, To::Next);
    }
    absent(&mut f);
    f.when(BPF_JEQ, 0, To::Allow, To::Allow);

    f.label(To::Native);
    f.load(NUMBER);
    let calls = |f: &mut Filter| {
        f.when(BPF_JEQ, 9, To::Mmap, To::Next);
        f.when(BPF_JEQ, 25, To::Mremap, To::Next);
        f.when(BPF_JEQ, 216, To::Remap, To::Next);
        f.when(BPF_JEQ, 101, To::Ptrace, To::Next);
        f.when(BPF_JEQ, 521, To::Ptrace, To::Next); // x32's own number
        f.when(BPF_JEQ, 317, To::Seccomp, To::Next);
        f.when(BPF_JEQ, 157, To::Prctl, To::Next);
        f.when(BPF_JEQ, 272, To::Unshare, To::Next);
        f.when(BPF_JEQ, 308, To::SetNs, To::Next);
        f.when(BPF_JEQ, 56, To::Clone, To::Next);
        f.when(BPF_JEQ, 334, To::NoCall, To::Next);
        f.when(BPF_JEQ, 28, To::Advice, To::Next);
        // mlock, mlockall, mbind, userfaultfd, mlock2, pkey_mprotect, process_madvise.
        for number in [149, 151, 237, 323, 325, 329, 440] {
            f.when(BPF_JEQ, number, To::Special, To::Next);
        }
        absent(f);
    };
    calls(&mut f);
    // An injected call is followed by one whose number is the result of the first: 0, an address, MAGIC, an error.
    f.when(BPF_JEQ, 0, To::Ours, To::Next);
    f.when(BPF_JGE, 1024, To::Next, To::Allow);
    f.label(To::Ours);
    f.cookie();
    f.when(BPF_JEQ, cookie, To::Next, To::OtherNumber);
    f.load(NUMBER);
    f.when(BPF_JEQ, MAGIC, To::Magic, To::Injected);
    f.label(To::OtherNumber);
    f.load(NUMBER);
    f.put(BPF_ALU | BPF_AND | BPF_K, !X32, To::Next, To::Next);
    calls(&mut f);
    f.when(BPF_JEQ, 0, To::Allow, To::Allow);

    f.label(To::Mmap32);
    f.load(low(3));
    f.when(BPF_JSET, libc::MAP_ANONYMOUS.cast_unsigned(), To::Allow, To::Next);
    f.label(To::Mmap32Old);
    f.ret(libc::SECCOMP_RET_TRACE | Stop::Mmap32 as u32);
    f.label(To::Mmap);
    f.cookie();
    f.when(BPF_JEQ, cookie, To::Allow, To::Next);
    f.load(low(3));
    f.when(BPF_JSET, libc::MAP_ANONYMOUS.cast_unsigned(), To::Allow, To::Next);
    f.ret(libc::SECCOMP_RET_TRACE | Stop::Mmap as u32);
    f.trace(To::Mremap, Stop::Mremap);
    f.trace(To::Mremap32, Stop::Mremap32);
    f.trace(To::Remap, Stop::Remap);
    f.trace(To::Ptrace, Stop::Ptrace);
    f.label(To::Seccomp);
    f.load(low(0));
    // The modes: strict and filter. The rest only asks.
    f.when(BPF_JGT, libc::SECCOMP_SET_MODE_FILTER, To::Allow, To::Sandbox);
    f.label(To::Prctl);
    f.load(low(0));
    f.when(BPF_JEQ, libc::PR_SET_SECCOMP.cast_unsigned(), To::Sandbox, To::Next);
    f.when(BPF_JEQ, PR_SET_SYSCALL_USER_DISPATCH, To::Sandbox, To::Allow);
    f.label(To::SetNs);
    f.load(low(1));
    f.when(BPF_JEQ, 0, To::Sandbox, To::Next);
    f.when(BPF_JSET, OWN, To::Sandbox, To::Allow);
    f.label(To::Unshare);
    f.load(low(0));
    f.when(BPF_JSET, OWN, To::Sandbox, To::Allow);
    f.trace(To::Sandbox, Stop::Sandbox);
    f.label(To::Advice);
    f.load(low(2));
    f.when(BPF_JEQ, libc::MADV_DONTFORK.cast_unsigned(), To::Special, To::Allow);
    f.trace(To::Special, Stop::Special);
    f.label(To::Clone);
    f.load(low(0));
    f.put(BPF_ALU | BPF_AND | BPF_K, (libc::CLONE_VM | libc::CLONE_VFORK).cast_unsigned(), To::Next, To::Next);
    f.when(BPF_JEQ, libc::CLONE_VM.cast_unsigned(), To::Share, To::Clone32);
    f.label(To::Share);
    f.load(low(0));
    f.when(BPF_JSET, libc::CLONE_UNTRACED.cast_unsigned(), To::Untraced, To::Next);
    f.ret(libc::SECCOMP_RET_TRACE | Stop::Share as u32);
    f.label(To::Clone32);
    f.load(low(0));
    f.when(BPF_JSET, libc::CLONE_UNTRACED.cast_unsigned(), To::Next, To::Allow);
    f.label(To::Untraced);
    f.ret(libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned());
    f.label(To::NoCall);
    f.ret(libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned());
    f.trace(To::Injected, Stop::Injected);
    f.label(To::Magic);
    f.ret(libc::SECCOMP_RET_USER_NOTIF);
    f.label(To::Allow);
    f.ret(libc::SECCOMP_RET_ALLOW);
    f.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use libc::{BPF_ABS, BPF_JMP, BPF_LD, BPF_RET, BPF_W};

    const COOKIE: u32 = 0x1234_5678;
    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

    /// What the filter says: the kernel's machine, as far as the filter uses it.
    fn judge(arch: u32, number: u32, arguments: [u64; 6]) -> u32 {
        run(&filter(COOKIE), arch, number, arguments)
    }

    fn run(filter: &[sock_filter], arch: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let word = |offset: u32| match offset {
            NUMBER => number,
            ARCH => arch,
            _ => {
                let argument = arguments[(offset as usize - 16) / 8];
                if offset.is_multiple_of(8) { argument as u32 } else { (argument >> 32) as u32 }
            }
        };
        let (mut a, mut pc) = (0, 0);
        loop {
            let insn = filter[pc];
            pc += 1;
            let code = u32::from(insn.code);
            let other = insn.k;
            let holds = match code {
                c if c == BPF_LD | BPF_W | BPF_ABS => {
                    a = word(insn.k);
                    continue;
                }
                c if c == BPF_ALU | BPF_AND => {
                    a &= insn.k;
                    continue;
                }
                c if c == BPF_RET => return insn.k,
                c if c == BPF_JMP | BPF_JEQ => a == other,
                c if c == BPF_JMP | BPF_JGE => a >= other,
                c if c == BPF_JMP | BPF_JGT => a > other,
                c if c == BPF_JMP | BPF_JSET => a & other != 0,
                c => panic!("unknown instruction {c:#x}"),
            };
            pc += usize::from(if holds { insn.jt } else { insn.jf });
        }
    }

    fn native(number: u32, arguments: [u64; 6]) -> u32 {
        judge(ARCH_X86_64, number, arguments)
    }

    fn stop(stop: Stop) -> u32 {
        libc::SECCOMP_RET_TRACE | stop as u32
    }

    #[test]
    fn only_mappings_of_files_stop() {
        assert_eq!(native(9, [0, 4096, 1, 2, 3, 0]), stop(Stop::Mmap));
        assert_eq!(native(9, [0, 4096, 3, 0x22, u64::MAX, 0]), ALLOW);
        assert_eq!(native(9 | X32, [0, 4096, 1, 2, 3, 0]), stop(Stop::Mmap));
        assert_eq!(judge(ARCH_I386, 192, [0, 4096, 1, 2, 3, 0]), stop(Stop::Mmap32));
        assert_eq!(judge(ARCH_I386, 192, [0, 4096, 1, 0x22, 3, 0]), ALLOW);
        assert_eq!(judge(ARCH_I386, 9, [0; 6]), ALLOW);
        for number in [0, 1, 3, 59, 202, 257, 1024, 0x4000_0000, u32::MAX] {
            assert_eq!(native(number, [3; 6]), ALLOW, "{number}");
        }
    }

    #[test]
    fn every_mremap_stops() {
        for (old, new) in [(4096, 8192), (8192, 4096), (4096, 4096), (0, 4096)] {
            assert_eq!(native(25, [4096, old, new, 0, 0, 0]), stop(Stop::Mremap));
            assert_eq!(native(25 | X32, [4096, old, new, 0, 0, 0]), stop(Stop::Mremap));
            assert_eq!(judge(ARCH_I386, 163, [4096, old, new, 0, 0, 0]), stop(Stop::Mremap32));
        }
    }

    #[test]
    fn injected_calls_are_known_by_their_cookie_whatever_their_number() {
        let ours = [0, 0, 0, 0, u64::from(COOKIE) << 32 | 5, 0];
        assert_eq!(native(MAGIC, ours), libc::SECCOMP_RET_USER_NOTIF);
        assert_eq!(native(MAGIC, [0; 6]), ALLOW);
        assert_eq!(native(9, [0, 4096, 1, 2, ours[4], 0]), ALLOW);
        for number in [0, 0x7f00_1000, 0xffff_f000, (-12i32).cast_unsigned(), u32::MAX, 0x4000_1000] {
            assert_eq!(native(number, ours), stop(Stop::Injected), "{number:#x}");
        }
    }

    #[test]
    fn what_could_show_more_of_the_segment_stops() {
        assert_eq!(native(216, [0; 6]), stop(Stop::Remap));
        assert_eq!(judge(ARCH_I386, 257, [0; 6]), stop(Stop::Remap));
        assert_eq!(native(101, [0; 6]), stop(Stop::Ptrace));
    }

    #[test]
    fn calls_that_would_get_round_the_runner_are_refused_by_every_interface() {
        let refused = |errno: i32| libc::SECCOMP_RET_ERRNO | errno.cast_unsigned();
        for number in [425, 426, 427, 435] {
            assert_eq!(native(number, [0; 6]), refused(libc::ENOSYS));
            assert_eq!(native(number | X32, [0; 6]), refused(libc::ENOSYS));
            assert_eq!(judge(ARCH_I386, number, [0; 6]), refused(libc::ENOSYS));
        }
        assert_eq!(native(334, [0; 6]), refused(libc::ENOSYS));
        assert_eq!(native(334 | X32, [0; 6]), refused(libc::ENOSYS));
        assert_eq!(judge(ARCH_I386, 386, [0; 6]), refused(libc::ENOSYS));
        for (flags, expected) in
            [(0x0080_0011, refused(libc::EPERM)), (0x0080_0111, refused(libc::EPERM)), (0x11, ALLOW)]
        {
            assert_eq!(native(56, [flags, 0, 0, 0, 0, 0]), expected);
            assert_eq!(native(56 | X32, [flags, 0, 0, 0, 0, 0]), expected);
            assert_eq!(judge(ARCH_I386, 120, [flags, 0, 0, 0, 0, 0]), expected);
        }
    }

    #[test]
    fn who_shares_memory_stops_and_who_borrows_it_does_not() {
        for (flags, expected) in [(0x003d_0f00, stop(Stop::Share)), (0x111, stop(Stop::Share)), (0x4111, ALLOW)] {
            assert_eq!(native(56, [flags, 0, 0, 0, 0, 0]), expected, "{flags:#x}");
            assert_eq!(native(56 | X32, [flags, 0, 0, 0, 0, 0]), expected, "{flags:#x}");
        }
    }

    #[test]
    fn under_the_shield_nobody_becomes_dumpable_unseen() {
        let shielded = |arch, number, arguments| run(&shield(COOKIE), arch, number, arguments);
        let ours = u64::from(COOKIE) << 32;
        for (arguments, expected) in [
            ([4, 1, 0, 0, 0, 0], stop(Stop::Dumpable)),
            ([4, 0, 0, 0, 0, 0], stop(Stop::Dumpable)),
            ([4, 1, 0, 0, ours, 0], stop(Stop::Dumpable)),
            ([4, 0, 0, 0, ours, 0], ALLOW),
            ([4, 0, 0, 0, ours | 1 << 32, 0], ALLOW),
            ([3, 0, 0, 0, 0, 0], ALLOW),
        ] {
            assert_eq!(shielded(ARCH_X86_64, 157, arguments), expected, "{arguments:x?}");
            assert_eq!(shielded(ARCH_X86_64, 157 | X32, arguments), expected, "{arguments:x?}");
            assert_eq!(shielded(ARCH_I386, 172, arguments), expected, "{arguments:x?}");
        }
        assert_eq!(shielded(ARCH_X86_64, 172, [4, 1, 0, 0, 0, 0]), ALLOW);
        for (native, in_32_bit) in [(56, 120), (57, 2), (58, 190)] {
            assert_eq!(shielded(ARCH_X86_64, native, [0x11, 0, 0, 0, 0, 0]), stop(Stop::Share));
            assert_eq!(shielded(ARCH_I386, in_32_bit, [0x11, 0, 0, 0, 0, 0]), stop(Stop::Share));
        }
    }

    #[test]
    fn under_the_shield_nobody_executes_a_program_unseen() {
        let shielded = |arch, number| run(&shield(COOKIE), arch, number, [0; 6]);
        for (arch, number) in
            [(ARCH_X86_64, 59), (ARCH_X86_64, 322), (ARCH_X86_64, X32 | 520), (ARCH_X86_64, X32 | 545)]
        {
            assert_eq!(shielded(arch, number), stop(Stop::Execute), "{number}");
        }
        for (number, other) in [(11, 59), (358, 322)] {
            assert_eq!(shielded(ARCH_I386, number), stop(Stop::Execute), "{number}");
            assert_eq!(shielded(ARCH_I386, other), ALLOW, "{other}");
        }
        assert_eq!(native(59, [0; 6]), ALLOW);
    }

    #[test]
    fn a_user_namespace_of_its_own_stops() {
        for (flags, expected) in
            [(0x1000_0000, stop(Stop::Sandbox)), (0x2000_0000, stop(Stop::Sandbox)), (0x0002_0000, ALLOW)]
        {
            assert_eq!(native(272, [flags, 0, 0, 0, 0, 0]), expected);
            assert_eq!(judge(ARCH_I386, 310, [flags, 0, 0, 0, 0, 0]), expected);
            assert_eq!(native(308, [3, flags, 0, 0, 0, 0]), expected);
            assert_eq!(judge(ARCH_I386, 346, [3, flags, 0, 0, 0, 0]), expected);
        }
        assert_eq!(native(308, [3, 0, 0, 0, 0, 0]), stop(Stop::Sandbox));
    }

    #[test]
    fn what_gives_memory_properties_that_are_not_seen_stops() {
        for (advice, expected) in [(4, ALLOW), (8, ALLOW), (10, stop(Stop::Special)), (14, ALLOW)] {
            assert_eq!(native(28, [0, 4096, advice, 0, 0, 0]), expected);
            assert_eq!(judge(ARCH_I386, 219, [0, 4096, advice, 0, 0, 0]), expected);
        }
        for (number, in_32_bit) in [(149, 150), (151, 152), (237, 274), (323, 374), (325, 376), (329, 380), (440, 440)]
        {
            assert_eq!(native(number, [0; 6]), stop(Stop::Special), "{number}");
            assert_eq!(native(number | X32, [0; 6]), stop(Stop::Special), "{number}");
            assert_eq!(judge(ARCH_I386, in_32_bit, [0; 6]), stop(Stop::Special), "{in_32_bit}");
        }
    }

    #[test]
    fn a_program_that_filters_itself_stops() {
        for (operation, expected) in [(0, stop(Stop::Sandbox)), (1, stop(Stop::Sandbox)), (2, ALLOW), (3, ALLOW)] {
            assert_eq!(native(317, [operation, 0, 0, 0, 0, 0]), expected);
            assert_eq!(judge(ARCH_I386, 354, [operation, 0, 0, 0, 0, 0]), expected);
        }
        assert_eq!(native(157, [22, 1, 0, 0, 0, 0]), stop(Stop::Sandbox));
        assert_eq!(native(157, [59, 1, 0, 0, 0, 0]), stop(Stop::Sandbox));
        assert_eq!(native(157, [4, 1, 0, 0, 0, 0]), ALLOW);
        assert_eq!(judge(ARCH_I386, 172, [22, 2, 0, 0, 0, 0]), stop(Stop::Sandbox));
    }
}
