//! The extended attributes of a file of the source.

use crate::source::Attribute;
use rustix::io::Errno;

/// The largest list and the largest value that Linux gives.
const MOST: usize = 65_536;

/// The attributes of the file at `path`, and in words those that are left out: what the kernel will not show to this
/// user, and what no ext2 volume has.
pub(crate) fn read(path: &[u8]) -> Result<(Vec<Attribute>, Vec<String>), Errno> {
    let mut small = [0u8; 256];
    let mut large = Vec::new();
    let list = match rustix::fs::llistxattr(path, &mut small) {
        Ok(len) => &small[..len],
        Err(Errno::RANGE) => {
            large.resize(MOST, 0);
            let len = rustix::fs::llistxattr(path, &mut large)?;
            &large[..len]
        }
        Err(Errno::OPNOTSUPP) => &[],
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    let mut problems = Vec::new();
    for name in list.split(|&b| b == 0).filter(|name| !name.is_empty()) {
        let shown = String::from_utf8_lossy(name);
        if !is_ours(name) {
            problems.push(format!("attribute {shown} left out: ext2 has no such kind"));
            continue;
        }
        let mut value = vec![0; MOST];
        match rustix::fs::lgetxattr(path, name, &mut value) {
            Ok(len) => {
                value.truncate(len);
                found.push((name.into(), value.into()));
            }
            Err(error @ (Errno::PERM | Errno::ACCESS)) => {
                problems.push(format!("attribute {shown} left out: {error}; root may read it"));
            }
            // Taken away since it was listed, or never really there.
            Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error),
        }
    }
    found.sort_unstable();
    Ok((found, problems))
}

fn is_ours(name: &[u8]) -> bool {
    matches!(name, b"system.posix_acl_access" | b"system.posix_acl_default")
        || [&b"user."[..], b"security.", b"trusted."].iter().any(|prefix| name.starts_with(prefix))
}
