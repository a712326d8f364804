//! `xip mount`: a volume as a directory of this machine.
//!
//! In the background it is this program, started again, which serves it: it says by a byte through its standard input, a
//! socket, that the mount can be used, and until then its errors are this one's.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use rustix::io::Errno;
use serde_json::json;
use xip::Volume;
use xip_fuse::{MountOptions, ServeOptions};

use super::{segments, server};
use crate::failure::{Doing, Failure};
use crate::output::{Output, printable};
use crate::signals::Waiting;

const HELP: &str = "\
What stands first is a segment if there is one of that name, otherwise an image. An image is mounted to be read and written; \
nobody else can use it meanwhile, unless it is mounted by `-o ro`. So is a segment that was loaded by `xip load --exclusive`; any other \
never changes and is mounted to be read.\n\n\
Options for -o, separated by commas:
  rw, ro                 to be read and written, or only read
  allow_other            other users may use it, as far as permissions go
  noatime                reading changes no times
  nodev, nosuid, noexec  no devices, no set-id bits, no programs
  dev, suid, exec        the contrary; nodev,nosuid,exec is the default\n\n\
What a call on the mount did when it returned is in the image, also if `xip` is killed then; it is on the disk after fsync, and what is \
in a segment after `xip save`. \
`xip umount`, Ctrl-C and SIGTERM close the volume. \
Mounting is for root; for others it needs fusermount3 (package fuse3).\n\n\
Examples:
  xip mount data.xip /mnt
  xip mount debian /mnt
  xip load data.xip --exclusive && xip mount data /mnt
  xip mount data.xip ~/data -o ro,allow_other
  xip mount data.xip /mnt --foreground";

/// Set for the process that serves in the background.
const SERVER: &str = "XIP_MOUNT_SERVER";

/// Some of them wait for the disk, in `fsync`, while others are to be answered.
const THREADS: usize = 8;

/// Mount an image or a segment as a directory
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// The image, or a segment if there is one of that name
    #[arg(value_name = "IMAGE|SEGMENT")]
    source: PathBuf,

    /// Where: a directory that is there
    directory: PathBuf,

    /// How, separated by commas (may be given many times)
    #[arg(short, long, value_name = "OPTION", value_delimiter = ',')]
    options: Vec<Word>,

    /// Serve it in this process until it is unmounted
    #[arg(short, long)]
    foreground: bool,

    /// Print what was mounted as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Word {
    Rw,
    Ro,
    #[value(name = "allow_other")]
    AllowOther,
    Noatime,
    Relatime,
    Dev,
    Nodev,
    Suid,
    Nosuid,
    Exec,
    Noexec,
    Defaults,
}

impl Args {
    pub(crate) fn run(self, output: Output) -> Result<ExitCode, Failure> {
        if std::env::var_os(SERVER).is_some() {
            // Ctrl-C is for those in the foreground. This fails only where it is done already.
            let _ = rustix::process::setsid();
            return self.serve(output, true);
        }
        if self.foreground { self.serve(output, false) } else { in_background() }
    }

    /// Serves it until it is unmounted.
    fn serve(self, output: Output, in_background: bool) -> Result<ExitCode, Failure> {
        let waiting = Waiting::begin()?;
        let directory = directory(&self.directory)?;
        let (volume, how) = self.open()?;
        let serve = ServeOptions { threads: THREADS, server: server::name(), ..ServeOptions::default() };
        let mut session = xip_fuse::mount(&directory, &volume, &how, &serve)?;
        let unmounted = || xip_fuse::unmount(&directory, true);
        let ready = self.tell(output, &directory, &how).and_then(|()| if in_background { leave() } else { Ok(()) });
        if let Err(failure) = ready {
            // Nobody waits for it any more.
            let _ = unmounted();
            return Err(failure);
        }
        let waker = waiting.waker()?;
        let served = std::thread::spawn(move || {
            let ended = session.wait();
            waker.end();
            ended
        });
        let mut detached = false;
        while let Some(signal) = waiting.wait() {
            if detached {
                // The second time: those who still use it get errors. All that they have done is in the image.
                volume.sync()?;
                return Err(Failure::new(format!("ended while {} was in use", directory.display())).by_signal(signal));
            }
            if xip_fuse::unmount(&directory, false).is_err() {
                // It may be unmounted by now.
                let _ = unmounted();
                output.aside(format!("{} is in use: it ends with the last open file", directory.display()));
            }
            detached = true;
        }
        served.join().unwrap_or_else(|_| Err(xip_fuse::Error::Served(io::Error::other("its thread panicked"))))?;
        volume.close()?;
        Ok(ExitCode::SUCCESS)
    }

    /// The volume, and how it is mounted.
    fn open(&self) -> Result<(Volume, MountOptions), Failure> {
        let last = |yes, no| self.options.iter().rfind(|&&word| word == yes || word == no).map(|&word| word == yes);
        let mut how = MountOptions {
            allow_other: self.options.contains(&Word::AllowOther),
            set_id: last(Word::Suid, Word::Nosuid).unwrap_or(false),
            devices: last(Word::Dev, Word::Nodev).unwrap_or(false),
            executable: last(Word::Exec, Word::Noexec).unwrap_or(true),
            access_times: last(Word::Relatime, Word::Noatime).unwrap_or(true),
            ..MountOptions::default()
        };
        if (how.set_id || how.devices) && !rustix::process::geteuid().is_root() {
            let what = "only root can mount a volume whose set-id bits or devices count (`-o suid`, `-o dev`)";
            return Err(Failure::new(what).remedy("mount it without them, or as root"));
        }
        let write = last(Word::Rw, Word::Ro);
        if let Some(segment) = segments::found(&self.source)? {
            let name = segment.name();
            how.source = format!("xip:{name}").into();
            how.read_only = !write.unwrap_or(segment.info().exclusive);
            let volume = match how.read_only {
                true => Volume::from_segment(&segment),
                false => Volume::from_segment_writable(&segment),
            };
            let volume =
                volume.map_err(|error| explained(error, Path::new(&format!("the segment {name}")), how.read_only))?;
            volume.set_access_times(how.access_times);
            return Ok((volume, how));
        }
        how.read_only = write == Some(false);
        let image = fs::canonicalize(&self.source);
        how.source = image.doing(|| format!("cannot open the image {}", self.source.display()))?;
        if Path::new(&how.source).is_dir() {
            let what = format!("{} is a directory; what is mounted is an image or a segment", self.source.display());
            return Err(Failure::new(what).remedy("`xip build DIRECTORY IMAGE` makes an image of it"));
        }
        let volume = match how.read_only {
            true => Volume::open(&how.source),
            false => Volume::open_writable(&how.source),
        };
        let volume = volume.map_err(|error| explained(error, Path::new(&how.source), how.read_only))?;
        volume.set_access_times(how.access_times);
        Ok((volume, how))
    }

    fn tell(&self, output: Output, directory: &Path, how: &MountOptions) -> Result<(), Failure> {
        let (source, at) = (how.source.to_string_lossy(), directory.to_string_lossy());
        let process = std::process::id();
        if self.json {
            let writable = !how.read_only;
            return output
                .json(&json!({ "source": source, "directory": at, "writable": writable, "process": process }));
        }
        let what = if how.read_only { "read-only" } else { "to be read and written" };
        output.line(format!("{} is at {}, {what} (process {process})", printable(&source), printable(&at)))
    }
}

/// Where to mount. It may not be the rest of another mount, of which the server is dead.
fn directory(at: &Path) -> Result<PathBuf, Failure> {
    let found = fs::canonicalize(at).and_then(|path| Ok((fs::metadata(&path)?.is_dir(), path)));
    match found {
        Ok((true, path)) => Ok(path),
        Ok((false, _)) => Err(Failure::new(format!("{} is not a directory", at.display()))),
        Err(error) if error.raw_os_error() == Some(Errno::NOTCONN.raw_os_error()) => {
            let what = format!("{}: what is mounted there has lost its server", at.display());
            Err(Failure::new(what).remedy(format!("xip umount {}", at.display())))
        }
        Err(error) => Err(Failure::from(error).while_doing(format!("cannot mount at {}", at.display()))),
    }
}

fn explained(error: xip::Error, image: &Path, read_only: bool) -> Failure {
    let errno = Errno::from_raw_os_error(error.errno());
    // What is wrong with a volume does not say with which.
    let of_volume = matches!(error, xip::Error::Volume(_));
    let sealed = matches!(error, xip::Error::Segment(xip_segment::Error::Sealed { .. }));
    let failure = if of_volume { Failure::new(format!("{}: {error}", image.display())) } else { Failure::from(error) };
    match errno {
        // It has said what to do.
        _ if sealed => failure,
        // A copy of it would be no different.
        Errno::ROFS if of_volume && !read_only => failure.remedy("mount it by `-o ro`"),
        Errno::BUSY => failure.remedy("if it is mounted, `xip umount` where that is (`findmnt -t fuse.xip`); after `umount --lazy` it ends with its last open file"),
        Errno::ACCESS | Errno::PERM | Errno::ROFS if !read_only => {
            failure.remedy("mount it by `-o ro`, or a copy of it that you can write")
        }
        _ => failure,
    }
}

/// Starts this program again to serve, and waits until it does.
fn in_background() -> Result<ExitCode, Failure> {
    let (mut ours, theirs) = UnixStream::pair()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(std::env::args_os().skip(1)).env(SERVER, "1").stdin(OwnedFd::from(theirs));
    let mut server = command.spawn().doing(|| "cannot start the process that serves the mount".into())?;
    // Our copy of its end: it has closed its own when we read nothing.
    drop(command);
    if ours.read(&mut [0])? == 1 {
        return Ok(ExitCode::SUCCESS);
    }
    // It has said why.
    let status = server.wait()?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(crate::failure::FAILED)))
}

/// Lets go of who started us: of where that is, and of its files.
fn leave() -> Result<(), Failure> {
    std::env::set_current_dir("/")?;
    let nothing = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&nothing)?;
    let mut starter = UnixStream::from(rustix::io::dup(rustix::stdio::stdin())?);
    rustix::stdio::dup2_stdin(&nothing)?;
    // Last, so that our errors until then are seen.
    starter.write_all(b"+").doing(|| "whoever wanted the mount is gone".into())?;
    Ok(rustix::stdio::dup2_stderr(&nothing)?)
}
