//! `xip umount`: a mount goes, and its volume is closed.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use xip_segment::{Access, Error};

use super::server;
use crate::failure::{Doing, Failure};

const HELP: &str = "\
Returns when the volume is closed: its image can then be moved, checked or mounted again. Where the process that served the \
mount was killed, it only takes away what is left of the mount.\n\n\
Examples:
  xip umount /mnt
  xip umount --lazy /mnt";

/// How long a volume may take to be closed: it waits for the disk.
const PATIENCE: Duration = Duration::from_secs(60);

/// Take away what `xip mount` mounted
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// Where it is mounted
    directory: PathBuf,

    /// Do not wait for programs that use it: nobody can enter from now on, and the volume is closed with the last file
    #[arg(short, long)]
    lazy: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let directory = where_it_is(&self.directory).doing(|| format!("cannot find {}", self.directory.display()))?;
        let source = source(&directory).doing(|| "cannot read the list of mounts".into())?;
        let source = source.ok_or_else(|| {
            Failure::new(format!("no volume is mounted at {}", directory.display()))
                .remedy("name the directory that was given to `xip mount`; `findmnt -t fuse.xip` lists them")
        })?;
        // It is asked, and one that is stopped does not answer.
        let server = if self.lazy { None } else { server::of(&directory) };
        xip_fuse::unmount(&directory, self.lazy).map_err(|error| {
            let busy = error.errno() == rustix::io::Errno::BUSY.raw_os_error();
            let failure = Failure::from(error);
            if busy { failure.remedy("`fuser -vm` names the programs; --lazy does not wait for them") } else { failure }
        })?;
        if self.lazy {
            return Ok(());
        }
        closed(&source)?;
        match server {
            Some(server) if !server::ends(&server, PATIENCE)? => {
                let what = format!("unmounted, but the process that served it still has {}", source.display());
                Err(Failure::new(what).remedy("wait until it has ended"))
            }
            _ => Ok(()),
        }
    }
}

/// The directory without links. It itself is not looked at, except for whether it is one: a mount without its process has only errors.
fn where_it_is(directory: &Path) -> io::Result<PathBuf> {
    const MOST_LINKS: usize = 40;
    let mut directory = std::path::absolute(directory)?;
    for _ in 0..MOST_LINKS {
        let (Some(parent), Some(name)) = (directory.parent(), directory.file_name()) else { break };
        let parent = fs::canonicalize(parent)?;
        directory = parent.join(name);
        match fs::read_link(&directory) {
            Ok(target) => directory = std::path::absolute(parent.join(target))?,
            Err(_) => break,
        }
    }
    Ok(directory)
}

/// What is mounted there, by us: the last of those that stand one upon another.
fn source(directory: &Path) -> io::Result<Option<PathBuf>> {
    let mounts = fs::read("/proc/self/mountinfo")?;
    let on_top = mounts.split(|&byte| byte == b'\n').rev().find_map(|line| {
        // `36 35 0:40 / /mnt rw,nosuid - fuse.xip /tmp/image rw`, with any number of words before the dash.
        let words: Vec<_> = line.split(|&byte| byte == b' ').collect();
        let dash = words.iter().position(|&word| word == b"-")?;
        (unescaped(words.get(4)?) == directory.as_os_str().as_bytes())
            .then(|| (words.get(dash + 1).copied() == Some(b"fuse.xip".as_slice()), words.get(dash + 2).copied()))
    });
    Ok(match on_top {
        Some((true, Some(source))) => Some(OsString::from_vec(unescaped(source)).into()),
        _ => None,
    })
}

/// Spaces and the like stand there as `\040`.
fn unescaped(word: &[u8]) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), word);
    while let [first, after @ ..] = rest {
        let code = match rest {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] => {
                Some((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
            }
            _ => None,
        };
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &rest[4..] } else { after };
    }
    bytes
}

/// Waits until nobody has the image to write it any more: also where the process that had it is not to be seen from here.
fn closed(image: &Path) -> Result<(), Failure> {
    let Ok(file) = File::open(image) else { return Ok(()) };
    let since = Instant::now();
    loop {
        match xip_segment::lock(&file, image, Access::ReadOnly) {
            Err(Error::Locked { holder, .. }) if since.elapsed() > PATIENCE => {
                let what = format!("unmounted, but {holder} still has {}", image.display());
                return Err(Failure::new(what).remedy("wait until it has ended"));
            }
            Err(Error::Locked { .. }) => std::thread::sleep(Duration::from_millis(5)),
            _ => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_the_list_of_mounts_are_read_back() {
        assert_eq!(unescaped(b"/a\\040b\\134c\\"), b"/a b\\c\\");
        assert_eq!(unescaped(b"\\04"), b"\\04");
    }
}
