//! What this machine must have, and what to do where it has not.

use crate::error::Error;
use std::io;
use std::path::Path;

/// Settings that can switch user namespaces off: file, the value that does, and what to do.
const SETTINGS: [(&str, &str, &str); 3] = [
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "AppArmor forbids them to ordinary users: sysctl kernel.apparmor_restrict_unprivileged_userns=0, or a profile \
         for xip that has `userns,`",
    ),
    (
        "/proc/sys/kernel/unprivileged_userns_clone",
        "0",
        "they are closed to ordinary users: sysctl kernel.unprivileged_userns_clone=1",
    ),
    ("/proc/sys/user/max_user_namespaces", "0", "there may be none: sysctl user.max_user_namespaces=15000"),
];

/// The error of a namespace that could not be had, with the setting that forbids it.
pub(crate) fn namespaces(source: io::Error) -> Error {
    let set = |path: &str, value: &str| std::fs::read_to_string(path).is_ok_and(|text| text.trim() == value);
    let found = SETTINGS.iter().find(|(path, value, _)| set(path, value)).map(|&(_, _, remedy)| remedy);
    let remedy = match (found, source.raw_os_error()) {
        (Some(remedy), _) => remedy,
        (None, Some(libc::EPERM)) if in_container() => {
            "the container's rules forbid it: allow unshare, mount and pivot_root (docker run --security-opt \
             seccomp=unconfined --security-opt apparmor=unconfined), or run as root with --cap-add SYS_ADMIN"
        }
        (None, Some(libc::EPERM)) => "a security module, or a chroot around this process, forbids it",
        (None, Some(libc::ENOSPC | libc::EUSERS)) => "there are too many: sysctl user.max_user_namespaces=15000",
        (None, Some(libc::EINVAL | libc::ENOSYS)) => "the kernel is built without CONFIG_USER_NS",
        (None, _) => "see user_namespaces(7)",
    };
    Error::Namespaces { source, remedy: remedy.into() }
}

fn in_container() -> bool {
    Path::new("/.dockerenv").exists() || Path::new("/run/.containerenv").exists()
}

/// Whether `/dev/fuse` can be opened.
pub(crate) fn device() -> Result<(), Error> {
    std::fs::File::options().read(true).write(true).open("/dev/fuse").map(drop).map_err(fuse)
}

/// The error of a `/dev/fuse` that cannot be opened.
pub(crate) fn fuse(source: io::Error) -> Error {
    let remedy = xip_fuse::device_remedy(&source);
    Error::Fuse { source, remedy }
}

/// The error of a program that cannot be traced or filtered.
pub(crate) fn tracing(source: io::Error) -> Error {
    let remedy = match source.raw_os_error() {
        Some(libc::EBUSY) => {
            "this process runs under a supervisor that uses seccomp notifications, of which there can be one: run \
             outside of it, or through the page cache (--page-cache)"
        }
        Some(libc::EPERM | libc::EACCES) => {
            "a debugger, the container's rules or kernel.yama.ptrace_scope=3 forbid it: allow ptrace and seccomp \
             (--cap-add SYS_PTRACE), or run through the page cache (--page-cache)"
        }
        Some(libc::EINVAL | libc::ENOSYS) => {
            "it needs Linux 5.19 with CONFIG_SECCOMP_FILTER; run through the page cache (--page-cache)"
        }
        _ => "run through the page cache (--page-cache)",
    };
    Error::Tracing { source, remedy }
}
