//! What is known of a file without reading it, in the words of `std::fs` and `std::os::unix::fs::MetadataExt`.

use std::time::{Duration, SystemTime};
use xip_core::Timestamp;
use xip_ext2::{Inode, InodeNo, Kind};

/// What is known of a file without reading it.
#[derive(Clone, Copy, Debug)]
pub struct Metadata(pub(crate) Inode);

impl From<Inode> for Metadata {
    fn from(inode: Inode) -> Self {
        Self(inode)
    }
}

impl Metadata {
    /// The inode itself, for what this type has no word for.
    pub fn inode(&self) -> &Inode {
        &self.0
    }

    /// The inode's number.
    pub fn ino(&self) -> InodeNo {
        self.0.number
    }

    /// What kind of file it is.
    pub fn file_type(&self) -> Kind {
        self.0.kind
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.0.kind == Kind::Regular
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.0.kind == Kind::Directory
    }

    /// Whether it is a symbolic link.
    pub fn is_symlink(&self) -> bool {
        self.0.kind == Kind::Symlink
    }

    /// Size in bytes.
    #[allow(clippy::len_without_is_empty)] // As in std: a file is not a collection.
    pub fn len(&self) -> u64 {
        self.0.size
    }

    /// Kind and permissions, as `st_mode`.
    pub fn mode(&self) -> u32 {
        u32::from(self.0.kind.mode() | self.0.permissions)
    }

    /// Number of names.
    pub fn nlink(&self) -> u32 {
        self.0.links.into()
    }

    /// Owner.
    pub fn uid(&self) -> u32 {
        self.0.uid
    }

    /// Group.
    pub fn gid(&self) -> u32 {
        self.0.gid
    }

    /// Major and minor number of a device, else zeros.
    pub fn device(&self) -> (u32, u32) {
        self.0.device
    }

    /// Storage it has, in units of 512 bytes.
    pub fn blocks(&self) -> u64 {
        self.0.blocks512.into()
    }

    /// When the data was last changed.
    pub fn modified(&self) -> SystemTime {
        system_time(self.0.mtime)
    }

    /// When it was last read.
    pub fn accessed(&self) -> SystemTime {
        system_time(self.0.atime)
    }

    /// When the inode was last changed.
    pub fn changed(&self) -> SystemTime {
        system_time(self.0.ctime)
    }

    /// When it was made; the epoch where the volume does not say.
    pub fn created(&self) -> SystemTime {
        system_time(self.0.crtime)
    }
}

/// Times of ext2 reach from 1901 to 2446, which every `SystemTime` of Linux holds.
fn system_time(time: Timestamp) -> SystemTime {
    let whole = Duration::from_secs(time.seconds.unsigned_abs());
    let whole = if time.seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(whole)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(whole)
    };
    whole
        .and_then(|whole| whole.checked_add(Duration::from_nanos(time.nanoseconds.into())))
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The time in the words of the volume, which clips what the format cannot hold.
pub(crate) fn timestamp(time: SystemTime) -> Timestamp {
    let whole = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => Timestamp { seconds: whole(after), nanoseconds: after.subsec_nanos() },
        Err(before) => {
            let (seconds, nanoseconds) = (-whole(before.duration()), before.duration().subsec_nanos());
            match nanoseconds {
                0 => Timestamp { seconds, nanoseconds },
                // Nanoseconds count forward from the second before.
                _ => Timestamp { seconds: seconds.saturating_sub(1), nanoseconds: 1_000_000_000 - nanoseconds },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_before_1970_counts_its_nanoseconds_forward() {
        let time = system_time(Timestamp { seconds: -2, nanoseconds: 800_000_000 });
        assert_eq!(SystemTime::UNIX_EPOCH.duration_since(time).unwrap(), Duration::from_millis(1200));
        assert_eq!(timestamp(time), Timestamp { seconds: -2, nanoseconds: 800_000_000 });
    }
}
