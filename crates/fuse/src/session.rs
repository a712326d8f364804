//! A volume being served, from the outside: start, wait, end.

use crate::adapter;
use crate::error::Error;
use crate::live::Live;
use crate::mount::{MountOptions, mount_device_for_anyone, unmount};
use crate::synthetic::{MountPoint, MountPoints};
use crate::tree::Tree;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use xip::Volume;

const EINVAL: i32 = rustix::io::Errno::INVAL.raw_os_error();

/// How a volume is served.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Threads that answer the kernel. Each has 16 MiB of address space for requests, of which a page or two is used.
    pub threads: usize,
    /// How much the kernel reads ahead into its page cache, in bytes. Little is right where mappings are replaced by the
    /// storage itself.
    pub read_ahead: u32,
    /// How many bytes that were read the kernel may have in its page cache, as a second copy, before it is told to let go of
    /// them; what it maps from there counts too. `None`, the default: as many as it likes, as of other file systems.
    pub page_cache_limit: Option<u64>,
    /// Mount points to show where the image has nothing, with the directories above them. Only of a volume that cannot be
    /// written: elsewhere they can be made.
    pub mount_points: Vec<(PathBuf, MountPoint)>,
    /// What the attribute [`SERVER`] of the root directory says, which no list shows and no file has: for who wants to know who serves it.
    pub server: Option<String>,
}

/// The name of [`ServeOptions::server`].
pub const SERVER: &str = "system.xip.server";

impl Default for ServeOptions {
    fn default() -> Self {
        // More would only take turns; one would make a second reader wait.
        let threads = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 4);
        let mount_points = Vec::new();
        Self { threads, read_ahead: 128 << 10, page_cache_limit: None, mount_points, server: None }
    }
}

/// A volume being served. It is served until it is unmounted: by [`Session::unmount`], from outside, or with the end
/// of the mount namespace it is in. Dropping a session of [`mount`] takes the mount from the tree of names.
#[derive(Debug)]
pub struct Session {
    serving: Option<adapter::Serving>,
    /// Where we mounted it, to be unmounted by us.
    mounted: Option<PathBuf>,
}

/// Serves `volume` to the descriptor of a mount that exists already ([`mount_device`](crate::mount_device), in whatever
/// namespace). Returns when the kernel has agreed; threads of this process then answer.
///
/// A volume that can be written is served to be written: nobody else uses it then, not even other clones in this process, as the
/// kernel keeps what it was told.
///
/// # Errors
/// [`Error::MountPoint`], [`Error::Handshake`].
pub fn serve(device: OwnedFd, volume: &Volume, options: &ServeOptions) -> Result<Session, Error> {
    if volume.is_writable() {
        if let Some((path, _)) = options.mount_points.first() {
            let why = "the volume can be written: make it there".into();
            return Err(Error::MountPoint { path: path.clone(), why, errno: EINVAL });
        }
        let serving = adapter::serve_live(device, Live::new(volume.clone()), options)?;
        return Ok(Session { serving: Some(serving), mounted: None });
    }
    let points = MountPoints::new(volume, &options.mount_points)?;
    let tree = Tree::new(volume.clone(), points);
    Ok(Session { serving: Some(adapter::serve_frozen(device, tree, options)?), mounted: None })
}

/// Mounts `volume` at `directory` and serves it; by `fusermount3`, where only root may mount.
///
/// # Errors
/// As [`mount_device`](crate::mount_device) and [`serve`]; [`Error::Helper`].
pub fn mount(directory: &Path, volume: &Volume, how: &MountOptions, options: &ServeOptions) -> Result<Session, Error> {
    let device = mount_device_for_anyone(directory, how)?;
    match serve(device, volume, options) {
        Ok(mut session) => {
            session.mounted = Some(directory.into());
            Ok(session)
        }
        Err(error) => {
            // Nobody serves it: the error that counts is the first one.
            let _ = unmount(directory, true);
            Err(error)
        }
    }
}

impl Session {
    /// Unmounts what [`mount`] mounted, and waits for the end.
    ///
    /// # Errors
    /// [`Error::Unmount`] when files are open: then it is still served, and the next try may succeed.
    /// [`Error::Served`].
    pub fn unmount(&mut self) -> Result<(), Error> {
        if let Some(directory) = &self.mounted {
            unmount(directory, false)?;
            self.mounted = None;
        }
        self.wait()
    }

    /// Waits until it is unmounted by whoever mounted it.
    ///
    /// # Errors
    /// [`Error::Served`].
    pub fn wait(&mut self) -> Result<(), Error> {
        self.serving.take().map_or(Ok(()), adapter::Serving::wait)?;
        // What is mounted there from now on is somebody else's.
        self.mounted = None;
        Ok(())
    }

    /// Lifts [`ServeOptions::page_cache_limit`]: programs map files through the mount after all, and would wait for what
    /// was taken from them.
    pub fn lift_page_cache_limit(&self) {
        if let Some(serving) = &self.serving {
            serving.lift_limit();
        }
    }

    /// Whether it has ended.
    pub fn is_finished(&self) -> bool {
        self.serving.as_ref().is_none_or(adapter::Serving::is_finished)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(directory) = &self.mounted {
            // Nobody is left to tell; whoever still has files open keeps being served until they are closed.
            let _ = unmount(directory, true);
        }
    }
}
