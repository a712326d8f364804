//! The code of the page, its places, and what they say of a thread that stands there.

use super::super::sys::Registers;
use crate::seccomp::MAGIC;

// In all of it r8 has the cookie in its upper half, by which the filter knows the calls. `close` gives a descriptor back
// in any case; what went wrong is in r9, and stops the thread for the runner. Jumps to places on the script go by rcx,
// which a system call changes anyway.
std::arch::global_asm!(
    ".pushsection .rodata.xip_stub, \"a\"",
    ".globl xip_stub, xip_stub_end, xip_stub_said, xip_stub_borrow, xip_stub_next, xip_stub_close, xip_stub_script",
    ".globl xip_stub_call, xip_stub_value, xip_stub_leave, xip_stub_stop, xip_stub_tail, xip_stub_tail_rax, xip_stub_alone",
    ".globl xip_stub_own, xip_stub_base, xip_stub_keep, xip_stub_kept, xip_stub_kept_rcx, xip_stub_kept_done",
    "xip_stub:",
    // A call is made again from here, should the kernel want that: it goes back by one instruction.
    "    syscall",
    // The runner's call was made: rax goes to the runner.
    "xip_stub_said:",
    "    mov r9, rax",
    "xip_stub_stop:",
    "    mov eax, {magic} + 1",
    "    syscall",
    "    ud2",
    // For a thread that is alone in its memory: others cannot look at it (`/proc/TID/fd`) while it has the descriptor.
    // rax: whether they could before. That is remembered in the cookie's lowest bit, which the filter leaves to us.
    "xip_stub_alone:",
    "    cmp eax, 1",
    "    jne xip_stub_borrow",
    "    mov edi, {set_dumpable}",
    "    xor esi, esi",
    "    mov eax, {prctl}",
    "    syscall",
    "    bts r8, 32",
    // The filter turns this call into a notification, and the runner's answer to it is the descriptor.
    "xip_stub_borrow:",
    "    mov eax, {magic}",
    "    syscall",
    "    mov r9, rax",
    "    cmp rax, -4096",
    "    ja 2f",
    "    or r8, rax",
    // rbx: what addresses on the script count from.
    "xip_stub_next:",
    "    pop rdi",
    "    add rdi, rbx",
    "    pop rsi",
    "    pop rdx",
    "    pop r10",
    "    pop r9",
    "    mov eax, {mmap}",
    "    syscall",
    "    mov r9, rax",
    "    cmp rax, -4096",
    "    ja xip_stub_close",
    "xip_stub_script:",
    "    pop rcx",
    "    jmp rcx",
    "xip_stub_close:",
    "    mov edi, r8d",
    "    mov eax, {close}",
    "    syscall",
    "2:  btr r8, 32",
    "    jnc 3f",
    "    mov edi, {set_dumpable}",
    "    mov esi, 1",
    "    mov eax, {prctl}",
    "    syscall",
    "3:  cmp r9, -4096",
    "    ja xip_stub_stop",
    "    pop rcx",
    "    jmp rcx",
    // Any other call, with up to three arguments.
    "xip_stub_call:",
    "    pop rax",
    "    pop rdi",
    "    pop rsi",
    "    pop rdx",
    "    syscall",
    "    pop rcx",
    "    jmp rcx",
    // What the program's call is to return, if not what the last mapping did.
    "xip_stub_value:",
    "    pop r9",
    "    pop rcx",
    "    jmp rcx",
    // The program's own `mmap` was made; the script maps over it.
    "    syscall",
    "xip_stub_own:",
    "    mov r9, rax",
    "    cmp rax, -4096",
    "    ja xip_stub_stop",
    "    mov rbx, rax",
    // Beside the cookie there was the program's descriptor.
    "    shr r8, 32",
    "    shl r8, 32",
    "    jmp xip_stub_script",
    "xip_stub_base:",
    "    mov r9, rbx",
    "    pop rcx",
    "    jmp rcx",
    // Everything as it was. From `tail` on signals come in again: then the runner does the rest, see `on_the_way_out`.
    "xip_stub_leave:",
    "    mov edi, {set_mask}",
    "    mov rsi, rsp",
    "    xor edx, edx",
    "    mov r10d, 8",
    "    mov eax, {sigprocmask}",
    "    syscall",
    "xip_stub_tail:",
    "    pop rcx",
    "    pop rax",
    // Carries into the overflow flag what `sahf` has no room for.
    "    add al, 127",
    "    sahf",
    "    mov rax, r9",
    "xip_stub_tail_rax:",
    "    pop rdi",
    "    pop rsi",
    "    pop rdx",
    "    pop r10",
    "    pop r8",
    "    pop r9",
    "    pop rbx",
    "    pop r11",
    "    pop rcx",
    "    pop rsp",
    "    jmp rcx",
    // The program's `mmap` is made as `mprotect`, see `keep`. What the program sees of it is its address in the place of 0.
    // Flags and stack stay as they are: r10 is where it goes on, and r8 has what belongs in both, beside the cookie. A thread that
    // is kept on the runner's processor comes to `keep` first, by a call that the runner answers when it keeps it no more.
    "    syscall",
    "xip_stub_keep:",
    "    mov eax, {mprotect}",
    "    syscall",
    "xip_stub_kept:",
    "    mov rcx, rax",
    "xip_stub_kept_rcx:",
    "    jrcxz xip_stub_kept_done",
    "    jmp xip_stub_stop",
    "xip_stub_kept_done:",
    "    mov rcx, r10",
    "    mov r10d, r8d",
    "    bswap r10d",
    "    movzx r10d, r10w",
    "    movzx r8d, r8w",
    "    mov rax, rdi",
    "    jmp rcx",
    "xip_stub_end:",
    ".popsection",
    magic = const MAGIC,
    prctl = const libc::SYS_prctl,
    set_dumpable = const libc::PR_SET_DUMPABLE,
    mprotect = const libc::SYS_mprotect,
    mmap = const libc::SYS_mmap,
    close = const libc::SYS_close,
    set_mask = const libc::SIG_SETMASK,
    sigprocmask = const libc::SYS_rt_sigprocmask,
);

// SAFETY: labels in the code above, each with a byte behind it but the last; only their addresses are taken.
unsafe extern "C" {
    static xip_stub: u8;
    static xip_stub_end: u8;
    static xip_stub_said: u8;
    static xip_stub_stop: u8;
    static xip_stub_alone: u8;
    static xip_stub_borrow: u8;
    static xip_stub_next: u8;
    static xip_stub_script: u8;
    static xip_stub_close: u8;
    static xip_stub_call: u8;
    static xip_stub_value: u8;
    static xip_stub_leave: u8;
    static xip_stub_tail: u8;
    static xip_stub_tail_rax: u8;
    static xip_stub_own: u8;
    static xip_stub_base: u8;
    static xip_stub_keep: u8;
    static xip_stub_kept: u8;
    static xip_stub_kept_rcx: u8;
    static xip_stub_kept_done: u8;
}

/// A place in the code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) enum At {
    /// Behind the runner's call: its result is in r9 at the next stop.
    Said,
    /// Stops for the runner.
    Stop,
    /// Borrows, by a thread that is alone; behind `prctl(PR_GET_DUMPABLE)`.
    Alone,
    /// Borrows, by a thread that nobody may look at.
    Borrow,
    /// Goes by the script.
    Script,
    Next,
    Close,
    Call,
    Value,
    /// Behind the program's own `mmap`.
    Own,
    Base,
    Leave,
    Tail,
    TailRax,
    /// Makes the program's `mmap` as `mprotect`.
    Keep,
    /// Behind that.
    Kept,
    KeptRcx,
    KeptDone,
}

/// Of the instruction before the places where a call of the runner's comes back, by which the kernel makes it again.
const SYSCALL_BYTES: u64 = 2;

impl At {
    /// From the start of the page.
    pub(in super::super) fn offset(self) -> u64 {
        let place = match self {
            Self::Said => &raw const xip_stub_said,
            Self::Stop => &raw const xip_stub_stop,
            Self::Alone => &raw const xip_stub_alone,
            Self::Borrow => &raw const xip_stub_borrow,
            Self::Script => &raw const xip_stub_script,
            Self::Next => &raw const xip_stub_next,
            Self::Close => &raw const xip_stub_close,
            Self::Call => &raw const xip_stub_call,
            Self::Value => &raw const xip_stub_value,
            Self::Own => &raw const xip_stub_own,
            Self::Base => &raw const xip_stub_base,
            Self::Leave => &raw const xip_stub_leave,
            Self::Tail => &raw const xip_stub_tail,
            Self::TailRax => &raw const xip_stub_tail_rax,
            Self::Keep => &raw const xip_stub_keep,
            Self::Kept => &raw const xip_stub_kept,
            Self::KeptRcx => &raw const xip_stub_kept_rcx,
            Self::KeptDone => &raw const xip_stub_kept_done,
        };
        (place.addr() - (&raw const xip_stub).addr()) as u64
    }
}

pub(super) fn code() -> &'static [u8] {
    let len = (&raw const xip_stub_end).addr() - (&raw const xip_stub).addr();
    // SAFETY: the labels are the two ends of one piece of read-only data of this program, assembled above.
    unsafe { std::slice::from_raw_parts(&raw const xip_stub, len) }
}

/// Where a thread with these registers stands on its way out of the page at `page`, where signals come in again: what its
/// program's call returned. `None` when it is not there.
pub(in super::super) fn on_the_way_out(page: u64, now: &Registers) -> Option<u64> {
    let at = now.rip.wrapping_sub(page);
    if at < At::Tail.offset() || at >= At::Keep.offset() - SYSCALL_BYTES {
        return None;
    }
    Some(if at < At::TailRax.offset() { now.r9 } else { now.rax })
}

/// Whether a thread with these registers, on its way through the page behind an `mprotect`, has come to its success.
pub(in super::super) fn has_kept(page: u64, now: &Registers) -> bool {
    let offset = now.rip.wrapping_sub(page);
    match offset {
        at if at == At::Kept.offset() => now.rax == 0,
        at if at == At::KeptRcx.offset() => now.rcx == 0,
        at => (At::KeptDone.offset()..code().len() as u64).contains(&at),
    }
}
